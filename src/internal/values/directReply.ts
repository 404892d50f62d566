/**
 * Direct reply-to (RabbitMQ): names under which the sender of a request waits for its reply without a queue.
 *
 * @since 0.1.0
 */

/** Whether this is the way to such a name. */
export const isDirectReply = (exchange: string, routingKey: unknown): boolean =>
  exchange === "" && typeof routingKey === "string" && routingKey.startsWith("amq.rabbitmq.reply-to.")

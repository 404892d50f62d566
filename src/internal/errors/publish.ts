/**
 * Why a publish is not confirmed. `AmqpError` publishes these errors.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { isDirectReply } from "../values/directReply.ts"
import { MessageProperties } from "../values/messageProperties.ts"
import { AmqpConnectionError } from "./connection.ts"
import { softErrors } from "./soft.ts"
import { route } from "./words.ts"

const publishFields = {
  exchange: Schema.String,
  routingKey: Schema.String
}

/**
 * The broker could not take responsibility for the message (`basic.nack`), for example because the queue is full.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpPublishNacked
  extends Schema.TaggedError<AmqpPublishNacked>("effect-amqp/AmqpPublishNacked")("AmqpPublishNacked", publishFields)
{
  override get message(): string {
    return `the broker refused the message to ${route(this)}: it was not stored by every queue. Publish it again later`
  }
}

/**
 * A mandatory message that no queue wanted, or whose queues could not take it: the broker gave it back.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpMessageReturned
  extends Schema.TaggedError<AmqpMessageReturned>("effect-amqp/AmqpMessageReturned")("AmqpMessageReturned", {
    ...publishFields,
    /** 312 (no route) on RabbitMQ. */
    replyCode: Schema.Int,
    replyText: Schema.String,
    /** The body as the broker returned it. */
    body: Schema.Uint8Array,
    /** The properties as the broker returned them; absent where they cannot be decoded. */
    properties: Schema.optional(MessageProperties)
  })
{
  override get message(): string {
    return `the message to ${route(this)} came back: ${this.replyText} (${this.replyCode}). ${returnAdvice(this)}`
  }
}

const returnAdvice = (
  { exchange, properties, routingKey }: Pick<AmqpMessageReturned, "exchange" | "routingKey" | "properties">
): string => {
  if (isDirectReply(exchange, routingKey)) {
    return "A reply to a direct reply-to name: RabbitMQ before 4.3 returns it also where it delivers it. " +
      "Publish replies without mandatory"
  }
  if (properties?.headers?.["x-delay"] !== undefined) {
    return "It has an x-delay: an exchange that delays messages routes them later, and returns mandatory ones all the " +
      "same. Publish to it without mandatory, or bind a queue to this key"
  }
  return "Bind a queue to this key"
}

/**
 * There was no confirm: the channel went away after the write, the time was over, or a message came back that may be
 * this one. The message may or may not be stored.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpPublishUnconfirmed
  extends Schema.TaggedError<AmqpPublishUnconfirmed>("effect-amqp/AmqpPublishUnconfirmed")("AmqpPublishUnconfirmed", {
    ...publishFields,
    /** What closed the channel; absent where its own scope or `close` did. */
    cause: Schema.optional(Schema.Union([...softErrors, AmqpConnectionError])),
    /** How long the publish waited, where the channel is still open. */
    timeoutMillis: Schema.optional(Schema.Finite),
    /** Whether a message came back that may be this one: the broker lost the tag that says which it is. */
    maybeReturned: Schema.optional(Schema.Boolean)
  })
{
  override get message(): string {
    const why = this.timeoutMillis !== undefined ?
      `none came for ${this.timeoutMillis} ms`
      : this.maybeReturned === true ?
      "a message came back that may be this one"
      : this.cause === undefined ?
      "the channel was closed by its scope"
      : this.cause.message
    return `no confirm for the message to ${route(this)}, its outcome is unknown: ${why}. ` +
      "Publish it again where a duplicate does no harm"
  }
}

/**
 * A vhost: its exchanges, its queues, what binds them, and what RabbitMQ refuses about them.
 *
 * @since 0.1.0
 */
import type { Context, Vhost } from "./model.ts"
import { notImplemented } from "./refusal.ts"

/** An empty vhost with RabbitMQ's own exchanges. */
export const makeVhost = (context: Context, name: string): Vhost => {
  throw notImplemented(`vhost '${name}' at ${context.timers.now()}`)
}

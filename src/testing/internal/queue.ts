/**
 * Queues of all types: picks the implementation.
 *
 * @since 0.1.0
 */
import type { Context, Queue, QueueHost } from "./model.ts"
import type { QueueDefinition } from "./queueDefinition.ts"
import { notImplemented } from "./refusal.ts"

export type { QueueDefinition } from "./queueDefinition.ts"

/** A new queue. */
export const makeQueue = (_context: Context, _host: QueueHost, definition: QueueDefinition): Queue => {
  throw notImplemented(`queues of type ${definition.type}`)
}

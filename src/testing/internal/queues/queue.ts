/**
 * Queues of all types: picks the implementation.
 *
 * @since 0.1.0
 */
import type { Context, Queue, QueueHost } from "../model/model.ts"
import type { QueueDefinition } from "./definition.ts"
import { StoredQueue } from "./stored.ts"
import { StreamQueue } from "./stream.ts"

export type { QueueDefinition } from "./definition.ts"

/** A new queue, which is empty. */
export const makeQueue = (context: Context, host: QueueHost, definition: QueueDefinition): Queue => {
  const Type = definition.type === "stream" ? StreamQueue : StoredQueue
  return new Type(context, host, definition)
}

/**
 * The names that the broker has made up for server-named queues, in the present epoch of each connection. A name of an
 * earlier epoch is not given out: that queue is gone.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { type AmqpConnection, type Internals, internals } from "../AmqpConnection.ts"
import { type AmqpConnectionError, AmqpEncodeError } from "../AmqpError.ts"
import type { QueueRef, ServerNamedQueue } from "./topologyValues.ts"

export type { QueueRef }

interface Declared {
  readonly epoch: number
  readonly name: string
}

const names = new WeakMap<Internals, WeakMap<ServerNamedQueue, Declared>>()

/** Remembers what a queue is called on this connection in this epoch. */
export const setQueueName = (
  connection: AmqpConnection,
  queue: ServerNamedQueue,
  declared: Declared
): void => {
  const key = connection[internals]()
  let ofConnection = names.get(key)
  if (ofConnection === undefined) names.set(key, ofConnection = new WeakMap())
  ofConnection.set(queue, declared)
}

/** What a queue is called on this connection in this epoch, if it is declared. */
export const queueNameIn = (
  connection: AmqpConnection,
  queue: ServerNamedQueue,
  epoch: number
): string | undefined => {
  const declared = names.get(connection[internals]())?.get(queue)
  return declared?.epoch === epoch ? declared.name : undefined
}

/**
 * The name of a queue, for a request in the present epoch. Waits for an open connection as long as the connection allows
 * (only a server-named queue needs one), and fails with `AmqpEncodeError` if that queue is not declared in the epoch.
 */
export const resolveQueue = (
  connection: AmqpConnection,
  queue: QueueRef
): Effect.Effect<string, AmqpConnectionError | AmqpEncodeError> => {
  if (typeof queue === "string") return Effect.succeed(queue)
  return Effect.flatMap(connection[internals]().session, ({ session }) => {
    const name = queueNameIn(connection, queue, session.epoch)
    if (name !== undefined) return Effect.succeed(name)
    const reason = "this server-named queue is not declared on the connection: see the failures of its AmqpTopology, " +
      "or add it to one"
    return Effect.fail(new AmqpEncodeError({ path: "queue", reason }))
  })
}

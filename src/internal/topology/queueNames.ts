/**
 * The names that the broker gave to server-named queues, by session. A name of an earlier session is not used: that
 * queue is gone.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { type AmqpConnection, internals } from "../connection/service.ts"
import type { Session } from "../engine/session.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import type { QueueRef, ServerNamedQueue } from "./queue.ts"

export type { QueueRef }

const names = new WeakMap<Session, WeakMap<ServerNamedQueue, string>>()

/** Remembers what a queue is called in this session. */
export const setQueueName = (session: Session, queue: ServerNamedQueue, name: string): void => {
  let ofSession = names.get(session)
  if (ofSession === undefined) names.set(session, ofSession = new WeakMap())
  ofSession.set(queue, name)
}

/** What a queue is called in this session, if it is declared. */
export const queueNameIn = (session: Session, queue: ServerNamedQueue): string | undefined =>
  names.get(session)?.get(queue)

/**
 * Whether a topology of the connection is about to declare a queue, or has declared it since a moment (milliseconds of
 * the Clock). Then a queue that was not found since was only away for a while. An exclusive queue, for example, goes
 * with our dead connection, and comes back with the topology's next try.
 */
export const isRestored = (connection: AmqpConnection, queue: QueueRef, since: number): boolean => {
  for (const restores of connection[internals]().restorations) if (restores(queue, since)) return true
  return false
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
    const name = queueNameIn(session, queue)
    if (name !== undefined) return Effect.succeed(name)
    const reason = "this server-named queue is not declared on the connection: see the failures of its AmqpTopology, " +
      "or add it to one"
    return Effect.fail(new AmqpEncodeError({ path: "queue", reason }))
  })
}

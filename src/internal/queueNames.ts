/** Placeholder until the topology module lands: a queue is its name. */
import * as Effect from "effect/Effect"
import type { AmqpConnection } from "../AmqpConnection.ts"
import type { AmqpConnectionError, AmqpEncodeError } from "../AmqpError.ts"

export type QueueRef = string

export const resolveQueue = (
  _connection: AmqpConnection,
  queue: QueueRef
): Effect.Effect<string, AmqpConnectionError | AmqpEncodeError> => Effect.succeed(queue)

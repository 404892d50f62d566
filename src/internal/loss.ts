/**
 * Whose error it is: what ends a connection was said to one of its users, and is a loss to the others.
 *
 * @since 0.1.0
 */
import { type AmqpConnection, internals } from "../AmqpConnection.ts"
import { AmqpConnectionError } from "../AmqpError.ts"

/**
 * Whether a failure is a loss to one who goes on with the next epoch: an end of a connection that is not over, whatever
 * its reason. It says nothing of other failures.
 */
export const isLoss = (connection: AmqpConnection, error: unknown): boolean =>
  error instanceof AmqpConnectionError && !connection[internals]().isOver()

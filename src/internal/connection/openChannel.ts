/**
 * Opens channels on the present epoch of a connection.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { OpenChannel } from "../channel/channel.ts"
import type { RequestError } from "../channel/errors.ts"
import { openChannelOn } from "../channel/open.ts"
import { type AmqpConnection, internals } from "./service.ts"

/** Opens a channel and closes it with the scope. Waits for an open connection, at most `waitTimeout`. */
export const openChannel = (
  connection: AmqpConnection,
  id?: number | undefined
): Effect.Effect<OpenChannel, RequestError, Scope.Scope> => {
  const { ending, session: opened } = connection[internals]()
  return Effect.flatMap(opened, ({ session }) => openChannelOn(session, ending, id))
}

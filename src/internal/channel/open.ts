/**
 * Opens channels on one epoch of a connection.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import { ChannelState } from "../engine/channelState.ts"
import type { Session } from "../engine/session.ts"
import { ChannelsExhausted } from "../errors/clientReasons.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import type { Ending, Part } from "../time/ending.ts"
import { OpenChannel } from "./channel.ts"
import type { RequestError } from "./errors.ts"
import { command } from "./requests.ts"

/** Allocates a channel with this number, or with any free one. Returns why there is none. */
const allocate = (session: Session, id: number | undefined): ChannelState | AmqpConnectionError | AmqpEncodeError => {
  if (session.error !== undefined) return session.error
  const state = session.openChannel(id)
  if (state !== undefined) return state
  if (id !== undefined) {
    const reason = `expected a number from 1 to ${session.channelMax} that is not open, not ${id}`
    return new AmqpEncodeError({ path: "id", reason })
  }
  const reason = new ChannelsExhausted({ channelMax: session.channelMax })
  return new AmqpConnectionError({ reason })
}

/** A separate function, so that its closure keeps nothing but the channel. */
const closing = (open: OpenChannel) => () => open.close

/**
 * Opens a channel of this session and closes it with the scope. Its end belongs to the ending of `part`, or to any
 * ending.
 */
export const openPart = (
  session: Session,
  ending: Ending,
  part: Part,
  id?: number | undefined
): Effect.Effect<OpenChannel, RequestError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.scope, (scope): Effect.Effect<OpenChannel, RequestError> => {
      const state = allocate(session, id)
      if (!(state instanceof ChannelState)) return Effect.fail(state)
      const open = new OpenChannel(session, state, ending, part)
      const opening = command(state, { _tag: "channel.open" }, {
        soft: [],
        onReply: () => open,
        onLateReply: () => state.close()
      })
      return Effect.andThen(Scope.addFinalizerExit(scope, closing(open)), restore(opening))
    })
  )

/** Opens a channel of this session and closes it with the scope. */
export const openChannelOn = (
  session: Session,
  ending: Ending,
  id?: number | undefined
): Effect.Effect<OpenChannel, RequestError, Scope.Scope> =>
  Effect.suspend(() => openPart(session, ending, ending.opened(), id))

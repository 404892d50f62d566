/**
 * The channel of a publisher: one at a time, in confirm mode, replaced when it is gone, so that those who publish see
 * one that is open or wait for it.
 *
 * A refused publish ends a channel as a lost connection does: the next one is opened as soon as there is a session. What
 * was on the old channel stays its business: nothing is carried over.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type AmqpConnection, internals, type Status } from "../AmqpConnection.ts"
import { AmqpChannelClosed } from "../AmqpError.ts"
import type { OpenChannel } from "./channel.ts"
import type { ChannelState } from "./channelState.ts"
import { openChannel } from "./openChannel.ts"
import { channelClosed, type RequestError } from "./requests.ts"

/** Between attempts to open a channel that a living connection refuses, such as one that has no number left. */
const refusedDelay = "1 second"

/** The present channel, if there is one, and the wait for the next. */
export class PublisherChannel {
  private state: ChannelState | undefined
  private next = Deferred.makeUnsafe<void, RequestError>()
  /** Set for good. */
  private ended: RequestError | undefined
  private readonly connection: AmqpConnection

  constructor(connection: AmqpConnection) {
    this.connection = connection
  }

  /** The channel, if it is open. */
  get open(): ChannelState | undefined {
    return this.ended === undefined && this.state?.isClosed === false ? this.state : undefined
  }

  /** Waits until there is a channel, bounded by the connection's `waitTimeout`. */
  readonly opened: Effect.Effect<void, RequestError> = Effect.suspend(() => {
    if (this.ended !== undefined) return Effect.fail(this.ended)
    if (this.open !== undefined) return Effect.void
    return Effect.timeoutOrElse(Deferred.await(this.next), {
      duration: this.connection[internals].waitTimeout,
      orElse: () => Effect.flatMap(this.connection.status, (status) => Effect.fail(this.whyNone(status)))
    })
  })

  private whyNone(status: Status): RequestError {
    if (status._tag === "Reconnecting") return status.cause
    return this.state === undefined
      ? new AmqpChannelClosed({ operation: "basic.publish" })
      : channelClosed(this.state, "basic.publish")
  }

  /** Lets everybody use this channel. */
  replace(state: ChannelState): void {
    this.state = state
    this.release(Effect.void)
  }

  /** The broker, or the connection, has no channel for us: those who wait learn why, later ones wait. */
  refuse(error: RequestError): void {
    this.release(Effect.fail(error))
  }

  /** There will be no further channel. */
  end(error: RequestError): void {
    if (this.ended !== undefined) return
    this.ended = error
    this.release(Effect.fail(error))
  }

  private release(result: Effect.Effect<void, RequestError>): void {
    const waiting = this.next
    this.next = Deferred.makeUnsafe()
    Deferred.doneUnsafe(waiting, result)
  }
}

/** Opens a channel in confirm mode. */
const open = (connection: AmqpConnection): Effect.Effect<OpenChannel, RequestError, Scope.Scope> =>
  Effect.tap(openChannel(connection), ({ channel }) => channel.confirmSelect).pipe(
    // No number is asked for, and a new channel has no transaction.
    Effect.catchTag(["AmqpEncodeError", "AmqpPreconditionFailed"], Effect.die)
  )

/** Opens the channel of a publisher and keeps it open, until the end of the scope waits for confirms and closes it. */
export const make = (
  connection: AmqpConnection,
  maxInFlight: number
): Effect.Effect<PublisherChannel, RequestError, Scope.Scope> =>
  Effect.gen(function*() {
    const { nextSession } = connection[internals]
    const channel = new PublisherChannel(connection)

    const once = Effect.flatMap(open(connection), ({ channel: own, state }) => {
      state.confirms.limit = maxInFlight
      channel.replace(state)
      return own.closed
    })
    const keepOpen = Effect.forever(Effect.flatMap(nextSession, ({ session }) =>
      Effect.catch(Effect.scoped(once), (error) => {
        // Lost with its session: the next one brings the next channel.
        if (session.error !== undefined) return Effect.void
        channel.refuse(error)
        return Effect.sleep(refusedDelay)
      })))

    yield* keepOpen.pipe(
      Effect.catch((error) =>
        Effect.sync(() => channel.end(error))
      ),
      Effect.forkScoped
    )
    // Runs before the end of that fiber, which closes the channel: what still waits is not sent any more.
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => channel.end(new AmqpChannelClosed({ operation: "basic.publish" })))
    )
    yield* channel.opened
    return channel
  })

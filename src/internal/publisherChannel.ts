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
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { type AmqpConnection, internals } from "../AmqpConnection.ts"
import { AmqpChannelClosed, type AmqpConnectionError } from "../AmqpError.ts"
import { firstDelay } from "./backoff.ts"
import type { OpenChannel } from "./channel.ts"
import type { ChannelState } from "./channelState.ts"
import { openChannel } from "./openChannel.ts"
import type { RequestError } from "./requests.ts"

/** The present channel, if there is one, and the wait for the next. */
export class PublisherChannel {
  private state: ChannelState | undefined
  private next = Deferred.makeUnsafe<void, RequestError>()
  /** Set for good. */
  private ended: RequestError | undefined
  /** Fails when the connection has been away for too long. */
  private readonly disconnected: Effect.Effect<never, AmqpConnectionError>

  constructor(connection: AmqpConnection) {
    this.disconnected = Effect.forever(Effect.flatMap(connection[internals]().session, ({ ended }) => ended))
  }

  /** The channel, if it is open. */
  get open(): ChannelState | undefined {
    return this.ended === undefined && this.state?.isClosed === false ? this.state : undefined
  }

  /** The channel that is open, or was the last one: there may be confirms to come while it closes. */
  get latest(): ChannelState | undefined {
    return this.state
  }

  /** Waits until there is a channel; without a connection as long as its `waitTimeout` allows. */
  readonly opened: Effect.Effect<void, RequestError> = Effect.suspend(() => {
    if (this.ended !== undefined) return Effect.fail(this.ended)
    if (this.open !== undefined) return Effect.void
    return Effect.raceFirst(Deferred.await(this.next), this.disconnected)
  })

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

/** Looks so often in the time that a confirm has. */
const looks = 4

/** Gives up publishes that wait longer for their confirm than `timeout`, by up to a quarter: no timer per message. */
const expire = ({ confirms }: ChannelState, timeout: Duration.Duration): Effect.Effect<never> => {
  const timeoutMillis = Duration.toMillis(timeout)
  const latest: Array<number> = []
  return Effect.forever(Effect.delay(
    Effect.sync(() => {
      latest.push(confirms.latest)
      if (latest.length > looks) confirms.expire(latest.shift() ?? 0, timeoutMillis)
    }),
    timeoutMillis / looks
  ))
}

/** Opens the channel of a publisher and keeps it open, until the end of the scope waits for confirms and closes it. */
export const make = (
  connection: AmqpConnection,
  options: { readonly maxInFlight: number; readonly confirmTimeout: Duration.Duration | undefined }
): Effect.Effect<PublisherChannel, RequestError, Scope.Scope> =>
  Effect.gen(function*() {
    const { confirmTimeout, maxInFlight } = options
    const { nextSession } = connection[internals]()
    const channel = new PublisherChannel(connection)

    const once = Effect.flatMap(open(connection), ({ channel: own, state }) => {
      state.confirms.limit = maxInFlight
      channel.replace(state)
      return confirmTimeout === undefined ? own.closed : Effect.raceFirst(own.closed, expire(state, confirmTimeout))
    })
    const keepOpen = Effect.forever(Effect.flatMap(nextSession, ({ session }) =>
      Effect.catch(Effect.scoped(once), (error) => {
        // Lost with its session: the next one brings the next channel.
        if (session.error !== undefined) return Effect.void
        channel.refuse(error)
        // A living connection refuses a channel, such as one that has no number left.
        return Effect.flatMap(firstDelay, Effect.sleep)
      })))

    const keeping = yield* keepOpen.pipe(
      Effect.catch((error) =>
        Effect.sync(() => channel.end(error))
      ),
      Effect.forkScoped
    )
    // Runs before the end of that fiber, which closes the channel: what still waits is not sent any more.
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => channel.end(new AmqpChannelClosed({ operation: "basic.publish" })))
    )
    yield* Effect.onError(channel.opened, () => Fiber.interrupt(keeping))
    return channel
  })

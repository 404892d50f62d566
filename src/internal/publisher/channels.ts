/**
 * The channels of a publisher. Each is in confirm mode, and is replaced when it is gone. Publishes use the present
 * channel or wait for the next one.
 *
 * A refused publish ends a channel, as a lost connection does. The next one is opened as soon as there is a session.
 * Nothing is carried over from the old channel.
 *
 * A publisher has one channel for everything that it sends. A second one is for messages that are sent again and that
 * the broker may have refused. There each message goes alone, so that a refusal is certainly its own, while the first
 * channel goes on at full speed.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { OpenChannel } from "../channel/channel.ts"
import type { ClosedError } from "../channel/errors.ts"
import { confirmsIdle, contentGate, takesContent } from "../channel/requests.ts"
import { openChannel } from "../connection/openChannel.ts"
import { type AmqpConnection, internals } from "../connection/service.ts"
import { clientFailed } from "../connection/supervisor.ts"
import type { ChannelState } from "../engine/channelState.ts"
import { AmqpChannelClosed } from "../errors/channel.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import { firstDelay } from "../time/backoff.ts"

/** How long a message that is sent alone holds up the next one. */
const patience = "1 second"

/** Where messages go. */
export interface PublishTarget {
  /** The channel, if it is open. */
  readonly open: ChannelState | undefined
  /** Waits until there is one. */
  readonly opened: Effect.Effect<void, ClosedError>
}

/** Where messages go one at a time. */
export interface AloneChannel extends PublishTarget {
  readonly alone: (publish: Effect.Effect<void>, settled: Effect.Effect<void>) => Effect.Effect<void>
}

/** The present channel, if there is one, and the wait for the next. */
export class PublisherChannel implements AloneChannel {
  private state: ChannelState | undefined
  private next = Deferred.makeUnsafe<void, ClosedError>()
  /** Why there will be no further channel. */
  private ended: ClosedError | undefined
  /** Whether the last attempt to open one was refused. */
  isRefused = false
  /** Set while one message has the channel to itself. */
  private held: Deferred.Deferred<void> | undefined
  private readonly connection: AmqpConnection
  /** Fails when the connection has been away for too long. */
  private readonly disconnected: Effect.Effect<never, AmqpConnectionError>

  constructor(connection: AmqpConnection) {
    this.connection = connection
    this.disconnected = Effect.forever(Effect.flatMap(connection[internals]().session, ({ ended }) => ended))
  }

  /** The channel, if it is open to everybody. */
  get open(): ChannelState | undefined {
    return this.held === undefined ? this.present : undefined
  }

  private get present(): ChannelState | undefined {
    return this.ended === undefined && this.state?.isClosed === false ? this.state : undefined
  }

  /** Waits until there is a channel. Without a connection it waits at most `waitTimeout`. */
  readonly opened: Effect.Effect<void, ClosedError> = Effect.suspend(() =>
    this.held === undefined ? this.appeared : Effect.andThen(Deferred.await(this.held), this.opened)
  )

  private readonly appeared: Effect.Effect<void, ClosedError> = Effect.suspend(() => {
    if (this.ended !== undefined) return Effect.fail(this.ended)
    if (this.present !== undefined) return Effect.void
    return Effect.raceFirst(Deferred.await(this.next), this.disconnected)
  })

  /** Whether there may be a further channel. */
  get isOver(): boolean {
    return this.ended !== undefined
  }

  /**
   * Sends a message that is in question, alone until it has its outcome. Other such messages of the connection wait
   * meanwhile, because each might end it. A confirm that takes long (a queue that is not available) holds them up for a
   * moment only; a refusal does not.
   */
  alone(publish: Effect.Effect<void>, settled: Effect.Effect<void>): Effect.Effect<void> {
    return this.turn(Effect.andThen(publish, Effect.timeoutOption(settled, patience)))
  }

  /** Waits for room before it takes its turn, so that confirms that do not come hold up nobody else. */
  private turn(send: Effect.Effect<unknown>): Effect.Effect<void> {
    const full = (): ChannelState | undefined => {
      const { present } = this
      return present !== undefined && !takesContent(present) ? present : undefined
    }
    return Effect.suspend(() => {
      const state = full()
      if (state !== undefined) return Effect.flatMap(contentGate(state), () => this.turn(send))
      const sent = Effect.suspend(() => full() === undefined ? Effect.as(send, true) : Effect.succeed(false))
      return Effect.flatMap(
        aloneOn(this.connection).withPermit(sent),
        (isSent) => isSent ? Effect.void : this.turn(send)
      )
    })
  }

  /**
   * This channel for messages that are sent alone, if there is no second channel. Others wait until such a message has
   * its outcome.
   */
  get forOne(): AloneChannel {
    const present = () => this.present
    const hold = Effect.sync(() => {
      this.held = Deferred.makeUnsafe()
    })
    const letGo = Effect.sync(() => {
      if (this.held !== undefined) Deferred.doneUnsafe(this.held, Effect.void)
      this.held = undefined
    })
    return {
      get open() {
        return present()
      },
      opened: this.appeared,
      alone: (publish, settled) => {
        const send = Effect.timeoutOption(this.idle, patience).pipe(
          Effect.andThen(publish),
          Effect.andThen(Effect.timeoutOption(settled, patience))
        )
        return this.turn(Effect.acquireUseRelease(hold, () => send, () => letGo))
      }
    }
  }

  /** Waits until all messages on their way have their outcome. Confirms may still come while the channel closes. */
  readonly idle: Effect.Effect<void> = Effect.suspend(() =>
    this.state === undefined ? Effect.void : confirmsIdle(this.state)
  )

  /** Lets everybody use this channel. */
  replace(state: ChannelState): void {
    this.state = state
    this.isRefused = false
    this.release(Effect.void)
  }

  /** The broker or the connection has no channel for us. Publishes that wait fail with the reason. Later ones wait. */
  refuse(error: ClosedError): void {
    this.isRefused = true
    this.release(Effect.fail(error))
  }

  /** There will be no further channel. */
  end(error: ClosedError): void {
    if (this.ended !== undefined) return
    this.ended = error
    this.release(Effect.fail(error))
  }

  private release(result: Effect.Effect<void, ClosedError>): void {
    const waiting = this.next
    this.next = Deferred.makeUnsafe()
    Deferred.doneUnsafe(waiting, result)
  }
}

const permits = new WeakMap<AmqpConnection, Semaphore.Semaphore>()

/** One message at a time on a connection. */
const aloneOn = (connection: AmqpConnection): Semaphore.Semaphore => {
  const permit = permits.get(connection) ?? Semaphore.makeUnsafe(1)
  permits.set(connection, permit)
  return permit
}

/** Opens a channel in confirm mode. */
const open = (connection: AmqpConnection): Effect.Effect<OpenChannel, ClosedError, Scope.Scope> =>
  Effect.tap(openChannel(connection), ({ channel }) => channel.confirmSelect).pipe(
    Effect.catchTags({
      // No number is asked for.
      AmqpEncodeError: Effect.die,
      AmqpPreconditionFailed: (cause) => new AmqpChannelClosed({ operation: "confirm.select", cause })
    })
  )

/** How often publishes are checked within the time for a confirm. */
const looks = 4

/** Gives up publishes without a confirm after `timeout`, or up to a quarter later: there is no timer per message. */
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

/** What the channels of a publisher have in common. */
interface Options {
  readonly maxInFlight: number
  readonly confirmTimeout: Duration.Duration | undefined
}

/** Keeps a channel open. The end of the scope waits for confirms and closes it. */
const keep = (
  connection: AmqpConnection,
  channel: PublisherChannel,
  { confirmTimeout, maxInFlight }: Options
): Effect.Effect<Fiber.Fiber<void>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { nextSession } = connection[internals]()
    const once = Effect.flatMap(open(connection), ({ channel: own, state }) => {
      state.confirms.limit = maxInFlight
      channel.replace(state)
      return confirmTimeout === undefined ? own.closed : Effect.raceFirst(own.closed, expire(state, confirmTimeout))
    })
    const keepOpen = Effect.forever(Effect.flatMap(nextSession, ({ session }) =>
      Effect.catch(Effect.scoped(once), (error) => {
        // It was lost with its session. The next session brings the next channel.
        if (session.error !== undefined) return Effect.void
        channel.refuse(error)
        // The connection is open but gives no channel, for example because no number is left.
        return Effect.flatMap(firstDelay, Effect.sleep)
      })))

    return yield* keepOpen.pipe(
      Effect.catch((error) =>
        Effect.sync(() => channel.end(error))
      ),
      // Nobody else would tell the publishes that wait.
      Effect.catchDefect((defect) => Effect.sync(() => channel.end(clientFailed(defect)))),
      // Whatever ends this fiber: nobody may wait for a channel that does not come.
      Effect.onExit(() => Effect.sync(() => channel.end(closed()))),
      Effect.forkScoped
    )
  })

const closed = () => new AmqpChannelClosed({ operation: "basic.publish" })

/** The channels of a publisher. */
export interface PublisherChannels {
  /** For all that is sent. */
  readonly main: PublisherChannel
  /**
   * For messages that are in question. Opened on first use. It is the main one if the connection has no number left.
   */
  readonly questioned: Effect.Effect<AloneChannel>
  /** Waits until all that is on its way has its outcome. */
  readonly idle: Effect.Effect<void>
}

/** Opens the channel of a publisher, and keeps it open as long as the scope. */
export const make = (
  connection: AmqpConnection,
  options: Options
): Effect.Effect<PublisherChannels, ClosedError, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const main = new PublisherChannel(connection)
    let second: PublisherChannel | undefined
    const keeping = yield* keep(connection, main, options)
    // Runs before the fibers end and close the channels: publishes that still wait are not sent any more.
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        main.end(closed())
        second?.end(closed())
      })
    )
    yield* Effect.onError(main.opened, () => Fiber.interrupt(keeping))
    const kept = Effect.uninterruptible(Effect.suspend(() => {
      // A publisher that is closed opens nothing: the first channel says why.
      if (main.isOver) return Effect.succeed(main)
      if (second !== undefined) return Effect.succeed(second)
      second = new PublisherChannel(connection)
      return Effect.as(Scope.provide(keep(connection, second, options), scope), second)
    }))
    const questioned = Effect.flatMap(kept, (own): Effect.Effect<AloneChannel> =>
      own === main
        ? Effect.succeed(main)
        // It goes on trying, but nobody waits for that.
        : own.isRefused
        ? Effect.succeed(main.forOne)
        : Effect.match(own.opened, { onSuccess: () => own, onFailure: () => main.forOne }))
    return {
      main,
      questioned,
      idle: Effect.suspend(() => Effect.andThen(main.idle, second?.idle ?? Effect.void))
    }
  })

/**
 * How long closing may take on a connection: one bound for everything that ends together.
 *
 * A scope ends its parts one after another, and no part knows of the others. So the bound belongs to the connection.
 * The first part that ends begins an *ending*. What ends right after it shares the time. After a new channel is opened,
 * or after a second without an end, the next end begins a new ending.
 *
 * It bounds waits and sends nothing. Interrupting what it bounds must be safe.
 *
 * @since 0.1.0
 */
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"

/**
 * An end within so many milliseconds after another one belongs to the same ending. Finalizers of the scope may run in
 * between.
 */
const together = 1000

/** The present ending of a connection. */
export class Ending {
  private readonly clock: Clock.Clock
  /** Milliseconds. */
  private readonly timeout: number
  private begun = -Infinity
  private latest = -Infinity
  /** How many waits are under way, and how many of them wait for handlers. */
  private waits = 0
  private drains = 0
  private drainsBegun = 0
  /** Milliseconds of this ending that were spent on handlers. They do not count for `timeout`. */
  private drained = 0

  constructor(clock: Clock.Clock, closeTimeout: Duration.Duration) {
    this.clock = clock
    this.timeout = Duration.toMillis(closeTimeout)
  }

  /** A channel was opened: the next end begins a new ending, unless handlers at work opened the channel. */
  opened(): void {
    if (this.drains === 0) this.begun = -Infinity
  }

  private enter(): number {
    const now = this.clock.currentTimeMillisUnsafe()
    const isOver = this.waits === 0 && now - this.latest > together
    if (isOver || this.begun === -Infinity) {
      this.begun = now
      this.drained = 0
    }
    this.waits++
    return now
  }

  private leave(): number {
    this.waits--
    return this.latest = this.clock.currentTimeMillisUnsafe()
  }

  private readonly limited = <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    millis: number,
    leave: () => void
  ): Effect.Effect<Option.Option<A>, E, R> =>
    Effect.ensuring(
      Effect.timeoutOption(Effect.interruptible(effect), Math.max(0, millis)),
      Effect.sync(leave)
    )

  /** Waits for an effect, at most for what is left of `closeTimeout` in this ending. */
  within<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Option.Option<A>, E, R> {
    return Effect.suspend(() => {
      const now = this.enter()
      return this.limited(effect, this.begun + this.drained + this.timeout - now, () => this.leave())
    })
  }

  /**
   * Waits for handlers at work, at most `drainTimeout` minus the time that this ending has already spent on handlers.
   */
  drain<A, E, R>(
    effect: Effect.Effect<A, E, R>,
    drainTimeout: Duration.Duration
  ): Effect.Effect<Option.Option<A>, E, R> {
    return Effect.suspend(() => {
      const now = this.enter()
      if (this.drains++ === 0) this.drainsBegun = now
      const spent = this.drained + now - this.drainsBegun
      return this.limited(effect, Duration.toMillis(drainTimeout) - spent, () => {
        const end = this.leave()
        if (--this.drains === 0) this.drained += end - this.drainsBegun
      })
    })
  }
}

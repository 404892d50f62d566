/**
 * How long closing may take on a connection: one bound for everything that ends together.
 *
 * A scope ends its parts one after another, and no part knows of the others. So the bound belongs to the connection.
 * The first part that ends begins an *ending*. What ends right after it shares the time. Only the time counts in which
 * somebody waits for the broker: a broker that answers can end any number of parts. A part that was opened after an
 * ending began does not belong to it. It has the whole time for itself, and begins the next ending if nobody waits.
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

/** The place of something in the order of openings. 0 belongs to every ending. */
export type Part = number

/** Milliseconds that several waits spend at the same time. */
class Spending {
  private spent = 0
  private spenders = 0
  private since = 0

  get isGoingOn(): boolean {
    return this.spenders > 0
  }

  /** The time that finished waits have spent. */
  get done(): number {
    return this.spent
  }

  /** What was spent until now. */
  until(now: number): number {
    return this.isGoingOn ? this.spent + now - this.since : this.spent
  }

  begin(now: number): void {
    if (this.spenders++ === 0) this.since = now
  }

  end(now: number): void {
    if (--this.spenders === 0) this.spent += now - this.since
  }

  giveBack(millis: number): void {
    this.spent = Math.max(0, this.spent - millis)
  }
}

/** The present ending of a connection. */
export class Ending {
  private readonly clock: Clock.Clock
  /** Milliseconds. */
  private readonly timeout: number
  private opens: Part = 0
  /** The last part that belongs to the present ending. */
  private latestPart: Part = 0
  private latest = -Infinity
  /** Waits for the broker. */
  private waits = new Spending()
  /** Waits for handlers. */
  private drains = new Spending()

  constructor(clock: Clock.Clock, closeTimeout: Duration.Duration) {
    this.clock = clock
    this.timeout = Duration.toMillis(closeTimeout)
  }

  /** Something was opened that will end. */
  opened(): Part {
    return ++this.opens
  }

  /** Whether a part that ends belongs to the present ending. Begins one if there is none. */
  private isShared(part: Part, now: number): boolean {
    if (this.waits.isGoingOn || this.drains.isGoingOn) return part <= this.latestPart
    const idle = now - this.latest
    if (idle > together || part > this.latestPart) {
      this.latestPart = this.opens
      this.waits = new Spending()
      this.drains = new Spending()
    } else this.waits.giveBack(idle)
    return true
  }

  private limited<A, E, R>(
    effect: Effect.Effect<A, E, R>,
    millis: number,
    spending: Spending | undefined,
    now: number
  ): Effect.Effect<Option.Option<A>, E, R> {
    const limited = Effect.timeoutOption(Effect.interruptible(effect), Math.max(0, millis))
    if (spending === undefined) return limited
    spending.begin(now)
    return Effect.ensuring(
      limited,
      Effect.sync(() => spending.end(this.latest = this.clock.currentTimeMillisUnsafe()))
    )
  }

  /** Waits for an effect, at most for what is left of `closeTimeout` in this ending. */
  within<A, E, R>(effect: Effect.Effect<A, E, R>, part: Part = 0): Effect.Effect<Option.Option<A>, E, R> {
    return Effect.suspend(() => {
      const now = this.clock.currentTimeMillisUnsafe()
      if (!this.isShared(part, now)) return this.limited(effect, this.timeout, undefined, now)
      return this.limited(effect, this.timeout - this.waits.until(now), this.waits, now)
    })
  }

  /**
   * Waits for handlers at work, at most `drainTimeout` minus the time that others in this ending have waited for theirs
   * before.
   */
  drain<A, E, R>(
    effect: Effect.Effect<A, E, R>,
    drainTimeout: Duration.Duration,
    part: Part
  ): Effect.Effect<Option.Option<A>, E, R> {
    return Effect.suspend(() => {
      const now = this.clock.currentTimeMillisUnsafe()
      const millis = Duration.toMillis(drainTimeout)
      if (!this.isShared(part, now)) return this.limited(effect, millis, undefined, now)
      return this.limited(effect, millis - this.drains.done, this.drains, now)
    })
  }
}

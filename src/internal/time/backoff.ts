/**
 * Exponential backoff with full jitter: the default delay of everything that tries again.
 *
 * Each delay is random between zero and a bound. The bound begins at 2 seconds and doubles up to the cap. So clients
 * whose broker was restarted come back over seconds and not all at once. One client is back after a second on average.
 * The randomness is Effect's `Random`, the time its `Clock`.
 *
 * It does not decide what is tried again, nor when to give up.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"

const first = Duration.seconds(2)

/** A random duration, at most this one. */
export const anywhereIn = (bound: Duration.Duration): Effect.Effect<Duration.Duration> =>
  Effect.map(Random.next, (part) => Duration.millis(Math.floor(part * Duration.toMillis(bound))))

/** Without end: up to 2 seconds, doubled up to `cap`, with full jitter. */
export const backoff = (cap: Duration.Duration): Schedule.Schedule<unknown> =>
  Schedule.min([Schedule.exponential(first), Schedule.spaced(cap)]).pipe(
    Schedule.modifyDelay(({ duration }) => anywhereIn(duration))
  )

/** The delay before the first retry, for tries that do not back off. */
export const firstDelay: Effect.Effect<Duration.Duration> = anywhereIn(first)

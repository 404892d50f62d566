/**
 * A progress line: rewritten in place on a terminal, one line per second elsewhere.
 */
import { Clock, Effect, Schedule } from "effect"

const { stdout } = process

/** Shows `line` while the effect runs, and a last time when it ends, however it ends. */
export const withProgress =
  (line: (seconds: number) => Effect.Effect<string>) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.gen(function*() {
      const start = yield* Clock.currentTimeMillis
      let shown = ""
      const show = Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        const next = yield* line((now - start) / 1000)
        if (next === shown) return
        shown = next
        // A line that is longer than the terminal is wide could not be rewritten.
        stdout.write(stdout.isTTY ? `\r\x1b[K${next.slice(0, stdout.columns - 1)}` : `${next}\n`)
      })
      const showing = Effect.repeat(show, Schedule.spaced(stdout.isTTY ? "100 millis" : "1 second"))
      const last = Effect.andThen(show, Effect.sync(() => stdout.isTTY && stdout.write("\n")))
      return yield* Effect.raceFirst(effect, Effect.andThen(showing, Effect.never)).pipe(Effect.ensuring(last))
    })

/**
 * Programs in processes of their own: whether one ends by itself can only be seen from outside.
 */
import { type Cause, Effect, Queue, type Scope } from "effect"
import { spawn } from "node:child_process"

/** A program in a process of its own. */
export interface Program {
  /** Waits for the next line that it prints. */
  readonly line: Effect.Effect<string>
  /** Waits for it to exit of its own accord, and gives its exit code. */
  readonly exited: Effect.Effect<number | null>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
}

/** Runs a module of this text, in which `"src/…"` is a file of the library; the end of the scope kills it. */
export const runProgram = (text: string): Effect.Effect<Program, never, Scope.Scope> =>
  Effect.gen(function*() {
    const lines = yield* Queue.unbounded<string, Cause.Done>()
    const program = text.replaceAll(`"src/`, `"${new URL("../../src/", import.meta.url).href}`)
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(process.execPath, ["--input-type=module", "-e", program], {
          cwd: new URL("../..", import.meta.url),
          stdio: ["ignore", "pipe", "inherit"]
        })
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    const exit = new Promise<number | null>((resolve) => {
      child.once("close", (code) => {
        Queue.endUnsafe(lines)
        resolve(code)
      })
    })
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      Queue.offerAllUnsafe(lines, text.split("\n").filter((line) => line !== ""))
    })
    const ended = Effect.die(new Error("the program printed no more lines"))
    return {
      line: Effect.catch(Queue.take(lines), () => ended),
      exited: Effect.promise(() => exit),
      signal: (signal) => Effect.sync(() => void child.kill(signal))
    }
  })

/**
 * Runs one external command and gives its standard output; how every part of the harness fails.
 *
 * Deadlines here and elsewhere in the harness are real time, also in a test that runs under `TestClock`: a broker does
 * not know about virtual time.
 */
import { Data, Effect } from "effect"
import { execFile } from "node:child_process"
import { access, constants } from "node:fs/promises"
import * as Path from "node:path"

/** The broker, or the harness around it, could not do what a test asked for. */
export class BrokerError extends Data.TaggedError("BrokerError")<{ readonly message: string }> {}

/** Runs a command; fails when its exit code is not 0 or it takes longer than `timeout` (ms, default 30,000). */
export const exec = (
  file: string,
  args: ReadonlyArray<string>,
  options: {
    readonly cwd?: string | undefined
    readonly env?: NodeJS.ProcessEnv | undefined
    readonly input?: string | undefined
    readonly timeout?: number | undefined
  } = {}
): Effect.Effect<string, BrokerError> =>
  Effect.callback((resume) => {
    const { cwd, env, input, timeout = 30_000 } = options
    const child = execFile(
      file,
      args,
      { cwd, env, timeout, killSignal: "SIGKILL", maxBuffer: 64 * 1024 * 1024 },
      (error, stdout, stderr) => {
        if (error === null) return resume(Effect.succeed(stdout))
        // Only the verb is repeated: the other arguments may be passwords.
        const what = `${Path.basename(file)} ${args.find((arg) => !arg.startsWith("-")) ?? ""}`.trimEnd()
        const why = error.killed === true ? `no answer within ${timeout} ms` : stderr.trim() || `exit ${error.code}`
        resume(Effect.fail(new BrokerError({ message: `${what}: ${why}` })))
      }
    )
    child.stdin?.on("error", () => {}) // the command may end without reading its input
    child.stdin?.end(input)
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** The first executable of that name among the folders of PATH. */
export const onPath = (name: string): Effect.Effect<string | undefined> =>
  Effect.promise(async () => {
    for (const folder of (process.env["PATH"] ?? "").split(Path.delimiter)) {
      const file = Path.join(folder, name)
      if (await access(file, constants.X_OK).then(() => true, () => false)) return file
    }
  })

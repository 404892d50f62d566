/**
 * The examples as users run them: `npm start`, and the code of the README.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import * as Path from "node:path"
import { noLeaks } from "../harness/leaks.ts"
import { freePort } from "../harness/listen.ts"
import { onVhost, Vhost } from "../harness/shared.ts"

const root = Path.resolve(import.meta.dirname, "../..")

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program to its end. `onOutput` sees what it has printed so far. */
const run = (
  command: string,
  args: ReadonlyArray<string>,
  env: Record<string, string | undefined>,
  onOutput?: (stdout: string, child: ChildProcess) => void
): Effect.Effect<Ended> =>
  Effect.callback((resume) => {
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"]
    })
    let stdout = ""
    let stderr = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text
      onOutput?.(stdout, child)
    })
    child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text)
    child.once("close", (code) => resume(Effect.succeed({ code, stdout, stderr })))
    return Effect.sync(() => child.kill())
  })

const wordcount = "examples/wordcount.ts"

describe("npm start", () => {
  it.live("counts the words of real files, checks the totals and ends by itself", () =>
    Effect.gen(function*() {
      const { code, stderr, stdout } = yield* run("npm", ["start", "--loglevel=error"], { AMQP_URL: undefined })
      assert.strictEqual(code, 0, stdout + stderr)
      const total = /^Input {3}([\d,]+) lines of \d+ files in node_modules\/effect\/ai-docs$/m.exec(stdout)?.[1]
      assert.isDefined(total, stdout)
      assert.include(stdout, `Lines   ${total} confirmed, ${total} counted of ${total}, `)
      const shares = /^Workers (.+) lines$/m.exec(stdout)?.[1]?.split(" + ").map(Number)
      assert.lengthOf(shares ?? [], 10)
      assert.include(stdout, "Check   the direct count is the same\n")
      assert.match(stdout, /^Broker .*, embedded, in memory; AMQP_URL names another$/m)
      assert.notInclude(stdout, "\x1b", "no terminal, no control characters")
    }), 60_000)

  it.live("says in one line that the broker cannot be reached, without the password", () =>
    Effect.gen(function*() {
      const port = yield* freePort
      const { code, stderr } = yield* run(process.execPath, [wordcount], {
        AMQP_URL: `amqp://user:secret@127.0.0.1:${port}`
      })
      assert.strictEqual(code, 1)
      assert.match(stderr, new RegExp(`^AMQP connection: cannot connect to amqp://127\\.0\\.0\\.1:${port}: .*\\n$`))
    }))

  it.live("says in one line that AMQP_URL is no URL", () =>
    Effect.gen(function*() {
      const { code, stderr } = yield* run(process.execPath, [wordcount], { AMQP_URL: "localhost:5672" })
      assert.strictEqual(code, 1)
      assert.match(stderr, /^not a usable AMQP URI: .*\n$/)
    }))

  it.live("ends at once when it is interrupted", () =>
    Effect.gen(function*() {
      const { code, stdout } = yield* run(
        process.execPath,
        [wordcount],
        { AMQP_URL: undefined },
        (stdout, child) => !child.killed && stdout.includes("Input") && child.kill("SIGINT")
      )
      assert.strictEqual(code, 130)
      assert.notInclude(stdout, "Check", "it was interrupted before its end")
    }), 60_000)
})

layer(onVhost, { excludeTestServices: true })("the example of the README", (it) => {
  it.effect("publishes and consumes a message", () =>
    noLeaks(Effect.gen(function*() {
      const { amqpUrl } = yield* Vhost
      const ended = yield* run(process.execPath, ["examples/readme.ts"], { AMQP_URL: amqpUrl })
      assert.deepStrictEqual(ended, { code: 0, stdout: "Hello, world\n", stderr: "" })
    })))

  it.effect("declares, publishes and bills, and leaves nothing behind", () =>
    noLeaks(Effect.gen(function*() {
      const { amqpUrl } = yield* Vhost
      const { code, stderr, stdout } = yield* run(process.execPath, ["examples/selfhealing.ts"], { AMQP_URL: amqpUrl })
      assert.deepStrictEqual({ code, stderr }, { code: 0, stderr: "" })
      // Ten handlers at a time: the order is anybody's.
      assert.deepStrictEqual(stdout.trimEnd().split("\n").sort(), ["billed one", "billed three", "billed two"])
    })))

  it.effect("of the word count nothing is left at the broker of AMQP_URL", () =>
    noLeaks(Effect.gen(function*() {
      const { amqpUrl } = yield* Vhost
      const { code, stdout } = yield* run(process.execPath, [wordcount], { AMQP_URL: amqpUrl })
      assert.strictEqual(code, 0)
      assert.match(stdout, /^Broker .*, from AMQP_URL$/m)
    })))
})

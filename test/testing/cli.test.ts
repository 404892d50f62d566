/**
 * The command, in a process of its own.
 */
import { assert, describe, it } from "@effect/vitest"
import { type Cause, Deferred, Duration, Effect, Queue, Redacted, Schedule } from "effect"
import { spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { connect, createServer } from "node:net"
import { fileURLToPath } from "node:url"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import { declare, Script } from "../fixtures/violations.ts"

const file = fileURLToPath(new URL("../../src/cli.ts", import.meta.url))

/** The command with these arguments; the scope's end kills it. */
const start = (...args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const lines = yield* Queue.unbounded<string, Cause.Done>()
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => spawn(process.execPath, [file, ...args], { stdio: ["ignore", "pipe", "pipe"] })),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    let errors = ""
    let rest = ""
    child.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text))
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      const [last = "", ...complete] = (rest + text).split("\n").reverse()
      rest = last
      Queue.offerAllUnsafe(lines, complete.reverse())
    })
    const exited = new Promise<number | null>((resolve) => {
      child.once("close", (code) => {
        Queue.endUnsafe(lines)
        resolve(code)
      })
    })
    const nextLine = Effect.catch(Queue.take(lines), () => Effect.die(new Error(`no more lines\n${errors}`)))
    return {
      nextLine,
      /** The next line that holds this. */
      lineWith: (text: string): Effect.Effect<string> =>
        Effect.repeat(nextLine, { until: (line) => line.includes(text) }),
      exited: Effect.promise(() => exited),
      /** All that is left to be printed; only after `exited`. */
      output: Effect.map(Queue.collect(lines), (lines) => lines.join("\n")),
      errors: Effect.sync(() => errors),
      signal: (signal: NodeJS.Signals) => Effect.sync(() => void child.kill(signal))
    }
  })

/** What a command that ends by itself prints, and its exit code. */
const run = (...args: ReadonlyArray<string>) =>
  Effect.scoped(Effect.gen(function*() {
    const command = yield* start(...args)
    const exitCode = yield* command.exited
    return { exitCode, output: yield* command.output, errors: yield* command.errors }
  }))

/** A client that publishes to fifteen queues as fast as it can, and reads; `declared` once it has heard of the last. */
const flood = (host: string, port: number, prefix: string) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const declared = Deferred.makeUnsafe<void>()
      const queues = Array.from({ length: 15 }, (_, i) => `${prefix}${i}`)
      const script = new Script().open().send(1, ...queues.map(declare))
      const publishes = new Script()
      for (const routingKey of queues) {
        for (let i = 0; i < 20; i++) publishes.publish(1, { routingKey, body: "x".repeat(1000) })
      }
      const chunk = publishes.bytes()
      const socket = connect({ host, port })
      const send = () => {
        while (!socket.destroyed && socket.write(chunk));
      }
      let heard = ""
      socket.on("error", () => {}).on("drain", send).on("data", (bytes) => {
        heard += bytes.toString("latin1")
        if (heard.includes(`${prefix}14`)) Deferred.doneUnsafe(declared, Effect.void)
      })
      socket.write(script.bytes())
      send()
      return { socket, declared: Deferred.await(declared) }
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

/** A process takes half a second to start, and more where others do the same. */
const timeout = 30_000

const listening = /^Listening on (amqp:\/\/\S+) \(Ctrl\+C to stop\)$/

/** Connects, declares a queue, and publishes a message to it. */
const useBroker = (url: string) =>
  Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    yield* channel.queueDeclare({ queue: "orders" })
    yield* channel.confirmSelect
    yield* channel.publish({ routingKey: "orders", body: "the message" })
  }).pipe(
    Effect.scoped,
    Effect.provide(NodeAmqp.layer({ url: Redacted.make(url), reconnect: Schedule.recurs(0) }))
  )

describe("effect-amqp broker", () => {
  it.live(
    "says where it listens, and each event with its time; a signal ends it in good order",
    () =>
      Effect.gen(function*() {
        for (const signal of ["SIGINT", "SIGTERM"] as const) {
          const command = yield* start("broker", "--port", "0")
          const first = yield* command.nextLine
          const url = listening.exec(first)?.[1] ?? ""
          assert.match(url, /^amqp:\/\/guest:guest@127\.0\.0\.1:\d+$/)
          yield* useBroker(url)
          const declared = yield* command.lineWith("declared")
          assert.match(
            declared,
            /^\d\d:\d\d:\d\d\.\d{3} .*queue orders declared \(classic\)$/
          )
          assert.match(
            yield* command.lineWith("published"),
            /^[\d:.]+ 127\.0\.0\.1:\d+ #\d+ published 11 bytes to the default exchange with orders: stored$/
          )
          yield* command.signal(signal)
          assert.strictEqual(yield* command.exited, 0)
          assert.notInclude(yield* command.output, "the message")
          assert.strictEqual(yield* command.errors, "")
        }
      }).pipe(Effect.scoped),
    timeout
  )

  it.live("hears a signal under any load", () =>
    Effect.gen(function*() {
      const command = yield* start("broker", "-p", "0", "-q")
      const { hostname, port } = new URL(listening.exec(yield* command.nextLine)?.[1] ?? "")
      const clients = yield* Effect.forEach(
        Array.from({ length: 100 }),
        (_, i) => flood(hostname, Number(port), `q${i}.`)
      )
      // What follows the last declaration fills the clients' buffers, and the broker's.
      for (const { declared } of clients) yield* declared
      yield* command.signal("SIGINT")
      const [elapsed, exitCode] = yield* Effect.timed(command.exited)
      assert.strictEqual(exitCode, 0)
      // Two seconds, and as many for a machine that does something else.
      assert.isBelow(Duration.toMillis(elapsed), 4000)
    }).pipe(Effect.scoped), timeout)

  it.live("shows frames but no passwords", () =>
    Effect.gen(function*() {
      const command = yield* start("broker", "-p", "0", "-q", "--frames", "--user", "alice:secret:1", "--vhost", "v")
      const url = listening.exec(yield* command.nextLine)?.[1] ?? ""
      assert.match(url, /^amqp:\/\/127\.0\.0\.1:\d+$/)
      yield* useBroker(url.replace("//", "//alice:secret%3A1@") + "/v")
      const answer = yield* command.lineWith("connection.start-ok")
      assert.match(answer, /127\.0\.0\.1:\d+ → #0 connection\.start-ok .*mechanism=PLAIN response=<\d+ bytes>/)
      assert.notInclude(answer, "secret")
      assert.include(yield* command.lineWith("← #0 connection.open-ok"), "127.0.0.1")
      yield* command.lineWith("body of 11 bytes")
      yield* command.signal("SIGTERM")
      assert.strictEqual(yield* command.exited, 0)
      assert.notInclude(yield* command.output, "published")
    }).pipe(Effect.scoped), timeout)

  it.live("shows events among the frames that bring them about", () =>
    Effect.gen(function*() {
      const command = yield* start("broker", "-p", "0", "--frames")
      yield* useBroker(listening.exec(yield* command.nextLine)?.[1] ?? "")
      yield* command.lineWith("#1 queue.declare")
      assert.include(yield* command.nextLine, "queue orders declared")
      assert.include(yield* command.nextLine, "#1 queue.declare-ok")
      yield* command.lineWith("body of 11 bytes")
      assert.include(yield* command.nextLine, "published 11 bytes")
      assert.include(yield* command.nextLine, "#1 basic.ack")
    }).pipe(Effect.scoped), timeout)

  it.live("says in one line that the port is taken", () =>
    Effect.gen(function*() {
      const server = createServer()
      const port = yield* Effect.callback<number>((resume) => {
        server.listen({ host: "127.0.0.1", port: 0 }, () => {
          const address = server.address()
          resume(typeof address === "object" && address !== null ? Effect.succeed(address.port) : Effect.die("no port"))
        })
      })
      yield* Effect.addFinalizer(() => Effect.sync(() => server.close()))
      assert.deepStrictEqual(yield* run("broker", "--port", String(port)), {
        exitCode: 1,
        output: "",
        errors: `effect-amqp: Cannot listen on 127.0.0.1:${port}: the port is already in use. ` +
          "Another one may be given with --port, or 0 for any.\n"
      })
    }).pipe(Effect.scoped), timeout)
})

describe("effect-amqp", () => {
  it.live("explains itself", () =>
    Effect.gen(function*() {
      const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"))
      assert.deepStrictEqual(yield* run("--version"), { exitCode: 0, output: version, errors: "" })
      const help = yield* run("broker", "--help")
      assert.strictEqual(help.exitCode, 0)
      for (const option of ["--port", "--host", "--user", "--vhost", "--quiet", "--frames", "--help", "--version"]) {
        assert.include(help.output, option)
      }
      assert.deepStrictEqual(yield* run(), help)
    }), timeout)

  it.live("refuses what it does not understand, with a hint, and repeats no password", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<readonly [string, ReadonlyArray<string>]> = [
        ["Unknown option '--prot'.", ["broker", "--prot", "1"]],
        ["Unknown command \"brokers\".", ["brokers"]],
        ["No command.", ["--port", "1"]],
        ["Unexpected argument \"5672\".", ["broker", "5672"]],
        ["--port must be a number from 0 to 65535, not \"x\".", ["broker", "--port", "x"]],
        ["--user must be a name and a password, separated by a colon.", ["broker", "--user", "secret"]]
      ]
      for (const [message, args] of cases) {
        assert.deepStrictEqual(yield* run(...args), {
          exitCode: 2,
          output: "",
          errors: `effect-amqp: ${message}\nTry: effect-amqp --help\n`
        })
      }
    }), timeout)
})

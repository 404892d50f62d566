#!/usr/bin/env node
/**
 * The command `effect-amqp`: `effect-amqp broker` serves the embedded broker to any client, for local development.
 *
 * Needs Node and `effect` alone. It prints neither passwords nor the contents of messages.
 *
 * @since 0.1.0
 */
/// <reference types="node" />
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { readFileSync } from "node:fs"
import { parseArgs, styleText } from "node:util"
import * as AmqpBroker from "./testing/AmqpBroker.ts"
import { describeEvent, describeFrame } from "./testing/internal/model/describe.ts"
import * as NodeAmqpBroker from "./testing/NodeAmqpBroker.ts"

const help = `Usage: effect-amqp broker [options]

Serves a broker that lives in this process: RabbitMQ's protocol and semantics, nothing on disk.
For local development and tests. Prints a line for each event.

Options:
  -p, --port <port>           where to listen; 0 takes any free port (default 5672)
      --host <host>           on which address (default 127.0.0.1: this machine only)
      --user <name:password>  a user that may do everything, instead of guest; may be repeated
      --vhost <name>          a vhost besides /; may be repeated
  -q, --quiet                 no line for each event
      --frames                a line for each frame, too
  -h, --help                  this text
  -v, --version               the version
`

/** The command was not understood. */
class UsageError extends Data.TaggedError("UsageError")<{ readonly message: string }> {}

const usage = (message: string) => new UsageError({ message })

const parse = (args: ReadonlyArray<string>) =>
  Effect.try({
    try: () =>
      parseArgs({
        args: [...args],
        allowPositionals: true,
        options: {
          port: { type: "string", short: "p", default: "5672" },
          host: { type: "string", default: "127.0.0.1" },
          user: { type: "string", multiple: true, default: [] },
          vhost: { type: "string", multiple: true, default: [] },
          quiet: { type: "boolean", short: "q", default: false },
          frames: { type: "boolean", default: false },
          help: { type: "boolean", short: "h", default: false },
          version: { type: "boolean", short: "v", default: false }
        }
      }),
    // The first sentence; Node's others are about other commands.
    catch: (error) => usage(error instanceof Error ? error.message.replace(/\. .*/s, ".") : String(error))
  })

const readVersion = Effect.sync((): string =>
  JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version
)

const parsePort = (text: string): Effect.Effect<number, UsageError> =>
  /^\d+$/.test(text) && Number(text) <= 65_535
    ? Effect.succeed(Number(text))
    : Effect.fail(usage(`--port must be a number from 0 to 65535, not "${text}".`))

const parseUser = (text: string): Effect.Effect<AmqpBroker.UserOptions, UsageError> => {
  const colon = text.indexOf(":")
  return colon > 0
    ? Effect.succeed({ name: text.slice(0, colon), password: Redacted.make(text.slice(colon + 1)) })
    : Effect.fail(usage("--user must be a name and a password, separated by a colon."))
}

/** Writes to the standard output, no faster than somebody reads it. */
const print = (text: string): Effect.Effect<void> =>
  Effect.callback((resume) => {
    if (process.stdout.write(text)) return resume(Effect.void)
    const drained = () => resume(Effect.void)
    process.stdout.once("drain", drained)
    return Effect.sync(() => process.stdout.off("drain", drained))
  })

const timeOfDay = new Intl.DateTimeFormat(undefined, {
  hourCycle: "h23",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3
})

const isTrouble = (event: AmqpBroker.BrokerEvent): boolean =>
  event._tag === "DeadLettered" || (event._tag === "Published" && event.outcome !== "stored")

/** Colours only where a person reads, and wants them. */
const style = (format: Parameters<typeof styleText>[0], text: string): string =>
  styleText(format, text, { stream: process.stdout })

const line = (entry: AmqpBroker.BrokerEvent | AmqpBroker.TappedFrame): string => {
  if ("frame" in entry) return style("dim", describeFrame(entry))
  return isTrouble(entry) ? style("yellow", describeEvent(entry)) : describeEvent(entry)
}

/** A line for each entry, the time first. */
const log = (entries: Stream.Stream<AmqpBroker.BrokerEvent | AmqpBroker.TappedFrame>): Effect.Effect<void> =>
  Stream.runForEachArray(entries, (array) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const time = style("dim", timeOfDay.format(now))
      return print(array.map((entry) => `${time} ${line(entry)}\n`).join(""))
    }))

interface BrokerArguments extends Required<Pick<NodeAmqpBroker.Options, "host" | "port">> {
  readonly users: ReadonlyArray<AmqpBroker.UserOptions>
  readonly vhosts: ReadonlyArray<string>
  readonly isQuiet: boolean
  readonly withFrames: boolean
}

/** Serves until it is interrupted. */
const serve = (
  { host, isQuiet, port, users, vhosts, withFrames }: BrokerArguments
): Effect.Effect<never, NodeAmqpBroker.AmqpListenError, Scope.Scope> =>
  Effect.gen(function*() {
    const hasGuest = users.length === 0
    const broker = yield* AmqpBroker.make({
      vhosts: [...new Set(["/", ...vhosts])],
      users: hasGuest ? undefined : users
    })
    const events = isQuiet ? Stream.empty : broker.events
    const frames = isQuiet ? broker.frames : broker.journal
    yield* Effect.forkScoped(log(withFrames ? frames : events), { startImmediately: true })
    const address = yield* Effect.provideService(
      NodeAmqpBroker.serve({ host, port }),
      AmqpBroker.AmqpBroker,
      broker
    )
    const credentials = hasGuest ? "guest:guest@" : ""
    const shown = address.host.includes(":") ? `[${address.host}]` : address.host
    yield* print(`Listening on amqp://${credentials}${shown}:${address.port} (Ctrl+C to stop)\n`)
    return yield* Effect.never
  })

const main = (args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const { positionals, values } = yield* parse(args)
    if (values.version) return yield* print(`${yield* readVersion}\n`)
    if (values.help || args.length === 0) return yield* print(help)
    const [command, ...others] = positionals
    if (command !== "broker") {
      return yield* usage(command === undefined ? "No command." : `Unknown command "${command}".`)
    }
    if (others.length > 0) return yield* usage(`Unexpected argument "${others[0]}".`)
    const port = yield* parsePort(values.port)
    const users = yield* Effect.forEach(values.user, parseUser)
    return yield* Effect.scoped(serve({
      host: values.host,
      port,
      users,
      vhosts: values.vhost,
      isQuiet: values.quiet,
      withFrames: values.frames
    }))
  })

const complain = (lines: ReadonlyArray<string>, exitCode: number) =>
  Effect.sync(() => {
    process.stderr.write(lines.map((line) => `${line}\n`).join(""))
    process.exitCode = exitCode
  })

const listenHint = (code: string): string =>
  code === "EADDRINUSE" || code === "EACCES"
    ? "Another one may be given with --port, or 0 for any."
    : "Another address may be given with --host."

const fiber = Effect.runFork(
  main(process.argv.slice(2)).pipe(
    Effect.catchTags({
      UsageError: ({ message }) => complain([`effect-amqp: ${message}`, "Try: effect-amqp --help"], 2),
      AmqpListenError: ({ code, message }) => complain([`effect-amqp: ${message}. ${listenHint(code)}`], 1)
    })
  )
)

const stop = (): void => fiber.interruptUnsafe()
process.once("SIGINT", stop)
process.once("SIGTERM", stop)
// Nobody reads any more: `effect-amqp broker | head`.
process.stdout.once("error", stop)

fiber.addObserver((exit) => {
  // A signal that comes now ends the process at once.
  process.off("SIGINT", stop)
  process.off("SIGTERM", stop)
  if (Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)) {
    process.stderr.write(`effect-amqp: ${Cause.pretty(exit.cause)}\n`)
    process.exitCode = 1
  }
})

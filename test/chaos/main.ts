/**
 * `npm run chaos -- [--duration seconds] [--seed n] [--write]`: faults against a private RabbitMQ node while messages
 * flow, then a table. Exit code 1, and the seed, when a promise was broken.
 */
import { Effect } from "effect"
import { parseArgs } from "node:util"
import { makeNode } from "../harness/rabbitmq.ts"
import { figures, progressLine, verdict, writeFigures } from "./report.ts"
import { run } from "./run.ts"

const { values } = parseArgs({
  options: {
    duration: { type: "string", default: "60" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 1e9)) },
    write: { type: "boolean", default: false }
  }
})
const seed = Number(values.seed)
const duration = Number(values.duration)
if (!Number.isSafeInteger(seed) || !(duration > 0)) {
  process.stderr.write("usage: npm run chaos -- [--duration seconds] [--seed integer] [--write]\n")
  process.exit(2)
}
const command = `npm run chaos -- --duration ${duration} --seed ${seed}`

const { stdout } = process
const print = (text: string) => stdout.write(`${stdout.isTTY ? "\r\x1b[2K" : ""}${text}\n`)

/** In place on a terminal; elsewhere a line for each fault. */
const onProgress = (() => {
  let faults = -1
  return (progress: Parameters<typeof progressLine>[0]) => {
    if (stdout.isTTY) return void stdout.write(`\r\x1b[2K${progressLine(progress)}`)
    if (progress.faults === faults) return
    faults = progress.faults
    print(progressLine(progress))
  }
})()

const program = Effect.scoped(Effect.gen(function*() {
  print(`seed ${seed}: starting a RabbitMQ node`)
  const node = yield* makeNode()
  const result = yield* run(node, { seed, duration: duration * 1000, onProgress })
  const text = figures(result)
  print(`\n${text}\n`)
  for (const violation of result.violations) print(`BROKEN: ${violation}`)
  print(verdict(result))
  if (result.violations.length > 0) {
    print(`\nThis seed replays the same faults: ${command}`)
    process.exitCode = 1
  } else if (values.write) {
    yield* Effect.promise(() => writeFigures(`\`${command}\`\n\n${text}`))
  }
}))

const interrupt = new AbortController()
process.once("SIGINT", () => interrupt.abort())
process.once("SIGTERM", () => interrupt.abort())
await Effect.runPromise(program, { signal: interrupt.signal }).catch((error: unknown) => {
  print(String(error))
  process.exitCode = 1
})
process.removeAllListeners("SIGINT").removeAllListeners("SIGTERM")

// A timer, socket or child process that was left behind would keep the process: this one does not.
setTimeout(() => {
  print(`BROKEN: the process does not end by itself: ${process.getActiveResourcesInfo().join(", ")}`)
  process.exit(1)
}, 10_000).unref()

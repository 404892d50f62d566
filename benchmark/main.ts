/**
 * `npm run bench`: every client through every workload, side by side. One process per client and workload, clients
 * interleaved, several rounds, medians. `--quick` is a short form, `--rounds n` (5), `--only id,id`, `--clients a,b`,
 * `--list`. A full run writes its table, its figures and its chart into `docs/`.
 */
import { Effect, Redacted } from "effect"
import { parseArgs } from "node:util"
import * as NodeAmqp from "../src/NodeAmqp.ts"
import { makeNode } from "../test/harness/broker.ts"
import { type ClientName, clientNames, type Job, nativeClient, type Sample } from "./job.ts"
import { compile, compileNative, sampleOf, Server } from "./processes.ts"
import { makeQueues } from "./queues.ts"
import { type Results, table } from "./report.ts"
import { shortened, type Side, type Workload, workloads } from "./workloads.ts"

const { values } = parseArgs({
  options: {
    rounds: { type: "string" },
    only: { type: "string" },
    clients: { type: "string" },
    quick: { type: "boolean", default: false },
    list: { type: "boolean", default: false }
  }
})

const usage = (problem: string): never => {
  process.stderr.write(`${problem}\nusage: npm run bench -- [--quick] [--rounds n] [--only id,id] [--clients a,b] [--list]\n`)
  process.exit(2)
}

const chosen = <A>(all: ReadonlyArray<A>, nameOf: (one: A) => string, wanted: string | undefined): ReadonlyArray<A> => {
  if (wanted === undefined) return all
  const names = wanted.split(",")
  const unknown = names.find((name) => !all.some((one) => nameOf(one) === name))
  if (unknown !== undefined) return usage(`${unknown} is none of ${all.map(nameOf).join(", ")}`)
  return all.filter((one) => names.includes(nameOf(one)))
}

if (values.list) {
  for (const { id, title } of workloads) console.log(`${id.padEnd(14)} ${title}`)
  process.exit(0)
}
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5))
if (!Number.isInteger(rounds) || rounds < 1) usage("--rounds takes a positive integer")
const selected = chosen(workloads, ({ id }) => id, values.only)
  .map((workload) => values.quick ? shortened(workload) : workload)
let clients = chosen(clientNames, (name) => name, values.clients)

const started = Date.now()
const { stderr } = process
/** In place on a terminal. */
const progress = (text: string): void => {
  const line = `${((Date.now() - started) / 1000).toFixed(0).padStart(5)} s  ${text}`
  stderr.write(stderr.isTTY ? `\r\x1b[2K${line}` : `${line}\n`)
}

/** What a client cannot do at all. */
const does = (client: ClientName, { job }: Workload): boolean => client !== nativeClient || job.kind !== "run"

/** A process that others talk to, as long as the scope. */
const server = (script: string, ...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.promise(() => Server.start(script, args)),
    (server) => Effect.promise(() => server.stop())
  )

/** Where a sample's process connects to. */
interface Address {
  readonly host: string
  readonly port: number
}

const main = Effect.scoped(Effect.gen(function*() {
  progress("compiling")
  yield* Effect.promise(compile)
  let native: string | undefined
  if (clients.includes(nativeClient)) {
    const compiled = yield* Effect.promise(compileNative)
    if ("program" in compiled) native = compiled.program
    else {
      progress(compiled.missing)
      clients = clients.filter((client) => client !== nativeClient)
    }
  }
  const samples: Array<{ readonly workload: string; readonly client: ClientName; readonly sample: Sample }> = []
  let done = 0

  const measure = (client: ClientName, workload: Workload, job: Job) =>
    Effect.promise(async () => {
      try {
        return await sampleOf(client, job, native)
      } catch (error) {
        const [reason] = /^\w*Error.*$/m.exec(error instanceof Error ? error.message.replace(/^.*\n/, "") : "") ?? [error]
        progress(`${workload.id}, ${client} FAILED: ${String(reason)}\n`)
        process.exitCode = 1
        return undefined
      }
    })

  /** `prepare` makes what a sample needs, for as long as it runs. */
  const rows = <E, R>(side: Side, address: Address, prepare: (job: Job) => Effect.Effect<void, E, R>) =>
    Effect.gen(function*() {
      const mine = selected.filter((workload) => workload.side === side)
      for (let round = 0; round < rounds; round++) {
        for (const workload of mine) {
          const able = clients.filter((client) => does(client, workload))
          // Nobody is always the first, on a machine that has just been idle.
          for (const client of able.map((_, i) => able[(i + round) % able.length] ?? nativeClient)) {
            progress(`round ${round + 1} of ${rounds}: ${workload.title}, ${client}`)
            const { count, size, warm } = workload.job
            const queues = side === "null"
              ? { queue: `null.${size}.${count}`, warmQueue: `null.${size}.${warm}` }
              : { queue: `bench.${++done}`, warmQueue: `bench.${done}.warm` }
            const job: Job = { ...workload.job, ...address, ...queues }
            const sample = yield* Effect.scoped(Effect.andThen(prepare(job), measure(client, workload, job)))
            if (sample !== undefined) samples.push({ workload: workload.id, client, sample })
          }
        }
      }
    })

  if (selected.some(({ side }) => side === "broker")) {
    progress("starting a RabbitMQ node")
    const node = yield* makeNode()
    const address = { host: node.host, port: node.port }
    const prepare = (job: Job) =>
      Effect.andThen(
        makeQueues(job),
        job.kind === "request" ? server("responder.ts", job.host, String(job.port), job.queue) : Effect.void
      )
    yield* Effect.provide(
      rows("broker", address, (job) => Effect.asVoid(prepare(job))),
      NodeAmqp.layer({ url: Redacted.make(node.amqpUrl), connectionName: "bench" })
    )
  }
  if (selected.some(({ side }) => side === "null")) {
    const { line } = yield* server("nullPeer.ts")
    yield* rows("null", { host: "127.0.0.1", port: Number(line) }, () => Effect.void)
  }
  if (stderr.isTTY) stderr.write("\r\x1b[2K")
  const results: Results = { clients, workloads: selected, rounds, samples }
  console.log(table(results))
}))

await Effect.runPromise(main).catch((error: unknown) => {
  console.error(error)
  process.exitCode = 1
})

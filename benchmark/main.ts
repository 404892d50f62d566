/**
 * `npm run bench`: every client through every workload, side by side. One process per client and workload, clients
 * interleaved, several rounds, medians. A run of everything writes its tables, its figures and its chart into `docs/`.
 *
 * `--quick` is a short form that shows that all of it works, `--rounds n` (5), `--only id,id`, `--clients a,b`, `--list`,
 * `--profile folder` for profiles of each process: its time, and what is on its heap in the end.
 */
import { Effect, Redacted } from "effect"
import { readFile, writeFile } from "node:fs/promises"
import * as Path from "node:path"
import { parseArgs } from "node:util"
import * as NodeAmqp from "../src/NodeAmqp.ts"
import { makeNode } from "../test/harness/rabbitmq.ts"
import { type CodecFigures, type Operation, operations } from "./codec.ts"
import { footprints } from "./footprint.ts"
import { type ClientName, clientNames, type Job, nativeClient, type Sample } from "./job.ts"
import { median } from "./measure.ts"
import { codecSampleOf, compile, compileNative, sampleOf, Server, startSource } from "./processes.ts"
import { makeQueues } from "./queues.ts"
import { json, ours, type Results, summary, tables } from "./report.ts"
import { chart } from "./svg.ts"
import { type Group, isOfBroker, shortened, type Workload, workloads } from "./workloads.ts"

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

const { values } = parseArgs({
  options: {
    rounds: { type: "string" },
    only: { type: "string" },
    clients: { type: "string" },
    quick: { type: "boolean", default: false },
    profile: { type: "string" },
    list: { type: "boolean", default: false }
  }
})

const usage = (problem: string): never => {
  process.stderr.write(
    `${problem}\nusage: npm run bench -- [--quick] [--rounds n] [--only id,id] [--clients a,b] [--profile folder] [--list]\n`
  )
  process.exit(2)
}

/** What is not a workload over a connection. */
const others = [
  { id: "codec", title: "micro-benchmarks of the codecs" },
  { id: "import", title: "imports and bundle of a minimal program" }
]

if (values.list) {
  for (const { id, title } of [...workloads, ...others]) console.log(`${id.padEnd(20)} ${title}`)
  process.exit(0)
}

const chosen = <A extends string>(all: ReadonlyArray<A>, wanted: string | undefined): ReadonlyArray<A> => {
  if (wanted === undefined) return all
  const names = wanted.split(",")
  const unknown = names.find((name) => !all.some((one) => one === name))
  if (unknown !== undefined) return usage(`${unknown} is none of ${all.join(", ")}`)
  return all.filter((one) => names.includes(one))
}

const rounds = Number(values.rounds ?? (values.quick ? 1 : 5))
if (!Number.isInteger(rounds) || rounds < 1) usage("--rounds takes a positive integer")
const ids = chosen([...workloads, ...others].map(({ id }) => id), values.only)
const selected = workloads.filter(({ id }) => ids.includes(id))
  .map((workload) => values.quick ? shortened(workload) : workload)
let clients = chosen(clientNames, values.clients)
const nodeOptions = values.profile === undefined
  ? []
  : [
    ...["--cpu-prof", "--cpu-prof-interval=200", `--cpu-prof-dir=${Path.resolve(values.profile)}`],
    ...["--heap-prof", `--heap-prof-dir=${Path.resolve(values.profile)}`]
  ]
const isFull = values.only === undefined && values.clients === undefined && !values.quick &&
  values.profile === undefined

// -----------------------------------------------------------------------------
// measuring
// -----------------------------------------------------------------------------

const started = process.hrtime.bigint()
const { stderr } = process
/** In place on a terminal. */
const progress = (text: string): void => {
  const seconds = Number((process.hrtime.bigint() - started) / 1_000_000_000n)
  const line = `${String(seconds).padStart(5)} s  ${text}`
  stderr.write(stderr.isTTY ? `\r\x1b[2K${line}` : `${line}\n`)
}

/** What fails is left out of the tables, and makes the whole run fail. */
const attempt = <A>(what: string, run: () => Promise<A>): Effect.Effect<A | undefined> =>
  Effect.promise(() =>
    run().catch((error: unknown) => {
      const text = String(error)
      progress(`${what} FAILED: ${/^\w*Error: (?!Command failed).*$/m.exec(text)?.[0] ?? text}\n`)
      process.exitCode = 1
      return undefined
    })
  )

/** A process that others talk to, as long as the scope. */
const server = (name: string, ...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.promise(() => Server.start(name, args)),
    (server) => Effect.promise(() => server.stop())
  )

/**
 * Who is measured: the C client has no handlers, one client sends single messages 40 ms late (it leaves Nagle's algorithm
 * on), and some questions are about ours alone.
 */
const isAble = (client: ClientName, { group, job }: Workload): boolean => {
  if (group === "flat" || group === "atOnce") return client === ours
  if (job.kind === "queues") return client !== nativeClient && client !== "cloudamqp"
  return client !== nativeClient || job.kind !== "run"
}

/** Whom a job talks to besides the broker. */
const counterpart = (job: Job, { host, port }: Address, native: string | undefined) =>
  Effect.gen(function*() {
    if (job.kind === "request") yield* server("responder.ts", host, String(port), job.queue)
    if (job.arrivals === 0 || native === undefined) return
    yield* Effect.acquireRelease(
      Effect.sync(() => startSource(native, job)),
      (source) => Effect.sync(() => source.kill())
    )
  })

/** Nobody is always the first, on a machine that has just been idle. */
const rotated = <A>(all: ReadonlyArray<A>, by: number): ReadonlyArray<A> => {
  const at = by % Math.max(1, all.length)
  return [...all.slice(at), ...all.slice(0, at)]
}

/** Where a sample's process connects to. */
interface Address {
  readonly host: string
  readonly port: number
}

const measureCodecs = (times: number) =>
  Effect.gen(function*() {
    const figures = new Map<ClientName, Array<CodecFigures>>()
    for (let round = 0; round < rounds; round++) {
      for (const client of rotated(clients.filter((client) => client !== nativeClient), round)) {
        progress(`round ${round + 1} of ${rounds}: codec, ${client}`)
        const one = yield* attempt(`codec, ${client}`, () => codecSampleOf(client, times))
        if (one !== undefined) figures.set(client, [...figures.get(client) ?? [], one])
      }
    }
    const isOperation = (key: string): key is Operation => key in operations
    return clients.flatMap((client) => {
      const all = figures.get(client)
      const medians = Object.keys(all?.[0] ?? {}).filter(isOperation)
        .map((key) => [key, median(all?.map((one) => one[key] ?? 0) ?? [])] as const)
      return all === undefined ? [] : [[client, Object.fromEntries(medians)] as const]
    })
  })

const main = Effect.scoped(Effect.gen(function*() {
  progress("compiling")
  yield* Effect.promise(compile)
  let native: string | undefined
  if (clients.includes(nativeClient) || selected.some(({ job }) => job.arrivals > 0)) {
    const compiled = yield* Effect.promise(compileNative)
    if ("program" in compiled) native = compiled.program
    else {
      progress(compiled.missing)
      clients = clients.filter((client) => client !== nativeClient)
    }
  }
  const samples: Array<{ readonly workload: string; readonly client: ClientName; readonly sample: Sample }> = []
  let names = 0

  /** `prepare` makes what a sample needs, for as long as it runs. */
  const rows = <E, R>(
    groups: ReadonlyArray<Group>,
    address: Address,
    prepare: (job: Job) => Effect.Effect<void, E, R>
  ) =>
    Effect.gen(function*() {
      for (let round = 0; round < rounds; round++) {
        for (const workload of selected.filter(({ group }) => groups.includes(group))) {
          // What comes at a rate comes from the C program.
          if (workload.job.arrivals > 0 && native === undefined) continue
          for (const client of rotated(clients.filter((client) => isAble(client, workload)), round)) {
            progress(`round ${round + 1} of ${rounds}: ${workload.title}, ${client}`)
            const { count, size, warm } = workload.job
            const queues = isOfBroker(workload.group)
              ? { queue: `bench.${++names}`, warmQueue: `bench.${names}.warm` }
              : { queue: `null.${size}.${count}`, warmQueue: `null.${size}.${warm}` }
            const job: Job = { ...workload.job, ...address, ...queues }
            const measured = attempt(`${workload.title}, ${client}`, () => sampleOf(client, job, native, nodeOptions))
            const sample = yield* Effect.scoped(Effect.andThen(prepare(job), measured))
            if (sample !== undefined) samples.push({ workload: workload.id, client, sample })
          }
        }
      }
    })

  if (selected.some(({ group }) => isOfBroker(group))) {
    progress("starting a RabbitMQ node")
    const { amqpUrl, host, port } = yield* makeNode()
    const prepare = (job: Job) => Effect.andThen(makeQueues(job), counterpart(job, { host, port }, native))
    yield* Effect.provide(
      rows(["broker", "atOnce"], { host, port }, prepare),
      NodeAmqp.layer({ url: Redacted.make(amqpUrl), connectionName: "bench" })
    )
  }
  if (selected.some(({ group }) => !isOfBroker(group))) {
    const { line } = yield* server("nullPeer.ts")
    yield* rows(["ceiling", "flat"], { host: "127.0.0.1", port: Number(line) }, () => Effect.void)
  }
  const codecs = ids.includes("codec") ? yield* measureCodecs(values.quick ? 3_000 : 100_000) : []
  const imports = !ids.includes("import") ? undefined : yield* attempt("imports", () => {
    progress("imports")
    return footprints(clients, values.quick ? 2 : 15)
  })
  if (stderr.isTTY) stderr.write("\r\x1b[2K")

  const results: Results = { clients, workloads: selected, rounds, samples, codecs, footprints: imports ?? [] }
  console.log(`${tables(results)}\n\n${summary(results)}`)
  if (isFull) yield* Effect.promise(() => write(results))
}))

// -----------------------------------------------------------------------------
// docs
// -----------------------------------------------------------------------------

const docs = Path.join(import.meta.dirname, "..", "docs")
const begin = "<!-- bench: begin -->\n"
const end = "<!-- bench: end -->"

const write = async (results: Results): Promise<void> => {
  await writeFile(Path.join(docs, "performance.json"), json(results))
  await writeFile(Path.join(docs, "performance.svg"), chart(results))
  const file = Path.join(docs, "performance.md")
  const text = await readFile(file, "utf8")
  const from = text.indexOf(begin)
  const to = text.indexOf(end)
  if (from < 0 || to < from) throw new Error(`${file} has no place for the figures`)
  const figures = `${summary(results)}, medians of ${results.rounds} rounds.\n\n${tables(results)}\n`
  await writeFile(file, text.slice(0, from + begin.length) + figures + text.slice(to))
}

const interrupt = new AbortController()
process.once("SIGINT", () => interrupt.abort())
process.once("SIGTERM", () => interrupt.abort())
await Effect.runPromise(main, { signal: interrupt.signal }).catch((error: unknown) => {
  console.error(error)
  process.exitCode = 1
})

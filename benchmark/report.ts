/**
 * Medians, ratios and verdicts, as text and as data.
 */
import { type CodecFigures, operations } from "./codec.ts"
import type { Footprint } from "./footprint.ts"
import { type ClientName, nativeClient, type Sample } from "./job.ts"
import { median } from "./measure.ts"
import { isOfBroker, type Workload } from "./workloads.ts"

/** Everything that a run has measured. */
export interface Results {
  readonly clients: ReadonlyArray<ClientName>
  readonly workloads: ReadonlyArray<Workload>
  readonly rounds: number
  readonly samples: ReadonlyArray<{
    readonly workload: string
    readonly client: ClientName
    readonly sample: Sample
  }>
  /** Medians, of each codec. */
  readonly codecs: ReadonlyArray<readonly [client: ClientName, figures: CodecFigures]>
  readonly footprints: ReadonlyArray<Footprint>
}

export const ours: ClientName = "effect-amqp"

/** The medians of one client in one workload. */
export interface Cell {
  /** Per second. */
  readonly rate: number
  /** Microseconds of processor time, each. */
  readonly cpu: number
  /** Bytes. */
  readonly peak: number
  readonly extra: Readonly<Record<string, number>>
}

export const cellOf = (results: Results, workload: Workload, client: ClientName): Cell | undefined => {
  const samples = results.samples.filter((one) => one.workload === workload.id && one.client === client)
    .map(({ sample }) => sample)
  const [first] = samples
  if (first === undefined) return undefined
  const count = workload.job.count * workload.job.repeat
  const extra = Object.keys(first.extra).map((key) => [key, median(samples.map((one) => one.extra[key] ?? 0))] as const)
  return {
    rate: median(samples.map(({ seconds }) => count / seconds)),
    cpu: median(samples.map(({ cpu }) => cpu / count)),
    peak: median(samples.map(({ peak }) => peak)),
    extra: Object.fromEntries(extra)
  }
}

// -----------------------------------------------------------------------------
// targets
// -----------------------------------------------------------------------------

/** One thing that we want, and how it stands. */
export interface Verdict {
  readonly what: string
  readonly ratio: number
  readonly wanted: string
  readonly ok: boolean
}

export const verdictsOf = (results: Results, workload: Workload): ReadonlyArray<Verdict> => {
  const own = cellOf(results, workload, ours)
  if (own === undefined) return []
  const { cpuC, cpuJs, cpuOwn, rateJs } = workload.targets
  const peers = results.clients.filter((client) => client !== ours && client !== nativeClient)
    .flatMap((client) => cellOf(results, workload, client) ?? [])
  const native = cellOf(results, workload, nativeClient)
  const verdicts: Array<Verdict> = []
  const atMost = (what: string, ratio: number, limit: number | undefined): void => {
    if (limit !== undefined) verdicts.push({ what, ratio, wanted: `≤ ${limit}`, ok: ratio <= limit })
  }
  if (peers.length > 0) {
    atMost("CPU / best JS", own.cpu / Math.min(...peers.map(({ cpu }) => cpu)), cpuJs)
    const ratio = own.rate / Math.max(...peers.map(({ rate }) => rate))
    if (rateJs !== undefined) {
      verdicts.push({ what: "rate / best JS", ratio, wanted: `≥ ${rateJs}`, ok: ratio >= rateJs })
    }
  }
  if (native !== undefined) atMost("CPU / C", own.cpu / native.cpu, cpuC)
  if (cpuOwn !== undefined) {
    const other = results.workloads.find(({ id }) => id === cpuOwn.workload)
    const cell = other === undefined ? undefined : cellOf(results, other, ours)
    if (cell !== undefined) atMost(`CPU / our ${cpuOwn.workload}`, own.cpu / cell.cpu, cpuOwn.ratio)
  }
  return verdicts
}

// -----------------------------------------------------------------------------
// tables
// -----------------------------------------------------------------------------

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 })

/** Three digits that count. */
const digits = (value: number): string => value >= 100 ? integer.format(value) : value.toPrecision(3)

const MiB = 1024 * 1024
const KiB = 1024

/** A table in Markdown, as wide as it has to be, so that it can be read on a terminal, too. */
const markdown = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const all = [head, ...rows]
  const widths = head.map((_, column) => Math.max(3, ...all.map((row) => row[column]?.length ?? 0)))
  const line = (cells: ReadonlyArray<string>) =>
    `| ${
      widths.map((width, i) => i === 0 ? (cells[i] ?? "").padEnd(width) : (cells[i] ?? "").padStart(width)).join(" | ")
    } |`
  const rule = `| ${widths.map((width, i) => i === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`).join(" | ")} |`
  return [line(head), rule, ...rows.map(line)].join("\n")
}

const verdictText = ({ ok, ratio, wanted, what }: Verdict): string =>
  `${what} ${ratio.toFixed(2)} (${wanted}) ${ok ? "ok" : "**missed**"}`

/** One workload for all clients: `µs CPU` and rate per client, then what we wanted. */
const comparison = (results: Results, group: Workload["group"]): string => {
  const workloads = results.workloads.filter((workload) => workload.group === group)
  const rows = workloads.map((workload) => [
    workload.title + (workload.unit === "message" ? "" : ` (per ${workload.unit})`),
    ...results.clients.map((client) => {
      const cell = cellOf(results, workload, client)
      return cell === undefined ? "" : `${digits(cell.cpu)} · ${digits(cell.rate)}`
    }),
    verdictsOf(results, workload).map(verdictText).join(", ")
  ])
  return rows.length === 0 ? "" : markdown(["µs CPU · rate/s", ...results.clients, "wanted"], rows)
}

const memory = (results: Results): string => {
  const workloads = results.workloads.filter(({ group }) => group === "broker")
  const rows = workloads.map((workload) => [
    workload.title,
    ...results.clients.map((client) => {
      const cell = cellOf(results, workload, client)
      return cell === undefined ? "" : digits(cell.peak / MiB)
    })
  ])
  return rows.length === 0 ? "" : markdown(["peak memory, MiB", ...results.clients], rows)
}

/** What only some workloads have. */
const extras = (results: Results): string => {
  const names: Readonly<Record<string, (value: number) => string>> = {
    p50: (value) => `${digits(value)} µs`,
    p99: (value) => `${digits(value)} µs`,
    bytesPerChannel: (value) => `${digits(value / KiB)} KiB`
  }
  const rows = results.workloads.filter(({ group }) => isOfBroker(group)).flatMap((workload) =>
    Object.entries(names).flatMap(([key, text]) => {
      const values = results.clients.map((client) => cellOf(results, workload, client)?.extra[key])
      return values.every((value) => value === undefined)
        ? []
        : [[`${workload.title}: ${key}`, ...values.map((value) => value === undefined ? "" : text(value))]]
    })
  )
  return rows.length === 0 ? "" : markdown(["latency and memory", ...results.clients], rows)
}

const alone = (results: Results, wanted: Workload["group"]): string => {
  const rows = results.workloads.filter(({ group }) => group === wanted).flatMap((workload) => {
    const cell = cellOf(results, workload, ours)
    if (cell === undefined) return []
    const verdicts = verdictsOf(results, workload).map(verdictText).join(", ")
    return [[workload.title, digits(cell.cpu), digits(cell.rate), digits(cell.peak / MiB), verdicts]]
  })
  return rows.length === 0 ? "" : markdown(["ours alone", "µs CPU", "rate/s", "peak MiB", "wanted"], rows)
}

const codecs = ({ codecs }: Results): string => {
  if (codecs.length === 0) return ""
  const rows = Object.entries(operations).map(([operation, title]) => [
    title,
    ...codecs.map(([, figures]) => {
      const value = Object.entries(figures).find(([key]) => key === operation)?.[1]
      return value === undefined ? "" : digits(value)
    })
  ])
  return markdown(["ns", ...codecs.map(([client]) => client)], rows)
}

const footprints = ({ footprints }: Results): string =>
  footprints.length === 0 ? "" : markdown(
    ["minimal program", "import, ms", "bundled, ms", "resident MiB", "bundle KiB", "gzipped KiB"],
    footprints.map(({ bundle, bundledMillis, client, gzipped, importMillis, resident }) => [
      client,
      ...[importMillis, bundledMillis, resident / MiB, bundle / KiB, gzipped / KiB].map(digits)
    ])
  )

/** All tables. */
export const tables = (results: Results): string =>
  [
    ["Against RabbitMQ", comparison(results, "broker")],
    ["Against a peer that does nothing", comparison(results, "ceiling")],
    ["Against RabbitMQ, with `readInterval: 0`", alone(results, "atOnce")],
    ["Latency, and memory of a channel", extras(results)],
    ["Peak memory of the process", memory(results)],
    ["Does the cost of a message stay what it is?", alone(results, "flat")],
    ["The codecs by themselves", codecs(results)],
    ["Before anything is done", footprints(results)]
  ].filter(([, table]) => table !== "").map(([title, table]) => `### ${title}\n\n${table}`).join("\n\n")

/** How many targets there are, and how many are missed. */
export const summary = (results: Results): string => {
  const verdicts = results.workloads.flatMap((workload) => verdictsOf(results, workload))
  const missed = verdicts.filter(({ ok }) => !ok).length
  return `${verdicts.length - missed} of ${verdicts.length} targets reached`
}

/** Everything as data, for whoever wants to compute with it. */
export const json = (results: Results): string =>
  `${
    JSON.stringify(
      {
        rounds: results.rounds,
        workloads: results.workloads.map((workload) => ({
          id: workload.id,
          title: workload.title,
          group: workload.group,
          unit: workload.unit,
          job: workload.job,
          clients: Object.fromEntries(
            results.clients.flatMap((client) => {
              const cell = cellOf(results, workload, client)
              return cell === undefined ? [] : [[client, cell]]
            })
          ),
          verdicts: verdictsOf(results, workload)
        })),
        codecs: Object.fromEntries(results.codecs),
        footprints: results.footprints
      },
      (_key, value: unknown) => typeof value === "number" ? Number(value.toPrecision(5)) : value,
      2
    )
  }\n`

/**
 * Medians, ratios and verdicts, as text.
 */
import { type ClientName, nativeClient, type Sample } from "./job.ts"
import { median } from "./measure.ts"
import type { Workload } from "./workloads.ts"

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
    atMost("CPU/JS", own.cpu / Math.min(...peers.map(({ cpu }) => cpu)), cpuJs)
    const ratio = own.rate / Math.max(...peers.map(({ rate }) => rate))
    if (rateJs !== undefined) verdicts.push({ what: "rate/JS", ratio, wanted: `≥ ${rateJs}`, ok: ratio >= rateJs })
  }
  if (native !== undefined) atMost("CPU/C", own.cpu / native.cpu, cpuC)
  if (cpuOwn !== undefined) {
    const other = results.workloads.find(({ id }) => id === cpuOwn.workload)
    const cell = other === undefined ? undefined : cellOf(results, other, ours)
    if (cell !== undefined) atMost(`CPU/${cpuOwn.workload}`, own.cpu / cell.cpu, cpuOwn.ratio)
  }
  return verdicts
}

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 })

/** Three digits that count. */
export const digits = (value: number): string => value >= 100 ? integer.format(value) : value.toPrecision(3)

const MiB = 1024 * 1024

export const table = (results: Results): string => {
  const lines: Array<string> = []
  for (const workload of results.workloads) {
    const extras = new Set(results.clients.flatMap((client) => Object.keys(cellOf(results, workload, client)?.extra ?? {})))
    lines.push("", `${workload.title}${workload.side === "null" ? " (null peer)" : ""}`)
    lines.push(
      ["", `${workload.unit}s/s`, `µs CPU/${workload.unit}`, "peak MiB", ...extras]
        .map((text, i) => i === 0 ? text.padEnd(18) : text.padStart(18)).join("")
    )
    for (const client of results.clients) {
      const cell = cellOf(results, workload, client)
      if (cell === undefined) continue
      const figures = [cell.rate, cell.cpu, cell.peak / MiB, ...Array.from(extras, (key) => cell.extra[key] ?? Number.NaN)]
      lines.push(`  ${client.padEnd(16)}${figures.map((value) => digits(value).padStart(18)).join("")}`)
    }
    const verdicts = verdictsOf(results, workload)
      .map(({ ok, ratio, wanted, what }) => `${what} ${ratio.toFixed(2)} (${wanted}) ${ok ? "ok" : "MISSED"}`)
    if (verdicts.length > 0) lines.push(`  ${verdicts.join("   ")}`)
  }
  return lines.join("\n")
}

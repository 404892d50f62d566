/**
 * What a measured phase costs its process.
 */
import { readFileSync } from "node:fs"
import type { Sample } from "./job.ts"

/**
 * The largest resident size of this process, in bytes. `getrusage` would count what the parent had when it forked, so
 * the kernel is asked where that is possible.
 */
const peak = (): number => {
  try {
    const [, kibibytes] = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8")) ?? []
    if (kibibytes !== undefined) return Number(kibibytes) * 1024
  } catch {
    // Not Linux.
  }
  return process.resourceUsage().maxRSS * 1024
}

/** Measures one phase. */
export class Meter {
  private cpu = process.cpuUsage()
  private began = process.hrtime.bigint()
  private seconds = 0
  private micros = 0

  start(): void {
    this.cpu = process.cpuUsage()
    this.began = process.hrtime.bigint()
  }

  stop(): void {
    this.seconds = Number(process.hrtime.bigint() - this.began) / 1e9
    const { system, user } = process.cpuUsage(this.cpu)
    this.micros = user + system
  }

  sample(extra: Sample["extra"] = {}): Sample {
    return { seconds: this.seconds, cpu: this.micros, peak: peak(), extra }
  }
}

/** The value below which so much of the sorted values lies. */
const percentile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN

/** What there is to say of latencies, if there are any. */
export const percentiles = (latencies: ReadonlyArray<number>): Sample["extra"] => {
  if (latencies.length === 0) return {}
  const sorted = latencies.toSorted((a, b) => a - b)
  return { p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99) }
}

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? percentile(sorted, 0.5) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

/**
 * What a measured phase costs its process.
 */
import type { Sample } from "./job.ts"

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
    return { seconds: this.seconds, cpu: this.micros, peak: process.resourceUsage().maxRSS * 1024, extra }
  }
}

/** The value below which so much of the sorted values lies. */
export const percentile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? percentile(sorted, 0.5) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

/**
 * A chaos run for people: a line of progress, and the table of figures, on the screen and in `docs/reliability.md`.
 */
import { readFile, writeFile } from "node:fs/promises"
import type { ChaosResult, Progress } from "./run.ts"

const seconds = (millis: number): string => `${(millis / 1000).toFixed(millis < 9950 ? 1 : 0)} s`
const millis = (value: number | undefined): string =>
  value === undefined ? "" : value < 1000 ? `${Math.round(value)} ms` : seconds(value)

export const progressLine = ({ arrived, confirmed, elapsed, fault, faults, published }: Progress): string =>
  `${seconds(elapsed).padStart(7)}  faults ${faults}  published ${published}  confirmed ${confirmed}  ` +
  `arrived ${arrived}  ${fault ?? "…"}`

const quantile = (sorted: ReadonlyArray<number>, q: number): number | undefined =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))]

const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const line = (cells: ReadonlyArray<string>) => `| ${cells.join(" | ")} |`
  return [line(head), line(head.map((_, i) => i === 0 ? "---" : "--:")), ...rows.map(line)].join("\n")
}

/** The figures of a run, in Markdown. */
export const figures = ({ ledger, reconnects, struck, wire }: ChaosResult): string => {
  const kinds = Map.groupBy(struck, ({ fault }) => fault.kind)
  const recovery = (runs: ChaosResult["struck"]) => {
    const sorted = runs.map(({ recovery }) => recovery).sort((a, b) => a - b)
    return [String(sorted.length), millis(quantile(sorted, 0.5)), millis(sorted.at(-1))]
  }
  const others = [...ledger.outcomes].filter(([outcome]) =>
    !["confirmed", "AmqpPublishUnconfirmed", "AmqpMessageReturned"].includes(outcome)
  )
  return [
    table(
      ["fault", "injected", "recovered after, p50", "max"],
      [...[...kinds].map(([kind, runs]) => [kind, ...recovery(runs)]), ["all", ...recovery(struck)]]
    ),
    "",
    table(["messages", ""], [
      ["published", String(ledger.begun)],
      ["confirmed", String(ledger.count("confirmed"))],
      ["unconfirmed (in doubt)", String(ledger.count("AmqpPublishUnconfirmed"))],
      ["returned (no queue, on purpose)", String(ledger.count("AmqpMessageReturned"))],
      ...others.map(([outcome, count]) => [outcome, String(count)]),
      ["confirmed and **lost**", String(ledger.missing.length)],
      ["handled more than once", String(ledger.duplicated)],
      ["deliveries", String(wire.deliveries)],
      ["settlements on the wire, none stale, none twice", String(wire.settlements)],
      ["settlements refused as stale, nothing sent", String(ledger.stale)],
      ["connections lost and replaced", String(reconnects)]
    ])
  ].join("\n")
}

/** One line: whether every promise was kept. */
export const verdict = ({ ledger, struck, violations }: ChaosResult): string =>
  violations.length === 0
    ? `VERDICT: every promise was kept: ${struck.length} faults, ${ledger.begun} messages`
    : `VERDICT: ${violations.length} broken: ${struck.length} faults, ${ledger.begun} messages`

const file = new URL("../../docs/reliability.md", import.meta.url)
const begin = "<!-- chaos: begin -->"
const end = "<!-- chaos: end -->"

/** Puts the figures between the markers of `docs/reliability.md`. */
export const writeFigures = async (text: string): Promise<void> => {
  const old = await readFile(file, "utf8")
  const [from, to] = [old.indexOf(begin), old.indexOf(end)]
  if (from === -1 || to < from) throw new Error(`${file.pathname} has no "${begin}" … "${end}"`)
  await writeFile(file, `${old.slice(0, from + begin.length)}\n${text}\n${old.slice(to)}`)
}

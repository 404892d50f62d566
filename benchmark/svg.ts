/**
 * The chart: processor time per message, a bar for each client, readable on light and on dark pages.
 */
import type { ClientName } from "./job.ts"
import { cellOf, type Results } from "./report.ts"

/** What the chart shows: messages of 100 bytes. */
const charted = ["publish", "confirm", "batch", "consume", "ack", "run", "headers-out", "headers-in"]

const colors: Record<ClientName, string> = {
  "effect-amqp": "#3b82f6",
  "amqplib": "#f59e0b",
  "rabbitmq-client": "#ef4444",
  "cloudamqp": "#10b981",
  "librabbitmq": "#8b8b95"
}

const width = 760
const left = 260
const right = 60
const bar = 13
const gap = 16
const top = 62

const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")

export const chart = (results: Results): string => {
  const rows = results.workloads.filter(({ group, id }) => group === "broker" && charted.includes(id)).map((
    workload
  ) => ({
    title: workload.title,
    bars: results.clients.flatMap((client) => {
      const cell = cellOf(results, workload, client)
      return cell === undefined ? [] : [{ client, value: cell.cpu }]
    })
  }))
  const most = Math.max(1, ...rows.flatMap(({ bars }) => bars.map(({ value }) => value)))
  const scale = (value: number): number => value / most * (width - left - right)
  const parts: Array<string> = []
  results.clients.forEach((client, i) => {
    const x = 10 + i * 145
    parts.push(
      `<rect x="${x}" y="34" width="11" height="11" rx="2" fill="${colors[client]}"/>`,
      `<text x="${x + 17}" y="44">${client}${client === "librabbitmq" ? " (C)" : ""}</text>`
    )
  })
  let y = top
  for (const { bars, title } of rows) {
    const middle = y + bars.length * bar / 2 + 4
    parts.push(`<text x="${left - 10}" y="${middle}" text-anchor="end">${escape(title)}</text>`)
    for (const { client, value } of bars) {
      const length = scale(value)
      parts.push(
        `<rect x="${left}" y="${y}" width="${length.toFixed(1)}" height="${bar - 2}" fill="${colors[client]}"/>`,
        `<text class="value" x="${(left + length + 5).toFixed(1)}" y="${y + bar - 4}">${value.toPrecision(3)}</text>`
      )
      y += bar
    }
    y += gap
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" role="img">
<title>Processor time of the client per message</title>
<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600; font-size: 14px }
.value { font-size: 10px; fill: #57606a }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .value { fill: #9198a1 } }
</style>
<text class="head" x="10" y="20">Microseconds of the client's processor time per message of 100 bytes; less is better</text>
${parts.join("\n")}
</svg>
`
}

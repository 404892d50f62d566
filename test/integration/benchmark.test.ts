/**
 * The benchmark in its short form: that all of it runs, not how fast.
 */
import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as Path from "node:path"
import { canControl } from "../harness/shared.ts"

const root = Path.resolve(import.meta.dirname, "../..")

const bench = (...args: ReadonlyArray<string>) =>
  spawnSync(process.execPath, ["benchmark/main.ts", ...args], { cwd: root, encoding: "utf8" })

describe.runIf(canControl)("npm run bench", () => {
  it("measures every JavaScript client side by side, against RabbitMQ, the null peer and in its codec", () => {
    const clients = ["effect-amqp", "amqplib", "rabbitmq-client", "cloudamqp"]
    const { status, stderr, stdout } = bench(
      "--quick",
      ...["--only", "confirm,ack,null-confirm,null-ack,codec"],
      ...["--clients", clients.join(",")]
    )
    assert.strictEqual(status, 0, stderr + stdout)
    for (const row of ["confirmed publish, 256 in flight", "consume + ack, prefetch 300"]) {
      const lines = stdout.split("\n").filter((line) => line.startsWith(`| ${row} `))
      assert.lengthOf(lines, 3, `${row}: against both, and its memory\n${stdout}`)
      for (const line of lines) {
        for (const cell of line.split("|").slice(2, 2 + clients.length)) assert.match(cell, /\d/, line)
      }
    }
    assert.match(stdout, /^\| encode a publish +\|( +[\d,]+ \|){4}$/m)
    assert.match(stdout, /^\d+ of \d+ targets reached$/m)
  }, 120_000)

  it("names what there is where it does not know a workload", () => {
    const { status, stderr } = bench("--only", "typo")
    assert.strictEqual(status, 2)
    assert.match(stderr, /^typo is none of publish, /)
  })
})

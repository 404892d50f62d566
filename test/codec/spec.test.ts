/**
 * The generated files against the specification that they come from. `.ci/run` installs it; elsewhere it may be absent,
 * and then this test is reported as skipped, with what to do about it.
 */
import { afterAll, assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"

const root = Path.resolve(import.meta.dirname, "../..")
const specification = "/usr/share/amqp/specs/0-9-1-rabbit/amqp0-9-1.stripped.extended.xml"

/** As on a fresh machine: the formatter has nothing of its plugin yet. */
const cache = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-amqp-"))
afterAll(() => Fs.rmSync(cache, { recursive: true, force: true }))

const generate = (...args: ReadonlyArray<string>) =>
  spawnSync(process.execPath, [Path.join(root, "scripts/generate.ts"), ...args], {
    encoding: "utf8",
    env: {
      ...process.env,
      DPRINT_CACHE_DIR: cache,
      PATH: `${Path.join(root, "node_modules/.bin")}${Path.delimiter}${process.env["PATH"]}`
    }
  })

const missing = `not compared: there is no ${specification}. On Debian: apt-get install amqp-specs`

describe("generated files", { timeout: 60_000 }, () => {
  it("are what the specification says", (context) => {
    if (!Fs.existsSync(specification)) return context.skip(missing)
    const { status, stderr } = generate("--check")
    assert.strictEqual(stderr, "")
    assert.strictEqual(status, 0)
  })

  it("are found to differ from another specification", (context) => {
    if (!Fs.existsSync(specification)) return context.skip(missing)
    const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-amqp-"))
    try {
      const other = Path.join(folder, "other.xml")
      Fs.writeFileSync(other, Fs.readFileSync(specification, "utf8").replaceAll(`name="routing-key"`, `name="rk"`))
      const { status, stderr } = generate("--check", other)
      assert.strictEqual(status, 1)
      assert.strictEqual(stderr, "src/internal/codec/spec.ts differs from the specification: run npm run generate\n")
    } finally {
      Fs.rmSync(folder, { recursive: true })
    }
  })
})

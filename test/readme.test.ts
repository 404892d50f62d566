/**
 * What README and docs say is what there is.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as AmqpError from "../src/AmqpError.ts"
import * as modules from "../src/index.ts"
import { replyCodes } from "../src/internal/values/replyCodes.ts"
import * as NodeAmqp from "../src/NodeAmqp.ts"

const root = Path.resolve(import.meta.dirname, "..")
const read = (file: string): string => Fs.readFileSync(Path.join(root, file), "utf8")
const readme = read("README.md")

interface Row {
  readonly tag: string
  readonly code: string
  readonly when: string
  readonly advice: string
}

/** The rows of the table that begins with this column, then codes. */
const table = (column: string): ReadonlyArray<Row> => {
  const [, rows = ""] = new RegExp(`^\\| ${column} \\| code \\|.*\n.*\n((?:\\|.*\n)*)`, "m").exec(readme) ?? []
  return rows.trimEnd().split("\n").map((row) => {
    const [, tag = "", code = "", when = "", advice = ""] = row.split("|").map((cell) => cell.trim())
    return { tag: tag.replaceAll("`", ""), code, when, advice }
  })
}

const tagsOf = (rows: ReadonlyArray<Row>): ReadonlyArray<string> => rows.map(({ tag }) => tag)

const errors = table("tag")
const reasons = table("reason")
const isErrorClass = (value: unknown): boolean => typeof value === "function" && value.prototype instanceof Error
/** The error classes of all modules. */
const exported = Object.values({ ...modules, NodeAmqp }).flatMap((module) =>
  Object.entries(module).flatMap(([name, value]) => isErrorClass(value) ? name : [])
)
const reply = { replyText: "", classId: 0, methodId: 0 }

describe("the error tables of the README", () => {
  it("list exactly the errors and reasons that are exported", () => {
    assert.sameMembers([...tagsOf(errors)], exported.filter((name) => name.startsWith("Amqp")))
    assert.sameMembers([...tagsOf(reasons)], exported.filter((name) => !name.startsWith("Amqp")))
  })

  it("give each the reply code that it comes from", () => {
    const codes = [...errors, ...reasons].flatMap(({ code }) => code === "" ? [] : code)
    assert.sameMembers(codes, [...Object.keys(replyCodes), "312"])
    for (const { code, tag } of errors) {
      if (code === "" || tag === "AmqpMessageReturned") continue
      const error = AmqpError.fromChannelClose({ ...reply, replyCode: Number(code), operation: "", entity: "" })
      assert.strictEqual(error._tag, tag)
    }
    for (const { code, tag } of reasons) {
      if (code === "") continue
      const error = AmqpError.fromConnectionClose({ ...reply, replyCode: Number(code) })
      assert.strictEqual(error.reason._tag, tag)
    }
  })

  it("say when it happens and what to do", () => {
    for (const { advice, tag, when } of [...errors, ...reasons]) {
      assert.match(when, /^[A-Z].*\.$/, tag)
      assert.match(advice, /^[A-Z].*\.$/, tag)
    }
  })
})

describe("README and docs", () => {
  it("show the examples as they are run", () => {
    const shown = Array.from(readme.matchAll(/^```ts\n([\s\S]*?)^```$/gm), ([, code]) => code)
    const examples = ["readme.ts", "selfhealing.ts", "billing.ts", "billing.test.ts"].map((file) =>
      read(`examples/${file}`).replaceAll(/"\.\.\/src\/(\w+)(\/index)?\.ts"/g, `"effect-amqp/$1"`)
    )
    assert.deepStrictEqual(shown, examples)
  })

  it("name files that exist", () => {
    const docs = Fs.readdirSync(Path.join(root, "docs")).map((name) => `docs/${name}`)
    for (const file of ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", ...docs]) {
      for (const [, link = ""] of read(file).matchAll(/\]\((?!https:)([^)]+)\)/g)) {
        assert.isTrue(Fs.existsSync(Path.resolve(root, Path.dirname(file), link)), `${file}: ${link}`)
      }
    }
  })

  it("name every room", () => {
    const named = read("docs/architecture.md").matchAll(/^\| `([\w/]+)` \|/gm)
    const rooms = ["internal", "testing/internal"].flatMap((folder) =>
      Fs.readdirSync(Path.join(root, "src", folder)).map((room) => `${folder}/${room}`)
    )
    assert.sameMembers(Array.from(named, ([, room]) => room), rooms)
  })
})

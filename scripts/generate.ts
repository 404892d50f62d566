/**
 * Generates `src/internal/codec/spec.ts` and `src/internal/values/replyCodes.ts` from the AMQP 0-9-1 specification with RabbitMQ's
 * extensions (Debian's package `amqp-specs`) and `amqp-additions.xml`, the methods that the former lacks.
 *
 *     node scripts/generate.ts [--check] [SPECIFICATION.xml]
 *
 * `--check` writes nothing and fails if the committed files differ from what would be written.
 */
import { XMLParser } from "fast-xml-parser"
import { execFileSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

const check = process.argv.includes("--check")
const specification = process.argv.slice(2).find((argument) => !argument.startsWith("--")) ??
  "/usr/share/amqp/specs/0-9-1-rabbit/amqp0-9-1.stripped.extended.xml"

// -----------------------------------------------------------------------------
// the specification as data
// -----------------------------------------------------------------------------

interface XmlField {
  readonly name: string
  readonly domain?: string
  readonly type?: string
  readonly reserved?: string
}
interface XmlMethod {
  readonly name: string
  readonly index: string
  readonly synchronous?: string
  readonly content?: string
  readonly chassis?: ReadonlyArray<{ readonly name: string }>
  readonly response?: ReadonlyArray<{ readonly name: string }>
  readonly field?: ReadonlyArray<XmlField>
}
interface XmlClass {
  readonly name: string
  readonly index: string
  readonly method?: ReadonlyArray<XmlMethod>
  readonly field?: ReadonlyArray<XmlField>
}
interface Xml {
  readonly amqp: {
    readonly constant?: ReadonlyArray<{ readonly name: string; readonly value: string; readonly class?: string }>
    readonly domain?: ReadonlyArray<{ readonly name: string; readonly type: string }>
    readonly class?: ReadonlyArray<XmlClass>
  }
}

const lists = new Set(["constant", "domain", "class", "method", "field", "chassis", "response", "assert"])
const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: "",
  isArray: (name, _path, _leaf, isAttribute) => !isAttribute && lists.has(name)
})
const read = (path: string): Xml["amqp"] => (parser.parse(readFileSync(path, "utf8")) as Xml).amqp

const base = read(specification)
const additions = read(here("amqp-additions.xml"))

const domains = new Map((base.domain ?? []).map((domain) => [domain.name, domain.type]))
const byIndex = (a: { readonly index: string }, b: { readonly index: string }): number =>
  Number(a.index) - Number(b.index)

/** The methods of a class, each completed by the addition of its name. */
const methodsOf = (amqpClass: XmlClass): Array<XmlMethod> => {
  const merged = new Map((amqpClass.method ?? []).map((method) => [method.name, method]))
  const added = additions.class?.find((addition) => addition.name === amqpClass.name)?.method ?? []
  for (const method of added) merged.set(method.name, { ...merged.get(method.name), ...method })
  return [...merged.values()].toSorted(byIndex)
}
const classes = (base.class ?? []).toSorted(byIndex).map((amqpClass): XmlClass => ({
  ...amqpClass,
  method: methodsOf(amqpClass)
}))

// -----------------------------------------------------------------------------
// names and types
// -----------------------------------------------------------------------------

const camel = (name: string): string => name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase())
const pascal = (name: string): string => camel(`-${name}`)
// The extended specification spells this one field of confirm.select without its hyphen.
const fieldName = (field: XmlField): string => field.name === "nowait" ? "noWait" : camel(field.name)
const wireType = (field: XmlField): string => {
  const type = field.type ?? domains.get(field.domain ?? "")
  if (type === undefined) throw new Error(`${field.name} has no type`)
  return type
}
const isReserved = (field: XmlField): boolean => field.reserved === "1"

const readTypes: Record<string, string> = {
  bit: "boolean",
  octet: "number",
  short: "number",
  long: "number",
  longlong: "number",
  shortstr: "string",
  longstr: "Uint8Array",
  table: "PlainTable",
  timestamp: "number | bigint"
}

/** How a field is written; `path` names it in an `AmqpEncodeError`. */
const writeField = (type: string, value: string, path: string): string => {
  const named = (statement: string) => `w.path = "${path}"\n${statement}`
  switch (type) {
    case "octet":
      return named(`w.u8(w.integer(${value}, 0xff))`)
    case "short":
      return named(`w.u16(w.integer(${value}, 0xffff))`)
    case "long":
      return named(`w.u32(w.integer(${value}, 0xffff_ffff))`)
    case "longlong":
      return named(`w.u64(w.integer(${value}, Number.MAX_SAFE_INTEGER))`)
    case "timestamp":
      return named(`w.timestamp(${value})`)
    case "shortstr":
      return named(`w.shortString(${value})`)
    case "longstr":
      return named(`w.longString(${value})`)
    case "table":
      return `writeTable(w, ${value}, "${path}")`
    default:
      throw new Error(`no writer for ${type}`)
  }
}
const reserved: Record<string, string> = {
  octet: "w.u8(0)",
  short: "w.u16(0)",
  long: "w.u32(0)",
  shortstr: "w.u8(0)",
  longstr: "w.u32(0)"
}
const readField = (type: string, path: string): string => {
  switch (type) {
    case "octet":
      return "r.u8()"
    case "short":
      return "r.u16()"
    case "long":
      return "r.u32()"
    case "longlong":
      return "r.u64()"
    case "timestamp":
      return "r.timestamp()"
    case "shortstr":
      return "r.shortString()"
    case "longstr":
      return "r.longString()"
    case "table":
      return `readTable(r, "${path}")`
    default:
      throw new Error(`no reader for ${type}`)
  }
}

/** Consecutive bits share octets, the first one lowest (specification 4.2.5.2). */
type Item = { readonly field: XmlField } | { readonly bits: ReadonlyArray<XmlField> }
const pack = (fields: ReadonlyArray<XmlField>): ReadonlyArray<Item> => {
  const items: Array<Item> = []
  let bits: Array<XmlField> = []
  const flush = () => {
    if (bits.length > 0) items.push({ bits })
    bits = []
  }
  for (const field of fields) {
    if (wireType(field) === "bit") bits.push(field)
    else {
      flush()
      items.push({ field })
    }
  }
  flush()
  return items
}

/** The comment of an export, all of which the public `AmqpProtocol` hands on. */
const doc = (sentence: string, category: string): string =>
  `/**\n * ${sentence}\n *\n * @category ${category}\n * @since 0.1.0\n */\n`

// -----------------------------------------------------------------------------
// src/internal/codec/spec.ts
// -----------------------------------------------------------------------------

const interfaces: Array<string> = []
const writers: Array<string> = []
const readers: Array<string> = []
const infos: Array<string> = []
const writeCases: Array<string> = []
const readCases: Array<string> = []
const union: Array<string> = []

for (const amqpClass of classes) {
  for (const method of amqpClass.method ?? []) {
    const tag = `${amqpClass.name}.${method.name}`
    const type = pascal(amqpClass.name) + pascal(method.name)
    const fields = method.field ?? []
    const visible = fields.filter((field) => !isReserved(field))
    const peers = (method.chassis ?? []).map((chassis) => chassis.name)
    const sentBy = [peers.includes("server") ? "client" : "", peers.includes("client") ? "server" : ""].filter(Boolean)
    const replies = (method.response ?? []).map((response) => `"${amqpClass.name}.${response.name}"`)
    const id = Number(amqpClass.index) * 0x1_0000 + Number(method.index)

    const visibleTypes = (types: Record<string, string>) =>
      visible.map((field) => `  readonly ${fieldName(field)}: ${types[wireType(field)]}\n`).join("")
    const hasTable = visible.some((field) => wireType(field) === "table")
    interfaces.push(
      doc(`${tag} (${amqpClass.index}, ${method.index}), sent by the ${sentBy.join(" and the ")}.`, "methods") +
        (hasTable
          ? `export interface ${type}<Table = PlainTable> {\n  readonly _tag: "${tag}"\n${
            visibleTypes({ ...readTypes, table: "Table" })
          }}`
          : `export interface ${type} {\n  readonly _tag: "${tag}"\n${visibleTypes(readTypes)}}`)
    )
    union.push(hasTable ? `${type}<Table>` : type)
    infos.push(
      `  "${tag}": { id: 0x${id.toString(16).padStart(8, "0")}, client: ${sentBy.includes("client")}, server: ${
        sentBy.includes("server")
      }, content: ${method.content === "1"}, replies: [${replies.join(", ")}] }`
    )

    const body: Array<string> = []
    for (const item of pack(fields)) {
      if ("field" in item) {
        const { field } = item
        body.push(
          isReserved(field)
            ? reserved[wireType(field)] ?? ""
            : writeField(wireType(field), `m.${fieldName(field)}`, fieldName(field))
        )
      } else {
        const bits = item.bits.flatMap((field, index) =>
          isReserved(field) ? [] : [`(m.${fieldName(field)} ? ${1 << index} : 0)`]
        )
        body.push(`w.u8(${bits.length === 0 ? "0" : bits.join(" | ")})`)
      }
    }
    if (body.length > 0) {
      writers.push(
        `const write${type} = (w: Writer, ${visible.length === 0 ? "_m" : "m"}: ${
          hasTable ? `${type}<InputTable>` : type
        }): void => {\n${body.join("\n")}\n}`
      )
    }
    writeCases.push(
      `    case "${tag}":\n      w.u32(0x${id.toString(16).padStart(8, "0")})\n` +
        (body.length > 0 ? `      return write${type}(w, method)` : "      return")
    )

    const statements: Array<string> = []
    const values: Array<string> = [`_tag: "${tag}"`]
    pack(fields).forEach((item, index) => {
      if ("field" in item) {
        const { field } = item
        const expression = readField(wireType(field), fieldName(field))
        if (isReserved(field)) statements.push(expression)
        else {
          statements.push(`const ${localName(field)} = ${expression}`)
          values.push(
            localName(field) === fieldName(field) ? fieldName(field) : `${fieldName(field)}: ${localName(field)}`
          )
        }
      } else {
        statements.push(item.bits.every(isReserved) ? "r.u8()" : `const bits${index} = r.u8()`)
        item.bits.forEach((field, bit) => {
          if (!isReserved(field)) values.push(`${fieldName(field)}: (bits${index} & ${1 << bit}) !== 0`)
        })
      }
    })
    if (statements.length === 0) {
      readCases.push(`    case 0x${id.toString(16).padStart(8, "0")}:\n      return { _tag: "${tag}" }`)
    } else {
      readers.push(
        `const read${type} = (r: Reader): ${type} => {\n${statements.join("\n")}\nreturn { ${values.join(", ")} }\n}`
      )
      readCases.push(`    case 0x${id.toString(16).padStart(8, "0")}:\n      return read${type}(r)`)
    }
  }
}

// `arguments` is no name for a variable in strict code.
function localName(field: XmlField): string {
  const name = fieldName(field)
  return name === "arguments" ? "args" : name
}

const basic = classes.find((amqpClass) => amqpClass.name === "basic")
// RabbitMQ and its clients call the reserved property by the name it had in 0-8.
const properties = (basic?.field ?? []).map((field) =>
  field.name === "reserved" ? { ...field, name: "cluster-id" } : field
)
const propertyBit = (index: number): string => `0x${(1 << (15 - index)).toString(16).padStart(4, "0")}`
const propertyTypes = properties.map((field) =>
  `  readonly ${fieldName(field)}?: ${wireType(field) === "table" ? "Table" : readTypes[wireType(field)]} | undefined\n`
).join("")
const writeProperties = [
  `let flags = 0`,
  ...properties.map((field, index) => `if (p.${fieldName(field)} !== undefined) flags |= ${propertyBit(index)}`),
  `w.u16(flags)`,
  ...properties.map((field) =>
    `if (p.${fieldName(field)} !== undefined) {\n${
      writeField(wireType(field), `p.${fieldName(field)}`, fieldName(field))
    }\n}`
  )
]
const readProperties = [
  `const p: { -readonly [K in keyof BasicProperties]: BasicProperties[K] } = {}`,
  ...properties.map((field, index) => {
    const expression = wireType(field) === "shortstr"
      ? "r.shortStringStrict()"
      : readField(wireType(field), fieldName(field))
    return `if (flags & ${propertyBit(index)}) {\nr.path = "${fieldName(field)}"\np.${
      fieldName(field)
    } = ${expression}\n}`
  }),
  `return p`
]

const notice =
  `// Generated by scripts/generate.ts from the AMQP 0-9-1 specification with RabbitMQ's extensions. Do not edit.`

const spec = `${notice}

/**
 * Every method of AMQP 0-9-1 and of RabbitMQ's extensions, with readers and writers of their fields, in both
 * directions. Reserved fields are written as zero or empty and skipped on reading. No frames: \`AmqpProtocol\` has them.
 *
 * @since 0.1.0
 */
import type { InputTable, PlainTable } from "../values/tableValue.ts"
import { readTable } from "./tableReader.ts"
import { writeTable } from "./tableWriter.ts"
import type { Reader, Writer } from "./wire.ts"

// -----------------------------------------------------------------------------
// constants
// -----------------------------------------------------------------------------

${
  (base.constant ?? []).filter((constant) => constant.name.startsWith("frame-") && constant.class === undefined).map((
    constant
  ) =>
    doc(`The specification's constant \`${constant.name}\` (1.1).`, "constants") +
    `export const ${camel(constant.name)} = ${constant.value}`
  ).join("\n\n")
}

${
  doc("Ids (class in the high, method in the low 16 bits), senders, content and replies of each method.", "constants")
}export const methods = {
${infos.join(",\n")}
} as const

${doc("The methods by their specification names.", "models")}export type MethodName = keyof typeof methods

// -----------------------------------------------------------------------------
// methods
// -----------------------------------------------------------------------------

${interfaces.join("\n\n")}

${
  doc(
    "A method; `Table` is the type of its tables: plain values when read, anything that can be encoded when written.",
    "models"
  )
}export type Method<Table = PlainTable> =
${union.map((type) => `  | ${type}`).join("\n")}

${writers.join("\n\n")}

/** Writes a method's ids and fields, as in the payload of a method frame (specification 2.3.5.1). */
export const writeMethod = (w: Writer, method: Method<InputTable>): void => {
  switch (method._tag) {
${writeCases.join("\n")}
    default: {
      const stranger: { readonly _tag?: unknown } = method
      throw new TypeError(\`\${String(stranger._tag)} is not the name of a method\`)
    }
  }
}

${readers.join("\n\n")}

/** Reads the fields of the method with this id; \`undefined\` where the specification has none. */
export const readMethod = (id: number, r: Reader): Method | undefined => {
  switch (id) {
${readCases.join("\n")}
    default:
      return undefined
  }
}

// -----------------------------------------------------------------------------
// properties of class basic
// -----------------------------------------------------------------------------

${
  doc(`The properties of a content of class basic (specification 1.8, "fields").`, "models")
}export interface BasicProperties<Table = PlainTable> {
${propertyTypes}}

/** Writes the flags and the properties that are present. */
export const writeBasicProperties = (w: Writer, p: BasicProperties<InputTable>): void => {
${writeProperties.join("\n")}
}

/** Reads the properties that \`flags\` announces. */
export const readBasicProperties = (r: Reader, flags: number): BasicProperties => {
${readProperties.join("\n")}
}
`

// -----------------------------------------------------------------------------
// src/internal/values/replyCodes.ts
// -----------------------------------------------------------------------------

const codes = (base.constant ?? []).flatMap((constant) => {
  const severity = constant.class?.replace("-error", "")
  return severity === undefined ? [] : [{ ...constant, severity }]
})
const namesOf = (severity: string): string =>
  codes.filter((code) => code.severity === severity).map((code) => `"${code.name}"`).join(" | ")

const replyCodes = `${notice}

${
  doc(
    "One of the specification's reply codes: its name, and whether it closes a channel (soft) or the connection (hard).",
    "models"
  )
}export type ReplyCode =
  | { readonly severity: "soft"; readonly name: ${namesOf("soft")} }
  | { readonly severity: "hard"; readonly name: ${namesOf("hard")} }

${
  doc("The specification's reply codes (1.2). 200 and 312 are no errors and not among them.", "constants")
}export const replyCodes: { readonly [code: number]: ReplyCode | undefined } = {
${codes.map((code) => `  ${code.value}: { severity: "${code.severity}", name: "${code.name}" }`).join(",\n")}
}
`

// -----------------------------------------------------------------------------
// write, or compare
// -----------------------------------------------------------------------------

const format = (source: string): string =>
  execFileSync("dprint", ["fmt", "--stdin", here("generate.ts")], {
    input: source,
    cwd: here(".."),
    encoding: "utf8",
    // What it says besides, such as that it compiles its plugin, is shown only if it fails.
    stdio: "pipe"
  })

for (
  const [path, source] of [["../src/internal/codec/spec.ts", spec], [
    "../src/internal/values/replyCodes.ts",
    replyCodes
  ]] as const
) {
  const text = format(source)
  if (!check) writeFileSync(here(path), text)
  else if (readFileSync(here(path), "utf8") !== text) {
    console.error(`${path.slice(3)} differs from the specification: run npm run generate`)
    process.exitCode = 1
  }
}

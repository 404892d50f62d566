/**
 * Writes field tables, from plain or tagged values. What has no exact form throws.
 *
 * @since 0.1.0
 */
import { AmqpEncodeError } from "../errors/value.ts"
import { type InputTable, isValue, type Table, type Value } from "../values/tableValue.ts"
import { addStep, Fault, maxDepth, toError } from "./tableFault.ts"
import type { Writer } from "./wire.ts"

/**
 * Writes a table with its length. What cannot be written throws `AmqpEncodeError`; the caller rolls its unit back.
 */
export const writeTable = (writer: Writer, table: InputTable, path: string): void => {
  try {
    const length = writer.lengthStart()
    writeRoot(writer, table)
    writer.lengthEnd(length)
  } catch (error) {
    throw toError(error, path, AmqpEncodeError)
  }
}

interface PlainRecord {
  readonly [key: string]: unknown
}

/** An object from a literal or from JSON, of any realm: its prototype, if it has one, is a root. */
const isRecord = (u: object): u is PlainRecord => {
  if (isValue(u)) return false
  const prototype: unknown = Object.getPrototypeOf(u)
  return prototype === null || prototype === Object.prototype || Object.getPrototypeOf(prototype) === null
}

const isTable = (u: object): u is Table => isValue(u) && u._tag === "Table"

/** `containers` are the tables and arrays that the value is in. */
const enter = (containers: Array<object>, container: object): void => {
  if (containers.includes(container)) throw new Fault("the value contains itself")
  if (containers.length === maxDepth) throw new Fault(`more than ${maxDepth} levels`)
  containers.push(container)
}

export const writeRoot = (writer: Writer, table: unknown): void => {
  if (typeof table !== "object" || table === null || !(isTable(table) || isRecord(table))) {
    throw new Fault("a table must be a plain object")
  }
  writeFields(writer, table, [])
}

const writeFields = (writer: Writer, table: PlainRecord | Table, containers: Array<object>): void => {
  enter(containers, table)
  let key: string | undefined
  try {
    if (isTable(table)) {
      for (const entry of table.value) {
        key = entry[0]
        if (typeof key !== "string") throw new Fault("a key must be a string")
        writer.shortString(key)
        writeValue(writer, entry[1], containers)
      }
    } else {
      for (key of Object.keys(table)) {
        const value = table[key]
        if (value === undefined) continue
        writer.shortString(key)
        writeValue(writer, value, containers)
      }
    }
  } catch (error) {
    throw addStep(error, key)
  }
  containers.pop()
}

const writeItems = (writer: Writer, items: ReadonlyArray<unknown>, containers: Array<object>): void => {
  enter(containers, items)
  let i = 0
  try {
    for (; i < items.length; i++) writeValue(writer, items[i], containers)
  } catch (error) {
    throw addStep(error, i)
  }
  containers.pop()
}

const writeValue = (writer: Writer, value: unknown, containers: Array<object>): void => {
  switch (typeof value) {
    case "string":
      return writeText(writer, value)
    case "number":
      return writeNumber(writer, value)
    case "boolean":
      writer.u8(0x74) // t
      return writer.u8(value ? 1 : 0)
    case "bigint":
      return writeInt64(writer, 0x6c, value)
    case "object":
      return writeObject(writer, value, containers)
    default:
      throw new Fault(`${typeof value === "undefined" ? "undefined" : `a ${typeof value}`} has no form in a table`)
  }
}

const writeNumber = (writer: Writer, value: number): void => {
  if ((value | 0) === value && !Object.is(value, -0)) {
    writer.u8(0x49) // I
    writer.u32(value)
  } else if (value !== 0 && Number.isSafeInteger(value)) {
    writer.u8(0x6c) // l
    if (value > 0) writer.u64(value)
    else writer.big64(BigInt(value))
  } else {
    writer.u8(0x64) // d
    writer.f64(finite(value))
  }
}

const writeObject = (writer: Writer, value: object | null, containers: Array<object>): void => {
  if (value === null) {
    writer.u8(0x56) // V
  } else if (isValue(value)) {
    writeTagged(writer, value, containers)
  } else if (Array.isArray(value)) {
    writer.u8(0x41) // A
    const length = writer.lengthStart()
    writeItems(writer, value, containers)
    writer.lengthEnd(length)
  } else if (value instanceof Uint8Array) {
    writeBytes(writer, 0x78, value)
  } else if (value instanceof Date) {
    writeDate(writer, value)
  } else if (isRecord(value)) {
    writer.u8(0x46) // F
    const length = writer.lengthStart()
    writeFields(writer, value, containers)
    writer.lengthEnd(length)
  } else {
    throw new Fault("an instance of a class has no form in a table: give its fields as a plain object")
  }
}

const writeText = (writer: Writer, value: string): void => {
  writer.u8(0x53) // S
  writer.longString(value)
}

const writeBytes = (writer: Writer, tag: number, value: unknown): void => {
  if (!(value instanceof Uint8Array)) throw new Fault("bytes must be a Uint8Array")
  writer.u8(tag)
  writer.longString(value)
}

const writeDate = (writer: Writer, date: Date): void => {
  const seconds = date.getTime() / 1000
  if (Number.isNaN(seconds)) throw new Fault("an invalid date")
  if (!Number.isInteger(seconds)) {
    throw new Fault(
      "a timestamp holds whole seconds: drop the rest by date.setMilliseconds(0), or send date.toISOString()"
    )
  }
  if (seconds < 0) throw new Fault("a timestamp cannot be before 1970")
  writer.u8(0x54) // T
  writer.u64(seconds)
}

const writeInt64 = (writer: Writer, tag: number, value: bigint): void => {
  writer.u8(tag)
  writer.big64(bigInteger(value, -0x8000_0000_0000_0000n, 0x7fff_ffff_ffff_ffffn))
}

const integer = (value: number, min: number, max: number): number => {
  if (!Number.isInteger(value) || value < min || value > max) throw new Fault(`not an integer from ${min} to ${max}`)
  return value
}

const bigInteger = (value: bigint, min: bigint, max: bigint): bigint => {
  if (typeof value !== "bigint" || value < min || value > max) throw new Fault(`not a bigint from ${min} to ${max}`)
  return value
}

const finite = (value: number): number => {
  if (!Number.isFinite(value)) throw new Fault("not a finite number: brokers reject NaN and the infinities")
  return value
}

const writeTagged = (writer: Writer, value: Value, containers: Array<object>): void => {
  switch (value._tag) {
    case "Bool":
      writer.u8(0x74) // t
      return writer.u8(integer(value.octet, 0, 0xff))
    case "Int8":
      writer.u8(0x62) // b
      return writer.u8(integer(value.value, -0x80, 0x7f))
    case "UInt8":
      writer.u8(0x42) // B
      return writer.u8(integer(value.value, 0, 0xff))
    case "Int16":
      writer.u8(0x73) // s
      return writer.u16(integer(value.value, -0x8000, 0x7fff))
    case "UInt16":
      writer.u8(0x75) // u
      return writer.u16(integer(value.value, 0, 0xffff))
    case "Int32":
      writer.u8(0x49) // I
      return writer.u32(integer(value.value, -0x8000_0000, 0x7fff_ffff))
    case "UInt32":
      writer.u8(0x69) // i
      return writer.u32(integer(value.value, 0, 0xffff_ffff))
    case "Int64":
      return writeInt64(writer, value.wire === "L" ? 0x4c : 0x6c, value.value)
    case "Float":
      writer.u8(0x66) // f
      return writer.f32(finite(value.value))
    case "Double":
      writer.u8(0x64) // d
      return writer.f64(finite(value.value))
    case "Decimal":
      writer.u8(0x44) // D
      writer.u8(integer(value.scale, 0, 0xff))
      return writer.u32(integer(value.value, -0x8000_0000, 0x7fff_ffff))
    case "LongString":
      return typeof value.value === "string" ? writeText(writer, value.value) : writeBytes(writer, 0x53, value.value)
    case "Bytes":
      return writeBytes(writer, 0x78, value.value)
    case "Timestamp":
      writer.u8(0x54) // T
      return writer.big64(bigInteger(value.value, 0n, 0xffff_ffff_ffff_ffffn))
    case "Array":
      return writeObject(writer, value.value, containers)
    case "Table": {
      writer.u8(0x46) // F
      const length = writer.lengthStart()
      writeFields(writer, value, containers)
      return writer.lengthEnd(length)
    }
    case "Void":
      return writer.u8(0x56) // V
  }
}

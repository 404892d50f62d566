/**
 * Field tables (headers, arguments, the properties of peers) with RabbitMQ's set of type tags, which is not the
 * specification's: 4.2.1 has an `s` that means something else, `U` and others that brokers do not know.
 *
 * A table is written from plain JavaScript values, each of which has one default type, or from tagged `Value`s, which
 * name their type. It is read to plain values, or to tagged ones that give the same bytes back. Nothing is rounded,
 * truncated or dropped on the way: what has no exact form is an `AmqpEncodeError` with the path of the value. That
 * includes NaN and the infinities, which crash RabbitMQ's parser. No error repeats a value, only its path.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { AmqpDecodeError, AmqpEncodeError } from "./AmqpError.ts"
import {
  array,
  bool,
  bytes,
  decimal,
  double,
  float,
  type InputTable,
  int16,
  int32,
  int64,
  int8,
  isValue,
  longString,
  type Plain,
  type PlainTable,
  setField,
  type Table,
  table,
  timestamp,
  toPlain,
  uint16,
  uint32,
  uint8,
  type Value,
  void_
} from "./internal/tableValue.ts"
import { Reader, Writer } from "./internal/wire.ts"

export type {
  Bool,
  Decimal,
  Input,
  InputTable,
  Int64,
  Plain,
  PlainTable,
  Table,
  Tagged,
  Timestamp,
  Value
} from "./internal/tableValue.ts"
export {
  array,
  bool,
  bytes,
  decimal,
  double,
  float,
  int16,
  int32,
  int64,
  int8,
  isValue,
  longString,
  table,
  timestamp,
  toPlain,
  uint16,
  uint32,
  uint8,
  void_ as void
} from "./internal/tableValue.ts"

// -----------------------------------------------------------------------------
// public codec
// -----------------------------------------------------------------------------

/** A pool of 64 KiB for each table would cost 20 us; the table itself takes 0.6. */
const sharedWriter = new Writer()

/**
 * The bytes of a table's entries, without the length that precedes them inside of a method or a header.
 *
 * **Details**
 *
 * Fails with the path of the first value that has no exact form; see `Input`.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (table: InputTable): Result.Result<Uint8Array, AmqpEncodeError> => {
  // In the middle of a unit we were called by a getter of the table that is being encoded.
  const writer = sharedWriter.unitSize === 0 ? sharedWriter : new Writer()
  try {
    writeRoot(writer, table)
  } catch (error) {
    writer.rollback()
    return failure(error, AmqpEncodeError)
  }
  writer.commit()
  return Result.succeed(writer.take()[0] ?? new Uint8Array(0))
}

/**
 * A table as a plain object, from the bytes of its entries; see `Plain`.
 *
 * **Details**
 *
 * The bytes must be entries to their end. A key that is not UTF-8, an unknown type tag, a length that does not fit and
 * more than 1024 levels are `AmqpDecodeError`s.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<PlainTable, AmqpDecodeError> => {
  try {
    return Result.succeed(readFields(new Reader(bytes), 1))
  } catch (error) {
    return failure(error, AmqpDecodeError)
  }
}

/**
 * A table as tagged values, from the bytes of its entries.
 *
 * **Details**
 *
 * `encode` gives the same bytes back, unless a float among them is not finite: that is read, but never written.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeTagged = (bytes: Uint8Array): Result.Result<Table, AmqpDecodeError> => {
  try {
    return Result.succeed(readFieldsTagged(new Reader(bytes), 1))
  } catch (error) {
    return failure(error, AmqpDecodeError)
  }
}

// -----------------------------------------------------------------------------
// writing
// -----------------------------------------------------------------------------

/**
 * Writes a table with its length. What cannot be written throws `AmqpEncodeError`; the caller rolls its unit back.
 *
 * @internal
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

const writeRoot = (writer: Writer, table: unknown): void => {
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

// -----------------------------------------------------------------------------
// reading
// -----------------------------------------------------------------------------

/**
 * Reads a table with its length to a plain object. Bytes that are no table throw `AmqpDecodeError`.
 *
 * @internal
 */
export const readTable = (reader: Reader, path: string): PlainTable => readPrefixed(reader, path, readFields)

/**
 * Reads a table with its length to tagged values. Bytes that are no table throw `AmqpDecodeError`.
 *
 * @internal
 */
export const readTableTagged = (reader: Reader, path: string): Table => readPrefixed(reader, path, readFieldsTagged)

const readPrefixed = <A>(reader: Reader, path: string, read: (reader: Reader, depth: number) => A): A => {
  const end = reader.end
  try {
    narrow(reader, 0)
    return read(reader, 1)
  } catch (error) {
    throw toError(error, path, AmqpDecodeError)
  } finally {
    reader.end = end
  }
}

/**
 * Confines the reader to the table or array whose length comes next and returns the end to go back to. Nothing can then
 * be read beyond it, and whoever reads up to it has read it exactly.
 */
const narrow = (reader: Reader, depth: number): number => {
  if (depth === maxDepth) throw new Fault(`more than ${maxDepth} levels`)
  const length = reader.u32()
  if (length > reader.remaining) throw new Fault(`a length of ${length} bytes where ${reader.remaining} are left`)
  const end = reader.end
  reader.end = reader.offset + length
  return end
}

const readFields = (reader: Reader, depth: number): PlainTable => {
  const table: Record<string, Plain> = {}
  let key: string | undefined
  try {
    while (reader.offset < reader.end) {
      key = undefined
      key = reader.shortStringStrict()
      setField(table, key, readValue(reader, depth))
    }
  } catch (error) {
    throw addStep(error, key)
  }
  return table
}

const readItems = (reader: Reader, depth: number): Array<Plain> => {
  const items: Array<Plain> = []
  try {
    while (reader.offset < reader.end) items.push(readValue(reader, depth))
  } catch (error) {
    throw addStep(error, items.length)
  }
  return items
}

/** The common types without the detour over a tagged value. */
const readValue = (reader: Reader, depth: number): Plain => {
  const tag = reader.u8()
  switch (tag) {
    case 0x53: // S
      return readText(reader)
    case 0x49: // I
      return reader.i32()
    case 0x74: // t
      return reader.u8() !== 0
    case 0x6c: // l
    case 0x4c: // L
      return readInt64(reader)
    case 0x64: // d
      return reader.f64()
    case 0x46: { // F
      const end = narrow(reader, depth)
      const table = readFields(reader, depth + 1)
      reader.end = end
      return table
    }
    case 0x41: { // A
      const end = narrow(reader, depth)
      const items = readItems(reader, depth + 1)
      reader.end = end
      return items
    }
    default:
      return toPlain(readTagged(reader, tag, depth))
  }
}

const readFieldsTagged = (reader: Reader, depth: number): Table => {
  const entries: Array<readonly [string, Value]> = []
  let key: string | undefined
  try {
    while (reader.offset < reader.end) {
      key = undefined
      key = reader.shortStringStrict()
      entries.push([key, readTagged(reader, reader.u8(), depth)])
    }
  } catch (error) {
    throw addStep(error, key)
  }
  return table(entries)
}

const readItemsTagged = (reader: Reader, depth: number): Value => {
  const items: Array<Value> = []
  try {
    while (reader.offset < reader.end) items.push(readTagged(reader, reader.u8(), depth))
  } catch (error) {
    throw addStep(error, items.length)
  }
  return array(items)
}

const readTagged = (reader: Reader, tag: number, depth: number): Value => {
  switch (tag) {
    case 0x53: // S
      return longString(readText(reader))
    case 0x49: // I
      return int32(reader.i32())
    case 0x74: { // t
      const octet = reader.u8()
      return { ...bool(octet !== 0), octet }
    }
    case 0x6c: // l
      return int64(reader.bigI64())
    case 0x4c: // L
      return int64(reader.bigI64(), "L")
    case 0x64: // d
      return double(reader.f64())
    case 0x46: // F
    case 0x41: { // A
      const end = narrow(reader, depth)
      const value = tag === 0x46 ? readFieldsTagged(reader, depth + 1) : readItemsTagged(reader, depth + 1)
      reader.end = end
      return value
    }
    case 0x54: // T
      return timestamp(reader.bigU64())
    case 0x78: // x
      return bytes(reader.longString().slice())
    case 0x56: // V
      return void_
    case 0x62: // b
      return int8(reader.i8())
    case 0x42: // B
      return uint8(reader.u8())
    case 0x73: // s
      return int16(reader.i16())
    case 0x75: // u
      return uint16(reader.u16())
    case 0x69: // i
      return uint32(reader.u32())
    case 0x66: // f
      return float(reader.f32())
    case 0x44: // D
      return decimal({ scale: reader.u8(), value: reader.i32() })
    default:
      throw new Fault(`unknown type tag 0x${tag.toString(16).padStart(2, "0")}${printable(tag)}`)
  }
}

const readText = (reader: Reader): string | Uint8Array => {
  const start = reader.offset
  const text = reader.longText()
  if (text !== undefined) return text
  reader.offset = start
  return reader.longString().slice()
}

/** Without a `bigint` for the numbers that do not need one. */
const readInt64 = (reader: Reader): number | bigint => {
  const high = reader.i32()
  const low = reader.u32()
  const value = high * 0x1_0000_0000 + low
  return Number.isSafeInteger(value) ? value : (BigInt(high) << 32n) | BigInt(low)
}

const printable = (tag: number): string => tag > 0x20 && tag < 0x7f ? ` (${String.fromCharCode(tag)})` : ""

// -----------------------------------------------------------------------------
// faults and their paths
// -----------------------------------------------------------------------------

/** Nested tables and arrays, the outermost counted. Brokers relay 500; the peer must not be able to end our stack. */
const maxDepth = 1024

/** Paths can be 1024 keys of 255 bytes; beyond this the middle is left out. */
const maxPathLength = 256

/**
 * What is wrong, on its way out. Each level adds its step, so that a path costs nothing unless it is needed, and the
 * outermost one makes the error.
 */
class Fault {
  readonly reason: string
  /** From the value outwards. */
  readonly steps: Array<string | number> = []

  constructor(reason: string) {
    this.reason = reason
  }
}

const asFault = (error: unknown): Fault | undefined => {
  if (error instanceof Fault) return error
  if (error instanceof AmqpEncodeError || error instanceof AmqpDecodeError) return new Fault(error.reason)
  return undefined
}

/** Anything else than a fault, such as what a getter of the caller's object throws, passes as it is. */
const addStep = (error: unknown, step: string | number | undefined): unknown => {
  const fault = asFault(error)
  if (fault === undefined) return error
  if (step !== undefined) fault.steps.push(step)
  return fault
}

const toError = <E>(
  error: unknown,
  root: string,
  TypedError: new(props: { readonly path: string; readonly reason: string }) => E
): unknown => {
  const fault = asFault(error)
  if (fault === undefined) return error
  let path = root
  for (const step of fault.steps.reverse()) {
    if (typeof step === "number") path += `[${step}]`
    else if (!/^[\w-]+$/.test(step)) path += `[${JSON.stringify(step)}]`
    else path += path === "" ? step : `.${step}`
  }
  if (path.length > maxPathLength) path = `${path.slice(0, maxPathLength / 2)}…${path.slice(-maxPathLength / 2)}`
  return new TypedError({ path, reason: fault.reason })
}

const failure = <E>(
  error: unknown,
  TypedError: new(props: { readonly path: string; readonly reason: string }) => E
): Result.Result<never, E> => {
  const typed = toError(error, "", TypedError)
  if (typed instanceof TypedError) return Result.fail(typed)
  throw typed
}

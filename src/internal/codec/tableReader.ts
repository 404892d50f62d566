/**
 * Reads field tables, to plain or tagged values. Bytes that are no table throw.
 *
 * @since 0.1.0
 */
import { AmqpDecodeError } from "../errors/value.ts"
import {
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
} from "../values/tableValue.ts"
import { addStep, Fault, maxDepth, toError } from "./tableFault.ts"
import type { Reader } from "./wire.ts"

/**
 * Reads a table with its length to a plain object. Bytes that are no table throw `AmqpDecodeError`.
 */
export const readTable = (reader: Reader, path: string): PlainTable => readPrefixed(reader, path, readFields)

/**
 * Reads a table with its length to tagged values. Bytes that are no table throw `AmqpDecodeError`.
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

export const readFields = (reader: Reader, depth: number): PlainTable => {
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

/** Reads the common types directly, without a tagged value. */
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

export const readFieldsTagged = (reader: Reader, depth: number): Table => {
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

/** Makes a `bigint` only for numbers that need one. */
const readInt64 = (reader: Reader): number | bigint => {
  const high = reader.i32()
  const low = reader.u32()
  const value = high * 0x1_0000_0000 + low
  return Number.isSafeInteger(value) ? value : (BigInt(high) << 32n) | BigInt(low)
}

const printable = (tag: number): string => tag > 0x20 && tag < 0x7f ? ` (${String.fromCharCode(tag)})` : ""

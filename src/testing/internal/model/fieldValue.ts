/**
 * Values of field tables as RabbitMQ compares them and as its reply texts print them.
 *
 * Methods arrive with plain values, which have lost some types of the wire: an integer counts as `signedint` or `long`
 * by its size alone, and a double or a float without a fraction counts as an integer.
 *
 * @since 0.1.0
 */
import { isValue, type Plain, type Value } from "../../../AmqpTable.ts"
import { utf8Decode } from "../../../internal/codec/wire.ts"

/** What RabbitMQ calls the type of a value. */
export const typeName = (value: Plain): string => {
  switch (typeof value) {
    case "string":
      return "longstr"
    case "boolean":
      return "bool"
    case "bigint":
      return "long"
    case "number":
      return (value | 0) === value ? "signedint" : Number.isInteger(value) ? "long" : "double"
    default:
      if (value === null) return "void"
      if (value instanceof Uint8Array) return "binary"
      if (value instanceof Date) return "timestamp"
      if (isValue(value)) return taggedTypeName(value)
      return Array.isArray(value) ? "array" : "table"
  }
}

const typeNames: { readonly [tag in Value["_tag"]]: string } = {
  Array: "array",
  Bool: "bool",
  Bytes: "binary",
  Decimal: "decimal",
  Double: "double",
  Float: "float",
  Int16: "short",
  Int32: "signedint",
  Int64: "long",
  Int8: "byte",
  LongString: "longstr",
  Table: "table",
  Timestamp: "timestamp",
  UInt16: "unsignedshort",
  UInt32: "unsignedint",
  UInt8: "unsignedbyte",
  Void: "void"
}

/** What RabbitMQ calls the type of a tagged value. */
export const taggedTypeName = (value: Value): string => typeNames[value._tag]

/** Types within which values are compared; integers of any size are one. */
export const typeClass = (value: Plain): string => {
  const name = typeName(value)
  return name === "signedint" || name === "long" ? "int" : name
}

/**
 * A string that is the same for values that RabbitMQ takes for equal. Text may equal bytes, and an integer a double.
 */
export const canonical = (value: Plain): string => {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value)
    case "boolean":
    case "bigint":
      return `${value}`
    case "number":
      return Number.isInteger(value) ? `${BigInt(value)}` : `${value}`
    default:
      if (value === null) return "void"
      if (value instanceof Uint8Array) return JSON.stringify(utf8Decode(value) ?? { bytes: [...value] })
      if (value instanceof Date) return `${BigInt(value.getTime() / 1000)}`
      if (isValue(value)) return value._tag === "Decimal" ? `${value.value}e-${value.scale}` : `${value.value}`
      if (isArray(value)) return `[${value.map(canonical).join()}]`
      return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join()}}`
  }
}

/** A value as Erlang prints it. */
export const term = (value: Plain): string => {
  switch (typeof value) {
    case "string":
      return binary(value)
    case "boolean":
    case "bigint":
    case "number":
      return `${value}`
    default:
      if (value === null) return "undefined"
      if (value instanceof Uint8Array) {
        const text = utf8Decode(value)
        return text === undefined ? `<<${value.join()}>>` : binary(text)
      }
      if (value instanceof Date) return `${value.getTime() / 1000}`
      if (isValue(value)) return value._tag === "Decimal" ? `{${value.scale},${value.value}}` : `${value.value}`
      if (isArray(value)) return `[${value.map((item) => `{${typeName(item)},${term(item)}}`).join()}]`
      return `[${
        Object.entries(value).map(([key, item]) => `{${binary(key)},${typeName(item)},${term(item)}}`).join()
      }]`
  }
}

/** Where Erlang breaks a line. */
const lineWidth = 80

/** A text that ends with a tuple, as Erlang prints it: on several lines where it does not fit on one. */
export const withTuple = (text: string, ...items: ReadonlyArray<string | number | bigint>): string => {
  const tuple = `{${items.join()}}`
  if (text.length + tuple.length <= lineWidth) return text + tuple
  return `${text}{${items.join(`,\n${" ".repeat(text.length + 1)}`)}}`
}

/** `Array.isArray` does not narrow to read-only arrays. */
const isArray: (value: Plain) => value is ReadonlyArray<Plain> = Array.isArray

const printable = /^[\x20-\x7e]+$/

const binary = (text: string): string =>
  printable.test(text) ? `<<"${text.replaceAll(/["\\]/g, "\\$&")}">>` : `<<${new TextEncoder().encode(text).join()}>>`

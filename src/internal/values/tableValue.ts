/**
 * The values of field tables: tagged ones, which name their type on the wire, and plain ones. Nothing here knows a byte;
 * `AmqpTable` writes and reads them, and publishes what is public of this module.
 *
 * @since 0.1.0
 */

// -----------------------------------------------------------------------------
// tagged values
// -----------------------------------------------------------------------------

// A symbol, because data cannot contain one: a record with a `_tag` of its own stays a record.
const TypeId: unique symbol = Symbol.for("effect-amqp/AmqpTable/Value")

/**
 * A value together with its type on the wire.
 *
 * @category models
 * @since 0.1.0
 */
export interface Tagged<Tag extends string, A> {
  readonly [TypeId]: typeof TypeId
  readonly _tag: Tag
  readonly value: A
}

/**
 * A boolean (`t`). `octet` is the byte on the wire: every byte but 0 means true.
 *
 * @category models
 * @since 0.1.0
 */
export interface Bool extends Tagged<"Bool", boolean> {
  readonly octet: number
}

/**
 * A signed 64-bit integer. `l` and `L` both mean that on RabbitMQ; `wire` is the one that is used.
 *
 * @category models
 * @since 0.1.0
 */
export interface Int64 extends Tagged<"Int64", bigint> {
  readonly wire: "l" | "L"
}

/**
 * The exact decimal `value / 10 ** scale` (`D`): a signed 32-bit `value`, a `scale` from 0 to 255.
 *
 * @category models
 * @since 0.1.0
 */
export interface Decimal extends Tagged<"Decimal", number> {
  readonly scale: number
}

/**
 * Seconds since 1970 (`T`), unsigned 64-bit.
 *
 * @category models
 * @since 0.1.0
 */
export type Timestamp = Tagged<"Timestamp", bigint>

/**
 * A table (`F`) as its entries, so that their order and keys that occur twice survive.
 *
 * @category models
 * @since 0.1.0
 */
export type Table = Tagged<"Table", ReadonlyArray<readonly [key: string, value: Value]>>

/**
 * A value that names its type on the wire, for every type that RabbitMQ knows.
 *
 * @category models
 * @since 0.1.0
 */
export type Value =
  | Bool
  | Tagged<"Int8", number>
  | Tagged<"UInt8", number>
  | Tagged<"Int16", number>
  | Tagged<"UInt16", number>
  | Tagged<"Int32", number>
  | Tagged<"UInt32", number>
  | Int64
  | Tagged<"Float", number>
  | Tagged<"Double", number>
  | Decimal
  | Tagged<"LongString", string | Uint8Array>
  | Tagged<"Bytes", Uint8Array>
  | Timestamp
  | Tagged<"Array", ReadonlyArray<Value>>
  | Table
  | Tagged<"Void", null>

/**
 * What can be written as a field.
 *
 * **Details**
 *
 * A string is written as `S`, a boolean as `t`, a `Uint8Array` as `x`, `null` as `V`, an array as `A` and a plain object
 * as `F`. A number is written as `I` where it is an integer of 32 bits, as `l` where it is another safe integer, and
 * else as `d`; so is -0, which the integers do not have. A `bigint` is written as `l`, a `Date` as `T`, and a tagged
 * `Value` as what it says. Properties that are `undefined` are left out.
 *
 * **Gotchas**
 *
 * A `Date` must be a whole number of seconds, not before 1970: `setMilliseconds(0)` says that the rest may be dropped.
 * NaN, infinities, a `bigint` beyond 64 bits, lone surrogates, keys of more than 255 bytes, `undefined` in an array,
 * functions, symbols, class instances and values that contain themselves or are more than 1024 levels deep are
 * `AmqpEncodeError`s. Only enumerable properties with string keys count.
 *
 * @category models
 * @since 0.1.0
 */
export type Input =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | Date
  | Value
  | ReadonlyArray<Input>
  | { readonly [key: string]: Input | undefined }

/**
 * What can be written as a table: a plain object, or tagged entries.
 *
 * @category models
 * @since 0.1.0
 */
export type InputTable = { readonly [key: string]: Input | undefined } | Table

/**
 * A field as a plain value.
 *
 * **Details**
 *
 * An integer is a `number`, or a `bigint` where it is not a safe integer. `S` is a string, or bytes where it is not
 * UTF-8. `T` is a `Date`, or a `Timestamp` beyond the range of `Date`. `D` stays an exact `Decimal`. Byte arrays are
 * copies: a view would keep the whole receive buffer alive.
 *
 * @category models
 * @since 0.1.0
 */
export type Plain =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | Date
  | Decimal
  | Timestamp
  | ReadonlyArray<Plain>
  | PlainTable

/**
 * A table as a plain object. Of a key that occurs twice, the last value counts.
 *
 * @category models
 * @since 0.1.0
 */
export interface PlainTable {
  readonly [key: string]: Plain
}

/**
 * Whether something is a tagged `Value`. A plain object never is, whatever its keys.
 *
 * @category guards
 * @since 0.1.0
 */
export const isValue = (u: unknown): u is Value => typeof u === "object" && u !== null && TypeId in u

const tagged = <Tag extends string, A>(_tag: Tag, value: A): Tagged<Tag, A> => ({ [TypeId]: TypeId, _tag, value })

/**
 * A boolean (`t`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const bool = (value: boolean): Bool => ({ ...tagged("Bool", value), octet: value ? 1 : 0 })

/**
 * A signed 8-bit integer (`b`). Like all constructors it does not check its range; encoding does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const int8 = (value: number): Tagged<"Int8", number> => tagged("Int8", value)

/**
 * An unsigned 8-bit integer (`B`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const uint8 = (value: number): Tagged<"UInt8", number> => tagged("UInt8", value)

/**
 * A signed 16-bit integer (`s`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const int16 = (value: number): Tagged<"Int16", number> => tagged("Int16", value)

/**
 * An unsigned 16-bit integer (`u`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const uint16 = (value: number): Tagged<"UInt16", number> => tagged("UInt16", value)

/**
 * A signed 32-bit integer (`I`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const int32 = (value: number): Tagged<"Int32", number> => tagged("Int32", value)

/**
 * An unsigned 32-bit integer (`i`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const uint32 = (value: number): Tagged<"UInt32", number> => tagged("UInt32", value)

/**
 * A signed 64-bit integer (`l`, or `L` on request).
 *
 * @category constructors
 * @since 0.1.0
 */
export const int64 = (value: bigint, wire: "l" | "L" = "l"): Int64 => ({ ...tagged("Int64", value), wire })

/**
 * A 32-bit float (`f`): the nearest one to the number, which is what its `value` then is.
 *
 * @category constructors
 * @since 0.1.0
 */
export const float = (value: number): Tagged<"Float", number> => tagged("Float", Math.fround(value))

/**
 * A 64-bit float (`d`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const double = (value: number): Tagged<"Double", number> => tagged("Double", value)

/**
 * The exact decimal `value / 10 ** scale` (`D`).
 *
 * **Example**
 *
 * ```ts
 * AmqpTable.decimal({ scale: 2, value: 1999 }) // 19.99
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const decimal = ({ scale, value }: { readonly scale: number; readonly value: number }): Decimal => ({
  ...tagged("Decimal", value),
  scale
})

/**
 * A long string (`S`), from text or from bytes that need not be UTF-8.
 *
 * @category constructors
 * @since 0.1.0
 */
export const longString = (value: string | Uint8Array): Tagged<"LongString", string | Uint8Array> =>
  tagged("LongString", value)

/**
 * A byte array (`x`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const bytes = (value: Uint8Array): Tagged<"Bytes", Uint8Array> => tagged("Bytes", value)

/**
 * A timestamp (`T`) in seconds since 1970.
 *
 * @category constructors
 * @since 0.1.0
 */
export const timestamp = (seconds: bigint): Timestamp => tagged("Timestamp", seconds)

/**
 * An array (`A`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const array = (values: ReadonlyArray<Value>): Tagged<"Array", ReadonlyArray<Value>> => tagged("Array", values)

/**
 * A table (`F`) from its entries, in their order.
 *
 * @category constructors
 * @since 0.1.0
 */
export const table = (entries: Table["value"]): Table => tagged("Table", entries)

/**
 * No value (`V`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const void_: Tagged<"Void", null> = tagged("Void", null)

// -----------------------------------------------------------------------------
// conversion
// -----------------------------------------------------------------------------

/** The end of `Date`'s range, in seconds. */
const maxDate = 8_640_000_000_000n

/** Sets an own property; assigned, the key `__proto__` would set the prototype. */
export const setField = (table: Record<string, Plain>, key: string, value: Plain): void => {
  if (key === "__proto__") {
    Object.defineProperty(table, key, { value, configurable: true, enumerable: true, writable: true })
  } else table[key] = value
}

/**
 * The plain value of a tagged one: what `decode` would have given. Byte arrays are not copied.
 *
 * @category conversions
 * @since 0.1.0
 */
export function toPlain(value: Table): PlainTable
export function toPlain(value: Value): Plain
export function toPlain(value: Value): Plain {
  switch (value._tag) {
    case "Int64": {
      const number = Number(value.value)
      return Number.isSafeInteger(number) ? number : value.value
    }
    case "Timestamp":
      // A pure conversion, not the time of day.
      // @effect-diagnostics-next-line globalDate:off
      return value.value <= maxDate ? new Date(Number(value.value) * 1000) : value
    case "Decimal":
      return value
    case "Array":
      return value.value.map((item) => toPlain(item))
    case "Table": {
      const table: Record<string, Plain> = {}
      for (const [key, item] of value.value) setField(table, key, toPlain(item))
      return table
    }
    default:
      return value.value
  }
}

/**
 * The properties of a received message as a schema, so that an error that carries them crosses process boundaries: to
 * JSON and back without a loss. Plain values that JSON has not are objects of one field there, which names their type.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import { type Decimal, decimal, isValue, type Plain, type PlainTable, type Timestamp, timestamp } from "./tableValue.ts"

const { transform } = SchemaTransformation

const BigInteger = Schema.Struct({ bigint: Schema.BigInt }).pipe(
  Schema.decodeTo(Schema.BigInt, transform({ decode: ({ bigint }) => bigint, encode: (bigint) => ({ bigint }) }))
)

/** NaN, the infinities and -0, which peers may send. */
const OddNumber = Schema.Struct({ number: Schema.String }).pipe(
  Schema.decodeTo(
    // @effect-diagnostics-next-line schemaNumber:off
    Schema.Number,
    transform({
      decode: ({ number }) => Number(number),
      encode: (number) => ({ number: Object.is(number, -0) ? "-0" : String(number) })
    })
  )
)

const Bytes = Schema.Struct({ bytes: Schema.Uint8Array }).pipe(
  Schema.decodeTo(Schema.Uint8Array, transform({ decode: ({ bytes }) => bytes, encode: (bytes) => ({ bytes }) }))
)

const Time = Schema.Struct({ date: Schema.Date }).pipe(
  Schema.decodeTo(Schema.Date, transform({ decode: ({ date }) => date, encode: (date) => ({ date }) }))
)

const DecimalValue = Schema.Struct({ decimal: Schema.Struct({ scale: Schema.Int, value: Schema.Int }) }).pipe(
  Schema.decodeTo(
    Schema.declare((u): u is Decimal => isValue(u) && u._tag === "Decimal"),
    transform({
      decode: (json) => decimal(json.decimal),
      encode: ({ scale, value }) => ({ decimal: { scale, value } })
    })
  )
)

const TimestampValue = Schema.Struct({ timestamp: Schema.BigInt }).pipe(
  Schema.decodeTo(
    Schema.declare((u): u is Timestamp => isValue(u) && u._tag === "Timestamp"),
    transform({ decode: (json) => timestamp(json.timestamp), encode: ({ value }) => ({ timestamp: value }) })
  )
)

const PlainTables: Schema.Codec<PlainTable, unknown> = Schema.Record(
  Schema.String,
  Schema.suspend(() => PlainValue)
)

const Table = Schema.Struct({ table: PlainTables }).pipe(
  Schema.decodeTo(
    Schema.toType(PlainTables),
    transform({ decode: ({ table }) => table, encode: (table) => ({ table }) })
  )
)

const isUsual = Schema.makeFilter((number: number) => !Object.is(number, -0))

const PlainValue: Schema.Codec<Plain, unknown> = Schema.Union([
  Schema.Null,
  Schema.Boolean,
  Schema.String,
  Schema.Finite.check(isUsual),
  OddNumber,
  BigInteger,
  Bytes,
  Time,
  DecimalValue,
  TimestampValue,
  Schema.Array(Schema.suspend(() => PlainValue)),
  Table
])

const text = Schema.optional(Schema.String)
const octet = Schema.optional(Schema.Int)

/** The properties of a received message. */
export const MessageProperties = Schema.Struct({
  contentType: text,
  contentEncoding: text,
  headers: Schema.optional(PlainTables),
  deliveryMode: octet,
  priority: octet,
  correlationId: text,
  replyTo: text,
  expiration: text,
  messageId: text,
  timestamp: Schema.optional(Schema.Union([Schema.Int, BigInteger])),
  type: text,
  userId: text,
  appId: text,
  clusterId: text
})

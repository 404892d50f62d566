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
export { decode, decodeTagged, encode } from "./internal/codec/table.ts"
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
} from "./internal/values/tableValue.ts"
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
} from "./internal/values/tableValue.ts"

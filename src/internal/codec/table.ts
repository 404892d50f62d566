/**
 * Field tables as values and as bytes, as Results: `AmqpTable` publishes it.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { AmqpDecodeError, AmqpEncodeError } from "../errors/value.ts"
import type { InputTable, PlainTable, Table } from "../values/tableValue.ts"
import { failure } from "./tableFault.ts"
import { readFields, readFieldsTagged } from "./tableReader.ts"
import { writeRoot } from "./tableWriter.ts"
import { Reader, Writer } from "./wire.ts"

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

/**
 * Values that AMQP cannot carry, and bytes that are not what they claim to be. `AmqpError` publishes them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * A value that AMQP cannot carry. Nothing was written.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpEncodeError
  extends Schema.TaggedError<AmqpEncodeError>("effect-amqp/AmqpEncodeError")("AmqpEncodeError", {
    /** Where the value is: `"headers.retries[2]"`. */
    path: Schema.String,
    reason: Schema.String
  })
{
  override get message(): string {
    return this.path === "" ? `cannot encode: ${this.reason}` : `cannot encode ${this.path}: ${this.reason}`
  }
}

/**
 * Bytes that are not what they claim to be.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpDecodeError
  extends Schema.TaggedError<AmqpDecodeError>("effect-amqp/AmqpDecodeError")("AmqpDecodeError", {
    /** Where the bytes are: `"headers.retries[2]"`. */
    path: Schema.String,
    reason: Schema.String
  })
{
  override get message(): string {
    return this.path === "" ? `cannot decode: ${this.reason}` : `cannot decode ${this.path}: ${this.reason}`
  }
}

/**
 * What can go wrong with a topology, as tagged errors. `AmqpTopology` publishes them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import {
  AmqpAccessRefused,
  AmqpChannelClosed,
  AmqpEncodeError,
  AmqpNotFound,
  AmqpPreconditionFailed,
  AmqpResourceLocked
} from "../AmqpError.ts"

/**
 * An exchange, queue or binding that could not be declared, checked or deleted.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpTopologyError
  extends Schema.TaggedError<AmqpTopologyError>("effect-amqp/AmqpTopologyError")("AmqpTopologyError", {
    /** What it is: `queue "billing"`, `binding of queue "billing" to exchange "orders", routing key "order.*"`. */
    entity: Schema.String,
    /** Why the broker, or the library, refused it. */
    cause: Schema.Union([
      AmqpAccessRefused,
      AmqpNotFound,
      AmqpResourceLocked,
      AmqpPreconditionFailed,
      AmqpEncodeError,
      AmqpChannelClosed
    ])
  })
{
  override get message(): string {
    return `${this.entity}: ${this.cause.message}`
  }
}

/**
 * A topology that contradicts itself. Nothing was sent.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpTopologyInvalid
  extends Schema.TaggedError<AmqpTopologyInvalid>("effect-amqp/AmqpTopologyInvalid")("AmqpTopologyInvalid", {
    /** All that is wrong with it, each beginning with the entity. */
    problems: Schema.Array(Schema.String)
  })
{
  override get message(): string {
    return `the topology contradicts itself: ${this.problems.join("; ")}`
  }
}

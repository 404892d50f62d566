/**
 * What can go wrong with a topology, as tagged errors. `AmqpTopology` publishes them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { AmqpChannelClosed } from "../errors/channel.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import { AmqpAccessRefused, AmqpNotFound, AmqpPreconditionFailed, AmqpResourceLocked } from "../errors/soft.ts"
import { AmqpEncodeError } from "../errors/value.ts"

/**
 * The present epoch began without this entity: the broker has not answered yet, or an entity that it needs is missing.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpTopologyPending
  extends Schema.TaggedError<AmqpTopologyPending>("effect-amqp/AmqpTopologyPending")("AmqpTopologyPending", {})
{
  override get message(): string {
    return "it is not declared yet: the broker has not answered, or what it depends on is not there"
  }
}

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
    /**
     * Why the broker or the library refused it. With an `AmqpConnectionError` the broker ends the connection whenever
     * this entity is declared, so it is not declared any more.
     */
    cause: Schema.Union([
      AmqpAccessRefused,
      AmqpNotFound,
      AmqpResourceLocked,
      AmqpPreconditionFailed,
      AmqpEncodeError,
      AmqpChannelClosed,
      AmqpConnectionError,
      AmqpTopologyPending
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
    /** All mistakes. Each text begins with the entity. */
    problems: Schema.Array(Schema.String)
  })
{
  override get message(): string {
    return `the topology contradicts itself: ${this.problems.join("; ")}`
  }
}

/**
 * The end of channels, consumers and deliveries. `AmqpError` publishes them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { AmqpConnectionError } from "./connection.ts"
import { softErrors } from "./soft.ts"

/**
 * The channel was already gone when the operation began, or went away during it because of another operation.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpChannelClosed
  extends Schema.TaggedError<AmqpChannelClosed>("effect-amqp/AmqpChannelClosed")("AmqpChannelClosed", {
    /** The operation that failed. */
    operation: Schema.String,
    /** What closed the channel; absent where its own scope or `close` did. */
    cause: Schema.optional(Schema.Union([...softErrors, AmqpConnectionError]))
  })
{
  override get message(): string {
    const why = this.cause === undefined ? "it was closed by its scope" : this.cause.message
    return `${this.operation}: the channel is closed: ${why}. Open another one`
  }
}

/**
 * The broker did not answer the close of a channel: the connection was lost, or the time was over. It is unknown
 * whether the last publishes without confirms have come to the broker.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpCloseUnanswered
  extends Schema.TaggedError<AmqpCloseUnanswered>("effect-amqp/AmqpCloseUnanswered")("AmqpCloseUnanswered", {
    /** What ended the connection; absent where no answer came within `closeTimeout`. */
    cause: Schema.optional(AmqpConnectionError)
  })
{
  override get message(): string {
    const why = this.cause === undefined ? "no answer came in time" : this.cause.message
    return `the close of the channel was not answered, it is unknown whether what was published last has arrived: ${why}. ` +
      "Publish it again where a duplicate does no harm, or turn on confirms"
  }
}

/** What closed a channel; `undefined` is its own scope. */
export type ChannelCloseCause = AmqpChannelClosed["cause"]

/**
 * The broker cancelled the consumer: its queue was deleted, or the node that held it is gone.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpConsumerCancelled
  extends Schema.TaggedError<AmqpConsumerCancelled>("effect-amqp/AmqpConsumerCancelled")("AmqpConsumerCancelled", {
    queue: Schema.String,
    consumerTag: Schema.String
  })
{
  override get message(): string {
    const consumer = `${JSON.stringify(this.consumerTag)} of queue ${JSON.stringify(this.queue)}`
    return `the broker cancelled consumer ${consumer}: the queue was deleted or its node is gone. ` +
      "Declare the queue and consume again"
  }
}

/**
 * A delivery whose channel went away cannot be settled any more; the broker delivers it again.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpStaleDelivery
  extends Schema.TaggedError<AmqpStaleDelivery>("effect-amqp/AmqpStaleDelivery")("AmqpStaleDelivery", {
    deliveryTag: Schema.Finite,
    /** The epoch of the connection that the delivery came from. */
    epoch: Schema.Int
  })
{
  override get message(): string {
    return `delivery ${this.deliveryTag} of epoch ${this.epoch} can no longer be settled: its channel is gone, ` +
      "the broker delivers it again"
  }
}

/**
 * How a consumer fails for good. `AmqpConsumer` publishes it.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { AmqpChannelClosed, AmqpConsumerCancelled } from "../errors/channel.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import { AmqpAccessRefused, AmqpNotFound, AmqpPreconditionFailed, AmqpResourceLocked } from "../errors/soft.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import { AmqpTopologyError, AmqpTopologyInvalid } from "../topology/error.ts"
import type { QueueRef } from "../topology/queueNames.ts"

const Phase = Schema.Literals(["options", "channel", "topology", "qos", "consume", "deliver"])

/**
 * What a consumer was doing: checking its options, opening its channel, declaring its topology, setting the prefetch,
 * subscribing, or taking deliveries.
 *
 * @category models
 * @since 0.1.0
 */
export type ConsumerPhase = typeof Phase.Type

/**
 * A consumer that outlives its connections has failed for good: its `recover` schedule has given up, or does not retry
 * this failure.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpConsumerFailed
  extends Schema.TaggedError<AmqpConsumerFailed>("effect-amqp/AmqpConsumerFailed")("AmqpConsumerFailed", {
    /** The queues that it is about, separated by commas. */
    queue: Schema.String,
    phase: Phase,
    reason: Schema.Union([
      AmqpAccessRefused,
      AmqpNotFound,
      AmqpResourceLocked,
      AmqpPreconditionFailed,
      AmqpChannelClosed,
      AmqpConsumerCancelled,
      AmqpConnectionError,
      AmqpEncodeError,
      AmqpTopologyError,
      AmqpTopologyInvalid
    ])
  })
{
  override readonly cause = this.reason

  override get message(): string {
    return `the consumer of ${JSON.stringify(this.queue)} failed (${this.phase}): ${this.reason.message}`
  }
}

/** How many queues are named. A consumer may have thousands. */
const named = 10

/** The names of queues in errors and logs. */
export const labelOf = (queues: ReadonlyArray<QueueRef>): string => {
  const names = queues.slice(0, named).map((queue) => typeof queue === "string" ? queue : "(server-named)")
  return queues.length > named ? `${names.join(", ")} and ${queues.length - named} more` : names.join(", ")
}

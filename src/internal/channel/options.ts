/**
 * Options and results of the operations of a channel. `AmqpChannel` publishes these types.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { InputTable } from "../values/tableValue.ts"
import type { ClosedError, ConsumerError } from "./errors.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface ExchangeDeclareOptions {
  readonly exchange: string
  /** `"direct"`, `"fanout"`, `"topic"`, `"headers"`, or the type of a plugin. Defaults to `"direct"`. */
  readonly type?: "direct" | "fanout" | "topic" | "headers" | (string & {}) | undefined
  /** Whether it outlives the broker. Defaults to `false`. */
  readonly durable?: boolean | undefined
  /** Whether it goes with its last binding. Defaults to `false`. */
  readonly autoDelete?: boolean | undefined
  /** Whether only other exchanges may publish to it. Defaults to `false`. */
  readonly internal?: boolean | undefined
  /** For example `alternate-exchange`. */
  readonly arguments?: InputTable | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ExchangeDeleteOptions {
  readonly exchange: string
  /** Refuses (406) while it has bindings. Defaults to `false`. */
  readonly ifUnused?: boolean | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ExchangeBindOptions {
  /** Where messages go. */
  readonly destination: string
  /** Where they come from. */
  readonly source: string
  /** Defaults to `""`. */
  readonly routingKey?: string | undefined
  readonly arguments?: InputTable | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface QueueDeclareOptions {
  /** Defaults to `""`: the broker makes up a name. */
  readonly queue?: string | undefined
  /** Whether it outlives the broker. Defaults to `false`. */
  readonly durable?: boolean | undefined
  /** Whether it belongs to this connection alone and goes with it. Defaults to `false`. */
  readonly exclusive?: boolean | undefined
  /** Whether it goes with its last consumer. Defaults to `false`. */
  readonly autoDelete?: boolean | undefined
  /** For example `x-queue-type`, `x-message-ttl`, `x-dead-letter-exchange`. */
  readonly arguments?: InputTable | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface QueueInfo {
  /** The queue's name: the broker's, where it made one up or changed it. */
  readonly queue: string
  /** Messages that are ready to be delivered. */
  readonly messageCount: number
  readonly consumerCount: number
}

/**
 * @category models
 * @since 0.1.0
 */
export interface QueueDeleteOptions {
  readonly queue: string
  /** Refuses (406) while it has consumers. Defaults to `false`. */
  readonly ifUnused?: boolean | undefined
  /** Refuses (406) while it has messages. Defaults to `false`. */
  readonly ifEmpty?: boolean | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface QueueBindOptions {
  readonly queue: string
  readonly exchange: string
  /** Defaults to `""`. */
  readonly routingKey?: string | undefined
  /** For a headers exchange: what to match, and `x-match`. */
  readonly arguments?: InputTable | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface QosOptions {
  /** Deliveries that may be unsettled, from 1 to 65535; 0 is no limit. */
  readonly prefetchCount: number
  /**
   * `false`: for each consumer that is created later on this channel. `true`: for all consumers of this channel
   * together. Defaults to `false`. Consumers that exist keep what they have.
   */
  readonly global?: boolean | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ConsumeOptions {
  readonly queue: string
  /** Defaults to one that the connection has not used. */
  readonly consumerTag?: string | undefined
  /** Whether messages count as settled when they are sent. They are lost with the connection. Defaults to `false`. */
  readonly noAck?: boolean | undefined
  /**
   * Whether this is the only consumer: the broker refuses (403) it if there is another one, and refuses later ones.
   * Defaults to `false`.
   */
  readonly exclusive?: boolean | undefined
  /** For example `x-priority`, `x-stream-offset`. */
  readonly arguments?: InputTable | undefined
}

/**
 * A consumer of one channel.
 *
 * @category models
 * @since 0.1.0
 */
export interface Consumer<D> {
  readonly consumerTag: string
  /**
   * The deliveries, in arrays as they arrived. Ends after `cancel`. Fails when the broker cancels the consumer or the
   * channel goes away. Deliveries that came before come first.
   */
  readonly deliveries: Stream.Stream<D, ConsumerError>
  /** Stops deliveries; those that have come can still be taken and settled (specification 1.8.3.5). */
  readonly cancel: Effect.Effect<void, ClosedError>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface GetOptions {
  readonly queue: string
  /** Whether the message counts as settled when it is sent. Defaults to `false`. */
  readonly noAck?: boolean | undefined
}

/**
 * A message that `get` took.
 *
 * @category models
 * @since 0.1.0
 */
export interface Got<D> {
  readonly delivery: D
  /** Messages that are left in the queue. */
  readonly messageCount: number
}

/**
 * @category models
 * @since 0.1.0
 */
export interface SettleOptions {
  /** The number of a delivery of this channel; 0 with `multiple` is every unsettled one. */
  readonly deliveryTag: number
  /** Whether all earlier deliveries are settled as well, also those that nobody has taken yet. */
  readonly multiple?: boolean | undefined
  /** Refuses a delivery as options: it may belong to another channel, and its own `ack` settles it. */
  readonly body?: undefined
}

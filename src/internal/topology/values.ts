/**
 * Exchanges, queues and bindings as plain values: what the user writes, with typed arguments turned into those of
 * `queue.declare` and `exchange.declare`. Nothing is checked here; `topologyDiagnosis.ts` does that, for all values at
 * once. `AmqpTopology` publishes what is public of this module.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import type * as Schedule from "effect/Schedule"
import type { Input } from "../values/tableValue.ts"
import type { AmqpTopologyError } from "./error.ts"

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

/**
 * Arguments beyond the typed ones, for example of a plugin. They are preferred over the typed ones.
 *
 * @category models
 * @since 0.1.0
 */
export type Arguments = { readonly [key: string]: Input | undefined }

/**
 * What happens when the broker refuses an entity.
 *
 * **Details**
 *
 * `"fail"` fails the first declaration; in later epochs the entity is left out and listed in `failures`. `"skip"` leaves
 * it out and lists it from the first declaration on. `retry` declares it again under the schedule, whose input is the
 * failure; when the schedule gives up, it is as with `"fail"`.
 *
 * @category models
 * @since 0.1.0
 */
export type OnFailure = "fail" | "skip" | { readonly retry: Schedule.Schedule<unknown, AmqpTopologyError> }

/**
 * @category models
 * @since 0.1.0
 */
export interface EntityOptions {
  /** Defaults to that of the topology. */
  readonly onFailure?: OnFailure | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ExchangeOptions extends EntityOptions {
  /** `"direct"`, `"fanout"`, `"topic"`, `"headers"`, or the type of a plugin. Defaults to `"direct"`. */
  readonly type?: "direct" | "fanout" | "topic" | "headers" | (string & {}) | undefined
  /** Whether it outlives the broker. Defaults to `true`. */
  readonly durable?: boolean | undefined
  /** Whether it goes with its last binding. Defaults to `false`. */
  readonly autoDelete?: boolean | undefined
  /** Whether only other exchanges may publish to it. Defaults to `false`. */
  readonly internal?: boolean | undefined
  /** The exchange that gets what this one cannot route (RabbitMQ). */
  readonly alternateExchange?: string | undefined
  readonly arguments?: Arguments | undefined
}

/**
 * Where messages go that were rejected, have expired or did not fit (RabbitMQ).
 *
 * @category models
 * @since 0.1.0
 */
export interface DeadLetter {
  /** `""` is the default exchange, which routes by the name of the queue. */
  readonly exchange: string
  /** Defaults to that of the message. */
  readonly routingKey?: string | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ClassicQueueOptions extends EntityOptions {
  /** Whether it outlives the broker. Defaults to `true`. */
  readonly durable?: boolean | undefined
  /** Whether it belongs to this connection alone and goes with it. Defaults to `false`. */
  readonly exclusive?: boolean | undefined
  /** Whether it goes with its last consumer. Defaults to `false`. */
  readonly autoDelete?: boolean | undefined
  /** How long a message may wait. */
  readonly messageTtl?: Duration.Input | undefined
  /** How long the queue may be unused before the broker deletes it. */
  readonly expires?: Duration.Input | undefined
  /** In messages. */
  readonly maxLength?: number | undefined
  /** In bytes of bodies. */
  readonly maxLengthBytes?: number | undefined
  /** What happens when it is full. The broker's default is `"drop-head"`. */
  readonly overflow?: "drop-head" | "reject-publish" | "reject-publish-dlx" | undefined
  readonly deadLetter?: DeadLetter | undefined
  /** The highest priority, from 1 to 255; few are cheaper than many. */
  readonly maxPriority?: number | undefined
  /** Whether one consumer at a time gets messages, and the next one takes over. Defaults to `false`. */
  readonly singleActiveConsumer?: boolean | undefined
  readonly queueMode?: "default" | "lazy" | undefined
  /** Version of the storage. */
  readonly version?: 1 | 2 | undefined
  readonly arguments?: Arguments | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface QuorumQueueOptions extends EntityOptions {
  /** How often a message may be delivered again before it is dropped or dead-lettered. */
  readonly deliveryLimit?: number | undefined
  readonly deadLetter?:
    | DeadLetter & {
      /** `"at-least-once"` needs the overflow `"reject-publish"`. The broker's default is `"at-most-once"`. */
      readonly strategy?: "at-most-once" | "at-least-once" | undefined
    }
    | undefined
  /** How long a message may wait. From RabbitMQ 3.10 on. */
  readonly messageTtl?: Duration.Input | undefined
  /** How long the queue may be unused before the broker deletes it. */
  readonly expires?: Duration.Input | undefined
  /** In messages. */
  readonly maxLength?: number | undefined
  /** In bytes of bodies. */
  readonly maxLengthBytes?: number | undefined
  /** What happens when it is full. The broker's default is `"drop-head"`. */
  readonly overflow?: "drop-head" | "reject-publish" | undefined
  /** Whether one consumer at a time gets messages, and the next one takes over. Defaults to `false`. */
  readonly singleActiveConsumer?: boolean | undefined
  /** How many nodes hold it at first. */
  readonly initialGroupSize?: number | undefined
  /** On which node its leader begins. */
  readonly leaderLocator?: LeaderLocator | undefined
  readonly arguments?: Arguments | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface StreamQueueOptions extends EntityOptions {
  /** How long messages are kept, in whole seconds. */
  readonly maxAge?: Duration.Input | undefined
  /** How much is kept, in bytes. */
  readonly maxLengthBytes?: number | undefined
  /** Size of the files that it is kept in, and dropped by. */
  readonly maxSegmentSizeBytes?: number | undefined
  /** How many nodes hold it at first. */
  readonly initialClusterSize?: number | undefined
  /** On which node its leader begins. */
  readonly leaderLocator?: LeaderLocator | undefined
  readonly arguments?: Arguments | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export type LeaderLocator = "client-local" | "balanced" | "random" | "least-leaders"

/**
 * A queue by its name, or the value of a server-named queue that stands for whatever the broker called it.
 *
 * @category models
 * @since 0.1.0
 */
export type QueueRef = string | ServerNamedQueue

/**
 * @category models
 * @since 0.1.0
 */
export interface BindOptions extends EntityOptions {
  readonly queue: QueueRef
  readonly exchange: string
  /** Defaults to `""`. */
  readonly routingKey?: string | undefined
  /** For a headers exchange: what to match, and `x-match`. */
  readonly arguments?: Arguments | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface BindExchangeOptions extends EntityOptions {
  /** Where messages go. */
  readonly destination: string
  /** Where they come from. */
  readonly source: string
  /** Defaults to `""`. */
  readonly routingKey?: string | undefined
  readonly arguments?: Arguments | undefined
}

// -----------------------------------------------------------------------------
// entities
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface Exchange extends EntityOptions {
  readonly _tag: "Exchange"
  readonly name: string
  readonly type: string
  readonly durable: boolean
  readonly autoDelete: boolean
  readonly internal: boolean
  readonly arguments: Arguments
}

/**
 * @category models
 * @since 0.1.0
 */
export interface PassiveExchange extends EntityOptions {
  readonly _tag: "PassiveExchange"
  readonly name: string
}

/** What every queue that is declared has. */
interface DeclaredQueue extends EntityOptions {
  readonly type: QueueType
  readonly durable: boolean
  readonly exclusive: boolean
  readonly autoDelete: boolean
  readonly arguments: Arguments
}

/**
 * @category models
 * @since 0.1.0
 */
export type QueueType = "classic" | "quorum" | "stream"

/**
 * @category models
 * @since 0.1.0
 */
export interface Queue extends DeclaredQueue {
  readonly _tag: "Queue"
  readonly name: string
}

/**
 * @category models
 * @since 0.1.0
 */
export interface PassiveQueue extends EntityOptions {
  readonly _tag: "PassiveQueue"
  readonly name: string
}

/**
 * A queue that the broker names. The value stands for it, whatever it is called in the present epoch: two values with
 * the same options are two queues.
 *
 * @category models
 * @since 0.1.0
 */
export interface ServerNamedQueue extends DeclaredQueue {
  readonly _tag: "ServerNamedQueue"
}

/**
 * @category models
 * @since 0.1.0
 */
export interface QueueBinding extends EntityOptions {
  readonly _tag: "QueueBinding"
  readonly queue: QueueRef
  readonly exchange: string
  readonly routingKey: string
  readonly arguments: Arguments
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ExchangeBinding extends EntityOptions {
  readonly _tag: "ExchangeBinding"
  readonly destination: string
  readonly source: string
  readonly routingKey: string
  readonly arguments: Arguments
}

/**
 * A part of a topology.
 *
 * @category models
 * @since 0.1.0
 */
export type Entity =
  | Exchange
  | PassiveExchange
  | Queue
  | PassiveQueue
  | ServerNamedQueue
  | QueueBinding
  | ExchangeBinding

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/** Without what is `undefined`, so that equal options are equal values. */
const defined = (values: Arguments): Arguments =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))

/** `onFailure`, where it is given. */
const policy = ({ onFailure }: EntityOptions): EntityOptions => onFailure === undefined ? {} : { onFailure }

const millis = (input: Duration.Input | undefined): number | undefined =>
  input === undefined ? undefined : Duration.toMillis(Duration.fromInputUnsafe(input))

const seconds = (input: Duration.Input | undefined): string | undefined =>
  input === undefined ? undefined : `${Duration.toSeconds(Duration.fromInputUnsafe(input))}s`

/**
 * An exchange, durable unless told otherwise.
 *
 * @category constructors
 * @since 0.1.0
 */
export const exchange = (name: string, options: ExchangeOptions = {}): Exchange => ({
  _tag: "Exchange",
  name,
  type: options.type ?? "direct",
  durable: options.durable ?? true,
  autoDelete: options.autoDelete ?? false,
  internal: options.internal ?? false,
  arguments: defined({ "alternate-exchange": options.alternateExchange, ...options.arguments }),
  ...policy(options)
})

/**
 * An exchange that must exist; it is checked, never declared.
 *
 * @category constructors
 * @since 0.1.0
 */
export const passiveExchange = (name: string, options: EntityOptions = {}): PassiveExchange => ({
  _tag: "PassiveExchange",
  name,
  ...policy(options)
})

/**
 * The options of every type of queue. The public constructors take those of their type; callers without types can give
 * any, which the diagnosis then refuses.
 */
interface AnyQueueOptions
  extends
    Omit<ClassicQueueOptions, "deadLetter">,
    Omit<QuorumQueueOptions, "overflow">,
    Omit<StreamQueueOptions, "maxLengthBytes">
{}

const queue = (type: QueueType, options: AnyQueueOptions): DeclaredQueue => ({
  type,
  durable: options.durable ?? true,
  exclusive: options.exclusive ?? false,
  autoDelete: options.autoDelete ?? false,
  arguments: defined({
    "x-queue-type": type,
    "x-message-ttl": millis(options.messageTtl),
    "x-expires": millis(options.expires),
    "x-max-length": options.maxLength,
    "x-max-length-bytes": options.maxLengthBytes,
    "x-overflow": options.overflow,
    "x-dead-letter-exchange": options.deadLetter?.exchange,
    "x-dead-letter-routing-key": options.deadLetter?.routingKey,
    "x-dead-letter-strategy": options.deadLetter?.strategy,
    "x-max-priority": options.maxPriority,
    "x-single-active-consumer": options.singleActiveConsumer,
    "x-queue-mode": options.queueMode,
    "x-queue-version": options.version,
    "x-delivery-limit": options.deliveryLimit,
    "x-quorum-initial-group-size": options.initialGroupSize,
    "x-queue-leader-locator": options.leaderLocator,
    "x-max-age": seconds(options.maxAge),
    "x-stream-max-segment-size-bytes": options.maxSegmentSizeBytes,
    "x-initial-cluster-size": options.initialClusterSize,
    ...options.arguments
  }),
  ...policy(options)
})

/**
 * A classic queue, durable unless told otherwise.
 *
 * @category constructors
 * @since 0.1.0
 */
export const classicQueue: (name: string, options?: ClassicQueueOptions) => Queue = (
  name,
  options: AnyQueueOptions = {}
) => ({ _tag: "Queue", name, ...queue("classic", options) })

/**
 * A quorum queue (RabbitMQ): replicated, always durable.
 *
 * @category constructors
 * @since 0.1.0
 */
export const quorumQueue: (name: string, options?: QuorumQueueOptions) => Queue = (
  name,
  options: AnyQueueOptions = {}
) => ({ _tag: "Queue", name, ...queue("quorum", options) })

/**
 * A stream (RabbitMQ): a replicated log that consumers read from any place, always durable.
 *
 * @category constructors
 * @since 0.1.0
 */
export const streamQueue: (name: string, options?: StreamQueueOptions) => Queue = (
  name,
  options: AnyQueueOptions = {}
) => ({ _tag: "Queue", name, ...queue("stream", options) })

/**
 * A queue that must exist; it is checked, never declared.
 *
 * @category constructors
 * @since 0.1.0
 */
export const passiveQueue = (name: string, options: EntityOptions = {}): PassiveQueue => ({
  _tag: "PassiveQueue",
  name,
  ...policy(options)
})

/**
 * A classic queue that the broker names, exclusive and not durable unless told otherwise. In each epoch it is a new queue
 * with a new name; the value stands for it wherever a queue is expected.
 *
 * **Example**
 *
 * ```ts
 * const replies = AmqpTopology.serverNamedQueue()
 * const Topology = AmqpTopology.layer([
 *   replies,
 *   AmqpTopology.bind({ queue: replies, exchange: "amq.topic", routingKey: "reply.*" })
 * ])
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const serverNamedQueue: (options?: ClassicQueueOptions) => ServerNamedQueue = (
  options: AnyQueueOptions = {}
) => ({ _tag: "ServerNamedQueue", ...queue("classic", { durable: false, exclusive: true, ...options }) })

/**
 * Routes messages from an exchange to a queue.
 *
 * @category constructors
 * @since 0.1.0
 */
export const bind = (options: BindOptions): QueueBinding => ({
  _tag: "QueueBinding",
  queue: options.queue,
  exchange: options.exchange,
  routingKey: options.routingKey ?? "",
  arguments: defined(options.arguments ?? {}),
  ...policy(options)
})

/**
 * Routes messages from one exchange to another (RabbitMQ).
 *
 * @category constructors
 * @since 0.1.0
 */
export const bindExchange = (options: BindExchangeOptions): ExchangeBinding => ({
  _tag: "ExchangeBinding",
  destination: options.destination,
  source: options.source,
  routingKey: options.routingKey ?? "",
  arguments: defined(options.arguments ?? {}),
  ...policy(options)
})

/**
 * Queues of a topology: typed options, which become the arguments of `queue.declare`. `AmqpTopology` publishes them.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import { type Arguments, defined, type EntityOptions, policy } from "./entityOptions.ts"

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
 * A queue: its name, or the value of a server-named queue, which stands for the name that the broker gave it.
 *
 * @category models
 * @since 0.1.0
 */
export type QueueRef = string | ServerNamedQueue

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
 * A queue that the broker names. The value stands for the queue, whatever its name in the present epoch. Two values
 * with the same options are two queues.
 *
 * @category models
 * @since 0.1.0
 */
export interface ServerNamedQueue extends DeclaredQueue {
  readonly _tag: "ServerNamedQueue"
}

const millis = (input: Duration.Input | undefined): number | undefined =>
  input === undefined ? undefined : Duration.toMillis(Duration.fromInputUnsafe(input))

const seconds = (input: Duration.Input | undefined): string | undefined =>
  input === undefined ? undefined : `${Duration.toSeconds(Duration.fromInputUnsafe(input))}s`

/**
 * The options of all types of queues. Each public constructor takes those of its type. Callers without types can give
 * others, which the diagnosis then refuses.
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

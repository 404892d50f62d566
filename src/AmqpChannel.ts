/**
 * A channel: every operation of AMQP 0-9-1 and of RabbitMQ's extensions under its own name, scoped, with exactly the
 * errors that it can meet.
 *
 * A channel belongs to one epoch of its connection and ends with it, or with the first operation that the broker
 * refuses. Operations of many fibers on one channel are pipelined and do not wait for one another. Closing the scope
 * waits for unsettled confirms, then closes the channel, each within the connection's `closeTimeout`.
 *
 * Not offered, because nobody would learn of their failures or RabbitMQ refuses them: `no-wait` (requests are pipelined
 * instead), `immediate`, a `prefetch-size`, `recover` without requeueing, `recover-async`, and class access.
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { AmqpConnection, internals } from "./AmqpConnection.ts"
import { AmqpDelivery, AmqpUnacknowledged, type RefuseOptions, type Settled, settled } from "./AmqpDelivery.ts"
import {
  type AmqpAccessRefused,
  type AmqpChannelClosed,
  AmqpConnectionError,
  type AmqpConsumerCancelled,
  AmqpEncodeError,
  type AmqpMessageReturned,
  type AmqpNotFound,
  type AmqpPreconditionFailed,
  type AmqpResourceLocked,
  type AmqpStaleDelivery,
  ResourceError
} from "./AmqpError.ts"
import type { AmqpMessage, Publish } from "./AmqpMessage.ts"
import type { InputTable } from "./AmqpTable.ts"
import type { ChannelState, Request, Settlement } from "./internal/channelState.ts"
import { type ConsumerEnd, Deliveries, type MakeDelivery, type Pulled } from "./internal/deliveries.ts"
import { channelClosed, command, publish, type PublishError, request, type RequestError } from "./internal/requests.ts"
import type { Session } from "./internal/session.ts"

export type { PublishError, RequestError }

const TypeId = "~effect-amqp/AmqpChannel"

// -----------------------------------------------------------------------------
// options and results
// -----------------------------------------------------------------------------

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
  /** Refuses (403) if there is another consumer, and all that come later. Defaults to `false`. */
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
   * The deliveries, in arrays as they arrived. Ends after `cancel`; fails when the broker cancels the consumer or the
   * channel goes away, after the deliveries that came before.
   */
  readonly deliveries: Stream.Stream<D, ConsumerError>
  /** Stops deliveries; those that have come can still be taken and settled (specification 1.8.3.5). */
  readonly cancel: Effect.Effect<void, RequestError>
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
  /** Whether all earlier deliveries are settled as well, those included that nobody has taken yet. */
  readonly multiple?: boolean | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * What ends the deliveries of a consumer.
 *
 * @category errors
 * @since 0.1.0
 */
export type ConsumerError = AmqpConsumerCancelled | RequestError

/**
 * What a request can fail with that carries names or tables: nothing was sent for an `AmqpEncodeError`.
 *
 * @category errors
 * @since 0.1.0
 */
export type CommandError = RequestError | AmqpEncodeError

/** @category errors @since 0.1.0 */
export type ExchangeDeclareError = AmqpAccessRefused | AmqpPreconditionFailed | CommandError

/** @category errors @since 0.1.0 */
export type ExchangeDeclarePassiveError = AmqpAccessRefused | AmqpNotFound | CommandError

/** @category errors @since 0.1.0 */
export type ExchangeDeleteError = AmqpAccessRefused | AmqpPreconditionFailed | CommandError

/** @category errors @since 0.1.0 */
export type ExchangeBindError = AmqpAccessRefused | AmqpNotFound | AmqpPreconditionFailed | CommandError

/** @category errors @since 0.1.0 */
export type ExchangeUnbindError = AmqpAccessRefused | AmqpNotFound | CommandError

/** @category errors @since 0.1.0 */
export type QueueDeclareError =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | CommandError

/** @category errors @since 0.1.0 */
export type QueueDeclarePassiveError = AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | CommandError

/** @category errors @since 0.1.0 */
export type QueueBindError =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | CommandError

/** @category errors @since 0.1.0 */
export type QueueUnbindError = AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | CommandError

/** @category errors @since 0.1.0 */
export type QueuePurgeError = AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | CommandError

/** @category errors @since 0.1.0 */
export type QueueDeleteError =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | CommandError

/** @category errors @since 0.1.0 */
export type ConsumeError =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | CommandError

/** @category errors @since 0.1.0 */
export type GetError = AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | CommandError

/** @category errors @since 0.1.0 */
export type SelectError = AmqpPreconditionFailed | RequestError

/** @category errors @since 0.1.0 */
export type TransactionError = AmqpPreconditionFailed | AmqpMessageReturned | RequestError

// -----------------------------------------------------------------------------
// the channel
// -----------------------------------------------------------------------------

/**
 * A channel of a connection. Each operation sends the method of its name (specification 1.5 to 1.9).
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpChannel {
  readonly [TypeId]: typeof TypeId
  /** The channel's number on its connection. */
  readonly id: number
  /** The epoch of the connection that it belongs to. */
  readonly epoch: number

  /** Creates an exchange, or checks that the one of that name is the same (406 if not). */
  readonly exchangeDeclare: (options: ExchangeDeclareOptions) => Effect.Effect<void, ExchangeDeclareError>
  /** Checks that an exchange exists (404 if not). */
  readonly exchangeDeclarePassive: (exchange: string) => Effect.Effect<void, ExchangeDeclarePassiveError>
  /** Deletes an exchange; one that does not exist is no error. */
  readonly exchangeDelete: (options: ExchangeDeleteOptions) => Effect.Effect<void, ExchangeDeleteError>
  /** Routes messages from one exchange to another (RabbitMQ). Idempotent. */
  readonly exchangeBind: (options: ExchangeBindOptions) => Effect.Effect<void, ExchangeBindError>
  /** Undoes `exchangeBind`. Idempotent. */
  readonly exchangeUnbind: (options: ExchangeBindOptions) => Effect.Effect<void, ExchangeUnbindError>

  /** Creates a queue, or checks that the one of that name is the same (406 if not). */
  readonly queueDeclare: (options?: QueueDeclareOptions) => Effect.Effect<QueueInfo, QueueDeclareError>
  /** Checks that a queue exists (404 if not) and tells its counts. */
  readonly queueDeclarePassive: (queue: string) => Effect.Effect<QueueInfo, QueueDeclarePassiveError>
  /** Routes messages from an exchange to a queue. Idempotent. */
  readonly queueBind: (options: QueueBindOptions) => Effect.Effect<void, QueueBindError>
  /** Undoes `queueBind`. Idempotent. */
  readonly queueUnbind: (options: QueueBindOptions) => Effect.Effect<void, QueueUnbindError>
  /** Drops the messages that are ready; unsettled ones stay. Returns how many. */
  readonly queuePurge: (queue: string) => Effect.Effect<number, QueuePurgeError>
  /** Deletes a queue; one that does not exist is no error. Returns how many messages went with it. */
  readonly queueDelete: (options: QueueDeleteOptions) => Effect.Effect<number, QueueDeleteError>

  /** Limits the unsettled deliveries of the consumers that are created after it. */
  readonly qos: (options: QosOptions) => Effect.Effect<void, CommandError>
  /**
   * Publishes a message.
   *
   * **Details**
   *
   * After `confirmSelect` it waits for the broker and has exactly one outcome: success (confirmed),
   * `AmqpPublishNacked`, `AmqpMessageReturned` (mandatory and not routed), a refusal (the exchange does not exist), or
   * `AmqpPublishUnconfirmed` if the channel went away in between. Before, it succeeds when the frames are in the
   * outgoing buffer, and a refusal shows as the end of the channel. It waits while the connection is blocked or too
   * much is unwritten; interrupted there, nothing was sent. `AmqpEncodeError` and `AmqpChannelClosed` mean that nothing
   * was sent either.
   */
  readonly publish: (message: Publish) => Effect.Effect<void, PublishError>
  /** Takes one message from a queue, if there is one. An interrupted `get` gives its message back. */
  readonly get: {
    (options: GetOptions & { readonly noAck: true }): Effect.Effect<Option.Option<Got<AmqpUnacknowledged>>, GetError>
    (
      options: GetOptions & { readonly noAck?: false | undefined }
    ): Effect.Effect<Option.Option<Got<AmqpDelivery>>, GetError>
  }
  /**
   * Subscribes to a queue. The scope cancels the consumer and gives its unsettled deliveries back to the queue.
   *
   * **Details**
   *
   * Set `qos` before: without it the broker sends all it has, and the client stops reading the socket when 4096
   * deliveries or 8 MiB wait for a consumer.
   */
  readonly consume: {
    (
      options: ConsumeOptions & { readonly noAck: true }
    ): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
    (
      options: ConsumeOptions & { readonly noAck?: false | undefined }
    ): Effect.Effect<Consumer<AmqpDelivery>, ConsumeError, Scope.Scope>
  }
  /** Ends a consumer by its tag; an unknown tag is no error. Its deliveries that have come can still be settled. */
  readonly cancel: (consumerTag: string) => Effect.Effect<void, CommandError>

  /** Acknowledges a delivery by its number, or all up to it. `delivery.ack` is the same for one. */
  readonly ack: (options: SettleOptions) => Effect.Effect<Settled, AmqpStaleDelivery>
  /** Gives a delivery back by its number, or all up to it (RabbitMQ). */
  readonly nack: (options: SettleOptions & RefuseOptions) => Effect.Effect<Settled, AmqpStaleDelivery>
  /** Gives a delivery back by its number. */
  readonly reject: (
    options: RefuseOptions & { readonly deliveryTag: number }
  ) => Effect.Effect<Settled, AmqpStaleDelivery>
  /** Has the broker deliver everything unsettled again, with new numbers; the old deliveries count as settled. */
  readonly recover: Effect.Effect<void, RequestError>

  /** Turns on publisher confirms (RabbitMQ). Sent once; refused (406) on a channel with transactions. */
  readonly confirmSelect: Effect.Effect<void, SelectError>
  /** Waits until every publish of this channel has its outcome. */
  readonly waitForConfirms: Effect.Effect<void, RequestError>
  /**
   * Publishes and settles as one: commits if the effect succeeds, rolls back if it fails or is interrupted.
   *
   * **Details**
   *
   * Transactions of one channel follow one another; what other fibers do on the channel meanwhile is part of the one
   * that is open. A mandatory message that no queue took fails the transaction with `AmqpMessageReturned`, though the
   * rest of it is committed: the broker tells only at the commit. Refused (406) on a channel with confirms.
   */
  readonly transaction: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | TransactionError, R>
  /**
   * Asks the broker to stop or to resume deliveries (specification 1.5.2.3). RabbitMQ refuses to stop (540).
   */
  readonly flow: (active: boolean) => Effect.Effect<void, RequestError>

  /** Closes the channel, as its scope does: waits for unsettled confirms, then closes. Closing again does nothing. */
  readonly close: Effect.Effect<void>
  /** Waits for the end of the channel, however it comes, and tells its reason in `cause`. */
  readonly closed: Effect.Effect<AmqpChannelClosed>
}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpChannel = Context.Service<AmqpChannel>("effect-amqp/AmqpChannel")

// -----------------------------------------------------------------------------
// consuming
// -----------------------------------------------------------------------------

const ended = (end: ConsumerEnd, channel: ChannelState): Effect.Effect<never, ConsumerError | Cause.Done> => {
  switch (end._tag) {
    case "Cancelled":
      return Cause.done()
    case "CancelledByBroker":
      return Effect.fail(end.error)
    case "ChannelClosed":
      return Effect.fail(end.cause instanceof AmqpConnectionError ? end.cause : channelClosed(channel, "basic.deliver"))
  }
}

const isEnd = <D>(pulled: Pulled<D>): pulled is ConsumerEnd => "_tag" in pulled

/** One Effect per pulled array; none per delivery. */
const deliveriesOf = <D extends AmqpMessage>(
  deliveries: Deliveries<D>,
  channel: ChannelState
): Stream.Stream<D, ConsumerError> =>
  Stream.fromPull(Effect.succeed(
    Effect.callback<Arr.NonEmptyReadonlyArray<D>, ConsumerError | Cause.Done>((resume) => {
      const callback = (pulled: Pulled<D>): void => {
        if (isEnd(pulled)) resume(ended(pulled, channel))
        else resume(Effect.succeed(pulled))
      }
      deliveries.pull(callback)
      return Effect.sync(() => deliveries.unpull(callback))
    })
  ))

// -----------------------------------------------------------------------------
// implementation
// -----------------------------------------------------------------------------

class Impl implements AmqpChannel {
  readonly [TypeId]: typeof TypeId = TypeId
  private readonly session: Session
  private readonly state: ChannelState
  private readonly bounded: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<void>
  /** Consumers that wait for their `consume-ok`. */
  private readonly consuming = new Map<string, Latch.Latch>()
  private readonly transacting = Semaphore.makeUnsafe(1)

  constructor(
    session: Session,
    state: ChannelState,
    bounded: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<void>
  ) {
    this.session = session
    this.state = state
    this.bounded = bounded
  }

  get id(): number {
    return this.state.id
  }

  get epoch(): number {
    return this.state.epoch
  }

  // --- exchanges

  exchangeDeclare(options: ExchangeDeclareOptions): Effect.Effect<void, ExchangeDeclareError> {
    return request(this.state, {
      _tag: "exchange.declare",
      exchange: options.exchange,
      type: options.type ?? "direct",
      passive: false,
      durable: options.durable ?? false,
      autoDelete: options.autoDelete ?? false,
      internal: options.internal ?? false,
      noWait: false,
      arguments: options.arguments ?? {}
    }, {
      entity: options.exchange,
      soft: ["AmqpAccessRefused", "AmqpPreconditionFailed"],
      onReply: () => {}
    })
  }

  exchangeDeclarePassive(exchange: string): Effect.Effect<void, ExchangeDeclarePassiveError> {
    return request(this.state, {
      _tag: "exchange.declare",
      exchange,
      type: "direct",
      passive: true,
      durable: false,
      autoDelete: false,
      internal: false,
      noWait: false,
      arguments: {}
    }, { entity: exchange, soft: ["AmqpAccessRefused", "AmqpNotFound"], onReply: () => {} })
  }

  exchangeDelete({ exchange, ifUnused = false }: ExchangeDeleteOptions): Effect.Effect<void, ExchangeDeleteError> {
    return request(this.state, { _tag: "exchange.delete", exchange, ifUnused, noWait: false }, {
      entity: exchange,
      soft: ["AmqpAccessRefused", "AmqpPreconditionFailed"],
      onReply: () => {}
    })
  }

  exchangeBind(options: ExchangeBindOptions): Effect.Effect<void, ExchangeBindError> {
    return request(this.state, {
      _tag: "exchange.bind",
      destination: options.destination,
      source: options.source,
      routingKey: options.routingKey ?? "",
      noWait: false,
      arguments: options.arguments ?? {}
    }, {
      entity: options.destination,
      soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpPreconditionFailed"],
      onReply: () => {}
    })
  }

  exchangeUnbind(options: ExchangeBindOptions): Effect.Effect<void, ExchangeUnbindError> {
    return request(this.state, {
      _tag: "exchange.unbind",
      destination: options.destination,
      source: options.source,
      routingKey: options.routingKey ?? "",
      noWait: false,
      arguments: options.arguments ?? {}
    }, { entity: options.destination, soft: ["AmqpAccessRefused", "AmqpNotFound"], onReply: () => {} })
  }

  // --- queues

  queueDeclare(options: QueueDeclareOptions = {}): Effect.Effect<QueueInfo, QueueDeclareError> {
    const queue = options.queue ?? ""
    return request(this.state, {
      _tag: "queue.declare",
      queue,
      passive: false,
      durable: options.durable ?? false,
      exclusive: options.exclusive ?? false,
      autoDelete: options.autoDelete ?? false,
      noWait: false,
      arguments: options.arguments ?? {}
    }, {
      entity: queue,
      soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked", "AmqpPreconditionFailed"],
      onReply: ({ consumerCount, messageCount, queue }): QueueInfo => ({ queue, messageCount, consumerCount }),
      // Nobody knows the name that the broker has made up.
      onLateReply: (reply) => queue === "" && this.forget(reply.queue)
    })
  }

  /** Deletes a queue without waiting for it. */
  private forget(queue: string): void {
    if (this.state.isClosed) return
    this.state.request({ _tag: "queue.delete", queue, ifUnused: false, ifEmpty: false, noWait: false }, {
      entity: queue,
      onReply: () => {},
      onFailure: () => {}
    })
  }

  queueDeclarePassive(queue: string): Effect.Effect<QueueInfo, QueueDeclarePassiveError> {
    return request(this.state, {
      _tag: "queue.declare",
      queue,
      passive: true,
      durable: false,
      exclusive: false,
      autoDelete: false,
      noWait: false,
      arguments: {}
    }, {
      entity: queue,
      soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked"],
      onReply: ({ consumerCount, messageCount, queue }): QueueInfo => ({ queue, messageCount, consumerCount })
    })
  }

  queueBind(options: QueueBindOptions): Effect.Effect<void, QueueBindError> {
    return request(this.state, {
      _tag: "queue.bind",
      queue: options.queue,
      exchange: options.exchange,
      routingKey: options.routingKey ?? "",
      noWait: false,
      arguments: options.arguments ?? {}
    }, {
      entity: options.queue,
      soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked", "AmqpPreconditionFailed"],
      onReply: () => {}
    })
  }

  queueUnbind(options: QueueBindOptions): Effect.Effect<void, QueueUnbindError> {
    return request(this.state, {
      _tag: "queue.unbind",
      queue: options.queue,
      exchange: options.exchange,
      routingKey: options.routingKey ?? "",
      arguments: options.arguments ?? {}
    }, {
      entity: options.queue,
      soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked"],
      onReply: () => {}
    })
  }

  queuePurge(queue: string): Effect.Effect<number, QueuePurgeError> {
    return request(this.state, { _tag: "queue.purge", queue, noWait: false }, {
      entity: queue,
      soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked"],
      onReply: ({ messageCount }) => messageCount
    })
  }

  queueDelete(
    { ifEmpty = false, ifUnused = false, queue }: QueueDeleteOptions
  ): Effect.Effect<number, QueueDeleteError> {
    return request(this.state, { _tag: "queue.delete", queue, ifUnused, ifEmpty, noWait: false }, {
      entity: queue,
      soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked", "AmqpPreconditionFailed"],
      onReply: ({ messageCount }) => messageCount
    })
  }

  // --- messages

  qos({ global = false, prefetchCount }: QosOptions): Effect.Effect<void, CommandError> {
    return request(this.state, { _tag: "basic.qos", prefetchSize: 0, prefetchCount, global }, {
      soft: [],
      onReply: () => {}
    })
  }

  publish(message: Publish): Effect.Effect<void, PublishError> {
    return publish(this.state, message)
  }

  get(
    options: GetOptions & { readonly noAck: true }
  ): Effect.Effect<Option.Option<Got<AmqpUnacknowledged>>, GetError>
  get(
    options: GetOptions & { readonly noAck?: false | undefined }
  ): Effect.Effect<Option.Option<Got<AmqpDelivery>>, GetError>
  get({ noAck = false, queue }: GetOptions): Effect.Effect<Option.Option<Got<AmqpUnacknowledged>>, GetError> {
    const { state } = this
    return request(state, { _tag: "basic.get", queue, noAck }, {
      entity: queue,
      soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked"],
      onReply: (reply, content): Option.Option<Got<AmqpUnacknowledged>> => {
        if (reply._tag === "basic.get-empty" || content === undefined) return Option.none()
        const { deliveryTag, exchange, messageCount, redelivered, routingKey } = reply
        const delivery = noAck
          ? new AmqpUnacknowledged(deliveryTag, redelivered, exchange, routingKey, content)
          : new AmqpDelivery(state, deliveryTag, redelivered, exchange, routingKey, content)
        return Option.some({ delivery, messageCount })
      },
      onLateReply: (reply) => {
        if (reply._tag === "basic.get-ok" && !noAck) state.settle(reply.deliveryTag, { _tag: "Nack", requeue: true })
      }
    })
  }

  consume(
    options: ConsumeOptions & { readonly noAck: true }
  ): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
  consume(
    options: ConsumeOptions & { readonly noAck?: false | undefined }
  ): Effect.Effect<Consumer<AmqpDelivery>, ConsumeError, Scope.Scope>
  consume(options: ConsumeOptions): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope> {
    const { state } = this
    const make: MakeDelivery<AmqpUnacknowledged> = options.noAck === true
      ? (deliveryTag, redelivered, exchange, routingKey, content) =>
        new AmqpUnacknowledged(deliveryTag, redelivered, exchange, routingKey, content)
      : (deliveryTag, redelivered, exchange, routingKey, content) =>
        new AmqpDelivery(state, deliveryTag, redelivered, exchange, routingKey, content)
    return Effect.suspend(() => {
      const { arguments: args = {}, consumerTag = this.session.consumerTag(), exclusive = false, noAck = false, queue } =
        options
      if (state.hasConsumer(consumerTag)) {
        const reason = "this channel has a consumer of that tag"
        return Effect.fail(new AmqpEncodeError({ path: "consumerTag", reason }))
      }
      const deliveries = new Deliveries({ consumerTag, queue, noAck }, make, this.session)
      const subscribe = this.subscribe(deliveries, {
        _tag: "basic.consume",
        queue,
        consumerTag,
        noLocal: false,
        noAck,
        exclusive,
        noWait: false,
        arguments: args
      })
      // The finalizer comes first: no interruption can fall between the reply and it.
      return Effect.addFinalizer(() => this.bounded(this.unsubscribe(deliveries))).pipe(
        Effect.andThen(subscribe),
        Effect.as<Consumer<AmqpUnacknowledged>>({
          consumerTag,
          deliveries: deliveriesOf(deliveries, state),
          cancel: this.stop(consumerTag)
        })
      )
    })
  }

  private subscribe<D extends AmqpMessage>(
    deliveries: Deliveries<D>,
    consume: Request<"basic.consume">
  ): Effect.Effect<void, ConsumeError> {
    const { state } = this
    const { consumerTag } = deliveries
    const answered = Latch.makeUnsafe(false)
    const onAnswer = (): void => {
      this.consuming.delete(consumerTag)
      answered.openUnsafe()
    }
    return Effect.suspend(() => {
      // Deliveries may be in the same chunk as the reply.
      state.addConsumer(deliveries)
      this.consuming.set(consumerTag, answered)
      return request(state, consume, {
        entity: deliveries.queue,
        soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked", "AmqpPreconditionFailed"],
        onReply: onAnswer,
        onLateReply: () => {
          onAnswer()
          this.cancelUnsafe(deliveries, () => {})
        }
      })
    }).pipe(Effect.onError((cause) =>
      Effect.sync(() => {
        // An interrupted subscription is answered all the same, unless the channel goes.
        if (Cause.hasInterruptsOnly(cause)) return state.onClosed(onAnswer)
        state.removeConsumer(deliveries)
        onAnswer()
      })
    ))
  }

  /** Cancels a consumer and gives back what was not settled; calls back when that is done. */
  private cancelUnsafe<D extends AmqpMessage>(deliveries: Deliveries<D>, done: () => void): void {
    const { state } = this
    const giveBack = () => {
      state.requeueAll(deliveries)
      state.removeConsumer(deliveries)
      done()
    }
    if (state.isClosed) return done()
    // Cancelled already, by `cancel` or by the broker.
    if (!state.hasConsumer(deliveries.consumerTag)) return giveBack()
    state.request({ _tag: "basic.cancel", consumerTag: deliveries.consumerTag, noWait: false }, {
      entity: deliveries.queue,
      onReply: giveBack,
      onFailure: done
    })
  }

  private unsubscribe<D extends AmqpMessage>(deliveries: Deliveries<D>): Effect.Effect<void> {
    return Effect.andThen(
      this.answered(deliveries.consumerTag),
      Effect.callback<void>((resume) => this.cancelUnsafe(deliveries, () => resume(Effect.void)))
    )
  }

  /** `basic.cancel` before `consume-ok` would end the connection (541). */
  private answered(consumerTag: string): Effect.Effect<void> {
    return Effect.suspend(() => this.consuming.get(consumerTag)?.await ?? Effect.void)
  }

  cancel(consumerTag: string): Effect.Effect<void, CommandError> {
    const onReply = () => this.state.endConsumer(consumerTag)
    return Effect.andThen(
      this.answered(consumerTag),
      request(this.state, { _tag: "basic.cancel", consumerTag, noWait: false }, {
        soft: [],
        onReply,
        onLateReply: onReply
      })
    )
  }

  private stop(consumerTag: string): Effect.Effect<void, RequestError> {
    return Effect.suspend(() =>
      this.state.hasConsumer(consumerTag)
        // A tag that was sent once can be sent again.
        ? Effect.catchTag(this.cancel(consumerTag), "AmqpEncodeError", Effect.die)
        : Effect.void
    )
  }

  // --- settling

  private settle({ deliveryTag, multiple = false }: SettleOptions, settlement: Settlement) {
    return Effect.suspend(() => {
      const { state } = this
      const result = multiple
        ? state.settleUpTo(deliveryTag === 0 ? undefined : deliveryTag, settlement)
        : state.settle(deliveryTag, settlement)
      return settled(result, deliveryTag, state.epoch)
    })
  }

  ack(options: SettleOptions): Effect.Effect<Settled, AmqpStaleDelivery> {
    return this.settle(options, { _tag: "Ack" })
  }

  nack({ requeue = true, ...options }: SettleOptions & RefuseOptions): Effect.Effect<Settled, AmqpStaleDelivery> {
    return this.settle(options, { _tag: "Nack", requeue })
  }

  reject(
    { deliveryTag, requeue = true }: RefuseOptions & { readonly deliveryTag: number }
  ): Effect.Effect<Settled, AmqpStaleDelivery> {
    return this.settle({ deliveryTag }, { _tag: "Reject", requeue })
  }

  get recover(): Effect.Effect<void, RequestError> {
    return command(this.state, { _tag: "basic.recover", requeue: true }, { soft: [], onReply: () => {} })
  }

  // --- modes

  get confirmSelect(): Effect.Effect<void, SelectError> {
    return Effect.suspend(() =>
      this.state.mode === "confirm" && !this.state.isClosed
        ? Effect.void
        : command(this.state, { _tag: "confirm.select", noWait: false }, {
          soft: ["AmqpPreconditionFailed"],
          onReply: () => {}
        })
    )
  }

  get waitForConfirms(): Effect.Effect<void, RequestError> {
    return Effect.suspend(() => {
      const { state } = this
      if (state.isClosed) return Effect.fail(channelClosed(state, "waitForConfirms"))
      return Effect.andThen(this.confirmsIdle, Effect.suspend(() =>
        state.isClosed ? Effect.fail(channelClosed(state, "waitForConfirms")) : Effect.void
      ))
    })
  }

  private get confirmsIdle(): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const { confirms } = this.state
      if (confirms.unsettled === 0) return resume(Effect.void)
      const callback = () => resume(Effect.void)
      confirms.onIdle(callback)
      return Effect.sync(() => confirms.offIdle(callback))
    })
  }

  transaction<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | TransactionError, R> {
    const { state } = this
    const select = command(state, { _tag: "tx.select" }, { soft: ["AmqpPreconditionFailed"], onReply: () => {} })
    const commit = command(state, { _tag: "tx.commit" }, { soft: ["AmqpPreconditionFailed"], onReply: () => {} })
    const rollback = command(state, { _tag: "tx.rollback" }, { soft: [], onReply: () => {} })
    return this.transacting.withPermit(Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        if (state.mode !== "tx") yield* select
        const exit = yield* Effect.exit(restore(effect))
        if (Exit.isFailure(exit)) {
          // A channel that is gone has rolled back.
          yield* Effect.ignore(rollback)
          return yield* exit
        }
        yield* commit
        const returned = state.takeReturned()[0]
        return returned === undefined ? exit.value : yield* returned
      })
    ))
  }

  flow(active: boolean): Effect.Effect<void, RequestError> {
    return command(this.state, { _tag: "channel.flow", active }, { soft: [], onReply: () => {} })
  }

  // --- the end

  private get gone(): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const callback = () => resume(Effect.void)
      this.state.onClosed(callback)
      return Effect.sync(() => this.state.offClosed(callback))
    })
  }

  get close(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { state } = this
      if (state.isClosed) return this.bounded(this.gone)
      return this.bounded(this.confirmsIdle).pipe(
        Effect.andThen(Effect.sync(() => state.close())),
        Effect.andThen(this.bounded(this.gone))
      )
    })
  }

  get closed(): Effect.Effect<AmqpChannelClosed> {
    return Effect.map(this.gone, () => channelClosed(this.state, "channel"))
  }
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/** A channel of a number that is free. */
const allocate = (session: Session, id: number | undefined): Effect.Effect<ChannelState, CommandError> => {
  if (session.error !== undefined) return Effect.fail(session.error)
  const state = session.openChannel(id)
  if (state !== undefined) return Effect.succeed(state)
  if (id !== undefined) {
    const reason = `expected a number from 1 to ${session.channelMax} that is not open, not ${id}`
    return Effect.fail(new AmqpEncodeError({ path: "id", reason }))
  }
  const reason = new ResourceError({
    replyCode: 506,
    replyText: `all ${session.channelMax} channels of this connection are open`,
    classId: 20,
    methodId: 10
  })
  return Effect.fail(new AmqpConnectionError({ reason }))
}

/**
 * Opens a channel of the connection and closes it with the scope (specification 1.5.2.1).
 *
 * **Details**
 *
 * `id` asks for a channel number; one that is taken or out of range is an `AmqpEncodeError`. Without it the connection
 * picks a number, and uses the numbers in turn. Fails with `AmqpConnectionError` (`ResourceError`) when all are open.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: { readonly id?: number | undefined } = {}
): Effect.Effect<AmqpChannel, CommandError, AmqpConnection | Scope.Scope> =>
  Effect.gen(function*() {
    const { closeTimeout, session } = (yield* AmqpConnection)[internals]
    const bounded = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<void> =>
      Effect.ignore(Effect.timeoutOption(Effect.interruptible(effect), closeTimeout))
    return yield* Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const state = yield* Effect.suspend(() => allocate(session, options.id))
        const channel: AmqpChannel = new Impl(session, state, bounded)
        yield* Effect.addFinalizer(() => channel.close)
        yield* restore(command(state, { _tag: "channel.open" }, {
          soft: [],
          onReply: () => {},
          onLateReply: () => state.close()
        }))
        return channel
      })
    )
  })

/**
 * Opens a channel of the connection and closes it with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open: Effect.Effect<AmqpChannel, RequestError, AmqpConnection | Scope.Scope> = Effect.catchTag(
  make(),
  "AmqpEncodeError",
  Effect.die
)

/**
 * A channel that everything above the layer shares.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<AmqpChannel, RequestError, AmqpConnection> = Layer.effect(AmqpChannel, open)

/**
 * A channel as its users see it. `AmqpChannel` publishes it.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { Publish } from "../codec/message.ts"
import type { AmqpChannelClosed, AmqpStaleDelivery } from "../errors/channel.ts"
import type { AmqpDelivery, AmqpUnacknowledged, RefuseOptions, Settled } from "./delivery.ts"
import type {
  ClosedError,
  ConsumeError,
  ExchangeBindError,
  ExchangeDeclareError,
  ExchangeDeclarePassiveError,
  ExchangeDeleteError,
  ExchangeUnbindError,
  GetError,
  PublishError,
  QueueBindError,
  QueueDeclareError,
  QueueDeclarePassiveError,
  QueueDeleteError,
  QueuePurgeError,
  QueueUnbindError,
  RequestError,
  SelectError,
  TransactionError
} from "./errors.ts"
import type {
  ConsumeOptions,
  Consumer,
  ExchangeBindOptions,
  ExchangeDeclareOptions,
  ExchangeDeleteOptions,
  GetOptions,
  Got,
  QosOptions,
  QueueBindOptions,
  QueueDeclareOptions,
  QueueDeleteOptions,
  QueueInfo,
  SettleOptions
} from "./options.ts"

/** Tells channels from other values. */
export const TypeId = "~effect-amqp/AmqpChannel"

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
  readonly qos: (options: QosOptions) => Effect.Effect<void, RequestError>
  /**
   * Publishes a message.
   *
   * **Details**
   *
   * After `confirmSelect` it waits for the broker and has exactly one outcome: success (confirmed),
   * `AmqpPublishNacked`, `AmqpMessageReturned` (mandatory and not routed), a refusal (the exchange does not exist), or
   * `AmqpPublishUnconfirmed` if the channel went away in between. Without `confirmSelect` it succeeds when the frames
   * are in the outgoing buffer, and a refusal ends the channel. It waits while the connection is blocked or too much is
   * unwritten. If it is interrupted there, nothing was sent. `AmqpEncodeError` and `AmqpChannelClosed` mean that
   * nothing was sent either.
   */
  readonly publish: (message: Publish) => Effect.Effect<void, PublishError>
  /** Takes one message from a queue, if there is one. An interrupted `get` gives its message back. */
  readonly get: {
    (options: GetOptions & { readonly noAck: true }): Effect.Effect<Option.Option<Got<AmqpUnacknowledged>>, GetError>
    (
      options: GetOptions & { readonly noAck?: false | undefined }
    ): Effect.Effect<Option.Option<Got<AmqpDelivery>>, GetError>
    (options: GetOptions): Effect.Effect<Option.Option<Got<AmqpUnacknowledged>>, GetError>
  }
  /**
   * Subscribes to a queue. The scope cancels the consumer and gives its unsettled deliveries back to the queue.
   *
   * **Details**
   *
   * Set `qos` before: without it the broker sends all it has. When 4096 deliveries or 8 MiB wait for a consumer, the
   * socket is read only in small steps: when the consumer takes them, every five seconds, and while somebody waits for
   * a reply or a confirm, which could not come otherwise. At 64 MiB (128 bytes for each delivery, plus its body) it is
   * not read at all. RabbitMQ closes a connection that takes nothing for some 30 seconds.
   */
  readonly consume: {
    (
      options: ConsumeOptions & { readonly noAck: true }
    ): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
    (
      options: ConsumeOptions & { readonly noAck?: false | undefined }
    ): Effect.Effect<Consumer<AmqpDelivery>, ConsumeError, Scope.Scope>
    (options: ConsumeOptions): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
  }
  /** Ends a consumer by its tag; an unknown tag is no error. Its deliveries that have come can still be settled. */
  readonly cancel: (consumerTag: string) => Effect.Effect<void, RequestError>

  /** Acknowledges a delivery by its number, or all up to it. `delivery.ack` is the same for one. */
  readonly ack: (options: SettleOptions) => Effect.Effect<Settled, AmqpStaleDelivery>
  /** Gives a delivery back by its number, or all up to it (RabbitMQ). */
  readonly nack: (options: SettleOptions & RefuseOptions) => Effect.Effect<Settled, AmqpStaleDelivery>
  /** Gives a delivery back by its number. */
  readonly reject: (
    options: RefuseOptions & { readonly deliveryTag: number }
  ) => Effect.Effect<Settled, AmqpStaleDelivery>
  /** Asks the broker to deliver all unsettled messages again, with new numbers. The old deliveries count as settled. */
  readonly recover: Effect.Effect<void, ClosedError>

  /** Turns on publisher confirms (RabbitMQ). Sent once; refused (406) on a channel with transactions. */
  readonly confirmSelect: Effect.Effect<void, SelectError>
  /** Waits until every publish of this channel has its outcome. */
  readonly waitForConfirms: Effect.Effect<void, ClosedError>
  /**
   * Publishes and settles as one: commits if the effect succeeds, rolls back if it fails or is interrupted.
   *
   * **Details**
   *
   * Transactions of one channel run one after another. What other fibers do on the channel meanwhile is part of the
   * open one. Mandatory messages that no queue took fail the transaction with an `AmqpMessageReturned` each, though the
   * rest is committed: the broker tells it only at the commit. A publish that the broker refuses closes the channel and
   * fails the transaction with that refusal; nothing is committed. `entity` is the exchange, and `routingKey` that of
   * the publish, where the broker's words tell it. A channel with confirms refuses transactions (406).
   *
   * **Gotchas**
   *
   * The channel stays transactional: outside of a transaction `publish` fails with `AmqpEncodeError`, and settlements
   * wait for the next commit. A transaction inside another one of the same channel is a defect.
   */
  readonly transaction: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | TransactionError, R>
  /**
   * Asks the broker to stop or to resume deliveries (specification 1.5.2.3). RabbitMQ refuses to stop (540).
   */
  readonly flow: (active: boolean) => Effect.Effect<void, ClosedError>

  /**
   * Closes the channel, as its scope does: takes nothing new, waits for unsettled confirms, then for the broker's
   * answer. Both together take at most `closeTimeout`. Closing again does nothing.
   */
  readonly close: Effect.Effect<void>
  /**
   * Waits for the end of the channel, whatever ends it. `cause` is the reason, also where the broker refused something
   * during the close.
   */
  readonly closed: Effect.Effect<AmqpChannelClosed>
}

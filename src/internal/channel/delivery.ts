/**
 * Messages that a consumer or `basic.get` received, and how they are settled.
 *
 * A delivery belongs to one channel of one epoch. It is settled there, at most once. Settling returns what it did. It
 * does not wait for the broker, which sends no answer.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { ReceivedContent } from "../codec/frames.ts"
import { AmqpMessage } from "../codec/message.ts"
import type { ChannelState, SettleResult } from "../engine/channelState.ts"
import type { DeliverySource } from "../engine/deliveries.ts"
import type { Settlement } from "../engine/settlements.ts"
import { AmqpStaleDelivery } from "../errors/channel.ts"

/**
 * What settling a delivery did: `"AlreadySettled"` means that it had been settled before, or taken back by
 * `basic.recover` or by the end of its consumer; nothing was sent then.
 *
 * @category models
 * @since 0.1.0
 */
export type Settled = "Settled" | "AlreadySettled"

const results: Record<Settled, Effect.Effect<Settled>> = {
  Settled: Effect.succeed("Settled"),
  AlreadySettled: Effect.succeed("AlreadySettled")
}

/**
 * The result of settling as an Effect.
 *
 * @internal
 */
export const settled = (
  result: SettleResult,
  deliveryTag: number,
  epoch: number
): Effect.Effect<Settled, AmqpStaleDelivery> =>
  result === "Stale" ? Effect.fail(new AmqpStaleDelivery({ deliveryTag, epoch })) : results[result]

/**
 * How to give a delivery back.
 *
 * @category models
 * @since 0.1.0
 */
export interface RefuseOptions {
  /**
   * Whether the message goes back to its queue; otherwise it is dead-lettered or dropped. Defaults to `true`.
   */
  readonly requeue?: boolean | undefined
}

/**
 * A delivery that must not be settled, because its consumer takes messages without acknowledgement.
 *
 * @category models
 * @since 0.1.0
 */
export class AmqpUnacknowledged extends AmqpMessage {
  /** The number of the delivery on its channel, from 1. */
  readonly deliveryTag: number
  /** A hint that the message may have been delivered before. */
  readonly redelivered: boolean
  readonly #source: DeliverySource

  /** @internal */
  constructor(
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    content: ReceivedContent,
    source: DeliverySource
  ) {
    super(exchange, routingKey, content)
    this.deliveryTag = deliveryTag
    this.redelivered = redelivered
    this.#source = source
  }

  /** The queue that it was consumed or taken from. */
  get queue(): string {
    return this.#source.queue
  }

  /** The tag of the consumer that it came to; empty where `get` took it. */
  get consumerTag(): string {
    return this.#source.consumerTag
  }

  /** The number of the channel that it came on. */
  get channel(): number {
    return this.#source.channel
  }

  /** @internal */
  isFrom(source: DeliverySource): boolean {
    return source === this.#source
  }

  override toJSON(): unknown {
    const { channel, consumerTag, deliveryTag, queue, redelivered } = this
    return { ...Object(super.toJSON()), queue, consumerTag, channel, deliveryTag, redelivered }
  }
}

/**
 * A delivery that is settled on its channel, once. `Stale` and `E` are what settling yields and fails with once the
 * channel is gone: the broker then delivers the message again.
 *
 * @category models
 * @since 0.1.0
 */
export abstract class Settleable<Stale, E> extends AmqpUnacknowledged {
  readonly #channel: ChannelState

  /** @internal */
  constructor(
    channel: ChannelState,
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    content: ReceivedContent,
    source: DeliverySource
  ) {
    super(deliveryTag, redelivered, exchange, routingKey, content, source)
    this.#channel = channel
  }

  /** @internal */
  isOn(channel: ChannelState): boolean {
    return channel === this.#channel
  }

  /**
   * Marks it as handled: the end of its consumer no longer gives it back. Returns whether it may be handled.
   *
   * @internal
   */
  begin(): boolean {
    return this.#channel.begin(this.deliveryTag)
  }

  /** The epoch of the connection that the delivery came from. */
  get epoch(): number {
    return this.#channel.epoch
  }

  /** Whether it can no longer be settled. */
  get isStale(): boolean {
    return this.#channel.isClosed
  }

  /** Tells the broker that the message has been handled, so that it forgets it. */
  get ack(): Effect.Effect<Settled | Stale, E> {
    return Effect.suspend(() => this.#result(this.#channel.ack(this.deliveryTag)))
  }

  /**
   * Gives the message back: it goes back to its queue, or is dead-lettered or dropped. From RabbitMQ 4.3 on this does not
   * count towards the delivery limit of a quorum queue.
   */
  nack(options?: RefuseOptions): Effect.Effect<Settled | Stale, E> {
    return this.#settle({ _tag: "Nack", requeue: options?.requeue ?? true })
  }

  /** Does what `nack` does, and counts towards the delivery limit on every version: for a message that failed. */
  reject(options?: RefuseOptions): Effect.Effect<Settled | Stale, E> {
    return this.#settle({ _tag: "Reject", requeue: options?.requeue ?? true })
  }

  #settle(settlement: Settlement): Effect.Effect<Settled | Stale, E> {
    return Effect.suspend(() => this.#result(this.#channel.settle(this.deliveryTag, settlement)))
  }

  #result(result: SettleResult): Effect.Effect<Settled | Stale, E> {
    if (result !== "Stale") return results[result]
    return this.onStale(new AmqpStaleDelivery({ deliveryTag: this.deliveryTag, epoch: this.epoch }))
  }

  /** @internal */
  protected abstract onStale(stale: AmqpStaleDelivery): Effect.Effect<Stale, E>
}

/**
 * A delivery to be settled: `ack`, `nack` or `reject` it, once (specification 1.8.3.13, 1.8.3.14 and RabbitMQ's
 * `basic.nack`).
 *
 * **Details**
 *
 * Settling yields `Settled`, and fails with `AmqpStaleDelivery` once the channel is gone.
 *
 * @category models
 * @since 0.1.0
 */
export class AmqpDelivery extends Settleable<never, AmqpStaleDelivery> {
  protected override onStale(stale: AmqpStaleDelivery): Effect.Effect<never, AmqpStaleDelivery> {
    return Effect.fail(stale)
  }
}

/**
 * A delivery of a consumer that outlives its connections: settled as an `AmqpDelivery`, except that one from an earlier
 * epoch is no failure. It yields the `AmqpStaleDelivery` as a value, nothing is sent, and the broker delivers the
 * message again.
 *
 * @category models
 * @since 0.1.0
 */
export class AmqpSupervisedDelivery extends Settleable<AmqpStaleDelivery, never> {
  protected override onStale(stale: AmqpStaleDelivery): Effect.Effect<AmqpStaleDelivery> {
    return Effect.succeed(stale)
  }
}

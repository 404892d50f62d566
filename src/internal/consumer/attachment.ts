/**
 * The queues of a consumer on one channel. They are subscribed together, and left together.
 *
 * All deliveries go into the one buffer of the consumer. An attachment does not recover: it reports what happens to its
 * queues and its channel, and others decide.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { OpenChannel } from "../channel/channel.ts"
import type { SubscribeOptions } from "../channel/consuming.ts"
import { AmqpSupervisedDelivery } from "../channel/delivery.ts"
import type { ClosedError, ConsumeError, RequestError } from "../channel/errors.ts"
import type { ReceivedContent } from "../codec/frames.ts"
import type { ChannelState } from "../engine/channelState.ts"
import type { ConsumerEnd, ConsumerEntry, DeliveryBuffer } from "../engine/deliveries.ts"
import { requeue } from "../engine/settlements.ts"
import { AmqpChannelClosed, type ChannelCloseCause } from "../errors/channel.ts"
import type { QueueRef } from "../topology/queueNames.ts"

/** What happens to an attachment. */
export type AttachmentEvent =
  /** The broker cancelled the consumer of a queue; the others go on. */
  | {
    readonly _tag: "Cancelled"
    readonly queue: QueueRef
    readonly error: Extract<ConsumerEnd, { readonly _tag: "CancelledByBroker" }>["error"]
  }
  | { readonly _tag: "ChannelClosed"; readonly cause: ChannelCloseCause }

/** The consumer of one queue. */
class Subscription implements ConsumerEntry {
  readonly ref: QueueRef
  readonly queue: string
  readonly consumerTag: string
  readonly noAck = false
  private readonly attachment: Attachment

  constructor(attachment: Attachment, ref: QueueRef, queue: string, consumerTag: string) {
    this.attachment = attachment
    this.ref = ref
    this.queue = queue
    this.consumerTag = consumerTag
  }

  get channel(): number {
    return this.attachment.state.id
  }

  push(
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    content: ReceivedContent
  ): void {
    const { attachment } = this
    attachment.onDelivery(
      new AmqpSupervisedDelivery(
        attachment.state,
        deliveryTag,
        redelivered,
        exchange,
        routingKey,
        content,
        this
      )
    )
  }

  end(end: ConsumerEnd): void {
    this.attachment.onEnd(this, end)
  }

  clear(): void {
    this.attachment.buffer.keep((delivery) => !delivery.isFrom(this))
  }
}

/** Some queues of a consumer on a channel of their own. */
export class Attachment {
  readonly state: ChannelState
  readonly buffer: DeliveryBuffer<AmqpSupervisedDelivery>
  /** Whether a delivery has come. */
  hasDelivered = false
  private readonly open: OpenChannel
  private readonly onEvent: (event: AttachmentEvent) => void
  private readonly subscriptions = new Map<QueueRef, Subscription>()
  /**
   * Deliveries that come before every queue has answered. If a queue refuses, the channel goes, so nobody may begin to
   * handle these.
   */
  private held: Array<AmqpSupervisedDelivery> | undefined = []
  private isLeft = false
  /** Whether the end of the channel was reported. Each of its consumers hears of it, but it is reported once. */
  private isTold = false

  constructor(
    open: OpenChannel,
    buffer: DeliveryBuffer<AmqpSupervisedDelivery>,
    onEvent: (event: AttachmentEvent) => void
  ) {
    this.open = open
    this.state = open.state
    this.buffer = buffer
    this.onEvent = onEvent
  }

  /** Subscribes to a queue, by its name in this epoch. */
  subscribe(
    ref: QueueRef,
    queue: string,
    consumerTag: string,
    options: SubscribeOptions
  ): Effect.Effect<void, ConsumeError> {
    if (this.isLeft) return Effect.fail(new AmqpChannelClosed({ operation: "basic.consume" }))
    const subscription = new Subscription(this, ref, queue, consumerTag)
    this.subscriptions.set(ref, subscription)
    return this.open.consuming.subscribe(subscription, options)
  }

  /** Limits the unsettled deliveries of each queue that is subscribed to later, or of all queues together. */
  qos(prefetchCount: number, global: boolean): Effect.Effect<void, RequestError> {
    return this.open.channel.qos({ prefetchCount, global })
  }

  /** Cancels the consumers and waits for the answers. Deliveries that have come can still be settled. */
  get stop(): Effect.Effect<void, ClosedError> {
    return Effect.suspend(() => {
      const stopping = [...this.subscriptions.values()]
      this.subscriptions.clear()
      return Effect.forEach(stopping, (one) => this.open.consuming.stop(one), {
        concurrency: "unbounded",
        discard: true
      })
    })
  }

  /** Whether it is over: its channel is gone, or it has no queue any more and all deliveries are settled. */
  get isSpent(): boolean {
    return this.state.isClosed || (this.subscriptions.size === 0 && this.state.unsettledCount === 0)
  }

  /** Hands out the deliveries that have come so far, and later ones at once. */
  release(): void {
    const { held } = this
    this.held = undefined
    for (const delivery of held ?? []) this.buffer.add(delivery)
  }

  /**
   * Hands out nothing any more. Cancels the consumers without waiting, and gives back what nobody handles, also
   * deliveries that still come.
   */
  leave(): void {
    this.isLeft = true
    this.held = undefined
    this.buffer.keep((delivery) => !delivery.isOn(this.state))
    for (const subscription of this.subscriptions.values()) this.open.consuming.leave(subscription)
    this.state.giveBackAll()
    // The channel may outlive its consumers, for handlers at work. Nobody else would then report its end.
    this.state.onClosed(() => this.onChannelClosed(this.state.closeCause))
  }

  onDelivery(delivery: AmqpSupervisedDelivery): void {
    this.hasDelivered = true
    if (this.isLeft) this.state.settle(delivery.deliveryTag, requeue)
    else if (this.held === undefined) this.buffer.add(delivery)
    else this.held.push(delivery)
  }

  onEnd(subscription: Subscription, end: ConsumerEnd): void {
    const isPresent = this.subscriptions.get(subscription.ref) === subscription
    if (isPresent) this.subscriptions.delete(subscription.ref)
    switch (end._tag) {
      case "Cancelled":
        return
      case "CancelledByBroker":
        // A consumer with a former prefetch has ended too.
        if (!isPresent) return
        return this.onEvent({ _tag: "Cancelled", queue: subscription.ref, error: end.error })
      case "ChannelClosed":
        this.onChannelClosed(end.cause)
    }
  }

  private onChannelClosed(cause: ChannelCloseCause): void {
    if (this.isTold) return
    this.isTold = true
    this.onEvent({ _tag: "ChannelClosed", cause })
  }
}

/**
 * What a channel delivers to its client: its consumers and what they get, and `basic.get`.
 *
 * As in RabbitMQ, `no-local` is ignored, and a prefetch size is refused with 540.
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { Message } from "../model/message.ts"
import type { Entry, Owner } from "../model/model.ts"
import { internalError, notAllowed, notImplemented, preconditionFailed, type Refusal } from "../model/refusal.ts"
import type { ChannelHost, Services } from "../model/services.ts"
import { checkConsumerArguments } from "../vhost/arguments.ts"
import { Consumer, type ConsumerHost, Consumers } from "./consumers.ts"
import type { ChannelMail } from "./mail.ts"
import { Replies, replyTo } from "./replies.ts"
import { type Place, Unsettled } from "./unsettled.ts"

export class ServerDeliveries implements ConsumerHost {
  readonly number: number
  readonly owner: Owner
  readonly agenda: Services["agenda"]
  readonly consumers: Consumers
  readonly replies: Replies
  readonly unsettled: Unsettled
  private readonly place: Place
  private readonly host: ChannelHost
  private readonly services: Services
  private readonly mail: ChannelMail
  private readonly named: (queue: string) => string
  private readonly isOpen: () => boolean
  private nextDelivery = 1

  constructor(options: {
    readonly number: number
    readonly host: ChannelHost
    readonly services: Services
    readonly mail: ChannelMail
    /** The name of a queue, the empty one replaced. */
    readonly named: (queue: string) => string
    /** Whether the channel is open. */
    readonly isOpen: () => boolean
    /** A delivery was not settled in time. */
    readonly onTimeout: (refusal: Refusal) => void
  }) {
    const { host, number, services } = options
    this.number = number
    this.owner = host
    this.agenda = services.agenda
    this.place = { connection: host.name, channel: number }
    this.consumers = new Consumers(services.agenda)
    this.replies = new Replies(services.replyAddresses, () => services.generateName(`${replyTo}.`))
    this.unsettled = new Unsettled(services, this.place, this.consumers, options.onTimeout)
    this.host = host
    this.services = services
    this.mail = options.mail
    this.named = options.named
    this.isOpen = options.isOpen
  }

  /** Ends all consumers. Unsettled deliveries go back to their queues. */
  end(): void {
    this.replies.close()
    this.unsettled.abandon()
    for (const consumer of this.consumers.all) this.endConsumer(consumer, true)
  }

  private send(method: AmqpProtocol.Method): void {
    this.host.send(this.number, method)
  }

  private reply(method: { readonly noWait: boolean }, reply: AmqpProtocol.Method): void {
    if (!method.noWait) this.send(reply)
  }

  // ---------------------------------------------------------------------------
  // consumers
  // ---------------------------------------------------------------------------

  qos({ global, prefetchCount, prefetchSize }: AmqpProtocol.BasicQos): void {
    if (prefetchSize !== 0) throw notImplemented(`prefetch_size!=0 (${prefetchSize})`)
    this.consumers.limit(prefetchCount, global, this.unsettled.size)
    this.send({ _tag: "basic.qos-ok" })
  }

  consume(method: AmqpProtocol.BasicConsume): void {
    const { home } = this.host
    const name = this.named(method.queue)
    this.checkTag(method.consumerTag)
    this.host.check("read", "queue", name)
    const consumerTag = this.tagFor(method)
    const queue = home.queue(name, this.host)
    checkConsumerArguments(home.name, name, queue.type, method.arguments)
    const consumer = new Consumer(this.consumers, this, queue, consumerTag, method)
    queue.consume(consumer)
    this.consumers.add(consumer)
    this.services.emit({ _tag: "ConsumerStarted", ...this.place, queue: name, consumerTag })
    if (!method.noWait) this.mail.post(() => this.consumes(consumer))
    this.agenda.add(queue)
  }

  /** The queue has answered. If the consumer was cancelled meanwhile, RabbitMQ's channel crashes. */
  private consumes(consumer: Consumer): void {
    this.send({ _tag: "basic.consume-ok", consumerTag: consumer.tag })
    if (this.consumers.get(consumer.tag) !== consumer) throw internalError
  }

  private checkTag(consumerTag: string): void {
    if (this.consumers.get(consumerTag) !== undefined) {
      throw notAllowed(`attempt to reuse consumer tag '${consumerTag}'`)
    }
  }

  private tagFor({ consumerTag }: AmqpProtocol.BasicConsume): string {
    return consumerTag === "" ? this.services.generateName("amq.ctag-") : consumerTag
  }

  consumeReplies(method: AmqpProtocol.BasicConsume): void {
    this.checkTag(method.consumerTag)
    if (!method.noAck) throw preconditionFailed("reply consumer cannot acknowledge")
    const consumerTag = this.tagFor(method)
    this.replies.consume(consumerTag, (message, isWanted) =>
      this.mail.post(() => {
        // Replies use up no tag: each has the one that the next delivery of a queue will have.
        const deliveryTag = this.nextDelivery
        if (isWanted()) this.deliverMessage(message, { consumerTag, deliveryTag, queue: replyTo, redelivered: false })
      }))
    this.services.emit({ _tag: "ConsumerStarted", ...this.place, queue: replyTo, consumerTag })
    this.reply(method, { _tag: "basic.consume-ok", consumerTag })
  }

  cancel(method: AmqpProtocol.BasicCancel): void {
    const { consumerTag } = method
    const consumer = this.consumers.get(consumerTag)
    if (consumer !== undefined) {
      // The queue answers, after everything that it has delivered.
      this.endConsumer(consumer, true)
      return this.mail.post(() => this.reply(method, { _tag: "basic.cancel-ok", consumerTag }))
    }
    if (this.replies.cancel(consumerTag)) {
      this.services.emit({ _tag: "ConsumerEnded", ...this.place, queue: replyTo, consumerTag })
    }
    this.reply(method, { _tag: "basic.cancel-ok", consumerTag })
  }

  private endConsumer(consumer: Consumer, tellQueue: boolean): void {
    if (!this.consumers.remove(consumer)) return
    if (tellQueue) consumer.queue.cancel(consumer)
    this.services.emit({
      _tag: "ConsumerEnded",
      ...this.place,
      queue: consumer.queue.name,
      consumerTag: consumer.tag
    })
  }

  /** The queue has cancelled the consumer. */
  cancelled(consumer: Consumer): void {
    this.mail.post(() => {
      if (this.consumers.get(consumer.tag) !== consumer) return
      this.endConsumer(consumer, false)
      if (!this.host.can("consumer_cancel_notify")) return
      this.send({ _tag: "basic.cancel", consumerTag: consumer.tag, noWait: true })
    })
  }

  // ---------------------------------------------------------------------------
  // deliveries
  // ---------------------------------------------------------------------------

  isWritable(): boolean {
    return this.isOpen() && this.host.isWritable()
  }

  deliver(consumer: Consumer, entry: Entry): void {
    if (!consumer.noAck) this.consumers.delivered(consumer)
    this.mail.postDelivery(entry.message.size, () => this.accept(consumer, entry))
  }

  /** Gives a delivery its tag, and returns what sends it. */
  private accept(consumer: Consumer, entry: Entry): () => void {
    const { noAck, queue, tag } = consumer
    const { message, redelivered } = entry
    const deliveryTag = this.nextDelivery++
    if (!noAck) this.unsettled.add(deliveryTag, queue, entry, consumer)
    return () => this.deliverMessage(message, { consumerTag: tag, deliveryTag, queue: queue.name, redelivered })
  }

  private deliverMessage(
    message: Message,
    delivery: {
      readonly consumerTag: string
      readonly deliveryTag: number
      readonly queue: string
      readonly redelivered: boolean
    }
  ): void {
    const { consumerTag, deliveryTag, redelivered } = delivery
    const { exchange, routingKey } = message
    this.host.sendContent(
      this.number,
      { _tag: "basic.deliver", consumerTag, deliveryTag, redelivered, exchange, routingKey },
      message
    )
    this.services.emit({ _tag: "Delivered", ...this.place, ...delivery, size: message.body.length })
  }

  get(method: AmqpProtocol.BasicGet): void {
    const name = this.named(method.queue)
    this.host.check("read", "queue", name)
    const queue = this.host.home.queue(name, this.host)
    const taken = queue.get(method.noAck)
    if (taken === undefined) return this.send({ _tag: "basic.get-empty" })
    const { entry, remaining } = taken
    const { message, redelivered } = entry
    const deliveryTag = this.nextDelivery++
    if (!method.noAck) this.unsettled.add(deliveryTag, queue, entry, undefined)
    this.host.sendContent(this.number, {
      _tag: "basic.get-ok",
      deliveryTag,
      redelivered,
      exchange: message.exchange,
      routingKey: message.routingKey,
      messageCount: remaining
    }, message)
    this.services.emit({
      _tag: "Delivered",
      ...this.place,
      consumerTag: undefined,
      queue: name,
      deliveryTag,
      redelivered,
      size: message.body.length
    })
  }
}

/**
 * The broker's side of one channel: every method of the classes channel, basic, confirm and tx; those of exchanges and
 * queues are in `entities.ts`.
 *
 * It checks what the state of the channel allows. Exchanges and queues check the rest. As in RabbitMQ, `immediate`, a
 * prefetch size, a stopped flow and recovery without requeueing are refused with 540, `no-local` is ignored, and
 * channels are never told to stop (`channel.flow`).
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import { Message } from "../model/message.ts"
import type { Channel, Entry, Outcome, Owner, Published, Reply } from "../model/model.ts"
import {
  channelError,
  closeFields,
  commandInvalid,
  internalError,
  notAllowed,
  notImplemented,
  preconditionFailed,
  Refusal
} from "../model/refusal.ts"
import type { ChannelHost, Services } from "../model/services.ts"
import { addressed } from "../vhost/addressing.ts"
import { checkConsumerArguments } from "../vhost/arguments.ts"
import type { ChannelFrame } from "./clientFrame.ts"
import { type PublishOutcome, ServerConfirms } from "./confirms.ts"
import { Consumer, type ConsumerHost, Consumers } from "./consumers.ts"
import { ServerEntities } from "./entities.ts"
import { type Command, Incoming, type IncomingContent } from "./incoming.ts"
import { ChannelMail } from "./mail.ts"
import { checkProperties, checkSize, decodeStrictly } from "./publishing.ts"
import { Replies, replyTo } from "./replies.ts"
import { Transaction } from "./transaction.ts"
import { type Place, Unsettled } from "./unsettled.ts"

export class ServerChannel implements Channel, ConsumerHost {
  readonly number: number
  readonly owner: Owner
  readonly agenda: Services["agenda"]
  private readonly host: ChannelHost
  private readonly services: Services
  private readonly incoming = new Incoming()
  private readonly confirms = new ServerConfirms((method) => this.send(method))
  private readonly mail: ChannelMail
  private readonly replies: Replies
  private readonly entities: ServerEntities
  private readonly subscriptions: Consumers
  private readonly pending: Unsettled
  private readonly place: Place
  /** `closing`: one side has closed the channel. Everything is ignored until the other has answered. */
  private state: "starting" | "open" | "closing" | "closed" = "starting"
  /** The client has closed the channel. It gets the answer after all others to what it has sent in one piece. */
  private isLeaving = false
  private nextDelivery = 1
  private transaction: Transaction | undefined
  /** Queues have not confirmed the commit yet. Until they have, the client may ask nothing else. */
  private isCommitting = false

  constructor(number: number, host: ChannelHost, services: Services) {
    this.number = number
    this.host = host
    this.owner = host
    this.services = services
    this.agenda = services.agenda
    this.place = { connection: host.name, channel: number }
    this.subscriptions = new Consumers(services.agenda)
    this.pending = new Unsettled(services, this.place, this.subscriptions, (refusal) => this.refuse(refusal, undefined))
    this.mail = new ChannelMail((size) => host.posted(this, size))
    this.entities = new ServerEntities(host, services.replyAddresses)
    this.replies = new Replies(services.replyAddresses, () => services.generateName(`${replyTo}.`))
  }

  // ---------------------------------------------------------------------------
  // for inspection and operators
  // ---------------------------------------------------------------------------

  get isConfirming(): boolean {
    return this.confirms.isOn
  }

  get isTransactional(): boolean {
    return this.transaction !== undefined
  }

  get prefetch(): number {
    return this.subscriptions.prefetch
  }

  get globalPrefetch(): number {
    return this.subscriptions.globalPrefetch
  }

  /** What queues take for unsettled: settlements that are not committed do not count. */
  get unsettled(): Channel["unsettled"] {
    const uncommitted = this.transaction?.uncommitted ?? []
    return [...uncommitted, ...this.pending.all].sort((a, b) => a.deliveryTag - b.deliveryTag)
  }

  get consumers(): Channel["consumers"] {
    return this.subscriptions.all.map((subscriber) => ({ subscriber, queue: subscriber.queue }))
  }

  close(reply: Reply): void {
    this.services.turn(() => {
      if (this.state === "open") this.refuse(reply, undefined)
    })
  }

  cancelConsumer(consumerTag: string): boolean {
    const consumer = this.subscriptions.get(consumerTag)
    if (consumer === undefined) return false
    this.services.turn(() => {
      this.cancelled(consumer)
      consumer.queue.cancel(consumer)
    })
    return true
  }

  // ---------------------------------------------------------------------------
  // frames
  // ---------------------------------------------------------------------------

  /** Gives the command that a frame completes. Throws a hard `Refusal` if the frame may not come now. */
  assemble(frame: ChannelFrame): Command | undefined {
    return this.incoming.push(frame)
  }

  /** Throws a hard `Refusal`; soft ones end the channel. */
  obey(command: Command): void {
    try {
      this.handle(command)
    } catch (error) {
      if (!(error instanceof Refusal) || error.isHard) throw error
      this.refuse(error, command.method)
    }
  }

  /** The method that a refusal of this frame is about. */
  methodOf(frame: ChannelFrame): AmqpProtocol.Method | undefined {
    return this.incoming.methodOf(frame)
  }

  private send(method: AmqpProtocol.Method): void {
    this.host.send(this.number, method)
  }

  /** Sends `channel.close` and lets go of everything. */
  private refuse(reply: Reply, method: AmqpProtocol.Method | undefined): void {
    this.end(`${reply.replyCode} ${reply.replyText}`)
    this.state = "closing"
    this.send({ _tag: "channel.close", ...closeFields(reply, method) })
  }

  /** Delivers, confirms and commits nothing any more. Unsettled deliveries go back to their queues. */
  end(reason: string): void {
    if (this.state !== "open") return
    this.state = "closed"
    this.confirms.clear()
    this.mail.close()
    this.replies.close()
    this.transaction?.rollBack(this.pending)
    this.transaction = undefined
    this.pending.abandon()
    for (const consumer of this.subscriptions.all) this.endConsumer(consumer, true)
    this.services.emit({
      _tag: "ChannelClosed",
      connection: this.host.name,
      channel: this.number,
      reason
    })
  }

  private handle({ content, method }: Command): void {
    if (this.state === "closing") {
      if (method._tag === "channel.close") this.send({ _tag: "channel.close-ok" })
      else if (method._tag === "channel.close-ok") this.host.forget(this.number)
      else if (method._tag === "channel.open") throw channelError("second 'channel.open' seen")
      return
    }
    if (this.state === "starting") {
      if (method._tag !== "channel.open") throw channelError("expected 'channel.open'")
      this.state = "open"
      this.send({ _tag: "channel.open-ok" })
      this.services.emit({ _tag: "ChannelOpened", connection: this.host.name, channel: this.number })
      return
    }
    if (this.isCommitting && method._tag !== "channel.close" && method._tag !== "channel.open") {
      throw channelError("unexpected command while processing 'tx.commit'")
    }
    switch (method._tag) {
      case "channel.open":
        throw channelError("second 'channel.open' seen")
      case "channel.close":
        this.end("closed by the client")
        this.state = "closing"
        this.isLeaving = true
        return this.host.posted(this)
      case "channel.flow":
        if (!method.active) throw notImplemented("active=false")
        return this.send({ _tag: "channel.flow-ok", active: true })
      case "exchange.declare":
      case "exchange.delete":
      case "exchange.bind":
      case "exchange.unbind":
      case "queue.declare":
      case "queue.bind":
      case "queue.unbind":
      case "queue.purge":
      case "queue.delete":
        return this.reply({ noWait: "noWait" in method && method.noWait }, this.entities.perform(method))
      case "basic.qos":
        return this.qos(method)
      case "basic.consume":
        return method.queue === replyTo ? this.consumeReplies(method) : this.consume(method)
      case "basic.cancel":
        return this.cancel(method)
      case "basic.publish":
        return content && this.publish(method, content)
      case "basic.get":
        return this.get(method)
      case "basic.ack":
        return this.settleTag(method.deliveryTag, method.multiple, "ack")
      case "basic.nack":
        return this.settleTag(method.deliveryTag, method.multiple, method.requeue ? "requeue" : "discard")
      case "basic.reject":
        return this.settleTag(method.deliveryTag, false, method.requeue ? "requeue" : "discard")
      case "basic.recover":
        this.recover(method.requeue)
        return this.send({ _tag: "basic.recover-ok" })
      case "basic.recover-async":
        return this.recover(method.requeue)
      case "confirm.select":
        if (this.transaction !== undefined) throw preconditionFailed("cannot switch from tx to confirm mode")
        this.confirms.select()
        return this.reply(method, { _tag: "confirm.select-ok" })
      case "tx.select":
        if (this.confirms.isOn) throw preconditionFailed("cannot switch from confirm to tx mode")
        this.transaction ??= new Transaction()
        return this.send({ _tag: "tx.select-ok" })
      case "tx.commit":
        return this.commit(method)
      case "tx.rollback":
        return this.rollback()
      default:
        throw commandInvalid("unimplemented method")
    }
  }

  private reply(method: { readonly noWait: boolean }, reply: AmqpProtocol.Method): void {
    if (!method.noWait) this.send(reply)
  }

  // ---------------------------------------------------------------------------
  // consumers
  // ---------------------------------------------------------------------------

  private qos({ global, prefetchCount, prefetchSize }: AmqpProtocol.BasicQos): void {
    if (prefetchSize !== 0) throw notImplemented(`prefetch_size!=0 (${prefetchSize})`)
    this.subscriptions.limit(prefetchCount, global, this.pending.size)
    this.send({ _tag: "basic.qos-ok" })
  }

  private consume(method: AmqpProtocol.BasicConsume): void {
    const { home } = this.host
    const name = this.entities.named(method.queue)
    this.checkTag(method.consumerTag)
    this.host.check("read", "queue", name)
    const consumerTag = this.tagFor(method)
    const queue = home.queue(name, this.host)
    checkConsumerArguments(home.name, name, queue.type, method.arguments)
    const consumer = new Consumer(this.subscriptions, this, queue, consumerTag, method)
    queue.consume(consumer)
    this.subscriptions.add(consumer)
    this.services.emit({ _tag: "ConsumerStarted", ...this.place, queue: name, consumerTag })
    if (!method.noWait) this.mail.post(() => this.consumes(consumer))
    this.agenda.add(queue)
  }

  /** The queue has answered. If the consumer was cancelled meanwhile, RabbitMQ's channel crashes. */
  private consumes(consumer: Consumer): void {
    this.send({ _tag: "basic.consume-ok", consumerTag: consumer.tag })
    if (this.subscriptions.get(consumer.tag) !== consumer) throw internalError
  }

  private checkTag(consumerTag: string): void {
    if (this.subscriptions.get(consumerTag) !== undefined) {
      throw notAllowed(`attempt to reuse consumer tag '${consumerTag}'`)
    }
  }

  private tagFor({ consumerTag }: AmqpProtocol.BasicConsume): string {
    return consumerTag === "" ? this.services.generateName("amq.ctag-") : consumerTag
  }

  private consumeReplies(method: AmqpProtocol.BasicConsume): void {
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

  private cancel(method: AmqpProtocol.BasicCancel): void {
    const { consumerTag } = method
    const consumer = this.subscriptions.get(consumerTag)
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
    if (!this.subscriptions.remove(consumer)) return
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
      if (this.subscriptions.get(consumer.tag) !== consumer) return
      this.endConsumer(consumer, false)
      if (!this.host.can("consumer_cancel_notify")) return
      this.send({ _tag: "basic.cancel", consumerTag: consumer.tag, noWait: true })
    })
  }

  // ---------------------------------------------------------------------------
  // deliveries
  // ---------------------------------------------------------------------------

  /** There may be room for deliveries again. */
  wake(): void {
    this.subscriptions.wake()
  }

  isWritable(): boolean {
    return this.state === "open" && this.host.isWritable()
  }

  deliver(consumer: Consumer, entry: Entry): void {
    if (!consumer.noAck) this.subscriptions.delivered(consumer)
    this.mail.postDelivery(entry.message.size, () => this.accept(consumer, entry))
  }

  /** Gives a delivery its tag, and returns what sends it. */
  private accept(consumer: Consumer, entry: Entry): () => void {
    const { noAck, queue, tag } = consumer
    const { message, redelivered } = entry
    const deliveryTag = this.nextDelivery++
    if (!noAck) this.pending.add(deliveryTag, queue, entry, consumer)
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

  private get(method: AmqpProtocol.BasicGet): void {
    const name = this.entities.named(method.queue)
    this.host.check("read", "queue", name)
    const queue = this.host.home.queue(name, this.host)
    const taken = queue.get(method.noAck)
    if (taken === undefined) return this.send({ _tag: "basic.get-empty" })
    const { entry, remaining } = taken
    const { message, redelivered } = entry
    const deliveryTag = this.nextDelivery++
    if (!method.noAck) this.pending.add(deliveryTag, queue, entry, undefined)
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

  // ---------------------------------------------------------------------------
  // settlements
  // ---------------------------------------------------------------------------

  private settleTag(deliveryTag: number, multiple: boolean, outcome: Outcome): void {
    const deliveries = this.pending.take(deliveryTag, multiple)
    if (this.transaction === undefined) this.pending.settle(deliveries, outcome)
    else this.transaction.settle(deliveries, outcome)
  }

  private recover(requeue: boolean): void {
    if (!requeue) throw notImplemented("requeue=false")
    this.pending.settle(this.pending.takeAll(), "requeue")
  }

  // ---------------------------------------------------------------------------
  // publishing
  // ---------------------------------------------------------------------------

  private publish(method: AmqpProtocol.BasicPublish, content: IncomingContent): void {
    const { exchange, mandatory, routingKey } = method
    if (method.immediate) throw notImplemented("immediate=true")
    checkSize(content, this.services.limits.maxMessageSize)
    this.host.check("write", "exchange", exchange)
    this.host.home.exchange(exchange)
    const message = this.addressed(new Message({ exchange, routingKey, ...content }))
    checkProperties(message.decoded, this.host.account.name)
    const store = this.route(message)
    const finish = (): PublishOutcome => {
      const { isAccepted, isRouted } = store()
      const outcome = !isRouted ? "unroutable" : isAccepted ? "stored" : "rejected"
      if (!isRouted && mandatory) this.giveBack(message)
      this.services.emit({
        _tag: "Published",
        ...this.place,
        exchange,
        routingKey,
        size: message.body.length,
        outcome
      })
      return outcome
    }
    if (this.transaction !== undefined) this.transaction.publish(finish)
    else if (this.confirms.settled(finish())) this.host.posted(this)
  }

  /** Puts the channel's own address in place of `amq.rabbitmq.reply-to`. */
  private addressed(message: Message): Message {
    return decodeStrictly(message).replyTo === replyTo ? message.with({ replyTo: this.replies.address }) : message
  }

  private route(message: Message): () => Published {
    if (message.exchange !== "" || !message.routingKey.startsWith(`${replyTo}.`)) {
      return this.host.home.route(message)
    }
    // Replies do not wait for a commit, and count as unroutable: there is no queue.
    this.services.replyAddresses.get(message.routingKey)?.(message)
    return () => ({ isRouted: false, isAccepted: true })
  }

  private giveBack(message: Message): void {
    const { exchange, routingKey } = message
    this.host.sendContent(
      this.number,
      { _tag: "basic.return", replyCode: 312, replyText: "NO_ROUTE", exchange, routingKey },
      addressed(message).sent
    )
  }

  /** Reads what queues have posted while the client's present chunk was handled. May throw a hard `Refusal`. */
  readMail(): void {
    this.mail.read()
    this.confirms.flush()
    if (!this.isLeaving) return
    this.send({ _tag: "channel.close-ok" })
    this.host.forget(this.number)
  }

  // ---------------------------------------------------------------------------
  // transactions
  // ---------------------------------------------------------------------------

  /** Ends the present transaction and begins the next one. */
  private takeTransaction(): Transaction {
    const { transaction } = this
    if (transaction === undefined) throw preconditionFailed("channel is not transactional")
    this.transaction = new Transaction()
    return transaction
  }

  private commit(method: AmqpProtocol.TxCommit): void {
    const outcomes = this.takeTransaction().commit(this.pending)
    if (outcomes.every((outcome) => outcome === "unroutable")) return this.send({ _tag: "tx.commit-ok" })
    this.isCommitting = true
    // The client gets its answer when the queues have confirmed.
    this.mail.post(() => {
      this.isCommitting = false
      if (outcomes.includes("rejected")) this.refuse(preconditionFailed("partial tx completion"), method)
      else this.send({ _tag: "tx.commit-ok" })
    })
  }

  private rollback(): void {
    this.takeTransaction().rollBack(this.pending)
    this.send({ _tag: "tx.rollback-ok" })
  }
}

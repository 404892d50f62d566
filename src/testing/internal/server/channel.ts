/**
 * The broker's side of one channel: how it opens and closes, settlements, publishes and transactions. `entities.ts`
 * has the methods of exchanges and queues, `deliveries.ts` what the channel delivers.
 *
 * It checks what the state of the channel allows. Exchanges and queues check the rest. As in RabbitMQ, `immediate`, a
 * stopped flow and recovery without requeueing are refused with 540, and channels are never told to stop
 * (`channel.flow`).
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import { Message } from "../model/message.ts"
import type { Channel, Outcome, Published, Reply } from "../model/model.ts"
import {
  channelError,
  closeFields,
  commandInvalid,
  notImplemented,
  preconditionFailed,
  Refusal
} from "../model/refusal.ts"
import type { ChannelHost, Services } from "../model/services.ts"
import { addressed } from "../vhost/addressing.ts"
import type { ChannelFrame } from "./clientFrame.ts"
import { type PublishOutcome, ServerConfirms } from "./confirms.ts"
import { ServerDeliveries } from "./deliveries.ts"
import { ServerEntities } from "./entities.ts"
import { type Command, Incoming, type IncomingContent } from "./incoming.ts"
import { ChannelMail } from "./mail.ts"
import { checkProperties, checkSize, decodeStrictly } from "./publishing.ts"
import { replyTo } from "./replies.ts"
import { Transaction } from "./transaction.ts"
import type { Place } from "./unsettled.ts"

export class ServerChannel implements Channel {
  readonly number: number
  private readonly host: ChannelHost
  private readonly services: Services
  private readonly incoming = new Incoming()
  private readonly confirms = new ServerConfirms((method) => this.send(method))
  private readonly mail: ChannelMail
  private readonly entities: ServerEntities
  private readonly deliveries: ServerDeliveries
  private readonly place: Place
  /** `closing`: one side has closed the channel. Everything is ignored until the other has answered. */
  private state: "starting" | "open" | "closing" | "closed" = "starting"
  /** The client has closed the channel. It gets the answer after all others to what it has sent in one piece. */
  private isLeaving = false
  private transaction: Transaction | undefined
  /** Queues have not confirmed the commit yet. Until they have, the client may ask nothing else. */
  private isCommitting = false

  constructor(number: number, host: ChannelHost, services: Services) {
    this.number = number
    this.host = host
    this.services = services
    this.place = { connection: host.name, channel: number }
    this.mail = new ChannelMail((size) => host.posted(this, size))
    this.entities = new ServerEntities(host, services.replyAddresses)
    this.deliveries = new ServerDeliveries({
      number,
      host,
      services,
      mail: this.mail,
      named: (queue) => this.entities.named(queue),
      isOpen: () => this.state === "open",
      onTimeout: (refusal) => this.refuse(refusal, undefined)
    })
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
    return this.deliveries.consumers.prefetch
  }

  get globalPrefetch(): number {
    return this.deliveries.consumers.globalPrefetch
  }

  /** What queues take for unsettled. That includes deliveries whose settlement is not committed yet. */
  get unsettled(): Channel["unsettled"] {
    const uncommitted = this.transaction?.uncommitted ?? []
    return [...uncommitted, ...this.deliveries.unsettled.all].sort((a, b) => a.deliveryTag - b.deliveryTag)
  }

  get consumers(): Channel["consumers"] {
    return this.deliveries.consumers.all.map((subscriber) => ({ subscriber, queue: subscriber.queue }))
  }

  close(reply: Reply): void {
    this.services.turn(() => {
      if (this.state === "open") this.refuse(reply, undefined)
    })
  }

  cancelConsumer(consumerTag: string): boolean {
    const consumer = this.deliveries.consumers.get(consumerTag)
    if (consumer === undefined) return false
    this.services.turn(() => {
      this.deliveries.cancelled(consumer)
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
    this.transaction?.rollBack(this.deliveries.unsettled)
    this.transaction = undefined
    this.deliveries.end()
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
        return this.deliveries.qos(method)
      case "basic.consume":
        return method.queue === replyTo ? this.deliveries.consumeReplies(method) : this.deliveries.consume(method)
      case "basic.cancel":
        return this.deliveries.cancel(method)
      case "basic.publish":
        return content && this.publish(method, content)
      case "basic.get":
        return this.deliveries.get(method)
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
  // settlements
  // ---------------------------------------------------------------------------

  private settleTag(deliveryTag: number, multiple: boolean, outcome: Outcome): void {
    const deliveries = this.deliveries.unsettled.take(deliveryTag, multiple)
    if (this.transaction === undefined) this.deliveries.unsettled.settle(deliveries, outcome)
    else this.transaction.settle(deliveries, outcome)
  }

  private recover(requeue: boolean): void {
    if (!requeue) throw notImplemented("requeue=false")
    this.deliveries.unsettled.settle(this.deliveries.unsettled.takeAll(), "requeue")
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
    return decodeStrictly(message).replyTo === replyTo
      ? message.with({ replyTo: this.deliveries.replies.address })
      : message
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

  /** There may be room for deliveries again. */
  wake(): void {
    this.deliveries.consumers.wake()
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
    const outcomes = this.takeTransaction().commit(this.deliveries.unsettled)
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
    this.takeTransaction().rollBack(this.deliveries.unsettled)
    this.send({ _tag: "tx.rollback-ok" })
  }
}

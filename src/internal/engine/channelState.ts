/**
 * One channel of one epoch, without Effect: its pending requests, its mode, its consumers and unsettled deliveries, and
 * its unconfirmed publishes. All of these end in one way.
 *
 * Every method either writes whole frames into the channel's lane or throws `AmqpEncodeError` and writes nothing.
 * Callbacks run at the end of a batch of frames, when all state is consistent. The channel decides nothing about time,
 * retries or Effect values.
 *
 * @since 0.1.0
 */
import {
  type ReceivedContent,
  violation,
  writeHeaderFrame,
  writeMethodFrame,
  writePublishFrame
} from "../codec/frames.ts"
import { AmqpMessage, bodyBytes, checkTimestamp, type PropertiesInput, type Publish } from "../codec/message.ts"
import type { BasicGetOk, BasicReturn, ChannelClose, Method } from "../codec/spec.ts"
import type { Reader } from "../codec/wire.ts"
import { AmqpConsumerCancelled, type ChannelCloseCause } from "../errors/channel.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import type { AmqpMessageReturned } from "../errors/publish.ts"
import { fromChannelClose } from "../errors/soft.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import type { InputTable } from "../values/tableValue.ts"
import { Assembler } from "./assembler.ts"
import { exchangeIn, isSuspected, operationOf } from "./blame.ts"
import { Confirms, pairingTag, type PublishOutcome, type PublishWaiter } from "./confirms.ts"
import type { ConsumerEntry } from "./deliveries.ts"
import { FlowGate } from "./flowGate.ts"
import type { Lane } from "./lane.ts"
import {
  type Pending,
  PendingRequests,
  type Request,
  type RequestHandlers,
  type RequestName
} from "./pendingRequests.ts"
import { type Settlement, Settlements } from "./settlements.ts"
import { Transacted } from "./transacted.ts"

/** What a channel needs of its session. */
export interface ChannelHost {
  readonly epoch: number
  /** The largest content that is accepted, in bytes. */
  readonly maxMessageSize: number
  /** Runs a callback at the end of the batch. */
  readonly later: (callback: () => void) => void
  /** Runs the outcome of a publish at the end of the batch. */
  readonly settlePublish: (waiter: PublishWaiter, outcome: PublishOutcome) => void
  /** Counts replies and confirms that somebody waits for: while there are any, the socket is read. */
  readonly expect: (change: number) => void
  /** The number is free: both sides have forgotten the channel. */
  readonly onGone: (channel: ChannelState) => void
}

/** What became of an attempt to settle a delivery. */
export type SettleResult = "Settled" | "AlreadySettled" | "Stale"

type State = "opening" | "open" | "closing" | "closed"

const noProperties: PropertiesInput = {}

/** A channel. */
export class ChannelState {
  readonly id: number
  readonly lane: Lane
  /** What a publish on this channel promises. */
  mode: "plain" | "confirm" | "tx" = "plain"
  /** Whether what is published now will be committed or rolled back. */
  inTransaction = false
  /** Why it is closed; meaningful once `isClosed`. */
  closeCause: ChannelCloseCause = undefined
  /** Whether an operation has failed with that cause, so that somebody has heard of it. */
  isToldOf = false
  /** Whether nobody waits any longer for the answer to our close. Until the answer comes, this number is used last. */
  isAbandoned = false
  private readonly host: ChannelHost
  private madeConfirms: Confirms | undefined
  private state: State = "opening"
  /** Whether nothing new is taken. */
  private isFinishing = false
  /** Whether `channel.open-ok` has come. Frames that come before it belong to the former channel of this number. */
  private isKnown = false
  /** After so many replies the broker is sure to have got everything that was published without confirms. */
  private repliesLeft = 0
  /** Whether `channel.close-ok` was written. */
  private closeAnswered = false
  private readonly pending: PendingRequests
  private madeFlow: FlowGate | undefined
  private readonly assembler = new Assembler()
  /** The method of the content that is being received; `undefined` for a delivery. */
  private content: BasicGetOk | BasicReturn | undefined
  /** The delivery that is being received; its fields are reused. */
  private readonly delivery = { consumerTag: "", deliveryTag: 0, redelivered: false, exchange: "", routingKey: "" }
  private madeConsumers: Map<string, ConsumerEntry> | undefined
  private madeSettlements: Settlements | undefined
  /** The publishes of tx mode. */
  private transacted: Transacted | undefined
  private onClosedCallbacks: Array<() => void> = []

  constructor(id: number, lane: Lane, host: ChannelHost) {
    this.id = id
    this.lane = lane
    this.host = host
    this.pending = new PendingRequests(id, host.later)
  }

  // These are made on first use. A channel that needs none of them saves 1.7 KiB.

  get confirms(): Confirms {
    return this.madeConfirms ??= new Confirms({
      later: this.host.later,
      settle: (waiter, outcome) => {
        this.host.expect(outcome._tag === "Confirmed" ? -outcome.count : -1)
        this.host.settlePublish(waiter, outcome)
      }
    })
  }

  private get settlements(): Settlements {
    return this.madeSettlements ??= new Settlements(this.lane, this.host.later)
  }

  private get consumers(): Map<string, ConsumerEntry> {
    return this.madeConsumers ??= new Map()
  }

  private get flow(): FlowGate {
    return this.madeFlow ??= new FlowGate(this.lane)
  }

  get epoch(): number {
    return this.host.epoch
  }

  /** Whether requests and publishes are over. */
  get isClosed(): boolean {
    return this.isFinishing || this.isSilent
  }

  /** Whether nothing is written any more. */
  private get isSilent(): boolean {
    return this.state === "closing" || this.state === "closed"
  }

  /** Whether both sides have forgotten it. */
  get isGone(): boolean {
    return this.state === "closed"
  }

  /** Publishes in confirm mode that have no outcome. */
  get unconfirmed(): number {
    return this.madeConfirms?.unsettled ?? 0
  }

  /**
   * Whether publishes without confirms may not have come to the broker: it has answered nothing that was sent after
   * them.
   */
  get isInDoubt(): boolean {
    return this.repliesLeft > 0
  }

  // --- writing

  private write(method: Method<InputTable>): void {
    this.flushAcks()
    const writer = this.lane.writer
    try {
      writeMethodFrame(writer, this.id, method, this.lane.frameMax)
    } catch (error) {
      writer.rollback()
      throw error
    }
    this.lane.commit(writer)
  }

  /**
   * Sends a request. Its handlers are called exactly once. On a closed channel they get its cause. Throws
   * `AmqpEncodeError`.
   */
  request<Name extends RequestName>(method: Request<Name>, handlers: RequestHandlers<Name>): void {
    if (this.isClosed) return this.host.later(() => handlers.onFailure(this.closeCause, false))
    this.write(method)
    this.host.expect(1)
    this.pending.add(method, handlers, this.transacted?.latest ?? this.madeConfirms?.latest ?? 0)
    this.onRequested(method._tag)
  }

  /** Applies what a request changes for everything that is written after it. */
  private onRequested(name: RequestName): void {
    switch (name) {
      // The broker counts publishes from the request on, not from its reply on.
      case "confirm.select":
        if (this.mode === "plain") this.mode = "confirm"
        return
      case "tx.select":
        if (this.mode === "plain") {
          this.mode = "tx"
          this.transacted = new Transacted()
        }
        this.settlements.transactional = this.mode === "tx"
        return
      // Nothing may be sent between these and their replies.
      case "tx.commit":
        this.settlements.onCommit()
        return this.lane.hold()
      case "tx.rollback":
        this.settlements.onRollback()
        return this.lane.hold()
      case "basic.recover":
        return this.settlements.onRecover()
    }
  }

  /**
   * Writes a publish. The channel must not be closed. Only in confirm mode does the waiter get an outcome. Throws
   * `AmqpEncodeError`.
   */
  publish(message: Publish, waiter: PublishWaiter | undefined): void {
    const { body, exchange = "", mandatory = false, properties = noProperties, routingKey = "" } = message
    const confirmed = this.mode === "confirm"
    const bytes = bodyBytes(body)
    if (properties.timestamp !== undefined) checkTimestamp(properties.timestamp)
    if (mandatory && this.mode === "plain") {
      throw new AmqpEncodeError({
        path: "mandatory",
        reason: "without confirmSelect or a transaction nobody would learn of the message's return"
      })
    }
    this.flushAcks()
    const writer = this.lane.writer
    try {
      const paired = mandatory && confirmed
        ? { ...properties, clusterId: this.pairing(properties.clusterId) }
        : properties
      writePublishFrame(writer, this.id, exchange, routingKey, mandatory, this.lane.frameMax)
      writeHeaderFrame(writer, this.id, bytes.length, paired, this.lane.frameMax)
    } catch (error) {
      writer.rollback()
      throw error
    }
    this.lane.commitContent(writer, bytes)
    if (this.mode === "tx") this.transacted?.add({ exchange, routingKey, properties, size: bytes.length })
    if (this.mode === "plain") this.repliesLeft = this.pending.count + 1
    if (!confirmed) return
    this.confirms.add(waiter ?? { messageOf: () => message, onOutcome: () => {} }, exchange)
    this.host.expect(1)
  }

  private pairing(clusterId: string | undefined): string {
    if (clusterId === undefined) return pairingTag(this.confirms.latest + 1)
    throw new AmqpEncodeError({
      path: "clusterId",
      reason: "the specification reserves it, and mandatory publishes use it to pair returned messages"
    })
  }

  /** How many requests of the method with this id have no answer; of any method where it is 0. */
  pendingOf(id: number): number {
    return this.pending.countOf(id)
  }

  // --- settling

  /** Settles one delivery; a second time is a no-op. */
  settle(tag: number, settlement: Settlement): SettleResult {
    return this.settled(() => this.settlements.settle(tag, settlement))
  }

  /** Acknowledges one delivery. */
  ack(tag: number): SettleResult {
    if (this.isSilent) return "Stale"
    return this.settlements.ack(tag) ? "Settled" : "AlreadySettled"
  }

  /** Settles every unsettled delivery up to and including `tag`, or all of them. */
  settleUpTo(tag: number | undefined, settlement: Settlement): SettleResult {
    return this.settled(() => this.settlements.settleUpTo(tag, settlement))
  }

  private settled(settle: () => boolean): SettleResult {
    if (this.isSilent) return "Stale"
    return settle() ? "Settled" : "AlreadySettled"
  }

  /** Writes the acknowledgements of this turn. */
  flushAcks(): void {
    this.madeSettlements?.flush()
  }

  /** Deliveries that are not settled. */
  get unsettledCount(): number {
    return this.settlements.size
  }

  // --- consumers

  /** The consumer of that tag. */
  consumer(consumerTag: string): ConsumerEntry | undefined {
    return this.consumers.get(consumerTag)
  }

  /** Registers a consumer before `basic.consume` is sent: its deliveries may be in the same chunk as the reply. */
  addConsumer(consumer: ConsumerEntry): void {
    this.consumers.set(consumer.consumerTag, consumer)
  }

  /** Forgets a consumer: after `basic.cancel-ok` nothing comes for it any more. */
  removeConsumer(consumer: ConsumerEntry): void {
    if (this.consumers.get(consumer.consumerTag) === consumer) this.consumers.delete(consumer.consumerTag)
  }

  /** A consumer was cancelled. Deliveries that have come can still be taken and settled. */
  endConsumer(consumer: ConsumerEntry): void {
    this.removeConsumer(consumer)
    consumer.end({ _tag: "Cancelled" })
  }

  /** Gives a consumer's unsettled deliveries back to the queue. */
  requeueAll(consumer: ConsumerEntry): void {
    consumer.clear()
    if (this.isSilent) return
    this.settlements.giveBack(consumer)
  }

  /** Marks a delivery as handled: its consumer no longer gives it back. Returns whether it may be handled. */
  begin(tag: number): boolean {
    return !this.isClosed && this.settlements.begin(tag)
  }

  /** Gives back all deliveries that nobody handles. */
  giveBackAll(): void {
    if (!this.isClosed) this.settlements.giveBackAll()
  }

  // --- flow

  /** Whether content may be written now: the broker takes it, and the connection's gate is open. */
  get isFlowing(): boolean {
    return this.madeFlow?.isStopped !== true && this.lane.isOpen
  }

  /**
   * Calls back once, when content may flow or the channel is over; at once if content may flow. The caller then looks
   * again.
   */
  onFlow(callback: () => void): void {
    if (this.isFlowing) callback()
    else this.flow.wait(callback)
  }

  /** Takes back an `onFlow`. */
  offFlow(callback: () => void): void {
    this.madeFlow?.unwait(callback)
  }

  private releaseFlow(): void {
    this.madeFlow?.release(this.host.later)
  }

  // --- what the broker sends

  /**
   * Whether frames are ignored. Before `channel.open-ok` they belong to the former channel of this number, maybe only
   * the rest of a content. After our own close nobody waits for them.
   */
  private get isDeaf(): boolean {
    return this.state === "opening" || this.state === "closing"
  }

  /** A method that is not `basic.deliver`. */
  onMethod(method: Method): void {
    if (method._tag === "channel.close") return this.onClose(method)
    if (method._tag === "channel.close-ok") return this.onCloseOk()
    if (method._tag === "channel.open-ok") this.isKnown = true
    if (this.isDeaf && !(this.state === "opening" && method._tag === "channel.open-ok")) {
      // Our close waits in the lane behind the end of the transaction.
      if (method._tag === "tx.commit-ok" || method._tag === "tx.rollback-ok") this.lane.release()
      return
    }
    this.assembler.expectIdle()
    switch (method._tag) {
      case "basic.ack":
        return this.confirms.settle(method.deliveryTag, method.multiple, true)
      case "basic.nack":
        return this.confirms.settle(method.deliveryTag, method.multiple, false)
      case "basic.return":
      case "basic.get-ok":
        this.content = method
        return this.assembler.begin()
      case "basic.cancel":
        return this.onCancel(method.consumerTag, method.noWait)
      case "channel.flow":
        this.flow.isStopped = !method.active
        this.write({ _tag: "channel.flow-ok", active: method.active })
        if (method.active) this.releaseFlow()
        return
      default:
        return this.onReply(method, undefined)
    }
  }

  private onReply(method: Method, content: ReceivedContent | undefined): void {
    const pending = this.pending.answer(method, content)
    this.host.expect(-1)
    // The broker answered a request that came after so many publishes, so it refused none of them.
    if (this.mode === "tx") this.transacted?.take(pending.published)
    else this.madeConfirms?.take(pending.published)
    if (this.repliesLeft > 0) this.repliesLeft--
    switch (method._tag) {
      case "channel.open-ok":
        this.state = "open"
        return
      case "basic.get-ok":
        // While recovering, the broker has already taken the message back.
        if (pending.settles && !this.settlements.isRecovering) this.settlements.add(method.deliveryTag, undefined)
        return
      case "tx.commit-ok":
        return this.lane.release()
      case "tx.rollback-ok":
        this.settlements.onRolledBack()
        return this.lane.release()
      case "basic.recover-ok":
        this.settlements.onRecovered()
        return
    }
  }

  /** `basic.deliver`, read field by field: this runs once per message. */
  onDeliver(reader: Reader, text: (reader: Reader, slot: 0 | 1 | 2) => string): void {
    if (this.isDeaf) return
    this.assembler.begin()
    this.content = undefined
    const delivery = this.delivery
    delivery.consumerTag = text(reader, 0)
    delivery.deliveryTag = reader.u64()
    delivery.redelivered = (reader.u8() & 1) === 1
    delivery.exchange = text(reader, 1)
    delivery.routingKey = text(reader, 2)
    if (reader.remaining !== 0) throw violation(502, `${reader.remaining} bytes after the fields of basic.deliver`)
  }

  /** Returns whether the bytes of the header are kept. */
  onHeader(reader: Reader): boolean {
    if (this.isDeaf) return false
    const isComplete = this.assembler.header(reader, this.host.maxMessageSize)
    const isKept = this.assembler.headerBytes === reader.bytes
    if (isComplete) this.onContent()
    return isKept
  }

  /** Returns whether the bytes are kept. */
  onBody(bytes: Uint8Array, start: number, end: number): boolean {
    return !this.isDeaf && this.assembler.body(bytes, start, end)
  }

  onBodyEnd(): void {
    if (!this.isDeaf && this.assembler.bodyEnd()) this.onContent()
  }

  private onContent(): void {
    const method = this.content
    if (method === undefined) this.onDelivery()
    else {
      this.content = undefined
      // A copy: the assembler is reused before the callbacks run.
      const { content, headerBytes, headerEnd, headerStart } = this.assembler
      const received = { content, headerBytes, headerStart, headerEnd }
      if (method._tag === "basic.get-ok") this.onReply(method, received)
      else this.onReturn(method, new AmqpMessage(method.exchange, method.routingKey, received))
    }
    // Lets go of a large body now, not when the next content comes.
    this.assembler.reset()
  }

  private onDelivery(): void {
    const { consumerTag, deliveryTag, exchange, redelivered, routingKey } = this.delivery
    const consumer = this.consumers.get(consumerTag)
    // It belongs to the former channel of this number, or the broker is wrong.
    if (consumer === undefined) return this.settlements.onIgnored()
    // The broker has already taken it back.
    if (this.settlements.isRecovering && !consumer.noAck) return
    if (!consumer.noAck) this.settlements.add(deliveryTag, consumer)
    consumer.push(deliveryTag, redelivered, exchange, routingKey, this.assembler)
  }

  private onReturn(method: BasicReturn, message: AmqpMessage): void {
    if (this.mode === "tx") this.transacted?.returned(method, message)
    else this.confirms.returned(message.pairing, method, message)
  }

  /** The messages that came back since the last call, in tx mode. */
  takeReturned(): ReadonlyArray<AmqpMessageReturned> {
    return this.transacted?.takeReturned() ?? []
  }

  private onCancel(consumerTag: string, noWait: boolean): void {
    const consumer = this.consumers.get(consumerTag)
    // We have cancelled it already. Only a tag of ours is sure to have a form on the wire.
    if (consumer === undefined) return
    if (!noWait) this.write({ _tag: "basic.cancel-ok", consumerTag })
    const error = new AmqpConsumerCancelled({ queue: consumer.queue, consumerTag })
    this.removeConsumer(consumer)
    consumer.end({ _tag: "CancelledByBroker", error })
  }

  // --- the end

  /**
   * Takes nothing new: no requests and no publishes, also from those who wait to publish. Everything that was written
   * still gets its outcome, and deliveries can be settled.
   */
  finish(cause: ChannelCloseCause): void {
    if (this.isClosed) return
    this.isFinishing = true
    this.closeCause = cause
    this.releaseFlow()
    this.madeConfirms?.release()
  }

  /** Sends `channel.close`: everything that is pending ends, and `onClosed` callbacks run after `channel.close-ok`. */
  close(): void {
    if (this.isSilent) return
    this.write({ _tag: "channel.close", replyCode: 200, replyText: "", classId: 0, methodId: 0 })
    this.end(this.closeCause, "closing")
  }

  /** Calls back once the broker has forgotten this channel; at once if it has. */
  onClosed(callback: () => void): void {
    if (this.isGone) callback()
    else this.onClosedCallbacks.push(callback)
  }

  offClosed(callback: () => void): void {
    const at = this.onClosedCallbacks.indexOf(callback)
    if (at >= 0) this.onClosedCallbacks.splice(at, 1)
  }

  private onCloseOk(): void {
    // It answers a close of the former channel, which crossed the broker's.
    if (!this.isKnown) return
    if (this.state !== "closing") {
      throw violation(503, `channel.close-ok came on channel ${this.id}, nobody asked for it`)
    }
    this.repliesLeft = 0
    this.gone()
  }

  private onClose(close: ChannelClose): void {
    // RabbitMQ repeats the close until it has read the answer, and a second answer is an error to it.
    if (this.closeAnswered) return
    this.closeAnswered = true
    this.lane.discard()
    this.write({ _tag: "channel.close-ok" })
    const { classId, methodId, replyCode, replyText } = close
    const operation = operationOf(classId, methodId)
    const own = this.pending.refused(operation, replyText)
    const isPublish = operation === "basic.publish"
    const refused = isPublish ? this.madeConfirms?.refused(close) ?? [] : []
    // In a transaction the first publish that the words fit is the refused one. With confirms all that they fit fail
    // alike.
    const publish = !isPublish ?
      undefined
      : this.mode === "tx" ?
      this.transacted?.refused(close)
      : refused.map((sequence) => this.confirms.messageOf(sequence))[0]
    const entity = own?.entity ?? publish?.exchange ?? (isPublish ? exchangeIn(replyText) : "")
    const fields = { replyCode, replyText, operation, entity, classId, methodId }
    const routingKey = refused.length > 1 ? undefined : publish?.routingKey
    const error = fromChannelClose(routingKey === undefined ? fields : { ...fields, routingKey })
    // Both sides closed at once. The broker may not answer our close (RabbitMQ loses it now and then). Our answer to
    // its close is enough: with it the broker has forgotten the channel.
    if (this.state === "closing") this.closedBy(error)
    else this.end(error, "closed", own, refused)
    this.gone()
  }

  /** The connection is gone. */
  fail(error: AmqpConnectionError): void {
    if (this.isGone) return
    if (this.state === "closing") this.closeCause ??= error
    else this.end(error, "closed")
    this.gone()
  }

  /** Gives the number to another channel, though the broker never answered our close. */
  forget(): void {
    this.gone()
  }

  private closedBy(cause: ChannelCloseCause): void {
    this.closeCause = cause
    this.isToldOf = false
  }

  /** Ends everything that this channel owns. */
  private end(
    cause: ChannelCloseCause,
    state: State,
    own?: Pending,
    refused: ReadonlyArray<number> = []
  ): void {
    this.state = state
    this.closedBy(cause)
    // Also operations that nobody waits for any more count.
    this.isToldOf = this.pending.count + this.unconfirmed > 0
    this.assembler.reset()
    this.madeSettlements?.clear()
    this.host.expect(-this.pending.count)
    for (const pending of this.pending.takeAll()) pending.fail(cause, pending === own)
    this.madeConfirms?.fail(cause, refused, isSuspected(cause))
    this.transacted?.clear()
    for (const consumer of this.madeConsumers?.values() ?? []) consumer.end({ _tag: "ChannelClosed", cause })
    this.madeConsumers?.clear()
    this.releaseFlow()
  }

  private gone(): void {
    this.state = "closed"
    this.host.onGone(this)
    for (const callback of this.onClosedCallbacks.splice(0)) this.host.later(callback)
  }
}

/**
 * One channel of one epoch, without Effect: its pending requests in order, its mode, its consumers and unsettled
 * deliveries, its unconfirmed publishes, and the one way in which all of these end.
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
import {
  type BasicGetOk,
  type BasicReturn,
  type ChannelClose,
  type Method,
  type MethodName,
  methods
} from "../codec/spec.ts"
import type { Reader } from "../codec/wire.ts"
import { AmqpConsumerCancelled, type ChannelCloseCause } from "../errors/channel.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import type { AmqpMessageReturned } from "../errors/publish.ts"
import { fromChannelClose } from "../errors/soft.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import type { InputTable } from "../values/tableValue.ts"
import { Assembler } from "./assembler.ts"
import { Confirms, messageReturned, pairingTag, type PublishOutcome, type PublishWaiter } from "./confirms.ts"
import type { ConsumerEntry } from "./deliveries.ts"
import type { Lane } from "./outbox.ts"
import { type PublishTraits, refusedOf } from "./publishRefusal.ts"
import { type Settlement, Settlements } from "./settlements.ts"

// -----------------------------------------------------------------------------
// requests
// -----------------------------------------------------------------------------

/** The methods that the broker answers. */
export type RequestName = {
  [Name in MethodName]: typeof methods[Name]["replies"] extends readonly [] ? never
    : typeof methods[Name]["client"] extends true ? Name
    : never
}[MethodName]

/** A request as it is written. */
export type Request<Name extends RequestName> = Method<InputTable> & { readonly _tag: Name }

/** The methods that answer a request. */
export type ReplyTo<Name extends RequestName> = Extract<
  Method,
  { readonly _tag: typeof methods[Name]["replies"][number] }
>

const isReplyTo = <Name extends RequestName>(request: Name, method: Method): method is ReplyTo<Name> => {
  const replies: ReadonlyArray<string> = methods[request].replies
  return replies.includes(method._tag)
}

/** Whether a reply names another consumer than its request. */
const isForAnother = (request: Method<InputTable>, reply: Method): boolean =>
  "consumerTag" in request && "consumerTag" in reply && request.consumerTag !== reply.consumerTag

/** RabbitMQ has the queue answer these, by way of the channel: requests behind them may be answered before them. */
const isAnsweredByQueue = (request: RequestName): boolean => request === "basic.consume" || request === "basic.cancel"

/** What a caller wants to hear of its request. Each is called at most once, and one of the two is. */
export interface RequestHandlers<Name extends RequestName> {
  /** The queue or exchange that the request names, for errors. */
  readonly entity: string
  /** `content` comes with `basic.get-ok`. */
  readonly onReply: (reply: ReplyTo<Name>, content: ReceivedContent | undefined) => void
  /** `own`: this request provoked the end of the channel. */
  readonly onFailure: (cause: ChannelCloseCause, own: boolean) => void
}

/** A request whose reply has not come. */
interface Pending {
  readonly request: RequestName
  readonly entity: string
  /** Whether the message of a `basic.get-ok` has to be settled. */
  readonly settles: boolean
  /** How many publishes came before it, with confirms or in tx mode. */
  readonly published: number
  /** Takes the reply; `false` where it answers another request. */
  readonly reply: (method: Method, content: ReceivedContent | undefined) => boolean
  readonly fail: (cause: ChannelCloseCause, own: boolean) => void
}

// -----------------------------------------------------------------------------
// the channel
// -----------------------------------------------------------------------------

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

const nameOf = (classId: number, methodId: number): string => {
  const id = classId * 0x1_0000 + methodId
  for (const [name, info] of Object.entries(methods)) if (info.id === id) return name
  return "channel"
}

/** Whether a publish may have provoked the end of a channel: the broker says so, or does not say what did. */
const isSuspected = (cause: ChannelCloseCause): boolean => {
  if (cause === undefined) return false
  const said = cause._tag === "AmqpConnectionError" ? cause.reason : cause
  if (!("classId" in said) || said._tag === "ConnectionForced") return false
  return said.classId === 0 || nameOf(said.classId, said.methodId) === "basic.publish"
}
/** The exchange that the broker speaks of in the refusal of a publish; empty where it names none. */
const exchangeIn = (replyText: string): string => /exchange '(.*)' in vhost '/s.exec(replyText)?.[1] ?? ""

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
  /** Whether somebody has heard of that cause: an operation that it ended, or one that came later. */
  isToldOf = false
  /** Whether nobody waits for the answer to our close any more; until it comes the number is the last to be used. */
  isAbandoned = false
  private readonly host: ChannelHost
  private madeConfirms: Confirms | undefined
  private state: State = "opening"
  /** Whether nothing new is taken. */
  private isFinishing = false
  /** Whether `channel.open-ok` has come: what comes before it is from the former life of this number. */
  private isKnown = false
  /** After so many replies it is certain that what was published without confirms has come to the broker. */
  private repliesLeft = 0
  /** Whether `channel.close-ok` was written. */
  private closeAnswered = false
  /** Whether the broker has asked for content to stop (`channel.flow`). */
  private stopped = false
  /** Those who wait to publish, each with what stands for it at the connection's gate. */
  private madeFlowWaiting: Map<() => void, () => void> | undefined
  private readonly pending: Array<Pending> = []
  private readonly assembler = new Assembler()
  /** The method of the content that is being received. */
  private content: BasicGetOk | BasicReturn | undefined
  /** The delivery that is being received; its fields are reused. */
  private readonly delivery = { consumerTag: "", deliveryTag: 0, redelivered: false, exchange: "", routingKey: "" }
  private madeConsumers: Map<string, ConsumerEntry> | undefined
  private madeSettlements: Settlements | undefined
  private returnedInTx: Array<AmqpMessageReturned> = []
  /** Publishes in tx mode that the broker may still refuse, and how many came before them. */
  private publishedInTx: Array<PublishTraits> = []
  private takenInTx = 0
  private onClosedCallbacks: Array<() => void> = []

  constructor(id: number, lane: Lane, host: ChannelHost) {
    this.id = id
    this.lane = lane
    this.host = host
  }

  // These are made when first asked for: a channel that needs none of them does without 1.7 KiB.

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

  private get flowWaiting(): Map<() => void, () => void> {
    return this.madeFlowWaiting ??= new Map()
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
   * Whether it is not known if the broker has got what was published without confirms: nothing that was sent after it
   * has been answered.
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
   * Sends a request. Its handlers hear of it exactly once; on a closed channel of its cause. Throws `AmqpEncodeError`.
   */
  request<Name extends RequestName>(method: Request<Name>, handlers: RequestHandlers<Name>): void {
    if (this.isClosed) return this.host.later(() => handlers.onFailure(this.closeCause, false))
    const name: Name = method._tag
    const frame: Method<InputTable> = method
    this.write(frame)
    this.host.expect(1)
    this.pending.push({
      request: name,
      entity: handlers.entity,
      settles: frame._tag === "basic.get" && !frame.noAck,
      published: this.mode === "tx" ? this.takenInTx + this.publishedInTx.length : this.madeConfirms?.latest ?? 0,
      reply: (reply, content) => {
        if (!isReplyTo(name, reply) || isForAnother(frame, reply)) return false
        this.host.later(() => handlers.onReply(reply, content))
        return true
      },
      fail: (cause, own) => this.host.later(() => handlers.onFailure(cause, own))
    })
    this.onRequested(name)
  }

  /** What a request means for all that is written after it. */
  private onRequested(name: RequestName): void {
    switch (name) {
      // The broker counts publishes from here on, not from its reply on.
      case "confirm.select":
        if (this.mode === "plain") this.mode = "confirm"
        return
      case "tx.select":
        if (this.mode === "plain") this.mode = "tx"
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
   * Writes a publish, while the channel is not closed. In confirm mode the waiter gets its outcome, otherwise nobody
   * does. Throws `AmqpEncodeError`.
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
    if (this.mode === "tx") this.publishedInTx.push({ exchange, routingKey, properties, size: bytes.length })
    if (this.mode === "plain") this.repliesLeft = this.pending.length + 1
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
    return this.pending.filter(({ request }) => id === 0 || methods[request].id === id).length
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

  /** A consumer was cancelled: what has come can still be taken and settled. */
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

  /** Somebody handles a delivery: it is not its consumer's to give back any more. Returns whether it may be handled. */
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
    return !this.stopped && this.lane.isOpen
  }

  /** Calls back once, when content may flow or the channel is over: at once if it may. Look again then. */
  onFlow(callback: () => void): void {
    if (this.isFlowing) return callback()
    const admitted = (): void => {
      this.flowWaiting.delete(callback)
      callback()
    }
    this.flowWaiting.set(callback, admitted)
    if (!this.stopped) this.lane.wait(admitted)
  }

  /** Takes back an `onFlow`. */
  offFlow(callback: () => void): void {
    const admitted = this.flowWaiting.get(callback)
    if (admitted === undefined) return
    this.flowWaiting.delete(callback)
    this.lane.unwait(admitted)
  }

  private releaseFlow(): void {
    for (const callback of this.madeFlowWaiting?.keys() ?? []) {
      this.offFlow(callback)
      this.host.later(callback)
    }
  }

  // --- what the broker sends

  /**
   * Whether what comes is for nobody: before `channel.open-ok` it is from the former life of this number, maybe only the
   * rest of a content; after our own close nobody waits for it.
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
      // Our close is behind the transaction.
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
        this.stopped = !method.active
        this.write({ _tag: "channel.flow-ok", active: method.active })
        if (method.active) this.releaseFlow()
        return
      default:
        return this.onReply(method, undefined)
    }
  }

  /** The request that a reply answers: the oldest, or one behind those that the queue has yet to answer. */
  private takeAnswered(method: Method, content: ReceivedContent | undefined): Pending {
    const { pending } = this
    for (let at = 0; at < pending.length; at++) {
      const one = pending[at]
      if (one?.reply(method, content)) {
        pending.splice(at, 1)
        return one
      }
      if (one !== undefined && !isAnsweredByQueue(one.request)) break
    }
    const [oldest] = pending
    const why = oldest === undefined ? ", nobody asked for it" : ` in answer to ${oldest.request}`
    throw violation(503, `${method._tag} came on channel ${this.id}${why}`)
  }

  private onReply(method: Method, content: ReceivedContent | undefined): void {
    const pending = this.takeAnswered(method, content)
    this.host.expect(-1)
    this.onPublishesTaken(pending.published)
    if (this.repliesLeft > 0) this.repliesLeft--
    switch (method._tag) {
      case "channel.open-ok":
        this.state = "open"
        return
      case "basic.get-ok":
        // While recovering: the broker has taken it back already.
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

  /** The broker has answered what came behind so many publishes: it has refused none of them. */
  private onPublishesTaken(count: number): void {
    if (this.mode !== "tx") return this.madeConfirms?.take(count)
    if (count <= this.takenInTx) return
    this.publishedInTx.splice(0, count - this.takenInTx)
    this.takenInTx = count
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
      // The assembler is reused, and replies are handed on later.
      const { content, headerBytes, headerEnd, headerStart } = this.assembler
      const received = { content, headerBytes, headerStart, headerEnd }
      if (method._tag === "basic.get-ok") this.onReply(method, received)
      else this.onReturn(method, new AmqpMessage(method.exchange, method.routingKey, received))
    }
    // A large body does not stay here until the next content comes.
    this.assembler.reset()
  }

  private onDelivery(): void {
    const { consumerTag, deliveryTag, exchange, redelivered, routingKey } = this.delivery
    const consumer = this.consumers.get(consumerTag)
    // From the former life of this number, or a broker that is mistaken.
    if (consumer === undefined) return this.settlements.onIgnored()
    // The broker has taken it back already.
    if (this.settlements.isRecovering && !consumer.noAck) return
    if (!consumer.noAck) this.settlements.add(deliveryTag, consumer)
    consumer.push(deliveryTag, redelivered, exchange, routingKey, this.assembler)
  }

  private onReturn(method: BasicReturn, message: AmqpMessage): void {
    if (this.mode !== "tx") return this.confirms.returned(message.pairing, method, message)
    this.returnedInTx.push(messageReturned(method, message))
  }

  /** The messages that came back since the last call, in tx mode. */
  takeReturned(): ReadonlyArray<AmqpMessageReturned> {
    const returned = this.returnedInTx
    this.returnedInTx = []
    return returned
  }

  private onCancel(consumerTag: string, noWait: boolean): void {
    const consumer = this.consumers.get(consumerTag)
    // Cancelled by us already; only a tag of ours is sure to have a form on the wire.
    if (consumer === undefined) return
    if (!noWait) this.write({ _tag: "basic.cancel-ok", consumerTag })
    const error = new AmqpConsumerCancelled({ queue: consumer.queue, consumerTag })
    this.removeConsumer(consumer)
    consumer.end({ _tag: "CancelledByBroker", error })
  }

  // --- the end

  /**
   * Takes nothing new, neither requests nor publishes, and not from those who wait to publish. What has been written
   * comes to its outcome, and deliveries can be settled.
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
    // For a close of the former life that crossed the broker's.
    if (!this.isKnown) return
    if (this.state !== "closing") {
      throw violation(503, `channel.close-ok came on channel ${this.id}, nobody asked for it`)
    }
    this.repliesLeft = 0
    this.gone()
  }

  private onClose(close: ChannelClose): void {
    // RabbitMQ repeats itself until it has read the answer, and takes a second answer for an error.
    if (this.closeAnswered) return
    this.closeAnswered = true
    this.lane.discard()
    this.write({ _tag: "channel.close-ok" })
    const { classId, methodId, replyCode, replyText } = close
    const operation = nameOf(classId, methodId)
    const own = this.refusedRequest(operation, replyText)
    const isPublish = operation === "basic.publish"
    const refused = isPublish ? this.madeConfirms?.refused(close) ?? [] : []
    // In a transaction the first that is bad in this way is the one; with confirms all of them hear the same.
    const publish = !isPublish ?
      undefined
      : this.mode === "tx" ?
      refusedOf(close, this.publishedInTx, (published) => published)[0]
      : refused.map((sequence) => this.confirms.messageOf(sequence))[0]
    const entity = own?.entity ?? publish?.exchange ?? (isPublish ? exchangeIn(replyText) : "")
    const fields = { replyCode, replyText, operation, entity, classId, methodId }
    const routingKey = refused.length > 1 ? undefined : publish?.routingKey
    const error = fromChannelClose(routingKey === undefined ? fields : { ...fields, routingKey })
    // Both sides closed at once. Whether the broker still answers our close is its affair, and RabbitMQ's is to lose it
    // now and then: with our answer to its own it has forgotten the channel.
    if (this.state === "closing") this.closedBy(error)
    else this.end(error, "closed", own, refused)
    this.gone()
  }

  /**
   * The request that the broker refused. Of several that it answers in any order, the one whose queue it names alone;
   * where that is not one it is none, rather than the wrong one.
   */
  private refusedRequest(operation: string, replyText: string): Pending | undefined {
    const end = this.pending.findIndex(({ request }) => !isAnsweredByQueue(request))
    const inQuestion = (end < 0 ? this.pending : this.pending.slice(0, end + 1))
      .filter(({ request }) => request === operation)
    const named = inQuestion.filter(({ entity }) => replyText.includes(`'${entity}'`))
    const suspects = named.length > 0 ? named : inQuestion
    return suspects.length === 1 ? suspects[0] : undefined
  }

  /** The connection is gone. */
  fail(error: AmqpConnectionError): void {
    if (this.isGone) return
    if (this.state === "closing") this.closeCause ??= error
    else this.end(error, "closed")
    this.gone()
  }

  /** Its number goes to another channel, though our close was never answered. */
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
    // Those whose outcome nobody waits for any more count as well.
    this.isToldOf = this.pending.length + this.unconfirmed > 0
    this.assembler.reset()
    this.madeSettlements?.clear()
    this.host.expect(-this.pending.length)
    for (const pending of this.pending.splice(0)) pending.fail(cause, pending === own)
    this.madeConfirms?.fail(cause, refused, isSuspected(cause))
    this.publishedInTx = []
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

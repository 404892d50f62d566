/**
 * Classic and quorum queues: messages in order, each of which goes to one consumer and is gone when it is settled.
 *
 * A quorum queue differs as in RabbitMQ. It counts how often a message came back (`x-delivery-count`), and gives it up
 * at the delivery limit. Without a limit a requeued message goes to the end. It knows neither priorities nor exclusive
 * consumers. Among single active consumers the next is the one that came first. There is no replication.
 *
 * Known differences: a quorum queue counts the consumers that it has. RabbitMQ also counts cancelled ones that still
 * hold messages, but not those that wait to be the single active one. And a prefetch of 0 means no limit here, and 2000
 * there.
 *
 * @since 0.1.0
 */
import * as AmqpTable from "../../../AmqpTable.ts"
import type { PlainTable } from "../../../AmqpTable.ts"
import type { Message } from "../model/message.ts"
import type { Context, Entry, Outcome, Owner, Queue, QueueHost, QueueType, Subscriber, Taken } from "../model/model.ts"
import { accessRefused, notImplemented, resourceLocked } from "../model/refusal.ts"
import type { Timer } from "../model/timers.ts"
import { deadLetter, type Reason, takers } from "./deadLetters.ts"
import { describeQueue, type QueueDefinition, type QueueSettings, readSettings } from "./definition.ts"
import { ReadyMessages, StoredEntry } from "./readyMessages.ts"
import { Subscribers } from "./subscribers.ts"

/** A classic or a quorum queue. */
export class StoredQueue implements Queue {
  readonly name: string
  readonly type: QueueType
  readonly durable: boolean
  readonly autoDelete: boolean
  readonly owner: Owner | undefined
  readonly arguments: PlainTable
  unsettled = 0
  private readonly context: Context
  private readonly host: QueueHost
  private readonly settings: QueueSettings
  private readonly messages: ReadyMessages
  private readonly consumers = new Subscribers()
  /** With `x-single-active-consumer`: the consumer that gets everything. */
  private active: Subscriber | undefined
  /** The rank of the next message. */
  private nextRank = 0
  /** Messages of lower ranks were offered to consumers. So is every message, even one that lives for 0 ms. */
  private attempted = 0
  /** A quorum queue that was over its limit takes nothing until a fifth of the limit is free. */
  private isFull = false
  private isClosed = false
  private headTimer: Timer | undefined
  private unusedTimer: Timer | undefined

  constructor(context: Context, host: QueueHost, definition: QueueDefinition) {
    this.name = definition.name
    this.type = definition.type
    this.durable = definition.durable
    this.autoDelete = definition.autoDelete
    this.owner = definition.owner
    this.arguments = definition.arguments
    this.context = context
    this.host = host
    this.settings = readSettings(definition)
    this.messages = new ReadyMessages(this.settings.maxPriority)
    this.touch()
  }

  get ready(): number {
    return this.messages.size
  }

  get subscribers(): ReadonlyArray<Subscriber> {
    return this.consumers.all
  }

  readonly entries = (): ReadonlyArray<StoredEntry> => this.messages.toArray()

  // ---------------------------------------------------------------------------
  // in
  // ---------------------------------------------------------------------------

  readonly publish = (message: Message): boolean => {
    const { deadLetters, maxPriority, overflow } = this.settings
    // Consumers first take what they can: that may make room.
    if (overflow !== "drop-head" && this.refuses(message)) this.pump()
    if (overflow !== "drop-head" && this.refuses(message)) {
      if (overflow === "reject-publish-dlx" && deadLetters !== undefined) this.giveUp(message, "maxlen")
      return false
    }
    const priority = maxPriority === 0 ? 0 : Math.min(message.priority ?? 0, maxPriority)
    this.messages.push(new StoredEntry(message, this.nextRank++, priority, this.expiryOf(message)))
    this.context.agenda.add(this)
    return true
  }

  private refuses(message: Message): boolean {
    if (this.type === "quorum") return this.isFull
    const { maxBytes, maxLength } = this.settings
    return this.messages.size + 1 > maxLength || this.messages.bytes + message.body.length > maxBytes
  }

  private expiryOf(message: Message): number {
    const ttl = Math.min(this.settings.messageTtl ?? Infinity, message.expiration ?? Infinity)
    // In a quorum queue a message lives for at least a millisecond.
    return this.context.timers.now() + (this.type === "quorum" ? Math.max(ttl, 1) : ttl)
  }

  // ---------------------------------------------------------------------------
  // out
  // ---------------------------------------------------------------------------

  readonly pump = (): void => {
    if (this.isClosed) return
    this.consumers.wake()
    this.dropExpired()
    while (this.messages.size > 0) {
      const subscriber = this.nextSubscriber()
      const entry = subscriber && this.take(subscriber.noAck, subscriber.tag)
      if (entry === undefined) break
      subscriber?.deliver(entry)
      if (subscriber !== undefined && this.type === "quorum") this.consumers.rest(subscriber)
      this.dropExpired()
      // Queues whose consumers share a prefetch take turns.
      if (subscriber?.hasGlobalPrefetch === true && this.messages.size > 0) return this.context.agenda.add(this)
    }
    this.attempted = this.nextRank
    this.dropExcess()
    this.dropExpired()
    this.checkLimit()
  }

  private nextSubscriber(): Subscriber | undefined {
    if (!this.settings.isSingleActive) return this.consumers.next()
    return this.active?.isReady() === true ? this.active : undefined
  }

  /** Takes the first message out. */
  private take(noAck: boolean, holder: string): StoredEntry | undefined {
    const entry = this.messages.shift()
    if (entry === undefined) return undefined
    entry.holder = holder
    if (!noAck) this.unsettled++
    return entry
  }

  readonly get = (noAck: boolean): Taken | undefined => {
    if (this.type === "quorum" && this.settings.isSingleActive) {
      throw resourceLocked(
        `cannot obtain access to locked ${this.title}. basic.get operations are not supported by quorum queues with ` +
          "single active consumer"
      )
    }
    this.touch()
    this.attempted = this.nextRank
    this.dropExpired()
    const entry = this.take(noAck, "")
    if (entry === undefined) return undefined
    if (this.type === "quorum") entry.message = withDeliveryCount(entry)
    this.dropExpired()
    this.checkLimit()
    return { entry, remaining: this.messages.size }
  }

  readonly settle = (entries: ReadonlyArray<Entry>, outcome: Outcome): void => {
    if (this.isClosed) return
    this.unsettled -= entries.length
    this.context.agenda.add(this)
    if (outcome === "ack") return
    // RabbitMQ's channels sort deliveries that are settled together by consumer tag. What `get` took comes first.
    const own = entries.filter((entry) => entry instanceof StoredEntry).sort(byHolder)
    if (outcome === "discard") own.forEach(({ original }) => this.giveUp(original, "rejected"))
    else if (this.type === "quorum") this.returnCounted(own, outcome)
    else this.returnToPlace(own)
  }

  private returnToPlace(entries: ReadonlyArray<StoredEntry>): void {
    for (const entry of entries) entry.redelivered = true
    this.messages.restore(entries)
    // Before anybody can take one of them.
    this.dropExcess()
  }

  private returnCounted(entries: ReadonlyArray<StoredEntry>, outcome: Outcome): void {
    const { deliveryLimit } = this.settings
    for (const entry of entries) {
      entry.returns++
      if (deliveryLimit !== undefined && entry.returns > deliveryLimit) {
        this.giveUp(entry.original, "delivery_limit")
        continue
      }
      entry.redelivered = true
      entry.message = withDeliveryCount(entry)
      // It goes behind those that came back before. Without a limit it could come back for ever, so it goes behind all.
      entry.rank = this.nextRank++
      if (outcome === "abandon" || deliveryLimit !== undefined) this.messages.restore([entry])
      else this.messages.push(entry)
    }
  }

  readonly purge = (): number => {
    const count = this.messages.filter(() => false)
    this.checkLimit()
    return count
  }

  // ---------------------------------------------------------------------------
  // consumers
  // ---------------------------------------------------------------------------

  readonly consume = (subscriber: Subscriber): void => {
    const { isSingleActive } = this.settings
    if (this.type === "quorum") {
      if (subscriber.hasGlobalPrefetch) throw notImplemented(`${this.title} does not support global qos`)
    } else if (
      isSingleActive
        ? subscriber.isExclusive
        : this.subscribers.some((one) => one.isExclusive) || (subscriber.isExclusive && this.subscribers.length > 0)
    ) {
      throw accessRefused(`${this.title} in exclusive use`)
    }
    this.consumers.add(subscriber)
    this.active ??= subscriber
    this.touch()
    this.context.agenda.add(this)
  }

  readonly cancel = (subscriber: Subscriber): void => {
    if (!this.consumers.delete(subscriber)) return
    if (this.active === subscriber) {
      this.active = this.type === "quorum" ? this.subscribers[0] : this.consumers.first
      // RabbitMQ 3.10's classic queues wait for the next publish before they deliver to it.
      this.context.agenda.add(this)
    }
    if (this.autoDelete && this.subscribers.length === 0) this.host.expire(this)
    else this.touch()
  }

  /** Starts the time of `x-expires` again. It only passes while there are no consumers. */
  readonly touch = (): void => {
    const { expires } = this.settings
    if (expires === undefined) return
    this.unusedTimer?.cancel()
    if (this.subscribers.length > 0) return
    this.unusedTimer = this.context.timers.after(expires, () => this.host.expire(this))
  }

  // ---------------------------------------------------------------------------
  // what it gives up
  // ---------------------------------------------------------------------------

  /** Only the first message can expire. Those behind it wait for their turn. */
  private dropExpired(): void {
    const now = this.context.timers.now()
    for (let first = this.messages.first; first !== undefined; first = this.messages.first) {
      if (first.rank >= this.attempted) return
      if (first.expiresAt > now) return this.wakeAt(first.expiresAt)
      this.messages.shift()
      this.giveUp(first.original, "expired")
    }
  }

  /** One timer for whichever message is first. That it may come too early costs less than one timer for each. */
  private wakeAt(at: number): void {
    if (at === Infinity || (this.headTimer !== undefined && this.headTimer.at <= at)) return
    this.headTimer?.cancel()
    this.headTimer = this.context.timers.at(at, () => {
      this.headTimer = undefined
      this.dropExpired()
      this.checkLimit()
    })
  }

  private dropExcess(): void {
    const { maxBytes, maxLength, overflow } = this.settings
    // Quorum queues have no `reject-publish-dlx`. They drop the head instead.
    if (overflow !== "drop-head" && !(this.type === "quorum" && overflow === "reject-publish-dlx")) return
    while (this.messages.size > maxLength || this.messages.bytes > maxBytes) {
      const entry = this.messages.shift()
      if (entry === undefined) return
      this.giveUp(entry.original, "maxlen")
    }
  }

  /** Notes whether a quorum queue is over its limit, or has room again: a fifth of the limit. */
  private checkLimit(): void {
    if (this.type !== "quorum" || this.settings.overflow !== "reject-publish") return
    const { maxBytes, maxLength } = this.settings
    const { bytes, size } = this.messages
    if (size > maxLength || bytes > maxBytes) this.isFull = true
    else if (size <= Math.floor(maxLength * 0.8) && bytes <= Math.floor(maxBytes * 0.8)) this.isFull = false
  }

  private giveUp(message: Message, reason: Reason): void {
    const { deadLetters } = this.settings
    this.context.emit({
      _tag: "DeadLettered",
      vhost: this.host.vhost,
      queue: this.name,
      exchange: deadLetters?.exchange,
      reason
    })
    if (deadLetters === undefined) return
    const letter = deadLetter(message, { queue: this.name, reason, at: this.context.timers.now(), ...deadLetters })
    this.host.republish(letter, takers(letter))
  }

  // ---------------------------------------------------------------------------
  // its life
  // ---------------------------------------------------------------------------

  readonly restart = (): void => {
    if (this.type !== "quorum") this.messages.filter((entry) => entry.original.isPersistent)
    this.unsettled = 0
    this.touch()
    this.dropExpired()
  }

  readonly close = (): void => {
    this.isClosed = true
    this.headTimer?.cancel()
    this.unusedTimer?.cancel()
    this.active = undefined
    for (const subscriber of this.consumers.clear()) subscriber.cancelled()
  }

  private get title(): string {
    return describeQueue(this.host.vhost, this.name)
  }
}

const byHolder = (a: StoredEntry, b: StoredEntry): number => a.holder === b.holder ? 0 : a.holder < b.holder ? -1 : 1

const withDeliveryCount = (entry: StoredEntry): Message =>
  entry.original.withHeaders({ "x-delivery-count": AmqpTable.int64(BigInt(entry.returns)) })

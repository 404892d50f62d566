/**
 * Stream queues: a log whose messages stay, read by any number of consumers from an offset that each of them chooses.
 *
 * Settling a delivery only makes room for the next one. What RabbitMQ's streams have beyond AMQP 0-9-1 (their own
 * protocol, replicas, offset tracking) is not there. A message is a chunk of its own: the offset `last` is the last
 * message, and a timestamp finds the first message from that time on.
 *
 * @since 0.1.0
 */
import * as AmqpTable from "../../../AmqpTable.ts"
import type { PlainTable } from "../../../AmqpTable.ts"
import type { Message } from "../model/message.ts"
import type { Context, Entry, Outcome, Owner, Queue, QueueHost, QueueType, Subscriber } from "../model/model.ts"
import { notImplemented, preconditionFailed, Refusal } from "../model/refusal.ts"
import { describeQueue, parseAge, type QueueDefinition, type QueueSettings, readSettings } from "./definition.ts"

interface Stored {
  readonly message: Message
  /** In milliseconds since 1970. */
  readonly at: number
}

/** A part of the log that retention drops at once. All but the last are complete. */
interface Segment {
  messages: number
  bytes: number
  /** Of its last message. */
  at: number
}

/** A stream. */
export class StreamQueue implements Queue {
  readonly name: string
  readonly type: QueueType = "stream"
  readonly durable: boolean
  readonly autoDelete: boolean
  readonly owner: Owner | undefined
  readonly arguments: PlainTable
  unsettled = 0
  private readonly context: Context
  private readonly host: QueueHost
  private readonly settings: QueueSettings
  private readonly log: Array<Stored> = []
  /** The offset of the first message in the log. */
  private start = 0
  private readonly segments: Array<Segment> = []
  /** The offset that is next for each consumer. */
  private readonly offsets = new Map<Subscriber, number>()
  private isClosed = false

  constructor(context: Context, host: QueueHost, definition: QueueDefinition) {
    this.name = definition.name
    this.durable = definition.durable
    this.autoDelete = definition.autoDelete
    this.owner = definition.owner
    this.arguments = definition.arguments
    this.context = context
    this.host = host
    this.settings = readSettings(definition)
  }

  get ready(): number {
    return this.log.length
  }

  get subscribers(): ReadonlyArray<Subscriber> {
    return [...this.offsets.keys()]
  }

  readonly entries = (): ReadonlyArray<Entry> => this.log.map((stored, index) => toEntry(stored, this.start + index))

  readonly publish = (message: Message): boolean => {
    const at = this.context.timers.now()
    this.log.push({ message, at })
    this.retain(message.body.length, at)
    this.context.agenda.add(this)
    return true
  }

  /** Counts a message, and drops old segments when a new one begins. */
  private retain(bytes: number, at: number): void {
    const current = this.segments.at(-1)
    if (current !== undefined && current.bytes < this.settings.segmentBytes) {
      current.messages++
      current.bytes += bytes
      current.at = at
      return
    }
    this.segments.push({ messages: 1, bytes, at })
    let total = this.segments.reduce((sum, segment) => sum + segment.bytes, 0)
    for (const segment of this.segments.slice(0, -1)) {
      if (total <= this.settings.maxBytes && segment.at >= at - this.settings.maxAge) return
      this.segments.shift()
      this.log.splice(0, segment.messages)
      this.start += segment.messages
      total -= segment.bytes
    }
  }

  readonly pump = (): void => {
    if (this.isClosed) return
    for (const [subscriber, wanted] of this.offsets) {
      let offset = Math.max(wanted, this.start)
      for (let stored = this.at(offset); stored !== undefined && subscriber.isReady(); stored = this.at(offset)) {
        this.unsettled++
        this.offsets.set(subscriber, offset + 1)
        subscriber.deliver(toEntry(stored, offset++))
      }
    }
  }

  private at(offset: number): Stored | undefined {
    return this.log[offset - this.start]
  }

  readonly settle = (entries: ReadonlyArray<Entry>, outcome: Outcome): void => {
    if (this.isClosed) return
    if (outcome === "requeue" || outcome === "discard") {
      throw notImplemented(`basic.nack and basic.reject not supported by stream queues ${this.title}`)
    }
    this.unsettled -= entries.length
    this.context.agenda.add(this)
  }

  readonly get = (): never => {
    throw notImplemented(`basic.get not supported by stream queues ${this.title}`)
  }

  readonly purge = (): never => {
    throw notImplemented(`queue.purge not supported by stream queues ${this.title}`)
  }

  readonly consume = (subscriber: Subscriber): void => {
    if (subscriber.prefetch === 0) {
      throw preconditionFailed(`consumer prefetch count is not set for '${this.title}'`)
    }
    if (subscriber.noAck) {
      throw notImplemented(`automatic acknowledgement not supported by stream queues ${this.title}`)
    }
    if (subscriber.hasGlobalPrefetch) throw notImplemented(`${this.title} does not support global qos`)
    this.offsets.set(subscriber, this.offsetOf(subscriber.arguments["x-stream-offset"] ?? "next"))
    this.context.agenda.add(this)
  }

  private offsetOf(spec: AmqpTable.Plain): number {
    const end = this.start + this.log.length
    if (typeof spec === "number" || typeof spec === "bigint") return Number(spec)
    if (spec === "first") return this.start
    if (spec === "last") return end - 1
    if (spec === "next") return end
    const age = typeof spec === "string" ? parseAge(spec) : undefined
    const since = spec instanceof Date
      ? spec.getTime()
      : age === undefined
      ? undefined
      : this.context.timers.now() - age
    // RabbitMQ's channel crashes.
    if (since === undefined) throw new Refusal({ replyCode: 541, replyText: "INTERNAL_ERROR" })
    const index = this.log.findIndex(({ at }) => at >= since)
    return index < 0 ? end : this.start + index
  }

  readonly cancel = (subscriber: Subscriber): void => {
    this.offsets.delete(subscriber)
  }

  readonly touch = (): void => {}

  readonly restart = (): void => {
    this.unsettled = 0
  }

  readonly close = (): void => {
    this.isClosed = true
    const subscribers = this.subscribers
    this.offsets.clear()
    for (const subscriber of subscribers) subscriber.cancelled()
  }

  private get title(): string {
    return describeQueue(this.host.vhost, this.name)
  }
}

/** RabbitMQ 3.10 keeps the messages of a stream in the format of AMQP 1.0, which loses headers of these types. */
const lost: ReadonlySet<string> = new Set(["Array", "Table", "Void"])

const toEntry = ({ message }: Stored, offset: number): Entry => ({
  message: message.withHeaders({
    ...Object.fromEntries(message.headers.value.flatMap(([key, { _tag }]) => lost.has(_tag) ? [[key, undefined]] : [])),
    "x-stream-offset": AmqpTable.int64(BigInt(offset))
  }),
  redelivered: false
})

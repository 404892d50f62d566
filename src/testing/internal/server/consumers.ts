/**
 * The consumers of one channel, and how many unsettled deliveries each of them, and all together, may have.
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { PlainTable } from "../../../AmqpTable.ts"
import type { Agenda, Entry, Owner, Queue, Subscriber } from "../model/model.ts"

/** What a consumer needs of its channel. */
export interface ConsumerHost {
  readonly number: number
  readonly owner: Owner
  readonly agenda: Agenda
  readonly isWritable: () => boolean
  readonly deliver: (consumer: Consumer, entry: Entry) => void
  readonly cancelled: (consumer: Consumer) => void
}

/** A subscription. */
export class Consumer implements Subscriber {
  readonly tag: string
  readonly noAck: boolean
  readonly isExclusive: boolean
  readonly priority: number
  readonly arguments: PlainTable
  readonly prefetch: number
  readonly owner: Owner
  readonly channel: number
  readonly queue: Queue
  /** Deliveries that wait for their settlement. */
  unsettled = 0
  private readonly consumers: Consumers
  private readonly host: ConsumerHost

  constructor(
    consumers: Consumers,
    host: ConsumerHost,
    queue: Queue,
    consumerTag: string,
    method: AmqpProtocol.BasicConsume
  ) {
    const priority = method.arguments["x-priority"]
    this.tag = consumerTag
    this.noAck = method.noAck
    this.isExclusive = method.exclusive
    this.priority = typeof priority === "number" || typeof priority === "bigint" ? Number(priority) : 0
    this.arguments = method.arguments
    this.prefetch = consumers.prefetch
    this.owner = host.owner
    this.channel = host.number
    this.queue = queue
    this.consumers = consumers
    this.host = host
  }

  get hasGlobalPrefetch(): boolean {
    return this.consumers.globalPrefetch > 0
  }

  isReady(): boolean {
    return this.consumers.hasRoom(this) && this.host.isWritable()
  }

  deliver(entry: Entry): void {
    this.host.deliver(this, entry)
  }

  cancelled(): void {
    this.host.cancelled(this)
  }
}

/** The consumers of a channel by their tags. Where they share a prefetch, the one whose turn comes next is the first. */
export class Consumers {
  /** Of consumers to come; 0: no limit. */
  prefetch = 0
  /** Of all together; 0: no limit. */
  globalPrefetch = 0
  private readonly byTag = new Map<string, Consumer>()
  /** What counts against `globalPrefetch`. */
  private volume = 0
  private readonly agenda: Agenda

  constructor(agenda: Agenda) {
    this.agenda = agenda
  }

  get all(): ReadonlyArray<Consumer> {
    return [...this.byTag.values()]
  }

  get(consumerTag: string): Consumer | undefined {
    return this.byTag.get(consumerTag)
  }

  add(consumer: Consumer): void {
    this.byTag.set(consumer.tag, consumer)
  }

  /** Whether it was there. */
  remove(consumer: Consumer): boolean {
    return this.byTag.get(consumer.tag) === consumer && this.byTag.delete(consumer.tag)
  }

  /** The limit for all holds for classic queues alone. It also stops consumers that need no acknowledgement. */
  hasRoom(consumer: Consumer): boolean {
    const { noAck, prefetch, queue, unsettled } = consumer
    return (noAck || prefetch === 0 || unsettled < prefetch) &&
      (this.globalPrefetch === 0 || queue.type !== "classic" || this.volume < this.globalPrefetch)
  }

  delivered(consumer: Consumer): void {
    consumer.unsettled++
    if (this.globalPrefetch === 0) return
    if (consumer.queue.type === "classic") this.volume++
    if (this.remove(consumer)) this.add(consumer)
  }

  /** Deliveries that have been settled together. */
  settled(deliveries: ReadonlyArray<{ readonly consumer: Consumer | undefined }>): void {
    let count = 0
    for (const { consumer } of deliveries) {
      if (consumer === undefined) continue
      consumer.unsettled--
      count++
    }
    if (this.globalPrefetch === 0 || count === 0) return
    // Queues of all types count here, as in RabbitMQ.
    if (this.volume !== 0) this.volume -= count
    this.wake()
  }

  /**
   * `basic.qos`. `unsettled`: how many deliveries of the channel are unsettled, those of `basic.get` included. As in
   * RabbitMQ, a limit for each later consumer ends the limit for all.
   */
  limit(count: number, isGlobal: boolean, unsettled: number): void {
    if (!isGlobal) this.prefetch = count
    const globalPrefetch = isGlobal ? count : 0
    if (globalPrefetch === 0) this.volume = 0
    else if (this.globalPrefetch === 0) this.volume = unsettled
    this.globalPrefetch = globalPrefetch
    this.wake()
  }

  /** There may be room now. */
  wake(): void {
    for (const consumer of this.byTag.values()) this.agenda.add(consumer.queue)
  }
}

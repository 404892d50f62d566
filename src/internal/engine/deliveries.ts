/**
 * The deliveries of consumers, until somebody takes them: a buffer, the pull that waits for it, and its end. A consumer
 * has a buffer of its own, or shares one with others.
 *
 * Deliveries gather in an array. At the end of a batch of frames a waiting pull gets what has gathered. A buffer does
 * not talk to the broker: the channel does.
 *
 * @since 0.1.0
 */
import type { ReceivedContent } from "../codec/frames.ts"
import type { AmqpMessage } from "../codec/message.ts"
import type { AmqpConsumerCancelled, ChannelCloseCause } from "../errors/channel.ts"

/** How a consumer ended; deliveries that came before are pulled first. */
export type ConsumerEnd =
  | { readonly _tag: "Cancelled" }
  | { readonly _tag: "CancelledByBroker"; readonly error: AmqpConsumerCancelled }
  | { readonly _tag: "ChannelClosed"; readonly cause: ChannelCloseCause }

/** What a pull yields: deliveries, or the end. */
export type Pulled<D> = readonly [D, ...Array<D>] | ConsumerEnd

const isNonEmpty = <D>(array: Array<D>): array is [D, ...Array<D>] => array.length > 0

/** Where a delivery came from. */
export interface DeliverySource {
  /** The queue that it was consumed or taken from. */
  readonly queue: string
  /** Empty where `basic.get` took it. */
  readonly consumerTag: string
  /** The number of the channel. */
  readonly channel: number
}

/** Makes a delivery from its fields; the content is only valid during the call. */
export type MakeDelivery<D> = (
  deliveryTag: number,
  redelivered: boolean,
  exchange: string,
  routingKey: string,
  content: ReceivedContent,
  source: DeliverySource
) => D

/** What holds deliveries that nobody has taken. */
export interface Holder {
  /** Whether it holds more than a network may: 64 MiB, where each delivery counts 128 bytes beside its body. */
  readonly isFarOverfull: boolean
}

/** What a buffer needs of its session. */
export interface ConsumerHost {
  /** Runs a callback at the end of the batch. */
  readonly later: (callback: () => void) => void
  /** The buffer is over or again under its bound: 8 MiB or 4096 deliveries. */
  readonly onOverfull: (consumer: Holder, overfull: boolean) => void
}

const maxBufferedBytes = 8 * 1024 * 1024
const maxBufferedDeliveries = 4096

/**
 * The most deliveries and bytes for one pull. A slow consumer that takes 4096 at once would stop the socket until the
 * last one is done, which is too long for the broker. One wake-up for 256 deliveries costs nothing that can be
 * measured.
 */
const maxPulledDeliveries = 256
const maxPulledBytes = 1024 * 1024

/**
 * Below this size the socket is read while somebody waits for an answer. The answer may lie behind megabytes of
 * deliveries in the system's buffers, so without reading on it would never come.
 */
const farBytes = 64 * 1024 * 1024
/** About what a delivery takes on the wire without its body. */
const deliveryOverhead = 128

/** A consumer, as its channel sees it. */
export interface ConsumerEntry extends DeliverySource {
  readonly noAck: boolean
  readonly push: (
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    content: ReceivedContent
  ) => void
  readonly end: (end: ConsumerEnd) => void
  /** Drops what was not pulled. */
  readonly clear: () => void
}

/** Deliveries that wait for a pull, or a pull that waits for them. */
export class DeliveryBuffer<D extends AmqpMessage> {
  private host: ConsumerHost | undefined
  private buffer: Array<D> = []
  private bytes = 0
  private overfull = false
  private scheduled = false
  private ended: ConsumerEnd | undefined
  private readonly waiting: Array<(pulled: Pulled<D>) => void> = []

  constructor(host?: ConsumerHost) {
    this.host = host
  }

  /** Goes on with another session. What is left is dropped: the broker delivers it again. */
  moveTo(host: ConsumerHost): void {
    if (host === this.host) return
    this.clear()
    this.host = host
  }

  add(delivery: D): void {
    this.buffer.push(delivery)
    this.bytes += delivery.body.length
    this.schedule()
    if (!this.overfull) this.check()
  }

  get isFarOverfull(): boolean {
    return this.bytes + this.buffer.length * deliveryOverhead > farBytes
  }

  private get isOverfull(): boolean {
    return this.bytes > maxBufferedBytes || this.buffer.length > maxBufferedDeliveries
  }

  private check(): void {
    this.setOverfull(this.ended === undefined && this.isOverfull)
  }

  private setOverfull(overfull: boolean): void {
    if (this.overfull === overfull) return
    this.overfull = overfull
    this.host?.onOverfull(this, overfull)
  }

  /** Wakes a waiting pull once per batch. */
  private schedule(): void {
    if (this.scheduled || this.waiting.length === 0) return
    this.scheduled = true
    if (this.host === undefined) this.flush()
    else this.host.later(this.flush)
  }

  private take(): Pulled<D> | undefined {
    const taken = this.buffer
    if (!isNonEmpty(taken)) return this.ended
    if (taken.length <= maxPulledDeliveries && this.bytes <= maxPulledBytes) {
      this.buffer = []
      this.bytes = 0
      this.setOverfull(false)
      return taken
    }
    let count = 0
    let bytes = 0
    while (count < maxPulledDeliveries && bytes < maxPulledBytes) bytes += taken[count++]?.body.length ?? maxPulledBytes
    this.bytes -= bytes
    const first = taken.splice(0, count)
    this.check()
    return isNonEmpty(first) ? first : this.ended
  }

  /** Calls back with the next deliveries or the end, at once if they are there. */
  pull(callback: (pulled: Pulled<D>) => void): void {
    const taken = this.take()
    if (taken === undefined) this.waiting.push(callback)
    else callback(taken)
  }

  /** Takes back a `pull`. */
  unpull(callback: (pulled: Pulled<D>) => void): void {
    const at = this.waiting.indexOf(callback)
    if (at >= 0) this.waiting.splice(at, 1)
  }

  private readonly flush = (): void => {
    this.scheduled = false
    while (this.waiting.length > 0) {
      const taken = this.take()
      if (taken === undefined) return
      this.waiting.shift()?.(taken)
    }
  }

  /** Ends the buffer. Pulls still get what waits, then the end. */
  end(end: ConsumerEnd): void {
    if (this.ended === undefined) {
      this.ended = end
      this.setOverfull(false)
    }
    this.schedule()
  }

  /** Drops what was not pulled, except for deliveries to keep. */
  keep(isKept: (delivery: D) => boolean): void {
    this.buffer = this.buffer.filter(isKept)
    this.bytes = this.buffer.reduce((bytes, { body }) => bytes + body.length, 0)
    this.check()
  }

  clear(): void {
    this.keep(() => false)
  }
}

/** A consumer with a buffer of its own. */
export class Deliveries<D extends AmqpMessage> extends DeliveryBuffer<D> implements ConsumerEntry {
  readonly consumerTag: string
  readonly queue: string
  readonly channel: number
  readonly noAck: boolean
  private readonly make: MakeDelivery<D>

  constructor(source: DeliverySource & { readonly noAck: boolean }, make: MakeDelivery<D>, host: ConsumerHost) {
    super(host)
    this.consumerTag = source.consumerTag
    this.queue = source.queue
    this.channel = source.channel
    this.noAck = source.noAck
    this.make = make
  }

  push(
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    content: ReceivedContent
  ): void {
    this.add(this.make(deliveryTag, redelivered, exchange, routingKey, content, this))
  }
}

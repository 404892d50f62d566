/**
 * One consumer of one channel: its buffer of deliveries, the pull that waits for them, and how it ended.
 *
 * Deliveries gather in an array; a waiting pull gets the whole array at once, at the end of a batch of frames. The
 * consumer does not talk to the broker: its channel does.
 *
 * @since 0.1.0
 */
import type { AmqpConsumerCancelled, ChannelCloseCause } from "../AmqpError.ts"
import type { AmqpMessage } from "../AmqpMessage.ts"
import type { ReceivedContent } from "./frames.ts"

/** How a consumer ended; deliveries that came before are pulled first. */
export type ConsumerEnd =
  | { readonly _tag: "Cancelled" }
  | { readonly _tag: "CancelledByBroker"; readonly error: AmqpConsumerCancelled }
  | { readonly _tag: "ChannelClosed"; readonly cause: ChannelCloseCause }

/** What a pull yields: deliveries, or the end. */
export type Pulled<D> = readonly [D, ...Array<D>] | ConsumerEnd

const isNonEmpty = <D>(array: Array<D>): array is [D, ...Array<D>] => array.length > 0

/** Makes a delivery from its fields; the content is only valid during the call. */
export type MakeDelivery<D> = (
  deliveryTag: number,
  redelivered: boolean,
  exchange: string,
  routingKey: string,
  content: ReceivedContent
) => D

/** What holds deliveries that nobody has taken. */
export interface Holder {
  /** Whether it holds more than a network may: 64 MiB, where each delivery counts 128 bytes beside its body. */
  readonly isFarOverfull: boolean
}

/** What a consumer needs of its session. */
export interface ConsumerHost {
  /** Runs a callback at the end of the batch. */
  readonly later: (callback: () => void) => void
  /** The buffer is over or again under its bound: 8 MiB or 4096 deliveries. */
  readonly onOverfull: (consumer: Holder, overfull: boolean) => void
}

const maxBufferedBytes = 8 * 1024 * 1024
const maxBufferedDeliveries = 4096

/**
 * An answer that somebody waits for is behind whatever the system's buffers hold, megabytes of small deliveries at times:
 * below this, not to read on would be to wait for ever.
 */
const farBytes = 64 * 1024 * 1024
/** About what a delivery takes on the wire without its body. */
const deliveryOverhead = 128

/** A consumer, as its channel sees it. */
export interface ConsumerEntry {
  readonly consumerTag: string
  readonly queue: string
  readonly noAck: boolean
  readonly push: (...parts: Parameters<MakeDelivery<unknown>>) => void
  readonly end: (end: ConsumerEnd) => void
  /** Drops what was not pulled. */
  readonly clear: () => void
}

/** A consumer with deliveries of type `D`. */
export class Deliveries<D extends AmqpMessage> implements ConsumerEntry {
  readonly consumerTag: string
  readonly queue: string
  readonly noAck: boolean
  private readonly make: MakeDelivery<D>
  private readonly host: ConsumerHost
  private buffer: Array<D> = []
  private bytes = 0
  private overfull = false
  private scheduled = false
  private ended: ConsumerEnd | undefined
  private readonly waiting: Array<(pulled: Pulled<D>) => void> = []

  constructor(
    options: { readonly consumerTag: string; readonly queue: string; readonly noAck: boolean },
    make: MakeDelivery<D>,
    host: ConsumerHost
  ) {
    this.consumerTag = options.consumerTag
    this.queue = options.queue
    this.noAck = options.noAck
    this.make = make
    this.host = host
  }

  push(
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    content: ReceivedContent
  ): void {
    this.buffer.push(this.make(deliveryTag, redelivered, exchange, routingKey, content))
    this.bytes += content.content.length
    this.schedule()
    if (!this.overfull && (this.bytes > maxBufferedBytes || this.buffer.length > maxBufferedDeliveries)) {
      this.setOverfull(true)
    }
  }

  get isFarOverfull(): boolean {
    return this.bytes + this.buffer.length * deliveryOverhead > farBytes
  }

  private setOverfull(overfull: boolean): void {
    if (this.overfull === overfull) return
    this.overfull = overfull
    this.host.onOverfull(this, overfull)
  }

  /** Wakes a waiting pull once per batch. */
  private schedule(): void {
    if (this.scheduled || this.waiting.length === 0) return
    this.scheduled = true
    this.host.later(this.flush)
  }

  private take(): Pulled<D> | undefined {
    const taken = this.buffer
    if (!isNonEmpty(taken)) return this.ended
    this.clear()
    return taken
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

  end(end: ConsumerEnd): void {
    this.ended ??= end
    this.setOverfull(false)
    this.schedule()
  }

  clear(): void {
    this.buffer = []
    this.bytes = 0
    this.setOverfull(false)
  }
}

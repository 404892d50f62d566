/**
 * What both sides of a connection know: its channels, consumers and confirms, read from the frames that passed.
 *
 * @since 0.1.0
 */
import { ConfirmLedger } from "./confirmLedger.ts"
import type { Direction } from "./faults.ts"
import type { RawFrame } from "./frame.ts"

/** A consumer of the client. */
export interface Consumer {
  readonly channel: number
  readonly tag: string
  readonly queue: string
  readonly noAck: boolean
}

/** How far a channel is, as the broker knows it. */
type ChannelPhase = "open" | "closing"

/** The state of one connection. */
export class LinkState {
  /** `connection.open-ok` has passed. */
  isOpen = false
  private readonly phases = new Map<number, ChannelPhase>()
  private readonly ledgers = new Map<number, ConfirmLedger>()
  /** Consumers whose `basic.consume-ok` has not passed yet. */
  private starting: Array<Consumer> = []
  private consumers: Array<Consumer> = []
  /** Consumers that the client takes for cancelled. */
  private cancelled: Array<Consumer> = []

  /** The channels that neither side has closed. */
  get openChannels(): ReadonlyArray<number> {
    return [...this.phases].flatMap(([channel, phase]) => phase === "open" ? [channel] : [])
  }

  /** `undefined`: there is no such channel. */
  phaseOf(channel: number): ChannelPhase | undefined {
    return this.phases.get(channel)
  }

  /** The publishes of a channel in confirm mode. */
  ledgerOf(channel: number): ConfirmLedger | undefined {
    return this.ledgers.get(channel)
  }

  /** Whether confirms of any channel have to be written anew. */
  get hasAlteredConfirms(): boolean {
    return [...this.ledgers.values()].some((one) => one.isAltered)
  }

  /** Whether there are consumers that only the client takes for cancelled. */
  get hasCancelled(): boolean {
    return this.cancelled.length > 0
  }

  /** Takes out the consumers that are to be cancelled. */
  takeConsumers(isTaken: (consumer: Consumer) => boolean): ReadonlyArray<Consumer> {
    const found = this.consumers.filter(isTaken)
    this.consumers = this.consumers.filter((consumer) => !found.includes(consumer))
    return found
  }

  /** The client was told that a consumer is cancelled. */
  cancel(consumer: Consumer): void {
    this.cancelled.push(consumer)
  }

  /** The consumer of this tag, if the client takes it for cancelled. */
  cancelledConsumer(channel: number, tag: string): Consumer | undefined {
    return this.cancelled.find((one) => one.channel === channel && one.tag === tag)
  }

  /** Both sides have closed a channel. */
  forget(channel: number): void {
    const isOther = (consumer: Consumer): boolean => consumer.channel !== channel
    this.phases.delete(channel)
    this.ledgers.delete(channel)
    this.starting = this.starting.filter(isOther)
    this.consumers = this.consumers.filter(isOther)
    this.cancelled = this.cancelled.filter(isOther)
  }

  /** A frame passes. */
  follow(direction: Direction, frame: RawFrame): void {
    if (direction === "up") this.followClient(frame)
    else this.followBroker(frame)
  }

  private followClient(frame: RawFrame): void {
    const { channel } = frame
    switch (frame.name) {
      case "channel.open":
        this.phases.set(channel, "open")
        return
      case "channel.close":
        if (this.phases.has(channel)) this.phases.set(channel, "closing")
        return
      case "channel.close-ok":
        return this.forget(channel)
      case "confirm.select":
        if (!this.ledgers.has(channel)) this.ledgers.set(channel, new ConfirmLedger())
        return
      case "basic.consume": {
        const { method } = frame
        if (method?._tag !== "basic.consume") return
        const { consumerTag: tag, noAck, noWait, queue } = method
        const consumer: Consumer = { channel, tag, queue, noAck }
        if (noWait) this.consumers.push(consumer)
        else this.starting.push(consumer)
        return
      }
      case "basic.cancel":
        return this.followCancel(frame)
    }
  }

  private followBroker(frame: RawFrame): void {
    const { channel } = frame
    switch (frame.name) {
      case "connection.open-ok":
        this.isOpen = true
        return
      case "channel.close":
        if (this.phases.has(channel)) this.phases.set(channel, "closing")
        return
      case "channel.close-ok":
        return this.forget(channel)
      case "basic.consume-ok": {
        const { method } = frame
        if (method?._tag !== "basic.consume-ok") return
        const { consumerTag: tag } = method
        const index = this.starting.findIndex((one) => one.channel === channel && (one.tag === tag || one.tag === ""))
        const [started] = index < 0 ? [] : this.starting.splice(index, 1)
        if (started === undefined) return
        this.stopped(channel, tag)
        this.cancelled = this.cancelled.filter((one) => one.channel !== channel || one.tag !== tag)
        this.consumers.push({ ...started, tag })
        return
      }
      case "basic.cancel":
        return this.followCancel(frame)
    }
  }

  private followCancel({ channel, method }: RawFrame): void {
    if (method?._tag === "basic.cancel") this.stopped(channel, method.consumerTag)
  }

  private stopped(channel: number, tag: string): void {
    this.consumers = this.consumers.filter((one) => one.channel !== channel || one.tag !== tag)
  }
}

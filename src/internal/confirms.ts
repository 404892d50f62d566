/**
 * Publisher confirms: which publish each `basic.ack`, `basic.nack` and `basic.return` speaks of.
 *
 * Publishes are numbered from 1 in the order in which they are written. Acknowledgements come out of order, for many at
 * once, and for numbers that are settled already; each waiter hears exactly one outcome. A `basic.return` names no
 * number: a mandatory publish carries its own in the property that the specification reserves, which brokers relay and
 * `AmqpMessage` hides. Matching by content instead would mix up equal messages whose routing changed in between.
 *
 * @since 0.1.0
 */
import type { ChannelCloseCause } from "../AmqpError.ts"
import { type AmqpMessage, pairingPrefix } from "../AmqpMessage.ts"
import type { BasicReturn } from "./spec.ts"

/** What a publish failed with. */
export type PublishOutcomeFailure =
  & (
    | { readonly _tag: "Nacked" }
    | { readonly _tag: "Returned"; readonly method: BasicReturn; readonly message: AmqpMessage }
    /** `own`: this publish provoked the end of the channel. */
    | { readonly _tag: "ChannelClosed"; readonly cause: ChannelCloseCause; readonly own: boolean }
    /** No confirm came in time; one that comes later is ignored. */
    | { readonly _tag: "TimedOut"; readonly timeoutMillis: number }
  )
  & { readonly sequence: number }

/** What became of so many publishes of a waiter, or of the one with this number. */
export type PublishOutcome = { readonly _tag: "Confirmed"; readonly count: number } | PublishOutcomeFailure

/** Waits for the outcome of a publish, or of several to one exchange. */
export interface PublishWaiter {
  readonly exchange: string
  readonly onOutcome: (outcome: PublishOutcome) => void
}

/** Shared by all that are confirmed alone: nothing is allocated per acknowledgement. */
const confirmed: PublishOutcome = { _tag: "Confirmed", count: 1 }

/** Keeps the number of a publish whose waiter has given up. */
const expired: PublishWaiter = { exchange: "", onOutcome: () => {} }

/** The value of the reserved property for a publish. */
export const pairingTag = (sequence: number): string => pairingPrefix + sequence.toString(36)

/** Both run their callbacks at the end of the batch. */
export interface ConfirmsHooks {
  readonly later: (callback: () => void) => void
  readonly settle: (waiter: PublishWaiter, outcome: PublishOutcome) => void
}

/** The unsettled publishes of one channel. */
export class Confirms {
  /** The number of the latest publish; 0 before the first. */
  latest = 0
  /** Publishes without an outcome. */
  unsettled = 0
  /** So many unsettled publishes are enough: more of them should wait. */
  limit = Infinity
  /** The lowest number that may be unsettled. */
  private oldest = 1
  /** A ring of a power of two entries, indexed by the low bits of the number; small until somebody confirms (0.5 KiB). */
  private ring: Array<PublishWaiter | undefined> = [undefined]
  private readonly hooks: ConfirmsHooks
  private readonly idle = new Set<() => void>()
  private readonly waiting = new Set<() => void>()
  private admitting = false

  constructor(hooks: ConfirmsHooks) {
    this.hooks = hooks
  }

  /** Takes the next number, once the publish has been encoded. */
  add(waiter: PublishWaiter): void {
    const sequence = ++this.latest
    if (sequence - this.oldest >= this.ring.length) this.grow()
    this.ring[sequence & (this.ring.length - 1)] = waiter
    this.unsettled++
  }

  private grow(): void {
    const next = new Array<PublishWaiter | undefined>(this.ring.length * 2)
    for (let sequence = this.oldest; sequence < this.latest; sequence++) {
      next[sequence & (next.length - 1)] = this.ring[sequence & (this.ring.length - 1)]
    }
    this.ring = next
  }

  /** `basic.ack` or `basic.nack` from the broker. Numbers that are settled or unknown are ignored. */
  settle(tag: number, multiple: boolean, acknowledged: boolean): void {
    if (!multiple) return this.settleOne(tag, acknowledged)
    const last = tag === 0 ? this.latest : Math.min(tag, this.latest)
    if (acknowledged) return this.confirmUpTo(last)
    for (let sequence = this.oldest; sequence <= last; sequence++) this.settleOne(sequence, false)
  }

  private settleOne(sequence: number, acknowledged: boolean): void {
    this.resolve(sequence, acknowledged ? confirmed : { _tag: "Nacked", sequence })
  }

  /** One outcome for all that one waiter has there. */
  private confirmUpTo(last: number): void {
    const mask = this.ring.length - 1
    let waiter: PublishWaiter | undefined
    let count = 0
    let total = 0
    for (let sequence = this.oldest; sequence <= last; sequence++) {
      const next = this.ring[sequence & mask]
      if (next === undefined) continue
      this.ring[sequence & mask] = undefined
      if (next !== waiter) {
        this.confirm(waiter, count)
        count = 0
      }
      waiter = next
      count++
      total++
    }
    this.confirm(waiter, count)
    if (total > 0) this.onSettled(total)
  }

  private confirm(waiter: PublishWaiter | undefined, count: number): void {
    if (waiter !== undefined) this.hooks.settle(waiter, count === 1 ? confirmed : { _tag: "Confirmed", count })
  }

  /** `basic.return` of the publish with this pairing tag. */
  returned(tag: string | undefined, method: BasicReturn, message: AmqpMessage): void {
    if (tag === undefined) return
    const sequence = Number.parseInt(tag.slice(pairingPrefix.length), 36)
    this.resolve(sequence, { _tag: "Returned", sequence, method, message })
  }

  private waiter(sequence: number): PublishWaiter | undefined {
    if (!(sequence >= this.oldest && sequence <= this.latest)) return undefined
    return this.ring[sequence & (this.ring.length - 1)]
  }

  private resolve(sequence: number, outcome: PublishOutcome): void {
    const waiter = this.waiter(sequence)
    if (waiter === undefined) return
    this.ring[sequence & (this.ring.length - 1)] = undefined
    this.hooks.settle(waiter, outcome)
    this.onSettled(1)
  }

  private onSettled(count: number): void {
    const mask = this.ring.length - 1
    this.unsettled -= count
    while (this.oldest <= this.latest && this.ring[this.oldest & mask] === undefined) this.oldest++
    if (this.unsettled === 0) this.releaseIdle()
    if (this.waiting.size === 0 || this.admitting) return
    this.admitting = true
    this.hooks.later(this.admit)
  }

  // --- the window

  /** Whether there may be one more unsettled publish. */
  get isOpen(): boolean {
    return this.unsettled < this.limit
  }

  /** Calls back once, when there may be one more. */
  wait(callback: () => void): void {
    this.waiting.add(callback)
  }

  /** Takes back a `wait`. */
  unwait(callback: () => void): void {
    this.waiting.delete(callback)
  }

  /** There is nothing to wait for any more: who waits looks again. */
  release(): void {
    this.limit = Infinity
    this.hooks.later(this.admit)
  }

  /** Lets those in who wait, in their order, while there is room. */
  private readonly admit = (): void => {
    this.admitting = false
    for (const callback of this.waiting) {
      if (!this.isOpen) return
      this.waiting.delete(callback)
      callback()
    }
  }

  // --- the end

  /** The channel is gone: every unsettled publish learns why, and whether it is to blame. */
  fail(cause: ChannelCloseCause, refused: ReadonlySet<PublishWaiter>): void {
    for (let sequence = this.oldest; sequence <= this.latest; sequence++) {
      const waiter = this.waiter(sequence)
      if (waiter === undefined) continue
      this.resolve(sequence, { _tag: "ChannelClosed", sequence, cause, own: refused.has(waiter) })
    }
    this.releaseIdle()
  }

  /**
   * The publishes up to and including a number have waited for too long. They stay unsettled for the broker, and so
   * count until it answers.
   */
  expire(last: number, timeoutMillis: number): void {
    for (let sequence = this.oldest; sequence <= last; sequence++) {
      const waiter = this.waiter(sequence)
      if (waiter === undefined || waiter === expired) continue
      this.ring[sequence & (this.ring.length - 1)] = expired
      this.hooks.later(() => waiter.onOutcome({ _tag: "TimedOut", sequence, timeoutMillis }))
    }
  }

  /** The unsettled publishes, oldest first. */
  waiters(): ReadonlyArray<PublishWaiter> {
    const waiters: Array<PublishWaiter> = []
    for (let sequence = this.oldest; sequence <= this.latest; sequence++) {
      const waiter = this.waiter(sequence)
      if (waiter !== undefined) waiters.push(waiter)
    }
    return waiters
  }

  /** Calls back once, when every publish has its outcome. */
  onIdle(callback: () => void): void {
    this.idle.add(callback)
  }

  /** Takes back an `onIdle`. */
  offIdle(callback: () => void): void {
    this.idle.delete(callback)
  }

  private releaseIdle(): void {
    for (const callback of this.idle) this.hooks.later(callback)
    this.idle.clear()
  }
}

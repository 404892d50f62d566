/**
 * Publisher confirms: finds the publish that each `basic.ack`, `basic.nack` and `basic.return` speaks of, and the one
 * that the broker refused.
 *
 * Publishes are numbered from 1 in the order in which they are written. Acknowledgements come out of order, for many at
 * once, and for numbers that are settled already. Each publish has exactly one outcome. A `basic.return` names no
 * number. So a mandatory publish carries its number in the property that the specification reserves: brokers relay it,
 * and `AmqpMessage` hides it. Matching by content would mix up equal messages whose routing changed in between. It is
 * used only for a return whose tag is lost. If it fits several publishes, all of them are in doubt.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { type AmqpMessage, bodyBytes, pairingPrefix, type Publish } from "../codec/message.ts"
import type { BasicReturn, ChannelClose } from "../codec/spec.ts"
import { sameBytes } from "../codec/wire.ts"
import type { ChannelCloseCause } from "../errors/channel.ts"
import { AmqpMessageReturned } from "../errors/publish.ts"
import { refusedOf, traitsOf } from "./publishRefusal.ts"

/**
 * Whether a publish provoked the end of its channel: it did (`own`), it may have (`possible`), or it did not (`none`).
 * `alike`: the broker would refuse it in the same words now. But what they speak of (an exchange, a permission) may have
 * been there when the broker came to this publish, and then it is stored. For the end of a connection it is never
 * `own`, because other operations of the connection are not known here.
 */
export type Blame = "own" | "alike" | "possible" | "none"

/** What a publish failed with. */
export type PublishOutcomeFailure =
  & (
    | { readonly _tag: "Nacked" }
    | { readonly _tag: "Returned"; readonly method: BasicReturn; readonly message: AmqpMessage }
    | { readonly _tag: "ChannelClosed"; readonly cause: ChannelCloseCause; readonly blame: Blame }
    /** No confirm came in time; one that comes later is ignored. */
    | { readonly _tag: "TimedOut"; readonly timeoutMillis: number }
    /** A message came back that may be this one. */
    | { readonly _tag: "MaybeReturned" }
  )
  & { readonly sequence: number }

/** The outcome: so many publishes of a waiter are confirmed, or the one with this number has failed. */
export type PublishOutcome = { readonly _tag: "Confirmed"; readonly count: number } | PublishOutcomeFailure

/** Waits for the outcome of a publish, or of several. */
export interface PublishWaiter {
  /** The message that was published under this number. */
  readonly messageOf: (sequence: number) => Publish | undefined
  readonly onOutcome: (outcome: PublishOutcome) => void
}

/** Shared by all publishes that are confirmed alone, so that an acknowledgement allocates nothing. */
const confirmed: PublishOutcome = { _tag: "Confirmed", count: 1 }

/** Keeps the number of a publish whose waiter has given up. */
const expired: PublishWaiter = { messageOf: () => undefined, onOutcome: () => {} }

/** How many exchanges of a channel are remembered. */
const maxFirsts = 1024

/** The value of the reserved property for a publish. */
export const pairingTag = (sequence: number): string => pairingPrefix + sequence.toString(36)

/** The error of a publish that came back. */
export const messageReturned = (
  { exchange, replyCode, replyText, routingKey }: Omit<BasicReturn, "_tag">,
  { body, propertiesResult }: AmqpMessage
): AmqpMessageReturned => {
  const fields = { exchange, routingKey, replyCode, replyText, body }
  return new AmqpMessageReturned(
    Result.isSuccess(propertiesResult) ? { ...fields, properties: propertiesResult.success } : fields
  )
}

const isRouteOf = (method: BasicReturn, { exchange = "", routingKey = "" }: Publish): boolean =>
  exchange === method.exchange && routingKey === method.routingKey

const isReturnOf = (method: BasicReturn, { body }: AmqpMessage, publish: Publish | undefined): boolean =>
  publish !== undefined && isRouteOf(method, publish) && sameBytes(body, bodyBytes(publish.body))

/** What confirms need of their channel. Both run callbacks at the end of the batch. */
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
  /** How many of them nobody waits for any more, because they have waited too long. */
  private givenUp = 0
  /** How many publishes may be unsettled. Further ones should wait. */
  limit = Infinity
  /** The lowest number that may be unsettled. */
  private oldest = 1
  /**
   * The broker has taken all publishes up to this number: it has answered this one, or something that came after it. It
   * takes them in order.
   */
  private taken = 0
  /** The number of the first publish to each exchange. */
  private readonly firsts = new Map<string, number>()
  private lastExchange: string | undefined
  /**
   * A ring whose size is a power of two, indexed by the low bits of the number. It begins small, which saves 0.5 KiB
   * until somebody publishes.
   */
  private ring: Array<PublishWaiter | undefined> = [undefined]
  private readonly hooks: ConfirmsHooks
  private readonly idle = new Set<() => void>()
  private readonly waiting = new Set<() => void>()
  private admitting = false

  constructor(hooks: ConfirmsHooks) {
    this.hooks = hooks
  }

  /** Takes the next number, once the publish has been encoded. */
  add(waiter: PublishWaiter, exchange = ""): void {
    const sequence = ++this.latest
    if (exchange !== this.lastExchange) {
      this.lastExchange = exchange
      if (!this.firsts.has(exchange)) {
        // An exchange that is forgotten counts as new.
        if (this.firsts.size === maxFirsts) this.firsts.clear()
        this.firsts.set(exchange, sequence)
      }
    }
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
    this.take(tag)
    if (!multiple) return this.settleOne(tag, acknowledged)
    const last = tag === 0 ? this.latest : Math.min(tag, this.latest)
    if (acknowledged) return this.confirmUpTo(last)
    for (let sequence = this.oldest; sequence <= last; sequence++) this.settleOne(sequence, false)
  }

  private settleOne(sequence: number, acknowledged: boolean): void {
    this.resolve(sequence, acknowledged ? confirmed : { _tag: "Nacked", sequence })
  }

  /** Gives one outcome for all publishes of the same waiter. */
  private confirmUpTo(last: number): void {
    const mask = this.ring.length - 1
    let waiter: PublishWaiter | undefined
    let count = 0
    let total = 0
    for (let sequence = this.oldest; sequence <= last; sequence++) {
      const next = this.ring[sequence & mask]
      if (next === undefined) continue
      this.ring[sequence & mask] = undefined
      if (next === expired) this.givenUp--
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

  /** The broker has come as far as this number without a refusal. */
  take(sequence: number): void {
    if (sequence > this.taken && sequence <= this.latest) this.taken = sequence
  }

  /** `basic.return` of the publish with this pairing tag. */
  returned(tag: string | undefined, method: BasicReturn, message: AmqpMessage): void {
    const named = tag === undefined ? Number.NaN : Number.parseInt(tag.slice(pairingPrefix.length), 36)
    // It has been answered already: the broker repeats itself.
    if (named >= 1 && named <= this.latest && this.waiter(named) === undefined) return
    const candidates = this.candidates(named, method, message)
    const [only] = candidates
    if (only !== undefined && candidates.length === 1) this.take(only)
    for (const sequence of candidates) {
      this.resolve(
        sequence,
        candidates.length === 1 ? { _tag: "Returned", sequence, method, message } : { _tag: "MaybeReturned", sequence }
      )
    }
  }

  /**
   * The publish that came back, or several if it may be any of them. The tag may be lost, or belong to another channel.
   */
  private candidates(named: number, method: BasicReturn, message: AmqpMessage): ReadonlyArray<number> {
    const waiter = this.waiter(named)
    const own = waiter?.messageOf(named)
    if (waiter !== undefined && (own === undefined || isRouteOf(method, own))) return [named]
    const mandatory = this.pending().filter((sequence) => this.messageOf(sequence)?.mandatory === true)
    const equal = mandatory.filter((sequence) => isReturnOf(method, message, this.messageOf(sequence)))
    if (equal.length > 0) return equal
    return waiter === undefined ? mandatory : [named]
  }

  private waiter(sequence: number): PublishWaiter | undefined {
    if (!(sequence >= this.oldest && sequence <= this.latest)) return undefined
    return this.ring[sequence & (this.ring.length - 1)]
  }

  private resolve(sequence: number, outcome: PublishOutcome): void {
    const waiter = this.waiter(sequence)
    if (waiter === undefined) return
    this.ring[sequence & (this.ring.length - 1)] = undefined
    if (waiter === expired) this.givenUp--
    this.hooks.settle(waiter, outcome)
    this.onSettled(1)
  }

  private onSettled(count: number): void {
    const mask = this.ring.length - 1
    this.unsettled -= count
    while (this.oldest <= this.latest && this.ring[this.oldest & mask] === undefined) this.oldest++
    if (this.isIdle) this.releaseIdle()
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

  /** The channel takes no more publishes: everybody who waits looks again. */
  release(): void {
    this.limit = Infinity
    this.hooks.later(this.admit)
  }

  /** Lets waiting publishers in, in their order, while there is room. */
  private readonly admit = (): void => {
    this.admitting = false
    for (const callback of this.waiting) {
      if (!this.isOpen) return
      this.waiting.delete(callback)
      callback()
    }
  }

  // --- the end

  /** The publishes that a refusal may speak of: those that the broker has not taken. */
  private suspects(): ReadonlyArray<number> {
    return this.pending().filter((sequence) => sequence > this.taken)
  }

  /** The publishes that the broker refused, as far as that is known. */
  refused(close: ChannelClose): ReadonlyArray<number> {
    return refusedOf(close, this.suspects(), (sequence) => {
      const message = this.messageOf(sequence)
      return message && traitsOf(message)
    })
  }

  /**
   * The channel is gone: every unsettled publish learns why, and whether it is to blame. `suspected`: it is because of a
   * publish, whether or not that is known.
   */
  fail(cause: ChannelCloseCause, refused: ReadonlyArray<number>, suspected: boolean): void {
    const named = new Set(refused)
    // The broker accepted such publishes before and refuses them now, so something has changed. Only the last publish
    // certainly came after the change.
    const changes = cause?._tag === "AmqpNotFound" || cause?._tag === "AmqpAccessRefused"
    const last = refused.at(-1)
    const wasTaken = (sequence: number): boolean =>
      (this.firsts.get(this.messageOf(sequence)?.exchange ?? "") ?? Infinity) <= this.taken
    const possible = new Set(suspected && refused.length === 0 ? this.suspects() : [])
    const blameOf = (sequence: number): Blame => {
      if (named.has(sequence)) return changes && sequence !== last && wasTaken(sequence) ? "alike" : "own"
      return possible.has(sequence) ? "possible" : "none"
    }
    for (const sequence of this.pending()) {
      const blame = blameOf(sequence)
      this.resolve(sequence, { _tag: "ChannelClosed", sequence, cause, blame })
    }
    this.releaseIdle()
  }

  /**
   * The publishes up to and including a number have waited too long. They count as unsettled until the broker answers.
   */
  expire(last: number, timeoutMillis: number): void {
    for (let sequence = this.oldest; sequence <= last; sequence++) {
      const waiter = this.waiter(sequence)
      if (waiter === undefined || waiter === expired) continue
      this.ring[sequence & (this.ring.length - 1)] = expired
      this.givenUp++
      this.hooks.later(() => waiter.onOutcome({ _tag: "TimedOut", sequence, timeoutMillis }))
    }
    if (this.isIdle) this.releaseIdle()
  }

  /** The numbers of the unsettled publishes, oldest first. */
  pending(): ReadonlyArray<number> {
    const pending: Array<number> = []
    for (let sequence = this.oldest; sequence <= this.latest; sequence++) {
      if (this.waiter(sequence) !== undefined) pending.push(sequence)
    }
    return pending
  }

  /** The message of an unsettled publish; `undefined` if nobody waits for it any more. */
  messageOf(sequence: number): Publish | undefined {
    return this.waiter(sequence)?.messageOf(sequence)
  }

  /** Whether every publish has its outcome. */
  get isIdle(): boolean {
    return this.unsettled === this.givenUp
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

/**
 * The deliveries of one channel that are not settled. Each is settled at most once. A rollback makes those of its
 * transaction unsettled again. A recover takes all of them back. Acknowledgements of one turn go out together.
 *
 * The channel knows whether it is still alive; this class does not.
 *
 * @since 0.1.0
 */
import { frameMethod, methods } from "../codec/spec.ts"
import type { ConsumerEntry } from "./deliveries.ts"
import type { Lane } from "./lane.ts"

/** How a delivery is settled. */
export type Settlement =
  | { readonly _tag: "Ack" }
  | { readonly _tag: "Nack"; readonly requeue: boolean }
  | { readonly _tag: "Reject"; readonly requeue: boolean }

const ackOne: Settlement = { _tag: "Ack" }
/** Gives a delivery back that nobody has handled. */
export const requeue: Settlement = { _tag: "Nack", requeue: true }

/** A delivery that is not settled, with its consumer. It has none if `basic.get` took it, or if it is being handled. */
type Unsettled = readonly [deliveryTag: number, consumer: ConsumerEntry | undefined]

/** The unsettled deliveries of a channel. */
export class Settlements {
  /** Whether what is settled belongs to a transaction. */
  transactional = false
  private readonly lane: Lane
  private readonly later: (callback: () => void) => void
  /** In the order of their tags. */
  private unsettled = new Map<Unsettled[0], Unsettled[1]>()
  /**
   * Whether all deliveries that the broker waits for are known here. Only then may acknowledgements be joined into a
   * `multiple`.
   */
  private isComplete = true
  /** Acknowledged in this turn, and not written yet. */
  private acked: Array<number> = []
  /** What was settled in the transaction that is open. */
  private settledInTx: Array<Unsettled> = []
  /** The same of each transaction whose rollback has no answer yet. */
  private readonly rolledBack: Array<ReadonlyArray<Unsettled>> = []
  /** How many `basic.recover` have no answer. The broker has already taken back what comes before their answers. */
  private recovering = 0

  /** `later` runs a callback at the end of the turn. */
  constructor(lane: Lane, later: (callback: () => void) => void) {
    this.lane = lane
    this.later = later
  }

  get size(): number {
    return this.unsettled.size
  }

  /** Whether a delivery that comes now is one that the broker has taken back already. */
  get isRecovering(): boolean {
    return this.recovering > 0
  }

  add(tag: number, consumer: ConsumerEntry | undefined): void {
    this.unsettled.set(tag, consumer)
  }

  /** A delivery was ignored, because its consumer is unknown. No `multiple` may acknowledge it along with others. */
  onIgnored(): void {
    this.isComplete = false
  }

  /** Forgets everything: the channel is gone. */
  clear(): void {
    this.unsettled.clear()
    this.acked = []
  }

  // --- settling

  /** Settles one delivery. Returns whether there was anything to settle. */
  settle(tag: number, settlement: Settlement): boolean {
    this.flush()
    const consumer = this.unsettled.get(tag)
    if (!this.unsettled.delete(tag)) return false
    if (this.transactional) this.settledInTx.push([tag, consumer])
    this.write(tag, settlement, false)
    return true
  }

  /**
   * Acknowledges one delivery. The acknowledgement goes out at the end of the turn, joined with earlier ones where that
   * is safe.
   */
  ack(tag: number): boolean {
    if (this.transactional) return this.settle(tag, ackOne)
    if (!this.unsettled.delete(tag)) return false
    if (this.acked.push(tag) === 1) this.later(this.flush)
    return true
  }

  /** Settles every delivery up to and including `tag`, or all of them. Returns whether there was any. */
  settleUpTo(tag: number | undefined, settlement: Settlement): boolean {
    this.flush()
    let last = 0
    for (const entry of this.unsettled) {
      // NaN, which is no number, settles nothing.
      if (tag !== undefined && !(entry[0] <= tag)) break
      this.unsettled.delete(entry[0])
      if (this.transactional) this.settledInTx.push(entry)
      last = entry[0]
    }
    if (last === 0) return false
    this.write(last, settlement, true)
    return true
  }

  /** Gives a consumer's deliveries back to the queue. */
  giveBack(consumer: ConsumerEntry): void {
    for (const [tag, owner] of this.unsettled) if (owner === consumer) this.settle(tag, requeue)
  }

  /** Marks a delivery as handled: its consumer no longer gives it back. Returns whether the consumer still had it. */
  begin(tag: number): boolean {
    if (this.unsettled.get(tag) === undefined) return false
    this.unsettled.set(tag, undefined)
    return true
  }

  /** Gives back all deliveries that nobody handles. */
  giveBackAll(): void {
    const tags = [...this.unsettled].flatMap(([tag, owner]) => owner === undefined ? [] : [tag])
    if (tags.length === this.unsettled.size) this.settleUpTo(undefined, requeue)
    else for (const tag of tags) this.settle(tag, requeue)
  }

  /**
   * Writes the acknowledgements of this turn. Whoever writes something else calls this first. All that come before the
   * oldest unsettled delivery become one `multiple`, because nothing unfinished is among them. That saves a fifth of
   * consuming.
   */
  readonly flush = (): void => {
    const tags = this.acked
    if (tags.length === 0) return
    this.acked = []
    const oldest = this.isComplete ? this.unsettled.keys().next().value ?? Infinity : 0
    let before = 0
    let last = 0
    for (const tag of tags) {
      if (tag > oldest) continue
      before++
      if (tag > last) last = tag
    }
    if (before > 0) this.write(last, ackOne, before > 1)
    for (const tag of tags) if (tag > oldest) this.write(tag, ackOne, false)
  }

  private write(tag: number, settlement: Settlement, multiple: boolean): void {
    const { channel, frameMax, writer } = this.lane
    writer.frameStart(frameMethod, channel)
    switch (settlement._tag) {
      case "Ack":
        writer.u32(methods["basic.ack"].id)
        writer.u64(tag)
        writer.u8(multiple ? 1 : 0)
        break
      case "Nack":
        writer.u32(methods["basic.nack"].id)
        writer.u64(tag)
        writer.u8((multiple ? 1 : 0) | (settlement.requeue ? 2 : 0))
        break
      case "Reject":
        writer.u32(methods["basic.reject"].id)
        writer.u64(tag)
        writer.u8(settlement.requeue ? 1 : 0)
        break
    }
    writer.frameEnd(frameMax)
    this.lane.commit(writer)
  }

  // --- transactions and recover

  /** `tx.commit` was sent: what was settled stays settled. */
  onCommit(): void {
    this.settledInTx = []
  }

  /** `tx.rollback` was sent. */
  onRollback(): void {
    this.rolledBack.push(this.settledInTx)
    this.settledInTx = []
  }

  /** The oldest rollback was answered. If a recover is on its way, it takes these deliveries back with the rest. */
  onRolledBack(): void {
    const deliveries = this.rolledBack.shift() ?? []
    if (this.recovering > 0) return
    this.unsettled = new Map([...this.unsettled, ...deliveries].sort(([a], [b]) => a - b))
  }

  /** `basic.recover` was sent: none of these may be settled or handed out any more. */
  onRecover(): void {
    this.recovering++
    for (const consumer of new Set(this.unsettled.values())) consumer?.clear()
    this.unsettled.clear()
  }

  /** The oldest recover was answered. */
  onRecovered(): void {
    this.recovering--
  }
}

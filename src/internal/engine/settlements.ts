/**
 * The deliveries of one channel that are not settled: each is settled at most once, a rollback makes those of its
 * transaction unsettled again, a recover takes all of them back, and acknowledgements of one turn go out together.
 *
 * Whether the channel still lives is the channel's to know.
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

/** A delivery that is not settled, with its consumer; one that `basic.get` took, or that is being handled, has none. */
type Unsettled = readonly [deliveryTag: number, consumer: ConsumerEntry | undefined]

/** The unsettled deliveries of a channel. */
export class Settlements {
  /** Whether what is settled belongs to a transaction. */
  transactional = false
  private readonly lane: Lane
  private readonly later: (callback: () => void) => void
  /** In the order of their tags. */
  private unsettled = new Map<Unsettled[0], Unsettled[1]>()
  /** Whether every delivery that the broker waits for is known here: only then may a `multiple` be made up. */
  private isComplete = true
  /** Acknowledged in this turn, and not written yet. */
  private acked: Array<number> = []
  /** What was settled in the transaction that is open. */
  private settledInTx: Array<Unsettled> = []
  /** The same of each transaction whose rollback has no answer yet. */
  private readonly rolledBack: Array<ReadonlyArray<Unsettled>> = []
  /** How many `basic.recover` are on their way: what comes before their answers is the broker's again. */
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

  /** A delivery was ignored, for nobody knows its consumer: no `multiple` of ours may acknowledge it by the way. */
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

  /** Acknowledges one delivery. It goes out at the end of the turn, with those that came before it where that is safe. */
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
      // No number, such as NaN, is behind everything.
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

  /** Somebody handles a delivery: it is not its consumer's to give back any more. Returns whether it was. */
  begin(tag: number): boolean {
    if (this.unsettled.get(tag) === undefined) return false
    this.unsettled.set(tag, undefined)
    return true
  }

  /** Gives back all deliveries that are still their consumers'. */
  giveBackAll(): void {
    const tags = [...this.unsettled].flatMap(([tag, owner]) => owner === undefined ? [] : [tag])
    if (tags.length === this.unsettled.size) this.settleUpTo(undefined, requeue)
    else for (const tag of tags) this.settle(tag, requeue)
  }

  /**
   * Writes the acknowledgements of this turn; whatever is written after them calls this first. All that lie before the
   * oldest unsettled delivery become one `multiple`: nothing unfinished is among them. That saves a fifth of consuming.
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

  /** `tx.commit` was sent: what was settled stays so. */
  onCommit(): void {
    this.settledInTx = []
  }

  /** `tx.rollback` was sent. */
  onRollback(): void {
    this.rolledBack.push(this.settledInTx)
    this.settledInTx = []
  }

  /** The oldest rollback was answered; a recover behind it takes its deliveries back with the rest. */
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

/**
 * The messages of a queue that are ready, in the order in which they are delivered: by priority, then by rank.
 *
 * To take the first and to add a new one takes constant time. A message that comes back is put by its rank among those
 * that came back. All of these go before those that were never out.
 *
 * @since 0.1.0
 */
import type { Message } from "../model/message.ts"
import type { Entry } from "../model/model.ts"

/** A message of a queue, ready or out. */
export class StoredEntry implements Entry {
  /** As it was published. */
  readonly original: Message
  /** 0 where the queue does not order by priority. */
  readonly priority: number
  /** In milliseconds since 1970; infinite: never. */
  readonly expiresAt: number
  /** Its place among those of its priority. */
  rank: number
  message: Message
  redelivered = false
  /** The tag of the consumer that has or had it; "" after `get`. */
  holder = ""
  /** How often it came back. */
  returns = 0

  constructor(message: Message, rank: number, priority: number, expiresAt: number) {
    this.original = message
    this.message = message
    this.rank = rank
    this.priority = priority
    this.expiresAt = expiresAt
  }
}

/** First in, first out, both in constant time. */
class Fifo<A> {
  private items: Array<A> = []
  private start = 0

  get length(): number {
    return this.items.length - this.start
  }

  get first(): A | undefined {
    return this.items[this.start]
  }

  push(item: A): void {
    this.items.push(item)
  }

  shift(): A | undefined {
    const first = this.items[this.start]
    if (first === undefined) return undefined
    this.start++
    // Items before the start are let go when they are half of all: one copy per message at most.
    if (this.start * 2 >= this.items.length) {
      this.items = this.items.slice(this.start)
      this.start = 0
    }
    return first
  }

  toArray(): Array<A> {
    return this.items.slice(this.start)
  }
}

/** The messages of one priority. */
class Lane {
  /** Never out so far. */
  readonly fresh = new Fifo<StoredEntry>()
  /** Those that came back, by rank, the highest first, so that the next one is the last. */
  returned: Array<StoredEntry> = []

  get first(): StoredEntry | undefined {
    return this.returned[this.returned.length - 1] ?? this.fresh.first
  }

  shift(): StoredEntry | undefined {
    return this.returned.pop() ?? this.fresh.shift()
  }

  restore(entry: StoredEntry): void {
    let low = 0
    let high = this.returned.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.returned[middle]?.rank ?? -Infinity) > entry.rank) low = middle + 1
      else high = middle
    }
    this.returned.splice(low, 0, entry)
  }

  toArray(): Array<StoredEntry> {
    return [...this.returned.toReversed(), ...this.fresh.toArray()]
  }
}

/** Messages in order. */
export class ReadyMessages {
  /** By priority, the highest first. */
  private lanes: Array<Lane>
  private count = 0
  private total = 0

  constructor(maxPriority: number) {
    this.lanes = Array.from({ length: maxPriority + 1 }, () => new Lane())
  }

  get size(): number {
    return this.count
  }

  /** Of the bodies alone. */
  get bytes(): number {
    return this.total
  }

  get first(): StoredEntry | undefined {
    for (const lane of this.lanes) {
      const { first } = lane
      if (first !== undefined) return first
    }
    return undefined
  }

  /** Takes the first one out. */
  shift(): StoredEntry | undefined {
    for (const lane of this.lanes) {
      const first = lane.shift()
      if (first === undefined) continue
      this.count--
      this.total -= first.message.body.length
      return first
    }
    return undefined
  }

  /** Puts a message behind all others of its priority. */
  push(entry: StoredEntry): void {
    this.laneOf(entry).fresh.push(entry)
    this.added(entry)
  }

  /** Puts messages that were out where their ranks say, before all that never were. */
  restore(entries: ReadonlyArray<StoredEntry>): void {
    // From the highest rank down, each one goes to the end of what came back: nothing has to move.
    for (const entry of entries.toSorted((a, b) => b.rank - a.rank)) {
      this.laneOf(entry).restore(entry)
      this.added(entry)
    }
  }

  toArray(): Array<StoredEntry> {
    return this.lanes.flatMap((lane) => lane.toArray())
  }

  /** Leaves only those for which `keeps` holds; gives how many went. */
  filter(keeps: (entry: StoredEntry) => boolean): number {
    const before = this.count
    const kept = this.toArray().filter(keeps)
    this.lanes = this.lanes.map(() => new Lane())
    this.count = 0
    this.total = 0
    this.restore(kept)
    return before - this.count
  }

  private laneOf(entry: StoredEntry): Lane {
    const lane = this.lanes[this.lanes.length - 1 - entry.priority]
    if (lane === undefined) throw new RangeError(`priority ${entry.priority} of ${this.lanes.length}`)
    return lane
  }

  private added(entry: StoredEntry): void {
    this.count++
    this.total += entry.message.body.length
  }
}

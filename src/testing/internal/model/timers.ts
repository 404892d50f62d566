/**
 * Everything in the broker that happens later: an ordered list of deadlines, on a clock that the owner gives.
 *
 * Nothing here sleeps. The owner sleeps until `next`, on Effect's `Clock`, and calls `runDue`: that is what lets
 * `TestClock` drive the broker.
 *
 * @since 0.1.0
 */

/** Something that will be done. */
export interface Timer {
  /** In milliseconds since 1970. */
  readonly at: number
  /** Does nothing once it has run. */
  readonly cancel: () => void
}

interface Entry extends Timer {
  readonly run: () => void
}

/** Deadlines, the earliest first; equal ones in the order in which they were set. */
export class Timers {
  private readonly entries: Array<Entry> = []
  /** The present time in milliseconds since 1970. */
  readonly now: () => number
  private readonly onEarlier: () => void

  constructor(options: {
    readonly now: () => number
    /** `next` has become earlier. */
    readonly onEarlier: () => void
  }) {
    this.now = options.now
    this.onEarlier = options.onEarlier
  }

  /** When the next thing is to be done, in milliseconds since 1970. */
  get next(): number | undefined {
    return this.entries[0]?.at
  }

  /** Does something so many milliseconds from now. */
  after(millis: number, run: () => void): Timer {
    return this.at(this.now() + millis, run)
  }

  /** Does something at that time, or in the next `runDue` if it has passed. */
  at(at: number, run: () => void): Timer {
    let low = 0
    let high = this.entries.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.entries[middle]?.at ?? Infinity) <= at) low = middle + 1
      else high = middle
    }
    const entry: Entry = {
      at,
      run,
      cancel: () => {
        const index = this.entries.indexOf(entry)
        if (index >= 0) this.entries.splice(index, 1)
      }
    }
    this.entries.splice(low, 0, entry)
    if (low === 0) this.onEarlier()
    return entry
  }

  /** Does what is due now, in order. */
  runDue(): void {
    const now = this.now()
    for (let first = this.entries[0]; first !== undefined && first.at <= now; first = this.entries[0]) {
      this.entries.shift()
      first.run()
    }
  }
}

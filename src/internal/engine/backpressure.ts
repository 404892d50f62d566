/**
 * Backpressure on the socket: whether the shell should stop reading, because a consumer holds more than it should.
 *
 * @since 0.1.0
 */
import type { Holder } from "./deliveries.ts"

/** The backpressure of a session. */
export class Backpressure {
  private readonly schedule: (run: () => void) => void
  private readonly overfull = new Set<Holder>()
  /** Replies and confirms that somebody waits for. */
  private expected = 0
  private isOver = false
  private resume: (() => void) | undefined

  /** `schedule` runs a function at the end of the turn. */
  constructor(schedule: (run: () => void) => void) {
    this.schedule = schedule
  }

  /**
   * Whether the shell should stop reading. While somebody waits for a reply or a confirm it reads on, because a handler that
   * waits for one would never come to its next message. `isFull` is the bound of that: there may always be somebody who
   * waits.
   */
  get isPaused(): boolean {
    if (this.isOver || this.overfull.size === 0) return false
    return this.expected === 0 || this.isFull
  }

  /** Whether a consumer holds so much that nothing at all may be read: at most 64 MiB. */
  get isFull(): boolean {
    for (const { isFarOverfull } of this.overfull) if (isFarOverfull) return true
    return false
  }

  /** A consumer holds too much, or no longer does. */
  readonly onOverfull = (consumer: Holder, overfull: boolean): void => {
    if (overfull) this.overfull.add(consumer)
    else this.overfull.delete(consumer)
    this.check()
  }

  /** Counts replies and confirms that somebody waits for. */
  readonly expect = (change: number): void => {
    this.expected += change
    if (change > 0) this.check()
  }

  /** Calls back once, when reading may go on; also where it may already. */
  onResume(callback: () => void): void {
    this.resume = callback
    this.check()
  }

  /** The connection is no longer open: from now on everything is read. */
  end(): void {
    this.isOver = true
    this.check()
  }

  private check(): void {
    if (this.resume === undefined || this.isPaused) return
    const resume = this.resume
    this.resume = undefined
    // The caller may be in the middle of a change.
    this.schedule(resume)
  }
}

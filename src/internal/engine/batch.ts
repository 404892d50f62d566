/**
 * What runs at the end of a batch of frames, when all state is consistent: callbacks, and publishes with their outcomes, in
 * the order of arrival. Outside of a batch it runs at the end of the turn.
 *
 * @since 0.1.0
 */
import type { PublishOutcome, PublishWaiter } from "./confirms.ts"

/** What a batch needs of its session. */
export interface BatchHost {
  /** Runs a function at the end of the turn. */
  readonly schedule: (run: () => void) => void
  /** A callback has thrown. */
  readonly onDefect: (defect: unknown) => void
}

/** The callbacks of a session. */
export class Batch {
  private readonly host: BatchHost
  private isOpen = false
  private callbacks: Array<(() => void) | PublishWaiter> = []
  private outcomes: Array<PublishOutcome | undefined> = []

  constructor(host: BatchHost) {
    this.host = host
  }

  /** Frames are being received: nothing runs until `end`. */
  begin(): void {
    this.isOpen = true
  }

  /** Runs what the frames have caused. */
  end(): void {
    this.run()
    this.isOpen = false
  }

  /** Adds a callback. */
  readonly later = (callback: () => void): void => this.push(callback, undefined)

  /** Adds the outcome of a publish: no closure for each. */
  readonly settlePublish = (waiter: PublishWaiter, outcome: PublishOutcome): void => this.push(waiter, outcome)

  private push(callback: (() => void) | PublishWaiter, outcome: PublishOutcome | undefined): void {
    this.callbacks.push(callback)
    this.outcomes.push(outcome)
    if (!this.isOpen && this.callbacks.length === 1) this.host.schedule(this.run)
  }

  /** User code runs inside, and may call anything of the session. If one throws, the others still run. */
  private readonly run = (): void => {
    while (this.callbacks.length > 0) {
      const { callbacks, outcomes } = this
      this.callbacks = []
      this.outcomes = []
      let i = 0
      const runRest = (): void => {
        while (i < callbacks.length) {
          const callback = callbacks[i]
          const outcome = outcomes[i++]
          if (typeof callback === "function") callback()
          else if (callback !== undefined && outcome !== undefined) callback.onOutcome(outcome)
        }
      }
      while (i < callbacks.length) {
        try {
          runRest()
        } catch (defect) {
          this.host.onDefect(defect)
        }
      }
    }
  }
}

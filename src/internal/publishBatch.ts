/**
 * Publishes that are waited for together: one object per message, one Effect per wait.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { AmqpEncodeError } from "../AmqpError.ts"
import type { Publish } from "../AmqpMessage.ts"
import type { PublishOutcome, PublishWaiter } from "./confirms.ts"
import type { PublisherChannel } from "./publisherChannel.ts"
import { contentGate, type PublishError, publishFailure, takesContent } from "./requests.ts"

/** A message of a batch. */
export interface BatchEntry {
  readonly index: number
  readonly message: Publish
}

/** A message of a batch that was not confirmed. */
export interface BatchFailure extends BatchEntry {
  readonly error: PublishError
}

class EntryWaiter implements PublishWaiter {
  readonly exchange: string
  private readonly entry: BatchEntry
  private readonly batch: PublishBatch

  constructor(entry: BatchEntry, batch: PublishBatch) {
    this.exchange = entry.message.exchange ?? ""
    this.entry = entry
    this.batch = batch
  }

  onOutcome(outcome: PublishOutcome): void {
    this.batch.onOutcome(
      outcome._tag === "Confirmed"
        ? undefined
        : { ...this.entry, error: publishFailure(this.entry.message, outcome) }
    )
  }
}

/** A batch that messages are added to. */
export class PublishBatch {
  private readonly channel: PublisherChannel
  /** Messages that are written and have no outcome. */
  private unsettled = 0
  private failures: Array<BatchFailure> = []
  private readonly watchers = new Set<() => void>()

  constructor(channel: PublisherChannel) {
    this.channel = channel
  }

  /** Writes messages in order, as fast as they are taken. What they fail with is for `takeFailures`. */
  add(entries: ReadonlyArray<BatchEntry>): Effect.Effect<void> {
    return Effect.suspend(() => this.addFrom(entries, 0))
  }

  private addFrom(entries: ReadonlyArray<BatchEntry>, from: number): Effect.Effect<void> {
    for (let i = from; i < entries.length; i++) {
      const state = this.channel.open
      if (state === undefined) {
        return Effect.matchEffect(this.channel.opened, {
          onSuccess: () => this.addFrom(entries, i),
          // Nothing of the rest is sent: it would wait as long again, message by message.
          onFailure: (error) => Effect.sync(() => this.fail(entries.slice(i).map((entry) => ({ ...entry, error }))))
        })
      }
      if (!takesContent(state)) return Effect.flatMap(contentGate(state), () => this.addFrom(entries, i))
      const entry = entries[i]
      if (entry === undefined) continue
      try {
        state.publish(entry.message, new EntryWaiter(entry, this))
        this.unsettled++
      } catch (error) {
        if (!(error instanceof AmqpEncodeError)) throw error
        this.fail([{ ...entry, error }])
      }
    }
    return Effect.void
  }

  onOutcome(failure: BatchFailure | undefined): void {
    this.unsettled--
    if (failure !== undefined) this.fail([failure])
    else if (this.unsettled === 0) this.notify()
  }

  private fail(failures: ReadonlyArray<BatchFailure>): void {
    for (const failure of failures) this.failures.push(failure)
    this.notify()
  }

  private notify(): void {
    for (const watcher of [...this.watchers]) watcher()
  }

  private when(condition: () => boolean): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const watcher = () => {
        if (!condition()) return
        this.watchers.delete(watcher)
        resume(Effect.void)
      }
      this.watchers.add(watcher)
      watcher()
      return Effect.sync(() => this.watchers.delete(watcher))
    })
  }

  /** Waits until every message that was written has its outcome. */
  readonly settled: Effect.Effect<void> = this.when(() => this.unsettled === 0)

  /** Waits until a message has failed. */
  readonly failed: Effect.Effect<void> = this.when(() => this.failures.length > 0)

  /** What has failed since the last call, in the order of the outcomes. */
  takeFailures(): ReadonlyArray<BatchFailure> {
    const { failures } = this
    this.failures = []
    return failures
  }
}

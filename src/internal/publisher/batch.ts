/**
 * Publishes that are awaited together: one Effect per wait, and nothing per confirmed message.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { PublishError } from "../channel/errors.ts"
import { contentGate, publishFailure, takesContent } from "../channel/requests.ts"
import type { Publish } from "../codec/message.ts"
import type { ChannelState } from "../engine/channelState.ts"
import type { PublishOutcome, PublishWaiter } from "../engine/confirms.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import type { PublishTarget } from "./channels.ts"

/** A message of a batch that was not confirmed. */
export interface BatchFailure {
  /** Its place among all that were added. */
  readonly index: number
  readonly message: Publish
  readonly error: PublishError
  /** Whether the broker may have refused this message. If it is sent again, it goes alone. */
  readonly isQuestioned: boolean
  /** Whether it would be refused if it were sent again, though it may be stored. */
  readonly isRefused: boolean
}

/** Messages that were published in a row on one channel. They share one waiter. */
class Run implements PublishWaiter {
  private readonly batch: PublishBatch
  private readonly messages: ReadonlyArray<Publish>
  /** What to add to the number of a publish to get its place among the messages. */
  private readonly shift: number
  /** The place of the first of the messages in the batch. */
  private readonly first: number

  constructor(
    batch: PublishBatch,
    channel: ChannelState,
    messages: ReadonlyArray<Publish>,
    place: number,
    first: number
  ) {
    this.batch = batch
    this.messages = messages
    this.shift = place - (channel.confirms.latest + 1)
    this.first = first
  }

  messageOf(sequence: number): Publish | undefined {
    return this.messages[sequence + this.shift]
  }

  onOutcome(outcome: PublishOutcome): void {
    if (outcome._tag === "Confirmed") return this.batch.onConfirmed(outcome.count)
    const message = this.messageOf(outcome.sequence)
    if (message === undefined) return
    const place = outcome.sequence + this.shift
    this.batch.onFailed({
      index: this.first + place,
      message,
      error: publishFailure(message, outcome),
      isQuestioned: outcome._tag === "MaybeReturned" ||
        (outcome._tag === "ChannelClosed" && outcome.blame === "possible"),
      isRefused: outcome._tag === "ChannelClosed" && outcome.blame === "alike"
    })
  }
}

/** A batch that messages are added to. */
export class PublishBatch {
  private readonly channel: PublishTarget
  /** Messages that were added. */
  private size = 0
  /** Messages that are written and have no outcome. */
  private unsettled = 0
  private failures: Array<BatchFailure> = []
  private readonly watchers = new Set<() => void>()

  constructor(channel: PublishTarget) {
    this.channel = channel
  }

  /** Writes messages in order, as fast as the channel takes them. `takeFailures` returns their failures. */
  add(messages: ReadonlyArray<Publish>): Effect.Effect<void> {
    return Effect.suspend(() => {
      const first = this.size
      this.size += messages.length
      return this.addFrom(messages, 0, first)
    })
  }

  private addFrom(messages: ReadonlyArray<Publish>, from: number, first: number): Effect.Effect<void> {
    let run: Run | undefined
    for (let i = from; i < messages.length; i++) {
      const state = this.channel.open
      if (state === undefined) {
        return Effect.matchEffect(this.channel.opened, {
          onSuccess: () => this.addFrom(messages, i, first),
          // The rest is not sent: each message would wait as long again.
          onFailure: (error) =>
            Effect.sync(() =>
              this.fail(
                messages.slice(i).map((message, j) => ({
                  index: first + i + j,
                  message,
                  error,
                  isQuestioned: false,
                  isRefused: false
                }))
              )
            )
        })
      }
      if (!takesContent(state)) return Effect.flatMap(contentGate(state), () => this.addFrom(messages, i, first))
      const message = messages[i]
      if (message === undefined) continue
      run ??= new Run(this, state, messages, i, first)
      try {
        state.publish(message, run)
        this.unsettled++
      } catch (error) {
        if (!(error instanceof AmqpEncodeError)) throw error
        run = undefined
        this.fail([{ index: first + i, message, error, isQuestioned: false, isRefused: false }])
      }
    }
    return Effect.void
  }

  onConfirmed(count: number): void {
    this.unsettled -= count
    if (this.unsettled === 0) this.notify()
  }

  onFailed(failure: BatchFailure): void {
    this.unsettled--
    this.fail([failure])
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

  /** The failures since the last call, in the order of the outcomes. */
  takeFailures(): ReadonlyArray<BatchFailure> {
    const { failures } = this
    this.failures = []
    return failures
  }
}

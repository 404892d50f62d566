/**
 * The publishes of a channel with transactions: which ones the broker may still refuse, and what came back.
 *
 * @since 0.1.0
 */
import type { AmqpMessage } from "../codec/message.ts"
import type { BasicReturn, ChannelClose } from "../codec/spec.ts"
import type { AmqpMessageReturned } from "../errors/publish.ts"
import { messageReturned } from "./confirms.ts"
import { type PublishTraits, refusedOf } from "./publishRefusal.ts"

/** The transacted publishes of one channel. */
export class Transacted {
  /** How many the broker has taken: it answered what came behind them. */
  private taken = 0
  /** Those that it may still refuse. */
  private suspects: Array<PublishTraits> = []
  private returns: Array<AmqpMessageReturned> = []

  /** How many were published. */
  get latest(): number {
    return this.taken + this.suspects.length
  }

  add(publish: PublishTraits): void {
    this.suspects.push(publish)
  }

  /** The broker has come as far as this number without a refusal. */
  take(count: number): void {
    if (count <= this.taken) return
    this.suspects.splice(0, count - this.taken)
    this.taken = count
  }

  /** The publish that the broker refused: the first of those that are bad in this way. */
  refused(close: ChannelClose): PublishTraits | undefined {
    return refusedOf(close, this.suspects, (publish) => publish)[0]
  }

  /** `basic.return`. */
  returned(method: BasicReturn, message: AmqpMessage): void {
    this.returns.push(messageReturned(method, message))
  }

  /** The messages that came back since the last call. */
  takeReturned(): ReadonlyArray<AmqpMessageReturned> {
    const returned = this.returns
    this.returns = []
    return returned
  }

  /** The channel is gone. */
  clear(): void {
    this.suspects = []
  }
}

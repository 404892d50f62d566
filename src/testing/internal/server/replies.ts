/**
 * Direct reply-to, as one channel sees it: its consumer of replies, and the address where they come in.
 *
 * @since 0.1.0
 */
import type { Message } from "../model/message.ts"
import { preconditionFailed } from "../model/refusal.ts"
import type { Services } from "../model/services.ts"

/** The queue that nobody declares: what its consumer gets are replies to what its own channel published. */
export const replyTo = "amq.rabbitmq.reply-to"

/** Who consumes the replies of a channel. */
interface ReplyConsumer {
  readonly consumerTag: string
  readonly address: string
}

export class Replies {
  private readonly addresses: Services["replyAddresses"]
  private readonly makeAddress: () => string
  private consumer: ReplyConsumer | undefined

  constructor(addresses: Services["replyAddresses"], makeAddress: () => string) {
    this.addresses = addresses
    this.makeAddress = makeAddress
  }

  /** Has replies given to `deliver`, with a way to ask later whether they still have their consumer. Refuses a second. */
  consume(consumerTag: string, deliver: (message: Message, isWanted: () => boolean) => void): void {
    if (this.consumer !== undefined) throw preconditionFailed("reply consumer already set")
    const consumer = { consumerTag, address: this.makeAddress() }
    this.consumer = consumer
    this.addresses.set(consumer.address, (message) => deliver(message, () => this.consumer === consumer))
  }

  /** Whether it was this one. */
  cancel(consumerTag: string): boolean {
    if (this.consumer?.consumerTag !== consumerTag) return false
    this.close()
    return true
  }

  close(): void {
    if (this.consumer !== undefined) this.addresses.delete(this.consumer.address)
    this.consumer = undefined
  }

  /** Where replies come in. */
  get address(): string {
    if (this.consumer === undefined) throw preconditionFailed("fast reply consumer does not exist")
    return this.consumer.address
  }
}

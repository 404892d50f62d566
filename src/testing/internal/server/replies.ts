/**
 * Direct reply-to, as one channel sees it: its consumer of replies, and the address where they come in.
 *
 * @since 0.1.0
 */
import type { Message } from "../model/message.ts"
import { preconditionFailed } from "../model/refusal.ts"
import type { Services } from "../model/services.ts"

/** The queue that nobody declares. Its consumer gets the replies to what the same channel has published. */
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

  /**
   * Starts the consumer. `deliver` gets each reply, and a way to ask later whether the consumer is still there. Refuses
   * a second consumer.
   */
  consume(consumerTag: string, deliver: (message: Message, isWanted: () => boolean) => void): void {
    if (this.consumer !== undefined) throw preconditionFailed("reply consumer already set")
    const consumer = { consumerTag, address: this.makeAddress() }
    this.consumer = consumer
    this.addresses.set(consumer.address, (message) => deliver(message, () => this.consumer === consumer))
  }

  /** Gives whether the consumer had this tag. */
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

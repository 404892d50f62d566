/**
 * The confirms that a channel owes its publisher.
 *
 * As in RabbitMQ, the channel confirms at once what no queue gets. What queues confirm comes after everything that the
 * client has sent in one piece, in as few methods as possible.
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"

/** What became of a publish. */
export type PublishOutcome = "unroutable" | "stored" | "rejected"

/** Numbers publishes, and keeps the confirms until they are sent. */
export class ServerConfirms {
  /** The number of the next publish; `undefined`: not in confirm mode. */
  private next: number | undefined
  private acked: Array<number> = []
  private nacked: Array<number> = []
  private readonly send: (method: AmqpProtocol.Method) => void

  constructor(send: (method: AmqpProtocol.Method) => void) {
    this.send = send
  }

  get isOn(): boolean {
    return this.next !== undefined
  }

  /** `confirm.select`. */
  select(): void {
    this.next ??= 1
  }

  /**
   * The outcome of a publish is known. Publishes get their numbers here, in the order in which they came. Gives whether
   * there is something to `flush`.
   */
  settled(outcome: PublishOutcome): boolean {
    if (this.next === undefined) return false
    const sequence = this.next++
    if (outcome === "unroutable") this.send({ _tag: "basic.ack", deliveryTag: sequence, multiple: false })
    else if (outcome === "stored") this.acked.push(sequence)
    else this.nacked.push(sequence)
    return outcome !== "unroutable"
  }

  /** Drops the confirms that were not sent. */
  clear(): void {
    this.acked = []
    this.nacked = []
  }

  /** Acks before nacks, as in RabbitMQ. */
  flush(): void {
    const { acked, nacked } = this
    this.clear()
    const [only] = acked
    if (acked.length === 1 && only !== undefined) this.send({ _tag: "basic.ack", deliveryTag: only, multiple: false })
    else this.sendTogether(acked, nacked, (deliveryTag, multiple) => ({ _tag: "basic.ack", deliveryTag, multiple }))
    this.sendTogether(nacked, acked, (deliveryTag, multiple) => ({
      _tag: "basic.nack",
      deliveryTag,
      multiple,
      requeue: true // which means nothing, and is what RabbitMQ sends
    }))
  }

  /** Sends the numbers before the first of the others in one method, the rest one by one. */
  private sendTogether(
    sequences: ReadonlyArray<number>,
    [firstOther = Infinity]: ReadonlyArray<number>,
    method: (deliveryTag: number, multiple: boolean) => AmqpProtocol.Method
  ): void {
    const last = sequences.findLast((sequence) => sequence < firstOther)
    if (last !== undefined) this.send(method(last, true))
    for (const sequence of sequences) if (sequence > firstOther) this.send(method(sequence, false))
  }
}

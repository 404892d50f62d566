/**
 * What a client has published and settled in a transaction, until it is committed or rolled back.
 *
 * @since 0.1.0
 */
import type { Outcome } from "../model/model.ts"
import type { PublishOutcome } from "./confirms.ts"
import type { Delivery, Unsettled } from "./unsettled.ts"

export class Transaction {
  private readonly publishes: Array<() => PublishOutcome> = []
  private readonly settlements: Array<{ readonly deliveries: ReadonlyArray<Delivery>; readonly outcome: Outcome }> = []

  /** `store` has the queues take the message, which is routed already. */
  publish(store: () => PublishOutcome): void {
    this.publishes.push(store)
  }

  settle(deliveries: ReadonlyArray<Delivery>, outcome: Outcome): void {
    this.settlements.push({ deliveries, outcome })
  }

  /** Deliveries that are settled here, and not yet at their queues. */
  get uncommitted(): ReadonlyArray<Delivery> {
    return this.settlements.flatMap(({ deliveries }) => deliveries)
  }

  /** Does everything, and gives what became of the publishes. */
  commit(unsettled: Unsettled): ReadonlyArray<PublishOutcome> {
    const outcomes = this.publishes.map((store) => store())
    for (const { deliveries, outcome } of this.settlements) unsettled.settle(deliveries, outcome)
    return outcomes
  }

  /** Forgets the publishes. The deliveries are unsettled again. */
  rollBack(unsettled: Unsettled): void {
    unsettled.putBack(this.uncommitted)
  }
}

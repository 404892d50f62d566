import { Effect, Schedule } from "effect"
import * as AmqpConsumer from "../src/AmqpConsumer.ts"
import * as AmqpPublisher from "../src/AmqpPublisher.ts"
import * as AmqpTopology from "../src/AmqpTopology.ts"

export const Topology = AmqpTopology.layer([AmqpTopology.quorumQueue("billing", { deliveryLimit: 5 })])

/** Sent again until it is confirmed: an order may come twice. */
export const order = (orderId: string) =>
  Effect.flatMap(
    AmqpPublisher.AmqpPublisher,
    ({ publish }) => publish({ routingKey: "billing", body: orderId }, { resend: Schedule.exponential("100 millis") })
  )

/** Bills each order once, as long as `billed` is kept. */
export const billing = (billed: Set<string>, bill: (orderId: string) => Effect.Effect<void>) =>
  AmqpConsumer.run("billing", ({ text: orderId }) =>
    Effect.gen(function*() {
      if (billed.has(orderId)) return
      yield* bill(orderId)
      billed.add(orderId)
    }), { onFailure: AmqpConsumer.requeue })

import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Latch, Layer, Schedule } from "effect"
import * as AmqpConsumer from "../src/AmqpConsumer.ts"
import * as AmqpPublisher from "../src/AmqpPublisher.ts"
import * as AmqpTopology from "../src/AmqpTopology.ts"
import * as NodeAmqp from "../src/NodeAmqp.ts"

const Amqp = NodeAmqp.layerConfig({ url: Config.Redacted("AMQP_URL") })

// Declared now and after each reconnect, before anybody publishes or consumes.
const Topology = AmqpTopology.layer([
  AmqpTopology.exchange("example.orders", { type: "topic" }),
  AmqpTopology.quorumQueue("example.billing", { deliveryLimit: 5 }),
  AmqpTopology.bind({ queue: "example.billing", exchange: "example.orders", routingKey: "order.*.paid" })
], { deleteOnClose: true })

const Publisher = AmqpPublisher.layer({ exchange: "example.orders" })

const program = Effect.gen(function*() {
  const publisher = yield* AmqpPublisher.AmqpPublisher
  const unbilled = new Set(["one", "two", "three"])
  const messages = Array.from(unbilled, (body) => ({ routingKey: "order.eu.paid", body }))
  const done = yield* Latch.make()

  // Sent again until confirmed. What was in doubt may then come twice, and must not be billed twice.
  const publishing = publisher.publishAll(messages, { resend: Schedule.spaced("1 second") })

  // Success acknowledges; a failure gives the message back, up to the delivery limit of its queue.
  const billing = AmqpConsumer.run("example.billing", ({ text }) =>
    Effect.gen(function*() {
      if (!unbilled.delete(text)) return
      yield* Console.log(`billed ${text}`)
      if (unbilled.size === 0) yield* done.open
    }), { concurrency: 10, onFailure: AmqpConsumer.requeue })

  yield* Effect.all([publishing, Effect.raceFirst(billing, done.await)], { concurrency: "unbounded" })
})

program.pipe(
  Effect.provide(Publisher.pipe(Layer.provide(Topology), Layer.provideMerge(Amqp))),
  NodeRuntime.runMain
)

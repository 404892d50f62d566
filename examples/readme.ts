import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Stream } from "effect"
import * as AmqpChannel from "../src/AmqpChannel.ts"
import * as NodeAmqp from "../src/NodeAmqp.ts"

const program = Effect.gen(function*() {
  const channel = yield* AmqpChannel.open
  const { queue } = yield* channel.queueDeclare({ exclusive: true })
  yield* channel.confirmSelect
  yield* channel.publish({ routingKey: queue, body: "Hello, world", mandatory: true })
  const { deliveries } = yield* channel.consume({ queue })
  yield* Stream.runForEach(Stream.take(deliveries, 1), (one) => Effect.andThen(Console.log(one.text), one.ack))
})
const Amqp = NodeAmqp.layerConfig({ url: Config.Redacted("AMQP_URL") })
program.pipe(Effect.scoped, Effect.provide(Amqp), NodeRuntime.runMain)

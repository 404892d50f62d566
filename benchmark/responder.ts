/**
 * Answers requests, for all clients the same: `node responder.ts <host> <port> <queue>`. Ends with its standard input.
 */
import { Effect, Redacted, Stream } from "effect"
import * as AmqpChannel from "../src/AmqpChannel.ts"
import * as NodeAmqp from "../src/NodeAmqp.ts"

const [, , host, port, queue = ""] = process.argv

const program = Effect.scoped(Effect.gen(function*() {
  const channel = yield* AmqpChannel.open
  const { deliveries } = yield* channel.consume({ queue, noAck: true })
  process.stdout.write("ready\n")
  yield* Stream.runForEach(deliveries, ({ body, properties }) => {
    const { contentType, correlationId, replyTo = "" } = properties
    return channel.publish({ routingKey: replyTo, body, properties: { contentType, correlationId, deliveryMode: 1 } })
  })
}))

process.stdin.on("end", () => process.exit(0)).resume()
await Effect.runPromise(
  Effect.provide(program, NodeAmqp.layer({ url: Redacted.make(`amqp://guest:guest@${host}:${port}/%2f`) }))
)

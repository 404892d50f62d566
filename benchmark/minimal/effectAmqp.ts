/** The least that a program does: connect, publish, consume. */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"

const program = Effect.scoped(Effect.gen(function*() {
  const publisher = yield* AmqpPublisher.make()
  yield* publisher.publish({ routingKey: "tasks", body: "hello" })
  yield* AmqpConsumer.stream("tasks").pipe(
    Stream.take(1),
    Stream.runForEach((delivery) => delivery.ack)
  )
}))

export const main = (url: string): Promise<void> =>
  Effect.runPromise(Effect.provide(program, NodeAmqp.layer({ url: Redacted.make(url) })))

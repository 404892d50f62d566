/**
 * Publishers: one outcome for each message, whatever happens to channels, connections and the broker meanwhile.
 */
import { assert, layer } from "@effect/vitest"
import { Effect, Schedule, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, uniqueName } from "../harness/shared.ts"
import { proxied } from "./support.ts"

/** A durable queue of this test alone. */
const makeQueue = (args: Record<string, string | number> = {}) =>
  Effect.gen(function*() {
    const queue = uniqueName("publisher")
    yield* Effect.scoped(
      Effect.flatMap(AmqpChannel.open, (channel) => channel.queueDeclare({ queue, durable: true, arguments: args }))
    )
    return queue
  })

/** The bodies in a queue, in order. */
const bodiesOf = (queue: string) =>
  Effect.scoped(Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    const { messageCount } = yield* channel.queueDeclarePassive(queue)
    if (messageCount === 0) return []
    const { deliveries } = yield* channel.consume({ queue, noAck: true })
    return yield* deliveries.pipe(Stream.take(messageCount), Stream.map(({ text }) => text), Stream.runCollect)
  }))

const on = <A, E, R>(connection: AmqpConnection, effect: Effect.Effect<A, E, R>) =>
  Effect.provideService(effect, AmqpConnection, connection)

layer(onVhost, { excludeTestServices: true })("publisher", (it) => {
  it.effect("publishes, confirmed and persistent, and goes on after a reset (F69)", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      yield* on(
        connection,
        Effect.gen(function*() {
          const queue = yield* makeQueue()
          const publisher = yield* AmqpPublisher.make()
          yield* publisher.publish({ routingKey: queue, body: "1" })
          yield* link.reset
          yield* link.closed
          yield* publisher.publish({ routingKey: queue, body: "2" }, { resend: Schedule.recurs(3) })
          yield* publisher.publish({ routingKey: queue, body: "3" })
          assert.deepStrictEqual(yield* bodiesOf(queue), ["1", "2", "3"])
        })
      )
    })))
})

/**
 * Links that are slow or cut bytes into pieces are not dead ones.
 */
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost } from "../harness/shared.ts"
import { openOn, proxied } from "./support.ts"

layer(onVhost, { excludeTestServices: true })("a slow link", (it) => {
  it.effect("F13 of 10 KB/s, in the middle of one large delivery for longer than two heartbeat intervals, is alive", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, proxy } = yield* proxied({ heartbeat: "1 second" })
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.confirmSelect
      const body = new Uint8Array(35_000).fill(7)
      yield* channel.publish({ routingKey: queue, body, mandatory: true })
      // 100 bytes every 10 ms.
      yield* proxy.set("down", { slice: 100, delay: 10 })
      const started = Date.now()
      const { deliveries } = yield* channel.consume({ queue, noAck: true })
      const [delivery] = yield* Stream.runCollect(Stream.take(deliveries, 1))
      assert.deepStrictEqual(delivery?.body, body)
      assert.isAbove(Date.now() - started, 2500)
      yield* proxy.set("down", { slice: 0, delay: 0 })
      assert.strictEqual((yield* connection.status)._tag, "Open")
    })))

  it.effect("F12 that cuts everything into single bytes, both ways, changes nothing of a mixed traffic", () =>
    noLeaks(Effect.gen(function*() {
      const count = 100
      const { connection, proxy } = yield* proxied()
      yield* proxy.set("up", { slice: 1 })
      yield* proxy.set("down", { slice: 1 })
      const publishing = yield* openOn(connection)
      const consuming = yield* openOn(connection)
      const { queue } = yield* publishing.queueDeclare({ exclusive: true })
      yield* publishing.confirmSelect
      yield* consuming.qos({ prefetchCount: 10 })
      const all = yield* Deferred.make<void>()
      const texts: Array<string> = []
      const { deliveries } = yield* consuming.consume({ queue })
      const running = yield* deliveries.pipe(
        Stream.runForEach((delivery) => {
          texts.push(delivery.text)
          return Effect.andThen(delivery.ack, texts.length === count ? Deferred.succeed(all, undefined) : Effect.void)
        }),
        Effect.forkScoped
      )
      const bodies = Array.from({ length: count }, (_, i) => `message ${i}`)
      yield* Effect.forEach(bodies, (body) =>
        Effect.andThen(
          publishing.publish({ routingKey: queue, body, mandatory: true }),
          consuming.queueDeclarePassive(queue)
        ), { concurrency: 10, discard: true })
      yield* Deferred.await(all)
      assert.deepStrictEqual(texts.toSorted(), bodies.toSorted())
      yield* proxy.set("up", { slice: 0 })
      yield* proxy.set("down", { slice: 0 })
      yield* Fiber.interrupt(running)
      assert.strictEqual((yield* connection.status)._tag, "Open")
    })))
})

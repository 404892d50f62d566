/**
 * How the queues of a consumer recover beside one another: what one of them does to the others, to the messages and to the
 * channels; and that losses leave nothing behind.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber, Schedule, Stream } from "effect"
import type { AmqpChannel } from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import { internals } from "../../src/internal/connection/service.ts"
import { collectGarbage } from "../harness/garbage.ts"
import { noLeaks } from "../harness/leaks.ts"
import type { FaultProxy, ProxyLink } from "../harness/proxy.ts"
import { onVhost, uniqueName } from "../harness/shared.ts"
import {
  connect,
  filled,
  isAttachedIn,
  methodsOf,
  nextMethod,
  openOn,
  proxied,
  recoverSoon,
  skipHeader,
  until
} from "./support.ts"

/** Milliseconds that each piece from the broker takes, so that something can happen before it comes. */
const delay = 50
const slowly = (proxy: FaultProxy) => proxy.set("down", { delay })

/** Deletes a queue. RabbitMQ subscribes again by itself to one that is back before it would cancel the consumer. */
const remove = (link: ProxyLink, channel: AmqpChannel, queue: string) =>
  Effect.andThen(channel.queueDelete({ queue }), nextMethod(link, "down", "basic.cancel"))

layer(onVhost, { excludeTestServices: true })("a consumer that recovers", (it) => {
  it.effect("attaches one queue while another one is attaching: neither closes the channel of the other", () =>
    noLeaks(Effect.gen(function*() {
      const [first, second, third] = [yield* filled(0), yield* filled(0), yield* filled(0)]
      const { connection, link, proxy } = yield* proxied()
      const consumer = yield* AmqpConsumer.make([first.queue, second.queue, third.queue], { recover: recoverSoon })
        .pipe(
          Effect.provideService(AmqpConnection, connection)
        )
      const running = yield* Effect.forkScoped(Stream.runDrain(consumer.deliveries))
      yield* nextMethod(link, "up", "channel.open")
      yield* until(consumer, isAttachedIn(1))
      yield* slowly(proxy)
      for (const { channel, queue } of [first, second]) {
        yield* remove(link, channel, queue)
        yield* channel.queueDeclare({ queue, durable: true })
        yield* nextMethod(link, "up", "channel.open")
      }
      yield* Effect.raceFirst(Fiber.join(running), until(consumer, isAttachedIn(1)))
    })))

  it.effect("takes a prefetch that changes while it attaches", () =>
    noLeaks(Effect.gen(function*() {
      const { queue } = yield* filled(5)
      const { connection, link, proxy } = yield* proxied()
      const consumer = yield* Effect.provideService(
        AmqpConsumer.make(queue, { prefetch: 3 }),
        AmqpConnection,
        connection
      )
      const all = yield* Deferred.make<void>()
      let held = 0
      yield* slowly(proxy)
      yield* consumer.deliveries.pipe(
        Stream.runForEach(() => ++held === 5 ? Deferred.succeed(all, undefined) : Effect.void),
        Effect.forkScoped
      )
      yield* nextMethod(link, "up", "basic.qos")
      yield* consumer.setPrefetch(5)
      assert.strictEqual((yield* nextMethod(link, "up", "basic.qos")).prefetchCount, 5)
      yield* Deferred.await(all)
    })))

  it.effect("gives messages back once at most, however many of the other queues are missing", () =>
    noLeaks(Effect.gen(function*() {
      const channel = yield* openOn(yield* connect())
      const { queue } = yield* channel.queueDeclare({
        queue: uniqueName("quorum"),
        durable: true,
        arguments: { "x-queue-type": "quorum" }
      })
      yield* channel.confirmSelect
      for (let i = 0; i < 5; i++) yield* channel.publish({ routingKey: queue, body: String(i) })
      const missing = Array.from({ length: 10 }, () => uniqueName("missing"))
      const connection = yield* connect()
      const counts: Array<unknown> = []
      const five = yield* Deferred.make<void>()
      yield* AmqpConsumer.run([queue, ...missing], ({ properties }) => {
        counts.push(properties.headers?.["x-delivery-count"] ?? 0)
        return counts.length === 5 ? Deferred.succeed(five, undefined) : Effect.void
      }, { recover: Schedule.spaced("1 hour"), prefetch: 10 }).pipe(
        Effect.provideService(AmqpConnection, connection),
        Effect.forkScoped
      )
      yield* Deferred.await(five)
      assert.deepStrictEqual(counts.filter((count) => Number(count) > 1), [])
    })))

  it.effect("shares one channel again after a loss, where each queue had come to have its own", () =>
    noLeaks(Effect.gen(function*() {
      const { channel } = yield* filled(0)
      const queues = Array.from({ length: 20 }, () => uniqueName("own"))
      const declareAll = Effect.forEach(queues, (queue) => channel.queueDeclare({ queue, durable: true }), {
        concurrency: "unbounded"
      })
      yield* declareAll
      const { connection, link, proxy } = yield* proxied({ reconnect: Schedule.spaced("20 millis") })
      /** The channels of the last subscription to each queue. */
      const channels = (link: ProxyLink) =>
        Effect.map(
          methodsOf(link, "up"),
          (methods) => new Set(methods.filter((one) => one.endsWith(" basic.consume")).slice(-queues.length)).size
        )
      const consumer = yield* AmqpConsumer.make(queues, { recover: Schedule.spaced("200 millis") }).pipe(
        Effect.provideService(AmqpConnection, connection)
      )
      yield* Effect.forkScoped(Stream.runDrain(consumer.deliveries))
      yield* until(consumer, isAttachedIn(1))
      for (const queue of queues) yield* remove(link, channel, queue)
      yield* declareAll
      yield* until(consumer, isAttachedIn(1))
      assert.isAbove(yield* channels(link), 10)
      yield* link.reset
      const again = yield* proxy.accept
      yield* until(consumer, isAttachedIn(2))
      assert.isBelow(yield* channels(again), 5)
    })))

  it.effect("keeps no connection that was lost while it opened its channel", () =>
    noLeaks(Effect.gen(function*() {
      const { queue } = yield* filled(0)
      const { connection, link, proxy } = yield* proxied({ reconnect: Schedule.spaced("5 millis") })
      const consumer = yield* AmqpConsumer.make(queue, { recover: Schedule.spaced("5 millis") }).pipe(
        Effect.provideService(AmqpConnection, connection)
      )
      yield* proxy.set("down", { delay: 10 })
      yield* Effect.forkScoped(Stream.runDrain(consumer.deliveries))
      const sessions: Array<WeakRef<object>> = []
      let current = link
      for (let i = 0; i < 10; i++) {
        yield* nextMethod(current, "up", "channel.open")
        sessions.push(new WeakRef((yield* connection[internals]().session).session))
        yield* current.reset
        yield* current.closed
        current = yield* proxy.accept
        yield* skipHeader(current)
      }
      yield* until(consumer, isAttachedIn(1))
      // What a turn of the event loop has looked at is kept until its end.
      yield* Effect.sleep(0)
      collectGarbage()
      assert.isBelow(sessions.filter((session) => session.deref() !== undefined).length, 5)
    })))

  describe("declares a queue of its own topology again, which goes", () => {
    const goes = (when: string, { isAttached }: { readonly isAttached: boolean }) =>
      it.effect(when, () =>
        noLeaks(Effect.gen(function*() {
          const { channel, queue } = yield* filled(0)
          const { connection, link, proxy } = yield* proxied()
          const consumer = yield* AmqpConsumer.make(queue, {
            recover: recoverSoon,
            topology: [AmqpTopology.classicQueue(queue)]
          }).pipe(Effect.provideService(AmqpConnection, connection))
          yield* slowly(proxy)
          const running = yield* Effect.forkScoped(Stream.runDrain(consumer.deliveries))
          yield* nextMethod(link, "up", "basic.qos")
          if (isAttached) {
            yield* until(consumer, isAttachedIn(1))
            yield* consumer.setPrefetch(5)
            yield* nextMethod(link, "up", "basic.qos")
          }
          // The subscription follows the answer.
          yield* channel.queueDelete({ queue })
          yield* nextMethod(link, "down", "channel.close")
          yield* Effect.raceFirst(Fiber.join(running), nextMethod(link, "down", "basic.consume-ok"))
          assert.strictEqual((yield* channel.queueDeclarePassive(queue)).consumerCount, 1)
        })))

    goes("before it has subscribed to it", { isAttached: false })
    goes("while it subscribes again with another prefetch", { isAttached: true })
  })
})

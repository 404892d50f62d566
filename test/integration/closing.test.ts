/**
 * The end of a connection with everything on it: one bound for all of it, and no publish in doubt that the broker has taken.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Queue, Schedule, Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import type { Publish } from "../../src/AmqpMessage.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { canControl, onVhost, uniqueName } from "../harness/shared.ts"
import { connect, drain, hole, methodsOf, millisOf, nextMethod, openOn, proxied } from "./support.ts"

const count = 10
const closeTimeout = 500

/** What a machine that is busy with other tests may take for nothing. */
const slack = 700

const isOnce = (millis: number): void => {
  assert.isAtLeast(millis, closeTimeout - 1)
  assert.isBelow(millis, closeTimeout + slack)
}

/** Idle channels, publishers, consumers of both kinds, and a topology that is deleted at the end. */
const crowd = Effect.gen(function*() {
  const connection = yield* AmqpConnection.AmqpConnection
  const channel = yield* AmqpChannel.open
  const { queue } = yield* channel.queueDeclare({ exclusive: true })
  yield* AmqpTopology.make([AmqpTopology.classicQueue(uniqueName("q"), { exclusive: true })], { deleteOnClose: true })
  for (let i = 0; i < count; i++) {
    const own = yield* openOn(connection)
    yield* own.consume({ queue })
    yield* AmqpPublisher.make()
    yield* openOn(connection)
  }
  const { changes, deliveries } = yield* AmqpConsumer.make(queue)
  yield* Effect.forkScoped(Stream.runDrain(deliveries))
  yield* Stream.runHead(Stream.filter(changes, ({ _tag }) => _tag === "Attached"))
})

/** A connection of a scope of its own, which `end` closes. */
const ending = (options?: AmqpConnection.Options) =>
  Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const opened = yield* Scope.provide(proxied({ closeTimeout, ...options }), scope)
    const on = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Scope.provide(Effect.provideService(effect, AmqpConnection.AmqpConnection, opened.connection), scope)
    return { ...opened, on, end: Scope.close(scope, Exit.void) }
  })

layer(onVhost, { excludeTestServices: true })("the end of a connection", (it) => {
  describe("takes closeTimeout once, however much is open", () => {
    it.effect("in a black hole", () =>
      noLeaks(Effect.gen(function*() {
        const { end, link, on, proxy } = yield* ending()
        yield* on(crowd)
        yield* hole(proxy)
        isOnce(yield* millisOf(end))
        yield* link.reset
      })))

    it.effect("in a black hole, by connection.close", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, end, link, on, proxy } = yield* ending()
        yield* on(crowd)
        yield* hole(proxy)
        isOnce(yield* millisOf(connection.close))
        // There is nothing left to wait for.
        assert.isBelow(yield* millisOf(end), slack)
        yield* link.reset
      })))

    it.effect("in a black hole, with publishers on a connection of their own", () =>
      noLeaks(Effect.gen(function*() {
        const { end, on, proxy } = yield* ending({ separatePublishers: true })
        yield* on(crowd)
        yield* hole(proxy)
        isOnce(yield* millisOf(end))
        yield* proxy.resetAll
      })))

    it.effect("with publishes that nobody confirms, on several publishers", () =>
      noLeaks(Effect.gen(function*() {
        const { end, link, on, proxy } = yield* ending()
        const publishers = yield* on(Effect.all(Array.from({ length: count }, () => AmqpPublisher.make())))
        yield* hole(proxy)
        const publishing = yield* Effect.forEach(
          publishers,
          (publisher) =>
            Effect.forkChild(Effect.flip(publisher.publish({ exchange: "amq.fanout", body: "x", mandatory: false })), {
              startImmediately: true
            })
        )
        isOnce(yield* millisOf(end))
        for (const fiber of publishing) assert.strictEqual((yield* Fiber.join(fiber))._tag, "AmqpPublishUnconfirmed")
        yield* link.reset
      })))

    it.effect("in layers that close in fibers of their own", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, on, proxy } = yield* ending()
        const parts = Layer.mergeAll(
          Layer.effectDiscard(crowd),
          Layer.effectDiscard(Effect.all(Array.from({ length: count }, () => AmqpPublisher.make()))),
          AmqpChannel.layer,
          AmqpPublisher.layer()
        )
        const scope = yield* Scope.make()
        yield* on(Layer.buildWithScope(parts, scope))
        yield* hole(proxy)
        isOnce(
          yield* millisOf(Effect.all([Scope.close(scope, Exit.void), connection.close], { concurrency: "unbounded" }))
        )
        yield* link.reset
      })))

    it.effect("on a slow link, and in good order where that is enough", () =>
      noLeaks(Effect.gen(function*() {
        for (const [bound, delay] of [[closeTimeout, 100], [20_000, 10]] as const) {
          const { end, link, on, proxy } = yield* ending({ closeTimeout: bound })
          yield* on(crowd)
          yield* proxy.set("up", { delay })
          yield* proxy.set("down", { delay })
          const before = (yield* methodsOf(link, "up")).length
          const millis = yield* millisOf(end)
          if (bound === closeTimeout) isOnce(millis)
          else {
            const closes = (yield* methodsOf(link, "up")).slice(before).map((method) => method.replace(/^\d+ /, ""))
            // 10 with consumers, 10 publishers, 10 without anything, the first, the deleting one and the consumer's.
            assert.lengthOf(closes.filter((method) => method === "channel.close"), 3 * count + 3)
            assert.lengthOf(closes.filter((method) => method === "basic.cancel"), count + 1)
            assert.strictEqual(closes.at(-1), "connection.close")
            assert.include(yield* methodsOf(link, "down"), "0 connection.close-ok")
          }
          yield* link.reset
          yield* proxy.set("up", { delay: 0 })
          yield* proxy.set("down", { delay: 0 })
        }
      })), 60_000)

    describe.runIf(canControl)("with control of the broker", () => {
      it.effect("on a blocked connection", () =>
        noLeaks(Effect.gen(function*() {
          const { alarm, unalarm } = yield* Broker.control
          const { connection, end, link, on } = yield* ending()
          yield* on(crowd)
          const publisher = yield* on(AmqpPublisher.make())
          const publish = publisher.publish({ exchange: "amq.fanout", body: "x", mandatory: false })
          yield* alarm("memory")
          const publishing = yield* Effect.forkChild(Effect.ignore(Effect.forever(publish)))
          yield* Stream.runHead(Stream.filter(connection.changes, ({ _tag }) => _tag === "Blocked"))
          isOnce(yield* millisOf(end))
          yield* Fiber.join(publishing)
          yield* unalarm("memory")
          yield* link.reset
        })))
    })
  })

  describe("by close", () => {
    it.effect("waits for what was published, on publishers and on channels, and takes nothing new meanwhile", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* proxied()
        const watcher = yield* openOn(yield* connect())
        const queue = uniqueName("q")
        yield* watcher.queueDeclare({ queue })
        const publisher = yield* Effect.provideService(
          AmqpPublisher.make({ maxInFlight: 20 }),
          AmqpConnection.AmqpConnection,
          connection
        )
        const channel = yield* openOn(connection)
        yield* channel.confirmSelect
        const publishes = (
          publish: (message: Publish) => Effect.Effect<void, AmqpPublisher.PublishError>,
          amount: number
        ) =>
          Effect.forEach(
            Array.from({ length: amount }),
            () =>
              Effect.forkChild(Effect.exit(publish({ routingKey: queue, body: "x" })), {
                startImmediately: true
              })
          )
        yield* proxy.set("down", { mode: "stall" })
        const written = [
          ...yield* publishes(publisher.publish, 20),
          ...yield* publishes(channel.publish, 20)
        ]
        // There is no room for these.
        const waiting = yield* publishes(publisher.publish, 5)
        for (let i = 0; i < 40; i++) yield* nextMethod(link, "up", "basic.publish")
        const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
        const late = yield* publishes(channel.publish, 5)
        const alsoLate = yield* publishes(publisher.publish, 5)
        const opening = yield* Effect.exit(Effect.scoped(openOn(connection)))
        assert.isTrue(Exit.isFailure(opening))
        const before = yield* methodsOf(link, "up")
        for (const fiber of [...waiting, ...late, ...alsoLate]) {
          const exit = yield* Fiber.join(fiber)
          const [reason] = Exit.isFailure(exit) ? exit.cause.reasons : []
          const error = reason?._tag === "Fail" ? reason.error : assert.fail("it did not fail")
          const cause = error._tag === "AmqpChannelClosed" ? error.cause : error
          assert.deepNestedInclude(cause, { "reason._tag": "ConnectionClosed" })
        }
        assert.strictEqual(before.at(-1)?.split(" ")[1], "basic.publish")
        yield* proxy.set("down", { mode: "pass" })
        yield* Fiber.join(closing)
        for (const fiber of written) assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
        assert.lengthOf(yield* drain(watcher, queue), 40)
        yield* watcher.queueDelete({ queue })
        const after = (yield* methodsOf(link, "up")).slice(before.length)
        assert.strictEqual(after.at(-1), "0 connection.close")
        assert.notInclude(after.map((method) => method.replace(/^\d+ /, "")), "basic.publish")
      })))

    it.effect("says what happened to publishes whose connection is lost meanwhile, and does not come back", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* proxied({ reconnect: Schedule.spaced("20 millis") })
        const channel = yield* openOn(connection)
        yield* channel.confirmSelect
        yield* proxy.set("down", { mode: "stall" })
        const publishing = yield* Effect.forkChild(
          Effect.flip(channel.publish({ exchange: "amq.fanout", body: "x" })),
          { startImmediately: true }
        )
        yield* nextMethod(link, "up", "basic.publish")
        const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
        yield* link.reset
        yield* Effect.timeout(Fiber.join(closing), "2 seconds")
        assert.deepNestedInclude(yield* Fiber.join(publishing), {
          _tag: "AmqpPublishUnconfirmed",
          "cause.reason._tag": "ConnectionLost"
        })
        assert.strictEqual((yield* connection.closed).reason._tag, "ConnectionClosed")
        assert.strictEqual(yield* proxy.accepted, 1)
      })))

    it.effect("lets deliveries be settled until there is nothing more to wait for", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* proxied()
        const channel = yield* openOn(connection)
        yield* channel.confirmSelect
        const queue = uniqueName("q")
        yield* channel.queueDeclare({ queue })
        yield* channel.publish({ routingKey: queue, body: "one" })
        const { deliveries } = yield* channel.consume({ queue })
        const received = yield* Stream.toQueue(deliveries, { capacity: "unbounded" })
        const delivery = yield* Queue.take(received)
        yield* proxy.set("down", { mode: "stall" })
        const publishing = yield* Effect.forkChild(channel.publish({ exchange: "amq.fanout", body: "x" }), {
          startImmediately: true
        })
        yield* nextMethod(link, "up", "basic.publish")
        const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
        assert.strictEqual(yield* delivery.ack, "Settled")
        yield* nextMethod(link, "up", "basic.ack")
        yield* proxy.set("down", { mode: "pass" })
        yield* Fiber.join(publishing)
        yield* Fiber.join(closing)
        const watcher = yield* openOn(yield* connect())
        assert.strictEqual(yield* watcher.queueDelete({ queue }), 0)
      })))
  })
})

/**
 * Channels of one connection take turns: on a link that is slower than its publishers, a few bytes of one channel do not wait
 * for the megabytes of another.
 *
 * The link stands still while everybody publishes, and what the broker then reads is looked at: how much comes behind the
 * small message. The system buffers a few MiB of what came before it.
 */
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import type * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import { noLeaks } from "../harness/leaks.ts"
import type { ProxyLink } from "../harness/proxy.ts"
import { onVhost } from "../harness/shared.ts"
import { drain, framesOf, openOn, proxied } from "./support.ts"

const KiB = 1024

const range = (count: number): ReadonlyArray<number> => Array.from({ length: count }, (_, i) => i)

/** Bytes of bodies that follow the last frame of that kind, of all that came. */
const behind = (
  link: ProxyLink,
  isLast: (frame: AmqpProtocol.Frame) => boolean
): Effect.Effect<{ readonly behind: number; readonly all: number }> =>
  Effect.map(framesOf(link, "up"), (frames) => {
    const size = (frames: ReadonlyArray<AmqpProtocol.Frame>): number =>
      frames.reduce((sum, frame) => sum + (frame._tag === "Body" ? frame.payload.length : 0), 0)
    const at = frames.findLastIndex(isLast)
    assert.isAtLeast(at, 0, "it was never sent")
    return { behind: size(frames.slice(at)), all: size(frames) }
  })

const isPublishTo = (routingKey: string) => (frame: AmqpProtocol.Frame): boolean =>
  frame._tag === "Method" && frame.method._tag === "basic.publish" && frame.method.routingKey === routingKey

/** A connection whose link stands still, and queues for what is large and what is small. */
const stalled = Effect.gen(function*() {
  const { connection, link, proxy } = yield* proxied()
  const channel = yield* openOn(connection)
  const { queue: large } = yield* channel.queueDeclare({ exclusive: true })
  const { queue: small } = yield* channel.queueDeclare({ exclusive: true })
  const publisher = Effect.provideService(AmqpPublisher.make({ maxInFlight: 4096 }), AmqpConnection, connection)
  return {
    connection,
    link,
    channel,
    publisher,
    large,
    small,
    stall: proxy.set("up", { mode: "stall" }),
    go: proxy.set("up", { mode: "pass" })
  }
})

/** All at the same time, in fibers of their own. */
const start = <A, E, R>(effects: ReadonlyArray<Effect.Effect<A, E, R>>) =>
  Effect.forkChild(Effect.all(effects, { concurrency: "unbounded" }), { startImmediately: true })

layer(onVhost, { excludeTestServices: true })("a slow link", (it) => {
  for (const [size, count] of [[256 * KiB, 64], [15 * KiB, 1100]] as const) {
    it.effect(`a confirmed publish overtakes the ${count} bodies of ${size / KiB} KiB of another publisher`, () =>
      noLeaks(Effect.gen(function*() {
        const { go, large, link, publisher, small, stall } = yield* stalled
        const busy = yield* publisher
        const other = yield* publisher
        yield* stall
        let confirmed = 0
        const publishing = yield* start(
          range(count).map(() =>
            Effect.tap(
              busy.publish({ routingKey: large, body: new Uint8Array(size) }),
              () => Effect.sync(() => confirmed++)
            )
          )
        )
        const one = yield* start([other.publish({ routingKey: small, body: "small" })])
        yield* go
        yield* Fiber.join(one)
        yield* Fiber.join(publishing)
        assert.strictEqual(confirmed, count)
        const sizes = yield* behind(link, isPublishTo(small))
        assert.isAbove(sizes.behind, sizes.all / 2)
      })))
  }

  it.effect("so it does in a batch, and without confirms", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, connection, go, large, link, publisher, small, stall } = yield* stalled
      const busy = yield* publisher
      const other = yield* openOn(connection)
      yield* stall
      const body = new Uint8Array(100 * KiB)
      const batch = yield* start([busy.publishAll(range(80).map(() => ({ routingKey: large, body })))])
      const plain = yield* start(range(80).map(() => channel.publish({ routingKey: large, body })))
      const one = yield* start(range(20).map((i) => other.publish({ routingKey: small, body: String(i) })))
      yield* go
      yield* Fiber.join(one)
      yield* Fiber.join(batch)
      yield* Fiber.join(plain)
      // The broker has read all of it.
      yield* channel.queueDeclarePassive(large)
      const sizes = yield* behind(link, isPublishTo(small))
      assert.isAbove(sizes.behind, sizes.all / 2)
      // Behind its own publishes.
      assert.deepStrictEqual(yield* drain(other, small), range(20).map(String))
    })))

  it.effect("many busy channels hold up no other one, nor each other", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, go, large, link, publisher, small, stall } = yield* stalled
      const channels = yield* Effect.forEach(range(12), () => openOn(connection))
      const others = yield* Effect.forEach(range(3), () => publisher)
      yield* stall
      const body = new Uint8Array(128 * KiB)
      const ends: Array<number> = []
      const publishing = yield* start(channels.map((channel, i) =>
        Effect.tap(
          Effect.forEach(range(15), () => channel.publish({ routingKey: large, body })),
          () => Effect.sync(() => ends.push(i))
        )
      ))
      const few = yield* start(others.map((other) => other.publish({ routingKey: small, body: "small" })))
      yield* go
      yield* Fiber.join(few)
      yield* Fiber.join(publishing)
      yield* Effect.forEach(channels, (channel) => channel.queueDeclarePassive(large))
      const sizes = yield* behind(link, isPublishTo(small))
      assert.isAbove(sizes.behind, sizes.all / 2)
      // All are in the middle of their work until near the end: nobody had to wait for another's.
      const frames = yield* framesOf(link, "up")
      const publishes = frames.flatMap((frame) => isPublishTo(large)(frame) ? [frame] : [])
      const firstEnd = Math.min(...channels.map((channel) =>
        publishes.findLastIndex((frame) => frame._tag === "Method" && frame.channel === channel.id)
      ))
      assert.isAbove(firstEnd, publishes.length / 2)
    })))

  it.effect("many publishers of one channel are served in their order", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, go, large, publisher, stall } = yield* stalled
      const busy = yield* publisher
      yield* stall
      const bodies = range(200).map((i) => new Uint8Array(i % 3 === 0 ? 100 * KiB : 40 * KiB).fill(i))
      const publishing = yield* start(bodies.map((body) => busy.publish({ routingKey: large, body })))
      yield* go
      yield* Fiber.join(publishing)
      const { deliveries } = yield* channel.consume({ queue: large, noAck: true })
      const firsts = yield* deliveries.pipe(
        Stream.take(bodies.length),
        Stream.map(({ body }) => body[0]),
        Stream.runCollect
      )
      assert.deepStrictEqual(firsts, [...range(200)])
    })))

  it.effect("acknowledgements, requests and closes overtake the bodies of another channel", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, connection, go, large, link, publisher, small, stall } = yield* stalled
      const count = 100
      yield* Effect.forEach(range(count), (i) => channel.publish({ routingKey: small, body: String(i) }))
      const consuming = yield* openOn(connection)
      const closing = yield* openOn(connection)
      const busy = yield* publisher
      yield* consuming.qos({ prefetchCount: count })
      const { deliveries } = yield* consuming.consume({ queue: small })
      const received = yield* Deferred.make<void>()
      const released = yield* Deferred.make<void>()
      let seen = 0
      const acking = yield* start([deliveries.pipe(
        Stream.take(count),
        Stream.mapEffect((delivery) =>
          Effect.gen(function*() {
            if (++seen === count) yield* Deferred.succeed(received, undefined)
            yield* Deferred.await(released)
            return yield* delivery.ack
          }), { concurrency: "unbounded" }),
        Stream.runCollect
      )])
      yield* Deferred.await(received)
      yield* stall
      const publishing = yield* start(
        range(64).map(() => busy.publish({ routingKey: large, body: new Uint8Array(256 * KiB) }))
      )
      yield* Deferred.succeed(released, undefined)
      const asking = yield* start([consuming.queueDeclarePassive(small)])
      const ending = yield* start([closing.close])
      yield* go
      const [results] = yield* Fiber.join(acking)
      assert.deepStrictEqual(new Set(results), new Set(["Settled"]))
      yield* Fiber.join(asking)
      yield* Fiber.join(ending)
      yield* Fiber.join(publishing)
      for (const name of ["basic.ack", "queue.declare", "channel.close"]) {
        const sizes = yield* behind(link, (frame) => frame._tag === "Method" && frame.method._tag === name)
        assert.isAbove(sizes.behind, sizes.all / 2, name)
      }
    })))
})

/**
 * A broker that is short of memory or disk: publishes wait where they can be seen and interrupted, and nothing else does.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Option, Queue, Scope, Stream } from "effect"
import type * as AmqpChannel from "../../src/AmqpChannel.ts"
import type { AmqpConnection } from "../../src/AmqpConnection.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import type { ProxyLink } from "../harness/proxy.ts"
import { canControl, onVhost } from "../harness/shared.ts"
import { assertFailure, connect, drain, methodsOf, nextFrame, nextMethod, openOn, proxied } from "./support.ts"

/** A channel of this connection with confirms, its queue, and the states of the connection that follow. */
const publishing = Effect.fnUntraced(function*(connection: AmqpConnection) {
  const channel = yield* openOn(connection)
  const { queue } = yield* channel.queueDeclare({ exclusive: true })
  yield* channel.confirmSelect
  const states = yield* Stream.toQueue(connection.changes, { capacity: "unbounded" })
  assert.strictEqual((yield* Queue.take(states))._tag, "Open")
  return { channel, queue, states, publish: (body: string) => publish(channel, queue, body) }
})

/** Publishes until the broker has confirmed, in a fiber of its own. */
const publish = (channel: AmqpChannel.AmqpChannel, queue: string, body: string) =>
  Effect.forkChild(channel.publish({ routingKey: queue, body }), { startImmediately: true })

/**
 * Raises an alarm, and publishes the message that has the broker block the connection. The alarm takes a moment to reach
 * the connection's process: a message that comes before it is confirmed as ever, and another one has to follow.
 */
const block = Effect.fnUntraced(function*(
  { channel, publish, queue, states }: Effect.Success<ReturnType<typeof publishing>>
) {
  const { alarm } = yield* Broker.control
  yield* alarm("memory")
  for (;;) {
    const first = yield* publish("first")
    const blocked = yield* Effect.raceFirst(
      Effect.asSome(Queue.take(states)),
      Effect.as(Fiber.await(first), Option.none())
    )
    if (Option.isSome(blocked)) {
      assert.deepStrictEqual(blocked.value, { _tag: "Blocked", epoch: 1, reason: "low on memory" })
      return first
    }
    yield* channel.queuePurge(queue)
  }
})

/** How many messages the first channel has sent. */
const publishesOn = (link: ProxyLink) =>
  Effect.map(methodsOf(link, "up"), (names) => names.filter((name) => name === "1 basic.publish").length)

layer(onVhost, { excludeTestServices: true })("a blocked connection", (it) => {
  describe.runIf(canControl)("with control of the broker", () => {
    it.effect("BL01 says so with the reason, and that it is over; then what waited is confirmed", () =>
      noLeaks(Effect.gen(function*() {
        const connection = yield* connect()
        const { unalarm } = yield* Broker.control
        const publisher = yield* publishing(connection)
        const { channel, queue, states } = publisher
        const first = yield* block(publisher)
        const others = yield* Effect.forEach(["second", "third"], publisher.publish)
        assert.strictEqual((yield* connection.status)._tag, "Blocked")
        yield* unalarm("memory")
        assert.strictEqual((yield* Queue.take(states))._tag, "Open")
        assert.strictEqual((yield* connection.status)._tag, "Open")
        yield* Effect.forEach([first, ...others], Fiber.join)
        assert.deepStrictEqual(yield* drain(channel, queue), ["first", "second", "third"])
      })))

    it.effect("BL02 one that does not publish is none, under an alarm too; a new one can do all but publish", () =>
      noLeaks(Effect.gen(function*() {
        const { alarm, unalarm } = yield* Broker.control
        const old = yield* connect()
        const ready = yield* openOn(old)
        const { queue } = yield* ready.queueDeclare({ exclusive: true })
        yield* ready.publish({ routingKey: queue, body: "before" })
        yield* ready.queueDeclarePassive(queue) // it has arrived
        const states = yield* Stream.toQueue(old.changes, { capacity: "unbounded" })
        yield* alarm("memory")
        const { deliveries } = yield* ready.consume({ queue })
        const texts = yield* deliveries.pipe(
          Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery.text)),
          Stream.take(1),
          Stream.runCollect
        )
        assert.deepStrictEqual(texts, ["before"])
        assert.strictEqual(yield* ready.queuePurge(queue), 0)

        const fresh = yield* connect()
        const channel = yield* openOn(fresh)
        const declared = yield* channel.queueDeclare({ exclusive: true })
        assert.strictEqual((yield* channel.get({ queue: declared.queue }))._tag, "None")
        for (const connection of [old, fresh]) assert.strictEqual((yield* connection.status)._tag, "Open")
        yield* unalarm("memory")
        // It had no news in all that time.
        yield* old.close
        assert.deepStrictEqual((yield* Queue.collect(states)).map(({ _tag }) => _tag), ["Open", "Closed"])
      })))

    it.effect("BL07 hears once of several alarms, and is blocked until all are over", () =>
      noLeaks(Effect.gen(function*() {
        const connection = yield* connect()
        const { alarm, held, unalarm } = yield* Broker.control
        const publisher = yield* publishing(connection)
        const first = yield* block(publisher)
        yield* alarm("disk")
        yield* unalarm("memory")
        const { connections } = yield* held({})
        assert.deepStrictEqual(connections.map(({ state }) => state), ["blocked"])
        assert.strictEqual((yield* connection.status)._tag, "Blocked")
        yield* unalarm("disk")
        assert.strictEqual((yield* Queue.take(publisher.states))._tag, "Open")
        yield* Fiber.join(first)
      })))

    it.effect("BL08 never sends a publish that was interrupted while it waited", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* proxied()
        const { unalarm } = yield* Broker.control
        const publisher = yield* publishing(connection)
        const { channel, queue } = publisher
        const first = yield* block(publisher)
        const before = yield* publishesOn(link)
        const waiting = yield* Effect.forEach(["given up", "kept", "timed out"], (body) =>
          Effect.forkChild(
            channel.publish({ routingKey: queue, body }).pipe(
              Effect.timeoutOption(body === "timed out" ? "1 millis" : "1 minute")
            ),
            { startImmediately: true }
          ))
        const [givenUp, kept, timedOut] = waiting
        if (!givenUp || !kept || !timedOut) return assert.fail()
        yield* Fiber.interrupt(givenUp)
        const exit = yield* Fiber.await(givenUp)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.strictEqual((yield* Fiber.join(timedOut))._tag, "None")
        yield* unalarm("memory")
        yield* Fiber.join(first)
        assert.strictEqual((yield* Fiber.join(kept))._tag, "Some")
        // Those that were not sent took no number: the next one hears of itself.
        yield* channel.publish({ routingKey: queue, body: "after" })
        assert.deepStrictEqual(yield* drain(channel, queue), ["first", "kept", "after"])
        assert.strictEqual(yield* publishesOn(link), before + 2)
      })))

    it.effect("BL09 does not stop the consumer of another connection", () =>
      noLeaks(Effect.gen(function*() {
        const blocked = yield* connect()
        const consuming = yield* openOn(yield* connect())
        const { unalarm } = yield* Broker.control
        const { queue } = yield* consuming.queueDeclare({ exclusive: true })
        const bodies = Array.from({ length: 200 }, (_, i) => String(i))
        const publisher = yield* publishing(blocked)
        yield* Effect.forEach(bodies, (body) => publisher.channel.publish({ routingKey: queue, body }), {
          concurrency: "unbounded"
        })
        const first = yield* block(publisher)
        yield* consuming.qos({ prefetchCount: 5 })
        const { deliveries } = yield* consuming.consume({ queue })
        const texts = yield* deliveries.pipe(
          Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery.text)),
          Stream.take(bodies.length),
          Stream.runCollect
        )
        assert.deepStrictEqual(texts, bodies)
        assert.strictEqual((yield* blocked.status)._tag, "Blocked")
        yield* unalarm("memory")
        yield* Fiber.join(first)
      })))

    it.effect("sends everything but contents: settlements, requests and closes are on the wire at once", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* proxied()
        const { unalarm } = yield* Broker.control
        const publisher = yield* publishing(connection)
        const { channel, queue } = publisher
        yield* channel.publish({ routingKey: queue, body: "taken" })
        const got = yield* Effect.flatMap(channel.get({ queue }), Effect.fromOption)
        const other = yield* openOn(connection)
        const first = yield* block(publisher)
        const waiting = yield* publisher.publish("waiting")
        const before = (yield* methodsOf(link, "up")).length

        assert.strictEqual(yield* got.delivery.ack, "Settled")
        const asking = yield* Effect.forkChild(channel.queueDeclarePassive(queue), { startImmediately: true })
        const closing = yield* Effect.forkChild(other.close, { startImmediately: true })
        yield* nextMethod(link, "up", "channel.close")
        assert.deepStrictEqual((yield* methodsOf(link, "up")).slice(before), [
          "1 basic.ack",
          "1 queue.declare",
          "2 channel.close"
        ])
        yield* unalarm("memory")
        assert.strictEqual((yield* Fiber.join(asking)).queue, queue)
        yield* Effect.forEach([first, waiting, closing], (fiber) => Fiber.join<void, Error>(fiber))
        assert.deepStrictEqual(yield* drain(channel, queue), ["first", "waiting"])
      })))

    it.effect("F72 is not taken for dead: the broker's heartbeats go on, and ours", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* proxied({ heartbeat: "1 seconds" })
        const { unalarm } = yield* Broker.control
        const publisher = yield* publishing(connection)
        const first = yield* block(publisher)
        // More than the two intervals after which a silent peer is dead.
        for (const direction of ["up", "down"] as const) {
          let beats = 0
          while (beats < 5) if ((yield* nextFrame(link, direction))._tag === "Heartbeat") beats++
        }
        assert.strictEqual((yield* connection.status)._tag, "Blocked")
        yield* unalarm("memory")
        yield* Fiber.join(first)
      })))

    it.effect("F89 can be closed, within its bound; what waited was not sent, what was sent is unconfirmed", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* proxied({ closeTimeout: "200 millis" })
        const publisher = yield* publishing(connection)
        // The broker forgets even a closed socket only when the alarm is over: it is, before leaks are looked for.
        const first = yield* block(publisher)
        const before = yield* publishesOn(link)
        const waiting = yield* publisher.publish("waiting")
        yield* connection.close
        assertFailure(yield* Effect.flip(Fiber.join(first)), "AmqpPublishUnconfirmed")
        const error = yield* Effect.flip(Fiber.join(waiting))
        assertFailure(error, "AmqpChannelClosed")
        assert.nestedPropertyVal(error, "cause.reason._tag", "ConnectionClosed")
        assert.strictEqual((yield* Queue.take(publisher.states))._tag, "Closed")
        const names = yield* methodsOf(link, "up")
        assert.strictEqual(yield* publishesOn(link), before)
        assert.strictEqual(names.at(-1), "0 connection.close")
      })))

    it.effect("F89 holds the scope of a channel no longer than for its confirms and its close", () =>
      noLeaks(Effect.gen(function*() {
        const connection = yield* connect({ closeTimeout: "200 millis" })
        const { unalarm } = yield* Broker.control
        const scope = yield* Scope.make()
        const first = yield* block(yield* Scope.provide(publishing(connection), scope))
        yield* Scope.close(scope, Exit.void)
        assertFailure(yield* Effect.flip(Fiber.join(first)), "AmqpPublishUnconfirmed")
        yield* unalarm("memory")
        // The connection is as good as before.
        const { channel, queue } = yield* publishing(connection)
        yield* channel.publish({ routingKey: queue, body: "after" })
      })))

    it.effect("that is lost fails what waits, typed: it was not sent", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, proxy } = yield* proxied()
        const { unalarm } = yield* Broker.control
        const publisher = yield* publishing(connection)
        const first = yield* block(publisher)
        const waiting = yield* publisher.publish("waiting")
        yield* proxy.resetAll
        assertFailure(yield* Effect.flip(Fiber.join(first)), "AmqpPublishUnconfirmed")
        const error = yield* Effect.flip(Fiber.join(waiting))
        assertFailure(error, "AmqpChannelClosed")
        assert.nestedPropertyVal(error, "cause.reason._tag", "ConnectionLost")
        yield* unalarm("memory")
      })))
  })
})

/**
 * `basic.get` (scenarios GE01 to GE08): one message at a time, settled or not.
 */
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, Option } from "effect"
import { randomBytes } from "node:crypto"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpDelivery, AmqpUnacknowledged } from "../../src/AmqpDelivery.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, uniqueName } from "../harness/shared.ts"
import { assertFailure, connect, drain, failureOf, methodsOf, onConnection, openOn, proxied } from "./support.ts"

/** A queue of this channel with these messages. */
const queueWith = Effect.fnUntraced(function*(
  channel: AmqpChannel.AmqpChannel,
  ...bodies: ReadonlyArray<string | Uint8Array>
) {
  const { queue } = yield* channel.queueDeclare({ exclusive: true })
  yield* channel.confirmSelect
  yield* Effect.forEach(bodies, (body) => channel.publish({ routingKey: queue, body }))
  return queue
})

layer(onVhost, { excludeTestServices: true })("get", (it) => {
  it.effect("GE01 nothing from an empty queue; else the message, its number and how many are left", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = yield* queueWith(channel)
      assert.isTrue(Option.isNone(yield* channel.get({ queue })))
      assert.isTrue(Option.isNone(yield* channel.get({ queue, noAck: true })))
      yield* channel.queueBind({ queue, exchange: "amq.topic", routingKey: "a.*" })
      for (const body of ["one", "two", "three"]) {
        yield* channel.publish({ exchange: "amq.topic", routingKey: "a.b", body, properties: { type: body } })
      }
      const seen = []
      for (const noAck of [false, true, false]) {
        const { delivery, messageCount } = Option.getOrThrow(
          yield* noAck ? channel.get({ queue, noAck }) : channel.get({ queue })
        )
        const { deliveryTag, exchange, properties, redelivered, routingKey, text } = delivery
        assert.deepStrictEqual([exchange, routingKey, properties, redelivered], [
          "amq.topic",
          "a.b",
          { type: text },
          false
        ])
        assert.strictEqual(delivery instanceof AmqpDelivery, !noAck)
        assert.instanceOf(delivery, AmqpUnacknowledged)
        seen.push({ text, deliveryTag, messageCount })
      }
      assert.deepStrictEqual(seen, [
        { text: "one", deliveryTag: 1, messageCount: 2 },
        { text: "two", deliveryTag: 2, messageCount: 1 },
        { text: "three", deliveryTag: 3, messageCount: 0 }
      ])
      assert.isTrue(Option.isNone(yield* channel.get({ queue })))
      // What is unsettled when the channel ends comes again.
      yield* channel.close
      const other = yield* AmqpChannel.open
      const again = Option.getOrThrow(yield* other.get({ queue }))
      assert.deepStrictEqual([again.delivery.text, again.delivery.redelivered], ["one", true])
      assert.strictEqual(yield* again.delivery.ack, "Settled")
      const last = Option.getOrThrow(yield* other.get({ queue }))
      assert.strictEqual(last.delivery.text, "three")
      assert.strictEqual(yield* last.delivery.reject({ requeue: false }), "Settled")
      assert.isTrue(Option.isNone(yield* other.get({ queue })))
    })))

  it.effect("GE02 an empty body and one of many frames", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const large = randomBytes(1_000_000)
      const queue = yield* queueWith(channel, "", large, "")
      const bodies = yield* Effect.forEach([1, 2, 3], () => channel.get({ queue, noAck: true }))
      const seen = bodies.map((got) => Buffer.from(Option.getOrThrow(got).delivery.body))
      assert.deepStrictEqual(seen.map(({ length }) => length), [0, 1_000_000, 0])
      assert.isTrue(seen[1]?.equals(large))
    })))

  it.effect("GE03 a missing queue is AmqpNotFound", () =>
    onConnection(Effect.gen(function*() {
      const queue = uniqueName("missing")
      const error = yield* failureOf((channel) => channel.get({ queue }))
      if (error._tag !== "AmqpNotFound") return assert.fail(error.message)
      assert.deepStrictEqual([error.operation, error.entity, error.replyCode], ["basic.get", queue, 404])
    })))

  // A message that was taken with `noAck` has no `ack`: it does not compile. By its number nothing is sent:
  it.effect("GE04 a message that counts as settled cannot be settled", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const queue = yield* queueWith(channel, "settled", "second")
      const { delivery } = Option.getOrThrow(yield* channel.get({ queue, noAck: true }))
      assert.notProperty(delivery, "ack")
      const { deliveryTag } = delivery
      const sent = yield* methodsOf(link, "up")
      assert.strictEqual(yield* channel.ack({ deliveryTag }), "AlreadySettled")
      assert.strictEqual(yield* channel.ack({ deliveryTag, multiple: true }), "AlreadySettled")
      assert.strictEqual(yield* channel.nack({ deliveryTag }), "AlreadySettled")
      assert.strictEqual(yield* channel.reject({ deliveryTag }), "AlreadySettled")
      assert.deepStrictEqual(yield* methodsOf(link, "up"), sent)
      assert.deepStrictEqual(yield* drain(channel, queue), ["second"])
    })))

  it.effect("GE04 settling twice is a no-op that says so", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const queue = yield* queueWith(channel, "once")
      const { delivery } = Option.getOrThrow(yield* channel.get({ queue }))
      assert.strictEqual(yield* delivery.ack, "Settled")
      assert.strictEqual(yield* delivery.ack, "AlreadySettled")
      assert.strictEqual(yield* delivery.nack(), "AlreadySettled")
      assert.deepStrictEqual(yield* drain(channel, queue), [])
      const settled = (yield* methodsOf(link, "up")).filter((method) => /basic\.(ack|nack|reject)$/.test(method))
      assert.deepStrictEqual(settled, [`${channel.id} basic.ack`])
      yield* channel.close
      assertFailure(yield* Effect.flip(delivery.ack), "AmqpStaleDelivery")
    })))

  it.effect("GE07 50 at once on one channel are 50 messages", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const bodies = Array.from({ length: 50 }, (_, i) => `${i}`)
      const queue = yield* queueWith(channel, ...bodies)
      const got = yield* Effect.forEach(bodies, () => channel.get({ queue }), { concurrency: "unbounded" })
      // Requests and replies keep their order.
      const deliveries = got.map((one) => Option.getOrThrow(one).delivery)
      assert.deepStrictEqual(deliveries.map(({ text }) => text), bodies)
      assert.deepStrictEqual(deliveries.map(({ deliveryTag }) => deliveryTag), bodies.map((_, i) => i + 1))
      const last = deliveries.at(-1)
      if (last === undefined) return assert.fail("no delivery")
      assert.strictEqual(yield* channel.ack({ deliveryTag: last.deliveryTag, multiple: true }), "Settled")
      assert.strictEqual(yield* last.ack, "AlreadySettled")
      yield* channel.recover
      assert.isTrue(Option.isNone(yield* channel.get({ queue })))
    })))

  it.effect("GE07 more gets than messages: the rest have none", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = yield* queueWith(channel, "a", "b")
      const got = yield* Effect.forEach(
        [1, 2, 3, 4],
        () => channel.get({ queue, noAck: true }),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(got.map(Option.map(({ delivery }) => delivery.text)).map(Option.getOrNull), [
        "a",
        "b",
        null,
        null
      ])
    })))

  it.effect("GE08 on a closed connection and on a closed channel: AmqpChannelClosed", () =>
    onConnection(Effect.gen(function*() {
      const connection = yield* connect()
      const channel = yield* openOn(connection)
      const queue = yield* queueWith(channel, "held")
      const { delivery } = Option.getOrThrow(yield* channel.get({ queue }))
      yield* connection.close
      const error = yield* Effect.flip(channel.get({ queue }))
      if (error._tag !== "AmqpChannelClosed") return assert.fail(error.message)
      assert.strictEqual(error.operation, "basic.get")
      assert.strictEqual(error.cause?._tag === "AmqpConnectionError" && error.cause.reason._tag, "ConnectionClosed")
      assertFailure(yield* Effect.flip(delivery.ack), "AmqpStaleDelivery")

      const other = yield* AmqpChannel.open
      yield* other.close
      const closed = yield* Effect.flip(other.get({ queue }))
      assert.isTrue(closed._tag === "AmqpChannelClosed" && closed.cause === undefined)
    })))

  it.effect("an interrupted get gives its message back, and the next reply goes to the next request", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = yield* queueWith(channel, "back", "next")
      const [first, second] = yield* Effect.all([
        Effect.forkChild(channel.get({ queue }), { startImmediately: true }),
        Effect.forkChild(channel.get({ queue }), { startImmediately: true })
      ])
      yield* Fiber.interrupt(first)
      const next = Option.getOrThrow(yield* Fiber.join(second))
      assert.strictEqual(next.delivery.text, "next")
      const back = Option.getOrThrow(yield* channel.get({ queue }))
      assert.deepStrictEqual([back.delivery.text, back.delivery.redelivered], ["back", true])
      yield* next.delivery.ack
      yield* back.delivery.ack
      assert.isTrue(Option.isNone(yield* channel.get({ queue })))
    })))

  it.effect("a get that a refusal of another operation ends is AmqpChannelClosed with that cause", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = yield* queueWith(channel, "kept")
      const missing = uniqueName("missing")
      const [refused, other] = yield* Effect.all([
        Effect.flip(channel.queueDeclarePassive(missing)),
        Effect.flip(channel.get({ queue, noAck: true }))
      ], { concurrency: "unbounded" })
      assertFailure(refused, "AmqpNotFound", missing)
      if (other._tag !== "AmqpChannelClosed") return assert.fail(other.message)
      assert.strictEqual<unknown>(other.cause, refused)
      assert.deepStrictEqual(yield* drain(yield* AmqpChannel.open, queue), ["kept"])
    })))
})

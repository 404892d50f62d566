/**
 * Publishing (scenarios PB01 to PB23): what goes over the wire, what arrives, and what is refused.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Fiber, Layer, Option, Schedule } from "effect"
import { randomBytes } from "node:crypto"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import type { PropertiesInput, Publish } from "../../src/AmqpMessage.ts"
import type * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { canControl, onVhost, ownBroker, uniqueName, Vhost } from "../harness/shared.ts"
import {
  assertFailure,
  connect,
  drain,
  failureOf,
  framesOf,
  methodsOf,
  onConnection,
  openOn,
  proxied
} from "./support.ts"

/** Publishes with a confirm and takes the message out again. */
const roundTrip = Effect.fnUntraced(function*(
  channel: AmqpChannel.AmqpChannel,
  queue: string,
  message: Omit<Publish, "routingKey" | "exchange">
) {
  yield* channel.publish({ routingKey: queue, mandatory: true, ...message })
  return Option.getOrThrow(yield* channel.get({ queue, noAck: true })).delivery
})

/** What the broker relays of these properties. */
const relayed = Effect.fnUntraced(function*(properties: PropertiesInput) {
  const channel = yield* AmqpChannel.open
  yield* channel.confirmSelect
  const { queue } = yield* channel.queueDeclare({ exclusive: true })
  // Mandatory publishes use `clusterId` for themselves.
  return yield* roundTrip(channel, queue, { body: "", properties, mandatory: false })
})

/** A publish with these properties, confirmed. */
const confirmed = (properties: PropertiesInput) => (channel: AmqpChannel.AmqpChannel) =>
  Effect.andThen(channel.confirmSelect, channel.publish({ routingKey: "nobody", body: "", properties }))

/** The sizes of the body frames of each content, with what its header announces. */
const contentsOf = (frames: ReadonlyArray<AmqpProtocol.Frame>) => {
  const contents: Array<{ readonly announced: number; readonly bodies: Array<number> }> = []
  for (const frame of frames) {
    if (frame._tag === "Header") contents.push({ announced: frame.bodySize, bodies: [] })
    if (frame._tag === "Body") contents.at(-1)?.bodies.push(frame.payload.length)
  }
  return contents
}

const split = (size: number, max: number): ReadonlyArray<number> =>
  size > max ? [max, ...split(size - max, max)] : size > 0 ? [size] : []

layer(onVhost, { excludeTestServices: true })("publishing", (it) => {
  it.effect.each([4096, 131_072])("PB01 bodies around the frame size %d", (frameMax) =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied({ frameMax })
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.confirmSelect
      const max = frameMax - 8
      const sizes = [0, 1, max - 1, max, max + 1, 2 * max, 2 * max + 1, 1_000_000]
      for (const size of sizes) {
        const body = randomBytes(size)
        const delivery = yield* roundTrip(channel, queue, { body })
        assert.isTrue(body.equals(delivery.body), `${size} bytes`)
      }
      const expected = sizes.map((size) => ({ announced: size, bodies: split(size, max) }))
      assert.deepStrictEqual(contentsOf(yield* framesOf(link, "up")), expected)
    })))

  it.effect("PB01 a body of 64 MB", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.confirmSelect
      const body = randomBytes(64 * 1024 * 1024)
      const delivery = yield* roundTrip(channel, queue, { body })
      assert.isTrue(body.equals(delivery.body))
    })), 60_000)

  it.effect("PB01 a string is sent as UTF-8", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.confirmSelect
      const delivery = yield* roundTrip(channel, queue, { body: "zwölf ✓ 𝄞" })
      assert.strictEqual(delivery.text, "zwölf ✓ 𝄞")
      assert.deepStrictEqual(Buffer.from(delivery.body), Buffer.from("zwölf ✓ 𝄞"))
    })))

  const properties: Record<string, PropertiesInput> = {
    "all of them": {
      contentType: "text/plain",
      contentEncoding: "identity",
      headers: { a: 1 },
      deliveryMode: 2,
      priority: 9,
      correlationId: "correlation",
      replyTo: "reply",
      expiration: "60000",
      messageId: "message",
      timestamp: 1_700_000_000,
      type: "type",
      userId: "guest",
      appId: "app",
      clusterId: "cluster"
    },
    "the lowest and emptiest": {
      contentType: "",
      contentEncoding: "",
      headers: {},
      deliveryMode: 1,
      priority: 0,
      correlationId: "",
      replyTo: "",
      messageId: "",
      timestamp: 0,
      type: "",
      appId: "",
      clusterId: ""
    },
    "the highest and longest": {
      priority: 255,
      correlationId: "✓".repeat(85),
      timestamp: 2n ** 63n
    },
    "the last second": { timestamp: 2n ** 64n - 1n },
    "none at all": {}
  }
  it.effect.each(Object.entries(properties))(
    "PB03 properties arrive as they were: %s",
    ([, properties]) =>
      onConnection(Effect.gen(function*() {
        assert.deepStrictEqual<unknown>((yield* relayed(properties)).properties, properties)
      }))
  )

  it.effect("PB04 headers of every type arrive with their types", () =>
    onConnection(Effect.gen(function*() {
      const { array, bool, bytes, decimal, double, float, int16, int32, int64, int8, longString } = AmqpTable
      const { table, timestamp, uint16, uint32, uint8, void: nothing } = AmqpTable
      const headers = table([
        ["bool", bool(true)],
        ["not", bool(false)],
        ["int8", int8(-128)],
        ["uint8", uint8(255)],
        ["int16", int16(-32_768)],
        ["uint16", uint16(65_535)],
        ["int32", int32(-(2 ** 31))],
        ["uint32", uint32(2 ** 32 - 1)],
        ["int64", int64(-(2n ** 63n))],
        ["int64 L", int64(2n ** 63n - 1n, "L")],
        ["float", float(0.1)],
        ["double", double(Number.MAX_VALUE)],
        ["decimal", decimal({ scale: 255, value: -(2 ** 31) })],
        ["text", longString("✓")],
        ["empty", longString("")],
        ["bytes", bytes(Uint8Array.of(0, 255))],
        ["timestamp", timestamp(2n ** 64n - 1n)],
        ["array", array([int8(1), array([]), table([]), longString("x")])],
        ["table", table([["deep", table([["deeper", nothing]])]])],
        ["void", nothing]
      ])
      const delivery = yield* relayed({ headers })
      assert.deepStrictEqual(delivery.headersTagged, headers)
    })))

  it.effect("PB04 plain headers have one type each, and arrive as plain values", () =>
    onConnection(Effect.gen(function*() {
      const headers = {
        bool: true,
        int: 1,
        long: 2 ** 40,
        bigint: 2n ** 60n,
        double: 0.5,
        text: "✓",
        bytes: Uint8Array.of(1),
        date: new Date(1_700_000_000_000),
        array: [1, "two", null],
        table: { a: { b: false } },
        void: null
      }
      const delivery = yield* relayed({ headers })
      assert.deepStrictEqual(delivery.properties.headers, headers)
      assert.deepStrictEqual(delivery.headersTagged?.value.map(([, { _tag }]) => _tag), [
        "Bool",
        "Int32",
        "Int64",
        "Int64",
        "Double",
        "LongString",
        "Bytes",
        "Timestamp",
        "Array",
        "Table",
        "Void"
      ])
    })))

  it.effect("PB09 a header key has up to 255 bytes", () =>
    onConnection(Effect.gen(function*() {
      const longest = `${"✓".repeat(84)}abc`
      const delivery = yield* relayed({ headers: { [longest]: 1, "": 2 } })
      assert.deepStrictEqual(delivery.properties.headers, { [longest]: 1, "": 2 })
      const error = yield* failureOf(confirmed({ headers: { [`${longest}d`]: 1 } }))
      assertFailure(error, "AmqpEncodeError", "headers", "255")
    })))

  it.effect("what cannot be encoded is AmqpEncodeError, nothing is sent, and the next publish is sound", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied({ frameMax: 4096 })
      const channel = yield* openOn(connection)
      yield* channel.confirmSelect
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const before = yield* link.seen("up")
      const bad: ReadonlyArray<readonly [PropertiesInput, string]> = [
        [{ headers: { list: [{ n: Number.NaN }] } }, "headers.list[0].n"],
        [{ headers: { n: Number.POSITIVE_INFINITY } }, "headers.n"],
        [{ headers: { n: 2n ** 64n } }, "headers.n"],
        [{ priority: 256 }, "priority"],
        [{ deliveryMode: -1 }, "deliveryMode"],
        [{ timestamp: 2n ** 64n }, "timestamp"],
        [{ messageId: "x".repeat(256) }, "messageId"],
        // The header is one frame: it cannot be split.
        [{ headers: { large: "x".repeat(4096) } }, "properties"]
      ]
      for (const [properties, path] of bad) {
        const message = { routingKey: queue, body: "never sent", properties }
        assertFailure(yield* Effect.flip(channel.publish(message)), "AmqpEncodeError", path)
        assertFailure(yield* Effect.flip(channel.publish({ ...message, mandatory: true })), "AmqpEncodeError", path)
      }
      const reserved = { routingKey: queue, body: "never sent", properties: { clusterId: "mine" }, mandatory: true }
      assertFailure(yield* Effect.flip(channel.publish(reserved)), "AmqpEncodeError", "clusterId")
      assert.deepStrictEqual(yield* link.seen("up"), before)
      yield* channel.publish({ routingKey: queue, body: "sent", mandatory: true })
      assert.deepStrictEqual(yield* drain(channel, queue), ["sent"])
      // Without confirms nobody could be told of a return.
      const plain = yield* openOn(connection)
      const unheard = yield* Effect.flip(plain.publish({ routingKey: queue, body: "never sent", mandatory: true }))
      assertFailure(unheard, "AmqpEncodeError", "mandatory")
    })))

  // The type of `expiration` is a string: a number does not compile.
  it.effect("PB12 an expiration is a whole number of milliseconds as text; others are AmqpPreconditionFailed", () =>
    onConnection(Effect.gen(function*() {
      for (const expiration of ["-1", "abc", "1.5", ""]) {
        const error = yield* failureOf(confirmed({ expiration }))
        assertFailure(error, "AmqpPreconditionFailed", "expiration")
      }
      assert.strictEqual((yield* relayed({ expiration: "60000" })).properties.expiration, "60000")
    })))

  it.effect("PB13 the user id of somebody else is AmqpPreconditionFailed", () =>
    onConnection(Effect.gen(function*() {
      const error = yield* failureOf(confirmed({ userId: "root" }))
      if (error._tag !== "AmqpPreconditionFailed") return assert.fail(error.message)
      assert.deepStrictEqual([error.operation, error.replyCode], ["basic.publish", 406])
      assert.include(error.replyText, "root")
      // Nobody waits for a publish without confirms: the channel tells.
      const channel = yield* AmqpChannel.open
      yield* channel.publish({ body: "", properties: { userId: "root" } })
      const closed = yield* channel.closed
      assert.strictEqual(closed.cause?._tag, "AmqpPreconditionFailed")
      const late = yield* Effect.flip(channel.publish({ body: "" }))
      assertFailure(late, "AmqpChannelClosed", "root")
    })))

  // `immediate` is not offered, the type of a message refuses it. From JavaScript it changes nothing:
  it.effect("PB15 immediate is never sent", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      yield* channel.confirmSelect
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const message = { routingKey: queue, body: "later", immediate: true }
      yield* channel.publish(message)
      const publishes = (yield* framesOf(link, "up")).flatMap((frame) =>
        frame._tag === "Method" && frame.method._tag === "basic.publish" ? [frame.method.immediate] : []
      )
      assert.deepStrictEqual(publishes, [false])
    })))

  it.effect(
    "PB19 a request on channel 2 is answered while 64 MB go out on channel 1",
    () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* proxied()
        const one = yield* openOn(connection)
        const two = yield* openOn(connection)
        const { queue } = yield* one.queueDeclare({ exclusive: true })
        yield* one.confirmSelect
        const events: Array<string> = []
        const body = randomBytes(64 * 1024 * 1024)
        const publishing = yield* one.publish({ routingKey: queue, body, mandatory: true }).pipe(
          Effect.tap(() => Effect.sync(() => events.push("published"))),
          Effect.forkChild({ startImmediately: true })
        )
        const declared = yield* two.queueDeclare({ exclusive: true })
        events.push("declared")
        assert.isBelow((yield* link.seen("up")).length, body.length)
        yield* two.queueDelete(declared)
        events.push("deleted")
        assert.isBelow((yield* link.seen("up")).length, body.length)
        yield* Fiber.join(publishing)
        assert.deepStrictEqual(events, ["declared", "deleted", "published"])
        const methods = yield* methodsOf(link, "up")
        assert.deepStrictEqual(methods.slice(methods.indexOf("1 basic.publish")), [
          "1 basic.publish",
          "2 queue.declare",
          "2 queue.delete"
        ])
        const { delivery } = Option.getOrThrow(yield* one.get({ queue, noAck: true }))
        assert.isTrue(body.equals(delivery.body))
      })),
    60_000
  )

  it.effect("PB19 contents of two channels mix on the wire and arrive whole", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channels = [yield* openOn(connection), yield* openOn(connection)] as const
      const bodies = yield* Effect.forEach(channels, (channel) =>
        Effect.gen(function*() {
          const { queue } = yield* channel.queueDeclare({ exclusive: true })
          yield* channel.confirmSelect
          return { channel, queue, body: randomBytes(4 * 1024 * 1024) }
        }))
      yield* Effect.forEach(
        bodies,
        ({ body, channel, queue }) => channel.publish({ routingKey: queue, body }),
        { concurrency: "unbounded" }
      )
      for (const { body, channel, queue } of bodies) {
        const { delivery } = Option.getOrThrow(yield* channel.get({ queue, noAck: true }))
        assert.isTrue(body.equals(delivery.body))
      }
      const frames = yield* framesOf(link, "up")
      const order = frames.flatMap((frame) => frame._tag === "Body" ? [frame.channel] : [])
      const [first, last] = [order.indexOf(2), order.lastIndexOf(1)]
      assert.isBelow(first, last)
    })))

  it.effect(
    "a refusal in the middle of a large content: the content is completed, and only its channel ends",
    () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* proxied()
        const one = yield* openOn(connection)
        const two = yield* openOn(connection)
        const { queue } = yield* two.queueDeclare({ exclusive: true })
        yield* one.confirmSelect
        const body = randomBytes(16 * 1024 * 1024)
        const missing = uniqueName("missing")
        const outcomes = yield* Effect.all([
          Effect.flip(one.publish({ exchange: missing, body: "small" })),
          Effect.flip(one.publish({ routingKey: queue, body })),
          Effect.flip(one.publish({ routingKey: queue, body }))
        ], { concurrency: "unbounded" })
        assert.deepStrictEqual(outcomes.map(({ _tag }) => _tag), [
          "AmqpNotFound",
          "AmqpPublishUnconfirmed",
          // It waited for the one before it: nothing of it was written.
          "AmqpChannelClosed"
        ])
        assert.strictEqual((yield* two.queueDeclarePassive(queue)).messageCount, 0)
        yield* connection.close
        const frames = yield* framesOf(link, "up")
        const contents = contentsOf(frames)
        assert.deepStrictEqual(contents.map(({ announced }) => announced), [5, body.length])
        for (const { announced, bodies } of contents) {
          assert.strictEqual(bodies.reduce((sum, size) => sum + size, 0), announced)
        }
        // Before the last body frame close-ok would have ended the connection (505).
        const closeOk = frames.findIndex((frame) => frame._tag === "Method" && frame.method._tag === "channel.close-ok")
        assert.isAbove(closeOk, frames.findLastIndex((frame) => frame._tag === "Body"))
        assert.strictEqual((yield* methodsOf(link, "down")).at(-1), "0 connection.close-ok")
      })),
    60_000
  )

  it.effect("PB21 CC and BCC route too; BCC is taken off, CC stays", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      yield* channel.confirmSelect
      const queues = yield* Effect.forEach(["to", "cc", "bcc"], () => channel.queueDeclare({ exclusive: true }))
      const [to, cc, bcc] = queues.map(({ queue }) => queue)
      if (to === undefined || cc === undefined || bcc === undefined) return assert.fail("three queues")
      yield* channel.publish({ routingKey: to, body: "to all", properties: { headers: { CC: [cc], BCC: [bcc] } } })
      for (const queue of [to, cc, bcc]) {
        const { delivery } = Option.getOrThrow(yield* channel.get({ queue, noAck: true }))
        assert.deepStrictEqual(delivery.properties.headers, { CC: [cc] })
        assert.strictEqual(delivery.routingKey, to)
      }
    })))

  it.effect("PB22 CC and BCC that are no arrays are AmqpPreconditionFailed", () =>
    onConnection(Effect.gen(function*() {
      for (const name of ["CC", "BCC"]) {
        const error = yield* failureOf(confirmed({ headers: { [name]: "queue" } }))
        assertFailure(error, "AmqpPreconditionFailed", `"${name}"`)
      }
    })))

  it.effect("a missing exchange ends a channel without confirms; what was published to it before is there", () =>
    onConnection(Effect.gen(function*() {
      const reader = yield* AmqpChannel.open
      const { queue } = yield* reader.queueDeclare({ exclusive: true })
      const channel = yield* AmqpChannel.open
      yield* channel.publish({ routingKey: queue, body: "before" })
      yield* channel.publish({ exchange: uniqueName("missing"), body: "lost" })
      yield* channel.publish({ routingKey: queue, body: "after" })
      const closed = yield* channel.closed
      assert.strictEqual(closed.cause?._tag, "AmqpNotFound")
      assert.deepStrictEqual(yield* drain(reader, queue), ["before"])
    })))
})

const ownVhost = Layer.provideMerge(Vhost.layer, ownBroker({ maxMessageSize: 1024 * 1024 }))

describe.runIf(canControl)("on a broker of one's own", () => {
  layer(ownVhost, { excludeTestServices: true, timeout: "60 seconds" })((it) => {
    it.effect("PB16 a message of the largest size is taken, one byte more is AmqpPreconditionFailed", () =>
      onConnection(Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        const { queue } = yield* channel.queueDeclare({ exclusive: true })
        yield* channel.confirmSelect
        const largest = randomBytes(1024 * 1024)
        yield* channel.publish({ routingKey: queue, body: largest, mandatory: true })
        const error = yield* Effect.flip(
          channel.publish({ routingKey: queue, body: Buffer.concat([largest, Buffer.of(0)]), mandatory: true })
        )
        assertFailure(error, "AmqpPreconditionFailed", "message size 1048577")
        const reader = yield* AmqpChannel.open
        const { delivery } = Option.getOrThrow(yield* reader.get({ queue, noAck: true }))
        assert.isTrue(largest.equals(delivery.body))
        assert.isTrue(Option.isNone(yield* reader.get({ queue })))
      })))

    it.effect("of many messages, large and small, each that is too large fails, and nothing else", () =>
      onConnection(Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        const { queue } = yield* channel.queueDeclare({ exclusive: true })
        const publisher = yield* AmqpPublisher.make()
        const sizes = Array.from(
          { length: 60 },
          (_, i) => i % 20 === 7 ? 1024 * 1024 + 1 + (i === 47 ? 1 : 0) : i * 1000
        )
        const messages = sizes.map((size) => ({ routingKey: queue, body: new Uint8Array(size) }))
        const { failures } = yield* Effect.flip(
          publisher.publishAll(messages, { resend: Schedule.spaced("10 millis") })
        )
        assert.deepStrictEqual(failures.map(({ index }) => index), [7, 27, 47])
        for (const { error } of failures) {
          const cause = error._tag === "AmqpResendFailed" ? error.cause : error
          assertFailure(cause, "AmqpPreconditionFailed", "message size")
        }
        const reader = yield* AmqpChannel.open
        const stored = new Set<number>()
        for (let got = yield* reader.get({ queue, noAck: true }); Option.isSome(got);) {
          stored.add(got.value.delivery.body.length)
          got = yield* reader.get({ queue, noAck: true })
        }
        assert.deepStrictEqual([...stored].sort((a, b) => a - b), sizes.filter((size) => size <= 1024 * 1024))
      })))

    it.effect(
      "PB23 a restart spares persistent messages in durable queues, and nothing else",
      () =>
        noLeaks(Effect.gen(function*() {
          const control = yield* Broker.control
          const [durable, transient] = [uniqueName("durable"), uniqueName("transient")]
          yield* Effect.scoped(Effect.gen(function*() {
            const channel = yield* openOn(yield* connect())
            yield* channel.queueDeclare({ queue: durable, durable: true })
            yield* channel.queueDeclare({ queue: transient })
            yield* channel.confirmSelect
            for (const routingKey of [durable, transient]) {
              yield* channel.publish({ routingKey, body: "persistent", properties: { deliveryMode: 2 } })
              yield* channel.publish({ routingKey, body: "transient", properties: { deliveryMode: 1 } })
              yield* channel.publish({ routingKey, body: "not said" })
            }
          }))
          yield* Effect.scoped(control.stopApp)
          const connection = yield* connect()
          const channel = yield* openOn(connection)
          const { delivery } = Option.getOrThrow(yield* channel.get({ queue: durable, noAck: true }))
          assert.deepStrictEqual([delivery.text, delivery.properties], ["persistent", { deliveryMode: 2 }])
          assert.deepStrictEqual(yield* drain(channel, durable), [])
          assertFailure(yield* Effect.flip(channel.queueDeclarePassive(transient)), "AmqpNotFound")
        })),
      60_000
    )
  })
})

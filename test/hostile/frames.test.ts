/**
 * Peers that send malformed, misplaced and lying frames on an open connection: each ends it with one typed error and
 * tells the peer why, or is ignored where the protocol says so. Nothing in flight hangs.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Option, Stream } from "effect"
import type { AmqpChannel } from "../../src/AmqpChannel.ts"
import type { AmqpConnectionError } from "../../src/AmqpError.ts"
import { frameMethod, type Method } from "../../src/internal/codec/spec.ts"
import {
  bodyFrames,
  bytes,
  channelClose,
  concat,
  connectionClose,
  connectionStart,
  connectionTune,
  content,
  declareOk,
  deliver,
  frame,
  getOk,
  headerFrame,
  heartbeat,
  line,
  pattern,
  rawFrame,
  returned
} from "../engine/peer.ts"
import {
  assertAlive,
  both,
  channelOn,
  confirmingOn,
  failureOf,
  hostile,
  type Opened,
  opened,
  reasonOf,
  start,
  tagged
} from "./peer.ts"

/** The largest frame that was agreed. */
const frameMax = 8192

const u64 = (value: bigint): ReadonlyArray<number> => {
  const view = new DataView(new ArrayBuffer(8))
  view.setBigUint64(0, value)
  return Array.from(new Uint8Array(view.buffer))
}

/** A content header that announces a body of this size. */
const announcing = (size: bigint, classId = 60, weight = 0): Uint8Array =>
  rawFrame(2, 1, [0, classId, 0, weight, ...u64(size), 0, 0])

/** The head of a frame, without its payload. */
const headOf = (type: number, channel: number, size: number): Uint8Array => {
  const head = new Uint8Array(7)
  const view = new DataView(head.buffer)
  view.setUint8(0, type)
  view.setUint16(1, channel)
  view.setUint32(3, size)
  return head
}

/** A method of these numbers and fields. */
const rawMethod = (channel: number, classId: number, methodId: number, ...fields: ReadonlyArray<number>): Uint8Array =>
  rawFrame(frameMethod, channel, [classId >>> 8, classId & 0xff, methodId >>> 8, methodId & 0xff, ...fields])

/** Everything that can be waiting on a connection, on channel 1. */
const busy = (opened: Opened) =>
  Effect.gen(function*() {
    const { connection, server } = opened
    const channel = yield* confirmingOn(opened)
    const [consumer] = yield* both(channel.consume({ queue: "q", consumerTag: "c" }), server.consume(1))
    const waiting = yield* start(failureOf(channel.queueDeclare({ queue: "q" })))
    const publishing = yield* start(failureOf(channel.publish({ routingKey: "q", body: "x" })))
    const consuming = yield* start(failureOf(Stream.runDrain(consumer.deliveries)))
    yield* server.expect(1, "queue.declare")
    yield* server.publish(1)
    return { channel, connection, waiting, publishing, consuming }
  })

/** What became of all that was waiting: one and the same connection error, and an unknown outcome for the publish. */
const assertEnded = (error: AmqpConnectionError, ended: Effect.Success<ReturnType<typeof busy>>) =>
  Effect.gen(function*() {
    assert.strictEqual(yield* Fiber.join(ended.waiting), error)
    assert.strictEqual(yield* Fiber.join(ended.consuming), error)
    assert.strictEqual(tagged(yield* Fiber.join(ended.publishing), "AmqpPublishUnconfirmed").cause, error)
    assert.strictEqual((yield* ended.channel.closed).cause, error)
    const later = yield* failureOf(ended.channel.queueDeclare({ queue: "later" }))
    assert.strictEqual(tagged(later, "AmqpChannelClosed").cause, error)
    const status = yield* ended.connection.status
    assert.strictEqual(status._tag === "Closed" && status.error, error)
  })

/** What the client makes of these bytes on a busy connection, and what it writes before it goes. */
const judged = (bad: Uint8Array) =>
  Effect.gen(function*() {
    const all = yield* opened({}, { frameMax })
    const ended = yield* busy(all)
    yield* all.server.write(bad)
    const error = yield* ended.connection.closed
    yield* assertEnded(error, ended)
    return { error, rest: yield* all.server.rest }
  })

const violation = (name: string, replyCode: number, bad: Uint8Array): void => {
  it.live(`${name}: ProtocolViolation ${replyCode}, and the peer is told`, () =>
    hostile(Effect.gen(function*() {
      const { error, rest } = yield* judged(bad)
      const reason = reasonOf(error, "ProtocolViolation")
      assert.strictEqual(reason.replyCode, replyCode, reason.detail)
      assert.deepStrictEqual(rest.map(line), ["0 connection.close"])
      const [close] = rest
      assert.strictEqual(
        close?._tag === "Method" && close.method._tag === "connection.close" && close.method.replyCode,
        replyCode
      )
    })))
}

describe("ML01 a frame that does not end with 0xCE", () => {
  violation("a method", 501, rawFrame(1, 1, [0, 60, 0, 80, ...u64(1n), 0], 0xcf))
  violation("a method that ends with 0", 501, rawFrame(1, 1, [0, 60, 0, 80, ...u64(1n), 0], 0))
  violation("a header", 501, concat([frame(1, deliver("c", 1)), rawFrame(2, 1, [0, 60, 0, 0, ...u64(1n), 0, 0], 0xcd)]))
  violation("a body", 501, concat([frame(1, deliver("c", 1)), headerFrame(1, 3), rawFrame(3, 1, [1, 2, 3], 0xff)]))
  violation("a heartbeat", 501, rawFrame(8, 0, [], 0xc0))
  violation("a frame of a channel that was never open", 501, rawFrame(1, 9, [0, 20, 0, 11], 1))
})

describe("ML02 frame types", () => {
  for (const type of [0, 4, 5, 6, 7, 9, 255]) violation(`type ${type}`, 501, rawFrame(type, 1, [1, 2, 3]))
  violation("a heartbeat on a channel", 501, rawFrame(8, 1, []))
  violation("a heartbeat with a payload", 501, rawFrame(8, 0, [1]))
})

describe("frames that are too large are refused at their head", () => {
  violation(
    "a body frame of frame_max − 7 bytes",
    501,
    concat([
      frame(1, deliver("c", 1)),
      headerFrame(1, 100_000),
      headOf(3, 1, frameMax - 7)
    ])
  )
  violation(
    "a body frame of 4 GiB",
    501,
    concat([
      frame(1, deliver("c", 1)),
      headerFrame(1, 100_000),
      headOf(3, 1, 0xffff_ffff)
    ])
  )
  violation("a method of 2 GiB", 501, headOf(1, 1, 0x8000_0000))
  violation("a method of 1 MiB and a byte", 501, headOf(1, 1, 1024 * 1024 + 1))
  violation("a header of 4 GiB", 501, headOf(2, 1, 0xffff_ffff))
  violation("a heartbeat of 4 GiB", 501, headOf(8, 0, 0xffff_ffff))
})

describe("ML03 methods that do not exist", () => {
  for (const channel of [0, 1]) {
    violation(`class 99 on channel ${channel}`, 503, rawMethod(channel, 99, 10))
    violation(`method 60.99 on channel ${channel}`, 503, rawMethod(channel, 60, 99, 1, 2, 3))
    violation(`method 0.0 on channel ${channel}`, 503, rawMethod(channel, 0, 0))
    violation(`method 65535.65535 on channel ${channel}`, 503, rawMethod(channel, 65535, 65535))
  }
  violation("access.request-ok", 503, rawMethod(1, 30, 11, 0, 0))
})

describe("methods whose fields are not there", () => {
  violation("no method at all", 502, rawFrame(1, 1, []))
  violation("half a method id", 502, rawFrame(1, 1, [0, 60, 0]))
  violation("a declare-ok that ends early", 502, rawMethod(1, 50, 11, 1, 113, 0, 0))
  violation("a declare-ok with a byte too many", 502, rawMethod(1, 50, 11, 1, 113, 0, 0, 0, 0, 0, 0, 0, 0, 0))
  violation("a short string beyond the frame", 502, rawMethod(1, 50, 11, 255, 113))
  violation("a delivery that ends early", 502, rawMethod(1, 60, 60, 1, 99, 0, 0, 0))
  violation("a delivery with a byte too many", 502, rawMethod(1, 60, 60, 1, 99, ...u64(1n), 0, 0, 0, 0))
  violation("a delivery whose tag is no safe integer", 502, rawMethod(1, 60, 60, 1, 99, ...u64(2n ** 53n), 0, 0, 0))
  violation("an ack whose tag is no safe integer", 502, rawMethod(1, 60, 80, ...u64(2n ** 64n - 1n), 0))
  violation("a close without its text", 502, rawMethod(1, 20, 40, 1, 0))
})

describe("content out of order", () => {
  violation("content without its method: a header", 505, headerFrame(1, 3))
  violation("content without its method: a body", 505, rawFrame(3, 1, [1, 2, 3]))
  violation("content without its method: an empty body", 505, rawFrame(3, 1, []))
  violation("a body without its header", 505, concat([frame(1, deliver("c", 1)), rawFrame(3, 1, [1, 2, 3])]))
  violation("a delivery in place of a header", 505, concat([frame(1, deliver("c", 1)), frame(1, deliver("c", 2))]))
  violation("another method in place of a header", 505, concat([frame(1, deliver("c", 1)), frame(1, declareOk("q"))]))
  violation(
    "a delivery in place of a body",
    505,
    concat([
      frame(1, deliver("c", 1)),
      headerFrame(1, 3),
      frame(1, deliver("c", 2))
    ])
  )
  violation(
    "an ack in the middle of a body",
    505,
    concat([
      frame(1, deliver("c", 1)),
      headerFrame(1, 3),
      rawFrame(3, 1, [1]),
      rawMethod(1, 60, 80, ...u64(1n), 0)
    ])
  )
  violation("two headers", 505, concat([frame(1, deliver("c", 1)), headerFrame(1, 3), headerFrame(1, 3)]))
  violation(
    "a header after a content without body",
    505,
    concat([
      frame(1, deliver("c", 1)),
      headerFrame(1, 0),
      headerFrame(1, 0)
    ])
  )
  violation(
    "a body after a content without body",
    505,
    concat([
      frame(1, deliver("c", 1)),
      headerFrame(1, 0),
      rawFrame(3, 1, [])
    ])
  )
  violation(
    "a body longer than announced",
    501,
    concat([
      frame(1, deliver("c", 1)),
      headerFrame(1, 3),
      rawFrame(3, 1, [1, 2, 3, 4])
    ])
  )
  violation(
    "a body longer than announced, in its second frame",
    501,
    concat([
      frame(1, deliver("c", 1)),
      headerFrame(1, 3),
      rawFrame(3, 1, [1, 2]),
      rawFrame(3, 1, [3, 4])
    ])
  )
  violation(
    "a returned message without its header",
    505,
    concat([
      frame(1, returned("", "q")),
      rawFrame(3, 1, [1])
    ])
  )
})

describe("ML08 content headers that are none", () => {
  const begun = frame(1, deliver("c", 1))
  violation("class 61", 501, concat([begun, announcing(3n, 61)]))
  violation("class 0", 501, concat([begun, announcing(3n, 0)]))
  violation("weight 1", 501, concat([begun, announcing(3n, 60, 1)]))
  violation("an empty header", 502, concat([begun, rawFrame(2, 1, [])]))
  violation("a header that ends in its size", 502, concat([begun, rawFrame(2, 1, [0, 60, 0, 0, 0, 0])]))
})

describe("a server that lies about sizes: nothing is allocated for it", () => {
  const begun = frame(1, deliver("c", 1))
  violation("a body of 128 MiB and a byte", 501, concat([begun, announcing(128n * 1024n * 1024n + 1n)]))
  violation("a body of 2^40 bytes", 501, concat([begun, announcing(2n ** 40n)]))
  violation("a body of 2^53 − 1 bytes", 501, concat([begun, announcing(2n ** 53n - 1n)]))
  violation("a body of 2^53 bytes", 502, concat([begun, announcing(2n ** 53n)]))
  violation("a body of 2^63 bytes", 502, concat([begun, announcing(2n ** 63n)]))
  violation("a body of 2^64 − 1 bytes", 502, concat([begun, announcing(2n ** 64n - 1n)]))

  it.live("a body beyond what any buffer can hold is a typed error, whatever maxMessageSize says", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened({ maxMessageSize: Number.MAX_SAFE_INTEGER })
      const ended = yield* busy(all)
      yield* all.server.write(begun, announcing(2n ** 53n - 1n), rawFrame(3, 1, [1]))
      const error = yield* ended.connection.closed
      assert.strictEqual(reasonOf(error, "ProtocolViolation").replyCode, 506)
      yield* assertEnded(error, ended)
    })))
})

describe("ML12 methods that only clients send", () => {
  const methods: ReadonlyArray<readonly [channel: number, method: Method]> = [
    [0, {
      _tag: "connection.start-ok",
      clientProperties: {},
      mechanism: "PLAIN",
      response: bytes(""),
      locale: "en_US"
    }],
    [0, { _tag: "connection.tune-ok", channelMax: 1, frameMax: 4096, heartbeat: 1 }],
    [0, { _tag: "connection.secure-ok", response: bytes("") }],
    [0, { _tag: "connection.open", virtualHost: "/" }],
    [0, { _tag: "connection.update-secret", newSecret: bytes("x"), reason: "" }],
    [1, { _tag: "channel.open" }],
    [1, {
      _tag: "exchange.declare",
      exchange: "e",
      type: "direct",
      passive: false,
      durable: false,
      autoDelete: false,
      internal: false,
      noWait: false,
      arguments: {}
    }],
    [1, { _tag: "queue.purge", queue: "q", noWait: false }],
    [1, { _tag: "basic.qos", prefetchSize: 0, prefetchCount: 1, global: false }],
    [1, {
      _tag: "basic.consume",
      queue: "q",
      consumerTag: "c",
      noLocal: false,
      noAck: false,
      exclusive: false,
      noWait: false,
      arguments: {}
    }],
    [1, { _tag: "basic.publish", exchange: "", routingKey: "q", mandatory: false, immediate: false }],
    [1, { _tag: "basic.get", queue: "q", noAck: false }],
    [1, { _tag: "basic.reject", deliveryTag: 1, requeue: true }],
    [1, { _tag: "basic.recover", requeue: true }],
    [1, { _tag: "confirm.select", noWait: false }],
    [1, { _tag: "tx.commit" }]
  ]
  for (const [channel, method] of methods) violation(method._tag, 503, frame(channel, method))
})

describe("ML13 the handshake again", () => {
  violation("connection.start", 503, frame(0, connectionStart()))
  violation("connection.secure", 503, frame(0, { _tag: "connection.secure", challenge: bytes("?") }))
  violation("connection.tune", 503, frame(0, connectionTune()))
  violation("connection.open-ok", 503, frame(0, { _tag: "connection.open-ok" }))
  violation("the protocol header", 501, bytes("AMQP\0\0\x09\x01"))
})

describe("ML14 the wrong channel", () => {
  violation("a header on channel 0", 504, headerFrame(0, 3))
  violation("a body on channel 0", 504, rawFrame(3, 0, [1]))
  violation("an empty body on channel 0", 504, rawFrame(3, 0, []))
  violation("a delivery on channel 0", 504, frame(0, deliver("c", 1)))
  violation("a reply on channel 0", 504, frame(0, declareOk("q")))
  violation("channel.close on channel 0", 504, frame(0, channelClose(404, "no")))
  violation("connection.close on channel 1", 504, frame(1, connectionClose(320, "no")))
  violation("connection.blocked on channel 1", 504, frame(1, { _tag: "connection.blocked", reason: "no" }))
  for (const channel of [2, 2047, 2048, 65535]) {
    violation(`a method on channel ${channel}, which was never open`, 504, frame(channel, declareOk("q")))
    violation(`a delivery on channel ${channel}`, 504, content(channel, deliver("c", 1), "x"))
    violation(`a header on channel ${channel}`, 504, headerFrame(channel, 1))
    violation(`a body on channel ${channel}`, 504, rawFrame(3, channel, [1]))
    violation(`channel.close on channel ${channel}`, 504, frame(channel, channelClose(404, "no")))
  }
})

describe("replies that nobody asked for", () => {
  violation("CH18 consume-ok for queue.declare", 503, frame(1, { _tag: "basic.consume-ok", consumerTag: "c" }))
  violation("CH18 a message for queue.declare", 503, content(1, getOk(1), "x"))
  violation("ML15 channel.close-ok", 503, frame(1, { _tag: "channel.close-ok" }))
  violation("ML15 connection.close-ok", 503, frame(0, { _tag: "connection.close-ok" }))

  const unsolicited: ReadonlyArray<Method> = [
    declareOk("q"),
    { _tag: "channel.open-ok" },
    { _tag: "channel.flow-ok", active: true },
    { _tag: "basic.consume-ok", consumerTag: "c" },
    { _tag: "basic.cancel-ok", consumerTag: "c" },
    { _tag: "basic.get-empty" },
    { _tag: "basic.recover-ok" },
    { _tag: "confirm.select-ok" },
    { _tag: "tx.commit-ok" },
    { _tag: "tx.rollback-ok" }
  ]
  for (const method of unsolicited) {
    it.live(`ML15 ${method._tag} while nothing is pending`, () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const channel = yield* channelOn(all)
        yield* all.server.send(1, method)
        const error = yield* all.connection.closed
        assert.strictEqual(reasonOf(error, "ProtocolViolation").replyCode, 503)
        assert.strictEqual((yield* channel.closed).cause, error)
        assert.deepStrictEqual(yield* all.server.restLines, ["0 connection.close"])
      })))
  }

  it.live("ML25 update-secret-ok changes nothing", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      yield* all.server.send(0, { _tag: "connection.update-secret-ok" }, { _tag: "connection.update-secret-ok" })
      yield* assertAlive(all, channel)
    })))
})

describe("ML20 what the client says of a violation", () => {
  it.live("a text of more than 255 bytes is cut between two characters", () =>
    hostile(Effect.gen(function*() {
      // The path of a bad field is as long as the peer's keys: 85 characters of three bytes in each.
      const key = bytes("✓".repeat(85))
      const nested = (levels: number): ReadonlyArray<number> => {
        const value = levels === 0 ? [0x3f] : [0x46, ...table(levels - 1)]
        return [key.length, ...key, ...value]
      }
      const table = (levels: number): ReadonlyArray<number> => {
        const fields = nested(levels)
        return [0, 0, fields.length >>> 8, fields.length & 0xff, ...fields]
      }
      const { error, rest } = yield* judged(rawMethod(0, 10, 10, 0, 9, ...table(3), 0, 0, 0, 0, 0, 0, 0, 0))
      assert.isAbove(bytes(reasonOf(error, "ProtocolViolation").detail).length, 255)
      const [close] = rest
      if (close?._tag !== "Method" || close.method._tag !== "connection.close") return assert.fail("no close")
      assert.isAtMost(bytes(close.method.replyText).length, 255)
      assert.isAbove(bytes(close.method.replyText).length, 250)
      assert.notInclude(close.method.replyText, "\ufffd")
    })))
})

// -----------------------------------------------------------------------------
// what must be accepted
// -----------------------------------------------------------------------------

/** The bodies of the next deliveries of a consumer, as text. */
const take = (consumer: Effect.Success<ReturnType<AmqpChannel["consume"]>>, count: number) =>
  Effect.map(
    Stream.runCollect(Stream.take(consumer.deliveries, count)),
    (deliveries) => deliveries.map(({ body }) => Buffer.from(body).toString("latin1"))
  )

describe("frames that are unusual and legal", () => {
  it.live("ML11 empty body frames within a content", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q" }), all.server.consume(1))
      yield* all.server.write(
        frame(1, deliver(consumer.consumerTag, 1)),
        headerFrame(1, 4),
        rawFrame(3, 1, []),
        rawFrame(3, 1, [0x61, 0x62]),
        rawFrame(3, 1, []),
        rawFrame(3, 1, []),
        rawFrame(3, 1, [0x63, 0x64]),
        content(1, deliver(consumer.consumerTag, 2), "next")
      )
      assert.deepStrictEqual(yield* take(consumer, 2), ["abcd", "next"])
    })))

  it.live("ML21 heartbeats anywhere in a content", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q" }), all.server.consume(1))
      yield* all.server.write(
        heartbeat,
        frame(1, deliver(consumer.consumerTag, 1)),
        heartbeat,
        headerFrame(1, 4),
        heartbeat,
        heartbeat,
        rawFrame(3, 1, [0x61, 0x62]),
        heartbeat,
        rawFrame(3, 1, [0x63, 0x64]),
        heartbeat,
        content(1, deliver(consumer.consumerTag, 2), "next")
      )
      assert.deepStrictEqual(yield* take(consumer, 2), ["abcd", "next"])
    })))

  it.live("ML22 frames of channel 2, and of the connection, inside a content of channel 1", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { connection, server } = all
      const one = yield* channelOn(all)
      const two = yield* channelOn(all)
      const [first] = yield* both(one.consume({ queue: "q" }), server.consume(1))
      const [second] = yield* both(two.consume({ queue: "q" }), server.consume(2))
      const declared = yield* start(two.queueDeclare({ queue: "q" }))
      yield* server.expect(2, "queue.declare")
      yield* server.write(
        frame(1, deliver(first.consumerTag, 1)),
        frame(2, deliver(second.consumerTag, 1)),
        headerFrame(2, 2),
        headerFrame(1, 4),
        rawFrame(3, 2, [0x78]),
        rawFrame(3, 1, [0x61]),
        frame(0, { _tag: "connection.blocked", reason: "disk" }),
        rawFrame(3, 2, [0x79]),
        frame(2, declareOk("q")),
        rawFrame(3, 1, [0x62, 0x63]),
        frame(0, { _tag: "connection.unblocked" }),
        content(2, deliver(second.consumerTag, 2), "z"),
        rawFrame(3, 1, [0x64])
      )
      assert.deepStrictEqual(yield* take(first, 1), ["abcd"])
      assert.deepStrictEqual(yield* take(second, 2), ["xy", "z"])
      yield* Fiber.join(declared)
      assert.strictEqual((yield* connection.status)._tag, "Open")
    })))

  it.live("a method of exactly 1 MiB, which is more than frame_max", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened({}, { frameMax })
      const channel = yield* channelOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q" }), all.server.consume(1))
      const fill = "x".repeat(1024 * 1024 - 100)
      yield* all.server.write(
        frame(1, deliver(consumer.consumerTag, 1)),
        headerFrame(1, 1, { headers: { fill } }),
        rawFrame(3, 1, [1])
      )
      const [delivery] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 1))
      assert.strictEqual(delivery?.properties.headers?.["fill"], fill)
    })))

  it.live(
    "ML18 the same frames in one chunk, byte by byte and in random chunks are the same events",
    () =>
      hostile(Effect.gen(function*() {
        const bodies = [pattern(0), pattern(1), pattern(7, 2), pattern(500, 3), pattern(4088, 4), pattern(4089, 5)]
        const script = (first: string, second: string): Uint8Array =>
          concat([
            ...bodies.map((body, index) =>
              concat([
                heartbeat,
                frame(1, deliver(first, index + 1)),
                frame(2, deliver(second, index + 1, { redelivered: true, exchange: "e", routingKey: `k${index}` })),
                headerFrame(2, body.length, { messageId: `m${index}`, headers: { index } }),
                headerFrame(1, body.length),
                bodyFrames(1, body),
                bodyFrames(2, body, 100)
              ])
            ),
            frame(1, declareOk("one")),
            frame(1, { _tag: "basic.ack", deliveryTag: 2, multiple: true }),
            frame(1, { _tag: "basic.nack", deliveryTag: 3, multiple: false, requeue: false }),
            content(2, {
              ...getOk(7),
              _tag: "basic.get-ok",
              deliveryTag: 7,
              redelivered: false,
              exchange: "",
              routingKey: "q",
              messageCount: 3
            }, "got"),
            frame(2, { _tag: "basic.cancel", consumerTag: second, noWait: true }),
            frame(1, channelClose(404, "NOT_FOUND", 60, 40))
          ])

        const run = (chunksOf: (bytes: Uint8Array) => ReadonlyArray<Uint8Array>) =>
          Effect.gen(function*() {
            const all = yield* opened()
            const one = yield* confirmingOn(all)
            const two = yield* channelOn(all)
            const [first] = yield* both(one.consume({ queue: "q" }), all.server.consume(1))
            const [second] = yield* both(two.consume({ queue: "q" }), all.server.consume(2))
            const events: Array<string> = []
            const log = <A, E>(name: string, effect: Effect.Effect<A, E>) =>
              start(Effect.match(effect, {
                onFailure: (error) => void events.push(`${name}: ${String(error)}`),
                onSuccess: (value) => void events.push(`${name}: ${JSON.stringify(value)}`)
              }))
            const fibers = [
              yield* log("declare", one.queueDeclare({ queue: "one" })),
              yield* log("publish 1", one.publish({ body: "1" })),
              yield* log("publish 2", one.publish({ body: "2" })),
              yield* log("publish 3", one.publish({ body: "3" })),
              yield* log("publish 4", one.publish({ body: "4" })),
              yield* log(
                "get",
                Effect.map(
                  two.get({ queue: "q" }),
                  Option.map(({ delivery, messageCount }) => [delivery.text, messageCount])
                )
              )
            ]
            const deliveries: ReadonlyArray<Array<string>> = [[], []]
            for (const [index, consumer] of [first, second].entries()) {
              fibers.push(
                yield* log(
                  `consumer ${index}`,
                  Stream.runForEach(
                    consumer.deliveries,
                    ({ body, deliveryTag, exchange, properties, redelivered, routingKey }) =>
                      Effect.sync(() =>
                        void deliveries[index]?.push(JSON.stringify([
                          deliveryTag,
                          exchange,
                          routingKey,
                          redelivered,
                          properties,
                          Buffer.from(body).toString("hex")
                        ]))
                      )
                  )
                )
              )
            }
            for (const chunk of chunksOf(script(first.consumerTag, second.consumerTag))) {
              yield* all.server.write(chunk)
              yield* Effect.yieldNow
            }
            for (const fiber of fibers) yield* Fiber.join(fiber)
            return { events: events.toSorted(), deliveries }
          }).pipe(Effect.scoped)

        const whole = yield* run((bytes) => [bytes])
        assert.strictEqual(whole.deliveries[0]?.length, bodies.length)
        assert.strictEqual(whole.deliveries[1]?.length, bodies.length)
        assert.strictEqual(whole.events.length, 8)
        const cut = (size: () => number) => (bytes: Uint8Array) => {
          const chunks: Array<Uint8Array> = []
          for (let at = 0; at < bytes.length;) {
            const length = size()
            chunks.push(bytes.subarray(at, at + length))
            at += length
          }
          return chunks
        }
        let seed = 1
        const random = () => (seed = (seed * 48271) % 0x7fff_ffff)
        for (const size of [() => 1 + random() % 3000, () => 1 + random() % 64, () => 1]) {
          assert.deepStrictEqual(yield* run(cut(size)), whole)
        }
      })),
    30_000
  )
})

describe("ML23 a broker that closes and keeps sending", () => {
  it.live("what follows connection.close is ignored, every pending operation fails with it", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const ended = yield* busy(all)
      const others = yield* Effect.forEach([1, 2, 3], (n) => start(failureOf(ended.channel.queuePurge(`q${n}`))))
      for (const _ of others) yield* all.server.expect(1, "queue.purge")
      yield* all.server.write(
        frame(0, connectionClose(541, "INTERNAL_ERROR")),
        content(1, deliver("c", 1), "late"),
        frame(1, declareOk("q")),
        frame(0, connectionClose(320, "again")),
        rawFrame(9, 9, [1], 9),
        bytes("garbage without end")
      )
      const error = yield* ended.connection.closed
      assert.strictEqual(reasonOf(error, "InternalError").replyText, "INTERNAL_ERROR")
      yield* assertEnded(error, ended)
      for (const other of others) assert.strictEqual(yield* Fiber.join(other), error)
      assert.deepStrictEqual(yield* all.server.restLines, ["0 connection.close-ok"])
    })))

  it.live("both sides close at once: one close, one close-ok, and the connection is closed by its own scope", () =>
    hostile(Effect.gen(function*() {
      const { connection, server } = yield* opened()
      yield* both(
        connection.close,
        Effect.gen(function*() {
          yield* server.expect(0, "connection.close")
          yield* server.send(0, connectionClose(320, "SHUTDOWN"), { _tag: "connection.close-ok" })
          assert.deepStrictEqual(yield* server.restLines, ["0 connection.close-ok"])
        })
      )
      reasonOf(yield* connection.closed, "ConnectionClosed")
    })))

  it.live("garbage in place of close-ok: the close is over at once", () =>
    hostile(Effect.gen(function*() {
      const { connection, server } = yield* opened()
      yield* both(
        connection.close,
        Effect.andThen(server.expect(0, "connection.close"), server.write(rawFrame(9, 9, [1], 9)))
      )
      assert.strictEqual((yield* connection.status)._tag, "Closed")
      assert.deepStrictEqual(yield* server.restLines, [])
    })))
})

/**
 * Peers that close, cancel and reuse at the worst moment: a soft error stays on its channel, late frames hit nobody, one
 * close-ok is written and nothing after it, and each operation has one outcome.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Option, Result, Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import type { BasicProperties } from "../../src/internal/codec/spec.ts"
import {
  bytes,
  channelClose,
  concat,
  connectionClose,
  content,
  declareOk,
  deliver,
  frame,
  getOk,
  headerFrame,
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
  openOn,
  reasonOf,
  start,
  tagged
} from "./peer.ts"

const mebi = 1024 * 1024

/** Runs in a scope that is closed with the result of the effect. */
const inScope = <A, E, R>(effect: Effect.Effect<A, E, R>, scope: Scope.Closeable) => Scope.provide(effect, scope)

describe("law 5: after channel.close one close-ok, and nothing else on that channel", () => {
  it.live("with small publishes in flight", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* confirmingOn(all)
      const other = yield* channelOn(all)
      const publishes = yield* Effect.forEach(
        Array.from({ length: 200 }, (_, n) => n),
        (n) => start(failureOf(channel.publish({ exchange: n % 2 === 0 ? "gone" : "here", body: pattern(500, n) })))
      )
      yield* all.server.send(
        1,
        channelClose(404, "NOT_FOUND - no exchange 'gone' in vhost '/'", 60, 40),
        // RabbitMQ repeats itself until it is answered.
        channelClose(404, "NOT_FOUND - no exchange 'gone' in vhost '/'", 60, 40)
      )
      for (const [n, fiber] of publishes.entries()) {
        const error = yield* Fiber.join(fiber)
        if (n % 2 === 0) assert.strictEqual(tagged(error, "AmqpNotFound").entity, "gone")
        else assert.strictEqual(tagged(error, "AmqpPublishUnconfirmed").cause?._tag, "AmqpNotFound")
      }
      // Whatever is tried on it now writes nothing.
      yield* Effect.all([
        failureOf(channel.publish({ body: "late" })),
        failureOf(channel.queueDeclare({ queue: "late" })),
        failureOf(channel.ack({ deliveryTag: 1 })),
        channel.close
      ])
      yield* start(other.queueDeclare({ queue: "alive" }))
      const lines: Array<string> = []
      while (lines.at(-1) !== "2 queue.declare") lines.push(line(yield* all.server.next))
      const closed = lines.indexOf("1 channel.close-ok")
      assert.isAtLeast(closed, 0)
      assert.deepStrictEqual(lines.slice(closed), ["1 channel.close-ok", "2 queue.declare"])
      yield* all.server.send(2, declareOk("alive"))
      yield* assertAlive(all, other)
    })))

  it.live(
    "with large bodies in flight: the one that is partly out is completed, the next is dropped",
    () =>
      hostile(Effect.gen(function*() {
        // Large frames: the test reads fewer of them.
        const all = yield* opened({}, { frameMax: mebi })
        const { server } = all
        const channel = yield* confirmingOn(all)
        const other = yield* confirmingOn(all)
        const bodies = [pattern(24 * mebi, 1), pattern(3 * mebi, 2), pattern(100, 3)]
        const publishes = yield* Effect.forEach(
          bodies,
          (body) => start(failureOf(channel.publish({ exchange: "e", body })))
        )
        const survivor = yield* start(other.publish({ routingKey: "other", body: pattern(2 * mebi, 4) }))
        yield* server.expect(1, "basic.publish")
        const header = yield* server.next
        assert.strictEqual(line(header), `1 header ${24 * mebi}`)
        yield* server.link.pause
        yield* server.send(1, channelClose(404, "NOT_FOUND - no exchange 'e' in vhost '/'", 60, 40))
        for (const fiber of publishes) {
          const error = yield* Fiber.join(fiber)
          assert.include(["AmqpNotFound", "AmqpPublishUnconfirmed", "AmqpChannelClosed"], error._tag)
        }
        yield* channel.close
        yield* server.link.resume
        // The rest of the first body, then close-ok; the other channel in between.
        const received: Array<Uint8Array> = []
        const lines: Array<string> = []
        const others: Array<Uint8Array> = []
        while (lines.length === 0 || others.reduce((size, part) => size + part.length, 0) < 2 * mebi) {
          const sent = yield* server.next
          if (sent._tag === "Body" && sent.channel === 1) received.push(sent.body)
          else if (sent._tag === "Body") others.push(sent.body)
          else if (sent.channel === 1) lines.push(line(sent))
        }
        assert.deepStrictEqual(lines, ["1 channel.close-ok"])
        assert.isTrue(Buffer.from(concat(received)).equals(bodies[0] ?? bytes("")))
        assert.isTrue(Buffer.from(concat(others)).equals(pattern(2 * mebi, 4)))
        yield* server.send(2, { _tag: "basic.ack", deliveryTag: 1, multiple: false })
        yield* Fiber.join(survivor)
        yield* assertAlive(all, other)
      })),
    20_000
  )

  it.live(
    "the number is opened again while the old content is still going out: channel.open comes after close-ok",
    () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened({}, { frameMax: mebi })
        const { server } = all
        const channel = yield* confirmingOn(all, 1)
        const publish = yield* start(failureOf(channel.publish({ exchange: "e", body: pattern(24 * mebi) })))
        yield* server.expect(1, "basic.publish")
        yield* server.next
        yield* server.link.pause
        yield* server.send(1, channelClose(404, "NOT_FOUND - no exchange 'e' in vhost '/'", 60, 40))
        tagged(yield* Fiber.join(publish), "AmqpNotFound")
        const reopening = yield* start(openOn(all.connection, 1))
        yield* server.link.resume
        const lines: Array<string> = []
        let size = 0
        while (lines.at(-1) !== "1 channel.open") {
          const sent = yield* server.next
          if (sent._tag === "Body") size += sent.body.length
          else lines.push(line(sent))
        }
        assert.strictEqual(size, 24 * mebi)
        assert.deepStrictEqual(lines, ["1 channel.close-ok", "1 channel.open"])
        yield* server.send(1, { _tag: "channel.open-ok" })
        yield* assertAlive(all, yield* Fiber.join(reopening))
      })),
    20_000
  )

  it.live("finalizers are no-ops: consumers, the channel's scope, in-flight requests", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { connection, server } = all
      const other = yield* channelOn(all)
      const scope = yield* Scope.make()
      const [channel] = yield* both(
        inScope(openOn(connection, 7), scope),
        server.answer(7, "channel.open", { _tag: "channel.open-ok" })
      )
      const [consumer] = yield* both(inScope(channel.consume({ queue: "q" }), scope), server.consume(7))
      yield* server.write(content(7, deliver(consumer.consumerTag, 1), "x"))
      const [delivery] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 1))
      const pending = yield* start(failureOf(channel.queuePurge("q")))
      yield* server.expect(7, "queue.purge")
      yield* server.send(7, channelClose(406, "PRECONDITION_FAILED - timeout", 0, 0))
      assert.strictEqual(tagged(yield* Fiber.join(pending), "AmqpChannelClosed").cause?._tag, "AmqpPreconditionFailed")
      if (delivery === undefined) return assert.fail("no delivery")
      assert.strictEqual(tagged(yield* failureOf(delivery.ack), "AmqpStaleDelivery").deliveryTag, 1)
      yield* consumer.cancel.pipe(Effect.ignore)
      const [elapsed] = yield* Effect.timed(Scope.close(scope, Exit.void))
      assert.isBelow(Duration.toMillis(elapsed), 500)
      yield* server.expect(7, "channel.close-ok")
      yield* assertAlive(all, other)
    })))

  it.live("both sides close at once, the broker repeats itself: exactly one close-ok", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { server } = all
      const channel = yield* channelOn(all)
      const other = yield* channelOn(all)
      yield* both(
        channel.close,
        Effect.gen(function*() {
          yield* server.expect(1, "channel.close")
          yield* server.send(1, channelClose(406, "late"), channelClose(406, "late"))
          yield* server.expect(1, "channel.close-ok")
          yield* server.send(1, channelClose(406, "late"))
          yield* server.send(1, channelClose(406, "late"), { _tag: "channel.close-ok" }, channelClose(406, "late"))
        })
      )
      yield* assertAlive(all, other)
    })))

  it.live("the other channels do not notice", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { server } = all
      const one = yield* channelOn(all)
      const two = yield* confirmingOn(all)
      const [consumer] = yield* both(two.consume({ queue: "q" }), server.consume(2))
      const waiting = yield* start(two.queueDeclare({ queue: "w" }))
      const publishing = yield* start(two.publish({ body: "x" }))
      const failing = yield* start(failureOf(one.queueDeclarePassive("missing")))
      yield* server.expect(2, "queue.declare")
      yield* server.publish(2)
      yield* server.expect(1, "queue.declare")
      yield* server.write(
        frame(1, channelClose(404, "NOT_FOUND - no queue 'missing'", 50, 10)),
        frame(2, declareOk("w")),
        frame(2, { _tag: "basic.ack", deliveryTag: 1, multiple: false }),
        content(2, deliver(consumer.consumerTag, 1), "x")
      )
      assert.strictEqual(tagged(yield* Fiber.join(failing), "AmqpNotFound").entity, "missing")
      yield* Fiber.join(waiting)
      yield* Fiber.join(publishing)
      const [delivery] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 1))
      assert.strictEqual(delivery && (yield* delivery.ack), "Settled")
      yield* server.expect(1, "channel.close-ok")
      yield* server.expect(2, "basic.ack")
    })))
})

describe("frames for channels that are gone", () => {
  const late = (channel: number, tag: string): Uint8Array =>
    concat([
      content(channel, deliver(tag, 2), "late"),
      content(channel, returned("", "q"), "late"),
      frame(channel, { _tag: "basic.ack", deliveryTag: 9, multiple: true }),
      frame(channel, { _tag: "basic.cancel", consumerTag: tag, noWait: true }),
      frame(channel, declareOk("late")),
      headerFrame(channel, 3),
      rawFrame(3, channel, [1, 2, 3]),
      rawFrame(3, channel, [])
    ])

  it.live("a channel that the broker closed: everything that is late is dropped", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { server } = all
      const other = yield* channelOn(all)
      const channel = yield* channelOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q" }), server.consume(2))
      yield* server.write(
        content(2, deliver(consumer.consumerTag, 1), "in time"),
        frame(2, channelClose(404, "NOT_FOUND", 50, 10)),
        late(2, consumer.consumerTag)
      )
      yield* server.expect(2, "channel.close-ok")
      yield* server.write(late(2, consumer.consumerTag), frame(2, channelClose(404, "again")))
      const seen: Array<string> = []
      const error = yield* failureOf(
        Stream.runForEach(consumer.deliveries, ({ text }) => Effect.sync(() => void seen.push(text)))
      )
      assert.strictEqual(tagged(error, "AmqpChannelClosed").cause?._tag, "AmqpNotFound")
      assert.deepStrictEqual(seen, ["in time"])
      yield* assertAlive(all, other)
    })))

  it.live("a channel that the client has closed, before and after close-ok", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { connection, server } = all
      const other = yield* channelOn(all)
      const scope = yield* Scope.make()
      const [channel] = yield* both(
        inScope(openOn(connection, 2), scope),
        server.answer(2, "channel.open", { _tag: "channel.open-ok" })
      )
      yield* both(
        channel.close,
        Effect.gen(function*() {
          yield* server.expect(2, "channel.close")
          yield* server.write(late(2, "c"), frame(2, { _tag: "channel.close-ok" }), late(2, "c"))
        })
      )
      yield* assertAlive(all, other)
    })))

  const halves: ReadonlyArray<readonly [name: string, before: Uint8Array, after: Uint8Array]> = [
    ["between two contents", bytes(""), content(1, deliver("old", 5), "late")],
    ["after a method", frame(1, deliver("old", 5)), concat([headerFrame(1, 4), rawFrame(3, 1, [1, 2, 3, 4])])],
    ["after a header", concat([frame(1, deliver("old", 5)), headerFrame(1, 4)]), rawFrame(3, 1, [1, 2, 3, 4])],
    [
      "in a body",
      concat([frame(1, deliver("old", 5)), headerFrame(1, 4), rawFrame(3, 1, [1, 2])]),
      rawFrame(3, 1, [3, 4])
    ]
  ]
  for (const [name, before, after] of halves) {
    it.live(`the number is opened again ${name}: late deliveries before and after open-ok hit nobody`, () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const { connection, server } = all
        const channel = yield* channelOn(all, 1)
        yield* both(channel.consume({ queue: "q", consumerTag: "old" }), server.consume(1))
        yield* server.write(
          content(1, deliver("old", 1), "late"),
          frame(1, channelClose(406, "PRECONDITION_FAILED", 60, 80)),
          content(1, deliver("old", 2), "late"),
          before
        )
        yield* server.expect(1, "channel.close-ok")
        const reopening = yield* start(openOn(connection, 1))
        yield* server.expect(1, "channel.open")
        yield* server.write(after, content(1, deliver("old", 3), "late"), frame(1, { _tag: "channel.open-ok" }))
        const again = yield* Fiber.join(reopening)
        yield* server.write(content(1, deliver("old", 4), "late"), content(1, deliver("old", 5), ""))
        const [consumer] = yield* both(again.consume({ queue: "q" }), server.consume(1))
        assert.notStrictEqual(consumer.consumerTag, "old")
        yield* server.write(
          content(1, deliver("old", 6), "late"),
          content(1, deliver(consumer.consumerTag, 1), "new"),
          content(1, deliver("old", 7), "late")
        )
        const [delivery] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 1))
        assert.strictEqual(delivery?.text, "new")
        // The late ones are not this channel's to settle.
        assert.strictEqual(yield* again.ack({ deliveryTag: 0, multiple: true }), "Settled")
        assert.strictEqual((yield* server.expect(1, "basic.ack")).deliveryTag, 1)
        yield* assertAlive(all, again)
      })))
  }

  it.live("CH22 a number is not used again soon after the broker closed its channel", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened({}, { channelMax: 10 })
      const { connection, server } = all
      const ids: Array<number> = []
      for (let round = 0; round < 25; round++) {
        const scope = yield* Scope.make()
        const channel = yield* start(inScope(openOn(connection), scope))
        const open = yield* server.next
        assert.include(line(open), "channel.open")
        const id = open.channel
        ids.push(id)
        yield* server.send(id, { _tag: "channel.open-ok" })
        yield* Fiber.join(channel)
        yield* server.send(id, channelClose(406, "PRECONDITION_FAILED"))
        yield* server.expect(id, "channel.close-ok")
        yield* Scope.close(scope, Exit.void)
      }
      assert.deepStrictEqual(ids, Array.from({ length: 25 }, (_, n) => n % 10 + 1))
    })))

  it.live("closes that cross, of which the broker answers ours late or never: the numbers come back", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened({}, { channelMax: 2 })
      const { connection, server } = all
      const refused = channelClose(404, "NOT_FOUND - no exchange 'gone' in vhost '/'", 60, 40)
      let isLate = false
      for (let round = 0; round < 9; round++) {
        const using = yield* start(Effect.flip(
          AmqpChannel.use((channel) => channel.publish({ exchange: "gone", body: "" })).pipe(
            Effect.provideService(AmqpConnection, connection)
          )
        ))
        const open = yield* server.next
        assert.include(line(open), "channel.open")
        const id = open.channel
        // The answer to the close of the former channel of this number.
        if (isLate) yield* server.send(id, { _tag: "channel.close-ok" })
        yield* server.send(id, { _tag: "channel.open-ok" })
        yield* server.expect(id, "basic.publish")
        assert.strictEqual(line(yield* server.next), `${id} header 0`)
        yield* server.expect(id, "channel.close")
        yield* server.send(id, refused)
        yield* server.expect(id, "channel.close-ok")
        const error = yield* Fiber.join(using)
        assert.deepInclude(error, { _tag: "AmqpNotFound", operation: "basic.publish", entity: "gone" })
        // While nobody has the number; or when another channel has it, two rounds later; or never.
        if (round < 3) yield* server.send(id, { _tag: "channel.close-ok" })
        isLate = round >= 4 && round < 7
      }
      yield* assertAlive(all, yield* channelOn(all))
    })))
})

describe("codes that RabbitMQ does not send", () => {
  const publishing = (all: Opened, replyCode: number) =>
    Effect.gen(function*() {
      const channel = yield* confirmingOn(all)
      const [error] = yield* both(
        failureOf(channel.publish({ exchange: "e", routingKey: "k", body: "x" })),
        Effect.gen(function*() {
          yield* all.server.publish(channel.id)
          yield* all.server.send(channel.id, channelClose(replyCode, "WHY", 60, 40))
          yield* all.server.expect(channel.id, "channel.close-ok")
        })
      )
      return { channel, error }
    })

  it.live("311 on a publish is AmqpContentTooLarge", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { channel, error } = yield* publishing(all, 311)
      const tooLarge = tagged(error, "AmqpContentTooLarge")
      assert.strictEqual(tooLarge.replyCode, 311)
      assert.strictEqual(tooLarge.replyText, "WHY")
      assert.strictEqual(tooLarge.operation, "basic.publish")
      assert.strictEqual(tooLarge.entity, "e")
      assert.strictEqual((yield* channel.closed).cause, tooLarge)
      yield* assertAlive(all, yield* channelOn(all))
    })))

  for (const replyCode of [313, 0, 200, 312, 320, 402, 404_04 % 65536, 501, 530, 541, 999, 65535]) {
    it.live(`${replyCode} on a channel closes that channel, with AmqpChannelException as the cause`, () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const published = yield* publishing(all, replyCode)
        const { cause } = tagged(published.error, "AmqpPublishUnconfirmed")
        assert.strictEqual(cause?._tag, "AmqpChannelException")
        assert.strictEqual(cause?._tag === "AmqpChannelException" && cause.replyCode, replyCode)

        const channel = yield* channelOn(all)
        const [error] = yield* both(
          failureOf(channel.queueDeclare({ queue: "q" })),
          Effect.andThen(
            all.server.expect(channel.id, "queue.declare"),
            all.server.send(channel.id, channelClose(replyCode, "WHY", 50, 10))
          )
        )
        assert.strictEqual(tagged(error, "AmqpChannelClosed").cause?._tag, "AmqpChannelException")
        yield* all.server.expect(channel.id, "channel.close-ok")
        yield* assertAlive(all, yield* channelOn(all))
      })))
  }

  it.live("a soft code that the operation does not list is the cause of AmqpChannelClosed", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      for (const [replyCode, tag] of [[311, "AmqpContentTooLarge"], [405, "AmqpResourceLocked"]] as const) {
        const channel = yield* channelOn(all)
        const [error] = yield* both(
          failureOf(channel.exchangeDeclare({ exchange: "e" })),
          Effect.andThen(
            all.server.expect(channel.id, "exchange.declare"),
            all.server.send(channel.id, channelClose(replyCode, "WHY", 40, 10))
          )
        )
        assert.strictEqual(tagged(error, "AmqpChannelClosed").cause?._tag, tag)
        yield* all.server.expect(channel.id, "channel.close-ok")
      }
    })))

  it.live("a close that names another method fails nobody's operation as its own", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      for (const [classId, methodId] of [[50, 20], [0, 0], [99, 99], [65535, 65535]] as const) {
        const channel = yield* channelOn(all)
        const [error] = yield* both(
          failureOf(channel.queueDeclare({ queue: "q" })),
          Effect.andThen(
            all.server.expect(channel.id, "queue.declare"),
            all.server.send(channel.id, channelClose(404, "NOT_FOUND", classId, methodId))
          )
        )
        assert.strictEqual(tagged(error, "AmqpChannelClosed").cause?._tag, "AmqpNotFound")
        yield* all.server.expect(channel.id, "channel.close-ok")
      }
    })))

  const hard = [
    [402, "InvalidPath"],
    [502, "SyntaxError"],
    [506, "ResourceError"],
    [320, "ConnectionForced"],
    [530, "NotAllowed"],
    [541, "InternalError"],
    [311, "UnknownReply"],
    [313, "UnknownReply"],
    [403, "UnknownReply"],
    [404, "UnknownReply"],
    [0, "UnknownReply"],
    [200, "UnknownReply"],
    [999, "UnknownReply"],
    [65535, "UnknownReply"]
  ] as const
  for (const [replyCode, tag] of hard) {
    it.live(`${replyCode} on the connection is ${tag}, for everybody on it`, () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const channel = yield* channelOn(all)
        const [error] = yield* both(
          failureOf(channel.queueDeclare({ queue: "q" })),
          Effect.gen(function*() {
            yield* all.server.expect(1, "queue.declare")
            yield* all.server.send(0, connectionClose(replyCode, "WHY ✓"))
            assert.deepStrictEqual(yield* all.server.restLines, ["0 connection.close-ok"])
          })
        )
        const reason = reasonOf(error, tag)
        assert.strictEqual(reason.replyCode, replyCode)
        assert.strictEqual(reason.replyText, "WHY ✓")
        assert.strictEqual(yield* all.connection.closed, error)
      })))
  }
})

describe("CH18 answers that do not fit", () => {
  it.live("channel.close in answer to channel.open: AmqpChannelClosed with its cause, the connection lives", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const [error] = yield* both(
        failureOf(openOn(all.connection)),
        Effect.gen(function*() {
          yield* all.server.expect(1, "channel.open")
          yield* all.server.send(1, channelClose(506, "RESOURCE_ERROR", 20, 10))
          yield* all.server.expect(1, "channel.close-ok")
        })
      )
      assert.strictEqual(tagged(error, "AmqpChannelClosed").cause?._tag, "AmqpChannelException")
      yield* assertAlive(all, yield* channelOn(all))
    })))

  it.live("consume-ok for another tag: the consumer would wait for ever, so the connection is closed", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const [error] = yield* both(
        failureOf(channel.consume({ queue: "q", consumerTag: "mine" })),
        Effect.andThen(
          all.server.expect(1, "basic.consume"),
          all.server.send(1, { _tag: "basic.consume-ok", consumerTag: "other" })
        )
      )
      assert.strictEqual(reasonOf(error, "ProtocolViolation").replyCode, 503)
    })))

  it.live("the first of two requests gets the answer of the second: both fail, the connection is closed", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const first = yield* start(failureOf(channel.queueDeclare({ queue: "q" })))
      const second = yield* start(failureOf(channel.queuePurge("q")))
      yield* all.server.expect(1, "queue.declare")
      yield* all.server.expect(1, "queue.purge")
      yield* all.server.send(1, { _tag: "queue.purge-ok", messageCount: 0 })
      const error = yield* all.connection.closed
      assert.strictEqual(reasonOf(error, "ProtocolViolation").replyCode, 503)
      assert.strictEqual(yield* Fiber.join(first), error)
      assert.strictEqual(yield* Fiber.join(second), error)
      const [close] = yield* all.server.rest
      assert.strictEqual(close && line(close), "0 connection.close")
    })))
})

// -----------------------------------------------------------------------------
// deliveries
// -----------------------------------------------------------------------------

describe("a delivery that cannot be decoded is that delivery's problem", () => {
  const u32 = (
    value: number
  ): ReadonlyArray<number> => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]
  const levels = 1500
  const deep = Array.from({ length: levels }, (_, n) => [0, 0x46, ...u32((levels - n - 1) * 6)]).flat()

  const headers: ReadonlyArray<readonly [name: string, properties: ReadonlyArray<number>]> = [
    ["no property flags", []],
    ["half the property flags", [0x80]],
    ["a continuation flag", [0x80, 0x01, 0, 0, 1, 0x61]],
    ["a reserved flag", [0x80, 0x02, 1, 0x61]],
    ["ML09 flags that announce fields beyond the frame", [0xff, 0xfc]],
    ["ML09 a short string beyond the frame", [0x80, 0, 255, 0x61]],
    ["ML09 a table longer than the frame", [0x20, 0, ...u32(1000), 1, 0x61]],
    ["ML09 a table of 4 GiB", [0x20, 0, ...u32(0xffff_ffff)]],
    ["ML09 a long string of 4 GiB", [0x20, 0, ...u32(7), 1, 0x61, 0x53, ...u32(0xffff_ffff)]],
    ["ML09 a byte array longer than its table", [0x20, 0, ...u32(8), 1, 0x61, 0x78, ...u32(2), 1, 2]],
    ["an unknown table tag", [0x20, 0, ...u32(3), 1, 0x61, 0x3f]],
    ["a table tag of the specification that no broker uses", [0x20, 0, ...u32(5), 1, 0x61, 0x55, 0, 1]],
    ["a table that ends in a key", [0x20, 0, ...u32(2), 5, 0x61]],
    ["a key that is not UTF-8", [0x20, 0, ...u32(3), 1, 0xff, 0x56]],
    ["an array longer than its table", [0x20, 0, ...u32(7), 1, 0x61, 0x41, ...u32(9)]],
    ["a table of 1500 levels", [0x20, 0, ...u32(deep.length), ...deep]],
    ["text that is not UTF-8", [0x80, 0, 2, 0xc3, 0x28]],
    ["bytes after the last property", [0x80, 0, 1, 0x61, 0, 0]]
  ]

  /** A content whose header is raw bytes. */
  const rawContent = (method: Uint8Array, properties: ReadonlyArray<number>, body: string): Uint8Array =>
    concat([
      method,
      rawFrame(2, 1, [0, 60, 0, 0, ...u32(0), ...u32(body.length), ...properties]),
      ...(body === "" ? [] : [rawFrame(3, 1, Array.from(bytes(body)))])
    ])

  for (const [name, properties] of headers) {
    it.live(`${name}: it can be settled, its neighbours are intact, the connection lives`, () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const { server } = all
        const channel = yield* channelOn(all)
        const [consumer] = yield* both(channel.consume({ queue: "q" }), server.consume(1))
        const tag = consumer.consumerTag
        yield* server.write(
          content(1, deliver(tag, 1), "one", { messageId: "1" }),
          rawContent(frame(1, deliver(tag, 2)), properties, "two"),
          rawContent(frame(1, deliver(tag, 3)), properties, ""),
          content(1, deliver(tag, 4), "four", { messageId: "4" })
        )
        const [one, two, three, four] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 4))
        if (one === undefined || two === undefined || three === undefined || four === undefined) {
          return assert.fail("deliveries are missing")
        }
        assert.strictEqual(one.properties.messageId, "1")
        assert.strictEqual(two.decodeError?._tag, "AmqpDecodeError")
        assert.strictEqual(two.text, "two")
        assert.throws(() => two.properties, two.decodeError?.message ?? "")
        assert.throws(() => two.headersTagged, two.decodeError?.message ?? "")
        assert.strictEqual(three.decodeError?._tag, "AmqpDecodeError")
        assert.strictEqual(three.body.length, 0)
        assert.isUndefined(four.decodeError)
        assert.strictEqual(four.properties.messageId, "4")
        assert.strictEqual(yield* two.nack({ requeue: false }), "Settled")
        assert.strictEqual(yield* three.reject({ requeue: false }), "Settled")
        assert.strictEqual(yield* two.ack, "AlreadySettled")
        assert.strictEqual((yield* server.expect(1, "basic.nack")).deliveryTag, 2)
        assert.strictEqual((yield* server.expect(1, "basic.reject")).deliveryTag, 3)

        const [got] = yield* both(
          channel.get({ queue: "q" }),
          Effect.andThen(
            server.expect(1, "basic.get"),
            server.write(rawContent(frame(1, getOk(5)), properties, "five"))
          )
        )
        if (Option.isNone(got)) return assert.fail("no message")
        assert.strictEqual(got.value.delivery.decodeError?._tag, "AmqpDecodeError")
        assert.strictEqual(yield* got.value.delivery.ack, "Settled")
        assert.strictEqual((yield* server.expect(1, "basic.ack")).deliveryTag, 5)
        yield* assertAlive(all, channel)
      })))
  }

  it.live("returned messages as well", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* confirmingOn(all)
      for (const [, properties] of headers) {
        yield* all.server.write(rawContent(frame(1, returned("", "q")), properties, "x"))
      }
      yield* assertAlive(all, channel)
    })))

  it.live("table tags in every order", () =>
    hostile(Effect.gen(function*() {
      const nested = AmqpTable.table([["k", AmqpTable.uint16(1)], ["k", AmqpTable.void]])
      const values: ReadonlyArray<AmqpTable.Value> = [
        AmqpTable.bool(true),
        AmqpTable.int8(-128),
        AmqpTable.uint8(255),
        AmqpTable.int16(-32768),
        AmqpTable.uint16(65535),
        AmqpTable.int32(-2147483648),
        AmqpTable.uint32(4294967295),
        AmqpTable.int64(-(2n ** 63n)),
        AmqpTable.int64(2n ** 63n - 1n, "L"),
        AmqpTable.float(0.5),
        AmqpTable.double(1e300),
        AmqpTable.decimal({ scale: 255, value: -1 }),
        AmqpTable.longString("text ✓"),
        AmqpTable.longString(Uint8Array.of(0xff, 0xfe)),
        AmqpTable.bytes(Uint8Array.of(1, 2, 3)),
        AmqpTable.timestamp(2n ** 64n - 1n),
        AmqpTable.array([AmqpTable.int8(1), nested, AmqpTable.array([])]),
        nested,
        AmqpTable.void
      ]
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q" }), all.server.consume(1))
      const tables: Array<AmqpTable.Table> = []
      const entries = (order: ReadonlyArray<AmqpTable.Value>) =>
        AmqpTable.table(order.map((value, index): [string, AmqpTable.Value] => [`key ${index}`, value]))
      // Every tag before and after every other.
      for (let turn = 0; turn < values.length; turn++) {
        const order = [...values.slice(turn), ...values.slice(0, turn)]
        tables.push(entries(order), entries(order.toReversed()), AmqpTable.table([["a", AmqpTable.array(order)]]))
      }
      for (const first of values) for (const second of values) tables.push(entries([first, second]))
      yield* all.server.write(...tables.map((headers, index) => {
        const properties: BasicProperties<AmqpTable.InputTable> = { contentType: "a/b", headers, messageId: "m" }
        return content(1, deliver(consumer.consumerTag, index + 1), "x", properties)
      }))
      const deliveries = yield* Stream.runCollect(Stream.take(consumer.deliveries, tables.length))
      for (const [index, delivery] of deliveries.entries()) {
        assert.deepStrictEqual(delivery.headersTagged, tables[index])
        assert.strictEqual(delivery.properties.messageId, "m")
      }
    })))
})

describe("cancelling", () => {
  it.live("CO14 basic.cancel for an unknown tag is ignored", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q" }), all.server.consume(1))
      yield* all.server.send(
        1,
        { _tag: "basic.cancel", consumerTag: "unknown", noWait: true },
        { _tag: "basic.cancel", consumerTag: "", noWait: true }
      )
      yield* assertAlive(all, channel)
      yield* all.server.send(1, { _tag: "basic.cancel", consumerTag: "unknown", noWait: false })
      // A tag that has no form on the wire as text.
      yield* all.server.write(rawFrame(1, 1, [0, 60, 0, 30, 255, ...Array.from({ length: 255 }, () => 0xff), 0]))
      yield* assertAlive(all, channel)
      yield* all.server.write(content(1, deliver(consumer.consumerTag, 1), "still here"))
      const [delivery] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 1))
      assert.strictEqual(delivery?.text, "still here")
    })))

  it.live("a broker that asks for an answer to its cancel gets it, once", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q" }), all.server.consume(1))
      const { consumerTag } = consumer
      const cancel = frame(1, { _tag: "basic.cancel", consumerTag, noWait: false })
      yield* all.server.write(cancel, cancel)
      assert.strictEqual((yield* all.server.expect(1, "basic.cancel-ok")).consumerTag, consumerTag)
      tagged(yield* failureOf(Stream.runDrain(consumer.deliveries)), "AmqpConsumerCancelled")
      yield* assertAlive(all, channel)
    })))

  it.live("a cancelled consumer fails with AmqpConsumerCancelled after what came before; the rest can be settled", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q" }), all.server.consume(1))
      yield* all.server.write(
        content(1, deliver(consumer.consumerTag, 1), "one"),
        frame(1, { _tag: "basic.cancel", consumerTag: consumer.consumerTag, noWait: true }),
        content(1, deliver(consumer.consumerTag, 2), "late"),
        frame(1, { _tag: "basic.cancel", consumerTag: consumer.consumerTag, noWait: true })
      )
      const seen: Array<string> = []
      const [error] = yield* both(
        failureOf(Stream.runForEach(consumer.deliveries, (delivery) => {
          seen.push(delivery.text)
          return delivery.ack
        })),
        all.server.expect(1, "basic.ack")
      )
      assert.strictEqual(tagged(error, "AmqpConsumerCancelled").queue, "q")
      assert.deepStrictEqual(seen, ["one"])
      yield* consumer.cancel
      yield* assertAlive(all, channel)
    })))

  for (const order of ["cancel first", "cancel-ok first"] as const) {
    it.live(`CO15 both sides cancel at once, ${order}: both complete`, () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const { server } = all
        const channel = yield* channelOn(all)
        const [consumer] = yield* both(channel.consume({ queue: "q" }), server.consume(1))
        const draining = yield* start(Effect.catch(Stream.runDrain(consumer.deliveries), Effect.succeed))
        const { consumerTag } = consumer
        yield* both(
          consumer.cancel,
          Effect.gen(function*() {
            yield* server.expect(1, "basic.cancel")
            const cancel = frame(1, { _tag: "basic.cancel", consumerTag, noWait: true })
            const cancelOk = frame(1, { _tag: "basic.cancel-ok", consumerTag })
            yield* server.write(...(order === "cancel first" ? [cancel, cancelOk] : [cancelOk, cancel]))
          })
        )
        // In one packet either may win.
        const error = yield* Fiber.join(draining)
        if (error !== undefined) tagged(error, "AmqpConsumerCancelled")
        yield* assertAlive(all, channel)
      })))
  }

  it.live("CO15 the scope ends while the broker cancels", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { server } = all
      const channel = yield* channelOn(all)
      const scope = yield* Scope.make()
      const [consumer] = yield* both(inScope(channel.consume({ queue: "q" }), scope), server.consume(1))
      const { consumerTag } = consumer
      yield* server.write(content(1, deliver(consumerTag, 1), "x"))
      yield* Stream.runDrain(Stream.take(consumer.deliveries, 1))
      yield* both(
        Scope.close(scope, Exit.void),
        Effect.gen(function*() {
          yield* server.expect(1, "basic.cancel")
          yield* server.send(
            1,
            { _tag: "basic.cancel", consumerTag, noWait: true },
            { _tag: "basic.cancel-ok", consumerTag }
          )
          assert.strictEqual((yield* server.expect(1, "basic.nack")).deliveryTag, 1)
        })
      )
      yield* assertAlive(all, channel)
    })))
})

// -----------------------------------------------------------------------------
// one outcome
// -----------------------------------------------------------------------------

describe("returns and confirms that lie", () => {
  it.live("each publish hears one outcome, the first that is its own", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { server } = all
      const channel = yield* confirmingOn(all)
      const publish = (routingKey: string) =>
        start(Effect.result(channel.publish({ routingKey, body: "x", mandatory: true })))
      const fibers = [yield* publish("1"), yield* publish("2"), yield* publish("3")]
      const marks: Array<string> = []
      for (const _ of fibers) marks.push((yield* server.publish(1)).properties.clusterId ?? "")
      assert.strictEqual(new Set(marks).size, 3)
      const back = (clusterId: string | undefined) =>
        content(1, returned("", "k"), "x", clusterId === undefined ? {} : { clusterId })
      const mark = marks[1] ?? ""
      yield* server.write(
        // Of nobody.
        frame(1, { _tag: "basic.ack", deliveryTag: 0, multiple: false }),
        frame(1, { _tag: "basic.ack", deliveryTag: 4, multiple: false }),
        frame(1, { _tag: "basic.nack", deliveryTag: 4, multiple: false, requeue: true }),
        // Twice, and acknowledged, as it has to be.
        back(mark),
        back(mark),
        frame(1, { _tag: "basic.ack", deliveryTag: 2, multiple: false }),
        frame(1, { _tag: "basic.nack", deliveryTag: 2, multiple: false, requeue: false }),
        // Confirmed, then returned.
        frame(1, { _tag: "basic.ack", deliveryTag: 1, multiple: false }),
        back(marks[0]),
        // Refused, then confirmed.
        frame(1, { _tag: "basic.nack", deliveryTag: 3, multiple: true, requeue: false }),
        frame(1, { _tag: "basic.ack", deliveryTag: 3, multiple: true })
      )
      const [one, two, three] = yield* Fiber.joinAll(fibers)
      assert.isTrue(one !== undefined && Result.isSuccess(one))
      assert.strictEqual(two && Result.isFailure(two) && two.failure._tag, "AmqpMessageReturned")
      assert.strictEqual(three && Result.isFailure(three) && three.failure._tag, "AmqpPublishNacked")
      yield* channel.waitForConfirms
      yield* assertAlive(all, channel)
    })))

  it.live("a return that says nothing of whose it is makes nobody's success", () =>
    hostile(Effect.gen(function*() {
      for (const tag of [undefined, "", "\u0001", "\u0001zzzzzzzzzzzzzzzz", "\u0001-1", "\u0001✓"]) {
        const all = yield* opened()
        const { server } = all
        const channel = yield* confirmingOn(all)
        const publish = (routingKey: string, mandatory = true) =>
          start(Effect.result(channel.publish({ routingKey, body: "x", mandatory })))
        const fibers = [yield* publish("1"), yield* publish("2"), yield* publish("3", false)]
        for (const _ of fibers) yield* server.publish(1)
        yield* server.write(
          content(1, returned("", "k"), "x", tag === undefined ? {} : { clusterId: tag }),
          frame(1, { _tag: "basic.ack", deliveryTag: 3, multiple: true })
        )
        const results = yield* Fiber.joinAll(fibers)
        assert.deepStrictEqual(
          results.map((result) => Result.isFailure(result) && result.failure._tag),
          ["AmqpPublishUnconfirmed", "AmqpPublishUnconfirmed", false]
        )
        const [first] = results
        assert.isTrue(
          first && Result.isFailure(first) && "maybeReturned" in first.failure && first.failure.maybeReturned
        )
        yield* assertAlive(all, channel)
      }
    })))

  it.live("a message that comes back with properties that nobody can read comes without them", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { server } = all
      const channel = yield* confirmingOn(all)
      const publishing = yield* start(Effect.flip(channel.publish({ routingKey: "k", body: "x", mandatory: true })))
      yield* server.publish(1)
      yield* server.write(
        frame(1, returned("", "k")),
        // The last two octets are flags that mean nothing.
        rawFrame(2, 1, [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]),
        rawFrame(3, 1, Array.from(bytes("x")))
      )
      const error = yield* Fiber.join(publishing)
      assert.isTrue(error._tag === "AmqpMessageReturned" && error.properties === undefined)
      assert.deepStrictEqual(error._tag === "AmqpMessageReturned" && error.body, bytes("x"))
      yield* assertAlive(all, channel)
    })))
})

describe("F83 the interruption and the reply at the same moment", () => {
  it.live("an operation is interrupted by the one whose reply came in the same packet, right before its own", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      for (let round = 0; round < 50; round++) {
        const replied = yield* Deferred.make<void>()
        const first = yield* start(
          Effect.ensuring(channel.queueDeclare({ queue: "first" }), Deferred.succeed(replied, undefined))
        )
        let outcomes = 0
        const second = yield* start(
          channel.queueDeclare({ queue: "" }).pipe(
            Effect.onExit(() => Effect.sync(() => void outcomes++)),
            Effect.timeoutOption(round % 2 === 0 ? "1 second" : "1 millis"),
            Effect.raceFirst(Effect.as(Deferred.await(replied), Option.none()))
          )
        )
        const third = yield* start(channel.queuePurge("q"))
        yield* all.server.expect(1, "queue.declare")
        yield* all.server.expect(1, "queue.declare")
        yield* all.server.expect(1, "queue.purge")
        yield* all.server.send(1, declareOk("first"), declareOk("made-up"), {
          _tag: "queue.purge-ok",
          messageCount: round
        })
        yield* Fiber.join(first)
        const result = yield* Fiber.join(second)
        assert.strictEqual(outcomes, 1)
        assert.strictEqual(yield* Fiber.join(third), round)
        // Nobody knows the name that the broker has made up: the queue is deleted again.
        if (Option.isNone(result)) {
          assert.strictEqual(
            (yield* all.server.answer(1, "queue.delete", { _tag: "queue.delete-ok", messageCount: 0 })).queue,
            "made-up"
          )
        }
      }
      yield* assertAlive(all, channel)
    })))

  it.live("timeouts that fire around the reply: one outcome each, and the replies stay in step", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const count = 300
      const answers = Effect.gen(function*() {
        for (let n = 0; n < count; n++) {
          yield* all.server.answer(1, "queue.purge", { _tag: "queue.purge-ok", messageCount: n })
        }
      })
      let outcomes = 0
      const requests = Effect.forEach(
        Array.from({ length: count }, (_, n) => n),
        (n) =>
          channel.queuePurge("q").pipe(
            Effect.onExit(() => Effect.sync(() => void outcomes++)),
            Effect.timeoutOption(Duration.millis(n % 12)),
            Effect.map((result) => {
              if (Option.isSome(result)) assert.strictEqual(result.value, n)
            })
          ),
        { concurrency: "unbounded", discard: true }
      )
      yield* both(requests, answers)
      assert.strictEqual(outcomes, count)
      yield* assertAlive(all, channel)
    })))

  it.live("a confirm, a nack and a return that come while the publish is interrupted keep the numbers in step", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* confirmingOn(all)
      const interrupted = yield* start(Effect.timeoutOption(channel.publish({ body: "1" }), "1 millis"))
      yield* all.server.publish(1)
      assert.isTrue(Option.isNone(yield* Fiber.join(interrupted)))
      const second = yield* start(failureOf(channel.publish({ body: "2" })))
      yield* all.server.publish(1)
      yield* all.server.send(
        1,
        { _tag: "basic.ack", deliveryTag: 1, multiple: false },
        { _tag: "basic.nack", deliveryTag: 2, multiple: false, requeue: false },
        { _tag: "basic.ack", deliveryTag: 2, multiple: true },
        { _tag: "basic.ack", deliveryTag: 1000, multiple: true }
      )
      tagged(yield* Fiber.join(second), "AmqpPublishNacked")
      const third = yield* start(channel.publish({ body: "3" }))
      yield* all.server.publish(1)
      yield* all.server.send(1, { _tag: "basic.ack", deliveryTag: 3, multiple: false })
      yield* Fiber.join(third)
    })))
})

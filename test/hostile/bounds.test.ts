/**
 * Peers that read nothing, send without end, or answer nothing: memory stays bounded, every close ends in time, silence
 * is noticed, and a blocked connection holds back content alone.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Option, Redacted, Scope, Stream } from "effect"
import { inspect } from "node:util"
import type { Status } from "../../src/AmqpConnection.ts"
import { AmqpConnectionError } from "../../src/AmqpError.ts"
import {
  bytes,
  channelClose,
  concat,
  connectionClose,
  content,
  declareOk,
  deliver,
  frame,
  heartbeat,
  line,
  pattern,
  rawFrame
} from "../engine/peer.ts"
import { collectGarbage } from "../harness/garbage.ts"
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
  secret,
  type Server,
  start,
  tagged
} from "./peer.ts"

const kibi = 1024
const mebi = 1024 * kibi

/** How long it takes, in milliseconds. */
const millisOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<number, E, R> =>
  Effect.map(Effect.timed(effect), ([elapsed]) => Duration.toMillis(elapsed))

describe("law 7: a peer that reads nothing", () => {
  it.live(
    "publishers are suspended, the outbox holds a bounded part, and all goes on when the peer reads again",
    () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const channel = yield* channelOn(all)
        const [consumer] = yield* both(channel.consume({ queue: "q" }), all.server.consume(1))
        yield* all.server.link.pause
        const size = 64 * kibi
        const count = 1024
        let accepted = 0
        const publishing = yield* start(Effect.forEach(
          Array.from({ length: count }, (_, n) => n),
          (n) => Effect.tap(channel.publish({ body: pattern(size, n) }), () => Effect.sync(() => accepted++)),
          { concurrency: "unbounded", discard: true }
        ))
        // The client still hears what the peer says, and what it says comes after all that it could accept at once.
        yield* all.server.write(content(1, deliver(consumer.consumerTag, 1), "are you there?"))
        const [delivery] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 1))
        assert.strictEqual(delivery?.text, "are you there?")
        assert.isBelow(accepted * size, 24 * mebi, "what the system buffers, and 1 MiB")
        // Bodies are not copied: buffers of their own would show.
        yield* all.server.link.resume
        yield* Fiber.join(publishing)
        assert.strictEqual(accepted, count)
      })),
    30_000
  )

  it.live(
    "publishers that wait are interrupted, or end with their channel or connection; nothing of them is written",
    () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const one = yield* channelOn(all)
        const two = yield* confirmingOn(all)
        yield* all.server.link.pause
        const filling = yield* start(Effect.exit(two.publish({ body: pattern(24 * mebi) })))
        // Each channel waits for its own.
        yield* one.publish({ body: pattern(24 * mebi) })
        const interrupted = yield* start(one.publish({ routingKey: "never", body: "never" }))
        const closed = yield* start(failureOf(one.publish({ routingKey: "never", body: "never" })))
        const lost = yield* start(failureOf(two.publish({ routingKey: "never", body: "never" })))
        yield* Fiber.interrupt(interrupted)
        yield* all.server.send(1, channelClose(406, "PRECONDITION_FAILED"))
        assert.strictEqual(tagged(yield* Fiber.join(closed), "AmqpChannelClosed").cause?._tag, "AmqpPreconditionFailed")
        yield* all.server.send(0, connectionClose(320, "CONNECTION_FORCED"))
        const error = yield* Fiber.join(lost)
        assert.include(["AmqpChannelClosed", "AmqpConnectionError"], error._tag)
        assert.isTrue(Exit.isFailure(yield* Fiber.join(filling)))
        assert.strictEqual(reasonOf(yield* all.connection.closed, "ConnectionForced").replyCode, 320)
        const written = Buffer.from(yield* all.server.link.received)
        assert.isFalse(written.includes("never"))
      })),
    20_000
  )

  it.live(
    "the connection ends in time all the same: by close, by the peer's close, by a violation",
    () =>
      hostile(Effect.gen(function*() {
        const ends: ReadonlyArray<(all: Opened) => Effect.Effect<unknown>> = [
          ({ connection }) => connection.close,
          ({ connection, server }) =>
            Effect.andThen(server.send(0, connectionClose(320, "CONNECTION_FORCED")), connection.closed),
          ({ connection, server }) => Effect.andThen(server.write(rawFrame(9, 9, [9])), connection.closed),
          ({ connection, server }) => Effect.andThen(server.link.end, connection.closed)
        ]
        for (const end of ends) {
          const all = yield* opened({ closeTimeout: "200 millis" })
          const channel = yield* confirmingOn(all)
          yield* all.server.link.pause
          const publish = yield* start(failureOf(channel.publish({ body: pattern(24 * mebi) })))
          // One step for the protocol, one for the last bytes, and what the transport grants the system.
          assert.isBelow(yield* millisOf(end(all)), 3500)
          tagged(yield* Fiber.join(publish), "AmqpPublishUnconfirmed")
        }
      })),
    30_000
  )
})

describe("law 7: a peer that sends without end", () => {
  /** Sends until the client takes no more, and gives how many contents were sent. */
  const flood = (server: Server, chunk: (from: number) => Uint8Array, perChunk: number, limit: number) =>
    Effect.gen(function*() {
      let sent = 0
      while (sent < limit) {
        const bytes = chunk(sent + 1)
        sent += perChunk
        const writing = yield* start(server.write(bytes))
        // What the system has not taken in this time waits for the client. Twice: the first may be a pause of ours.
        const taken = Effect.timeoutOption(Fiber.join(writing), "300 millis")
        if (Option.isNone(yield* taken) && Option.isNone(yield* taken)) return sent
      }
      return sent
    })

  const large = (from: number) => content(1, deliver("c", from), pattern(64 * kibi, from))
  const one = content(1, deliver("c", 0), "x")
  /** A thousand deliveries; their tags end 21 bytes after the beginning of each. */
  const small = (from: number) => {
    const bytes = concat(Array.from({ length: 1000 }, () => one))
    const view = new DataView(bytes.buffer)
    for (let n = 0; n < 1000; n++) view.setUint32(n * one.length + 17, from + n)
    return bytes
  }

  const floods = [
    ["no-ack deliveries of 64 KiB", true, large, 1, 4096],
    ["deliveries of 64 KiB without a prefetch limit", false, large, 1, 4096],
    ["deliveries of one byte", true, small, 1000, 1_000_000]
  ] as const

  for (const [name, noAck, chunk, perChunk, limit] of floods) {
    it.live(
      `${name} that nobody takes: the socket is not read, and nothing is lost`,
      () =>
        hostile(Effect.gen(function*() {
          const all = yield* opened()
          const channel = yield* channelOn(all)
          const options = { queue: "q", consumerTag: "c" }
          const [consumer] = yield* both(
            noAck ? channel.consume({ ...options, noAck: true }) : channel.consume(options),
            all.server.consume(1)
          )
          const sent = yield* flood(all.server, chunk, perChunk, limit)
          assert.isBelow(sent, limit / 2)
          // Whoever takes them gets every one in its order.
          let next = 1
          yield* Stream.runForEachArray(Stream.take(consumer.deliveries, sent), (deliveries) =>
            Effect.sync(() => {
              for (const { deliveryTag } of deliveries) assert.strictEqual(deliveryTag, next++)
            }))
          assert.strictEqual(next, sent + 1)
          yield* assertAlive(all, channel)
        })),
      30_000
    )
  }

  it.live(
    "also while a reply is awaited that does not come: the bound is wider then, and there is one",
    () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const channel = yield* channelOn(all)
        const [consumer] = yield* both(
          channel.consume({ queue: "q", consumerTag: "c", noAck: true }),
          all.server.consume(1)
        )
        const waiting = yield* start(channel.queueDeclare({ queue: "q" }))
        yield* all.server.expect(1, "queue.declare")
        const sent = yield* flood(all.server, large, 1, 4096)
        assert.isAbove(sent * 64 * kibi, 16 * mebi)
        assert.isBelow(sent * 64 * kibi, 128 * mebi)
        yield* Stream.runDrain(Stream.take(consumer.deliveries, sent))
        yield* all.server.send(1, declareOk("q"))
        yield* Fiber.join(waiting)
      })),
    30_000
  )

  it.live(
    "contents for nobody, heartbeats, returns and confirms of unknown numbers leave nothing behind",
    () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened()
        const channel = yield* confirmingOn(all)
        const body = pattern(100 * kibi)
        const noise = concat([
          ...Array.from({ length: 500 }, () => heartbeat),
          content(1, deliver("nobody", 1), body),
          content(
            1,
            { _tag: "basic.return", replyCode: 312, replyText: "NO_ROUTE", exchange: "", routingKey: "" },
            body
          ),
          frame(1, { _tag: "basic.ack", deliveryTag: 1_000_000, multiple: true }),
          frame(1, { _tag: "basic.nack", deliveryTag: 0, multiple: true, requeue: true }),
          frame(0, { _tag: "connection.update-secret-ok" })
        ])
        // What is garbage does not count. Buffers of one collection are given back by the next one at the latest.
        const measure = Effect.sync(() => {
          collectGarbage()
          collectGarbage()
          return process.memoryUsage().arrayBuffers
        })
        const before = yield* measure
        for (let round = 0; round < 300; round++) yield* all.server.write(noise)
        yield* assertAlive(all, channel)
        // 60 MiB have come.
        assert.isBelow((yield* measure) - before, 16 * mebi)
      })),
    20_000
  )

  it.live("a content of exactly maxMessageSize is taken, one byte more is refused at its header", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened({ maxMessageSize: 10 * kibi })
      const channel = yield* channelOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q", consumerTag: "c" }), all.server.consume(1))
      yield* all.server.write(content(1, deliver("c", 1), pattern(10 * kibi)))
      const [delivery] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 1))
      assert.deepStrictEqual(delivery?.body, pattern(10 * kibi))
      yield* all.server.write(content(1, deliver("c", 2), pattern(10 * kibi + 1)))
      assert.strictEqual(reasonOf(yield* all.connection.closed, "ProtocolViolation").replyCode, 501)
    })))
})

describe("law 8: a peer that answers nothing", () => {
  const closeTimeout = 150
  const silent = opened({ closeTimeout: Duration.millis(closeTimeout) })

  /** Within the bound of so many steps, and not before the first of them is over. */
  const assertBounded = (millis: number, steps: number): void => {
    assert.isAtLeast(millis, closeTimeout - 10)
    assert.isBelow(millis, steps * closeTimeout + 600)
  }

  it.live("channel.close", () =>
    hostile(Effect.gen(function*() {
      const all = yield* silent
      const channel = yield* channelOn(all)
      assertBounded(yield* millisOf(channel.close), 1)
      yield* all.server.expect(1, "channel.close")
      tagged(yield* failureOf(channel.queueDeclare({ queue: "q" })), "AmqpChannelClosed")
      // The late answer frees the number and disturbs nobody.
      yield* all.server.send(1, { _tag: "channel.close-ok" })
      yield* assertAlive(all, yield* channelOn(all))
    })))

  it.live("channel.close with confirms that do not come", () =>
    hostile(Effect.gen(function*() {
      const all = yield* silent
      const channel = yield* confirmingOn(all)
      const publish = yield* start(failureOf(channel.publish({ body: "x" })))
      assertBounded(yield* millisOf(channel.close), 2)
      assert.isUndefined(tagged(yield* Fiber.join(publish), "AmqpPublishUnconfirmed").cause)
    })))

  it.live("basic.cancel at the end of a consumer's scope", () =>
    hostile(Effect.gen(function*() {
      const all = yield* silent
      const channel = yield* channelOn(all)
      const scope = yield* Scope.make()
      yield* both(Scope.provide(channel.consume({ queue: "q" }), scope), all.server.consume(1))
      assertBounded(yield* millisOf(Scope.close(scope, Exit.void)), 1)
      yield* all.server.expect(1, "basic.cancel")
    })))

  it.live("basic.cancel for a subscription whose consume-ok does not come", () =>
    hostile(Effect.gen(function*() {
      const all = yield* silent
      const channel = yield* channelOn(all)
      const scope = yield* Scope.make()
      const subscribing = yield* start(Scope.provide(channel.consume({ queue: "q" }), scope))
      yield* all.server.expect(1, "basic.consume")
      yield* Fiber.interrupt(subscribing)
      assert.isBelow(yield* millisOf(Scope.close(scope, Exit.void)), closeTimeout + 600)
    })))

  it.live("ML24 connection.close", () =>
    hostile(Effect.gen(function*() {
      const all = yield* silent
      const channel = yield* channelOn(all)
      const waiting = yield* start(failureOf(channel.queueDeclare({ queue: "q" })))
      assertBounded(yield* millisOf(all.connection.close), 1)
      reasonOf(yield* all.connection.closed, "ConnectionClosed")
      reasonOf(yield* Fiber.join(waiting), "ConnectionClosed")
      assert.deepStrictEqual(yield* all.server.restLines, ["1 queue.declare", "0 connection.close"])
    })))

  it.live("ML24 connection.close, while the peer keeps sending", () =>
    hostile(Effect.gen(function*() {
      const all = yield* silent
      const channel = yield* channelOn(all)
      yield* both(channel.consume({ queue: "q", consumerTag: "c" }), all.server.consume(1))
      const chatter = Effect.andThen(
        all.server.write(heartbeat, content(1, deliver("c", 1), "x"), frame(0, { _tag: "connection.unblocked" })),
        Effect.sleep("5 millis")
      )
      yield* start(Effect.forever(chatter))
      assertBounded(yield* millisOf(all.connection.close), 1)
      reasonOf(yield* all.connection.closed, "ConnectionClosed")
    })))

  it.live("the whole scope: consumer, channel, connection", () =>
    hostile(Effect.gen(function*() {
      const scope = yield* Scope.make()
      const all = yield* Scope.provide(silent, scope)
      const channel = yield* Scope.provide(channelOn(all), scope)
      yield* both(Scope.provide(channel.consume({ queue: "q" }), scope), all.server.consume(1))
      assertBounded(yield* millisOf(Scope.close(scope, Exit.void)), 3)
      assert.deepStrictEqual(yield* all.server.restLines, [
        "1 basic.cancel",
        "1 channel.close",
        "0 connection.close"
      ])
    })))

  it.live("a socket that is cut in the middle of each close ends it at once", () =>
    hostile(Effect.gen(function*() {
      for (const how of ["end", "reset"] as const) {
        const all = yield* opened({ closeTimeout: "10 seconds" })
        const channel = yield* channelOn(all)
        const scope = yield* Scope.make()
        yield* both(Scope.provide(channel.consume({ queue: "q" }), scope), all.server.consume(1))
        const closing = yield* start(Effect.all(
          [Scope.close(scope, Exit.void), channel.close, all.connection.close],
          { concurrency: "unbounded", discard: true }
        ))
        yield* all.server.next
        yield* all.server.link[how]
        assert.isBelow(yield* millisOf(Fiber.join(closing)), 2000)
        reasonOf(yield* all.connection.closed, "ConnectionClosed")
      }
    })))
})

describe("connection.blocked", () => {
  /** The states of a connection from now on, as text, until its end. */
  const statesOf = ({ connection }: Opened) =>
    start(
      Effect.map(Stream.runCollect(connection.changes), (states) =>
        states.map((status: Status) => status._tag === "Blocked" ? `Blocked ${status.reason}` : status._tag))
    )

  it.live("BL07 a second alarm is no second event, and an unblocked without a blocked is none", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* channelOn(all)
      const states = yield* statesOf(all)
      yield* all.server.send(0, { _tag: "connection.unblocked" })
      yield* all.server.send(
        0,
        { _tag: "connection.blocked", reason: "low on memory" },
        { _tag: "connection.blocked", reason: "low on memory & disk" }
      )
      yield* assertAlive(all, channel)
      yield* all.server.send(0, { _tag: "connection.blocked", reason: "low on disk" })
      yield* assertAlive(all, channel)
      assert.strictEqual((yield* all.connection.status)._tag, "Blocked")
      yield* all.server.send(0, { _tag: "connection.unblocked" }, { _tag: "connection.unblocked" })
      yield* assertAlive(all, channel)
      yield* all.server.link.end
      assert.deepStrictEqual(yield* Fiber.join(states), ["Open", "Blocked low on memory", "Open", "Closed"])
    })))

  it.live("holds back content alone: requests, settlements and close pass, a publish goes out once it is over", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { server } = all
      const channel = yield* confirmingOn(all)
      const [consumer] = yield* both(channel.consume({ queue: "q", consumerTag: "c" }), server.consume(1))
      yield* server.write(
        frame(0, { _tag: "connection.blocked", reason: "disk" }),
        content(1, deliver(consumer.consumerTag, 1), "x")
      )
      const [delivery] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 1))
      const publish = yield* start(channel.publish({ routingKey: "held", body: "held" }))
      const given = yield* start(channel.publish({ routingKey: "given up", body: "given up" }))
      if (delivery === undefined) return assert.fail("no delivery")
      assert.strictEqual(yield* delivery.ack, "Settled")
      yield* server.expect(1, "basic.ack")
      yield* assertAlive(all, channel)
      const other = yield* channelOn(all)
      yield* both(other.close, server.answer(2, "channel.close", { _tag: "channel.close-ok" }))
      yield* Fiber.interrupt(given)
      yield* server.send(0, { _tag: "connection.unblocked" })
      assert.strictEqual((yield* server.publish(1)).method.routingKey, "held")
      yield* server.send(1, { _tag: "basic.ack", deliveryTag: 1, multiple: false })
      yield* Fiber.join(publish)
      // What was given up took no number and was not written.
      yield* both(
        channel.publish({ routingKey: "next", body: "next" }),
        Effect.gen(function*() {
          assert.strictEqual((yield* server.publish(1)).method.routingKey, "next")
          yield* server.send(1, { _tag: "basic.ack", deliveryTag: 2, multiple: false })
        })
      )
    })))

  it.live("channel.flow stops and resumes one channel, and is answered each time", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const { server } = all
      const one = yield* channelOn(all)
      const two = yield* channelOn(all)
      yield* server.send(1, { _tag: "channel.flow", active: false })
      assert.isFalse((yield* server.expect(1, "channel.flow-ok")).active)
      const held = yield* start(one.publish({ routingKey: "one", body: "1" }))
      yield* two.publish({ routingKey: "two", body: "2" })
      assert.strictEqual((yield* server.publish(2)).method.routingKey, "two")
      yield* assertAlive(all, one)
      yield* server.send(1, { _tag: "channel.flow", active: true })
      assert.isTrue((yield* server.expect(1, "channel.flow-ok")).active)
      yield* Fiber.join(held)
      assert.strictEqual((yield* server.publish(1)).method.routingKey, "one")
    })))

  it.live("F89 a connection that is blocked closes in time, with publishers that wait", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened({ closeTimeout: "150 millis" })
      const channel = yield* confirmingOn(all)
      yield* all.server.send(0, { _tag: "connection.blocked", reason: "disk" })
      yield* assertAlive(all, channel)
      const publish = yield* start(failureOf(channel.publish({ body: "x" })))
      assert.isBelow(yield* millisOf(all.connection.close), 1500)
      // It was never written.
      assert.include(["AmqpChannelClosed", "AmqpConnectionError"], (yield* Fiber.join(publish))._tag)
      assert.deepStrictEqual(yield* all.server.restLines, ["0 connection.close"])
    })))
})

describe("heartbeats", () => {
  it.live(
    "the client beats every half interval, any byte is a sign of life, two silent intervals are the end",
    () =>
      hostile(Effect.gen(function*() {
        const all = yield* opened({ heartbeat: "1 second" }, { heartbeat: 1 })
        const channel = yield* channelOn(all)
        const began = Date.now()
        const waiting = yield* start(failureOf(channel.queueDeclare({ queue: "q" })))
        yield* all.server.expect(1, "queue.declare")
        // Three beats of ours keep it alive for 1.5 seconds: a heartbeat, a part of a frame, a method.
        const signs = [heartbeat, heartbeat.subarray(0, 3), heartbeat.subarray(3)]
        for (const sign of signs) {
          const sent = yield* all.server.frame
          assert.strictEqual(line(sent), "heartbeat")
          yield* all.server.write(sign)
        }
        const silent = Date.now()
        assert.isAbove(silent - began, 900)
        const error = yield* all.connection.closed
        const millis = Date.now() - silent
        assert.strictEqual(reasonOf(error, "HeartbeatTimeout").intervalSeconds, 1)
        assert.isAtLeast(millis, 1900)
        assert.isBelow(millis, 3500)
        assert.strictEqual(yield* Fiber.join(waiting), error)
        assert.deepStrictEqual(yield* all.server.restLines, [])
      })),
    15_000
  )
})

describe("secrets", () => {
  it.live("ML25 update-secret-ok that nobody asked for, then one that somebody did; a refusal is typed", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      yield* all.server.send(0, { _tag: "connection.update-secret-ok" })
      yield* assertAlive(all, yield* channelOn(all))
      const [, update] = yield* both(
        all.connection.updateSecret(Redacted.make(`${secret} renewed`), "time"),
        all.server.answer(0, "connection.update-secret", { _tag: "connection.update-secret-ok" })
      )
      assert.deepStrictEqual(update.newSecret, bytes(`${secret} renewed`))
      assert.strictEqual(update.reason, "time")
      const [refused] = yield* both(
        failureOf(all.connection.updateSecret(Redacted.make(secret))),
        Effect.andThen(
          all.server.expect(0, "connection.update-secret"),
          all.server.send(0, connectionClose(530, "NOT_ALLOWED - update-secret failed"))
        )
      )
      assert.strictEqual(reasonOf(refused, "NotAllowed").replyCode, 530)
      reasonOf(yield* failureOf(all.connection.updateSecret(Redacted.make(secret))), "NotAllowed")
    })))

  it.live("law 10: nothing that a program can print of a connection shows its password", () =>
    hostile(Effect.gen(function*() {
      const all = yield* opened()
      const channel = yield* confirmingOn(all)
      for (const value of [all.connection, channel, yield* all.connection.status, yield* all.connection.server]) {
        assert.notInclude(inspect(value, { depth: 20, showHidden: true, maxArrayLength: null }), secret)
        assert.notInclude(String(value), secret)
      }
      yield* all.server.link.reset
      const error = yield* all.connection.closed
      assert.instanceOf(error, AmqpConnectionError)
      assert.notInclude(inspect(error, { depth: 20 }), secret)
      yield* failureOf(openOn(all.connection))
    })))
})

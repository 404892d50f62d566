/**
 * What both sides agree on, and heartbeats: on RabbitMQ in real time, on a broker in memory to the millisecond.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Duration, Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpError from "../../src/AmqpError.ts"
import { AmqpTransport } from "../../src/AmqpTransport.ts"
import * as AmqpFaults from "../../src/testing/AmqpFaults.ts"
import { noLeaks } from "../harness/leaks.ts"
import { canControl, onVhost, proposing, Vhost } from "../harness/shared.ts"
import { type MemoryBroker, memoryBroker } from "./memoryBroker.ts"
import { runProgram } from "./program.ts"
import { connect, framesOf, nextFrame, nextMethod, noReconnect, openOn, proxied } from "./support.ts"

const limitsOf = (connection: AmqpConnection.AmqpConnection) => Effect.map(connection.server, ({ limits }) => limits)

layer(onVhost, { excludeTestServices: true })("tuning", (it) => {
  it.effect("TU01 tune-ok never exceeds what the server proposes, and the result is exposed", () =>
    noLeaks(Effect.gen(function*() {
      for (
        const options of [{}, { channelMax: 100, frameMax: 8192, heartbeat: 10 * 1000 }, {
          channelMax: 65_535,
          frameMax: 0xffff_ffff,
          heartbeat: 65_535_000
        }]
      ) {
        const { connection, link } = yield* proxied(options)
        const tune = yield* nextMethod(link, "down", "connection.tune")
        const { _tag, ...tuneOk } = yield* nextMethod(link, "up", "connection.tune-ok")
        assert.deepStrictEqual(yield* limitsOf(connection), tuneOk)
        for (const limit of ["channelMax", "frameMax", "heartbeat"] as const) {
          assert.isAbove(tune[limit], 0)
          assert.isAbove(tuneOk[limit], 0)
          assert.isAtMost(tuneOk[limit], tune[limit])
        }
      }
    })))

  it.effect("TU02 the smaller frame_max is kept: a message of 1 MB is split", () =>
    noLeaks(Effect.gen(function*() {
      const body = Uint8Array.from({ length: 1_000_003 }, (_, i) => i * 31 + (i >>> 8))
      for (const frameMax of [4096, 4097, 131_072]) {
        const { connection, link } = yield* proxied({ frameMax })
        assert.strictEqual((yield* limitsOf(connection)).frameMax, frameMax)
        const channel = yield* openOn(connection)
        yield* channel.confirmSelect
        const { queue } = yield* channel.queueDeclare({ exclusive: true })
        yield* channel.publish({ routingKey: queue, body })
        const got = yield* channel.get({ queue, noAck: true })
        assert.isTrue(got._tag === "Some" && Buffer.from(body).equals(got.value.delivery.body))
        for (const direction of ["up", "down"] as const) {
          const payloads = (yield* framesOf(link, direction)).flatMap((frame) =>
            frame._tag === "Body" ? [frame.payload.length] : []
          )
          const last = body.length % (frameMax - 8)
          assert.deepStrictEqual([...new Set(payloads)], [frameMax - 8, last])
          assert.lengthOf(payloads, Math.ceil(body.length / (frameMax - 8)))
        }
      }
    })))

  it.effect("TU02 a method or header that does not fit in a frame is an AmqpEncodeError", () =>
    noLeaks(Effect.gen(function*() {
      const connection = yield* connect({ frameMax: 4096 })
      const channel = yield* openOn(connection)
      const table = { x: "x".repeat(5000) }
      const declare = yield* Effect.flip(channel.queueDeclare({ exclusive: true, arguments: table }))
      assert.strictEqual(declare._tag, "AmqpEncodeError")
      const publish = yield* Effect.flip(channel.publish({ body: "", properties: { headers: table } }))
      assert.strictEqual(publish._tag, "AmqpEncodeError")
      yield* channel.queueDeclare({ exclusive: true })
    })))

  it.effect("TU03 limits that cannot be are an AmqpEncodeError, before anything is dialed", () =>
    Effect.gen(function*() {
      const transport = AmqpTransport.of({ connect: () => Effect.die("dialed") })
      const wrong: ReadonlyArray<readonly [string, AmqpConnection.Options]> = [
        ["frameMax", { frameMax: 4095 }],
        ["readInterval", { readInterval: "11 millis" }],
        ["readInterval", { readInterval: -1 }],
        ["frameMax", { frameMax: 1 }],
        ["frameMax", { frameMax: -1 }],
        ["frameMax", { frameMax: 4096.5 }],
        ["frameMax", { frameMax: 0x1_0000_0000 }],
        ["channelMax", { channelMax: 65_536 }],
        ["channelMax", { channelMax: -1 }],
        ["channelMax", { channelMax: NaN }],
        // TU08
        ["heartbeat", { heartbeat: "65536 seconds" }],
        ["heartbeat", { heartbeat: "1500 millis" }],
        ["heartbeat", { heartbeat: Duration.infinity }]
      ]
      for (const [path, options] of wrong) {
        const error = yield* AmqpConnection.make(options).pipe(
          Effect.provideService(AmqpTransport, transport),
          Effect.scoped,
          Effect.flip
        )
        assert.strictEqual(error._tag === "AmqpEncodeError" && error.path, `options.${path}`, JSON.stringify(options))
      }
    }))

  it.effect("readInterval reaches the transport, through faults, too: 1 ms, or what is asked for", () =>
    Effect.gen(function*() {
      const seen: Array<number | undefined> = []
      const [, transport] = yield* AmqpFaults.make(AmqpTransport.of({
        connect: (_, options) => {
          seen.push(options && Duration.toMillis(options.readInterval))
          return Effect.die("dialed")
        }
      }))
      for (const options of [{}, { readInterval: 0 }, { readInterval: "10 millis" as const }]) {
        yield* AmqpConnection.make(options).pipe(
          Effect.provideService(AmqpTransport, transport),
          Effect.scoped,
          Effect.flip
        )
      }
      assert.deepStrictEqual(seen, [1, 0, 10])
    }))

  describe.runIf(canControl)("with a broker that proposes something else", () => {
    it.effect("TU07 a server without limits gets the client's", () =>
      Effect.gen(function*() {
        const connection = yield* connect()
        assert.deepInclude(yield* limitsOf(connection), { channelMax: 65_535, frameMax: 131_072 })
        const wished = yield* connect({ channelMax: 3, frameMax: 10_000 })
        assert.deepInclude(yield* limitsOf(wished), { channelMax: 3, frameMax: 10_000 })
      }).pipe(noLeaks, proposing({ channelMax: 0, frameMax: 0 })))

    it.effect("TU08 the shorter heartbeat applies; the client may turn it off, the server may leave it to the client", () =>
      Effect.gen(function*() {
        const cases = [[60, 10, 10], [10, 60, 10], [60, 0, 0], [0, 10, 10], [0, 0, 0]] as const
        for (const [server, client, agreed] of cases) {
          yield* Effect.gen(function*() {
            const { connection, link } = yield* proxied({ heartbeat: Duration.seconds(client) })
            assert.strictEqual((yield* nextMethod(link, "down", "connection.tune")).heartbeat, server)
            assert.strictEqual((yield* nextMethod(link, "up", "connection.tune-ok")).heartbeat, agreed)
            assert.strictEqual((yield* limitsOf(connection)).heartbeat, agreed)
          }).pipe(noLeaks, proposing({ heartbeat: server }))
        }
      }))
  })

  it.effect("TU09 an idle connection is kept alive by heartbeats in both directions", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied({ heartbeat: "2 seconds" })
      yield* nextMethod(link, "up", "connection.open")
      yield* nextMethod(link, "down", "connection.open-ok")
      for (let i = 0; i < 5; i++) {
        // One after each second of silence, or two; RabbitMQ would close after four to six.
        const up = yield* Effect.timeout(nextFrame(link, "up"), "3 seconds")
        const down = yield* Effect.timeout(nextFrame(link, "down"), "3 seconds")
        assert.deepStrictEqual([up._tag, down._tag], ["Heartbeat", "Heartbeat"])
      }
      assert.strictEqual((yield* connection.status)._tag, "Open")
    })))

  it.effect("a peer that vanished behind a hole is HeartbeatTimeout after two intervals", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* proxied({ heartbeat: "1 second" })
      const channel = yield* openOn(connection)
      yield* proxy.set("down", { mode: "hole" })
      const waiting = yield* Effect.forkChild(Effect.flip(channel.queueDeclare()))
      const error = yield* Effect.timeout(connection.closed, "4 seconds")
      assert.deepInclude(error.reason, { _tag: "HeartbeatTimeout", intervalSeconds: 1 })
      assert.isTrue(AmqpError.isTransient(error))
      assert.strictEqual(yield* Fiber.join(waiting), error)
      // The socket is ours to close.
      yield* Effect.flip(Effect.forever(link.read("up", 1)))
      yield* link.reset
    })))

  it.effect("TU13 no heartbeat keeps the process alive after the close", () =>
    noLeaks(Effect.gen(function*() {
      const { amqpUrl } = yield* Vhost
      const program = yield* runProgram(`
        import { Effect, Redacted } from "effect"
        import * as AmqpConnection from "src/AmqpConnection.ts"
        import { layerTransport } from "src/NodeAmqp.ts"
        const url = ${JSON.stringify(amqpUrl)}
        await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const connection = yield* AmqpConnection.make({ url, heartbeat: "60 seconds" })
          const { limits } = yield* connection.server
          console.log(limits.heartbeat)
          // Gives the heartbeat the time to start.
          yield* connection.updateSecret(Redacted.make("guest"))
          yield* connection.close
        })).pipe(Effect.provide(layerTransport)))
        console.log("closed")`)
      assert.strictEqual(yield* program.line, "60")
      assert.strictEqual(yield* program.line, "closed")
      assert.strictEqual(yield* Effect.timeout(program.exited, "5 seconds"), 0)
    })))
})

const open = (broker: MemoryBroker, options: AmqpConnection.Options = {}) =>
  AmqpConnection.make({ reconnect: noReconnect, ...options }).pipe(
    Effect.provideService(AmqpTransport, broker.transport)
  )

describe("heartbeats, in memory", () => {
  const beats = (broker: MemoryBroker) => broker.received.filter(({ _tag }) => _tag === "Heartbeat").length

  it.effect("TU09 one for each half interval in which nothing else was written, none otherwise", () =>
    Effect.gen(function*() {
      const broker = memoryBroker({ script: { "basic.qos": () => [{ _tag: "basic.qos-ok" }] } })
      const connection = yield* open(broker, { heartbeat: "10 seconds" })
      const channel = yield* openOn(connection)
      // The handshake was written in the first half interval.
      yield* TestClock.adjust("9999 millis")
      assert.strictEqual(beats(broker), 0)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(beats(broker), 1)
      for (let i = 0; i < 4; i++) {
        yield* channel.qos({ prefetchCount: 1 })
        yield* TestClock.adjust("5 seconds")
      }
      assert.strictEqual(beats(broker), 1)
      broker.sendHeartbeat()
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(beats(broker), 2)
      assert.strictEqual((yield* connection.status)._tag, "Open")
    }))

  it.effect("silence of two intervals is HeartbeatTimeout; any byte is a sign of life", () =>
    Effect.gen(function*() {
      const broker = memoryBroker()
      const connection = yield* open(broker, { heartbeat: "10 seconds" })
      const ended = yield* Effect.forkChild(connection.closed, { startImmediately: true })
      for (let i = 0; i < 3; i++) {
        yield* TestClock.adjust("15 seconds")
        broker.sendHeartbeat()
      }
      yield* TestClock.adjust("19 seconds")
      assert.strictEqual((yield* connection.status)._tag, "Open")
      yield* TestClock.adjust("6 seconds")
      const error = yield* Fiber.join(ended)
      assert.deepInclude(error.reason, { _tag: "HeartbeatTimeout", intervalSeconds: 10 })
      assert.isTrue(broker.isClosed())
      const count = beats(broker)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(beats(broker), count)
    }))

  it.effect("TU08 without heartbeats silence is no end, and nothing is sent", () =>
    Effect.gen(function*() {
      const broker = memoryBroker({ tune: { heartbeat: 10 } })
      const connection = yield* open(broker, { heartbeat: 0 })
      yield* TestClock.adjust("1 day")
      assert.strictEqual(beats(broker), 0)
      assert.strictEqual((yield* connection.status)._tag, "Open")
    }))

  it.effect("TU06 a frame_max with the high bit set is a large number", () =>
    Effect.gen(function*() {
      const broker = memoryBroker({ tune: { frameMax: 0x8000_0000 } })
      assert.strictEqual((yield* limitsOf(yield* open(broker))).frameMax, 0x8000_0000)
      const limited = memoryBroker({ tune: { frameMax: 0x8000_0000 } })
      assert.strictEqual((yield* limitsOf(yield* open(limited, { frameMax: 5000 }))).frameMax, 5000)
    }))

  it.effect("TU13 no heartbeat follows a close", () =>
    Effect.gen(function*() {
      const broker = memoryBroker()
      const connection = yield* open(broker, { heartbeat: "10 seconds" })
      const states = yield* Effect.forkChild(Stream.runCollect(connection.changes), { startImmediately: true })
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(beats(broker), 1)
      yield* connection.close
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(beats(broker), 1)
      assert.deepStrictEqual((yield* Fiber.join(states)).map(({ _tag }) => _tag), ["Open", "Closed"])
    }))
})

/**
 * Faults in front of the embedded broker, under `TestClock`: what a program sees of each, and that nothing is left.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Fiber, Layer, Queue, Redacted, Schedule, Schema, type Scope, Stream } from "effect"
import { Socket } from "effect/socket"
import { TestClock } from "effect/testing"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import { AmqpTransport } from "../../src/AmqpTransport.ts"
import * as AmqpBroker from "../../src/testing/AmqpBroker.ts"
import * as AmqpFaults from "../../src/testing/AmqpFaults.ts"
import { cases } from "./faultCases.ts"

/** Frames that belong to a channel. */
type ChannelName = Exclude<AmqpFaults.FrameName, "heartbeat" | `connection.${string}`>

const transport = AmqpFaults.layer.pipe(Layer.provideMerge(AmqpBroker.layer()))

/** A connection that comes back at once. */
const connection = AmqpConnection.layer({ reconnect: Schedule.forever })

/** Runs a test with a broker of its own, which must hold nothing of it in the end. */
const withBroker = <A, E, R>(test: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const broker = yield* AmqpBroker.AmqpBroker
    const faults = yield* AmqpFaults.AmqpFaults
    const result = yield* Effect.scoped(test)
    assert.deepStrictEqual(yield* broker.connections, [])
    assert.deepStrictEqual(yield* broker.queues, [])
    assert.deepStrictEqual(yield* faults.connections, [])
    return result
  }).pipe(Effect.provide(transport))

/** A connection that is over at its first loss. */
const connect = (options: AmqpConnection.Options = {}) =>
  AmqpConnection.make({ reconnect: Schedule.recurs(0), ...options })

const openOn = (connection: AmqpConnection.AmqpConnection) =>
  Effect.provideService(AmqpChannel.open, AmqpConnection.AmqpConnection, connection)

/** Lets everything happen that takes no time. */
const settle = TestClock.adjust(0)

/** A channel that confirms, on a connection of its own. */
const confirming = (options?: AmqpConnection.Options) =>
  Effect.gen(function*() {
    const connection = yield* connect(options)
    const channel = yield* openOn(connection)
    const { queue } = yield* channel.queueDeclare({ exclusive: true })
    yield* channel.confirmSelect
    const publish = (body: string | Uint8Array) => channel.publish({ routingKey: queue, body })
    return { connection, channel, queue, publish }
  })

/** How many virtual milliseconds an effect takes, in steps of `step`. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>, step = 1) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
    yield* settle
    let millis = 0
    while (fiber.pollUnsafe() === undefined) {
      yield* TestClock.adjust(step)
      millis += step
    }
    yield* Fiber.join(fiber)
    return millis
  })

describe("what a program sees", () => {
  for (const { name, run } of cases) {
    it.effect(name, () => withBroker(Effect.provide(Effect.scoped(run), connection, { local: true })))
  }
})

describe("time", () => {
  it.effect("a delay is a way there and a way back, and lasts as long as its scope", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { publish } = yield* confirming()
      const slow = Effect.scoped(
        Effect.andThen(faults.inject(AmqpFaults.delay("1 second")), timed(publish("slow"), 100))
      )
      assert.strictEqual(yield* slow, 2000)
      const one = Effect.scoped(
        Effect.andThen(faults.inject(AmqpFaults.delay("300 millis", "down")), timed(publish("slow"), 100))
      )
      assert.strictEqual(yield* one, 300)
      assert.strictEqual(yield* timed(publish("fast")), 0)
    })))

  it.effect("what is written during a delay is on its way, one behind the other", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { publish } = yield* confirming()
      yield* faults.inject(AmqpFaults.delay("1 second", "up"))
      const first = yield* Effect.forkChild(publish("1"), { startImmediately: true })
      yield* TestClock.adjust("600 millis")
      const second = yield* Effect.forkChild(publish("2"), { startImmediately: true })
      yield* TestClock.adjust("400 millis")
      assert.isDefined(first.pollUnsafe())
      assert.isUndefined(second.pollUnsafe())
      yield* TestClock.adjust("600 millis")
      assert.isDefined(second.pollUnsafe())
      yield* faults.heal
    })))

  it.effect("a delay at a reply holds it back and what is behind it", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { channel, publish, queue } = yield* confirming()
      const armed = yield* faults.at(AmqpFaults.down("queue.purge-ok"), AmqpFaults.pause("5 seconds", "down"))
      const purging = yield* Effect.forkChild(channel.queuePurge(queue), { startImmediately: true })
      yield* armed.fired
      const publishing = yield* Effect.forkChild(publish("behind"), { startImmediately: true })
      yield* TestClock.adjust(4999)
      assert.isUndefined(purging.pollUnsafe())
      assert.isUndefined(publishing.pollUnsafe())
      yield* TestClock.adjust(1)
      yield* Fiber.join(purging)
      yield* Fiber.join(publishing)
    })))

  it.effect("a throttled line takes its time for every byte", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { publish } = yield* confirming()
      yield* faults.inject(AmqpFaults.throttle(10_000, "up"))
      const [before] = yield* faults.connections
      const millis = yield* timed(publish(new Uint8Array(30_000)), 10)
      const [after] = yield* faults.connections
      const bytes = (after?.bytes.up ?? 0) - (before?.bytes.up ?? 0)
      assert.isAbove(bytes, 30_000)
      assert.approximately(millis, bytes / 10, 20)
      yield* faults.heal
      assert.strictEqual(yield* timed(publish(new Uint8Array(30_000))), 0)
    })))

  it.effect("a confirm that is late is late by itself", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { publish } = yield* confirming()
      yield* faults.at(AmqpFaults.confirm(), AmqpFaults.confirmLate("3 seconds"))
      const late = yield* Effect.forkChild(timed(publish("late"), 1000), { startImmediately: true })
      yield* publish("next")
      assert.strictEqual(yield* Fiber.join(late), 3000)
    })))

  it.effect("a confirm that is lost is noticed by a publisher with a confirmTimeout, which sends again", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const broker = yield* AmqpBroker.AmqpBroker
      const { channel, connection, queue } = yield* confirming()
      const publisher = yield* AmqpPublisher.make({ confirmTimeout: "1 second" }).pipe(
        Effect.provideService(AmqpConnection.AmqpConnection, connection)
      )
      const message = { routingKey: queue, body: "again" }
      yield* faults.at(AmqpFaults.confirm(), AmqpFaults.confirmLost)
      const publishing = yield* Effect.forkChild(publisher.publish(message, { resend: Schedule.recurs(1) }))
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(publishing)
      const messages = yield* broker.messages(queue)
      assert.strictEqual(messages.length, 2)
      assert.strictEqual(new Set(messages.map(({ message }) => message.properties.messageId)).size, 1)
      // Its channel would wait for the confirm.
      const [other] = (yield* faults.connections)[0]?.channels.filter((id) => id !== channel.id) ?? []
      yield* faults.inject(AmqpFaults.channelClose(406, "end"), { channel: other ?? 0 })
    })))
})

describe("half-open connections", () => {
  it.effect("a client that hears nothing gives up after its heartbeats", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { connection, publish } = yield* confirming({ heartbeat: "10 seconds" })
      const armed = yield* faults.at(
        AmqpFaults.after(AmqpFaults.up("basic.publish")),
        AmqpFaults.halfOpen("down")
      )
      const publishing = yield* Effect.forkChild(Effect.flip(publish("doubt")), { startImmediately: true })
      yield* armed.fired
      yield* TestClock.adjust("30 seconds")
      const error = yield* Fiber.join(publishing)
      assert.strictEqual(error._tag, "AmqpPublishUnconfirmed")
      assert.strictEqual((yield* connection.closed).reason._tag, "HeartbeatTimeout")
    })))

  it.effect("a broker that hears nothing keeps the connection of a client that has gone, until its heartbeats", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const broker = yield* AmqpBroker.AmqpBroker
      const gone = yield* Effect.scoped(Effect.gen(function*() {
        yield* faults.at(AmqpFaults.up("queue.purge"), AmqpFaults.halfOpen("up"))
        const client = yield* Effect.forkChild(
          Effect.scoped(Effect.gen(function*() {
            const { channel, queue } = yield* confirming({ heartbeat: "10 seconds" })
            yield* channel.queuePurge(queue)
          })),
          { startImmediately: true }
        )
        yield* settle
        const leave = yield* Effect.forkChild(Fiber.interrupt(client), { startImmediately: true })
        yield* TestClock.adjust("15 seconds")
        yield* Fiber.join(leave)
        assert.strictEqual((yield* broker.connections).length, 1)
        yield* TestClock.adjust("30 seconds")
        return (yield* broker.connections).length
      }))
      assert.strictEqual(gone, 0)
    })))

  it.effect("when it is healed, a connection that has lost bytes is reset", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { channel, connection, queue } = yield* confirming({ heartbeat: "0 seconds" })
      yield* faults.inject(AmqpFaults.halfOpen())
      yield* faults.heal
      assert.strictEqual(yield* channel.queuePurge(queue), 0)
      yield* faults.inject(AmqpFaults.halfOpen())
      const purging = yield* Effect.forkChild(Effect.flip(channel.queuePurge(queue)), { startImmediately: true })
      yield* settle
      yield* faults.heal
      assert.strictEqual((yield* Fiber.join(purging))._tag, "AmqpConnectionError")
      assert.strictEqual((yield* connection.closed).reason._tag, "ConnectionLost")
    })))

  it.effect("a consumer goes on over another connection, and its unsettled messages come when the old one is gone", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { channel } = yield* confirming()
      const name = "work"
      yield* channel.queueDeclare({ queue: name })
      yield* channel.publish({ routingKey: name, body: "job" })
      const seen: Array<boolean> = []
      const consuming = yield* Effect.gen(function*() {
        const connection = yield* connect({ heartbeat: "10 seconds", reconnect: Schedule.forever })
        yield* AmqpConsumer.stream(name, { recover: Schedule.forever }).pipe(
          Stream.tap((delivery) =>
            Effect.suspend(() => {
              seen.push(delivery.redelivered)
              return delivery.redelivered ? Effect.asVoid(delivery.ack) : Effect.void
            })
          ),
          Stream.takeUntil(({ redelivered }) => redelivered),
          Stream.runDrain,
          Effect.provideService(AmqpConnection.AmqpConnection, connection)
        )
      }).pipe(Effect.scoped, Effect.forkChild({ startImmediately: true }))
      yield* settle
      assert.deepStrictEqual(seen, [false])
      yield* Effect.forkScoped(faults.inject(AmqpFaults.halfOpen(), { connection: 2 }))
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(seen, [false, true])
      yield* Fiber.join(consuming)
      yield* channel.queueDelete({ queue: name })
    })))
})

describe("connecting", () => {
  it.effect("refused connections fail as the system refuses them, so many or as long as it lasts", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      yield* faults.inject(AmqpFaults.refuse(1))
      const error = yield* Effect.flip(connect())
      assert(error._tag === "AmqpConnectionError" && error.reason._tag === "ConnectFailed")
      assert.strictEqual(error.reason.code, "ECONNREFUSED")
      yield* connect()
      yield* Effect.scoped(Effect.gen(function*() {
        yield* faults.inject(AmqpFaults.refuse())
        for (let i = 0; i < 3; i++) assert.strictEqual((yield* Effect.flip(connect()))._tag, "AmqpConnectionError")
      }))
      yield* connect()
      assert.deepStrictEqual((yield* faults.connections).map(({ connection }) => connection), [1, 2])
    })))

  it.effect("each step of the handshake can fail, and its end is typed", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      // A broker that hangs up in place of an answer refuses what it was told.
      const steps = [
        ["connection.start", "ConnectionLost"],
        ["connection.tune", "AuthenticationFailed"],
        ["connection.open-ok", "NegotiationFailed"]
      ] as const
      for (const [step, tag] of steps) {
        yield* Effect.scoped(Effect.gen(function*() {
          yield* faults.at(AmqpFaults.down(step), AmqpFaults.reset)
          const error = yield* Effect.flip(connect())
          assert.strictEqual(error._tag === "AmqpConnectionError" && error.reason._tag, tag)
        }))
        yield* Effect.scoped(Effect.gen(function*() {
          yield* faults.at(AmqpFaults.down(step), AmqpFaults.halfOpen("down"))
          const connecting = yield* Effect.forkChild(Effect.flip(connect()), { startImmediately: true })
          yield* TestClock.adjust("11 seconds")
          const error = yield* Fiber.join(connecting)
          assert.strictEqual(error._tag === "AmqpConnectionError" && error.reason._tag, "HandshakeTimeout")
        }))
      }
      yield* faults.at(AmqpFaults.up("connection.open"), AmqpFaults.connectionClose(530, "NOT_ALLOWED - no vhost"))
      const error = yield* Effect.flip(connect())
      assert.strictEqual(error._tag === "AmqpConnectionError" && error.reason._tag, "NotAllowed")
    })))
})

describe("arming", () => {
  it.effect("once, so often, or whenever; until its scope closes", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { publish } = yield* confirming()
      const publishAll = Effect.forEach(["0", "1", "2", "3"], (body) => Effect.isSuccess(publish(body)))
      const nacked = (options?: AmqpFaults.AtOptions) =>
        Effect.scoped(Effect.gen(function*() {
          const armed = yield* faults.at(AmqpFaults.confirm({ nth: 2 }), AmqpFaults.confirmNacked, options)
          const outcomes = yield* publishAll
          return [outcomes, yield* armed.count]
        }))
      assert.deepStrictEqual(yield* nacked(), [[true, false, true, true], 1])
      assert.deepStrictEqual(yield* nacked({ times: 2 }), [[true, false, false, true], 2])
      assert.deepStrictEqual(yield* nacked({ times: Infinity }), [[true, false, false, false], 3])
      assert.deepStrictEqual(yield* publishAll, [true, true, true, true])
    })))

  it.effect("a condition that struck ends with the scope in which it was armed", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { publish } = yield* confirming()
      yield* Effect.scoped(Effect.gen(function*() {
        yield* faults.at(AmqpFaults.up("basic.publish"), AmqpFaults.delay("1 second", "down"))
        assert.strictEqual(yield* timed(publish("slow"), 500), 1000)
      }))
      assert.strictEqual(yield* timed(publish("fast")), 0)
    })))

  it.effect("what strikes is in the log and in the stream", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const seen = yield* Effect.forkChild(Stream.runCollect(Stream.take(faults.strikes, 2)), {
        startImmediately: true
      })
      const { channel, publish } = yield* confirming()
      yield* faults.at(AmqpFaults.confirm(), AmqpFaults.confirmNacked)
      yield* Effect.flip(publish("x"))
      yield* TestClock.adjust(5)
      yield* faults.inject(AmqpFaults.channelClose(406, "PRECONDITION_FAILED"), { channel: channel.id })
      const expected: ReadonlyArray<AmqpFaults.Fired> = [
        {
          fault: AmqpFaults.confirmNacked,
          at: 0,
          connection: 1,
          channel: 1,
          frame: { direction: "down", name: "basic.ack" }
        },
        {
          fault: AmqpFaults.channelClose(406, "PRECONDITION_FAILED"),
          at: 5,
          connection: 1,
          channel: 1,
          frame: undefined
        }
      ]
      assert.deepStrictEqual(yield* faults.log, expected)
      assert.deepStrictEqual(yield* Fiber.join(seen), expected)
    })))

  it.effect("an injection that strikes nothing is an error", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const none = yield* Effect.flip(faults.inject(AmqpFaults.reset))
      assert.strictEqual(none._tag, "AmqpFaultMissed")
      assert.include(none.message, "Reset was injected and there is no open connection")
      yield* confirming()
      const missed = [
        faults.inject(AmqpFaults.reset, { connection: 2 }),
        faults.inject(AmqpFaults.channelClose(406, ""), { channel: 5 }),
        faults.inject(AmqpFaults.consumerCancel({ queue: "none" })),
        faults.inject(AmqpFaults.halfOpen(), { connection: 2 }),
        faults.inject(AmqpFaults.delay(1), { connection: 2 })
      ]
      for (const one of missed) assert.strictEqual((yield* Effect.flip(one))._tag, "AmqpFaultMissed")
      assert.deepStrictEqual(yield* faults.log, [])
    })))

  it("does not compile where a fault has nothing to strike at its point", () => {
    const impossible = (faults: AmqpFaults.AmqpFaults) => [
      // @ts-expect-error bytes belong to no channel
      faults.at(AmqpFaults.bytes("up", 10), AmqpFaults.channelClose(406, "")),
      // @ts-expect-error a heartbeat belongs to no channel
      faults.at(AmqpFaults.up("heartbeat"), AmqpFaults.channelClose(406, "")),
      // @ts-expect-error nor do the methods of the connection
      faults.at(AmqpFaults.down("connection.tune"), AmqpFaults.channelClose(406, "")),
      // @ts-expect-error what has passed cannot be dropped
      faults.at(AmqpFaults.after(AmqpFaults.up("basic.publish")), AmqpFaults.drop),
      // @ts-expect-error only confirms are lost as such
      faults.at(AmqpFaults.up("basic.publish"), AmqpFaults.confirmLost),
      // @ts-expect-error a confirm is no place for a reset: `down("basic.ack")` is
      faults.at(AmqpFaults.confirm(), AmqpFaults.reset),
      // @ts-expect-error nothing passes where nothing is connected
      faults.at(AmqpFaults.up("basic.publish"), AmqpFaults.refuse()),
      // @ts-expect-error brokers deliver
      AmqpFaults.up("basic.deliver"),
      // @ts-expect-error clients publish
      AmqpFaults.down("basic.publish"),
      // @ts-expect-error which channel?
      faults.inject(AmqpFaults.channelClose(406, "")),
      // @ts-expect-error which frame?
      faults.inject(AmqpFaults.drop),
      // @ts-expect-error a consumer has no such field
      AmqpFaults.down("basic.consume-ok", { where: ({ queue }) => queue === "q" })
    ]
    assert.isFunction(impossible)
  })
})

describe("wherever it strikes", () => {
  /** A bit of everything; what fails, fails. */
  const session = (connection: AmqpConnection.AmqpConnection) =>
    Effect.scoped(Effect.gen(function*() {
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.confirmSelect
      const { deliveries } = yield* channel.consume({ queue })
      yield* channel.publish({ routingKey: queue, body: "a body", mandatory: true })
      yield* channel.publish({ routingKey: queue, body: new Uint8Array(10_000) })
      yield* Stream.runForEach(Stream.take(deliveries, 2), ({ ack }) => ack)
    }))

  /** What the broker says that the client has done wrong. */
  const offences = (events: ReadonlyArray<AmqpBroker.BrokerEvent>) =>
    events.flatMap((event) =>
      (event._tag === "ConnectionClosed" || event._tag === "ChannelClosed") && /_/.test(event.reason)
        ? [event.reason]
        : []
    )

  /** Runs a session with a fault in it, then another one without; the broker must find nothing wrong with either. */
  const twice = (
    arm: (faults: AmqpFaults.AmqpFaults) => Effect.Effect<AmqpFaults.Armed, never, Scope.Scope>
  ) =>
    withBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const faults = yield* AmqpFaults.AmqpFaults
      const events: Array<AmqpBroker.BrokerEvent> = []
      yield* Effect.forkScoped(
        Stream.runForEach(broker.events, (event) => Effect.sync(() => void events.push(event))),
        { startImmediately: true }
      )
      const fired = yield* Effect.scoped(Effect.gen(function*() {
        const { count } = yield* arm(faults)
        const connection = yield* connect({ frameMax: 4096, reconnect: Schedule.forever })
        const faulty = yield* Effect.forkChild(Effect.exit(session(connection)), { startImmediately: true })
        while (faulty.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
        const struck = yield* count
        // Far offsets are in this one.
        yield* Effect.retry(session(connection), Schedule.recurs(1))
        return struck
      }))
      yield* settle
      assert.deepStrictEqual(offences(events), [])
      return fired
    }))

  const names: ReadonlyArray<AmqpFaults.FramePoint<ChannelName>> = [
    ...(["channel.open", "queue.declare", "confirm.select", "basic.consume", "basic.ack", "channel.close"] as const)
      .map((name) => AmqpFaults.up(name)),
    ...(["basic.publish", "header", "body"] as const).flatMap((name) => [
      AmqpFaults.up(name),
      AmqpFaults.up(name, { nth: 2 })
    ]),
    ...(["channel.open-ok", "queue.declare-ok", "confirm.select-ok", "basic.consume-ok", "basic.ack"] as const)
      .map((name) => AmqpFaults.down(name)),
    ...(["basic.deliver", "header", "body"] as const).flatMap((name) => [
      AmqpFaults.down(name),
      AmqpFaults.down(name, { nth: 2 })
    ])
  ]

  for (const point of names) {
    const at = `${point.direction} ${point.name}${point.nth === undefined ? "" : ` ${point.nth}`}`
    it.effect(`${at}: a channel or connection is closed and a consumer is cancelled in good order`, () =>
      Effect.gen(function*() {
        const close = AmqpFaults.channelClose(406, "because")
        assert.strictEqual(yield* twice((faults) => faults.at(point, close)), 1)
        // Behind the client's own close there is nothing to be closed.
        const isOver = point.name === "channel.close"
        assert.strictEqual(yield* twice((faults) => faults.at(AmqpFaults.after(point), close)), isOver ? 0 : 1)
        const end = AmqpFaults.connectionClose(320, "because")
        assert.strictEqual(yield* twice((faults) => faults.at(point, end)), 1)
        assert.strictEqual(yield* twice((faults) => faults.at(AmqpFaults.after(point), end)), 1)
        yield* twice((faults) => faults.at(AmqpFaults.after(point), AmqpFaults.consumerCancel()))
      }))
  }

  it.effect.prop(
    "between any two bytes a connection is closed in good order",
    [
      Schema.Literals(["up", "down"]),
      Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 12_000 }))
    ],
    ([direction, offset]) =>
      twice((faults) =>
        faults.at(AmqpFaults.bytes(direction, offset, { connection: 1 }), AmqpFaults.connectionClose(320, "because"))
      ),
    { arbitrary: { runs: 60 } }
  )

  it.effect("a predicate that throws is the end of the connection, not of its news", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { channel, queue } = yield* confirming()
      const where = () => {
        throw new Error("a bug in the test")
      }
      yield* faults.at(AmqpFaults.down("queue.purge-ok", { where }), AmqpFaults.reset)
      const error = yield* Effect.flip(channel.queuePurge(queue))
      assert.include(error.message, "a bug in the test")
    })))
})

describe("faults from a seed", () => {
  const options: AmqpFaults.RandomOptions = {
    seed: 42,
    faults: [
      { fault: AmqpFaults.reset, weight: 3 },
      { fault: AmqpFaults.connectionClose(320, "CONNECTION_FORCED"), weight: 2 },
      { fault: AmqpFaults.consumerCancel() },
      { fault: AmqpFaults.halfOpen(), for: "4 seconds" },
      { fault: AmqpFaults.delay("200 millis"), for: "1 second" },
      { fault: AmqpFaults.split(3), for: "1 second" },
      { fault: AmqpFaults.throttle(50_000), for: "1 second" },
      { fault: AmqpFaults.refuse(), for: "1 second" },
      { fault: AmqpFaults.blocked(), for: "1 second" }
    ]
  }

  it.effect("the same seed draws the same, another draws something else", () =>
    Effect.gen(function*() {
      const first = yield* AmqpFaults.draw(options, 50)
      assert.deepStrictEqual(yield* AmqpFaults.draw(options, 50), first)
      assert.deepStrictEqual((yield* AmqpFaults.draw(options, 60)).slice(0, 50), first)
      assert.notDeepEqual(yield* AmqpFaults.draw({ ...options, seed: 43 }, 50), first)
      assert.strictEqual(new Set(first.map(({ fault }) => fault._tag)).size, options.faults.length)
    }))

  it.effect("each message is delivered, whatever is drawn, and it is the same each time", () => {
    const run = withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const broker = yield* AmqpBroker.AmqpBroker
      yield* Effect.scoped(Effect.flatMap(confirming(), ({ channel }) => channel.queueDeclare({ queue: "work" })))
      const wanted = new Set(Array.from({ length: 100 }, (_, i) => String(i)))
      const program = Effect.gen(function*() {
        const publisher = yield* AmqpPublisher.make({ confirmTimeout: "5 seconds" })
        const publishing = Effect.forEach(
          [...wanted],
          (body) =>
            Effect.andThen(
              Effect.sleep("300 millis"),
              publisher.publish({ routingKey: "work", body }, { resend: Schedule.spaced("1 second") })
            ),
          { discard: true }
        )
        const consuming = AmqpConsumer.stream("work", { recover: Schedule.spaced("100 millis"), prefetch: 5 }).pipe(
          Stream.tap((delivery) => Effect.andThen(Effect.sync(() => wanted.delete(delivery.text)), delivery.ack)),
          Stream.takeUntil(() => wanted.size === 0),
          Stream.runDrain
        )
        yield* Effect.all([publishing, consuming], { concurrency: "unbounded" })
      }).pipe(
        Effect.scoped,
        Effect.provide(
          AmqpConnection.layer({ heartbeat: "2 seconds", reconnect: Schedule.spaced("100 millis") }),
          { local: true }
        )
      )
      const log = yield* Effect.scoped(Effect.gen(function*() {
        const running = yield* Effect.forkChild(program)
        yield* settle
        yield* faults.random({
          ...options,
          schedule: Schedule.spaced("1500 millis").pipe(Schedule.upTo({ times: 40 }))
        })
        while (running.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
        yield* Fiber.join(running)
        return yield* faults.log
      }))
      assert.strictEqual(wanted.size, 0)
      assert.isAbove(log.length, 10)
      yield* broker.deleteQueue("work")
      return log
    }))
    return Effect.gen(function*() {
      const first = yield* run
      const start = first[0]?.at ?? 0
      const second = yield* run
      const shift = (second[0]?.at ?? 0) - start
      assert.deepStrictEqual(second.map((one) => ({ ...one, at: one.at - shift })), first)
    })
  })
})

describe("the tap", () => {
  it.effect("shows frames and their fate, and no secret", () =>
    withBroker(Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const seen: Array<AmqpFaults.TappedFrame> = []
      yield* Effect.forkScoped(
        Stream.runForEach(faults.frames, (frame) => Effect.sync(() => void seen.push(frame))),
        { startImmediately: true }
      )
      const { channel, connection, queue } = yield* confirming({ url: Redacted.make("amqp://guest:guest@localhost") })
      yield* faults.at(AmqpFaults.up("basic.publish"), AmqpFaults.drop)
      yield* Effect.forkScoped(channel.publish({ routingKey: queue, body: "dropped" }), { startImmediately: true })
      yield* faults.at(AmqpFaults.up("queue.purge"), AmqpFaults.channelClose(406, "no"))
      yield* Effect.exit(channel.queuePurge(queue))
      yield* Effect.exit(Effect.timeout(connection.updateSecret(Redacted.make("token")), 0))
      yield* settle
      const lines = seen.flatMap(({ direction, fate, frame }) =>
        frame._tag === "Method" ? [`${direction} ${frame.method._tag} ${fate}`] : [`${direction} ${frame._tag} ${fate}`]
      )
      assert.includeMembers(lines, [
        "up connection.start-ok passed",
        "down connection.open-ok passed",
        "up basic.publish dropped",
        "up Header dropped",
        "up Body dropped",
        "up queue.purge dropped",
        "down channel.close injected",
        "up channel.close injected",
        "up channel.close-ok dropped",
        "down channel.close-ok dropped",
        "up connection.update-secret passed"
      ])
      const printed = JSON.stringify(seen.map(({ frame }) =>
        frame._tag === "Method"
          ? Object.values(frame.method).map((one) => one instanceof Uint8Array ? [...one] : one)
          : ""
      ))
      assert.notInclude(printed, JSON.stringify([...new TextEncoder().encode("guest")]).slice(1, -1))
      assert.notInclude(printed, JSON.stringify([...new TextEncoder().encode("token")]).slice(1, -1))
    })))
})

describe("backpressure", () => {
  /** A peer that says what it is asked for: chunks are offered by hand, and writes wait for a permit. */
  const scripted = Effect.gen(function*() {
    const down = yield* Queue.unbounded<Uint8Array, Socket.SocketError>()
    const permits = yield* Queue.unbounded<void>()
    const received: Array<Uint8Array> = []
    let pulls = 0
    let open = 0
    const socket = Socket.make({
      reader: Effect.acquireRelease(
        Effect.sync(() => {
          open++
          const pull = Effect.suspend(() => {
            pulls++
            return Effect.map(Queue.take(down), (chunk): [Uint8Array] => [chunk])
          })
          return { pull, upgrade: Socket.SocketUpgradeError.unsupported }
        }),
        () => Effect.sync(() => open--)
      ),
      writer: Effect.succeed({
        write: () => Effect.void,
        writeAll: (chunks) =>
          Effect.map(Queue.take(permits), () => {
            for (const chunk of chunks) if (typeof chunk !== "string") received.push(chunk)
          })
      })
    })
    const [faults, { connect }] = yield* AmqpFaults.make({ connect: () => Effect.succeed(socket) })
    return {
      faults,
      connect: connect({ host: "scripted", port: 0 }),
      down,
      permits,
      received,
      pulls: () => pulls,
      open: () => open
    }
  })

  it.effect("a client that does not read pauses the peer; one that is not read waits", () =>
    Effect.gen(function*() {
      const peer = yield* scripted
      yield* Effect.scoped(Effect.gen(function*() {
        const socket = yield* peer.connect
        const { pull } = yield* socket.reader
        const writer = yield* socket.writer
        yield* settle
        assert.strictEqual(peer.pulls(), 0)
        const chunk = AmqpProtocol.heartbeatFrame
        Queue.offerUnsafe(peer.down, chunk)
        Queue.offerUnsafe(peer.down, chunk)
        assert.strictEqual((yield* pull)[0], chunk)
        yield* settle
        assert.strictEqual(peer.pulls(), 1)
        assert.strictEqual((yield* pull)[0], chunk)
        // Interrupted, it has lost nothing.
        const pulling = yield* Effect.forkChild(pull, { startImmediately: true })
        yield* Fiber.interrupt(pulling)
        Queue.offerUnsafe(peer.down, chunk)
        assert.strictEqual((yield* pull)[0], chunk)

        const writing = yield* Effect.forkChild(writer.writeAll([AmqpProtocol.protocolHeader, chunk]), {
          startImmediately: true
        })
        yield* settle
        assert.isUndefined(writing.pollUnsafe())
        Queue.offerUnsafe(peer.permits, undefined)
        yield* Fiber.join(writing)
        assert.deepStrictEqual(peer.received, [AmqpProtocol.protocolHeader, chunk])
      }))
      assert.strictEqual(peer.open(), 0)
    }))

  it.effect("a delay holds back a bounded amount", () =>
    Effect.gen(function*() {
      const peer = yield* scripted
      yield* peer.faults.inject(AmqpFaults.delay("1 minute"))
      const socket = yield* peer.connect
      yield* socket.reader
      const writer = yield* socket.writer
      const chunk = new Uint8Array(256 * 1024).fill(8)
      let written = 0
      const writing = yield* Effect.forkScoped(
        Effect.forever(Effect.andThen(writer.write(chunk), Effect.sync(() => written++))),
        { startImmediately: true }
      )
      for (let i = 0; i < 20; i++) Queue.offerUnsafe(peer.down, chunk)
      yield* settle
      assert.strictEqual(written, 3)
      assert.strictEqual(peer.pulls(), 4)
      yield* Fiber.interrupt(writing)
    }))

  it.effect("an end of the peer is the client's end, behind what was sent before; a layer that ends closes everything", () =>
    Effect.gen(function*() {
      const peer = yield* Effect.scoped(Effect.gen(function*() {
        const peer = yield* scripted
        const socket = yield* peer.connect
        const { pull } = yield* socket.reader
        Queue.offerUnsafe(peer.down, AmqpProtocol.heartbeatFrame)
        const end = new Socket.SocketError({ reason: new Socket.SocketCloseError({ code: 4000 }) })
        Queue.failCauseUnsafe(peer.down, Cause.fail(end))
        assert.strictEqual((yield* pull)[0], AmqpProtocol.heartbeatFrame)
        assert.strictEqual(yield* Effect.flip(pull), end)
        return peer
      }))
      assert.strictEqual(peer.open(), 0)
      assert.deepStrictEqual(yield* peer.faults.connections, [])
    }))

  it.effect("interrupted while it dials, it holds nothing", () =>
    Effect.gen(function*() {
      const never = Socket.make({
        reader: Effect.never,
        writer: Effect.succeed({ write: () => Effect.void, writeAll: () => Effect.void })
      })
      const [faults, { connect }] = yield* AmqpFaults.make(AmqpTransport.of({ connect: () => Effect.succeed(never) }))
      const socket = yield* connect({ host: "never", port: 0 })
      const dialling = yield* Effect.forkChild(Effect.scoped(socket.reader), { startImmediately: true })
      yield* settle
      yield* Fiber.interrupt(dialling)
      assert.deepStrictEqual(yield* faults.connections, [])
    }))
})

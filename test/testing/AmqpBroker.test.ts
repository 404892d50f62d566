/**
 * The embedded broker as its users see it: this library's client over memory, under `TestClock`.
 */
import { assert, describe, it } from "@effect/vitest"
import { type Cause, Deferred, Effect, Exit, Fiber, Layer, Option, Redacted, Schedule, Scope, Stream } from "effect"
import { Socket } from "effect/socket"
import { TestClock } from "effect/testing"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import { AmqpTransport } from "../../src/AmqpTransport.ts"
import * as AmqpBroker from "../../src/testing/AmqpBroker.ts"
import { unreadMax } from "../../src/testing/internal/sockets/memory.ts"
import { declare, Script } from "../fixtures/violations.ts"

interface TestOptions {
  readonly broker?: AmqpBroker.Options
  readonly connection?: AmqpConnection.Options
}

/** Runs a test with a broker of its own, and a connection to it. */
const onBroker = <A, E>(
  test: Effect.Effect<
    A,
    E,
    AmqpBroker.AmqpBroker | AmqpConnection.AmqpConnection | AmqpTransport | Scope.Scope
  >,
  options: TestOptions = {}
) =>
  Effect.scoped(test).pipe(
    Effect.provide(
      AmqpConnection.layer({ reconnect: Schedule.spaced("1 second"), ...options.connection }).pipe(
        Layer.provideMerge(AmqpBroker.layer(options.broker))
      )
    )
  )

/** A connection that is over at its first loss. */
const connectOnce = (options: AmqpConnection.Options = {}) =>
  AmqpConnection.make({ reconnect: Schedule.recurs(0), ...options })

/** Publishes, confirmed and routed. */
const publish = (routingKey: string, body: string, deliveryMode?: number) =>
  Effect.scoped(
    Effect.flatMap(AmqpPublisher.make(), (publisher) =>
      publisher.publish({
        routingKey,
        body,
        ...(deliveryMode === undefined ? {} : { properties: { deliveryMode } })
      }))
  )

const declareQueue = (queue: string, args: Readonly<Record<string, string | number>> = {}, durable = true) =>
  Effect.scoped(
    Effect.flatMap(AmqpChannel.open, (channel) => channel.queueDeclare({ queue, durable, arguments: args }))
  )

const queueOf = (name: string) =>
  Effect.flatMap(AmqpBroker.AmqpBroker, (broker) => Effect.flatMap(broker.queue(name), Effect.fromOption))

const bodies = (messages: ReadonlyArray<AmqpBroker.QueuedMessage>) => messages.map(({ message }) => message.text)

/** The next status that is so. */
const reaches = <S extends AmqpConnection.Status["_tag"]>(
  connection: AmqpConnection.AmqpConnection,
  tag: S
) => Effect.flatMap(Stream.runHead(Stream.filter(connection.changes, ({ _tag }) => _tag === tag)), Effect.fromOption)

describe("programs on the embedded broker", () => {
  it.effect("a consumer without a prefetch that takes nothing is read for in small steps, up to a bound", () =>
    onBroker(
      Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        yield* channel.queueDeclare({ queue: "flood" })
        const body = "x".repeat(2000)
        yield* Effect.forEach(Array.from({ length: 60_000 }), () => channel.publish({ routingKey: "flood", body }), {
          discard: true
        })
        yield* channel.queueDeclarePassive("flood")
        const consumer = yield* channel.consume({ queue: "flood", noAck: true })
        const left = Effect.map(queueOf("flood"), ({ ready }) => ready)
        /** Until the broker sends no more. */
        const settled: Effect.Effect<number, Cause.NoSuchElementError, AmqpBroker.AmqpBroker> = Effect.gen(function*() {
          const before = yield* left
          yield* Effect.yieldNow
          return before === (yield* left) ? before : yield* settled
        })
        let before = yield* settled
        assert.isAbove(before, 50_000)
        // Nobody takes anything: a step each five seconds, of what the transport has.
        for (let i = 0; i < 5; i++) {
          yield* TestClock.adjust("5 seconds")
          const after = yield* settled
          assert.isBelow(after, before)
          assert.isAbove(after, before - 2000)
          before = after
        }
        // As much as one may hold, and no more.
        yield* TestClock.adjust("1 hour")
        const bound = yield* settled
        assert.isAbove(bound, 60_000 - 40_000)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* settled, bound)
        const taken = yield* Stream.runCount(Stream.take(consumer.deliveries, 60_000))
        assert.strictEqual(taken, 60_000)
      }),
      { connection: { heartbeat: 0 } }
    ))

  it.effect("publish and consume", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      yield* declareQueue("orders")
      yield* publish("orders", "one")
      yield* publish("orders", "two")
      assert.deepInclude(yield* queueOf("orders"), { ready: 2, unsettled: 0, consumers: 0 })
      assert.deepStrictEqual(bodies(yield* broker.messages("orders")), ["one", "two"])
      const handled: Array<string> = []
      yield* Effect.forkScoped(
        AmqpConsumer.run("orders", (delivery) => Effect.sync(() => handled.push(delivery.text)))
      )
      yield* broker.waitUntil(Effect.map(queueOf("orders"), ({ ready, unsettled }) => ready + unsettled === 0))
      assert.deepStrictEqual(handled, ["one", "two"])
      assert.deepInclude(yield* queueOf("orders"), { consumers: 1 })
    })))

  it.effect("see messages expire when the clock says so, and dead letters", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      yield* declareQueue("dead")
      yield* declareQueue("orders", {
        "x-message-ttl": 7000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead"
      })
      yield* publish("orders", "late")
      yield* TestClock.adjust("6999 millis")
      assert.deepInclude(yield* queueOf("orders"), { ready: 1 })
      yield* TestClock.adjust("1 millis")
      assert.deepInclude(yield* queueOf("orders"), { ready: 0 })
      const [dead] = yield* broker.messages("dead")
      assert.strictEqual(dead?.message.text, "late")
      assert.deepNestedInclude(dead?.message.properties.headers, {
        "x-death[0].queue": "orders",
        "x-death[0].reason": "expired"
      })
    })))

  it.effect("keep alive by heartbeats in both directions, for as long as the clock says", () =>
    onBroker(
      Effect.gen(function*() {
        const broker = yield* AmqpBroker.AmqpBroker
        const connection = yield* AmqpConnection.AmqpConnection
        const beats: Array<string> = []
        yield* broker.frames.pipe(
          Stream.filter(({ frame }) => frame._tag === "Heartbeat"),
          Stream.runForEach(({ direction }) => Effect.sync(() => beats.push(direction))),
          Effect.forkScoped({ startImmediately: true })
        )
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual((yield* connection.status)._tag, "Open")
        assert.isAtLeast(beats.filter((direction) => direction === "up").length, 59)
        assert.isAtLeast(beats.filter((direction) => direction === "down").length, 59)
      }),
      { broker: { heartbeat: "10 seconds" } }
    ))

  it.effect("notice a broker that falls silent", () =>
    onBroker(
      Effect.gen(function*() {
        const broker = yield* AmqpBroker.AmqpBroker
        const connection = yield* AmqpConnection.AmqpConnection
        const paused = yield* Scope.make()
        yield* Scope.provide(broker.pause, paused)
        const lost = yield* Effect.forkScoped(reaches(connection, "Reconnecting"), { startImmediately: true })
        yield* TestClock.adjust("30 seconds")
        assert.deepNestedInclude(yield* Fiber.join(lost), { "cause.reason._tag": "HeartbeatTimeout" })
        yield* Scope.close(paused, Exit.void)
        yield* TestClock.adjust("2 seconds")
        assert.deepInclude(yield* reaches(connection, "Open"), { epoch: 2 })
        yield* declareQueue("orders")
      }),
      { broker: { heartbeat: "10 seconds" } }
    ))

  it.effect("lose the channel of a delivery that is not settled in time", () =>
    onBroker(
      Effect.gen(function*() {
        yield* declareQueue("orders")
        yield* publish("orders", "one")
        const channel = yield* AmqpChannel.open
        const { deliveries } = yield* channel.consume({ queue: "orders" })
        yield* Stream.runHead(deliveries)
        yield* TestClock.adjust("59 minutes")
        assert.deepInclude(yield* queueOf("orders"), { ready: 0, unsettled: 1 })
        yield* TestClock.adjust("2 minutes")
        assert.deepNestedInclude(yield* channel.closed, { "cause.replyCode": 406 })
        assert.deepInclude(yield* queueOf("orders"), { ready: 1, unsettled: 0 })
      }),
      { broker: { consumerTimeout: "1 hour" }, connection: { heartbeat: 0 } }
    ))

  it.effect("get a message again, marked, after their connection was reset", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      yield* declareQueue("orders")
      const seen: Array<boolean> = []
      const first = yield* Deferred.make<void>()
      yield* AmqpConsumer.run("orders", ({ redelivered }) => {
        seen.push(redelivered)
        // What the first one settles in the end is stale.
        return redelivered ? Effect.void : Effect.andThen(Deferred.succeed(first, undefined), Effect.sleep("5 seconds"))
      }, { concurrency: 2 }).pipe(Effect.forkScoped)
      yield* publish("orders", "one")
      yield* Deferred.await(first)
      yield* broker.resetConnections()
      assert.deepInclude(yield* queueOf("orders"), { ready: 1, unsettled: 0 })
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(seen, [false, true])
      assert.deepInclude(yield* queueOf("orders"), { ready: 0, unsettled: 0 })
    })))

  it.effect("may be gone for their client alone: the broker holds on to what is theirs until it notices", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const lost = yield* connectOnce()
      const mine = yield* Effect.provideService(AmqpChannel.open, AmqpConnection.AmqpConnection, lost)
      yield* mine.queueDeclare({ queue: "mine", exclusive: true })
      const notices = yield* Scope.make()
      const [first, second] = yield* broker.connections
      if (first === undefined || second === undefined) return assert.fail()
      yield* Scope.provide(broker.strandConnections({ connection: second.name }), notices)
      assert.strictEqual((yield* lost.closed).reason._tag, "ConnectionLost")
      assert.deepInclude(yield* queueOf("mine"), { ready: 0 })
      const channel = yield* AmqpChannel.open
      assert.strictEqual((yield* Effect.flip(channel.queueDeclarePassive("mine")))._tag, "AmqpResourceLocked")
      yield* Scope.close(notices, Exit.void)
      assert.isTrue(Option.isNone(yield* broker.queue("mine")))
      assert.deepStrictEqual((yield* broker.connections).map(({ name }) => name), [first.name])
    })))

  it.effect("are blocked while the broker is short of a resource", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const connection = yield* AmqpConnection.AmqpConnection
      yield* declareQueue("orders")
      yield* publish("orders", "one")
      const alarm = yield* Scope.make()
      yield* Scope.provide(broker.block("low on disk"), alarm)
      // One alarm inside another ends nothing.
      yield* Effect.scoped(broker.block("low on memory"))
      const publishing = yield* Effect.forkScoped(publish("orders", "two"), { startImmediately: true })
      assert.deepInclude(yield* reaches(connection, "Blocked"), { reason: "low on disk" })
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(bodies(yield* broker.messages("orders")), ["one"])
      assert.isTrue((yield* broker.connections)[0]?.isBlocked)
      yield* Scope.close(alarm, Exit.void)
      yield* Fiber.join(publishing)
      assert.strictEqual((yield* connection.status)._tag, "Open")
      assert.deepStrictEqual(bodies(yield* broker.messages("orders")), ["one", "two"])
    })))

  it.effect("wait with what they send in an alarm, and lose nothing of it", () =>
    Effect.gen(function*() {
      const broker = yield* AmqpBroker.make()
      const socket = yield* broker.transport.connect({ host: "memory", port: 0 })
      const pull = yield* Socket.readerBytes(socket)
      const { write } = yield* socket.writer
      yield* Effect.forkScoped(Effect.ignore(Effect.forever(pull)))
      yield* write(new Script().open().send(1, declare("q")).bytes())
      const alarm = yield* Scope.make()
      yield* Scope.provide(broker.block(), alarm)
      const message = (index: number) => new Script().publish(1, { body: `${index} `.padEnd(1000) }).bytes()
      let sent = 0
      const sending = yield* Effect.forEach(
        Array.from({ length: 5000 }, (_, index) => message(index)),
        (bytes) => Effect.andThen(write(bytes), Effect.sync(() => (sent += bytes.length)))
      ).pipe(Effect.forkScoped)
      yield* TestClock.adjust("1 hour")
      // What a socket's buffer would hold, and what the broker was given before it stopped.
      assert.isBelow(sent, unreadMax + 2048)
      assert.isAbove(sent, unreadMax / 2)
      assert.deepStrictEqual(yield* broker.messages("q"), [])
      yield* Scope.close(alarm, Exit.void)
      yield* Fiber.join(sending)
      assert.deepStrictEqual(
        bodies(yield* broker.messages("q")).map((text) => Number(text)),
        Array.from({ length: 5000 }, (_, index) => index)
      )
    }).pipe(Effect.scoped))

  it.effect("publish again, in order, to a broker that was suspended", () =>
    onBroker(
      Effect.gen(function*() {
        const broker = yield* AmqpBroker.AmqpBroker
        yield* declareQueue("orders")
        const publisher = yield* AmqpPublisher.make()
        const numbers = Array.from({ length: 300 }, (_, index) => index)
        const paused = yield* Scope.make()
        yield* Scope.provide(broker.pause, paused)
        const publishing = yield* Effect.forEach(
          numbers,
          (index) => publisher.publish({ routingKey: "orders", body: `${index} `.padEnd(2000) }),
          { concurrency: "unbounded" }
        ).pipe(Effect.forkScoped)
        yield* TestClock.adjust("1 second")
        yield* Scope.close(paused, Exit.void)
        yield* Fiber.join(publishing)
        assert.deepStrictEqual(bodies(yield* broker.messages("orders")).map((text) => Number(text)), numbers)
      }),
      { broker: { heartbeat: 0 }, connection: { heartbeat: 0 } }
    ))

  it.effect("find after a restart what was durable", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const connection = yield* AmqpConnection.AmqpConnection
      yield* declareQueue("durable")
      yield* declareQueue("transient", {}, false)
      yield* publish("durable", "persistent", 2)
      yield* publish("durable", "transient", 1)
      const lost = yield* Effect.forkScoped(reaches(connection, "Reconnecting"), { startImmediately: true })
      yield* broker.restart
      assert.deepNestedInclude(yield* Fiber.join(lost), { "cause.reason._tag": "ConnectionForced" })
      assert.deepStrictEqual((yield* broker.queues).map(({ name }) => name), ["durable"])
      assert.deepStrictEqual(bodies(yield* broker.messages("durable")), ["persistent"])
      yield* TestClock.adjust("2 seconds")
      assert.deepInclude(yield* reaches(connection, "Open"), { epoch: 2 })
      yield* publish("durable", "another")
    })))

  it.effect("are refused while the broker is stopped", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      yield* broker.stop
      const error = yield* Effect.flip(connectOnce())
      assert.deepNestedInclude(error, { "reason._tag": "ConnectFailed", "reason.code": "ECONNREFUSED" })
      yield* broker.start
      yield* connectOnce()
    })))

  it.effect("lose their connection when the broker's scope closes", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const broker = yield* Scope.provide(AmqpBroker.make(), scope)
      const connection = yield* Effect.provideService(
        connectOnce(),
        AmqpTransport,
        broker.transport
      )
      const watching = yield* Effect.forkChild(Stream.runCollect(broker.events), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* connection.closed).reason._tag, "ConnectionForced")
      assert.strictEqual((yield* Fiber.join(watching)).at(-1)?._tag, "ConnectionClosed")
      assert.deepStrictEqual(yield* Stream.runCollect(broker.events), [])
    }))
})

describe("what is in the broker", () => {
  it.effect("can be looked at", () =>
    onBroker(
      Effect.gen(function*() {
        const broker = yield* AmqpBroker.AmqpBroker
        const channel = yield* AmqpChannel.make({ id: 7 })
        yield* channel.exchangeDeclare({ exchange: "events", type: "topic", durable: true })
        yield* channel.queueDeclare({ queue: "orders", arguments: { "x-max-length": 10 } })
        yield* channel.queueBind({ queue: "orders", exchange: "events", routingKey: "order.*" })
        yield* channel.confirmSelect
        yield* channel.qos({ prefetchCount: 1 })
        yield* channel.publish({ exchange: "events", routingKey: "order.paid", body: "one" })
        yield* channel.publish({ exchange: "events", routingKey: "order.paid", body: "two" })
        const { deliveries } = yield* channel.consume({
          queue: "orders",
          consumerTag: "worker",
          arguments: { "x-priority": 3 }
        })
        yield* Stream.runHead(deliveries)

        const [connection] = yield* broker.connections
        const name = connection?.name ?? ""
        assert.match(name, /^memory:\d+$/)
        assert.deepInclude(connection, {
          clientName: "inspected",
          user: "guest",
          vhost: "/",
          heartbeatSeconds: 30,
          isBlocked: false,
          channels: 1
        })
        assert.deepStrictEqual(yield* broker.channels, [{
          connection: name,
          channel: 7,
          isConfirming: true,
          isTransactional: false,
          prefetch: 1,
          globalPrefetch: 0,
          consumers: 1,
          unsettled: 1
        }])
        assert.deepStrictEqual(yield* broker.consumers, [{
          connection: name,
          channel: 7,
          consumerTag: "worker",
          vhost: "/",
          queue: "orders",
          noAck: false,
          isExclusive: false,
          prefetch: 1,
          priority: 3,
          arguments: { "x-priority": 3 }
        }])
        assert.deepStrictEqual(yield* broker.queues, [{
          vhost: "/",
          name: "orders",
          type: "classic",
          durable: false,
          autoDelete: false,
          isExclusive: false,
          arguments: { "x-max-length": 10 },
          ready: 1,
          unsettled: 1,
          consumers: 1
        }])
        const [unsettled] = yield* broker.unsettled
        assert.deepInclude(unsettled, {
          connection: name,
          channel: 7,
          deliveryTag: 1,
          queue: "orders",
          redelivered: false
        })
        assert.strictEqual(unsettled?.message.text, "one")
        assert.deepStrictEqual(bodies(yield* broker.messages("orders")), ["two"])
        assert.deepInclude(yield* broker.exchanges, {
          vhost: "/",
          name: "events",
          type: "topic",
          durable: true,
          autoDelete: false,
          isInternal: false,
          arguments: {}
        })
        assert.deepInclude(yield* broker.bindings, {
          vhost: "/",
          source: "events",
          destination: "orders",
          destinationType: "queue" as const,
          routingKey: "order.*",
          arguments: {}
        })
        assert.isTrue(Option.isNone(yield* broker.queue("other")))
        assert.isTrue(Option.isNone(yield* broker.queue("orders", "other")))
        const error = yield* Effect.flip(broker.messages("other"))
        assert.strictEqual(error.message, `The embedded broker has no queue "other"`)
      }),
      { connection: { connectionName: "inspected", heartbeat: "30 seconds" } }
    ))

  it.effect("tells what happens", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const watching = yield* broker.events.pipe(
        Stream.takeUntil(({ _tag }) => _tag === "QueueDeleted"),
        Stream.map(({ _tag }) => _tag),
        Stream.runCollect,
        Effect.forkScoped({ startImmediately: true })
      )
      yield* declareQueue("orders")
      yield* publish("orders", "one")
      yield* Effect.scoped(Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        yield* Option.getOrThrow(yield* channel.get({ queue: "orders" })).delivery.ack
        yield* channel.queueDelete({ queue: "orders" })
      }))
      assert.deepStrictEqual(yield* Fiber.join(watching), [
        "ChannelOpened",
        "QueueDeclared",
        "ChannelClosed",
        "ChannelOpened",
        "Published",
        "ChannelClosed",
        "ChannelOpened",
        "Delivered",
        "Settled",
        "QueueDeleted"
      ])
    })))

  it.effect("shows its frames", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const watching = yield* broker.frames.pipe(
        Stream.take(4),
        Stream.map(({ direction, frame }) => [direction, frame._tag === "Method" ? frame.method._tag : frame._tag]),
        Stream.runCollect,
        Effect.forkScoped({ startImmediately: true })
      )
      yield* declareQueue("orders")
      assert.deepStrictEqual(yield* Fiber.join(watching), [
        ["up", "channel.open"],
        ["down", "channel.open-ok"],
        ["up", "queue.declare"],
        ["down", "queue.declare-ok"]
      ])
    })))

  it.effect("shows what happens among the frames that bring it about", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const watching = yield* broker.journal.pipe(
        Stream.map((entry) => {
          if (!("frame" in entry)) return entry._tag
          return `${entry.direction} ${entry.frame._tag === "Method" ? entry.frame.method._tag : entry.frame._tag}`
        }),
        Stream.takeUntil((line) => line === "down basic.ack"),
        Stream.runCollect,
        Effect.forkScoped({ startImmediately: true })
      )
      yield* declareQueue("orders")
      yield* publish("orders", "one")
      const lines = yield* Fiber.join(watching)
      const declared = lines.indexOf("QueueDeclared")
      const published = lines.indexOf("Published")
      assert.deepStrictEqual([lines.slice(declared - 1, declared + 2), lines.slice(published - 3, published + 2)], [
        ["up queue.declare", "QueueDeclared", "down queue.declare-ok"],
        ["up basic.publish", "up Header", "up Body", "Published", "down basic.ack"]
      ])
    })))

  it.effect("does not wait for who watches", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      yield* Stream.runForEach(broker.events, () => Effect.never).pipe(
        Effect.forkScoped({ startImmediately: true })
      )
      yield* declareQueue("orders")
      const publisher = yield* AmqpPublisher.make()
      yield* publisher.publishAll(Array.from({ length: 17_000 }, () => ({ routingKey: "orders", body: "" })))
      assert.deepInclude(yield* queueOf("orders"), { ready: 17_000 })
    })))
})

describe("an operator", () => {
  it.effect("closes connections and channels with any reply", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const [first, second] = yield* Effect.all([
        connectOnce({ connectionName: "first" }),
        connectOnce({ connectionName: "second" })
      ])
      yield* broker.closeConnections({ connection: "first" })
      assert.deepNestedInclude(yield* first.closed, {
        "reason._tag": "ConnectionForced",
        "reason.replyText": "CONNECTION_FORCED - Closed via management plugin"
      })
      const channel = yield* Effect.provideService(AmqpChannel.open, AmqpConnection.AmqpConnection, second)
      yield* broker.closeChannels({ replyCode: 404, replyText: "NOT_FOUND - gone" }, { connection: "second" })
      assert.deepNestedInclude(yield* channel.closed, { "cause.replyCode": 404, "cause.replyText": "NOT_FOUND - gone" })
      assert.strictEqual((yield* second.status)._tag, "Open")
      yield* broker.closeConnections({ connection: "second" }, { replyCode: 541, replyText: "INTERNAL_ERROR" })
      assert.strictEqual((yield* second.closed).reason._tag, "InternalError")
    })))

  it.effect("cancels consumers, deletes queues", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const channel = yield* AmqpChannel.open
      for (const queue of ["one", "two"]) {
        yield* channel.queueDeclare({ queue })
      }
      const one = yield* channel.consume({ queue: "one" })
      const two = yield* channel.consume({ queue: "two" })
      yield* broker.cancelConsumers({ queue: "one" })
      assert.deepInclude(yield* Effect.flip(Stream.runDrain(one.deliveries)), { _tag: "AmqpConsumerCancelled" })
      assert.isTrue(Option.isSome(yield* broker.queue("one")))
      yield* broker.deleteQueue("two")
      assert.deepInclude(yield* Effect.flip(Stream.runDrain(two.deliveries)), { _tag: "AmqpConsumerCancelled" })
      assert.deepStrictEqual((yield* broker.queues).map(({ name }) => name), ["one"])
      assert.deepStrictEqual(yield* broker.consumers, [])
    })))

  it.effect("is told what there is not", () =>
    onBroker(Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const messageOf = <A>(effect: Effect.Effect<A, AmqpBroker.AmqpUnknownEntity>) =>
        Effect.map(Effect.flip(effect), ({ message }) => message)
      assert.deepStrictEqual(
        yield* Effect.all([
          messageOf(broker.resetConnections({ connection: "x" })),
          messageOf(broker.closeConnections({ connection: "x" })),
          messageOf(Effect.scoped(broker.strandConnections({ connection: "x" }))),
          messageOf(broker.closeChannels({ replyCode: 404, replyText: "" })),
          messageOf(broker.cancelConsumers({ queue: "x" })),
          messageOf(broker.deleteQueue("x")),
          messageOf(broker.deleteVhost("x")),
          messageOf(broker.deleteUser("x")),
          messageOf(broker.setPermissions("x")),
          messageOf(broker.setPermissions("guest", undefined, "x")),
          messageOf(broker.messages("x", "y"))
        ]),
        [
          `The embedded broker has no connection with connection "x"`,
          `The embedded broker has no connection with connection "x"`,
          `The embedded broker has no connection with connection "x"`,
          `The embedded broker has no channel at all`,
          `The embedded broker has no consumer with queue "x"`,
          `The embedded broker has no queue "x"`,
          `The embedded broker has no vhost "x"`,
          `The embedded broker has no user "x"`,
          `The embedded broker has no user "x"`,
          `The embedded broker has no vhost "x"`,
          `The embedded broker has no vhost "y"`
        ]
      )
    })))

  it.effect("administers users and vhosts", () =>
    onBroker(
      Effect.gen(function*() {
        const broker = yield* AmqpBroker.AmqpBroker
        const password = Redacted.make("secret")
        const credentials = { username: "alice", password }
        const reasonOf = (options: AmqpConnection.Options) =>
          Effect.scoped(connectOnce(options)).pipe(
            Effect.flip,
            Effect.map((error) => error._tag === "AmqpConnectionError" ? error.reason._tag : error._tag)
          )
        assert.strictEqual(yield* reasonOf({ credentials }), "AuthenticationFailed")
        yield* broker.addUser("alice", password)
        assert.strictEqual(yield* reasonOf({ credentials }), "NotAllowed")
        yield* broker.setPermissions("alice", { configure: /^$/, write: /.*/, read: /.*/ })
        const connection = yield* connectOnce({ credentials })
        const channel = yield* Effect.provideService(AmqpChannel.open, AmqpConnection.AmqpConnection, connection)
        assert.strictEqual((yield* Effect.flip(channel.queueDeclare({ queue: "q" })))._tag, "AmqpAccessRefused")

        yield* broker.addVhost("staging")
        const staged = yield* connectOnce({ credentials, vhost: "staging" })
        yield* broker.deleteVhost("staging")
        assert.strictEqual((yield* staged.closed).reason._tag, "ConnectionForced")
        assert.strictEqual(yield* reasonOf({ credentials, vhost: "staging" }), "NotAllowed")

        yield* broker.addUser("alice", Redacted.make("other"))
        assert.strictEqual(yield* reasonOf({ credentials }), "AuthenticationFailed")
        assert.strictEqual((yield* connection.status)._tag, "Open")
        yield* broker.deleteUser("alice")
        assert.strictEqual(
          yield* reasonOf({ credentials: { username: "alice", password: Redacted.make("other") } }),
          "AuthenticationFailed"
        )
        assert.strictEqual((yield* connection.closed).reason._tag, "ConnectionForced")
      })
    ))

  it.effect("may begin with other users and vhosts", () =>
    onBroker(
      Effect.gen(function*() {
        const [connection] = yield* (yield* AmqpBroker.AmqpBroker).connections
        assert.deepInclude(connection, { user: "bob", vhost: "staging" })
        const guest = yield* Effect.flip(connectOnce())
        assert.deepNestedInclude(guest, { "reason._tag": "AuthenticationFailed" })
      }),
      {
        broker: { vhosts: ["staging"], users: [{ name: "bob", password: Redacted.make("secret") }] },
        connection: { vhost: "staging", credentials: { username: "bob", password: Redacted.make("secret") } }
      }
    ))
})

describe("a clock between milliseconds", () => {
  it.effect("heartbeats come where times are not whole milliseconds, and their differences round", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust(3192.3)
      assert.isBelow((3192.3 + 5000) - 3192.3, 5000)
      const broker = yield* AmqpBroker.make({ heartbeat: "10 seconds" })
      yield* AmqpConnection.make().pipe(Effect.provideService(AmqpTransport, broker.transport))
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual((yield* broker.connections).length, 1)
    }))
})

/**
 * Publishers on a connection of their own: what an alarm stops and what it does not, and what both connections have in common.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue, Redacted, Stream } from "effect"
import { AmqpConnection, type Options, type Status } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { makeProxy, type ProxyLink } from "../harness/proxy.ts"
import { canControl, onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { connect, methodsOf, nextMethod, noReconnect, openOn, proxied, skipHeader } from "./support.ts"

const count = 50
const prefetch = 5

/** Waits for the next state of that kind. */
const next = <Tag extends Status["_tag"]>(states: Queue.Dequeue<Status, unknown>, tag: Tag) =>
  Effect.gen(function*() {
    for (;;) {
      const state = yield* Queue.take(states)
      if (state._tag === tag) return state
    }
  })

/** The connection that publishers use. */
const publishingOf = (connection: AmqpConnection): AmqpConnection => connection.publishing ?? connection

const statesOf = (connection: AmqpConnection) => Stream.toQueue(connection.changes, { capacity: "unbounded" })

/** How many deliveries this side has acknowledged. */
const acked = (link: ProxyLink) =>
  Effect.map(methodsOf(link, "up"), (names) => names.filter((name) => name.endsWith("basic.ack")).length)

/**
 * A consumer of a queue with 50 messages on this connection, whose first 5 handlers are at work when an alarm blocks the
 * connection of the publisher. Then they finish.
 */
const underAlarm = Effect.fnUntraced(function*(connection: AmqpConnection) {
  const { alarm, unalarm } = yield* Broker.control
  const states = yield* statesOf(publishingOf(connection))
  const observer = yield* openOn(yield* connect())
  const queue = uniqueName("separate")
  yield* observer.queueDeclare({ queue, durable: true })
  yield* observer.confirmSelect
  yield* Effect.forEach(Array.from({ length: count }), () => observer.publish({ routingKey: queue, body: "work" }), {
    concurrency: "unbounded"
  })
  const publisher = yield* Effect.provideService(AmqpPublisher.make(), AmqpConnection, connection)
  const working = yield* Deferred.make<void>()
  const allDone = yield* Deferred.make<void>()
  const gate = yield* Deferred.make<void>()
  let started = 0
  let handled = 0
  const handler = Effect.gen(function*() {
    if (++started === prefetch) yield* Deferred.succeed(working, undefined)
    yield* Deferred.await(gate)
    if (++handled === count) yield* Deferred.succeed(allDone, undefined)
  })
  yield* AmqpConsumer.run(queue, () => handler, { prefetch, concurrency: prefetch }).pipe(
    Effect.provideService(AmqpConnection, connection),
    Effect.forkScoped
  )
  yield* Deferred.await(working)
  yield* alarm("memory")
  // The alarm takes a moment to reach the connection, which is blocked by the first publish that comes then.
  const publish = publisher.publish({ routingKey: queue, body: "more", mandatory: false })
  const publishing = yield* Effect.forkScoped(Effect.forever(publish))
  yield* next(states, "Blocked")
  yield* Deferred.succeed(gate, undefined)
  return {
    queue,
    observer,
    unalarm: unalarm("memory"),
    publishing,
    publish,
    allDone: Deferred.await(allDone),
    handled: () => handled
  }
})

layer(onVhost, { excludeTestServices: true })("publishers and consumers", (it) => {
  describe.runIf(canControl)("under an alarm", () => {
    it.effect("on one connection: the consumer stops when its prefetch is used up, and goes on when the alarm is over", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* proxied()
        assert.isUndefined(connection.publishing)
        const { allDone, handled, observer, publishing, queue, unalarm } = yield* underAlarm(connection)
        while ((yield* acked(link)) === 0) yield* Effect.yieldNow
        // The broker reads no acknowledgement: nothing more has left the queue, whoever asks.
        const { messageCount } = yield* observer.queueDeclarePassive(queue)
        assert.isAtLeast(messageCount, count - prefetch)
        assert.strictEqual(handled(), prefetch)
        yield* Fiber.interrupt(publishing)
        yield* unalarm
        yield* allDone
      })))

    it.effect("on two: the consumer goes on, the publisher waits", () =>
      noLeaks(Effect.gen(function*() {
        const connection = yield* connect({ separatePublishers: true })
        const { allDone, handled, publish, publishing, unalarm } = yield* underAlarm(connection)
        yield* allDone
        assert.isAtLeast(handled(), count)
        assert.strictEqual((yield* connection.status)._tag, "Open")
        assert.strictEqual((yield* publishingOf(connection).status)._tag, "Blocked")
        yield* Fiber.interrupt(publishing)
        const waiting = yield* Effect.forkChild(publish)
        yield* unalarm
        yield* Fiber.join(waiting)
      })))

    it.effect("both are named, and closed with the scope or by close", () =>
      noLeaks(Effect.gen(function*() {
        const { held } = yield* Broker.control
        const names = Effect.map(
          held({}),
          ({ connections }) => new Set(connections.map(({ connectionName }) => connectionName))
        )
        const connectionName = uniqueName("orders")
        const connection = yield* connect({ separatePublishers: true, connectionName })
        yield* Effect.provideService(AmqpPublisher.make(), AmqpConnection, connection)
        const present = yield* names
        for (const name of [connectionName, `${connectionName} (publishing)`]) assert.isTrue(present.has(name), name)
        yield* connection.close
        for (const one of [connection, publishingOf(connection)]) {
          assert.strictEqual((yield* one.status)._tag, "Closed")
          assert.strictEqual((yield* one.closed).reason._tag, "ConnectionClosed")
        }
      })))
  })

  it.effect("each is lost for itself", () =>
    noLeaks(Effect.gen(function*() {
      const proxy = yield* makeProxy(yield* Broker)
      const { host, port } = proxy
      const connection = yield* connect({ host, port, separatePublishers: true, reconnect: undefined })
      const publishing = yield* proxy.accept
      const states = yield* statesOf(publishingOf(connection))
      yield* next(states, "Open")
      const { queue } = yield* (yield* openOn(connection)).queueDeclare({ exclusive: true })
      const publisher = yield* Effect.provideService(AmqpPublisher.make(), AmqpConnection, connection)
      yield* publishing.reset
      yield* next(states, "Reconnecting")
      // Exclusive to a connection that has not noticed.
      yield* publisher.publish({ routingKey: queue, body: "after" })
      assert.propertyVal(yield* publishingOf(connection).status, "_tag", "Open")
      const status = yield* connection.status
      assert.deepStrictEqual(status._tag === "Open" ? status.epoch : status, 1)
    })))

  it.effect("after a loss nobody publishes before the topology is declared again", () =>
    noLeaks(Effect.gen(function*() {
      const broker = yield* Broker
      const consumingSide = yield* makeProxy(broker)
      const publishingSide = yield* makeProxy(broker)
      const attempts = [publishingSide, consumingSide]
      const options: Options = {
        separatePublishers: true,
        reconnect: undefined,
        endpoints: Effect.sync(() => {
          const { host, port } = attempts.shift() ?? publishingSide
          return [{ host, port }]
        })
      }
      const connection = yield* connect(options)
      const queue = uniqueName("exclusive")
      // Goes with its connection.
      yield* AmqpTopology.make([AmqpTopology.classicQueue(queue, { durable: false, exclusive: true })]).pipe(
        Effect.provideService(AmqpConnection, connection)
      )
      const publisher = yield* Effect.provideService(AmqpPublisher.make(), AmqpConnection, connection)
      yield* publisher.publish({ routingKey: queue, body: "before" })

      // The consuming side cannot be heard, while the other one comes back at once.
      yield* consumingSide.set("up", { mode: "stall" })
      attempts.push(consumingSide)
      yield* Effect.flatMap(consumingSide.accept, ({ reset }) => reset)
      const consuming = yield* consumingSide.accept
      yield* Effect.flatMap(publishingSide.accept, ({ reset }) => reset)
      const publishing = yield* publishingSide.accept
      const after = yield* Effect.forkChild(publisher.publish({ routingKey: queue, body: "after" }), {
        startImmediately: true
      })
      yield* nextMethod(publishing, "down", "connection.open-ok")
      assert.strictEqual((yield* publishingOf(connection).status)._tag, "Reconnecting")
      yield* consumingSide.set("up", { mode: "pass" })
      yield* nextMethod(consuming, "down", "queue.declare-ok")
      assert.notInclude(yield* methodsOf(publishing, "up"), "1 channel.open")
      yield* Fiber.join(after)
    })))

  it.effect("close lets handlers at work publish, then waits for the confirms", () =>
    noLeaks(Effect.gen(function*() {
      const proxy = yield* makeProxy(yield* Broker)
      const { host, port } = proxy
      const connection = yield* connect({ host, port, separatePublishers: true })
      yield* proxy.accept
      const link = yield* proxy.accept
      yield* skipHeader(link)
      const channel = yield* openOn(yield* connect())
      const from = uniqueName("from")
      const to = uniqueName("to")
      for (const queue of [from, to]) yield* channel.queueDeclare({ queue, durable: true })
      yield* channel.confirmSelect
      yield* channel.publish({ routingKey: from, body: "work" })
      const publisher = yield* Effect.provideService(AmqpPublisher.make(), AmqpConnection, connection)
      const working = yield* Deferred.make<void>()
      const released = yield* Deferred.make<void>()
      const running = yield* AmqpConsumer.run(from, () =>
        Effect.gen(function*() {
          yield* Deferred.succeed(working, undefined)
          yield* Deferred.await(released)
          yield* publisher.publish({ routingKey: to, body: "done" })
        })).pipe(Effect.provideService(AmqpConnection, connection), Effect.forkChild)
      yield* Deferred.await(working)
      const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
      yield* nextMethod(link, "up", "basic.cancel")
      yield* Deferred.succeed(released, undefined)
      yield* Fiber.join(closing)
      assert.isTrue(Exit.isFailure(yield* Fiber.await(running)))
      const { messageCount } = yield* channel.queueDeclarePassive(to)
      assert.strictEqual(messageCount, 1)
      assert.strictEqual((yield* channel.queueDeclarePassive(from)).messageCount, 0)
      assert.strictEqual((yield* publishingOf(connection).closed).reason._tag, "ConnectionClosed")
    })))

  it.effect("a new secret is for both", () =>
    noLeaks(Effect.gen(function*() {
      const proxy = yield* makeProxy(yield* Broker)
      const { host, port } = proxy
      const connection = yield* connect({ host, port, separatePublishers: true })
      yield* connection.updateSecret(Redacted.make("guest"))
      for (const link of [yield* proxy.accept, yield* proxy.accept]) {
        assert.include(yield* methodsOf(link, "up"), "0 connection.update-secret")
      }
    })))

  it.effect("what the first of them is refused fails both", () =>
    noLeaks(Effect.gen(function*() {
      const { name } = yield* Vhost
      const error = yield* Effect.flip(
        connect({ separatePublishers: true, reconnect: noReconnect, vhost: `${name}.missing` })
      )
      assert.strictEqual(error._tag, "AmqpConnectionError")
    })))
})

/**
 * Publishers: one outcome for each message, whatever happens to channels, connections and the broker meanwhile.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Queue, Redacted, Result, Schedule, Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection, type Options as ConnectionOptions } from "../../src/AmqpConnection.ts"
import type { Publish } from "../../src/AmqpMessage.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { makeProxy, type ProxyLink } from "../harness/proxy.ts"
import { type BrokerNode, makeNode } from "../harness/rabbitmq.ts"
import { canControl, isRabbitMQ, onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { connect, framesOf, methodsOf, nextMethod, onConnection, proxied } from "./support.ts"

/** A durable queue. */
const makeQueue = (args: Record<string, string | number> = {}) =>
  Effect.gen(function*() {
    const queue = uniqueName("publisher")
    const channel = yield* AmqpChannel.open
    yield* channel.queueDeclare({ queue, durable: true, arguments: args })
    yield* channel.close
    return queue
  })

/** Takes what is in a queue, in order. */
const messagesOf = (queue: string) =>
  Effect.scoped(Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    const { messageCount } = yield* channel.queueDeclarePassive(queue)
    if (messageCount === 0) return []
    const { deliveries } = yield* channel.consume({ queue, noAck: true })
    return yield* Stream.runCollect(Stream.take(deliveries, messageCount))
  }))

const bodiesOf = (queue: string) => Effect.map(messagesOf(queue), (messages) => messages.map(({ text }) => text))

/** Runs a test on a connection through a proxy, which must leave nothing at the broker. */
const throughProxy = <A, E, R>(
  test: (wire: { readonly proxy: Wire["proxy"]; readonly link: ProxyLink }) => Effect.Effect<A, E, R>,
  options?: ConnectionOptions
) =>
  noLeaks(Effect.gen(function*() {
    const { connection, link, proxy } = yield* proxied({ reconnect: undefined, ...options })
    return yield* Effect.provideService(test({ link, proxy }), AmqpConnection, connection)
  }))

type Wire = Effect.Success<ReturnType<typeof proxied>>

const numbered = (count: number, message: Omit<Publish, "body">): ReadonlyArray<Publish> =>
  Array.from({ length: count }, (_, i) => ({ ...message, body: String(i) }))

type Outcome = "confirmed" | AmqpPublisher.PublishError["_tag"]

/** What became of each message, published at the same time; `onConfirmed` hears of each confirm. */
const outcomesOf = (
  publisher: AmqpPublisher.AmqpPublisher,
  messages: ReadonlyArray<Publish>,
  onConfirmed: (confirmed: number) => Effect.Effect<void> = () => Effect.void
): Effect.Effect<ReadonlyArray<Outcome>> => {
  let confirmed = 0
  return Effect.forEach(messages, (message) =>
    Effect.matchEffect(publisher.publish(message), {
      onFailure: (error): Effect.Effect<Outcome> => Effect.succeed(error._tag),
      onSuccess: () => Effect.as(onConfirmed(++confirmed), "confirmed")
    }), { concurrency: "unbounded" })
}

const indexesOf = (outcomes: ReadonlyArray<Outcome>, wanted: Outcome): ReadonlyArray<string> =>
  outcomes.flatMap((outcome, i) => outcome === wanted ? [String(i)] : [])

/** Does something once, when the n-th message is confirmed. */
const atConfirm = (n: number, fault: Effect.Effect<unknown>) => (confirmed: number): Effect.Effect<void> =>
  confirmed === n ? Effect.asVoid(fault) : Effect.void

/** Each message has one outcome; the queue has all that are confirmed, nothing twice, and of the rest only what is in doubt. */
const assertLaw3 = (outcomes: ReadonlyArray<Outcome>, stored: ReadonlyArray<string>): void => {
  const inQueue = new Set(stored)
  assert.strictEqual(inQueue.size, stored.length, "a message is stored twice")
  assert.deepStrictEqual(
    indexesOf(outcomes, "confirmed").filter((id) => !inQueue.has(id)),
    [],
    "a confirmed message is lost"
  )
  const known = new Set([...indexesOf(outcomes, "confirmed"), ...indexesOf(outcomes, "AmqpPublishUnconfirmed")])
  assert.deepStrictEqual(stored.filter((id) => !known.has(id)), [], "a message that was not sent is stored")
}

/** Waits for a state of the connection. */
const statusIs = (tag: "Open" | "Blocked" | "Reconnecting") =>
  Effect.flatMap(AmqpConnection, ({ changes }) => Stream.runHead(Stream.filter(changes, ({ _tag }) => _tag === tag)))

layer(onVhost, { excludeTestServices: true })("publisher", (it) => {
  it.effect("publishes confirmed, persistent and mandatory, unless the message says otherwise", () =>
    throughProxy(({ link }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make()
        yield* publisher.publish({ routingKey: queue, body: "1" })
        yield* publisher.publish({ routingKey: queue, body: "2", properties: { messageId: "two" } })
        yield* publisher.publish({ routingKey: queue, body: "3", properties: { deliveryMode: 1 } })
        yield* publisher.publish({ routingKey: "nobody", body: "", mandatory: false })
        const returned = yield* Effect.flip(publisher.publish({ routingKey: "nobody", body: "4" }))
        assert.strictEqual(returned._tag, "AmqpMessageReturned")
        const messages = yield* messagesOf(queue)
        assert.deepStrictEqual(messages.map(({ properties }) => properties), [
          { deliveryMode: 2 },
          { deliveryMode: 2, messageId: "two" },
          { deliveryMode: 1 }
        ])
        const frames = yield* framesOf(link, "up")
        assert.deepStrictEqual(
          frames.flatMap((frame) =>
            frame._tag === "Method" && frame.method._tag === "basic.publish" ? [frame.method.mandatory] : []
          ),
          [true, true, true, false, true]
        )
      })
    ))

  it.effect("what comes back has its properties; a reply to a direct reply-to name is not mandatory by itself", () =>
    throughProxy(({ link }) =>
      Effect.gen(function*() {
        const publisher = yield* AmqpPublisher.make()
        const properties = { messageId: "m", headers: { n: 1, at: new Date(5000), x: { y: [true] } } }
        const error = yield* Effect.flip(publisher.publish({ routingKey: "nobody", body: "x", properties }))
        assert.deepStrictEqual(error._tag === "AmqpMessageReturned" && error.properties, {
          deliveryMode: 2,
          ...properties
        })
        const batch = yield* Effect.flip(publisher.publishAll([{ routingKey: "nobody", body: "", properties }]))
        const [{ error: again } = assert.fail()] = batch.failures
        assert.strictEqual(again._tag === "AmqpMessageReturned" && again.properties?.messageId, "m")

        const routingKey = "amq.rabbitmq.reply-to.unknown"
        yield* publisher.publish({ routingKey, body: "reply" })
        const returned = yield* Effect.flip(publisher.publish({ routingKey, body: "reply", mandatory: true }))
        assert.strictEqual(returned._tag, "AmqpMessageReturned")
        assert.include(returned.message, "RabbitMQ before 4.3")
        yield* Effect.flip(publisher.publish({ exchange: "amq.direct", routingKey, body: "no reply" }))
        const frames = yield* framesOf(link, "up")
        assert.deepStrictEqual(
          frames.flatMap((frame) =>
            frame._tag === "Method" && frame.method._tag === "basic.publish" ? [frame.method.mandatory] : []
          ),
          [true, true, false, true, true]
        )
      })
    ))

  it.effect("a publisher may say otherwise for all its messages", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue()
      const options = { exchange: "amq.direct", mandatory: false, persistent: false }
      const publisher = yield* AmqpPublisher.make(options)
      yield* publisher.publish({ routingKey: queue, body: "not bound" })
      const channel = yield* AmqpChannel.open
      yield* channel.queueBind({ queue, exchange: "amq.direct", routingKey: "key" })
      yield* publisher.publish({ routingKey: "key", body: "bound" })
      yield* publisher.publish({ exchange: "", routingKey: queue, body: "direct" })
      const messages = yield* messagesOf(queue)
      assert.deepStrictEqual(messages.map(({ text }) => text), ["bound", "direct"])
      assert.deepStrictEqual(messages.map(({ properties }) => properties.deliveryMode), [1, 1])
      const error = yield* Effect.flip(AmqpPublisher.make({ maxInFlight: 0 }))
      assert.strictEqual(error._tag === "AmqpEncodeError" && error.path, "options.maxInFlight")
    })))

  it.effect("refuses options and messages of a wrong type, typed, and publishes the next message", () =>
    onConnection(Effect.gen(function*() {
      const wrong: ReadonlyArray<readonly [option: keyof AmqpPublisher.Options, value: unknown, says: RegExp]> = [
        ["mandatory", "yes", /true or false, not "yes"$/],
        ["persistent", 1, /true or false, not 1$/],
        ["exchange", 5, /a text, not 5$/],
        ["exchange", null, /a text, not null$/]
      ]
      for (const [option, value, says] of wrong) {
        const options: AmqpPublisher.Options = { ...Object.fromEntries([[option, value]]) }
        const error = yield* Effect.flip(AmqpPublisher.make(options))
        if (error._tag !== "AmqpEncodeError") return assert.fail(error.message)
        assert.strictEqual(error.path, `options.${option}`)
        assert.match(error.reason, says)
      }
      const queue = yield* makeQueue()
      const publisher = yield* AmqpPublisher.make()
      const resend = Schedule.forever
      for (const routingKey of [5, true, {}]) {
        const untyped: object = { routingKey }
        const message: Publish = { body: "", ...untyped }
        for (
          const error of [
            yield* Effect.flip(publisher.publish(message)),
            yield* Effect.flip(publisher.publish(message, { resend })),
            yield* Effect.flip(Stream.run(Stream.make(message), publisher.sink())),
            (yield* Effect.flip(publisher.publishAll([message]))).failures[0]?.error
          ]
        ) {
          assert.deepInclude(error, { _tag: "AmqpEncodeError", path: "routingKey" })
        }
        yield* publisher.publish({ routingKey: queue, body: "good" })
      }
    })))

  // --- losses

  it.effect("F69 a publish without a connection waits for the next one, and is sent once", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make()
        yield* proxy.refuse(true)
        yield* link.reset
        yield* statusIs("Reconnecting")
        const waiting = yield* Effect.forkChild(publisher.publish({ routingKey: queue, body: "waited" }), {
          startImmediately: true
        })
        const given = yield* Effect.forkChild(publisher.publish({ routingKey: queue, body: "given up" }), {
          startImmediately: true
        })
        yield* Fiber.interrupt(given)
        yield* proxy.refuse(false)
        yield* Fiber.join(waiting)
        assert.deepStrictEqual(yield* bodiesOf(queue), ["waited"])
      })
    ))

  it.effect("without a connection for waitTimeout it fails with the reason, and is never sent", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make()
        yield* proxy.refuse(true)
        yield* link.reset
        yield* statusIs("Reconnecting")
        const error = yield* Effect.flip(publisher.publish({ routingKey: queue, body: "late" }))
        assert.strictEqual(error._tag, "AmqpConnectionError")
        yield* proxy.refuse(false)
        yield* statusIs("Open")
        yield* publisher.publish({ routingKey: queue, body: "in time" })
        assert.deepStrictEqual(yield* bodiesOf(queue), ["in time"])
      }), { waitTimeout: "50 millis" }))

  it.effect("F67 a resend whose budget is used up says how often it was tried and why, and is not sent later", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make()
        yield* proxy.set("up", { mode: "hole" })
        const publishing = yield* Effect.forkChild(
          Effect.flip(publisher.publish({ routingKey: queue, body: "late" }, { resend: Schedule.recurs(2) })),
          { startImmediately: true }
        )
        yield* nextMethod(link, "up", "basic.publish")
        yield* proxy.refuse(true)
        yield* link.reset
        const error = yield* Fiber.join(publishing)
        if (error._tag !== "AmqpResendFailed") return assert.fail(error._tag)
        assert.strictEqual(error.attempts, 3)
        assert.isTrue(error.inDoubt)
        assert.strictEqual(error.cause._tag, "AmqpConnectionError")
        yield* proxy.set("up", { mode: "pass" })
        yield* proxy.refuse(false)
        yield* statusIs("Open")
        yield* publisher.publish({ routingKey: queue, body: "after" })
        assert.deepStrictEqual(yield* bodiesOf(queue), ["after"])
      }), { waitTimeout: "50 millis" }))

  it.effect.each(["reset", "close"] as const)(
    "a %s in the middle of many publishes: each has one outcome, what is confirmed is stored, what waited goes on",
    (fault) =>
      noLeaks(Effect.gen(function*() {
        const connectionName = uniqueName("publisher")
        const { connection, link } = yield* proxied({ connectionName, reconnect: undefined })
        const { closeConnection } = yield* Broker.control
        const cut = fault === "reset" ? link.reset : Effect.orDie(closeConnection(connectionName, "maintenance"))
        yield* Effect.gen(function*() {
          const queue = yield* makeQueue()
          const publisher = yield* AmqpPublisher.make({ maxInFlight: 100 })
          const messages = numbered(3000, { routingKey: queue })
          const outcomes = yield* outcomesOf(publisher, messages, atConfirm(700, Effect.forkDetach(cut)))
          assertLaw3(outcomes, yield* bodiesOf(queue))
          const lost = indexesOf(outcomes, "AmqpPublishUnconfirmed").length
          assert.isAtMost(lost, 100)
          assert.strictEqual(indexesOf(outcomes, "confirmed").length, messages.length - lost)
        }).pipe(Effect.provideService(AmqpConnection, connection))
      }))
  )

  it.effect("with a resend every message is stored, and its copies have the same messageId", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 100 })
        const messages = numbered(2000, { routingKey: queue })
        // The broker gets what is on the way, the client does not hear of it.
        let confirmed = 0
        const fault = Effect.andThen(
          proxy.set("down", { mode: "hole" }),
          Effect.andThen(link.reset, proxy.set("down", { mode: "pass" }))
        )
        yield* Effect.forEach(messages, (message) =>
          Effect.andThen(
            publisher.publish(message, { resend: Schedule.spaced("10 millis") }),
            Effect.suspend(() => ++confirmed === 500 ? fault : Effect.void)
          ), { concurrency: "unbounded", discard: true })
        const stored = yield* messagesOf(queue)
        const ids = new Map(stored.map(({ properties, text }) => [text, properties.messageId]))
        assert.strictEqual(ids.size, messages.length)
        for (const { properties, text } of stored) assert.strictEqual(properties.messageId, ids.get(text))
        assert.strictEqual(new Set(ids.values()).size, messages.length)
      })
    ))

  it.effect.each(
    (["up", "down"] as const).flatMap((direction) =>
      [600, 1500, 3000, 10_000].map((cutAfter) => [direction, cutAfter] as const)
    )
  )(
    "cut %s after %i bytes, again and again: law 3 holds, and with a resend all is stored",
    ([direction, cutAfter]) =>
      onConnection(Effect.gen(function*() {
        const [once, resent] = [yield* makeQueue(), yield* makeQueue()]
        const proxy = yield* makeProxy(yield* Broker)
        const connection = yield* connect({
          host: proxy.host,
          port: proxy.port,
          reconnect: Schedule.spaced("1 millis")
        })
        // The handshake takes some 500 bytes up and 600 down.
        yield* proxy.set(direction, { cutAfter: cutAfter + 600 })
        yield* Effect.gen(function*() {
          const publisher = yield* AmqpPublisher.make({ maxInFlight: 5 })
          const outcomes = yield* outcomesOf(publisher, numbered(100, { routingKey: once }))
          yield* publisher.publishAll(numbered(100, { routingKey: resent }), { resend: Schedule.forever })
          yield* proxy.set(direction, { cutAfter: Infinity })
          return outcomes
        }).pipe(
          Effect.scoped,
          Effect.provideService(AmqpConnection, connection),
          Effect.flatMap((outcomes) => Effect.map(bodiesOf(once), (stored) => assertLaw3(outcomes, stored)))
        )
        assert.strictEqual(new Set(yield* bodiesOf(resent)).size, 100)
      }))
  )

  it.effect("a thousand at once, half of them to nobody, through a reset: each hears what became of itself", () =>
    throughProxy(({ link }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 50 })
        // Equal but for the route.
        const messages = Array.from(
          { length: 1000 },
          (_, i) => ({ routingKey: i % 2 === 0 ? queue : "nobody", body: "same" })
        )
        const outcomes = yield* outcomesOf(publisher, messages, atConfirm(100, link.reset))
        const counts = { confirmed: 0, unconfirmed: 0 }
        for (const [i, outcome] of outcomes.entries()) {
          if (outcome === "AmqpPublishUnconfirmed") counts.unconfirmed++
          else assert.strictEqual(outcome, i % 2 === 0 ? "confirmed" : "AmqpMessageReturned")
          if (outcome === "confirmed") counts.confirmed++
        }
        assert.isAtMost(counts.unconfirmed, 50)
        const stored = (yield* messagesOf(queue)).length
        assert.isAtLeast(stored, counts.confirmed)
        assert.isAtMost(stored, counts.confirmed + counts.unconfirmed)
      })
    ))

  it.effect("a connection that is closed for good fails those who wait and those who come", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const publisher = yield* AmqpPublisher.make()
        yield* proxy.refuse(true)
        yield* link.reset
        yield* statusIs("Reconnecting")
        const waiting = yield* Effect.forkChild(Effect.flip(publisher.publish({ body: "" })), {
          startImmediately: true
        })
        yield* (yield* AmqpConnection).close
        for (const error of [yield* Fiber.join(waiting), yield* Effect.flip(publisher.publish({ body: "" }))]) {
          assert.strictEqual(error._tag === "AmqpConnectionError" && error.reason._tag, "ConnectionClosed")
        }
      })
    ))

  // --- refusals

  it.effect("a refusal belongs to the publishes to that exchange; the rest of the window is in doubt, the others go on", () =>
    throughProxy(({ link }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const missing = uniqueName("missing")
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 20 })
        const messages = numbered(500, { routingKey: queue })
          .map((message, i) => i % 50 === 25 ? { ...message, exchange: missing } : message)
        const outcomes = yield* outcomesOf(publisher, messages)
        assert.deepStrictEqual(
          indexesOf(outcomes, "AmqpNotFound"),
          messages.flatMap(({ body, exchange }) => exchange === missing ? [String(body)] : [])
        )
        assertLaw3(outcomes, yield* bodiesOf(queue))
        assert.isAtLeast(indexesOf(outcomes, "confirmed").length, 250)
        // One channel of the queue's maker, one for each refusal, and the one that is open.
        const opened = (yield* methodsOf(link, "up")).filter((name) => name.endsWith("channel.open"))
        assert.isAtLeast(opened.length, 12)
      })
    ))

  it.effect("with a resend all good messages among bad ones are stored", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue()
      const missing = uniqueName("missing")
      const publisher = yield* AmqpPublisher.make({ maxInFlight: 20 })
      const messages = numbered(300, { routingKey: queue })
        .map((message, i) => i % 30 === 15 ? { ...message, exchange: missing } : message)
      const error = yield* Effect.flip(publisher.publishAll(messages, { resend: Schedule.forever }))
      assert.strictEqual(error.total, 300)
      assert.deepStrictEqual(
        error.failures.map(({ index }) => index),
        Array.from({ length: 10 }, (_, i) => 30 * i + 15)
      )
      for (const { error: { _tag } } of error.failures) assert.include(["AmqpNotFound", "AmqpResendFailed"], _tag)
      assert.strictEqual(new Set(yield* bodiesOf(queue)).size, 290)
    })))

  it.effect("F70 a full queue nacks; with a resend it goes on as there is room", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue({ "x-max-length": 10, "x-overflow": "reject-publish" })
      const publisher = yield* AmqpPublisher.make()
      const outcomes = yield* outcomesOf(publisher, numbered(100, { routingKey: queue }))
      const nacked = indexesOf(outcomes, "AmqpPublishNacked").length
      assert.isAtLeast(nacked, 50)
      assert.strictEqual(indexesOf(outcomes, "confirmed").length, 100 - nacked)

      const nacks = yield* Queue.unbounded<string>()
      const resend = Schedule.spaced("5 millis").pipe(
        Schedule.setInputType<AmqpPublisher.PublishError>(),
        Schedule.tap(({ input }) => Queue.offer(nacks, input._tag))
      )
      const publishing = yield* Effect.forkChild(publisher.publish({ routingKey: queue, body: "last" }, { resend }))
      for (let i = 0; i < 3; i++) assert.strictEqual(yield* Queue.take(nacks), "AmqpPublishNacked")
      const channel = yield* AmqpChannel.open
      yield* channel.queuePurge(queue)
      yield* Fiber.join(publishing)
      assert.deepStrictEqual(yield* bodiesOf(queue), ["last"])
    })))

  it.effect("what AMQP cannot carry fails alone, and nothing of it is sent", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue()
      const publisher = yield* AmqpPublisher.make()
      const bad = { routingKey: "x".repeat(256), body: "" }
      assert.strictEqual((yield* Effect.flip(publisher.publish(bad)))._tag, "AmqpEncodeError")
      assert.strictEqual(
        (yield* Effect.flip(publisher.publish(bad, { resend: Schedule.forever })))._tag,
        "AmqpEncodeError"
      )
      const error = yield* Effect.flip(publisher.publishAll([bad, { routingKey: queue, body: "good" }, bad]))
      assert.deepStrictEqual(error.failures.map(({ error, index }) => [index, error._tag]), [
        [0, "AmqpEncodeError"],
        [2, "AmqpEncodeError"]
      ])
      const mistakes = [{ body: { a: 1 } }, { body: "", properties: { timestamp: 1_700_000_000_000 } }]
      for (const mistake of mistakes) {
        // @ts-expect-error - a body is text or bytes
        const messages: ReadonlyArray<Publish> = [mistake, { routingKey: queue, body: "good" }]
        const { failures } = yield* Effect.flip(publisher.publishAll(messages, { resend: Schedule.forever }))
        assert.deepStrictEqual(failures.map(({ error, index }) => [index, error._tag]), [[0, "AmqpEncodeError"]])
      }
      assert.deepStrictEqual(yield* bodiesOf(queue), ["good", "good", "good"])
    })))

  // --- the gates

  it.effect("F72 an alarm in the middle: publishes wait for its end, nothing is lost and nothing reconnects", () =>
    onConnection(
      Effect.gen(function*() {
        const { alarm, unalarm } = yield* Broker.control
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 100 })
        yield* alarm("memory")
        const blocked = yield* Effect.forkChild(statusIs("Blocked"), { startImmediately: true })
        const publishing = yield* Effect.forkChild(outcomesOf(publisher, numbered(1000, { routingKey: queue })), {
          startImmediately: true
        })
        yield* Fiber.join(blocked)
        // BL08: never sent.
        const given = yield* Effect.forkChild(publisher.publish({ routingKey: queue, body: "given up" }), {
          startImmediately: true
        })
        yield* Fiber.interrupt(given)
        yield* unalarm("memory")
        const outcomes = yield* Fiber.join(publishing)
        assert.strictEqual(indexesOf(outcomes, "confirmed").length, 1000)
        assert.deepStrictEqual(yield* bodiesOf(queue), indexesOf(outcomes, "confirmed"))
        const status = yield* (yield* AmqpConnection).status
        assert.strictEqual(status._tag === "Open" && status.epoch, 1)
      }),
      { waitTimeout: "1 millis" }
    ))

  it.effect("so many messages may be unconfirmed; one that is interrupted beyond it is never sent", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 3 })
        yield* proxy.set("down", { mode: "stall" })
        const fibers = yield* Effect.forEach(numbered(7, { routingKey: queue }), (message) =>
          Effect.forkChild(publisher.publish(message), { startImmediately: true }))
        for (let i = 0; i < 3; i++) {
          yield* nextMethod(link, "up", "basic.publish")
        }
        // 1 has been sent, 4 waits.
        for (const i of [1, 4]) {
          yield* Fiber.interrupt(fibers[i] ?? assert.fail())
        }
        yield* proxy.set("down", { mode: "pass" })
        for (const i of [0, 2, 3, 5, 6]) {
          yield* Fiber.join(fibers[i] ?? assert.fail())
        }
        assert.deepStrictEqual(yield* bodiesOf(queue), ["0", "1", "2", "3", "5", "6"])
      })
    ))

  it.effect("at most maxInFlight publishes are on the wire without an answer", () =>
    throughProxy(({ link }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 7 })
        const before = (yield* framesOf(link, "up")).length
        yield* publisher.publishAll(numbered(200, { routingKey: queue }))
        const sent = (yield* framesOf(link, "up")).slice(before)
        assert.strictEqual(sent.filter((frame) => frame._tag === "Header").length, 200)
        // Two acknowledgements of the same flush may be one: at least one for every seven.
        const acks = (yield* methodsOf(link, "down")).filter((name) => name.endsWith("basic.ack"))
        assert.isAtLeast(acks.length, Math.ceil(200 / 7))
        assert.deepStrictEqual(yield* bodiesOf(queue), Array.from({ length: 200 }, (_, i) => String(i)))
      })
    ))

  it.effect("F38 confirmTimeout: unconfirmed in time is in doubt; it still counts, and its late confirm is ignored", () =>
    throughProxy(({ proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 2, confirmTimeout: "80 millis" })
        yield* proxy.set("down", { mode: "stall" })
        const error = yield* Effect.flip(publisher.publishAll(numbered(2, { routingKey: queue })))
        for (const { error: each } of error.failures) {
          assert.strictEqual(each._tag === "AmqpPublishUnconfirmed" && each.timeoutMillis, 80)
          assert.include(each.message, "80 ms")
        }
        assert.strictEqual(error.failures.length, 2)
        const next = yield* Effect.forkChild(publisher.publish({ routingKey: queue, body: "next" }), {
          startImmediately: true
        })
        yield* proxy.set("down", { mode: "pass" })
        yield* Fiber.join(next)
        yield* publisher.waitForConfirms
        assert.deepStrictEqual(yield* bodiesOf(queue), ["0", "1", "next"])
      })
    ))

  // --- the end

  it.effect("closing waits for what is on the way, and fails what waits and what comes later", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const scope = yield* Scope.make()
        const publisher = yield* Scope.provide(AmqpPublisher.make({ maxInFlight: 2 }), scope)
        yield* proxy.set("down", { mode: "stall" })
        const fibers = yield* Effect.forEach(numbered(4, { routingKey: queue }), (message) =>
          Effect.forkChild(Effect.result(publisher.publish(message)), { startImmediately: true }))
        for (let i = 0; i < 2; i++) {
          yield* nextMethod(link, "up", "basic.publish")
        }
        const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
        const late = yield* Effect.flip(publisher.publish({ routingKey: queue, body: "late" }))
        assert.strictEqual(late._tag, "AmqpChannelClosed")
        yield* proxy.set("down", { mode: "pass" })
        yield* Fiber.join(closing)
        const results = yield* Effect.forEach(fibers, Fiber.join)
        assert.deepStrictEqual(
          results.map((result) =>
            Result.isFailure(result) ? result.failure._tag : "confirmed"
          ),
          [
            "confirmed",
            "confirmed",
            "AmqpChannelClosed",
            "AmqpChannelClosed"
          ]
        )
        assert.deepStrictEqual(yield* bodiesOf(queue), ["0", "1"])
      })
    ))

  it.effect("closing does not wait for ever: what the broker does not answer is in doubt", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const scope = yield* Scope.make()
        const publisher = yield* Scope.provide(AmqpPublisher.make(), scope)
        yield* proxy.set("down", { mode: "stall" })
        const publishing = yield* Effect.forkChild(Effect.flip(publisher.publish({ routingKey: queue, body: "" })), {
          startImmediately: true
        })
        yield* nextMethod(link, "up", "basic.publish")
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual((yield* Fiber.join(publishing))._tag, "AmqpPublishUnconfirmed")
        yield* proxy.set("down", { mode: "pass" })
      }), { closeTimeout: "50 millis" }))

  it.effect("F87 closing while there is no connection is immediate", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const publisher = yield* Scope.provide(AmqpPublisher.make(), scope)
        yield* proxy.refuse(true)
        yield* link.reset
        yield* statusIs("Reconnecting")
        const waiting = yield* Effect.forkChild(Effect.flip(publisher.publish({ body: "" })), {
          startImmediately: true
        })
        yield* Effect.timeout(Scope.close(scope, Exit.void), "1 second")
        assert.strictEqual((yield* Fiber.join(waiting))._tag, "AmqpChannelClosed")
        yield* publisher.waitForConfirms
      })
    ))

  it.effect("a connection without a free channel says so at once", () =>
    onConnection(
      Effect.gen(function*() {
        const publisher = yield* AmqpPublisher.make()
        const error = yield* Effect.flip(AmqpPublisher.make())
        assert.strictEqual(error._tag === "AmqpConnectionError" && error.reason._tag, "ChannelsExhausted")
        yield* publisher.publish({ routingKey: "nobody", body: "", mandatory: false })
      }),
      { channelMax: 1 }
    ))

  it.effect("F89 closing while the connection is blocked ends within its bound", () =>
    onConnection(
      Effect.gen(function*() {
        const { alarm } = yield* Broker.control
        const scope = yield* Scope.make()
        const publisher = yield* Scope.provide(AmqpPublisher.make(), scope)
        yield* alarm("memory")
        const blocked = yield* Effect.forkChild(statusIs("Blocked"), { startImmediately: true })
        // The alarm takes a moment to reach the connection: what comes before it is answered as ever.
        const onTheWay = yield* Effect.forkChild(
          Effect.repeat(Effect.flip(publisher.publish({ body: "" })), {
            until: ({ _tag }) => _tag !== "AmqpMessageReturned"
          }),
          { startImmediately: true }
        )
        yield* Fiber.join(blocked)
        const waiting = yield* Effect.forkChild(Effect.flip(publisher.publish({ body: "" })), {
          startImmediately: true
        })
        yield* Effect.timeout(Scope.close(scope, Exit.void), "2 seconds")
        // The one that provokes the alarm may still be answered.
        yield* Fiber.await(onTheWay)
        assert.strictEqual((yield* Fiber.join(waiting))._tag, "AmqpChannelClosed")
      }),
      { closeTimeout: "50 millis" }
    ))

  it.effect("interrupting make leaves no channel behind", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        yield* proxy.set("down", { mode: "stall" })
        const scope = yield* Scope.make()
        const making = yield* Effect.forkChild(Scope.provide(AmqpPublisher.make(), scope), { startImmediately: true })
        yield* nextMethod(link, "up", "channel.open")
        const interrupting = yield* Effect.forkChild(Fiber.interrupt(making), { startImmediately: true })
        yield* proxy.set("down", { mode: "pass" })
        yield* Fiber.join(interrupting)
        yield* nextMethod(link, "down", "channel.close-ok")
        const { held } = yield* Broker.control
        assert.deepStrictEqual((yield* held({ vhost: (yield* Vhost).name })).channels, [])
        yield* Scope.close(scope, Exit.void)
      })
    ))

  it.effect("as a layer it closes before its connection", () =>
    noLeaks(Effect.gen(function*() {
      const queue = uniqueName("publisher")
      const connection = Layer.effect(AmqpConnection, connect())
      const publishing = Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        yield* channel.queueDeclare({ queue })
        const publisher = yield* AmqpPublisher.AmqpPublisher
        // Nobody waits for it but the layer.
        yield* Effect.forkDetach(publisher.publish({ routingKey: queue, body: "last" }), { startImmediately: true })
      }).pipe(Effect.scoped)
      yield* Effect.provide(publishing, Layer.provideMerge(AmqpPublisher.layer(), connection))
      assert.deepStrictEqual(yield* Effect.provide(bodiesOf(queue), connection), ["last"])
    })))

  // --- batches and sinks

  it.effect("publishAll waits once; its failures are listed by their place", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue()
      const publisher = yield* AmqpPublisher.make()
      yield* publisher.publishAll([])
      const messages = numbered(5000, { routingKey: queue })
      yield* publisher.publishAll(messages)
      assert.deepStrictEqual(yield* bodiesOf(queue), messages.map(({ body }) => body))
      const mixed = messages.slice(0, 10).map((message, i) =>
        i % 3 === 0 ? { ...message, routingKey: "nobody" } : message
      )
      const error = yield* Effect.flip(publisher.publishAll(mixed))
      assert.strictEqual(error._tag, "AmqpBatchError")
      assert.strictEqual(error.total, 10)
      assert.deepStrictEqual(error.failures.map(({ error, index }) => [index, error._tag]), [
        [0, "AmqpMessageReturned"],
        [3, "AmqpMessageReturned"],
        [6, "AmqpMessageReturned"],
        [9, "AmqpMessageReturned"]
      ])
      assert.include(error.message, "4 of 10")
      assert.deepStrictEqual(yield* bodiesOf(queue), ["1", "2", "4", "5", "7", "8"])
    })))

  it.effect("publishAll to several exchanges: each failure is that of its own message, and the rest is resent", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue()
      const publisher = yield* AmqpPublisher.make()
      const exchange = uniqueName("missing")
      const messages = numbered(30, { routingKey: queue }).map((message, i) =>
        i % 10 === 3 ? { ...message, exchange } : i % 10 === 6 ? { ...message, routingKey: "k".repeat(256) } : message
      )
      const error = yield* Effect.flip(publisher.publishAll(messages, { resend: Schedule.forever }))
      assert.deepStrictEqual(error.failures.map(({ error, index }) => [index, error._tag]), [
        [3, "AmqpNotFound"],
        [6, "AmqpEncodeError"],
        [13, "AmqpNotFound"],
        [16, "AmqpEncodeError"],
        [23, "AmqpNotFound"],
        [26, "AmqpEncodeError"]
      ])
      const good = messages.filter((_, i) => i % 10 !== 3 && i % 10 !== 6)
      assert.deepStrictEqual(new Set(yield* bodiesOf(queue)), new Set(good.map(({ body }) => body)))
    })))

  it.effect("publishAll that gives up resending lists its messages by their first place", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue()
      const full = yield* makeQueue({ "x-max-length": 0, "x-overflow": "reject-publish" })
      const publisher = yield* AmqpPublisher.make()
      const messages = [queue, full, queue, full].map((routingKey) => ({ routingKey, body: "" }))
      const error = yield* Effect.flip(publisher.publishAll(messages, { resend: Schedule.recurs(2) }))
      assert.deepStrictEqual(error.failures.map(({ error, index }) => [index, error._tag]), [
        [1, "AmqpResendFailed"],
        [3, "AmqpResendFailed"]
      ])
      assert.lengthOf(yield* bodiesOf(queue), 2)
    })))

  it.effect("publishAll through a reset: the lost ones are listed, the rest is stored; a resend leaves none", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 100 })
        yield* proxy.set("down", { mode: "stall" })
        const publishing = yield* Effect.forkChild(
          Effect.flip(publisher.publishAll(numbered(300, { routingKey: queue }))),
          {
            startImmediately: true
          }
        )
        yield* nextMethod(link, "up", "basic.publish")
        yield* link.reset
        yield* proxy.set("down", { mode: "pass" })
        const { failures } = yield* Fiber.join(publishing)
        assert.deepStrictEqual(failures.map(({ index }) => index), Array.from({ length: 100 }, (_, i) => i))
        for (const { error } of failures) assert.strictEqual(error._tag, "AmqpPublishUnconfirmed")
        const stored = new Set(yield* bodiesOf(queue))
        for (let i = 100; i < 300; i++) assert.isTrue(stored.has(String(i)))

        const next = yield* proxy.accept
        yield* proxy.set("down", { mode: "stall" })
        const again = yield* Effect.forkChild(
          publisher.publishAll(numbered(300, { routingKey: queue }), { resend: Schedule.recurs(10) }),
          { startImmediately: true }
        )
        yield* next.reset
        yield* proxy.set("down", { mode: "pass" })
        yield* Fiber.join(again)
        assert.strictEqual(new Set(yield* bodiesOf(queue)).size, 300)
      })
    ))

  it.effect("a sink publishes a stream in order, under the window, and ends when all is confirmed", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue()
      const publisher = yield* AmqpPublisher.make({ maxInFlight: 10 })
      yield* Stream.run(Stream.empty, publisher.sink())
      yield* Stream.range(1, 2000).pipe(
        Stream.rechunk(37),
        Stream.map((i) => ({ routingKey: queue, body: String(i) })),
        Stream.run(publisher.sink())
      )
      assert.deepStrictEqual(yield* bodiesOf(queue), Array.from({ length: 2000 }, (_, i) => String(i + 1)))
    })))

  it.effect("a sink pulls no more than may be on the way; interrupted, it sends no more", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 10 })
        yield* proxy.set("down", { mode: "stall" })
        const pulled: Array<number> = []
        const full = yield* Deferred.make<void>()
        const running = yield* Stream.range(0, 1000).pipe(
          Stream.rechunk(1),
          Stream.tap((i) => pulled.push(i) === 11 ? Deferred.succeed(full, undefined) : Effect.void),
          Stream.map((i) => ({ routingKey: queue, body: String(i) })),
          Stream.run(publisher.sink()),
          Effect.forkChild
        )
        yield* Deferred.await(full)
        for (let i = 0; i < 10; i++) yield* nextMethod(link, "up", "basic.publish")
        yield* Fiber.interrupt(running)
        yield* proxy.set("down", { mode: "pass" })
        yield* publisher.waitForConfirms
        assert.strictEqual(pulled.length, 11)
        assert.deepStrictEqual(yield* bodiesOf(queue), Array.from({ length: 10 }, (_, i) => String(i)))
      })
    ))

  it.effect("an interrupted batch sends no more", () =>
    throughProxy(({ link, proxy }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 10 })
        yield* proxy.set("down", { mode: "stall" })
        const publishing = yield* Effect.forkChild(publisher.publishAll(numbered(100, { routingKey: queue })), {
          startImmediately: true
        })
        for (let i = 0; i < 10; i++) yield* nextMethod(link, "up", "basic.publish")
        yield* Fiber.interrupt(publishing)
        yield* proxy.set("down", { mode: "pass" })
        yield* publisher.publish({ routingKey: queue, body: "next" })
        assert.deepStrictEqual(
          yield* bodiesOf(queue),
          [...Array.from({ length: 10 }, (_, i) => String(i)), "next"]
        )
      })
    ))

  it.effect("a sink fails with the first failure, also while the stream has nothing to say", () =>
    onConnection(Effect.gen(function*() {
      const publisher = yield* AmqpPublisher.make()
      const stopped = yield* Deferred.make<void>()
      const stream = Stream.make({ routingKey: "nobody", body: "" }).pipe(
        Stream.concat(Stream.never),
        Stream.ensuring(Deferred.succeed(stopped, undefined))
      )
      const error = yield* Effect.flip(Stream.run(stream, publisher.sink()))
      assert.strictEqual(error._tag, "AmqpMessageReturned")
      yield* Deferred.await(stopped)
    })))

  it.effect("a sink with a resend outlives a reset", () =>
    throughProxy(({ link }) =>
      Effect.gen(function*() {
        const queue = yield* makeQueue()
        const publisher = yield* AmqpPublisher.make({ maxInFlight: 50 })
        yield* Stream.range(1, 1000).pipe(
          Stream.rechunk(20),
          Stream.tap((i) => i === 500 ? link.reset : Effect.void),
          Stream.map((i) => ({ routingKey: queue, body: String(i) })),
          Stream.run(publisher.sink({ resend: Schedule.recurs(10) }))
        )
        const stored = yield* messagesOf(queue)
        assert.strictEqual(new Set(stored.map(({ text }) => text)).size, 1000)
        assert.strictEqual(new Set(stored.map(({ properties }) => properties.messageId)).size, 1000)
      })
    ))
})

/** 10,000 publishes, in the middle of which their broker goes and comes back. */
const publishesThrough = (restart: Effect.Effect<unknown>, options?: ConnectionOptions) =>
  Effect.gen(function*() {
    const queue = yield* makeQueue()
    const publisher = yield* AmqpPublisher.make({ maxInFlight: 500 })
    const messages = numbered(10_000, { routingKey: queue })
    const outcomes = yield* outcomesOf(publisher, messages, atConfirm(3000, Effect.forkDetach(restart)))
    const status = yield* (yield* AmqpConnection).status
    assert.strictEqual(status._tag === "Open" && status.epoch, 2)
    assertLaw3(outcomes, yield* bodiesOf(queue))
    const lost = indexesOf(outcomes, "AmqpPublishUnconfirmed").length
    assert.isAtMost(lost, 500)
    assert.strictEqual(indexesOf(outcomes, "confirmed").length, messages.length - lost)
  }).pipe(
    Effect.provideServiceEffect(
      AmqpConnection,
      connect({ reconnect: undefined, waitTimeout: "60 seconds", ...options })
    ),
    Effect.scoped
  )

describe.runIf(canControl)("a broker that stops", () => {
  layer(onVhost, { excludeTestServices: true })((it) => {
    it.effect(
      "in the middle of 10 000 publishes: one outcome each, every confirmed message is there afterwards",
      () =>
        Effect.flatMap(Broker.control, ({ stopApp }) => noLeaks(publishesThrough(Effect.orDie(Effect.scoped(stopApp)))))
    )
  })
})

class Node extends Context.Service<Node, BrokerNode>()("test/PublisherNode") {
  static readonly layer = Layer.effect(Node, makeNode())
}

// The embedded broker would take the test's process with it.
describe.runIf(isRabbitMQ)("a broker that is killed", () => {
  layer(Layer.merge(onVhost, Node.layer), { excludeTestServices: true })((it) => {
    it.effect(
      "in the middle of 10 000 publishes: one outcome each, every confirmed message is there afterwards",
      () =>
        Effect.flatMap(
          Node,
          ({ amqpUrl, kill9, start }) =>
            publishesThrough(Effect.andThen(kill9, Effect.orDie(start)), { url: Redacted.make(amqpUrl) })
        ),
      90_000
    )
  })
})

/**
 * Topologies on a real broker: declared once, and again in each epoch before anybody else may use it.
 *
 * F46 is met by being what should be there: nothing is remembered of what was declared, so an auto-delete entity comes
 * back with the next epoch if it is in a topology, and else not at all.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Cause, Clock, Effect, Exit, Fiber, Queue, Ref, Schedule, Scope, Stream } from "effect"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import { isTransient } from "../../src/AmqpError.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import { diagnose } from "../../src/internal/topology/diagnosis.ts"
import { isRestored } from "../../src/internal/topology/queueNames.ts"
import { noLeaks } from "../harness/leaks.ts"
import type { FaultProxy, ProxyLink } from "../harness/proxy.ts"
import { canControl, onVhost, uniqueName } from "../harness/shared.ts"
import {
  assertFailure,
  connect,
  framesOf,
  isAttachedIn,
  methodsOf,
  nextMethod,
  openOn,
  proxied,
  skipHeader,
  until
} from "./support.ts"

const { bind, bindExchange, classicQueue, exchange, passiveExchange, passiveQueue, quorumQueue, serverNamedQueue } =
  AmqpTopology

/** A connection through a proxy that comes back at once. */
const through = (options?: AmqpConnection.Options) => proxied({ reconnect: Schedule.spaced("20 millis"), ...options })

/** A consumer comes back at once as well. */
const recover = Schedule.spaced("20 millis").pipe(
  Schedule.setInputType<AmqpConsumer.AmqpConsumerFailed>(),
  Schedule.while(({ input }) => isTransient(input))
)

/** A topology on this connection. */
const make = (
  connection: AmqpConnection.AmqpConnection,
  entities: ReadonlyArray<AmqpTopology.Entity>,
  options?: AmqpTopology.Options
) => Effect.provideService(AmqpTopology.make(entities, options), AmqpConnection.AmqpConnection, connection)

const declare = (
  connection: AmqpConnection.AmqpConnection,
  entities: ReadonlyArray<AmqpTopology.Entity>,
  options?: AmqpTopology.DeclareOptions
) => Effect.provideService(AmqpTopology.declare(entities, options), AmqpConnection.AmqpConnection, connection)

/** Waits until the connection is in this epoch, or in a later one. */
const inEpoch = (connection: AmqpConnection.AmqpConnection, epoch: number) =>
  connection.changes.pipe(
    Stream.filter((status) => status._tag === "Open" && status.epoch >= epoch),
    Stream.take(1),
    Stream.runDrain
  )

/** Waits for a state of the failures. */
const failuresWhen = (
  topology: AmqpTopology.AmqpTopology,
  predicate: (failures: ReadonlyArray<AmqpTopology.AmqpTopologyError>) => boolean
) => topology.changes.pipe(Stream.filter(predicate), Stream.take(1), Stream.runDrain)

const isEmpty = (failures: ReadonlyArray<unknown>) => failures.length === 0

/** Whether a queue is there, asked on a channel of its own. */
const exists = (connection: AmqpConnection.AmqpConnection, queue: string) =>
  openOn(connection).pipe(
    Effect.flatMap((channel) => channel.queueDeclarePassive(queue)),
    Effect.as(true),
    Effect.catchTag("AmqpNotFound", () => Effect.succeed(false)),
    Effect.scoped
  )

/** Whether an exchange is there, asked on a channel of its own. */
const exchangeExists = (connection: AmqpConnection.AmqpConnection, name: string) =>
  openOn(connection).pipe(
    Effect.flatMap((channel) => channel.exchangeDeclarePassive(name)),
    Effect.as(true),
    Effect.catchTag("AmqpNotFound", () => Effect.succeed(false)),
    Effect.scoped
  )

/** Ends the client's side of a link; the broker notices nothing until the link is reset. */
const loseUnnoticed = (proxy: FaultProxy, link: ProxyLink) =>
  Effect.gen(function*() {
    yield* proxy.refuse(true)
    yield* proxy.set("up", { mode: "hole" })
    yield* proxy.set("down", { mode: "hole" })
    yield* link.halfClose("down")
    yield* Effect.flip(link.read("up", Infinity))
    yield* Effect.yieldNow // the proxy has heard of the end; now it hides it
    yield* proxy.set("up", { mode: "pass" })
    yield* proxy.set("down", { mode: "pass" })
    yield* proxy.refuse(false)
  })

/** The methods of the client after the handshake, without channel numbers. */
const sent = (link: ProxyLink) =>
  Effect.map(methodsOf(link, "up"), (methods) => methods.slice(3).map((method) => method.replace(/^\d+ /, "")))

layer(onVhost, { excludeTestServices: true })("topology", (it) => {
  it.effect("F44 F53 it is back before anybody uses the next epoch, server-named queues under new names", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* through()
      const [x, q, s] = [uniqueName("x"), uniqueName("q"), serverNamedQueue()]
      const topology = yield* make(connection, [
        bind({ queue: s, exchange: x, routingKey: "s" }),
        bind({ queue: q, exchange: x, routingKey: "q" }),
        s,
        classicQueue(q, { durable: false, exclusive: true, autoDelete: true }),
        exchange(x, { durable: false, autoDelete: true })
      ])
      const before = yield* topology.queueName(s)
      // Many who wait, so that one of them would be early.
      yield* link.reset
      yield* Stream.runDrain(Stream.takeUntil(connection.changes, ({ _tag }) => _tag === "Reconnecting"))
      const waiting = yield* Effect.forEach(
        Array.from({ length: 20 }),
        () => Effect.forkChild(openOn(connection), { startImmediately: true })
      )
      const [channel] = yield* Effect.forEach(waiting, Fiber.join)
      const methods = yield* sent(yield* proxy.accept)
      assert.deepStrictEqual(methods.slice(0, 8), [
        "channel.open",
        "exchange.declare",
        "queue.declare",
        "queue.declare",
        "queue.bind",
        "queue.bind",
        "channel.close",
        "channel.open"
      ])

      if (channel === undefined) return assert.fail("no channel")
      yield* channel.confirmSelect
      yield* channel.publish({ exchange: x, routingKey: "q", body: "1", mandatory: true })
      yield* channel.publish({ exchange: x, routingKey: "s", body: "2", mandatory: true })
      const after = yield* topology.queueName(s)
      assert.notStrictEqual(after, before)
      assert.strictEqual((yield* channel.get({ queue: after, noAck: true }))._tag, "Some")
      assert.deepStrictEqual(yield* topology.failures, [])
    })))

  it.effect("is back after losses at every step of its own recovery, and so is what consumes from it", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* through()
      const [x, q] = [uniqueName("x"), uniqueName("q")]
      const named = serverNamedQueue({ exclusive: true })
      const topology = yield* make(connection, [
        exchange(x, { type: "fanout", durable: false, autoDelete: true }),
        classicQueue(q, { durable: false, exclusive: true }),
        named,
        bind({ queue: q, exchange: x }),
        bind({ queue: named, exchange: x })
      ])
      const received = yield* Effect.provideService(
        Stream.toQueue(
          Stream.merge(AmqpConsumer.stream(q), AmqpConsumer.stream(named)),
          { capacity: "unbounded" }
        ),
        AmqpConnection.AmqpConnection,
        connection
      )
      let last = link
      const steps = ["channel.open", "exchange.declare", "queue.declare", "queue.bind", "channel.close"] as const
      for (const step of steps) {
        yield* last.reset
        // The first loss is of an epoch that was open, those that follow come while it is being restored.
        for (let loss = 1; loss <= 2; loss++) {
          last = yield* proxy.accept
          yield* skipHeader(last)
          yield* nextMethod(last, "up", step)
          yield* last.reset
        }
        last = yield* proxy.accept
        const publisher = yield* openOn(connection)
        yield* publisher.confirmSelect
        assert.deepStrictEqual(yield* topology.failures, [], step)
        yield* publisher.queueDeclarePassive(yield* topology.queueName(named))
        yield* publisher.publish({ exchange: x, body: step, mandatory: true })
        const got = [yield* Queue.take(received), yield* Queue.take(received)]
        assert.deepStrictEqual(got.map(({ text }) => text), [step, step])
      }
    })))

  it.effect("F46 an auto-delete queue that went away comes back with the next epoch; one of no topology does not", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* through()
      const [inside, outside] = [uniqueName("q"), uniqueName("q")]
      yield* make(connection, [classicQueue(inside, { durable: false, autoDelete: true })])
      yield* Effect.scoped(Effect.gen(function*() {
        const channel = yield* openOn(connection)
        yield* channel.queueDeclare({ queue: outside, autoDelete: true })
        yield* channel.consume({ queue: inside })
        yield* channel.consume({ queue: outside })
      }))
      assert.isFalse(yield* exists(connection, inside))
      yield* link.reset
      yield* inEpoch(connection, 2)
      assert.isTrue(yield* exists(connection, inside))
      assert.isFalse(yield* exists(connection, outside))
    })))

  it.effect("F47 names of the broker's own and passive entities are checked in each epoch, never declared", () =>
    noLeaks(Effect.gen(function*() {
      const other = yield* connect()
      const [x, q] = [uniqueName("x"), uniqueName("q")]
      yield* declare(other, [exchange(x, { durable: false }), classicQueue(q, { durable: false })])
      const { connection, link, proxy } = yield* through()
      const topology = yield* make(connection, [
        passiveExchange(x),
        passiveQueue(q),
        exchange("amq.topic", { type: "topic" }),
        bind({ queue: q, exchange: x, routingKey: "k" }),
        bind({ queue: q, exchange: "amq.direct", routingKey: "k" })
      ])
      yield* Effect.scoped(Effect.flatMap(openOn(other), (channel) => channel.queueDelete({ queue: q })))
      yield* link.reset
      yield* inEpoch(connection, 2)
      const frames = [...yield* framesOf(link, "up"), ...yield* framesOf(yield* proxy.accept, "up")]
      const active = frames.flatMap((frame) =>
        frame._tag === "Method" && "passive" in frame.method && !frame.method.passive ? [frame.method._tag] : []
      )
      assert.deepStrictEqual(active, [])
      // It was not made, and what depends on it says so.
      assert.isFalse(yield* exists(connection, q))
      const failed = yield* topology.failures
      assert.strictEqual(failed.length, 3)
      for (const failure of failed) assert.strictEqual(failure.cause._tag, "AmqpNotFound")
    })))

  it.effect("F49 1,000 queues and their bindings are back within seconds", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* through()
      const x = uniqueName("x")
      const names = Array.from({ length: 1000 }, (_, i) => `${x}-${i}`)
      const entities = [
        exchange(x, { durable: false, autoDelete: true }),
        ...names.map((name) => classicQueue(name, { durable: false, exclusive: true })),
        ...names.map((name) => bind({ queue: name, exchange: x, routingKey: name }))
      ]
      const topology = yield* make(connection, entities)
      const start = yield* Clock.currentTimeMillis
      yield* link.reset
      yield* inEpoch(connection, 2)
      assert.isBelow((yield* Clock.currentTimeMillis) - start, 10_000)
      assert.deepStrictEqual(yield* topology.failures, [])
      const channel = yield* openOn(connection)
      yield* channel.confirmSelect
      yield* Effect.forEach(
        names,
        (routingKey) => channel.publish({ exchange: x, routingKey, body: "", mandatory: true }),
        {
          concurrency: "unbounded"
        }
      )
    })))

  it.effect("many refusals are not in the way of the rest", () =>
    noLeaks(Effect.gen(function*() {
      const connection = yield* connect()
      const prefix = uniqueName("q")
      const entities = Array.from({ length: 500 }, (_, i) =>
        i % 10 === 0
          ? passiveQueue(`${prefix}-${i}`)
          : classicQueue(`${prefix}-${i}`, { durable: false, exclusive: true }))
      const skipped = yield* declare(connection, entities, { onFailure: "skip" })
      assert.deepStrictEqual(
        skipped.map(({ cause, entity }) => `${entity} ${cause._tag}`).sort(),
        entities.flatMap(({ _tag, name }) => _tag === "PassiveQueue" ? [`queue "${name}" AmqpNotFound`] : []).sort()
      )
      yield* Effect.forEach(entities, ({ _tag, name }) =>
        _tag === "Queue" ? Effect.map(exists(connection, name), assert.isTrue) : Effect.void)
    })))

  it.effect("F51 what is declared once is not declared again", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* through()
      const [once, always, s] = [uniqueName("q"), uniqueName("q"), serverNamedQueue()]
      yield* declare(connection, [classicQueue(once, { durable: false, exclusive: true }), s])
      const topology = yield* make(connection, [classicQueue(always, { durable: false, exclusive: true })])
      assert.match(yield* topology.queueName(s), /^amq\.gen-/)
      yield* link.reset
      yield* inEpoch(connection, 2)
      assert.isFalse(yield* exists(connection, once))
      assert.isTrue(yield* exists(connection, always))
      assertFailure(yield* Effect.flip(topology.queueName(s)), "AmqpEncodeError", "not declared")
    })))

  it.effect("F52 bindings between exchanges are restored", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* through()
      const [from, to, q] = [uniqueName("x"), uniqueName("x"), uniqueName("q")]
      yield* make(connection, [
        bindExchange({ source: from, destination: to, routingKey: "#" }),
        exchange(from, { type: "topic", durable: false }),
        exchange(to, { type: "fanout", durable: false, autoDelete: true }),
        classicQueue(q, { durable: false, exclusive: true }),
        bind({ queue: q, exchange: to })
      ], { deleteOnClose: true })
      yield* link.reset
      yield* inEpoch(connection, 2)
      const channel = yield* openOn(connection)
      yield* channel.confirmSelect
      yield* channel.publish({ exchange: from, routingKey: "a.b", body: "", mandatory: true })
    })))

  it.effect("the names of server-named queues follow over many epochs, in every binding", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* through()
      const [one, two] = [serverNamedQueue(), serverNamedQueue()]
      const key = uniqueName("k")
      const topology = yield* make(connection, [
        one,
        two,
        bind({ queue: one, exchange: "amq.direct", routingKey: `${key}.1` }),
        bind({ queue: two, exchange: "amq.direct", routingKey: `${key}.2` })
      ])
      const seen = new Set<string>()
      let current = link
      for (let epoch = 1; epoch <= 4; epoch++) {
        yield* inEpoch(connection, epoch)
        const names = [yield* topology.queueName(one), yield* topology.queueName(two)]
        for (const name of names) seen.add(name)
        assert.strictEqual(seen.size, 2 * epoch)
        yield* Effect.scoped(Effect.gen(function*() {
          const channel = yield* openOn(connection)
          yield* channel.confirmSelect
          for (const [i, queue] of names.entries()) {
            yield* channel.publish({ exchange: "amq.direct", routingKey: `${key}.${i + 1}`, body: `${i}` })
            const got = yield* channel.get({ queue, noAck: true })
            assert.strictEqual(got._tag === "Some" ? got.value.delivery.text : "nothing", `${i}`)
          }
        }))
        if (epoch === 4) break
        yield* current.reset
        current = yield* proxy.accept
      }
      const error = yield* Effect.flip(topology.queueName(serverNamedQueue()))
      assertFailure(error, "AmqpEncodeError", "not declared")
    })))

  describe("a locked queue", () => {
    it.effect("of our own dead connection is waited for, before anybody uses the epoch", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* through()
        const [x, q] = [uniqueName("x"), uniqueName("q")]
        const topology = yield* make(connection, [
          exchange(x, { durable: false, autoDelete: true }),
          classicQueue(q, { durable: false, exclusive: true }),
          bind({ queue: q, exchange: x })
        ])
        yield* loseUnnoticed(proxy, link)
        yield* failuresWhen(topology, ([failure]) => failure?.cause._tag === "AmqpResourceLocked")
        assert.strictEqual((yield* connection.status)._tag, "Reconnecting")
        // The old queue goes, with it the last binding of the exchange, and so the exchange that is declared already.
        yield* link.reset
        const channel = yield* openOn(connection)
        assert.deepStrictEqual(yield* topology.failures, [])
        yield* channel.confirmSelect
        yield* channel.publish({ exchange: x, body: "", mandatory: true })
      })))

    it.effect("holds the epoch no longer than `patience`, and is declared when it can be", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* through()
        const [q, other] = [uniqueName("q"), uniqueName("q")]
        const topology = yield* make(connection, [
          classicQueue(q, { durable: false, exclusive: true }),
          classicQueue(other, { durable: false }),
          bind({ queue: q, exchange: "amq.direct", routingKey: q })
        ], { patience: "300 millis", deleteOnClose: true })
        yield* loseUnnoticed(proxy, link)
        yield* inEpoch(connection, 2)
        assert.isTrue(yield* exists(connection, other))
        assert.deepStrictEqual((yield* topology.failures).map(({ cause, entity }) => [entity, cause._tag]), [
          [`queue "${q}"`, "AmqpResourceLocked"],
          [`binding of queue "${q}" to exchange "amq.direct", routing key "${q}"`, "AmqpTopologyPending"]
        ])
        const since = yield* Clock.currentTimeMillis
        assert.isTrue(isRestored(connection, q, since), "it is tried again")
        assert.isFalse(isRestored(connection, other, since))
        assert.isFalse(isRestored(connection, "of no topology", 0))
        yield* link.reset
        yield* failuresWhen(topology, isEmpty)
        const channel = yield* openOn(connection)
        assert.isTrue(isRestored(connection, q, since), "it was away for a moment")
        assert.isFalse(isRestored(connection, q, (yield* Clock.currentTimeMillis) + 1))
        yield* channel.confirmSelect
        yield* channel.publish({ exchange: "amq.direct", routingKey: q, body: "", mandatory: true })
      })))

    it.effect("of somebody else fails the first declaration after `patience`", () =>
      noLeaks(Effect.gen(function*() {
        const q = uniqueName("q")
        const channel = yield* openOn(yield* connect())
        yield* channel.queueDeclare({ queue: q, exclusive: true })
        const error = yield* Effect.flip(
          declare(yield* connect(), [classicQueue(q, { durable: false, exclusive: true })], { patience: "200 millis" })
        )
        assertFailure(error, "AmqpTopologyError", q, "RESOURCE_LOCKED")
      })))
  })

  describe("policies", () => {
    it.effect("fail: all that is refused is told, and the rest is declared", () =>
      noLeaks(Effect.gen(function*() {
        const connection = yield* connect()
        const [q, missing, other] = [uniqueName("q"), uniqueName("q"), uniqueName("q")]
        yield* declare(connection, [classicQueue(q, { exclusive: true, maxLength: 5 })])
        const entities = [
          classicQueue(q, { exclusive: true, maxLength: 6 }),
          passiveQueue(missing),
          classicQueue(other, { exclusive: true })
        ]
        const exit = yield* Effect.exit(Effect.scoped(make(connection, entities)))
        const errors = Exit.isFailure(exit) ? exit.cause.reasons.filter(Cause.isFailReason) : []
        assert.deepStrictEqual(
          errors.map(({ error }) => error._tag === "AmqpTopologyError" ? [error.entity, error.cause._tag] : []),
          [[`queue "${q}"`, "AmqpPreconditionFailed"], [`queue "${missing}"`, "AmqpNotFound"]]
        )
        assert.isTrue(yield* exists(connection, other))
      })))

    it.effect("skip: it is left out and listed, for one entity or all", () =>
      noLeaks(Effect.gen(function*() {
        const connection = yield* connect()
        const missing = uniqueName("q")
        const topology = yield* make(connection, [
          passiveQueue(missing, { onFailure: "skip" }),
          serverNamedQueue()
        ])
        const failures = yield* topology.failures
        assert.deepStrictEqual(failures.map(({ entity }) => entity), [`queue "${missing}"`])
        assert.strictEqual((yield* declare(connection, [passiveQueue(missing)], { onFailure: "skip" })).length, 1)
      })))

    it.effect("retry: under the schedule, which sees each failure", () =>
      noLeaks(Effect.gen(function*() {
        const connection = yield* connect()
        const channel = yield* openOn(connection)
        const late = uniqueName("q")
        const seen = yield* Ref.make<ReadonlyArray<string>>([])
        const retry = Schedule.spaced("10 millis").pipe(
          Schedule.setInputType<AmqpTopology.AmqpTopologyError>(),
          Schedule.tap(({ attempt, input }) =>
            Effect.andThen(
              Ref.update(seen, (all) => [...all, input.cause._tag]),
              attempt === 3 ? Effect.orDie(channel.queueDeclare({ queue: late, exclusive: true })) : Effect.void
            )
          ),
          Schedule.upTo({ times: 5 })
        )
        yield* make(connection, [
          passiveQueue(late, { onFailure: { retry } }),
          bind({ queue: late, exchange: "amq.direct", routingKey: late })
        ], { onFailure: "fail" })
        assert.deepStrictEqual(yield* Ref.get(seen), ["AmqpNotFound", "AmqpNotFound", "AmqpNotFound"])

        const error = yield* Effect.flip(declare(connection, [passiveQueue(uniqueName("q"))], { onFailure: { retry } }))
        assert.strictEqual(error._tag, "AmqpTopologyError")
        assert.strictEqual((yield* Ref.get(seen)).length, 3 + 6)
      })))

    it.effect("in a later epoch a refusal stops nobody and is listed until it is over", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* through()
        const [changed, after] = [uniqueName("q"), uniqueName("q")]
        const topology = yield* make(connection, [
          classicQueue(changed, { durable: false, maxLength: 5 }),
          classicQueue(after, { durable: false, exclusive: true })
        ], { onFailure: "fail", deleteOnClose: true })
        const other = yield* openOn(yield* connect())
        yield* other.queueDelete({ queue: changed })
        yield* other.queueDeclare({ queue: changed })
        yield* link.reset
        yield* inEpoch(connection, 2)
        assert.isTrue(yield* exists(connection, after))
        const failures = yield* topology.failures
        assert.deepStrictEqual(failures.map(({ cause }) => cause._tag), ["AmqpPreconditionFailed"])

        yield* other.queueDelete({ queue: changed })
        yield* (yield* proxy.accept).reset
        yield* inEpoch(connection, 3)
        assert.deepStrictEqual(yield* topology.failures, [])
      })))
  })

  describe("the end", () => {
    it.effect("nothing is deleted, unless deleteOnClose says so: then in reverse order", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* through()
        const [x, theirs, q] = [uniqueName("x"), uniqueName("x"), uniqueName("q")]
        const s = serverNamedQueue({ exclusive: false, expires: "1 minute" })
        yield* declare(connection, [exchange(theirs, { type: "fanout", durable: false })])
        const entities = [
          exchange(x, { durable: false }),
          passiveExchange(theirs),
          classicQueue(q, { durable: false }),
          s,
          bind({ queue: q, exchange: x }),
          bind({ queue: s, exchange: theirs }),
          bindExchange({ destination: x, source: theirs })
        ]
        yield* Effect.scoped(make(connection, entities))
        assert.isTrue(yield* exists(connection, q))
        assert.isTrue(yield* exchangeExists(connection, x))
        const before = (yield* sent(link)).length
        const name = yield* Effect.scoped(
          Effect.flatMap(make(connection, entities, { deleteOnClose: true }), ({ queueName }) => queueName(s))
        )
        const methods = (yield* sent(link)).slice(before).filter((method) => /delete|unbind/.test(method))
        assert.deepStrictEqual(methods, [
          "queue.unbind",
          "queue.unbind",
          "exchange.unbind",
          "queue.delete",
          "queue.delete",
          "exchange.delete"
        ])
        assert.isFalse(yield* exists(connection, q))
        assert.isFalse(yield* exists(connection, name))
        assert.isFalse(yield* exchangeExists(connection, x))
        assert.isTrue(yield* exchangeExists(connection, theirs))
        yield* Effect.flatMap(openOn(connection), (channel) => channel.exchangeDelete({ exchange: theirs }))
      })))

    it.effect("deleteOnClose leaves what was never declared, and goes on after a refusal", () =>
      noLeaks(Effect.gen(function*() {
        const other = yield* connect()
        const [theirs, ours] = [uniqueName("q"), uniqueName("q")]
        yield* declare(other, [classicQueue(theirs, { durable: false, maxLength: 5 })])
        const connection = yield* connect()
        yield* Effect.flip(Effect.scoped(make(connection, [
          classicQueue(theirs, { durable: false }),
          classicQueue(ours, { durable: false })
        ], { deleteOnClose: true })))
        assert.isTrue(yield* exists(other, theirs))
        assert.isFalse(yield* exists(other, ours))
        yield* Effect.flatMap(openOn(other), (channel) => channel.queueDelete({ queue: theirs }))
      })))

    it.effect("it is bounded, also against a broker that does not answer", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* through({ closeTimeout: "200 millis" })
        const scope = yield* Scope.make()
        yield* Scope.provide(
          make(connection, [classicQueue(uniqueName("q"), { exclusive: true })], { deleteOnClose: true }),
          scope
        )
        yield* proxy.set("up", { mode: "hole" })
        const start = yield* Clock.currentTimeMillis
        yield* Scope.close(scope, Exit.void)
        assert.isBelow((yield* Clock.currentTimeMillis) - start, 2000)
        yield* proxy.set("up", { mode: "pass" })
        yield* link.reset
      })))

    it.effect("a topology whose scope is closed does not come back", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* through()
        const q = uniqueName("q")
        yield* Effect.scoped(make(connection, [classicQueue(q, { durable: false, exclusive: true })]))
        yield* link.reset
        yield* inEpoch(connection, 2)
        assert.isFalse(yield* exists(connection, q))
      })))
  })

  describe("the first declaration", () => {
    it.effect("is what a layer waits for and fails with", () =>
      noLeaks(Effect.gen(function*() {
        const connection = yield* connect()
        const q = uniqueName("q")
        const use = (entities: ReadonlyArray<AmqpTopology.Entity>) =>
          Effect.flatMap(AmqpTopology.AmqpTopology, ({ failures }) => Effect.zip(failures, exists(connection, q))).pipe(
            Effect.provide(AmqpTopology.layer(entities)),
            Effect.provideService(AmqpConnection.AmqpConnection, connection)
          )
        assert.deepStrictEqual(yield* use([classicQueue(q, { exclusive: true })]), [[], true])
        assertFailure(yield* Effect.flip(use([passiveQueue(uniqueName("q"))])), "AmqpTopologyError", "NOT_FOUND")
      })))

    it.effect("of values that contradict themselves sends nothing", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link } = yield* through()
        const entities = [quorumQueue("q", { arguments: { "x-max-priority": 5 } }), exchange("")]
        for (
          const attempt of [Effect.asVoid(make(connection, entities)), Effect.asVoid(declare(connection, entities))]
        ) {
          const error = yield* Effect.flip(Effect.scoped(attempt))
          assertFailure(error, "AmqpTopologyInvalid", "x-max-priority", "default exchange")
        }
        assert.deepStrictEqual(yield* sent(link), [])
      })))

    it.effect("goes on in the next epoch when its connection is lost", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* through()
        yield* nextMethod(link, "up", "connection.open")
        yield* proxy.set("down", { mode: "stall" })
        const q = uniqueName("q")
        const making = yield* Effect.forkChild(make(connection, [classicQueue(q, { exclusive: true })]), {
          startImmediately: true
        })
        yield* nextMethod(link, "up", "channel.open")
        yield* link.reset
        yield* proxy.set("down", { mode: "pass" })
        const topology = yield* Fiber.join(making)
        assert.deepStrictEqual(yield* topology.failures, [])
        assert.isTrue(yield* exists(connection, q))
      })))

    it.effect("names the entity that the broker ends the connection for, and sends it no more", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, proxy } = yield* through()
        const x = uniqueName("x")
        const error = yield* Effect.flip(Effect.scoped(make(connection, [exchange(x, { type: "x-no" })])))
        if (error._tag !== "AmqpTopologyError") return assert.fail(error.message)
        assert.strictEqual(error.entity, `exchange "${x}"`)
        assert.deepNestedInclude(error.cause, { "reason._tag": "CommandInvalid", "reason.replyCode": 503 })
        yield* inEpoch(connection, 4)
        assert.strictEqual(yield* proxy.accepted, 4)
      })))

    it.effect("finds it among many, and the rest is declared", () =>
      noLeaks(Effect.gen(function*() {
        const { connection } = yield* through()
        const names = Array.from({ length: 20 }, () => uniqueName("x"))
        const [bad = ""] = names.slice(13)
        const q = uniqueName("q")
        const topology = yield* make(connection, [
          ...names.map((name) => exchange(name, { type: name === bad ? "x-no" : "fanout", durable: false })),
          classicQueue(q, { exclusive: true }),
          ...names.map((name) => bind({ queue: q, exchange: name }))
        ], { onFailure: "skip", deleteOnClose: true })
        assert.deepStrictEqual((yield* topology.failures).map(({ cause, entity }) => [entity, cause._tag]), [
          [`exchange "${bad}"`, "AmqpConnectionError"],
          [`binding of queue "${q}" to exchange "${bad}"`, "AmqpNotFound"]
        ])
        for (const name of names) assert.strictEqual(yield* exchangeExists(connection, name), name !== bad)
      })))

    it.effect("a consumer whose topology ends every connection fails with it, and leaves the connection alone", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, proxy } = yield* through()
        const x = uniqueName("x")
        const error = yield* Stream.runDrain(
          AmqpConsumer.stream("q", { topology: [exchange(x, { type: "x-no" })], recover })
        )
          .pipe(
            Effect.provideService(AmqpConnection.AmqpConnection, connection),
            Effect.flip
          )
        assert.strictEqual(error.phase, "topology")
        assert.deepInclude(error.reason, { _tag: "AmqpTopologyError", entity: `exchange "${x}"` })
        assert.isAtMost(yield* proxy.accepted, 4)
      })))

    it.effect("of several topologies and consumers fails the one that is to blame, and no other", () =>
      noLeaks(Effect.gen(function*() {
        const { connection } = yield* through()
        const [good, bad] = [uniqueName("x"), uniqueName("x")]
        const queues = [uniqueName("q"), uniqueName("q"), uniqueName("q")]
        const of = (name: string, queue: string, type?: string) => [
          exchange(name, { type, durable: false, autoDelete: true }),
          classicQueue(queue, { exclusive: true }),
          bind({ queue, exchange: name })
        ]
        const on = Effect.provideService(AmqpConnection.AmqpConnection, connection)
        const consume = (queue: string, topology: ReadonlyArray<AmqpTopology.Entity>) =>
          Effect.gen(function*() {
            const consumer = yield* AmqpConsumer.make(queue, { topology, recover })
            const running = yield* Effect.forkScoped(Effect.exit(Stream.runDrain(consumer.deliveries)))
            return { consumer, running }
          }).pipe(on)
        const consumers = yield* Effect.forEach(queues, (queue) => consume(queue, of(good, queue)))
        const made = yield* Effect.all([
          Effect.result(make(connection, of(good, uniqueName("q")))),
          Effect.result(make(connection, of(bad, uniqueName("q"), "x-no"))),
          Effect.result(make(connection, of(good, uniqueName("q"))))
        ], { concurrency: "unbounded" })
        assert.deepStrictEqual(made.map(({ _tag }) => _tag), ["Success", "Failure", "Success"])
        const failing = yield* consume("none", of(bad, uniqueName("q"), "x-no"))
        const exit = yield* Fiber.join(failing.running)
        assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", `exchange "${bad}"`)
        // The others are where they were.
        const channel = yield* openOn(connection)
        yield* channel.confirmSelect
        const status = yield* connection.status
        if (status._tag !== "Open") return assert.fail(status._tag)
        for (const { consumer } of consumers) yield* until(consumer, isAttachedIn(status.epoch))
        yield* channel.publish({ exchange: good, body: "", mandatory: true })
        for (const { running } of consumers) assert.isUndefined(running.pollUnsafe())
      })))

    it.effect("takes the end of the connection that somebody else provoked for a loss", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* through()
        const bystander = yield* openOn(connection)
        const q = uniqueName("q")
        yield* proxy.set("down", { mode: "stall" })
        const making = yield* Effect.forkChild(make(connection, [classicQueue(q, { exclusive: true })]), {
          startImmediately: true
        })
        yield* nextMethod(link, "up", "channel.open")
        yield* nextMethod(link, "up", "channel.open")
        // Refused with 503, as a type that is unknown; so it might as well be the topology's.
        yield* Effect.forkChild(Effect.exit(bystander.exchangeDeclare({ exchange: uniqueName("x"), type: "x-no" })), {
          startImmediately: true
        })
        yield* nextMethod(link, "up", "exchange.declare")
        yield* proxy.set("down", { mode: "pass" })
        const topology = yield* Fiber.join(making)
        assert.deepStrictEqual(yield* topology.failures, [])
        assert.isTrue(yield* exists(connection, q))
      })))

    it.effect("ends with a connection that is closed for good", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* through({ closeTimeout: "200 millis" })
        yield* nextMethod(link, "up", "connection.open")
        yield* proxy.set("down", { mode: "stall" })
        const making = yield* Effect.forkChild(make(connection, [classicQueue(uniqueName("q"))]), {
          startImmediately: true
        })
        yield* nextMethod(link, "up", "channel.open")
        yield* connection.close
        yield* proxy.set("down", { mode: "pass" })
        const error = yield* Effect.flip(Fiber.join(making))
        assert.strictEqual(error._tag, "AmqpConnectionError")
        const late = yield* Effect.flip(Effect.scoped(make(connection, [classicQueue(uniqueName("q"))])))
        assert.strictEqual(late._tag, "AmqpConnectionError")
      })))

    it.effect("ends with a connection that is given up", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* through({ reconnect: Schedule.recurs(0) })
        yield* nextMethod(link, "up", "connection.open")
        yield* proxy.set("down", { mode: "stall" })
        const making = yield* Effect.forkChild(make(connection, [classicQueue(uniqueName("q"))]), {
          startImmediately: true
        })
        yield* nextMethod(link, "up", "channel.open")
        yield* link.reset
        assert.strictEqual((yield* Effect.flip(Fiber.join(making)))._tag, "AmqpConnectionError")
      })))

    it.effect("can be interrupted; nothing stays", () =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* through()
        yield* nextMethod(link, "up", "connection.open")
        yield* proxy.set("down", { mode: "stall" })
        const making = yield* Effect.forkChild(
          Effect.scoped(make(connection, [classicQueue(uniqueName("q"), { exclusive: true })])),
          { startImmediately: true }
        )
        yield* nextMethod(link, "up", "channel.open")
        const interrupting = yield* Effect.forkChild(Fiber.interrupt(making), { startImmediately: true })
        yield* proxy.set("down", { mode: "pass" })
        yield* Fiber.join(interrupting)
      })))
  })

  describe.runIf(canControl)("diagnosis", () => {
    it.effect("refuses what the broker refuses, and nothing else", () =>
      noLeaks(Effect.gen(function*() {
        const connection = yield* connect()
        const samples: ReadonlyArray<readonly [string, string | number | boolean]> = [
          ["x-message-ttl", 0],
          ["x-message-ttl", -1],
          ["x-expires", 60_000],
          ["x-expires", 0],
          ["x-max-length", 0],
          ["x-max-length", -1],
          ["x-max-length-bytes", 10],
          ["x-overflow", "drop-head"],
          ["x-overflow", "reject-publish"],
          ["x-overflow", "other"],
          ["x-dead-letter-exchange", ""],
          ["x-dead-letter-routing-key", "k"],
          ["x-max-priority", 255],
          ["x-max-priority", 256],
          ["x-single-active-consumer", true],
          ["x-queue-mode", "lazy"],
          ["x-queue-version", 2],
          ["x-queue-version", 3],
          ["x-delivery-limit", 5],
          ["x-quorum-initial-group-size", 1],
          ["x-quorum-initial-group-size", 0],
          ["x-max-age", "7200s"],
          ["x-max-age", "1.5s"],
          ["x-max-age", "0s"],
          ["x-stream-max-segment-size-bytes", 1_000_000],
          ["x-initial-cluster-size", 1],
          ["x-initial-cluster-size", 0],
          ["x-of-a-plugin", true]
        ]
        const types = { classic: classicQueue, quorum: quorumQueue, stream: AmqpTopology.streamQueue }
        const differences: Array<string> = []
        for (const [type, constructor] of Object.entries(types)) {
          const check = (text: string, options: object) =>
            Effect.scoped(Effect.gen(function*() {
              const queue = constructor(uniqueName("q"), options)
              const channel = yield* openOn(connection)
              const declared = yield* Effect.result(channel.queueDeclare({ ...queue, queue: queue.name }))
              const isRefused = diagnose([queue]).length > 0
              if (isRefused !== (declared._tag === "Failure")) {
                differences.push(`${type} ${text}: ${isRefused ? "only refused here" : "only refused by the broker"}`)
              }
              if (declared._tag === "Success") yield* channel.queueDelete({ queue: queue.name })
            }))
          for (const [name, value] of samples) yield* check(`${name}=${value}`, { arguments: { [name]: value } })
          yield* check("transient", { durable: false })
          yield* check("exclusive", { exclusive: true })
          yield* check("auto-delete", { autoDelete: true })
        }
        assert.deepStrictEqual(differences, [])
      })))
  })
})

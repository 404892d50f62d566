/**
 * Interruption is safe everywhere: each operation is interrupted before it is written, while its answer is on the way,
 * and in the very turn of its answer, just before and just after it. Afterwards the channel still gives each request its
 * own answer, and the broker holds nothing that nobody knows of.
 *
 * The gate makes the moments exact: it keeps back what the broker sends, and hands it over as one batch.
 */
import { assert, layer } from "@effect/vitest"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, Option, Redacted, Scope, Stream } from "effect"
import type * as AmqpChannel from "../../src/AmqpChannel.ts"
import type { AmqpConnection } from "../../src/AmqpConnection.ts"
import type { MethodName } from "../../src/AmqpProtocol.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { type Gate, gated } from "./gate.ts"
import { assertFailure, drain, openOn, proxied, unsettled } from "./support.ts"

interface Fixture {
  readonly connection: AmqpConnection
  /** The channel of the operation. */
  readonly channel: AmqpChannel.AmqpChannel
  /** Holds "1", "2" and "3". */
  readonly queue: string
  /** Is empty. */
  readonly sink: string
  readonly exchange: string
}

interface Operation<A> {
  readonly name: string
  /** What the broker answers. */
  readonly reply: MethodName
  readonly run: (fixture: Fixture) => Effect.Effect<A, unknown, Scope.Scope>
  /** What comes before it on its channel, uninterrupted. */
  readonly before?: (fixture: Fixture) => Effect.Effect<void, unknown, Scope.Scope>
  /** What somebody does with the value who was not interrupted. */
  readonly use?: (value: A, fixture: Fixture) => Effect.Effect<unknown, unknown>
  /** What has to hold in the end, beside what has to hold for all. */
  readonly check?: (fixture: Fixture) => Effect.Effect<void, unknown, Scope.Scope | Broker | Vhost>
  readonly closesChannel?: boolean
}

const operation = <A>(operation: Operation<A>) => operation

/** That confirms are still those of their own publishes. */
const confirmsMatch = ({ channel, sink }: Fixture) =>
  Effect.gen(function*() {
    const [returned, confirmed] = yield* Effect.all([
      Effect.flip(channel.publish({ routingKey: "nowhere", body: "", mandatory: true })),
      channel.publish({ routingKey: sink, body: "", mandatory: true })
    ], { concurrency: "unbounded" })
    assert.deepEqual([returned, confirmed], [returned, undefined])
    assertFailure(returned, "AmqpMessageReturned")
    yield* channel.queuePurge(sink)
  })

/** What the broker holds for the test's vhost. */
const held = Effect.gen(function*() {
  const control = yield* Broker.control
  const vhost = (yield* Vhost).name
  const { channels, consumers } = yield* control.held({ vhost })
  const queues = yield* control.listQueues(vhost)
  return {
    channels: channels.length,
    consumers: consumers.length,
    unacknowledged: channels.reduce((sum, channel) => sum + channel.unacknowledged, 0),
    queues: queues.map(({ name, ready, unacknowledged }) => [name, ready, unacknowledged])
  }
})

const operations = [
  operation({
    name: "F74 exchange.declare",
    reply: "exchange.declare-ok",
    run: ({ channel, exchange }) => channel.exchangeDeclare({ exchange, autoDelete: true })
  }),
  operation({
    name: "F74 exchange.declare, passive",
    reply: "exchange.declare-ok",
    run: ({ channel, exchange }) => channel.exchangeDeclarePassive(exchange)
  }),
  operation({
    name: "F75 exchange.delete",
    reply: "exchange.delete-ok",
    run: ({ channel }) => channel.exchangeDelete({ exchange: "missing" })
  }),
  operation({
    name: "F75 exchange.bind",
    reply: "exchange.bind-ok",
    run: ({ channel, exchange }) => channel.exchangeBind({ destination: exchange, source: "amq.fanout" })
  }),
  operation({
    name: "F75 exchange.unbind",
    reply: "exchange.unbind-ok",
    run: ({ channel, exchange }) => channel.exchangeUnbind({ destination: exchange, source: "amq.topic" })
  }),
  operation({
    name: "F74 queue.declare",
    reply: "queue.declare-ok",
    run: ({ channel }) => channel.queueDeclare({ queue: "declared", exclusive: true }),
    check: ({ channel }) => Effect.asVoid(channel.queueDelete({ queue: "declared" }))
  }),
  operation({
    name: "F74 queue.declare of a queue that the broker names",
    reply: "queue.declare-ok",
    run: ({ channel }) => channel.queueDeclare(),
    use: ({ queue }, { channel }) => channel.queueDelete({ queue })
  }),
  operation({
    name: "F74 queue.declare, passive",
    reply: "queue.declare-ok",
    run: ({ channel, queue }) => channel.queueDeclarePassive(queue)
  }),
  operation({
    name: "F75 queue.bind",
    reply: "queue.bind-ok",
    run: ({ channel, exchange, queue }) => channel.queueBind({ queue, exchange })
  }),
  operation({
    name: "F75 queue.unbind",
    reply: "queue.unbind-ok",
    run: ({ channel, queue }) => channel.queueUnbind({ queue, exchange: "amq.topic" })
  }),
  operation({
    name: "F75 queue.purge",
    reply: "queue.purge-ok",
    run: ({ channel, sink }) => channel.queuePurge(sink)
  }),
  operation({
    name: "F75 queue.delete",
    reply: "queue.delete-ok",
    run: ({ channel }) => channel.queueDelete({ queue: "missing" })
  }),
  operation({
    name: "F75 basic.qos",
    reply: "basic.qos-ok",
    run: ({ channel }) => channel.qos({ prefetchCount: 1 })
  }),
  operation({
    name: "basic.get",
    reply: "basic.get-ok",
    run: ({ channel, queue }) => channel.get({ queue }),
    use: (got) => Effect.flatMap(Effect.fromOption(got), ({ delivery }) => delivery.nack())
  }),
  operation({
    name: "basic.get from an empty queue",
    reply: "basic.get-empty",
    run: ({ channel, sink }) => channel.get({ queue: sink })
  }),
  operation({
    name: "basic.get without acknowledgement",
    reply: "basic.get-ok",
    before: ({ channel, sink }) => channel.publish({ routingKey: sink, body: "" }),
    run: ({ channel, sink }) => channel.get({ queue: sink, noAck: true })
  }),
  operation({
    name: "basic.consume",
    reply: "basic.consume-ok",
    run: ({ channel, queue }) => Effect.scoped(Effect.andThen(channel.consume({ queue }), Effect.never))
  }),
  operation({
    name: "basic.consume without acknowledgement",
    reply: "basic.consume-ok",
    run: ({ channel, sink }) =>
      Effect.scoped(Effect.andThen(channel.consume({ queue: sink, noAck: true }), Effect.never))
  }),
  operation({
    name: "basic.consume in a scope that stays open",
    reply: "basic.consume-ok",
    run: ({ channel, queue }) => channel.consume({ queue, consumerTag: "kept" }),
    use: ({ cancel }) => cancel,
    // Whoever was interrupted has no consumer to cancel: it is cancelled all the same, and its tag is free.
    check: ({ channel, queue }) =>
      channel.queueDeclarePassive(queue).pipe(
        Effect.repeat({ until: ({ consumerCount }) => consumerCount === 0 }),
        Effect.andThen(channel.cancel("kept")),
        Effect.andThen(Effect.scoped(channel.consume({ queue, consumerTag: "kept" })))
      )
  }),
  operation({
    name: "basic.cancel",
    reply: "basic.cancel-ok",
    before: ({ channel, queue }) => Effect.asVoid(channel.consume({ queue, consumerTag: "cancelled" })),
    run: ({ channel }) => channel.cancel("cancelled"),
    check: ({ channel, queue }) =>
      Effect.andThen(channel.cancel("cancelled"), Effect.scoped(channel.consume({ queue, consumerTag: "cancelled" })))
  }),
  operation({
    name: "basic.recover",
    reply: "basic.recover-ok",
    before: ({ channel, queue }) => Effect.asVoid(channel.get({ queue })),
    run: ({ channel }) => channel.recover
  }),
  operation({
    name: "F77 basic.publish with confirms",
    reply: "basic.ack",
    before: ({ channel }) => channel.confirmSelect,
    run: ({ channel, sink }) => channel.publish({ routingKey: sink, body: "" }),
    check: confirmsMatch
  }),
  operation({
    name: "F77 basic.publish that comes back",
    reply: "basic.ack",
    before: ({ channel }) => channel.confirmSelect,
    run: ({ channel }) => Effect.flip(channel.publish({ routingKey: "nowhere", body: "", mandatory: true })),
    check: confirmsMatch
  }),
  operation({
    name: "F77 waitForConfirms",
    reply: "basic.ack",
    before: ({ channel }) => channel.confirmSelect,
    run: ({ channel, sink }) =>
      Effect.andThen(
        Effect.forkDetach(channel.publish({ routingKey: sink, body: "" }), { startImmediately: true }),
        channel.waitForConfirms
      ),
    check: (fixture) => Effect.andThen(fixture.channel.waitForConfirms, confirmsMatch(fixture))
  }),
  operation({
    name: "F77 confirm.select",
    reply: "confirm.select-ok",
    run: ({ channel }) => channel.confirmSelect,
    check: (fixture) => Effect.andThen(fixture.channel.confirmSelect, confirmsMatch(fixture))
  }),
  operation({
    name: "tx.select",
    reply: "tx.select-ok",
    run: ({ channel, queue }) =>
      channel.transaction(Effect.andThen(channel.publish({ routingKey: queue, body: "lost" }), Effect.never)),
    check: ({ channel }) => channel.transaction(Effect.void)
  }),
  operation({
    name: "tx.commit",
    reply: "tx.commit-ok",
    before: ({ channel }) => channel.transaction(Effect.void),
    run: ({ channel, sink }) => channel.transaction(channel.publish({ routingKey: sink, body: "" })),
    check: ({ channel, sink }) =>
      Effect.asVoid(Effect.andThen(channel.transaction(Effect.void), channel.queuePurge(sink)))
  }),
  operation({
    name: "tx.rollback",
    reply: "tx.rollback-ok",
    before: ({ channel }) => channel.transaction(Effect.void),
    run: ({ channel, queue }) =>
      Effect.flip(
        channel.transaction(
          Effect.andThen(channel.publish({ routingKey: queue, body: "lost" }), Effect.fail("failed"))
        )
      ),
    check: ({ channel }) => channel.transaction(Effect.void)
  }),
  operation({
    name: "channel.flow",
    reply: "channel.flow-ok",
    run: ({ channel }) => channel.flow(true)
  }),
  operation({
    name: "channel.open",
    reply: "channel.open-ok",
    run: ({ connection }) => Effect.scoped(Effect.andThen(openOn(connection), Effect.never))
  }),
  operation({
    name: "channel.open in a scope that stays open",
    reply: "channel.open-ok",
    run: ({ connection }) => openOn(connection),
    use: ({ close }) => close,
    // The owner's is left, and that of the fixture.
    check: () => Effect.asVoid(Effect.repeat(held, { until: ({ channels }) => channels === 2 }))
  }),
  operation({
    name: "F81 channel.close",
    reply: "channel.close-ok",
    run: ({ channel }) => channel.close,
    closesChannel: true
  }),
  operation({
    name: "closed",
    reply: "channel.close-ok",
    run: ({ channel }) => Effect.andThen(Effect.forkDetach(channel.close, { startImmediately: true }), channel.closed),
    closesChannel: true
  }),
  operation({
    name: "connection.update-secret",
    reply: "connection.update-secret-ok",
    run: ({ connection }) => connection.updateSecret(Redacted.make("guest"))
  })
]

/** What a moment is made of: the operation's fiber, and a request of another channel to act in the turn of its answer. */
interface Act {
  readonly gate: Gate
  readonly reply: MethodName
  readonly start: Effect.Effect<Fiber.Fiber<unknown, unknown>>
  readonly ask: Effect.Effect<unknown, Error>
}

/** Runs something in the turn in which `ask` is answered; that answer has arrived when this returns. */
const inTheTurnOf = Effect.fnUntraced(function*({ ask, gate }: Act, run: () => void) {
  const count = gate.count("exchange.declare-ok") + 1
  yield* Effect.forkDetach(Effect.map(ask, run), { startImmediately: true })
  yield* gate.arrived("exchange.declare-ok", count)
})

const startAndArrive = Effect.fnUntraced(function*({ gate, reply, start }: Act) {
  const count = gate.count(reply) + 1
  const fiber = yield* start
  yield* gate.arrived(reply, count)
  return fiber
})

/** Each interrupts the operation, and gives its fiber. */
const moments = {
  "before it is written": ({ start }) => Effect.tap(start, (fiber) => Effect.sync(() => fiber.interruptUnsafe())),
  "before its answer": (act) =>
    Effect.gen(function*() {
      yield* act.gate.hold
      const fiber = yield* startAndArrive(act)
      fiber.interruptUnsafe()
      yield* act.gate.release
      return fiber
    }),
  "in the turn of its answer, before it": (act) =>
    Effect.gen(function*() {
      const started: Array<Fiber.Fiber<unknown, unknown>> = []
      yield* act.gate.hold
      yield* inTheTurnOf(act, () => started.forEach((fiber) => fiber.interruptUnsafe()))
      const fiber = yield* startAndArrive(act)
      started.push(fiber)
      yield* act.gate.release
      return fiber
    }),
  "in the turn of its answer, after it": (act) =>
    Effect.gen(function*() {
      yield* act.gate.hold
      const fiber = yield* startAndArrive(act)
      yield* inTheTurnOf(act, () => fiber.interruptUnsafe())
      yield* act.gate.release
      return fiber
    })
} satisfies Record<string, (act: Act) => Effect.Effect<Fiber.Fiber<unknown, unknown>>>

const isInterruption = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)

/** That each of several requests gets its own answer. */
const answersMatch = (channel: AmqpChannel.AmqpChannel) =>
  Effect.gen(function*() {
    const queue = uniqueName("probe")
    const [declared, , purged, got, , deleted] = yield* Effect.all([
      channel.queueDeclare({ queue, exclusive: true }),
      channel.exchangeDeclarePassive("amq.direct"),
      channel.queuePurge(queue),
      channel.get({ queue }),
      channel.queueBind({ queue, exchange: "amq.direct" }),
      channel.queueDelete({ queue })
    ], { concurrency: "unbounded" })
    assert.deepStrictEqual([declared.queue, purged, got, deleted], [queue, 0, Option.none(), 0])
  })

const fixtures = Effect.gen(function*() {
  const { connection, gate } = yield* gated()
  const owner = yield* openOn(connection)
  const exchange = uniqueName("exchange")
  yield* owner.exchangeDeclare({ exchange, autoDelete: true })
  const { queue } = yield* owner.queueDeclare({ exclusive: true })
  const { queue: sink } = yield* owner.queueDeclare({ exclusive: true })
  yield* owner.queueBind({ queue, exchange, routingKey: "kept" })
  for (const body of ["1", "2", "3"]) yield* owner.publish({ routingKey: queue, body })
  yield* owner.queueDeclarePassive(queue)
  return { connection, gate, owner, exchange, queue, sink }
})

layer(onVhost, { excludeTestServices: true })("interrupting", (it) => {
  for (
    const { before, check, closesChannel, name, reply, run, use } of operations as ReadonlyArray<Operation<unknown>>
  ) {
    it.effect(name, () =>
      noLeaks(Effect.gen(function*() {
        const { gate, owner, ...rest } = yield* fixtures
        const baseline = yield* held
        for (const [when, interrupt] of Object.entries(moments)) {
          yield* Effect.scoped(Effect.gen(function*() {
            const fixture = { ...rest, channel: yield* openOn(rest.connection) }
            yield* Effect.scoped(Effect.gen(function*() {
              yield* before?.(fixture) ?? Effect.void
              const fiber = yield* interrupt({
                gate,
                reply,
                start: Effect.forkDetach(Scope.provide(run(fixture), yield* Effect.scope), { startImmediately: true }),
                ask: owner.exchangeDeclarePassive("amq.direct")
              })
              const exit = yield* Fiber.await(fiber)
              if (Exit.isSuccess(exit)) {
                assert.strictEqual(when, "in the turn of its answer, after it")
                yield* use?.(exit.value, fixture) ?? Effect.void
              } else {
                assert.isTrue(isInterruption(exit), `${when}: ${Cause.pretty(exit.cause)}`)
              }
              if (closesChannel !== true) yield* answersMatch(fixture.channel)
              yield* check?.(fixture) ?? Effect.void
            }))
            if (closesChannel !== true) assert.strictEqual(yield* unsettled(fixture.channel), 0, when)
          }))
          yield* answersMatch(owner)
        }
        assert.deepStrictEqual(yield* drain(owner, rest.queue), ["1", "2", "3"])
        yield* owner.queuePurge(rest.sink)
        assert.deepStrictEqual(yield* held, {
          ...baseline,
          queues: baseline.queues.map(([queue]) => [queue, 0, 0])
        })
      })))
  }
})

/** A connection behind a gate, and a channel with a queue that holds "1", "2" and "3". */
const setUp = Effect.gen(function*() {
  const { exchange: _, ...rest } = yield* fixtures
  return { ...rest, channel: yield* openOn(rest.connection) }
})

layer(onVhost, { excludeTestServices: true })("after an interruption", (it) => {
  it.effect("F83 a timeout in the turn of the answer has one outcome, whichever comes first, and leaves nothing", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, gate, owner, queue } = yield* setUp
      const clock = yield* Clock.Clock
      for (const first of ["timeout", "answer"]) {
        const timer = yield* Deferred.make<void>()
        // A second is over when the test says so.
        const testClock = Object.assign(Object.create(clock), { sleep: () => Deferred.await(timer) })
        const timed = Effect.provideService(
          Effect.timeoutOption(channel.get({ queue }), "1 second"),
          Clock.Clock,
          testClock
        )
        const act: Act = {
          gate,
          reply: "basic.get-ok",
          start: Effect.forkDetach(timed, { startImmediately: true }),
          ask: owner.exchangeDeclarePassive("amq.direct")
        }
        const timeout = inTheTurnOf(act, () => Deferred.doneUnsafe(timer, Effect.void))
        yield* gate.hold
        if (first === "timeout") yield* timeout
        const fiber = yield* startAndArrive(act)
        if (first === "answer") yield* timeout
        yield* gate.release
        const got = yield* Fiber.join(fiber)
        assert.strictEqual(Option.isOption(got) && Option.isSome(got), first === "answer")
        yield* answersMatch(channel)
        const settled = yield* channel.nack({ deliveryTag: 0, multiple: true })
        assert.strictEqual(settled, first === "answer" ? "Settled" : "AlreadySettled")
        assert.strictEqual(yield* unsettled(channel), 0)
      }
      assert.deepStrictEqual(yield* drain(channel, queue), ["1", "2", "3"])
    })))

  it.effect("F79 a consumer's stream with a hundred buffered is cancelled, and the rest is back in the queue", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, owner, queue } = yield* setUp
      yield* channel.queuePurge(queue)
      const bodies = Array.from({ length: 120 }, (_, i) => String(i))
      for (const body of bodies) yield* channel.publish({ routingKey: queue, body })
      yield* channel.queueDeclarePassive(queue)
      const reached = yield* Deferred.make<void>()
      const consuming = yield* Effect.forkChild(Effect.scoped(Effect.gen(function*() {
        const { deliveries } = yield* channel.consume({ queue })
        yield* Stream.runForEach(deliveries, (delivery) =>
          delivery.text === "20"
            ? Effect.andThen(Deferred.succeed(reached, undefined), Effect.never)
            : delivery.ack)
      })))
      yield* Deferred.await(reached)
      yield* Fiber.interrupt(consuming)
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).consumerCount, 0)
      assert.strictEqual(yield* unsettled(channel), 0)
      assert.deepStrictEqual(yield* drain(owner, queue), bodies.slice(20))
    })))

  it.effect("a pull that is interrupted in the turn of a delivery leaves it for the next pull", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, gate, owner, queue } = yield* setUp
      yield* channel.queuePurge(queue)
      const { deliveries } = yield* channel.consume({ queue })
      const pull = yield* Stream.toPull(deliveries)
      const waiting = yield* Effect.forkChild(pull, { startImmediately: true })
      yield* gate.hold
      yield* Effect.forkDetach(
        Effect.map(owner.exchangeDeclarePassive("amq.direct"), () => waiting.interruptUnsafe()),
        { startImmediately: true }
      )
      yield* gate.arrived("exchange.declare-ok", gate.count("exchange.declare-ok") + 1)
      yield* channel.publish({ routingKey: queue, body: "kept" })
      yield* gate.arrived("basic.deliver", gate.count("basic.deliver") + 1)
      yield* gate.release
      assert.isTrue(isInterruption(yield* Fiber.await(waiting)))
      // The turn is over when the next one pulls.
      yield* Effect.yieldNow
      const [delivery] = yield* pull
      assert.deepStrictEqual([delivery.text, yield* delivery.ack], ["kept", "Settled"])
    })))

  it.effect("a request that is refused takes its channel with it, and those who come later learn why", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, gate, owner, queue } = yield* setUp
      yield* gate.hold
      const purging = yield* Effect.forkChild(channel.queuePurge("missing"), { startImmediately: true })
      yield* gate.arrived("channel.close")
      purging.interruptUnsafe()
      yield* gate.release
      assert.isTrue(isInterruption(yield* Fiber.await(purging)))
      const { cause } = yield* channel.closed
      assert.deepInclude(cause, { _tag: "AmqpNotFound", operation: "queue.purge", entity: "missing" })
      assert.strictEqual((yield* Effect.flip(channel.get({ queue }))).cause, cause)
      yield* answersMatch(owner)
    })))

  it.effect("a publish that waits for the socket is never sent", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, proxy } = yield* proxied()
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* proxy.set("up", { mode: "stall" })
      // More than the system takes from us while nobody reads.
      const large = new Uint8Array(32 * 1024 * 1024)
      yield* channel.publish({ routingKey: queue, body: large })
      const [givenUp, kept] = yield* Effect.forEach(["given up", "kept"], (body) =>
        Effect.forkChild(channel.publish({ routingKey: queue, body }), { startImmediately: true }))
      if (!givenUp || !kept) {
        return assert.fail()
      }
      yield* Fiber.interrupt(givenUp)
      assert.isTrue(isInterruption(yield* Fiber.await(givenUp)))
      assert.isUndefined(kept.pollUnsafe())
      yield* proxy.set("up", { mode: "pass" })
      yield* Fiber.join(kept)
      const got = yield* Effect.flatMap(channel.get({ queue, noAck: true }), Effect.fromOption)
      assert.strictEqual(got.delivery.body.length, large.length)
      assert.deepStrictEqual(yield* drain(channel, queue), ["kept"])
    })))

  it.effect("F81 a close is finished all the same: its waiter, the scope and the whole fiber may be interrupted", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, gate, owner, sink } = yield* setUp
      const baseline = yield* held
      const scope = yield* Scope.make()
      const channel = yield* Scope.provide(openOn(connection), scope)
      yield* gate.hold
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* gate.arrived("channel.close-ok")
      closing.interruptUnsafe()
      yield* gate.release
      yield* Fiber.await(closing)
      assert.strictEqual((yield* Effect.flip(channel.confirmSelect))._tag, "AmqpChannelClosed")

      // A fiber whose scope waits for a confirm, interrupted again and again.
      const published = yield* Deferred.make<void>()
      const count = gate.count("basic.ack") + 1
      const fiber = yield* Effect.forkChild(Effect.scoped(Effect.gen(function*() {
        const channel = yield* openOn(connection)
        yield* channel.confirmSelect
        yield* gate.hold
        yield* Effect.forkDetach(channel.publish({ routingKey: sink, body: "confirmed" }), { startImmediately: true })
        yield* Deferred.succeed(published, undefined)
        return yield* Effect.never
      })))
      yield* Deferred.await(published)
      for (let i = 0; i < 3; i++) fiber.interruptUnsafe()
      yield* gate.arrived("basic.ack", count)
      for (let i = 0; i < 3; i++) fiber.interruptUnsafe()
      yield* gate.release
      assert.isTrue(isInterruption(yield* Fiber.await(fiber)))
      yield* answersMatch(owner)
      assert.deepStrictEqual(yield* drain(owner, sink), ["confirmed"])
      assert.deepStrictEqual((yield* held).channels, baseline.channels)
    })))

  it.effect("F81 a connection is closed all the same", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, connection, gate } = yield* setUp
      yield* gate.hold
      const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
      yield* gate.arrived("connection.close-ok")
      closing.interruptUnsafe()
      yield* gate.release
      yield* Fiber.await(closing)
      assert.strictEqual((yield* connection.closed).reason._tag, "ConnectionClosed")
      assertFailure(yield* Effect.flip(channel.recover), "AmqpChannelClosed")
    })))

  it.effect("six hundred operations, each given up at a time of its own, leave three channels as they were", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, gate, owner, queue, sink } = yield* setUp
      const baseline = yield* held
      yield* Effect.scoped(Effect.gen(function*() {
        const channels = yield* Effect.all([openOn(connection), openOn(connection), openOn(connection)])
        const [plain, confirming, other] = channels
        yield* confirming.confirmSelect
        const all: ReadonlyArray<Effect.Effect<unknown, unknown, Scope.Scope>> = [
          plain.get({ queue }),
          other.get({ queue }),
          Effect.scoped(Effect.andThen(plain.consume({ queue }), Effect.never)),
          Effect.scoped(Effect.andThen(other.consume({ queue }), Effect.never)),
          Effect.scoped(Effect.flatMap(other.consume({ queue }), ({ deliveries }) => Stream.runDrain(deliveries))),
          Effect.flatMap(plain.queueDeclare(), (declared) => Effect.uninterruptible(plain.queueDelete(declared))),
          other.queueDeclarePassive(queue),
          plain.qos({ prefetchCount: 0 }),
          confirming.publish({ routingKey: sink, body: "" }),
          confirming.publish({ routingKey: "nowhere", body: "", mandatory: true }),
          confirming.waitForConfirms,
          other.exchangeDeclarePassive("amq.fanout"),
          Effect.scoped(Effect.andThen(openOn(connection), Effect.never))
        ]
        // A generator of its own, so that every run is the same.
        let seed = 1
        const random = (below: number) => {
          seed = (seed * 48_271) % 2_147_483_647
          return seed % below
        }
        const gives = (operation: Effect.Effect<unknown, unknown, Scope.Scope>, turns: number) =>
          Effect.gen(function*() {
            const fiber = yield* Effect.forkChild(operation, { startImmediately: true })
            for (let i = 0; i < turns; i++) yield* Effect.yieldNow
            yield* Fiber.interrupt(fiber)
            const exit = yield* Fiber.await(fiber)
            if (Exit.isSuccess(exit) || isInterruption(exit)) return
            assert.propertyVal(Cause.squash(exit.cause), "_tag", "AmqpMessageReturned")
          })
        yield* Effect.forEach(
          Array.from({ length: 600 }, () => [all[random(all.length)] ?? Effect.void, random(40)] as const),
          ([operation, turns]) => gives(operation, turns),
          { concurrency: 20 }
        )
        // Those that were answered in time hold what they got.
        for (const channel of channels) {
          yield* channel.nack({ deliveryTag: 0, multiple: true })
          yield* answersMatch(channel)
          assert.strictEqual(yield* unsettled(channel), 0)
        }
        const [returned] = yield* Effect.all([
          Effect.flip(confirming.publish({ routingKey: "nowhere", body: "", mandatory: true })),
          confirming.publish({ routingKey: sink, body: "", mandatory: true })
        ], { concurrency: "unbounded" })
        assertFailure(returned ?? assert.fail(), "AmqpMessageReturned")
        assert.isAbove(gate.count("basic.consume-ok"), 0)
      }))
      yield* owner.queuePurge(sink)
      assert.sameMembers([...yield* drain(owner, queue)], ["1", "2", "3"])
      assert.deepStrictEqual(yield* held, {
        ...baseline,
        queues: baseline.queues.map(([name]) => [name, 0, 0])
      })
    })))
})

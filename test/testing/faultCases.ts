/**
 * Faults that need no clock, and what a program sees of them: the same over the embedded broker and over RabbitMQ.
 */
import { assert } from "@effect/vitest"
import { Effect, Fiber, Option, Schedule, type Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as AmqpFaults from "../../src/testing/AmqpFaults.ts"

interface Case {
  readonly name: string
  readonly run: Effect.Effect<unknown, unknown, AmqpFaults.AmqpFaults | AmqpConnection | Scope.Scope>
}

const { down, up } = AmqpFaults

/** What an error comes down to: its tag, and that of the reason of the connection's end. */
const kindOf = (error: unknown): string => {
  const part = (value: unknown, key: string): unknown =>
    typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined
  const cause = part(error, "_tag") === "AmqpConnectionError" ? error : part(error, "cause")
  const reason = part(part(cause, "reason"), "_tag")
  return reason === undefined ? String(part(error, "_tag")) : `${String(part(error, "_tag"))} ${String(reason)}`
}

/** A channel that confirms, and an exclusive queue. */
const confirming = Effect.gen(function*() {
  const channel = yield* AmqpChannel.open
  const { queue } = yield* channel.queueDeclare({ exclusive: true })
  yield* channel.confirmSelect
  const publish = (body: string) => channel.publish({ routingKey: queue, body, mandatory: true })
  return { channel, queue, publish }
})

const ready = (queue: string) =>
  Effect.scoped(Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    const bodies: Array<string> = []
    while (true) {
      const got = yield* channel.get({ queue, noAck: true })
      if (Option.isNone(got)) return bodies
      bodies.push(got.value.delivery.text)
    }
  }))

/** A queue that outlives connections, until the scope closes. */
const lasting = Effect.gen(function*() {
  const name = `faults-${crypto.randomUUID()}`
  const withChannel = <A, E, R>(use: (channel: AmqpChannel.AmqpChannel) => Effect.Effect<A, E, R>) =>
    Effect.scoped(Effect.flatMap(AmqpChannel.open, use)).pipe(Effect.retry(Schedule.recurs(5)))
  yield* Effect.acquireRelease(
    withChannel((channel) => channel.queueDeclare({ queue: name, durable: true })),
    () => Effect.orDie(withChannel((channel) => channel.queueDelete({ queue: name })))
  )
  return name
})

const reopened = Effect.gen(function*() {
  const connection = yield* AmqpConnection
  yield* connection.changes.pipe(
    Stream.takeUntil((status) => status._tag === "Open" && status.epoch > 1),
    Stream.runDrain
  )
})

/** Ends of a connection after which there is another, and why an operation fails. */
const passing: ReadonlyArray<readonly [AmqpFaults.Incident, string]> = [
  [AmqpFaults.reset, "ConnectionLost"],
  [AmqpFaults.connectionClose(320, "CONNECTION_FORCED - because"), "ConnectionForced"],
  [AmqpFaults.connectionClose(541, "INTERNAL_ERROR"), "InternalError"]
]

/** Ends for a client's fault. */
const final: ReadonlyArray<readonly [AmqpFaults.Incident, string]> = [
  [AmqpFaults.connectionClose(501, "FRAME_ERROR"), "FrameError"],
  [AmqpFaults.connectionClose(504, "CHANNEL_ERROR"), "ChannelError"],
  [AmqpFaults.connectionClose(530, "NOT_ALLOWED"), "NotAllowed"]
]

const nameOf = (fault: AmqpFaults.Fault): string =>
  "replyCode" in fault ? `${fault._tag} ${fault.replyCode}` : fault._tag

/** Soft codes, and what the operation fails with at which they strike. */
const soft = [
  [403, "AmqpAccessRefused"],
  [404, "AmqpNotFound"],
  [405, "AmqpResourceLocked"],
  [406, "AmqpPreconditionFailed"]
] as const

export const cases: ReadonlyArray<Case> = [
  ...passing.map(([fault, reason]): Case => ({
    name: `${nameOf(fault)} before the confirm: the publish is in doubt, and the message is stored`,
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const queue = yield* lasting
      const channel = yield* AmqpChannel.open
      yield* channel.confirmSelect
      const armed = yield* faults.at(down("basic.ack"), fault)
      const error = yield* Effect.flip(channel.publish({ routingKey: queue, body: "doubt" }))
      assert.strictEqual(kindOf(error), `AmqpPublishUnconfirmed ${reason}`)
      assert.deepStrictEqual((yield* armed.fired).frame, { direction: "down", name: "basic.ack" })
      yield* reopened
      assert.deepStrictEqual(yield* ready(queue), ["doubt"])
    })
  })),
  ...final.map(([fault, reason]): Case => ({
    name: `${nameOf(fault)} at a request: it fails as ${reason}`,
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { channel, queue } = yield* confirming
      yield* faults.at(up("queue.purge"), fault)
      const error = yield* Effect.flip(channel.queuePurge(queue))
      assert.strictEqual(kindOf(error), `AmqpConnectionError ${reason}`)
    })
  })),
  {
    name: "a reset before a publish: it never arrived, and a publisher that sends again has it stored once",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const queue = yield* lasting
      const publisher = yield* AmqpPublisher.make()
      yield* faults.at(up("basic.publish"), AmqpFaults.reset)
      yield* publisher.publish({ routingKey: queue, body: "once" }, { resend: Schedule.forever })
      assert.deepStrictEqual(yield* ready(queue), ["once"])
    })
  },
  {
    name: "a reset behind the confirm on its way: a publisher that sends again has it stored twice",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const queue = yield* lasting
      const publisher = yield* AmqpPublisher.make()
      yield* faults.at(down("basic.ack"), AmqpFaults.reset)
      yield* publisher.publish({ routingKey: queue, body: "twice" }, { resend: Schedule.forever })
      assert.deepStrictEqual(yield* ready(queue), ["twice", "twice"])
    })
  },
  {
    name: "a reset in the middle of a frame, in either direction",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const queue = yield* lasting
      const publisher = yield* AmqpPublisher.make()
      for (const direction of ["up", "down"] as const) {
        const [last] = (yield* faults.connections).slice(-1)
        assert(last !== undefined)
        const { bytes, connection } = last
        const armed = yield* faults.at(
          AmqpFaults.bytes(direction, bytes[direction] + 5, { connection }),
          AmqpFaults.reset
        )
        yield* publisher.publish({ routingKey: queue, body: direction }, { resend: Schedule.forever })
        assert.strictEqual((yield* armed.fired).connection, connection)
      }
      assert.includeMembers([...yield* ready(queue)], ["up", "down"])
    })
  },
  ...soft.map(([replyCode, tag]): Case => ({
    name: `channel.close ${replyCode} at a request: it fails as ${tag}, the rest of the connection does not notice`,
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const other = yield* confirming
      const channel = yield* AmqpChannel.open
      yield* faults.at(up("queue.declare"), AmqpFaults.channelClose(replyCode, "because"))
      const error = yield* Effect.flip(channel.queueDeclare({ queue: "wanted" }))
      assert.deepInclude(error, { _tag: tag, replyText: "because", operation: "queue.declare", entity: "wanted" })
      yield* other.publish("still here")
      assert.deepStrictEqual(yield* ready(other.queue), ["still here"])
    })
  })),
  {
    name: "channel.close while deliveries are unsettled: they go back to the queue",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { publish, queue } = yield* confirming
      yield* publish("back")
      const channel = yield* AmqpChannel.open
      const { deliveries } = yield* channel.consume({ queue })
      const error = yield* Stream.runForEach(
        deliveries,
        () => faults.inject(AmqpFaults.channelClose(406, "PRECONDITION_FAILED - late"), { channel: channel.id })
      ).pipe(Effect.flip)
      assert.strictEqual(kindOf(error), "AmqpChannelClosed")
      // The same number, for the broker too.
      const again = yield* AmqpChannel.open
      const consumer = yield* again.consume({ queue })
      const [delivery] = yield* Stream.runCollect(Stream.take(consumer.deliveries, 1))
      assert.deepInclude({ text: delivery?.text, redelivered: delivery?.redelivered }, {
        text: "back",
        redelivered: true
      })
    })
  },
  {
    name: "channel.close in the middle of many publishes: what is confirmed is stored, nothing twice",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { queue } = yield* confirming
      const publisher = yield* AmqpPublisher.make()
      yield* faults.at(up("basic.publish", { nth: 20 }), AmqpFaults.channelClose(406, "PRECONDITION_FAILED - no"))
      const messages = Array.from({ length: 50 }, (_, i) => ({ routingKey: queue, body: String(i) }))
      const outcome = yield* Effect.result(publisher.publishAll(messages))
      assert(outcome._tag === "Failure")
      const failed = new Set(outcome.failure.failures.map(({ index }) => String(index)))
      const stored = yield* ready(queue)
      assert.strictEqual(new Set(stored).size, stored.length)
      for (const { body } of messages) assert.isTrue(failed.has(body) || stored.includes(body), body)
      // The one before which it struck, and those behind it that were on their way.
      assert.isFalse(stored.includes("19"))
    })
  },
  {
    name: "basic.cancel: a consumer fails typed, a supervised one attaches again, no delivery is lost",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { publish, queue } = yield* confirming
      const channel = yield* AmqpChannel.open
      const consumer = yield* channel.consume({ queue })
      yield* faults.inject(AmqpFaults.consumerCancel({ queue }))
      assert.strictEqual(kindOf(yield* Effect.flip(Stream.runDrain(consumer.deliveries))), "AmqpConsumerCancelled")

      const seen: Array<string> = []
      const supervised = yield* AmqpConsumer.stream(queue, { recover: Schedule.forever, prefetch: 2 }).pipe(
        Stream.tap((delivery) =>
          Effect.andThen(
            seen.length === 3 ? faults.inject(AmqpFaults.consumerCancel({ queue })) : Effect.void,
            Effect.andThen(Effect.sync(() => seen.push(delivery.text)), delivery.ack)
          )
        ),
        Stream.takeUntil(() => new Set(seen).size === 10),
        Stream.runDrain,
        Effect.forkScoped
      )
      for (let i = 0; i < 10; i++) yield* publish(String(i))
      yield* Fiber.join(supervised)
      assert.strictEqual(new Set(seen).size, 10)
    })
  },
  {
    name: "connection.blocked and unblocked: publishes wait, and nothing else",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const connection = yield* AmqpConnection
      const { channel, publish, queue } = yield* confirming
      const publishing = yield* Effect.scoped(Effect.gen(function*() {
        yield* faults.inject(AmqpFaults.blocked("low on disk"))
        yield* connection.changes.pipe(Stream.takeUntil(({ _tag }) => _tag === "Blocked"), Stream.runDrain)
        const status = yield* connection.status
        assert.strictEqual(status._tag === "Blocked" && status.reason, "low on disk")
        const publishing = yield* Effect.forkDetach(publish("waits"), { startImmediately: true })
        assert.strictEqual((yield* channel.queueDeclarePassive(queue)).messageCount, 0)
        return publishing
      }))
      yield* Fiber.join(publishing)
      assert.strictEqual((yield* connection.status)._tag, "Open")
    })
  },
  {
    name: "a confirm that is turned: the publish is nacked, its neighbours are not",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { publish } = yield* confirming
      yield* faults.at(AmqpFaults.confirm({ nth: 3 }), AmqpFaults.confirmNacked)
      const outcomes = yield* Effect.forEach(
        Array.from({ length: 8 }, (_, i) => String(i)),
        (body) => Effect.match(publish(body), { onFailure: kindOf, onSuccess: () => "confirmed" }),
        { concurrency: "unbounded" }
      )
      const expected = Array.from({ length: 8 }, (_, i) => i === 2 ? "AmqpPublishNacked" : "confirmed")
      assert.deepStrictEqual(outcomes, expected)
    })
  },
  {
    name: "a confirm that is lost: it is in doubt when the channel ends, the others are confirmed",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { channel, publish } = yield* confirming
      const armed = yield* faults.at(AmqpFaults.confirm({ nth: 2 }), AmqpFaults.confirmLost)
      const first = yield* Effect.forEach(
        ["0", "1", "2"],
        (body) => Effect.forkChild(Effect.exit(publish(body)), { startImmediately: true })
      )
      yield* armed.fired
      yield* publish("3")
      const [zero, one, two] = first
      assert(zero !== undefined && one !== undefined && two !== undefined)
      assert.strictEqual((yield* Fiber.join(zero))._tag, "Success")
      assert.strictEqual((yield* Fiber.join(two))._tag, "Success")
      assert.isUndefined(one.pollUnsafe())
      yield* faults.inject(AmqpFaults.channelClose(406, "end"), { channel: channel.id })
      assert.strictEqual((yield* Fiber.join(one))._tag, "Failure")
    })
  },
  {
    name: "a publish that is dropped: nobody confirms it, and those behind it are",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const { channel, publish, queue } = yield* confirming
      yield* faults.at(up("basic.publish", { nth: 2 }), AmqpFaults.drop)
      const fibers = yield* Effect.forEach(
        ["0", "1", "2"],
        (body) => Effect.forkChild(publish(body), { startImmediately: true })
      )
      yield* publish("3")
      assert.deepStrictEqual(yield* ready(queue), ["0", "2", "3"])
      assert.isUndefined(fibers[1]?.pollUnsafe())
      // A channel that is closed in good order waits for its confirms.
      yield* faults.inject(AmqpFaults.channelClose(406, "end"), { channel: channel.id })
    })
  },
  {
    name: "cut at every byte, everything works as before",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      yield* faults.inject(AmqpFaults.split())
      const { publish, queue } = yield* confirming
      for (let i = 0; i < 5; i++) yield* publish(`message ${i}`)
      const expected = Array.from({ length: 5 }, (_, i) => `message ${i}`)
      assert.deepStrictEqual(yield* ready(queue), expected)
    })
  },
  {
    name: "refused connections: a lost connection comes back when somebody listens again",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const connection = yield* AmqpConnection
      const causes = yield* connection.changes.pipe(
        Stream.takeUntil((status) => status._tag === "Open" && status.epoch > 1),
        Stream.filter(({ _tag }) => _tag === "Reconnecting"),
        Stream.map((status) => status._tag === "Reconnecting" ? status.cause.reason._tag : ""),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      yield* faults.inject(AmqpFaults.refuse(2))
      yield* faults.inject(AmqpFaults.reset)
      assert.deepStrictEqual(yield* Fiber.join(causes), ["ConnectionLost", "ConnectFailed", "ConnectFailed"])
    })
  },
  {
    name: "faults from a seed while messages pass: each is delivered",
    run: Effect.gen(function*() {
      const faults = yield* AmqpFaults.AmqpFaults
      const queue = yield* lasting
      const publisher = yield* AmqpPublisher.make()
      const wanted = new Set(Array.from({ length: 200 }, (_, i) => String(i)))
      const strike = AmqpFaults.draw({
        seed: "faults",
        faults: [
          { fault: AmqpFaults.reset, weight: 2 },
          { fault: AmqpFaults.connectionClose(320, "CONNECTION_FORCED") },
          { fault: AmqpFaults.consumerCancel() }
        ]
      }, 8)
      const incidents = (yield* strike).map(({ fault }) => fault)
      // One behind the other, each at the next ten confirms or deliveries.
      const points = incidents.map((_, i) =>
        i % 2 === 0 ? down("basic.ack", { nth: 3 }) : down("basic.deliver", { nth: 10 })
      )
      const striking = Effect.forEach(incidents, (fault, i) => {
        const point = points[i]
        if (point === undefined || fault._tag === "Refuse" || fault._tag === "Blocked") return Effect.void
        return Effect.flatMap(faults.at(point, fault), ({ fired }) => fired)
      }, { discard: true })
      yield* Effect.forkScoped(Effect.scoped(striking), { startImmediately: true })
      const consuming = yield* AmqpConsumer.stream(queue, { recover: Schedule.forever, prefetch: 7 }).pipe(
        Stream.tap((delivery) => Effect.andThen(Effect.sync(() => wanted.delete(delivery.text)), delivery.ack)),
        Stream.takeUntil(() => wanted.size === 0),
        Stream.runDrain,
        Effect.forkChild
      )
      const messages = [...wanted].map((body) => ({ routingKey: queue, body }))
      yield* publisher.publishAll(messages, { resend: Schedule.forever })
      yield* Fiber.join(consuming)
    })
  }
]

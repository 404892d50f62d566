/**
 * Consumers that outlive their connections, on a real broker.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Logger, Option, Schedule, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import type { AmqpSupervisedDelivery } from "../../src/AmqpDelivery.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { canControl, onVhost, uniqueName } from "../harness/shared.ts"
import { connect, methodsOf, onConnection, proxied } from "./support.ts"

// What is ready is counted by purging: RabbitMQ's queues answer a declare before requeues that are waiting already.

/** A durable queue with so many messages, "0" first. */
const filled = (count: number) =>
  Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    const { queue } = yield* channel.queueDeclare({ queue: uniqueName("consumer"), durable: true })
    yield* channel.confirmSelect
    yield* Effect.forEach(Array.from({ length: count }, (_, i) => String(i)), (body) =>
      channel.publish({ routingKey: queue, body }), { concurrency: "unbounded", discard: true })
    return { channel, queue }
  })

/** Cuts the named connection at the broker, and only there. */
const cut = (name: string) =>
  Effect.flatMap(
    Broker,
    ({ control }) =>
      Effect.flatMap(Effect.fromOption(control), ({ closeConnection }) => closeConnection(name, "cut by a test"))
  )

const isAttached = (epoch: number) => (status: AmqpConsumer.Status): boolean =>
  status._tag === "Attached" && status.epoch === epoch

layer(onVhost, { excludeTestServices: true })("AmqpConsumer", (it) => {
  describe("stream", () => {
    it.effect("delivers across several queues, and settles on its own channel", () =>
      onConnection(Effect.gen(function*() {
        const one = yield* filled(3)
        const two = yield* filled(3)
        const texts = yield* AmqpConsumer.stream([one.queue, two.queue]).pipe(
          Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery.text)),
          Stream.take(6),
          Stream.runCollect
        )
        assert.deepStrictEqual(texts.toSorted(), ["0", "0", "1", "1", "2", "2"])
      })))

    it.effect.runIf(canControl)(
      "F54 P3 goes on after its connection was cut; what is stale is a value and is not sent",
      () =>
        noLeaks(Effect.gen(function*() {
          const name = uniqueName("cut")
          const { connection, link } = yield* proxied({ connectionName: name, reconnect: undefined })
          yield* Effect.gen(function*() {
            const count = 400
            const { queue } = yield* filled(count)
            const consumer = yield* AmqpConsumer.make(queue, { prefetch: 20 })
            const held: Array<AmqpSupervisedDelivery> = []
            const seen = new Set<string>()
            const full = yield* Deferred.make<void>()
            const all = yield* Deferred.make<void>()
            const running = yield* consumer.deliveries.pipe(
              Stream.runForEach((delivery) => {
                if (delivery.epoch === 1) {
                  // Held until the connection is gone.
                  held.push(delivery)
                  return held.length === 20 ? Deferred.succeed(full, undefined) : Effect.void
                }
                seen.add(delivery.text)
                return Effect.andThen(
                  delivery.ack,
                  seen.size === count ? Deferred.succeed(all, undefined) : Effect.void
                )
              }),
              Effect.forkScoped
            )
            yield* Deferred.await(full)
            yield* cut(name)
            yield* Stream.runDrain(Stream.takeUntil(consumer.changes, isAttached(2)))
            const results = yield* Effect.forEach(held, (delivery) => delivery.ack)
            for (const result of results) {
              assert.isTrue(typeof result !== "string" && result._tag === "AmqpStaleDelivery" && result.epoch === 1)
            }
            yield* Deferred.await(all)
            assert.deepStrictEqual((yield* methodsOf(link, "up")).filter((method) => method.endsWith("basic.ack")), [])
            yield* Fiber.interrupt(running)
          }).pipe(Effect.provideService(AmqpConnection, connection))
        }))
    )

    it.effect("F60 fails typed, with its phase, when its queue is deleted and does not come back", () =>
      onConnection(Effect.gen(function*() {
        const { channel, queue } = yield* filled(1)
        const consumer = yield* AmqpConsumer.make(queue)
        const taken = yield* Deferred.make<void>()
        const running = yield* consumer.deliveries.pipe(
          Stream.runForEach(() => Deferred.succeed(taken, undefined)),
          Effect.forkScoped
        )
        yield* Deferred.await(taken)
        yield* channel.queueDelete({ queue })
        const error = yield* Effect.flip(Fiber.join(running))
        assert.strictEqual(error._tag, "AmqpConsumerFailed")
        assert.strictEqual(error.phase, "consume")
        assert.strictEqual(error.reason._tag, "AmqpNotFound")
        assert.include(error.message, queue)
      })))

    it.effect("attaches again when its queue is declared again", () =>
      onConnection(Effect.gen(function*() {
        const { channel, queue } = yield* filled(1)
        const consumer = yield* AmqpConsumer.make(queue, { recover: Schedule.spaced("20 millis") })
        const texts: Array<string> = []
        const first = yield* Deferred.make<void>()
        const second = yield* Deferred.make<void>()
        yield* consumer.deliveries.pipe(
          Stream.runForEach((delivery) => {
            texts.push(delivery.text)
            return Effect.andThen(delivery.ack, Deferred.succeed(texts.length === 1 ? first : second, undefined))
          }),
          Effect.forkScoped
        )
        yield* Deferred.await(first)
        yield* channel.queueDelete({ queue })
        yield* Stream.runDrain(Stream.takeUntil(consumer.changes, (status) =>
          status._tag === "Recovering" && status.cause.reason._tag === "AmqpNotFound"))
        yield* channel.queueDeclare({ queue, durable: true })
        yield* channel.publish({ routingKey: queue, body: "again" })
        yield* Deferred.await(second)
        assert.deepStrictEqual(texts, ["0", "again"])
      })))

    it.effect("with a topology of its own it brings back the queue that it needs", () =>
      onConnection(Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        const queue = uniqueName("own")
        const topology = [AmqpTopology.classicQueue(queue)]
        const texts: Array<string> = []
        const first = yield* Deferred.make<void>()
        const second = yield* Deferred.make<void>()
        const consumer = yield* AmqpConsumer.make(queue, { topology })
        yield* consumer.deliveries.pipe(
          Stream.runForEach((delivery) => {
            texts.push(delivery.text)
            return Effect.andThen(delivery.ack, Deferred.succeed(texts.length === 1 ? first : second, undefined))
          }),
          Effect.forkScoped
        )
        yield* Stream.runDrain(Stream.takeUntil(consumer.changes, isAttached(1)))
        yield* channel.confirmSelect
        yield* channel.publish({ routingKey: queue, body: "one", mandatory: true })
        yield* Deferred.await(first)
        const back = yield* consumer.changes.pipe(
          Stream.dropUntil((status) => status._tag === "Recovering"),
          Stream.takeUntil(isAttached(1)),
          Stream.runDrain,
          Effect.forkScoped({ startImmediately: true })
        )
        yield* channel.queueDelete({ queue })
        yield* Fiber.join(back)
        yield* channel.publish({ routingKey: queue, body: "two", mandatory: true })
        yield* Deferred.await(second)
        assert.deepStrictEqual(texts, ["one", "two"])
      })))

    it.effect("F79 an interrupted stream gives back what it has not handed out", () =>
      onConnection(Effect.gen(function*() {
        const { channel, queue } = yield* filled(100)
        const taken = yield* AmqpConsumer.stream(queue, { prefetch: 100 }).pipe(
          Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery.text)),
          Stream.take(3),
          Stream.runCollect
        )
        assert.deepStrictEqual(taken, ["0", "1", "2"])
        assert.strictEqual(yield* channel.queuePurge(queue), 97)
      })))

    it.effect("setPrefetch takes effect on the running consumer, without losing what was delivered", () =>
      onConnection(Effect.gen(function*() {
        const { queue } = yield* filled(50)
        const consumer = yield* AmqpConsumer.make(queue, { prefetch: 5 })
        const five = yield* Deferred.make<void>()
        const twenty = yield* Deferred.make<void>()
        const held: Array<AmqpSupervisedDelivery> = []
        yield* consumer.deliveries.pipe(
          Stream.runForEach((delivery) => {
            held.push(delivery)
            if (held.length === 5) return Deferred.succeed(five, undefined)
            return held.length === 20 ? Deferred.succeed(twenty, undefined) : Effect.void
          }),
          Effect.forkScoped
        )
        yield* Deferred.await(five)
        yield* consumer.setPrefetch(15)
        yield* Deferred.await(twenty)
        const results = yield* Effect.forEach(held.slice(0, 5), (delivery) => delivery.ack)
        assert.deepStrictEqual(results, ["Settled", "Settled", "Settled", "Settled", "Settled"])
        const refused = yield* Effect.flip(consumer.setPrefetch(70_000))
        assert.strictEqual(refused._tag, "AmqpEncodeError")
      })))
  })

  it.effect("options that cannot work fail at once, in their own phase", () =>
    onConnection(Effect.gen(function*() {
      const failures = [
        AmqpConsumer.run("q", () => Effect.void, { concurrency: 0 }),
        AmqpConsumer.run("q", () => Effect.void, { concurrency: Number.NaN }),
        AmqpConsumer.run([], () => Effect.void),
        Stream.runDrain(AmqpConsumer.stream("q", { prefetch: 0 })),
        Stream.runDrain(AmqpConsumer.stream("q", { prefetch: 70_000 }))
      ]
      for (const failing of failures) {
        const error = yield* Effect.flip(failing)
        assert.deepStrictEqual([error._tag, error._tag === "AmqpConsumerFailed" && error.phase], [
          "AmqpConsumerFailed",
          "options"
        ])
      }
    })))

  describe("run", () => {
    /** Runs a handler over messages until it has seen so many. */
    const untilSeen = <E>(
      queue: string,
      count: number,
      handler: AmqpConsumer.Handler<E, never>,
      options: AmqpConsumer.RunOptions & { readonly onFailure: AmqpConsumer.OnFailure<E> }
    ) =>
      Effect.gen(function*() {
        const enough = yield* Deferred.make<void>()
        let seen = 0
        const running = yield* Effect.forkScoped(AmqpConsumer.run(queue, (delivery) => {
          if (++seen === count) Deferred.doneUnsafe(enough, Effect.void)
          return handler(delivery)
        }, options))
        yield* Deferred.await(enough)
        yield* Fiber.interrupt(running)
      })

    it.effect("settles by the handler's exit: acknowledges, and what it returns", () =>
      onConnection(Effect.gen(function*() {
        const { channel, queue } = yield* filled(10)
        yield* untilSeen(
          queue,
          10,
          ({ text }) => Effect.succeed(Number(text) < 8 ? undefined : AmqpConsumer.deadLetter),
          {
            onFailure: AmqpConsumer.requeue
          }
        )
        assert.strictEqual(yield* channel.queuePurge(queue), 0)
      })))

    it.effect("F64 onFailure decides: once more, then to the dead-letter exchange", () =>
      onConnection(Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        const dead = yield* channel.queueDeclare({ queue: uniqueName("dead"), durable: true })
        const { queue } = yield* channel.queueDeclare({
          queue: uniqueName("poison"),
          durable: true,
          arguments: { "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.queue }
        })
        yield* channel.confirmSelect
        yield* channel.publish({ routingKey: queue, body: "poison" })
        yield* untilSeen(queue, 2, () => Effect.fail("poison" as const), { onFailure: AmqpConsumer.requeueOnce })
        const got = yield* channel.get({ queue: dead.queue, noAck: true })
        assert.strictEqual(Option.getOrThrow(got).delivery.text, "poison")
      })))

    it.effect("F62 without onFailure a failure and a defect end it, and the message goes back", () =>
      onConnection(Effect.gen(function*() {
        const { channel, queue } = yield* filled(1)
        const failed = yield* Effect.exit(AmqpConsumer.run(queue, () => Effect.fail("no" as const)))
        assert.deepStrictEqual(
          Exit.isFailure(failed) && Cause.findErrorOption(failed.cause),
          Option.some("no" as const)
        )
        const died = yield* Effect.exit(AmqpConsumer.run(queue, () => Effect.die(new Error("bug"))))
        assert.isTrue(Exit.isFailure(died) && Cause.hasDies(died.cause))
        assert.strictEqual(yield* channel.queuePurge(queue), 1)
      })))

    it.effect("an onFailure that throws ends it, and the message goes back", () =>
      onConnection(Effect.gen(function*() {
        const { channel, queue } = yield* filled(1)
        const onFailure = (): AmqpConsumer.Disposition => {
          throw new Error("no policy")
        }
        const died = yield* Effect.exit(AmqpConsumer.run(queue, () => Effect.fail("no"), { onFailure }))
        assert.include(Exit.isFailure(died) ? Cause.pretty(died.cause) : "", "no policy")
        assert.strictEqual(yield* channel.queuePurge(queue), 1)
      })))

    it.effect("a handler that dies is logged where onFailure does not see it; one that fails is not", () =>
      onConnection(Effect.gen(function*() {
        const { queue } = yield* filled(3)
        const logged: Array<string> = []
        const logger = Logger.make(({ cause, logLevel, message }) => {
          logged.push(`${logLevel} ${String(message)} ${Cause.pretty(cause)}`)
        })
        const seen: Array<string> = []
        const onFailure = (cause: Cause.Cause<unknown>) => {
          seen.push(Cause.pretty(cause))
          return AmqpConsumer.deadLetter
        }
        yield* Effect.gen(function*() {
          yield* untilSeen(queue, 1, () => Effect.die(new Error("bug 1")), { onFailure: AmqpConsumer.deadLetter })
          yield* untilSeen(queue, 1, () => Effect.fail("no"), { onFailure: AmqpConsumer.deadLetter })
          yield* untilSeen(queue, 1, () => Effect.die(new Error("bug 2")), { onFailure })
        }).pipe(Effect.provide(Logger.layer([logger])))
        assert.strictEqual(logged.length, 1, logged.join("\n"))
        assert.match(logged[0] ?? "", new RegExp(`^Error A handler of ${queue} died.*bug 1`, "s"))
        assert.include(seen[0] ?? "", "bug 2")
      })))

    it.effect("a handler that takes too long has failed", () =>
      onConnection(Effect.gen(function*() {
        const { channel, queue } = yield* filled(1)
        const causes: Array<string> = []
        yield* untilSeen(queue, 2, () => Effect.never, {
          handlerTimeout: "20 millis",
          onFailure: (cause) => {
            causes.push(Cause.pretty(cause))
            return AmqpConsumer.requeue
          }
        })
        assert.include(causes[0] ?? "", "Timeout")
        assert.strictEqual(yield* channel.queuePurge(queue), 1)
      })))

    it.effect("P7 its end lets handlers finish and settle, and gives back the rest", () =>
      onConnection(Effect.gen(function*() {
        const { channel, queue } = yield* filled(50)
        const busy = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        let started = 0
        let finished = 0
        const running = yield* Effect.forkScoped(AmqpConsumer.run(queue, () =>
          Effect.gen(function*() {
            if (++started === 4) yield* Deferred.succeed(busy, undefined)
            yield* Deferred.await(go)
            finished++
          }), { prefetch: 20, concurrency: 4 }))
        yield* Deferred.await(busy)
        const ending = yield* Effect.forkScoped(Fiber.interrupt(running))
        yield* Effect.yieldNow
        assert.strictEqual(started, 4)
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(ending)
        assert.strictEqual(finished, 4)
        assert.strictEqual(yield* channel.queuePurge(queue), 46)
      })))

    it.effect("F86 a handler that never ends is interrupted after drainTimeout, and its message goes back", () =>
      onConnection(Effect.gen(function*() {
        const { channel, queue } = yield* filled(1)
        const busy = yield* Deferred.make<void>()
        const running = yield* Effect.forkScoped(
          AmqpConsumer.run(queue, () => Effect.andThen(Deferred.succeed(busy, undefined), Effect.never), {
            drainTimeout: "50 millis"
          })
        )
        yield* Deferred.await(busy)
        yield* Fiber.interrupt(running)
        assert.strictEqual(yield* channel.queuePurge(queue), 1)
      })))

    it.effect.runIf(canControl)("F58 keeps its concurrency across epochs", () =>
      noLeaks(Effect.gen(function*() {
        const name = uniqueName("cut")
        const connection = yield* connect({ connectionName: name, reconnect: undefined })
        yield* Effect.gen(function*() {
          const { queue } = yield* filled(20)
          const busy = yield* Deferred.make<void>()
          const go = yield* Deferred.make<void>()
          const done = yield* Deferred.make<void>()
          const texts = new Set<string>()
          let active = 0
          let most = 0
          const running = yield* Effect.forkScoped(AmqpConsumer.run(queue, ({ text }) =>
            Effect.gen(function*() {
              most = Math.max(most, ++active)
              if (active === 3) yield* Deferred.succeed(busy, undefined)
              yield* Deferred.await(go)
              active--
              texts.add(text)
              if (texts.size === 20) yield* Deferred.succeed(done, undefined)
            }), { prefetch: 10, concurrency: 3 }))
          yield* Deferred.await(busy)
          yield* cut(name)
          yield* Stream.runDrain(
            Stream.takeUntil(connection.changes, (status) => status._tag === "Open" && status.epoch === 2)
          )
          yield* Deferred.succeed(go, undefined)
          yield* Deferred.await(done)
          assert.strictEqual(most, 3)
          yield* Fiber.interrupt(running)
        }).pipe(Effect.provideService(AmqpConnection, connection))
      })))
  })
})

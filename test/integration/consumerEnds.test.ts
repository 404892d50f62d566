/**
 * How consumers end while something is at work, and how one queue of several recovers: on a real broker, by the order of
 * the frames. Handlers are longer than a round trip: they go on until the broker has answered the cancel.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Logger, Schedule, Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection, type Options } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import type { AmqpSupervisedDelivery } from "../../src/AmqpDelivery.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import type { ProxyLink } from "../harness/proxy.ts"
import { canControl, onVhost, uniqueName, type Vhost } from "../harness/shared.ts"
import {
  connect,
  filled,
  framesOf,
  isAttachedIn,
  millisOf,
  nextMethod,
  onConnection,
  openOn,
  proxied,
  recoverSoon,
  until
} from "./support.ts"

/** What the client has sent since the first `basic.cancel`, on channels: names, with the numbers of what was settled. */
const endOf = (link: ProxyLink) =>
  Effect.map(framesOf(link, "up"), (frames) => {
    const lines = frames.flatMap((frame) => {
      if (frame._tag !== "Method") return []
      const { method } = frame
      return "deliveryTag" in method ? [`${method._tag} ${method.deliveryTag}`] : [method._tag]
    })
    return lines.slice(lines.indexOf("basic.cancel"))
  })

/** `run` with handlers that go on until the broker has answered the cancel, then settle by themselves. */
const working = Effect.fnUntraced(function*(
  { atWork, count, prefetch }: { readonly atWork: number; readonly count: number; readonly prefetch: number },
  options: Options = {}
) {
  const { channel, queue } = yield* filled(count)
  const { connection, link } = yield* proxied(options)
  const busy = yield* Deferred.make<void>()
  const cancelled = yield* Deferred.make<void>()
  yield* Effect.forkScoped(
    Effect.andThen(nextMethod(link, "down", "basic.cancel-ok"), Deferred.succeed(cancelled, undefined))
  )
  const results: Array<unknown> = []
  let started = 0
  const run = AmqpConsumer.run(queue, (delivery) =>
    Effect.gen(function*() {
      if (++started === atWork) yield* Deferred.succeed(busy, undefined)
      yield* Deferred.await(cancelled)
      results.push(yield* delivery.ack)
    }), { concurrency: atWork, prefetch })
  return {
    channel,
    link,
    connection,
    queue,
    busy: Deferred.await(busy),
    results,
    run: Effect.provideService(run, AmqpConnection, connection)
  }
})

/** The client's connection is lost, the broker's side of it stays until the link is reset. New ones are let through. */
const strand = Effect.fnUntraced(function*({ connection, link, proxy }: Effect.Success<ReturnType<typeof proxied>>) {
  yield* proxy.refuse(true)
  yield* proxy.set("up", { mode: "hole" })
  yield* link.halfClose("down")
  // The first attempt, which is refused, comes when the old socket is closed.
  yield* Stream.runDrain(
    Stream.takeUntil(connection.changes, (status) => status._tag === "Reconnecting" && status.attempt > 1)
  )
  yield* proxy.set("up", { mode: "pass" })
  yield* proxy.refuse(false)
})

/** In good order: cancelled, the rest given back, the work settled, the channel closed or its connection. */
const assertOrderly = (lines: ReadonlyArray<string>, acked: number): void => {
  const first = (name: string) => lines.findIndex((line) => line.startsWith(name))
  const last = (name: string) => lines.findLastIndex((line) => line.startsWith(name))
  assert.strictEqual(first("basic.cancel"), 0, lines.join("\n"))
  if (first("basic.nack") >= 0) assert.isBelow(last("basic.nack"), first("basic.ack"), lines.join("\n"))
  assert.isBelow(last("basic.ack"), lines.findIndex((line) => line.endsWith(".close")), lines.join("\n"))
  assert.include(lines[last("basic.ack")], `basic.ack ${acked}`)
}

layer(onVhost, { excludeTestServices: true })("the end of AmqpConsumer.run", (it) => {
  it.effect("lets the handler at work settle, then closes: one message is handled once", () =>
    noLeaks(Effect.gen(function*() {
      const { busy, channel, link, queue, results, run } = yield* working({ atWork: 1, count: 1, prefetch: 10 })
      const running = yield* Effect.forkScoped(run)
      yield* busy
      yield* Fiber.interrupt(running)
      assert.deepStrictEqual(results, ["Settled"])
      assert.deepStrictEqual((yield* endOf(link)).slice(0, 3), ["basic.cancel", "basic.ack 1", "channel.close"])
      assert.strictEqual(yield* channel.queuePurge(queue), 0)
    })))

  it.effect("gives back at once what no handler has begun: 5 of 20 at work, 15 left", () =>
    noLeaks(Effect.gen(function*() {
      const { busy, channel, link, queue, results, run } = yield* working({ atWork: 5, count: 20, prefetch: 10 })
      const running = yield* Effect.forkScoped(run)
      yield* busy
      yield* Fiber.interrupt(running)
      assert.deepStrictEqual(results, Array.from({ length: 5 }, () => "Settled"))
      assertOrderly(yield* endOf(link), 5)
      assert.strictEqual(yield* channel.queuePurge(queue), 15)
    })))

  describe("is the same, whatever ends it:", () => {
    const check = <E>(
      what: string,
      end: (work: Effect.Success<ReturnType<typeof working>>) => Effect.Effect<unknown, E, Scope.Scope>
    ) =>
      it.effect(what, () =>
        noLeaks(Effect.gen(function*() {
          const work = yield* working({ atWork: 2, count: 6, prefetch: 4 })
          yield* end(work)
          assert.deepStrictEqual(work.results, ["Settled", "Settled"])
          assertOrderly(yield* endOf(work.link), 2)
          assert.strictEqual(yield* work.channel.queuePurge(work.queue), 4)
        })))

    check("the scope that it runs in", ({ busy, run }) => Effect.scoped(Effect.andThen(Effect.forkScoped(run), busy)))
    check("the scope of its connection", ({ busy, connection, run }) =>
      Effect.gen(function*() {
        yield* Effect.scoped(Effect.andThen(Effect.forkScoped(run), busy))
        yield* connection.close
      }))
    check("AmqpConnection.close", ({ busy, connection, run }) =>
      Effect.gen(function*() {
        const running = yield* Effect.forkScoped(Effect.exit(run))
        yield* busy
        yield* connection.close
        const exit = yield* Fiber.join(running)
        assert.isTrue(Exit.isFailure(exit))
      }))
    check("a race that somebody else wins", ({ busy, run }) => Effect.raceFirst(run, busy))
    check(
      "a sibling that fails",
      ({ busy, run }) =>
        Effect.exit(Effect.all([run, Effect.andThen(busy, Effect.fail("sibling"))], { concurrency: "unbounded" }))
    )
  })

  it.effect("a handler that fails ends it, and the others at work finish and settle", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, queue } = yield* filled(5)
      const { connection, link } = yield* proxied()
      const cancelled = yield* Deferred.make<void>()
      yield* Effect.forkScoped(
        Effect.andThen(nextMethod(link, "down", "basic.cancel-ok"), Deferred.succeed(cancelled, undefined))
      )
      const busy = yield* Deferred.make<void>()
      const exit = yield* AmqpConsumer.run(queue, ({ text }) => {
        if (text === "0") return Effect.andThen(Deferred.await(busy), Effect.fail("no" as const))
        return Effect.andThen(Deferred.succeed(busy, undefined), Deferred.await(cancelled))
      }, { concurrency: 2, prefetch: 4 }).pipe(
        Effect.provideService(AmqpConnection, connection),
        Effect.exit
      )
      assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) === "no")
      assert.strictEqual(yield* channel.queuePurge(queue), 4)
    })))

  it.effect("what a handler failed at is rejected and counts; what was interrupted or not begun is nacked", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, queue } = yield* filled(5)
      const { connection, link } = yield* proxied()
      const busy = yield* Deferred.make<void>()
      let begun = 0
      const running = yield* AmqpConsumer.run(queue, ({ redelivered, text }) => {
        if (text === "0" && !redelivered) return Effect.fail("poison")
        return Effect.andThen(++begun === 2 ? Deferred.succeed(busy, undefined) : Effect.void, Effect.never)
      }, { concurrency: 2, prefetch: 4, onFailure: AmqpConsumer.requeue, drainTimeout: "50 millis" }).pipe(
        Effect.provideService(AmqpConnection, connection),
        Effect.forkScoped
      )
      yield* Deferred.await(busy)
      yield* Fiber.interrupt(running)
      const refused = (yield* framesOf(link, "up")).flatMap((frame) =>
        frame._tag === "Method" && /nack|reject/.test(frame.method._tag) ? [frame.method._tag] : []
      )
      assert.strictEqual(refused[0], "basic.reject", refused.join())
      assert.deepStrictEqual(new Set(refused.slice(1)), new Set(["basic.nack"]))
      assert.strictEqual(yield* channel.queuePurge(queue), 5)
    })))

  it.effect("a message that no handler can handle is tried as often as the delivery limit says, then dead-lettered", () =>
    Effect.gen(function*() {
      const connection = yield* connect()
      const channel = yield* openOn(connection)
      const dead = (yield* channel.queueDeclare({ queue: uniqueName("dead"), durable: true })).queue
      const poisoned = yield* channel.queueDeclare({
        queue: uniqueName("poison"),
        durable: true,
        arguments: {
          "x-queue-type": "quorum",
          "x-delivery-limit": 3,
          "x-dead-letter-exchange": "",
          "x-dead-letter-routing-key": dead
        }
      })
      yield* channel.publish({ routingKey: poisoned.queue, body: "poison" })
      let tries = 0
      yield* AmqpConsumer.run(
        poisoned.queue,
        () => Effect.andThen(Effect.sync(() => ++tries), Effect.fail("no")),
        { onFailure: AmqpConsumer.requeue }
      ).pipe(Effect.provideService(AmqpConnection, connection), Effect.forkScoped)
      const { deliveries } = yield* channel.consume({ queue: dead, noAck: true })
      const [letter] = yield* Stream.runCollect(Stream.take(deliveries, 1))
      assert.strictEqual(letter?.text, "poison")
      assert.strictEqual(tries, 4)
    }))

  it.effect("an end that waits for handlers leaves what comes after the cancel to others", () =>
    noLeaks(Effect.gen(function*() {
      const { busy, channel, queue, run } = yield* working({ atWork: 1, count: 3, prefetch: 3 })
      const running = yield* Effect.forkScoped(run)
      yield* busy
      const other = yield* channel.consume({ queue })
      yield* Fiber.interrupt(running)
      const rest = yield* Stream.runCollect(Stream.take(other.deliveries, 2))
      assert.lengthOf(rest, 2)
      for (const delivery of rest) yield* delivery.ack
    })))

  it.effect("a handler that cannot be interrupted does not hold it for ever", () =>
    noLeaks(Effect.gen(function*() {
      const { queue } = yield* filled(1)
      const connection = yield* connect({ closeTimeout: "300 millis" })
      const busy = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const running = yield* AmqpConsumer.run(
        queue,
        () => Effect.uninterruptible(Effect.andThen(Deferred.succeed(busy, undefined), Deferred.await(go))),
        { drainTimeout: "50 millis" }
      ).pipe(Effect.provideService(AmqpConnection, connection), Effect.forkScoped)
      yield* Deferred.await(busy)
      yield* Fiber.interrupt(running)
      yield* Deferred.succeed(go, undefined)
    })))

  it.effect("several in one scope share the time: three that never end take one drainTimeout", () =>
    noLeaks(Effect.gen(function*() {
      const connection = yield* connect()
      const queues = yield* Effect.forEach([0, 1, 2], () => filled(1))
      const scope = yield* Scope.make()
      let busy = 0
      const all = yield* Deferred.make<void>()
      for (const { queue } of queues) {
        yield* AmqpConsumer.run(queue, () =>
          Effect.andThen(
            Effect.suspend(() => ++busy === 3 ? Deferred.succeed(all, undefined) : Effect.void),
            Effect.never
          ), { drainTimeout: "1 second" }).pipe(
            Effect.provideService(AmqpConnection, connection),
            Effect.forkIn(scope)
          )
      }
      yield* Deferred.await(all)
      const before = performance.now()
      yield* Scope.close(scope, Exit.void)
      assert.isBelow(performance.now() - before, 2_500)
    })))

  describe("by AmqpConnection.close is no news, whatever happens meanwhile:", () => {
    /** `run` in the background. It ends because the connection was closed, and logs no error. */
    const watched = Effect.fnUntraced(function*<E>(
      run: Effect.Effect<void, E, AmqpConnection>,
      connection: AmqpConnection
    ) {
      const logs: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => {
        if (logLevel === "Error") logs.push(String(message))
      })
      return yield* Effect.flip(run).pipe(
        Effect.provideService(AmqpConnection, connection),
        Effect.provide(Logger.layer([logger])),
        Effect.map((error) => {
          assert.nestedPropertyVal(error, "reason.reason._tag", "ConnectionClosed")
          assert.deepStrictEqual(logs, [])
        }),
        Effect.forkScoped
      )
    })

    it.effect("a queue attaches again while a handler of another one is at work", () =>
      noLeaks(Effect.gen(function*() {
        const { queue } = yield* filled(1)
        const { channel, queue: other } = yield* filled(0)
        const { connection, link, proxy } = yield* proxied()
        const busy = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const settled = yield* Deferred.make<unknown>()
        const run = AmqpConsumer.run([queue, other], (delivery) =>
          Effect.gen(function*() {
            yield* Deferred.succeed(busy, undefined)
            yield* Deferred.await(go)
            // As long as the other one has an answer to come.
            yield* Effect.sleep("300 millis")
            yield* Deferred.succeed(settled, yield* delivery.ack)
          }), { recover: recoverSoon })
        const running = yield* watched(run, connection)
        yield* Deferred.await(busy)
        yield* nextMethod(link, "up", "basic.qos")
        yield* channel.queueDelete({ queue: other })
        yield* nextMethod(link, "down", "basic.cancel")
        yield* proxy.set("down", { delay: 50 })
        yield* channel.queueDeclare({ queue: other, durable: true })
        yield* nextMethod(link, "up", "basic.qos")
        yield* Deferred.succeed(go, undefined)
        yield* connection.close
        yield* Fiber.join(running)
        assert.strictEqual(yield* Deferred.await(settled), "Settled")
      })))

    it.effect("the connection is lost", () =>
      noLeaks(Effect.gen(function*() {
        const { queue } = yield* filled(1)
        const { connection, link } = yield* proxied({ reconnect: Schedule.spaced("20 millis") })
        const busy = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const run = AmqpConsumer.run(queue, () =>
          Deferred.succeed(busy, undefined).pipe(
            Effect.andThen(Deferred.await(go)),
            // As long as the loss takes to be noticed.
            Effect.andThen(Effect.sleep("100 millis"))
          ))
        const running = yield* watched(run, connection)
        yield* Deferred.await(busy)
        const closing = yield* Effect.forkScoped(connection.close, { startImmediately: true })
        yield* nextMethod(link, "up", "basic.cancel")
        yield* link.reset
        yield* link.closed
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(closing)
        yield* Fiber.join(running)
      })))

    it.effect("topologies of its own wait for a queue that another connection has", () =>
      noLeaks(Effect.gen(function*() {
        const owner = yield* openOn(yield* connect())
        const { queue } = yield* owner.queueDeclare({ queue: uniqueName("locked"), exclusive: true })
        const { connection, link } = yield* proxied()
        const topology = [AmqpTopology.classicQueue(queue, { exclusive: true, durable: false })]
        const run = AmqpConsumer.run(queue, () => Effect.void, { topology })
        // Each of them tries again at some time within 2 s.
        const running = yield* Effect.forEach(Array.from({ length: 5 }), () => watched(run, connection))
        for (const _ of running) yield* nextMethod(link, "up", "channel.close-ok")
        assert.isBelow(yield* millisOf(Effect.andThen(connection.close, Fiber.joinAll(running))), 700)
      })))
  })

  describe.runIf(canControl)("is bounded where nothing is answered:", () => {
    it.effect("an idle one on a blocked connection", () =>
      noLeaks(Effect.gen(function*() {
        const { alarm, unalarm } = yield* Broker.control
        const { queue } = yield* filled(0)
        const connection = yield* connect({ closeTimeout: "1 second" })
        const running = yield* AmqpConsumer.run(queue, () => Effect.void).pipe(
          Effect.provideService(AmqpConnection, connection),
          Effect.forkScoped
        )
        const channel = yield* openOn(connection)
        yield* alarm("memory")
        yield* Stream.runDrain(Stream.takeUntil(
          Stream.merge(
            connection.changes,
            Stream.drain(Stream.fromEffect(
              Effect.forever(
                Effect.andThen(channel.publish({ routingKey: uniqueName("none"), body: "x" }), Effect.yieldNow)
              )
            ))
          ),
          ({ _tag }) => _tag === "Blocked"
        ))
        const before = performance.now()
        yield* Fiber.interrupt(running)
        const took = performance.now() - before
        yield* unalarm("memory")
        assert.isBelow(took, 2_500)
      })))

    it.effect("an idle one in a black hole", () =>
      noLeaks(Effect.gen(function*() {
        const { queue } = yield* filled(0)
        const { connection, link, proxy } = yield* proxied({ closeTimeout: "500 millis" })
        const running = yield* AmqpConsumer.run(queue, () => Effect.void).pipe(
          Effect.provideService(AmqpConnection, connection),
          Effect.forkScoped
        )
        yield* nextMethod(link, "down", "basic.consume-ok")
        yield* proxy.set("up", { mode: "hole" })
        const before = performance.now()
        yield* Fiber.interrupt(running)
        assert.isBelow(performance.now() - before, 2_000)
        yield* proxy.resetAll
      })))
  })
})

layer(onVhost, { excludeTestServices: true })("a consumer of several queues", (it) => {
  it.effect("one that is deleted and comes back by `topology` does not disturb the handlers of the other", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, queue: b } = yield* filled(1)
      const { connection, link } = yield* proxied()
      const a = uniqueName("a")
      const go = yield* Deferred.make<void>()
      const busy = yield* Deferred.make<void>()
      const back = yield* Deferred.make<void>()
      const done = yield* Deferred.make<unknown>()
      const seen: Array<string> = []
      const running = yield* AmqpConsumer.run([a, b], (delivery) =>
        Effect.gen(function*() {
          seen.push(`${delivery.queue} ${delivery.text} ${delivery.redelivered}`)
          if (delivery.queue === a) return yield* Deferred.succeed(back, undefined)
          yield* Deferred.succeed(busy, undefined)
          yield* Deferred.await(go)
          yield* Deferred.succeed(done, yield* delivery.ack)
        }), { topology: [AmqpTopology.classicQueue(a)], concurrency: 2 }).pipe(
          Effect.provideService(AmqpConnection, connection),
          Effect.forkScoped
        )
      yield* Deferred.await(busy)
      yield* channel.queueDelete({ queue: a })
      yield* nextMethod(link, "down", "basic.cancel")
      yield* nextMethod(link, "down", "queue.declare-ok")
      yield* channel.publish({ routingKey: a, body: "again", mandatory: true })
      yield* Deferred.await(back)
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* Deferred.await(done), "Settled")
      yield* Fiber.interrupt(running)
      assert.deepStrictEqual(seen, [`${b} 0 false`, `${a} again false`])
    })))

  it.effect("one that is missing recovers alone, and nothing of the others is handled twice", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* filled(5)
      const missing = uniqueName("missing")
      const seen: Array<string> = []
      const five = yield* Deferred.make<void>()
      const six = yield* Deferred.make<void>()
      const consumer = yield* AmqpConsumer.make([queue, missing], {
        recover: Schedule.spaced("20 millis"),
        prefetch: 10
      })
      yield* consumer.deliveries.pipe(
        Stream.runForEach((delivery) =>
          Effect.gen(function*() {
            seen.push(delivery.text)
            assert.strictEqual(yield* delivery.ack, "Settled")
            if (seen.length === 5) yield* Deferred.succeed(five, undefined)
            if (seen.length === 6) yield* Deferred.succeed(six, undefined)
          })
        ),
        Effect.forkScoped
      )
      yield* Deferred.await(five)
      const status = yield* consumer.status
      assert.strictEqual(status._tag === "Recovering" && status.cause.reason._tag, "AmqpNotFound")
      assert.strictEqual(status._tag === "Recovering" && status.cause.queue, missing)
      yield* channel.queueDeclare({ queue: missing, durable: true })
      yield* until(consumer, isAttachedIn(1))
      yield* channel.publish({ routingKey: missing, body: "late" })
      yield* Deferred.await(six)
      assert.deepStrictEqual(seen, ["0", "1", "2", "3", "4", "late"])
    })))

  it.effect("a failure for good of one names it, and ends the consumer", () =>
    onConnection(Effect.gen(function*() {
      const { queue } = yield* filled(1)
      const missing = uniqueName("missing")
      const error = yield* Effect.flip(AmqpConsumer.run([queue, missing], () => Effect.void))
      assert.strictEqual(error._tag, "AmqpConsumerFailed")
      if (error._tag !== "AmqpConsumerFailed") return
      assert.deepStrictEqual([error.queue, error.phase, error.reason._tag], [missing, "consume", "AmqpNotFound"])
    })))

  it.effect("subscribes to all of them at once, on one channel, with one prefetch", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const names = Array.from({ length: 300 }, (_, i) => uniqueName(`many${i}`))
      yield* Effect.forEach(names, (queue) => channel.queueDeclare({ queue, exclusive: true }), {
        concurrency: "unbounded",
        discard: true
      })
      const consumer = yield* Effect.provideService(AmqpConsumer.make(names), AmqpConnection, connection)
      const running = yield* Effect.forkScoped(Stream.runDrain(consumer.deliveries))
      yield* until(consumer, isAttachedIn(1))
      const sent = (yield* framesOf(link, "up")).flatMap((frame) => frame._tag === "Method" ? [frame.method._tag] : [])
      assert.lengthOf(sent.filter((name) => name === "basic.qos"), 1)
      assert.lengthOf(sent.filter((name) => name === "channel.open"), 2)
      assert.lengthOf(sent.filter((name) => name === "basic.consume"), 300)
      yield* Fiber.interrupt(running)
    })))

  it.effect("a delivery says its queue, its consumer's tag and its channel; the tag may be chosen", () =>
    onConnection(Effect.gen(function*() {
      const one = yield* filled(1)
      const two = yield* filled(1)
      const taken = yield* AmqpConsumer.stream([one.queue, two.queue], { consumerTag: "mine" }).pipe(
        Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery)),
        Stream.take(2),
        Stream.runCollect
      )
      const said = taken.map(({ channel, consumerTag, queue }) => ({ channel, consumerTag, queue }))
      assert.deepStrictEqual(said.toSorted((a, b) => a.consumerTag.localeCompare(b.consumerTag)), [
        { channel: said[0]?.channel ?? 0, consumerTag: "mine.0", queue: one.queue },
        { channel: said[0]?.channel ?? 0, consumerTag: "mine.1", queue: two.queue }
      ])
      const alone = yield* filled(1)
      const [only] = yield* Stream.runCollect(Stream.take(AmqpConsumer.stream(alone.queue, { consumerTag: "é" }), 1))
      assert.strictEqual(only?.consumerTag, "é")
    })))

  it.effect("the prefetch can be one for all of them, and be changed", () =>
    onConnection(Effect.gen(function*() {
      const queues = [(yield* filled(10)).queue, (yield* filled(10)).queue]
      const held: Array<AmqpSupervisedDelivery> = []
      const three = yield* Deferred.make<void>()
      const eight = yield* Deferred.make<void>()
      const consumer = yield* AmqpConsumer.make(queues, { prefetch: 3, sharedPrefetch: true })
      yield* consumer.deliveries.pipe(
        Stream.runForEach((delivery) => {
          held.push(delivery)
          if (held.length === 3) return Deferred.succeed(three, undefined)
          return held.length === 8 ? Deferred.succeed(eight, undefined) : Effect.void
        }),
        Effect.forkScoped
      )
      yield* Deferred.await(three)
      yield* until(consumer, isAttachedIn(1))
      // Behind everything that the broker has sent for the old one.
      yield* Effect.scoped(AmqpChannel.open)
      assert.lengthOf(held, 3)
      yield* consumer.setPrefetch(8)
      yield* Deferred.await(eight)
      yield* Effect.scoped(AmqpChannel.open)
      assert.lengthOf(held, 8)
      for (const delivery of held) assert.strictEqual(yield* delivery.ack, "Settled")
    })))

  it.effect("the prefetch of `run` is twice its concurrency", () =>
    noLeaks(Effect.gen(function*() {
      const { queue } = yield* filled(0)
      const { connection, link } = yield* proxied()
      const running = yield* AmqpConsumer.run(queue, () => Effect.void, { concurrency: 3 }).pipe(
        Effect.provideService(AmqpConnection, connection),
        Effect.forkScoped
      )
      assert.strictEqual((yield* nextMethod(link, "up", "basic.qos")).prefetchCount, 6)
      yield* Fiber.interrupt(running)
    })))

  it.effect("one that fails for good in the background is logged", () =>
    onConnection(Effect.gen(function*() {
      const missing = uniqueName("missing")
      const logged = yield* Deferred.make<string>()
      const logger = Logger.make(({ logLevel, message }) => {
        if (logLevel === "Error") Deferred.doneUnsafe(logged, Effect.succeed(String(message)))
      })
      yield* AmqpConsumer.run(missing, () => Effect.void).pipe(
        Effect.provide(Logger.layer([logger])),
        Effect.forkScoped
      )
      assert.include(yield* Deferred.await(logged), missing)
    })))
})

layer(onVhost, { excludeTestServices: true })("AmqpConsumer.layer", (it) => {
  it.effect("is built when its queue is subscribed to, and its end lets the handler at work settle", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* filled(1)
      const busy = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const scope = yield* Scope.make()
      yield* Layer.buildWithScope(
        AmqpConsumer.layer(queue, () => Effect.andThen(Deferred.succeed(busy, undefined), Deferred.await(go))),
        scope
      )
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).consumerCount, 1)
      yield* Deferred.await(busy)
      const ending = yield* Effect.forkScoped(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.join(ending)
      const info = yield* channel.queueDeclarePassive(queue)
      assert.deepStrictEqual([info.consumerCount, info.messageCount], [0, 0])
    })))

  it.effect("fails typed where its queue is missing", () =>
    onConnection(Effect.gen(function*() {
      const missing = uniqueName("missing")
      const error = yield* Effect.flip(Effect.scoped(Layer.build(AmqpConsumer.layer(missing, () => Effect.void))))
      assert.deepStrictEqual([error._tag, error._tag === "AmqpConsumerFailed" && error.queue], [
        "AmqpConsumerFailed",
        missing
      ])
    })))
})

layer(onVhost, { excludeTestServices: true })("a consumer whose connection is lost", (it) => {
  describe("for somebody else's mistake goes on with the next epoch:", () => {
    const bystander = <E>(
      what: string,
      mistake: (connection: AmqpConnection, other: string) => Effect.Effect<unknown, E, Vhost>
    ) =>
      it.effect(what, () =>
        onConnection(
          Effect.gen(function*() {
            const connection = yield* AmqpConnection
            const { channel, queue } = yield* filled(0)
            const { queue: other } = yield* filled(0)
            const consumer = yield* AmqpConsumer.make(queue, { recover: recoverSoon })
            const done = yield* Deferred.make<string>()
            const failed = yield* Deferred.make<never, AmqpConsumer.AmqpConsumerFailed>()
            yield* consumer.deliveries.pipe(
              Stream.runForEach((delivery) => Effect.andThen(delivery.ack, Deferred.succeed(done, delivery.text))),
              Effect.catch((error) => Deferred.fail(failed, error)),
              Effect.forkScoped
            )
            yield* until(consumer, isAttachedIn(1))
            yield* Effect.ignore(mistake(connection, other))
            yield* Effect.raceFirst(until(consumer, isAttachedIn(2)), Deferred.await(failed))
            yield* channel.publish({ routingKey: queue, body: "after" })
            assert.strictEqual(yield* Deferred.await(done), "after")
          }),
          { reconnect: Schedule.spaced("10 millis"), maxMessageSize: 1000 }
        ))

    bystander(
      "flow, which the broker does not implement (540)",
      (connection) => Effect.scoped(Effect.flatMap(openOn(connection), (channel) => channel.flow(false)))
    )
    bystander(
      "an exchange of an unknown type (503)",
      (connection) =>
        Effect.scoped(
          Effect.flatMap(openOn(connection), (channel) =>
            channel.exchangeDeclare({ exchange: uniqueName("x"), type: "unknown" }))
        )
    )
    bystander(
      "a message of another queue that is too large for this client",
      (connection, other) =>
        Effect.scoped(Effect.gen(function*() {
          const channel = yield* openOn(yield* connect())
          yield* channel.publish({ routingKey: other, body: "x".repeat(2000) })
          yield* channel.queueDeclarePassive(other)
          yield* Effect.flatMap(openOn(connection), (channel) => channel.get({ queue: other, noAck: true }))
        }))
    )
  })

  it.effect("what the broker refuses to it each time ends it, by name; the connection and the others go on", () =>
    onConnection(
      Effect.gen(function*() {
        const channel = yield* openOn(yield* connect())
        const { queue: quorum } = yield* channel.queueDeclare({
          queue: uniqueName("quorum"),
          durable: true,
          arguments: { "x-queue-type": "quorum" }
        })
        const { queue } = yield* filled(0)
        const other = yield* AmqpConsumer.make(queue, { recover: recoverSoon })
        yield* Effect.forkScoped(Stream.runDrain(other.deliveries))
        const error = yield* Effect.flip(Stream.runDrain(
          AmqpConsumer.stream(quorum, { sharedPrefetch: true, recover: recoverSoon })
        ))
        assert.strictEqual(error._tag, "AmqpConsumerFailed")
        assert.strictEqual(error.queue, quorum)
        assert.nestedPropertyVal(error, "reason.reason._tag", "NotImplemented")
        yield* until(other, ({ _tag }) => _tag === "Attached")
      }),
      { reconnect: Schedule.spaced("10 millis") }
    ))

  it.effect("an exclusive one waits until the broker has noticed the loss", () =>
    noLeaks(Effect.gen(function*() {
      const { queue } = yield* filled(1)
      const stranded = yield* proxied({ reconnect: Schedule.spaced("10 millis") })
      const { connection, link } = stranded
      const consumer = yield* AmqpConsumer.make(queue, { exclusive: true, recover: recoverSoon }).pipe(
        Effect.provideService(AmqpConnection, connection)
      )
      const failed = yield* Deferred.make<never, AmqpConsumer.AmqpConsumerFailed>()
      yield* consumer.deliveries.pipe(
        Stream.runDrain,
        Effect.catch((error) => Deferred.fail(failed, error)),
        Effect.forkScoped
      )
      yield* until(consumer, isAttachedIn(1))
      yield* strand(stranded)
      yield* Effect.raceFirst(
        until(consumer, (status) => status._tag === "Recovering" && status.cause.reason._tag === "AmqpAccessRefused"),
        Deferred.await(failed)
      )
      yield* link.reset
      yield* Effect.raceFirst(until(consumer, isAttachedIn(2)), Deferred.await(failed))
    })))

  it.effect("one of an exclusive queue waits until the topology has it again, also while nobody has it", () =>
    noLeaks(Effect.gen(function*() {
      const stranded = yield* proxied({ reconnect: Schedule.spaced("10 millis") })
      const { connection, link } = stranded
      const name = uniqueName("exclusive")
      yield* Effect.gen(function*() {
        yield* AmqpTopology.make([AmqpTopology.classicQueue(name, { exclusive: true, durable: false })], {
          patience: "50 millis"
        })
        const consumer = yield* AmqpConsumer.make(name, { recover: recoverSoon })
        const failed = yield* Deferred.make<never, AmqpConsumer.AmqpConsumerFailed>()
        yield* consumer.deliveries.pipe(
          Stream.runDrain,
          Effect.catch((error) => Deferred.fail(failed, error)),
          Effect.forkScoped
        )
        yield* until(consumer, isAttachedIn(1))
        yield* strand(stranded)
        yield* Effect.raceFirst(
          until(
            consumer,
            (status) => status._tag === "Recovering" && status.cause.reason._tag === "AmqpResourceLocked"
          ),
          Deferred.await(failed)
        )
        // The queue goes with the old connection: from here on there is none, until the topology tries again.
        yield* link.reset
        yield* Effect.raceFirst(until(consumer, isAttachedIn(2)), Deferred.await(failed))
      }).pipe(Effect.provideService(AmqpConnection, connection))
    })))
})

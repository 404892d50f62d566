/**
 * Consumers: what they deliver and in which order, how they end, what they give back, and that none of it stalls.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Queue, Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import { isTransient } from "../../src/AmqpError.ts"
import { Broker } from "../harness/broker.ts"
import type { BrokerError } from "../harness/exec.ts"
import { noLeaks } from "../harness/leaks.ts"
import { canControl, onVhost, ownBroker, uniqueName, Vhost } from "../harness/shared.ts"
import { gated } from "./gate.ts"
import {
  assertFailure,
  connect,
  drain,
  failureOf,
  methodsOf,
  onConnection,
  openOn,
  proxied,
  unsettled
} from "./support.ts"

/** A channel with confirms and a queue of this connection's own. */
const withQueue = Effect.gen(function*() {
  const channel = yield* AmqpChannel.open
  const { queue } = yield* channel.queueDeclare({ exclusive: true })
  yield* channel.confirmSelect
  return { channel, queue }
})

/** Publishes the numbers from `from` to `to - 1`; all are in the queue when it is done. */
const publishNumbers = (channel: AmqpChannel.AmqpChannel, queue: string, from: number, to: number) =>
  Effect.forEach(
    numbers(from, to),
    (body) => channel.publish({ routingKey: queue, body }),
    { concurrency: "unbounded", discard: true }
  )

const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => String(from + i))

/** What a consumer delivers, to be taken one at a time. */
const inbox = <D, E>(consumer: { readonly deliveries: Stream.Stream<D, E> }) =>
  Stream.toQueue(consumer.deliveries, { capacity: "unbounded" })

layer(onVhost, { excludeTestServices: true })("consumers", (it) => {
  it.effect("CO01 a backlog and what comes later arrive in order", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      yield* publishNumbers(channel, queue, 0, 100)
      const consumer = yield* channel.consume({ queue })
      const consuming = yield* consumer.deliveries.pipe(
        Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery)),
        Stream.take(200),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      yield* publishNumbers(channel, queue, 100, 200)
      const deliveries = yield* Fiber.join(consuming)
      assert.deepStrictEqual(deliveries.map(({ text }) => text), numbers(0, 200))
      assert.deepStrictEqual(deliveries.map(({ deliveryTag }) => String(deliveryTag)), numbers(1, 201))
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).messageCount, 0)
    })))

  it.effect("CO02 a tag is made up where none is given, the broker's own too, and one that is given is honoured", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      const tags = [undefined, undefined, "", "", "mine", "tåg ✓", "t".repeat(255)]
      const consumers = yield* Effect.forEach(tags, (consumerTag) => channel.consume({ queue, consumerTag }))
      const made = consumers.map(({ consumerTag }) => consumerTag)
      assert.deepStrictEqual(made.slice(4), tags.slice(4))
      assert.strictEqual(new Set(made).size, tags.length)
      assert.notInclude(made, "")
      const control = yield* Broker.control
      const { consumers: held } = yield* control.held({ vhost: (yield* Vhost).name })
      assert.sameMembers(held.map(({ tag }) => tag), made)
      // Each of them is delivered to.
      yield* publishNumbers(channel, queue, 0, tags.length)
      const texts = yield* Effect.forEach(
        consumers,
        (consumer) =>
          Effect.flatMap(
            Effect.flatMap(inbox(consumer), Queue.take),
            (delivery) => Effect.as(delivery.ack, delivery.text)
          )
      )
      assert.sameMembers(texts, numbers(0, tags.length))
    })))

  it.effect("CO02 a tag that has no form on the wire is refused before anything is sent", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      for (const consumerTag of ["t".repeat(256), "✓".repeat(86)]) {
        const error = yield* Effect.flip(Effect.scoped(channel.consume({ queue, consumerTag })))
        assert.strictEqual(error._tag === "AmqpEncodeError" && error.path, "consumerTag")
      }
      yield* channel.consume({ queue })
    })))

  it.effect("CO03 a tag that the channel uses is refused locally, also before the broker has answered", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const consume = channel.consume({ queue, consumerTag: "taken" })
      const [first, second] = yield* Effect.all([Effect.result(consume), Effect.result(consume)], {
        concurrency: "unbounded"
      })
      assert.strictEqual(first._tag, "Success")
      assert.strictEqual(second._tag, "Failure")
      const error = yield* Effect.flip(consume)
      assert.strictEqual(error._tag === "AmqpEncodeError" && error.path, "consumerTag")
      assert.strictEqual((yield* methodsOf(link, "up")).filter((name) => name === "1 basic.consume").length, 1)
      // Another channel may use it.
      const other = yield* openOn(connection)
      yield* other.consume({ queue, consumerTag: "taken" })
    })))

  it.effect("CO04 refusals have their types: no such queue, another's, and one with an exclusive consumer", () =>
    onConnection(Effect.gen(function*() {
      const missing = yield* failureOf((channel) => channel.consume({ queue: "missing" }))
      assertFailure(missing, "AmqpNotFound", "basic.consume", "missing")

      const { channel, queue } = yield* withQueue
      yield* onConnection(Effect.gen(function*() {
        assertFailure(yield* failureOf((channel) => channel.consume({ queue })), "AmqpResourceLocked", queue)
      }))

      const [, shared] = [yield* channel.consume({ queue, exclusive: true }), queue]
      for (const exclusive of [false, true]) {
        const refused = yield* failureOf((channel) => channel.consume({ queue: shared, exclusive }))
        assertFailure(refused, "AmqpAccessRefused", queue)
      }
      // And an exclusive one is refused where there is a consumer already.
      const { queue: used } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.consume({ queue: used })
      assertFailure(
        yield* failureOf((channel) => channel.consume({ queue: used, exclusive: true })),
        "AmqpAccessRefused",
        used
      )
    })))

  it.effect("CO04 a subscription that is refused leaves its channel's other operations with the cause", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      const consumer = yield* channel.consume({ queue })
      const refused = yield* Effect.flip(channel.consume({ queue: "missing" }))
      assert.strictEqual(refused._tag, "AmqpNotFound")
      const ended = yield* Effect.flip(Stream.runDrain(consumer.deliveries))
      assertFailure(ended, "AmqpChannelClosed")
      assert.strictEqual(ended.cause, refused)
      // There is nothing left to cancel.
      yield* consumer.cancel
    })))

  it.effect("CH19 requests behind a subscription or a cancel are answered before it at times, and get their own answers", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      for (let i = 0; i < 20; i++) {
        yield* Effect.scoped(Effect.gen(function*() {
          const [first, info, second, , got] = yield* Effect.all([
            channel.consume({ queue }),
            channel.queueDeclarePassive(queue),
            channel.consume({ queue }),
            channel.exchangeDeclarePassive("amq.direct"),
            channel.get({ queue })
          ], { concurrency: "unbounded" })
          assert.strictEqual(info.queue, queue)
          assert.strictEqual(got._tag, "None")
          const [, purged] = yield* Effect.all([first.cancel, channel.queuePurge(queue), second.cancel], {
            concurrency: "unbounded"
          })
          assert.strictEqual(purged, 0)
          for (const { deliveries } of [first, second]) assert.deepStrictEqual(yield* Stream.runCollect(deliveries), [])
        }))
      }
    })))

  it.effect("CO04 a refusal behind a subscription, or of one among several, belongs to the operation that provoked it", () =>
    onConnection(Effect.gen(function*() {
      for (let i = 0; i < 20; i++) {
        const behind = yield* withQueue
        const [, declare] = yield* Effect.all([
          Effect.exit(behind.channel.consume({ queue: behind.queue })),
          Effect.flip(behind.channel.queueDeclarePassive("missing"))
        ], { concurrency: "unbounded" })
        assertFailure(declare, "AmqpNotFound", "queue.declare", "missing")

        const among = yield* withQueue
        const [good, bad] = yield* Effect.all([
          Effect.exit(among.channel.consume({ queue: among.queue })),
          Effect.flip(among.channel.consume({ queue: "missing" }))
        ], { concurrency: "unbounded" })
        assertFailure(bad, "AmqpNotFound", "basic.consume", "missing")
        if (Exit.isFailure(good)) assert.propertyVal(Cause.squash(good.cause), "_tag", "AmqpChannelClosed")
      }
    })))

  it.effect("CO05 a delivery says where it came from and what it carries", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      const exchange = uniqueName("exchange")
      yield* channel.exchangeDeclare({ exchange, type: "topic", autoDelete: true })
      yield* channel.queueBind({ queue, exchange, routingKey: "order.*" })
      const properties = { contentType: "text/plain", messageId: "m-1", headers: { try: 1 } }
      yield* channel.publish({ exchange, routingKey: "order.paid", body: "b", properties })
      const got = yield* inbox(yield* channel.consume({ queue }))
      const first = yield* Queue.take(got)
      assert.deepInclude(first, { deliveryTag: 1, redelivered: false, exchange, routingKey: "order.paid" })
      assert.deepStrictEqual(first.properties, properties)
      assert.strictEqual(first.text, "b")
      assert.strictEqual(first.epoch, 1)
      yield* first.nack()
      const again = yield* Queue.take(got)
      assert.deepInclude(again, { deliveryTag: 2, redelivered: true, exchange, routingKey: "order.paid" })
      yield* again.ack
    })))

  it.effect("CO10 cancelling what is cancelled or was never there succeeds", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      const consumer = yield* channel.consume({ queue })
      yield* consumer.cancel
      yield* consumer.cancel
      yield* channel.cancel(consumer.consumerTag)
      yield* channel.cancel("never")
      yield* Effect.all([channel.cancel("never"), channel.cancel("never")], { concurrency: "unbounded" })
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).consumerCount, 0)
    })))

  it.effect("cancel ends the stream after what has come, which can still be settled", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      yield* publishNumbers(channel, queue, 0, 50)
      const consumer = yield* channel.consume({ queue })
      // The answer comes after the deliveries.
      yield* channel.queueDeclarePassive(queue)
      yield* consumer.cancel
      const texts = yield* consumer.deliveries.pipe(
        Stream.mapEffect((delivery) => Effect.map(delivery.ack, (settled) => [settled, delivery.text] as const)),
        Stream.runCollect
      )
      assert.deepStrictEqual(texts, numbers(0, 50).map((text) => ["Settled", text] as const))
      assert.deepStrictEqual(yield* Stream.runCollect(consumer.deliveries), [])
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).messageCount, 0)
    })))

  it.effect("a consumer's tag is free again, and its scope does not end the next consumer of that tag", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      const scope = yield* Scope.make()
      const first = yield* Scope.provide(channel.consume({ queue, consumerTag: "tag" }), scope)
      yield* first.cancel
      const second = yield* channel.consume({ queue, consumerTag: "tag" })
      yield* first.cancel
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).consumerCount, 1)
      yield* channel.publish({ routingKey: queue, body: "for the second" })
      const delivery = yield* Queue.take(yield* inbox(second))
      assert.strictEqual(delivery.text, "for the second")
      yield* delivery.ack
    })))

  it.effect("CO14 a consumer whose queue is deleted fails, after what came before; cancel-ok is not ours to send", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.publish({ routingKey: queue, body: "last" })
      yield* Effect.scoped(Effect.gen(function*() {
        const consumer = yield* channel.consume({ queue })
        yield* channel.queueDelete({ queue })
        const seen: Array<string> = []
        const ended = yield* consumer.deliveries.pipe(
          Stream.runForEach((delivery) => Effect.sync(() => seen.push(delivery.text))),
          Effect.flip
        )
        assert.deepStrictEqual(seen, ["last"])
        assert.strictEqual(ended._tag, "AmqpConsumerCancelled")
        assert.deepInclude(ended, { queue, consumerTag: consumer.consumerTag })
        yield* consumer.cancel
      }))
      // The channel is as good as before.
      yield* channel.queueDeclare({ exclusive: true })
      const names = yield* methodsOf(link, "up")
      assert.notInclude(names, "1 basic.cancel-ok")
    })))

  it.effect("CO15 our cancel and the broker's at the same time: both end, the channel stays", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const other = yield* AmqpChannel.open
      for (let i = 0; i < 20; i++) {
        const { queue } = yield* channel.queueDeclare({ exclusive: true })
        yield* Effect.scoped(Effect.gen(function*() {
          const consumer = yield* channel.consume({ queue })
          const steps = [consumer.cancel, Effect.asVoid(other.queueDelete({ queue }))]
          yield* Effect.all(i % 2 === 0 ? steps : steps.reverse(), { concurrency: "unbounded", discard: true })
          const ended = yield* Effect.result(Stream.runDrain(consumer.deliveries))
          if (ended._tag === "Failure") assert.strictEqual(ended.failure._tag, "AmqpConsumerCancelled")
        }))
      }
    })))

  it.effect("CO17 the consumer of the higher priority gets the messages as long as it can take them", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      yield* channel.qos({ prefetchCount: 3 })
      const low = yield* inbox(yield* channel.consume({ queue, arguments: { "x-priority": 1 } }))
      const high = yield* inbox(yield* channel.consume({ queue, arguments: { "x-priority": 10 } }))
      yield* publishNumbers(channel, queue, 0, 5)
      const toHigh = yield* Effect.all([Queue.take(high), Queue.take(high), Queue.take(high)])
      const toLow = yield* Effect.all([Queue.take(low), Queue.take(low)])
      assert.deepStrictEqual(toHigh.map(({ text }) => text), ["0", "1", "2"])
      assert.deepStrictEqual(toLow.map(({ text }) => text), ["3", "4"])
      yield* channel.ack({ deliveryTag: 0, multiple: true })

      const refused = yield* failureOf((channel) => channel.consume({ queue, arguments: { "x-priority": "high" } }))
      assertFailure(refused, "AmqpPreconditionFailed", "x-priority")
    })))

  it.effect("CO18 of a single active consumer the next one takes over; exclusive is refused", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const declared = yield* channel.queueDeclare({
        exclusive: true,
        arguments: { "x-single-active-consumer": true }
      })
      const { queue } = declared
      const first = yield* channel.consume({ queue })
      const second = yield* channel.consume({ queue })
      const [toFirst, toSecond] = [yield* inbox(first), yield* inbox(second)]
      yield* channel.publish({ routingKey: queue, body: "one" })
      const one = yield* Queue.take(toFirst)
      assert.strictEqual(one.text, "one")
      yield* one.ack
      yield* first.cancel
      yield* channel.publish({ routingKey: queue, body: "two" })
      const two = yield* Queue.take(toSecond)
      assert.strictEqual(two.text, "two")
      yield* two.ack
      const refused = yield* failureOf((channel) => channel.consume({ queue, exclusive: true }))
      assertFailure(refused, "AmqpAccessRefused", queue)
    })))

  it.effect("CO19 a handler that fails or dies ends its stream alone; what it held goes back to the queue", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      yield* publishNumbers(channel, queue, 0, 3)
      const ends: ReadonlyArray<Effect.Effect<never, string>> = [Effect.fail("failed"), Effect.die("died")]
      for (const end of ends) {
        const exit = yield* Effect.exit(Effect.scoped(Effect.gen(function*() {
          const consumer = yield* channel.consume({ queue })
          yield* Stream.runForEach(consumer.deliveries, (delivery) => delivery.text === "1" ? end : Effect.void)
        })))
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.include(["failed", "died"], Cause.squash(exit.cause))
        assert.strictEqual(yield* unsettled(channel), 0)
      }
      // Nothing is lost, and the order is the old one.
      assert.deepStrictEqual(yield* drain(channel, queue), numbers(0, 3))
    })))

  it.effect("CO20 a handler declares, publishes, gets and settles on its own channel", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      yield* channel.qos({ prefetchCount: 1 })
      yield* publishNumbers(channel, queue, 0, 20)
      const consumer = yield* channel.consume({ queue })
      const copies = uniqueName("copies")
      const texts = yield* consumer.deliveries.pipe(
        Stream.mapEffect((delivery) =>
          Effect.gen(function*() {
            yield* channel.queueDeclare({ queue: copies, exclusive: true })
            yield* channel.publish({ routingKey: copies, body: delivery.body, mandatory: true })
            const got = yield* Effect.flatMap(channel.get({ queue: copies }), Effect.fromOption)
            assert.strictEqual(got.delivery.text, delivery.text)
            yield* got.delivery.ack
            yield* delivery.ack
            return delivery.text
          })
        ),
        Stream.take(20),
        Stream.runCollect
      )
      assert.deepStrictEqual(texts, numbers(0, 20))
    })))

  it.effect("CO21 without acknowledgement messages are gone when they are sent, and cannot be settled", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      yield* publishNumbers(channel, queue, 0, 10)
      const consumer = yield* channel.consume({ queue, noAck: true })
      const deliveries = yield* Stream.runCollect(Stream.take(consumer.deliveries, 10))
      assert.deepStrictEqual(deliveries.map(({ text }) => text), numbers(0, 10))
      assert.strictEqual(yield* unsettled(channel), 0)
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).messageCount, 0)
      for (const delivery of deliveries) {
        assert.notProperty(delivery, "ack")
        // By its number, nothing is sent: the broker would close the channel for it.
        assert.strictEqual(yield* channel.ack({ deliveryTag: delivery.deliveryTag }), "AlreadySettled")
      }
      assert.strictEqual(yield* channel.nack({ deliveryTag: 0, multiple: true }), "AlreadySettled")
      yield* channel.queueDeclarePassive(queue)
    })))

  it.effect("CO23 of two consumers on one channel a slow one does not hold up the other", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue: slowQueue } = yield* withQueue
      const { queue: fastQueue } = yield* channel.queueDeclare({ exclusive: true })
      yield* publishNumbers(channel, slowQueue, 0, 50)
      yield* publishNumbers(channel, fastQueue, 0, 500)
      yield* channel.qos({ prefetchCount: 10 })
      const slow = yield* channel.consume({ queue: slowQueue })
      const fast = yield* channel.consume({ queue: fastQueue })
      const release = yield* Deferred.make<void>()
      const slowly = yield* slow.deliveries.pipe(
        Stream.mapEffect((delivery) => Effect.andThen(Deferred.await(release), delivery.ack)),
        Stream.take(50),
        Stream.runCount,
        Effect.forkChild({ startImmediately: true })
      )
      const texts = yield* fast.deliveries.pipe(
        Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery.text)),
        Stream.take(500),
        Stream.runCollect
      )
      assert.deepStrictEqual(texts, numbers(0, 500))
      yield* Deferred.succeed(release, undefined)
      assert.strictEqual(yield* Fiber.join(slowly), 50)
    })))

  it.effect("one consumer may be pulled by several fibers: each delivery comes once", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      const consumer = yield* channel.consume({ queue })
      const pulling = yield* Effect.forEach([1, 2, 3], () =>
        consumer.deliveries.pipe(
          Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery.text)),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        ))
      yield* publishNumbers(channel, queue, 0, 300)
      // Each is settled, so each has been handed on.
      yield* consumer.cancel
      const texts = (yield* Effect.forEach(pulling, Fiber.join)).flat()
      assert.sameMembers(texts, numbers(0, 300))
      assert.strictEqual(texts.length, 300)
    })))
})

layer(onVhost, { excludeTestServices: true })("the end of a consumer's scope", (it) => {
  it.effect("gives back what nobody has taken, and what was taken and not settled", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      yield* publishNumbers(channel, queue, 0, 100)
      yield* Effect.scoped(Effect.gen(function*() {
        yield* channel.consume({ queue, consumerTag: "never pulled" })
        assert.strictEqual(yield* unsettled(channel), 100)
      }))
      assert.strictEqual(yield* unsettled(channel), 0)

      const [done, open] = yield* Effect.scoped(Effect.gen(function*() {
        const got = yield* inbox(yield* channel.consume({ queue }))
        const deliveries = yield* Effect.forEach(numbers(0, 100), () => Queue.take(got))
        const [done, open] = [deliveries.slice(0, 40), deliveries.slice(40)]
        yield* Effect.forEach(done, ({ ack }) => ack)
        return [done, open] as const
      }))
      for (const delivery of [...done, ...open]) {
        assert.strictEqual(yield* delivery.ack, "AlreadySettled")
      }
      assert.strictEqual(yield* unsettled(channel), 0)
      assert.deepStrictEqual(yield* drain(channel, queue), numbers(40, 100))
    })))

  it.effect("ends a stream that somebody else still runs", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      const scope = yield* Scope.make()
      const { deliveries } = yield* Scope.provide(channel.consume({ queue }), scope)
      const running = yield* Effect.forkChild(Stream.runCollect(deliveries), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* Fiber.join(running), [])
    })))

  it.effect("during cancels from other sides loses nothing: the consumer is cancelled once", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const total = 3000
      for (let i = 0; i < total; i++) yield* channel.publish({ routingKey: queue, body: String(i) })
      for (let round = 0; round < 5; round++) {
        yield* Effect.scoped(Effect.gen(function*() {
          const consumer = yield* channel.consume({ queue })
          yield* Effect.forkChild(consumer.cancel, { startImmediately: true })
          yield* Effect.forkChild(channel.cancel(consumer.consumerTag), { startImmediately: true })
          yield* Effect.timeoutOption(consumer.cancel, 0)
        }))
        assert.strictEqual(yield* unsettled(channel), 0)
      }
      const cancels = (yield* methodsOf(link, "up")).filter((name) => name === "1 basic.cancel")
      assert.strictEqual(cancels.length, 5)
      assert.deepStrictEqual(yield* drain(channel, queue), numbers(0, total))
    })))

  it.effect("after Stream.take leaves nothing stuck", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      yield* publishNumbers(channel, queue, 0, 100)
      const first = yield* Effect.scoped(Effect.gen(function*() {
        const consumer = yield* channel.consume({ queue })
        return yield* consumer.deliveries.pipe(
          Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery.text)),
          Stream.take(7),
          Stream.runCollect
        )
      }))
      assert.deepStrictEqual(first, numbers(0, 7))
      assert.strictEqual(yield* unsettled(channel), 0)
      assert.deepStrictEqual(yield* drain(channel, queue), numbers(7, 100))
    })))

  it.effect("after Stream.unwrap of a consumer, the stream's own end does it", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withQueue
      yield* publishNumbers(channel, queue, 0, 30)
      const stream = Stream.unwrap(Effect.map(channel.consume({ queue }), ({ deliveries }) => deliveries))
      const taken = yield* stream.pipe(
        Stream.mapEffect((delivery) => delivery.ack),
        Stream.take(10),
        Stream.runCount
      )
      assert.strictEqual(taken, 10)
      assert.strictEqual(yield* unsettled(channel), 0)
      assert.deepStrictEqual(yield* drain(channel, queue), numbers(10, 30))
    })))

  it.effect("on a channel that is gone, and after the broker's cancel, has nothing to say", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* Effect.scoped(Effect.gen(function*() {
        const consumer = yield* channel.consume({ queue })
        yield* channel.queueDelete({ queue })
        assert.strictEqual((yield* Effect.flip(Stream.runDrain(consumer.deliveries)))._tag, "AmqpConsumerCancelled")
      }))
      yield* Effect.scoped(Effect.gen(function*() {
        const declared = yield* channel.queueDeclare({ exclusive: true })
        yield* channel.consume({ queue: declared.queue })
        yield* Effect.flip(channel.queueDeclarePassive("missing"))
      }))
      yield* openOn(connection)
      const names = yield* methodsOf(link, "up")
      assert.notInclude(names, "1 basic.cancel")
      assert.deepStrictEqual(names.slice(-2), ["1 channel.close-ok", "2 channel.open"])
    })))

  it.effect("waits no longer than closeTimeout for a broker that does not answer", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, proxy } = yield* proxied({ closeTimeout: "200 millis" })
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.publish({ routingKey: queue, body: "one" })
      yield* Effect.scoped(Effect.gen(function*() {
        yield* Effect.flatMap(inbox(yield* channel.consume({ queue })), Queue.take)
        yield* proxy.set("down", { mode: "stall" })
      }))
      // The late answer has the same effect.
      yield* proxy.set("down", { mode: "pass" })
      yield* channel.queueDeclarePassive(queue)
      // RabbitMQ's queues answer a declare before requeues that are waiting already, but not a purge.
      assert.strictEqual(yield* channel.queuePurge(queue), 1)
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).consumerCount, 0)
    })))
})

const messages = 20_000
/** Deliveries that one consumer buffers before the socket is no longer read; see `ConsumeOptions`. */
const bound = 4096
/** At most what a few reads of 64 KiB bring on top: messages of 100 bytes. */
const slack = 2 * 65_536 / 100

layer(onVhost, { excludeTestServices: true })("a slow consumer without acknowledgement", (it) => {
  /** So many messages of that size in a queue. */
  const backlog = Effect.fnUntraced(function*(channel: AmqpChannel.AmqpChannel, count = messages, size = 100) {
    const { queue } = yield* channel.queueDeclare({ exclusive: true })
    const body = "x".repeat(size)
    for (let i = 0; i < count; i++) yield* channel.publish({ routingKey: queue, body })
    // The broker has routed them all by the time it answers.
    yield* channel.queueDeclarePassive(queue)
    return queue
  })

  it.effect("keeps its memory bounded: the socket is not read while it has enough", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, gate } = yield* gated()
      const channel = yield* openOn(connection)
      const queue = yield* backlog(channel)
      const consumer = yield* channel.consume({ queue, noAck: true })
      yield* gate.arrived("basic.deliver", bound + 1)
      // Where nobody pulls at all, the client stops reading in the same turn.
      yield* Effect.yieldNow
      assert.isFalse(gate.isReading)
      assert.isAtMost(gate.count("basic.deliver"), bound + slack)

      let taken = 0
      let mostHeld = 0
      const consumed = yield* consumer.deliveries.pipe(
        Stream.tap(() =>
          Effect.suspend(() => {
            taken++
            mostHeld = Math.max(mostHeld, gate.count("basic.deliver") - taken)
            // Slow enough for the socket to be read if it were to be.
            return taken % 50 === 0 ? Effect.yieldNow : Effect.void
          })
        ),
        Stream.take(messages),
        Stream.runCount
      )
      assert.strictEqual(consumed, messages)
      // One array with the handler, one that gathers meanwhile.
      assert.isAtMost(mostHeld, 2 * (bound + slack))
      assert.isAtLeast(mostHeld, bound)
    })))

  it.effect("does not deadlock where its handler asks the broker, and waits for confirms", () =>
    noLeaks(Effect.gen(function*() {
      const { connection } = yield* gated()
      const channel = yield* openOn(connection)
      const queue = yield* backlog(channel)
      yield* channel.confirmSelect
      const { queue: copies } = yield* channel.queueDeclare({ exclusive: true })
      const consumer = yield* channel.consume({ queue, noAck: true })
      let taken = 0
      yield* consumer.deliveries.pipe(
        Stream.mapEffect((delivery) => {
          if (taken++ % 500 !== 0) return Effect.void
          return Effect.andThen(
            channel.publish({ routingKey: copies, body: delivery.body }),
            Effect.map(channel.queueDeclarePassive(copies), (info) => assert.strictEqual(info.queue, copies))
          )
        }),
        Stream.take(messages),
        Stream.runDrain
      )
      assert.strictEqual(taken, messages)
      assert.strictEqual((yield* channel.queueDeclarePassive(copies)).messageCount, messages / 500)
    })))

  it.effect("does not deadlock where the answer is behind all that the network holds of tiny messages", () =>
    noLeaks(Effect.gen(function*() {
      const connection = yield* connect()
      const channel = yield* openOn(connection)
      const count = 120_000
      const queue = yield* backlog(channel, count, 1)
      const control = yield* Broker.control
      const { name: vhost } = yield* Vhost
      const ready = Effect.map(control.listQueues(vhost), (queues) => queues.find(({ name }) => name === queue)?.ready)
      /** Until the broker can send no more. */
      const stuffed: Effect.Effect<unknown, BrokerError> = Effect.flatMap(
        Effect.all([ready, ready]),
        ([before, after]) => before === after ? Effect.void : stuffed
      )
      const consumer = yield* channel.consume({ queue, noAck: true })
      let taken = 0
      yield* consumer.deliveries.pipe(
        Stream.mapEffect(() => {
          if (taken++ !== 1) return Effect.void
          return Effect.andThen(stuffed, channel.queueDeclarePassive(queue))
        }),
        Stream.take(count),
        Stream.runDrain
      )
      assert.strictEqual(taken, count)
    })))

  it.effect("that nobody pulls does not keep its channel from closing, nor its connection", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, gate } = yield* gated()
      const channel = yield* openOn(connection)
      const queue = yield* backlog(channel)
      yield* Effect.scoped(Effect.gen(function*() {
        yield* channel.consume({ queue, noAck: true })
        yield* gate.arrived("basic.deliver", bound + 1)
      }))
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).consumerCount, 0)
    })))
})

const timingOut = Layer.provideMerge(Vhost.layer, ownBroker({ consumerTimeout: 1000 }))

describe.runIf(canControl)("with a consumer_timeout", () => {
  layer(timingOut, { excludeTestServices: true, timeout: "60 seconds" })("of one second", (it) => {
    it.effect("CO27 a delivery that is not settled in time closes its channel, typed, and no other", () =>
      onConnection(Effect.gen(function*() {
        const connection = yield* AmqpConnection
        const { channel, queue } = yield* withQueue
        const other = yield* openOn(connection)
        yield* channel.publish({ routingKey: queue, body: "late" })
        const consumer = yield* channel.consume({ queue })
        const ended = yield* Effect.flip(Stream.runDrain(consumer.deliveries))
        assert.strictEqual(ended._tag, "AmqpChannelClosed")
        const cause = ended._tag === "AmqpChannelClosed" ? ended.cause : undefined
        assertFailure(cause ?? ended, "AmqpPreconditionFailed", "timed out")
        assert.isTrue(isTransient(cause))
        assert.isTrue(isTransient(ended))

        // The others are fine: the same message comes again to the next consumer.
        const again = yield* other.consume({ queue })
        const delivery = yield* Queue.take(yield* inbox(again))
        assert.deepInclude(delivery, { redelivered: true })
        assert.strictEqual(yield* delivery.ack, "Settled")
        assert.strictEqual((yield* other.queueDeclarePassive(queue)).messageCount, 0)
      })))
  })
})

/**
 * Settling: prefetch, acknowledging and refusing one or many, and that nothing is settled twice or for somebody else.
 */
import { assert, layer } from "@effect/vitest"
import { Effect, Queue, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import type { AmqpDelivery } from "../../src/AmqpDelivery.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, uniqueName } from "../harness/shared.ts"
import { assertFailure, drain, framesOf, onConnection, openOn, proxied, unsettled } from "./support.ts"

const texts = (deliveries: Iterable<AmqpDelivery>) => Array.from(deliveries, ({ text }) => text)

/** A channel, a queue of this connection's own, and so many messages in it: "1", "2", … */
const withMessages = Effect.fnUntraced(function*(
  count: number,
  options: AmqpChannel.QueueDeclareOptions = {}
) {
  const channel = yield* AmqpChannel.open
  const { queue } = yield* channel.queueDeclare({ exclusive: true, ...options })
  yield* channel.confirmSelect
  for (let i = 1; i <= count; i++) yield* channel.publish({ routingKey: queue, body: String(i) })
  return { channel, queue }
})

/** Consumes, and gives what takes so many deliveries. */
const consuming = Effect.fnUntraced(function*(channel: AmqpChannel.AmqpChannel, queue: string) {
  const { deliveries } = yield* channel.consume({ queue })
  const inbox = yield* Stream.toQueue(deliveries, { capacity: "unbounded" })
  return (count: number) => Effect.replicateEffect(Queue.take(inbox), count)
})

/** How many messages of the queue are ready; the broker's answer may overtake what is being requeued. */
const ready = (channel: AmqpChannel.AmqpChannel, queue: string) =>
  Effect.map(channel.queueDeclarePassive(queue), ({ messageCount }) => messageCount)

layer(onVhost, { excludeTestServices: true })("prefetch", (it) => {
  it.effect("AK01 limits what is unsettled, and each settlement makes room for one", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(5)
      yield* channel.qos({ prefetchCount: 2 })
      const take = yield* consuming(channel, queue)
      const [one, two] = yield* take(2)
      assert.strictEqual(yield* ready(channel, queue), 3)
      yield* one?.ack ?? assert.fail()
      const [three] = yield* take(1)
      assert.deepStrictEqual([three?.text, yield* ready(channel, queue)], ["3", 2])
      // A refusal makes room as well.
      yield* two?.reject({ requeue: false }) ?? assert.fail()
      const [four] = yield* take(1)
      assert.deepStrictEqual([four?.text, yield* ready(channel, queue)], ["4", 1])
    })))

  it.effect("AK02 a number that AMQP cannot carry is refused before anything is sent", () =>
    onConnection(Effect.gen(function*() {
      const { channel } = yield* withMessages(0)
      for (const prefetchCount of [65_536, -1, 1.5, NaN, Infinity]) {
        const error = yield* Effect.flip(channel.qos({ prefetchCount }))
        assertFailure(error, "AmqpEncodeError", "prefetchCount")
      }
      for (const prefetchCount of [0, 1, 65_535]) yield* channel.qos({ prefetchCount })
    })))

  it.effect("of the channel is for its queues in turn: none of them waits for the end of another", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      yield* channel.qos({ prefetchCount: 1, global: true })
      const queues = ["a", "b", "c"].map(uniqueName)
      yield* channel.confirmSelect
      for (const queue of queues) {
        yield* channel.queueDeclare({ queue, exclusive: true })
        yield* Effect.forEach(Array.from({ length: 40 }), () => channel.publish({ routingKey: queue, body: "" }), {
          concurrency: "unbounded"
        })
      }
      const seen = new Set<string>()
      // Before the first of them can be empty. RabbitMQ draws whose turn it is, but not the same one forty times.
      const consumers = yield* Effect.forEach(queues, (queue) => channel.consume({ queue }))
      yield* Stream.mergeAll(consumers.map(({ deliveries }) => deliveries), { concurrency: "unbounded" }).pipe(
        Stream.take(39),
        Stream.runForEach((delivery) => {
          seen.add(delivery.routingKey)
          return delivery.ack
        })
      )
      assert.strictEqual(seen.size, 3)
    })))

  it.effect("AK03 is each consumer's own, or with global the channel's", () =>
    onConnection(Effect.gen(function*() {
      for (const [global, left] of [[false, 6], [true, 8]] as const) {
        const { channel, queue } = yield* withMessages(10)
        yield* channel.qos({ prefetchCount: 2, global })
        yield* channel.consume({ queue })
        yield* channel.consume({ queue })
        assert.strictEqual(yield* ready(channel, queue), left)
        assert.strictEqual(yield* unsettled(channel), 10 - left)
      }
    })))

  it.effect("AK04 counts for the consumers that come after it", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(10)
      yield* channel.qos({ prefetchCount: 1 })
      yield* channel.consume({ queue })
      yield* channel.qos({ prefetchCount: 5 })
      assert.strictEqual(yield* ready(channel, queue), 9)
      yield* channel.consume({ queue })
      assert.strictEqual(yield* ready(channel, queue), 4)
    })))

  it.effect("AK01 the same delivery is never counted twice where many are settled at once", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(100)
      yield* channel.qos({ prefetchCount: 10 })
      const take = yield* consuming(channel, queue)
      const seen: Array<string> = []
      for (let round = 0; round < 10; round++) {
        const deliveries = yield* take(10)
        seen.push(...texts(deliveries))
        const results = yield* Effect.forEach(deliveries, ({ ack }) => ack, { concurrency: "unbounded" })
        assert.deepStrictEqual(results, Array.from({ length: 10 }, () => "Settled" as const))
      }
      assert.deepStrictEqual(seen, Array.from({ length: 100 }, (_, i) => String(i + 1)))
      assert.strictEqual(yield* unsettled(channel), 0)
    })))
})

layer(onVhost, { excludeTestServices: true })("acknowledging", (it) => {
  it.effect("AK05 one by one, in any order", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(5)
      const deliveries = yield* (yield* consuming(channel, queue))(5)
      for (const i of [3, 0, 4, 1]) assert.strictEqual(yield* deliveries[i]?.ack ?? assert.fail(), "Settled")
      assert.strictEqual(yield* unsettled(channel), 1)
      yield* channel.close
      const other = yield* AmqpChannel.open
      assert.deepStrictEqual(yield* drain(other, queue), ["3"])
    })))

  it.effect("AK05 many up to one, then all, those included that nobody has taken", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(10)
      yield* channel.consume({ queue })
      assert.strictEqual(yield* unsettled(channel), 10)
      assert.strictEqual(yield* channel.ack({ deliveryTag: 2 }), "Settled")
      assert.strictEqual(yield* channel.ack({ deliveryTag: 6, multiple: true }), "Settled")
      assert.strictEqual(yield* unsettled(channel), 4)
      // All of these are settled already.
      assert.strictEqual(yield* channel.ack({ deliveryTag: 6, multiple: true }), "AlreadySettled")
      assert.strictEqual(yield* channel.ack({ deliveryTag: 1 }), "AlreadySettled")
      assert.strictEqual(yield* unsettled(channel), 4)
      assert.strictEqual(yield* channel.ack({ deliveryTag: 0, multiple: true }), "Settled")
      assert.strictEqual(yield* unsettled(channel), 0)
      assert.strictEqual(yield* channel.ack({ deliveryTag: 0, multiple: true }), "AlreadySettled")
    })))

  it.effect("AK05 by numbers that no delivery has settles nothing, and is not sent", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(3)
      yield* channel.consume({ queue })
      assert.strictEqual(yield* unsettled(channel), 3)
      for (const deliveryTag of [0, 4, -1, 1.5, NaN, Infinity, 2 ** 60]) {
        assert.strictEqual(yield* channel.ack({ deliveryTag }), "AlreadySettled")
        assert.strictEqual(yield* channel.reject({ deliveryTag }), "AlreadySettled")
      }
      for (const deliveryTag of [-1, 0.5, NaN]) {
        assert.strictEqual(yield* channel.nack({ deliveryTag, multiple: true }), "AlreadySettled")
      }
      assert.strictEqual(yield* unsettled(channel), 3)
      // "Up to" a number that is still to come is everything.
      assert.strictEqual(yield* channel.ack({ deliveryTag: 99, multiple: true }), "Settled")
      assert.strictEqual(yield* unsettled(channel), 0)
    })))

  it.effect("AK07 goes to the delivery's own channel, though numbers are equal", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(1)
      const { channel: other, queue: otherQueue } = yield* withMessages(1)
      const [mine] = yield* (yield* consuming(channel, queue))(1)
      const [theirs] = yield* (yield* consuming(other, otherQueue))(1)
      assert.strictEqual(mine?.deliveryTag, theirs?.deliveryTag)
      yield* theirs?.ack ?? assert.fail()
      assert.deepStrictEqual([yield* unsettled(channel), yield* unsettled(other)], [1, 0])
    })))

  it.effect("happens once: twice, across a multiple, from two fibers; the rest say so and are not sent", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      for (let i = 0; i < 6; i++) yield* channel.publish({ routingKey: queue, body: "" })
      const [a, b, c, d, e, f] = yield* (yield* consuming(channel, queue))(6)
      if (!a || !b || !c || !d || !e || !f) return assert.fail()
      const results = [
        yield* a.ack,
        yield* a.ack,
        yield* a.nack(),
        yield* a.reject(),
        ...yield* Effect.all([b.ack, b.nack(), b.reject({ requeue: false })], { concurrency: "unbounded" }),
        yield* channel.nack({ deliveryTag: d.deliveryTag, multiple: true, requeue: false }),
        yield* c.ack,
        yield* d.reject(),
        yield* f.reject({ requeue: false }),
        yield* channel.ack({ deliveryTag: 0, multiple: true }),
        yield* e.ack
      ]
      assert.deepStrictEqual(results, [
        "Settled",
        "AlreadySettled",
        "AlreadySettled",
        "AlreadySettled",
        "Settled",
        "AlreadySettled",
        "AlreadySettled",
        "Settled",
        "AlreadySettled",
        "AlreadySettled",
        "Settled",
        "Settled",
        "AlreadySettled"
      ])
      yield* channel.exchangeDeclarePassive("amq.direct")
      const settlements = (yield* framesOf(link, "up")).flatMap((frame) =>
        frame._tag === "Method" && "deliveryTag" in frame.method ? [frame.method] : []
      )
      assert.deepStrictEqual(settlements, [
        { _tag: "basic.ack", deliveryTag: 1, multiple: false },
        { _tag: "basic.ack", deliveryTag: 2, multiple: false },
        { _tag: "basic.nack", deliveryTag: 4, multiple: true, requeue: false },
        { _tag: "basic.reject", deliveryTag: 6, requeue: false },
        { _tag: "basic.ack", deliveryTag: 5, multiple: true }
      ])
    })))

  it.effect("AK14 after the queue was deleted is no error", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(3)
      const [one, two, three] = yield* (yield* consuming(channel, queue))(3)
      if (!one || !two || !three) return assert.fail()
      yield* channel.queueDelete({ queue })
      assert.strictEqual(yield* one.ack, "Settled")
      assert.strictEqual(yield* two.nack(), "Settled")
      assert.strictEqual(yield* three.reject({ requeue: false }), "Settled")
      assert.strictEqual(yield* unsettled(channel), 0)
    })))

  it.effect("what get took is settled like any delivery, and counts in a multiple", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(3)
      const get = Effect.map(Effect.flatMap(channel.get({ queue }), Effect.fromOption), ({ delivery }) => delivery)
      const [one, two, three] = [yield* get, yield* get, yield* get]
      assert.strictEqual(yield* two.ack, "Settled")
      assert.strictEqual(yield* two.ack, "AlreadySettled")
      assert.strictEqual(yield* channel.ack({ deliveryTag: three.deliveryTag, multiple: true }), "Settled")
      assert.strictEqual(yield* one.ack, "AlreadySettled")
      assert.strictEqual(yield* unsettled(channel), 0)
    })))

  it.effect("of what came from a connection that is lost is AmqpStaleDelivery, with its epoch", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, proxy } = yield* proxied()
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.publish({ routingKey: queue, body: "" })
      const [delivery] = yield* (yield* consuming(channel, queue))(1)
      if (!delivery) return assert.fail()
      yield* proxy.resetAll
      yield* channel.closed
      for (
        const settle of [
          delivery.ack,
          delivery.nack(),
          delivery.reject(),
          channel.ack({ deliveryTag: delivery.deliveryTag })
        ]
      ) {
        const error = yield* Effect.flip(settle)
        assert.deepInclude(error, { _tag: "AmqpStaleDelivery", deliveryTag: 1, epoch: 1 })
      }
    })))
})

layer(onVhost, { excludeTestServices: true })("refusing", (it) => {
  it.effect("AK08 AK10 with requeue puts the message back where it was, marked as redelivered", () =>
    onConnection(Effect.gen(function*() {
      for (const how of ["nack", "reject"] as const) {
        const { channel, queue } = yield* withMessages(3)
        yield* channel.qos({ prefetchCount: 2 })
        const take = yield* consuming(channel, queue)
        const [one, two] = yield* take(2)
        if (!one || !two) return assert.fail()
        assert.isFalse(one.redelivered)
        assert.strictEqual(yield* one[how](), "Settled")
        // It comes again before the third, which has waited longer.
        const [again] = yield* take(1)
        assert.deepInclude(again, { text: "1", redelivered: true, deliveryTag: 3 })
        assert.strictEqual(yield* one.ack, "AlreadySettled")
        yield* two.ack
        const [three] = yield* take(1)
        assert.deepInclude(three, { text: "3", redelivered: false })
      }
    })))

  it.effect("AK08 AK10 without requeue drops it, or dead-letters it with its history", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue: dead } = yield* withMessages(0)
      const takeLetters = yield* consuming(channel, dead)
      for (const how of ["nack", "reject"] as const) {
        const { channel: plain, queue: plainQueue } = yield* withMessages(1)
        const [dropped] = yield* (yield* consuming(plain, plainQueue))(1)
        yield* dropped?.[how]({ requeue: false }) ?? assert.fail()
        assert.deepStrictEqual([yield* unsettled(plain), yield* ready(plain, plainQueue)], [0, 0])

        const { channel: lettering, queue } = yield* withMessages(1, {
          arguments: { "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead }
        })
        const [delivery] = yield* (yield* consuming(lettering, queue))(1)
        yield* delivery?.[how]({ requeue: false }) ?? assert.fail()
        const [letter] = yield* takeLetters(1)
        if (!letter) return assert.fail()
        const path = "headers.x-death[0]"
        assert.nestedPropertyVal(letter.properties, `${path}.queue`, queue)
        assert.nestedPropertyVal(letter.properties, `${path}.reason`, "rejected")
        yield* letter.ack
      }
    })))

  it.effect("AK09 many at once, back or away", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(6)
      const get = Effect.map(Effect.flatMap(channel.get({ queue }), Effect.fromOption), ({ delivery }) => delivery)
      const [, , three] = [yield* get, yield* get, yield* get]
      assert.strictEqual(yield* channel.nack({ deliveryTag: three.deliveryTag, multiple: true }), "Settled")
      const again = [yield* get, yield* get, yield* get, yield* get]
      assert.deepStrictEqual(texts(again), ["1", "2", "3", "4"])
      assert.deepStrictEqual(again.map(({ redelivered }) => redelivered), [true, true, true, false])
      assert.strictEqual(yield* channel.nack({ deliveryTag: 0, multiple: true, requeue: false }), "Settled")
      assert.deepStrictEqual([yield* unsettled(channel), yield* ready(channel, queue)], [0, 2])
    })))

  it.effect("AK11 recover brings everything unsettled again, under new numbers; the old ones are settled", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(4)
      const take = yield* consuming(channel, queue)
      const [one, two, three, four] = yield* take(4)
      if (!one || !two || !three || !four) return assert.fail()
      yield* two.ack
      // Also those that are asked for in the same turn.
      const [, during] = yield* Effect.all([channel.recover, one.ack], { concurrency: "unbounded" })
      assert.strictEqual(during, "AlreadySettled")
      const again = yield* take(3)
      assert.deepStrictEqual(again.map(({ deliveryTag, redelivered, text }) => [deliveryTag, redelivered, text]), [
        [5, true, "1"],
        [6, true, "3"],
        [7, true, "4"]
      ])
      for (const old of [one, two, three, four]) assert.strictEqual(yield* old.ack, "AlreadySettled")
      for (const fresh of again) assert.strictEqual(yield* fresh.ack, "Settled")
      assert.deepStrictEqual([yield* unsettled(channel), yield* ready(channel, queue)], [0, 0])
    })))

  it.effect("AK11 recover takes back what waits for its consumer: nothing is handed out twice", () =>
    onConnection(Effect.gen(function*() {
      const { channel, queue } = yield* withMessages(50)
      const consumer = yield* channel.consume({ queue })
      assert.strictEqual(yield* unsettled(channel), 50)
      yield* channel.recover
      const deliveries = yield* consumer.deliveries.pipe(
        Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery)),
        Stream.take(50),
        Stream.runCollect
      )
      assert.deepStrictEqual(texts(deliveries), Array.from({ length: 50 }, (_, i) => String(i + 1)))
      assert.isTrue(deliveries.every(({ deliveryTag, redelivered }) => redelivered && deliveryTag > 50))
      assert.strictEqual(yield* unsettled(channel), 0)
    })))

  it.effect("a message that is always refused comes round and round until it is dropped", () =>
    onConnection(Effect.gen(function*() {
      const queue = uniqueName("quorum")
      const { channel } = yield* withMessages(0)
      yield* Effect.acquireRelease(
        channel.queueDeclare({
          queue,
          durable: true,
          arguments: { "x-queue-type": "quorum", "x-delivery-limit": 3 }
        }),
        () => Effect.ignore(channel.queueDelete({ queue }))
      )
      yield* channel.publish({ routingKey: queue, body: "poison" })
      const take = yield* consuming(channel, queue)
      const counts: Array<unknown> = []
      for (let i = 0; i < 4; i++) {
        const [delivery] = yield* take(1)
        counts.push(delivery?.properties.headers?.["x-delivery-count"])
        yield* delivery?.nack() ?? assert.fail()
      }
      assert.deepStrictEqual(counts, [undefined, 1, 2, 3])
      assert.deepStrictEqual([yield* unsettled(channel), yield* drain(channel, queue)], [0, []])
    })))
})

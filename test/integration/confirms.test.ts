/**
 * Confirms and returns (scenarios CF01 to CF21, F70, F77): each publish has its own outcome, whatever goes on around it.
 */
import { assert, layer } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import type { Publish } from "../../src/AmqpMessage.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, uniqueName } from "../harness/shared.ts"
import {
  assertFailure,
  drain,
  failureOf,
  framesOf,
  methodsOf,
  nextMethod,
  onConnection,
  openOn,
  proxied
} from "./support.ts"

type Outcome = "confirmed" | AmqpChannel.PublishError["_tag"]

/** What became of a publish. */
const outcomeOf = (channel: AmqpChannel.AmqpChannel, message: Publish): Effect.Effect<Outcome> =>
  Effect.match(channel.publish(message), { onFailure: ({ _tag }): Outcome => _tag, onSuccess: () => "confirmed" })

/** A channel with confirms. */
const confirming = Effect.tap(AmqpChannel.open, (channel) => channel.confirmSelect)

/** A queue that refuses every message: it holds one, and more it must not. */
const fullQueue = Effect.fnUntraced(function*(channel: AmqpChannel.AmqpChannel) {
  const { queue } = yield* channel.queueDeclare({
    exclusive: true,
    arguments: { "x-max-length": 1, "x-overflow": "reject-publish" }
  })
  yield* channel.publish({ routingKey: queue, body: "full" })
  return queue
})

const range = (length: number): ReadonlyArray<number> => Array.from({ length }, (_, i) => i)

const all = { concurrency: "unbounded" } as const

layer(onVhost, { excludeTestServices: true })("confirms and returns", (it) => {
  it.effect("CF01 1,000 publishes, one after the other", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* Effect.forEach(range(1000), (i) => channel.publish({ routingKey: queue, body: `${i}`, mandatory: true }))
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).messageCount, 1000)
    })))

  it.effect("CF02 10,000 publishes at once, acknowledged many at a time", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      yield* channel.confirmSelect
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* Effect.forEach(range(10_000), (i) => channel.publish({ routingKey: queue, body: `${i}` }), all)
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).messageCount, 10_000)
      const acks = (yield* framesOf(link, "down")).flatMap((frame) =>
        frame._tag === "Method" && frame.method._tag === "basic.ack" ? [frame.method] : []
      )
      assert.isTrue(acks.some(({ multiple }) => multiple))
      assert.isBelow(acks.length, 10_000)
      // They were written in the order in which they were published.
      const consumer = yield* channel.consume({ queue, noAck: true })
      const texts = yield* consumer.deliveries.pipe(
        Stream.map(({ text }) => text),
        Stream.take(10_000),
        Stream.runCollect
      )
      assert.deepStrictEqual(texts, range(10_000).map(String))
    })))

  it.effect.each([1, 4])(
    "CF06 1,000 publishes at once, many of them byte-equal: confirmed, nacked, returned, each its own; channels: %d",
    (count) =>
      onConnection(Effect.gen(function*() {
        const channels = yield* Effect.forEach(range(count), () => confirming)
        const [first] = channels
        if (first === undefined) return assert.fail("no channel")
        const { queue } = yield* first.queueDeclare({ exclusive: true })
        const full = yield* fullQueue(first)
        const kinds = [
          { routingKey: queue, outcome: "confirmed" },
          { routingKey: uniqueName("nobody"), outcome: "AmqpMessageReturned" },
          { routingKey: full, outcome: "AmqpPublishNacked" }
        ] as const
        // A third each; five different bodies.
        const publishes = range(1000).flatMap((i) => {
          const kind = kinds[i % 3]
          const channel = channels[i % count]
          return kind && channel ? [{ ...kind, channel, body: `${i % 5}` }] : []
        })
        const seen = yield* Effect.forEach(publishes, ({ body, channel, routingKey }) =>
          channel.publish({ routingKey, body, mandatory: true }).pipe(
            Effect.match({
              onSuccess: () => ({ outcome: "confirmed", routingKey, body }),
              onFailure: (error) => ({
                outcome: error._tag,
                routingKey: "routingKey" in error ? error.routingKey : "",
                body: "body" in error ? new TextDecoder().decode(error.body) : body
              })
            })
          ), all)
        assert.deepStrictEqual(seen, publishes.map(({ body, outcome, routingKey }) => ({ outcome, routingKey, body })))
        const stored = publishes.filter(({ outcome }) =>
          outcome === "confirmed"
        ).map(({ body }) =>
          body
        )
        assert.deepStrictEqual((yield* drain(first, queue)).toSorted(), stored.toSorted())
        assert.deepStrictEqual(yield* drain(first, full), ["full"])
      }))
  )

  it.effect("CF06 equal messages with one key, whose binding changes in between: no outcome goes to another", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const exchange = uniqueName("x")
      yield* channel.exchangeDeclare({ exchange, autoDelete: false })
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const full = yield* fullQueue(channel)
      const kinds = [
        { to: queue, mandatory: true, outcome: "confirmed" },
        { to: full, mandatory: true, outcome: "AmqpPublishNacked" },
        { to: undefined, mandatory: true, outcome: "AmqpMessageReturned" },
        { to: undefined, mandatory: false, outcome: "confirmed" }
      ] as const
      const rounds = range(400).flatMap((i) => kinds[(i * 7 + (i >> 3)) % 4] ?? [])
      const fibers: Array<Fiber.Fiber<Outcome>> = []
      const bindings: Array<Fiber.Fiber<void, unknown>> = []
      for (const { mandatory, to } of rounds) {
        // Nothing here waits for the broker: everything is written in this order and answered later.
        const routed = { queue: to ?? "", exchange, routingKey: "key" }
        if (to !== undefined) {
          bindings.push(yield* Effect.forkChild(channel.queueBind(routed), { startImmediately: true }))
        }
        const publish = outcomeOf(channel, { exchange, routingKey: "key", body: "equal", mandatory })
        fibers.push(yield* Effect.forkChild(publish, { startImmediately: true }))
        if (to !== undefined) {
          bindings.push(yield* Effect.forkChild(channel.queueUnbind(routed), { startImmediately: true }))
        }
      }
      assert.deepStrictEqual(yield* Fiber.joinAll(fibers), rounds.map(({ outcome }) => outcome))
      yield* Fiber.joinAll(bindings)
      const stored = rounds.filter(({ to }) => to === queue)
      assert.lengthOf(yield* drain(channel, queue), stored.length)
      assert.deepStrictEqual(yield* drain(channel, full), ["full"])
    })))

  it.effect("CF06 a returned message is AmqpMessageReturned with 312, its key and its body", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const message = { exchange: "amq.topic", routingKey: "no.body", body: "back to sender", mandatory: true }
      const error = yield* Effect.flip(channel.publish(message))
      if (error._tag !== "AmqpMessageReturned") return assert.fail(error.message)
      const { body, exchange, replyCode, replyText, routingKey } = error
      assert.deepStrictEqual(
        { body: new TextDecoder().decode(body), exchange, replyCode, replyText, routingKey },
        {
          body: "back to sender",
          exchange: "amq.topic",
          replyCode: 312,
          replyText: "NO_ROUTE",
          routingKey: "no.body"
        }
      )
      // A body of several frames comes back whole, in the middle of others.
      const large = new Uint8Array(1_000_000).fill(7)
      const [returned] = yield* Effect.all([
        Effect.flip(channel.publish({ ...message, body: large })),
        outcomeOf(channel, message)
      ], all)
      if (returned._tag !== "AmqpMessageReturned") return assert.fail(returned.message)
      assert.isTrue(Buffer.from(returned.body).equals(large))
    })))

  it.effect("CF06 what pairs a mandatory message with its return does not show on delivery", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const properties = { messageId: "1", headers: { a: 1 } }
      yield* channel.publish({ routingKey: queue, body: "", mandatory: true, properties })
      const got = yield* channel.get({ queue, noAck: true })
      assert.deepStrictEqual<unknown>(got._tag === "Some" && got.value.delivery.properties, properties)
    })))

  it.effect("CF08 an unroutable message that is not mandatory is confirmed, though nobody has it", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      yield* channel.publish({ routingKey: uniqueName("nobody"), body: "lost" })
    })))

  it.effect("CF10 confirm.select is sent once for each channel, and publishes need not wait for its reply", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* Effect.all([
        channel.confirmSelect,
        channel.confirmSelect,
        channel.publish({ routingKey: queue, body: "at once", mandatory: true })
      ], all)
      yield* channel.confirmSelect
      const other = yield* openOn(connection)
      yield* other.confirmSelect
      const selects = (yield* methodsOf(link, "up")).filter((method) => method.endsWith("confirm.select"))
      assert.deepStrictEqual(selects, [`${channel.id} confirm.select`, `${other.id} confirm.select`])
      assert.deepStrictEqual(yield* drain(channel, queue), ["at once"])
    })))

  it.effect("CF10 confirms count from an interrupted confirm.select on, too", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const selecting = yield* Effect.forkChild(channel.confirmSelect, { startImmediately: true })
      yield* Fiber.interrupt(selecting)
      yield* channel.publish({ routingKey: queue, body: "counted", mandatory: true })
      const nobody = { routingKey: uniqueName("nobody"), body: "", mandatory: true }
      assert.strictEqual(yield* outcomeOf(channel, nobody), "AmqpMessageReturned")
    })))

  it.effect("CF11 confirms and transactions exclude one another: AmqpPreconditionFailed", () =>
    onConnection(Effect.gen(function*() {
      assertFailure(
        yield* failureOf((channel) => Effect.andThen(channel.transaction(Effect.void), channel.confirmSelect)),
        "AmqpPreconditionFailed",
        "confirm.select"
      )
      assertFailure(
        yield* failureOf((channel) => Effect.andThen(channel.confirmSelect, channel.transaction(Effect.void))),
        "AmqpPreconditionFailed",
        "tx.select"
      )
    })))

  it.effect("CF14 waiting for confirms: nothing to wait for, something, and a channel that is closed", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      yield* channel.waitForConfirms
      yield* channel.confirmSelect
      yield* channel.waitForConfirms
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const outcomes: Array<Outcome> = []
      const publish = Effect.tap(
        outcomeOf(channel, { routingKey: queue, body: "" }),
        (outcome) => Effect.sync(() => outcomes.push(outcome))
      )
      const fibers = yield* Effect.forEach(range(100), () => Effect.forkChild(publish, { startImmediately: true }))
      assert.lengthOf(outcomes, 0)
      yield* channel.waitForConfirms
      assert.lengthOf(outcomes, 100)
      yield* Fiber.joinAll(fibers)
      yield* channel.close
      assertFailure(yield* Effect.flip(channel.waitForConfirms), "AmqpChannelClosed")
    })))

  it.effect("CF19 a message for three queues has one acknowledgement", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      yield* channel.confirmSelect
      const exchange = uniqueName("x")
      yield* channel.exchangeDeclare({ exchange, type: "fanout" })
      const queues = yield* Effect.forEach(range(3), () => channel.queueDeclare({ exclusive: true }))
      yield* Effect.forEach(queues, ({ queue }) => channel.queueBind({ queue, exchange }))
      yield* channel.publish({ exchange, body: "for all", mandatory: true })
      for (const { queue } of queues) assert.deepStrictEqual(yield* drain(channel, queue), ["for all"])
      const acks = (yield* methodsOf(link, "down")).filter((method) => method.endsWith("basic.ack"))
      assert.lengthOf(acks, 1)
    })))

  it.effect("CF20 a queue that is deleted with its messages unconfirmed counts as confirmed", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const queue = uniqueName("q")
      yield* channel.queueDeclare({ queue, durable: true })
      const persistent = { routingKey: queue, body: "x", mandatory: true, properties: { deliveryMode: 2 } }
      const fibers = yield* Effect.forEach(
        range(200),
        () => Effect.forkChild(outcomeOf(channel, persistent), { startImmediately: true })
      )
      yield* channel.queueDelete({ queue })
      assert.deepStrictEqual(new Set(yield* Fiber.joinAll(fibers)), new Set<Outcome>(["confirmed"]))
    })))

  it.effect("CF21 a queue that keeps nothing: mandatory messages are confirmed, not returned", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const { queue } = yield* channel.queueDeclare({ exclusive: true, arguments: { "x-message-ttl": 0 } })
      yield* channel.publish({ routingKey: queue, body: "gone", mandatory: true })
      assert.deepStrictEqual(yield* drain(channel, queue), [])
    })))

  it.effect("F70 a full queue nacks until there is room again", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const full = yield* fullQueue(channel)
      const message = { routingKey: full, body: "next", mandatory: true }
      const error = yield* Effect.flip(channel.publish(message))
      if (error._tag !== "AmqpPublishNacked") return assert.fail(error.message)
      assert.deepStrictEqual([error.exchange, error.routingKey], ["", full])
      yield* channel.queuePurge(full)
      yield* channel.publish(message)
      assert.deepStrictEqual(yield* drain(channel, full), ["next"])
    })))

  it.effect("publishes to a missing exchange are AmqpNotFound, the others on the channel AmqpPublishUnconfirmed", () =>
    onConnection(Effect.gen(function*() {
      const reader = yield* AmqpChannel.open
      const { queue } = yield* reader.queueDeclare({ exclusive: true })
      const channel = yield* confirming
      const [missing, another] = [uniqueName("missing"), uniqueName("another")]
      const good = { routingKey: queue, body: "x", mandatory: true }
      const publish = (message: Publish) =>
        Effect.match(channel.publish(message), {
          onSuccess: () => undefined,
          onFailure: (error) => error
        })
      const [before, refused, after] = yield* Effect.all([
        Effect.forEach(range(50), () => outcomeOf(channel, good), all),
        publish({ exchange: missing, body: "refused" }),
        Effect.all([
          ...range(50).map(() => publish(good)),
          publish({ exchange: another, body: "not looked at any more" })
        ], all)
      ], all)
      if (refused?._tag !== "AmqpNotFound") return assert.fail(refused?.message ?? "confirmed")
      assert.deepStrictEqual([refused.operation, refused.entity, refused.replyCode], ["basic.publish", missing, 404])
      // Confirms that were on their way count; without one nobody knows.
      for (const outcome of before) assert.include(["confirmed", "AmqpPublishUnconfirmed"], outcome)
      for (const error of after) {
        if (error?._tag !== "AmqpPublishUnconfirmed") return assert.fail(error?.message ?? "confirmed")
        assert.strictEqual(error.cause, refused)
      }
      assert.strictEqual((yield* reader.queueDeclarePassive(queue)).messageCount, before.length)
      assertFailure(yield* Effect.flip(channel.publish(good)), "AmqpChannelClosed", missing)
    })))

  it.effect("every publish to the missing exchange is AmqpNotFound", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const message = { exchange: uniqueName("missing"), body: "x" }
      const outcomes = yield* Effect.forEach(range(10), () => outcomeOf(channel, message), all)
      assert.deepStrictEqual(new Set(outcomes), new Set<Outcome>(["AmqpNotFound"]))
    })))

  it.effect("a publish that fails to be encoded takes no number", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const kinds = [
        { message: { routingKey: queue }, outcome: "confirmed" },
        { message: { routingKey: "x".repeat(256) }, outcome: "AmqpEncodeError" },
        { message: { routingKey: uniqueName("nobody") }, outcome: "AmqpMessageReturned" },
        { message: { routingKey: queue, properties: { headers: { n: Number.NaN } } }, outcome: "AmqpEncodeError" }
      ] as const
      const publishes = range(100).flatMap((i) => kinds[i % 4] ?? [])
      const outcomes = yield* Effect.forEach(
        publishes,
        ({ message }) => outcomeOf(channel, { ...message, body: "equal", mandatory: true }),
        all
      )
      assert.deepStrictEqual(outcomes, publishes.map(({ outcome }) => outcome))
    })))

  it.effect("F77 a publish that is interrupted while it waits keeps its number", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* confirming
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const full = yield* fullQueue(channel)
      const kinds = [
        { routingKey: queue, outcome: "confirmed" },
        { routingKey: full, outcome: "AmqpPublishNacked" },
        { routingKey: uniqueName("nobody"), outcome: "AmqpMessageReturned" }
      ] as const
      const publishes = range(300).flatMap((i) => kinds[i % 3] ?? [])
      const fibers: Array<Fiber.Fiber<Outcome>> = []
      for (const [i, { routingKey }] of publishes.entries()) {
        const publish = outcomeOf(channel, { routingKey, body: "equal", mandatory: true })
        const fiber = yield* Effect.forkChild(publish, { startImmediately: true })
        fibers.push(fiber)
        // One of each kind in four.
        if (i % 4 === 0) yield* Fiber.interrupt(fiber)
      }
      const exits = yield* Effect.forEach(fibers, Fiber.await)
      const seen = exits.map((exit) =>
        Exit.isSuccess(exit) ? exit.value : Cause.hasInterruptsOnly(exit.cause) ? "interrupted" : "failed"
      )
      assert.deepStrictEqual(seen, publishes.map(({ outcome }, i) => i % 4 === 0 ? "interrupted" : outcome))
      // Interrupted or not, they were written, and the channel knows when all are settled.
      yield* channel.waitForConfirms
      assert.strictEqual((yield* channel.queueDeclarePassive(queue)).messageCount, 100)
      for (const { outcome, routingKey } of kinds) {
        assert.strictEqual(yield* outcomeOf(channel, { routingKey, body: "equal", mandatory: true }), outcome)
      }
    })))

  it.effect("a connection that is lost before the confirm leaves the outcome unknown: AmqpPublishUnconfirmed", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* proxied()
      const channel = yield* openOn(connection)
      yield* channel.confirmSelect
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* proxy.set("down", { mode: "hole" })
      const messages = [{ routingKey: queue, body: "x" }, { exchange: "amq.topic", routingKey: "key", body: "y" }]
      const fibers = yield* Effect.forEach(
        messages,
        (message) => Effect.forkChild(Effect.flip(channel.publish(message)), { startImmediately: true })
      )
      yield* nextMethod(link, "down", "basic.ack") // it does not arrive
      yield* link.reset
      const errors = yield* Fiber.joinAll(fibers)
      const seen = errors.map((error) => {
        if (error._tag !== "AmqpPublishUnconfirmed") return error.message
        const { cause, exchange, routingKey } = error
        return { reason: cause?._tag === "AmqpConnectionError" && cause.reason._tag, exchange, routingKey }
      })
      assert.deepStrictEqual(seen, [
        { reason: "ConnectionLost", exchange: "", routingKey: queue },
        { reason: "ConnectionLost", exchange: "amq.topic", routingKey: "key" }
      ])
      assertFailure(yield* Effect.flip(channel.publish({ body: "late" })), "AmqpChannelClosed")
    })))

  it.effect("closing a channel waits for its confirms", () =>
    onConnection(Effect.gen(function*() {
      const reader = yield* AmqpChannel.open
      const { queue } = yield* reader.queueDeclare({ exclusive: true })
      const channel = yield* confirming
      const message = { routingKey: queue, body: "x", mandatory: true }
      const fibers = yield* Effect.forEach(
        range(100),
        () => Effect.forkChild(outcomeOf(channel, message), { startImmediately: true })
      )
      yield* channel.close
      assert.deepStrictEqual(new Set(yield* Fiber.joinAll(fibers)), new Set<Outcome>(["confirmed"]))
      assert.strictEqual((yield* reader.queueDeclarePassive(queue)).messageCount, 100)
    })))

  it.effect("closing a channel whose confirms do not come ends in AmqpPublishUnconfirmed", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, proxy } = yield* proxied({ closeTimeout: "100 millis" })
      const channel = yield* openOn(connection)
      yield* channel.confirmSelect
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* proxy.set("down", { mode: "hole" })
      const publish = channel.publish({ routingKey: queue, body: "x", mandatory: true })
      const publishing = yield* Effect.forkChild(Effect.flip(publish), { startImmediately: true })
      yield* channel.close
      const error = yield* Fiber.join(publishing)
      if (error._tag !== "AmqpPublishUnconfirmed") return assert.fail(error.message)
      assert.isUndefined(error.cause)
      // Otherwise the end of the connection is not heard either.
      yield* proxy.set("down", { mode: "pass" })
    })))
})

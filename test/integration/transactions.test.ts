/**
 * Transactions: what they make one of, what a failure, a defect or an interruption undoes, and that nothing of the
 * channel is on the wire while the broker commits.
 */
import { assert, layer } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost } from "../harness/shared.ts"
import {
  assertFailure,
  drain,
  failureOf,
  methodsOf,
  nextMethod,
  onConnection,
  openOn,
  proxied,
  unsettled
} from "./support.ts"

/** A channel with a queue, and another channel that is no part of its transactions. */
const withQueue = Effect.gen(function*() {
  const channel = yield* AmqpChannel.open
  const outside = yield* AmqpChannel.open
  const { queue } = yield* channel.queueDeclare({ exclusive: true })
  const publish = (body: string) => channel.publish({ routingKey: queue, body })
  return { channel, outside, queue, publish }
})

const get = (channel: AmqpChannel.AmqpChannel, queue: string) =>
  Effect.map(Effect.flatMap(channel.get({ queue }), Effect.fromOption), ({ delivery }) => delivery)

layer(onVhost, { excludeTestServices: true })("a transaction", (it) => {
  it.effect("TX01 publishes everything at its end, and yields its effect's value", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish, queue } = yield* withQueue
      const value = yield* channel.transaction(Effect.gen(function*() {
        yield* publish("a")
        yield* publish("b")
        // Not there yet: what was sent has been dealt with when this is answered.
        yield* channel.exchangeDeclarePassive("amq.direct")
        assert.deepStrictEqual(yield* drain(outside, queue), [])
        return 42
      }))
      assert.strictEqual(value, 42)
      assert.deepStrictEqual(yield* drain(outside, queue), ["a", "b"])
    })))

  it.effect("TX01 publishes nothing if its effect fails, dies or is interrupted; the next one is not affected", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish, queue } = yield* withQueue
      const ends: ReadonlyArray<Effect.Effect<never, string>> = [
        Effect.fail("failed"),
        Effect.die("died"),
        Effect.interrupt
      ]
      for (const end of ends) {
        const exit = yield* Effect.exit(channel.transaction(Effect.andThen(publish("lost"), end)))
        assert.deepStrictEqual(exit, yield* Effect.exit(end))
      }
      yield* channel.transaction(publish("kept"))
      assert.deepStrictEqual(yield* drain(outside, queue), ["kept"])
    })))

  it.effect("TX01 that is interrupted from outside rolls back before the interruption is over", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish, queue } = yield* withQueue
      const published = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(channel.transaction(
        publish("lost").pipe(Effect.andThen(Deferred.succeed(published, undefined)), Effect.andThen(Effect.never))
      ))
      yield* Deferred.await(published)
      yield* Fiber.interrupt(fiber)
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      yield* channel.transaction(publish("kept"))
      assert.deepStrictEqual(yield* drain(outside, queue), ["kept"])
    })))

  it.effect("TX01 settles at its end; after a rollback a delivery is unsettled, and can be settled again", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish, queue } = yield* withQueue
      for (const body of ["a", "b", "c"]) yield* publish(body)
      const [a, b, c] = [yield* get(channel, queue), yield* get(channel, queue), yield* get(channel, queue)]
      const failed = yield* Effect.flip(channel.transaction(Effect.gen(function*() {
        assert.strictEqual(yield* a.ack, "Settled")
        assert.strictEqual(yield* a.ack, "AlreadySettled")
        assert.strictEqual(yield* channel.nack({ deliveryTag: c.deliveryTag, multiple: true }), "Settled")
        return yield* Effect.fail("failed")
      })))
      assert.strictEqual(failed, "failed")
      assert.strictEqual(yield* unsettled(channel), 3)
      assert.deepStrictEqual(yield* drain(outside, queue), [])

      yield* channel.transaction(Effect.gen(function*() {
        assert.strictEqual(yield* c.ack, "Settled")
        assert.strictEqual(yield* b.reject({ requeue: false }), "Settled")
        assert.strictEqual(yield* a.nack(), "Settled")
      }))
      assert.strictEqual(yield* unsettled(channel), 0)
      for (const delivery of [a, b, c]) assert.strictEqual(yield* delivery.ack, "AlreadySettled")
      assert.deepStrictEqual(yield* drain(outside, queue), ["a"])
    })))

  it.effect("TX01 after a rollback a multiple settles what the transaction had, in the order of the numbers", () =>
    onConnection(Effect.gen(function*() {
      const { channel, publish, queue } = yield* withQueue
      for (const body of ["a", "b", "c"]) yield* publish(body)
      const [a, b, c] = [yield* get(channel, queue), yield* get(channel, queue), yield* get(channel, queue)]
      yield* Effect.flip(channel.transaction(Effect.andThen(b.ack, Effect.fail("failed"))))
      yield* channel.transaction(Effect.gen(function*() {
        assert.strictEqual(yield* channel.ack({ deliveryTag: b.deliveryTag, multiple: true }), "Settled")
        assert.strictEqual(yield* a.ack, "AlreadySettled")
      }))
      assert.strictEqual(yield* unsettled(channel), 1)
      yield* channel.transaction(c.ack)
      assert.strictEqual(yield* unsettled(channel), 0)
    })))

  it.effect("TX02 is refused on a channel with confirms, and confirms on a channel with transactions", () =>
    onConnection(Effect.gen(function*() {
      let ran = false
      const refused = yield* failureOf((channel) =>
        Effect.andThen(
          channel.confirmSelect,
          channel.transaction(Effect.sync(() => {
            ran = true
          }))
        )
      )
      assertFailure(refused, "AmqpPreconditionFailed", "tx.select")
      assert.isFalse(ran)
      assertFailure(
        yield* failureOf((channel) => Effect.andThen(channel.transaction(Effect.void), channel.confirmSelect)),
        "AmqpPreconditionFailed",
        "confirm.select"
      )
    })))

  it.effect("a mandatory message that no queue takes fails it, though the rest is committed", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish, queue } = yield* withQueue
      const error = yield* Effect.flip(channel.transaction(Effect.andThen(
        channel.publish({
          routingKey: "nowhere",
          body: "returned",
          mandatory: true,
          properties: { messageId: "m", priority: 1 }
        }),
        publish("kept")
      )))
      assert.deepInclude(error, { _tag: "AmqpMessageReturned", exchange: "", routingKey: "nowhere", replyCode: 312 })
      assert.deepStrictEqual(error._tag === "AmqpMessageReturned" && error.properties, { messageId: "m", priority: 1 })
      assert.deepStrictEqual(yield* drain(outside, queue), ["kept"])
      // It is over: the next transaction hears nothing of it.
      yield* channel.transaction(publish("next"))
      assert.deepStrictEqual(yield* drain(outside, queue), ["next"])
    })))

  it.effect("fails with every message that came back", () =>
    onConnection(Effect.gen(function*() {
      const { channel } = yield* withQueue
      const keys = ["nowhere", "nor here"]
      const exit = yield* Effect.exit(channel.transaction(
        Effect.forEach(keys, (routingKey) => channel.publish({ routingKey, body: "x", mandatory: true }))
      ))
      const errors = Exit.isFailure(exit) ? exit.cause.reasons : []
      assert.deepStrictEqual(
        errors.map((reason) =>
          reason._tag === "Fail" && reason.error._tag === "AmqpMessageReturned" && reason.error.routingKey
        ),
        keys
      )
    })))

  it.effect("is the only place to publish on its channel: outside nobody would commit", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish, queue } = yield* withQueue
      yield* channel.transaction(publish("in"))
      const error = yield* Effect.flip(publish("out"))
      assertFailure(error, "AmqpEncodeError", "never committed")
      yield* channel.transaction(publish("in again"))
      assert.deepStrictEqual(yield* drain(outside, queue), ["in", "in again"])
    })))

  it.effect("inside a transaction of the same channel is a defect, on another channel it is not", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish } = yield* withQueue
      const exit = yield* Effect.exit(channel.transaction(channel.transaction(publish("never"))))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      yield* channel.transaction(outside.transaction(Effect.void))
    })))

  it.effect("TX04 with a publish to an exchange that does not exist fails with its refusal, and commits nothing", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish, queue } = yield* withQueue
      const error = yield* Effect.flip(channel.transaction(Effect.andThen(
        publish("lost"),
        channel.publish({ exchange: "missing", routingKey: "k", body: "" })
      )))
      assertFailure(error, "AmqpNotFound", "basic.publish", "missing", `routing key "k"`)
      const { cause } = yield* channel.closed
      assert.deepInclude(cause, { _tag: "AmqpNotFound", operation: "basic.publish" })
      assert.deepStrictEqual(yield* drain(outside, queue), [])
      // And so does one that would begin now.
      assertFailure(yield* Effect.flip(channel.transaction(Effect.void)), "AmqpChannelClosed")
    })))

  it.effect.each(
    [
      ["an expiration", { expiration: "x" }, "invalid expiration 'x'"],
      ["a user", { userId: "nobody" }, "user_id property set to 'nobody'"],
      ["a CC", { headers: { CC: "x" } }, "unacceptable_type_in_header"],
      ["a delivery mode", { deliveryMode: 3 }, "delivery_mode_unknown"]
    ] as const
  )(
    "with a publish that is refused for %s is told which one, also by what comes behind it",
    ([_, properties, text]) =>
      onConnection(Effect.gen(function*() {
        for (const i of [0, 1]) {
          const { channel, outside, publish, queue } = yield* withQueue
          const body = Effect.gen(function*() {
            yield* publish("good")
            yield* channel.publish({ routingKey: `${queue}-bad`, body: "bad", properties })
            yield* publish("behind")
            // It may hear of it by its own commands, or at the commit.
            if (i > 0) yield* channel.exchangeDeclarePassive("amq.direct")
          })
          const error = yield* Effect.flip(channel.transaction(body))
          assertFailure(error, "AmqpPreconditionFailed", text, `${queue}-bad`)
          assert.deepStrictEqual(yield* drain(outside, queue), [])
        }
      }))
  )

  it.effect("whose channel goes away inside it fails with its effect's own error", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish, queue } = yield* withQueue
      const error = yield* Effect.flip(channel.transaction(Effect.andThen(
        publish("lost"),
        channel.queueDeclarePassive("missing")
      )))
      assertFailure(error, "AmqpNotFound", "missing")
      assert.deepStrictEqual(yield* drain(outside, queue), [])
    })))

  it.effect("follows the one before it on its channel", () =>
    onConnection(Effect.gen(function*() {
      const { channel, outside, publish, queue } = yield* withQueue
      const steps: Array<string> = []
      const one = (name: string) =>
        channel.transaction(Effect.gen(function*() {
          steps.push(`${name} begins`)
          yield* publish(name)
          yield* channel.exchangeDeclarePassive("amq.direct")
          steps.push(`${name} ends`)
        }))
      const waiting = Effect.flip(Effect.timeout(channel.transaction(Effect.never), "1 millis"))
      yield* Effect.all([one("a"), waiting, one("b"), one("c")], { concurrency: "unbounded", discard: true })
      assert.deepStrictEqual(steps, ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"])
      assert.deepStrictEqual(yield* drain(outside, queue), ["a", "b", "c"])
    })))

  it.effect("TX05 nothing of its channel is on the wire between tx.commit and commit-ok", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* proxied()
      const channel = yield* openOn(connection)
      const other = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const large = new Uint8Array(100_000)
      for (const name of ["tx.commit", "tx.rollback"] as const) {
        const before = (yield* methodsOf(link, "up")).length
        const transaction = yield* Effect.forkChild(Effect.exit(channel.transaction(Effect.gen(function*() {
          yield* channel.publish({ routingKey: queue, body: large })
          yield* channel.exchangeDeclarePassive("amq.direct")
          // The broker's answer to what ends the transaction will not get through.
          yield* proxy.set("down", { mode: "stall" })
          if (name === "tx.rollback") return yield* Effect.fail("failed")
        }))))
        yield* nextMethod(link, "up", name)
        // All kinds of what a channel sends; all of it has to wait.
        const operations: ReadonlyArray<Effect.Effect<unknown, Error>> = [
          channel.publish({ routingKey: queue, body: large }),
          channel.publish({ routingKey: queue, body: "small" }),
          channel.queueDeclarePassive(queue),
          channel.get({ queue, noAck: true }),
          channel.qos({ prefetchCount: 1 })
        ]
        const behind = yield* Effect.forkChild(
          Effect.all(operations, { concurrency: "unbounded", discard: true }),
          { startImmediately: true }
        )
        // Another channel's frames pass: by the time this is out, the others would be.
        const open = yield* Effect.forkChild(other.exchangeDeclarePassive("amq.direct"), { startImmediately: true })
        yield* nextMethod(link, "up", "exchange.declare")
        assert.deepStrictEqual((yield* methodsOf(link, "up")).slice(before), [
          ...(name === "tx.commit" ? ["1 tx.select"] : []),
          "1 basic.publish",
          "1 exchange.declare",
          `1 ${name}`,
          "2 exchange.declare"
        ])
        yield* proxy.set("down", { mode: "pass" })
        const exit = yield* Fiber.join(transaction)
        assert.strictEqual(Exit.isSuccess(exit), name === "tx.commit")
        yield* Fiber.join(behind)
        yield* Fiber.join(open)
        assert.deepStrictEqual((yield* methodsOf(link, "up")).slice(-5), [
          "1 basic.publish",
          "1 basic.publish",
          "1 queue.declare",
          "1 basic.get",
          "1 basic.qos"
        ])
      }
    })))

  it.effect("TX05 a channel that is closed while it commits is closed behind the commit", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* proxied({ closeTimeout: "100 millis" })
      const owner = yield* openOn(connection)
      const { queue } = yield* owner.queueDeclare({ exclusive: true })
      yield* Effect.scoped(Effect.gen(function*() {
        const channel = yield* openOn(connection)
        const transaction = Effect.andThen(
          channel.publish({ routingKey: queue, body: "in doubt" }),
          proxy.set("down", { mode: "stall" })
        )
        yield* Effect.forkChild(channel.transaction(transaction), { startImmediately: true })
        yield* nextMethod(link, "up", "tx.commit")
        yield* channel.publish({ routingKey: queue, body: new Uint8Array(100_000) })
        yield* channel.close
        yield* proxy.set("down", { mode: "pass" })
      }))
      // The close comes after the commit's answer. What was published after the commit belongs to a transaction that
      // nobody has committed.
      yield* openOn(connection)
      assert.include(yield* methodsOf(link, "down"), "2 tx.commit-ok")
      assert.include(yield* methodsOf(link, "down"), "2 channel.close-ok")
      assert.deepStrictEqual(yield* drain(owner, queue), ["in doubt"])
    })))
})

/**
 * Channels: their numbers, their closing, what a refused operation does to its channel and to the others, and many
 * fibers on one channel.
 */
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Predicate, Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { framesOf, methodsOf, nextMethod, onConnection, openOn, proxied } from "./support.ts"

const tagOf = (cause: unknown) => Predicate.hasProperty(cause, "_tag") ? cause._tag : undefined

/** Every operation of a channel that sends something and waits. */
const operations = (
  channel: AmqpChannel.AmqpChannel
): ReadonlyArray<readonly [string, Effect.Effect<unknown, Error>]> => [
  ["exchange.declare", channel.exchangeDeclare({ exchange: "e" })],
  ["exchange.declare", channel.exchangeDeclarePassive("e")],
  ["exchange.delete", channel.exchangeDelete({ exchange: "e" })],
  ["exchange.bind", channel.exchangeBind({ destination: "e", source: "f" })],
  ["exchange.unbind", channel.exchangeUnbind({ destination: "e", source: "f" })],
  ["queue.declare", channel.queueDeclare()],
  ["queue.declare", channel.queueDeclarePassive("q")],
  ["queue.bind", channel.queueBind({ queue: "q", exchange: "e" })],
  ["queue.unbind", channel.queueUnbind({ queue: "q", exchange: "e" })],
  ["queue.purge", channel.queuePurge("q")],
  ["queue.delete", channel.queueDelete({ queue: "q" })],
  ["basic.qos", channel.qos({ prefetchCount: 1 })],
  ["basic.publish", channel.publish({ body: "" })],
  ["basic.get", channel.get({ queue: "q" })],
  ["basic.consume", Effect.scoped(channel.consume({ queue: "q" }))],
  ["basic.cancel", channel.cancel("tag")],
  ["basic.recover", channel.recover],
  ["confirm.select", channel.confirmSelect],
  ["waitForConfirms", channel.waitForConfirms],
  ["tx.select", channel.transaction(Effect.void)],
  ["channel.flow", channel.flow(true)]
]

layer(onVhost, { excludeTestServices: true })("channels", (it) => {
  it.effect("CH01 a thousand channels one after another reuse a bounded set of numbers and leave none", () =>
    onConnection(
      Effect.gen(function*() {
        const ids = yield* Effect.forEach(
          Array.from({ length: 1000 }),
          () => Effect.scoped(Effect.map(AmqpChannel.open, ({ id }) => id))
        )
        assert.deepStrictEqual(ids, Array.from({ length: 1000 }, (_, i) => i % 100 + 1))
        const control = yield* Broker.control
        assert.deepStrictEqual((yield* control.held({ vhost: (yield* Vhost).name })).channels, [])
      }),
      { channelMax: 100 }
    ))

  it.effect("CH02 fifty channels opened at once have fifty numbers", () =>
    onConnection(Effect.gen(function*() {
      const channels = yield* Effect.all(Array.from({ length: 50 }, () => AmqpChannel.open), {
        concurrency: "unbounded"
      })
      const ids = channels.map(({ id }) => id).sort((a, b) => a - b)
      assert.deepStrictEqual(ids, Array.from({ length: 50 }, (_, i) => i + 1))
      // Each is a channel of the broker's, and each works.
      const names = yield* Effect.forEach(channels, (channel) => channel.queueDeclare({ exclusive: true }), {
        concurrency: "unbounded"
      })
      assert.strictEqual(new Set(names.map(({ queue }) => queue)).size, 50)
    })))

  it.effect("CH04 the last free number is refused locally, and a closed one is free again", () =>
    onConnection(
      Effect.gen(function*() {
        const scopes = yield* Effect.forEach(Array.from({ length: 5 }), () => Scope.make())
        const open = Effect.forEach(scopes, (scope) => Scope.provide(AmqpChannel.open, scope))
        assert.deepStrictEqual((yield* open).map(({ id }) => id), [1, 2, 3, 4, 5])
        const error = yield* Effect.flip(Effect.scoped(AmqpChannel.open))
        assert.strictEqual(error._tag === "AmqpConnectionError" && error.reason._tag, "ChannelsExhausted")

        const [, second] = scopes
        assert.isDefined(second)
        if (second !== undefined) yield* Scope.close(second, Exit.void)
        const again = yield* AmqpChannel.open
        assert.strictEqual(again.id, 2)
        yield* again.queueDeclare({ exclusive: true })
        yield* Effect.forEach(scopes, (scope) => Scope.close(scope, Exit.void))
      }),
      { channelMax: 5 }
    ))

  it.effect("a number can be asked for; one that is open or out of range is refused without a word to the broker", () =>
    onConnection(
      Effect.gen(function*() {
        assert.strictEqual((yield* AmqpChannel.make({ id: 7 })).id, 7)
        for (const id of [7, 0, -1, 1.5, 11, 65536]) {
          const error = yield* Effect.flip(Effect.scoped(AmqpChannel.make({ id })))
          assert.strictEqual(error._tag, "AmqpEncodeError", String(id))
        }
        const others = yield* Effect.forEach(Array.from({ length: 9 }), () => AmqpChannel.open)
        assert.deepStrictEqual(others.map(({ id }) => id), [1, 2, 3, 4, 5, 6, 8, 9, 10])
      }),
      { channelMax: 10 }
    ))

  it.effect("operations can be taken off their channel", () =>
    onConnection(Effect.gen(function*() {
      const { ack, close, confirmSelect, get, publish, queueDeclare } = yield* AmqpChannel.open
      const { queue } = yield* queueDeclare({ exclusive: true })
      yield* confirmSelect
      yield* Effect.forEach(["1", "2"].map((body) => ({ routingKey: queue, body })), publish)
      const { delivery, messageCount } = Option.getOrThrow(yield* get({ queue }))
      assert.strictEqual(messageCount, 1)
      assert.strictEqual(yield* ack({ deliveryTag: delivery.deliveryTag }), "Settled")
      yield* close
    })))

  it.effect("CH06 closing a channel again, also at the same time and by its scope, sends one close", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      yield* Effect.scoped(Effect.gen(function*() {
        const channel = yield* openOn(connection)
        yield* Effect.all(Array.from({ length: 10 }, () => channel.close), { concurrency: "unbounded" })
        yield* channel.close
        assert.strictEqual((yield* channel.closed).cause, undefined)
      }))
      assert.deepStrictEqual((yield* methodsOf(link, "up")).filter((name) => name.startsWith("1 ")), [
        "1 channel.open",
        "1 channel.close"
      ])
      assert.deepStrictEqual((yield* methodsOf(link, "down")).filter((name) => name.startsWith("1 ")), [
        "1 channel.open-ok",
        "1 channel.close-ok"
      ])
    })))

  it.effect("CH07 every operation on a closed channel says what closed it, and nothing is written", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const byClient = yield* openOn(connection)
      const queue = uniqueName("queue")
      yield* byClient.queueDeclare({ queue, exclusive: true })
      yield* byClient.publish({ routingKey: queue, body: "one" })
      const got = yield* Effect.flatMap(byClient.get({ queue }), Effect.fromOption)
      yield* byClient.close
      const byBroker = yield* openOn(connection)
      yield* Effect.flip(byBroker.queueDeclarePassive("missing"))

      for (const [channel, cause] of [[byClient, undefined], [byBroker, "AmqpNotFound"]] as const) {
        for (const [name, operation] of operations(channel)) {
          const error = yield* Effect.flip(operation)
          assert.propertyVal(error, "_tag", "AmqpChannelClosed", name)
          assert.propertyVal(error, "operation", name)
          assert.strictEqual(tagOf(error.cause), cause, name)
        }
        for (const settle of [channel.ack, channel.nack, channel.reject]) {
          assert.strictEqual((yield* Effect.flip(settle({ deliveryTag: 1 })))._tag, "AmqpStaleDelivery")
        }
        yield* channel.close
      }
      for (const settle of [got.delivery.ack, got.delivery.nack(), got.delivery.reject()]) {
        const error = yield* Effect.flip(settle)
        assert.deepStrictEqual([error._tag, error.deliveryTag, error.epoch], ["AmqpStaleDelivery", 1, 1])
      }
      // What was written comes before what a third channel writes now.
      yield* openOn(connection)
      assert.deepStrictEqual((yield* methodsOf(link, "up")).slice(-7), [
        "1 basic.publish",
        "1 basic.get",
        "1 channel.close",
        "2 channel.open",
        "2 queue.declare",
        "2 channel.close-ok",
        "3 channel.open"
      ])
    })))

  it.effect("CH07 the channels of a closed connection say so", () =>
    onConnection(Effect.gen(function*() {
      const connection = yield* AmqpConnection
      const channel = yield* AmqpChannel.open
      yield* connection.close
      for (const [name, operation] of operations(channel)) {
        const error = yield* Effect.flip(operation)
        assert.propertyVal(error, "_tag", "AmqpChannelClosed", name)
        assert.nestedPropertyVal(error, "cause.reason._tag", "ConnectionClosed", name)
      }
      const error = yield* Effect.flip(Effect.scoped(AmqpChannel.open))
      assert.strictEqual(error._tag === "AmqpConnectionError" && error.reason._tag, "ConnectionClosed")
    })))

  it.effect("CH08 a refused operation does not disturb another channel that publishes and consumes", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.confirmSelect
      const { deliveries } = yield* channel.consume({ queue })
      const bodies = Array.from({ length: 300 }, (_, i) => String(i))
      const consuming = yield* deliveries.pipe(
        Stream.mapEffect((delivery) => Effect.as(delivery.ack, delivery.text)),
        Stream.take(bodies.length),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      const refuse = Effect.scoped(Effect.flatMap(
        AmqpChannel.open,
        (other) => Effect.flip(other.queueDeclarePassive("missing"))
      ))
      yield* Effect.forEach(bodies, (body, i) =>
        Effect.andThen(
          i % 50 === 25 ? Effect.map(refuse, (error) => assert.strictEqual(error._tag, "AmqpNotFound")) : Effect.void,
          channel.publish({ routingKey: queue, body })
        ))
      assert.deepStrictEqual(yield* Fiber.join(consuming), bodies)
    })))

  it.effect("a refusal fails the operation that provoked it; those behind it and the consumer learn the cause", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      yield* Effect.scoped(Effect.gen(function*() {
        const channel = yield* openOn(connection)
        const { queue } = yield* channel.queueDeclare({ exclusive: true })
        const { deliveries } = yield* channel.consume({ queue })
        const consuming = yield* Effect.forkChild(Effect.flip(Stream.runDrain(deliveries)), { startImmediately: true })
        const [before, refused, behind, never] = yield* Effect.all([
          Effect.result(channel.queueDeclarePassive(queue)),
          Effect.flip(channel.queuePurge("missing")),
          Effect.flip(channel.queueDeclarePassive(queue)),
          Effect.flip(channel.exchangeDeclarePassive("missing"))
        ], { concurrency: "unbounded" })
        assert.strictEqual(before._tag, "Success")
        assert.deepInclude(refused, { _tag: "AmqpNotFound", operation: "queue.purge", entity: "missing" })
        const ended = yield* Fiber.join(consuming)
        for (const error of [behind, never, ended, yield* channel.closed]) {
          assert.strictEqual(error._tag, "AmqpChannelClosed")
          assert.strictEqual(error.cause, refused)
        }
      }))
      // Its finalizers had nothing more to say: after the broker's close there is only close-ok.
      yield* openOn(connection)
      const names = yield* methodsOf(link, "up")
      assert.deepStrictEqual(names.slice(-2), ["1 channel.close-ok", "2 channel.open"])
    })))

  it.effect("CH15 a close waits behind a large content that is being written", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* proxied()
      const owner = yield* openOn(connection)
      const { queue } = yield* owner.queueDeclare({ exclusive: true })
      const channel = yield* openOn(connection)
      const body = new Uint8Array(8 * 1024 * 1024).fill(7)
      // The broker's side stands still, so that the content cannot be out when the close comes.
      yield* proxy.set("up", { mode: "stall" })
      yield* channel.publish({ routingKey: queue, body })
      const closing = yield* Effect.forkChild(channel.close, { startImmediately: true })
      yield* proxy.set("up", { mode: "pass" })
      yield* Fiber.join(closing)

      const frames = (yield* framesOf(link, "up")).filter((frame) => "channel" in frame && frame.channel === 2)
      const bodySize = frames.reduce((sum, frame) => sum + (frame._tag === "Body" ? frame.payload.length : 0), 0)
      assert.strictEqual(bodySize, body.length)
      const names = frames.map((frame) => frame._tag === "Method" ? frame.method._tag : frame._tag)
      assert.deepStrictEqual(names.filter((name) => name !== "Body"), [
        "channel.open",
        "basic.publish",
        "Header",
        "channel.close"
      ])
      assert.strictEqual(names.at(-1), "channel.close")
      const got = yield* Effect.flatMap(owner.get({ queue }), Effect.fromOption)
      assert.deepStrictEqual(got.delivery.body, body)
      yield* got.delivery.ack
    })))

  it.effect("CH19 two fibers with a hundred declares each on one channel get their own answers", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const declare = (prefix: string) =>
        Effect.forEach(
          Array.from({ length: 100 }, (_, i) => `${prefix}-${i}`),
          (queue) =>
            Effect.map(
              channel.queueDeclare({ queue, exclusive: true }),
              (info) => assert.strictEqual(info.queue, queue)
            )
        )
      yield* Effect.all([declare(uniqueName("one")), declare(uniqueName("two"))], { concurrency: "unbounded" })
    })))

  it.effect("CH19 requests of different kinds, all at once on one channel, get their own answers", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* Effect.forEach(
        Array.from({ length: 50 }, (_, i) => i),
        (i) =>
          Effect.gen(function*() {
            yield* channel.publish({ routingKey: queue, body: String(i) })
            const [info, got, none] = yield* Effect.all([
              channel.queueDeclarePassive(queue),
              channel.get({ queue, noAck: true }),
              channel.exchangeDeclarePassive("amq.direct")
            ], { concurrency: "unbounded" })
            assert.strictEqual(info.queue, queue)
            assert.strictEqual(got._tag, "Some")
            assert.strictEqual(none, undefined)
          }),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(yield* channel.queuePurge(queue), 0)
    })))

  it.effect("CH21 leaving a channel's scope waits for close-ok", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      yield* Effect.scoped(openOn(connection))
      assert.include(yield* methodsOf(link, "down"), "1 channel.close-ok")
    })))

  it.effect("CH21 a broker that does not answer the close holds the scope no longer than closeTimeout", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* proxied({ closeTimeout: "200 millis" })
      yield* Effect.scoped(Effect.andThen(openOn(connection), proxy.set("down", { mode: "stall" })))
      assert.include(yield* methodsOf(link, "up"), "1 channel.close")
      // The late close-ok is expected, and the connection goes on.
      yield* proxy.set("down", { mode: "pass" })
      yield* Effect.flatMap(openOn(connection), (channel) => channel.queueDeclare({ exclusive: true }))
    })))

  it.effect("CH21 confirms that are outstanding are waited for before the close", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const publishing = yield* Effect.scoped(Effect.gen(function*() {
        const channel = yield* openOn(connection)
        const { queue } = yield* channel.queueDeclare({ exclusive: true })
        yield* channel.confirmSelect
        return yield* Effect.forkDetach(
          Effect.all(Array.from({ length: 100 }, () => channel.publish({ routingKey: queue, body: "x" })), {
            concurrency: "unbounded",
            discard: true
          }),
          { startImmediately: true }
        )
      }))
      yield* Fiber.join(publishing)
      const names = yield* methodsOf(link, "up")
      assert.strictEqual(names.at(-1), "1 channel.close")
    })))

  it.effect("CH22 a number that the broker has closed is not the next to be used", () =>
    onConnection(
      Effect.gen(function*() {
        const refused = Effect.scoped(Effect.gen(function*() {
          const channel = yield* AmqpChannel.open
          yield* Effect.flip(channel.queueDeclarePassive("missing"))
          return channel.id
        }))
        const ids = yield* Effect.forEach(Array.from({ length: 7 }), () => refused)
        assert.deepStrictEqual(ids, [1, 2, 3, 1, 2, 3, 1])
      }),
      { channelMax: 3 }
    ))
})

/** The tags of all that an effect failed with, in order. */
const tagsOf = <A, E extends { readonly _tag: string }, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(effect), (exit) =>
    Exit.isSuccess(exit)
      ? []
      : exit.cause.reasons.map((reason) => reason._tag === "Fail" ? reason.error._tag : reason._tag))

layer(onVhost, { excludeTestServices: true })("the last word of a channel", (it) => {
  const missing = (channel: AmqpChannel.AmqpChannel, exchange = "it's missing") =>
    channel.publish({ exchange, body: "lost" })

  it.effect("a publish without confirms to an exchange that does not exist, and then the end", () =>
    onConnection(Effect.gen(function*() {
      for (let i = 0; i < 20; i++) {
        const error = yield* Effect.flip(AmqpChannel.use((channel) => missing(channel)))
        assert.deepInclude(error, { _tag: "AmqpNotFound", operation: "basic.publish", entity: "it's missing" })
        // Also where there is nobody but those who ask for the end.
        const scope = yield* Scope.make()
        const channel = yield* Scope.provide(AmqpChannel.open, scope)
        yield* missing(channel)
        yield* Scope.close(scope, Exit.void)
        assert.deepNestedInclude(yield* channel.closed, {
          "cause._tag": "AmqpNotFound",
          "cause.operation": "basic.publish",
          "cause.entity": "it's missing"
        })
      }
      // Nobody else notices.
      assert.strictEqual((yield* (yield* AmqpConnection).status)._tag, "Open")
    })))

  it.effect("is said once: a refusal that an operation failed with is that operation's", () =>
    onConnection(Effect.gen(function*() {
      const passive = (channel: AmqpChannel.AmqpChannel) => channel.queueDeclarePassive("missing")
      assert.deepStrictEqual(yield* tagsOf(AmqpChannel.use(passive)), ["AmqpNotFound"])
      assert.strictEqual(
        yield* AmqpChannel.use((channel) =>
          Effect.match(passive(channel), {
            onFailure: () => "handled",
            onSuccess: () => "there"
          })
        ),
        "handled"
      )
      // The operation behind it has its reason.
      const behind = (channel: AmqpChannel.AmqpChannel) =>
        Effect.andThen(missing(channel), channel.queueDeclare({ exclusive: true }))
      assert.deepStrictEqual(yield* tagsOf(AmqpChannel.use(behind)), ["AmqpChannelClosed"])
      assert.deepStrictEqual(yield* tagsOf(AmqpChannel.use((channel) => Effect.ignore(behind(channel)))), [])
      // With confirms each publish has its own outcome.
      const confirmed = (channel: AmqpChannel.AmqpChannel) => Effect.andThen(channel.confirmSelect, missing(channel))
      assert.deepStrictEqual(yield* tagsOf(AmqpChannel.use(confirmed)), ["AmqpNotFound"])
      assert.deepStrictEqual(yield* tagsOf(AmqpChannel.use((channel) => Effect.ignore(confirmed(channel)))), [])
    })))

  it.effect("a function that fails, dies or is interrupted", () =>
    onConnection(Effect.gen(function*() {
      const after = <A, E>(end: Effect.Effect<A, E>) =>
        AmqpChannel.use((channel) => Effect.andThen(missing(channel), end))
      assert.deepStrictEqual(yield* tagsOf(after(Effect.fail({ _tag: "Own" } as const))), ["Own", "AmqpNotFound"])
      assert.deepStrictEqual(yield* tagsOf(after(Effect.die("broken"))), ["Die", "AmqpNotFound"])
      const interrupted = yield* Effect.forkChild(after(Effect.never), { startImmediately: true })
      yield* Fiber.interrupt(interrupted)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(interrupted)))
      const control = yield* Broker.control
      assert.deepStrictEqual((yield* control.held({ vhost: (yield* Vhost).name })).channels, [])
    })))

  it.effect("what the function opened in its scope ends before the channel", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      yield* AmqpChannel.use((channel) =>
        Effect.gen(function*() {
          const { queue } = yield* channel.queueDeclare({ exclusive: true })
          yield* channel.consume({ queue })
        })
      ).pipe(Effect.provideService(AmqpConnection, connection))
      assert.deepStrictEqual((yield* methodsOf(link, "up")).slice(-3), [
        "1 basic.consume",
        "1 basic.cancel",
        "1 channel.close"
      ])
    })))

  it.effect("without an answer it is unknown whether the last publish has arrived, and nothing else is", () =>
    noLeaks(Effect.gen(function*() {
      const publish = (channel: AmqpChannel.AmqpChannel) => channel.publish({ exchange: "amq.fanout", body: "x" })
      const certain = (channel: AmqpChannel.AmqpChannel) =>
        Effect.andThen(publish(channel), channel.exchangeDeclarePassive("amq.fanout"))
      for (const how of ["reset", "silence"] as const) {
        for (const [use, tag] of [[publish, "AmqpCloseUnanswered"], [certain, "none"]] as const) {
          const { connection, link, proxy } = yield* proxied({ closeTimeout: "300 millis" })
          const using = yield* AmqpChannel.use((channel) =>
            Effect.andThen(use(channel), proxy.set("down", { mode: "hole" }))
          ).pipe(
            Effect.provideService(AmqpConnection, connection),
            Effect.as("none"),
            Effect.catchTag("AmqpCloseUnanswered", ({ _tag, cause }) => {
              assert.strictEqual(cause?.reason._tag, how === "reset" ? "ConnectionLost" : undefined)
              return Effect.succeed(_tag)
            }),
            Effect.forkChild({ startImmediately: true })
          )
          yield* nextMethod(link, "up", "channel.close")
          if (how === "reset") yield* link.reset
          assert.strictEqual(yield* Effect.timeout(Fiber.join(using), "2 seconds"), tag, how)
          yield* link.reset
        }
      }
    })))
})

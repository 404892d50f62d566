/**
 * Which of many publishes the broker refused: by its words, or by sending those in question alone. The others are stored,
 * at most twice, and go on at full speed.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Redacted, Schedule, Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import { fromConnectionClose } from "../../src/AmqpError.ts"
import type { PropertiesInput, Publish } from "../../src/AmqpMessage.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import * as AmqpFaults from "../../src/testing/AmqpFaults.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { canControl, isRabbitMQ, onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { onConnection } from "./support.ts"

/** A durable queue. */
const makeQueue = Effect.scoped(Effect.gen(function*() {
  const queue = uniqueName("refused")
  yield* (yield* AmqpChannel.open).queueDeclare({ queue, durable: true })
  return queue
}))

/** How often each body is stored. */
const storedIn = (queue: string) =>
  Effect.scoped(Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    const { messageCount } = yield* channel.queueDeclarePassive(queue)
    const { deliveries } = yield* channel.consume({ queue, noAck: true })
    const counts = new Map<string, number>()
    yield* Stream.runForEach(Stream.take(deliveries, messageCount), ({ text }) =>
      Effect.sync(() => void counts.set(text, (counts.get(text) ?? 0) + 1)))
    return counts
  }))

/** All of these are stored, none more than twice, and at most so many twice. */
const assertStored = (counts: ReadonlyMap<string, number>, bodies: ReadonlyArray<string>, duplicates: number): void => {
  assert.deepStrictEqual(bodies.filter((body) => !counts.has(body)), [], "a message is lost")
  assert.strictEqual(counts.size, bodies.length, "a message that was refused is stored")
  assert.deepStrictEqual([...counts].filter(([, count]) => count > 2), [], "a message is stored more than twice")
  assert.isAtMost([...counts].filter(([, count]) => count > 1).length, duplicates)
}

/** Publishes from so many fibers, one message behind the other in each. */
const fromFibers = (
  fibers: number,
  messages: ReadonlyArray<Publish>,
  publish: (message: Publish) => Effect.Effect<void, AmqpPublisher.ResendError | AmqpPublisher.PublishError>
) => {
  const failures = new Map<string, AmqpPublisher.ResendError | AmqpPublisher.PublishError>()
  return Effect.forEach(
    Array.from({ length: fibers }, (_, fiber) => fiber),
    (fiber) =>
      Effect.forEach(
        messages.filter((_, i) => i % fibers === fiber),
        (message) =>
          Effect.catch(publish(message), (error) => Effect.sync(() => void failures.set(String(message.body), error))),
        { discard: true }
      ),
    {
      concurrency: "unbounded",
      discard: true
    }
  ).pipe(Effect.as(failures))
}

const numbered = (count: number, message: Omit<Publish, "body">): ReadonlyArray<Publish> =>
  Array.from({ length: count }, (_, i) => ({ ...message, body: String(i) }))

/** Some of them are bad in this way. */
const spoiled = (
  messages: ReadonlyArray<Publish>,
  bad: ReadonlyArray<number>,
  spoil: Partial<Publish>
): ReadonlyArray<Publish> => messages.map((message, i) => bad.includes(i) ? { ...message, ...spoil } : message)

const without = (count: number, bad: ReadonlyArray<number>): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, i) => i).filter((i) => !bad.includes(i)).map(String)

const tagsOf = (failures: ReadonlyMap<string, { readonly _tag: string }>) =>
  [...failures].map(([body, { _tag }]) => `${body} ${_tag}`).sort()

const resend = Schedule.spaced("50 millis")

layer(onVhost, { excludeTestServices: true })("one publish that the broker refuses, among many", (it) => {
  it.effect("8,000 from 20 fibers, one with a CC that is no array: it fails, the rest is stored", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue
      const publisher = yield* AmqpPublisher.make()
      const messages = spoiled(numbered(8000, { routingKey: queue }), [4321], { properties: { headers: { CC: "x" } } })
      const failures = yield* fromFibers(20, messages, (message) => publisher.publish(message, { resend })).pipe(
        Effect.timeout("15 seconds")
      )
      assert.deepStrictEqual(tagsOf(failures), ["4321 AmqpPreconditionFailed"])
      assertStored(yield* storedIn(queue), without(8000, [4321]), 19)
    })))

  const kinds: ReadonlyArray<readonly [string, PropertiesInput]> = [
    ["CC", { headers: { CC: "x" } }],
    ["BCC", { headers: { BCC: 5, CC: ["nobody"] } }],
    ["expiration", { expiration: "soon" }],
    ["expiration", { expiration: "-1" }],
    ["userId", { userId: "nobody" }],
    ["userId", { userId: "é".repeat(127) }],
    ["deliveryMode", { deliveryMode: 3 }],
    ["replyTo", { replyTo: "amq.rabbitmq.reply-to" }]
  ]

  it.effect.each(kinds)(
    "a bad %s fails alone, without a resend too; what came behind it is in doubt",
    ([_, properties]) =>
      onConnection(Effect.gen(function*() {
        const queue = yield* makeQueue
        for (const mandatory of [true, false]) {
          for (const [count, at] of [[1, 0], [40, 0], [40, 25], [40, 39]] as const) {
            const publisher = yield* AmqpPublisher.make()
            const messages = spoiled(numbered(count, { routingKey: queue, mandatory }), [at], { properties })
            const { failures } = yield* Effect.flip(publisher.publishAll(messages))
            const own = failures.filter(({ error }) => error._tag === "AmqpPreconditionFailed")
            assert.deepStrictEqual(own.map(({ index }) => index), [at])
            for (const { error, index } of failures) {
              if (index === at) assert.include(error.message, JSON.stringify(queue))
              else assert.strictEqual(error._tag, "AmqpPublishUnconfirmed")
            }
            const { failures: left } = yield* Effect.flip(publisher.publishAll(messages, { resend }))
            assert.deepStrictEqual(left.map(({ error, index }) => [index, error._tag]), [[
              at,
              "AmqpPreconditionFailed"
            ]])
          }
        }
      }))
  )

  it.effect("several bad ones of several kinds, also one behind the other, each fail with their own refusal", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue
      const publisher = yield* AmqpPublisher.make({ maxInFlight: 50 })
      const bad = [0, 1, 100, 101, 102, 250, 298, 299]
      const properties = kinds.map(([, properties]) => properties)
      const messages = numbered(300, { routingKey: queue }).map((message, i): Publish => {
        const kind = bad.indexOf(i)
        return kind < 0 ? message : { ...message, properties: properties[kind] }
      })
      const { failures } = yield* Effect.flip(publisher.publishAll(messages, { resend }))
      assert.deepStrictEqual(failures.map(({ index }) => index), bad)
      for (const { error } of failures) assert.strictEqual(error._tag, "AmqpPreconditionFailed", error.message)
      const counts = yield* storedIn(queue)
      assert.deepStrictEqual(without(300, bad).filter((body) => !counts.has(body)), [])
      assert.strictEqual(counts.size, 300 - bad.length)
    })))

  it.effect("two that the broker's words cannot tell apart, for they are cut off, are found one by one", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue
      const publisher = yield* AmqpPublisher.make({ maxInFlight: 100 })
      const messages = numbered(500, { routingKey: queue }).map((message, i): Publish => {
        return i === 240 || i === 250
          ? { ...message, properties: { expiration: "9".repeat(240) + String(i) } }
          : message
      })
      const { failures } = yield* Effect.flip(publisher.publishAll(messages))
      const ownRefusals = failures.filter(({ error }) => error._tag === "AmqpPreconditionFailed")
      assert.isAtMost(ownRefusals.length, 1)
      const { failures: left } = yield* Effect.flip(publisher.publishAll(messages, { resend }))
      assert.deepStrictEqual(left.map(({ index }) => index), [240, 250])
      for (const { error } of left) assert.strictEqual(error._tag, "AmqpPreconditionFailed")
      const counts = yield* storedIn(queue)
      assert.strictEqual(counts.size, 498)
    })))

  it.effect("a sink ends with the refusal of the bad one, or goes on without a loss", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue
      const publisher = yield* AmqpPublisher.make({ maxInFlight: 30 })
      const messages = spoiled(numbered(500, { routingKey: queue }), [200], { properties: { headers: { CC: "x" } } })
      const error = yield* Effect.flip(Stream.run(Stream.fromIterable(messages), publisher.sink({ resend })))
      assert.strictEqual(error._tag, "AmqpPreconditionFailed")
    })))

  it.effect("on a confirming channel it is the bad one that fails with the refusal", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue
      const channel = yield* AmqpChannel.open
      yield* channel.confirmSelect
      const messages = spoiled(numbered(100, { routingKey: queue }), [33], { properties: { expiration: "x" } })
      const outcomes = yield* Effect.forEach(
        messages,
        (message) =>
          Effect.match(channel.publish(message), {
            onFailure: ({ _tag }) => _tag,
            onSuccess: () => "confirmed" as const
          }),
        {
          concurrency: "unbounded"
        }
      )
      assert.strictEqual(outcomes.indexOf("AmqpPreconditionFailed"), 33)
      assert.strictEqual(outcomes.lastIndexOf("AmqpPreconditionFailed"), 33)
      assert.deepStrictEqual(
        outcomes.filter((outcome) => outcome !== "confirmed" && outcome !== "AmqpPreconditionFailed").filter((tag) =>
          tag !== "AmqpPublishUnconfirmed"
        ),
        []
      )
    })))

  it.effect("an exchange that is deleted in between: who was confirmed is, the rest hears that it is missing", () =>
    onConnection(Effect.gen(function*() {
      const queue = yield* makeQueue
      const exchange = uniqueName("deleted")
      const channel = yield* AmqpChannel.open
      yield* channel.exchangeDeclare({ exchange })
      yield* channel.queueBind({ queue, exchange, routingKey: "k" })
      const publisher = yield* AmqpPublisher.make({ maxInFlight: 20 })
      let confirmed = 0
      const messages = numbered(400, { routingKey: "k", exchange })
        .map((message, i): Publish => i % 2 === 0 ? message : { ...message, exchange: "", routingKey: queue })
      const failures = yield* fromFibers(
        20,
        messages,
        (message) =>
          Effect.tap(
            publisher.publish(message, { resend }),
            () => ++confirmed === 100 ? Effect.orDie(channel.exchangeDelete({ exchange })) : Effect.void
          )
      )
      for (const error of failures.values()) {
        assert.strictEqual(error._tag === "AmqpResendFailed" ? error.cause._tag : error._tag, "AmqpNotFound")
      }
      const counts = yield* storedIn(queue)
      for (const { body, exchange: to } of messages) {
        if (to === "" || !failures.has(String(body))) assert.isTrue(counts.has(String(body)))
      }
    })))

  it.effect.each([[false], [true]])(
    "an exchange that another channel deletes in the midst of many: none is called refused that is stored (resend: %s)",
    ([resending]) =>
      onConnection(Effect.gen(function*() {
        const queue = yield* makeQueue
        const exchange = uniqueName("deleted")
        const channel = yield* AmqpChannel.open
        yield* channel.exchangeDeclare({ exchange })
        yield* channel.queueBind({ queue, exchange, routingKey: "k" })
        // For a moment the exchange is there and its bindings are not: then the broker would return them.
        const publisher = yield* AmqpPublisher.make({ mandatory: false })
        const publish = (
          body: string
        ): Effect.Effect<void, AmqpPublisher.ResendError | AmqpPublisher.PublishError> => {
          const message = { exchange, routingKey: "k", body }
          return resending ? publisher.publish(message, { resend }) : publisher.publish(message)
        }
        let published = 0
        const flowing = yield* Deferred.make<void>()
        /** Goes on until something fails. */
        const flow: Effect.Effect<readonly [body: string, error: Effect.Error<ReturnType<typeof publish>>]> = Effect
          .suspend(() => {
            const body = String(++published)
            return Effect.matchEffect(publish(body), {
              onFailure: (error) => Effect.succeed([body, error] as const),
              onSuccess: () => published < 3000 ? flow : Effect.andThen(Deferred.succeed(flowing, undefined), flow)
            })
          })
        const publishing = yield* Effect.forkChild(Effect.replicateEffect(flow, 500, { concurrency: "unbounded" }))
        yield* Deferred.await(flowing)
        yield* channel.exchangeDelete({ exchange })
        const failures = yield* Fiber.join(publishing)
        const stored = yield* storedIn(queue)
        for (const [body, error] of failures) {
          if (error._tag === "AmqpNotFound") assert.isFalse(stored.has(body), `${body} is stored`)
          else if (error._tag === "AmqpResendFailed") assert.isTrue(error.inDoubt)
          else assert.strictEqual(error._tag, "AmqpPublishUnconfirmed")
          if ("cause" in error) assert.propertyVal(error.cause, "_tag", "AmqpNotFound")
        }
        // Nor is it sent again, only to be refused in the same words.
        const inDoubt = failures.filter(([, error]) =>
          error._tag === "AmqpResendFailed" ? error.attempts === 1 : error._tag === "AmqpPublishUnconfirmed"
        )
        assert.isNotEmpty(inDoubt)
      }))
  )
})

describe.runIf(canControl)("publishes that the user may not do, among others that they may", () => {
  layer(onVhost, { excludeTestServices: true })((it) => {
    it.effect("the default exchange, whose name is another one in the broker's words", () =>
      Effect.gen(function*() {
        const username = uniqueName("writer")
        const password = uniqueName("password")
        const { addUser, deleteUser, setPermissions } = yield* Broker.control
        yield* Effect.acquireRelease(addUser(username, password), () => Effect.orDie(deleteUser(username)))
        yield* setPermissions(username, (yield* Vhost).name, { write: "^amq\\.direct$" })
        const credentials = { username, password: Redacted.make(password) }
        yield* onConnection(
          Effect.gen(function*() {
            const publisher = yield* AmqpPublisher.make({ mandatory: false, exchange: "amq.direct" })
            const messages = spoiled(numbered(50, {}), [10, 20], { exchange: "" })
            const { failures } = yield* Effect.flip(publisher.publishAll(messages, { resend }))
            assert.deepStrictEqual(failures.map(({ index }) => index), [10, 20])
            for (const { error } of failures) {
              assert.strictEqual((error._tag === "AmqpResendFailed" ? error.cause : error)._tag, "AmqpAccessRefused")
            }
          }),
          { credentials }
        )
      }).pipe(Effect.scoped))

    // The embedded broker has no permissions for topics.
    it.effect.runIf(isRabbitMQ)(
      "a topic: others to the same exchange are in doubt, and stored in the end",
      () =>
        onConnection(Effect.gen(function*() {
          const queue = yield* makeQueue
          const exchange = uniqueName("topics")
          const vhost = (yield* Vhost).name
          const { eval: evaluate } = yield* Broker.rabbitmq
          const channel = yield* AmqpChannel.open
          yield* channel.exchangeDeclare({ exchange, type: "topic" })
          yield* channel.queueBind({ queue, exchange, routingKey: "#" })
          yield* evaluate(
            `rabbit_auth_backend_internal:set_topic_permissions(<<"guest">>, <<"${vhost}">>, <<"${exchange}">>, ` +
              `<<"^mine">>, <<".*">>, <<"harness">>)`
          )
          const publisher = yield* AmqpPublisher.make()
          const messages = spoiled(numbered(60, { exchange, routingKey: "mine.x" }), [30], { routingKey: "yours" })
          const { failures } = yield* Effect.flip(publisher.publishAll(messages))
          assert.deepStrictEqual(
            failures.filter(({ error }) => error._tag === "AmqpAccessRefused").map(({ index }) => index),
            [30]
          )
          const { failures: left } = yield* Effect.flip(publisher.publishAll(messages, { resend }))
          assert.deepStrictEqual(left.map(({ error, index }) => [index, error._tag]), [[30, "AmqpAccessRefused"]])
          assert.deepStrictEqual([...(yield* storedIn(queue)).keys()].sort(), [...without(60, [30])].sort())
        }))
    )
  })
})

const faults = Layer.provide(AmqpFaults.layer, NodeAmqp.layerTransport)

/** Runs a test on a connection that faults strike. */
const faulty = <A, E, R>(
  test: Effect.Effect<A, E, R>,
  options: AmqpConnection.Options = {}
) => {
  const connection = Layer.unwrap(Effect.map(Vhost, ({ amqpUrl }) =>
    AmqpConnection.layer({
      url: Redacted.make(amqpUrl),
      connectionName: uniqueName("refused"),
      reconnect: Schedule.forever,
      ...options
    })))
  return noLeaks(Effect.provide(Effect.scoped(test), Layer.provideMerge(connection, faults), { local: true }))
}

describe("one publish that ends what it is sent on, in words that name nobody", () => {
  /** Each time one of these is sent, the broker does this. */
  const poison = (queue: string, fault: AmqpFaults.FaultAfter<"basic.publish">) =>
    Effect.flatMap(
      AmqpFaults.AmqpFaults,
      ({ at }) =>
        at(AmqpFaults.up("basic.publish", { where: ({ routingKey }) => routingKey === `${queue}-poison` }), fault, {
          times: Infinity
        })
    )
  const unheardOf = AmqpFaults.channelClose(406, "PRECONDITION_FAILED - unheard of")

  layer(onVhost, { excludeTestServices: true })("through faults", (it) => {
    it.effect.each([[0], [777], [1999], [0, 1, 2], [500, 501, 1000, 1500]])(
      "2,000 from 20 fibers, of which the channel is closed at %j: these fail, the rest is stored",
      (bad) =>
        faulty(Effect.gen(function*() {
          const queue = yield* makeQueue
          yield* poison(queue, unheardOf)
          const publisher = yield* AmqpPublisher.make()
          const messages = spoiled(numbered(2000, { routingKey: queue }), bad, { routingKey: `${queue}-poison` })
          const failures = yield* fromFibers(20, messages, (message) => publisher.publish(message, { resend })).pipe(
            Effect.timeout("20 seconds")
          )
          assert.deepStrictEqual([...failures.keys()].sort(), bad.map(String).sort())
          for (const error of failures.values()) assert.strictEqual(error._tag, "AmqpPreconditionFailed", error.message)
          // Each was in flight with a bad one once, and then alone.
          assertStored(yield* storedIn(queue), without(2000, bad), 19 * bad.length)
        }))
    )

    it.effect("in a batch of which all is in flight", () =>
      faulty(Effect.gen(function*() {
        const queue = yield* makeQueue
        yield* poison(queue, unheardOf)
        const publisher = yield* AmqpPublisher.make()
        const messages = spoiled(numbered(600, { routingKey: queue }), [300], { routingKey: `${queue}-poison` })
        const { failures } = yield* Effect.flip(publisher.publishAll(messages, { resend }))
        assert.deepStrictEqual(failures.map(({ index }) => index), [300])
        const [{ error } = assert.fail()] = failures
        assert.strictEqual(error._tag, "AmqpPreconditionFailed")
        assertStored(yield* storedIn(queue), without(600, [300]), 599)
        // Without a resend nobody is told that it was the one, for nobody knows.
        const once = yield* Effect.flip(publisher.publishAll(messages))
        assert.include(once.failures.map(({ index }) => index), 300)
        for (const { error } of once.failures) assert.strictEqual(error._tag, "AmqpPublishUnconfirmed")
      })))

    it.effect("where the connection has no number left for another channel", () =>
      faulty(
        Effect.gen(function*() {
          const queue = yield* makeQueue
          yield* poison(queue, unheardOf)
          const publisher = yield* AmqpPublisher.make()
          const messages = spoiled(numbered(100, { routingKey: queue }), [50], { routingKey: `${queue}-poison` })
          const { failures } = yield* Effect.flip(publisher.publishAll(messages, { resend }))
          assert.deepStrictEqual(failures.map(({ index }) => index), [50])
        }),
        { channelMax: 1 }
      ))

    it.effect("from 20 fibers, where the connection has no number left for another channel", () =>
      faulty(
        Effect.gen(function*() {
          const queue = yield* makeQueue
          yield* poison(queue, unheardOf)
          const messages = spoiled(numbered(2000, { routingKey: queue }), [777], { routingKey: `${queue}-poison` })
          const failures = yield* AmqpPublisher.make().pipe(
            Effect.flatMap((publisher) =>
              fromFibers(20, messages, (message) => publisher.publish(message, { resend }))
            ),
            Effect.timeout("20 seconds"),
            // It has the only channel.
            Effect.scoped
          )
          assert.deepStrictEqual(tagsOf(failures), ["777 AmqpPreconditionFailed"])
          assertStored(yield* storedIn(queue), without(2000, [777]), 19)
        }),
        { channelMax: 1 }
      ))

    it.effect("others of the publisher go on while it is looked for, and waitForConfirms waits for what is alone", () =>
      faulty(Effect.gen(function*() {
        const queue = yield* makeQueue
        yield* poison(queue, unheardOf)
        const publisher = yield* AmqpPublisher.make()
        const messages = spoiled(numbered(300, { routingKey: queue }), [150], { routingKey: `${queue}-poison` })
        const looking = yield* Effect.forkChild(Effect.flip(publisher.publishAll(messages, { resend })), {
          startImmediately: true
        })
        const others = numbered(300, { routingKey: queue }).map((message) => ({
          ...message,
          body: `other ${message.body}`
        }))
        yield* publisher.publishAll(others, { resend })
        yield* Fiber.join(looking)
        yield* publisher.waitForConfirms
        const counts = yield* storedIn(queue)
        assert.strictEqual(counts.size, 599)
      })))

    it.effect("that closes the connection each time is given up, alone; the rest is stored", () =>
      faulty(Effect.gen(function*() {
        const queue = yield* makeQueue
        yield* poison(queue, AmqpFaults.connectionClose(541, "INTERNAL_ERROR"))
        const publisher = yield* AmqpPublisher.make()
        const messages = spoiled(numbered(2000, { routingKey: queue }), [999], { routingKey: `${queue}-poison` })
        const failures = yield* fromFibers(20, messages, (message) => publisher.publish(message, { resend }))
        assert.deepStrictEqual(tagsOf(failures), ["999 AmqpResendFailed"])
        const error = failures.get("999")
        if (error?._tag !== "AmqpResendFailed") return assert.fail()
        // Once with the others, twice alone.
        assert.strictEqual(error.attempts, 3)
        assert.isTrue(error.inDoubt)
        assert.deepInclude(error.cause, {
          _tag: "AmqpPublishUnconfirmed",
          cause: fromConnectionClose({ replyCode: 541, replyText: "INTERNAL_ERROR", classId: 0, methodId: 0 })
        })
        assert.strictEqual((yield* storedIn(queue)).size, 1999)
        const status = yield* (yield* AmqpConnection.AmqpConnection).status
        assert.strictEqual(status._tag === "Open" && status.epoch, 4)
      })))

    it.effect("that breaks the connection each time goes on alone, as long as its schedule says", () =>
      faulty(Effect.gen(function*() {
        const queue = yield* makeQueue
        yield* poison(queue, AmqpFaults.reset)
        const publisher = yield* AmqpPublisher.make()
        const messages = spoiled(numbered(500, { routingKey: queue }), [250], { routingKey: `${queue}-poison` })
        const publish = (message: Publish) =>
          publisher.publish(message, message.routingKey === queue ? { resend } : { resend: Schedule.recurs(6) })
        const failures = yield* fromFibers(20, messages, publish)
        assert.deepStrictEqual(tagsOf(failures), ["250 AmqpResendFailed"])
        assert.strictEqual((yield* storedIn(queue)).size, 499)
      })))

    it.effect("a publisher that is closed meanwhile sends nothing more, and says so", () =>
      faulty(Effect.gen(function*() {
        const queue = yield* makeQueue
        yield* poison(queue, unheardOf)
        const scope = yield* Scope.make()
        const publisher = yield* Scope.provide(AmqpPublisher.make(), scope)
        const messages = spoiled(numbered(500, { routingKey: queue }), [250], { routingKey: `${queue}-poison` })
        const refused = yield* Deferred.make<void>()
        const telling = Schedule.spaced("1 millis").pipe(
          Schedule.setInputType<AmqpPublisher.PublishError>(),
          Schedule.tap(() => Deferred.succeed(refused, undefined))
        )
        const publishing = yield* Effect.forkChild(Effect.flip(publisher.publishAll(messages, { resend: telling })), {
          startImmediately: true
        })
        yield* Deferred.await(refused)
        yield* Scope.close(scope, Exit.void)
        const { failures } = yield* Fiber.join(publishing)
        const stored = yield* storedIn(queue)
        for (const { error, index } of failures) {
          assert.strictEqual(error._tag === "AmqpResendFailed" && error.inDoubt, true, String(index))
        }
        const failed = new Set(failures.map(({ index }) => index))
        for (let i = 0; i < 500; i++) assert.isTrue(failed.has(i) || stored.has(String(i)))
      })))

    it.effect("a channel that is not opened for a while is waited for", () =>
      faulty(Effect.gen(function*() {
        const { at } = yield* AmqpFaults.AmqpFaults
        const queue = yield* makeQueue
        const publisher = yield* AmqpPublisher.make()
        yield* at(AmqpFaults.up("confirm.select"), AmqpFaults.channelClose(406, "PRECONDITION_FAILED - not yet"))
        const bad = publisher.publish({ routingKey: queue, body: "", properties: { expiration: "x" } })
        assert.strictEqual((yield* Effect.flip(bad))._tag, "AmqpPreconditionFailed")
        const waiting = yield* Effect.forkChild(Effect.flip(publisher.publish({ routingKey: queue, body: "learns" })), {
          startImmediately: true
        })
        yield* publisher.publish({ routingKey: queue, body: "waits" }, { resend })
        const error = yield* Fiber.join(waiting)
        assert.strictEqual(error._tag === "AmqpChannelClosed" && error.cause?._tag, "AmqpPreconditionFailed")
        assert.deepStrictEqual(yield* storedIn(queue), new Map([["waits", 1]]))
      })))

    it.effect("the end of the connection for another's mistake is a loss to it, the end for good is final", () =>
      faulty(
        Effect.gen(function*() {
          const { inject } = yield* AmqpFaults.AmqpFaults
          const queue = yield* makeQueue
          const publisher = yield* AmqpPublisher.make()
          yield* inject(AmqpFaults.refuse())
          yield* inject(AmqpFaults.connectionClose(540, "NOT_IMPLEMENTED - active=false"))
          const connection = yield* AmqpConnection.AmqpConnection
          yield* Stream.runHead(Stream.filter(connection.changes, ({ _tag }) => _tag === "Reconnecting"))
          assert.strictEqual(
            (yield* Effect.flip(publisher.publish({ routingKey: queue, body: "" })))._tag,
            "AmqpConnectionError"
          )
          const publishing = yield* Effect.forkChild(publisher.publish({ routingKey: queue, body: "1" }, { resend }))
          yield* AmqpFaults.AmqpFaults.pipe(Effect.flatMap(({ heal }) => heal))
          yield* Fiber.join(publishing)
          yield* connection.close
          const error = yield* Effect.flip(publisher.publish({ routingKey: queue, body: "2" }, { resend }))
          assert.strictEqual(error._tag === "AmqpConnectionError" && error.reason._tag, "ConnectionClosed")
        }),
        { waitTimeout: "30 millis", reconnect: Schedule.spaced("100 millis") }
      ))
  })
})

/**
 * Exchanges (scenarios EQ01 to EQ10, EQ27): declaring, deleting, binding, and how messages travel between them.
 */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import { onVhost, uniqueName } from "../harness/shared.ts"
import { assertFailure, drain, failureOf, onConnection } from "./support.ts"

/** A fresh queue that takes what an exchange gives for this key. */
const boundQueue = Effect.fnUntraced(function*(
  channel: AmqpChannel.AmqpChannel,
  exchange: string,
  routingKey = "",
  args: AmqpTable.InputTable = {}
) {
  const { queue } = yield* channel.queueDeclare({ exclusive: true })
  yield* channel.queueBind({ queue, exchange, routingKey, arguments: args })
  return queue
})

layer(onVhost, { excludeTestServices: true })("exchanges", (it) => {
  it.effect("EQ01 every type, durable or not, auto-delete or not, internal or not; declaring the same again is fine", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const bools = [false, true]
      for (const type of ["direct", "fanout", "topic", "headers"]) {
        for (const durable of bools) {
          for (const autoDelete of bools) {
            for (const internal of bools) {
              const options = { exchange: uniqueName("x"), type, durable, autoDelete, internal }
              yield* channel.exchangeDeclare(options)
              yield* channel.exchangeDeclare(options)
              yield* channel.exchangeDeclarePassive(options.exchange)
            }
          }
        }
      }
      // An auto-delete exchange goes with its last binding, and only then.
      const [auto, stays] = [uniqueName("x"), uniqueName("x")]
      yield* channel.exchangeDeclare({ exchange: auto, autoDelete: true })
      yield* channel.exchangeDeclare({ exchange: stays })
      for (const exchange of [auto, stays]) {
        const queue = yield* boundQueue(channel, exchange, "key")
        yield* channel.queueUnbind({ queue, exchange, routingKey: "key" })
      }
      yield* channel.exchangeDeclarePassive(stays)
      assertFailure(yield* failureOf((other) => other.exchangeDeclarePassive(auto)), "AmqpNotFound")
    })))

  it.effect("EQ02 declaring it otherwise is AmqpPreconditionFailed, which names what differs", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const exchange = uniqueName("x")
      const declared = { exchange, type: "topic", arguments: { "alternate-exchange": "amq.fanout" } }
      yield* channel.exchangeDeclare(declared)
      const others: ReadonlyArray<readonly [string, Partial<AmqpChannel.ExchangeDeclareOptions>]> = [
        ["'type'", { type: "direct" }],
        ["'durable'", { durable: true }],
        ["'auto_delete'", { autoDelete: true }],
        ["'internal'", { internal: true }],
        ["'alternate-exchange'", { arguments: { "alternate-exchange": "amq.direct" } }],
        ["'alternate-exchange'", { arguments: {} }]
      ]
      for (const [name, other] of others) {
        const error = yield* failureOf((channel) => channel.exchangeDeclare({ ...declared, ...other }))
        assertFailure(error, "AmqpPreconditionFailed", name, exchange)
      }
      const error = yield* failureOf((channel) => channel.exchangeDeclare({ ...declared, durable: true }))
      if (error._tag !== "AmqpPreconditionFailed") return assert.fail(error.message)
      const { classId, entity, methodId, operation, replyCode } = error
      assert.deepStrictEqual(
        { classId, entity, methodId, operation, replyCode },
        { classId: 40, entity: exchange, methodId: 10, operation: "exchange.declare", replyCode: 406 }
      )
      // None of it reached this channel, nor the exchange.
      yield* channel.exchangeDeclare(declared)
    })))

  it.effect("EQ04 a passive declare of a missing exchange is AmqpNotFound; flags do not matter to it", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const exchange = uniqueName("x")
      assertFailure(yield* failureOf((other) => other.exchangeDeclarePassive(exchange)), "AmqpNotFound", exchange)
      yield* channel.exchangeDeclare({ exchange, type: "headers", durable: true, autoDelete: true, internal: true })
      yield* channel.exchangeDeclarePassive(exchange)
    })))

  it.effect("EQ05 the default exchange cannot be declared, deleted or bound: AmqpAccessRefused", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      const toDefault = { destination: "", source: "amq.fanout" }
      const fromDefault = { destination: "amq.fanout", source: "" }
      const errors = yield* Effect.all([
        failureOf((other) => other.exchangeDeclare({ exchange: "" })),
        failureOf((other) => other.exchangeDelete({ exchange: "" })),
        failureOf((other) => other.exchangeBind(toDefault)),
        failureOf((other) => other.exchangeBind(fromDefault)),
        failureOf((other) => other.exchangeUnbind(toDefault)),
        failureOf((other) => other.exchangeUnbind(fromDefault)),
        failureOf((other) => other.queueBind({ queue, exchange: "", routingKey: "key" })),
        failureOf((other) => other.queueUnbind({ queue, exchange: "", routingKey: queue }))
      ])
      for (const error of errors) assertFailure(error, "AmqpAccessRefused", "default exchange")
    })))

  it.effect("EQ06 names of the broker: amq.direct is not deleted, amq.foo not created, but looked for in vain", () =>
    onConnection(Effect.gen(function*() {
      assertFailure(
        yield* failureOf((channel) => channel.exchangeDelete({ exchange: "amq.direct" })),
        "AmqpAccessRefused",
        "amq.direct"
      )
      assertFailure(
        yield* failureOf((channel) => channel.exchangeDeclare({ exchange: "amq.foo" })),
        "AmqpAccessRefused",
        "reserved"
      )
      assertFailure(yield* failureOf((channel) => channel.exchangeDeclarePassive("amq.foo")), "AmqpNotFound", "amq.foo")
      yield* (yield* AmqpChannel.open).exchangeDeclarePassive("amq.direct")
    })))

  it.effect("EQ07 an internal exchange refuses publishes and takes messages from another exchange", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const [front, internal] = [uniqueName("front"), uniqueName("internal")]
      yield* channel.exchangeDeclare({ exchange: front, type: "fanout" })
      yield* channel.exchangeDeclare({ exchange: internal, type: "fanout", internal: true })
      yield* channel.exchangeBind({ destination: internal, source: front })
      const queue = yield* boundQueue(channel, internal)
      yield* channel.publish({ exchange: front, body: "through" })
      assert.deepStrictEqual(yield* drain(channel, queue), ["through"])

      const message = { exchange: internal, body: "direct" }
      const confirmed = yield* failureOf((other) => Effect.andThen(other.confirmSelect, other.publish(message)))
      assertFailure(confirmed, "AmqpAccessRefused", "internal", internal)
      // Without confirms the publish is over before the broker sees it: the channel ends.
      const other = yield* AmqpChannel.open
      yield* other.publish(message)
      const closed = yield* other.closed
      assert.strictEqual(closed.cause?._tag, "AmqpAccessRefused")
      assert.deepStrictEqual(yield* drain(channel, queue), [])
    })))

  it.effect("EQ08 exchange to exchange: with arguments, twice, and undone twice", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const [source, destination] = [uniqueName("source"), uniqueName("destination")]
      yield* channel.exchangeDeclare({ exchange: source, type: "headers" })
      yield* channel.exchangeDeclare({ exchange: destination, type: "fanout" })
      const queue = yield* boundQueue(channel, destination)
      const binding = { destination, source, arguments: { "x-match": "all", color: "red", size: 7 } }
      const publish = (body: string, headers: AmqpTable.InputTable) =>
        channel.publish({ exchange: source, body, properties: { headers } })
      yield* channel.exchangeBind(binding)
      yield* channel.exchangeBind(binding)
      yield* publish("both", { color: "red", size: 7 })
      yield* publish("one", { color: "red", size: 8 })
      assert.deepStrictEqual(yield* drain(channel, queue), ["both"])

      // A binding is told apart by its arguments.
      yield* channel.exchangeUnbind({ ...binding, arguments: { "x-match": "any" } })
      yield* publish("still", { color: "red", size: 7 })
      assert.deepStrictEqual(yield* drain(channel, queue), ["still"])
      yield* channel.exchangeUnbind(binding)
      yield* channel.exchangeUnbind(binding)
      yield* publish("not any more", { color: "red", size: 7 })
      assert.deepStrictEqual(yield* drain(channel, queue), [])

      const missing = uniqueName("missing")
      assertFailure(
        yield* failureOf((other) => other.exchangeBind({ destination: missing, source })),
        "AmqpNotFound",
        missing
      )
      assertFailure(
        yield* failureOf((other) => other.exchangeBind({ destination, source: missing })),
        "AmqpNotFound",
        missing
      )
      yield* channel.exchangeUnbind({ destination, source: missing })
    })))

  it.effect("EQ09 an alternate exchange takes what nobody wants, and then nothing is returned", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const [exchange, alternate] = [uniqueName("x"), uniqueName("alternate")]
      yield* channel.exchangeDeclare({ exchange: alternate, type: "fanout" })
      yield* channel.exchangeDeclare({ exchange, arguments: { "alternate-exchange": alternate } })
      const queue = yield* boundQueue(channel, alternate)
      yield* channel.confirmSelect
      yield* channel.publish({ exchange, routingKey: "nobody", body: "caught", mandatory: true })
      assert.deepStrictEqual(yield* drain(channel, queue), ["caught"])
      yield* channel.queueDelete({ queue })
      const error = yield* Effect.flip(
        channel.publish({ exchange, routingKey: "nobody", body: "lost", mandatory: true })
      )
      assertFailure(error, "AmqpMessageReturned", "312")
    })))

  it.effect("EQ10 deleting if unused: not with a binding, without one, and a missing one is no error", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const exchange = uniqueName("x")
      yield* channel.exchangeDeclare({ exchange })
      const queue = yield* boundQueue(channel, exchange, "key")
      assertFailure(
        yield* failureOf((other) => other.exchangeDelete({ exchange, ifUnused: true })),
        "AmqpPreconditionFailed",
        "in use"
      )
      yield* channel.queueUnbind({ queue, exchange, routingKey: "key" })
      yield* channel.exchangeDelete({ exchange, ifUnused: true })
      yield* channel.exchangeDelete({ exchange, ifUnused: true })
      assertFailure(yield* failureOf((other) => other.exchangeDeclarePassive(exchange)), "AmqpNotFound")
      // Without the condition a binding is no obstacle.
      yield* channel.exchangeDeclare({ exchange })
      yield* channel.queueBind({ queue, exchange, routingKey: "key" })
      yield* channel.exchangeDelete({ exchange })
      yield* channel.queueUnbind({ queue, exchange, routingKey: "key" })
    })))

  it.effect("EQ27 a headers exchange matches any or all of integers, booleans, text and void", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const exchange = uniqueName("x")
      yield* channel.exchangeDeclare({ exchange, type: "headers" })
      const match = { int: 1, flag: true, text: "a", present: null }
      const all = yield* boundQueue(channel, exchange, "", { ...match, "x-match": "all" })
      const any = yield* boundQueue(channel, exchange, "", { ...match, "x-match": "any" })
      const none = yield* boundQueue(channel, exchange, "", { "x-match": "any", "x-private": 1 })
      const withX = yield* boundQueue(channel, exchange, "", { "x-match": "any-with-x", "x-private": 1 })
      const publish = (body: string, headers: AmqpTable.InputTable) =>
        channel.publish({ exchange, body, properties: { headers } })
      yield* publish("all", { int: 1, flag: true, text: "a", present: "whatever" })
      yield* publish("all, wider", { int: AmqpTable.int64(1n), flag: true, text: "a", present: null, more: 2 })
      yield* publish("int", { int: 1 })
      yield* publish("flag", { flag: true })
      yield* publish("void", { present: 0 })
      yield* publish("nothing", { int: 2, flag: false, text: "b" })
      yield* publish("x", { "x-private": 1 })
      assert.deepStrictEqual(yield* drain(channel, all), ["all", "all, wider"])
      assert.deepStrictEqual(yield* drain(channel, any), ["all", "all, wider", "int", "flag", "void"])
      assert.deepStrictEqual(yield* drain(channel, none), [])
      assert.deepStrictEqual(yield* drain(channel, withX), ["x"])
    })))

  it.effect("a type that the broker does not know ends the connection: CommandInvalid", () =>
    onConnection(Effect.gen(function*() {
      const error = yield* failureOf((channel) => channel.exchangeDeclare({ exchange: uniqueName("x"), type: "nope" }))
      if (error._tag !== "AmqpConnectionError") return assert.fail(error.message)
      assertFailure(error.reason, "CommandInvalid", "nope")
    })))
})

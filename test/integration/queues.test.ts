/**
 * Queues (scenarios EQ04, EQ11 to EQ30): declaring, what makes them go, deleting, purging, binding, and their types.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Option, type Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { canControl, isRabbitMQ, onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import {
  assertFailure,
  connect,
  drain,
  failureOf,
  framesOf,
  methodsOf,
  onConnection,
  openOn,
  proxied
} from "./support.ts"

/** Waits until a queue has gone, and the broker has forgotten it. */
const gone = Effect.fnUntraced(function*(queue: string) {
  const { queueEnds } = yield* Broker.control
  yield* queueEnds((yield* Vhost).name, queue)
  assertFailure(yield* failureOf((channel) => channel.queueDeclarePassive(queue)), "AmqpNotFound", queue)
})

/** The reason of the connection error that an operation ends its connection with. */
const reasonOf = <A, E extends { readonly _tag: string; readonly message: string }>(
  use: (channel: AmqpChannel.AmqpChannel) => Effect.Effect<A, E, Scope.Scope>
) =>
  Effect.gen(function*() {
    const channel = yield* openOn(yield* connect())
    yield* Effect.flip(use(channel))
    const { cause } = yield* channel.closed
    return cause?._tag === "AmqpConnectionError" ? cause.reason : assert.fail(`${cause}`)
  }).pipe(Effect.scoped)

layer(onVhost, { excludeTestServices: true })("queues", (it) => {
  it.effect("EQ04 a passive declare of a missing queue is AmqpNotFound; flags do not matter to it", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = uniqueName("q")
      const error = yield* failureOf((other) => other.queueDeclarePassive(queue))
      assertFailure(error, "AmqpNotFound", queue)
      yield* channel.queueDeclare({
        queue,
        durable: true,
        exclusive: true,
        autoDelete: true,
        arguments: { "x-expires": 60_000 }
      })
      assert.deepStrictEqual(yield* channel.queueDeclarePassive(queue), { queue, messageCount: 0, consumerCount: 0 })
    })))

  it.effect("EQ11 without a name the broker makes one up; also declared again that way it is another queue", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const one = yield* channel.queueDeclare({ exclusive: true })
      assert.match(one.queue, /^amq\.gen-/)
      assert.deepStrictEqual([one.messageCount, one.consumerCount], [0, 0])
      const two = yield* channel.queueDeclare({ queue: "", exclusive: true })
      assert.match(two.queue, /^amq\.gen-/)
      assert.notStrictEqual(one.queue, two.queue)
      // The default of all options, which is no exclusive queue: any connection may use it.
      const { queue } = yield* channel.queueDeclare()
      yield* (yield* openOn(yield* connect())).queueDelete({ queue })
    })))

  it.effect("EQ11 a name that the broker changes is told as it is", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = uniqueName("q")
      const declared = yield* channel.queueDeclare({ queue: `${queue}\r\n`, exclusive: true })
      assert.strictEqual(declared.queue, queue)
    })))

  it.effect("EQ12 declaring tells the messages that are ready and the consumers", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = uniqueName("q")
      yield* channel.queueDeclare({ queue, exclusive: true })
      yield* channel.qos({ prefetchCount: 1 })
      yield* channel.consume({ queue })
      yield* channel.consume({ queue })
      yield* channel.confirmSelect
      yield* Effect.forEach([1, 2, 3, 4, 5, 6, 7], (n) => channel.publish({ routingKey: queue, body: `${n}` }))
      const counts = { queue, messageCount: 5, consumerCount: 2 }
      assert.deepStrictEqual(yield* channel.queueDeclare({ queue, exclusive: true }), counts)
      assert.deepStrictEqual(yield* channel.queueDeclarePassive(queue), counts)
    })))

  it.effect("EQ13 declaring it otherwise is AmqpPreconditionFailed, which names what differs", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = uniqueName("q")
      const declared = { queue, durable: true, arguments: { "x-max-length": 5 } }
      yield* channel.queueDeclare(declared)
      const others: ReadonlyArray<readonly [string, Partial<AmqpChannel.QueueDeclareOptions>]> = [
        ["'durable'", { durable: false }],
        ["'auto_delete'", { autoDelete: true }],
        ["'x-max-length'", { arguments: { "x-max-length": 6 } }],
        ["'x-max-length'", { arguments: {} }],
        ["'x-message-ttl'", { arguments: { "x-max-length": 5, "x-message-ttl": 1000 } }]
      ]
      for (const [name, other] of others) {
        const error = yield* failureOf((channel) => channel.queueDeclare({ ...declared, ...other }))
        assertFailure(error, "AmqpPreconditionFailed", name, queue)
      }
      // To ask for it exclusively is to ask for a queue that is somebody else's.
      const locked = yield* failureOf((channel) => channel.queueDeclare({ ...declared, exclusive: true }))
      assertFailure(locked, "AmqpResourceLocked", queue)

      const same = [AmqpTable.int8(5), AmqpTable.int16(5), AmqpTable.int32(5), AmqpTable.int64(5n)]
      for (const length of same) {
        yield* channel.queueDeclare({ ...declared, arguments: { "x-max-length": length, "x-unknown": "whatever" } })
      }
      yield* channel.queueDelete({ queue })
    })))

  it.effect("EQ14 arguments that make no sense are AmqpPreconditionFailed", () =>
    onConnection(Effect.gen(function*() {
      const bad: ReadonlyArray<AmqpTable.InputTable> = [
        { "x-message-ttl": "abc" },
        { "x-message-ttl": -1 },
        { "x-message-ttl": 1.5 },
        { "x-expires": 0 },
        { "x-max-priority": 256 },
        { "x-max-length": -1 },
        { "x-overflow": "zz" },
        { "x-queue-type": "zz" },
        { "x-single-active-consumer": "yes" },
        { "x-dead-letter-routing-key": "key" }
      ]
      for (const args of bad) {
        const error = yield* failureOf((channel) => channel.queueDeclare({ queue: uniqueName("q"), arguments: args }))
        assertFailure(error, "AmqpPreconditionFailed", Object.keys(args).join())
      }
    })))

  it.effect("EQ16 an exclusive queue is locked for others, outlives its channel, and goes with its connection", () =>
    onConnection(Effect.gen(function*() {
      const queue = uniqueName("q")
      yield* Effect.scoped(Effect.gen(function*() {
        const owner = yield* connect()
        const first = yield* openOn(owner)
        yield* first.queueDeclare({ queue, exclusive: true, durable: true })
        yield* first.close
        const second = yield* openOn(owner)
        yield* second.queueDeclarePassive(queue)
        yield* second.queueBind({ queue, exchange: "amq.fanout" })

        const locked = yield* Effect.all([
          failureOf((channel) => channel.queueDeclare({ queue, durable: true })),
          failureOf((channel) => channel.queueDeclarePassive(queue)),
          failureOf((channel) => channel.queueBind({ queue, exchange: "amq.fanout" })),
          failureOf((channel) => channel.queueUnbind({ queue, exchange: "amq.fanout" })),
          failureOf((channel) => channel.queuePurge(queue)),
          failureOf((channel) => channel.queueDelete({ queue })),
          failureOf((channel) => channel.get({ queue })),
          failureOf((channel) => channel.consume({ queue }))
        ])
        for (const error of locked) assertFailure(error, "AmqpResourceLocked", queue)
        // Publishing to it is everybody's right.
        const stranger = yield* AmqpChannel.open
        yield* stranger.confirmSelect
        yield* stranger.publish({ routingKey: queue, body: "from a stranger", mandatory: true })
        assert.deepStrictEqual(yield* drain(second, queue), ["from a stranger"])
      }))
      assertFailure(yield* failureOf((channel) => channel.queueDeclarePassive(queue)), "AmqpNotFound")
    })))

  describe.runIf(canControl)("EQ17 an auto-delete queue", () => {
    it.effect("lives without consumers, and goes when the last of them is cancelled", () =>
      onConnection(Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        const { queue } = yield* channel.queueDeclare({ autoDelete: true })
        const one = yield* channel.consume({ queue })
        const two = yield* channel.consume({ queue })
        yield* one.cancel
        assert.strictEqual((yield* channel.queueDeclarePassive(queue)).consumerCount, 1)
        yield* two.cancel
        yield* gone(queue)
      })))

    it.effect("goes when the channel of its consumer closes", () =>
      onConnection(Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        const { queue } = yield* channel.queueDeclare({ autoDelete: true })
        const other = yield* AmqpChannel.open
        yield* other.consume({ queue })
        yield* other.close
        yield* gone(queue)
      })))

    it.effect("goes when the socket of its consumer dies", () =>
      onConnection(Effect.gen(function*() {
        const { connection, link } = yield* proxied()
        const channel = yield* openOn(connection)
        const { queue } = yield* channel.queueDeclare({ autoDelete: true })
        yield* channel.consume({ queue })
        yield* link.reset
        const { cause } = yield* channel.closed
        assert.strictEqual(cause?._tag === "AmqpConnectionError" && cause.reason._tag, "ConnectionLost")
        yield* gone(queue)
      })))
  })

  it.effect("EQ18 deleting only if empty or unused, how many messages went, and a missing queue", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const { queue } = yield* channel.queueDeclare({ queue: uniqueName("q") })
      yield* channel.confirmSelect
      yield* Effect.forEach(["a", "b", "c"], (body) => channel.publish({ routingKey: queue, body }))
      assertFailure(
        yield* failureOf((other) => other.queueDelete({ queue, ifEmpty: true })),
        "AmqpPreconditionFailed",
        "not empty"
      )
      const consumer = yield* channel.consume({ queue })
      assertFailure(
        yield* failureOf((other) => other.queueDelete({ queue, ifUnused: true })),
        "AmqpPreconditionFailed",
        "in use"
      )
      yield* consumer.cancel
      yield* channel.recover
      assert.strictEqual(yield* channel.queueDelete({ queue, ifUnused: true }), 3)
      assert.strictEqual(yield* channel.queueDelete({ queue, ifUnused: true, ifEmpty: true }), 0)
      yield* channel.queueUnbind({ queue, exchange: "amq.fanout" })
      const missing = yield* Effect.all([
        failureOf((other) => other.queuePurge(queue)),
        failureOf((other) => other.queueBind({ queue, exchange: "amq.fanout" })),
        failureOf((other) => other.get({ queue })),
        failureOf((other) => other.consume({ queue }))
      ])
      for (const error of missing) assertFailure(error, "AmqpNotFound", queue)
    })))

  it.effect("EQ19 purging tells how many, and leaves what is unsettled", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.confirmSelect
      yield* Effect.forEach(["held", "b", "c"], (body) => channel.publish({ routingKey: queue, body }))
      const held = Option.getOrThrow(yield* channel.get({ queue }))
      assert.strictEqual(yield* channel.queuePurge(queue), 2)
      assert.strictEqual(yield* channel.queuePurge(queue), 0)
      yield* held.delivery.nack()
      assert.deepStrictEqual(yield* drain(channel, queue), ["held"])
    })))

  it.effect("EQ20 binding \"\" means the queue that this channel declared last", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      assertFailure(
        yield* failureOf((other) => other.queueBind({ queue: "", exchange: "amq.direct", routingKey: "key" })),
        "AmqpNotFound",
        "no previously declared queue"
      )
      const key = uniqueName("key")
      const { queue: first } = yield* channel.queueDeclare({ exclusive: true })
      const { queue: second } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.queueBind({ queue: "", exchange: "amq.direct", routingKey: key })
      yield* channel.publish({ exchange: "amq.direct", routingKey: key, body: "for the last" })
      assert.deepStrictEqual(yield* drain(channel, second), ["for the last"])
      assert.deepStrictEqual(yield* drain(channel, first), [])
    })))

  it.effect("EQ23 a name is limited in bytes, not in characters, and too long a one is never sent", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const longest = `${"✓".repeat(84)}abc` // 255 bytes
      const tooLong = "✓".repeat(86) // 86 characters, 258 bytes
      const { queue } = yield* channel.queueDeclare({ queue: longest, exclusive: true })
      assert.strictEqual(queue, longest)
      const sent = yield* methodsOf(link, "up")
      const failures = [
        [yield* Effect.flip(channel.queueDeclare({ queue: tooLong })), "queue"],
        [yield* Effect.flip(channel.queueDeclare({ queue: `${longest}d` })), "queue"],
        [yield* Effect.flip(channel.queueDelete({ queue: tooLong })), "queue"],
        [yield* Effect.flip(channel.queueBind({ queue, exchange: tooLong })), "exchange"],
        [yield* Effect.flip(channel.queueBind({ queue, exchange: "amq.topic", routingKey: tooLong })), "routingKey"],
        [yield* Effect.flip(channel.exchangeDeclare({ exchange: tooLong })), "exchange"],
        [yield* Effect.flip(channel.exchangeDeclare({ exchange: "x", type: tooLong })), "type"],
        [yield* Effect.flip(channel.publish({ exchange: tooLong, body: "" })), "exchange"],
        [yield* Effect.flip(channel.publish({ routingKey: tooLong, body: "" })), "routingKey"]
      ] as const
      for (const [error, path] of failures) {
        assertFailure(error, "AmqpEncodeError", path, "255")
      }
      assert.deepStrictEqual(yield* methodsOf(link, "up"), sent)
      yield* channel.queueDelete({ queue })
    })))

  // `noWait` is not offered, the type of the options refuses it. From JavaScript it changes nothing:
  it.effect("EQ25 a nameless queue is always answered, so that its name is known", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const options = { queue: "", exclusive: true, noWait: true }
      assert.match((yield* channel.queueDeclare(options)).queue, /^amq\.gen-/)
      const frames = yield* framesOf(link, "up")
      const declares = frames.flatMap((frame) =>
        frame._tag === "Method" && frame.method._tag === "queue.declare" ? [frame.method.noWait] : []
      )
      assert.deepStrictEqual(declares, [false])
    })))

  it.effect("EQ26 a quorum queue is durable, shared and named", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = uniqueName("quorum")
      const quorum = { queue, durable: true, arguments: { "x-queue-type": "quorum" } }
      const errors = yield* Effect.all([
        failureOf((other) => other.queueDeclare({ ...quorum, durable: false })),
        failureOf((other) => other.queueDeclare({ ...quorum, exclusive: true })),
        failureOf((other) => other.queueDeclare({ ...quorum, queue: "" }))
      ])
      for (const error of errors) assertFailure(error, "AmqpPreconditionFailed", "queue.declare")
      yield* channel.queueDeclare(quorum)
      yield* channel.confirmSelect
      yield* channel.publish({ routingKey: queue, body: "kept", mandatory: true })
      const got = Option.getOrThrow(yield* channel.get({ queue }))
      assert.strictEqual(got.delivery.text, "kept")
      yield* got.delivery.ack
      yield* channel.queueDelete({ queue })
    })))

  it.effect("EQ26 a stream is read from an offset, with a prefetch; what it does not do is refused", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      const queue = uniqueName("stream")
      const stream = { queue, durable: true, arguments: { "x-queue-type": "stream" } }
      assertFailure(
        yield* failureOf((other) => other.queueDeclare({ ...stream, exclusive: true })),
        "AmqpPreconditionFailed",
        "exclusive"
      )
      yield* channel.queueDeclare(stream)
      yield* channel.confirmSelect
      yield* Effect.forEach(["zero", "one", "two"], (body) => channel.publish({ routingKey: queue, body }))
      assertFailure(
        yield* failureOf((other) => other.consume({ queue })),
        "AmqpPreconditionFailed",
        "prefetch count is not set"
      )
      yield* channel.qos({ prefetchCount: 10 })
      const consumer = yield* channel.consume({ queue, arguments: { "x-stream-offset": "first" } })
      const seen = yield* consumer.deliveries.pipe(Stream.take(3), Stream.runCollect)
      assert.deepStrictEqual(seen.map(({ text }) => text), ["zero", "one", "two"])
      assert.deepStrictEqual(
        seen.map(({ headersTagged }) => headersTagged),
        [0n, 1n, 2n].map((offset) => AmqpTable.table([["x-stream-offset", AmqpTable.int64(offset, "l")]]))
      )

      const reasons = yield* Effect.all([
        reasonOf((other) => other.get({ queue })),
        reasonOf((other) => other.queuePurge(queue)),
        reasonOf((other) =>
          other.qos({ prefetchCount: 10 }).pipe(Effect.andThen(other.consume({ queue, noAck: true })))
        )
      ])
      for (const reason of reasons) assertFailure(reason, "NotImplemented")
      yield* consumer.cancel
      yield* channel.queueDelete({ queue })
    })))

  it.effect("EQ30 arguments that cannot be carried are named, and nothing is sent", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const sent = yield* methodsOf(link, "up")
      const error = yield* Effect.flip(
        channel.queueDeclare({ exclusive: true, arguments: { "x-nested": { list: [1, Number.NaN] } } })
      )
      assertFailure(error, "AmqpEncodeError", "x-nested.list[1]")
      assert.deepStrictEqual(yield* methodsOf(link, "up"), sent)
      yield* channel.queueDeclare({ exclusive: true })
    })))

  // The embedded broker has no limits of vhosts, and what Erlang makes of a table only Erlang shows.
  describe.runIf(isRabbitMQ && canControl)("limits and arguments, as the broker sees them", () => {
    it.effect("EQ28 a vhost that is full of queues is AmqpPreconditionFailed", () =>
      Effect.provideServiceEffect(
        onConnection(Effect.gen(function*() {
          const { ctl } = yield* Broker.rabbitmq
          yield* ctl("set_vhost_limits", "-p", (yield* Vhost).name, `{"max-queues":1}`)
          const channel = yield* AmqpChannel.open
          yield* channel.queueDeclare({ exclusive: true })
          const error = yield* failureOf((other) => other.queueDeclare({ exclusive: true }))
          assertFailure(error, "AmqpPreconditionFailed", "limit")
        })),
        Vhost,
        Vhost.make
      ))

    it.effect("EQ30 nested arguments reach the broker with their exact types", () =>
      onConnection(Effect.gen(function*() {
        const rabbitmq = yield* Broker.rabbitmq
        const channel = yield* AmqpChannel.open
        const { queue } = yield* channel.queueDeclare({
          exclusive: true,
          arguments: {
            "x-nested": { deep: { list: ["text", 1, -2n, true, null, [2 ** 40, { last: AmqpTable.int16(3) }]] } },
            "x-double": 0.5
          }
        })
        const { name } = yield* Vhost
        const args = yield* rabbitmq.eval(`
          {ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"${name}">>, queue, <<"${queue}">>)),
          io:format("~0p", [lists:sort(amqqueue:get_arguments(Q))])`)
        assert.strictEqual(
          args,
          `[{<<"x-double">>,double,0.5},{<<"x-nested">>,table,[{<<"deep">>,table,[{<<"list">>,array,` +
            `[{longstr,<<"text">>},{signedint,1},{long,-2},{bool,true},{void,undefined},` +
            `{array,[{long,1099511627776},{table,[{<<"last">>,short,3}]}]}]}]}]}]`
        )
      })))
  })
})

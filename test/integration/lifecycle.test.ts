/**
 * How connections end: by themselves, by the broker, by the network, or not at all; what is told of it, and what is
 * left behind.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Redacted, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import type * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpError from "../../src/AmqpError.ts"
import { AmqpTransport } from "../../src/AmqpTransport.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { makeProxy } from "../harness/proxy.ts"
import { canControl, onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { memoryBroker } from "./memoryBroker.ts"
import { runProgram } from "./program.ts"
import { connect, methodsOf, millisOf, noReconnect, openOn, printed, proxied } from "./support.ts"

/** The reason of the end of a connection. */
const reasonOf = (connection: AmqpConnection.AmqpConnection) => Effect.map(connection.closed, ({ reason }) => reason)

/** Waits for the connection to be in that state. */
const reaches = (connection: AmqpConnection.AmqpConnection, tag: AmqpConnection.Status["_tag"]) =>
  Stream.runHead(Stream.filter(connection.changes, ({ _tag }) => _tag === tag))

/** Everything that a connection and what was opened on it can be asked for. */
const everyOperation = (
  connection: AmqpConnection.AmqpConnection,
  channel: AmqpChannel.AmqpChannel
): Record<string, Effect.Effect<unknown, { readonly _tag: string; readonly message: string }, Scope.Scope>> => ({
  server: connection.server,
  updateSecret: connection.updateSecret(Redacted.make("secret")),
  open: openOn(connection),
  exchangeDeclare: channel.exchangeDeclare({ exchange: "x" }),
  exchangeDeclarePassive: channel.exchangeDeclarePassive("amq.direct"),
  exchangeDelete: channel.exchangeDelete({ exchange: "x" }),
  exchangeBind: channel.exchangeBind({ source: "amq.direct", destination: "amq.topic" }),
  exchangeUnbind: channel.exchangeUnbind({ source: "amq.direct", destination: "amq.topic" }),
  queueDeclare: channel.queueDeclare({ exclusive: true }),
  queueDeclarePassive: channel.queueDeclarePassive("q"),
  queueBind: channel.queueBind({ queue: "q", exchange: "amq.direct" }),
  queueUnbind: channel.queueUnbind({ queue: "q", exchange: "amq.direct" }),
  queuePurge: channel.queuePurge("q"),
  queueDelete: channel.queueDelete({ queue: "q" }),
  qos: channel.qos({ prefetchCount: 1 }),
  publish: channel.publish({ routingKey: "q", body: "" }),
  get: channel.get({ queue: "q" }),
  consume: channel.consume({ queue: "q" }),
  cancel: channel.cancel("tag"),
  ack: channel.ack({ deliveryTag: 1 }),
  nack: channel.nack({ deliveryTag: 1 }),
  reject: channel.reject({ deliveryTag: 1 }),
  recover: channel.recover,
  confirmSelect: channel.confirmSelect,
  waitForConfirms: channel.waitForConfirms,
  transaction: channel.transaction(Effect.void),
  flow: channel.flow(true)
})

layer(onVhost, { excludeTestServices: true })("a connection", (it) => {
  it.effect("LC01 update-secret is answered", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      yield* Effect.all([
        connection.updateSecret(Redacted.make("guest")),
        connection.updateSecret(Redacted.make("guest"), "token renewed")
      ], { concurrency: "unbounded" })
      const names = yield* methodsOf(link, "down")
      assert.lengthOf(names.filter((name) => name === "0 connection.update-secret-ok"), 2)
      assert.strictEqual((yield* connection.status)._tag, "Open")
    })))

  it.effect("LC01 a secret or reason that has no form on the wire is an AmqpEncodeError, and nothing is sent", () =>
    noLeaks(Effect.gen(function*() {
      const connection = yield* connect()
      const reason = yield* Effect.flip(connection.updateSecret(Redacted.make("guest"), "x".repeat(256)))
      assert.strictEqual(reason._tag, "AmqpEncodeError")
      const lone = yield* Effect.flip(connection.updateSecret(Redacted.make("hunter2\ud800")))
      assert.strictEqual(lone._tag, "AmqpEncodeError")
      assert.notInclude(printed(lone), "hunter2")
      yield* connection.updateSecret(Redacted.make("guest"))
    })))

  it.effect("LC02 ten closes at once are one close on the wire", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      yield* Effect.all(Array.from({ length: 10 }, () => connection.close), { concurrency: "unbounded" })
      yield* connection.close
      yield* link.closed
      const names = yield* methodsOf(link, "up")
      assert.deepStrictEqual(names.slice(2), ["0 connection.open", "0 connection.close"])
      assert.deepStrictEqual((yield* reasonOf(connection))._tag, "ConnectionClosed")
    })))

  it.effect("LC03 closes within 2 s with 100 open channels and live consumers", () =>
    noLeaks(Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      const ends = yield* Scope.provide(
        Effect.gen(function*() {
          const connection = yield* connect()
          const first = yield* openOn(connection)
          const { queue } = yield* first.queueDeclare({ exclusive: true })
          const consumers = yield* Effect.forEach(
            Array.from({ length: 99 }),
            () => Effect.flatMap(openOn(connection), (channel) => channel.consume({ queue })),
            { concurrency: "unbounded" }
          )
          return yield* Effect.forEach(
            consumers,
            ({ deliveries }) => Effect.forkIn(Effect.exit(Stream.runDrain(deliveries)), scope)
          )
        }),
        scope
      )
      assert.lengthOf(ends, 99)
      yield* Effect.timeout(Scope.close(scope, Exit.void), "2 seconds")
    })))

  it.effect("LC03 closed from inside, ends its consumers", () =>
    noLeaks(Effect.gen(function*() {
      const connection = yield* connect()
      const channels = yield* Effect.all(Array.from({ length: 100 }, () => openOn(connection)), {
        concurrency: "unbounded"
      })
      const consuming = yield* Effect.forEach(channels, (channel) =>
        Effect.gen(function*() {
          const { queue } = yield* channel.queueDeclare({ exclusive: true })
          const { deliveries } = yield* channel.consume({ queue })
          return yield* Effect.forkScoped(Effect.flip(Stream.runDrain(deliveries)))
        }), { concurrency: "unbounded" })
      yield* Effect.timeout(connection.close, "2 seconds")
      for (const fiber of consuming) {
        assert.deepNestedInclude(yield* Fiber.join(fiber), {
          _tag: "AmqpConnectionError",
          "reason._tag": "ConnectionClosed"
        })
      }
    })))

  it.effect("LC04 after the close every operation fails typed, at once", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      const channel = yield* openOn(connection)
      const { queue } = yield* channel.queueDeclare({ exclusive: true })
      yield* channel.publish({ routingKey: queue, body: "" })
      const { delivery } = Option.getOrThrow(yield* channel.get({ queue }))
      yield* connection.close
      yield* link.closed
      const sent = (yield* link.seen("up")).length
      const tags: Record<string, string> = {}
      for (const [name, operation] of Object.entries(everyOperation(connection, channel))) {
        const error = yield* Effect.timeout(Effect.flip(Effect.scoped(operation)), "1 second")
        tags[name] = error._tag
        assert.notEqual(error.message, "")
      }
      const { ack, nack, open, reject, server, updateSecret, ...others } = tags
      assert.deepStrictEqual({ open, server, updateSecret }, {
        open: "AmqpConnectionError",
        server: "AmqpConnectionError",
        updateSecret: "AmqpConnectionError"
      })
      assert.deepStrictEqual({ ack, nack, reject }, {
        ack: "AmqpStaleDelivery",
        nack: "AmqpStaleDelivery",
        reject: "AmqpStaleDelivery"
      })
      assert.deepStrictEqual([...new Set(Object.values(others))], ["AmqpChannelClosed"])
      assert.deepInclude(yield* Effect.flip(delivery.ack), { _tag: "AmqpStaleDelivery", epoch: 1 })
      const closed = yield* channel.closed
      assert.deepNestedInclude(closed, { "cause._tag": "AmqpConnectionError", "cause.reason._tag": "ConnectionClosed" })
      assert.strictEqual((yield* link.seen("up")).length, sent)
    })))

  it.effect("LC05 a process ends by itself when the scope has closed", () =>
    noLeaks(Effect.gen(function*() {
      const { amqpUrl } = yield* Vhost
      const program = yield* runProgram(`
        import { Effect, Stream } from "effect"
        import * as AmqpChannel from "src/AmqpChannel.ts"
        import { layer } from "src/NodeAmqp.ts"
        await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const channel = yield* AmqpChannel.open
          yield* channel.confirmSelect
          const { queue } = yield* channel.queueDeclare({ exclusive: true })
          const { deliveries } = yield* channel.consume({ queue })
          yield* channel.publish({ routingKey: queue, body: "hello" })
          yield* Stream.runHead(Stream.mapEffect(deliveries, (delivery) => delivery.ack))
        })).pipe(Effect.provide(layer({ url: ${JSON.stringify(amqpUrl)} }))))
        console.log("closed")`)
      assert.strictEqual(yield* program.line, "closed")
      assert.strictEqual(yield* Effect.timeout(program.exited, "5 seconds"), 0)
    })))

  it.effect("LC05 a process ends by itself when its connection was lost", () =>
    noLeaks(Effect.gen(function*() {
      const { amqpUrl } = yield* Vhost
      const proxy = yield* makeProxy(yield* Broker)
      const program = yield* runProgram(`
        import { Effect, Schedule } from "effect"
        import * as AmqpConnection from "src/AmqpConnection.ts"
        import { layerTransport } from "src/NodeAmqp.ts"
        const url = ${JSON.stringify(amqpUrl)}
        const error = await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const connection = yield* AmqpConnection.make({
            url, host: "${proxy.host}", port: ${proxy.port}, reconnect: Schedule.recurs(0)
          })
          console.log("open")
          return yield* connection.closed
        })).pipe(Effect.provide(layerTransport)))
        console.log(error.reason._tag)`)
      const link = yield* proxy.accept
      assert.strictEqual(yield* program.line, "open")
      yield* link.reset
      assert.strictEqual(yield* program.line, "ConnectionLost")
      assert.strictEqual(yield* Effect.timeout(program.exited, "5 seconds"), 0)
    })))

  it.effect("LC05 a process ends by itself though the peer has stopped reading what was published", () =>
    noLeaks(Effect.gen(function*() {
      const { amqpUrl } = yield* Vhost
      const proxy = yield* makeProxy(yield* Broker)
      const program = yield* runProgram(`
        import { Effect } from "effect"
        import * as AmqpChannel from "src/AmqpChannel.ts"
        import { layer } from "src/NodeAmqp.ts"
        const body = new Uint8Array(256 * 1024)
        const options = { url: ${JSON.stringify(amqpUrl)}, host: "${proxy.host}", port: ${proxy.port} }
        await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const channel = yield* AmqpChannel.open
          console.log("open")
          yield* Effect.forever(channel.publish({ exchange: "amq.fanout", body })).pipe(Effect.timeoutOption("1 second"))
        })).pipe(Effect.provide(layer({ ...options, closeTimeout: "200 millis" }))))
        console.log("closed")`)
      assert.strictEqual(yield* program.line, "open")
      yield* proxy.set("up", { mode: "stall" })
      assert.strictEqual(yield* program.line, "closed")
      assert.strictEqual(yield* Effect.timeout(program.exited, "5 seconds"), 0)
      yield* proxy.resetAll
    })))

  it.effect("LC07 after close-ok the client ends the socket", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied()
      // RabbitMQ keeps its end open for up to 30 s.
      yield* Effect.timeout(connection.close, "1 second")
      yield* Effect.timeout(link.closed, "1 second")
      assert.include(yield* methodsOf(link, "down"), "0 connection.close-ok")
    })))

  it.effect("LC08 two connections of one process know nothing of one another", () =>
    noLeaks(Effect.gen(function*() {
      const lost = yield* proxied()
      const kept = yield* proxied()
      const channel = yield* openOn(kept.connection)
      yield* channel.confirmSelect
      yield* lost.link.reset
      assert.strictEqual((yield* reasonOf(lost.connection))._tag, "ConnectionLost")
      yield* channel.publish({ exchange: "amq.fanout", body: "still here" })
      assert.strictEqual((yield* kept.connection.status)._tag, "Open")
      yield* kept.connection.close
      assert.strictEqual((yield* reasonOf(kept.connection))._tag, "ConnectionClosed")
    })))

  it.effect("LC09 over 200 ms of round trip, what is pipelined pays for one", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, proxy } = yield* proxied()
      const channel = yield* openOn(connection)
      yield* channel.confirmSelect
      yield* proxy.set("up", { delay: 100 })
      yield* proxy.set("down", { delay: 100 })
      const times = (count: number, effect: Effect.Effect<unknown, AmqpChannel.PublishError>) =>
        millisOf(Effect.all(Array.from({ length: count }, () => effect), { concurrency: "unbounded" }))
      assert.isAtLeast(yield* times(1, channel.qos({ prefetchCount: 1 })), 199)
      // One after the other they would take 10 s and 100 s.
      assert.isBelow(yield* times(50, channel.exchangeDeclarePassive("amq.fanout")), 2_000)
      assert.isBelow(yield* times(500, channel.publish({ exchange: "amq.fanout", body: "x" })), 4_000)
    })))

  it.effect("a reset and an end of file are ConnectionLost at once, with everything that was waiting", () =>
    noLeaks(Effect.gen(function*() {
      for (const how of ["reset", "end"] as const) {
        const { connection, link, proxy } = yield* proxied()
        const channel = yield* openOn(connection)
        yield* channel.confirmSelect
        yield* proxy.set("up", { mode: "hole" })
        const operations: ReadonlyArray<Effect.Effect<unknown, { readonly _tag: string }, Scope.Scope>> = [
          connection.updateSecret(Redacted.make("guest")),
          channel.qos({ prefetchCount: 1 }),
          channel.publish({ exchange: "amq.fanout", body: "in doubt" }),
          channel.waitForConfirms,
          openOn(connection)
        ]
        const waiting = yield* Effect.forEach(
          operations,
          (operation) => Effect.forkChild(Effect.flip(Effect.scoped(operation)), { startImmediately: true })
        )
        yield* how === "reset" ? link.reset : link.halfClose("down")
        const ended = yield* Effect.timeout(connection.closed, "1 second")
        assert.deepNestedInclude(ended, { "reason._tag": "ConnectionLost", "reason.phase": "open" })
        assert.isTrue(AmqpError.isTransient(ended))
        const failures = yield* Effect.forEach(waiting, (fiber) => Effect.timeout(Fiber.join(fiber), "1 second"))
        assert.deepStrictEqual(failures.map(({ _tag }) => _tag), [
          "AmqpConnectionError",
          "AmqpConnectionError",
          "AmqpPublishUnconfirmed",
          "AmqpChannelClosed",
          "AmqpConnectionError"
        ])
        assert.strictEqual((yield* connection.status)._tag, "Closed")
        yield* link.reset
      }
    })))

  it.effect("changes tells the present state and the end, to those who come late as well", () =>
    noLeaks(Effect.gen(function*() {
      const connection = yield* connect()
      const early = yield* Effect.forkChild(Stream.runCollect(connection.changes), { startImmediately: true })
      const waiting = yield* Effect.forkChild(connection.closed, { startImmediately: true })
      yield* connection.close
      const status = yield* connection.status
      const error = yield* Fiber.join(waiting)
      assert.deepStrictEqual(status, { _tag: "Closed", error })
      assert.deepStrictEqual((yield* Fiber.join(early)).map(({ _tag }) => _tag), ["Open", "Closed"])
      assert.deepStrictEqual([...yield* Stream.runCollect(connection.changes)], [status])
      assert.strictEqual(yield* connection.closed, error)
    })))

  it.effect("the broker's hard errors are reasons of their own", () =>
    noLeaks(Effect.gen(function*() {
      const provoke = Effect.fnUntraced(function*(
        operation: (channel: AmqpChannel.AmqpChannel) => Effect.Effect<unknown, { readonly _tag: string }>
      ) {
        const { connection, link } = yield* proxied()
        const channel = yield* openOn(connection)
        const other = yield* openOn(connection)
        const waiting = yield* Effect.forkChild(other.closed, { startImmediately: true })
        const error = yield* Effect.flip(operation(channel))
        const ended = yield* connection.closed
        // One and the same everywhere.
        assert.strictEqual(error, ended)
        assert.strictEqual((yield* Fiber.join(waiting)).cause, ended)
        yield* link.closed
        assert.strictEqual((yield* methodsOf(link, "up")).at(-1), "0 connection.close-ok")
        assert.isFalse(AmqpError.isTransient(ended))
        return ended.reason
      })
      assert.deepInclude(
        yield* provoke((channel) => channel.exchangeDeclare({ exchange: "x", type: "no-such-type" })),
        {
          _tag: "CommandInvalid",
          replyCode: 503,
          classId: 40,
          methodId: 10
        }
      )
      assert.deepInclude(yield* provoke((channel) => channel.flow(false)), {
        _tag: "NotImplemented",
        replyCode: 540,
        classId: 20,
        methodId: 20
      })
    })))

  it.effect("no print of a connection, its states, its options or its errors shows the password", () =>
    noLeaks(Effect.gen(function*() {
      const { proxy } = yield* proxied()
      const secret = "correct-horse-battery-staple"
      const username = uniqueName("user")
      const { addUser, deleteUser, setPermissions } = yield* Broker.control
      yield* Effect.acquireRelease(addUser(username, secret), () => Effect.orDie(deleteUser(username)))
      yield* setPermissions(username, (yield* Vhost).name)
      const vhost = encodeURIComponent((yield* Vhost).name)
      const options: AmqpConnection.Options = {
        url: Redacted.make(`amqp://${username}:${secret}@${proxy.host}:${proxy.port}/${vhost}`)
      }
      const connection = yield* connect(options)
      const channel = yield* openOn(connection)
      const texts = [options, connection, channel, yield* connection.status, yield* connection.server].map(printed)
      const newSecret = Redacted.make(`${secret}-2`)
      yield* connection.updateSecret(newSecret)
      yield* proxy.resetAll
      const failed = yield* Effect.flip(channel.queueDeclare())
      texts.push(...[connection, channel, failed, yield* connection.closed, yield* connection.status].map(printed))
      // Bytes are as good as text.
      const decimal = [...secret].map((char) => char.charCodeAt(0)).join(",")
      for (const text of texts) {
        assert.notInclude(text, secret)
        assert.notInclude(text.replaceAll(/\s/g, ""), decimal)
      }
    })))

  describe.runIf(canControl)("to a broker that is ours", () => {
    it.effect("LC06 closed by an operator is ConnectionForced with the text, and is answered", () =>
      noLeaks(Effect.gen(function*() {
        const { closeConnection } = yield* Broker.control
        const name = uniqueName("victim")
        const { connection, link } = yield* proxied({ connectionName: name })
        const states = yield* Effect.forkChild(Stream.runCollect(connection.changes), { startImmediately: true })
        yield* closeConnection(name, "maintenance ✓")
        const error = yield* connection.closed
        assert.deepInclude(error.reason, { _tag: "ConnectionForced", replyCode: 320 })
        assert.include(error.message, "maintenance ✓")
        assert.isTrue(AmqpError.isTransient(error))
        yield* link.closed
        assert.strictEqual((yield* methodsOf(link, "up")).at(-1), "0 connection.close-ok")
        assert.deepStrictEqual((yield* Fiber.join(states)).at(-1), { _tag: "Closed", error })
        // The scope finds nothing to close any more.
      })))

    it.effect("the end of its vhost, its user or its node is ConnectionForced, as far as the broker says so", () =>
      Effect.gen(function*() {
        const { addUser, addVhost, deleteUser, deleteVhost, setPermissions, stopApp } = yield* Broker.control
        const vhost = uniqueName("vhost")
        const username = uniqueName("user")
        yield* addVhost(vhost)
        yield* addUser(username, "secret")
        yield* setPermissions(username, vhost)
        const one = yield* connect({ vhost, credentials: { username, password: Redacted.make("secret") } })
        const two = yield* connect({ vhost })
        yield* deleteUser(username)
        assert.deepInclude((yield* one.closed).reason, { _tag: "ConnectionForced", replyCode: 320 })
        yield* deleteVhost(vhost)
        // A reset right behind the close may swallow it.
        assert.include(["ConnectionForced", "ConnectionLost"], (yield* two.closed).reason._tag)
        const three = yield* connect()
        yield* Effect.scoped(stopApp)
        assert.include(["ConnectionForced", "ConnectionLost"], (yield* three.closed).reason._tag)
      }).pipe(Effect.scoped))

    it.effect("an alarm blocks it and unblocks it, visibly", () =>
      noLeaks(Effect.gen(function*() {
        const { alarm, unalarm } = yield* Broker.control
        const connection = yield* connect()
        const states = yield* Effect.forkChild(Stream.runCollect(connection.changes), { startImmediately: true })
        const channel = yield* openOn(connection)
        yield* channel.confirmSelect
        yield* alarm("memory")
        // The alarm reaches the connection a moment later; what is published before that is confirmed.
        const publish = channel.publish({ exchange: "amq.fanout", body: "waits" })
        const publishing = yield* Effect.forkChild(Effect.forever(publish))
        yield* reaches(connection, "Blocked")
        assert.deepStrictEqual(yield* connection.status, { _tag: "Blocked", epoch: 1, reason: "low on memory" })
        yield* unalarm("memory")
        yield* reaches(connection, "Open")
        yield* publish
        yield* Fiber.interrupt(publishing)
        yield* connection.close
        const tags = (yield* Fiber.join(states)).map(({ _tag }) => _tag)
        assert.deepStrictEqual(tags, ["Open", "Blocked", "Open", "Closed"])
      })))

    it.effect("closing is bounded by closeTimeout though the broker has stopped", () =>
      noLeaks(Effect.gen(function*() {
        const { pause } = yield* Broker.control
        const { connection, link } = yield* proxied({ closeTimeout: "300 millis" })
        const channel = yield* openOn(connection)
        yield* channel.queueDeclare({ exclusive: true })
        yield* Effect.scoped(Effect.gen(function*() {
          yield* pause
          const waiting = yield* Effect.forkChild(Effect.flip(channel.queueDeclare()), { startImmediately: true })
          const millis = yield* millisOf(connection.close)
          assert.isAtLeast(millis, 299)
          assert.isBelow(millis, 2_000)
          assert.strictEqual((yield* reasonOf(connection))._tag, "ConnectionClosed")
          assert.strictEqual((yield* Fiber.join(waiting))._tag, "AmqpConnectionError")
          // The socket is ours to end.
          yield* Effect.flip(Effect.forever(link.read("up", 1)))
        }))
      })))
  })
})

describe("a connection in memory", () => {
  const open = (broker: ReturnType<typeof memoryBroker>, options: AmqpConnection.Options = {}) =>
    AmqpConnection.make({ reconnect: noReconnect, ...options }).pipe(
      Effect.provideService(AmqpTransport, broker.transport)
    )

  const sent = (broker: ReturnType<typeof memoryBroker>) =>
    broker.received.flatMap((frame) => frame._tag === "Method" ? [frame.method._tag] : [])

  it.effect("LC02 a close that crosses the broker's is answered, and is over", () =>
    Effect.gen(function*() {
      const broker = memoryBroker({
        script: {
          "connection.close": () => [
            { _tag: "connection.close", replyCode: 320, replyText: "CONNECTION_FORCED", classId: 0, methodId: 0 }
          ]
        }
      })
      const connection = yield* open(broker)
      yield* connection.close
      assert.deepStrictEqual(sent(broker).slice(-2), ["connection.close", "connection.close-ok"])
      assert.strictEqual((yield* reasonOf(connection))._tag, "ConnectionClosed")
      assert.isTrue(broker.isClosed())
    }))

  it.effect("LC02 a close that is not answered is over after closeTimeout", () =>
    Effect.gen(function*() {
      const broker = memoryBroker({ script: { "connection.close": () => [] } })
      const connection = yield* open(broker)
      const closing = yield* Effect.forkChild(Effect.all([connection.close, connection.close], { concurrency: 2 }), {
        startImmediately: true
      })
      yield* TestClock.adjust(4_999)
      assert.isUndefined(closing.pollUnsafe())
      yield* TestClock.adjust(1)
      yield* Fiber.join(closing)
      assert.strictEqual((yield* reasonOf(connection))._tag, "ConnectionClosed")
      assert.isTrue(broker.isClosed())
    }))

  it.effect("LC01 a refused secret is the end of the connection, and of the operation", () =>
    Effect.gen(function*() {
      const refused = { replyCode: 530, replyText: "NOT_ALLOWED", classId: 10, methodId: 70 }
      const broker = memoryBroker({
        script: { "connection.update-secret": () => [{ _tag: "connection.close", ...refused }] }
      })
      const connection = yield* open(broker)
      const error = yield* Effect.flip(connection.updateSecret(Redacted.make("secret")))
      assert.strictEqual(error, yield* connection.closed)
      assert.deepNestedInclude(error, { "reason._tag": "NotAllowed", "reason.methodId": 70 })
    }))

  it.effect("LC01 an interrupted update-secret keeps its place in the order of replies", () =>
    Effect.gen(function*() {
      const broker = memoryBroker()
      const connection = yield* open(broker)
      const update = () =>
        Effect.forkChild(connection.updateSecret(Redacted.make("secret")), { startImmediately: true })
      const one = yield* update()
      const two = yield* update()
      yield* Fiber.interrupt(one)
      broker.send({ _tag: "connection.update-secret-ok" })
      yield* TestClock.adjust(0)
      assert.isUndefined(two.pollUnsafe())
      broker.send({ _tag: "connection.update-secret-ok" })
      yield* Fiber.join(two)
    }))

  it.effect("an interrupted close goes on, within its bound", () =>
    Effect.gen(function*() {
      const broker = memoryBroker({ script: { "connection.close": () => [] } })
      const connection = yield* open(broker)
      const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
      const interrupting = yield* Effect.forkChild(Fiber.interrupt(closing), { startImmediately: true })
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(interrupting)
      assert.strictEqual((yield* reasonOf(connection))._tag, "ConnectionClosed")
      assert.isTrue(broker.isClosed())
      assert.deepStrictEqual(sent(broker).filter((name) => name === "connection.close"), ["connection.close"])
    }))
})

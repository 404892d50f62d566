/**
 * Connections that are cut, on a real broker: how fast they are back, what they say of it, and what is left behind.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Clock, Effect, Fiber, Redacted, Schedule, Schema, Stream } from "effect"
import type * as AmqpConnection from "../../src/AmqpConnection.ts"
import { internals } from "../../src/internal/connection/service.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { freePort } from "../harness/listen.ts"
import { makeProxy } from "../harness/proxy.ts"
import { canControl, isRabbitMQ, onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { runProgram } from "./program.ts"
import { connect, openOn, proxied } from "./support.ts"

const soon = Schedule.spaced("10 millis")

/** Waits for a state. */
const reaches = (
  connection: AmqpConnection.AmqpConnection,
  is: (status: AmqpConnection.Status) => boolean
) => Effect.flatMap(Stream.runHead(Stream.filter(connection.changes, is)), Effect.fromOption)

const isOpen = (epoch: number) => (status: AmqpConnection.Status): boolean =>
  status._tag === "Open" && status.epoch === epoch

const isReconnecting = (status: AmqpConnection.Status): boolean => status._tag === "Reconnecting"

/** Publishes, and takes what was published. */
const works = (connection: AmqpConnection.AmqpConnection) =>
  Effect.scoped(Effect.gen(function*() {
    const channel = yield* openOn(connection)
    const { queue } = yield* channel.queueDeclare({ exclusive: true })
    const { deliveries } = yield* channel.consume({ queue })
    yield* channel.confirmSelect
    yield* channel.publish({ routingKey: queue, body: "hello" })
    const [text] = yield* Stream.runCollect(Stream.take(
      Stream.mapEffect(deliveries, (delivery) => Effect.as(delivery.ack, delivery.text)),
      1
    ))
    assert.strictEqual(text, "hello")
  }))

const Held = Schema.Struct({ heap: Schema.Finite, handles: Schema.Array(Schema.String) })

/** What a process held before it was disconnected so often, and after. */
const Soak = Schema.fromJsonString(Schema.Struct({ before: Held, after: Held, restored: Schema.Int }))

layer(onVhost, { excludeTestServices: true })("a connection that is cut", (it) => {
  const faults = [["F01 reset", "reset"], ["F02 half closed by the broker's side", "end"]] as const
  it.effect.each(faults)(
    "%s: is seen at once, back within seconds, once",
    ([, fault]) =>
      noLeaks(Effect.gen(function*() {
        const { connection, link, proxy } = yield* proxied({ reconnect: undefined })
        yield* works(connection)
        const lost = yield* Effect.forkScoped(reaches(connection, isReconnecting), { startImmediately: true })
        const back = yield* Effect.forkScoped(reaches(connection, isOpen(2)), { startImmediately: true })
        yield* fault === "reset" ? link.reset : link.halfClose("down")
        const status = yield* Fiber.join(lost)
        assert.deepNestedInclude(status, {
          attempt: 1,
          "cause.reason._tag": "ConnectionLost",
          "cause.reason.phase": "open"
        })
        yield* Effect.timeout(Fiber.join(back), "5 seconds")
        yield* works(connection)
        assert.strictEqual(yield* proxy.accepted, 2)
      }))
  )

  it.effect("raw channels end with their epoch; the next one has its own", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied({ reconnect: soon })
      const channel = yield* openOn(connection)
      yield* link.reset
      const error = yield* channel.closed
      assert.deepNestedInclude(error, { "cause.reason._tag": "ConnectionLost" })
      // Waits for the next epoch.
      yield* works(connection)
      assert.strictEqual((yield* Effect.flip(channel.queueDeclare({ exclusive: true })))._tag, "AmqpChannelClosed")
    })))

  it.effect("P1 while nothing answers, operations end within waitTimeout; with 0 at once; interruption works", () =>
    noLeaks(Effect.gen(function*() {
      const slow = yield* proxied({ reconnect: soon, waitTimeout: "300 millis" })
      const quick = yield* proxied({ reconnect: soon, waitTimeout: 0 })
      for (const { connection, link, proxy } of [slow, quick]) {
        yield* proxy.refuse(true)
        yield* link.reset
        yield* reaches(connection, isReconnecting)
      }
      const failing = (connection: AmqpConnection.AmqpConnection) => Effect.flip(Effect.scoped(openOn(connection)))
      const start = yield* Clock.currentTimeMillis
      assert.strictEqual((yield* failing(quick.connection))._tag, "AmqpConnectionError")
      assert.isBelow((yield* Clock.currentTimeMillis) - start, 200)
      const waiting = yield* Effect.forkScoped(Effect.scoped(openOn(slow.connection)), { startImmediately: true })
      yield* Effect.timeout(Fiber.interrupt(waiting), "100 millis")
      const before = yield* Clock.currentTimeMillis
      assert.strictEqual((yield* failing(slow.connection))._tag, "AmqpConnectionError")
      const waited = (yield* Clock.currentTimeMillis) - before
      assert.isAtLeast(waited, 299)
      assert.isBelow(waited, 2_000)
    })))

  it.effect("F87 is closed within a second while it reconnects, by its own close and by its scope", () =>
    noLeaks(Effect.gen(function*() {
      for (const own of [true, false]) {
        const closing = Effect.scoped(Effect.gen(function*() {
          const { connection, link, proxy } = yield* proxied({ reconnect: undefined })
          yield* proxy.set("down", { mode: "hole" }) // the next handshake is not answered
          yield* link.reset
          yield* reaches(connection, isReconnecting)
          const accepted = yield* Effect.forkScoped(proxy.accept)
          yield* Fiber.join(accepted)
          const start = yield* Clock.currentTimeMillis
          if (own) {
            yield* connection.close
            assert.strictEqual((yield* connection.closed).reason._tag, "ConnectionClosed")
          }
          return start
        }))
        const start = yield* closing
        assert.isBelow((yield* Clock.currentTimeMillis) - start, 1_000)
      }
    })))

  it.effect("F31 F33 a dead endpoint costs nothing but its refusal: the next one is taken, also the next time", () =>
    noLeaks(Effect.gen(function*() {
      const port = yield* freePort
      const proxy = yield* makeProxy(yield* Broker)
      const endpoints = [{ host: "127.0.0.1", port }, { host: proxy.host, port: proxy.port }]
      const connection = yield* connect({ endpoints, reconnect: soon })
      for (let epoch = 1; epoch <= 3; epoch++) {
        const status = yield* reaches(connection, isOpen(epoch))
        assert.deepInclude(status, { endpoint: `amqp://127.0.0.1:${proxy.port}` })
        yield* works(connection)
        yield* proxy.resetAll
      }
    })))

  it.effect("F31 all addresses of a name are tried; F32 a name that is not known is asked for again", () =>
    noLeaks(Effect.gen(function*() {
      const { host, port } = yield* Broker
      let name = "localhost"
      const connection = yield* connect({
        endpoints: Effect.sync(() => [{ host: name, port }]),
        reconnect: soon
      })
      assert.strictEqual(host, "127.0.0.1")
      yield* works(connection)
      name = "no-such-host.invalid"
      const { session } = connection[internals]()
      const lost = yield* Effect.forkScoped(
        reaches(connection, (status) => status._tag === "Reconnecting" && status.attempt > 2),
        { startImmediately: true }
      )
      ;(yield* session).session.onSocketEnd((yield* session).session.lost("cut by a test"))
      const status = yield* Fiber.join(lost)
      assert.deepNestedInclude(status, { "cause.reason._tag": "ConnectFailed" })
      name = "localhost"
      yield* works(connection)
    })))

  it.effect(
    "F92 200 forced disconnects leave no handle, no restorer and no memory behind",
    () =>
      noLeaks(Effect.gen(function*() {
        const { amqpUrl } = yield* Vhost
        const proxy = yield* makeProxy(yield* Broker)
        const warmUp = 50
        const count = 200
        // In a process of its own: this one's memory and handles are also the proxy's and the test runner's.
        const program = yield* runProgram(`
        import { Effect, Schedule, Stream } from "effect"
        import { setFlagsFromString } from "node:v8"
        import { runInNewContext } from "node:vm"
        import * as AmqpChannel from "src/AmqpChannel.ts"
        import * as AmqpConnection from "src/AmqpConnection.ts"
        import { internals } from "src/internal/connection/service.ts"
        import { layerTransport } from "src/NodeAmqp.ts"
        setFlagsFromString("--expose-gc")
        const gc = runInNewContext("gc")
        const held = () => {
          gc()
          return { heap: process.memoryUsage().heapUsed, handles: process.getActiveResourcesInfo().toSorted() }
        }
        const options = {
          url: ${JSON.stringify(amqpUrl)}, host: "${proxy.host}", port: ${proxy.port}, reconnect: Schedule.spaced(0)
        }
        await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const connection = yield* AmqpConnection.make(options)
          let restored = 0
          yield* connection[internals]().onEpoch(() => Effect.sync(() => { restored++ }))
          let before
          for (let epoch = 1; epoch <= ${warmUp + count + 1}; epoch++) {
            const isOpen = (status) => status._tag === "Open" && status.epoch === epoch
            yield* Stream.runHead(Stream.filter(connection.changes, isOpen))
            yield* Effect.scoped(Effect.provideService(AmqpChannel.open, AmqpConnection.AmqpConnection, connection))
            if (epoch === ${warmUp}) before = held()
            if (epoch > ${warmUp + count}) console.log(JSON.stringify({ before, after: held(), restored }))
            else console.log("open")
          }
        })).pipe(Effect.provide(layerTransport)))`)
        for (let epoch = 1; epoch <= warmUp + count; epoch++) {
          const link = yield* proxy.accept
          assert.strictEqual(yield* program.line, "open")
          yield* link.reset
        }
        const { after, before, restored } = yield* Schema.decodeEffect(Soak)(yield* program.line)
        assert.strictEqual(restored, warmUp + count + 1)
        assert.deepStrictEqual(after.handles, before.handles)
        // One session that is kept is about 40 kB.
        assert.isBelow(after.heap - before.heap, 10_000 * count)
        assert.strictEqual(yield* program.exited, 0)
      })),
    30_000
  )

  describe.runIf(canControl)("with control of the broker", () => {
    it.effect("F17 close_connection is 320 with its text, and is followed by the next epoch", () =>
      noLeaks(Effect.gen(function*() {
        const name = uniqueName("forced")
        const connection = yield* connect({ connectionName: name, reconnect: soon })
        const lost = yield* Effect.forkScoped(reaches(connection, isReconnecting), { startImmediately: true })
        const { closeConnection } = yield* Broker.control
        yield* closeConnection(name, "maintenance at noon")
        const status = yield* Fiber.join(lost)
        assert.deepNestedInclude(status, { "cause.reason._tag": "ConnectionForced", "cause.reason.replyCode": 320 })
        assert.include(status._tag === "Reconnecting" ? status.cause.message : "", "maintenance at noon")
        yield* works(connection)
        assert.deepInclude(yield* connection.status, { epoch: 2 })
      })))

    it.effect("F22 a vhost that is deleted is waited for; 530 is in the status, and it comes back with it", () =>
      Effect.scoped(Effect.gen(function*() {
        const { addVhost, deleteVhost } = yield* Broker.control
        const vhost = uniqueName("gone")
        yield* Effect.acquireRelease(addVhost(vhost), () => Effect.orDie(deleteVhost(vhost)))
        const connection = yield* connect({ vhost, reconnect: soon })
        yield* works(connection)
        yield* deleteVhost(vhost)
        const status = yield* reaches(
          connection,
          (status) => status._tag === "Reconnecting" && status.cause.reason._tag === "NotAllowed"
        )
        assert.deepNestedInclude(status, { "cause.reason.replyCode": 530 })
        yield* addVhost(vhost)
        yield* works(connection)
        yield* connection.close
      })))

    it.effect("F25 a password that has changed: refused until the Effect has the new one", () =>
      noLeaks(Effect.gen(function*() {
        const { addUser, changePassword, closeConnection, deleteUser, setPermissions } = yield* Broker.control
        const user = uniqueName("user")
        yield* Effect.acquireRelease(addUser(user, "one"), () => Effect.ignore(deleteUser(user)))
        yield* setPermissions(user, (yield* Vhost).name)
        let password = "one"
        const name = uniqueName("token")
        const connection = yield* connect({
          connectionName: name,
          credentials: Effect.sync(() => ({ username: user, password: Redacted.make(password) })),
          reconnect: Schedule.spaced("100 millis")
        })
        yield* works(connection)
        yield* changePassword(user, "two")
        yield* closeConnection(name, "token expired")
        const status = yield* reaches(
          connection,
          (status) => status._tag === "Reconnecting" && status.cause.reason._tag === "AuthenticationFailed"
        )
        assert.strictEqual(status._tag, "Reconnecting")
        password = "two"
        yield* works(connection)
      })))

    // The embedded broker has no limits of users.
    it.effect.runIf(isRabbitMQ)(
      "F28 a connection limit that is reached is tried again, and no faster than the schedule",
      () =>
        noLeaks(Effect.gen(function*() {
          const { addUser, closeConnection, ctl, deleteUser, setPermissions } = yield* Broker.rabbitmq
          const user = uniqueName("user")
          yield* Effect.acquireRelease(addUser(user, "one"), () => Effect.ignore(deleteUser(user)))
          yield* setPermissions(user, (yield* Vhost).name)
          const name = uniqueName("limited")
          const connection = yield* connect({
            connectionName: name,
            credentials: { username: user, password: Redacted.make("one") },
            reconnect: Schedule.spaced("100 millis")
          })
          yield* ctl("set_user_limits", user, `{"max-connections":0}`)
          const start = yield* Clock.currentTimeMillis
          yield* closeConnection(name, "make room")
          const status = yield* reaches(
            connection,
            (status) => status._tag === "Reconnecting" && status.attempt === 4
          )
          assert.isAtLeast((yield* Clock.currentTimeMillis) - start, 299)
          assert.deepNestedInclude(status, { "cause.reason._tag": "NotAllowed", "cause.reason.replyCode": 530 })
          assert.include(status._tag === "Reconnecting" ? status.cause.message : "", "limit")
          yield* ctl("clear_user_limits", user, "max-connections")
          yield* works(connection)
        }))
    )
  })
})

/**
 * The embedded broker on a TCP port.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Option, Schedule, Scope, Stream } from "effect"
import { subscribe, unsubscribe } from "node:diagnostics_channel"
import { connect as connectTcp, Socket } from "node:net"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import type * as AmqpConnection from "../../src/AmqpConnection.ts"
import { AmqpConnection as Connection } from "../../src/AmqpConnection.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import * as AmqpBroker from "../../src/testing/AmqpBroker.ts"
import * as NodeAmqpBroker from "../../src/testing/NodeAmqpBroker.ts"
import { declare, Script } from "../fixtures/violations.ts"

const served = NodeAmqpBroker.layer().pipe(Layer.provideMerge(AmqpBroker.layer()))

const connect = (options: AmqpConnection.Options = {}) =>
  Effect.flatMap(NodeAmqpBroker.Address, ({ host, port }) =>
    Effect.map(
      Layer.build(NodeAmqp.layer({ host, port, reconnect: Schedule.recurs(0), ...options })),
      (context) => Context.get(context, Connection)
    ))

/** A client that says this and no more, whatever it hears. */
const rawClient = (port: number, bytes: Uint8Array) =>
  Effect.gen(function*() {
    const socket = yield* Effect.acquireRelease(
      Effect.sync(() => connectTcp({ host: "127.0.0.1", port, allowHalfOpen: true }, () => socket.write(bytes))),
      (socket) => Effect.sync(() => socket.destroy())
    )
    const received: Array<string> = []
    socket.on("data", (chunk) => received.push(chunk.toString("latin1")))
    socket.on("error", () => {})
    const ended = new Promise<string>((resolve) => socket.on("end", () => resolve(received.join(""))))
    return {
      socket,
      /** What it has heard when the broker has said all. */
      ended: Effect.promise(() => ended)
    }
  })

/** The server's sockets from now on. */
const serverSockets = Effect.acquireRelease(
  Effect.sync(() => {
    const sockets: Array<Socket> = []
    const note = (message: unknown) => {
      if (typeof message === "object" && message !== null && "socket" in message && message.socket instanceof Socket) {
        sockets.push(message.socket)
      }
    }
    subscribe("net.server.socket", note)
    return { sockets, note }
  }),
  ({ note }) => Effect.sync(() => unsubscribe("net.server.socket", note))
)

/** What opens a connection without waiting for answers. */
const opening = new Script().open().bytes()

describe("the embedded broker over TCP", () => {
  it.live("takes connections and contents of any size", () =>
    Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const { host, port } = yield* NodeAmqpBroker.Address
      assert.strictEqual(host, "127.0.0.1")
      const connection = yield* connect()
      const [{ name } = { name: "" }] = yield* broker.connections
      assert.match(name, /^127\.0\.0\.1:\d+$/)
      assert.notStrictEqual(name, `${host}:${port}`)
      const channel = yield* Effect.provideService(AmqpChannel.open, Connection, connection)
      yield* channel.queueDeclare({ queue: "large" })
      const body = new Uint8Array(16 * 1024 * 1024).map((_, index) => index % 251)
      yield* channel.publish({ routingKey: "large", body })
      yield* channel.publish({ routingKey: "large", body: "small" })
      const { deliveries } = yield* channel.consume({ queue: "large" })
      const [large, small] = yield* Stream.runCollect(Stream.take(deliveries, 2))
      assert.isTrue(large !== undefined && Buffer.compare(large.body, body) === 0)
      assert.strictEqual(small?.text, "small")
    }).pipe(Effect.scoped, Effect.provide(served)))

  it.live("hands out messages of any size, none of which changes later", () =>
    Effect.gen(function*() {
      const connection = yield* connect()
      const channel = yield* Effect.provideService(AmqpChannel.open, Connection, connection)
      yield* channel.queueDeclare({ queue: "mixed" })
      const sizes = [10, 70_000, 500, 1024 * 1024, 16 * 1024, 16 * 1024, 300_000, 3]
      const bodies = Array.from({ length: 64 }, (_, i) => Buffer.alloc(sizes[i % sizes.length] ?? 0, `${i}.`))
      for (const [i, body] of bodies.entries()) {
        yield* channel.publish({ routingKey: "mixed", body, properties: { messageId: String(i) } })
      }
      const { deliveries } = yield* channel.consume({ queue: "mixed", noAck: true })
      const received = yield* Stream.runCollect(Stream.take(deliveries, bodies.length))
      for (const [i, { body, properties }] of received.entries()) {
        assert.strictEqual(properties.messageId, String(i))
        assert.isTrue(bodies[i]?.equals(body))
      }
    }).pipe(Effect.scoped, Effect.provide(served)))

  it.live("drops a client that speaks something else, and serves the others", () =>
    Effect.gen(function*() {
      const { port } = yield* NodeAmqpBroker.Address
      const client = yield* rawClient(port, new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"))
      assert.strictEqual(yield* client.ended, "AMQP\0\0\t\u0001")
      yield* connect()
    }).pipe(Effect.scoped, Effect.provide(served)))

  it.live("forgets a client that was reset", () =>
    Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const connection = yield* connect()
      yield* broker.resetConnections()
      assert.strictEqual((yield* connection.closed).reason._tag, "ConnectionLost")
      assert.deepStrictEqual(yield* broker.connections, [])
      yield* connect()
    }).pipe(Effect.scoped, Effect.provide(served)))

  it.live("survives a client that resets its connection", () =>
    Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const { port } = yield* NodeAmqpBroker.Address
      const client = yield* rawClient(port, opening)
      const isOpen = Effect.map(broker.connections, (connections) => connections[0]?.vhost === "/")
      yield* broker.waitUntil(isOpen)
      yield* Effect.sync(() => client.socket.resetAndDestroy())
      yield* broker.waitUntil(Effect.map(broker.connections, (connections) => connections.length === 0))
      yield* connect()
    }).pipe(Effect.scoped, Effect.provide(served)))

  it.live("leaves with the network what a client sends that is not read, in an alarm and in a pause", () =>
    Effect.gen(function*() {
      const broker = yield* AmqpBroker.AmqpBroker
      const { port } = yield* NodeAmqpBroker.Address
      const { sockets } = yield* serverSockets
      const client = yield* rawClient(port, new Script().open().send(1, declare("q")).bytes())
      yield* broker.waitUntil(Effect.map(broker.queue("q"), Option.isSome))
      const [socket] = sockets
      if (socket === undefined) return yield* Effect.die("no socket")
      const turnsOf = Effect.promise(() => new Promise((resolve) => setImmediate(resolve))).pipe(
        Effect.repeat({ times: 200 })
      )

      const alarm = yield* Scope.make()
      const pause = yield* Scope.make()
      yield* Scope.provide(broker.block(), alarm)
      const message = new Script().publish(1, { body: "x".repeat(4000) }).bytes()
      const count = 8000
      client.socket.write(message)
      yield* broker.waitUntil(Effect.map(broker.connections, ([connection]) => connection?.isBlocked === true))
      client.socket.write(Buffer.concat(Array.from({ length: count - 1 }, () => message)))
      yield* turnsOf
      // What Node reads ahead, and the chunk in which it was blocked.
      assert.isBelow(socket.bytesRead, 4 * 65_536)
      assert.isAbove(client.socket.writableLength, 0)
      yield* Scope.provide(broker.pause, pause)
      yield* Scope.close(alarm, Exit.void)
      yield* turnsOf
      assert.isBelow(socket.bytesRead, 4 * 65_536)
      yield* Scope.close(pause, Exit.void)
      yield* broker.waitUntil(
        Effect.map(broker.queue("q"), (queue) => Option.isSome(queue) && queue.value.ready === count)
      )

      // Who hangs up is missed when he is read.
      yield* Effect.scoped(Effect.gen(function*() {
        yield* broker.block()
        client.socket.write(message)
        yield* broker.waitUntil(Effect.map(broker.connections, ([connection]) => connection?.isBlocked === true))
        client.socket.end(message)
        yield* turnsOf
        assert.lengthOf(yield* broker.connections, 1)
      }))
      yield* broker.waitUntil(Effect.map(broker.connections, ({ length }) => length === 0))
      assert.strictEqual(Option.getOrUndefined(yield* broker.queue("q"))?.ready, count + 2)
    }).pipe(Effect.scoped, Effect.provide(served)))

  it.live("says good-bye to its clients when its scope closes", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const context = yield* Scope.provide(Layer.build(served), scope)
      const connection = yield* Effect.provideContext(connect(), context)
      const { port } = Context.get(context, NodeAmqpBroker.Address)
      // This one does not answer good-byes.
      const silent = yield* rawClient(port, opening)
      const broker = Context.get(context, AmqpBroker.AmqpBroker)
      yield* broker.waitUntil(Effect.map(broker.connections, ({ length }) => length === 2))
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* connection.closed).reason._tag, "ConnectionForced")
      yield* silent.ended
      const error = yield* Effect.flip(Effect.provideContext(connect(), context))
      assert.deepNestedInclude(error, { "reason._tag": "ConnectFailed", "reason.code": "ECONNREFUSED" })
    }).pipe(Effect.scoped))

  it.live("says which port it cannot have", () =>
    Effect.gen(function*() {
      const { port } = yield* NodeAmqpBroker.Address
      const error = yield* Effect.flip(NodeAmqpBroker.serve({ port }))
      assert.strictEqual(error.message, `Cannot listen on 127.0.0.1:${port}: the port is already in use`)
    }).pipe(Effect.scoped, Effect.provide(served)))
})

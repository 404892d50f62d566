/**
 * Both sides of a connection through memory: order, backpressure, and every way in which it ends.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { Socket } from "effect/socket"
import type { Link } from "../../../src/testing/internal/model/model.ts"
import { memorySocket, unreadMax } from "../../../src/testing/internal/sockets/memory.ts"

/** A broker that notes what it is told, and a client that is connected to it. */
const connected = Effect.gen(function*() {
  const told: Array<string> = []
  const links: Array<Link> = []
  let isReading = true
  const socket = memorySocket(
    (link) => {
      links.push(link)
      return {
        receive: (bytes) => {
          told.push(`received ${bytes.join()}`)
          return isReading
        },
        drained: () => told.push("drained"),
        closed: () => told.push("closed")
      }
    },
    () => "memory:1"
  )
  const scope = yield* Scope.make()
  const pull = yield* Scope.provide(Socket.readerBytes(socket), scope)
  const writer = yield* Scope.provide(socket.writer, scope)
  const [link] = links
  if (link === undefined) return yield* Effect.die("not connected")
  return {
    told,
    link,
    pull,
    writer,
    leave: Scope.close(scope, Exit.void),
    /** Whether the broker reads from now on. */
    read: (value: boolean) => (isReading = value)
  }
})

const reasonOf = <A>(pull: Effect.Effect<A, Socket.SocketError>) =>
  Effect.map(Effect.flip(pull), ({ reason }) => reason)

describe("a connection through memory", () => {
  it.effect("carries bytes in order, both ways", () =>
    Effect.gen(function*() {
      const { leave, link, pull, told, writer } = yield* connected
      yield* writer.writeAll([Uint8Array.of(1), Uint8Array.of(2)])
      yield* writer.write(Uint8Array.of(3))
      assert.deepStrictEqual(told, ["received 1", "received 2", "received 3"])
      link.write(Uint8Array.of(4))
      link.write(Uint8Array.of(5))
      assert.deepStrictEqual(yield* pull, [Uint8Array.of(4), Uint8Array.of(5)])
      const waiting = yield* Effect.forkChild(pull, { startImmediately: true })
      link.write(Uint8Array.of(6))
      assert.deepStrictEqual(yield* Fiber.join(waiting), [Uint8Array.of(6)])
      yield* leave
      assert.deepStrictEqual(told.slice(3), ["closed"])
    }))

  it.effect("does not run the client on the broker's stack", () =>
    Effect.gen(function*() {
      const { link, pull } = yield* connected
      let pulled = false
      yield* Effect.forkChild(Effect.andThen(pull, Effect.sync(() => (pulled = true))), { startImmediately: true })
      link.write(Uint8Array.of(1))
      assert.isFalse(pulled)
      yield* Effect.promise(() => Promise.resolve())
      assert.isTrue(pulled)
    }))

  it.effect("makes the broker wait for a client that does not read", () =>
    Effect.gen(function*() {
      const { link, pull, told } = yield* connected
      let written = 0
      while (link.write(new Uint8Array(1024)) && written < 10_000) written++
      assert.isBelow(written, 10_000)
      assert.deepStrictEqual(told, [])
      assert.lengthOf(yield* pull, written + 1)
      assert.deepStrictEqual(told, ["drained"])
      assert.isTrue(link.write(Uint8Array.of(1)))
      yield* pull
      assert.deepStrictEqual(told, ["drained"])
    }))

  it.effect("makes a client wait for a broker that does not read", () =>
    Effect.gen(function*() {
      const { link, read, told, writer } = yield* connected
      read(false)
      const chunk = new Uint8Array(1024)
      let written = 0
      const writing = yield* Effect.forEach(Array.from({ length: 100 }, (_, index) => index), (index) => {
        chunk.fill(index)
        return Effect.andThen(writer.write(chunk), Effect.sync(() => written++))
      }).pipe(Effect.forkChild({ startImmediately: true }))
      // One with the broker, the others on their way; the one that fills it up has not returned.
      const most = unreadMax / chunk.length
      assert.deepStrictEqual([told.length, written], [1, most])
      read(true)
      link.resume()
      assert.lengthOf(told, 1)
      yield* Fiber.join(writing)
      assert.deepStrictEqual(told, Array.from({ length: 100 }, (_, index) => `received ${chunk.fill(index).join()}`))
    }))

  it.effect("gives a broker that stops again only what it takes", () =>
    Effect.gen(function*() {
      const { link, read, told, writer } = yield* connected
      read(false)
      yield* Effect.forEach([1, 2, 3], (byte) => writer.write(Uint8Array.of(byte)))
      assert.deepStrictEqual(told, ["received 1"])
      link.resume()
      yield* Effect.promise(() => Promise.resolve())
      assert.deepStrictEqual(told, ["received 1", "received 2"])
      yield* writer.write(Uint8Array.of(4))
      read(true)
      link.resume()
      yield* Effect.promise(() => Promise.resolve())
      assert.deepStrictEqual(told, ["received 1", "received 2", "received 3", "received 4"])
    }))

  /** A connection with a write that waits. */
  const full = Effect.gen(function*() {
    const connection = yield* connected
    connection.read(false)
    yield* connection.writer.write(Uint8Array.of(1))
    const writing = yield* Effect.forkChild(connection.writer.write(new Uint8Array(unreadMax)), {
      startImmediately: true
    })
    assert.isUndefined(writing.pollUnsafe())
    return { ...connection, writing }
  })

  it.effect("lets go of a write that waits when it is interrupted, and delivers it in the end", () =>
    Effect.gen(function*() {
      const { leave, told, writing } = yield* full
      yield* Fiber.interrupt(writing)
      assert.deepStrictEqual(told, ["received 1"])
      yield* leave
      // The client has left behind what it has written.
      assert.deepStrictEqual(told.map((line) => line.slice(0, 11)), ["received 1", "received 0,", "closed"])
    }))

  it.effect("fails a write that waits when the connection ends, whichever way", () =>
    Effect.gen(function*() {
      const ends: ReadonlyArray<(connection: Effect.Success<typeof full>) => Effect.Effect<void, Socket.SocketError>> =
        [
          ({ link }) => Effect.sync(() => link.reset()),
          ({ link }) => Effect.sync(() => link.end()),
          ({ leave }) => leave,
          ({ writer }) => writer.write(new Socket.CloseEvent(1000))
        ]
      for (const end of ends) {
        const connection = yield* full
        yield* end(connection)
        assert.strictEqual((yield* reasonOf(Fiber.join(connection.writing)))._tag, "SocketWriteError")
      }
    }))

  it.effect("ends behind what was written", () =>
    Effect.gen(function*() {
      const { leave, link, pull, told, writer } = yield* connected
      link.write(Uint8Array.of(1))
      link.end()
      assert.deepStrictEqual(yield* pull, [Uint8Array.of(1)])
      assert.deepInclude(yield* reasonOf(pull), { _tag: "SocketCloseError", code: 1000 })
      assert.deepInclude(yield* reasonOf(writer.write(Uint8Array.of(1))), { _tag: "SocketWriteError" })
      assert.deepStrictEqual(told, [])
      yield* leave
      assert.deepStrictEqual(told, ["closed"])
    }))

  it.effect("is reset without what was written", () =>
    Effect.gen(function*() {
      const { leave, link, pull, told } = yield* connected
      link.write(Uint8Array.of(1))
      link.reset()
      // Not on the broker's stack.
      assert.deepStrictEqual(told, [])
      yield* Effect.promise(() => Promise.resolve())
      assert.deepStrictEqual(told, ["closed"])
      assert.deepNestedInclude(yield* reasonOf(pull), { _tag: "SocketReadError", "cause.code": "ECONNRESET" })
      yield* leave
      assert.deepStrictEqual(told, ["closed"])
    }))

  it.effect("fails a waiting pull when the client leaves, whichever way", () =>
    Effect.gen(function*() {
      const first = yield* connected
      const waiting = yield* Effect.forkChild(reasonOf(first.pull), { startImmediately: true })
      yield* first.leave
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "SocketCloseError")
      const second = yield* connected
      yield* second.writer.write(new Socket.CloseEvent(1000))
      assert.strictEqual((yield* reasonOf(second.pull))._tag, "SocketCloseError")
      assert.deepStrictEqual(second.told, ["closed"])
    }))

  it.effect("is over with its reader, if nobody writes", () =>
    Effect.gen(function*() {
      let isClosed = false
      const socket = memorySocket(
        () => ({ receive: () => true, drained: () => {}, closed: () => (isClosed = true) }),
        () => "memory:1"
      )
      yield* Effect.scoped(socket.reader)
      assert.isTrue(isClosed)
    }))

  it.effect("is refused by a broker that drops it at once", () =>
    Effect.gen(function*() {
      const socket = memorySocket((link) => {
        link.reset()
        return { receive: () => true, drained: () => {}, closed: () => {} }
      }, () => "memory:1")
      assert.deepNestedInclude(yield* reasonOf(Effect.scoped(socket.reader)), {
        _tag: "SocketOpenError",
        "cause.code": "ECONNREFUSED"
      })
    }))

  it.effect("lets a write wait until it is connected", () =>
    Effect.gen(function*() {
      const told: Array<string> = []
      const socket = memorySocket(
        () => ({ receive: (bytes) => told.push(bytes.join()) > 0, drained: () => {}, closed: () => {} }),
        () => "memory:1"
      )
      const writer = yield* socket.writer
      const writing = yield* Effect.forkChild(writer.write(Uint8Array.of(1)), { startImmediately: true })
      assert.deepStrictEqual(told, [])
      yield* socket.reader
      yield* Fiber.join(writing)
      assert.deepStrictEqual(told, ["1"])
    }))
})

/**
 * A TCP peer that does what a test says, byte by byte: a server for the client under test, or a client for a real broker.
 * It knows no protocol.
 */
import { Deferred, Effect, Queue, type Scope } from "effect"
import { connect, type Socket } from "node:net"
import { ByteLog, type PeerClosed } from "./bytes.ts"
import { listen } from "./listen.ts"

/** One connection, as seen from our end. */
export interface ScriptedConnection {
  /** Waits for the next `count` bytes. */
  readonly read: (count: number) => Effect.Effect<Uint8Array, PeerClosed>
  /** Everything that came so far, read or not. */
  readonly received: Effect.Effect<Uint8Array>
  /** Sends bytes and waits until the system has taken them; to a peer that has gone they are lost, as on any wire. */
  readonly write: (bytes: Uint8Array) => Effect.Effect<void>
  /** Ends our direction (FIN), the other stays open. */
  readonly end: Effect.Effect<void>
  /** Drops the connection (RST). */
  readonly reset: Effect.Effect<void>
  /** Reads nothing from the system any more: the peer's writes back up. */
  readonly pause: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
  /** Waits for the peer to end its direction or to drop the connection. */
  readonly closed: Effect.Effect<"end" | "reset">
}

/** A listening peer. */
export interface ScriptedPeer {
  readonly port: number
  /** Waits for the next connection, in the order in which they came. */
  readonly accept: Effect.Effect<ScriptedConnection>
}

const script = (socket: Socket): ScriptedConnection => {
  const log = new ByteLog()
  const closed = Deferred.makeUnsafe<"end" | "reset">()
  const close = (how: "end" | "reset") => {
    log.end()
    Deferred.doneUnsafe(closed, Effect.succeed(how)) // the first one counts
  }
  socket.on("data", (chunk) => log.push(chunk))
  socket.on("end", () => close("end"))
  socket.on("close", () => close("reset"))
  return {
    read: (count) => log.read(count),
    received: Effect.sync(() => log.all),
    write: (bytes) => Effect.callback((resume) => void socket.write(bytes, () => resume(Effect.void))),
    end: Effect.sync(() => void socket.end()),
    reset: Effect.sync(() => void socket.resetAndDestroy()),
    pause: Effect.sync(() => void socket.pause()),
    resume: Effect.sync(() => void socket.resume()),
    closed: Deferred.await(closed)
  }
}

/** Listens on a free port; the end of the scope drops everything. */
export const makeScripted: Effect.Effect<ScriptedPeer, never, Scope.Scope> = Effect.gen(function*() {
  const accepted = yield* Queue.unbounded<ScriptedConnection>()
  const port = yield* listen((socket) => Queue.offerUnsafe(accepted, script(socket)))
  return { port, accept: Queue.take(accepted) }
})

/** Connects to a broker; the end of the scope drops the connection. */
export const dial = (
  target: { readonly host: string; readonly port: number }
): Effect.Effect<ScriptedConnection, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => connect({ ...target, allowHalfOpen: true, noDelay: true })),
    (socket) => Effect.sync(() => socket.destroy())
  ).pipe(Effect.map((socket) => {
    socket.on("error", () => {}) // its `close` follows
    return script(socket)
  }))

/**
 * A TCP server on a free port of the loopback interface, as a scoped resource; and ports on which nobody listens.
 */
import { Cause, Effect, type Scope } from "effect"
import { randomInt } from "node:crypto"
import { readFileSync } from "node:fs"
import { createServer, type Socket } from "node:net"

/** Calls `onSocket` for each connection; the end of the scope destroys them all. Gives the port. */
export const listen = (onSocket: (socket: Socket) => void): Effect.Effect<number, never, Scope.Scope> =>
  listenOn(0, onSocket).pipe(Effect.orDie)

const listenOn = (
  port: number,
  onSocket: (socket: Socket) => void
): Effect.Effect<number, Cause.UnknownError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<{ readonly port: number; readonly close: Effect.Effect<void> }, Cause.UnknownError>((resume) => {
      const sockets = new Set<Socket>()
      const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
        sockets.add(socket)
        socket.on("close", () => sockets.delete(socket))
        socket.on("error", () => {}) // its `close` follows
        onSocket(socket)
      })
      const close = Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
      server.once("error", (error) => resume(Effect.fail(new Cause.UnknownError(error))))
      server.listen(port, "127.0.0.1", () => {
        const address = server.address()
        if (address === null || typeof address === "string") return resume(Effect.die("not a TCP server"))
        resume(Effect.succeed({ port: address.port, close }))
      })
    }),
    ({ close }) => close
  ).pipe(Effect.map(({ port }) => port))

/** The first port that outgoing connections may get; 32768 is Linux's default. */
const firstEphemeral = (): number => {
  try {
    return Number.parseInt(readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8"), 10)
  } catch {
    return 32_768
  }
}

/**
 * A port on which nobody listens, for one who listens there later, or never.
 *
 * It is none that the system gives away: an outgoing connection that had it would keep a listener from it, even closed, for
 * the minute of its TIME_WAIT.
 */
export const freePort: Effect.Effect<number> = Effect.suspend(() =>
  Effect.scoped(listenOn(randomInt(10_000, Math.max(firstEphemeral(), 20_000)), () => {}))
).pipe(Effect.retry({ times: 100 }), Effect.orDie)

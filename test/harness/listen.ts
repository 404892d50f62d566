/**
 * A TCP server on a free port of the loopback interface, as a scoped resource.
 */
import { Effect, type Scope } from "effect"
import { createServer, type Socket } from "node:net"

/** Calls `onSocket` for each connection; the end of the scope destroys them all. Gives the port. */
export const listen = (onSocket: (socket: Socket) => void): Effect.Effect<number, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<{ readonly port: number; readonly close: Effect.Effect<void> }>((resume) => {
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
      server.once("error", (error) => resume(Effect.die(error)))
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        if (address === null || typeof address === "string") return resume(Effect.die("not a TCP server"))
        resume(Effect.succeed({ port: address.port, close }))
      })
    }),
    ({ close }) => close
  ).pipe(Effect.map(({ port }) => port))

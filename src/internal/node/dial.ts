/**
 * Dials a socket of Node, and closes it with its last words.
 *
 * @since 0.1.0
 */
/// <reference types="node" />
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import type { Socket as NetSocket } from "node:net"
import type { ResolvedSocketOptions } from "./socketOptions.ts"

/** The system's codes for a peer that went away. In the middle of TLS they do not mean that certificates are wrong. */
const isGone = (cause: Error): boolean => "code" in cause && /^E(CONNRESET|PIPE|TIMEDOUT)$/.test(String(cause.code))

/** How long written bytes may take to go out when a socket closes. */
const linger = "1 second"

/** Closes the socket after what was written has gone out, unless the peer does not take it. */
const hangUp = (socket: NetSocket): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    if (socket.closed) return resume(Effect.void)
    socket.once("close", () => resume(Effect.void))
    if (socket.connecting) socket.destroy()
    else socket.destroySoon()
  }).pipe(
    Effect.interruptible,
    Effect.timeoutOption(linger),
    Effect.andThen(Effect.sync(() => socket.destroy()))
  )

/**
 * Dials, until `ready` is emitted. Unlike `NodeSocket.makeNet` and `makeTls` it sets the options of the socket for TLS, too;
 * tells a failure of TLS (`SocketUpgradeError`) from one of the
 * connection below it (`SocketOpenError`); and does not keep a socket, and with it the process, for a peer that does not
 * read.
 */
export const dial = <S extends NetSocket>(
  connect: () => S,
  ready: "connect" | "secureConnect",
  { keepAlive, keepAliveInitialDelay, noDelay }: ResolvedSocketOptions
): Effect.Effect<S, Socket.SocketError, Scope.Scope> =>
  Effect.acquireRelease(
    // OpenSSL reads certificates and keys here, and throws.
    Effect.try({
      try: () => connect().setNoDelay(noDelay).setKeepAlive(keepAlive, keepAliveInitialDelay),
      catch: (cause) => new Socket.SocketError({ reason: new Socket.SocketUpgradeError({ cause }) })
    }),
    hangUp
  ).pipe(Effect.flatMap((socket) =>
    Effect.callback<S, Socket.SocketError>((resume) => {
      let connected = false
      socket.once("connect", () => {
        connected = true
      })
      socket.once(ready, () => resume(Effect.succeed(socket)))
      // This listener stays for the life of the socket: an error without a listener would end the process.
      socket.on("error", (cause) => {
        const reason = connected && !isGone(cause)
          ? new Socket.SocketUpgradeError({ cause })
          : new Socket.SocketOpenError({ kind: "Unknown", cause })
        resume(Effect.fail(new Socket.SocketError({ reason })))
      })
    })
  ))

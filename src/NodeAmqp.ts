/**
 * AMQP over TCP and TLS on Node: `AmqpConnection.layer` with the transport that this platform has.
 *
 * The only module that imports the platform, and so the only one that needs `@effect/platform-node`.
 *
 * @since 0.1.0
 */
/// <reference types="node" />
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import { readFile } from "node:fs/promises"
import { isIP } from "node:net"
import { connect, type ConnectionOptions, type TLSSocket } from "node:tls"
import * as AmqpConnection from "./AmqpConnection.ts"
import { AmqpConnectionError, TlsFailed } from "./AmqpError.ts"
import { AmqpTransport, type Endpoint, formatEndpoint, type TlsOptions } from "./AmqpTransport.ts"

const toBytes = (pem: string | Uint8Array): string | Buffer =>
  typeof pem === "string" ? pem : Buffer.from(pem.buffer, pem.byteOffset, pem.byteLength)

/** PEM from a value, or else from a file. */
const pem = (
  endpoint: Endpoint,
  value: string | Uint8Array | undefined,
  path: string | undefined
): Effect.Effect<string | Buffer | undefined, AmqpConnectionError> => {
  if (value !== undefined) return Effect.succeed(toBytes(value))
  if (path === undefined) return Effect.undefined
  return Effect.tryPromise({
    try: () => readFile(path),
    catch: (cause) =>
      new AmqpConnectionError({
        reason: new TlsFailed({
          endpoint: formatEndpoint(endpoint),
          code: cause instanceof Error && "code" in cause ? String(cause.code) : "",
          detail: `cannot read ${path}`
        })
      })
  })
}

const tlsOptions = (
  endpoint: Endpoint,
  tls: TlsOptions
): Effect.Effect<ConnectionOptions, AmqpConnectionError> =>
  Effect.map(
    Effect.all({
      ca: pem(endpoint, tls.ca, tls.caFile),
      cert: pem(endpoint, tls.cert, tls.certFile),
      key: pem(endpoint, tls.key === undefined ? undefined : Redacted.value(tls.key), tls.keyFile)
    }),
    ({ ca, cert, key }): ConnectionOptions => ({
      host: endpoint.host,
      port: endpoint.port,
      rejectUnauthorized: tls.verify ?? true,
      // An address is not a name that a client may ask for.
      ...(tls.servername === false || (tls.servername === undefined && isIP(endpoint.host) !== 0)
        ? {}
        : { servername: tls.servername ?? endpoint.host }),
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      ...(tls.passphrase === undefined ? {} : { passphrase: Redacted.value(tls.passphrase) })
    })
  )

/**
 * Dials TLS. Unlike `NodeSocket.makeTls` it turns off Nagle's algorithm, which would hold back small frames for a round
 * trip, and tells a failure of TLS (`SocketUpgradeError`) from one of the connection below it (`SocketOpenError`).
 */
const dialTls = (options: ConnectionOptions): Effect.Effect<TLSSocket, Socket.SocketError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => connect(options).setNoDelay(true)),
    (socket) => Effect.sync(() => socket.closed || socket.destroySoon())
  ).pipe(Effect.flatMap((socket) =>
    Effect.callback<TLSSocket, Socket.SocketError>((resume) => {
      let connected = false
      socket.once("connect", () => {
        connected = true
      })
      socket.once("secureConnect", () => resume(Effect.succeed(socket)))
      // Stays for the life of the socket: an error that nobody listens to would end the process.
      socket.on("error", (cause) => {
        const reason = connected
          ? new Socket.SocketUpgradeError({ cause })
          : new Socket.SocketOpenError({ kind: "Unknown", cause })
        resume(Effect.fail(new Socket.SocketError({ reason })))
      })
    })
  ))

/**
 * Connects by `node:net` and `node:tls`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTransport: Layer.Layer<AmqpTransport> = Layer.succeed(AmqpTransport, {
  connect: (endpoint) =>
    endpoint.tls === undefined
      ? NodeSocket.makeNet({ host: endpoint.host, port: endpoint.port, noDelay: true })
      : Effect.flatMap(tlsOptions(endpoint, endpoint.tls), (options) => NodeSocket.fromDuplex(dialTls(options)))
})

/**
 * A connection over TCP or TLS, as a layer.
 *
 * **Example**
 *
 * ```ts
 * const Amqp = NodeAmqp.layer({ url: Redacted.make("amqp://guest:guest@localhost:5672/"), connectionName: "orders" })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options?: AmqpConnection.Options
): Layer.Layer<AmqpConnection.AmqpConnection, AmqpConnection.ConnectError> =>
  Layer.provide(AmqpConnection.layer(options), layerTransport)

/**
 * A connection whose options come from `Config`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<AmqpConnection.Options>
): Layer.Layer<AmqpConnection.AmqpConnection, AmqpConnection.ConnectError | Config.ConfigError> =>
  Layer.provide(AmqpConnection.layerConfig(options), layerTransport)

/**
 * The transport service. `AmqpTransport` publishes and describes it.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type * as Redacted from "effect/Redacted"
import type * as Socket from "effect/socket/Socket"
import { excerpt } from "../codec/wire.ts"
import { ConnectFailed, ConnectionLost, TlsFailed } from "../errors/clientReasons.ts"
import { AmqpConnectionError } from "../errors/connection.ts"

/**
 * How to secure a connection. Certificates and keys are PEM, given as such or as paths of files that are read at each
 * attempt, so that renewed ones are picked up.
 *
 * @category models
 * @since 0.1.0
 */
export interface TlsOptions {
  /** The certificates to trust. Defaults to those of the platform. */
  readonly ca?: string | Uint8Array | undefined
  readonly caFile?: string | undefined
  /** The client's certificate. */
  readonly cert?: string | Uint8Array | undefined
  readonly certFile?: string | undefined
  /** The key of the client's certificate. */
  readonly key?: Redacted.Redacted<string | Uint8Array> | undefined
  readonly keyFile?: string | undefined
  /** The passphrase of that key. */
  readonly passphrase?: Redacted.Redacted | undefined
  /**
   * The name to ask for (SNI) and to verify. Defaults to the host; `false` asks for none and verifies the host.
   */
  readonly servername?: string | false | undefined
  /** Whether the server's certificate is verified. Defaults to `true`: without it anybody can read the password. */
  readonly verify?: boolean | undefined
}

/**
 * One place where a broker listens.
 *
 * @category models
 * @since 0.1.0
 */
export interface Endpoint {
  /** A host name or an address, IPv6 without brackets. */
  readonly host: string
  readonly port: number
  /** `undefined`: no TLS. */
  readonly tls?: TlsOptions | undefined
}

/**
 * A socket that carries AMQP.
 *
 * **Details**
 *
 * It must not overwrite the chunks that it yields, because small messages are views of them. Only chunks that are given
 * back by `reuse` may be overwritten. That happens as soon as a chunk has been read and nothing refers to it, as with
 * pieces of large bodies.
 *
 * @category models
 * @since 0.1.0
 */
export interface TransportSocket extends Socket.Socket {
  /** Takes back a chunk. It may do nothing. */
  readonly reuse?: ((chunk: Uint8Array) => void) | undefined
}

/**
 * Options of a connection that concern its transport.
 *
 * @category models
 * @since 0.1.0
 */
export interface TransportOptions {
  /** `readInterval` of the connection's options, which a transport may follow if its reads are costly. */
  readonly readInterval: Duration.Duration
}

/**
 * Connects to endpoints.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpTransport {
  /**
   * A fresh socket for each call, which dials when its reader is acquired: a connection that fails is a
   * `SocketOpenError`, TLS that fails a `SocketUpgradeError`. A socket must not be used for a second connection.
   */
  readonly connect: (
    endpoint: Endpoint,
    options?: TransportOptions
  ) => Effect.Effect<TransportSocket, AmqpConnectionError>
}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpTransport = Context.Service<AmqpTransport>("effect-amqp/AmqpTransport")

/**
 * The name of an endpoint in errors and logs: `amqps://localhost:5671`, never with credentials.
 *
 * @category combinators
 * @since 0.1.0
 */
export const formatEndpoint = ({ host, port, tls }: Endpoint): string =>
  `${tls === undefined ? "amqp" : "amqps"}://${host.includes(":") ? `[${host}]` : host}:${port}`

const codeOf = (cause: unknown): string =>
  Predicate.hasProperty(cause, "code") && typeof cause.code === "string" ? cause.code : ""

/** Kept short, because it may hold what the peer sent: a certificate has room for very many names. */
const detailOf = (cause: unknown): string => {
  if (!(cause instanceof Error)) return excerpt(String(cause))
  // Node reports several addresses that all failed as one error without a message.
  if (cause instanceof AggregateError && cause.message === "") {
    return excerpt(cause.errors.map(detailOf).join("; "), 1000)
  }
  // OpenSSL's message spans lines and names its source; its reason is the phrase in it.
  return excerpt(
    Predicate.hasProperty(cause, "reason") && typeof cause.reason === "string" ? cause.reason : cause.message
  )
}

/**
 * Why a socket could not be opened.
 *
 * @category constructors
 * @since 0.1.0
 */
export const openError = (error: Socket.SocketError, endpoint: Endpoint): AmqpConnectionError => {
  const cause = "cause" in error.reason ? error.reason.cause : undefined
  const code = codeOf(cause)
  const isTimeout = error.reason._tag === "SocketOpenError" && error.reason.kind === "Timeout"
  const detail = isTimeout || cause === undefined ? error.reason.message : detailOf(cause)
  const fields = { endpoint: formatEndpoint(endpoint), code, detail }
  const isTls = error.reason._tag === "SocketUpgradeError"
  return new AmqpConnectionError({ reason: isTls ? new TlsFailed(fields) : new ConnectFailed(fields) })
}

/**
 * Whether the peer closed or reset the socket, so that not the network failed.
 *
 * @category guards
 * @since 0.1.0
 */
export const isHangUp = ({ reason }: Socket.SocketError): boolean =>
  reason._tag === "SocketCloseError" || ("cause" in reason && /^E(CONNRESET|PIPE)$/.test(codeOf(reason.cause)))

/**
 * Why an open socket ended. `phase` is what the connection was doing: `"open"`, or the step of the handshake.
 *
 * @category constructors
 * @since 0.1.0
 */
export const lostError = (error: Socket.SocketError, endpoint: Endpoint, phase: string): AmqpConnectionError => {
  const { reason } = error
  const cause = "cause" in reason ? reason.cause : undefined
  const code = codeOf(cause)
  // A server may refuse a client certificate after the client considers the connection secure.
  if (phase !== "open" && endpoint.tls !== undefined && /SSL|TLS|CERT|EPROTO/.test(code)) {
    return new AmqpConnectionError({
      reason: new TlsFailed({ endpoint: formatEndpoint(endpoint), code, detail: detailOf(cause) })
    })
  }
  const detail = reason._tag === "SocketCloseError"
    ? "the peer closed the socket"
    : detailOf(cause ?? reason)
  return new AmqpConnectionError({ reason: new ConnectionLost({ phase, detail }) })
}

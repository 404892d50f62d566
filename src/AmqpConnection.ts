/**
 * A connection to a broker, as a scoped value or a layer over `AmqpTransport`.
 *
 * The connection owns the socket, the handshake, the heartbeat, and the end of everything that was opened on it. When
 * it is lost, the `reconnect` schedule replaces it. Each connection to the broker is an epoch with a number. Nothing is
 * carried over from one epoch to the next: a channel (`AmqpChannel`), its deliveries and operations that wait on it end
 * with a typed error. `AmqpTopology`, `AmqpPublisher` and `AmqpConsumer` are built on top and outlive an epoch.
 * `closed` tells the final end: this client closed the connection, or the schedule gave up.
 *
 * A connection does not publish or consume: channels do.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { encodeMethod } from "./internal/codec/protocol.ts"
import { utf8 } from "./internal/codec/wire.ts"
import { type ConnectError, type Options, resolve, type ResolvedOptions } from "./internal/connection/options.ts"
import { AmqpConnection, declareWindow, type Internals, internals, TypeId } from "./internal/connection/service.ts"
import { open as openShell, type OpenSession } from "./internal/connection/shell.ts"
import { StatusBoard, toServer } from "./internal/connection/status.ts"
import { make as supervise } from "./internal/connection/supervisor.ts"
import type { AmqpTransport, Endpoint } from "./internal/connection/transport.ts"
import type { Session } from "./internal/engine/session.ts"
import type { AmqpConnectionError } from "./internal/errors/connection.ts"
import { isTransient } from "./internal/errors/transient.ts"
import { AmqpEncodeError } from "./internal/errors/value.ts"
import { backoff } from "./internal/time/backoff.ts"
import { Ending } from "./internal/time/ending.ts"
import type { InputTable } from "./internal/values/tableValue.ts"

export type { ConnectError, Options } from "./internal/connection/options.ts"
export type { Server, Status } from "./internal/connection/service.ts"
export { AmqpConnection } from "./internal/connection/service.ts"

/** The library's version, which brokers show next to its connections. */
const version = "0.1.0"

const defaultLocale = "en_US"

const defaultReconnect = backoff(Duration.seconds(30))

/** The properties of the client (specification 1.4.2.2.1), with the extensions that it understands. */
const clientProperties = (options: Options): InputTable => ({
  product: "effect-amqp",
  version,
  platform: "JavaScript",
  capabilities: {
    publisher_confirms: true,
    exchange_exchange_bindings: true,
    "basic.nack": true,
    consumer_cancel_notify: true,
    "connection.blocked": true,
    consumer_priorities: true,
    authentication_failure_close: true,
    per_consumer_qos: true
  },
  ...(options.connectionName === undefined ? {} : { connection_name: options.connectionName }),
  ...options.clientProperties
})

/**
 * Checks that the client's side of the handshake has a form on the wire: names may be too long, or tables not
 * encodable.
 */
const checkSendable = (options: Options, { vhost }: ResolvedOptions): Result.Result<unknown, AmqpEncodeError> =>
  Result.all([
    encodeMethod(0, {
      _tag: "connection.start-ok",
      clientProperties: clientProperties(options),
      mechanism: "",
      response: new Uint8Array(0),
      locale: options.locale ?? defaultLocale
    }),
    encodeMethod(0, { _tag: "connection.open", virtualHost: vhost })
  ])

/**
 * One attempt: tries each endpoint in turn until one opens. Fails with the error of the last one, or with a refusal
 * that does not pass by itself, which says more than that another node is down.
 */
const attempt = (
  options: Options,
  resolved: ResolvedOptions,
  board: StatusBoard,
  ending: Ending,
  nextEpoch: () => number
): Effect.Effect<OpenSession, AmqpConnectionError, AmqpTransport | Scope.Scope> =>
  Effect.gen(function*() {
    const credentials = yield* resolved.credentials
    const [first, ...others] = yield* resolved.endpoints
    const at = (endpoint: Endpoint) =>
      openShell({
        ...resolved,
        nextEpoch,
        ending,
        endpoint,
        mechanisms: resolved.mechanisms(credentials),
        locale: options.locale ?? defaultLocale,
        clientProperties: clientProperties(options),
        onBlocking: (session) => board.update(session)
      })
    return yield* others.reduce(
      (attempted, endpoint) =>
        Effect.catch(attempted, (before) =>
          Effect.mapError(at(endpoint), (error) =>
            isTransient(error) && !isTransient(before) ? before : error)),
      at(first)
    )
  })

/**
 * Opens a connection and closes it with the scope.
 *
 * **Details**
 *
 * Succeeds when the connection is open: dialing takes at most `connectTimeout`, the handshake at most
 * `handshakeTimeout`. Fails with `AmqpConnectionError`: `ConnectFailed`, `TlsFailed`, `AuthenticationFailed`,
 * `NegotiationFailed` (the limits), `NotAllowed` (the vhost), `ProtocolVersionMismatch`, `HandshakeTimeout`,
 * `ConnectionLost`, `ProtocolViolation`; with `AmqpUriError` or `AmqpEncodeError` for options that cannot work, before anything
 * is connected.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: Options = {}
): Effect.Effect<AmqpConnection, ConnectError, AmqpTransport | Scope.Scope> =>
  Effect.gen(function*() {
    const resolved = yield* Effect.fromResult(resolve(options))
    const ending = new Ending(yield* Clock.Clock, resolved.closeTimeout)
    if (options.separatePublishers !== true) return yield* makeOne(options, resolved, ending)
    const { connectionName } = options
    const named = connectionName === undefined ? {} : { connectionName: `${connectionName} (publishing)` }
    // It is made first, so that its scope ends last: handlers publish until they are done.
    const publishing = yield* makeOne({ ...options, ...named }, resolved, ending)
    const consuming = yield* makeOne(options, resolved, ending)
    return yield* makeTwo(consuming, publishing)
  })

const makeTwo = (
  consuming: AmqpConnection,
  publishing: AmqpConnection
): Effect.Effect<AmqpConnection, AmqpConnectionError, Scope.Scope> =>
  Effect.gen(function*() {
    // By then everything that is registered on the main connection is restored. If it is over for good, publishers go
    // on alone.
    const { nextSession } = consuming[internals]()
    yield* publishing[internals]().onEpoch(() => Effect.ignore(nextSession))
    const closing = Effect.andThen(consuming.close, publishing.close)
    return AmqpConnection.of({
      ...consuming,
      publishing,
      updateSecret: (secret, reason) =>
        Effect.all([consuming.updateSecret(secret, reason), publishing.updateSecret(secret, reason)], {
          concurrency: "unbounded",
          discard: true
        }),
      // It goes on in this order, also if the caller is interrupted.
      close: Effect.andThen(
        Effect.forkDetach(closing, { startImmediately: true }),
        Effect.asVoid(Effect.andThen(consuming.closed, publishing.closed))
      )
    })
  })

const makeOne = (
  options: Options,
  resolved: ResolvedOptions,
  ending: Ending
): Effect.Effect<AmqpConnection, ConnectError, AmqpTransport | Scope.Scope> =>
  Effect.gen(function*() {
    yield* Effect.fromResult(checkSendable(options, resolved))
    const board = new StatusBoard()
    const supervisor = yield* supervise({
      attempt: (nextEpoch) => attempt(options, resolved, board, ending, nextEpoch),
      reconnect: options.reconnect ?? defaultReconnect,
      retryFirst: options.reconnect !== undefined,
      waitTimeout: resolved.waitTimeout,
      hooks: {
        onOpen: (open) => board.begin(open),
        onReconnecting: (attempt, cause) => board.set({ _tag: "Reconnecting", attempt, cause }),
        onClosed: (error) => board.set({ _tag: "Closed", error })
      }
    })
    const { close, closed, session } = supervisor
    const inner: Internals = {
      ...supervisor,
      ending,
      declaring: Semaphore.makeUnsafe(declareWindow),
      restorations: new Set()
    }
    return AmqpConnection.of({
      [TypeId]: TypeId,
      // A function, because inspectors do not look into one: the outbox may still hold bytes of the handshake.
      [internals]: () => inner,
      status: Effect.sync(() => board.current),
      changes: board.changes,
      server: Effect.map(session, ({ negotiated }) => toServer(negotiated)),
      updateSecret: (secret, reason = "renewed") =>
        Effect.flatMap(session, (open) => updateSecret(open.session, secret, reason)),
      close,
      closed,
      publishing: undefined
    })
  })

const updateSecret = (
  session: Session,
  secret: Redacted.Redacted,
  reason: string
): Effect.Effect<void, AmqpConnectionError | AmqpEncodeError> =>
  Effect.callback((resume) => {
    if (session.error !== undefined) return resume(Effect.fail(session.error))
    try {
      session.updateSecret(utf8(Redacted.value(secret), "secret"), reason, {
        onReply: () => resume(Effect.void),
        onFailure: (error) => resume(Effect.fail(error))
      })
    } catch (error) {
      if (!(error instanceof AmqpEncodeError)) throw error
      resume(Effect.fail(error))
    }
  })

/**
 * A connection as a layer.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<AmqpConnection, ConnectError, AmqpTransport> =>
  Layer.effect(AmqpConnection, make(options))

/**
 * A connection whose options come from `Config`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<AmqpConnection, ConnectError | Config.ConfigError, AmqpTransport> =>
  Layer.effect(AmqpConnection, Effect.flatMap(Config.unwrap(options), make))

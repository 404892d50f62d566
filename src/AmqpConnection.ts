/**
 * A connection to a broker, as a scoped value or a layer over `AmqpTransport`.
 *
 * The connection owns the socket, the handshake, the heartbeat and the end of everything that was opened on it. One that
 * is lost is replaced under the `reconnect` schedule; each connection to the broker is an epoch with a number. Nothing is
 * carried over from one epoch to the next: a channel (`AmqpChannel`), its deliveries and what waits on it end, typed.
 * What outlives an epoch is built on top: `AmqpTopology`, `AmqpPublisher`, `AmqpConsumer`. `closed` is the end for good:
 * closed by this client, or given up by the schedule.
 *
 * It does not publish or consume; channels do.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { encodeMethod } from "./internal/codec/protocol.ts"
import { utf8 } from "./internal/codec/wire.ts"
import { type ConnectError, type Options, resolve, type ResolvedOptions } from "./internal/connection/options.ts"
import { open as openShell, type OpenSession } from "./internal/connection/shell.ts"
import { make as supervise, type Supervisor } from "./internal/connection/supervisor.ts"
import { type AmqpTransport, type Endpoint, formatEndpoint } from "./internal/connection/transport.ts"
import type { Limits, Negotiated } from "./internal/engine/handshake.ts"
import type { Session } from "./internal/engine/session.ts"
import type { AmqpConnectionError } from "./internal/errors/connection.ts"
import { AmqpEncodeError } from "./internal/errors/value.ts"
import { backoff } from "./internal/time/backoff.ts"
import { Ending } from "./internal/time/ending.ts"
import type { Restores } from "./internal/topology/values.ts"
import type { InputTable, PlainTable } from "./internal/values/tableValue.ts"

const TypeId = "~effect-amqp/AmqpConnection"

/** The library's version, which brokers show next to its connections. */
const version = "0.1.0"

const defaultLocale = "en_US"

export type { ConnectError, Options } from "./internal/connection/options.ts"

// -----------------------------------------------------------------------------
// the connection
// -----------------------------------------------------------------------------

/**
 * What the broker says of itself, and what was agreed with it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Server {
  /** For example `"RabbitMQ"`; empty where the broker does not say. */
  readonly product: string
  /** For example `"3.10.8"`; empty where the broker does not say. */
  readonly version: string
  /** The capabilities that the broker announces as present, for example `"publisher_confirms"`. */
  readonly capabilities: ReadonlySet<string>
  /** Everything it says of itself. */
  readonly properties: PlainTable
  /** The mechanism that authenticated the connection. */
  readonly mechanism: string
  /** Highest channel number, largest frame in bytes, heartbeat interval in seconds (0: none). */
  readonly limits: Limits
}

/**
 * The state of a connection.
 *
 * @category models
 * @since 0.1.0
 */
export type Status =
  | { readonly _tag: "Connecting" }
  | { readonly _tag: "Open"; readonly epoch: number; readonly endpoint: string; readonly server: Server }
  /** The broker is short of a resource and reads nothing from this connection; publishes wait. */
  | { readonly _tag: "Blocked"; readonly epoch: number; readonly reason: string }
  /** The connection is lost; `attempt` counts from 1 for each loss, `cause` is why the last attempt or epoch ended. */
  | { readonly _tag: "Reconnecting"; readonly attempt: number; readonly cause: AmqpConnectionError }
  /** For good: closed by this client, or given up by the schedule. */
  | { readonly _tag: "Closed"; readonly error: AmqpConnectionError }

/**
 * A connection to a broker.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpConnection {
  readonly [TypeId]: typeof TypeId
  /** The present state. */
  readonly status: Effect.Effect<Status>
  /** The present state and every one that follows; ends with the connection. */
  readonly changes: Stream.Stream<Status>
  /** What the broker said of itself. Fails once the connection is closed. */
  readonly server: Effect.Effect<Server, AmqpConnectionError>
  /**
   * Gives the broker a new password or token for this connection (`connection.update-secret`, RabbitMQ). A broker that
   * refuses it closes the connection.
   */
  readonly updateSecret: (
    secret: Redacted.Redacted,
    reason?: string
  ) => Effect.Effect<void, AmqpConnectionError | AmqpEncodeError>
  /**
   * Closes the connection and everything on it; the scope does the same.
   *
   * **Details**
   *
   * `AmqpConsumer.run` ends first: its handlers at work may finish and settle, within their `drainTimeout`. From then on nothing
   * new is taken: channels, requests and publishes fail with `ConnectionClosed`, also those that wait to be sent. What was
   * published with confirms is waited for, then the connection is closed. All of it shares one `closeTimeout`, also
   * against a broker that does not answer. Returns when the socket is closed. Closing again does nothing (specification
   * 1.4.2.9).
   *
   * **Gotchas**
   *
   * A handler of `AmqpConsumer.run` that waits for it is itself waited for, until `drainTimeout`: fork it there.
   */
  readonly close: Effect.Effect<void>
  /** Waits for the end of the connection, however it comes, and returns its reason. */
  readonly closed: Effect.Effect<AmqpConnectionError>
  /**
   * The connection that publishers have with `separatePublishers`; without, they use this one, and it is `undefined`.
   *
   * **Details**
   *
   * It is lost, blocked and replaced by itself; its `status`, `changes`, `server` and `closed` tell. Each of
   * its epochs begins when this connection is open, so that topology is declared before anybody publishes. `close` and
   * `updateSecret` are for both: consumers end first, then publishers. Raw channels are on the connection that they
   * are opened on.
   */
  readonly publishing: AmqpConnection | undefined
  /** @internal */
  readonly [internals]: () => Internals
}

/**
 * The door for the library's own modules.
 *
 * @internal
 */
export const internals: unique symbol = Symbol.for("effect-amqp/AmqpConnection/internals")

/**
 * Requests of topologies that are under way; more would only be sent in vain when one of them is refused.
 *
 * @internal
 */
export const declareWindow = 256

/** @internal */
export interface Internals extends Pick<Supervisor, "session" | "nextSession" | "onEpoch" | "onClosing" | "isOver"> {
  /** Bounds what ends on the connection. */
  readonly ending: Ending
  /** `declareWindow` permits, one for each request of a topology that is under way; one that goes alone takes all. */
  readonly declaring: Semaphore.Semaphore
  /** What the topologies say of their queues; ask `isRestored`. */
  readonly restorations: Set<Restores>
}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpConnection = Context.Service<AmqpConnection>("effect-amqp/AmqpConnection")

const text = (value: unknown): string => typeof value === "string" ? value : ""

const toServer = ({ limits, mechanism, serverProperties }: Negotiated): Server => {
  const { capabilities } = serverProperties
  const isTable = typeof capabilities === "object" && capabilities !== null && !Array.isArray(capabilities)
  return {
    product: text(serverProperties["product"]),
    version: text(serverProperties["version"]),
    capabilities: new Set(
      isTable ? Object.entries(capabilities).flatMap(([name, on]) => on === true ? [name] : []) : []
    ),
    properties: serverProperties,
    mechanism,
    limits
  }
}

const defaultReconnect = backoff(Duration.seconds(30))

/** What the client says of itself (specification 1.4.2.2.1), with the extensions that it understands. */
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

/** What the client says in the handshake must have a form on the wire; names may be too long, tables not encodable. */
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

/** The states of a connection, for those who ask and those who watch. */
class StatusBoard {
  current: Status = { _tag: "Connecting" }
  /** Made for the first who watches. */
  private hub: PubSub.PubSub<Status> | undefined
  private open: OpenSession | undefined

  set(status: Status): void {
    this.current = status
    if (this.hub !== undefined) PubSub.publishUnsafe(this.hub, status)
  }

  get changes(): Stream.Stream<Status> {
    return Stream.unwrap(Effect.map(PubSub.unbounded<Status>({ replay: 1 }), (made) => {
      if (this.hub === undefined) {
        this.hub = made
        this.set(this.current)
      }
      return Stream.takeUntil(Stream.fromPubSub(this.hub), ({ _tag }) => _tag === "Closed")
    }))
  }

  /** An epoch begins; its broker may be short of resources from the first moment on. */
  begin(open: OpenSession): void {
    this.open = open
    this.set({
      _tag: "Open",
      epoch: open.session.epoch,
      endpoint: formatEndpoint(open.endpoint),
      server: toServer(open.negotiated)
    })
    if (open.session.blockedReason !== undefined) this.update(open.session)
  }

  /** A session was blocked or unblocked. */
  update(session: Session): void {
    const { open } = this
    if (open?.session !== session) return
    const { blockedReason: reason, epoch } = session
    if (reason === undefined) this.begin(open)
    else this.set({ _tag: "Blocked", epoch, reason })
  }
}

/** One attempt, at each endpoint in turn until one opens. Fails with what the last one said. */
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
    return yield* others.reduce((attempted, endpoint) => Effect.catch(attempted, () => at(endpoint)), at(first))
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
    // Made first, so that its scope ends last: handlers publish until they are done.
    const publishing = yield* makeOne({ ...options, ...named }, resolved, ending)
    const consuming = yield* makeOne(options, resolved, ending)
    return yield* makeTwo(consuming, publishing)
  })

const makeTwo = (
  consuming: AmqpConnection,
  publishing: AmqpConnection
): Effect.Effect<AmqpConnection, AmqpConnectionError, Scope.Scope> =>
  Effect.gen(function*() {
    // What is registered there has then been restored. Where there will be none, publishers go on alone.
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
      // Goes on, in that order, when the one who asked for it waits no longer.
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
      // A function, which no inspector looks into: the outbox still holds what was said in the handshake.
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

/**
 * Options of a connection, checked and completed: explicit options come first, then those of the URL, then safe
 * defaults. Nothing is connected here. A value that cannot work is a typed error.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import { frameMinSize } from "../codec/spec.ts"
import type { Limits } from "../engine/handshake.ts"
import * as AmqpAuth from "../engine/mechanisms.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import type { AmqpEncodeError } from "../errors/value.ts"
import type { InputTable } from "../values/tableValue.ts"
import { checkEndpoints, checkHost, checkTls, type EndpointInput, inOrder } from "./endpoints.ts"
import { duration, durationOf, integer, invalid, shown } from "./optionChecks.ts"
import type { Endpoint, TlsOptions } from "./transport.ts"
import * as AmqpUri from "./uri.ts"

/**
 * Options of a connection. Those given here take precedence over the URL's.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** After the RabbitMQ URI specification, query parameters included; see `AmqpUri`. */
  readonly url?: Redacted.Redacted | string | undefined
  /** Defaults to `"localhost"`. */
  readonly host?: string | undefined
  /** Defaults to 5672, and to 5671 with TLS. */
  readonly port?: number | undefined
  /** TLS with the platform's trusted certificates (`true`), or with options. An `amqps` URL turns it on as well. */
  readonly tls?: boolean | TlsOptions | undefined
  /** Defaults to that of the URL, or else to `"/"`. Only this option can name the vhost `""`. */
  readonly vhost?: string | undefined
  /** User name and password, or an Effect that gives them at each attempt. Defaults to guest. */
  readonly credentials?: AmqpAuth.Credentials | Effect.Effect<AmqpAuth.Credentials, AmqpConnectionError> | undefined
  /**
   * SASL mechanisms in the order of preference: `"PLAIN"`, `"AMQPLAIN"`, `"EXTERNAL"`, `"ANONYMOUS"`, or one that was
   * built with `AmqpAuth.make`. Defaults to PLAIN, then AMQPLAIN.
   */
  readonly mechanisms?: ReadonlyArray<"PLAIN" | "AMQPLAIN" | "EXTERNAL" | "ANONYMOUS" | AmqpAuth.Mechanism> | undefined
  /**
   * Longest silence of either side, in whole seconds up to 65535. The shorter wish of both sides applies; 0 turns
   * heartbeats off. Defaults to 60 seconds. With less than 5 seconds a slow peer counts as dead.
   */
  readonly heartbeat?: Duration.Input | undefined
  /**
   * Largest frame in bytes, from 4096, and from 8192 for RabbitMQ 4.1 and later; the smaller wish of both sides applies.
   * Defaults to the broker's.
   */
  readonly frameMax?: number | undefined
  /** Highest channel number, up to 65535; the smaller wish of both sides applies. Defaults to the broker's. */
  readonly channelMax?: number | undefined
  /**
   * Largest content that is accepted from the broker, in bytes; a larger one ends the connection before it is read.
   * Defaults to 128 MiB.
   */
  readonly maxMessageSize?: number | undefined
  /** Shown by the broker's tools. */
  readonly connectionName?: string | undefined
  /**
   * Whether publishers (`AmqpPublisher`) have a connection of their own, named `<connectionName> (publishing)`. A
   * broker that is short of memory or disk reads nothing from a connection that publishes, not even acknowledgements.
   * On a shared connection that stops the consumers. Recommended where one process publishes and consumes. See
   * `AmqpConnection.publishing`. Defaults to `false`.
   */
  readonly separatePublishers?: boolean | undefined
  /** Added to the properties that the client sends of itself. They win over those of the same name. */
  readonly clientProperties?: InputTable | undefined
  /** Language of the broker's messages. Defaults to `"en_US"`. */
  readonly locale?: string | undefined
  /** For the socket and TLS. Defaults to 10 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** From the open socket to the open connection. Defaults to 10 seconds. */
  readonly handshakeTimeout?: Duration.Input | undefined
  /**
   * Where brokers listen, instead of `host` and `port`: a list that is tried in turn, or an Effect that gives the list
   * at each attempt. An endpoint without `tls` takes it from the option `tls` and the URL.
   */
  readonly endpoints?:
    | ReadonlyArray<EndpointInput>
    | Effect.Effect<ReadonlyArray<EndpointInput>, AmqpConnectionError>
    | undefined
  /**
   * Whether each attempt takes the list in a random order, so that clients spread over a cluster. Defaults to
   * `"fixed"`.
   */
  readonly endpointOrder?: "fixed" | "shuffled" | undefined
  /**
   * How a lost connection is replaced; its input is the typed error. Defaults to random delays without end. Their upper
   * bound is 2 s at first and doubles up to 30 s (full jitter: clients that lost their broker at the same moment come
   * back over seconds). After an epoch of 10 seconds or more the schedule begins anew.
   *
   * The first connection is retried only if a schedule is given here, and only for transient failures: refused
   * credentials, a missing vhost or a failed TLS fail at once. A broker may close the socket in answer to the login or
   * to the limits, without a word. It is asked once more, because a broker that is stopping does the same. The second
   * time that is its answer.
   */
  readonly reconnect?: Schedule.Schedule<unknown, AmqpConnectionError> | undefined
  /**
   * How long an operation waits for a connection that is lost. Then it fails with the reason of the loss. 0 fails at
   * once. Defaults to 30 seconds.
   */
  readonly waitTimeout?: Duration.Input | undefined
  /**
   * How long closing may wait for the broker: for unsettled confirms, for the answers to each close, and for the last
   * bytes to be written. Things that end together share the time. The end of a scope, or of the connection with
   * everything on it, takes so long at most, however many channels, publishers and consumers there are. Something that
   * is closed alone has the whole time. Handlers at work have the `drainTimeout` of their `AmqpConsumer.run` in
   * addition. Defaults to 5 seconds.
   */
  readonly closeTimeout?: Duration.Input | undefined
  /**
   * Shortest time between two reads of the socket, up to 10 ms. It applies while more than four small reads would come
   * in that time. Messages that gather are then handled together and acknowledged with one write, and each arrives up
   * to so much later. With 10,000 messages that come evenly in a second, each takes half the processor time, and 0.8 ms
   * instead of 0.1 from publish to handler (`npm run bench`). Where waiting slows down what is received, as with a few
   * requests in flight, it ends within a moment and is tried again later. 0 reads at once, for the shortest latency
   * under load. For TCP and TLS of `NodeAmqp`; other transports may ignore it. Defaults to 1 ms.
   */
  readonly readInterval?: Duration.Input | undefined
}

/**
 * Why no connection could be opened: the network, the broker, or the options.
 *
 * @category errors
 * @since 0.1.0
 */
export type ConnectError = AmqpConnectionError | AmqpUri.AmqpUriError | AmqpEncodeError

/** Options, checked and completed. */
export interface ResolvedOptions {
  /** Where to connect, in the order of this attempt. */
  readonly endpoints: Effect.Effect<readonly [Endpoint, ...Array<Endpoint>], AmqpConnectionError>
  readonly vhost: string
  /** The mechanisms, once the credentials are known. */
  readonly mechanisms: (credentials: AmqpAuth.Credentials) => ReadonlyArray<AmqpAuth.Mechanism>
  /** The credentials of the options or the URL. Run at each attempt. */
  readonly credentials: Effect.Effect<AmqpAuth.Credentials, AmqpConnectionError>
  readonly limits: Limits
  readonly maxMessageSize: number
  readonly connectTimeout: Duration.Duration
  readonly handshakeTimeout: Duration.Duration
  readonly closeTimeout: Duration.Duration
  readonly waitTimeout: Duration.Duration
  readonly readInterval: Duration.Duration
}

const guest: AmqpAuth.Credentials = { username: "guest", password: Redacted.make("guest") }

const texts = (options: Options): Result.Result<unknown, AmqpEncodeError> =>
  Result.all(
    ["host", "vhost", "connectionName", "locale"].map((option) => {
      const value: unknown = Reflect.get(options, option)
      return value === undefined || typeof value === "string"
        ? Result.succeed(value)
        : invalid(option, `expected a text, not ${shown(value)}`)
    })
  )

/** The largest `readInterval`. */
const maxReadInterval = Duration.millis(10)

const readInterval = (input: Duration.Input | undefined): Result.Result<Duration.Duration, AmqpEncodeError> =>
  Result.flatMap(
    duration("readInterval", input, Duration.millis(1), "none"),
    (interval) =>
      Duration.isLessThanOrEqualTo(interval, maxReadInterval)
        ? Result.succeed(interval)
        : invalid("readInterval", `expected at most ${Duration.format(maxReadInterval)}`)
  )

const heartbeat = (
  input: Duration.Input | undefined,
  fromUrl: number | undefined
): Result.Result<number, AmqpEncodeError> => {
  if (input === undefined) return Result.succeed(fromUrl ?? 60)
  const seconds = Option.getOrElse(Option.map(durationOf(input), Duration.toSeconds), () => NaN)
  if (Number.isInteger(seconds) && seconds >= 0 && seconds <= 65535) return Result.succeed(seconds)
  const instead = typeof input === "number" && Number.isInteger(input) && input > 0
    ? `: a number is in milliseconds, write "${input} seconds"`
    : ""
  return invalid(
    "heartbeat",
    `expected whole seconds from 1 to 65535 such as "60 seconds", or 0 for none, not ${shown(input)}${instead}`
  )
}

const named = (
  name: string,
  credentials: AmqpAuth.Credentials
): AmqpAuth.Mechanism | undefined => {
  switch (name.toUpperCase()) {
    case "PLAIN":
      return AmqpAuth.plain(credentials)
    case "AMQPLAIN":
      return AmqpAuth.amqplain(credentials)
    case "EXTERNAL":
      return AmqpAuth.external
    case "ANONYMOUS":
      return AmqpAuth.anonymous
    default:
      return undefined
  }
}

const mechanisms = (
  wanted: ReadonlyArray<string | AmqpAuth.Mechanism>
): Result.Result<ResolvedOptions["mechanisms"], AmqpEncodeError> => {
  if (!Array.isArray(wanted)) return invalid("mechanisms", `expected a list such as ["PLAIN"], not ${shown(wanted)}`)
  if (wanted.length === 0) return invalid("mechanisms", "expected at least one")
  for (const mechanism of wanted) {
    if (
      typeof mechanism === "string"
        ? named(mechanism, guest) === undefined
        : !Predicate.hasProperty(mechanism, "name")
    ) {
      return invalid("mechanisms", `unknown mechanism ${shown(mechanism)}: build it with AmqpAuth.make`)
    }
  }
  return Result.succeed((credentials) =>
    wanted.flatMap((mechanism) => typeof mechanism === "string" ? named(mechanism, credentials) ?? [] : mechanism)
  )
}

const checkCredentials = (credentials: unknown): Result.Result<unknown, AmqpEncodeError> => {
  const isUsable = credentials === undefined || Effect.isEffect(credentials) ||
    (Predicate.hasProperty(credentials, "username") && typeof credentials.username === "string" &&
      Predicate.hasProperty(credentials, "password") && Redacted.isRedacted(credentials.password))
  return isUsable
    ? Result.succeed(credentials)
    : invalid(
      "credentials",
      "expected { username, password }, the password as Redacted.make(\"…\"), or an Effect of that"
    )
}

/** The TLS options of a URL. */
const tlsOf = (query: AmqpUri.AmqpUriQuery): TlsOptions => ({
  caFile: query.cacertfile,
  certFile: query.certfile,
  keyFile: query.keyfile,
  passphrase: query.password,
  servername: query.serverNameIndication === "disable" ? false : query.serverNameIndication,
  verify: query.verify === undefined ? undefined : query.verify === "verify_peer"
})

const noUri: AmqpUri.AmqpUri = { scheme: "amqp", query: {} }

/** Resolves options: explicit ones first, then those of the URL, then the defaults. */
export const resolve = (options: Options): Result.Result<ResolvedOptions, ConnectError> =>
  Result.gen(function*() {
    const uri = options.url === undefined ? noUri : yield* AmqpUri.parse(options.url)
    const { query } = uri
    if (query.depth !== undefined || query.failIfNoPeerCert !== undefined) {
      return yield* invalid("url", "this client has no use for the query parameters depth and fail_if_no_peer_cert")
    }
    yield* texts(options)
    yield* checkCredentials(options.credentials)
    yield* checkTls("tls", options.tls)
    if (options.endpoints !== undefined && !Effect.isEffect(options.endpoints)) {
      const { length } = yield* checkEndpoints(options.endpoints)
      if (length === 0) return yield* invalid("endpoints", "expected at least one, or leave it out for host and port")
    }
    const { clientProperties, endpointOrder = "fixed", reconnect, separatePublishers } = options
    if (separatePublishers !== undefined && typeof separatePublishers !== "boolean") {
      return yield* invalid("separatePublishers", `expected true or false, not ${shown(separatePublishers)}`)
    }
    if (endpointOrder !== "fixed" && endpointOrder !== "shuffled") {
      return yield* invalid("endpointOrder", `expected "fixed" or "shuffled", not ${shown(endpointOrder)}`)
    }
    if (clientProperties !== undefined && !Predicate.isObject(clientProperties)) {
      return yield* invalid("clientProperties", `expected a table, not ${shown(clientProperties)}`)
    }
    if (reconnect !== undefined && !Schedule.isSchedule(reconnect)) {
      return yield* invalid("reconnect", `expected a Schedule, not ${shown(reconnect)}`)
    }
    const fromUrl = uri.scheme === "amqps" ? tlsOf(query) : undefined
    const explicit = options.tls === true ? {} : options.tls
    const tls = explicit === false ? undefined : explicit === undefined ? fromUrl : { ...fromUrl, ...explicit }
    const fallbackPort = AmqpUri.defaultPort(tls === undefined ? "amqp" : "amqps")
    const seconds10 = Duration.seconds(10)
    const timeout = query.connectionTimeout === undefined ? seconds10 : Duration.millis(query.connectionTimeout)
    return {
      endpoints: options.endpoints === undefined
        ? Effect.succeed([
          {
            host: options.host === undefined ? uri.host ?? "localhost" : yield* checkHost("host", options.host),
            port: yield* integer("port", options.port ?? uri.port ?? fallbackPort, 1, 65535),
            tls
          }
        ])
        : inOrder(options.endpoints, endpointOrder, tls),
      vhost: options.vhost ?? AmqpUri.vhostOrDefault(uri),
      credentials: Effect.isEffect(options.credentials) ? options.credentials : Effect.succeed(
        options.credentials ?? (uri.username === undefined
          ? guest
          : { username: uri.username, password: uri.password ?? Redacted.make("") })
      ),
      mechanisms: yield* mechanisms(options.mechanisms ?? query.authMechanism ?? ["PLAIN", "AMQPLAIN"]),
      limits: {
        channelMax: yield* integer("channelMax", options.channelMax ?? query.channelMax ?? 0, 1, 65535, "the broker's"),
        frameMax: yield* integer(
          "frameMax",
          options.frameMax ?? query.frameMax ?? 0,
          frameMinSize,
          0xffff_ffff,
          "the broker's"
        ),
        heartbeat: yield* heartbeat(options.heartbeat, query.heartbeat)
      },
      maxMessageSize: yield* integer(
        "maxMessageSize",
        options.maxMessageSize ?? 128 * 1024 * 1024,
        1,
        Number.MAX_SAFE_INTEGER
      ),
      connectTimeout: yield* duration("connectTimeout", options.connectTimeout, timeout),
      handshakeTimeout: yield* duration("handshakeTimeout", options.handshakeTimeout, seconds10),
      closeTimeout: yield* duration("closeTimeout", options.closeTimeout, Duration.seconds(5)),
      waitTimeout: yield* duration("waitTimeout", options.waitTimeout, Duration.seconds(30), "no wait"),
      readInterval: yield* readInterval(options.readInterval)
    }
  })

/**
 * What a user may say of a connection, checked and completed: explicit options over those of the URL, and safe defaults
 * below both. Nothing is connected here; a value that cannot work is a typed error before anything is.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Schedule from "effect/Schedule"
import * as AmqpAuth from "../AmqpAuth.ts"
import { AmqpConnectionError, AmqpEncodeError, ConnectFailed } from "../AmqpError.ts"
import type { InputTable } from "../AmqpTable.ts"
import type { Endpoint, TlsOptions } from "../AmqpTransport.ts"
import * as AmqpUri from "../AmqpUri.ts"
import type { Limits } from "./handshake.ts"
import { frameMinSize } from "./spec.ts"

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
  /** Defaults to `"/"`. */
  readonly vhost?: string | undefined
  /** User name and password, or an Effect that is asked for them at each attempt. Defaults to guest. */
  readonly credentials?: AmqpAuth.Credentials | Effect.Effect<AmqpAuth.Credentials, AmqpConnectionError> | undefined
  /**
   * SASL mechanisms in the order of preference: `"PLAIN"`, `"AMQPLAIN"`, `"EXTERNAL"`, `"ANONYMOUS"`, or one that was
   * built with `AmqpAuth.make`. Defaults to PLAIN, then AMQPLAIN.
   */
  readonly mechanisms?: ReadonlyArray<"PLAIN" | "AMQPLAIN" | "EXTERNAL" | "ANONYMOUS" | AmqpAuth.Mechanism> | undefined
  /**
   * Longest silence of either side, in whole seconds up to 65535. The shorter wish of both sides applies; 0 turns
   * heartbeats off. Defaults to 60 seconds. Less than 5 seconds takes slow peers for dead ones.
   */
  readonly heartbeat?: Duration.Input | undefined
  /** Largest frame in bytes, from 4096; the smaller wish of both sides applies. Defaults to the broker's. */
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
   * Whether publishers (`AmqpPublisher`) have a connection of their own, named `<connectionName> (publishing)`. A broker
   * that is short of memory or disk reads nothing more from a connection that publishes, no acknowledgement either: on
   * the same connection it stops the consumers. Recommended where one process publishes and consumes. See
   * `AmqpConnection.publishing`. Defaults to `false`.
   */
  readonly separatePublishers?: boolean | undefined
  /** Added to, and preferred over, the properties that the client sends of itself. */
  readonly clientProperties?: InputTable | undefined
  /** Language of the broker's messages. Defaults to `"en_US"`. */
  readonly locale?: string | undefined
  /** For the socket and TLS. Defaults to 10 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** From the open socket to the open connection. Defaults to 10 seconds. */
  readonly handshakeTimeout?: Duration.Input | undefined
  /**
   * Where brokers listen, instead of `host` and `port`: tried in turn, or an Effect that is asked at each attempt. Those
   * without `tls` of their own take it from `tls` and the URL.
   */
  readonly endpoints?:
    | ReadonlyArray<EndpointInput>
    | Effect.Effect<ReadonlyArray<EndpointInput>, AmqpConnectionError>
    | undefined
  /** Whether each attempt begins anywhere in the list, so that clients spread over a cluster. Defaults to `"fixed"`. */
  readonly endpointOrder?: "fixed" | "shuffled" | undefined
  /**
   * How a lost connection is replaced; its input is the typed error. Defaults to a delay of anything up to 2 s, doubled up
   * to 30 s (full jitter: clients that lost their broker at the same moment come back over seconds), without end. An epoch
   * that lasted 10 seconds begins it anew.
   *
   * The first connection is retried only if a schedule is given here, and only for transient failures: refused
   * credentials, a missing vhost or a failed TLS fail at once. A broker that closes the socket in answer to the login or to
   * the limits, without a word, is asked once more, because one that is stopping does the same; then that is its answer.
   */
  readonly reconnect?: Schedule.Schedule<unknown, AmqpConnectionError> | undefined
  /**
   * How long an operation that needs an open connection waits for one that is lost; then it fails with the reason of the
   * loss. 0 fails at once. Defaults to 30 seconds.
   */
  readonly waitTimeout?: Duration.Input | undefined
  /** For each step of closing: a channel's confirms, a channel, the connection. Defaults to 5 seconds. */
  readonly closeTimeout?: Duration.Input | undefined
  /**
   * Shortest time between two reads of the socket while more than four small ones would come in it, up to 10 ms: what has
   * gathered is handled together and acknowledged with one write. Whatever is received then comes up to so much later: of
   * 10,000 messages that come evenly in a second, each takes half the processor time, and 0.8 ms instead of 0.1 from publish to
   * handler (`npm run bench`). Where waiting slows down what is received, as with a few requests in flight, it ends within a
   * moment and is tried again later. 0 reads at once, for the shortest latency under load. For TCP and TLS of `NodeAmqp`; other
   * transports may ignore it. Defaults to 1 ms.
   */
  readonly readInterval?: Duration.Input | undefined
}

/**
 * Why a connection does not come about: the broker or the way to it, or the options.
 *
 * @category errors
 * @since 0.1.0
 */
export type ConnectError = AmqpConnectionError | AmqpUri.AmqpUriError | AmqpEncodeError

/**
 * An endpoint as a user gives it: the port defaults to 5672, and to 5671 with TLS.
 *
 * @category models
 * @since 0.1.0
 */
export interface EndpointInput {
  readonly host: string
  readonly port?: number | undefined
  readonly tls?: boolean | TlsOptions | undefined
}

/** Options without a question left open. */
export interface ResolvedOptions {
  /** Where to connect, in the order of this attempt. */
  readonly endpoints: Effect.Effect<readonly [Endpoint, ...Array<Endpoint>], AmqpConnectionError>
  readonly vhost: string
  /** The mechanisms, once the credentials are known. */
  readonly mechanisms: (credentials: AmqpAuth.Credentials) => ReadonlyArray<AmqpAuth.Mechanism>
  /** The credentials of the options or the URL; an Effect is asked at each attempt. */
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

const invalid = (option: string, reason: string): Result.Result<never, AmqpEncodeError> =>
  Result.fail(new AmqpEncodeError({ path: `options.${option}`, reason }))

const integer = (
  path: string,
  value: number,
  min: number,
  max: number,
  zero?: string
): Result.Result<number, AmqpEncodeError> => {
  if (zero !== undefined && value === 0) return Result.succeed(0)
  if (Number.isInteger(value) && value >= min && value <= max) return Result.succeed(value)
  const or = zero === undefined ? "" : `, or 0 for ${zero}`
  return invalid(path, `expected an integer from ${min} to ${max}${or}, not ${value}`)
}

const duration = (
  path: string,
  input: Duration.Input | undefined,
  fallback: Duration.Duration,
  zero?: string
): Result.Result<Duration.Duration, AmqpEncodeError> => {
  if (input === undefined) return Result.succeed(fallback)
  const value = Option.filter(Duration.fromInput(input), (value) => {
    const millis = Duration.toMillis(value)
    return zero === undefined ? millis > 0 : millis >= 0
  })
  const or = zero === undefined ? "" : `, or 0 for ${zero}`
  return Option.isSome(value) ? Result.succeed(value.value) : invalid(path, `expected a positive duration${or}`)
}

/** The longest time in which a socket is not read. */
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
  const seconds = input === undefined
    ? fromUrl ?? 60
    : Option.getOrElse(Option.map(Duration.fromInput(input), Duration.toSeconds), () => NaN)
  if (Number.isInteger(seconds) && seconds >= 0 && seconds <= 65535) return Result.succeed(seconds)
  return invalid("heartbeat", `expected whole seconds from 1 to 65535, or 0 for none, not ${seconds}`)
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
  if (wanted.length === 0) return invalid("mechanisms", "expected at least one")
  for (const mechanism of wanted) {
    if (typeof mechanism === "string" && named(mechanism, guest) === undefined) {
      return invalid("mechanisms", `unknown mechanism ${JSON.stringify(mechanism)}: build it with AmqpAuth.make`)
    }
  }
  return Result.succeed((credentials) =>
    wanted.flatMap((mechanism) => typeof mechanism === "string" ? named(mechanism, credentials) ?? [] : mechanism)
  )
}

const noEndpoint = new AmqpConnectionError({
  reason: new ConnectFailed({ endpoint: "", code: "", detail: "the list of endpoints is empty" })
})

const endpoints = (
  input: NonNullable<Options["endpoints"]>,
  order: "fixed" | "shuffled",
  tls: TlsOptions | undefined
): ResolvedOptions["endpoints"] =>
  Effect.gen(function*() {
    const given = Effect.isEffect(input) ? yield* input : input
    const ordered = order === "fixed" ? given : yield* Random.shuffle(given)
    const [first, ...others] = ordered.map((one): Endpoint => {
      const own = one.tls === true ? tls ?? {} : one.tls === false ? undefined : one.tls ?? tls
      return { host: one.host, port: one.port ?? AmqpUri.defaultPort(own === undefined ? "amqp" : "amqps"), tls: own }
    })
    return first === undefined ? yield* noEndpoint : [first, ...others]
  })

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

/** Options over the URL over the defaults. */
export const resolve = (options: Options): Result.Result<ResolvedOptions, ConnectError> =>
  Result.gen(function*() {
    const uri = options.url === undefined ? noUri : yield* AmqpUri.parse(options.url)
    const { query } = uri
    if (query.depth !== undefined || query.failIfNoPeerCert !== undefined) {
      return yield* invalid("url", "this client has no use for the query parameters depth and fail_if_no_peer_cert")
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
            host: options.host ?? uri.host ?? "localhost",
            port: yield* integer("port", options.port ?? uri.port ?? fallbackPort, 1, 65535),
            tls
          }
        ])
        : endpoints(options.endpoints, options.endpointOrder ?? "fixed", tls),
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

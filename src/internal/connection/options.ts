/**
 * What a user may say of a connection, checked and completed: explicit options over those of the URL, and safe defaults
 * below both. Nothing is connected here; a value that cannot work is a typed error before anything is.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import { frameMinSize } from "../codec/spec.ts"
import { excerpt } from "../codec/wire.ts"
import type { Limits } from "../engine/handshake.ts"
import * as AmqpAuth from "../engine/mechanisms.ts"
import { AmqpConnectionError, ConnectFailed } from "../errors/connection.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import type { InputTable } from "../values/tableValue.ts"
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
  /** Defaults to that of the URL, or else to `"/"`. The name `""` can be said only here. */
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
  /**
   * How long an end may take that waits for the broker: unsettled confirms, the answers to what is closed, and the last bytes on
   * their way. What ends together shares it: the end of a scope, or of the connection with everything on it, takes so long
   * at most, however many channels, publishers and consumers there are. What is closed by itself has the whole of it.
   * Handlers at work have the `drainTimeout` of their `AmqpConsumer.run` besides. Defaults to 5 seconds.
   */
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

/** The error of an option. */
export const invalid = (option: string, reason: string): Result.Result<never, AmqpEncodeError> =>
  Result.fail(new AmqpEncodeError({ path: `options.${option}`, reason }))

/** A number of an option; `zero` is what 0 means, where it may be given. */
export const integer = (
  path: string,
  value: number,
  min: number,
  max: number,
  zero?: string
): Result.Result<number, AmqpEncodeError> => {
  if (zero !== undefined && value === 0) return Result.succeed(0)
  if (Number.isInteger(value) && value >= min && value <= max) return Result.succeed(value)
  const or = zero === undefined ? "" : `, or 0 for ${zero}`
  return invalid(path, `expected an integer from ${min} to ${max}${or}, not ${shown(value)}`)
}

/** A wrong value, short; what an object holds may be secret. */
export const shown = (value: unknown): string => {
  if (typeof value === "string") return JSON.stringify(excerpt(value))
  return typeof value === "object" && value !== null ? "an object" : String(value)
}

/** The same for what may be a URL with a password in it. */
const kindOf = (value: unknown): string => typeof value === "string" ? "a text" : shown(value)

const texts = (options: Options): Result.Result<unknown, AmqpEncodeError> =>
  Result.all(
    ["host", "vhost", "connectionName", "locale"].map((option) => {
      const value: unknown = Reflect.get(options, option)
      return value === undefined || typeof value === "string"
        ? Result.succeed(value)
        : invalid(option, `expected a text, not ${shown(value)}`)
    })
  )

/** Not a number is no duration, though it is taken for none. */
const isNaNs = (input: unknown): boolean =>
  typeof input === "object" && input !== null && !Duration.isDuration(input)
    ? Object.values(input).some(isNaNs)
    : Number.isNaN(input)

/** A duration of an option; `zero` is what 0 means, where it may be given. */
export const duration = (
  path: string,
  input: Duration.Input | undefined,
  fallback: Duration.Duration,
  zero?: string
): Result.Result<Duration.Duration, AmqpEncodeError> => {
  if (input === undefined) return Result.succeed(fallback)
  const value = Option.filter(isNaNs(input) ? Option.none() : Duration.fromInput(input), (value) => {
    const millis = Duration.toMillis(value)
    return zero === undefined ? millis > 0 : millis >= 0
  })
  const or = zero === undefined ? "" : `, or 0 for ${zero}`
  return Option.isSome(value)
    ? Result.succeed(value.value)
    : invalid(path, `expected a positive duration such as "10 seconds"${or}, not ${shown(input)}`)
}

/** Why this is no host, and what to write instead; credentials in it are not repeated. */
const hostProblem = (host: string): string | undefined => {
  const name = "expected a host name or an address"
  if (host.includes("@")) return `${name} alone: user name and password are the option credentials`
  if (host.includes("://")) return `${name}, not a URL: that is the option url, and TLS the option tls`
  if (host.includes(",")) return `${name}: several are the option endpoints, each with a host of its own`
  if (/^\[.*\]/.test(host)) return `${name}: write an IPv6 address without brackets, and the port as the option port`
  const [, before, port] = /^([^:]*):(\d*)$/.exec(host) ?? []
  if (before !== undefined) {
    return `${name} without a port: write host: ${JSON.stringify(before)}, port: ${port === "" ? "5672" : port}`
  }
  if (host === "" || /[\s/?#\\]/.test(host) || (host.includes(":") && !AmqpUri.isIpv6(host))) {
    // It may be a name and a password.
    return /^[^:]*:[^:]*$/.test(host) ? `${name} alone, without a port` : `${name}, not ${shown(host)}`
  }
  return undefined
}

const checkHost = (path: string, host: string): Result.Result<string, AmqpEncodeError> => {
  const problem = hostProblem(host)
  return problem === undefined ? Result.succeed(host) : invalid(path, problem)
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
  if (input === undefined) return Result.succeed(fromUrl ?? 60)
  const given = isNaNs(input) ? Option.none() : Duration.fromInput(input)
  const seconds = Option.getOrElse(Option.map(given, Duration.toSeconds), () => NaN)
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

const noEndpoint = new AmqpConnectionError({
  reason: new ConnectFailed({ endpoint: "", code: "", detail: "the list of endpoints is empty" })
})

const isText = (value: unknown): boolean => typeof value === "string"
const isPem = (value: unknown): boolean => isText(value) || value instanceof Uint8Array

/** What the options of TLS have to be. What a wrong one holds may be a secret. */
const tlsShapes: Readonly<Record<keyof TlsOptions, readonly [fits: (value: unknown) => boolean, expected: string]>> = {
  ca: [isPem, "PEM as a text or bytes"],
  caFile: [isText, "a path"],
  cert: [isPem, "PEM as a text or bytes"],
  certFile: [isText, "a path"],
  key: [(value) => Redacted.isRedacted(value) && isPem(Redacted.value(value)), "PEM as Redacted.make(\"…\")"],
  keyFile: [isText, "a path"],
  passphrase: [(value) => Redacted.isRedacted(value) && isText(Redacted.value(value)), "Redacted.make(\"…\")"],
  servername: [(value) => isText(value) || value === false, "a name, or false"],
  verify: [(value) => typeof value === "boolean", "true or false"]
}

const checkTls = (path: string, tls: unknown): Result.Result<unknown, AmqpEncodeError> => {
  if (tls === undefined || typeof tls === "boolean") return Result.succeed(tls)
  if (typeof tls !== "object" || tls === null) {
    return invalid(path, `expected true, false or options, not ${shown(tls)}`)
  }
  for (const [option, [fits, expected]] of Object.entries(tlsShapes)) {
    const value: unknown = Reflect.get(tls, option)
    if (value !== undefined && !fits(value)) return invalid(`${path}.${option}`, `expected ${expected}`)
  }
  return Result.succeed(tls)
}

const hasHost = (endpoint: unknown): endpoint is EndpointInput =>
  Predicate.hasProperty(endpoint, "host") && typeof endpoint.host === "string"

/** The errors are those of `options.endpoints`. */
const checkEndpoints = (
  given: ReadonlyArray<EndpointInput>
): Result.Result<ReadonlyArray<EndpointInput>, AmqpEncodeError> => {
  if (!Array.isArray(given)) {
    return invalid("endpoints", `expected a list such as [{ host: "a" }], not ${kindOf(given)}`)
  }
  return Result.gen(function*() {
    for (const [index, endpoint] of given.entries()) {
      const path = `endpoints[${index}]`
      if (!hasHost(endpoint)) return yield* invalid(path, `expected { host, port }, not ${kindOf(endpoint)}`)
      yield* checkHost(`${path}.host`, endpoint.host)
      if (endpoint.port !== undefined) yield* integer(`${path}.port`, endpoint.port, 1, 65535)
      yield* checkTls(`${path}.tls`, endpoint.tls)
    }
    return given
  })
}

/** What an Effect gave that names the endpoints is an error of that attempt. */
const unusable = ({ path, reason }: AmqpEncodeError): AmqpConnectionError =>
  new AmqpConnectionError({ reason: new ConnectFailed({ endpoint: path, code: "", detail: reason }) })

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

const endpoints = (
  input: NonNullable<Options["endpoints"]>,
  order: "fixed" | "shuffled",
  tls: TlsOptions | undefined
): ResolvedOptions["endpoints"] =>
  Effect.gen(function*() {
    const given = Effect.isEffect(input)
      ? yield* Effect.flatMap(input, (named) => Effect.fromResult(Result.mapError(checkEndpoints(named), unusable)))
      : input
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
        : endpoints(options.endpoints, endpointOrder, tls),
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

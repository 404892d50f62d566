/**
 * Endpoints: where brokers listen. Checks those that a user gave, and puts them into the order of an attempt.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { ConnectFailed } from "../errors/clientReasons.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import type { AmqpEncodeError } from "../errors/value.ts"
import { integer, invalid, shown } from "./optionChecks.ts"
import type { Endpoint, TlsOptions } from "./transport.ts"
import * as AmqpUri from "./uri.ts"

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

/** Shows a wrong value that may be a URL with a password in it. */
const kindOf = (value: unknown): string => typeof value === "string" ? "a text" : shown(value)

/** Says why this is no host, and what to write instead. It does not repeat credentials. */
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
  // With a colon it may be a name and a password.
  if (host.includes(":")) return AmqpUri.isIpv6(host) ? undefined : `${name} alone, without a port`
  return host === "" || /[\s/?#\\]/.test(host) ? `${name}, not ${shown(host)}` : undefined
}

export const checkHost = (path: string, host: string): Result.Result<string, AmqpEncodeError> => {
  const problem = hostProblem(host)
  return problem === undefined ? Result.succeed(host) : invalid(path, problem)
}

const noEndpoint = new AmqpConnectionError({
  reason: new ConnectFailed({ endpoint: "", code: "", detail: "the list of endpoints is empty" })
})

const isText = (value: unknown): boolean => typeof value === "string"
const isPem = (value: unknown): boolean => isText(value) || value instanceof Uint8Array

/** What each TLS option must be. Errors do not show a wrong value, which may be a secret. */
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

export const checkTls = (path: string, tls: unknown): Result.Result<unknown, AmqpEncodeError> => {
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

/** Checks `options.endpoints`. */
export const checkEndpoints = (
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

/** A wrong list that an Effect gave is an error of that attempt. */
const unusable = ({ path, reason }: AmqpEncodeError): AmqpConnectionError =>
  new AmqpConnectionError({ reason: new ConnectFailed({ endpoint: path, code: "", detail: reason }) })

/** The endpoints in the order of an attempt; those without `tls` of their own take this one. */
export const inOrder = (
  input: ReadonlyArray<EndpointInput> | Effect.Effect<ReadonlyArray<EndpointInput>, AmqpConnectionError>,
  order: "fixed" | "shuffled",
  tls: TlsOptions | undefined
): Effect.Effect<readonly [Endpoint, ...Array<Endpoint>], AmqpConnectionError> =>
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

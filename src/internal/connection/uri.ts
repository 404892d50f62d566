/**
 * AMQP URIs, after the RabbitMQ URI specification and its page of query parameters:
 * `amqp://user:pass@host:5672/vhost?heartbeat=10`, `amqps://` for TLS.
 *
 * `parse` and `format` are inverses. An absent part and an empty one differ, except for host, port and vhost, where
 * empty means absent: `amqp://host/` is `amqp://host`, as most other clients read it. Every part may hold any Unicode
 * text, percent-encoded as UTF-8.
 *
 * It refuses texts outside the grammar (a second path segment, a fragment, an unencoded delimiter, a bad escape),
 * values that cannot work (port 70000), and query parameters that nobody would read: a misspelt one, one that is given
 * twice, a TLS one on `amqp://`. An error never repeats text of the URI, because in a broken URI any piece may be part
 * of the password. There is one exception, the name of an unknown query parameter: see `AmqpUriError`.
 *
 * @since 0.1.0
 */
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/**
 * What an AMQP URI says. An absent property means that the URI does not have that part.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpUri {
  readonly scheme: "amqp" | "amqps"
  readonly username?: string | undefined
  /** Only ever present together with a user name. */
  readonly password?: Redacted.Redacted | undefined
  /** A host name, an IPv4 address, or an IPv6 address without its brackets. Never empty. */
  readonly host?: string | undefined
  /** From 1 to 65535. */
  readonly port?: number | undefined
  /** The name as the broker knows it, without the slash of the path: `amqp://h/%2f` has `"/"`. Never empty. */
  readonly vhost?: string | undefined
  readonly query: AmqpUriQuery
}

/**
 * The query parameters of an AMQP URI. All are optional.
 *
 * **Details**
 *
 * The ones from `cacertfile` on concern TLS and need the scheme `amqps`.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpUriQuery {
  /** `heartbeat`: seconds, from 0 (off) to 65535. */
  readonly heartbeat?: number | undefined
  /** `connection_timeout`: milliseconds for establishing the connection, from 1 to 2147483647. */
  readonly connectionTimeout?: number | undefined
  /** `channel_max`: from 0 (the server's limit) to 65535. */
  readonly channelMax?: number | undefined
  /** `frame_max`: bytes, 0 (the server's limit) or from 4096 to 4294967295. */
  readonly frameMax?: number | undefined
  /** `auth_mechanism`, which may be repeated: SASL mechanisms in order of preference, spelt as in the URI. */
  readonly authMechanism?: ReadonlyArray<string> | undefined
  /** Path of the certificates to trust. */
  readonly cacertfile?: string | undefined
  /** Path of the client's certificate. */
  readonly certfile?: string | undefined
  /** Path of the key of the client's certificate. */
  readonly keyfile?: string | undefined
  /** Passphrase of that key. Not the password of the user. */
  readonly password?: Redacted.Redacted | undefined
  /** Whether the server's certificate is verified. */
  readonly verify?: "verify_peer" | "verify_none" | undefined
  /** `fail_if_no_peer_cert` */
  readonly failIfNoPeerCert?: boolean | undefined
  /** `server_name_indication`: the name to ask for and to verify; RabbitMQ reads `disable` as "none". */
  readonly serverNameIndication?: string | undefined
  /** How many certificates may stand between the server's and a trusted one, from 0 to 255. */
  readonly depth?: number | undefined
}

const Part = Schema.Literals(["scheme", "username", "password", "host", "port", "vhost", "query", "fragment"])

/**
 * A text that is not an AMQP URI.
 *
 * **Details**
 *
 * `part` is where the text stops making sense, read from the left. A user name or password with an unencoded `/`, `?`
 * or `#` is therefore reported as a bad port, vhost, query or fragment.
 *
 * `reason` never repeats text of the URI, with one exception: the name of an unknown query parameter, if it looks like
 * a name, is followed by `=`, and no `@` follows, so that it cannot be the middle of a password.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpUriError extends Schema.TaggedError<AmqpUriError>("effect-amqp/AmqpUriError")("AmqpUriError", {
  part: Part,
  reason: Schema.String
}) {
  override get message(): string {
    return `not a usable AMQP URI: its ${this.part} ${this.reason}`
  }
}

const fail = (part: typeof Part.Type, reason: string): Result.Result<never, AmqpUriError> =>
  Result.fail(new AmqpUriError({ part, reason }))

// What may stand unencoded in each part, by RFC 3986; beyond ASCII we read an IRI as RFC 3987 maps it to a URI.
const anywhere = String.raw`A-Za-z0-9\-._~!$&'()*+,;=%\u{a0}-\u{d7ff}\u{e000}-\u{10ffff}`
const nameText = new RegExp(`^[${anywhere}]*$`, "u")
const addressText = new RegExp(`^[${anywhere}:]*$`, "u")
const segmentText = new RegExp(`^[${anywhere}:@]*$`, "u")
const queryText = new RegExp(`^[${anywhere}:@/?]*$`, "u")

const decode = (part: typeof Part.Type, text: string, allowed: RegExp): Result.Result<string, AmqpUriError> =>
  allowed.test(text)
    ? Result.try({
      try: () => decodeURIComponent(text),
      catch: () =>
        new AmqpUriError({ part, reason: "has a \"%\" that does not begin a percent-encoded UTF-8 character" })
    })
    : fail(part, "has a character that must be percent-encoded, as \"@\" is %40, \":\" is %3A and \"/\" is %2F")

// A lone surrogate has no UTF-8 form. It becomes U+FFFD, as in every UTF-8 encoder.
const encode = (text: string): string => encodeURIComponent(text.toWellFormed())

/** How the text of a secret is put into a formatted URI. */
type Reveal = (secret: Redacted.Redacted) => string

/** The text of one query parameter, decoded, and its value. */
interface Value<A> {
  readonly expected: string
  readonly read: (text: string) => A | undefined
  readonly write: (value: A, reveal: Reveal) => string
}

const integer = (minimum: number, maximum: number, orZero = false): Value<number> => ({
  expected: `an integer from ${minimum} to ${maximum}${orZero ? ", or 0" : ""}`,
  read: (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : NaN
    return (value >= minimum && value <= maximum) || (orZero && value === 0) ? value : undefined
  },
  write: String
})

const string: Value<string> = {
  expected: "a text that is not empty",
  read: (text) => text === "" ? undefined : text,
  write: (value) => value
}

const boolean: Value<boolean> = {
  expected: "true or false",
  read: (text) => text === "true" ? true : text === "false" ? false : undefined,
  write: String
}

const verification: Value<"verify_peer" | "verify_none"> = {
  expected: "verify_peer or verify_none",
  read: (text) => text === "verify_peer" || text === "verify_none" ? text : undefined,
  write: (value) => value
}

const secret: Value<Redacted.Redacted> = {
  expected: "a text",
  read: (text) => Redacted.make(text),
  write: (value, reveal) => reveal(value)
}

type Mutable<A> = { -readonly [K in keyof A]: A[K] }

interface Parameter {
  readonly name: string
  readonly tls: boolean
  /** Adds what the text says to the query, or returns the reason why it cannot. */
  readonly read: (text: string, query: Mutable<AmqpUriQuery>) => string | undefined
  /** The texts to write for a query; most parameters have one or none. */
  readonly write: (query: AmqpUriQuery, reveal: Reveal) => ReadonlyArray<string>
}

const once = <K extends keyof AmqpUriQuery>(
  key: K,
  name: string,
  { expected, read, write }: Value<NonNullable<AmqpUriQuery[K]>>,
  tls = false
): Parameter => ({
  name,
  tls,
  read: (text, query) => {
    if (query[key] !== undefined) return "may be given only once"
    const value = read(text)
    if (value === undefined) return `must be ${expected}`
    query[key] = value
    return undefined
  },
  write: (query, reveal) => {
    const value = query[key]
    return value === undefined ? [] : [write(value, reveal)]
  }
})

const parameters: ReadonlyArray<Parameter> = [
  once("heartbeat", "heartbeat", integer(0, 65535)),
  once("connectionTimeout", "connection_timeout", integer(1, 2147483647)),
  once("channelMax", "channel_max", integer(0, 65535)),
  once("frameMax", "frame_max", integer(4096, 4294967295, true)),
  {
    name: "auth_mechanism",
    tls: false,
    read: (text, query) => {
      if (text === "") return `must be ${string.expected}`
      query.authMechanism = [...query.authMechanism ?? [], text]
      return undefined
    },
    write: (query) => query.authMechanism ?? []
  },
  once("cacertfile", "cacertfile", string, true),
  once("certfile", "certfile", string, true),
  once("keyfile", "keyfile", string, true),
  once("password", "password", secret, true),
  once("verify", "verify", verification, true),
  once("failIfNoPeerCert", "fail_if_no_peer_cert", boolean, true),
  once("serverNameIndication", "server_name_indication", string, true),
  once("depth", "depth", integer(0, 255), true)
]

const parseQuery = (text: string, scheme: AmqpUri["scheme"]): Result.Result<AmqpUriQuery, AmqpUriError> =>
  Result.gen(function*() {
    const query: Mutable<AmqpUriQuery> = {}
    for (const pair of text === "" ? [] : text.split("&")) {
      const equals = pair.indexOf("=")
      const name = yield* decode("query", equals === -1 ? pair : pair.slice(0, equals), queryText)
      const value = yield* decode("query", equals === -1 ? "" : pair.slice(equals + 1), queryText)
      const parameter = parameters.find((parameter) => parameter.name === name)
      if (parameter === undefined) {
        const known = parameters.map((parameter) => parameter.name).join(", ")
        const named = equals !== -1 && /^[a-z_]{1,32}$/i.test(name) && !text.includes("@") ? ` ${name}` : ""
        return yield* fail("query", `has an unknown parameter${named}; known are ${known}`)
      }
      if (parameter.tls && scheme === "amqp") {
        return yield* fail("query", `has the parameter ${parameter.name}, which needs the scheme amqps`)
      }
      const problem = parameter.read(value, query)
      if (problem !== undefined) return yield* fail("query", `has a parameter ${parameter.name}, which ${problem}`)
    }
    return query
  })

const isIpv4 = (text: string): boolean => text.split(".").every((octet) => Number(octet) <= 255)

/**
 * An IPv6 address (RFC 4291, 2.2), with or without a zone (RFC 4007, 11).
 *
 * @internal
 */
export const isIpv6 = (host: string): boolean => {
  if (host.endsWith("%")) return false
  // The last 32 bits may be written as an IPv4 address.
  const address = host.replace(/%.*$/s, "")
    .replace(/(?<=:)\d{1,3}(\.\d{1,3}){3}$/, (tail) => isIpv4(tail) ? "0:0" : tail)
  const halves = address.split("::").map((half) => half === "" ? [] : half.split(":"))
  const groups = halves.flat()
  return groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group)) &&
    (halves.length === 1 ? groups.length === 8 : halves.length === 2 && groups.length <= 7)
}

const uriShape = /^(amqps?):\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?(#.*)?$/is
const authorityShape = /^(?:([^:]*)(?::(.*))?@)?(?:\[(.*)\]|([^:[\]@]*))(?::(.*))?$/s

/**
 * Reads an AMQP URI.
 *
 * **Details**
 *
 * The scheme may be in any case. An empty port (`amqp://host:/`) means an absent one, as in RFC 3986. So does an empty
 * vhost (`amqp://host/`), unlike in RabbitMQ's specification: only the option `vhost` of a connection can name the
 * vhost `""`. `+` in a query is a plus sign. An IPv6 zone is written as RFC 6874 has it: `[fe80::1%25eth0]`.
 *
 * **Gotchas**
 *
 * A password with an unencoded `/` or `?` can happen to make another valid URI: `amqp://user:12/34@host` is the
 * host `user`, the port 12 and the vhost `34@host`.
 *
 * **Example**
 *
 * ```ts
 * AmqpUri.parse("amqp://guest:guest@localhost/%2F?heartbeat=10")
 * ```
 *
 * @category parsing
 * @since 0.1.0
 */
export const parse = (uri: string | Redacted.Redacted): Result.Result<AmqpUri, AmqpUriError> =>
  Result.gen(function*() {
    const shape = uriShape.exec(Redacted.isRedacted(uri) ? Redacted.value(uri) : uri)
    if (shape === null) return yield* fail("scheme", "must be amqp:// or amqps://")
    const [, schemeText = "", authorityText = "", vhost, search = "", fragment] = shape
    const scheme = schemeText.toLowerCase() === "amqps" ? "amqps" : "amqp"

    const authority = authorityShape.exec(authorityText)
    if (authority === null) return yield* fail("host", "has a bracket that does not enclose an IPv6 address")
    const [, username, password, address, name = "", port = ""] = authority

    const out: Mutable<AmqpUri> = { scheme, query: {} }
    if (username !== undefined) out.username = yield* decode("username", username, nameText)
    if (password !== undefined) out.password = Redacted.make(yield* decode("password", password, nameText))
    const host = yield* address === undefined ? decode("host", name, nameText) : decode("host", address, addressText)
    if (address !== undefined && !isIpv6(host)) return yield* fail("host", "has brackets, but no IPv6 address in them")
    if (host !== "") out.host = host
    if (port !== "") {
      const { expected, read } = integer(1, 65535)
      out.port = read(port)
      if (out.port === undefined) {
        return yield* fail(
          "port",
          `must be ${expected} (IPv6 addresses stand in brackets; "/", "?", "#", ":" and "@" in a user name or password ` +
            "are percent-encoded)"
        )
      }
    }
    if (vhost !== undefined && vhost !== "") out.vhost = yield* decode("vhost", vhost, segmentText)
    if (fragment !== undefined) return yield* fail("fragment", "must be absent: a \"#\" in another part is written %23")
    out.query = yield* parseQuery(search, scheme)
    return out
  })

const formatWith = (uri: AmqpUri, reveal: Reveal): string => {
  const { host = "", password, port, query, scheme, username = password && "", vhost } = uri
  const pairs = parameters.flatMap(({ name, write }) => write(query, reveal).map((value) => `${name}=${encode(value)}`))
  return `${scheme}://` +
    (username === undefined ? "" : encode(username)) +
    (password === undefined ? "" : `:${encode(reveal(password))}`) +
    (username === undefined ? "" : "@") +
    (isIpv6(host) ? `[${host.replace(/[^:]+/g, encode)}]` : encode(host)) +
    (port === undefined ? "" : `:${port}`) +
    (vhost === undefined ? "" : `/${encode(vhost)}`) +
    (pairs.length === 0 ? "" : `?${pairs.join("&")}`)
}

/**
 * Writes an AMQP URI, **with its passwords in clear**, for another program. For logs use `formatSafe`.
 *
 * **Details**
 *
 * `parse(format(uri))` gives back every `uri` that `parse` can give. The text is plain ASCII.
 *
 * **Gotchas**
 *
 * Values that the model excludes (port 70000, an empty host or vhost, a password without a user name) are written as they
 * are, and lone surrogates as U+FFFD.
 *
 * @category formatting
 * @since 0.1.0
 */
export const format = (uri: AmqpUri): string => formatWith(uri, Redacted.value)

/**
 * Writes an AMQP URI with `***` in place of its passwords: for logs and error messages.
 *
 * @category formatting
 * @since 0.1.0
 */
export const formatSafe = (uri: AmqpUri): string => formatWith(uri, () => "***")

/**
 * The port that IANA assigned to a scheme: 5672 for `amqp`, 5671 for `amqps`.
 *
 * @category defaults
 * @since 0.1.0
 */
export const defaultPort = (scheme: AmqpUri["scheme"]): number => scheme === "amqps" ? 5671 : 5672

/**
 * The virtual host to open: the one that the URI names, or else `"/"`.
 *
 * @category defaults
 * @since 0.1.0
 */
export const vhostOrDefault = (uri: Pick<AmqpUri, "vhost">): string => uri.vhost || "/"

/**
 * SASL mechanisms as plain values: what a client answers to `connection.start` and to each `connection.secure`
 * (specification 1.4.2.2 to 1.4.2.4).
 *
 * PLAIN, AMQPLAIN, EXTERNAL and ANONYMOUS are here; `make` builds any other one, of any number of rounds. A step never
 * throws: it returns bytes or a typed failure. An error that a user's step threw is not repeated, because it may hold a
 * secret. Passwords stay `Redacted` until the bytes are asked for, and no mechanism shows one when it is printed.
 *
 * Not offered: a PLAIN authorization identity, which RabbitMQ refuses.
 *
 * @since 0.1.0
 */
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { utf8, Writer } from "../codec/wire.ts"
import { AmqpEncodeError } from "../errors/value.ts"

/**
 * A user name and its password.
 *
 * @category models
 * @since 0.1.0
 */
export interface Credentials {
  readonly username: string
  readonly password: Redacted.Redacted
}

/**
 * One SASL mechanism, seen from the client. `make` builds one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Mechanism {
  /** The name under which servers list it: `"PLAIN"`. */
  readonly name: string
  /** The response of `connection.start-ok`. */
  readonly initialResponse: () => Result.Result<Uint8Array, AmqpEncodeError>
  /**
   * The response to one `connection.secure`; `round` is 0 for the first. The challenge is only valid during the call.
   * For a mechanism without this step a challenge is a protocol violation.
   */
  readonly respond?: ((challenge: Uint8Array, round: number) => Result.Result<Uint8Array, AmqpEncodeError>) | undefined
}

/**
 * The steps of a mechanism, as its author writes them.
 *
 * @category models
 * @since 0.1.0
 */
export interface MechanismOptions {
  /** The name under which servers list it, as `"RABBIT-CR-DEMO"`. */
  readonly name: string
  /** The response of `connection.start-ok`; may be empty. */
  readonly initialResponse: () => Uint8Array
  /**
   * The response to one `connection.secure`; `round` is 0 for the first. The challenge is only valid during the call.
   * Leave the step out if the mechanism expects no challenge.
   */
  readonly respond?: ((challenge: Uint8Array, round: number) => Uint8Array) | undefined
}

const runStep = (path: string, step: () => Uint8Array): Result.Result<Uint8Array, AmqpEncodeError> =>
  Result.try({
    try: () => {
      const response = step()
      if (response instanceof Uint8Array) return response
      throw new AmqpEncodeError({ path, reason: "the step must return a Uint8Array" })
    },
    catch: (error) =>
      error instanceof AmqpEncodeError
        ? error
        : new AmqpEncodeError({ path, reason: "the step threw; what it threw is left out, as it may hold a secret" })
  })

/**
 * Builds a mechanism from its steps.
 *
 * **Details**
 *
 * The steps are synchronous. One that throws an `AmqpEncodeError` fails with it; anything else that it throws becomes
 * an `AmqpEncodeError` that names the step and not what was thrown.
 *
 * **Example**
 *
 * ```ts
 * const crDemo = (credentials: AmqpAuth.Credentials) =>
 *   AmqpAuth.make({
 *     name: "RABBIT-CR-DEMO",
 *     initialResponse: () => new TextEncoder().encode(credentials.username),
 *     respond: () => new TextEncoder().encode(`My password is ${Redacted.value(credentials.password)}`)
 *   })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = ({ initialResponse, name, respond }: MechanismOptions): Mechanism => ({
  name,
  initialResponse: () => runStep(`${name}.initialResponse`, initialResponse),
  respond: respond &&
    ((challenge, round) => runStep(`${name}.respond`, () => respond(challenge, round)))
})

const reveal = ({ password }: Credentials): string => {
  if (Redacted.isRedacted(password)) return Redacted.value(password)
  throw new AmqpEncodeError({ path: "password", reason: "it must be a Redacted" })
}

const plainField = (path: string, text: string): Uint8Array => {
  if (!text.includes("\0")) return utf8(text, path)
  throw new AmqpEncodeError({ path, reason: "PLAIN separates its fields with NUL and cannot carry one" })
}

/**
 * PLAIN (RFC 4616): user name and password in one response, in clear. Use it over TLS or on a trusted network.
 *
 * **Details**
 *
 * Text goes as UTF-8. A NUL or a lone surrogate in either is an `AmqpEncodeError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const plain = (credentials: Credentials): Mechanism =>
  make({
    name: "PLAIN",
    initialResponse: () => {
      const username = plainField("username", credentials.username)
      const password = plainField("password", reveal(credentials))
      return new Uint8Array([0, ...username, 0, ...password])
    }
  })

const tableField = (writer: Writer, key: string, path: string, value: string): void => {
  writer.path = path
  writer.shortString(key)
  writer.u8(0x53) // "S", a long string
  writer.longString(value)
}

/**
 * AMQPLAIN: user name and password as the fields of a table, in clear. AMQP's own mechanism, older than PLAIN.
 *
 * **Details**
 *
 * Text goes as UTF-8. A lone surrogate in either is an `AmqpEncodeError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const amqplain = (credentials: Credentials): Mechanism =>
  make({
    name: "AMQPLAIN",
    // The fields alone: with the length that precedes a table elsewhere, RabbitMQ drops the connection.
    initialResponse: () => {
      const writer = new Writer()
      tableField(writer, "LOGIN", "username", credentials.username)
      tableField(writer, "PASSWORD", "password", reveal(credentials))
      return writer.bytes.slice(0, writer.offset)
    }
  })

const noBytes = (): Uint8Array => new Uint8Array(0)

/**
 * EXTERNAL (RFC 4422, appendix A): the server knows the client by its TLS certificate.
 *
 * @category constructors
 * @since 0.1.0
 */
export const external: Mechanism = make({ name: "EXTERNAL", initialResponse: noBytes })

/**
 * ANONYMOUS (RFC 4505), without a trace: the server picks the user.
 *
 * @category constructors
 * @since 0.1.0
 */
export const anonymous: Mechanism = make({ name: "ANONYMOUS", initialResponse: noBytes })

/**
 * Chooses the mechanism to use: the first of `preferences` that the server lists, or `undefined` if it lists none.
 *
 * **Details**
 *
 * `serverMechanisms` is the field of `connection.start`, names between white space. Names are compared without regard to
 * case, and the mechanism that is returned bears the server's spelling, which `connection.start-ok` must repeat.
 *
 * @category selection
 * @since 0.1.0
 */
export const select = (
  serverMechanisms: string,
  preferences: ReadonlyArray<Mechanism>
): Mechanism | undefined => {
  const offered = serverMechanisms.match(/\S+/g) ?? []
  for (const mechanism of preferences) {
    const upper = mechanism.name.toUpperCase()
    const name = offered.find((name) => name === mechanism.name) ?? offered.find((name) => name.toUpperCase() === upper)
    if (name !== undefined) return name === mechanism.name ? mechanism : { ...mechanism, name }
  }
  return undefined
}

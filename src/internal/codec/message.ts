/**
 * Messages: the properties and the body that a publisher gives, and the content that a broker delivers, returns or
 * hands out.
 *
 * A received message keeps its header as bytes until its properties are read. So a consumer that only wants the body
 * does not pay for them, and a header that cannot be decoded concerns that message alone. Nothing here interprets a
 * body: the application does, by content type and encoding.
 *
 * @since 0.1.0
 */
import { NodeInspectSymbol } from "effect/Inspectable"
import * as Result from "effect/Result"
import { AmqpDecodeError, AmqpEncodeError } from "../errors/value.ts"
import type { InputTable, PlainTable, Table } from "../values/tableValue.ts"
import type { ReceivedContent } from "./frames.ts"
import { type BasicProperties, readBasicProperties } from "./spec.ts"
import { readTableTagged } from "./tableReader.ts"
import { describeType, Reader, utf8, utf8Decode } from "./wire.ts"

/**
 * The properties of a received message; absent ones were not sent (specification 1.8).
 *
 * **Details**
 *
 * `timestamp` is in seconds since 1970, a `bigint` only beyond 2^53 - 1. `expiration` is a number of milliseconds as a
 * string. `deliveryMode` 2 is persistent, 1 transient. `headers` are plain values; `headersTagged` of a message keeps
 * the exact wire types. The specification reserves `clusterId`.
 *
 * @category models
 * @since 0.1.0
 */
export type Properties = BasicProperties<PlainTable>

/**
 * The properties of a message to publish: as `Properties`, with headers of any value that a field table can hold.
 *
 * **Gotchas**
 *
 * `timestamp` is in seconds: `Math.floor(Date.now() / 1000)`. A number beyond the year 9999, which is one of
 * milliseconds, is an `AmqpEncodeError`; a `bigint` may be any.
 *
 * @category models
 * @since 0.1.0
 */
export type PropertiesInput = BasicProperties<InputTable>

/**
 * A message to publish.
 *
 * @category models
 * @since 0.1.0
 */
export interface Publish {
  /** Defaults to the default exchange (`""`), which routes to the queue that the routing key names. */
  readonly exchange?: string | undefined
  /** Defaults to `""`. At most 255 bytes. */
  readonly routingKey?: string | undefined
  /** A string is sent as UTF-8. Bodies of 16 KiB and more are not copied: do not change them afterwards. */
  readonly body: Uint8Array | string
  readonly properties?: PropertiesInput | undefined
  /** Whether the broker must give back a message that no queue takes. Defaults to `false`. Needs confirms or tx. */
  readonly mandatory?: boolean | undefined
}

/**
 * The bytes of a body. Throws `AmqpEncodeError`.
 *
 * @internal
 */
export const bodyBytes = (body: Publish["body"]): Uint8Array => {
  if (typeof body === "string") return utf8(body, "body")
  if (body instanceof Uint8Array) return body
  const what: unknown = body
  const reason = `expected a string or a Uint8Array, not ${describeType(what)}: encode it first, as by JSON.stringify`
  throw new AmqpEncodeError({ path: "body", reason })
}

/** The end of the year 9999. A larger number was counted in milliseconds. */
const lastSecond = 253_402_300_799

/**
 * Refuses a timestamp that could be written but is a mistake. Throws `AmqpEncodeError`.
 *
 * @internal
 */
export const checkTimestamp = (timestamp: PropertiesInput["timestamp"]): void => {
  if (typeof timestamp !== "number" || timestamp <= lastSecond) return
  const reason =
    "expected seconds since 1970, not milliseconds: Math.floor(Date.now() / 1000). A bigint may be any number"
  throw new AmqpEncodeError({ path: "timestamp", reason })
}

/**
 * The private tag by which returned messages are told apart starts with this; see `engine/confirms.ts`.
 *
 * @internal
 */
export const pairingPrefix = "\u0001"

/**
 * Reads the properties of a content header, from the flags to the end. Throws `AmqpDecodeError`.
 *
 * @internal
 */
export const readProperties = (reader: Reader): Properties => {
  const flags = reader.u16()
  if ((flags & 0x3) !== 0) throw new AmqpDecodeError({ path: "properties", reason: "unknown property flags" })
  const properties = readBasicProperties(reader, flags)
  if (reader.remaining !== 0) {
    throw new AmqpDecodeError({ path: "properties", reason: `${reader.remaining} bytes after the last property` })
  }
  return properties
}

/**
 * A message that came from a broker.
 *
 * **Gotchas**
 *
 * `body` is a view into the buffer that was received: copy it (`body.slice()`) to keep it for long, or a small message
 * keeps up to 256 KiB alive.
 *
 * @category models
 * @since 0.1.0
 */
export class AmqpMessage {
  readonly exchange: string
  readonly routingKey: string
  readonly body: Uint8Array
  readonly #header: Uint8Array
  readonly #headerStart: number
  readonly #headerEnd: number
  #decoded: Properties | AmqpDecodeError | undefined
  #pairingTag: string | undefined

  /** @internal */
  constructor(exchange: string, routingKey: string, received: ReceivedContent) {
    this.exchange = exchange
    this.routingKey = routingKey
    this.body = received.content
    this.#header = received.headerBytes
    this.#headerStart = received.headerStart
    this.#headerEnd = received.headerEnd
    this.#decoded = undefined
    this.#pairingTag = undefined
  }

  #decode(): Properties | AmqpDecodeError {
    if (this.#decoded !== undefined) return this.#decoded
    try {
      const properties = readProperties(new Reader(this.#header, this.#headerStart, this.#headerEnd))
      if (properties.clusterId?.startsWith(pairingPrefix)) {
        const { clusterId, ...visible } = properties
        this.#pairingTag = clusterId
        this.#decoded = visible
      } else {
        this.#decoded = properties
      }
    } catch (error) {
      if (!(error instanceof AmqpDecodeError)) throw error
      this.#decoded = error
    }
    return this.#decoded
  }

  /**
   * The private tag of a publish that came back; see `engine/confirms.ts`.
   *
   * @internal
   */
  get pairing(): string | undefined {
    this.#decode()
    return this.#pairingTag
  }

  /**
   * The properties, decoded on first use. Throws the `AmqpDecodeError` of a header that is not decodable: look at
   * `decodeError` first where peers are not trusted.
   */
  get properties(): Properties {
    const decoded = this.#decode()
    if (decoded instanceof AmqpDecodeError) throw decoded
    return decoded
  }

  /** Why the properties cannot be decoded; `undefined` for every well-formed message. */
  get decodeError(): AmqpDecodeError | undefined {
    const decoded = this.#decode()
    return decoded instanceof AmqpDecodeError ? decoded : undefined
  }

  /** `properties` without the throw: `Effect.fromResult` makes an Effect of it that fails typed. */
  get propertiesResult(): Result.Result<Properties, AmqpDecodeError> {
    const decoded = this.#decode()
    return decoded instanceof AmqpDecodeError ? Result.fail(decoded) : Result.succeed(decoded)
  }

  /** The headers with their exact wire types, in order, duplicates included. Throws as `properties` does. */
  get headersTagged(): Table | undefined {
    const { contentEncoding, contentType, headers } = this.properties
    if (headers === undefined) return undefined
    const reader = new Reader(this.#header, this.#headerStart + 2, this.#headerEnd)
    if (contentType !== undefined) reader.shortString()
    if (contentEncoding !== undefined) reader.shortString()
    return readTableTagged(reader, "headers")
  }

  /** The body as text. Throws an `AmqpDecodeError` where it is not UTF-8. */
  get text(): string {
    return Result.getOrThrow(this.textResult)
  }

  /** `text` without the throw: `Effect.fromResult` makes an Effect of it that fails typed. */
  get textResult(): Result.Result<string, AmqpDecodeError> {
    const text = utf8Decode(this.body)
    return text === undefined
      ? Result.fail(new AmqpDecodeError({ path: "body", reason: "it is not UTF-8" }))
      : Result.succeed(text)
  }

  /** For logs: the size of the body, not the body. */
  toJSON(): unknown {
    const { body, exchange, routingKey } = this
    const decoded = this.#decode()
    const properties = decoded instanceof AmqpDecodeError ? decoded.message : decoded
    return { _id: "AmqpMessage", exchange, routingKey, properties, bodySize: body.length }
  }

  [NodeInspectSymbol](): unknown {
    return this.toJSON()
  }
}

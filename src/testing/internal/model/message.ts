/**
 * A message as the broker keeps it: the bytes that were published, and what routing and queues have to know of them.
 *
 * The properties stay the bytes they came as, so that a consumer gets exactly what was published. Only where RabbitMQ
 * itself rewrites headers (dead-lettering, `BCC`, delivery counts, stream offsets) are they decoded and encoded again.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { AmqpMessage, type Properties, type PropertiesInput } from "../../../AmqpMessage.ts"
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import * as AmqpTable from "../../../AmqpTable.ts"

/** What a message is made of. */
export interface MessageFields {
  /** The exchange that it was published to last. */
  readonly exchange: string
  readonly routingKey: string
  /** The keys of the `BCC` header, which was removed: dead letters go by these keys, too. Defaults to none. */
  readonly blindKeys?: ReadonlyArray<string> | undefined
  /** The bytes of the content header, from the property flags on; the message's own, not a view of a chunk. */
  readonly properties: Uint8Array
  /** The message's own, too. */
  readonly body: Uint8Array
}

/** A message that is stored or on its way. Immutable, so that all queues that it is routed to share it. */
export class Message implements MessageFields {
  readonly exchange: string
  readonly routingKey: string
  readonly blindKeys: ReadonlyArray<string>
  readonly properties: Uint8Array
  readonly body: Uint8Array
  private view: AmqpMessage | undefined
  private decoding: Properties | undefined

  constructor(fields: MessageFields) {
    this.exchange = fields.exchange
    this.routingKey = fields.routingKey
    this.blindKeys = fields.blindKeys ?? []
    this.properties = fields.properties
    this.body = fields.body
    this.view = undefined
    this.decoding = undefined
  }

  /** In bytes, properties included. */
  get size(): number {
    return this.properties.length + this.body.length
  }

  /** As a client sees it. */
  get received(): AmqpMessage {
    return this.view ??= new AmqpMessage(this.exchange, this.routingKey, {
      content: this.body,
      headerBytes: this.properties,
      headerStart: 0,
      headerEnd: this.properties.length
    })
  }

  /** All properties, with the one that clients hide. Throws `AmqpDecodeError`, so it is checked on arrival. */
  get decoded(): Properties {
    return this.decoding ??= Result.getOrThrow(AmqpProtocol.decodeProperties(this.properties))
  }

  // Queues ask these of every message. Where the flags say that a property is absent, nothing is decoded.

  /** In milliseconds. */
  get expiration(): number | undefined {
    const text = this.has(1 << 8) ? this.decoded.expiration : undefined
    return text === undefined ? undefined : Number(text)
  }

  get priority(): number | undefined {
    return this.has(1 << 11) ? this.decoded.priority : undefined
  }

  /** Whether it is to outlive a restart of the node in a durable queue. */
  get isPersistent(): boolean {
    return this.has(1 << 12) && this.decoded.deliveryMode === 2
  }

  private has(flag: number): boolean {
    return ((((this.properties[0] ?? 0) << 8) | (this.properties[1] ?? 0)) & flag) !== 0
  }

  /** The headers with their exact types, or none. */
  get headers(): AmqpTable.Table {
    return this.received.headersTagged ?? AmqpTable.table([])
  }

  /** The same with other properties (those that are `undefined` are left out) or fields. */
  with(properties: PropertiesInput, fields: Partial<Omit<MessageFields, "properties" | "body">> = {}): Message {
    return new Message({
      exchange: fields.exchange ?? this.exchange,
      routingKey: fields.routingKey ?? this.routingKey,
      blindKeys: fields.blindKeys ?? this.blindKeys,
      properties: Result.getOrThrow(
        AmqpProtocol.encodeProperties({ ...this.decoded, headers: this.received.headersTagged, ...properties })
      ),
      body: this.body
    })
  }

  /**
   * The same with some headers set, or removed where the value is `undefined`. As in RabbitMQ, where one is set they
   * are in the order of their keys from then on, of several with the same key the last one remains, and an `L` is
   * written as the `l` that it means.
   */
  withHeaders(changes: { readonly [key: string]: AmqpTable.Value | undefined }): Message {
    const headers = new Map(
      this.headers.value.map(([key, value]) => [key, value._tag === "Int64" ? AmqpTable.int64(value.value) : value])
    )
    for (const [key, value] of Object.entries(changes)) {
      if (value === undefined) headers.delete(key)
      else headers.set(key, value)
    }
    const isSet = Object.values(changes).some((value) => value !== undefined)
    return this.with({ headers: AmqpTable.table(isSet ? sorted(headers) : [...headers]) })
  }
}

/** By the bytes of the keys, as Erlang sorts; the order of code units is another one only beyond U+FFFF. */
const sorted = (headers: Iterable<readonly [string, AmqpTable.Value]>): AmqpTable.Table["value"] =>
  [...headers].sort(([a], [b]) => a < b ? -1 : 1)

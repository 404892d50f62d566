/**
 * A message as the broker keeps it: the bytes that were published, and what routing and queues have to know of them.
 *
 * The properties stay the bytes they came as, so that a consumer gets exactly what was published. Only where RabbitMQ
 * itself rewrites headers (dead-lettering, `BCC`, delivery counts, stream offsets) are they decoded and encoded again.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { AmqpMessage, type Properties, type PropertiesInput } from "../../AmqpMessage.ts"
import * as AmqpProtocol from "../../AmqpProtocol.ts"
import * as AmqpTable from "../../AmqpTable.ts"

/** What a message is made of. */
export interface MessageFields {
  /** The exchange that it was published to last. */
  readonly exchange: string
  readonly routingKey: string
  /** The bytes of the content header, from the property flags on; the message's own, not a view of a chunk. */
  readonly properties: Uint8Array
  /** The message's own, too. */
  readonly body: Uint8Array
}

/** A message that is stored or on its way. Immutable, so that all queues that it is routed to share it. */
export class Message implements MessageFields {
  readonly exchange: string
  readonly routingKey: string
  readonly properties: Uint8Array
  readonly body: Uint8Array
  private view: AmqpMessage | undefined

  constructor(fields: MessageFields) {
    this.exchange = fields.exchange
    this.routingKey = fields.routingKey
    this.properties = fields.properties
    this.body = fields.body
    this.view = undefined
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

  /** All properties, the one that clients hide too. Throws `AmqpDecodeError`: check on arrival. */
  get decoded(): Properties {
    return Result.getOrThrow(AmqpProtocol.decodeProperties(this.properties))
  }

  /** The headers with their exact types, or none. */
  get headers(): AmqpTable.Table {
    return this.received.headersTagged ?? AmqpTable.table([])
  }

  /** The same with other properties (those that are `undefined` are left out) or fields. */
  with(properties: PropertiesInput, fields: Partial<Pick<MessageFields, "exchange" | "routingKey">> = {}): Message {
    return new Message({
      exchange: fields.exchange ?? this.exchange,
      routingKey: fields.routingKey ?? this.routingKey,
      properties: Result.getOrThrow(
        AmqpProtocol.encodeProperties({ ...this.decoded, headers: this.received.headersTagged, ...properties })
      ),
      body: this.body
    })
  }

  /** The same with some headers set: existing ones in their place, new ones at the end. `undefined` removes. */
  withHeaders(changes: { readonly [key: string]: AmqpTable.Value | undefined }): Message {
    const kept = this.headers.value.flatMap(([key, value]): AmqpTable.Table["value"] => {
      if (!Object.hasOwn(changes, key)) return [[key, value]]
      const changed = changes[key]
      return changed === undefined ? [] : [[key, changed]]
    })
    const known = new Set(kept.map(([key]) => key))
    const added = Object.entries(changes).flatMap(([key, value]): AmqpTable.Table["value"] =>
      value === undefined || known.has(key) ? [] : [[key, value]]
    )
    return this.with({ headers: AmqpTable.table([...kept, ...added]) })
  }
}

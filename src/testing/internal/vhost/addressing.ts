/**
 * Where a message wants to go: its routing key, and the keys in its `CC` and `BCC` headers (RabbitMQ).
 *
 * @since 0.1.0
 */
import { utf8Decode } from "../../../internal/codec/wire.ts"
import { taggedTypeName } from "../model/fieldValue.ts"
import type { Message } from "../model/message.ts"
import { preconditionFailed } from "../model/refusal.ts"

/** The flag of the headers in the first byte of the property flags. Messages without headers are not decoded. */
const headersFlag = 0x20

/**
 * All routing keys of a message, and the message as its receivers see it: without `BCC`. Refuses with 406 what RabbitMQ
 * takes for no message.
 */
export const addressed = (message: Message): { readonly keys: ReadonlyArray<string>; readonly sent: Message } => {
  const hasHeaders = ((message.properties[0] ?? 0) & headersFlag) !== 0
  const copied = hasHeaders ? keysIn(message, "CC") : []
  const isBlind = hasHeaders && message.headers.value.some(([key]) => key === "BCC")
  const blindKeys = isBlind ? keysIn(message, "BCC") : message.blindKeys
  const { deliveryMode } = message.received.properties
  if (deliveryMode !== undefined && deliveryMode !== 1 && deliveryMode !== 2) {
    throw preconditionFailed(`invalid message: {delivery_mode_unknown,${deliveryMode}}`)
  }
  return {
    keys: [message.routingKey, ...copied, ...blindKeys],
    sent: isBlind ? message.withHeaders({ BCC: undefined }).with({}, { blindKeys }) : message
  }
}

const keysIn = (message: Message, header: string): ReadonlyArray<string> => {
  const value = message.headers.value.find(([key]) => key === header)?.[1]
  if (value === undefined) return []
  if (value._tag !== "Array") {
    throw preconditionFailed(
      `invalid message: {unacceptable_type_in_header,"${header}",${taggedTypeName(value)}}`
    )
  }
  return value.value.flatMap((item) => {
    if (item._tag !== "LongString") return []
    const text = typeof item.value === "string" ? item.value : utf8Decode(item.value)
    return text === undefined ? [] : [text]
  })
}

/**
 * What RabbitMQ checks in a message before it routes it.
 *
 * Routing checks the delivery mode and the keys of `CC` and `BCC`. Nobody checks what a value means: a content type, or
 * a priority above the queue's.
 *
 * @since 0.1.0
 */
import { AmqpDecodeError } from "../../../AmqpError.ts"
import type { Properties } from "../../../AmqpMessage.ts"
import type { Plain } from "../../../AmqpTable.ts"
import { withTuple } from "../model/fieldValue.ts"
import type { Message } from "../model/message.ts"
import { internalError, preconditionFailed } from "../model/refusal.ts"
import type { IncomingContent } from "./incoming.ts"

const isMalformed = (value: Plain | undefined): boolean => {
  if (typeof value === "number") return !Number.isFinite(value)
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return false
  return Object.values(value).some(isMalformed)
}

/** The properties. Refuses with 541 what cannot be decoded. */
export const decodeStrictly = (message: Message): Properties => {
  let properties: Properties
  try {
    properties = message.decoded
  } catch (error) {
    // RabbitMQ's parser crashes, and the connection ends.
    if (error instanceof AmqpDecodeError) throw internalError
    throw error
  }
  if (properties.headers !== undefined && isMalformed(properties.headers)) throw internalError
  return properties
}

/** Ten years, in milliseconds. */
const maxExpiration = 315_360_000_000

const checkExpiration = (expiration: string): void => {
  const digits = /^[+-]?\d+/.exec(expiration)?.[0]
  const text = `invalid expiration '${expiration}': `
  if (digits === undefined) throw preconditionFailed(`${text}no_integer`)
  const refused = (reason: string, value: string | bigint) => preconditionFailed(withTuple(text, reason, value))
  if (digits !== expiration) throw refused("leftover_string", `"${expiration.slice(digits.length)}"`)
  const millis = BigInt(digits.startsWith("+") ? digits.slice(1) : digits)
  if (millis < 0n) throw refused("value_negative", millis)
  if (millis > maxExpiration) throw refused("value_too_large", millis)
}

/** Refuses with 406 a message that is larger than the broker takes. */
export const checkSize = (content: IncomingContent, maxMessageSize: number): void => {
  const size = content.body.length
  if (size > maxMessageSize) {
    throw preconditionFailed(`message size ${size} is larger than configured max size ${maxMessageSize}`)
  }
}

/** Refuses with 406 properties that this user may not send. */
export const checkProperties = ({ expiration, userId }: Properties, user: string): void => {
  if (userId !== undefined && userId !== user) {
    throw preconditionFailed(`user_id property set to '${userId}' but authenticated user was '${user}'`)
  }
  if (expiration !== undefined) checkExpiration(expiration)
}

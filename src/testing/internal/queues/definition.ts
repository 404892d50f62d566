/**
 * What a queue was declared as, and what its arguments say. The vhost has validated them. What no queue here does is
 * refused.
 *
 * @since 0.1.0
 */
import type { PlainTable } from "../../../AmqpTable.ts"
import type { Owner, QueueType } from "../model/model.ts"
import { notImplemented } from "../model/refusal.ts"

/** What a queue was declared as. */
export interface QueueDefinition {
  readonly name: string
  readonly type: QueueType
  readonly durable: boolean
  readonly autoDelete: boolean
  /** Whose it is, if it is exclusive. */
  readonly owner: Owner | undefined
  readonly arguments: PlainTable
}

/** How RabbitMQ calls a queue in its replies. */
export const describeQueue = (vhost: string, name: string): string => `queue '${name}' in vhost '${vhost}'`

/** Where messages go that a queue gives up. */
export interface DeadLetterTarget {
  readonly exchange: string
  /** `undefined`: they keep theirs. */
  readonly routingKey: string | undefined
}

/** What a queue's arguments say. `undefined`: not set. */
export interface QueueSettings {
  /** `x-message-ttl`, in milliseconds. */
  readonly messageTtl: number | undefined
  /** `x-expires`, in milliseconds. */
  readonly expires: number | undefined
  /** `x-max-length`; infinite if not set. */
  readonly maxLength: number
  /** `x-max-length-bytes`: of bodies alone. Infinite if not set. */
  readonly maxBytes: number
  /** `x-overflow`. */
  readonly overflow: "drop-head" | "reject-publish" | "reject-publish-dlx"
  /** `x-dead-letter-exchange` and `x-dead-letter-routing-key`. */
  readonly deadLetters: DeadLetterTarget | undefined
  /** `x-max-priority`; 0: messages are not ordered by priority. */
  readonly maxPriority: number
  /** `x-single-active-consumer`. */
  readonly isSingleActive: boolean
  /** `x-delivery-limit` of a quorum queue. */
  readonly deliveryLimit: number | undefined
  /** `x-max-age` of a stream, in milliseconds; infinite if not set. */
  readonly maxAge: number
  /** `x-stream-max-segment-size-bytes`: what a stream's retention drops at once. Defaults to 500 000 000. */
  readonly segmentBytes: number
}

const seconds: Readonly<Record<string, number>> = {
  Y: 365 * 86_400,
  M: 30 * 86_400,
  D: 86_400,
  h: 3600,
  m: 60,
  s: 1
}

/** An age such as `7D` in milliseconds, as RabbitMQ writes it for streams: years, months, days, hours, minutes, seconds. */
export const parseAge = (text: string): number | undefined => {
  const [, count, unit = ""] = /^(\d+)([YMDhms])$/.exec(text) ?? []
  const length = seconds[unit]
  return length === undefined ? undefined : Number(count) * length * 1000
}

/** Reads the arguments of a queue. Refuses those that RabbitMQ has and no queue here. */
export const readSettings = (definition: QueueDefinition): QueueSettings => {
  const table = definition.arguments
  const integer = (key: string): number | undefined => {
    const value = table[key]
    return typeof value === "number" || typeof value === "bigint" ? Number(value) : undefined
  }
  const text = (key: string): string | undefined => {
    const value = table[key]
    return typeof value === "string" ? value : undefined
  }
  if (definition.type === "quorum" && text("x-dead-letter-strategy") === "at-least-once") {
    throw notImplemented("x-dead-letter-strategy 'at-least-once'")
  }
  const overflow = text("x-overflow")
  const exchange = text("x-dead-letter-exchange")
  return {
    messageTtl: integer("x-message-ttl"),
    expires: integer("x-expires"),
    maxLength: integer("x-max-length") ?? Infinity,
    maxBytes: integer("x-max-length-bytes") ?? Infinity,
    overflow: overflow === "reject-publish" || overflow === "reject-publish-dlx" ? overflow : "drop-head",
    deadLetters: exchange === undefined ? undefined : { exchange, routingKey: text("x-dead-letter-routing-key") },
    maxPriority: integer("x-max-priority") ?? 0,
    isSingleActive: table["x-single-active-consumer"] === true,
    deliveryLimit: integer("x-delivery-limit"),
    maxAge: parseAge(text("x-max-age") ?? "") ?? Infinity,
    segmentBytes: integer("x-stream-max-segment-size-bytes") ?? 500_000_000
  }
}

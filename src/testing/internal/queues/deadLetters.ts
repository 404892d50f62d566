/**
 * Dead-lettering: how a message tells what became of it (`x-death`, `x-first-death-…`), and which queues must not get it
 * again because it would turn in a circle.
 *
 * The order of the deaths is RabbitMQ 3.10's, which is not quite "the latest first": each further one turns the order of
 * those before it around.
 *
 * @since 0.1.0
 */
import * as AmqpTable from "../../../AmqpTable.ts"
import type { Message } from "../model/message.ts"

/** Why a queue gives a message up. */
export type Reason = "rejected" | "expired" | "maxlen" | "delivery_limit"

/** How a message left a queue. */
export interface Death {
  readonly queue: string
  readonly reason: Reason
  /** In milliseconds since 1970. */
  readonly at: number
  /** Where it goes. */
  readonly exchange: string
  /** `undefined`: it keeps its own, `CC` included. */
  readonly routingKey: string | undefined
}

type Fields = AmqpTable.Table["value"]

/** The message as it goes to the dead-letter exchange: it does not expire again, and its headers tell of this death. */
export const deadLetter = (message: Message, death: Death): Message => {
  const { expiration } = message.decoded
  const keys = [message.routingKey, ...textsOf(message, "CC"), ...textsOf(message, "BCC")]
  const info: Fields = [
    ["reason", AmqpTable.longString(death.reason)],
    ["queue", AmqpTable.longString(death.queue)],
    ["time", AmqpTable.timestamp(BigInt(Math.floor(death.at / 1000)))],
    ["exchange", AmqpTable.longString(message.exchange)],
    ["routing-keys", AmqpTable.array(keys.map((key) => AmqpTable.longString(key)))],
    ...(expiration === undefined ? [] : [["original-expiration", AmqpTable.longString(expiration)] as const])
  ]
  const isFirst = field(message.headers.value, "x-death") === undefined
  const earlier = deathsOf(message)
  const noted = message.withHeaders({
    ...(isFirst && {
      "x-first-death-reason": AmqpTable.longString(death.reason),
      "x-first-death-queue": AmqpTable.longString(death.queue),
      "x-first-death-exchange": AmqpTable.longString(message.exchange)
    }),
    "x-death": AmqpTable.array(earlier === undefined ? [AmqpTable.table(counted(info, 1n))] : addDeath(earlier, info)),
    ...(death.routingKey !== undefined && { CC: undefined })
  })
  return noted.with(
    { expiration: undefined },
    death.routingKey === undefined
      ? { exchange: death.exchange }
      : { exchange: death.exchange, routingKey: death.routingKey, blindKeys: [] }
  )
}

/**
 * The queues that may take a dead letter: not those that it was in before, unless it was rejected on the way or now, or
 * it would go on for ever.
 */
export const takers = (letter: Message): (queue: string) => boolean => {
  const deaths = deathsOf(letter) ?? []
  return (queue) => {
    const last = deaths.findIndex((death) => death._tag === "Table" && text(death.value, "queue") === queue)
    return last < 0 ||
      deaths.slice(0, last + 1).some((death) => death._tag !== "Table" || text(death.value, "reason") === "rejected")
  }
}

const deathsOf = (message: Message): ReadonlyArray<AmqpTable.Value> | undefined => {
  const value = field(message.headers.value, "x-death")
  return value?._tag === "Array" ? value.value : undefined
}

const addDeath = (earlier: ReadonlyArray<AmqpTable.Value>, info: Fields): Array<AmqpTable.Value> => {
  const groups = grouped(earlier.flatMap((death) => death._tag === "Table" ? [death.value] : []))
  const key = cause(info)
  const same = groups.find((death) => cause(death) === key)
  const latest = same === undefined ? counted(info, 1n) : countedAgain(same)
  return [latest.toSorted(([a], [b]) => a < b ? -1 : 1), ...groups.filter((death) => death !== same)].map((death) =>
    AmqpTable.table(death)
  )
}

/**
 * One death for each queue and reason, in the opposite order. A publisher may have sent several of one kind, or some
 * without counts.
 */
const grouped = (deaths: ReadonlyArray<Fields>): ReadonlyArray<Fields> => {
  if (deaths.length <= 1) return deaths
  const groups = [...Map.groupBy(deaths, cause).values()]
  return groups.flatMap(([first, ...others]) => first === undefined ? [] : [withCount(first, others.length + 1)])
    .reverse()
}

/** Queue and reason, whatever they are: integers of all types are one. */
const cause = (death: Fields): string =>
  ["queue", "reason"].map((key) => {
    const value = field(death, key)?.value
    return typeof value === "string" ? JSON.stringify(value) : `${value}`
  }).join()

const counted = (death: Fields, count: bigint): Fields => [["count", AmqpTable.int64(count)], ...death]

const withCount = (death: Fields, count: number): Fields =>
  field(death, "count") === undefined ? counted(death, BigInt(count)) : death

const countedAgain = (death: Fields): Fields => {
  const count = field(death, "count")
  // A client that publishes it again may have written it as another integer.
  const before = typeof count?.value === "bigint" || typeof count?.value === "number" ? BigInt(count.value) : 0n
  return counted(death.filter(([key]) => key !== "count"), before + 1n)
}

const field = (fields: Fields, key: string): AmqpTable.Value | undefined => fields.find(([name]) => name === key)?.[1]

const text = (fields: Fields, key: string): string | undefined => {
  const value = field(fields, key)
  return value?._tag === "LongString" && typeof value.value === "string" ? value.value : undefined
}

/** The strings of a header that is an array of them. */
const textsOf = (message: Message, key: string): ReadonlyArray<string> => {
  const value = field(message.headers.value, key)
  if (value?._tag !== "Array") return []
  return value.value.flatMap((item) => item._tag === "LongString" && typeof item.value === "string" ? [item.value] : [])
}

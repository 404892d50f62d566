/**
 * Events and frames as lines of text, for people.
 *
 * Names come from clients: whatever could disturb a terminal is escaped. Byte strings, among which are all passwords and
 * tokens of the protocol, appear as their sizes.
 *
 * @since 0.1.0
 */
import type { BrokerEvent } from "./events.ts"
import type { TappedFrame } from "./model.ts"

const escape = (char: string): string => `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`

/** Text in which nothing moves the cursor, colours, or turns the direction of writing. */
const text = (value: string): string => value.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, escape)

/** A name as it is, or in quotes where its ends could be mistaken. */
const name = (value: string): string => /^[\w.:/#*+@-]+$/.test(value) ? value : text(JSON.stringify(value))

const exchange = (value: string): string => value === "" ? "the default exchange" : name(value)

const count = (amount: number, noun: string): string => `${amount} ${noun}${amount === 1 ? "" : "s"}`

/** Where it happened; the vhost is said where it is another one than `/`. */
const place = (event: BrokerEvent): string => {
  if ("channel" in event) return `${event.connection} #${event.channel}`
  if ("connection" in event) return event.connection
  return event.vhost === "/" ? "" : `vhost ${name(event.vhost)}`
}

const settled = { ack: "acknowledged", requeue: "requeued", discard: "discarded", abandon: "given back" }

const what = (event: BrokerEvent): string => {
  switch (event._tag) {
    case "ConnectionOpened":
      return `connected to ${name(event.vhost)} as ${name(event.user)}`
    case "ConnectionClosed":
      return `disconnected: ${text(event.reason)}`
    case "ChannelOpened":
      return "channel opened"
    case "ChannelClosed":
      return `channel closed: ${text(event.reason)}`
    case "ExchangeDeclared":
      return `exchange ${exchange(event.exchange)} declared (${name(event.type)})`
    case "ExchangeDeleted":
      return `exchange ${exchange(event.exchange)} deleted`
    case "QueueDeclared":
      return `queue ${name(event.queue)} declared (${name(event.type)})`
    case "QueueDeleted":
      return `queue ${name(event.queue)} deleted with ${count(event.messages, "message")}`
    case "QueuePurged":
      return `queue ${name(event.queue)} purged of ${count(event.messages, "message")}`
    case "Bound":
    case "Unbound": {
      const verb = event._tag === "Bound" ? "bound to" : "no longer bound to"
      return `${event.destinationType} ${name(event.destination)} ${verb} ${exchange(event.source)} with ${
        name(event.routingKey)
      }`
    }
    case "ConsumerStarted":
      return `consumer ${name(event.consumerTag)} started on ${name(event.queue)}`
    case "ConsumerEnded":
      return `consumer ${name(event.consumerTag)} ended on ${name(event.queue)}`
    case "Published":
      return `published ${count(event.size, "byte")} to ${exchange(event.exchange)} with ${
        name(event.routingKey)
      }: ${event.outcome}`
    case "Delivered":
      return `delivered ${count(event.size, "byte")} from ${name(event.queue)} to ${
        event.consumerTag === undefined ? "basic.get" : name(event.consumerTag)
      } (tag ${event.deliveryTag}${event.redelivered ? ", redelivered" : ""})`
    case "Settled":
      return `${settled[event.outcome]} ${event.count} of ${name(event.queue)}`
    case "DeadLettered":
      return `${name(event.queue)} ${event.exchange === undefined ? "dropped" : "dead-lettered"} a message${
        event.exchange === undefined ? "" : ` to ${exchange(event.exchange)}`
      } (${event.reason})`
  }
}

/**
 * One line, without the time.
 *
 * @category formatting
 * @since 0.1.0
 */
export const describeEvent = (event: BrokerEvent): string => {
  const where = place(event)
  return where === "" ? what(event) : `${where} ${what(event)}`
}

const field = (value: unknown): string => {
  if (typeof value === "string") return name(value)
  if (value instanceof Uint8Array) return `<${count(value.length, "byte")}>`
  if (Array.isArray(value)) return `[${value.map(field).join(" ")}]`
  if (typeof value === "object" && value !== null) return `{${fields(value)}}`
  return String(value)
}

const fields = (value: object): string =>
  Object.entries(value)
    .flatMap(([key, item]) => key === "_tag" || item === undefined ? [] : [`${name(key)}=${field(item)}`])
    .join(" ")

/** The arguments of a method may be of any size. */
const cut = (line: string): string => line.length > 1000 ? `${line.slice(0, 1000)}…` : line

const frameOf = ({ frame }: TappedFrame): string => {
  switch (frame._tag) {
    case "Method":
      return cut(`#${frame.channel} ${frame.method._tag} ${fields(frame.method)}`.trimEnd())
    case "Header":
      return `#${frame.channel} header of ${count(frame.bodySize, "byte")}`
    case "Body":
      return `#${frame.channel} body of ${count(frame.payload.length, "byte")}`
    case "Heartbeat":
      return "heartbeat"
  }
}

/**
 * One line, without the time.
 *
 * @category formatting
 * @since 0.1.0
 */
export const describeFrame = (frame: TappedFrame): string =>
  `${frame.connection} ${frame.direction === "up" ? "→" : "←"} ${frameOf(frame)}`

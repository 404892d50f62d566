/**
 * The arguments of queues and consumers: which ones a queue type knows, what they may say, and whether a redeclaration
 * says the same (RabbitMQ 3.10, with its words).
 *
 * Arguments that no type of queue knows are kept and ignored, as RabbitMQ does. What `fieldValue` says about plain values
 * holds here: a whole double passes for an integer, which RabbitMQ refuses. What crashes RabbitMQ (541) is refused with
 * 406 here: an `x-max-age` without digits, an unknown `x-queue-master-locator`.
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { Plain, PlainTable } from "../../../AmqpTable.ts"
import { utf8Decode } from "../../../internal/codec/wire.ts"
import { canonical, term, typeClass, typeName } from "../model/fieldValue.ts"
import type { Exchange, Queue, QueueType } from "../model/model.ts"
import { preconditionFailed, type Refusal } from "../model/refusal.ts"

/** A queue or an exchange as reply texts call it. */
export const resource = (kind: "queue" | "exchange", name: string, vhost: string): string =>
  `${kind} '${name}' in vhost '${vhost}'`

// -----------------------------------------------------------------------------
// single arguments
// -----------------------------------------------------------------------------

/** What is wrong with a value, as an Erlang term, or nothing. */
type Check = (value: Plain, all: PlainTable) => string | undefined

const unacceptable = (value: Plain): string => `{unacceptable_type,${typeName(value)}}`

const integer = (check: (value: number | bigint) => string | undefined): Check => (value) =>
  typeof value === "bigint" || (typeof value === "number" && Number.isInteger(value))
    ? check(value)
    : `"expected integer, got ${typeName(value)}"`

const notNegative = (check: (value: number | bigint) => string | undefined = () => undefined): Check =>
  integer((value) => value < 0 ? `{value_negative,${value}}` : check(value))

/** Ten years in milliseconds: no time may be longer. */
const maxExpiry = 315_360_000_000

const millis = (value: number | bigint): string | undefined =>
  value > maxExpiry ? `{value_too_large,${value}}` : undefined

const notZero = (value: number | bigint): string | undefined => Number(value) === 0 ? "{value_zero,0}" : undefined

const boolean: Check = (value) => typeof value === "boolean" ? undefined : unacceptable(value)

const text = (check: (value: string, all: PlainTable) => string | undefined = () => undefined): Check => (value, all) =>
  typeof value === "string" ? check(value, all) : unacceptable(value)

const oneOf = (values: ReadonlyArray<string>, refusal: (value: string) => string): Check =>
  text((value) => values.includes(value) ? undefined : refusal(value))

const types: { readonly [name: string]: QueueType } = { classic: "classic", quorum: "quorum", stream: "stream" }

const queueTypeCheck = oneOf(Object.keys(types), (value) => `"unsupported queue type '${value}'"`)

/** In the order in which RabbitMQ looks at them. */
const queueChecks: { readonly [name: string]: Check } = {
  "x-expires": integer((value) => notZero(value) ?? (value < 0 ? `{value_negative,${value}}` : millis(value))),
  "x-message-ttl": notNegative(millis),
  "x-dead-letter-exchange": text(),
  "x-dead-letter-routing-key": text((_, all) =>
    Object.hasOwn(all, "x-dead-letter-exchange") ? undefined : "routing_key_but_no_dlx_defined"
  ),
  "x-dead-letter-strategy": oneOf(["at-most-once", "at-least-once"], () => "invalid_dlx_strategy"),
  "x-max-length": notNegative(),
  "x-max-length-bytes": notNegative(),
  "x-max-in-memory-length": notNegative(),
  "x-max-in-memory-bytes": notNegative(),
  "x-max-priority": notNegative((value) => value > 255 ? `{max_value_exceeded,${value}}` : undefined),
  "x-overflow": oneOf(["drop-head", "reject-publish", "reject-publish-dlx"], () => "invalid_overflow"),
  "x-queue-mode": oneOf(["default", "lazy"], (value) => `"unsupported queue mode '${value}'"`),
  "x-queue-version": notNegative((value) =>
    Number(value) === 1 || Number(value) === 2 ? undefined : `"unsupported queue version '${value}'"`
  ),
  "x-single-active-consumer": boolean,
  "x-queue-type": queueTypeCheck,
  "x-queue-master-locator": oneOf(["client-local", "min-masters", "random"], () => "invalid_queue_locator_arg"),
  "x-quorum-initial-group-size": notNegative(notZero),
  "x-max-age": text((value) => /^0*[1-9]\d*[YMDhms]$/.test(value) ? undefined : "invalid_max_age"),
  "x-stream-max-segment-size-bytes": notNegative(),
  "x-initial-cluster-size": notNegative(notZero),
  "x-queue-leader-locator": oneOf(
    ["client-local", "balanced", "random", "least-leaders"],
    () => "invalid_queue_locator_arg"
  )
}

const streamOffset: Check = (value) => {
  const isOffset = typeof value === "string"
    ? /^(first|last|next|\d+[YMDhms])$/.test(value)
    : typeof value === "bigint" || value instanceof Date || (typeof value === "number" && Number.isInteger(value))
  return isOffset ? undefined : `{invalid_stream_offset_arg,{${typeName(value)},${term(value)}}}`
}

const consumerChecks: { readonly [name: string]: Check } = {
  "x-priority": integer(() => undefined),
  "x-cancel-on-ha-failover": boolean,
  "x-stream-offset": streamOffset
}

// -----------------------------------------------------------------------------
// what the types know
// -----------------------------------------------------------------------------

interface Known {
  /** In the order in which RabbitMQ compares them. */
  readonly queue: ReadonlyArray<string>
  readonly consumer: ReadonlyArray<string>
}

const known: { readonly [type in QueueType]: Known } = {
  classic: {
    queue: [
      "x-expires",
      "x-message-ttl",
      "x-dead-letter-exchange",
      "x-dead-letter-routing-key",
      "x-max-length",
      "x-max-length-bytes",
      "x-max-priority",
      "x-overflow",
      "x-queue-mode",
      "x-queue-version",
      "x-single-active-consumer",
      "x-queue-type",
      "x-queue-master-locator"
    ],
    consumer: ["x-cancel-on-ha-failover", "x-priority", "x-credit"]
  },
  quorum: {
    queue: [
      "x-dead-letter-exchange",
      "x-dead-letter-routing-key",
      "x-dead-letter-strategy",
      "x-expires",
      "x-max-length",
      "x-max-length-bytes",
      "x-max-in-memory-length",
      "x-max-in-memory-bytes",
      "x-overflow",
      "x-single-active-consumer",
      "x-queue-type",
      "x-quorum-initial-group-size",
      "x-delivery-limit",
      "x-message-ttl",
      "x-queue-leader-locator"
    ],
    consumer: ["x-priority", "x-credit"]
  },
  stream: {
    queue: [
      "x-max-length-bytes",
      "x-queue-type",
      "x-max-age",
      "x-stream-max-segment-size-bytes",
      "x-initial-cluster-size",
      "x-queue-leader-locator"
    ],
    consumer: ["x-stream-offset", "x-credit"]
  }
}

const knownToAny = (of: keyof Known): ReadonlySet<string> => new Set(Object.values(known).flatMap((type) => type[of]))

const anyQueue = knownToAny("queue")
const anyConsumer = knownToAny("consumer")

const checkValues = (
  all: PlainTable,
  name: string,
  checks: ReadonlyArray<readonly [name: string, check: Check]>
): void => {
  for (const [argument, check] of checks) {
    const value = all[argument]
    if (value === undefined) continue
    const wrong = check(value, all)
    if (wrong !== undefined) throw preconditionFailed(`invalid arg '${argument}' for ${name}: ${wrong}`)
  }
}

const checkNames = (
  all: PlainTable,
  name: string,
  type: QueueType,
  supported: ReadonlyArray<string>,
  any: ReadonlySet<string>
): void => {
  for (const argument of Object.keys(all)) {
    if (any.has(argument) && !supported.includes(argument)) {
      throw preconditionFailed(`invalid arg '${argument}' for ${name} of queue type ${moduleOf(type)}`)
    }
  }
}

/** What RabbitMQ calls a type of queue in some of its texts. */
const moduleOf = (type: QueueType): string => `rabbit_${type}_queue`

// -----------------------------------------------------------------------------
// declarations
// -----------------------------------------------------------------------------

/**
 * The type that the arguments ask for. Where they make no sense it is the default, and `checkQueue` refuses them later.
 */
export const queueType = (all: PlainTable): QueueType => {
  const asked = all["x-queue-type"]
  return typeof asked === "string" && Object.hasOwn(types, asked) ? types[asked] ?? "classic" : "classic"
}

/** Refuses a server-made name for the types of queues that have none. */
export const checkServerNamed = (all: PlainTable): void => {
  const type = queueType(all)
  if (type !== "classic") {
    throw preconditionFailed(`Cannot declare a server-named queue for type ${moduleOf(type)}`)
  }
}

/** Refuses a new queue that RabbitMQ would not make. */
export const checkQueue = (method: AmqpProtocol.QueueDeclare, vhost: string): void => {
  const { arguments: all, autoDelete, durable, exclusive } = method
  const name = resource("queue", method.queue, vhost)
  checkExchangeName(all, "x-dead-letter-exchange", name)
  checkValues(all, name, [["x-queue-type", queueTypeCheck]])
  const type = queueType(all)
  const supported = known[type].queue
  checkValues(all, name, Object.entries(queueChecks).filter(([argument]) => supported.includes(argument)))
  checkNames(all, name, type, supported, anyQueue)
  if (type === "classic") return
  const wrong = autoDelete ? "auto-delete" : exclusive ? "exclusive-owner" : durable ? undefined : "non-durable"
  if (wrong !== undefined) throw preconditionFailed(`invalid property '${wrong}' for ${name}`)
  if (Number(all["x-stream-max-segment-size-bytes"] ?? 0) > 3_000_000_000) {
    throw preconditionFailed("Exceeded max value for x-stream-max-segment-size-bytes")
  }
}

/** Refuses the arguments of a consumer. */
export const checkConsumerArguments = (vhost: string, queue: string, type: QueueType, all: PlainTable): void => {
  const name = resource("queue", queue, vhost)
  const supported = known[type].consumer
  checkValues(all, name, Object.entries(consumerChecks).filter(([argument]) => supported.includes(argument)))
  checkNames(all, name, type, supported, anyConsumer)
}

/** Refuses an argument that names an exchange, but is no text. */
export const checkExchangeName = (all: PlainTable, argument: string, of: string): void => {
  const value = all[argument]
  if (value === undefined || typeof value === "string") return
  throw preconditionFailed(`invalid type '${typeName(value)}' for arg '${argument}' in ${of}`)
}

// -----------------------------------------------------------------------------
// redeclarations
// -----------------------------------------------------------------------------

const inequivalent = (argument: string, of: string, received: string, current: string): Refusal =>
  preconditionFailed(`inequivalent arg '${argument}' for ${of}: received ${received} but current is ${current}`)

const checkField = (argument: string, of: string, received: string | boolean, current: string | boolean): void => {
  if (received !== current) throw inequivalent(argument, of, `'${received}'`, `'${current}'`)
}

/** A value in a text: strings without their quotes. */
const shown = (value: Plain): string => {
  const text = value instanceof Uint8Array ? utf8Decode(value) : value
  return typeof text === "string" ? text : term(value)
}

const only = (value: Plain | undefined): string =>
  value === undefined ? "none" : `the value '${shown(value)}' of type '${typeName(value)}'`

const checkArguments = (names: ReadonlyArray<string>, of: string, received: PlainTable, current: PlainTable): void => {
  for (const name of names) {
    const [one, other] = [received[name], current[name]]
    if (one === undefined || other === undefined) {
      if (one === other || (name === "x-queue-type" && (one ?? other) === "classic")) continue
      throw inequivalent(name, of, only(one), only(other))
    }
    if (canonical(one) === canonical(other) && typeClass(one) === typeClass(other)) continue
    throw inequivalent(
      name,
      of,
      one === null ? "none" : `'${shown(one)}'`,
      other === null ? "none" : `'${shown(other)}'`
    )
  }
}

/** Refuses a redeclaration that says something else. */
export const checkSameQueue = (method: AmqpProtocol.QueueDeclare, queue: Queue, vhost: string): void => {
  const name = resource("queue", queue.name, vhost)
  checkField("durable", name, method.durable && !method.exclusive, queue.durable)
  checkField("auto_delete", name, method.autoDelete, queue.autoDelete)
  checkArguments(known[queue.type].queue, name, method.arguments, queue.arguments)
}

/** Refuses a redeclaration that says something else. */
export const checkSameExchange = (method: AmqpProtocol.ExchangeDeclare, exchange: Exchange, vhost: string): void => {
  const name = resource("exchange", exchange.name, vhost)
  checkField("type", name, method.type, exchange.type)
  checkField("durable", name, method.durable, exchange.durable)
  checkField("auto_delete", name, method.autoDelete, exchange.autoDelete)
  checkField("internal", name, method.internal, exchange.isInternal)
  checkArguments(["alternate-exchange"], name, method.arguments, exchange.arguments)
}

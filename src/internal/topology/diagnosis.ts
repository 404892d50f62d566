/**
 * Finds contradictions in a topology before any of it is sent. Whether it fits what the broker already holds, only the
 * broker can say.
 *
 * @since 0.1.0
 */
import * as Equal from "effect/Equal"
import type * as Result from "effect/Result"
import { encodeMethod } from "../codec/protocol.ts"
import type { AmqpEncodeError } from "../errors/value.ts"
import type { Input } from "../values/tableValue.ts"
import type { Entity } from "./entity.ts"
import { deadLetterLoops } from "./loops.ts"
import { dependenciesOf, describe, isPredefined, keyOf } from "./order.ts"
import type { Queue, QueueType, ServerNamedQueue } from "./queue.ts"

// -----------------------------------------------------------------------------
// arguments of queues
// -----------------------------------------------------------------------------

type Check = (value: Input) => string | undefined

interface Rule {
  /** The types of queues that take it, checked on RabbitMQ 3.10. */
  readonly types: ReadonlyArray<QueueType>
  readonly check?: Check
}

/** Tagged values and bigints are not checked: who uses them chooses the type. */
const integer = (min: number, max = Number.MAX_SAFE_INTEGER): Check => (value) => {
  if (typeof value !== "number" || (Number.isSafeInteger(value) && value >= min && value <= max)) return undefined
  return `expected an integer from ${min}${max === Number.MAX_SAFE_INTEGER ? "" : ` to ${max}`}, not ${value}`
}

const oneOf = (...values: ReadonlyArray<Input>): Check => (value) =>
  values.includes(value) ? undefined : `expected one of ${values.join(", ")}, not ${value}`

const age: Check = (value) =>
  typeof value === "string" && /^[1-9]\d*[YMDhms]$/.test(value)
    ? undefined
    : `expected a positive whole number of seconds, not ${value}`

const notStreams: ReadonlyArray<QueueType> = ["classic", "quorum"]

/** Other arguments are sent as they are: the broker knows them or ignores them. */
const rules: { readonly [argument: string]: Rule | undefined } = {
  "x-message-ttl": { types: notStreams, check: integer(0) },
  "x-expires": { types: notStreams, check: integer(1) },
  "x-max-length": { types: notStreams, check: integer(0) },
  "x-max-length-bytes": { types: ["classic", "quorum", "stream"], check: integer(0) },
  "x-overflow": { types: notStreams, check: oneOf("drop-head", "reject-publish", "reject-publish-dlx") },
  "x-dead-letter-exchange": { types: notStreams },
  "x-dead-letter-routing-key": { types: notStreams },
  "x-dead-letter-strategy": { types: ["quorum"], check: oneOf("at-most-once", "at-least-once") },
  "x-max-priority": { types: ["classic"], check: integer(0, 255) },
  "x-single-active-consumer": { types: notStreams },
  "x-queue-mode": { types: ["classic"], check: oneOf("default", "lazy") },
  "x-queue-version": { types: ["classic"], check: integer(1, 2) },
  "x-delivery-limit": { types: ["quorum"], check: integer(-1) },
  "x-quorum-initial-group-size": { types: ["quorum"], check: integer(1) },
  "x-max-age": { types: ["stream"], check: age },
  "x-stream-max-segment-size-bytes": { types: ["stream"], check: integer(1) },
  "x-initial-cluster-size": { types: ["stream"], check: integer(1) }
}

const queueProblems = (queue: Queue | ServerNamedQueue): ReadonlyArray<string> => {
  const { arguments: args, type } = queue
  const problems: Array<string> = []
  for (const [name, value] of Object.entries(args)) {
    const rule = rules[name]
    if (rule === undefined || value === undefined) continue
    if (!rule.types.includes(type)) problems.push(`a ${type} queue has no ${name}`)
    else {
      const problem = rule.check?.(value)
      if (problem !== undefined) problems.push(`${name}: ${problem}`)
    }
  }
  if (args["x-queue-type"] !== type) problems.push(`x-queue-type makes it another than a ${type} queue`)
  if (type !== "classic") {
    if (queue.exclusive) problems.push(`a ${type} queue cannot be exclusive`)
    if (queue.autoDelete) problems.push(`a ${type} queue cannot be auto-delete`)
    if (!queue.durable) problems.push(`a ${type} queue is always durable`)
  }
  if (args["x-dead-letter-exchange"] === undefined) {
    for (const name of ["x-dead-letter-routing-key", "x-dead-letter-strategy"]) {
      if (args[name] !== undefined) problems.push(`${name} without x-dead-letter-exchange`)
    }
  }
  // The broker accepts these two together, and does something else.
  if (type === "quorum" && args["x-overflow"] === "reject-publish-dlx") {
    problems.push("a quorum queue cannot reject-publish-dlx")
  }
  if (args["x-dead-letter-strategy"] === "at-least-once" && args["x-overflow"] !== "reject-publish") {
    problems.push("dead-lettering at-least-once needs the overflow reject-publish")
  }
  if (queue._tag === "ServerNamedQueue" && !queue.exclusive && args["x-expires"] === undefined) {
    problems.push("each epoch would leave one behind: make it exclusive, or let it expire")
  }
  return problems
}

// -----------------------------------------------------------------------------
// names
// -----------------------------------------------------------------------------

const nameProblems = (entity: Entity): ReadonlyArray<string> => {
  if (!("name" in entity)) return []
  if (entity.name === "") {
    return entity._tag === "Queue" || entity._tag === "PassiveQueue"
      ? ["a queue without a name is a serverNamedQueue"]
      : ["the default exchange is always there"]
  }
  return /[\r\n]/.test(entity.name) ? ["the broker would remove the line breaks from its name"] : []
}

/** Checks that everything in it has a form on the wire: names of at most 255 bytes, and tables. */
const encoded = (entity: Entity): Result.Result<unknown, AmqpEncodeError> => {
  const common = { passive: false, noWait: false }
  const passive = { ...common, durable: false, exclusive: false, autoDelete: false, internal: false, arguments: {} }
  switch (entity._tag) {
    case "Exchange":
      return encodeMethod(1, { ...common, ...entity, _tag: "exchange.declare", exchange: entity.name })
    case "PassiveExchange":
      return encodeMethod(1, { ...passive, _tag: "exchange.declare", type: "", exchange: entity.name })
    case "Queue":
      return encodeMethod(1, { ...common, ...entity, _tag: "queue.declare", queue: entity.name })
    case "PassiveQueue":
      return encodeMethod(1, { ...passive, _tag: "queue.declare", queue: entity.name })
    case "ServerNamedQueue":
      return encodeMethod(1, { ...common, ...entity, _tag: "queue.declare", queue: "" })
    case "QueueBinding": {
      const queue = typeof entity.queue === "string" ? entity.queue : ""
      return encodeMethod(1, { ...common, ...entity, _tag: "queue.bind", queue })
    }
    case "ExchangeBinding":
      return encodeMethod(1, { ...common, ...entity, _tag: "exchange.bind" })
  }
}

const encodeProblems = (entity: Entity): ReadonlyArray<string> => {
  const result = encoded(entity)
  return result._tag === "Success" ? [] : [result.failure.message]
}

// -----------------------------------------------------------------------------
// bindings
// -----------------------------------------------------------------------------

/** The exchanges and queues of a binding must be in the topology, or be the broker's own. */
const bindingProblems = (entity: Entity, keys: ReadonlySet<unknown>): ReadonlyArray<string> => {
  const names: Array<string> = []
  if (entity._tag === "QueueBinding") names.push(entity.exchange)
  if (entity._tag === "ExchangeBinding") names.push(entity.source, entity.destination)
  if (names.includes("")) return ["the default exchange takes no bindings"]
  return dependenciesOf(entity).flatMap((key) => {
    if (keys.has(key)) return []
    if (typeof key !== "string") return ["the server-named queue is not in the topology: add it"]
    if (isPredefined(key.slice(key.indexOf(" ") + 1))) return []
    return [`${key} is not in the topology: add it, as passive if others declare it`]
  })
}

/** All mistakes. Each text begins with the entity. Empty if there are none. */
export const diagnose = (entities: ReadonlyArray<Entity>): ReadonlyArray<string> => {
  const known = new Map<unknown, Entity>()
  const problems: Array<string> = []
  const keys = new Set(entities.map(keyOf))
  for (const entity of entities) {
    const of = [...nameProblems(entity), ...encodeProblems(entity), ...bindingProblems(entity, keys)]
    if (entity._tag === "Queue" || entity._tag === "ServerNamedQueue") of.push(...queueProblems(entity))
    const key = keyOf(entity)
    if (key !== undefined) {
      const same = known.get(key)
      if (same === undefined) known.set(key, entity)
      else if (!Equal.equals(same, entity)) of.push("it is in the topology twice, with different options")
    }
    for (const problem of of) problems.push(`${describe(entity)}: ${problem}`)
  }
  return [...problems, ...deadLetterLoops(entities)]
}

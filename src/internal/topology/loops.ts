/**
 * Finds queues whose dead letters come back to them. Only routes that the bindings make certain count: not routing by
 * headers, by unknown keys or by exchanges of unknown types.
 *
 * @since 0.1.0
 */
import type { ExchangeBinding, QueueBinding } from "./binding.ts"
import type { Entity } from "./entity.ts"
import { describe } from "./order.ts"
import type { Queue, QueueRef, ServerNamedQueue } from "./queue.ts"

const predefinedTypes: ReadonlyArray<readonly [string, string]> = [
  ["amq.direct", "direct"],
  ["amq.fanout", "fanout"],
  ["amq.topic", "topic"]
]

/** Whether a topic pattern takes a key: `*` is one word, `#` any number of them. */
const topicMatches = (pattern: ReadonlyArray<string>, key: ReadonlyArray<string>): boolean => {
  const [first, ...rest] = pattern
  if (first === undefined) return key.length === 0
  if (first === "#") return topicMatches(rest, key) || (key.length > 0 && topicMatches(pattern, key.slice(1)))
  return key.length > 0 && (first === "*" || first === key[0]) && topicMatches(rest, key.slice(1))
}

/** Whether an exchange of this type certainly routes a message of this key; `undefined` is any key. */
const matches = (type: string | undefined, pattern: string, key: string | undefined): boolean => {
  switch (type) {
    case "fanout":
      return true
    case "direct":
      return pattern === key
    case "topic":
      return key === undefined ? pattern === "#" : topicMatches(pattern.split("."), key.split("."))
    default:
      return false
  }
}

const text = (queue: Queue | ServerNamedQueue, name: string): string | undefined => {
  const value = queue.arguments[name]
  return typeof value === "string" ? value : undefined
}

/** Whether messages of this queue go to its dead letter exchange without anybody rejecting them. */
const passesOn = (queue: Queue | ServerNamedQueue): boolean => queue.arguments["x-message-ttl"] !== undefined

/**
 * The loops, in words. One kind is a queue whose dead letters go straight back to it. The other is a circle of queues
 * from which each message expires into the next (the broker drops a message that comes around). A circle in which
 * somebody must reject a message, such as work and delayed retries, is no loop.
 */
export const deadLetterLoops = (entities: ReadonlyArray<Entity>): ReadonlyArray<string> => {
  const types = new Map(predefinedTypes)
  const queues = new Map<QueueRef, Queue | ServerNamedQueue>()
  const bindings = new Map<string, Array<QueueBinding | ExchangeBinding>>()
  for (const entity of entities) {
    if (entity._tag === "Exchange") types.set(entity.name, entity.type)
    if (entity._tag === "Queue") queues.set(entity.name, entity)
    if (entity._tag === "ServerNamedQueue") queues.set(entity, entity)
    if (entity._tag === "QueueBinding" || entity._tag === "ExchangeBinding") {
      const source = entity._tag === "QueueBinding" ? entity.exchange : entity.source
      bindings.set(source, [...bindings.get(source) ?? [], entity])
    }
  }

  const routed = (exchange: string, key: string | undefined, seen = new Set<string>()): ReadonlySet<QueueRef> => {
    const found = new Set<QueueRef>()
    if (exchange === "" && key !== undefined) found.add(key)
    if (seen.has(exchange)) return found
    seen.add(exchange)
    for (const binding of bindings.get(exchange) ?? []) {
      if (!matches(types.get(exchange), binding.routingKey, key)) continue
      if (binding._tag === "QueueBinding") found.add(binding.queue)
      else for (const queue of routed(binding.destination, key, seen)) found.add(queue)
    }
    return found
  }

  /** The keys that messages of a queue certainly may have. */
  const keysOf = (queue: QueueRef): ReadonlyArray<string | undefined> =>
    [...bindings.values()].flat().reduce<Array<string | undefined>>((keys, binding) => {
      if (binding._tag !== "QueueBinding" || binding.queue !== queue) return keys
      const type = types.get(binding.exchange)
      const isKey = type === "direct" || (type === "topic" && !/[*#]/.test(binding.routingKey))
      if (isKey) keys.push(binding.routingKey)
      return keys
    }, [undefined])

  /** The queues of a way back to the first of `path`, for messages of this key. */
  const wayBack = (
    path: ReadonlyArray<QueueRef>,
    queue: Queue | ServerNamedQueue,
    key: string | undefined
  ): ReadonlyArray<QueueRef> | undefined => {
    const exchange = text(queue, "x-dead-letter-exchange")
    if (exchange === undefined) return undefined
    const nextKey = text(queue, "x-dead-letter-routing-key") ?? key
    for (const target of routed(exchange, nextKey)) {
      const isBack = target === path[0]
      if (isBack && path.length === 1) return path
      if (!passesOn(queue)) continue
      if (isBack) return path
      const next = queues.get(target)
      if (next === undefined || path.includes(target)) continue
      const found = wayBack([...path, target], next, nextKey)
      if (found !== undefined) return found
    }
    return undefined
  }

  const found = new Map<string, string>()
  const name = (queue: QueueRef): string => {
    const entity = queues.get(queue)
    return entity === undefined ? "" : describe(entity)
  }
  for (const [ref, queue] of queues) {
    if (text(queue, "x-dead-letter-exchange") === undefined) continue
    for (const key of keysOf(ref)) {
      const path = wayBack([ref], queue, key)
      if (path === undefined) continue
      const circle = path.map(name)
      const through = circle.length === 1 ? "" : `, by way of ${circle.slice(1).join(", ")}`
      const id = circle.toSorted().join()
      if (!found.has(id)) found.set(id, `${circle[0]}: its dead letters come back to it${through}`)
    }
  }
  return [...found.values()]
}

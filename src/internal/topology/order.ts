/**
 * Describes entities in words, finds what they depend on, and puts them into that order.
 *
 * @since 0.1.0
 */
import type { Entity } from "./entity.ts"
import type { Exchange } from "./exchange.ts"
import type { QueueRef, ServerNamedQueue } from "./queue.ts"

const quote = (name: string): string => JSON.stringify(name)

/** A queue in words. */
export const queueText = (queue: QueueRef): string =>
  typeof queue === "string" ? `queue ${quote(queue)}` : "server-named queue"

const keyText = (routingKey: string): string => routingKey === "" ? "" : `, routing key ${quote(routingKey)}`

/** An entity in words. */
export const describe = (entity: Entity): string => {
  switch (entity._tag) {
    case "Exchange":
    case "PassiveExchange":
      return `exchange ${quote(entity.name)}`
    case "Queue":
    case "PassiveQueue":
      return queueText(entity.name)
    case "ServerNamedQueue":
      return queueText(entity)
    case "QueueBinding":
      return `binding of ${queueText(entity.queue)} to exchange ${quote(entity.exchange)}${keyText(entity.routingKey)}`
    case "ExchangeBinding":
      return `binding of exchange ${quote(entity.destination)} to exchange ${quote(entity.source)}` +
        keyText(entity.routingKey)
  }
}

/** Whether the name is reserved for the broker. The broker makes such entities; nobody declares them. */
export const isPredefined = (name: string): boolean => name.startsWith("amq.")

const exchangeKey = (name: string): string => `exchange ${name}`
/** The key of a queue, by which bindings and consumers refer to it. */
export const queueKey = (queue: QueueRef): string | ServerNamedQueue =>
  typeof queue === "string" ? `queue ${queue}` : queue

/** The key of an entity, by which others depend on it. */
export const keyOf = (entity: Entity): string | ServerNamedQueue | undefined => {
  switch (entity._tag) {
    case "Exchange":
    case "PassiveExchange":
      return exchangeKey(entity.name)
    case "Queue":
    case "PassiveQueue":
      return queueKey(entity.name)
    case "ServerNamedQueue":
      return entity
    default:
      return undefined
  }
}

/** The keys of the entities that must exist before this one. */
export const dependenciesOf = (entity: Entity): ReadonlyArray<string | ServerNamedQueue> => {
  switch (entity._tag) {
    case "QueueBinding":
      return [queueKey(entity.queue), exchangeKey(entity.exchange)]
    case "ExchangeBinding":
      return [exchangeKey(entity.destination), exchangeKey(entity.source)]
    default:
      return []
  }
}

const ranks: Record<Entity["_tag"], number> = {
  PassiveExchange: 0,
  Exchange: 0,
  PassiveQueue: 1,
  Queue: 1,
  ServerNamedQueue: 1,
  ExchangeBinding: 2,
  QueueBinding: 3
}

/**
 * The order: exchanges (alternates before those that fall back on them), queues, bindings of exchanges, bindings of
 * queues.
 */
export const inOrder = (entities: ReadonlyArray<Entity>): ReadonlyArray<Entity> => {
  const exchanges = new Map(entities.flatMap((entity) => entity._tag === "Exchange" ? [[entity.name, entity]] : []))
  const ordered = new Set<Entity>()
  const visiting = new Set<Exchange>()
  const visit = (exchange: Exchange): void => {
    if (visiting.has(exchange)) return
    visiting.add(exchange)
    const alternate = exchanges.get(`${exchange.arguments["alternate-exchange"]}`)
    if (alternate !== undefined) visit(alternate)
    ordered.add(exchange)
  }
  for (const exchange of exchanges.values()) visit(exchange)
  for (const entity of entities) ordered.add(entity)
  return [...ordered].sort((one, other) => ranks[one._tag] - ranks[other._tag])
}

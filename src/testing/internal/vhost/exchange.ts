/**
 * Exchanges: what they were declared as, and their bindings.
 *
 * @since 0.1.0
 */
import type { PlainTable } from "../../../AmqpTable.ts"
import { canonical } from "../model/fieldValue.ts"
import type { Message } from "../model/message.ts"
import type { Binding, Exchange, Queue } from "../model/model.ts"
import { type Matcher, matchers } from "./routing.ts"

/** What an exchange was declared as. */
export type ExchangeDefinition = Omit<Exchange, "bindings">

/** What makes two bindings of one source the same; the order of their arguments does not matter. */
const identity = (binding: Binding): string => {
  const { arguments: all, destination, destinationType, routingKey } = binding
  const sorted = Object.entries(all).sort(([one], [other]) => one < other ? -1 : 1)
  return JSON.stringify([destinationType, destination, routingKey, canonical(Object.fromEntries(sorted))])
}

/** The default exchange. Every queue is bound to it by its name, and nothing else is. */
export class DefaultExchange implements Exchange {
  readonly name = ""
  readonly type = "direct"
  readonly durable = true
  readonly autoDelete = false
  readonly isInternal = false
  readonly arguments: PlainTable = {}
  private readonly queues: ReadonlyMap<string, Queue>

  constructor(queues: ReadonlyMap<string, Queue>) {
    this.queues = queues
  }

  get bindings(): ReadonlyArray<Binding> {
    return Array.from(this.queues.keys(), (name): Binding => ({
      source: "",
      destination: name,
      destinationType: "queue",
      routingKey: name,
      arguments: {}
    }))
  }
}

/** An exchange that can be bound: all but the default one. */
export class BoundExchange implements Exchange {
  readonly name: string
  readonly type: string
  readonly durable: boolean
  readonly autoDelete: boolean
  readonly isInternal: boolean
  readonly arguments: PlainTable
  private readonly known = new Map<string, Binding>()
  private readonly matcher: Matcher

  constructor(definition: ExchangeDefinition, makeMatcher: () => Matcher) {
    this.name = definition.name
    this.type = definition.type
    this.durable = definition.durable
    this.autoDelete = definition.autoDelete
    this.isInternal = definition.isInternal
    this.arguments = definition.arguments
    this.matcher = makeMatcher()
  }

  get bindings(): ReadonlyArray<Binding> {
    return [...this.known.values()]
  }

  get isBound(): boolean {
    return this.known.size > 0
  }

  /** The exchange that gets messages which match no binding. */
  get alternate(): string | undefined {
    const name = this.arguments["alternate-exchange"]
    return typeof name === "string" ? name : undefined
  }

  /** Whether it has this binding. */
  has(binding: Binding): boolean {
    return this.known.has(identity(binding))
  }

  /** Adds a binding that it has not. */
  add(binding: Binding): void {
    this.known.set(identity(binding), binding)
    this.matcher.add(binding)
  }

  /** Removes this binding or one that equals it. */
  remove(binding: Binding): void {
    const key = identity(binding)
    const known = this.known.get(key)
    if (known === undefined) return
    this.known.delete(key)
    this.matcher.remove(known)
  }

  /** Calls `found` for each binding that the message matches, for some twice. */
  match(message: Message, keys: ReadonlyArray<string>, found: (binding: Binding) => void): void {
    this.matcher.match(message, keys, found)
  }
}

/** An exchange of this type, if there is such a type. */
export const makeExchange = (definition: ExchangeDefinition): BoundExchange | undefined => {
  const makeMatcher = matchers.get(definition.type)
  return makeMatcher && new BoundExchange(definition, makeMatcher)
}

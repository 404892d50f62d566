/**
 * How exchanges of each type find the bindings that a message matches (specification 3.1.3, as RabbitMQ reads it).
 *
 * @since 0.1.0
 */
import type { Plain, PlainTable } from "../../../AmqpTable.ts"
import { canonical, term, typeName } from "../model/fieldValue.ts"
import type { Message } from "../model/message.ts"
import type { Binding } from "../model/model.ts"
import { preconditionFailed } from "../model/refusal.ts"

/** The bindings of one exchange, indexed for its type. */
export interface Matcher {
  readonly add: (binding: Binding) => void
  readonly remove: (binding: Binding) => void
  /**
   * Calls `found` for each binding that matches, for some twice. `keys` are the routing key and those of `CC` and
   * `BCC`.
   */
  readonly match: (message: Message, keys: ReadonlyArray<string>, found: (binding: Binding) => void) => void
}

/** The types that an exchange can have. */
export const matchers: ReadonlyMap<string, () => Matcher> = new Map<string, () => Matcher>([
  ["direct", () => new DirectMatcher()],
  ["fanout", () => new FanoutMatcher()],
  ["topic", () => new TopicMatcher()],
  ["headers", () => new HeadersMatcher()]
])

class FanoutMatcher implements Matcher {
  private readonly bindings = new Set<Binding>()

  add(binding: Binding): void {
    this.bindings.add(binding)
  }

  remove(binding: Binding): void {
    this.bindings.delete(binding)
  }

  match(_message: Message, _keys: ReadonlyArray<string>, found: (binding: Binding) => void): void {
    for (const binding of this.bindings) found(binding)
  }
}

class DirectMatcher implements Matcher {
  private readonly bindings = new Map<string, Set<Binding>>()

  add(binding: Binding): void {
    const same = this.bindings.get(binding.routingKey)
    if (same === undefined) this.bindings.set(binding.routingKey, new Set([binding]))
    else same.add(binding)
  }

  remove(binding: Binding): void {
    const same = this.bindings.get(binding.routingKey)
    same?.delete(binding)
    if (same?.size === 0) this.bindings.delete(binding.routingKey)
  }

  match(_message: Message, keys: ReadonlyArray<string>, found: (binding: Binding) => void): void {
    for (const key of keys) {
      for (const binding of this.bindings.get(key) ?? []) found(binding)
    }
  }
}

// -----------------------------------------------------------------------------
// topic
// -----------------------------------------------------------------------------

/** A node of the trie: what follows the same first words of patterns. */
class TopicNode {
  readonly next = new Map<string, TopicNode>()
  /** Those whose patterns end here. */
  readonly bindings = new Set<Binding>()
}

/** The words of a key or pattern. An empty one has none; dots that touch have an empty word between them. */
const words = (key: string): ReadonlyArray<string> => key === "" ? [] : key.split(".")

/**
 * A trie of patterns by their words, of which `*` stands for one word and `#` for any number.
 *
 * A node may be reached with the same words left in more than one way. It is walked each time, so a binding may be
 * found twice.
 */
class TopicMatcher implements Matcher {
  private readonly root = new TopicNode()

  add(binding: Binding): void {
    let node = this.root
    for (const word of words(binding.routingKey)) {
      let next = node.next.get(word)
      if (next === undefined) node.next.set(word, next = new TopicNode())
      node = next
    }
    node.bindings.add(binding)
  }

  remove(binding: Binding): void {
    this.prune(this.root, words(binding.routingKey), 0, binding)
  }

  /** Removes the binding below this node. Gives whether the node is empty now. */
  private prune(node: TopicNode, pattern: ReadonlyArray<string>, at: number, binding: Binding): boolean {
    const word = pattern[at]
    if (word === undefined) node.bindings.delete(binding)
    else {
      const next = node.next.get(word)
      if (next !== undefined && this.prune(next, pattern, at + 1, binding)) node.next.delete(word)
    }
    return node.bindings.size === 0 && node.next.size === 0
  }

  match(_message: Message, keys: ReadonlyArray<string>, found: (binding: Binding) => void): void {
    for (const key of keys) this.walk(this.root, words(key), 0, found)
  }

  private walk(node: TopicNode, key: ReadonlyArray<string>, at: number, found: (binding: Binding) => void): void {
    const many = node.next.get("#")
    if (many !== undefined) {
      for (let rest = at; rest <= key.length; rest++) this.walk(many, key, rest, found)
    }
    const word = key[at]
    if (word === undefined) {
      for (const binding of node.bindings) found(binding)
      return
    }
    // A word of a key is only text, even if it looks like a wildcard. The wildcards of patterns are followed above and
    // below.
    const same = word === "#" || word === "*" ? undefined : node.next.get(word)
    if (same !== undefined) this.walk(same, key, at + 1, found)
    const one = node.next.get("*")
    if (one !== undefined) this.walk(one, key, at + 1, found)
  }
}

// -----------------------------------------------------------------------------
// headers
// -----------------------------------------------------------------------------

const matchKinds: ReadonlyArray<Plain> = ["all", "any", "all-with-x", "any-with-x"]

/** Refuses a binding to a headers exchange whose `x-match` makes no sense. */
export const checkMatchKind = (all: PlainTable): void => {
  const kind = all["x-match"]
  if (kind === undefined || matchKinds.includes(kind)) return
  throw preconditionFailed(
    typeof kind === "string"
      ? `Invalid x-match field value ${term(kind)}; expected all, any, all-with-x, or any-with-x`
      : `Invalid x-match field type ${typeName(kind)} (value ${term(kind)}); expected longstr`
  )
}

interface HeadersPattern {
  readonly isAny: boolean
  /** Names with what their values must be; `undefined`: anything. */
  readonly wanted: ReadonlyArray<readonly [name: string, value: string | undefined]>
}

const compile = (all: PlainTable): HeadersPattern => {
  const kind = all["x-match"]
  const isWithX = kind === "all-with-x" || kind === "any-with-x"
  return {
    isAny: kind === "any" || kind === "any-with-x",
    wanted: Object.entries(all).flatMap(([name, value]) =>
      name === "x-match" || (!isWithX && name.startsWith("x-"))
        ? []
        : [[name, value === null ? undefined : canonical(value)] as const]
    )
  }
}

class HeadersMatcher implements Matcher {
  private readonly patterns = new Map<Binding, HeadersPattern>()

  add(binding: Binding): void {
    this.patterns.set(binding, compile(binding.arguments))
  }

  remove(binding: Binding): void {
    this.patterns.delete(binding)
  }

  match(message: Message, _keys: ReadonlyArray<string>, found: (binding: Binding) => void): void {
    const headers = message.received.properties.headers ?? {}
    const isMatched = ([name, wanted]: HeadersPattern["wanted"][number]): boolean => {
      const value = headers[name]
      return value !== undefined && (wanted === undefined || canonical(value) === wanted)
    }
    for (const [binding, { isAny, wanted }] of this.patterns) {
      if (isAny ? wanted.some(isMatched) : wanted.every(isMatched)) found(binding)
    }
  }
}

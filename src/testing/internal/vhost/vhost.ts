/**
 * A vhost: its exchanges, its queues, what binds them, and what RabbitMQ refuses about them.
 *
 * Exchange types of plugins are unknown here (503).
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type * as AmqpTable from "../../../AmqpTable.ts"
import type { Message } from "../model/message.ts"
import type { Binding, Context, Exchange, Owner, Published, Queue, QueueHost, Vhost } from "../model/model.ts"
import {
  accessRefused,
  commandInvalid,
  notFound,
  notImplemented,
  preconditionFailed,
  type Refusal,
  resourceLocked
} from "../model/refusal.ts"
import { makeQueue } from "../queues/queue.ts"
import { addressed } from "./addressing.ts"
import {
  checkExchangeName,
  checkQueue,
  checkSameExchange,
  checkSameQueue,
  checkServerNamed,
  queueType,
  resource
} from "./arguments.ts"
import { type BoundExchange, makeExchange } from "./exchange.ts"
import { checkMatchKind, matchers } from "./routing.ts"

/** An empty vhost with RabbitMQ's own exchanges. */
export const makeVhost = (context: Context, name: string): Vhost => new BrokerVhost(context, name)

/** What every vhost has, with their types. */
const predeclared: ReadonlyArray<readonly [name: string, type: string, isInternal: boolean]> = [
  ["amq.direct", "direct", false],
  ["amq.fanout", "fanout", false],
  ["amq.topic", "topic", false],
  ["amq.headers", "headers", false],
  ["amq.match", "headers", false],
  ["amq.rabbitmq.trace", "topic", true]
]

/** A name as RabbitMQ keeps it. */
const stripped = (name: string): string => name.replaceAll(/[\r\n]/g, "")

/** Every queue is bound to it by its name, and nothing else is: it looks them up. */
class DefaultExchange implements Exchange {
  readonly name = ""
  readonly type = "direct"
  readonly durable = true
  readonly autoDelete = false
  readonly isInternal = false
  readonly arguments: AmqpTable.PlainTable = {}
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

class BrokerVhost implements Vhost, QueueHost {
  readonly name: string
  readonly queues = new Map<string, Queue>()
  readonly exchanges = new Map<string, Exchange>()
  private readonly context: Context
  /** All but the default one. */
  private readonly bound = new Map<string, BoundExchange>()

  constructor(context: Context, name: string) {
    this.context = context
    this.name = name
    this.exchanges.set("", new DefaultExchange(this.queues))
    for (const [name, type, isInternal] of predeclared) {
      const exchange = makeExchange({ name, type, durable: true, autoDelete: false, isInternal, arguments: {} })
      if (exchange !== undefined) this.keep(exchange)
    }
  }

  get vhost(): string {
    return this.name
  }

  private keep(exchange: BoundExchange): void {
    this.bound.set(exchange.name, exchange)
    this.exchanges.set(exchange.name, exchange)
  }

  private missing(kind: "queue" | "exchange", name: string): Refusal {
    return notFound(`no ${resource(kind, name, this.name)}`)
  }

  // ---------------------------------------------------------------------------
  // exchanges
  // ---------------------------------------------------------------------------

  exchangeDeclare(method: AmqpProtocol.ExchangeDeclare): void {
    const { arguments: all, autoDelete, durable, internal, passive, type } = method
    const name = stripped(method.exchange)
    if (!passive && !matchers.has(type)) {
      throw commandInvalid(`${type === "" ? "invalid" : "unknown"} exchange type '${type}'`)
    }
    refuseDefault(name)
    const existing = this.bound.get(name)
    if (passive) {
      if (existing === undefined) throw this.missing("exchange", name)
      return
    }
    if (existing !== undefined) return checkSameExchange(method, existing, this.name)
    refuseReserved("exchange", name)
    checkExchangeName(all, "alternate-exchange", resource("exchange", name, this.name))
    const exchange = makeExchange({ name, type, durable, autoDelete, isInternal: internal, arguments: all })
    if (exchange === undefined) return
    this.keep(exchange)
    this.context.emit({ _tag: "ExchangeDeclared", vhost: this.name, exchange: name, type })
  }

  exchangeDelete(method: AmqpProtocol.ExchangeDelete): void {
    const name = stripped(method.exchange)
    refuseDefault(name)
    if (name.startsWith("amq.")) {
      throw accessRefused(`deletion of system ${resource("exchange", name, this.name)} not allowed`)
    }
    const exchange = this.bound.get(name)
    if (exchange === undefined) return
    if (method.ifUnused && exchange.isBound) {
      throw preconditionFailed(`${resource("exchange", name, this.name)} in use`)
    }
    this.forgetExchange(exchange)
  }

  private forgetExchange(exchange: BoundExchange): void {
    this.dropExchange(exchange)
    this.unbindDestination("exchange", exchange.name)
  }

  private dropExchange(exchange: BoundExchange): void {
    this.bound.delete(exchange.name)
    this.exchanges.delete(exchange.name)
    this.context.emit({ _tag: "ExchangeDeleted", vhost: this.name, exchange: exchange.name })
    for (const binding of exchange.bindings) this.unbind(exchange, binding)
  }

  // ---------------------------------------------------------------------------
  // bindings
  // ---------------------------------------------------------------------------

  exchangeBind(method: AmqpProtocol.ExchangeBind): void {
    const binding: Binding = {
      source: stripped(method.source),
      destination: stripped(method.destination),
      destinationType: "exchange",
      routingKey: method.routingKey,
      arguments: method.arguments
    }
    refuseDefault(binding.destination)
    this.bind(binding)
  }

  queueBind(method: AmqpProtocol.QueueBind, owner: Owner): void {
    this.bind(queueBinding(method), owner)
  }

  exchangeUnbind(method: AmqpProtocol.ExchangeUnbind): void {
    const [source, destination] = [stripped(method.source), stripped(method.destination)]
    refuseDefault(destination)
    const { arguments: all, routingKey } = method
    this.unbindExisting({ source, destination, destinationType: "exchange", routingKey, arguments: all })
  }

  queueUnbind(method: AmqpProtocol.QueueUnbind, owner: Owner): void {
    this.unbindExisting(queueBinding(method), owner)
  }

  private bind(binding: Binding, owner?: Owner): void {
    const { destination, destinationType, source } = binding
    refuseDefault(source)
    const exchange = this.bound.get(source)
    if (exchange === undefined) throw this.missing("exchange", source)
    const queue = destinationType === "queue" ? this.queues.get(destination) : undefined
    if (destinationType === "queue" ? queue === undefined : !this.bound.has(destination)) {
      throw this.missing(destinationType, destination)
    }
    if (exchange.type === "headers") checkMatchKind(binding.arguments)
    if (queue !== undefined) this.refuseLocked(queue, owner)
    if (exchange.has(binding)) return
    exchange.add(binding)
    this.tell("Bound", binding)
  }

  private unbindExisting(binding: Binding, owner?: Owner): void {
    refuseDefault(binding.source)
    const exchange = this.bound.get(binding.source)
    if (exchange === undefined || !exchange.has(binding)) return
    const queue = binding.destinationType === "queue" ? this.queues.get(binding.destination) : undefined
    if (queue !== undefined) this.refuseLocked(queue, owner)
    this.unbind(exchange, binding)
    this.expireExchange(exchange)
  }

  private unbind(exchange: BoundExchange, binding: Binding): void {
    exchange.remove(binding)
    this.tell("Unbound", binding)
  }

  /** An auto-delete exchange goes with its last binding. */
  private expireExchange(exchange: BoundExchange): void {
    if (exchange.autoDelete && !exchange.isBound && this.bound.has(exchange.name)) this.forgetExchange(exchange)
  }

  /** What was bound is gone, and with it its bindings. */
  private unbindDestination(type: Binding["destinationType"], name: string): void {
    for (const exchange of [...this.bound.values()]) {
      const gone = exchange.bindings.filter((binding) =>
        binding.destinationType === type && binding.destination === name
      )
      for (const binding of gone) this.unbind(exchange, binding)
      if (gone.length > 0) this.expireExchange(exchange)
    }
  }

  private tell(tag: "Bound" | "Unbound", binding: Binding): void {
    const { destination, destinationType, routingKey, source } = binding
    this.context.emit({ _tag: tag, vhost: this.name, source, destination, destinationType, routingKey })
  }

  // ---------------------------------------------------------------------------
  // queues
  // ---------------------------------------------------------------------------

  queueDeclare(method: AmqpProtocol.QueueDeclare, owner: Owner): Queue {
    const asked = stripped(method.queue)
    if (method.passive) {
      const queue = this.queue(asked, owner)
      queue.touch()
      return queue
    }
    if (asked === "") checkServerNamed(method.arguments)
    else refuseReserved("queue", asked)
    const existing = this.queues.get(asked)
    if (existing !== undefined) {
      // An exclusive one is not the same as one that is not, whoever asks.
      if (existing.owner !== (method.exclusive ? owner : undefined)) throw this.locked(existing)
      checkSameQueue(method, existing, this.name)
      existing.touch()
      return existing
    }
    const name = asked === "" ? this.context.generateName("amq.gen-") : asked
    checkQueue({ ...method, queue: name }, this.name)
    const queue = makeQueue(this.context, this, {
      name,
      type: queueType(method.arguments),
      durable: method.durable && !method.exclusive,
      autoDelete: method.autoDelete,
      owner: method.exclusive ? owner : undefined,
      arguments: method.arguments
    })
    this.queues.set(name, queue)
    this.context.emit({ _tag: "QueueDeclared", vhost: this.name, queue: name, type: queue.type })
    return queue
  }

  queue(name: string, owner: Owner): Queue {
    const queue = this.queues.get(name)
    if (queue === undefined) throw this.missing("queue", name)
    this.refuseLocked(queue, owner)
    return queue
  }

  queuePurge(method: AmqpProtocol.QueuePurge, owner: Owner): number {
    const messages = this.queue(method.queue, owner).purge()
    this.context.emit({ _tag: "QueuePurged", vhost: this.name, queue: method.queue, messages })
    return messages
  }

  queueDelete(method: AmqpProtocol.QueueDelete, owner: Owner): number {
    const { ifEmpty, ifUnused } = method
    const queue = this.queues.get(stripped(method.queue))
    if (queue === undefined) return 0
    this.refuseLocked(queue, owner)
    const name = resource("queue", queue.name, this.name)
    if (queue.type === "quorum" && (ifUnused || ifEmpty)) {
      const flag = ifUnused ? "if-unused" : "if-empty"
      throw notImplemented(
        `cannot delete ${name}. queue.delete operations with ${flag} flag set are not supported by quorum queues`
      )
    }
    if (queue.type === "classic" && ifEmpty && queue.ready > 0) throw preconditionFailed(`${name} not empty`)
    if (queue.type === "classic" && ifUnused && queue.subscribers.length > 0) {
      throw preconditionFailed(`${name} in use`)
    }
    const messages = this.forgetQueue(queue)
    return queue.type === "stream" ? 0 : messages
  }

  /** How many messages were ready in it. */
  private forgetQueue(queue: Queue): number {
    const messages = this.dropQueue(queue)
    this.unbindDestination("queue", queue.name)
    return messages
  }

  private dropQueue(queue: Queue): number {
    const messages = queue.ready
    this.queues.delete(queue.name)
    queue.close()
    this.context.emit({ _tag: "QueueDeleted", vhost: this.name, queue: queue.name, messages })
    return messages
  }

  private locked(queue: Queue): Refusal {
    return resourceLocked(
      `cannot obtain exclusive access to locked ${resource("queue", queue.name, this.name)}. It could be originally ` +
        "declared on another connection or the exclusive property value does not match that of the original declaration."
    )
  }

  private refuseLocked(queue: Queue, owner: Owner | undefined): void {
    if (queue.owner !== undefined && queue.owner !== owner) throw this.locked(queue)
  }

  // ---------------------------------------------------------------------------
  // messages
  // ---------------------------------------------------------------------------

  publish(message: Message): Published {
    return this.route(message)()
  }

  exchange(name: string): Exchange {
    const exchange = this.exchanges.get(name)
    if (exchange === undefined) throw this.missing("exchange", name)
    if (exchange.isInternal) throw accessRefused(`cannot publish to internal ${resource("exchange", name, this.name)}`)
    return exchange
  }

  route(message: Message): () => Published {
    this.exchange(message.exchange)
    const { keys, sent } = addressed(message)
    const names = this.find(sent, keys)
    return () => {
      const queues = names.flatMap((name) => this.queues.get(name) ?? [])
      // Every one of them gets it, whatever the others say.
      const refused = queues.filter((queue) => !queue.publish(sent))
      return { isRouted: queues.length > 0, isAccepted: refused.length === 0 }
    }
  }

  republish(message: Message, takes: (queue: string) => boolean): void {
    if (!this.exchanges.has(message.exchange)) return
    const { keys, sent } = addressed(message)
    const names = this.find(sent, keys).filter(takes)
    // Dead letters go from one process to another in RabbitMQ: the queue that they come from goes on first.
    this.context.agenda.later(() => {
      for (const name of names) this.queues.get(name)?.publish(sent)
    })
  }

  /** The names of the queues that a message goes to, each once, in the order in which RabbitMQ serves them. */
  private find(message: Message, keys: ReadonlyArray<string>): ReadonlyArray<string> {
    if (message.exchange === "") return keys.length === 1 ? keys : [...new Set(keys)].sort().reverse()
    const queues = new Set<string>()
    const seen = new Set([message.exchange])
    const pending = [message.exchange]
    for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
      const exchange = this.bound.get(name)
      if (exchange === undefined) continue
      let isTaken = false
      const follow = (next: string): void => {
        if (seen.has(next)) return
        seen.add(next)
        pending.push(next)
      }
      exchange.match(message, keys, ({ destination, destinationType }) => {
        isTaken = true
        if (destinationType === "queue") queues.add(destination)
        else follow(destination)
      })
      if (!isTaken && exchange.alternate !== undefined) follow(exchange.alternate)
    }
    return queues.size < 2 ? [...queues] : [...queues].sort().reverse()
  }

  // ---------------------------------------------------------------------------
  // what ends
  // ---------------------------------------------------------------------------

  expire(queue: Queue): void {
    if (this.queues.get(queue.name) === queue) this.forgetQueue(queue)
  }

  release(owner: Owner): void {
    for (const queue of [...this.queues.values()]) {
      if (queue.owner === owner) this.expire(queue)
    }
  }

  restart(): void {
    for (const queue of [...this.queues.values()]) {
      if (!queue.durable) this.dropQueue(queue)
    }
    for (const exchange of [...this.bound.values()]) {
      if (!exchange.durable) this.dropExchange(exchange)
    }
    // A durable auto-delete exchange stays: nobody has unbound anything.
    for (const exchange of this.bound.values()) {
      for (const binding of exchange.bindings) {
        const { destination, destinationType } = binding
        const isThere = destinationType === "queue" ? this.queues.has(destination) : this.bound.has(destination)
        if (!isThere) this.unbind(exchange, binding)
      }
    }
    for (const queue of this.queues.values()) queue.restart()
  }

  deleteQueue(name: string): void {
    const queue = this.queues.get(name)
    if (queue === undefined) throw this.missing("queue", name)
    this.forgetQueue(queue)
  }

  close(): void {
    for (const queue of [...this.queues.values()]) {
      this.queues.delete(queue.name)
      queue.close()
    }
  }
}

const queueBinding = (method: AmqpProtocol.QueueBind | AmqpProtocol.QueueUnbind): Binding => ({
  source: stripped(method.exchange),
  destination: stripped(method.queue),
  destinationType: "queue",
  routingKey: method.routingKey,
  arguments: method.arguments
})

const refuseDefault = (exchange: string): void => {
  if (exchange === "") throw accessRefused("operation not permitted on the default exchange")
}

const refuseReserved = (kind: "queue" | "exchange", name: string): void => {
  if (name.startsWith("amq.")) throw accessRefused(`${kind} name '${name}' contains reserved prefix 'amq.*'`)
}

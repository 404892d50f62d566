/**
 * The exchanges of a vhost, what binds them, and where that takes a message.
 *
 * Exchange types of plugins are unknown here (503).
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { Message } from "../model/message.ts"
import type { Binding, Context, Exchange, Owner, Queue } from "../model/model.ts"
import { accessRefused, commandInvalid, preconditionFailed } from "../model/refusal.ts"
import { checkExchangeName, checkSameExchange, resource } from "./arguments.ts"
import { missing, refuseDefault, refuseLocked, refuseReserved, stripped } from "./checks.ts"
import { type BoundExchange, DefaultExchange, makeExchange } from "./exchange.ts"
import { checkMatchKind, matchers } from "./routing.ts"

/** The exchanges that every vhost has. */
const predeclared: ReadonlyArray<readonly [name: string, type: string, isInternal: boolean]> = [
  ["amq.direct", "direct", false],
  ["amq.fanout", "fanout", false],
  ["amq.topic", "topic", false],
  ["amq.headers", "headers", false],
  ["amq.match", "headers", false],
  ["amq.rabbitmq.trace", "topic", true]
]

/** The exchanges of one vhost. */
export class Exchanges {
  readonly all = new Map<string, Exchange>()
  private readonly context: Context
  private readonly vhost: string
  private readonly queues: ReadonlyMap<string, Queue>
  /** All but the default exchange. */
  private readonly bound = new Map<string, BoundExchange>()

  constructor(context: Context, vhost: string, queues: ReadonlyMap<string, Queue>) {
    this.context = context
    this.vhost = vhost
    this.queues = queues
    this.all.set("", new DefaultExchange(queues))
    for (const [name, type, isInternal] of predeclared) {
      const exchange = makeExchange({ name, type, durable: true, autoDelete: false, isInternal, arguments: {} })
      if (exchange !== undefined) this.keep(exchange)
    }
  }

  private keep(exchange: BoundExchange): void {
    this.bound.set(exchange.name, exchange)
    this.all.set(exchange.name, exchange)
  }

  /** The exchange of this name, if a client may publish to it. */
  publishable(name: string): Exchange {
    const exchange = this.all.get(name)
    if (exchange === undefined) throw missing("exchange", name, this.vhost)
    if (exchange.isInternal) throw accessRefused(`cannot publish to internal ${resource("exchange", name, this.vhost)}`)
    return exchange
  }

  // ---------------------------------------------------------------------------
  // exchanges
  // ---------------------------------------------------------------------------

  declare(method: AmqpProtocol.ExchangeDeclare): void {
    const { arguments: all, autoDelete, durable, internal, passive, type } = method
    const name = stripped(method.exchange)
    if (!passive && !matchers.has(type)) {
      throw commandInvalid(`${type === "" ? "invalid" : "unknown"} exchange type '${type}'`)
    }
    refuseDefault(name)
    const existing = this.bound.get(name)
    if (passive) {
      if (existing === undefined) throw missing("exchange", name, this.vhost)
      return
    }
    if (existing !== undefined) return checkSameExchange(method, existing, this.vhost)
    refuseReserved("exchange", name)
    checkExchangeName(all, "alternate-exchange", resource("exchange", name, this.vhost))
    const exchange = makeExchange({ name, type, durable, autoDelete, isInternal: internal, arguments: all })
    if (exchange === undefined) return
    this.keep(exchange)
    this.context.emit({ _tag: "ExchangeDeclared", vhost: this.vhost, exchange: name, type })
  }

  delete(method: AmqpProtocol.ExchangeDelete): void {
    const name = stripped(method.exchange)
    refuseDefault(name)
    if (name.startsWith("amq.")) {
      throw accessRefused(`deletion of system ${resource("exchange", name, this.vhost)} not allowed`)
    }
    const exchange = this.bound.get(name)
    if (exchange === undefined) return
    if (method.ifUnused && exchange.isBound) {
      throw preconditionFailed(`${resource("exchange", name, this.vhost)} in use`)
    }
    this.forget(exchange)
  }

  private forget(exchange: BoundExchange): void {
    this.drop(exchange)
    this.unbindDestination("exchange", exchange.name)
  }

  private drop(exchange: BoundExchange): void {
    this.bound.delete(exchange.name)
    this.all.delete(exchange.name)
    this.context.emit({ _tag: "ExchangeDeleted", vhost: this.vhost, exchange: exchange.name })
    for (const binding of exchange.bindings) this.unbind(exchange, binding)
  }

  // ---------------------------------------------------------------------------
  // bindings
  // ---------------------------------------------------------------------------

  bindExchange(method: AmqpProtocol.ExchangeBind): void {
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

  bindQueue(method: AmqpProtocol.QueueBind, owner: Owner): void {
    this.bind(queueBinding(method), owner)
  }

  unbindExchange(method: AmqpProtocol.ExchangeUnbind): void {
    const [source, destination] = [stripped(method.source), stripped(method.destination)]
    refuseDefault(destination)
    const { arguments: all, routingKey } = method
    this.unbindExisting({ source, destination, destinationType: "exchange", routingKey, arguments: all })
  }

  unbindQueue(method: AmqpProtocol.QueueUnbind, owner: Owner): void {
    this.unbindExisting(queueBinding(method), owner)
  }

  private bind(binding: Binding, owner?: Owner): void {
    const { destination, destinationType, source } = binding
    refuseDefault(source)
    const exchange = this.bound.get(source)
    if (exchange === undefined) throw missing("exchange", source, this.vhost)
    const queue = destinationType === "queue" ? this.queues.get(destination) : undefined
    if (destinationType === "queue" ? queue === undefined : !this.bound.has(destination)) {
      throw missing(destinationType, destination, this.vhost)
    }
    if (exchange.type === "headers") checkMatchKind(binding.arguments)
    if (queue !== undefined) refuseLocked(queue, owner, this.vhost)
    if (exchange.has(binding)) return
    exchange.add(binding)
    this.tell("Bound", binding)
  }

  private unbindExisting(binding: Binding, owner?: Owner): void {
    refuseDefault(binding.source)
    const exchange = this.bound.get(binding.source)
    if (exchange === undefined || !exchange.has(binding)) return
    const queue = binding.destinationType === "queue" ? this.queues.get(binding.destination) : undefined
    if (queue !== undefined) refuseLocked(queue, owner, this.vhost)
    this.unbind(exchange, binding)
    this.expire(exchange)
  }

  private unbind(exchange: BoundExchange, binding: Binding): void {
    exchange.remove(binding)
    this.tell("Unbound", binding)
  }

  /** An auto-delete exchange goes with its last binding. */
  private expire(exchange: BoundExchange): void {
    if (exchange.autoDelete && !exchange.isBound && this.bound.has(exchange.name)) this.forget(exchange)
  }

  /** A queue or an exchange is gone: removes all bindings to it. */
  unbindDestination(type: Binding["destinationType"], name: string): void {
    for (const exchange of [...this.bound.values()]) {
      const gone = exchange.bindings.filter((binding) =>
        binding.destinationType === type && binding.destination === name
      )
      for (const binding of gone) this.unbind(exchange, binding)
      if (gone.length > 0) this.expire(exchange)
    }
  }

  private tell(tag: "Bound" | "Unbound", binding: Binding): void {
    const { destination, destinationType, routingKey, source } = binding
    this.context.emit({ _tag: tag, vhost: this.vhost, source, destination, destinationType, routingKey })
  }

  // ---------------------------------------------------------------------------
  // messages
  // ---------------------------------------------------------------------------

  /** The names of the queues that a message goes to, each once, in the order in which RabbitMQ serves them. */
  find(message: Message, keys: ReadonlyArray<string>): ReadonlyArray<string> {
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
  // restart
  // ---------------------------------------------------------------------------

  /** After queues that are not durable have gone: exchanges that are not durable go, and bindings with either. */
  restart(): void {
    for (const exchange of [...this.bound.values()]) {
      if (!exchange.durable) this.drop(exchange)
    }
    // A durable auto-delete exchange stays: nobody has unbound anything.
    for (const exchange of this.bound.values()) {
      for (const binding of exchange.bindings) {
        const { destination, destinationType } = binding
        const isThere = destinationType === "queue" ? this.queues.has(destination) : this.bound.has(destination)
        if (!isThere) this.unbind(exchange, binding)
      }
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

/**
 * A vhost: its queues, and how messages come to them.
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { Message } from "../model/message.ts"
import type { Context, Exchange, Owner, Published, Queue, QueueHost, Vhost } from "../model/model.ts"
import { notImplemented, preconditionFailed } from "../model/refusal.ts"
import { makeQueue } from "../queues/queue.ts"
import { addressed } from "./addressing.ts"
import { checkQueue, checkSameQueue, checkServerNamed, queueType, resource } from "./arguments.ts"
import { locked, missing, refuseLocked, refuseReserved, stripped } from "./checks.ts"
import { Exchanges } from "./exchanges.ts"

/** An empty vhost with RabbitMQ's own exchanges. */
export const makeVhost = (context: Context, name: string): Vhost => new BrokerVhost(context, name)

class BrokerVhost implements Vhost, QueueHost {
  readonly name: string
  readonly queues = new Map<string, Queue>()
  readonly exchanges: ReadonlyMap<string, Exchange>
  private readonly context: Context
  private readonly graph: Exchanges

  constructor(context: Context, name: string) {
    this.context = context
    this.name = name
    this.graph = new Exchanges(context, name, this.queues)
    this.exchanges = this.graph.all
  }

  get vhost(): string {
    return this.name
  }

  // ---------------------------------------------------------------------------
  // exchanges and bindings
  // ---------------------------------------------------------------------------

  exchangeDeclare(method: AmqpProtocol.ExchangeDeclare): void {
    this.graph.declare(method)
  }

  exchangeDelete(method: AmqpProtocol.ExchangeDelete): void {
    this.graph.delete(method)
  }

  exchangeBind(method: AmqpProtocol.ExchangeBind): void {
    this.graph.bindExchange(method)
  }

  exchangeUnbind(method: AmqpProtocol.ExchangeUnbind): void {
    this.graph.unbindExchange(method)
  }

  queueBind(method: AmqpProtocol.QueueBind, owner: Owner): void {
    this.graph.bindQueue(method, owner)
  }

  queueUnbind(method: AmqpProtocol.QueueUnbind, owner: Owner): void {
    this.graph.unbindQueue(method, owner)
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
      // An exclusive queue never equals one that is not exclusive, whoever asks.
      if (existing.owner !== (method.exclusive ? owner : undefined)) throw locked(existing, this.name)
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
    if (queue === undefined) throw missing("queue", name, this.name)
    refuseLocked(queue, owner, this.name)
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
    refuseLocked(queue, owner, this.name)
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

  /** Gives how many messages were ready. */
  private forgetQueue(queue: Queue): number {
    const messages = this.dropQueue(queue)
    this.graph.unbindDestination("queue", queue.name)
    return messages
  }

  private dropQueue(queue: Queue): number {
    const messages = queue.ready
    this.queues.delete(queue.name)
    queue.close()
    this.context.emit({ _tag: "QueueDeleted", vhost: this.name, queue: queue.name, messages })
    return messages
  }

  // ---------------------------------------------------------------------------
  // messages
  // ---------------------------------------------------------------------------

  publish(message: Message): Published {
    return this.route(message)()
  }

  exchange(name: string): Exchange {
    return this.graph.publishable(name)
  }

  route(message: Message): () => Published {
    this.exchange(message.exchange)
    const { keys, sent } = addressed(message)
    const names = this.graph.find(sent, keys)
    return () => {
      const queues = names.flatMap((name) => this.queues.get(name) ?? [])
      // Every queue gets the message, even if another refuses it.
      const refused = queues.filter((queue) => !queue.publish(sent))
      return { isRouted: queues.length > 0, isAccepted: refused.length === 0 }
    }
  }

  republish(message: Message, takes: (queue: string) => boolean): void {
    if (!this.exchanges.has(message.exchange)) return
    const { keys, sent } = addressed(message)
    const names = this.graph.find(sent, keys).filter(takes)
    // In RabbitMQ dead letters go from one process to another. The queue that they leave goes on first.
    this.context.agenda.later(() => {
      for (const name of names) this.queues.get(name)?.publish(sent)
    })
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
    this.graph.restart()
    for (const queue of this.queues.values()) queue.restart()
  }

  deleteQueue(name: string): void {
    const queue = this.queues.get(name)
    if (queue === undefined) throw missing("queue", name, this.name)
    this.forgetQueue(queue)
  }

  close(): void {
    for (const queue of [...this.queues.values()]) {
      this.queues.delete(queue.name)
      queue.close()
    }
  }
}

/**
 * What a client does to exchanges, queues and bindings through one channel.
 *
 * It checks permissions, and knows which queue the channel has declared last. The vhost does the rest.
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import { notFound } from "../model/refusal.ts"
import type { ChannelHost, Services } from "../model/services.ts"
import { stripped } from "../vhost/checks.ts"
import { replyTo } from "./replies.ts"

export type EntityMethod =
  | AmqpProtocol.ExchangeDeclare
  | AmqpProtocol.ExchangeDelete
  | AmqpProtocol.ExchangeBind
  | AmqpProtocol.ExchangeUnbind
  | AmqpProtocol.QueueDeclare
  | AmqpProtocol.QueueBind
  | AmqpProtocol.QueueUnbind
  | AmqpProtocol.QueuePurge
  | AmqpProtocol.QueueDelete

export class ServerEntities {
  private readonly host: ChannelHost
  private readonly replyAddresses: Services["replyAddresses"]
  private lastDeclared = ""

  constructor(host: ChannelHost, replyAddresses: Services["replyAddresses"]) {
    this.host = host
    this.replyAddresses = replyAddresses
  }

  /** Gives the answer, or throws a `Refusal`. */
  perform(method: EntityMethod): AmqpProtocol.Method {
    switch (method._tag) {
      case "exchange.declare":
        return this.exchangeDeclare(method)
      case "exchange.delete":
        return this.exchangeDelete(method)
      case "exchange.bind":
        this.checkBinding("exchange", method.destination, method.source)
        this.host.home.exchangeBind(method)
        return { _tag: "exchange.bind-ok" }
      case "exchange.unbind":
        this.checkBinding("exchange", method.destination, method.source)
        this.host.home.exchangeUnbind(method)
        return { _tag: "exchange.unbind-ok" }
      case "queue.declare":
        return this.queueDeclare(method)
      case "queue.bind":
        return this.queueBind(method)
      case "queue.unbind":
        return this.queueUnbind(method)
      case "queue.purge":
        return this.queuePurge(method)
      case "queue.delete":
        return this.queueDelete(method)
    }
  }

  private exchangeDeclare(method: AmqpProtocol.ExchangeDeclare): AmqpProtocol.Method {
    const { home } = this.host
    const name = stripped(method.exchange)
    if (!method.passive && name !== "") {
      this.host.check("configure", "exchange", name)
      const alternate = method.arguments["alternate-exchange"]
      if (!home.exchanges.has(name) && !name.startsWith("amq.") && typeof alternate === "string") {
        this.host.check("read", "exchange", name)
        this.host.check("write", "exchange", alternate)
      }
    }
    home.exchangeDeclare(method)
    return { _tag: "exchange.declare-ok" }
  }

  private exchangeDelete(method: AmqpProtocol.ExchangeDelete): AmqpProtocol.Method {
    const name = stripped(method.exchange)
    if (name !== "" && !name.startsWith("amq.")) this.host.check("configure", "exchange", name)
    this.host.home.exchangeDelete(method)
    return { _tag: "exchange.delete-ok" }
  }

  /** Leaves the default exchange out: the vhost refuses its bindings, in other words. */
  private checkBinding(kind: "queue" | "exchange", destination: string, source: string): void {
    this.host.check("write", kind, stripped(destination))
    if (stripped(source) !== "" && (kind === "queue" || stripped(destination) !== "")) {
      this.host.check("read", "exchange", stripped(source))
    }
  }

  /** The name, or where it is empty, that of the last queue that was declared here. */
  named(queue: string): string {
    if (queue !== "") return queue
    if (this.lastDeclared === "") throw notFound("no previously declared queue")
    return this.lastDeclared
  }

  private queueDeclare(method: AmqpProtocol.QueueDeclare): AmqpProtocol.Method {
    const { home } = this.host
    const name = stripped(method.queue)
    if (name.startsWith(replyTo)) return this.declareReplies(name)
    if (!method.passive && !name.startsWith("amq.")) {
      // A name that the broker will make is checked, too. Any such name will do.
      const checked = name === "" ? "amq.gen" : name
      this.host.check("configure", "queue", checked)
      const deadLetters = method.arguments["x-dead-letter-exchange"]
      if (!home.queues.has(name) && typeof deadLetters === "string") {
        this.host.check("read", "queue", checked)
        this.host.check("write", "exchange", deadLetters)
      }
    }
    const queue = home.queueDeclare(method, this.host)
    this.lastDeclared = queue.name
    return {
      _tag: "queue.declare-ok",
      queue: queue.name,
      messageCount: queue.ready,
      consumerCount: queue.type === "stream" ? 0 : queue.subscribers.length
    }
  }

  /** A client asks whether replies to an address still have a consumer. */
  private declareReplies(name: string): AmqpProtocol.Method {
    if (name !== replyTo && !this.replyAddresses.has(name)) {
      throw notFound(`no queue '${name}' in vhost '${this.host.home.name}'`)
    }
    this.lastDeclared = name
    return { _tag: "queue.declare-ok", queue: name, messageCount: 0, consumerCount: 1 }
  }

  private queueBind(method: AmqpProtocol.QueueBind): AmqpProtocol.Method {
    const expanded = { ...method, ...this.expand(method) }
    this.checkBinding("queue", expanded.queue, method.exchange)
    this.host.home.queueBind(expanded, this.host)
    return { _tag: "queue.bind-ok" }
  }

  private queueUnbind(method: AmqpProtocol.QueueUnbind): AmqpProtocol.Method {
    const expanded = { ...method, ...this.expand(method) }
    this.checkBinding("queue", expanded.queue, method.exchange)
    this.host.home.queueUnbind(expanded, this.host)
    return { _tag: "queue.unbind-ok" }
  }

  /** Where both names are empty, both are the last declared queue's. */
  private expand({ queue, routingKey }: AmqpProtocol.QueueBind | AmqpProtocol.QueueUnbind) {
    const name = this.named(queue)
    return { queue: name, routingKey: queue === "" && routingKey === "" ? name : routingKey }
  }

  private queuePurge(method: AmqpProtocol.QueuePurge): AmqpProtocol.Method {
    const queue = this.named(method.queue)
    this.host.check("read", "queue", queue)
    const messageCount = this.host.home.queuePurge({ ...method, queue }, this.host)
    return { _tag: "queue.purge-ok", messageCount }
  }

  private queueDelete(method: AmqpProtocol.QueueDelete): AmqpProtocol.Method {
    const queue = this.named(method.queue)
    this.host.check("configure", "queue", stripped(queue))
    const messageCount = this.host.home.queueDelete({ ...method, queue }, this.host)
    return { _tag: "queue.delete-ok", messageCount }
  }
}

/**
 * Queues of the embedded broker without a broker: a clock that is turned by hand, consumers that note what they get, and
 * a vhost whose only exchange is the default one.
 */
import { Result } from "effect"
import type { PropertiesInput } from "../../../src/AmqpMessage.ts"
import * as AmqpProtocol from "../../../src/AmqpProtocol.ts"
import type * as AmqpTable from "../../../src/AmqpTable.ts"
import type { BrokerEvent } from "../../../src/testing/internal/model/events.ts"
import { Message } from "../../../src/testing/internal/model/message.ts"
import type {
  Context,
  Entry,
  Outcome,
  Queue,
  QueueHost,
  Subscriber
} from "../../../src/testing/internal/model/model.ts"
import { Refusal } from "../../../src/testing/internal/model/refusal.ts"
import { Timers } from "../../../src/testing/internal/model/timers.ts"
import { makeQueue, type QueueDefinition } from "../../../src/testing/internal/queues/queue.ts"

const utf8 = { encoder: new TextEncoder(), decoder: new TextDecoder() }

/** A message whose body is the text. */
export const message = (
  body: string,
  properties: PropertiesInput = {},
  fields: { readonly exchange?: string; readonly routingKey?: string } = {}
): Message =>
  new Message({
    exchange: "",
    routingKey: "",
    ...fields,
    properties: Result.getOrThrow(AmqpProtocol.encodeProperties(properties)),
    body: utf8.encoder.encode(body)
  })

/** The body, with a star if it was delivered before. */
export const show = (entry: Entry): string => utf8.decoder.decode(entry.message.body) + (entry.redelivered ? "*" : "")

/** What is ready, in order. */
export const contents = (queue: Queue): string => queue.entries().map(show).join(" ")

/** Code and text of what this throws. */
export const refusal = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof Refusal) return `${error.replyCode} ${error.replyText}`
    throw error
  }
  throw new Error("nothing was refused")
}

/** A consumer that keeps what it gets until it is told to settle it. */
export class Consumer implements Subscriber {
  readonly tag: string
  readonly noAck: boolean
  readonly isExclusive: boolean
  readonly priority: number
  readonly arguments: AmqpTable.PlainTable
  readonly prefetch: number
  readonly hasGlobalPrefetch: boolean
  readonly owner = { id: "owner" }
  readonly channel = 1
  /** All that it ever got. */
  readonly got: Array<string> = []
  /** What it has not settled. */
  readonly held: Array<Entry> = []
  isCancelled = false
  /** Whether the connection takes more. */
  isOpen = true
  private readonly lab: Lab
  private readonly queue: Queue

  constructor(lab: Lab, queue: Queue, tag: string, options: ConsumerOptions) {
    this.lab = lab
    this.queue = queue
    this.tag = tag
    this.noAck = options.noAck ?? false
    this.isExclusive = options.isExclusive ?? false
    this.priority = options.priority ?? 0
    this.arguments = options.arguments ?? {}
    this.prefetch = options.prefetch ?? 0
    this.hasGlobalPrefetch = options.hasGlobalPrefetch ?? false
  }

  readonly isReady = () => this.isOpen && (this.prefetch === 0 || this.held.length < this.prefetch)

  readonly deliver = (entry: Entry) => {
    this.got.push(show(entry))
    if (!this.noAck) this.held.push(entry)
  }

  readonly cancelled = () => {
    this.isCancelled = true
  }

  /** Settles as many as said of those that it has held longest; all by default. */
  settle(outcome: Outcome, count = this.held.length): void {
    this.queue.settle(this.held.splice(0, count), outcome)
    this.lab.run()
  }

  cancel(): void {
    this.queue.cancel(this)
    this.lab.run()
  }
}

type ConsumerOptions = Partial<
  Pick<Subscriber, "noAck" | "isExclusive" | "priority" | "arguments" | "prefetch" | "hasGlobalPrefetch">
>

/** A place for queues. */
export class Lab {
  now = 1_000_000
  readonly timers = new Timers({ now: () => this.now, onEarlier: () => {} })
  readonly queues = new Map<string, Queue>()
  readonly events: Array<BrokerEvent> = []
  private readonly agenda = new Set<Queue>()
  private readonly context: Context = {
    timers: this.timers,
    agenda: { add: (queue) => void this.agenda.add(queue), later: (work) => work() },
    emit: (event) => void this.events.push(event),
    generateName: (prefix) => prefix
  }
  private readonly host: QueueHost = {
    vhost: "/",
    republish: (letter, takes) => {
      const queue = this.queues.get(letter.routingKey)
      if (letter.exchange === "" && queue !== undefined && takes(queue.name)) queue.publish(letter)
    },
    expire: (queue) => {
      this.queues.delete(queue.name)
      queue.close()
    }
  }

  queue(name: string, args: AmqpTable.PlainTable = {}, options: Partial<QueueDefinition> = {}): Queue {
    const queue = makeQueue(this.context, this.host, {
      name,
      type: "classic",
      durable: true,
      autoDelete: false,
      owner: undefined,
      arguments: args,
      ...options
    })
    this.queues.set(name, queue)
    return queue
  }

  /** Publishes each of them on its own, as frames of their own do; gives whether they were taken. */
  publish(queue: Queue, ...messages: ReadonlyArray<string | Message>): Array<boolean> {
    return messages.map((one) => {
      const isTaken = queue.publish(typeof one === "string" ? message(one, {}, { routingKey: queue.name }) : one)
      this.run()
      return isTaken
    })
  }

  consume(queue: Queue, tag: string, options: ConsumerOptions = {}): Consumer {
    const consumer = new Consumer(this, queue, tag, options)
    queue.consume(consumer)
    this.run()
    return consumer
  }

  /** What `basic.get` gives, with how many are left. */
  get(queue: Queue, noAck = true): string | undefined {
    const taken = queue.get(noAck)
    this.run()
    return taken && `${show(taken.entry)} ${taken.remaining}`
  }

  /** Does what the agenda has. */
  run(): void {
    for (const queue of this.agenda) {
      this.agenda.delete(queue)
      queue.pump()
    }
  }

  pass(millis: number): void {
    this.now += millis
    this.timers.runDue()
    this.run()
  }

  /** Why messages were given up, and by whom. */
  get deaths(): Array<string> {
    return this.events.flatMap((event) => event._tag === "DeadLettered" ? [`${event.queue} ${event.reason}`] : [])
  }
}

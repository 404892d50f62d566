/**
 * Sequences of commands for two brokers: what is in them, and how they are made up.
 *
 * Commands name things by small numbers, which whoever takes them reads modulo what there is: so every part of a sequence
 * is a sequence, and one that fails can be made shorter.
 */
import { Arbitrary, Schema } from "effect"
import type { PropertiesInput } from "../../src/AmqpMessage.ts"
import type * as AmqpTable from "../../src/AmqpTable.ts"

const below = (size: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: size - 1 }))

/** There are so many exchanges, queues and channels. */
export const counts = { exchanges: 3, queues: 4, channels: 3 }

const Exchange = below(counts.exchanges)
const Queue = below(counts.queues)
const Channel = below(counts.channels)

export interface QueueKind {
  readonly durable?: boolean
  readonly exclusive?: boolean
  readonly autoDelete?: boolean
  readonly arguments?: AmqpTable.InputTable
}

/** Of which kinds queues are; `x0` and `q0` stand for names. */
const classicKinds: ReadonlyArray<QueueKind> = [
  {},
  { durable: true },
  { autoDelete: true },
  { exclusive: true },
  { arguments: { "x-max-length": 2 } },
  { arguments: { "x-max-length": 2, "x-overflow": "reject-publish" } },
  { arguments: { "x-max-length": 1, "x-dead-letter-exchange": "x0" } },
  { arguments: { "x-max-length": 1, "x-overflow": "reject-publish-dlx", "x-dead-letter-exchange": "x1" } },
  { arguments: { "x-dead-letter-exchange": "x1", "x-dead-letter-routing-key": "a" } },
  { arguments: { "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q0" } },
  { arguments: { "x-dead-letter-exchange": "x2" } },
  { arguments: { "x-max-priority": 3 } },
  { arguments: { "x-max-priority": 2, "x-max-length": 2, "x-dead-letter-exchange": "x0" } },
  { arguments: { "x-single-active-consumer": true } },
  { arguments: { "x-max-length-bytes": 8 } },
  { arguments: { "x-queue-mode": "lazy" } },
  // Nothing waits for the time to pass: messages expire at once, or not at all.
  { arguments: { "x-message-ttl": 0, "x-dead-letter-exchange": "x0" } }
]

const quorumKinds: ReadonlyArray<QueueKind> = [
  { durable: true, arguments: { "x-queue-type": "quorum" } },
  { durable: true, arguments: { "x-queue-type": "quorum", "x-delivery-limit": 1, "x-dead-letter-exchange": "x0" } },
  { durable: true, arguments: { "x-queue-type": "quorum", "x-single-active-consumer": true } },
  { durable: true, arguments: { "x-queue-type": "quorum", "x-max-length": 2, "x-dead-letter-exchange": "x1" } },
  {
    durable: true,
    arguments: { "x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q0" }
  }
]

const streamKinds: ReadonlyArray<QueueKind> = [{ durable: true, arguments: { "x-queue-type": "stream" } }]

export const queueKinds: ReadonlyArray<QueueKind> = [...classicKinds, ...quorumKinds, ...streamKinds]

/** What sequences are about, and the kinds of queues that they begin with. */
export type Subject = "classic" | "quorum" | "stream"

const kindsOf: { readonly [subject in Subject]: { readonly minimum: number; readonly maximum: number } } = {
  classic: { minimum: 0, maximum: classicKinds.length - 1 },
  // Half of them.
  quorum: { minimum: classicKinds.length - quorumKinds.length, maximum: classicKinds.length + quorumKinds.length - 1 },
  stream: { minimum: queueKinds.length - 2 * streamKinds.length, maximum: queueKinds.length - 1 }
}

/** Where consumers of streams begin. */
export const streamOffsets: ReadonlyArray<AmqpTable.Input> = ["first", "next", 0, 1, 3]

export const exchangeTypes = ["direct", "fanout", "topic", "headers"] as const

/** Keys of bindings, and of messages: `q0` stands for the name of that queue. */
export const bindingKeys = ["a", "b", "a.*", "#", "*.b.#", "q0"] as const
export const routingKeys = ["a", "b", "a.b", "a.b.c", "", "q0", "q1"] as const

export const bindingArguments: ReadonlyArray<AmqpTable.InputTable> = [
  {},
  { a: 1 },
  { "x-match": "any", a: 1, b: "text" },
  { "x-match": "all", b: null },
  { "x-match": "any-with-x", "x-a": true }
]

/** Headers of messages; `undefined`: none. */
export const messageHeaders: ReadonlyArray<AmqpTable.InputTable | undefined> = [
  undefined,
  {},
  { a: 1 },
  { b: "text", a: 2 },
  { "x-a": true, b: [1, { deep: null }] },
  { CC: ["a", "q1"] },
  { BCC: ["b", "q2"], a: 1 },
  { CC: "not an array" }
]

/** Other properties of messages, some of which RabbitMQ refuses. */
export const messageProperties: ReadonlyArray<PropertiesInput> = [
  {},
  { messageId: "id", timestamp: 1, type: "type", appId: "app", contentType: "text/plain", contentEncoding: "" },
  { correlationId: "c", replyTo: "r", userId: "guest", clusterId: "cluster" },
  { deliveryMode: 2 },
  { deliveryMode: 1, priority: 0 },
  // RabbitMQ sees an expired message late that its priority has put before others.
  { expiration: "0", priority: 0 },
  { expiration: "60000" },
  { expiration: "soon" },
  { userId: "somebody" },
  { deliveryMode: 3 }
]

const DeclareExchange = Schema.TaggedStruct("DeclareExchange", {
  exchange: Exchange,
  type: below(exchangeTypes.length),
  autoDelete: Schema.Boolean,
  internal: below(6),
  /** 3: none. */
  alternate: below(counts.exchanges + 3)
})

const DeclareQueue = Schema.TaggedStruct("DeclareQueue", {
  channel: Channel,
  queue: Queue,
  kind: below(classicKinds.length)
})

const binding = {
  queue: Queue,
  exchange: Exchange,
  key: below(bindingKeys.length),
  arguments: below(bindingArguments.length)
}
const Bind = Schema.TaggedStruct("Bind", binding)

const Publish = Schema.TaggedStruct("Publish", {
  channel: Channel,
  /** The last: the default exchange. */
  exchange: below(counts.exchanges + 1),
  key: below(routingKeys.length),
  headers: below(messageHeaders.length),
  mandatory: Schema.Boolean,
  priority: below(5),
  properties: below(messageProperties.length),
  /** Of which binding it has the exchange and the key; from 8: of none. */
  binding: below(12)
})

const PublishToQueue = Schema.TaggedStruct("PublishToQueue", {
  channel: Channel,
  queue: Queue,
  priority: below(5),
  /** How many more than one. */
  more: below(4)
})

const Consume = Schema.TaggedStruct("Consume", {
  channel: Channel,
  queue: Queue,
  noAck: below(4),
  exclusive: below(8),
  /** `x-priority`; 0: none. */
  priority: below(4),
  /** 0: no limit. */
  prefetch: below(4),
  /** If it is a stream. */
  offset: below(streamOffsets.length + 1)
})

const how = Schema.Literals(["ack", "nack", "reject", "requeue"])

const Settle = Schema.TaggedStruct("Settle", { delivery: below(16), how })

/** With all before it, where its channel holds deliveries of one consumer alone: only then are their numbers known. */
const SettleUpTo = Schema.TaggedStruct("SettleUpTo", {
  delivery: below(16),
  how: Schema.Literals(["ack", "nack", "requeue"])
})

const SettleAll = Schema.TaggedStruct("SettleAll", {
  channel: Channel,
  how: Schema.Literals(["ack", "nack", "requeue"])
})

const Get = Schema.TaggedStruct("Get", { channel: Channel, queue: Queue, noAck: Schema.Boolean })

/** Of a binding that was made. */
const Unbind = Schema.TaggedStruct("Unbind", { binding: below(8) })

const BindExchange = Schema.TaggedStruct("BindExchange", {
  source: Exchange,
  destination: Exchange,
  key: below(bindingKeys.length)
})

const Cancel = Schema.TaggedStruct("Cancel", { consumer: below(8) })

const Purge = Schema.TaggedStruct("Purge", { channel: Channel, queue: Queue })

const DeleteQueue = Schema.TaggedStruct("DeleteQueue", {
  channel: Channel,
  queue: Queue,
  ifUnused: Schema.Boolean,
  ifEmpty: Schema.Boolean
})

const DeleteExchange = Schema.TaggedStruct("DeleteExchange", { exchange: Exchange, ifUnused: Schema.Boolean })

const Recover = Schema.TaggedStruct("Recover", { channel: Channel })

const Qos = Schema.TaggedStruct("Qos", { channel: Channel, prefetch: below(4), global: Schema.Boolean })

/** On a channel of its own, which is closed behind it. */
const Transaction = Schema.TaggedStruct("Transaction", {
  gets: Schema.Array(Schema.Struct({ queue: Queue, how })).check(Schema.isMaxLength(3)),
  publishes: Schema.Array(Schema.Struct({
    exchange: below(counts.exchanges + 1),
    key: below(routingKeys.length),
    mandatory: Schema.Boolean
  })).check(Schema.isMaxLength(3)),
  commit: Schema.Boolean
})

const CloseChannel = Schema.TaggedStruct("CloseChannel", { channel: Channel })
const CloseConnection = Schema.TaggedStruct("CloseConnection", { channel: Channel })

const some = <S>(weight: number, schema: S): ReadonlyArray<S> => new Array<S>(weight).fill(schema)

/** One command; what ends much is rare. */
export const Command = Schema.Union([
  ...some(2, DeclareExchange),
  ...some(2, DeclareQueue),
  ...some(3, Bind),
  ...some(8, Publish),
  ...some(10, PublishToQueue),
  ...some(8, Consume),
  ...some(14, Settle),
  ...some(4, SettleUpTo),
  ...some(4, SettleAll),
  ...some(4, Get),
  ...some(3, Unbind),
  ...some(2, BindExchange),
  ...some(2, Cancel),
  ...some(1, Purge),
  ...some(2, DeleteQueue),
  ...some(1, DeleteExchange),
  ...some(2, Recover),
  ...some(2, Qos),
  ...some(3, Transaction),
  ...some(2, CloseChannel),
  ...some(1, CloseConnection)
])

export type Command = typeof Command.Type

const InitialExchange = Schema.Struct({
  type: below(exchangeTypes.length),
  /** Above the number of exchanges: none. */
  alternate: below(2 * counts.exchanges),
  autoDelete: Schema.Boolean
})

/** What there is in the beginning, and what happens to it. */
export interface Sequence {
  readonly exchanges: ReadonlyArray<typeof InitialExchange.Type>
  readonly queues: ReadonlyArray<{ readonly kind: number }>
  readonly bindings: ReadonlyArray<typeof Bind.Type>
  readonly exchangeBindings: ReadonlyArray<typeof BindExchange.Type>
  readonly commands: ReadonlyArray<Command>
}

const array = <S extends Schema.Constraint>(item: S, minLength: number, maxLength: number) =>
  Arbitrary.array(Arbitrary.schema(item), { minLength, maxLength })

/** Sequences of so many commands at most. */
export const sequences = (length: number, subject: Subject): Arbitrary.Arbitrary<Sequence> => {
  const Kind = Schema.Struct({ kind: Schema.Int.check(Schema.isBetween(kindsOf[subject])) })
  return Arbitrary.all({
    exchanges: array(InitialExchange, counts.exchanges, counts.exchanges),
    queues: array(Kind, counts.queues, counts.queues),
    bindings: array(Bind, 0, 6),
    exchangeBindings: array(BindExchange, 0, 2),
    commands: array(Command, 0, length)
  })
}

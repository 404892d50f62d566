/**
 * What the parts of the broker know of one another: connections and channels on one side, a vhost with its exchanges
 * and queues on the other.
 *
 * All of it is synchronous. A method of these interfaces changes the state and returns or throws a `Refusal`; it never
 * delivers. Queues that may now have something to deliver put themselves on the `Agenda`, which runs when the method
 * that is being handled has been answered. That is why `consume-ok` precedes the first delivery.
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { PlainTable } from "../../../AmqpTable.ts"
import type { BrokerEvent } from "./events.ts"
import type { Message } from "./message.ts"
import type { Timers } from "./timers.ts"

// -----------------------------------------------------------------------------
// what all share
// -----------------------------------------------------------------------------

/** What every part of a broker is given. */
export interface Context {
  readonly timers: Timers
  readonly agenda: Agenda
  /** Tells whoever watches. Cheap when nobody does. */
  readonly emit: (event: BrokerEvent) => void
  /** A name that nobody else has: `amq.gen-…`, `amq.ctag-…`; the prefix includes the dash. The same sequence in each run. */
  readonly generateName: (prefix: string) => string
}

/** Queues that may have something to deliver. */
export interface Agenda {
  readonly add: (queue: Queue) => void
  /** Does something when they have delivered what they can. */
  readonly later: (work: () => void) => void
}

/** A client's connection, as far as exclusive queues are concerned: compared by identity. */
export interface Owner {
  readonly id: string
}

// -----------------------------------------------------------------------------
// queues
// -----------------------------------------------------------------------------

/** A message in a queue, or taken from it and not yet settled. Only the queue changes it. */
export interface Entry {
  /** As it is to be delivered, headers that the broker adds included (`x-delivery-count`, `x-stream-offset`). */
  readonly message: Message
  readonly redelivered: boolean
}

/** A consumer, as its queue sees it: a channel makes it. */
export interface Subscriber {
  readonly tag: string
  readonly noAck: boolean
  readonly isExclusive: boolean
  /** `x-priority`, 0 by default. */
  readonly priority: number
  readonly arguments: PlainTable
  /** 0: no limit. */
  readonly prefetch: number
  /** Whether its channel now has a prefetch for all of its consumers, which quorum queues and streams refuse. */
  readonly hasGlobalPrefetch: boolean
  /** The one that holds the channel, for `x-single-active-consumer` and listings. */
  readonly owner: Owner
  readonly channel: number
  /** Whether prefetch and the connection's buffer allow one more delivery. */
  readonly isReady: () => boolean
  /** Takes a delivery. Without `noAck` the entry is unsettled from now on, and comes back by the queue's `settle`. */
  readonly deliver: (entry: Entry) => void
  /** The queue is gone, or has ended the consumer: tells the client (`basic.cancel`) and forgets it. */
  readonly cancelled: () => void
}

export type QueueType = "classic" | "quorum" | "stream"

/**
 * How a delivery ends. `requeue` sets `redelivered` and gives it the old place back; `discard` dead-letters or drops;
 * `abandon` is what the end of a channel does: it requeues, but quorum and stream queues tell the two apart.
 */
export type Outcome = "ack" | "requeue" | "discard" | "abandon"

/** What one `basic.get` took. */
export interface Taken {
  readonly entry: Entry
  /** How many are ready behind it. */
  readonly remaining: number
}

/** A queue of any type. `queues/stored.ts` and `queues/stream.ts` have the implementations. */
export interface Queue {
  readonly name: string
  readonly type: QueueType
  readonly durable: boolean
  readonly autoDelete: boolean
  /** Whose it is, if it is exclusive. */
  readonly owner: Owner | undefined
  readonly arguments: PlainTable
  /** Messages that are ready. */
  readonly ready: number
  readonly unsettled: number
  readonly subscribers: ReadonlyArray<Subscriber>
  /** What is ready, in order, for inspection. */
  readonly entries: () => ReadonlyArray<Entry>
  /** Takes a message. `false`: it did not, and the publisher is told (`reject-publish`). */
  readonly publish: (message: Message) => boolean
  /** Takes the first message, for `basic.get`. With `noAck` it is settled at once. */
  readonly get: (noAck: boolean) => Taken | undefined
  /** Refuses with 403 where another consumer is exclusive, and so on. */
  readonly consume: (subscriber: Subscriber) => void
  /** Ends a subscription; its unsettled entries stay where they are, with the channel. */
  readonly cancel: (subscriber: Subscriber) => void
  /** Ends deliveries that this queue handed out: entries of one call keep their order when they are requeued. */
  readonly settle: (entries: ReadonlyArray<Entry>, outcome: Outcome) => void
  /** It was declared again, passively or not: `x-expires` starts over. */
  readonly touch: () => void
  /** How many ready messages it threw away. */
  readonly purge: () => number
  /** Delivers while there are messages and ready subscribers. Called by the agenda alone. */
  readonly pump: () => void
  /** What a restart of the node leaves of it: its transient messages go. Nobody is connected. */
  readonly restart: () => void
  /** The queue is deleted: cancels its subscribers, ends its timers. Its vhost has already forgotten it. */
  readonly close: () => void
}

/** What a queue needs of its vhost. */
export interface QueueHost {
  readonly vhost: string
  /**
   * Publishes a dead letter, only to those queues for which `takes` holds. Without its exchange the message is dropped.
   */
  readonly republish: (message: Message, takes: (queue: string) => boolean) => void
  /** The queue has to go: unused for `x-expires`, or auto-delete and its last subscriber has left. */
  readonly expire: (queue: Queue) => void
}

// -----------------------------------------------------------------------------
// vhosts
// -----------------------------------------------------------------------------

/** What became of a publish. */
export interface Published {
  /** Whether any queue was found for it; if not, a mandatory message is returned. */
  readonly isRouted: boolean
  /** Whether all of these queues took it; if not, the publisher gets a nack. */
  readonly isAccepted: boolean
}

/**
 * A vhost. Its methods do what the AMQP methods of these names do, with RabbitMQ's refusals; who may do it is checked
 * before, by the channel. Names that stand for "the last declared queue" have been replaced.
 */
export interface Vhost {
  readonly name: string
  readonly queues: ReadonlyMap<string, Queue>
  readonly exchanges: ReadonlyMap<string, Exchange>
  readonly exchangeDeclare: (method: AmqpProtocol.ExchangeDeclare) => void
  readonly exchangeDelete: (method: AmqpProtocol.ExchangeDelete) => void
  readonly exchangeBind: (method: AmqpProtocol.ExchangeBind) => void
  readonly exchangeUnbind: (method: AmqpProtocol.ExchangeUnbind) => void
  /** Passive, too. Gives the queue, server-named where the name was empty. */
  readonly queueDeclare: (method: AmqpProtocol.QueueDeclare, owner: Owner) => Queue
  readonly queueBind: (method: AmqpProtocol.QueueBind, owner: Owner) => void
  readonly queueUnbind: (method: AmqpProtocol.QueueUnbind, owner: Owner) => void
  readonly queuePurge: (method: AmqpProtocol.QueuePurge, owner: Owner) => number
  readonly queueDelete: (method: AmqpProtocol.QueueDelete, owner: Owner) => number
  /** The queue of this name for `consume` and `get`: 404 where there is none, 405 where it is another's. */
  readonly queue: (name: string, owner: Owner) => Queue
  /** The exchange of this name for `publish`: 404 where there is none, 403 where it is internal. */
  readonly exchange: (name: string) => Exchange
  /**
   * Routes a message, and has the queues take it. Refuses what `exchange` refuses. Follows `CC` and `BCC`, and removes
   * `BCC`.
   */
  readonly publish: (message: Message) => Published
  /**
   * `publish` in two steps, for transactions: checks and routes now, as RabbitMQ does, and has the queues take it when
   * the result is called. A queue that is gone by then does not count.
   */
  readonly route: (message: Message) => () => Published
  /** The connection is gone: deletes its exclusive queues. */
  readonly release: (owner: Owner) => void
  /** What a restart of the node does: transient queues, exchanges and messages go. No client is connected any more. */
  readonly restart: () => void
  /** Deletes a queue as an operator does, whoever uses it. */
  readonly deleteQueue: (name: string) => void
  /** The vhost is deleted. */
  readonly close: () => void
}

/** A binding, for inspection and for its exchange. */
export interface Binding {
  readonly source: string
  readonly destination: string
  readonly destinationType: "queue" | "exchange"
  readonly routingKey: string
  readonly arguments: PlainTable
}

/** An exchange, for inspection. */
export interface Exchange {
  readonly name: string
  readonly type: string
  readonly durable: boolean
  readonly autoDelete: boolean
  readonly isInternal: boolean
  readonly arguments: PlainTable
  /** Those of which it is the source. */
  readonly bindings: ReadonlyArray<Binding>
}

// -----------------------------------------------------------------------------
// the wire
// -----------------------------------------------------------------------------

/** The client's side of a connection, as the broker sees it: memory or TCP. */
export interface Link {
  /** How the client is called in events and listings: `127.0.0.1:50022`, `memory:1`. */
  readonly name: string
  /** Sends bytes. `false`: there is enough on the way; `drained` will be called when more is welcome. */
  readonly write: (bytes: Uint8Array) => boolean
  /** Closes behind what was written. */
  readonly end: () => void
  /** Drops the connection as a reset does. */
  readonly reset: () => void
  /** After `receive` gave `false`: the broker reads again. Not to be answered with `receive` in the same breath. */
  readonly resume: () => void
}

/** The broker's side of a connection. */
export interface Peer {
  /** Takes bytes of the client. `false`: the broker does not read; it wants no more until it calls `resume`. */
  readonly receive: (bytes: Uint8Array) => boolean
  /** More may be written again. */
  readonly drained: () => void
  /** The client is gone. */
  readonly closed: () => void
}

// -----------------------------------------------------------------------------
// the broker
// -----------------------------------------------------------------------------

/** Regular expressions of the names that a user may configure, write and read in a vhost. */
export interface Permissions {
  readonly configure: RegExp
  readonly write: RegExp
  readonly read: RegExp
}

export interface User {
  readonly name: string
  password: string
  /** By vhost. Without an entry the user may not even open the vhost (530). */
  readonly permissions: Map<string, Permissions>
}

/** A reply that ends something. */
export interface Reply {
  readonly replyCode: number
  readonly replyText: string
}

/** A connection, for inspection and for what an operator does. */
export interface Connection extends Owner {
  /** The link's name. */
  readonly name: string
  readonly user: string
  /** `undefined` until `connection.open`. */
  readonly vhost: string | undefined
  /** `connection_name` of the client properties. */
  readonly clientName: string | undefined
  readonly clientProperties: PlainTable
  readonly heartbeatSeconds: number
  readonly frameMax: number
  readonly channelMax: number
  readonly isBlocked: boolean
  readonly channels: ReadonlyMap<number, Channel>
  /** Sends `connection.close` and waits for its answer, up to a bound. */
  readonly close: (reply: Reply) => void
  /** Drops it without a word. */
  readonly reset: () => void
  /** The client's side is reset and the broker's is not: it goes on as if the client were there. */
  readonly strand: () => void
  /** After `strand`: now the broker notices. */
  readonly notice: () => void
}

export interface Channel {
  readonly number: number
  readonly isConfirming: boolean
  readonly isTransactional: boolean
  readonly prefetch: number
  readonly globalPrefetch: number
  readonly unsettled: ReadonlyArray<{ readonly deliveryTag: number; readonly queue: Queue; readonly entry: Entry }>
  readonly consumers: ReadonlyArray<{ readonly subscriber: Subscriber; readonly queue: Queue }>
  /** Sends `channel.close`. */
  readonly close: (reply: Reply) => void
  /** Ends a consumer as the broker does when its queue is gone: `basic.cancel`. `false`: there is none of this tag. */
  readonly cancelConsumer: (consumerTag: string) => boolean
}

/** A frame that passed, for the tap. */
export interface TappedFrame {
  readonly connection: string
  /** `up`: from the client. */
  readonly direction: "up" | "down"
  readonly frame: AmqpProtocol.Frame
}

/** The whole broker, synchronous: `server/broker.ts`. */
export interface Core {
  readonly timers: Timers
  readonly connections: ReadonlyMap<string, Connection>
  readonly vhosts: ReadonlyMap<string, Vhost>
  readonly users: ReadonlyMap<string, User>
  /** A client has connected; its first bytes will be the protocol header. */
  readonly connect: (link: Link) => Peer
  /** Does what the timers have due, then the agenda. */
  readonly wake: () => void
  readonly addVhost: (name: string) => void
  /** Closes its connections with 320. */
  readonly deleteVhost: (name: string) => void
  readonly addUser: (name: string, password: string) => void
  readonly deleteUser: (name: string) => void
  readonly setPermissions: (user: string, vhost: string, permissions: Permissions) => void
  /** A resource alarm: connections that publish are told (`connection.blocked`) and not read any more. */
  readonly block: (reason: string) => void
  readonly unblock: () => void
  /** Stops reading and answering, heartbeats included, as a suspended process does; `resume` takes up what came. */
  readonly pause: () => void
  readonly resume: () => void
  /** Closes all connections with 320 and refuses new ones (their links are reset) until `start`. */
  readonly stop: () => void
  /** After `stop`: what was durable is there. */
  readonly start: () => void
}

/** What the core tells its owner. */
export interface CoreOptions {
  readonly now: () => number
  /** `timers.next` has become earlier. */
  readonly onEarlier: () => void
  readonly emit: (event: BrokerEvent) => void
  /** A turn is over: nothing changes any more until something comes from outside. */
  readonly onTurn?: (() => void) | undefined
  /** `undefined`: nobody watches, and frames are not decoded. Asked for each frame. */
  readonly tap: () => ((frame: TappedFrame) => void) | undefined
  /** In seconds; what `connection.tune` proposes. Defaults to 60. 0: none. */
  readonly heartbeatSeconds?: number | undefined
  /** In bytes. Defaults to 131072. */
  readonly frameMax?: number | undefined
  /** Defaults to 2047. */
  readonly channelMax?: number | undefined
  /** In bytes. Defaults to 134217728. */
  readonly maxMessageSize?: number | undefined
  /** In milliseconds: how long a delivery may stay unsettled before its channel is closed (406). Defaults to 30 minutes. */
  readonly consumerTimeout?: number | undefined
}

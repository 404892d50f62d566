/**
 * What is in the broker, as plain values that do not change afterwards.
 *
 * @since 0.1.0
 */
import type { AmqpMessage } from "../../../AmqpMessage.ts"
import type { PlainTable } from "../../../AmqpTable.ts"
import type { Binding, Channel, Connection, Core, Exchange, Queue, QueueType, Vhost } from "./model.ts"

/**
 * A client's connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConnectionInfo {
  /** Where it comes from: `127.0.0.1:50022`, `memory:1`. No other connection has this name. */
  readonly name: string
  /** What the client calls it: the `connectionName` of `AmqpConnection`. */
  readonly clientName: string | undefined
  readonly clientProperties: PlainTable
  readonly user: string
  /** `undefined` until the handshake is done. */
  readonly vhost: string | undefined
  /** As agreed; 0: none. */
  readonly heartbeatSeconds: number
  /** As agreed, in bytes. */
  readonly frameMax: number
  /** As agreed. */
  readonly channelMax: number
  /** Whether it has been told that it is blocked. */
  readonly isBlocked: boolean
  /** How many it has open. */
  readonly channels: number
}

/**
 * A channel.
 *
 * @category models
 * @since 0.1.0
 */
export interface ChannelInfo {
  /** The connection's `name`. */
  readonly connection: string
  readonly channel: number
  readonly isConfirming: boolean
  readonly isTransactional: boolean
  /** Of consumers that are yet to come; 0: no limit. */
  readonly prefetch: number
  /** Of all consumers of the channel together; 0: no limit. */
  readonly globalPrefetch: number
  readonly consumers: number
  readonly unsettled: number
}

/**
 * A consumer.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConsumerInfo {
  /** The connection's `name`. */
  readonly connection: string
  readonly channel: number
  readonly consumerTag: string
  readonly vhost: string
  readonly queue: string
  readonly noAck: boolean
  readonly isExclusive: boolean
  /** 0: no limit. */
  readonly prefetch: number
  readonly priority: number
  readonly arguments: PlainTable
}

/**
 * A queue.
 *
 * @category models
 * @since 0.1.0
 */
export interface QueueInfo {
  readonly vhost: string
  readonly name: string
  readonly type: QueueType
  readonly durable: boolean
  readonly autoDelete: boolean
  readonly isExclusive: boolean
  readonly arguments: PlainTable
  /** Messages that wait to be delivered. */
  readonly ready: number
  /** Messages that are delivered and not yet settled. */
  readonly unsettled: number
  readonly consumers: number
}

/**
 * An exchange.
 *
 * @category models
 * @since 0.1.0
 */
export interface ExchangeInfo extends Omit<Exchange, "bindings"> {
  readonly vhost: string
}

/**
 * A binding of a queue or an exchange to an exchange.
 *
 * @category models
 * @since 0.1.0
 */
export interface BindingInfo extends Binding {
  readonly vhost: string
}

/**
 * A message that waits in a queue, as a consumer will see it.
 *
 * @category models
 * @since 0.1.0
 */
export interface QueuedMessage {
  readonly message: AmqpMessage
  /** Whether it has been delivered before. */
  readonly redelivered: boolean
}

/**
 * A delivery that a client has not settled yet.
 *
 * @category models
 * @since 0.1.0
 */
export interface UnsettledDelivery extends QueuedMessage {
  /** The connection's `name`. */
  readonly connection: string
  readonly channel: number
  readonly deliveryTag: number
  readonly queue: string
}

/** The channels of the broker, with their connections. */
export const channelsOf = (core: Core): ReadonlyArray<readonly [Connection, Channel]> =>
  [...core.connections.values()].flatMap((connection) =>
    [...connection.channels.values()].map((channel) => [connection, channel] as const)
  )

const queuesOf = (core: Core): ReadonlyArray<readonly [Vhost, Queue]> =>
  [...core.vhosts.values()].flatMap((vhost) => [...vhost.queues.values()].map((queue) => [vhost, queue] as const))

export const inspectConnections = (core: Core): ReadonlyArray<ConnectionInfo> =>
  [...core.connections.values()].map((connection) => ({
    name: connection.name,
    clientName: connection.clientName,
    clientProperties: connection.clientProperties,
    user: connection.user,
    vhost: connection.vhost,
    heartbeatSeconds: connection.heartbeatSeconds,
    frameMax: connection.frameMax,
    channelMax: connection.channelMax,
    isBlocked: connection.isBlocked,
    channels: connection.channels.size
  }))

export const inspectChannels = (core: Core): ReadonlyArray<ChannelInfo> =>
  channelsOf(core).map(([connection, channel]) => ({
    connection: connection.name,
    channel: channel.number,
    isConfirming: channel.isConfirming,
    isTransactional: channel.isTransactional,
    prefetch: channel.prefetch,
    globalPrefetch: channel.globalPrefetch,
    consumers: channel.consumers.length,
    unsettled: channel.unsettled.length
  }))

export const inspectConsumers = (core: Core): ReadonlyArray<ConsumerInfo> =>
  channelsOf(core).flatMap(([connection, channel]) =>
    channel.consumers.map(({ queue, subscriber }) => ({
      connection: connection.name,
      channel: channel.number,
      consumerTag: subscriber.tag,
      vhost: connection.vhost ?? "",
      queue: queue.name,
      noAck: subscriber.noAck,
      isExclusive: subscriber.isExclusive,
      prefetch: subscriber.prefetch,
      priority: subscriber.priority,
      arguments: subscriber.arguments
    }))
  )

export const inspectUnsettled = (core: Core): ReadonlyArray<UnsettledDelivery> =>
  channelsOf(core).flatMap(([connection, channel]) =>
    channel.unsettled.map(({ deliveryTag, entry, queue }) => ({
      connection: connection.name,
      channel: channel.number,
      deliveryTag,
      queue: queue.name,
      message: entry.message.received,
      redelivered: entry.redelivered
    }))
  )

export const inspectQueue = (vhost: Vhost, queue: Queue): QueueInfo => ({
  vhost: vhost.name,
  name: queue.name,
  type: queue.type,
  durable: queue.durable,
  autoDelete: queue.autoDelete,
  isExclusive: queue.owner !== undefined,
  arguments: queue.arguments,
  ready: queue.ready,
  unsettled: queue.unsettled,
  consumers: queue.subscribers.length
})

export const inspectQueues = (core: Core): ReadonlyArray<QueueInfo> =>
  queuesOf(core).map(([vhost, queue]) => inspectQueue(vhost, queue))

export const inspectMessages = (queue: Queue): ReadonlyArray<QueuedMessage> =>
  queue.entries().map(({ message, redelivered }) => ({ message: message.received, redelivered }))

export const inspectExchanges = (core: Core): ReadonlyArray<ExchangeInfo> =>
  [...core.vhosts.values()].flatMap((vhost) =>
    [...vhost.exchanges.values()].map((exchange) => ({
      vhost: vhost.name,
      name: exchange.name,
      type: exchange.type,
      durable: exchange.durable,
      autoDelete: exchange.autoDelete,
      isInternal: exchange.isInternal,
      arguments: exchange.arguments
    }))
  )

export const inspectBindings = (core: Core): ReadonlyArray<BindingInfo> =>
  [...core.vhosts.values()].flatMap((vhost) =>
    [...vhost.exchanges.values()].flatMap((exchange) =>
      exchange.bindings.map(({ destination, destinationType, routingKey, source, arguments: args }) => ({
        vhost: vhost.name,
        source,
        destination,
        destinationType,
        routingKey,
        arguments: args
      }))
    )
  )

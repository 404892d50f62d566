/**
 * What happens in the broker, as values: for a log, and for tests that wait for something.
 *
 * @since 0.1.0
 */

interface OfConnection {
  /** How the broker calls the connection. */
  readonly connection: string
}

interface OfChannel extends OfConnection {
  readonly channel: number
}

interface OfVhost {
  readonly vhost: string
}

/**
 * Something that happened in the broker.
 *
 * @category models
 * @since 0.1.0
 */
export type BrokerEvent =
  | ({ readonly _tag: "ConnectionOpened"; readonly user: string } & OfConnection & OfVhost)
  | ({ readonly _tag: "ConnectionClosed"; readonly reason: string } & OfConnection)
  | ({ readonly _tag: "ChannelOpened" } & OfChannel)
  | ({ readonly _tag: "ChannelClosed"; readonly reason: string } & OfChannel)
  | ({ readonly _tag: "ExchangeDeclared"; readonly exchange: string; readonly type: string } & OfVhost)
  | ({ readonly _tag: "ExchangeDeleted"; readonly exchange: string } & OfVhost)
  | ({ readonly _tag: "QueueDeclared"; readonly queue: string; readonly type: string } & OfVhost)
  | ({ readonly _tag: "QueueDeleted"; readonly queue: string; readonly messages: number } & OfVhost)
  | ({ readonly _tag: "QueuePurged"; readonly queue: string; readonly messages: number } & OfVhost)
  | ({
    readonly _tag: "Bound" | "Unbound"
    readonly source: string
    readonly destination: string
    readonly destinationType: "queue" | "exchange"
    readonly routingKey: string
  } & OfVhost)
  | (
    & { readonly _tag: "ConsumerStarted" | "ConsumerEnded"; readonly queue: string; readonly consumerTag: string }
    & OfChannel
  )
  | ({
    readonly _tag: "Published"
    readonly exchange: string
    readonly routingKey: string
    /** In bytes. */
    readonly size: number
    /** What became of it. */
    readonly outcome: "stored" | "unroutable" | "rejected"
  } & OfChannel)
  | ({
    readonly _tag: "Delivered"
    /** `undefined`: by `basic.get`. */
    readonly consumerTag: string | undefined
    readonly queue: string
    readonly deliveryTag: number
    readonly redelivered: boolean
    readonly size: number
  } & OfChannel)
  | ({
    readonly _tag: "Settled"
    readonly queue: string
    readonly outcome: "ack" | "requeue" | "discard" | "abandon"
    /** How many deliveries. */
    readonly count: number
  } & OfChannel)
  | ({
    readonly _tag: "DeadLettered"
    readonly queue: string
    /** Where to; `undefined`: the queue has no dead-letter exchange, the message is gone. */
    readonly exchange: string | undefined
    readonly reason: "rejected" | "expired" | "maxlen" | "delivery_limit"
  } & OfVhost)

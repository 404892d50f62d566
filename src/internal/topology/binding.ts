/**
 * Bindings of a topology. `AmqpTopology` publishes them.
 *
 * @since 0.1.0
 */
import { type Arguments, defined, type EntityOptions, policy } from "./entityOptions.ts"
import type { QueueRef } from "./queue.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface BindOptions extends EntityOptions {
  readonly queue: QueueRef
  readonly exchange: string
  /** Defaults to `""`. */
  readonly routingKey?: string | undefined
  /** For a headers exchange: what to match, and `x-match`. */
  readonly arguments?: Arguments | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface BindExchangeOptions extends EntityOptions {
  /** Where messages go. */
  readonly destination: string
  /** Where they come from. */
  readonly source: string
  /** Defaults to `""`. */
  readonly routingKey?: string | undefined
  readonly arguments?: Arguments | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface QueueBinding extends EntityOptions {
  readonly _tag: "QueueBinding"
  readonly queue: QueueRef
  readonly exchange: string
  readonly routingKey: string
  readonly arguments: Arguments
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ExchangeBinding extends EntityOptions {
  readonly _tag: "ExchangeBinding"
  readonly destination: string
  readonly source: string
  readonly routingKey: string
  readonly arguments: Arguments
}

/**
 * Routes messages from an exchange to a queue.
 *
 * @category constructors
 * @since 0.1.0
 */
export const bind = (options: BindOptions): QueueBinding => ({
  _tag: "QueueBinding",
  queue: options.queue,
  exchange: options.exchange,
  routingKey: options.routingKey ?? "",
  arguments: defined(options.arguments ?? {}),
  ...policy(options)
})

/**
 * Routes messages from one exchange to another (RabbitMQ).
 *
 * @category constructors
 * @since 0.1.0
 */
export const bindExchange = (options: BindExchangeOptions): ExchangeBinding => ({
  _tag: "ExchangeBinding",
  destination: options.destination,
  source: options.source,
  routingKey: options.routingKey ?? "",
  arguments: defined(options.arguments ?? {}),
  ...policy(options)
})

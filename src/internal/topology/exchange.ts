/**
 * Exchanges of a topology. `AmqpTopology` publishes them.
 *
 * @since 0.1.0
 */
import { type Arguments, defined, type EntityOptions, policy } from "./entityOptions.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface ExchangeOptions extends EntityOptions {
  /** `"direct"`, `"fanout"`, `"topic"`, `"headers"`, or the type of a plugin. Defaults to `"direct"`. */
  readonly type?: "direct" | "fanout" | "topic" | "headers" | (string & {}) | undefined
  /** Whether it outlives the broker. Defaults to `true`. */
  readonly durable?: boolean | undefined
  /** Whether it goes with its last binding. Defaults to `false`. */
  readonly autoDelete?: boolean | undefined
  /** Whether only other exchanges may publish to it. Defaults to `false`. */
  readonly internal?: boolean | undefined
  /** The exchange that gets what this one cannot route (RabbitMQ). */
  readonly alternateExchange?: string | undefined
  readonly arguments?: Arguments | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Exchange extends EntityOptions {
  readonly _tag: "Exchange"
  readonly name: string
  readonly type: string
  readonly durable: boolean
  readonly autoDelete: boolean
  readonly internal: boolean
  readonly arguments: Arguments
}

/**
 * @category models
 * @since 0.1.0
 */
export interface PassiveExchange extends EntityOptions {
  readonly _tag: "PassiveExchange"
  readonly name: string
}

/**
 * An exchange, durable unless told otherwise.
 *
 * @category constructors
 * @since 0.1.0
 */
export const exchange = (name: string, options: ExchangeOptions = {}): Exchange => ({
  _tag: "Exchange",
  name,
  type: options.type ?? "direct",
  durable: options.durable ?? true,
  autoDelete: options.autoDelete ?? false,
  internal: options.internal ?? false,
  arguments: defined({ "alternate-exchange": options.alternateExchange, ...options.arguments }),
  ...policy(options)
})

/**
 * An exchange that must exist; it is checked, never declared.
 *
 * @category constructors
 * @since 0.1.0
 */
export const passiveExchange = (name: string, options: EntityOptions = {}): PassiveExchange => ({
  _tag: "PassiveExchange",
  name,
  ...policy(options)
})

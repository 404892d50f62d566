/**
 * Anything that a topology is made of.
 *
 * @since 0.1.0
 */
import type { ExchangeBinding, QueueBinding } from "./binding.ts"
import type { Exchange, PassiveExchange } from "./exchange.ts"
import type { PassiveQueue, Queue, ServerNamedQueue } from "./queue.ts"

/**
 * A part of a topology.
 *
 * @category models
 * @since 0.1.0
 */
export type Entity =
  | Exchange
  | PassiveExchange
  | Queue
  | PassiveQueue
  | ServerNamedQueue
  | QueueBinding
  | ExchangeBinding

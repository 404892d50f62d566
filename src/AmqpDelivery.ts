/**
 * Messages that a consumer or `basic.get` received, and how they are settled.
 *
 * A delivery belongs to one channel of one epoch and is settled at most once, there. Settling says what it did; it never
 * waits for the broker, which does not answer.
 *
 * @since 0.1.0
 */
export type { RefuseOptions, Settled } from "./internal/channel/delivery.ts"
export { AmqpDelivery, AmqpSupervisedDelivery, AmqpUnacknowledged, Settleable } from "./internal/channel/delivery.ts"

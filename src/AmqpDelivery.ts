/**
 * Messages that a consumer or `basic.get` received, and how they are settled.
 *
 * A delivery belongs to one channel of one epoch. It is settled there, at most once. Settling returns what it did. It
 * does not wait for the broker, which sends no answer.
 *
 * @since 0.1.0
 */
export type { RefuseOptions, Settled } from "./internal/channel/delivery.ts"
export { AmqpDelivery, AmqpSupervisedDelivery, AmqpUnacknowledged, Settleable } from "./internal/channel/delivery.ts"

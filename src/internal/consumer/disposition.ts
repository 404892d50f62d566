/**
 * How a handled delivery is settled, as values. `AmqpConsumer` publishes them.
 *
 * A message that was tried and failed is rejected (`basic.reject`), because that counts towards the delivery limit of a
 * quorum queue on every version of RabbitMQ. `basic.nack` does not count from 4.3 on: it gives back what nobody tried.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import type * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type { AmqpSupervisedDelivery } from "../channel/delivery.ts"

const DispositionTypeId = "~effect-amqp/AmqpConsumer/Disposition"

/**
 * How `run` settles a delivery.
 *
 * @category models
 * @since 0.1.0
 */
export interface Disposition {
  readonly [DispositionTypeId]: typeof DispositionTypeId
  readonly settle: (delivery: AmqpSupervisedDelivery) => Effect.Effect<unknown>
}

/**
 * What to do with a delivery whose handler failed.
 *
 * @category models
 * @since 0.1.0
 */
export type OnFailure<E> =
  | Disposition
  | ((cause: Cause.Cause<E | Cause.TimeoutError>, delivery: AmqpSupervisedDelivery) => Disposition)

const disposition = (settle: Disposition["settle"]): Disposition => ({ [DispositionTypeId]: DispositionTypeId, settle })

export const isDisposition = (u: unknown): u is Disposition => Predicate.hasProperty(u, DispositionTypeId)

/**
 * The message has been dealt with.
 *
 * @category dispositions
 * @since 0.1.0
 */
export const ack: Disposition = disposition((delivery) => delivery.ack)

/**
 * The message goes back to its queue, and is delivered again at once. It counts towards the delivery limit of a quorum
 * queue.
 *
 * @category dispositions
 * @since 0.1.0
 */
export const requeue: Disposition = disposition((delivery) => delivery.reject({ requeue: true }))

/**
 * The message goes to the dead-letter exchange of its queue, or away where it has none.
 *
 * @category dispositions
 * @since 0.1.0
 */
export const deadLetter: Disposition = disposition((delivery) => delivery.reject({ requeue: false }))

/**
 * Back to its queue the first time, to the dead-letter exchange when it comes again. So a message that nobody can
 * handle does not go round for ever. It looks at `redelivered`, which a lost connection sets as well. Where that
 * matters, use `requeue` and the delivery limit of a quorum queue.
 *
 * @category dispositions
 * @since 0.1.0
 */
export const requeueOnce: Disposition = disposition((delivery) => delivery.reject({ requeue: !delivery.redelivered }))

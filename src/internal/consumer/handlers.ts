/**
 * The handlers of a consumer. A limited number runs at a time, each settles its delivery by its exit, and the end waits
 * for those at work.
 *
 * A handler belongs to no connection. If its connection is lost, it goes on and counts for the limit, but what it
 * settles is stale. This module knows nothing of queues and channels.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Semaphore from "effect/Semaphore"
import type { AmqpSupervisedDelivery } from "../channel/delivery.ts"
import type { Ending, Part } from "../time/ending.ts"
import { ack, isDisposition, type OnFailure, requeue } from "./disposition.ts"

/** What handles deliveries, and how. */
export interface HandlerOptions<E, R> {
  /** The names of the queues in logs. */
  readonly label: string
  readonly concurrency: number
  readonly handler: (delivery: AmqpSupervisedDelivery) => Effect.Effect<unknown, E, R>
  readonly handlerTimeout: Duration.Input | undefined
  readonly onFailure: OnFailure<E> | undefined
}

/** The handlers of one consumer. */
export interface Handlers<E> {
  /** Waits for a place, then has the delivery handled, unless it was given back or is stale by then. */
  readonly start: (delivery: AmqpSupervisedDelivery) => Effect.Effect<void>
  /** Fails with the failure of a handler for which there is no `onFailure`. */
  readonly failed: Effect.Effect<never, E | Cause.TimeoutError>
  /**
   * Waits for handlers at work, at most `drainTimeout`, then interrupts them, and they give back what they have. It
   * does not wait for a handler that cannot be interrupted.
   */
  readonly drain: (ending: Ending, drainTimeout: Duration.Duration, part: Part) => Effect.Effect<void>
}

/** Makes the handlers. None runs yet. */
export const makeHandlers = <E, R>(options: HandlerOptions<E, R>): Effect.Effect<Handlers<E>, never, R> =>
  Effect.gen(function*() {
    const { concurrency, handler, handlerTimeout, label, onFailure } = options
    const runFork = Effect.runForkWith(yield* Effect.context<R>())
    const slots = Semaphore.makeUnsafe(concurrency)
    const take = slots.take(1)
    const release = slots.release(1)
    const failed = Deferred.makeUnsafe<never, E | Cause.TimeoutError>()
    const atWork = new Set<{ fiber: Fiber.Fiber<unknown> | undefined }>()
    const idle = new Set<() => void>()

    const limited = (delivery: AmqpSupervisedDelivery): Effect.Effect<unknown, E | Cause.TimeoutError, R> =>
      handlerTimeout === undefined ? handler(delivery) : Effect.timeout(handler(delivery), handlerTimeout)

    const settle = (
      delivery: AmqpSupervisedDelivery,
      exit: Exit.Exit<unknown, E | Cause.TimeoutError>
    ): Effect.Effect<unknown> => {
      if (Exit.isSuccess(exit)) return (isDisposition(exit.value) ? exit.value : ack).settle(delivery)
      // It was not tried to its end, so it must not count towards a delivery limit.
      if (Cause.hasInterruptsOnly(exit.cause)) return delivery.nack({ requeue: true })
      const { cause } = exit
      const end = (cause: Cause.Cause<E | Cause.TimeoutError>) =>
        Effect.andThen(requeue.settle(delivery), Deferred.failCause(failed, cause))
      if (onFailure === undefined) return end(cause)
      return Effect.suspend(() => {
        if (!isDisposition(onFailure)) return onFailure(cause, delivery).settle(delivery)
        // Nobody else hears of it.
        const logged = Cause.hasDies(cause) ? Effect.logError(`A handler of ${label} died`, cause) : Effect.void
        return Effect.andThen(logged, onFailure.settle(delivery))
      }).pipe(Effect.catchCause(end))
    }

    /** Runs in a fiber that cannot be interrupted, except inside of the handler. */
    const handle = (delivery: AmqpSupervisedDelivery): Effect.Effect<unknown, never, R> =>
      Effect.onExit(
        Effect.flatMap(
          Effect.exit(Effect.interruptible(Effect.suspend(() => limited(delivery)))),
          (exit) => settle(delivery, exit)
        ),
        () => release
      )

    const fork = (delivery: AmqpSupervisedDelivery): void => {
      // It counts as at work before it begins, because it may itself end the consumer.
      const work: { fiber: Fiber.Fiber<unknown> | undefined } = { fiber: undefined }
      atWork.add(work)
      work.fiber = runFork(handle(delivery), { uninterruptible: true })
      work.fiber.addObserver(() => {
        atWork.delete(work)
        if (atWork.size > 0) return
        for (const callback of idle) callback()
        idle.clear()
      })
    }

    const isIdle = Effect.callback<void>((resume) => {
      if (atWork.size === 0) return resume(Effect.void)
      const callback = () => resume(Effect.void)
      idle.add(callback)
      return Effect.sync(() => idle.delete(callback))
    })

    return {
      // The place is taken before the fiber is made. The fiber gives it back.
      start: (delivery) =>
        Effect.flatMap(take, () => delivery.begin() ? Effect.sync(() => fork(delivery)) : Effect.asVoid(release)),
      failed: Deferred.await(failed),
      drain: (ending, drainTimeout, part) =>
        Effect.suspend(() => {
          if (atWork.size === 0) return Effect.void
          return ending.drain(isIdle, drainTimeout, part).pipe(
            Effect.andThen(Effect.suspend(() => {
              if (atWork.size === 0) return Effect.void
              for (const { fiber } of atWork) fiber?.interruptUnsafe()
              return Effect.asVoid(ending.within(isIdle, part))
            }))
          )
        })
    }
  })

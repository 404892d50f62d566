/**
 * Consumers that outlive their connections: a stream of deliveries, or a supervised handler whose exit settles each
 * delivery.
 *
 * A consumer has channels of its own. When it loses one (the connection is lost, the broker closes the channel or
 * cancels the consumer of a queue), it subscribes to the queues again under the `recover` schedule, on the next epoch
 * if need be. Until then its status is `Recovering`. One queue of several recovers alone. A consumer never hangs: it
 * delivers, recovers, or fails with `AmqpConsumerFailed`. It does not offer exactly-once, because no broker does: after
 * a loss unsettled messages are delivered again.
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { declare, type Entity } from "./AmqpTopology.ts"
import type { AmqpSupervisedDelivery } from "./internal/channel/delivery.ts"
import { integerAt } from "./internal/connection/optionChecks.ts"
import { AmqpConnection, internals } from "./internal/connection/service.ts"
import type { OnFailure } from "./internal/consumer/disposition.ts"
import { AmqpConsumerFailed, type ConsumerPhase, labelOf } from "./internal/consumer/failure.ts"
import { makeHandlers } from "./internal/consumer/handlers.ts"
import { makeSubscriptions, type Subscriptions } from "./internal/consumer/subscriptions.ts"
import { isTransient } from "./internal/errors/transient.ts"
import { AmqpEncodeError } from "./internal/errors/value.ts"
import { backoff } from "./internal/time/backoff.ts"
import type { QueueRef } from "./internal/topology/queueNames.ts"
import type { InputTable } from "./internal/values/tableValue.ts"

export type { Disposition, OnFailure } from "./internal/consumer/disposition.ts"
export { ack, deadLetter, requeue, requeueOnce } from "./internal/consumer/disposition.ts"
export type { ConsumerPhase } from "./internal/consumer/failure.ts"
export { AmqpConsumerFailed } from "./internal/consumer/failure.ts"

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

/**
 * Options of a consumer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /**
   * Deliveries that may be unsettled, for each queue, from 1 to 65535. Defaults to 100; for `run` to twice its `concurrency`.
   *
   * **Details**
   *
   * The broker closes the channel of a delivery that is not settled within its `consumer_timeout` (30 minutes). The
   * time counts from the delivery, not from the start of its handler. So `prefetch` x handler time / `concurrency` must
   * stay below it. A prefetch of 100 at `concurrency` 1 reaches it with handlers of 18 seconds, twice the `concurrency`
   * with handlers of 15 minutes. A larger prefetch makes fast handlers faster, up to some hundreds, because the broker
   * sends while they work.
   */
  readonly prefetch?: number | undefined
  /**
   * Whether the prefetch is for all queues together that share a channel (`basic.qos` with `global`). Quorum queues and
   * streams do not support that, and a broker that refuses it (540) ends the connection. Defaults to `false`.
   */
  readonly sharedPrefetch?: boolean | undefined
  /**
   * The name of the consumer in the broker's tools. With several queues, a dot and the number of the queue follow, from
   * 0. Defaults to a new tag for each subscription.
   */
  readonly consumerTag?: string | undefined
  /**
   * Whether this is the only consumer: the broker refuses (403) it if there is another one, and refuses later ones.
   * Defaults to `false`.
   */
  readonly exclusive?: boolean | undefined
  /** For example `x-priority`, `x-stream-offset`. */
  readonly arguments?: InputTable | undefined
  /**
   * Entities that are declared before each subscription, so that a queue that was deleted comes back. For entities that
   * several consumers share use `AmqpTopology.layer`, which declares them in each epoch.
   */
  readonly topology?: ReadonlyArray<Entity> | undefined
  /**
   * How the consumer subscribes to lost queues again; its input is the typed failure. Defaults to random delays for as
   * long as the failure is transient. Their upper bound is 2 s at first and doubles up to 30 s (full jitter). After a
   * delivery, or ten seconds without a loss, the schedule begins anew. It is not used when the connection is over for
   * good.
   */
  readonly recover?: Schedule.Schedule<unknown, AmqpConsumerFailed> | undefined
}

/**
 * The state of a consumer.
 *
 * @category models
 * @since 0.1.0
 */
export type Status =
  | { readonly _tag: "Detached" }
  /** Subscribed to every queue. */
  | { readonly _tag: "Attached"; readonly epoch: number }
  /** Some queues are not subscribed to, for this reason. The others deliver. */
  | { readonly _tag: "Recovering"; readonly cause: AmqpConsumerFailed }

/**
 * A consumer that outlives its connections.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpConsumer {
  /**
   * The deliveries, in arrays as they arrived. The stream subscribes when it is run. Run it once at a time. Its end
   * cancels the consumer and gives back what is not settled.
   */
  readonly deliveries: Stream.Stream<AmqpSupervisedDelivery, AmqpConsumerFailed>
  /**
   * Changes the prefetch of the running consumer: cancels it and subscribes again on the same channel. Deliveries that
   * have come can still be settled.
   */
  readonly setPrefetch: (prefetch: number) => Effect.Effect<void, AmqpEncodeError>
  /** The present state. */
  readonly status: Effect.Effect<Status>
  /** The present state and all later ones. */
  readonly changes: Stream.Stream<Status>
}

const defaultRecover: Schedule.Schedule<unknown, AmqpConsumerFailed> = backoff(Duration.seconds(30)).pipe(
  Schedule.setInputType<AmqpConsumerFailed>(),
  Schedule.while(({ input }) => isTransient(input))
)

// -----------------------------------------------------------------------------
// the consumer
// -----------------------------------------------------------------------------

const checkPrefetch = (prefetch: number): Effect.Effect<number, AmqpEncodeError> =>
  Effect.fromResult(integerAt("prefetch", prefetch, 1, 65535))

const isList = (queue: QueueRef | ReadonlyArray<QueueRef>): queue is ReadonlyArray<QueueRef> => Array.isArray(queue)

/** Each queue once. */
const toQueues = (queue: QueueRef | ReadonlyArray<QueueRef>): ReadonlyArray<QueueRef> =>
  isList(queue) ? [...new Set(queue)] : [queue]

/** A consumer whose options are checked. */
interface Definition {
  readonly connection: AmqpConnection
  readonly label: string
  /** Subscribes; the scope closes the channels. */
  readonly start: Effect.Effect<Subscriptions, never, Scope.Scope>
  readonly onDetached: Effect.Effect<void>
  readonly consumer: Omit<AmqpConsumer, "deliveries">
}

const define = (
  queue: QueueRef | ReadonlyArray<QueueRef>,
  options: Options,
  defaultPrefetch: number,
  onAttached: () => void = () => {}
): Effect.Effect<Definition, AmqpConsumerFailed, AmqpConnection> =>
  Effect.gen(function*() {
    const connection = yield* AmqpConnection
    const queues = toQueues(queue)
    const label = labelOf(queues)
    const failedIn = (phase: ConsumerPhase) => (reason: AmqpConsumerFailed["reason"]): AmqpConsumerFailed =>
      new AmqpConsumerFailed({ queue: label, phase, reason })
    let prefetch = options.prefetch ?? defaultPrefetch
    yield* Effect.mapError(checkPrefetch(prefetch), failedIn("options"))
    if (queues.length === 0) {
      return yield* failedIn("options")(new AmqpEncodeError({ path: "queue", reason: "the list of queues is empty" }))
    }
    const hub = yield* PubSub.unbounded<Status>({ replay: 1 })
    let status: Status = { _tag: "Detached" }
    const setStatus = (next: Status): void => {
      status = next
      PubSub.publishUnsafe(hub, next)
    }
    setStatus(status)
    let running: Subscriptions | undefined
    return {
      connection,
      label,
      start: Effect.map(
        makeSubscriptions({
          connection,
          queues,
          prepare: options.topology === undefined ? Effect.void : declare(options.topology).pipe(
            Effect.provideService(AmqpConnection, connection),
            Effect.mapError(failedIn("topology"))
          ),
          declares: (queue) =>
            options.topology?.some((entity) =>
              entity === queue || (entity._tag === "Queue" && entity.name === queue)
            ) ?? false,
          recover: options.recover ?? defaultRecover,
          prefetch: () => prefetch,
          sharedPrefetch: options.sharedPrefetch ?? false,
          consumerTag: options.consumerTag,
          exclusive: options.exclusive,
          arguments: options.arguments,
          onAttached: (epoch) => {
            onAttached()
            if (status._tag !== "Attached" || status.epoch !== epoch) setStatus({ _tag: "Attached", epoch })
          },
          onRecovering: (cause) => {
            if (status._tag !== "Recovering" || status.cause !== cause) setStatus({ _tag: "Recovering", cause })
          }
        }),
        (subscriptions) => {
          running = subscriptions
          return subscriptions
        }
      ),
      onDetached: Effect.sync(() => {
        running = undefined
        setStatus({ _tag: "Detached" })
      }),
      consumer: {
        setPrefetch: (next) =>
          Effect.map(checkPrefetch(next), () => {
            prefetch = next
            // If its channel is gone, it takes the new prefetch when it attaches again.
            running?.renew()
          }),
        status: Effect.sync(() => status),
        changes: Stream.fromPubSub(hub)
      }
    }
  })

/** Whether the consumer was ended on purpose. */
const isOrderly = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.every((reason) =>
    Cause.isInterruptReason(reason) || (
      Cause.isFailReason(reason) && reason.error instanceof AmqpConsumerFailed &&
      reason.error.reason._tag === "AmqpConnectionError" && reason.error.reason.reason._tag === "ConnectionClosed"
    )
  )

/** Logs a stack only for a defect. */
const logEnd = (label: string, cause: Cause.Cause<unknown>): Effect.Effect<void> => {
  const text = `The consumer of ${label} has ended`
  if (Cause.hasDies(cause)) return Effect.logError(text, cause)
  return Effect.logError(`${text}: ${Cause.prettyErrors(cause).map(({ message }) => message).join("; ")}`)
}

/** Takes the next deliveries: one Effect for an array of them. */
const pullFrom = (
  { buffer, failed }: Subscriptions
): Effect.Effect<Arr.NonEmptyReadonlyArray<AmqpSupervisedDelivery>, AmqpConsumerFailed> =>
  Effect.callback((resume) => {
    const callback: Parameters<typeof buffer.pull>[0] = (pulled) =>
      resume("_tag" in pulled ? failed : Effect.succeed(pulled))
    buffer.pull(callback)
    return Effect.sync(() => buffer.unpull(callback))
  })

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * A consumer of one or several queues. It attaches when its `deliveries` are run. Fails in phase `"options"` for options
 * that cannot work.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  queue: QueueRef | ReadonlyArray<QueueRef>,
  options: Options = {}
): Effect.Effect<AmqpConsumer, AmqpConsumerFailed, AmqpConnection> =>
  Effect.map(define(queue, options, 100), ({ consumer, onDetached, start }) => ({
    ...consumer,
    deliveries: Stream.unwrap(Effect.gen(function*() {
      yield* Effect.addFinalizer(() => onDetached)
      const subscriptions = yield* start
      yield* Effect.addFinalizer(() => Effect.sync(subscriptions.leave))
      return Stream.fromPull(Effect.succeed(pullFrom(subscriptions)))
    }))
  }))

/**
 * The deliveries of one or several queues, across connections.
 *
 * **Details**
 *
 * Settle each delivery with `ack`, `nack` or `reject`. A delivery of an earlier epoch cannot be settled any more.
 * Settling then returns `AmqpStaleDelivery` as a value, not as a failure, because the broker delivers the message
 * again. Fails with `AmqpConsumerFailed` when `recover` gives up.
 *
 * @category constructors
 * @since 0.1.0
 */
export const stream = (
  queue: QueueRef | ReadonlyArray<QueueRef>,
  options?: Options
): Stream.Stream<AmqpSupervisedDelivery, AmqpConsumerFailed, AmqpConnection> =>
  Stream.unwrap(Effect.map(make(queue, options), ({ deliveries }) => deliveries))

// -----------------------------------------------------------------------------
// supervised handlers
// -----------------------------------------------------------------------------

/**
 * Options of `run`.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunOptions extends Options {
  /** Deliveries that are handled at the same time, across epochs. Defaults to 1. */
  readonly concurrency?: number | undefined
  /** How long a handler may take. Then it is interrupted and fails with a `TimeoutError`. Defaults to no limit. */
  readonly handlerTimeout?: Duration.Input | undefined
  /**
   * How long the end of `run` waits for handlers that are at work. Consumers that end together, as those of one scope
   * do, share the time. Defaults to 30 seconds.
   */
  readonly drainTimeout?: Duration.Input | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export type Handler<E, R> = (delivery: AmqpSupervisedDelivery) => Effect.Effect<unknown, E, R>

/**
 * Handles each delivery and settles it by the handler's exit, across connections, until it is interrupted.
 *
 * **Details**
 *
 * If the handler succeeds, its delivery is acknowledged, or settled by the `Disposition` that it returns. If it fails
 * or dies, `onFailure` decides. Without `onFailure`, or if that throws, the message goes back to its queue and `run`
 * fails with the cause. A function `onFailure` gets the cause. With a `Disposition`, a handler that dies is logged as
 * an error. A handler that is interrupted gives its message back. Contiguous acknowledgements go out as one.
 *
 * The end of `run` (interruption, the scope, a failure, `AmqpConnection.close`) cancels the consumers and gives back
 * what no handler has begun. It waits for handlers at work, at most `drainTimeout`, and closes the channels. Handlers
 * that are not done by then are interrupted and give back what they have. Handlers of a lost connection go on and count
 * for `concurrency`. What they settle is stale, and the broker delivers it again. A failure is logged as an error,
 * because `run` may be in the background, unless this client closed the connection.
 *
 * @category constructors
 * @since 0.1.0
 */
export const run: {
  <E, R>(
    queue: QueueRef | ReadonlyArray<QueueRef>,
    handler: Handler<E, R>,
    options: RunOptions & { readonly onFailure: OnFailure<E> }
  ): Effect.Effect<void, AmqpConsumerFailed, R | AmqpConnection>
  <E, R>(
    queue: QueueRef | ReadonlyArray<QueueRef>,
    handler: Handler<E, R>,
    options?: RunOptions & { readonly onFailure?: undefined }
  ): Effect.Effect<void, AmqpConsumerFailed | E | Cause.TimeoutError, R | AmqpConnection>
} = <E, R>(
  queue: QueueRef | ReadonlyArray<QueueRef>,
  handler: Handler<E, R>,
  options: HandlingOptions<E> = {}
): Effect.Effect<void, AmqpConsumerFailed | E | Cause.TimeoutError, R | AmqpConnection> =>
  supervise(queue, handler, options, () => {})

/**
 * `run` in the background of a layer.
 *
 * **Details**
 *
 * The layer is built when every queue is subscribed to; it fails with a typed error if that fails. If the consumer
 * fails for good later, that is logged as an error. A program that should end with the consumer uses `run` in the
 * foreground. The end of the layer is the end of `run`.
 *
 * **Example**
 *
 * ```ts
 * const Billing = AmqpConsumer.layer("billing", handle, { concurrency: 10, onFailure: AmqpConsumer.requeueOnce })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: {
  <E, R>(
    queue: QueueRef | ReadonlyArray<QueueRef>,
    handler: Handler<E, R>,
    options: RunOptions & { readonly onFailure: OnFailure<E> }
  ): Layer.Layer<never, AmqpConsumerFailed, R | AmqpConnection>
  <E, R>(
    queue: QueueRef | ReadonlyArray<QueueRef>,
    handler: Handler<E, R>,
    options?: RunOptions & { readonly onFailure?: undefined }
  ): Layer.Layer<never, AmqpConsumerFailed | E | Cause.TimeoutError, R | AmqpConnection>
} = <E, R>(
  queue: QueueRef | ReadonlyArray<QueueRef>,
  handler: Handler<E, R>,
  options: HandlingOptions<E> = {}
): Layer.Layer<never, AmqpConsumerFailed | E | Cause.TimeoutError, R | AmqpConnection> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const attached = Deferred.makeUnsafe<void, AmqpConsumerFailed | E | Cause.TimeoutError>()
    yield* supervise(queue, handler, options, () => Deferred.doneUnsafe(attached, Effect.void)).pipe(
      Effect.onExit((exit) => Deferred.done(attached, exit)),
      Effect.forkScoped
    )
    yield* Deferred.await(attached)
  }))

type HandlingOptions<E> = RunOptions & { readonly onFailure?: OnFailure<E> | undefined }

/** `run`, with a callback when every queue is subscribed to. */
const supervise = <E, R>(
  queue: QueueRef | ReadonlyArray<QueueRef>,
  handler: Handler<E, R>,
  options: HandlingOptions<E>,
  onAttached: () => void
): Effect.Effect<void, AmqpConsumerFailed | E | Cause.TimeoutError, R | AmqpConnection> =>
  Effect.scoped(Effect.gen(function*() {
    const { concurrency = 1, handlerTimeout, onFailure } = options
    const failed = (path: string) => (reason: string): AmqpConsumerFailed =>
      new AmqpConsumerFailed({
        queue: labelOf(toQueues(queue)),
        phase: "options",
        reason: new AmqpEncodeError({ path, reason })
      })
    yield* Effect.mapError(
      Effect.fromResult(integerAt("concurrency", concurrency, 1, Number.MAX_SAFE_INTEGER)),
      ({ path, reason }) => failed(path)(reason)
    )
    const drainTimeout = yield* Effect.mapError(
      Effect.fromOption(Duration.fromInput(options.drainTimeout ?? "30 seconds")),
      () => failed("drainTimeout")("expected a duration")
    )
    const { connection, label, onDetached, start } = yield* define(
      queue,
      options,
      Math.min(2 * concurrency, 65535),
      onAttached
    )
    const { ending, onClosing } = connection[internals]()
    const part = ending.opened()
    const handlers = yield* makeHandlers({ label, concurrency, handler, handlerTimeout, onFailure })
    yield* Effect.addFinalizer(() => onDetached)
    const subscriptions = yield* start
    // The order of the end: nothing new, then the handlers at work, then (with the scope) the channels.
    const end = Effect.andThen(Effect.sync(subscriptions.leave), handlers.drain(ending, drainTimeout, part))
    yield* Effect.addFinalizer(() => end)
    yield* onClosing(end)
    return yield* pullFrom(subscriptions).pipe(
      Effect.flatMap((deliveries) => Effect.forEach(deliveries, handlers.start, { discard: true })),
      Effect.forever({ disableYield: true }),
      Effect.raceFirst(handlers.failed),
      Effect.tapCause((cause) => isOrderly(cause) ? Effect.void : logEnd(label, cause))
    )
  }))

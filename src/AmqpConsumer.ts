/**
 * Consumers that outlive their connections: a stream of deliveries, or a supervised handler whose exit settles each
 * delivery.
 *
 * A consumer has channels of its own. When one goes away (the connection is lost, the broker closes the channel or cancels
 * the consumer of a queue), its queues are subscribed to again under the `recover` schedule, on the next epoch if need be;
 * until then it is visibly recovering. One queue of several recovers alone. It never hangs: it delivers, recovers, or fails
 * with `AmqpConsumerFailed`. Exactly-once is not offered, because no broker does: after a loss unsettled messages are
 * delivered again.
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
   * The broker closes the channel of a delivery that is not settled within its `consumer_timeout` (30 minutes), which counts
   * from the delivery and not from the handler's start. So `prefetch` x handler time / `concurrency` must stay below it: 100
   * at `concurrency` 1 meets it with handlers of 18 seconds, twice the `concurrency` with handlers of 15 minutes. More of it
   * makes fast handlers faster, up to some hundreds: the broker sends while they work.
   */
  readonly prefetch?: number | undefined
  /**
   * Whether the prefetch is for all queues together, as far as they share a channel (`basic.qos` with `global`). Quorum queues
   * and streams have no such thing, and a broker that refuses it (540) ends the connection. Defaults to `false`.
   */
  readonly sharedPrefetch?: boolean | undefined
  /**
   * What the broker's tools call the consumer; with several queues a dot and the number of the queue follow, from 0. Defaults
   * to a new tag for each subscription.
   */
  readonly consumerTag?: string | undefined
  /** Refuses (403) if there is another consumer, and all that come later. Defaults to `false`. */
  readonly exclusive?: boolean | undefined
  /** For example `x-priority`, `x-stream-offset`. */
  readonly arguments?: InputTable | undefined
  /**
   * Declared each time before queues are subscribed to, so that a queue that was deleted comes back. `AmqpTopology.layer` is
   * for what several share: it is declared in each epoch.
   */
  readonly topology?: ReadonlyArray<Entity> | undefined
  /**
   * How lost queues are subscribed to again; its input is the typed failure. Defaults to a delay of up to
   * 2 s, doubled up to 30 s, with full jitter, for as long as the failure is transient. A delivery, or ten seconds without a loss, begins it anew. When the
   * connection is over for good it is not asked.
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
  /** Some queues are not subscribed to, for this reason; what the others have is delivered. */
  | { readonly _tag: "Recovering"; readonly cause: AmqpConsumerFailed }

/**
 * A consumer that outlives its connections.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpConsumer {
  /**
   * The deliveries, in arrays as they arrived. Attaches when it is run; run it once at a time. Its end cancels the consumer and
   * gives back what is not settled.
   */
  readonly deliveries: Stream.Stream<AmqpSupervisedDelivery, AmqpConsumerFailed>
  /**
   * Changes the prefetch of the running consumer: it is cancelled and subscribed again on its channel; what has come can
   * still be settled.
   */
  readonly setPrefetch: (prefetch: number) => Effect.Effect<void, AmqpEncodeError>
  /** The present state. */
  readonly status: Effect.Effect<Status>
  /** The present state and every one that follows. */
  readonly changes: Stream.Stream<Status>
}

const defaultRecover: Schedule.Schedule<unknown, AmqpConsumerFailed> = backoff(Duration.seconds(30)).pipe(
  Schedule.setInputType<AmqpConsumerFailed>(),
  Schedule.while(({ input }) => isTransient(input))
)

// -----------------------------------------------------------------------------
// the consumer
// -----------------------------------------------------------------------------

const checkInteger = (path: string, value: number, max: number): Effect.Effect<void, AmqpEncodeError> =>
  Number.isInteger(value) && value >= 1 && value <= max
    ? Effect.void
    : Effect.fail(new AmqpEncodeError({ path, reason: `expected an integer from 1 to ${max}, not ${value}` }))

const checkPrefetch = (prefetch: number): Effect.Effect<void, AmqpEncodeError> =>
  checkInteger("prefetch", prefetch, 65535)

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
            // One that is gone takes the new prefetch when it attaches again.
            running?.renew()
          }),
        status: Effect.sync(() => status),
        changes: Stream.fromPubSub(hub)
      }
    }
  })

/** Whether somebody has ended it on purpose. */
const isOrderly = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.every((reason) =>
    Cause.isInterruptReason(reason) || (
      Cause.isFailReason(reason) && reason.error instanceof AmqpConsumerFailed &&
      reason.error.reason._tag === "AmqpConnectionError" && reason.error.reason.reason._tag === "ConnectionClosed"
    )
  )

/** With the way to it only where it is a defect. */
const logEnd = (label: string, cause: Cause.Cause<unknown>): Effect.Effect<void> => {
  const text = `The consumer of ${label} has ended`
  if (Cause.hasDies(cause)) return Effect.logError(text, cause)
  return Effect.logError(`${text}: ${Cause.prettyErrors(cause).map(({ message }) => message).join("; ")}`)
}

/** The next deliveries: one Effect for an array of them. */
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
 * Settle each delivery: `ack`, `nack` or `reject`. One from an earlier epoch cannot be settled any more; that is a value
 * (`AmqpStaleDelivery`), not a failure, because the broker delivers the message again. Fails with `AmqpConsumerFailed`
 * when `recover` gives up.
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
  /** How long a handler may take; then it is interrupted and has failed with a `TimeoutError`. Defaults to no limit. */
  readonly handlerTimeout?: Duration.Input | undefined
  /**
   * How long the end of `run` waits for handlers that are at work. Several that end together, as those of one scope do, share
   * the time. Defaults to 30 seconds.
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
 * A handler that succeeds acknowledges, or settles by the `Disposition` that it returns. For one that fails or dies,
 * `onFailure` decides; without it, or if it throws, the message goes back to its queue and `run` fails with the cause. Where
 * `onFailure` is a function it sees the cause; where it is a `Disposition`, a handler that dies is logged as an error. A handler
 * that is interrupted gives its message back. Acknowledgements that are contiguous go out as one.
 *
 * Its end (interruption, the scope, a failure, `AmqpConnection.close`) cancels the consumers, gives back what no handler has
 * begun, waits for handlers that are at work, at most `drainTimeout`, and closes the channels. Handlers that are not done by
 * then are interrupted and give back what they have. Handlers of a connection that is lost go on and count for `concurrency`;
 * what they settle is stale, and the broker delivers it again. A failure is logged as an error, for those who run it in the
 * background, unless the connection was closed by this client.
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
 * The layer is built when every queue is subscribed to, and fails typed if that does not come about. A consumer that fails for
 * good later is logged as an error; a program that is to end with it runs it in the foreground, with `run`. The end of the
 * layer is the end of `run`.
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

/** `run`, which tells when it has subscribed to every queue. */
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
      checkInteger("concurrency", concurrency, Number.MAX_SAFE_INTEGER),
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

/**
 * Consumers that outlive their connections: a stream of deliveries, or a supervised handler whose exit settles each
 * delivery.
 *
 * A consumer has a channel of its own. When that goes away (the connection is lost, the broker closes the channel or
 * cancels the consumer), it attaches again under the `recover` schedule, on the next epoch if need be; until then it is
 * visibly recovering. It never hangs: it delivers, recovers, or fails with `AmqpConsumerFailed`. Exactly-once is not
 * offered, because no broker does: after a loss unsettled messages are delivered again.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Predicate from "effect/Predicate"
import * as PubSub from "effect/PubSub"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import type { Consumer } from "./AmqpChannel.ts"
import { AmqpConnection } from "./AmqpConnection.ts"
import { AmqpSupervisedDelivery } from "./AmqpDelivery.ts"
import {
  AmqpAccessRefused,
  AmqpChannelClosed,
  AmqpConnectionError,
  AmqpConsumerCancelled,
  AmqpEncodeError,
  AmqpNotFound,
  AmqpPreconditionFailed,
  AmqpResourceLocked,
  isTransient
} from "./AmqpError.ts"
import type { InputTable } from "./AmqpTable.ts"
import { AmqpTopologyError, AmqpTopologyInvalid, declare, type Entity } from "./AmqpTopology.ts"
import { backoff } from "./internal/backoff.ts"
import type { OpenChannel } from "./internal/channel.ts"
import { openChannel } from "./internal/openChannel.ts"
import { type QueueRef, resolveQueue } from "./internal/queueNames.ts"

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

const Phase = Schema.Literals(["options", "channel", "topology", "qos", "consume", "deliver"])

/**
 * What a consumer was doing: checking its options, opening its channel, declaring its topology, setting the prefetch,
 * subscribing, or taking deliveries.
 *
 * @category models
 * @since 0.1.0
 */
export type ConsumerPhase = typeof Phase.Type

/**
 * A consumer that outlives its connections has failed for good: its `recover` schedule gives up, or does not take this
 * failure for transient.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpConsumerFailed
  extends Schema.TaggedError<AmqpConsumerFailed>("effect-amqp/AmqpConsumerFailed")("AmqpConsumerFailed", {
    /** The queues, separated by commas. */
    queue: Schema.String,
    phase: Phase,
    reason: Schema.Union([
      AmqpAccessRefused,
      AmqpNotFound,
      AmqpResourceLocked,
      AmqpPreconditionFailed,
      AmqpChannelClosed,
      AmqpConsumerCancelled,
      AmqpConnectionError,
      AmqpEncodeError,
      AmqpTopologyError,
      AmqpTopologyInvalid
    ])
  })
{
  override readonly cause = this.reason

  override get message(): string {
    return `the consumer of ${JSON.stringify(this.queue)} failed (${this.phase}): ${this.reason.message}`
  }
}

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
  /** Deliveries that may be unsettled, for each queue, from 1 to 65535. Defaults to 100. */
  readonly prefetch?: number | undefined
  /** Refuses (403) if there is another consumer, and all that come later. Defaults to `false`. */
  readonly exclusive?: boolean | undefined
  /** For example `x-priority`, `x-stream-offset`. */
  readonly arguments?: InputTable | undefined
  /**
   * Declared each time before the consumer attaches, so that a queue that was deleted comes back. `AmqpTopology.layer` is
   * for what several share: it is declared in each epoch.
   */
  readonly topology?: ReadonlyArray<Entity> | undefined
  /**
   * How a lost consumer attaches again; its input is the typed failure. Defaults to a delay of up to 2 s, doubled up to
   * 30 s, with full jitter, for as long as the failure is transient. A delivery begins it anew.
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
  | { readonly _tag: "Recovering"; readonly cause: AmqpConsumerFailed }

/**
 * A consumer that outlives its connections.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpConsumer {
  /** The deliveries, in arrays as they arrived. Attaches when it is run; run it once at a time. */
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
// attaching
// -----------------------------------------------------------------------------

/** The consumers of one channel. */
interface Attachment {
  readonly open: OpenChannel
  readonly consumers: Map<QueueRef, Consumer<AmqpSupervisedDelivery>>
}

const checkInteger = (path: string, value: number, max: number): Effect.Effect<void, AmqpEncodeError> =>
  Number.isInteger(value) && value >= 1 && value <= max
    ? Effect.void
    : Effect.fail(new AmqpEncodeError({ path, reason: `expected an integer from 1 to ${max}, not ${value}` }))

const checkPrefetch = (prefetch: number): Effect.Effect<void, AmqpEncodeError> =>
  checkInteger("prefetch", prefetch, 65535)

const makeWith = (
  queues: ReadonlyArray<QueueRef>,
  options: Options,
  /** Runs before the consumers and the channel of an attachment are closed. */
  detach: (attachment: Attachment) => Effect.Effect<void>
): Effect.Effect<AmqpConsumer, AmqpConsumerFailed, AmqpConnection> =>
  Effect.gen(function*() {
    const connection = yield* AmqpConnection
    const label = labelOf(queues)
    const failedIn = (phase: ConsumerPhase) => (reason: AmqpConsumerFailed["reason"]): AmqpConsumerFailed =>
      new AmqpConsumerFailed({ queue: label, phase, reason })
    yield* Effect.mapError(checkPrefetch(options.prefetch ?? 100), failedIn("options"))
    if (queues.length === 0) {
      return yield* failedIn("options")(new AmqpEncodeError({ path: "queue", reason: "the list of queues is empty" }))
    }
    const hub = yield* PubSub.unbounded<Status>({ replay: 1 })
    let prefetchCount = options.prefetch ?? 100
    let attachment: Attachment | undefined
    let status: Status = { _tag: "Detached" }
    const setStatus = (next: Status): void => {
      status = next
      PubSub.publishUnsafe(hub, next)
    }
    setStatus(status)

    /** A queue's deliveries, through one consumer after another while the prefetch changes. */
    const consume = (
      to: Attachment,
      scope: Scope.Scope,
      queue: QueueRef
    ): Stream.Stream<AmqpSupervisedDelivery, AmqpConsumerFailed> =>
      Stream.unwrap(Effect.gen(function*() {
        const { channel, consuming, state } = to.open
        const name = yield* Effect.mapError(resolveQueue(connection, queue), failedIn("consume"))
        const count = prefetchCount
        yield* Effect.mapError(channel.qos({ prefetchCount: count }), failedIn("qos"))
        // In the scope of the attachment: deliveries of a former prefetch are still to be settled.
        const consumer = yield* consuming.consumeWith<AmqpSupervisedDelivery>(
          { queue: name, exclusive: options.exclusive, arguments: options.arguments },
          (deliveryTag, redelivered, exchange, routingKey, content) =>
            new AmqpSupervisedDelivery(state, deliveryTag, redelivered, exchange, routingKey, content)
        ).pipe(Scope.provide(scope), Effect.mapError(failedIn("consume")))
        to.consumers.set(queue, consumer)
        if (to.consumers.size === queues.length) setStatus({ _tag: "Attached", epoch: state.epoch })
        // Changed in the meantime.
        if (count !== prefetchCount) yield* Effect.mapError(consumer.cancel, failedIn("consume"))
        return Stream.mapError(consumer.deliveries, failedIn("deliver")).pipe(
          Stream.concat(Stream.suspend(() => count === prefetchCount ? Stream.empty : consume(to, scope, queue)))
        )
      }))

    const attached = Stream.unwrap(Effect.gen(function*() {
      const scope = yield* Effect.scope
      if (options.topology !== undefined) {
        yield* declare(options.topology).pipe(
          Effect.provideService(AmqpConnection, connection),
          Effect.mapError(failedIn("topology"))
        )
      }
      const open = yield* Effect.mapError(openChannel(connection), failedIn("channel"))
      const to: Attachment = { open, consumers: new Map() }
      attachment = to
      yield* Effect.addFinalizer(() =>
        Effect.suspend(() => {
          attachment = undefined
          return detach(to)
        })
      )
      const [first, ...others] = queues.map((queue) => consume(to, scope, queue))
      if (first === undefined) return Stream.empty
      return others.reduce((all, one) => Stream.merge(all, one), first)
    }))

    const recovering = (options.recover ?? defaultRecover).pipe(
      Schedule.tap(({ input }) => Effect.sync(() => setStatus({ _tag: "Recovering", cause: input })))
    )

    return {
      deliveries: attached.pipe(
        Stream.retry(recovering),
        Stream.ensuring(Effect.sync(() => setStatus({ _tag: "Detached" })))
      ),
      setPrefetch: (prefetch) =>
        Effect.gen(function*() {
          yield* checkPrefetch(prefetch)
          prefetchCount = prefetch
          if (attachment === undefined) return
          // One that is gone takes the new prefetch when it attaches again.
          yield* Effect.forEach(attachment.consumers.values(), ({ cancel }) => Effect.ignore(cancel), { discard: true })
        }),
      status: Effect.sync(() => status),
      changes: Stream.fromPubSub(hub)
    }
  })

const isList = (queue: QueueRef | ReadonlyArray<QueueRef>): queue is ReadonlyArray<QueueRef> => Array.isArray(queue)

/** Each queue once. */
const toQueues = (queue: QueueRef | ReadonlyArray<QueueRef>): ReadonlyArray<QueueRef> =>
  isList(queue) ? [...new Set(queue)] : [queue]

/** What the queues are called in errors. */
const labelOf = (queues: ReadonlyArray<QueueRef>): string =>
  queues.map((queue) => typeof queue === "string" ? queue : "(server-named)").join(", ")

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
  makeWith(toQueues(queue), options, () => Effect.void)

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

const disposition = (settle: Disposition["settle"]): Disposition => ({ [DispositionTypeId]: DispositionTypeId, settle })

const isDisposition = (u: unknown): u is Disposition => Predicate.hasProperty(u, DispositionTypeId)

/**
 * The message has been dealt with.
 *
 * @category dispositions
 * @since 0.1.0
 */
export const ack: Disposition = disposition((delivery) => delivery.ack)

/**
 * The message goes back to its queue, and is delivered again at once.
 *
 * @category dispositions
 * @since 0.1.0
 */
export const requeue: Disposition = disposition((delivery) => delivery.nack({ requeue: true }))

/**
 * The message goes to the dead-letter exchange of its queue, or away where it has none.
 *
 * @category dispositions
 * @since 0.1.0
 */
export const deadLetter: Disposition = disposition((delivery) => delivery.nack({ requeue: false }))

/**
 * Back to its queue the first time, to the dead-letter exchange when it comes again: a message that nobody can handle
 * does not go round for ever. It goes by `redelivered`, which a lost connection sets as well: where that matters, use
 * `requeue` and the delivery limit of a quorum queue.
 *
 * @category dispositions
 * @since 0.1.0
 */
export const requeueOnce: Disposition = disposition((delivery) => delivery.nack({ requeue: !delivery.redelivered }))

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
  /** How long the end of `run` waits for handlers that are at work. Defaults to 30 seconds. */
  readonly drainTimeout?: Duration.Input | undefined
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
 * Its end (interruption, the scope, a failure) stops deliveries, waits for handlers that are at work, at most
 * `drainTimeout`, interrupts the rest, gives back what was not handled, and closes the channel. Handlers of a connection
 * that is lost go on and count for `concurrency`; what they settle is stale, and the broker delivers it again.
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
  options: RunOptions & { readonly onFailure?: OnFailure<E> | undefined } = {}
): Effect.Effect<void, AmqpConsumerFailed | E | Cause.TimeoutError, R | AmqpConnection> =>
  Effect.scoped(Effect.gen(function*() {
    const { concurrency = 1, drainTimeout = "30 seconds", handlerTimeout, onFailure } = options
    const label = labelOf(toQueues(queue))
    yield* Effect.mapError(
      checkInteger("concurrency", concurrency, Number.MAX_SAFE_INTEGER),
      (reason) => new AmqpConsumerFailed({ queue: label, phase: "options", reason })
    )
    const handlers = yield* FiberSet.make<unknown>()
    const fork = yield* FiberSet.runtime(handlers)<R>()
    const slots = Semaphore.makeUnsafe(concurrency)
    const take = slots.take(1)
    const release = slots.release(1)
    const failed = Deferred.makeUnsafe<never, E | Cause.TimeoutError>()

    const limited = (delivery: AmqpSupervisedDelivery): Effect.Effect<unknown, E | Cause.TimeoutError, R> =>
      handlerTimeout === undefined ? handler(delivery) : Effect.timeout(handler(delivery), handlerTimeout)

    const settle = (
      delivery: AmqpSupervisedDelivery,
      exit: Exit.Exit<unknown, E | Cause.TimeoutError>
    ): Effect.Effect<unknown> => {
      if (Exit.isSuccess(exit)) return (isDisposition(exit.value) ? exit.value : ack).settle(delivery)
      if (Cause.hasInterruptsOnly(exit.cause)) return requeue.settle(delivery)
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

    /** In a fiber that cannot be interrupted, but for the handler. */
    const handle = (delivery: AmqpSupervisedDelivery): Effect.Effect<unknown, never, R> =>
      Effect.onExit(
        Effect.flatMap(
          Effect.exit(Effect.interruptible(Effect.suspend(() => limited(delivery)))),
          (exit) => settle(delivery, exit)
        ),
        () => release
      )

    /**
     * A slot is taken before the fiber exists, and the fiber gives it back. What has become stale while it waited for
     * one comes again: handling it now would handle it twice.
     */
    const start = (delivery: AmqpSupervisedDelivery): Effect.Effect<unknown> =>
      Effect.flatMap(
        take,
        (): Effect.Effect<unknown> =>
          delivery.isStale ? release : Effect.sync(() => fork(handle(delivery), { uninterruptible: true }))
      )

    const drain = Effect.ignore(Effect.timeoutOption(Effect.interruptible(FiberSet.awaitEmpty(handlers)), drainTimeout))

    const detach = ({ consumers, open }: Attachment): Effect.Effect<void> =>
      Effect.suspend(() => {
        // Lost: its handlers cannot settle any more, and there is nothing to wait for.
        if (open.state.isClosed) return Effect.void
        return Effect.forEach(consumers.values(), ({ cancel }) => Effect.ignore(cancel), { discard: true }).pipe(
          Effect.andThen(drain),
          Effect.andThen(FiberSet.clear(handlers))
        )
      })

    const consumer = yield* makeWith(toQueues(queue), options, detach)
    yield* Stream.runForEachArray(consumer.deliveries, (array) => Effect.forEach(array, start, { discard: true })).pipe(
      Effect.raceFirst(Deferred.await(failed))
    )
  }))

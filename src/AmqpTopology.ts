/**
 * Exchanges, queues and bindings as values: declared when the connection opens and again in each epoch, before any
 * publisher or consumer of that epoch runs.
 *
 * A topology is what should be there. Values that contradict themselves are refused before anything is sent. What the
 * broker refuses is retried, skipped or fails, by policy, and never in the way of the rest; it is listed in `failures`.
 * Names of the broker's own (`amq.*`) and passive entities are checked, never declared. Nothing is deleted unless
 * `deleteOnClose` says so, and nothing that already exists otherwise is changed.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberHandle from "effect/FiberHandle"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { AmqpConnection, internals } from "./AmqpConnection.ts"
import { type AmqpConnectionError, type AmqpEncodeError, isTransient } from "./AmqpError.ts"
import { resolveQueue } from "./internal/queueNames.ts"
import type { Session } from "./internal/session.ts"
import { declareAll, deleteAll, type Outcome, whileTransient } from "./internal/topologyDeclaring.ts"
import { diagnose } from "./internal/topologyDiagnosis.ts"
import { type AmqpTopologyError, AmqpTopologyInvalid } from "./internal/topologyError.ts"
import { inOrder } from "./internal/topologyOrder.ts"
import type { Entity, OnFailure, QueueRef } from "./internal/topologyValues.ts"

export { AmqpTopologyError, AmqpTopologyInvalid } from "./internal/topologyError.ts"
export type {
  Arguments,
  BindExchangeOptions,
  BindOptions,
  ClassicQueueOptions,
  DeadLetter,
  Entity,
  EntityOptions,
  Exchange,
  ExchangeBinding,
  ExchangeOptions,
  LeaderLocator,
  OnFailure,
  PassiveExchange,
  PassiveQueue,
  Queue,
  QueueBinding,
  QueueRef,
  QueueType,
  QuorumQueueOptions,
  ServerNamedQueue,
  StreamQueueOptions
} from "./internal/topologyValues.ts"
export {
  bind,
  bindExchange,
  classicQueue,
  exchange,
  passiveExchange,
  passiveQueue,
  quorumQueue,
  serverNamedQueue,
  streamQueue
} from "./internal/topologyValues.ts"

// -----------------------------------------------------------------------------
// options and errors
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface DeclareOptions {
  /**
   * What happens when the broker refuses an entity that does not say so itself. Defaults to a retry while the failure is
   * transient (an exclusive queue that a dead connection of ours still holds, a node that is down): 100 ms doubled up to
   * 5 s, with jitter, for as long as `patience` in the first declaration and without end in later epochs.
   */
  readonly onFailure?: OnFailure | undefined
  /** Where the default retry of the first declaration ends. Defaults to 10 seconds. */
  readonly patience?: Duration.Input | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Options extends DeclareOptions {
  /**
   * How long a later epoch waits for entities that are retried, before publishers and consumers run without them; they
   * are then declared as soon as the broker takes them. Also the end of the default retry in the first declaration.
   * Defaults to 10 seconds.
   */
  readonly patience?: Duration.Input | undefined
  /**
   * Whether what was declared is deleted when the scope closes, in reverse order, as far as that is possible within the
   * connection's `closeTimeout`. Defaults to `false`.
   */
  readonly deleteOnClose?: boolean | undefined
}

/**
 * What the first declaration fails with.
 *
 * @category errors
 * @since 0.1.0
 */
export type TopologyError = AmqpTopologyInvalid | AmqpTopologyError | AmqpConnectionError

// -----------------------------------------------------------------------------
// declaring once
// -----------------------------------------------------------------------------

const defaultPatience = Duration.seconds(10)

const patienceOf = ({ patience }: DeclareOptions): Duration.Duration =>
  patience === undefined ? defaultPatience : Duration.fromInputUnsafe(patience)

/** The policy of the first declaration, which must come to an end. */
const firstPolicy = (options: DeclareOptions): OnFailure =>
  options.onFailure ?? { retry: Schedule.upTo(whileTransient, { duration: patienceOf(options) }) }

const checked = (entities: ReadonlyArray<Entity>): Effect.Effect<ReadonlyArray<Entity>, AmqpTopologyInvalid> => {
  const problems = diagnose(entities)
  return problems.length === 0 ? Effect.succeed(inOrder(entities)) : Effect.fail(new AmqpTopologyInvalid({ problems }))
}

/** Fails with all that could not be declared, the first one first. */
const orFail = ({ failed, skipped }: Outcome): Effect.Effect<ReadonlyArray<AmqpTopologyError>, AmqpTopologyError> =>
  failed.length === 0
    ? Effect.succeed(skipped)
    : Effect.failCause(Cause.fromReasons(failed.map((error) => Cause.makeFailReason(error))))

/**
 * Declares a topology once, on a channel of its own, and tells what was skipped. It is not declared again in later
 * epochs: `layer` does that.
 *
 * **Details**
 *
 * Fails with `AmqpTopologyInvalid` before anything is sent, with `AmqpTopologyError` for what the broker refused (all of
 * it is in the cause; the rest is declared nevertheless), and with `AmqpConnectionError` if the connection goes away.
 *
 * @category constructors
 * @since 0.1.0
 */
export const declare = (
  entities: ReadonlyArray<Entity>,
  options: DeclareOptions = {}
): Effect.Effect<ReadonlyArray<AmqpTopologyError>, TopologyError, AmqpConnection> =>
  Effect.gen(function*() {
    const ordered = yield* checked(entities)
    const connection = yield* AmqpConnection
    const { session } = yield* connection[internals]().session
    const outcome = yield* declareAll({
      connection,
      session,
      entities: ordered,
      onFailure: firstPolicy(options),
      onAttempt: () => Effect.void
    })
    return yield* orFail(outcome)
  })

// -----------------------------------------------------------------------------
// declared in each epoch
// -----------------------------------------------------------------------------

/**
 * A topology that is declared in each epoch of a connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpTopology {
  /** What is not there: refused, skipped, or being retried. Empty when all is well. */
  readonly failures: Effect.Effect<ReadonlyArray<AmqpTopologyError>>
  /** The present `failures` and every later state of them. */
  readonly changes: Stream.Stream<ReadonlyArray<AmqpTopologyError>>
  /** What a queue is called in the present epoch; fails with `AmqpEncodeError` if it is not declared. */
  readonly queueName: (queue: QueueRef) => Effect.Effect<string, AmqpConnectionError | AmqpEncodeError>
}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpTopology = Context.Service<AmqpTopology>("effect-amqp/AmqpTopology")

/**
 * Declares a topology now and in each later epoch, before anybody else may use that epoch, for as long as the scope is
 * open.
 *
 * **Details**
 *
 * Succeeds when all is declared or skipped; fails like `declare`. Later epochs fail nobody: what the broker then refuses
 * is listed in `failures`, and the rest is declared. A connection that is lost during the first declaration is waited
 * for.
 *
 * **Gotchas**
 *
 * An auto-delete entity that went away with its last user comes back with the next epoch, because it is part of the
 * topology; so does one that somebody deleted. An auto-delete queue that is not exclusive can go away right after it was
 * declared again, when the broker notices that its consumer on the lost connection is gone: let it expire instead.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  entities: ReadonlyArray<Entity>,
  options: Options = {}
): Effect.Effect<AmqpTopology, TopologyError, AmqpConnection | Scope.Scope> =>
  Effect.gen(function*() {
    const ordered = yield* checked(entities)
    const connection = yield* AmqpConnection
    const { ending, onEpoch, session: opened } = connection[internals]()
    const patience = patienceOf(options)
    const failing = new Map<Entity, AmqpTopologyError>()
    const failures = yield* SubscriptionRef.make<ReadonlyArray<AmqpTopologyError>>([])
    const declared = new Set<Entity>()
    const onAttempt = (entity: Entity, failure: AmqpTopologyError | undefined): Effect.Effect<void> => {
      if (failure === undefined) {
        declared.add(entity)
        if (!failing.delete(entity)) return Effect.void
      } else failing.set(entity, failure)
      return SubscriptionRef.set(failures, [...failing.values()])
    }

    // Registered first, so it comes last: nothing is declared any more.
    if (options.deleteOnClose === true) {
      const deleting = Effect.flatMap(opened, ({ session }) =>
        deleteAll({ connection, session, entities: ordered.filter((entity) => declared.has(entity)) }))
      yield* Effect.addFinalizer(() =>
        Effect.ignore(ending.within(deleting))
      )
    }

    const first = Deferred.makeUnsafe<unknown, TopologyError>()
    const passes = yield* FiberHandle.make<unknown, never>()
    const pass = (session: Session) =>
      Effect.matchEffect(
        declareAll({
          connection,
          session,
          entities: ordered,
          onFailure: Deferred.isDoneUnsafe(first)
            ? options.onFailure ?? { retry: whileTransient }
            : firstPolicy(options),
          onAttempt
        }),
        {
          onSuccess: (outcome) => Deferred.complete(first, orFail(outcome)),
          // The next epoch declares it, unless this is how the connection always ends.
          onFailure: (error) =>
            session.error !== undefined && isTransient(error) ? Effect.void : Deferred.fail(first, error)
        }
      )
    yield* onEpoch((session) =>
      Effect.andThen(
        FiberHandle.run(passes, pass(session)),
        Effect.timeoutOption(FiberHandle.awaitEmpty(passes), patience)
      )
    )
    yield* Effect.raceFirst(Deferred.await(first), Effect.flatMap(connection.closed, Effect.fail))

    return AmqpTopology.of({
      failures: SubscriptionRef.get(failures),
      changes: SubscriptionRef.changes(failures),
      queueName: (queue) => resolveQueue(connection, queue)
    })
  })

/**
 * A topology as a layer: `make`, for as long as the layer lives. What publishes or consumes belongs above it.
 *
 * **Example**
 *
 * ```ts
 * const Topology = AmqpTopology.layer([
 *   AmqpTopology.exchange("orders", { type: "topic" }),
 *   AmqpTopology.quorumQueue("billing", { deliveryLimit: 5, deadLetter: { exchange: "orders.dead" } }),
 *   AmqpTopology.bind({ queue: "billing", exchange: "orders", routingKey: "order.*.paid" })
 * ])
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  entities: ReadonlyArray<Entity>,
  options?: Options
): Layer.Layer<AmqpTopology, TopologyError, AmqpConnection> => Layer.effect(AmqpTopology, make(entities, options))

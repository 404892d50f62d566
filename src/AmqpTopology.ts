/**
 * Exchanges, queues and bindings as values: declared when the connection opens and again in each epoch, before any
 * publisher or consumer of that epoch runs.
 *
 * A topology says what should exist. Values that contradict themselves are refused before anything is sent. If the
 * broker refuses an entity, the policy decides: it is retried, skipped, or fails. It never blocks the others, and is
 * listed in `failures`. The broker's own entities (`amq.*`) and passive ones are checked, never declared. Nothing is
 * deleted unless `deleteOnClose` says so. An existing entity with other properties is never changed.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
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
import { duration } from "./internal/connection/optionChecks.ts"
import { AmqpConnection, internals, type Restores } from "./internal/connection/service.ts"
import type { Session } from "./internal/engine/session.ts"
import type { AmqpConnectionError } from "./internal/errors/connection.ts"
import type { AmqpEncodeError } from "./internal/errors/value.ts"
import { declareAll, deleteAll, type Outcome, whileTransient } from "./internal/topology/declaring.ts"
import { diagnose } from "./internal/topology/diagnosis.ts"
import type { Entity } from "./internal/topology/entity.ts"
import type { OnFailure } from "./internal/topology/entityOptions.ts"
import { AmqpTopologyError, AmqpTopologyInvalid, AmqpTopologyPending } from "./internal/topology/error.ts"
import { describe, inOrder, keyOf, queueKey } from "./internal/topology/order.ts"
import type { QueueRef } from "./internal/topology/queue.ts"
import { resolveQueue } from "./internal/topology/queueNames.ts"
import { TopologyRefusals } from "./internal/topology/refusals.ts"

export type { BindExchangeOptions, BindOptions, ExchangeBinding, QueueBinding } from "./internal/topology/binding.ts"
export { bind, bindExchange } from "./internal/topology/binding.ts"
export type { Entity } from "./internal/topology/entity.ts"
export type { Arguments, EntityOptions, OnFailure } from "./internal/topology/entityOptions.ts"
export { AmqpTopologyError, AmqpTopologyInvalid, AmqpTopologyPending } from "./internal/topology/error.ts"
export type { Exchange, ExchangeOptions, PassiveExchange } from "./internal/topology/exchange.ts"
export { exchange, passiveExchange } from "./internal/topology/exchange.ts"
export type {
  ClassicQueueOptions,
  DeadLetter,
  LeaderLocator,
  PassiveQueue,
  Queue,
  QueueRef,
  QueueType,
  QuorumQueueOptions,
  ServerNamedQueue,
  StreamQueueOptions
} from "./internal/topology/queue.ts"
export { classicQueue, passiveQueue, quorumQueue, serverNamedQueue, streamQueue } from "./internal/topology/queue.ts"

// -----------------------------------------------------------------------------
// options and errors
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface DeclareOptions {
  /**
   * What happens when the broker refuses an entity without an `onFailure` of its own. Defaults to a retry while the
   * failure is transient (an exclusive queue that a dead connection of ours still holds, a node that is down). The
   * delays are random; their upper bound is 2 s at first and doubles up to 5 s. Retries end after `patience` in the
   * first declaration, and never in later epochs.
   */
  readonly onFailure?: OnFailure | undefined
  /** How long the default retry of the first declaration lasts. Defaults to 10 seconds. */
  readonly patience?: Duration.Input | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Options extends DeclareOptions {
  /**
   * How long a later epoch waits for entities that are retried. Then publishers and consumers run without them, and
   * they are declared as soon as the broker accepts them. Also how long the default retry of the first declaration
   * lasts. Defaults to 10 seconds.
   */
  readonly patience?: Duration.Input | undefined
  /**
   * Whether declared entities are deleted when the scope closes, in reverse order, as far as that is possible within
   * the connection's `closeTimeout`. Defaults to `false`.
   */
  readonly deleteOnClose?: boolean | undefined
}

/**
 * What the first declaration fails with.
 *
 * @category errors
 * @since 0.1.0
 */
export type DeclareError = AmqpTopologyInvalid | AmqpTopologyError | AmqpConnectionError

// -----------------------------------------------------------------------------
// declaring once
// -----------------------------------------------------------------------------

const defaultPatience = Duration.seconds(10)

/** Between passes of a later epoch in which the connection has no channel left. */
const noChannelDelay = "1 second"

const patienceOf = ({ patience }: DeclareOptions): Effect.Effect<Duration.Duration, AmqpTopologyInvalid> =>
  Effect.mapError(
    Effect.fromResult(duration("patience", patience, defaultPatience, "none")),
    ({ message }) => new AmqpTopologyInvalid({ problems: [message] })
  )

/** The policy of the first declaration, which must come to an end. */
const firstPolicy = (options: DeclareOptions, patience: Duration.Duration): OnFailure =>
  options.onFailure ?? { retry: Schedule.upTo(whileTransient, { duration: patience }) }

const checked = (entities: ReadonlyArray<Entity>): Effect.Effect<ReadonlyArray<Entity>, AmqpTopologyInvalid> => {
  const problems = diagnose(entities)
  return problems.length === 0 ? Effect.succeed(inOrder(entities)) : Effect.fail(new AmqpTopologyInvalid({ problems }))
}

/** Fails with all entities that could not be declared, in order. */
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
 * Fails with `AmqpTopologyInvalid` before anything is sent, with `AmqpTopologyError` for entities that the broker
 * refused (all of them are in the cause; the others are declared), and with `AmqpConnectionError` if the connection
 * goes away. If the broker ends the connection for one of the entities whenever this Effect is run, that entity is
 * found. From the fourth time on it fails with `AmqpTopologyError` as well.
 *
 * @category constructors
 * @since 0.1.0
 */
export const declare = (
  entities: ReadonlyArray<Entity>,
  options: DeclareOptions = {}
): Effect.Effect<ReadonlyArray<AmqpTopologyError>, DeclareError, AmqpConnection> => {
  const refusals = new TopologyRefusals()
  return Effect.gen(function*() {
    const ordered = yield* checked(entities)
    const patience = yield* patienceOf(options)
    const connection = yield* AmqpConnection
    const { session } = yield* connection[internals]().session
    const outcome = yield* declareAll({
      connection,
      session,
      entities: ordered,
      onFailure: firstPolicy(options, patience),
      refusals,
      onAttempt: () => Effect.void,
      onGivenUp: () => {}
    })
    return yield* orFail(outcome)
  })
}

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
  /** The entities that are missing: refused, skipped, or being retried. Empty when all is well. */
  readonly failures: Effect.Effect<ReadonlyArray<AmqpTopologyError>>
  /** The present `failures`, and each later list. */
  readonly changes: Stream.Stream<ReadonlyArray<AmqpTopologyError>>
  /** The name of a queue in the present epoch. Fails with `AmqpEncodeError` if it is not declared. */
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
 * Succeeds when all is declared or skipped; fails like `declare`. Later epochs fail nobody: entities that the broker
 * refuses are listed in `failures`, and the others are declared. If the connection is lost during the first
 * declaration, this waits for the next one. If the broker ends the connection for an entity of this topology, that
 * entity is found (it is sent alone). After three such ends with the same words it fails, and is not sent in any epoch.
 *
 * **Gotchas**
 *
 * An auto-delete entity that went away with its last user comes back with the next epoch, because it is part of the
 * topology. So does an entity that somebody deleted. An auto-delete queue that is not exclusive can go away right after
 * it was declared again, when the broker notices that its consumer on the lost connection is gone. Use `expires` for
 * such a queue instead.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  entities: ReadonlyArray<Entity>,
  options: Options = {}
): Effect.Effect<AmqpTopology, DeclareError, AmqpConnection | Scope.Scope> =>
  Effect.gen(function*() {
    const ordered = yield* checked(entities)
    const connection = yield* AmqpConnection
    const { ending, onEpoch, restorations, session: opened } = connection[internals]()
    const clock = yield* Clock.Clock
    const patience = yield* patienceOf(options)
    const failing = new Map<Entity, AmqpTopologyError>()
    const failures = yield* SubscriptionRef.make<ReadonlyArray<AmqpTopologyError>>([])
    const refusals = new TopologyRefusals()
    /** When it was declared last, in milliseconds. */
    const declared = new Map<Entity, number>()
    /** What is to be declared in the present epoch. */
    const missing = new Set<Entity>()
    const tell = Effect.suspend(() => SubscriptionRef.set(failures, [...failing.values()]))
    const onAttempt = (entity: Entity, failure: AmqpTopologyError | undefined): Effect.Effect<void> => {
      if (failure === undefined) {
        missing.delete(entity)
        declared.set(entity, clock.currentTimeMillisUnsafe())
        if (!failing.delete(entity)) return Effect.void
      } else failing.set(entity, failure)
      return tell
    }
    /** An epoch may be used once every entity is declared or listed. */
    const listMissing = Effect.suspend(() => {
      const unlisted = [...missing].filter((entity) => !failing.has(entity))
      for (const entity of unlisted) {
        failing.set(entity, new AmqpTopologyError({ entity: describe(entity), cause: new AmqpTopologyPending({}) }))
      }
      return unlisted.length === 0 ? Effect.void : tell
    })
    const restores: Restores = (queue, since) => {
      const key = typeof queue === "string" ? queueKey(queue) : queue
      const entity = ordered.find((entity) => keyOf(entity) === key)
      return entity !== undefined && (missing.has(entity) || (declared.get(entity) ?? -Infinity) >= since)
    }
    yield* Effect.acquireRelease(
      Effect.sync(() => restorations.add(restores)),
      () => Effect.sync(() => restorations.delete(restores))
    )

    // Registered first, so it runs last: nothing is declared any more.
    if (options.deleteOnClose === true) {
      const deleting = Effect.flatMap(opened, ({ session }) =>
        deleteAll({ connection, session, entities: ordered.filter((entity) => declared.has(entity)) }))
      yield* Effect.addFinalizer(() =>
        Effect.ignore(ending.within(deleting))
      )
    }

    const first = Deferred.makeUnsafe<unknown, DeclareError>()
    const passes = yield* FiberHandle.make<unknown, never>()
    const pass = (session: Session): Effect.Effect<unknown> =>
      Effect.matchCauseEffect(
        declareAll({
          connection,
          session,
          entities: ordered,
          onFailure: Deferred.isDoneUnsafe(first)
            ? options.onFailure ?? { retry: whileTransient }
            : firstPolicy(options, patience),
          refusals,
          onAttempt,
          onGivenUp: (entity) => missing.delete(entity)
        }),
        {
          onSuccess: (outcome) => Deferred.complete(first, orFail(outcome)),
          onFailure: (cause) => {
            // The next epoch declares it, whatever the connection was lost for.
            if (session.error !== undefined) return Effect.void
            if (!Deferred.isDoneUnsafe(first)) return Deferred.failCause(first, cause)
            // There is no free channel for it at present.
            if (Cause.hasFails(cause)) return Effect.delay(Effect.suspend(() => pass(session)), noChannelDelay)
            return Cause.hasDies(cause) ? Effect.logError("A topology cannot be declared", cause) : Effect.void
          }
        }
      )
    yield* onEpoch((session) =>
      Effect.gen(function*() {
        for (const entity of ordered) missing.add(entity)
        yield* FiberHandle.run(passes, pass(session))
        yield* Effect.timeoutOption(FiberHandle.awaitEmpty(passes), patience)
        yield* listMissing
      })
    )
    yield* Effect.raceFirst(Deferred.await(first), Effect.flatMap(connection.closed, Effect.fail))

    return AmqpTopology.of({
      failures: SubscriptionRef.get(failures),
      changes: SubscriptionRef.changes(failures),
      queueName: (queue) => resolveQueue(connection, queue)
    })
  })

/**
 * A topology as a layer: `make`, for as long as the layer lives. Put publishers and consumers above it.
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
): Layer.Layer<AmqpTopology, DeclareError, AmqpConnection> => Layer.effect(AmqpTopology, make(entities, options))

/**
 * Declares and deletes the entities of a topology in one session. Requests are pipelined over a channel. When the
 * broker closes the channel over one entity, another channel takes its place, so that no entity blocks the others.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { AmqpChannel } from "../channel/api.ts"
import type { OpenChannel } from "../channel/channel.ts"
import type { RequestError } from "../channel/errors.ts"
import { openPart } from "../channel/open.ts"
import { type AmqpConnection, declareWindow as window, type Internals, internals } from "../connection/service.ts"
import type { Session } from "../engine/session.ts"
import type { AmqpChannelClosed } from "../errors/channel.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import {
  type AmqpAccessRefused,
  type AmqpNotFound,
  type AmqpPreconditionFailed,
  type AmqpResourceLocked,
  isSoft
} from "../errors/soft.ts"
import { isTransient } from "../errors/transient.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import { backoff } from "../time/backoff.ts"
import type { Part } from "../time/ending.ts"
import type { Entity } from "./entity.ts"
import type { OnFailure } from "./entityOptions.ts"
import { AmqpTopologyError } from "./error.ts"
import { dependenciesOf, describe, isPredefined, keyOf } from "./order.ts"
import type { QueueRef } from "./queue.ts"
import { queueNameIn, setQueueName } from "./queueNames.ts"
import type { TopologyRefusals } from "./refusals.ts"

type Refusal =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | AmqpChannelClosed
  | AmqpEncodeError

// -----------------------------------------------------------------------------
// a channel that is replaced
// -----------------------------------------------------------------------------

/** One or more requests, each on the channel that is open at the time. */
type Use<A> = (
  channel: Effect.Effect<AmqpChannel, RequestError>
) => Effect.Effect<A, Refusal | AmqpConnectionError>

/**
 * Runs operations. Where `alone` says so, an operation runs with no other beside it. A refusal closes the channel.
 * Other operations that end with the channel run again on the next one.
 */
type Send = <A>(use: Use<A>, alone?: boolean) => Effect.Effect<A, Refusal | AmqpConnectionError>

/**
 * An operation that has ended so often with somebody else's channel runs alone. Then a closed channel is its own fault,
 * and final.
 */
const together = 3

const makeSend = (
  session: Session,
  { declaring: running, ending }: Internals,
  part: Part
): Effect.Effect<Send, never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope) => {
    const opening = Semaphore.makeUnsafe(1)
    let current: { readonly open: OpenChannel; readonly scope: Scope.Closeable } | undefined

    const replace = Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        if (current !== undefined) yield* Scope.close(current.scope, Exit.void)
        const own = yield* Scope.fork(scope)
        const open = yield* restore(Scope.provide(openPart(session, ending, part), own)).pipe(
          Effect.onError((cause) => Scope.close(own, Exit.failCause(cause)))
        )
        current = { open, scope: own }
        return open
      })
    )
    const channel = Effect.map(
      opening.withPermit(
        Effect.suspend(() =>
          current === undefined || current.open.state.isClosed ? replace : Effect.succeed(current.open)
        )
      ),
      (open) => open.channel
    )

    const attempt = <A>(use: Use<A>, alone: boolean, number: number): Effect.Effect<A, Refusal | AmqpConnectionError> =>
      Effect.catchTag(
        running.withPermits(alone || number > together ? window : 1)(use(channel)),
        "AmqpChannelClosed",
        (error) => {
          if (error.cause?._tag === "AmqpConnectionError") return Effect.fail(error.cause)
          return number > together ? Effect.fail(error) : attempt(use, alone, number + 1)
        }
      )
    return (use, alone = false) => attempt(use, alone, 1)
  })

// -----------------------------------------------------------------------------
// declaring
// -----------------------------------------------------------------------------

/** What one pass over a topology needs to know. */
export interface Pass {
  readonly connection: AmqpConnection
  readonly session: Session
  /** In order. */
  readonly entities: ReadonlyArray<Entity>
  /** The policy of entities without one of their own. */
  readonly onFailure: OnFailure
  /** The refusals of this topology, over all epochs. */
  readonly refusals: TopologyRefusals
  /** An entity was declared, or was refused and may be tried again. */
  readonly onAttempt: (entity: Entity, failure: AmqpTopologyError | undefined) => Effect.Effect<void>
  /** An entity is not tried again. */
  readonly onGivenUp: (entity: Entity) => void
}

/** What a pass could not declare: failures, and entities that the policy skips. */
export interface Outcome {
  readonly failed: ReadonlyArray<AmqpTopologyError>
  readonly skipped: ReadonlyArray<AmqpTopologyError>
}

/** Retries without end while the failure is transient, with delays of up to 5 s. */
export const whileTransient: Schedule.Schedule<unknown, AmqpTopologyError> = backoff(Duration.seconds(5)).pipe(
  Schedule.setInputType<AmqpTopologyError>(),
  Schedule.while(({ input }) => isTransient(input))
)

/** The name of a queue in this session. */
const nameIn = (
  session: Session,
  queue: QueueRef
): Effect.Effect<string, AmqpEncodeError> => {
  const name = typeof queue === "string" ? queue : queueNameIn(session, queue)
  if (name !== undefined) return Effect.succeed(name)
  return Effect.fail(new AmqpEncodeError({ path: "queue", reason: "the server-named queue could not be declared" }))
}

const declareOn = (
  pass: Pass,
  channel: AmqpChannel,
  entity: Entity
): Effect.Effect<unknown, Refusal | AmqpConnectionError> => {
  switch (entity._tag) {
    case "Exchange":
      if (isPredefined(entity.name)) return channel.exchangeDeclarePassive(entity.name)
      return channel.exchangeDeclare({ ...entity, exchange: entity.name })
    case "PassiveExchange":
      return channel.exchangeDeclarePassive(entity.name)
    case "Queue":
      if (isPredefined(entity.name)) return channel.queueDeclarePassive(entity.name)
      return channel.queueDeclare({ ...entity, queue: entity.name })
    case "PassiveQueue":
      return channel.queueDeclarePassive(entity.name)
    case "ServerNamedQueue":
      return Effect.map(
        channel.queueDeclare(entity),
        ({ queue }) => setQueueName(pass.session, entity, queue)
      )
    case "QueueBinding":
      return Effect.flatMap(nameIn(pass.session, entity.queue), (queue) => channel.queueBind({ ...entity, queue }))
    case "ExchangeBinding":
      return channel.exchangeBind(entity)
  }
}

/** Declares everything, and retries as the policies say. Fails only with the session. */
export const declareAll = (pass: Pass): Effect.Effect<Outcome, AmqpConnectionError> =>
  Effect.scoped(Effect.gen(function*() {
    const inner = pass.connection[internals]()
    const send = yield* makeSend(pass.session, inner, inner.ending.opened())
    const failed: Array<AmqpTopologyError> = []
    const skipped: Array<AmqpTopologyError> = []
    /** For each key, done when its entity is declared or given up. */
    const settled = new Map<unknown, { readonly entity: Entity; readonly done: Deferred.Deferred<void> }>()
    for (const entity of pass.entities) {
      const key = keyOf(entity)
      if (key !== undefined) settled.set(key, { entity, done: Deferred.makeUnsafe() })
    }
    const dependencies = (entity: Entity) => dependenciesOf(entity).flatMap((key) => settled.get(key) ?? [])

    /** Requests without an answer. Those that have none when the session ends stay here. */
    const unanswered = new Set<Entity>()
    const declare = (entity: Entity): Effect.Effect<unknown, Refusal | AmqpConnectionError> =>
      send((channel) => {
        const declaring = (entity: Entity) =>
          Effect.flatMap(channel, (channel) => {
            unanswered.add(entity)
            return Effect.tapError(
              Effect.tap(declareOn(pass, channel, entity), () => Effect.sync(() => unanswered.delete(entity))),
              () => pass.session.error === undefined ? Effect.sync(() => unanswered.delete(entity)) : Effect.void
            )
          })
        /**
         * Declares it again together with what it binds: an auto-delete exchange goes with the last binding of our dead
         * connection.
         */
        const declaringAgain = Effect.andThen(
          Effect.forEach(
            dependencies(entity).filter(({ entity }) =>
              entity._tag !== "ServerNamedQueue" && pass.refusals.reason(entity) === undefined
            ),
            ({ entity }) => Effect.catchIf(declaring(entity), isSoft, () => Effect.void)
          ),
          declaring(entity)
        )
        if (dependencies(entity).length === 0) return declaring(entity)
        return Effect.catchTag(declaring(entity), "AmqpNotFound", () => declaringAgain)
      }, pass.refusals.isSuspect(entity))

    const ended = Deferred.makeUnsafe<never, AmqpConnectionError>()
    const fail = (entity: Entity, cause: AmqpTopologyError["cause"]) => {
      const failure = new AmqpTopologyError({ entity: describe(entity), cause })
      return Effect.andThen(pass.onAttempt(entity, failure), Effect.fail(failure))
    }
    const attempt = (entity: Entity): Effect.Effect<void, AmqpTopologyError> =>
      Effect.suspend(() => {
        const reason = pass.refusals.reason(entity)
        if (reason !== undefined) return fail(entity, reason)
        return Effect.matchEffect(declare(entity), {
          onSuccess: () => {
            pass.refusals.clear(entity)
            return pass.onAttempt(entity, undefined)
          },
          // The policies do not apply: the whole pass ends.
          onFailure: (cause) =>
            cause._tag === "AmqpConnectionError"
              ? Effect.andThen(Deferred.fail(ended, cause), Effect.never)
              : fail(entity, cause)
        })
      })

    const one = (entity: Entity) =>
      Effect.gen(function*() {
        for (const { done } of dependencies(entity)) yield* Deferred.await(done)
        const policy = entity.onFailure ?? pass.onFailure
        const result = yield* Effect.result(
          typeof policy === "string" ? attempt(entity) : Effect.retry(attempt(entity), policy.retry)
        )
        if (result._tag === "Failure") {
          ;(policy === "skip" ? skipped : failed).push(result.failure)
          pass.onGivenUp(entity)
        }
        const own = settled.get(keyOf(entity))
        if (own !== undefined) Deferred.doneUnsafe(own.done, Effect.void)
      })

    const all = Effect.forEach(pass.entities, one, { concurrency: "unbounded", discard: true })
    yield* Effect.tapError(
      Effect.raceFirst(all, Deferred.await(ended)),
      (error) => Effect.sync(() => pass.refusals.onEnd(error, unanswered, pass.session))
    )
    return { failed, skipped }
  }))

// -----------------------------------------------------------------------------
// deleting
// -----------------------------------------------------------------------------

const deleteOn = (
  pass: Pick<Pass, "session">,
  channel: AmqpChannel,
  entity: Entity
): Effect.Effect<unknown, Refusal | AmqpConnectionError> => {
  switch (entity._tag) {
    case "Exchange":
      return channel.exchangeDelete({ exchange: entity.name })
    case "Queue":
      return channel.queueDelete({ queue: entity.name })
    case "ServerNamedQueue":
      return Effect.flatMap(nameIn(pass.session, entity), (queue) => channel.queueDelete({ queue }))
    case "QueueBinding":
      return Effect.flatMap(nameIn(pass.session, entity.queue), (queue) => channel.queueUnbind({ ...entity, queue }))
    case "ExchangeBinding":
      return channel.exchangeUnbind(entity)
    default:
      return Effect.void
  }
}

/** Deletes entities, which are given in the order of their declaration, in reverse. What cannot be deleted stays. */
export const deleteAll = (
  pass: Pick<Pass, "connection" | "session" | "entities">
): Effect.Effect<void> =>
  Effect.scoped(Effect.gen(function*() {
    const send = yield* makeSend(pass.session, pass.connection[internals](), 0)
    yield* Effect.forEach(
      pass.entities.toReversed(),
      (entity) => Effect.ignore(send(Effect.flatMap((channel) => deleteOn(pass, channel, entity)))),
      { concurrency: "unbounded", discard: true }
    )
  }))

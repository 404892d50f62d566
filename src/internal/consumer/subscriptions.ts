/**
 * Keeps the queues of a consumer subscribed. At first all share one channel. A queue that is cancelled or refused
 * recovers on a channel of its own, so that the others do not notice.
 *
 * Queues that share a channel are a *group* with a fiber and a recovery schedule. A group loses its channel as a whole.
 * A queue that the broker cancels or refuses leaves its group and becomes a new one. The deliveries of all groups go
 * into one buffer. Handlers are not here.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Pull from "effect/Pull"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import type { AmqpSupervisedDelivery } from "../channel/delivery.ts"
import type { ConsumeError } from "../channel/errors.ts"
import { openChannelOn } from "../channel/open.ts"
import { channelClosed } from "../channel/requests.ts"
import { type AmqpConnection, internals } from "../connection/service.ts"
import { DeliveryBuffer } from "../engine/deliveries.ts"
import type { Session } from "../engine/session.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import { isSoft } from "../errors/soft.ts"
import { AmqpTopologyError, AmqpTopologyPending } from "../topology/error.ts"
import { queueText } from "../topology/order.ts"
import { isRestored, type QueueRef, resolveQueue } from "../topology/queueNames.ts"
import type { InputTable } from "../values/tableValue.ts"
import { Attachment, type AttachmentEvent } from "./attachment.ts"
import { AmqpConsumerFailed, type ConsumerPhase, labelOf } from "./failure.ts"

/** What the consumer needs to know. */
export interface SubscriptionsOptions {
  readonly connection: AmqpConnection
  readonly queues: ReadonlyArray<QueueRef>
  /** Runs before each attempt to attach. */
  readonly prepare: Effect.Effect<unknown, AmqpConsumerFailed>
  /** Whether that declares a queue: one that is not found has gone in between, and comes back. */
  readonly declares: (queue: QueueRef) => boolean
  readonly recover: Schedule.Schedule<unknown, AmqpConsumerFailed>
  /** The present prefetch. */
  readonly prefetch: () => number
  /** Whether the prefetch is the channel's, for all its queues together. */
  readonly sharedPrefetch: boolean
  readonly consumerTag: string | undefined
  readonly exclusive: boolean | undefined
  readonly arguments: InputTable | undefined
  readonly onAttached: (epoch: number) => void
  readonly onRecovering: (cause: AmqpConsumerFailed) => void
}

/** A consumer that runs. */
export interface Subscriptions {
  /** The deliveries of all queues. */
  readonly buffer: DeliveryBuffer<AmqpSupervisedDelivery>
  /** Why it has failed for good. */
  readonly failed: Effect.Effect<never, AmqpConsumerFailed>
  /** Subscribes again, with the present prefetch. */
  readonly renew: () => void
  /** Hands out nothing any more, gives back what nobody handles, and stops recovering. Waits for nothing. */
  readonly leave: () => void
}

type Step = (now: number, failure: AmqpConsumerFailed) => Pull.Pull<[unknown, Duration.Duration], never, unknown>

/** The delay of a schedule's step; none where it gives up. */
const delayOf = (step: ReturnType<Step>): Effect.Effect<Option.Option<Duration.Duration>> =>
  Pull.catchDone(Effect.map(step, ([, delay]) => Option.some(delay)), () => Effect.succeedNone)

/** After a group has lived for so many milliseconds, or has delivered something, its schedule begins anew. */
const stable = 10_000

/**
 * How often in a row the connection may end with the same words while a subscription waits for its answer. Then it is
 * this consumer that the broker refuses.
 */
const equalRefusals = 3

/**
 * The broker's words, if it ended the connection over a `basic.qos` or `basic.consume`. `undefined` if they name a
 * queue of another consumer: everybody who waits for an answer at that time hears the same.
 */
const refusalOf = ({ phase, reason }: AmqpConsumerFailed, { names }: Group): string | undefined => {
  if ((phase !== "qos" && phase !== "consume") || !(reason instanceof AmqpConnectionError)) return undefined
  const { reason: why } = reason
  if (!("classId" in why) || why.classId !== 60 || (why.methodId !== 10 && why.methodId !== 20)) return undefined
  const isOurs = !why.replyText.includes("'") || [...names.values()].some((name) => isNamed(name, why.replyText))
  return isOurs ? `${why.replyCode} ${why.replyText}` : undefined
}

const isNamed = (queue: string, replyText: string): boolean => replyText.includes(`'${queue}'`)

/** Why an attempt to subscribe has failed, and the queue whose fault it is, if it is the fault of one. */
interface Refusal {
  readonly failure: AmqpConsumerFailed
  readonly queue?: QueueRef | undefined
}

type Event = AttachmentEvent | { readonly _tag: "Renew" }

/** The queues that share a channel, and their state. */
class Group {
  members: ReadonlyArray<QueueRef>
  /** The names of the members that were subscribed to. */
  readonly names = new Map<QueueRef, string>()
  failure: AmqpConsumerFailed | undefined
  /** Whether it waits to try again. */
  isWaiting = false
  epoch: number | undefined
  /** What happens to the present attachment. */
  events: Queue.Queue<Event> | undefined

  constructor(members: ReadonlyArray<QueueRef>, failure: AmqpConsumerFailed | undefined) {
    this.members = members
    this.failure = failure
  }

  remove(queues: ReadonlyArray<QueueRef>): void {
    const removed = new Set(queues)
    this.members = this.members.filter((queue) => !removed.has(queue))
    for (const queue of queues) this.names.delete(queue)
  }
}

/** Subscribes and keeps subscribed. The scope closes the channels, within the connection's ending. */
export const makeSubscriptions = (options: SubscriptionsOptions): Effect.Effect<Subscriptions, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { connection, queues, sharedPrefetch } = options
    const { ending, isOver, session: opened } = connection[internals]()
    const clock = yield* Clock.Clock
    // All close at once: each waits for an answer of the broker.
    const channels = yield* Scope.fork(yield* Effect.scope, "parallel")
    const supervising = yield* FiberSet.make<void>()
    const failed = Deferred.makeUnsafe<never, AmqpConsumerFailed>()
    const buffer = new DeliveryBuffer<AmqpSupervisedDelivery>()
    const groups = new Set<Group>()
    const attachments = new Map<Attachment, Scope.Closeable>()
    /** Those that no group looks after any more, for deliveries that are not settled. */
    const left = new Set<Attachment>()
    let isLeaving = false

    const end = (result: Effect.Effect<never, AmqpConsumerFailed>): Effect.Effect<void> =>
      Effect.sync(() => {
        Deferred.doneUnsafe(failed, result)
        buffer.end({ _tag: "Cancelled" })
      })

    const showStatus = (): void => {
      let epoch: number | undefined
      for (const group of groups) {
        if (group.failure !== undefined) return options.onRecovering(group.failure)
        if (group.epoch === undefined) return
        epoch = group.epoch
      }
      if (epoch !== undefined) options.onAttached(epoch)
    }

    // --- one attempt

    const failedIn = (members: ReadonlyArray<QueueRef>, phase: ConsumerPhase) =>
    (
      reason: AmqpConsumerFailed["reason"]
    ): AmqpConsumerFailed => new AmqpConsumerFailed({ queue: labelOf(members), phase, reason })

    const consumerTag = (session: Session, queue: QueueRef): string => {
      if (options.consumerTag === undefined) return session.consumerTag()
      return queues.length === 1 ? options.consumerTag : `${options.consumerTag}.${queues.indexOf(queue)}`
    }

    const refusalFor = (queue: QueueRef, error: ConsumeError, since: number): AmqpConsumerFailed => {
      const isAway = (error._tag === "AmqpNotFound" || error._tag === "AmqpEncodeError") &&
        (options.declares(queue) || isRestored(connection, queue, since))
      return failedIn([queue], "consume")(
        isAway ? new AmqpTopologyError({ entity: queueText(queue), cause: new AmqpTopologyPending({}) }) : error
      )
    }

    const subscribeTo = (
      group: Group,
      attachment: Attachment,
      session: Session,
      queue: QueueRef
    ): Effect.Effect<Refusal | undefined> => {
      const since = clock.currentTimeMillisUnsafe()
      return Effect.matchEffect(
        Effect.flatMap(
          resolveQueue(connection, queue),
          (name) => {
            group.names.set(queue, name)
            return attachment.subscribe(queue, name, consumerTag(session, queue), options)
          }
        ),
        {
          onSuccess: () => Effect.undefined,
          onFailure: (error) => {
            const failure = refusalFor(queue, error, since)
            const isAlone = error._tag === "AmqpConnectionError"
              ? "replyText" in error.reason && isNamed(group.names.get(queue) ?? "", error.reason.replyText)
              : error._tag !== "AmqpChannelClosed"
            return Effect.succeed(isAlone ? { failure, queue } : { failure })
          }
        }
      )
    }

    /** Subscribes to all queues of a group at once. */
    const subscribe = (
      group: Group,
      attachment: Attachment,
      session: Session
    ): Effect.Effect<Refusal | undefined> =>
      Effect.matchEffect(attachment.qos(options.prefetch(), sharedPrefetch), {
        onFailure: (error) => Effect.succeed({ failure: failedIn(group.members, "qos")(error) }),
        onSuccess: () =>
          Effect.map(
            Effect.forEach(group.members, (queue) => subscribeTo(group, attachment, session, queue), {
              concurrency: "unbounded"
            }),
            (refusals) =>
              refusals.find((refusal) => refusal?.queue !== undefined) ?? refusals.find(Predicate.isNotUndefined)
          )
      })

    /** Nothing is subscribed to any more: what is left to hear is the end of the connection. */
    const closed = (group: Group): Effect.Effect<AmqpConsumerFailed> =>
      Effect.map(connection.closed, failedIn(group.members, "channel"))

    // --- one channel

    const close = (attachment: Attachment): Effect.Effect<void> =>
      Effect.suspend(() => {
        const scope = attachments.get(attachment)
        attachments.delete(attachment)
        left.delete(attachment)
        return scope === undefined ? Effect.void : Scope.close(scope, Exit.void)
      })

    /** Closes channels without a subscribed queue, once all their deliveries are settled. */
    const sweep = Effect.suspend(() =>
      Effect.forEach([...left].filter(({ isSpent }) => isSpent), close, { discard: true })
    )

    /**
     * Moves the other queues that are missing or locked out of a group. It uses channels to which no message comes: a
     * message that a channel has when it is closed comes back as delivered once more, which a delivery limit counts.
     */
    const sift = (group: Group, session: Session): Effect.Effect<void> =>
      Effect.gen(function*() {
        let unknown = group.members
        while (unknown.length > 0) {
          const since = clock.currentTimeMillisUnsafe()
          const open = yield* openChannelOn(session, ending)
          const errors = yield* Effect.forEach(
            unknown,
            (queue) =>
              Effect.match(
                Effect.flatMap(resolveQueue(connection, queue), (name) => open.channel.queueDeclarePassive(name)),
                { onFailure: (error) => error, onSuccess: () => undefined }
              ),
            { concurrency: "unbounded" }
          )
          yield* open.close
          const at = errors.findIndex((error) => error?._tag === "AmqpNotFound" || error?._tag === "AmqpResourceLocked")
          const [queue, error] = [unknown[at], errors[at]]
          if (queue === undefined || error === undefined) return
          yield* part(group, [queue], refusalFor(queue, error, since))
          unknown = unknown.slice(at + 1)
        }
      }).pipe(Effect.scoped, Effect.ignore)

    /** Moves the blame for an attempt from the group to the one queue at fault. */
    const onRefused = (
      group: Group,
      { failure, queue }: Refusal,
      session: Session
    ): Effect.Effect<AmqpConsumerFailed | undefined> => {
      // It is ours, or nobody's to recover from.
      if (isLeaving) return closed(group)
      if (group.members.length === 1) return Effect.succeed(failure)
      const { reason } = failure
      if (queue !== undefined) {
        const parted = part(group, [queue], failure)
        return reason._tag === "AmqpConnectionError"
          ? Effect.as(parted, failure)
          : Effect.as(Effect.andThen(parted, sift(group, session)), undefined)
      }
      if (reason._tag !== "AmqpChannelClosed" || !isSoft(reason.cause)) return Effect.succeed(failure)
      // One of them is at fault, nobody knows which. Each half tries alone.
      return Effect.as(part(group, group.members.slice(group.members.length / 2), undefined), undefined)
    }

    /** Waits until the attachment has ended, or has no queue any more. Returns why. */
    const watch = (
      group: Group,
      attachment: Attachment,
      session: Session,
      events: Queue.Queue<Event>
    ): Effect.Effect<AmqpConsumerFailed | undefined> =>
      Effect.gen(function*() {
        while (group.members.length > 0) {
          const happened = yield* Queue.takeAll(events)
          const cancelled = happened.filter((event) => event._tag === "Cancelled")
          const [first] = cancelled
          if (first !== undefined) {
            const left = cancelled.map(({ queue }) => queue)
            yield* part(group, left, failedIn(left, "deliver")(first.error))
          }
          const closed = happened.find((event) => event._tag === "ChannelClosed")
          if (closed !== undefined) {
            const { cause } = closed
            const reason = cause instanceof AmqpConnectionError
              ? cause
              : channelClosed(attachment.state, "basic.deliver")
            return failedIn(group.members, "deliver")(reason)
          }
          if (group.members.length > 0 && happened.some((event) => event._tag === "Renew")) {
            // If stopping fails, the channel has failed, and an event reports that.
            if (!sharedPrefetch) yield* Effect.ignore(attachment.stop)
            const refused = yield* sharedPrefetch ? renewShared(attachment) : subscribe(group, attachment, session)
            if (refused !== undefined) return yield* onRefused(group, refused, session)
          }
        }
        return undefined
      })

    const renewShared = (attachment: Attachment): Effect.Effect<undefined> =>
      Effect.as(Effect.ignore(attachment.qos(options.prefetch(), true)), undefined)

    /**
     * Attaches a group and waits until it is detached. Returns the failure, or nothing if other groups recover from it.
     */
    const live = (group: Group, onStable: () => void): Effect.Effect<AmqpConsumerFailed | undefined> =>
      Effect.gen(function*() {
        yield* sweep
        if (isLeaving) return yield* closed(group)
        // It may wait to try again.
        yield* Effect.raceFirst(options.prepare, Effect.flatMap(closed(group), Effect.fail))
        const { session } = yield* Effect.mapError(opened, failedIn(group.members, "channel"))
        const scope = yield* Scope.fork(channels)
        const open = yield* openChannelOn(session, ending).pipe(
          Scope.provide(scope),
          Effect.mapError(failedIn(group.members, "channel")),
          // What stays in the scope keeps the whole session.
          Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
        )
        const events = yield* Queue.unbounded<Event>()
        buffer.moveTo(session)
        const attachment = new Attachment(open, buffer, (event) => Queue.offerUnsafe(events, event))
        attachments.set(attachment, scope)
        if (isLeaving) attachment.leave()
        // From here on: a prefetch that changes while this subscribes would be lost.
        group.events = events
        const refused = yield* subscribe(group, attachment, session)
        if (refused !== undefined) {
          yield* close(attachment)
          return yield* onRefused(group, refused, session)
        }
        const since = clock.currentTimeMillisUnsafe()
        attachment.release()
        group.epoch = session.epoch
        group.failure = undefined
        showStatus()
        const failure = yield* watch(group, attachment, session, events)
        group.events = undefined
        group.epoch = undefined
        if (attachment.hasDelivered || clock.currentTimeMillisUnsafe() - since >= stable) onStable()
        if (attachment.isSpent) yield* close(attachment)
        else left.add(attachment)
        return failure
      }).pipe(Effect.catch(Effect.succeed))

    // --- a group

    /** Moves some queues of a group into a new one. */
    const part = (
      group: Group,
      members: ReadonlyArray<QueueRef>,
      failure: AmqpConsumerFailed | undefined
    ): Effect.Effect<void> => {
      group.remove(members)
      return begin(new Group(members, failure))
    }

    /** Whether it was subscribed, and has lost its connection. */
    const isLost = ({ failure }: Group): boolean =>
      failure?.phase === "deliver" && failure.reason instanceof AmqpConnectionError

    /** Those that have lost the same connection share a channel again: else each queue ends up with one of its own. */
    const gather = (group: Group): void => {
      if (!isLost(group)) return
      for (const other of groups) {
        if (!other.isWaiting || !isLost(other)) continue
        group.members = [...group.members, ...other.members]
        other.members = []
      }
    }

    const begin = (group: Group): Effect.Effect<void> =>
      Effect.suspend(() => {
        groups.add(group)
        // After a defect of this library the consumer must fail: nobody would look after it any more.
        const kept = Effect.catchCause(keep(group), (cause) =>
          Cause.hasInterruptsOnly(cause) ? Effect.void : end(Effect.failCause(cause)))
        return Effect.asVoid(FiberSet.run(supervising, kept))
      })

    /** Keeps a group subscribed until it has no members, or has failed for good. */
    const keep = (group: Group): Effect.Effect<void> =>
      Effect.gen(function*() {
        let step: Step | undefined
        let { failure } = group
        let refusal: string | undefined
        let refusals = 0
        while (group.members.length > 0) {
          if (failure !== undefined) {
            group.failure = failure
            const words = refusalOf(failure, group)
            refusals = words !== undefined && words === refusal ? refusals + 1 : 1
            refusal = words
            const isClosed = failure.reason instanceof AmqpConnectionError && isOver()
            // Not what happened to it meanwhile.
            if (isClosed) failure = failedIn(group.members, failure.phase)(yield* connection.closed)
            const isFinal = refusals === equalRefusals || isClosed
            step ??= yield* Schedule.toStep(options.recover)
            const delay = isFinal ? Option.none() : yield* delayOf(step(clock.currentTimeMillisUnsafe(), failure))
            if (Option.isNone(delay)) return yield* end(Effect.fail(failure))
            showStatus()
            group.isWaiting = true
            yield* Effect.sleep(delay.value)
            group.isWaiting = false
            gather(group)
            // It goes with another one.
            if (group.members.length === 0) break
          }
          failure = yield* live(group, () => {
            step = undefined
          })
        }
        groups.delete(group)
        showStatus()
      })

    yield* begin(new Group(queues, undefined))
    return {
      buffer,
      failed: Deferred.await(failed),
      renew: () => {
        for (const { events } of groups) if (events !== undefined) Queue.offerUnsafe(events, { _tag: "Renew" })
      },
      leave: () => {
        isLeaving = true
        for (const attachment of attachments.keys()) attachment.leave()
      }
    }
  })

/**
 * Publishing that is confirmed and survives: a publisher has a channel of its own, which is replaced when it is gone, a
 * window of unconfirmed messages, and one outcome for each message.
 *
 * A publish succeeds when the broker has taken responsibility for the message and, unless `mandatory` is off, a queue
 * has it. While there is no channel (the connection is lost, or a refused publish has closed it) publishes wait for the
 * next one. A message that was written but not confirmed when a channel went away is not sent again: it fails with
 * `AmqpPublishUnconfirmed`. The option `resend` sends it again, which may give duplicates.
 *
 * If the broker refuses a message, it closes the channel and does not say which message it was. The publisher finds it
 * by the broker's words, or, with a resend, by sending messages in doubt again one at a time while others go on.
 *
 * A publisher does not buffer for a broker that is away, neither on disk nor in memory: callers wait. Messages of one
 * fiber keep their order, except those that are sent again.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Pull from "effect/Pull"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Sink from "effect/Sink"
import type { PublishError, RequestError } from "./internal/channel/errors.ts"
import { contentGate, publishConfirmed, takesContent } from "./internal/channel/requests.ts"
import type { PropertiesInput, Publish } from "./internal/codec/message.ts"
import { duration, integer, invalid, shown } from "./internal/connection/optionChecks.ts"
import { AmqpConnection, internals } from "./internal/connection/service.ts"
import { AmqpChannelClosed } from "./internal/errors/channel.ts"
import { AmqpConnectionError } from "./internal/errors/connection.ts"
import { AmqpMessageReturned, AmqpPublishNacked, AmqpPublishUnconfirmed } from "./internal/errors/publish.ts"
import {
  AmqpAccessRefused,
  AmqpChannelException,
  AmqpContentTooLarge,
  AmqpNotFound,
  AmqpPreconditionFailed
} from "./internal/errors/soft.ts"
import { isTransient } from "./internal/errors/transient.ts"
import { AmqpEncodeError } from "./internal/errors/value.ts"
import { type BatchFailure, PublishBatch } from "./internal/publisher/batch.ts"
import { make as makeChannels } from "./internal/publisher/channels.ts"
import { isDirectReply } from "./internal/values/directReply.ts"

const TypeId = "~effect-amqp/AmqpPublisher"

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

export type { PublishError } from "./internal/channel/errors.ts"

const PublishErrorSchema = Schema.Union([
  AmqpAccessRefused,
  AmqpNotFound,
  AmqpPreconditionFailed,
  AmqpContentTooLarge,
  AmqpChannelException,
  AmqpPublishNacked,
  AmqpMessageReturned,
  AmqpPublishUnconfirmed,
  AmqpChannelClosed,
  AmqpConnectionError,
  AmqpEncodeError
])

/**
 * A message was sent again and is still not confirmed: the schedule gave up, a later attempt failed with something that
 * is not transient, or the message ends connections. It is not sent any more.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpResendFailed
  extends Schema.TaggedError<AmqpResendFailed>("effect-amqp/AmqpResendFailed")("AmqpResendFailed", {
    exchange: Schema.String,
    routingKey: Schema.String,
    /** The `messageId` that all attempts had. */
    messageId: Schema.String,
    /** How often it was sent, the first time included. */
    attempts: Schema.Int,
    /** Whether an attempt ended in doubt: the message may be stored, even more than once. */
    inDoubt: Schema.Boolean,
    /** What the last attempt failed with. */
    cause: PublishErrorSchema
  })
{
  override get message(): string {
    const { attempts, cause, exchange, inDoubt, messageId, routingKey } = this
    return `message ${messageId} to exchange ${JSON.stringify(exchange)}, routing key ${
      JSON.stringify(routingKey)
    } was ` +
      `given up after ${attempts} ${attempts === 1 ? "attempt" : "attempts"}, ${
        inDoubt ? "it may be stored all the same" : "no attempt was confirmed"
      }: ${cause.message}`
  }
}

/**
 * Some messages of a `publishAll` were not published; all others are confirmed.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpBatchError extends Schema.TaggedError<AmqpBatchError>("effect-amqp/AmqpBatchError")("AmqpBatchError", {
  /** How many messages the batch had. */
  total: Schema.Int,
  /** The place of each such message in the batch, and its error. In the order of the batch. */
  failures: Schema.Array(Schema.Struct({
    index: Schema.Int,
    error: Schema.Union([...PublishErrorSchema.members, AmqpResendFailed])
  }))
}) {
  override get message(): string {
    const [first] = this.failures
    return `${this.failures.length} of ${this.total} messages were not published, the first of them (${first?.index}): ` +
      `${first?.error.message}`
  }
}

/**
 * The errors that are left when `resend` handles transient ones.
 *
 * @category errors
 * @since 0.1.0
 */
export type ResendError = Exclude<PublishError, AmqpPublishNacked | AmqpPublishUnconfirmed> | AmqpResendFailed

// -----------------------------------------------------------------------------
// the publisher
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Messages that may be unconfirmed at a time. Further publishes wait. At least 1. Defaults to 1024. */
  readonly maxInFlight?: number | undefined
  /**
   * Whether a message that no queue takes fails with `AmqpMessageReturned`, if the message itself does not say. Without
   * it a broker confirms messages that it could not route. Defaults to `true`, except for replies to direct reply-to
   * names (`amq.rabbitmq.reply-to.…`), which RabbitMQ before 4.3 both returns and delivers.
   */
  readonly mandatory?: boolean | undefined
  /** Whether durable queues keep a message over a restart, if it has no `deliveryMode`. Defaults to `true`. */
  readonly persistent?: boolean | undefined
  /** The exchange of messages that name none. Defaults to the default exchange (`""`). */
  readonly exchange?: string | undefined
  /**
   * How long the broker may take to confirm a message, give or take a quarter. Then it fails with
   * `AmqpPublishUnconfirmed`, but counts for `maxInFlight` until the broker answers. The time goes on while the
   * connection is blocked. Defaults to the life of the channel.
   */
  readonly confirmTimeout?: Duration.Input | undefined
}

/**
 * Asks for at-least-once.
 *
 * **Details**
 *
 * A message that may succeed later is published again under the schedule until it is confirmed: it is in doubt or
 * nacked, there was no connection in time, or the connection ended, for whatever reason. The input of the schedule is
 * the error. All attempts carry the same `messageId` (a new UUID if the message has none), by which consumers can
 * recognise duplicates. An error that is not transient, and the final end of the connection, fail the publish: at the
 * first attempt with the error itself, later with `AmqpResendFailed`. A refusal of the message itself (406, 311) is
 * always the error itself.
 *
 * If the broker refuses a message in words that name none, each message that it may be is sent alone from then on, on a
 * second channel. So is a message that was lost with a connection twice. If a message is alone when the broker closes
 * the connection because of a publish, or without saying why, it is given up the second time.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResendOptions {
  readonly resend: Schedule.Schedule<unknown, PublishError>
}

/** Options without a resend. */
type NoResendOptions = { readonly resend?: undefined }

/**
 * A publisher.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpPublisher {
  readonly [TypeId]: typeof TypeId
  /**
   * Publishes a message and waits for its one outcome.
   *
   * **Details**
   *
   * Waits for an open connection, at most `waitTimeout`. Waits without limit while the broker is short of a resource
   * (`connection.blocked`), too much is unwritten, or too many messages are unconfirmed. If it fails or is interrupted
   * there, the message was never sent and never will be. If it is interrupted later, nobody learns the outcome.
   */
  readonly publish: {
    (message: Publish, options?: NoResendOptions): Effect.Effect<void, PublishError>
    (message: Publish, options: ResendOptions): Effect.Effect<void, ResendError>
  }
  /**
   * Publishes messages in order and waits once for all of them, which is cheaper than one `publish` for each. Each has
   * its own outcome. The `AmqpBatchError` lists those that failed; the others are confirmed.
   */
  readonly publishAll: (
    messages: Iterable<Publish>,
    options?: NoResendOptions | ResendOptions
  ) => Effect.Effect<void, AmqpBatchError>
  /**
   * Publishes a stream, as fast as the broker confirms. Ends when all messages are confirmed. Fails with the first
   * failure, which stops the stream; messages that are on their way may still be confirmed.
   */
  readonly sink: {
    (options?: NoResendOptions): Sink.Sink<void, Publish, never, PublishError>
    (options: ResendOptions): Sink.Sink<void, Publish, never, ResendError>
  }
  /** Waits until every message that is on its way has its outcome. */
  readonly waitForConfirms: Effect.Effect<void>
}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpPublisher = Context.Service<AmqpPublisher>("effect-amqp/AmqpPublisher")

/** Refusals of the message itself: no attempt can have stored it, also not one that ended in doubt. */
const isOfMessage = ({ _tag }: PublishError): boolean =>
  _tag === "AmqpPreconditionFailed" || _tag === "AmqpContentTooLarge" || _tag === "AmqpEncodeError"

/** What is known of a message after attempts with an unknown outcome. */
interface Doubt {
  /** How many attempts ended in doubt. */
  readonly times: number
  /** Whether the broker may have refused it: it is sent alone from now on. */
  readonly isQuestioned: boolean
  /** How often it was alone when the broker closed the connection because of a publish. */
  readonly closings: number
}

const noDoubt: Doubt = { times: 0, isQuestioned: false, closings: 0 }

/** After so many attempts that were lost without a word, the message is questioned: it may be what ends connections. */
const losses = 2

/**
 * How often the broker may close the connection of a message that is alone. Once may be the fault of another message.
 */
const closings = 2

const doubted = (before: Doubt, { error, isQuestioned }: BatchFailure): Doubt => {
  if (error._tag !== "AmqpPublishUnconfirmed") return before
  const isClosing = before.isQuestioned && isQuestioned && error.cause?._tag === "AmqpConnectionError"
  return {
    times: before.times + 1,
    isQuestioned: before.isQuestioned || isQuestioned || before.times + 1 >= losses,
    closings: before.closings + (isClosing ? 1 : 0)
  }
}

/** The refusal that leaves a message in doubt. */
const refusalIn = (error: PublishError): PublishError => {
  const cause = error._tag === "AmqpPublishUnconfirmed" ? error.cause : undefined
  return cause?._tag === "AmqpNotFound" || cause?._tag === "AmqpAccessRefused" ? cause : error
}

/** What a publisher adds to a message. */
const completing = (options: Options) => {
  const { exchange = "", mandatory = true, persistent = true } = options
  const deliveryMode = persistent ? 2 : 1
  const properties: PropertiesInput = { deliveryMode }
  const complete = (given: PropertiesInput | undefined): PropertiesInput => {
    if (given === undefined) return properties
    return given.deliveryMode === undefined ? { ...given, deliveryMode } : given
  }
  return (message: Publish): Publish => {
    const to = message.exchange ?? exchange
    return {
      exchange: to,
      routingKey: message.routingKey,
      body: message.body,
      properties: complete(message.properties),
      mandatory: message.mandatory ?? (mandatory && !isDirectReply(to, message.routingKey))
    }
  }
}

const identified = (message: Publish): Publish =>
  message.properties?.messageId === undefined
    ? { ...message, properties: { ...message.properties, messageId: crypto.randomUUID() } }
    : message

/** A message that was not published, and will not be. */
interface Unpublished {
  readonly index: number
  readonly error: ResendError
}

/**
 * Opens a publisher and closes it with the scope. Then publishes that wait fail, and those on their way have the
 * connection's `closeTimeout` to be confirmed, which is shared with everything that ends at the same time. Then the
 * channel is closed.
 *
 * **Details**
 *
 * Waits for its first channel. Fails with `AmqpEncodeError` for a `maxInFlight` that is not a positive integer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: Options = {}
): Effect.Effect<AmqpPublisher, RequestError, AmqpConnection | Scope.Scope> =>
  Effect.gen(function*() {
    const maxInFlight = yield* Effect.fromResult(
      integer("maxInFlight", options.maxInFlight ?? 1024, 1, Number.MAX_SAFE_INTEGER)
    )
    const confirmTimeout = options.confirmTimeout === undefined
      ? undefined
      : yield* Effect.fromResult(duration("confirmTimeout", options.confirmTimeout, Duration.infinity))
    for (
      const [option, type] of [["mandatory", "boolean"], ["persistent", "boolean"], ["exchange", "string"]] as const
    ) {
      const value: unknown = options[option]
      if (value !== undefined && typeof value !== type) {
        return yield* Effect.fromResult(
          invalid(option, `expected ${type === "string" ? "a text" : "true or false"}, not ${shown(value)}`)
        )
      }
    }
    const given = yield* AmqpConnection
    const connection = given.publishing ?? given
    const { isOver } = connection[internals]()
    const { idle, main: channel, questioned } = yield* makeChannels(connection, { maxInFlight, confirmTimeout })
    const complete = completing(options)

    const publishOnce = (message: Publish): Effect.Effect<void, PublishError> =>
      Effect.suspend(() => {
        const state = channel.open
        if (state !== undefined && takesContent(state)) return publishConfirmed(state, message)
        const gate = state === undefined ? channel.opened : contentGate(state)
        return Effect.flatMap(gate, () => publishOnce(message))
      })

    /** One attempt for each. */
    const publishEach = (messages: ReadonlyArray<Publish>): Effect.Effect<ReadonlyArray<BatchFailure>> =>
      Effect.suspend(() => {
        const batch = new PublishBatch(channel)
        return Effect.map(Effect.andThen(batch.add(messages), batch.settled), () => batch.takeFailures())
      })

    /** The same, each alone. */
    const publishAlone = (messages: ReadonlyArray<Publish>): Effect.Effect<ReadonlyArray<BatchFailure>> =>
      Effect.gen(function*() {
        const own = yield* questioned
        const batches = yield* Effect.forEach(messages, (message) => {
          const batch = new PublishBatch(own)
          return Effect.as(own.alone(batch.add([message]), batch.settled), batch)
        })
        const failures = yield* Effect.forEach(
          batches,
          (batch, index) =>
            Effect.map(batch.settled, () => batch.takeFailures().map((failure) => ({ ...failure, index })))
        )
        return failures.flat()
      })

    /** The end of a connection, or of a channel that was not opened, is only a loss, unless it is the final end. */
    const isPermanent = (
      error: PublishError
    ): error is Exclude<PublishError, AmqpPublishNacked | AmqpPublishUnconfirmed> => {
      if (error._tag === "AmqpConnectionError") {
        return isOver()
      }
      return error._tag === "AmqpChannelClosed" ? channel.isOver : !isTransient(error)
    }

    /** Goes on from the failures of the first attempt. */
    const resendEach = (
      failed: ReadonlyArray<BatchFailure>,
      { resend }: ResendOptions
    ): Effect.Effect<ReadonlyArray<Unpublished>> => {
      const unpublished: Array<Unpublished> = []
      const doubts = new Map<number, Doubt>()
      const doubtOf = (index: number): Doubt => doubts.get(index) ?? noDoubt
      let attempts = 0
      let failures = failed
      const givenUp = ({ error, index, message }: BatchFailure): Unpublished => ({
        index,
        error: new AmqpResendFailed({
          exchange: message.exchange ?? "",
          routingKey: message.routingKey ?? "",
          messageId: message.properties?.messageId ?? "",
          attempts,
          inDoubt: doubtOf(index).times > 0,
          cause: error
        })
      })
      const sort: Effect.Effect<void, PublishError> = Effect.suspend(() => {
        attempts++
        const again: Array<BatchFailure> = []
        for (const failure of failures) {
          const { error, index } = failure
          const doubt = doubted(doubtOf(index), failure)
          doubts.set(index, doubt)
          if (isPermanent(error)) {
            unpublished.push(attempts === 1 || isOfMessage(error) ? { index, error } : givenUp(failure))
          } else if (failure.isRefused) unpublished.push(givenUp({ ...failure, error: refusalIn(error) }))
          else if (doubt.closings === closings) unpublished.push(givenUp(failure))
          else again.push(failure)
        }
        failures = again
        return again[0] === undefined ? Effect.void : Effect.fail(again[0].error)
      })
      const attempt = (
        these: ReadonlyArray<BatchFailure>,
        publish: (messages: ReadonlyArray<Publish>) => Effect.Effect<ReadonlyArray<BatchFailure>>
      ): Effect.Effect<ReadonlyArray<BatchFailure>> =>
        these.length === 0 ? Effect.succeed(these) : Effect.map(
          publish(these.map(({ message }) => message)),
          (left) => left.map((failure) => ({ ...failure, index: these[failure.index]?.index ?? failure.index }))
        )
      const again: Effect.Effect<void, PublishError> = Effect.suspend(() => {
        if (attempts === 0) return sort
        const isAlone = ({ index }: BatchFailure): boolean => doubtOf(index).isQuestioned
        const alone = failures.filter(isAlone)
        const together = alone.length === 0 ? failures : failures.filter((failure) => !isAlone(failure))
        const attempted = Effect.all([attempt(together, publishEach), attempt(alone, publishAlone)], { concurrency: 2 })
        return Effect.flatMap(attempted, (left) => {
          failures = left.flat()
          return sort
        })
      })
      return Effect.retry(again, resend).pipe(
        Effect.catch(() => Effect.sync(() => unpublished.push(...failures.map(givenUp)))),
        Effect.as(unpublished)
      )
    }

    const publishUntilConfirmed = (
      messages: ReadonlyArray<Publish>,
      options: ResendOptions
    ): Effect.Effect<ReadonlyArray<Unpublished>> =>
      Effect.flatMap(
        publishEach(messages),
        (failures) => failures.length === 0 ? Effect.succeed([]) : resendEach(failures, options)
      )

    function publish(message: Publish, options?: NoResendOptions): Effect.Effect<void, PublishError>
    function publish(message: Publish, options: ResendOptions): Effect.Effect<void, ResendError>
    function publish(message: Publish, options: NoResendOptions | ResendOptions = {}) {
      if (options.resend === undefined) return publishOnce(complete(message))
      return Effect.flatMap(
        publishUntilConfirmed([identified(complete(message))], options),
        ([failure]) => failure === undefined ? Effect.void : Effect.fail(failure.error)
      )
    }

    const publishAll = (
      messages: Iterable<Publish>,
      options: NoResendOptions | ResendOptions = {}
    ): Effect.Effect<void, AmqpBatchError> =>
      Effect.suspend(() => {
        const prepare = options.resend === undefined ? complete : (message: Publish) => identified(complete(message))
        const prepared = Array.from(messages, prepare)
        const published: Effect.Effect<ReadonlyArray<BatchFailure | Unpublished>> = options.resend === undefined
          ? publishEach(prepared)
          : publishUntilConfirmed(prepared, options)
        return Effect.flatMap(published, (failed) => {
          if (failed.length === 0) return Effect.void
          const failures = failed.map(({ error, index }) => ({ index, error })).sort((a, b) => a.index - b.index)
          return Effect.fail(new AmqpBatchError({ total: prepared.length, failures }))
        })
      })

    const sinkOf = <E>(
      prepare: (message: Publish) => Publish,
      recover: (failures: ReadonlyArray<BatchFailure>) => Effect.Effect<ReadonlyArray<{ readonly error: E }>>
    ): Sink.Sink<void, Publish, never, E> =>
      Sink.fromTransform((upstream) =>
        Effect.suspend(() => {
          const batch = new PublishBatch(channel)
          const recovering = Semaphore.makeUnsafe(1)
          const feed = upstream.pipe(
            Effect.flatMap((messages) => batch.add(messages.map(prepare))),
            Effect.forever({ disableYield: true }),
            Pull.catchDone(() => batch.settled)
          )
          const recovered = recovering.withPermit(Effect.suspend(() => {
            const failures = batch.takeFailures()
            return failures.length === 0
              ? Effect.void
              : Effect.flatMap(
                recover(failures),
                ([first]) => first === undefined ? Effect.void : Effect.fail(first.error)
              )
          }))
          // A failure must end the sink also while the stream has nothing to publish.
          const watch = Effect.forever(Effect.andThen(batch.failed, recovered))
          return Effect.as(Effect.raceFirst(Effect.andThen(feed, recovered), watch), [undefined] as const)
        })
      )

    function sink(options?: NoResendOptions): Sink.Sink<void, Publish, never, PublishError>
    function sink(options: ResendOptions): Sink.Sink<void, Publish, never, ResendError>
    function sink(
      options: NoResendOptions | ResendOptions = {}
    ): Sink.Sink<void, Publish, never, PublishError | ResendError> {
      return options.resend === undefined
        ? sinkOf(complete, Effect.succeed)
        : sinkOf((message) => identified(complete(message)), (failures) => resendEach(failures, options))
    }

    return AmqpPublisher.of({
      [TypeId]: TypeId,
      publish,
      publishAll,
      sink,
      waitForConfirms: idle
    })
  })

/**
 * A publisher as a layer.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<AmqpPublisher, RequestError, AmqpConnection> =>
  Layer.effect(AmqpPublisher, make(options))

/**
 * Requests and publishes of a channel as Effects: one `Effect.callback` each. The outcome that the engine gives becomes
 * a typed failure. A reply that nobody waits for any more is undone.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { ReceivedContent } from "../codec/frames.ts"
import type { Publish } from "../codec/message.ts"
import type { ChannelState } from "../engine/channelState.ts"
import {
  messageReturned,
  type PublishOutcome,
  type PublishOutcomeFailure,
  type PublishWaiter
} from "../engine/confirms.ts"
import type { ReplyTo, Request, RequestName } from "../engine/pendingRequests.ts"
import { AmqpChannelClosed, type ChannelCloseCause } from "../errors/channel.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import { AmqpPublishNacked, AmqpPublishUnconfirmed } from "../errors/publish.ts"
import { isSoft, type SoftError } from "../errors/soft.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import type { ClosedError, PublishError, PublishRefusal } from "./errors.ts"

/** The tags of the refusals that an operation can meet. */
export type SoftTag = SoftError["_tag"]

const isListed = <Tag extends SoftTag>(
  error: ChannelCloseCause,
  tags: ReadonlyArray<Tag>
): error is Extract<SoftError, { readonly _tag: Tag }> => isSoft(error) && tags.some((tag) => tag === error._tag)

/** The failure of an operation on a channel that is already gone. */
export const channelClosed = (channel: ChannelState, operation: string): AmqpChannelClosed => {
  channel.isToldOf = true
  return closedBy(operation, channel.closeCause)
}

const closedBy = (operation: string, cause: ChannelCloseCause): AmqpChannelClosed =>
  new AmqpChannelClosed(cause === undefined ? { operation } : { operation, cause })

/** How a request is answered and refused. */
export interface RequestOptions<Name extends RequestName, A, Tag extends SoftTag> {
  /** The queue or exchange that the request names. */
  readonly entity?: string | undefined
  /** The refusals that belong to this operation. */
  readonly soft: ReadonlyArray<Tag>
  readonly onReply: (reply: ReplyTo<Name>, content: ReceivedContent | undefined) => A
  /** Undoes what the reply to an interrupted request has done. */
  readonly onLateReply?: ((reply: ReplyTo<Name>) => void) | undefined
}

type Refusal<Tag extends SoftTag> = Extract<SoftError, { readonly _tag: Tag }>

const send = <Name extends RequestName, A, Tag extends SoftTag, E>(
  channel: ChannelState,
  method: Request<Name>,
  options: RequestOptions<Name, A, Tag>,
  onEncodeError: (error: AmqpEncodeError) => Effect.Effect<never, E>
): Effect.Effect<A, Refusal<Tag> | ClosedError | E> =>
  Effect.callback((resume) => {
    const operation = method._tag
    if (channel.isClosed) return resume(Effect.fail(channelClosed(channel, operation)))
    let abandoned = false
    try {
      channel.request(method, {
        entity: options.entity ?? "",
        onReply: (reply, content) => {
          if (abandoned) return options.onLateReply?.(reply)
          try {
            resume(Effect.succeed(options.onReply(reply, content)))
          } catch (defect) {
            resume(Effect.die(defect))
          }
        },
        onFailure: (cause, own) => {
          if (cause instanceof AmqpConnectionError) resume(Effect.fail(cause))
          else if (own && isListed(cause, options.soft)) resume(Effect.fail(cause))
          else resume(Effect.fail(closedBy(operation, cause)))
        }
      })
    } catch (error) {
      if (!(error instanceof AmqpEncodeError)) throw error
      return resume(onEncodeError(error))
    }
    return Effect.sync(() => {
      abandoned = true
    })
  })

/**
 * Sends a request with values of the caller, and waits for its reply. Requests do not wait for one another. An
 * interrupted request keeps its place in the order of replies.
 */
export const request = <Name extends RequestName, A, Tag extends SoftTag = never>(
  channel: ChannelState,
  method: Request<Name>,
  options: RequestOptions<Name, A, Tag>
): Effect.Effect<A, Refusal<Tag> | ClosedError | AmqpEncodeError> => send(channel, method, options, Effect.fail)

/** Sends a request that cannot fail to be encoded. */
export const command = <Name extends RequestName, A, Tag extends SoftTag = never>(
  channel: ChannelState,
  method: Request<Name>,
  options: RequestOptions<Name, A, Tag>
): Effect.Effect<A, Refusal<Tag> | ClosedError> => send(channel, method, options, Effect.die)

// -----------------------------------------------------------------------------
// publishing
// -----------------------------------------------------------------------------

const publishRefusals = ["AmqpAccessRefused", "AmqpNotFound", "AmqpPreconditionFailed", "AmqpContentTooLarge"] as const

/** The refusal of a publish that closed a channel. */
export const publishRefusal = (cause: ChannelCloseCause): PublishRefusal | undefined =>
  isListed(cause, publishRefusals) && cause.operation === "basic.publish" ? cause : undefined

/** Why a publish has failed. */
export const publishFailure = (message: Publish, outcome: PublishOutcomeFailure): PublishError => {
  const { exchange = "", routingKey = "" } = message
  switch (outcome._tag) {
    case "Nacked":
      return new AmqpPublishNacked({ exchange, routingKey })
    case "Returned":
      return messageReturned({ ...outcome.method, exchange, routingKey }, outcome.message)
    case "MaybeReturned":
      return new AmqpPublishUnconfirmed({ exchange, routingKey, maybeReturned: true })
    case "TimedOut":
      return new AmqpPublishUnconfirmed({ exchange, routingKey, timeoutMillis: outcome.timeoutMillis })
    case "ChannelClosed": {
      const { blame, cause } = outcome
      if (blame === "own" && isListed(cause, publishRefusals)) return cause
      return new AmqpPublishUnconfirmed(
        cause === undefined ? { exchange, routingKey } : { exchange, routingKey, cause }
      )
    }
  }
}

/** A publish in confirm mode: waits for its one outcome. */
class ConfirmWaiter implements PublishWaiter {
  private readonly message: Publish
  private readonly resume: (effect: Effect.Effect<void, PublishError>) => void

  constructor(message: Publish, resume: (effect: Effect.Effect<void, PublishError>) => void) {
    this.message = message
    this.resume = resume
  }

  messageOf(): Publish {
    return this.message
  }

  onOutcome(outcome: PublishOutcome): void {
    this.resume(outcome._tag === "Confirmed" ? Effect.void : Effect.fail(publishFailure(this.message, outcome)))
  }
}

/** Whether a publish may be written now. */
export const takesContent = (channel: ChannelState): boolean => channel.isFlowing && channel.confirms.isOpen

/** Waits until the caller should look again: there is room, or the channel is over. */
export const contentGate = (channel: ChannelState): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const callback = () => resume(Effect.void)
    if (channel.isFlowing && !channel.confirms.isOpen) {
      channel.confirms.wait(callback)
      return Effect.sync(() => channel.confirms.unwait(callback))
    }
    channel.onFlow(callback)
    return Effect.sync(() => channel.offFlow(callback))
  })

/**
 * Publishes. In confirm mode it waits for the broker's answer, otherwise until the frames are in the outbox. It waits
 * while the broker takes no content or too much is unwritten. If it is interrupted there, nothing was sent.
 */
export const publish = (channel: ChannelState, message: Publish): Effect.Effect<void, PublishError> =>
  Effect.suspend(() => {
    if (channel.isClosed) return Effect.fail(channelClosed(channel, "basic.publish"))
    if (channel.mode === "tx" && !channel.inTransaction) {
      const reason = "this channel has had a transaction: what is published outside of one is never committed"
      return Effect.fail(new AmqpEncodeError({ path: "transaction", reason }))
    }
    if (!takesContent(channel)) return Effect.flatMap(contentGate(channel), () => publish(channel, message))
    if (channel.mode === "confirm") return publishConfirmed(channel, message)
    try {
      channel.publish(message, undefined)
      return Effect.void
    } catch (error) {
      if (!(error instanceof AmqpEncodeError)) throw error
      return Effect.fail(error)
    }
  })

/** Publishes at once, in confirm mode, and waits for the outcome. */
export const publishConfirmed = (channel: ChannelState, message: Publish): Effect.Effect<void, PublishError> =>
  Effect.callback((resume) => {
    try {
      // An interrupted publish keeps its number. Its confirm resumes a fiber that is gone, which does nothing.
      channel.publish(message, new ConfirmWaiter(message, resume))
    } catch (error) {
      if (!(error instanceof AmqpEncodeError)) throw error
      resume(Effect.fail(error))
    }
  })

/** Waits until every publish in confirm mode has its outcome. */
export const confirmsIdle = (channel: ChannelState): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const { confirms } = channel
    if (confirms.isIdle) return resume(Effect.void)
    const callback = () => resume(Effect.void)
    confirms.onIdle(callback)
    return Effect.sync(() => confirms.offIdle(callback))
  })

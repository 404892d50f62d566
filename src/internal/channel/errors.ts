/**
 * What each operation of a channel can fail with. `AmqpChannel` publishes these types.
 *
 * @since 0.1.0
 */
import type { AmqpChannelClosed, AmqpConsumerCancelled } from "../errors/channel.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import type { AmqpMessageReturned, AmqpPublishNacked, AmqpPublishUnconfirmed } from "../errors/publish.ts"
import type {
  AmqpAccessRefused,
  AmqpContentTooLarge,
  AmqpNotFound,
  AmqpPreconditionFailed,
  AmqpResourceLocked
} from "../errors/soft.ts"
import type { AmqpEncodeError } from "../errors/value.ts"

/**
 * The channel, or the connection below it, is gone: what every operation of a channel can fail with.
 *
 * @category errors
 * @since 0.1.0
 */
export type ClosedError = AmqpChannelClosed | AmqpConnectionError

/**
 * What ends the deliveries of a consumer.
 *
 * @category errors
 * @since 0.1.0
 */
export type ConsumerError = AmqpConsumerCancelled | ClosedError

/**
 * What a request with names or tables can fail with: `ClosedError`, or `AmqpEncodeError`. With the latter nothing was
 * sent.
 *
 * @category errors
 * @since 0.1.0
 */
export type RequestError = ClosedError | AmqpEncodeError

/**
 * @category errors
 * @since 0.1.0
 */
export type ExchangeDeclareError = AmqpAccessRefused | AmqpPreconditionFailed | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type ExchangeDeclarePassiveError = AmqpAccessRefused | AmqpNotFound | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type ExchangeDeleteError = AmqpAccessRefused | AmqpPreconditionFailed | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type ExchangeBindError = AmqpAccessRefused | AmqpNotFound | AmqpPreconditionFailed | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type ExchangeUnbindError = AmqpAccessRefused | AmqpNotFound | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type QueueDeclareError =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type QueueDeclarePassiveError = AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type QueueBindError =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type QueueUnbindError = AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type QueuePurgeError = AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type QueueDeleteError =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type ConsumeError =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type GetError = AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | RequestError

/**
 * @category errors
 * @since 0.1.0
 */
export type SelectError = AmqpPreconditionFailed | ClosedError

/**
 * What a transaction can fail with, apart from the errors of its effect: the broker refused or returned a publish, it
 * refused tx.select (406), or the channel is gone.
 *
 * @category errors
 * @since 0.1.0
 */
export type TransactionError = PublishRefusal | AmqpMessageReturned | ClosedError

/** The refusals of a publish. */
export type PublishRefusal = AmqpAccessRefused | AmqpNotFound | AmqpPreconditionFailed | AmqpContentTooLarge

/**
 * Why a message was not published: a refusal, `AmqpPublishNacked`, `AmqpMessageReturned`, `AmqpPublishUnconfirmed` (in
 * doubt), or never written: `AmqpConnectionError`, `AmqpChannelClosed`, `AmqpEncodeError`.
 *
 * @category errors
 * @since 0.1.0
 */
export type PublishError =
  | PublishRefusal
  | AmqpPublishNacked
  | AmqpMessageReturned
  | AmqpPublishUnconfirmed
  | ClosedError
  | AmqpEncodeError

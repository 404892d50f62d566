/**
 * Classifies errors: soft, hard, transient. `AmqpError` publishes these functions.
 *
 * @since 0.1.0
 */
import { AmqpChannelClosed, AmqpCloseUnanswered, AmqpConsumerCancelled } from "./channel.ts"
import { AmqpConnectionError, type AmqpConnectionErrorReason } from "./connection.ts"
import { AmqpPublishNacked, AmqpPublishUnconfirmed } from "./publish.ts"
import { isSoft, type SoftError } from "./soft.ts"
import { isAway, isInUse, isLateAck, isProtected, limitReached, says } from "./words.ts"

/**
 * Whether a value ended or prevented a connection.
 *
 * @category guards
 * @since 0.1.0
 */
export const isHard = (u: unknown): u is AmqpConnectionError => u instanceof AmqpConnectionError

const isTransientReason = (reason: AmqpConnectionErrorReason): boolean => {
  switch (reason._tag) {
    case "ConnectionForced":
    case "ResourceError":
    case "InternalError":
    case "ConnectFailed":
    case "HandshakeTimeout":
    case "HeartbeatTimeout":
    case "ConnectionLost":
    case "ChannelsExhausted":
      return true
    // A vhost that is missing, whose name is not quoted, stays missing; a limit is a matter of time.
    case "NotAllowed":
      return says(
        reason.replyText,
        /limit (of )?\(?\d+\)?( is reached)?$|timeout$|is down$|not running$|returned an error/
      )
    default:
      return false
  }
}

const isTransientSoft = (error: SoftError): boolean => {
  switch (error._tag) {
    case "AmqpAccessRefused":
      return isInUse(error) || says(error.replyText, /returned an error/)
    case "AmqpNotFound":
      return isAway(error)
    case "AmqpResourceLocked":
      return !isProtected(error)
    case "AmqpPreconditionFailed":
      return isLateAck(error) || says(error.replyText, limitReached) ||
        says(error.replyText, /replica on the local node$/)
    default:
      return false
  }
}

/** Errors of consumers and topologies. Their classes are not known here. */
const isTagged = <Tag extends string>(u: unknown, tag: Tag): u is Error & { readonly _tag: Tag } =>
  u instanceof Error && "_tag" in u && u._tag === tag

/** The reason why a consumer or a topology failed. */
const reasonOf = (u: unknown): unknown => {
  if (isTagged(u, "AmqpConsumerFailed") && "reason" in u) return u.reason
  return isTagged(u, "AmqpTopologyError") ? u.cause : undefined
}

/**
 * Whether the same operation may succeed later without a change to the program: the default input of recovery
 * schedules.
 *
 * **Details**
 *
 * Lost, forced and refused connections are transient; refused credentials, limits without agreement, a failed TLS
 * verification and protocol errors are not. Where one code has two meanings, the broker's text decides:
 *
 * - 403: a queue that another consumer uses exclusively is transient: that may be an own consumer of a connection that
 * the broker has not found dead yet. A missing permission is not.
 * - 404: a queue whose node is down, whose process has crashed or whose leader does not answer is transient; one that
 *   does not exist is not.
 * - 405: an exclusive queue is transient; a dead connection of one's own may still hold it.
 * - 406: a late acknowledgement, a limit that is reached and a stream without its replica are transient; others are not.
 * - 530: a limit that is reached and a vhost that is down are transient; a missing one is not.
 *
 * Nacked and unconfirmed publishes and a close without an answer are transient, returned messages are not. A consumer or a
 * topology that failed is as transient as `isRecoverable` says of its reason; one whose entity ends every connection is not.
 *
 * @category guards
 * @since 0.1.0
 */
export const isTransient = (u: unknown): boolean => {
  const reason = reasonOf(u)
  // The connection ends whenever this entity is declared.
  if (isTagged(u, "AmqpTopologyError") && reason instanceof AmqpConnectionError) return false
  if (reason !== undefined) return isRecoverable(reason)
  if (u instanceof AmqpConnectionError) return isTransientReason(u.reason)
  if (u instanceof AmqpChannelClosed) return u.cause !== undefined && isTransient(u.cause)
  if (isSoft(u)) return isTransientSoft(u)
  return u instanceof AmqpPublishNacked || u instanceof AmqpPublishUnconfirmed || u instanceof AmqpConsumerCancelled ||
    u instanceof AmqpCloseUnanswered || isTagged(u, "AmqpTopologyPending")
}

/**
 * Whether something that outlives its connections may go on after this error: the rule of `AmqpConsumer`,
 * `AmqpPublisher` and `AmqpTopology`.
 *
 * **Details**
 *
 * It is `isTransient`, with one difference. A connection may end for the mistake of one operation. Everybody else on it
 * has only lost the connection, which will be replaced. So each `AmqpConnectionError` may be recovered from, except
 * `ConnectionClosed`, which comes from this client. A refusal of their own operation, on their own channel, is judged
 * as `isTransient` does.
 *
 * @category guards
 * @since 0.1.0
 */
export const isRecoverable = (u: unknown): boolean => {
  if (u instanceof AmqpConnectionError) return u.reason._tag !== "ConnectionClosed"
  if (u instanceof AmqpChannelClosed) return u.cause !== undefined && isRecoverable(u.cause)
  return isTransient(u)
}

/**
 * Everything that can go wrong, as tagged errors.
 *
 * A *soft* error is the broker's refusal of one operation: it closes the channel of that operation and appears in its
 * error channel. A *hard* error ends or prevents a connection: one `AmqpConnectionError` with a `reason` for each way
 * that can happen. The rest are the outcomes of publishing, the end of consumers, and values that AMQP cannot carry.
 * All are `Schema.TaggedError`s, so they cross process boundaries, and no field of any of them holds a secret.
 *
 * The module decides what an error *is*. It does not decide which operation a reply code belongs to: the engine does.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { AmqpConnectionError, type AmqpConnectionErrorReason } from "./internal/connectionError.ts"
import { isDirectReply } from "./internal/directReply.ts"
import { MessageProperties } from "./internal/messageProperties.ts"
import { type ReplyCode, replyCodes } from "./internal/replyCodes.ts"

type SoftCode = Extract<ReplyCode, { readonly severity: "soft" }>

// -----------------------------------------------------------------------------
// soft errors
// -----------------------------------------------------------------------------

const softFields = {
  /** The reply code of `channel.close`. */
  replyCode: Schema.Int,
  /** The broker's own words. */
  replyText: Schema.String,
  /** The operation that provoked it, as the specification calls it: `"queue.declare"`. */
  operation: Schema.String,
  /** The queue or exchange that the operation named; empty where it names none. */
  entity: Schema.String,
  /** The routing key of the publish that was refused, where it is known to be the one. */
  routingKey: Schema.optional(Schema.String),
  /** Class of the method that provoked it; 0 where the broker did not say. */
  classId: Schema.Int,
  /** Method that provoked it; 0 where the broker did not say. */
  methodId: Schema.Int
}

interface SoftParts {
  readonly replyText: string
  readonly operation: string
  readonly entity: string
  readonly routingKey?: string | undefined
}

const softMessage = (error: SoftParts, advice: string): string => {
  const { entity, routingKey } = error
  const target = routingKey !== undefined ?
    ` to ${route({ exchange: entity, routingKey })}`
    : entity === "" ?
    ""
    : ` ${JSON.stringify(entity)}`
  return `${error.operation}${target} was refused: ${error.replyText.replace(/\.$/, "")}. ${advice}`
}

/**
 * The broker's own words: its text without what stands between the first quote and the last. Names, which may be any words,
 * it quotes. Of a text that it cut off at 255 bytes only the beginning is certain to be its own.
 */
const wordsOf = (replyText: string): string => {
  const first = replyText.indexOf("'")
  if (first === -1) return replyText
  const end = replyText.endsWith("...") ? "" : replyText.slice(replyText.lastIndexOf("'") + 1)
  return `${replyText.slice(0, first)}''${end}`
}

const says = (replyText: string, pattern: RegExp): boolean => pattern.test(wordsOf(replyText))

/** Whether the broker waited too long for an acknowledgement: the one 406 that speaks of time. */
const isLateAck = ({ replyText }: SoftParts): boolean => says(replyText, /timed out/)

/** A text about a queue that was cut off in its name: of 403 and 404, those that begin so speak of its state. */
const isCutQueue = (replyText: string): boolean => /^[A-Z_]+ - queue '.*\.\.\.$/s.test(replyText)

/** Another consumer has the queue for itself: perhaps our own of a connection whose loss the broker has not noticed. */
const isInUse = ({ replyText }: SoftParts): boolean =>
  says(replyText, /in exclusive use|exclusive consumer/) || isCutQueue(replyText)

/** The queue is there, what serves it is not: its node is down, its process has crashed, its leader changes or is slow. */
const isAway = ({ replyText }: SoftParts): boolean =>
  says(
    replyText,
    /home node|is down|inaccessible|not running|stopped by supervisor|crashed|failed to perform operation|timeout/
  ) || isCutQueue(replyText)

/** A limit on queues or exchanges. */
const limitReached = /(\(\d+\)|limit of \d+) is reached$/

/** The advice that fits the broker's words or the operation: the first that matches. */
type Advice = readonly [fits: (words: string, operation: string) => boolean, advice: string]

const about = (pattern: RegExp, advice: string): Advice => [(words) => pattern.test(words), advice]

const adviceFor = (error: SoftParts, table: ReadonlyArray<Advice>, otherwise: string): string => {
  const words = wordsOf(error.replyText)
  return table.find(([fits]) => fits(words, error.operation))?.[1] ?? otherwise
}

const refusedAccess: ReadonlyArray<Advice> = [
  about(
    /in exclusive use|exclusive consumer/,
    "Another consumer has the queue for itself: wait for its end, or consume without exclusive on both sides"
  ),
  about(
    /internal exchange/,
    "It takes messages from the exchanges that are bound to it only: publish to one of those, or declare it without internal"
  ),
  about(/name ''|default exchange|system/, "The name belongs to the broker: use one of your own"),
  about(/returned an error/, "What the broker asks about permissions has failed: see the broker's log")
]

const preconditions: ReadonlyArray<Advice> = [
  about(/timed out/, "Settle deliveries sooner, or have the broker allow more time for it (consumer_timeout)"),
  about(/unknown delivery tag/, "Settle each delivery once, on the channel that it came on"),
  about(/expiration/, "Give the expiration in milliseconds, as a whole number that is not negative"),
  about(/message size|larger than/, "Send a smaller message, or have the broker allow larger ones (max_message_size)"),
  about(/user_id/, "Leave userId out, or give the name of the user who is logged in"),
  about(/header/, "Correct the headers: CC and BCC are arrays of texts"),
  about(/reply consumer already set/, "Have one consumer of amq.rabbitmq.reply-to on a channel, or another channel"),
  about(/reply consumer cannot acknowledge/, "Consume from amq.rabbitmq.reply-to with noAck"),
  about(/reply consumer/, "Consume from amq.rabbitmq.reply-to on the same channel, before publishing"),
  about(/not empty/, "Delete it when it is empty, or without ifEmpty"),
  about(/in use/, "Delete it when nobody uses it, or without ifUnused"),
  about(limitReached, "Delete what is not needed, or have the broker allow more"),
  about(/replica on the local node/, "Connect to a node that has a replica, or wait for it"),
  about(/prefetch/, "Set a prefetch before consuming (qos)"),
  about(/confirm mode|tx mode|not transactional/, "Use a channel for confirms or for transactions, not for both"),
  [(_, operation) => operation === "basic.publish", "Correct the message"],
  about(/invalid (arg|property|type|value)|unknown|Exceeded max/i, "Correct the options"),
  [
    (words, operation) => /inequivalent/.test(words) || /declare/.test(operation),
    "Compare the options with what the broker already holds"
  ]
]

/**
 * 403: the user may not do this, or the name belongs to the broker (`amq.*`, the default exchange), or another
 * consumer is exclusive.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpAccessRefused
  extends Schema.TaggedError<AmqpAccessRefused>("effect-amqp/AmqpAccessRefused")("AmqpAccessRefused", softFields)
{
  override get message(): string {
    return softMessage(
      this,
      adviceFor(
        this,
        refusedAccess,
        "Check the user's permissions on this vhost, and that the name is not reserved"
      )
    )
  }
}

/**
 * 404: the queue or exchange does not exist, or the node that holds it is down.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpNotFound
  extends Schema.TaggedError<AmqpNotFound>("effect-amqp/AmqpNotFound")("AmqpNotFound", softFields)
{
  override get message(): string {
    return softMessage(
      this,
      isAway(this)
        ? "Its node, process or leader is away: try again when it is back"
        : "Declare it before use, and check its name and the vhost"
    )
  }
}

/** Not in anybody's use: nobody may ever delete it. */
const isProtected = ({ replyText }: SoftParts): boolean => says(replyText, /Cannot delete protected/)

/**
 * 405: the queue is exclusive to another connection.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpResourceLocked
  extends Schema.TaggedError<AmqpResourceLocked>("effect-amqp/AmqpResourceLocked")("AmqpResourceLocked", softFields)
{
  override get message(): string {
    return softMessage(
      this,
      isProtected(this)
        ? "The queue belongs to a plugin of the broker: delete its owner"
        : "An exclusive queue can only be used by the connection that declared it"
    )
  }
}

/**
 * 406: the request contradicts what exists or is not valid: another durability or argument, a queue in use, an unknown
 * delivery tag, a message that is too large, an acknowledgement that came too late.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpPreconditionFailed
  extends Schema.TaggedError<AmqpPreconditionFailed>("effect-amqp/AmqpPreconditionFailed")(
    "AmqpPreconditionFailed",
    softFields
  )
{
  override get message(): string {
    return softMessage(this, adviceFor(this, preconditions, "Correct the request"))
  }
}

/**
 * 311: the content is larger than the broker accepts at this time.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpContentTooLarge
  extends Schema.TaggedError<AmqpContentTooLarge>("effect-amqp/AmqpContentTooLarge")("AmqpContentTooLarge", softFields)
{
  override get message(): string {
    return softMessage(this, "Send a smaller message")
  }
}

/**
 * A channel that the broker closed with a reply code that the specification does not list as soft (or with 313, which
 * no broker uses). Only ever a `cause`.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpChannelException extends Schema.TaggedError<AmqpChannelException>("effect-amqp/AmqpChannelException")(
  "AmqpChannelException",
  softFields
) {
  override get message(): string {
    return softMessage(this, `The broker closed the channel with reply code ${this.replyCode}`)
  }
}

/**
 * The broker's refusals that close one channel (specification 1.2, class "soft-error").
 *
 * @category models
 * @since 0.1.0
 */
export type SoftError =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpResourceLocked
  | AmqpPreconditionFailed
  | AmqpContentTooLarge
  | AmqpChannelException

const softErrors = [
  AmqpAccessRefused,
  AmqpNotFound,
  AmqpResourceLocked,
  AmqpPreconditionFailed,
  AmqpContentTooLarge,
  AmqpChannelException
] as const

/** The fields of every soft error. */
type SoftErrorProps = Pick<AmqpNotFound, keyof typeof softFields>

const softByName: Record<SoftCode["name"], new(props: SoftErrorProps) => SoftError> = {
  "content-too-large": AmqpContentTooLarge,
  "no-consumers": AmqpChannelException,
  "access-refused": AmqpAccessRefused,
  "not-found": AmqpNotFound,
  "resource-locked": AmqpResourceLocked,
  "precondition-failed": AmqpPreconditionFailed
}

/**
 * The error of a `channel.close`, by its reply code.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromChannelClose = (props: SoftErrorProps): SoftError => {
  const known = replyCodes[props.replyCode]
  const SoftClass = known?.severity === "soft" ? softByName[known.name] : AmqpChannelException
  return new SoftClass(props)
}

// -----------------------------------------------------------------------------
// hard errors
// -----------------------------------------------------------------------------

export type { AmqpConnectionErrorReason } from "./internal/connectionError.ts"
export {
  AmqpConnectionError,
  AuthenticationFailed,
  ChannelError,
  ChannelsExhausted,
  CommandInvalid,
  ConnectFailed,
  ConnectionClosed,
  ConnectionForced,
  ConnectionLost,
  FrameError,
  fromConnectionClose,
  HandshakeTimeout,
  HeartbeatTimeout,
  InternalError,
  InvalidPath,
  NegotiationFailed,
  NotAllowed,
  NotImplemented,
  ProtocolVersionMismatch,
  ProtocolViolation,
  ResourceError,
  SyntaxError,
  TlsFailed,
  UnexpectedFrame,
  UnknownReply
} from "./internal/connectionError.ts"

// -----------------------------------------------------------------------------
// channels, publishing, consuming
// -----------------------------------------------------------------------------

/**
 * The channel had already gone when the operation wanted to use it, or went away under it for another operation's
 * fault.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpChannelClosed
  extends Schema.TaggedError<AmqpChannelClosed>("effect-amqp/AmqpChannelClosed")("AmqpChannelClosed", {
    /** The operation that could not be done. */
    operation: Schema.String,
    /** What closed the channel; absent where its own scope or `close` did. */
    cause: Schema.optional(Schema.Union([...softErrors, AmqpConnectionError]))
  })
{
  override get message(): string {
    const why = this.cause === undefined ? "it was closed by its scope" : this.cause.message
    return `${this.operation}: the channel is closed: ${why}. Open another one`
  }
}

/**
 * The broker did not answer the close of a channel: the connection was lost, or the time for it was over. Whether what was
 * published last on it, without confirms, has come to the broker is unknown.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpCloseUnanswered
  extends Schema.TaggedError<AmqpCloseUnanswered>("effect-amqp/AmqpCloseUnanswered")("AmqpCloseUnanswered", {
    /** What ended the connection; absent where no answer came within `closeTimeout`. */
    cause: Schema.optional(AmqpConnectionError)
  })
{
  override get message(): string {
    const why = this.cause === undefined ? "no answer came in time" : this.cause.message
    return `the close of the channel was not answered, it is unknown whether what was published last has arrived: ${why}. ` +
      "Publish it again where a duplicate does no harm, or turn on confirms"
  }
}

/** What closed a channel; `undefined` is its own scope. */
export type ChannelCloseCause = AmqpChannelClosed["cause"]

const publishFields = {
  exchange: Schema.String,
  routingKey: Schema.String
}

/**
 * The broker could not take responsibility for the message (`basic.nack`), for example because the queue is full.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpPublishNacked
  extends Schema.TaggedError<AmqpPublishNacked>("effect-amqp/AmqpPublishNacked")("AmqpPublishNacked", publishFields)
{
  override get message(): string {
    return `the broker refused the message to ${route(this)}: it was not stored by every queue. Publish it again later`
  }
}

/**
 * A mandatory message that no queue wanted, or whose queues could not take it: the broker gave it back.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpMessageReturned
  extends Schema.TaggedError<AmqpMessageReturned>("effect-amqp/AmqpMessageReturned")("AmqpMessageReturned", {
    ...publishFields,
    /** 312 (no route) on RabbitMQ. */
    replyCode: Schema.Int,
    replyText: Schema.String,
    /** The body as the broker returned it. */
    body: Schema.Uint8Array,
    /** The properties as the broker returned them; absent where they cannot be decoded. */
    properties: Schema.optional(MessageProperties)
  })
{
  override get message(): string {
    return `the message to ${route(this)} came back: ${this.replyText} (${this.replyCode}). ${returnAdvice(this)}`
  }
}

const returnAdvice = (
  { exchange, properties, routingKey }: Pick<AmqpMessageReturned, "exchange" | "routingKey" | "properties">
): string => {
  if (isDirectReply(exchange, routingKey)) {
    return "A reply to a direct reply-to name: RabbitMQ before 4.3 returns it also where it delivers it. " +
      "Publish replies without mandatory"
  }
  if (properties?.headers?.["x-delay"] !== undefined) {
    return "It has an x-delay: an exchange that delays messages routes them later, and returns mandatory ones all the " +
      "same. Publish to it without mandatory, or bind a queue to this key"
  }
  return "Bind a queue to this key"
}

/**
 * No confirm: the channel went away between the write and the confirm, the time for it is over, or a message came back
 * that may be this one. The message may or may not be stored.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpPublishUnconfirmed
  extends Schema.TaggedError<AmqpPublishUnconfirmed>("effect-amqp/AmqpPublishUnconfirmed")("AmqpPublishUnconfirmed", {
    ...publishFields,
    /** What closed the channel; absent where its own scope or `close` did. */
    cause: Schema.optional(Schema.Union([...softErrors, AmqpConnectionError])),
    /** How long the publish waited, where the channel is still open. */
    timeoutMillis: Schema.optional(Schema.Finite),
    /** Whether a message came back that may be this one: the broker lost the tag that says which it is. */
    maybeReturned: Schema.optional(Schema.Boolean)
  })
{
  override get message(): string {
    const why = this.timeoutMillis !== undefined ?
      `none came for ${this.timeoutMillis} ms`
      : this.maybeReturned === true ?
      "a message came back that may be this one"
      : this.cause === undefined ?
      "the channel was closed by its scope"
      : this.cause.message
    return `no confirm for the message to ${route(this)}, its outcome is unknown: ${why}. ` +
      "Publish it again where a duplicate does no harm"
  }
}

const route = (error: { readonly exchange: string; readonly routingKey: string }): string =>
  `exchange ${JSON.stringify(error.exchange)}, routing key ${JSON.stringify(error.routingKey)}`

/**
 * The broker cancelled the consumer: its queue was deleted, or the node that held it is gone.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpConsumerCancelled
  extends Schema.TaggedError<AmqpConsumerCancelled>("effect-amqp/AmqpConsumerCancelled")("AmqpConsumerCancelled", {
    queue: Schema.String,
    consumerTag: Schema.String
  })
{
  override get message(): string {
    const consumer = `${JSON.stringify(this.consumerTag)} of queue ${JSON.stringify(this.queue)}`
    return `the broker cancelled consumer ${consumer}: the queue was deleted or its node is gone. ` +
      "Declare the queue and consume again"
  }
}

/**
 * A value that AMQP cannot carry. Nothing was written.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpEncodeError
  extends Schema.TaggedError<AmqpEncodeError>("effect-amqp/AmqpEncodeError")("AmqpEncodeError", {
    /** Where the value is: `"headers.retries[2]"`. */
    path: Schema.String,
    reason: Schema.String
  })
{
  override get message(): string {
    return this.path === "" ? `cannot encode: ${this.reason}` : `cannot encode ${this.path}: ${this.reason}`
  }
}

/**
 * A delivery whose channel went away cannot be settled any more; the broker delivers it again.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpStaleDelivery
  extends Schema.TaggedError<AmqpStaleDelivery>("effect-amqp/AmqpStaleDelivery")("AmqpStaleDelivery", {
    deliveryTag: Schema.Finite,
    /** The epoch of the connection that the delivery came from. */
    epoch: Schema.Int
  })
{
  override get message(): string {
    return `delivery ${this.deliveryTag} of epoch ${this.epoch} can no longer be settled: its channel is gone, ` +
      "the broker delivers it again"
  }
}

/**
 * Bytes that are not what they claim to be.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpDecodeError
  extends Schema.TaggedError<AmqpDecodeError>("effect-amqp/AmqpDecodeError")("AmqpDecodeError", {
    /** Where the bytes are: `"headers.retries[2]"`. */
    path: Schema.String,
    reason: Schema.String
  })
{
  override get message(): string {
    return this.path === "" ? `cannot decode: ${this.reason}` : `cannot decode ${this.path}: ${this.reason}`
  }
}

// -----------------------------------------------------------------------------
// guards
// -----------------------------------------------------------------------------

const isOneOf = (classes: ReadonlyArray<new(...args: never) => object>, u: unknown): boolean =>
  classes.some((Class) => u instanceof Class)

/**
 * Whether a value is a broker's refusal that closed one channel.
 *
 * @category guards
 * @since 0.1.0
 */
export const isSoft = (u: unknown): u is SoftError => isOneOf(softErrors, u)

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

/** Errors of consumers and topologies, whose classes are not known here. */
const isTagged = <Tag extends string>(u: unknown, tag: Tag): u is Error & { readonly _tag: Tag } =>
  u instanceof Error && "_tag" in u && u._tag === tag

/** What consumers and topologies failed because of. */
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
 * - 403: a queue in the exclusive use of another consumer is transient, which may be one's own of a connection that the
 *   broker has not found dead yet; a missing permission is not.
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
 * Whether what outlives its connections (a consumer, a publisher, a topology) may go on after this error: the rule of
 * `AmqpConsumer`, `AmqpPublisher` and `AmqpTopology`.
 *
 * **Details**
 *
 * It is `isTransient`, but for one thing. A connection ends for the mistake of one, and everybody else on it has lost it,
 * no more: to them each `AmqpConnectionError` is a loss that their connection makes up for. Only `ConnectionClosed`, by this
 * client, is the end. What the broker refuses to them themselves, on their channel, is judged by itself.
 *
 * @category guards
 * @since 0.1.0
 */
export const isRecoverable = (u: unknown): boolean => {
  if (u instanceof AmqpConnectionError) return u.reason._tag !== "ConnectionClosed"
  if (u instanceof AmqpChannelClosed) return u.cause !== undefined && isRecoverable(u.cause)
  return isTransient(u)
}

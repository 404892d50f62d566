/**
 * Soft errors: the broker's refusals of one operation, which close its channel. `AmqpError` publishes them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { type ReplyCode, replyCodes } from "../values/replyCodes.ts"
import { isAway, isProtected, limitReached, route, type SoftParts, wordsOf } from "./words.ts"

type SoftCode = Extract<ReplyCode, { readonly severity: "soft" }>

const softFields = {
  /** The reply code of `channel.close`. */
  replyCode: Schema.Int,
  /** The broker's own words. */
  replyText: Schema.String,
  /** The operation that provoked it, as the specification calls it: `"queue.declare"`. */
  operation: Schema.String,
  /** The queue or exchange that the operation named; empty where it names none. */
  entity: Schema.String,
  /** The routing key of the refused publish, where it is known which publish was refused. */
  routingKey: Schema.optional(Schema.String),
  /** Class of the method that provoked it; 0 where the broker did not say. */
  classId: Schema.Int,
  /** Method that provoked it; 0 where the broker did not say. */
  methodId: Schema.Int
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

/** The first advice that fits the broker's words or the operation. */
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

export const softErrors = [
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

const isOneOf = (classes: ReadonlyArray<new(...args: never) => object>, u: unknown): boolean =>
  classes.some((Class) => u instanceof Class)

/**
 * Whether a value is a broker's refusal that closed one channel.
 *
 * @category guards
 * @since 0.1.0
 */
export const isSoft = (u: unknown): u is SoftError => isOneOf(softErrors, u)

/**
 * Reasons of `AmqpConnectionError` that the broker gives: one class for each reply code of a `connection.close` (hard
 * errors). `AmqpError` publishes them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

const replyFields = {
  /** The reply code of `connection.close`. */
  replyCode: Schema.Int,
  /** The broker's own words. */
  replyText: Schema.String,
  /** Class of the method that provoked it; 0 where the broker did not say. */
  classId: Schema.Int,
  /** Method that provoked it; 0 where the broker did not say. */
  methodId: Schema.Int
}

/** Advice for errors that only a fault of this client, or of something in between, can provoke. */
const clientFault = "This should not happen: report it"

const reply = <Self>() => <const Tag extends string>(tag: Tag) =>
  Schema.TaggedError<Self>(`effect-amqp/${tag}`)(tag, replyFields)

/**
 * 320: an operator closed the connection, the node shuts down, or the vhost or user was deleted.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ConnectionForced extends reply<ConnectionForced>()("ConnectionForced") {
  override get message(): string {
    return `the broker closed the connection: ${this.replyText}. An operator or a shutdown did it: connect again`
  }
}

/**
 * 402: the client tried to work with an unknown vhost.
 *
 * @category reasons
 * @since 0.1.0
 */
export class InvalidPath extends reply<InvalidPath>()("InvalidPath") {
  override get message(): string {
    return `the broker does not know this vhost: ${this.replyText}. Check its name`
  }
}

/**
 * 501: the broker could not decode a frame.
 *
 * @category reasons
 * @since 0.1.0
 */
export class FrameError extends reply<FrameError>()("FrameError") {
  override get message(): string {
    return `the broker refused a frame: ${this.replyText}. ${clientFault}`
  }
}

/**
 * 502: a frame held a value that the broker could not decode.
 *
 * @category reasons
 * @since 0.1.0
 */
export class SyntaxError extends reply<SyntaxError>()("SyntaxError") {
  override get message(): string {
    return `the broker refused a value: ${this.replyText}. ${clientFault}`
  }
}

/**
 * 503: the request is not possible, for example an exchange of an unknown type.
 *
 * @category reasons
 * @since 0.1.0
 */
export class CommandInvalid extends reply<CommandInvalid>()("CommandInvalid") {
  override get message(): string {
    return `the broker refused a command: ${this.replyText}. Check the options of the operation`
  }
}

/**
 * 504: a channel was used in a state that does not allow it.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ChannelError extends reply<ChannelError>()("ChannelError") {
  override get message(): string {
    return `the broker refused the use of a channel: ${this.replyText}. ${clientFault}`
  }
}

/**
 * 505: a frame came in the wrong order.
 *
 * @category reasons
 * @since 0.1.0
 */
export class UnexpectedFrame extends reply<UnexpectedFrame>()("UnexpectedFrame") {
  override get message(): string {
    return `the broker did not expect a frame: ${this.replyText}. ${clientFault}`
  }
}

/**
 * 506: the broker ran out of a resource.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ResourceError extends reply<ResourceError>()("ResourceError") {
  override get message(): string {
    return `the broker ran out of resources: ${this.replyText}. Connect again later`
  }
}

/**
 * 530: the vhost does not exist or may not be used, a limit is reached, or a consumer tag is taken.
 *
 * @category reasons
 * @since 0.1.0
 */
export class NotAllowed extends Schema.TaggedError<NotAllowed>("effect-amqp/NotAllowed")("NotAllowed", {
  ...replyFields,
  /** The vhost that was refused; absent where the connection was open already. */
  vhost: Schema.optional(Schema.String)
}) {
  override get message(): string {
    const { replyText, vhost } = this
    if (vhost === undefined) return `the broker does not allow this: ${replyText}. ${notAllowedAdvice(replyText)}`
    const hint = vhost === ""
      ? ". The name is empty: the default vhost is \"/\""
      : /%[0-9a-f]{2}/i.test(vhost)
      ? ". Percent-encode it in a URL only, once"
      : ""
    return `the broker does not allow the vhost ${JSON.stringify(vhost)}: ${replyText}. ` +
      `Check its name, its limits and the user's access to it${hint}`
  }
}

const notAllowedAdvice = (replyText: string): string =>
  replyText.includes("consumer tag")
    ? "Give each consumer of a channel a tag of its own, or none"
    : "Check the limits and the user's permissions"

/**
 * 540: the broker does not implement the request.
 *
 * @category reasons
 * @since 0.1.0
 */
export class NotImplemented extends reply<NotImplemented>()("NotImplemented") {
  override get message(): string {
    return `the broker does not implement this: ${this.replyText}. Do without the option or the operation`
  }
}

/**
 * 541: the broker failed internally.
 *
 * @category reasons
 * @since 0.1.0
 */
export class InternalError extends reply<InternalError>()("InternalError") {
  override get message(): string {
    return `the broker failed: ${this.replyText}. Its log says more`
  }
}

/**
 * The broker closed the connection with a reply code that the specification does not list as hard.
 *
 * @category reasons
 * @since 0.1.0
 */
export class UnknownReply extends reply<UnknownReply>()("UnknownReply") {
  override get message(): string {
    return `the broker closed the connection with code ${this.replyCode}: ${this.replyText}. ` +
      "The code is the broker's own: see its documentation"
  }
}

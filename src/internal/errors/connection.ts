/**
 * Hard errors: `AmqpConnectionError` and a reason for each way in which a connection ends or does not come about.
 * `AmqpError` publishes them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { type ReplyCode, replyCodes } from "../values/replyCodes.ts"

type HardCode = Extract<ReplyCode, { readonly severity: "hard" }>

// -----------------------------------------------------------------------------
// reasons of AmqpConnectionError: the broker's hard errors
// -----------------------------------------------------------------------------

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

/** The step in which nothing was heard of the peer yet. */
export const firstStep = "the protocol header"

/** A peer that says nothing at all may wait for TLS. */
const tlsAdvice = (step: string): string => step === firstStep ? " and does not expect TLS (amqps)" : ""

/** For what only a fault of this client, or of something in between, can provoke. */
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

// -----------------------------------------------------------------------------
// reasons of AmqpConnectionError: the client's own
// -----------------------------------------------------------------------------

/**
 * No connection to the endpoint: refused, unreachable, unknown host, or not open within `connectTimeout`.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ConnectFailed extends Schema.TaggedError<ConnectFailed>("effect-amqp/ConnectFailed")("ConnectFailed", {
  endpoint: Schema.String,
  /** The platform's code, for example `"ECONNREFUSED"`; empty where it gives none. */
  code: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    const tls = this.endpoint.startsWith("amqps:") ? ", and that this port speaks TLS" : ""
    return `cannot connect to ${this.endpoint}: ${this.detail}. Check that a broker listens there${tls}`
  }
}

/**
 * TLS could not be established: an untrusted or mismatching certificate, or a refused client certificate.
 *
 * @category reasons
 * @since 0.1.0
 */
export class TlsFailed extends Schema.TaggedError<TlsFailed>("effect-amqp/TlsFailed")("TlsFailed", {
  endpoint: Schema.String,
  /** The code of the TLS library, for example `"SELF_SIGNED_CERT_IN_CHAIN"`; empty where it gives none. */
  code: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    const code = this.code === "" ? "" : ` (${this.code})`
    const advice =
      /wrong.version.number|packet.length.too.long|unknown.protocol|http.request/i.test(this.code + this.detail)
        ? "What answers there is not TLS: use the broker's port for TLS (by default 5671), or amqp instead of amqps"
        : "Check the certificates and the server name"
    return `TLS with ${this.endpoint} failed: ${this.detail}${code}. ${advice}`
  }
}

/**
 * The broker refused the credentials (403 at login), offers no mechanism that the client may use, or closed the socket in
 * answer to the login without saying why, as brokers do that say nothing to strangers.
 *
 * @category reasons
 * @since 0.1.0
 */
export class AuthenticationFailed
  extends Schema.TaggedError<AuthenticationFailed>("effect-amqp/AuthenticationFailed")("AuthenticationFailed", {
    mechanism: Schema.String,
    detail: Schema.String,
    /** Whether the broker closed the socket without a word; absent where it said no. */
    unspoken: Schema.optional(Schema.Boolean)
  })
{
  override get message(): string {
    const mechanism = this.mechanism === "" ? "" : ` with ${this.mechanism}`
    return `authentication${mechanism} failed: ${this.detail.replace(/\.$/, "")}. ${loginAdvice(this.mechanism)}`
  }
}

const loginAdvice = (mechanism: string): string => {
  switch (mechanism.toUpperCase()) {
    case "":
      return "Check the mechanisms of both sides"
    case "EXTERNAL":
      return "Check that the client sends a certificate which the broker trusts, and that a user has the name in it"
    case "ANONYMOUS":
      return "Check that the broker lets anybody in, and as whom"
    default:
      return "Check the user name, the password and the mechanisms"
  }
}

/**
 * The broker and the client cannot agree on the limits of the connection: the broker is known not to accept them, or it
 * closed the socket in answer to them without saying why.
 *
 * @category reasons
 * @since 0.1.0
 */
export class NegotiationFailed
  extends Schema.TaggedError<NegotiationFailed>("effect-amqp/NegotiationFailed")("NegotiationFailed", {
    detail: Schema.String,
    /** Whether the broker closed the socket without a word; absent where nothing was sent to it. */
    unspoken: Schema.optional(Schema.Boolean)
  })
{
  override get message(): string {
    const advice = this.unspoken === true
      ? "Check the limits and the vhost; the broker's log says more"
      : "Leave the option out, or give it another value"
    return `no agreement with the broker: ${this.detail}. ${advice}`
  }
}

/**
 * All channel numbers of this connection are in use. The connection itself is well.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ChannelsExhausted
  extends Schema.TaggedError<ChannelsExhausted>("effect-amqp/ChannelsExhausted")("ChannelsExhausted", {
    /** How many there may be: the smaller wish of client and broker. */
    channelMax: Schema.Int
  })
{
  override get message(): string {
    return `all ${this.channelMax} channels of this connection are open. ` +
      "Close some, allow more (channelMax, here and at the broker), or open another connection"
  }
}

/**
 * The peer speaks another protocol, or another version of AMQP.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ProtocolVersionMismatch
  extends Schema.TaggedError<ProtocolVersionMismatch>("effect-amqp/ProtocolVersionMismatch")(
    "ProtocolVersionMismatch",
    {
      /** What the peer offers, for example `"AMQP 0-8"`. */
      offered: Schema.String
    }
  )
{
  override get message(): string {
    return `the peer offers ${this.offered}, this client speaks AMQP 0-9-1. Check the port`
  }
}

/**
 * The handshake was not over within `handshakeTimeout`.
 *
 * @category reasons
 * @since 0.1.0
 */
export class HandshakeTimeout
  extends Schema.TaggedError<HandshakeTimeout>("effect-amqp/HandshakeTimeout")("HandshakeTimeout", {
    /** The step that got no answer, for example `"connection.start-ok"`. */
    step: Schema.String,
    timeoutMillis: Schema.Finite
  })
{
  override get message(): string {
    return `the handshake was not over after ${this.timeoutMillis} ms: no answer to ${this.step}. ` +
      `Check that a broker listens there${tlsAdvice(this.step)}, or give it more time`
  }
}

/**
 * Nothing was received for two heartbeat intervals (specification 4.2.7).
 *
 * @category reasons
 * @since 0.1.0
 */
export class HeartbeatTimeout
  extends Schema.TaggedError<HeartbeatTimeout>("effect-amqp/HeartbeatTimeout")("HeartbeatTimeout", {
    intervalSeconds: Schema.Finite
  })
{
  override get message(): string {
    return `the broker sent nothing for two heartbeat intervals of ${this.intervalSeconds} s. ` +
      "It is gone or cut off: connect again"
  }
}

/**
 * The socket went away without a word of the protocol: end of file, reset, or a failed write.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ConnectionLost extends Schema.TaggedError<ConnectionLost>("effect-amqp/ConnectionLost")("ConnectionLost", {
  /** What the connection was doing: `"open"`, or the step of the handshake. */
  phase: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    if (this.phase === firstStep) {
      return `the connection was lost during the handshake (${this.phase}): ${this.detail}. ` +
        `Check that a broker listens there${tlsAdvice(this.phase)}, and connect again`
    }
    const during = this.phase === "open" ? "" : ` during the handshake (${this.phase})`
    return `the connection was lost${during}: ${this.detail}. Check the network, and connect again`
  }
}

/**
 * The connection was closed by its own scope or by `close`.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ConnectionClosed
  extends Schema.TaggedError<ConnectionClosed>("effect-amqp/ConnectionClosed")("ConnectionClosed", {})
{
  override get message(): string {
    return "the connection was closed by this client"
  }
}

/**
 * The peer broke the protocol, or a limit that protects this client.
 *
 * @category reasons
 * @since 0.1.0
 */
export class ProtocolViolation
  extends Schema.TaggedError<ProtocolViolation>("effect-amqp/ProtocolViolation")("ProtocolViolation", {
    /** The reply code that the client gives for it, from the specification's list of hard errors. */
    replyCode: Schema.Int,
    detail: Schema.String
  })
{
  override get message(): string {
    return `the peer broke the protocol: ${this.detail}. Check that it is an AMQP 0-9-1 broker`
  }
}

const reasons = [
  ConnectionForced,
  InvalidPath,
  FrameError,
  SyntaxError,
  CommandInvalid,
  ChannelError,
  UnexpectedFrame,
  ResourceError,
  NotAllowed,
  NotImplemented,
  InternalError,
  UnknownReply,
  ConnectFailed,
  TlsFailed,
  AuthenticationFailed,
  NegotiationFailed,
  ChannelsExhausted,
  ProtocolVersionMismatch,
  HandshakeTimeout,
  HeartbeatTimeout,
  ConnectionLost,
  ConnectionClosed,
  ProtocolViolation
] as const

/**
 * Why a connection ended or did not come about.
 *
 * @category models
 * @since 0.1.0
 */
export type AmqpConnectionErrorReason = InstanceType<typeof reasons[number]>

/**
 * Anything that ends or prevents a connection. Recover by `Effect.catchTag("AmqpConnectionError", …)`, or by one
 * reason with `Effect.catchReason("AmqpConnectionError", "NotAllowed", …)`.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpConnectionError
  extends Schema.TaggedError<AmqpConnectionError>("effect-amqp/AmqpConnectionError")("AmqpConnectionError", {
    reason: Schema.Union(reasons)
  })
{
  override readonly cause = this.reason

  override get message(): string {
    return `AMQP connection: ${this.reason.message}`
  }
}

interface ReplyProps {
  readonly replyCode: number
  readonly replyText: string
  readonly classId: number
  readonly methodId: number
}

const hardByName: Record<HardCode["name"], new(props: ReplyProps) => AmqpConnectionErrorReason> = {
  "connection-forced": ConnectionForced,
  "invalid-path": InvalidPath,
  "frame-error": FrameError,
  "syntax-error": SyntaxError,
  "command-invalid": CommandInvalid,
  "channel-error": ChannelError,
  "unexpected-frame": UnexpectedFrame,
  "resource-error": ResourceError,
  "not-allowed": NotAllowed,
  "not-implemented": NotImplemented,
  "internal-error": InternalError
}

/**
 * The error of a `connection.close`, by its reply code.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromConnectionClose = (close: ReplyProps): AmqpConnectionError => {
  const { classId, methodId, replyCode, replyText } = close
  const known = replyCodes[replyCode]
  const HardClass = known?.severity === "hard" ? hardByName[known.name] : UnknownReply
  return new AmqpConnectionError({ reason: new HardClass({ replyCode, replyText, classId, methodId }) })
}

/**
 * Reasons of `AmqpConnectionError` that the client finds out: no connection comes about, the peer breaks the protocol, the
 * socket goes away. `AmqpError` publishes them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/** The first step of the handshake, before anything has come from the peer. */
export const firstStep = "the protocol header"

/** Advice for a peer that says nothing at all: it may wait for TLS. */
const tlsAdvice = (step: string): string => step === firstStep ? " and does not expect TLS (amqps)" : ""

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

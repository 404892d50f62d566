/**
 * `AmqpConnectionError`: why a connection has ended or does not come about. `AmqpError` publishes it.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { type ReplyCode, replyCodes } from "../values/replyCodes.ts"
import {
  ChannelError,
  CommandInvalid,
  ConnectionForced,
  FrameError,
  InternalError,
  InvalidPath,
  NotAllowed,
  NotImplemented,
  ResourceError,
  SyntaxError,
  UnexpectedFrame,
  UnknownReply
} from "./brokerReasons.ts"
import {
  AuthenticationFailed,
  ChannelsExhausted,
  ConnectFailed,
  ConnectionClosed,
  ConnectionLost,
  HandshakeTimeout,
  HeartbeatTimeout,
  NegotiationFailed,
  ProtocolVersionMismatch,
  ProtocolViolation,
  TlsFailed
} from "./clientReasons.ts"

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

type HardCode = Extract<ReplyCode, { readonly severity: "hard" }>

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

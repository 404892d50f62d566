/**
 * Everything that can go wrong, as tagged errors.
 *
 * A *soft* error is the broker's refusal of one operation: it closes the channel of that operation and appears in its
 * error channel. A *hard* error ends or prevents a connection: one `AmqpConnectionError` with a `reason` for each way
 * that can happen. The rest are the outcomes of publishing, the end of consumers, and values that AMQP cannot carry.
 * All are `Schema.TaggedError`s, so they can cross process boundaries. No field holds a secret.
 *
 * The module decides what an error *is*. It does not decide which operation a reply code belongs to: the engine does.
 *
 * @since 0.1.0
 */
export {
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
} from "./internal/errors/brokerReasons.ts"
export type { ChannelCloseCause } from "./internal/errors/channel.ts"
export {
  AmqpChannelClosed,
  AmqpCloseUnanswered,
  AmqpConsumerCancelled,
  AmqpStaleDelivery
} from "./internal/errors/channel.ts"
export {
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
} from "./internal/errors/clientReasons.ts"
export type { AmqpConnectionErrorReason } from "./internal/errors/connection.ts"
export { AmqpConnectionError, fromConnectionClose } from "./internal/errors/connection.ts"
export { AmqpMessageReturned, AmqpPublishNacked, AmqpPublishUnconfirmed } from "./internal/errors/publish.ts"
export type { SoftError } from "./internal/errors/soft.ts"
export {
  AmqpAccessRefused,
  AmqpChannelException,
  AmqpContentTooLarge,
  AmqpNotFound,
  AmqpPreconditionFailed,
  AmqpResourceLocked,
  fromChannelClose,
  isSoft
} from "./internal/errors/soft.ts"
export { isHard, isRecoverable, isTransient } from "./internal/errors/transient.ts"
export { AmqpDecodeError, AmqpEncodeError } from "./internal/errors/value.ts"

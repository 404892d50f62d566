/**
 * The wire protocol as pure functions: bytes to frames, methods and contents to bytes. Both directions are here, so a
 * client, a broker, a proxy or a test can be built on it.
 *
 * A parser checks what one frame shows by itself: its size before memory is taken for it, its type, its end, and each
 * field of a method up to the last byte. It does not know which frame may follow which, who may send it, or which
 * channels are open. It does not put contents together, and nothing here opens a socket. Writers do not check whether a
 * method makes sense, only whether it has an exact form on the wire.
 *
 * @since 0.1.0
 */
export type { Content, ContentMethod, Frame, Parser } from "./internal/codec/protocol.ts"
export {
  decodeProperties,
  defaultFrameMax,
  encodeContent,
  encodeMethod,
  encodeProperties,
  frameBody,
  frameEnd,
  frameHeader,
  frameHeartbeat,
  frameMethod,
  frameMinSize,
  frameOverhead,
  heartbeatFrame,
  makeParser,
  methods,
  protocolHeader,
  type ReplyCode,
  replyCodes
} from "./internal/codec/protocol.ts"
// Every method's type, their union, and the properties of class basic.
export type * from "./internal/codec/spec.ts"

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
import * as Result from "effect/Result"
import { AmqpConnectionError } from "../errors/connection.ts"
import { AmqpDecodeError, AmqpEncodeError } from "../errors/value.ts"
import type { InputTable } from "../values/tableValue.ts"
import {
  FrameParser,
  readHeaderFields,
  readMethodFields,
  violation,
  writeBodyFrames,
  writeHeaderFrame,
  writeMethodFrame,
  writeRawHeaderFrame
} from "./frames.ts"
import { type Properties, type PropertiesInput, readProperties } from "./message.ts"
import {
  type BasicDeliver,
  type BasicGetOk,
  type BasicPublish,
  type BasicReturn,
  frameMinSize,
  type Method,
  methods,
  writeBasicProperties
} from "./spec.ts"
import { Reader, view, Writer } from "./wire.ts"

// -----------------------------------------------------------------------------
// the specification
// -----------------------------------------------------------------------------

export { type ReplyCode, replyCodes } from "../values/replyCodes.ts"
export { frameOverhead, heartbeatFrame, protocolHeader } from "./frames.ts"
// Every method's type, their union, and the properties of class basic.
export type * from "./spec.ts"
export { frameBody, frameEnd, frameHeader, frameHeartbeat, frameMethod, frameMinSize, methods } from "./spec.ts"

/**
 * The frame size that applies where none is given: 131072 bytes, which brokers propose by default.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultFrameMax = 131072

/** Every peer takes frames of the minimal size, so a limit below it can only be a mistake, or the 0 of "no limit". */
const frameLimit = (frameMax = defaultFrameMax): number => frameMax >= frameMinSize ? frameMax : frameMinSize

// -----------------------------------------------------------------------------
// decoding
// -----------------------------------------------------------------------------

/**
 * A frame (specification 2.3.5).
 *
 * **Details**
 *
 * `properties` are the bytes of a content header from the property flags on: `decodeProperties` reads them, and
 * `encodeContent` takes them as they are.
 *
 * **Gotchas**
 *
 * `properties`, `payload` and the byte fields of `method` are views of the chunk where the frame lay whole in it: copy
 * them to keep them beyond the life of the chunk.
 *
 * @category models
 * @since 0.1.0
 */
export type Frame =
  | { readonly _tag: "Method"; readonly channel: number; readonly method: Method }
  | { readonly _tag: "Header"; readonly channel: number; readonly bodySize: number; readonly properties: Uint8Array }
  | { readonly _tag: "Body"; readonly channel: number; readonly payload: Uint8Array }
  | { readonly _tag: "Heartbeat" }

/**
 * An incremental parser of one direction of one connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface Parser {
  /**
   * The size in bytes, overhead included, up to which body frames are accepted; set it to what `connection.tune-ok`
   * says. Values below 4096, which every peer must take, count as 4096, and so does 0. Methods and headers, to which
   * brokers do not apply the negotiated size, have a limit of 1 MiB or of `frameMax` (up to 16 MiB), whichever is more.
   */
  frameMax: number
  /**
   * The same for methods and headers, for a peer that must keep to it, as a broker expects it of clients. `undefined`,
   * the default, is the limit that `frameMax` mentions.
   */
  unsplitMax: number | undefined
  /**
   * The frames that this chunk completes, in order.
   *
   * **Details**
   *
   * Chunks may be cut anywhere. A failure is an `AmqpConnectionError` of reason `ProtocolViolation`, with the reply code
   * to give to the peer: 501 for a frame, 502 for a value, 503 for an unknown method. It is final: the parser fails from
   * then on. Frames that the same chunk completed before the failure are in `completed`.
   */
  readonly push: (chunk: Uint8Array) => Result.Result<ReadonlyArray<Frame>, AmqpConnectionError>
  /**
   * The frames that the last chunk completed, also where it failed behind them: a peer that handles these before it
   * handles the failure does the same however the bytes were cut.
   */
  readonly completed: ReadonlyArray<Frame>
}

/**
 * Makes a parser.
 *
 * **Details**
 *
 * `frameMax` defaults to 131072.
 *
 * **Gotchas**
 *
 * The eight bytes of the protocol header, which a client sends first and a server answers when it speaks another
 * version, are no frame: they are for the caller to take off.
 *
 * **Example** (one frame in two chunks)
 *
 * ```ts
 * const parser = AmqpProtocol.makeParser()
 * parser.push(AmqpProtocol.heartbeatFrame.subarray(0, 5)) // Success []
 * parser.push(AmqpProtocol.heartbeatFrame.subarray(5)) // Success [{ _tag: "Heartbeat" }]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeParser = (options: { readonly frameMax?: number | undefined } = {}): Parser => {
  let frames: Array<Frame> = []
  /** The piece of a body frame that this chunk holds. */
  let piece: Uint8Array | undefined
  /** The pieces that earlier chunks held, copied: those chunks are not ours to keep. */
  const earlier = new Writer()
  const parser = new FrameParser({
    onMethod: (channel, reader) => {
      frames.push({ _tag: "Method", channel, method: readMethodFields(reader.u32(), reader) })
    },
    onHeader: (channel, reader) => {
      const bodySize = readHeaderFields(reader)
      frames.push({ _tag: "Header", channel, bodySize, properties: reader.raw(reader.remaining) })
    },
    onBody: (_channel, bytes, start, end) => {
      piece = view(bytes, start, end)
    },
    onBodyEnd: (channel) => {
      if (earlier.unitSize > 0) {
        if (piece !== undefined) earlier.raw(piece)
        piece = take(earlier)
      }
      frames.push({ _tag: "Body", channel, payload: piece ?? new Uint8Array(0) })
      piece = undefined
    },
    onHeartbeat: () => {
      frames.push({ _tag: "Heartbeat" })
    }
  }, frameLimit(options.frameMax))

  return {
    get frameMax() {
      return parser.frameMax
    },
    set frameMax(frameMax) {
      parser.frameMax = frameLimit(frameMax)
    },
    get unsplitMax() {
      return parser.unsplitMax
    },
    set unsplitMax(unsplitMax) {
      parser.unsplitMax = unsplitMax === undefined ? undefined : frameLimit(unsplitMax)
    },
    push: (chunk) => {
      frames = []
      try {
        parser.push(chunk)
      } catch (error) {
        if (error instanceof AmqpDecodeError) return Result.fail(violation(502, error.message))
        if (error instanceof AmqpConnectionError) return Result.fail(error)
        throw error
      }
      if (piece !== undefined) {
        earlier.raw(piece)
        piece = undefined
      }
      return Result.succeed(frames)
    },
    get completed() {
      return frames
    }
  }
}

/**
 * The properties of a content, from the bytes of a `Header` frame.
 *
 * **Details**
 *
 * Property flags that the specification does not define, text that is not UTF-8, headers that are no table and bytes
 * after the last property are an `AmqpDecodeError`. Only this content is affected: the frame itself is sound.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeProperties = (properties: Uint8Array): Result.Result<Properties, AmqpDecodeError> => {
  try {
    return Result.succeed(readProperties(new Reader(properties)))
  } catch (error) {
    if (error instanceof AmqpDecodeError) return Result.fail(error)
    throw error
  }
}

// -----------------------------------------------------------------------------
// encoding
// -----------------------------------------------------------------------------

/** What the writer holds, in one piece: it was empty before. */
const take = (writer: Writer): Uint8Array => {
  writer.commit()
  return writer.take()[0] ?? new Uint8Array(0)
}

/** Shared, because a pool of 64 KiB for each heartbeat's worth of bytes would cost more than the bytes. */
const sharedWriter = new Writer()

const encode = (channel: number, write: (writer: Writer) => void): Result.Result<Uint8Array, AmqpEncodeError> => {
  // In the middle of a unit we were called by a getter of the object that is being encoded.
  const writer = sharedWriter.unitSize === 0 ? sharedWriter : new Writer()
  try {
    writer.path = "channel"
    writer.integer(channel, 0xffff)
    write(writer)
    return Result.succeed(take(writer))
  } catch (error) {
    writer.rollback()
    if (error instanceof AmqpEncodeError) return Result.fail(error)
    throw error
  }
}

/**
 * The bytes of a method frame.
 *
 * **Details**
 *
 * Fails where a field has no form on the wire (a short string of more than 255 bytes, an integer out of its range, a
 * table that cannot be encoded), or where the frame would be larger than `frameMax` (default 131072, at least 4096):
 * methods cannot be split. The path of the error names the field.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeMethod = (
  channel: number,
  method: Method<InputTable>,
  options: { readonly frameMax?: number | undefined } = {}
): Result.Result<Uint8Array, AmqpEncodeError> =>
  encode(channel, (writer) => writeMethodFrame(writer, channel, method, frameLimit(options.frameMax)))

/**
 * The properties of a content as the bytes of a `Header` frame, from the property flags on: what `decodeProperties`
 * reads and `encodeContent` takes.
 *
 * **Details**
 *
 * Fails where a property has no form on the wire; the path of the error names it.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeProperties = (properties: PropertiesInput): Result.Result<Uint8Array, AmqpEncodeError> =>
  encode(0, (writer) => writeBasicProperties(writer, properties))

/**
 * The methods that carry a content.
 *
 * @category models
 * @since 0.1.0
 */
export type ContentMethod = BasicPublish | BasicReturn | BasicDeliver | BasicGetOk

/**
 * A method with its content.
 *
 * @category models
 * @since 0.1.0
 */
export interface Content {
  readonly channel: number
  readonly method: ContentMethod
  /** Values, or the bytes of a `Header` frame, which are written as they are. Defaults to none. */
  readonly properties?: PropertiesInput | Uint8Array | undefined
  readonly body: Uint8Array
  /** The largest frame in bytes, overhead included. Defaults to 131072, at least 4096. */
  readonly frameMax?: number | undefined
  /**
   * The largest method or header frame in bytes. Defaults to `frameMax`; brokers, which cannot split what a publisher
   * put into a header, do not apply that to these.
   */
  readonly unsplitMax?: number | undefined
}

/**
 * The bytes of a method, its content header and as few body frames as `frameMax` allows; an empty body has none
 * (specification 4.2.6).
 *
 * **Details**
 *
 * Fails as `encodeMethod` does. The header cannot be split either.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeContent = (content: Content): Result.Result<Uint8Array, AmqpEncodeError> => {
  const { body, channel, method, properties = {} } = content
  if (!(body instanceof Uint8Array)) throw new TypeError("body must be a Uint8Array")
  if (!methods[method._tag].content) throw new TypeError(`${method._tag} carries no content`)
  const frameMax = frameLimit(content.frameMax)
  const unsplitMax = frameLimit(content.unsplitMax ?? frameMax)
  return encode(channel, (writer) => {
    writeMethodFrame(writer, channel, method, unsplitMax)
    if (properties instanceof Uint8Array) writeRawHeaderFrame(writer, channel, body.length, properties, unsplitMax)
    else writeHeaderFrame(writer, channel, body.length, properties, unsplitMax)
    writeBodyFrames(writer, channel, body, frameMax)
  })
}

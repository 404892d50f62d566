/**
 * Frames (specification 2.3): the incremental parser of what a peer sends, and the writers of methods and contents.
 *
 * The parser works in place: a frame that lies whole in a chunk is handed on as a range of that chunk, only a method or
 * header that straddles chunks is copied, and a body is handed on piece by piece. It checks sizes before it allocates,
 * and it is dead after its first error. It does not know channels, contents or the order of frames.
 *
 * @since 0.1.0
 */
import { ProtocolViolation } from "../errors/clientReasons.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import type { InputTable } from "../values/tableValue.ts"
import {
  type BasicProperties,
  frameBody,
  frameEnd,
  frameHeader,
  frameHeartbeat,
  frameMethod,
  type Method,
  methods,
  readMethod,
  writeBasicProperties,
  writeMethod
} from "./spec.ts"
import { Reader, type Writer } from "./wire.ts"

/**
 * What a frame costs on top of its payload, in bytes: type, channel, size, end (specification 2.3.5).
 *
 * @category constants
 * @since 0.1.0
 */
export const frameOverhead = 8

/**
 * The largest method or header frame that is accepted, in bytes of payload: 1 MiB. RabbitMQ does not apply the
 * negotiated `frame_max` to these, so they need a limit of their own.
 */
export const maxUnsplitSize = 1024 * 1024

/**
 * The limit where a larger `frame_max` was agreed: 16 MiB, whatever a broker proposes, because the parser takes memory
 * for it.
 */
const maxAgreedUnsplitSize = 16 * 1024 * 1024

/** A violation of the protocol by the peer, with the reply code the specification gives it. */
export const violation = (replyCode: number, detail: string): AmqpConnectionError =>
  new AmqpConnectionError({ reason: new ProtocolViolation({ replyCode, detail }) })

/** Receives frames. The reader and the ranges are only valid during the call. */
export interface FrameHandler {
  /** A method frame; the reader stands before the class id. */
  readonly onMethod: (channel: number, reader: Reader) => void
  /** A content header frame; the reader stands before the class id. */
  readonly onHeader: (channel: number, reader: Reader) => void
  /** A piece of a body frame. */
  readonly onBody: (channel: number, bytes: Uint8Array, start: number, end: number) => void
  /** The end of a body frame. */
  readonly onBodyEnd: (channel: number) => void
  readonly onHeartbeat: () => void
}

/** A content as it came from the wire: the body, and where the properties are. */
export interface ReceivedContent {
  readonly content: Uint8Array
  /** What holds the content header. */
  readonly headerBytes: Uint8Array
  /** Where the property flags begin. */
  readonly headerStart: number
  readonly headerEnd: number
}

const headSize = 7

/** The one class that has contents. */
const basicClass = 60

/** An incremental parser of frames. */
export class FrameParser {
  /** The negotiated size of a whole frame, which limits body frames. */
  frameMax: number
  /** The limit of method and header frames, if the peer keeps to one. */
  unsplitMax: number | undefined = undefined
  private readonly handler: FrameHandler
  private readonly reader = new Reader(new Uint8Array(0))
  private readonly head = new Uint8Array(headSize)
  /** Bytes of `head` that have arrived; `headSize` while a payload is being read. */
  private headFilled = 0
  private type = 0
  private channel = 0
  /** Payload bytes that are still missing. */
  private missing = 0
  /** The payload and end octet of a method or header that straddles chunks. */
  private straddling: Uint8Array | undefined
  private failed = false

  constructor(handler: FrameHandler, frameMax: number) {
    this.handler = handler
    this.frameMax = frameMax
  }

  /** Whether all that came is whole frames. */
  get isBetweenFrames(): boolean {
    return this.headFilled === 0
  }

  /** Parses a chunk. Throws `AmqpConnectionError`, whatever the bytes are, and is dead from then on. */
  push(chunk: Uint8Array): void {
    if (this.failed) throw violation(501, "the parser cannot be used after a failure")
    this.failed = true
    this.parse(chunk)
    this.failed = false
  }

  private parse(chunk: Uint8Array): void {
    const length = chunk.length
    let at = 0
    while (at < length) {
      if (this.headFilled < headSize) {
        if (this.headFilled === 0 && length - at >= headSize) {
          this.open(chunk, at)
          at += headSize
        } else {
          const missing = Math.min(headSize - this.headFilled, length - at)
          for (let i = 0; i < missing; i++) this.head[this.headFilled + i] = chunk[at + i] ?? 0
          this.headFilled += missing
          at += missing
          if (this.headFilled < headSize) return
          this.open(this.head, 0)
        }
      }
      at = this.type === frameBody ? this.body(chunk, at) : this.unsplit(chunk, at)
    }
  }

  /** Reads the head of a frame and checks what it announces. */
  private open(bytes: Uint8Array, at: number): void {
    const reader = this.reader
    reader.reset(bytes, at, at + headSize)
    const type = reader.u8()
    const channel = reader.u16()
    const size = reader.u32()
    let limit = 0
    if (type === frameBody) limit = this.frameMax - frameOverhead
    else if (type === frameMethod || type === frameHeader) {
      limit = this.unsplitMax === undefined
        ? Math.max(Math.min(this.frameMax, maxAgreedUnsplitSize), maxUnsplitSize)
        : this.unsplitMax - frameOverhead
    } else if (type !== frameHeartbeat) throw violation(501, `frame type ${type} does not exist`)
    if (size > limit) throw violation(501, `a frame of type ${type} announces ${size} bytes, the limit is ${limit}`)
    this.type = type
    this.channel = channel
    this.missing = size
    this.headFilled = headSize
  }

  private close(octet: number | undefined): void {
    if (octet !== frameEnd) throw violation(501, `a frame ends with octet ${octet}, not ${frameEnd}`)
    this.headFilled = 0
  }

  private body(chunk: Uint8Array, start: number): number {
    const end = Math.min(start + this.missing, chunk.length)
    if (end > start) {
      this.missing -= end - start
      this.handler.onBody(this.channel, chunk, start, end)
    }
    if (end === chunk.length) return end
    this.close(chunk[end])
    this.handler.onBodyEnd(this.channel)
    return end + 1
  }

  private unsplit(chunk: Uint8Array, start: number): number {
    const available = chunk.length - start
    if (this.straddling === undefined) {
      const size = this.missing
      if (available > size) {
        this.close(chunk[start + size])
        this.dispatch(chunk, start, start + size)
        return start + size + 1
      }
      this.straddling = new Uint8Array(size + 1)
      this.missing = size + 1
    }
    const whole = this.straddling
    const taken = Math.min(this.missing, available)
    whole.set(chunk.subarray(start, start + taken), whole.length - this.missing)
    this.missing -= taken
    if (this.missing === 0) {
      this.straddling = undefined
      this.close(whole[whole.length - 1])
      this.dispatch(whole, 0, whole.length - 1)
    }
    return start + taken
  }

  private dispatch(bytes: Uint8Array, start: number, end: number): void {
    if (this.type === frameHeartbeat) {
      if (this.channel !== 0) throw violation(501, "a heartbeat came on a channel")
      return this.handler.onHeartbeat()
    }
    this.reader.reset(bytes, start, end)
    this.reader.path = ""
    if (this.type === frameMethod) this.handler.onMethod(this.channel, this.reader)
    else this.handler.onHeader(this.channel, this.reader)
  }
}

// -----------------------------------------------------------------------------
// payloads
// -----------------------------------------------------------------------------

/** Reads the fields of the method with this id, up to the last byte of its frame. */
export const readMethodFields = (id: number, reader: Reader): Method => {
  const method = readMethod(id, reader)
  if (method === undefined) throw violation(503, `method ${id >>> 16}.${id & 0xffff} does not exist`)
  if (reader.remaining !== 0) throw violation(502, `${reader.remaining} bytes after the fields of ${method._tag}`)
  return method
}

/** Reads a content header up to its property flags. Gives the size of the body. */
export const readHeaderFields = (reader: Reader): number => {
  const classId = reader.u16()
  if (classId !== basicClass) throw violation(501, `a content header of class ${classId}`)
  if (reader.u16() !== 0) throw violation(501, "a content header with a weight")
  return reader.u64()
}

// -----------------------------------------------------------------------------
// writers
// -----------------------------------------------------------------------------

/**
 * The eight bytes that open a connection (specification 4.2.2).
 *
 * @category constants
 * @since 0.1.0
 */
export const protocolHeader = new Uint8Array([0x41, 0x4d, 0x51, 0x50, 0, 0, 9, 1])

/**
 * A whole heartbeat frame (specification 4.2.7).
 *
 * @category constants
 * @since 0.1.0
 */
export const heartbeatFrame = new Uint8Array([frameHeartbeat, 0, 0, 0, 0, 0, 0, frameEnd])

/** Writes a method frame. Throws `AmqpEncodeError`; the unit in progress is then void. */
export const writeMethodFrame = (w: Writer, channel: number, method: Method<InputTable>, frameMax: number): void => {
  w.frameStart(frameMethod, channel)
  writeMethod(w, method)
  w.path = method._tag
  w.frameEnd(frameMax)
}

const basicPublish = methods["basic.publish"].id

/** `basic.publish` without a method object in between: this runs once per message. */
export const writePublishFrame = (
  w: Writer,
  channel: number,
  exchange: string,
  routingKey: string,
  mandatory: boolean,
  frameMax: number
): void => {
  w.frameStart(frameMethod, channel)
  w.u32(basicPublish)
  w.u16(0)
  w.path = "exchange"
  w.shortString(exchange)
  w.path = "routingKey"
  w.shortString(routingKey)
  w.u8(mandatory ? 1 : 0)
  w.frameEnd(frameMax)
}

/** Writes a content header frame. */
export const writeHeaderFrame = (
  w: Writer,
  channel: number,
  bodySize: number,
  properties: BasicProperties<InputTable>,
  frameMax: number
): void => {
  w.frameStart(frameHeader, channel)
  w.u32(basicClass * 0x1_0000) // the weight, which is always 0, in the low half
  w.u64(bodySize)
  writeBasicProperties(w, properties)
  w.path = "properties"
  w.frameEnd(frameMax)
}

/** Writes a content header frame whose properties, flags first, are bytes already. */
export const writeRawHeaderFrame = (
  w: Writer,
  channel: number,
  bodySize: number,
  properties: Uint8Array,
  frameMax: number
): void => {
  w.frameStart(frameHeader, channel)
  w.u32(basicClass * 0x1_0000)
  w.u64(bodySize)
  w.raw(properties)
  w.path = "properties"
  w.frameEnd(frameMax)
}

/** Writes the body frames of a content, by copy; an empty body has none. */
export const writeBodyFrames = (w: Writer, channel: number, body: Uint8Array, frameMax: number): void => {
  const max = frameMax - frameOverhead
  for (let at = 0; at < body.length; at += max) {
    w.frameStart(frameBody, channel)
    w.raw(body.length <= max ? body : body.subarray(at, at + max))
    w.frameEnd(frameMax)
  }
}

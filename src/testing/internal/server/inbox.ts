/**
 * What a client has sent and its connection has not handled: bytes in; the protocol header, then frames out.
 *
 * A frame is cut off when everything before it has been handled: the frame size may have been negotiated just before
 * it. Frames are views of their chunk, which the transport owns. What has to wait is copied.
 *
 * @since 0.1.0
 */
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { Refusal } from "../model/refusal.ts"
import { broken, type RawFrame } from "./clientFrame.ts"
import { join } from "./incoming.ts"

/** What was read from a client's bytes. Nothing follows garbage. */
export type Received =
  | { readonly _tag: "Frame"; readonly frame: RawFrame }
  | { readonly _tag: "ProtocolHeader"; readonly isKnown: boolean }
  | { readonly _tag: "Garbage"; readonly refusal: Refusal }

/** Type, channel and size of a frame. */
const headSize = 7

const { frameEnd, frameOverhead, protocolHeader } = AmqpProtocol

export class Inbox {
  /** The size of frames that has been negotiated. */
  frameMax: number = AmqpProtocol.frameMinSize
  private isBegun = false
  private isGarbage = false
  private chunks: Array<Uint8Array> = []
  /** How many of `chunks`, from the first on, are copies. */
  private owned = 0
  /** Bytes in `chunks`. */
  private size = 0

  push(chunk: Uint8Array): void {
    if (this.isGarbage || chunk.length === 0) return
    this.chunks.push(chunk)
    this.size += chunk.length
  }

  next(): Received | undefined {
    const received = this.isBegun ? this.cut() : this.begin()
    if (received === undefined) this.keep()
    return received
  }

  /** What is left has to wait: copies it. */
  keep(): void {
    for (; this.owned < this.chunks.length; this.owned++) {
      this.chunks[this.owned] = this.chunks[this.owned]?.slice() ?? new Uint8Array(0)
    }
  }

  /** Drops what is left. */
  clear(): void {
    this.chunks = []
    this.owned = this.size = 0
  }

  private begin(): Received | undefined {
    const header = this.peek(protocolHeader.length)
    if (header === undefined) return undefined
    this.isBegun = true
    this.skip(protocolHeader.length)
    return { _tag: "ProtocolHeader", isKnown: protocolHeader.every((byte, i) => header[i] === byte) }
  }

  private cut(): Received | undefined {
    const head = this.peek(headSize)
    if (head === undefined) return undefined
    const view = new DataView(head.buffer, head.byteOffset)
    const [type, channel, size] = [view.getUint8(0), view.getUint16(1), view.getUint32(3)]
    const none = { type, channel, payload: new Uint8Array(0) }
    // RabbitMQ allows the payload as much as the frame, because many clients forget the overhead.
    if (size > this.frameMax) {
      return this.garbage(broken(none, "frame_too_large", size, this.frameMax - frameOverhead))
    }
    const whole = this.peek(size + frameOverhead)
    if (whole === undefined) return undefined
    const frame = { type, channel, payload: whole.subarray(headSize, headSize + size) }
    const end = whole[headSize + size] ?? 0
    if (end !== frameEnd) return this.garbage(broken(frame, "invalid_frame_end_marker", end))
    this.skip(size + frameOverhead)
    return { _tag: "Frame", frame }
  }

  private garbage(refusal: Refusal): Received {
    this.clear()
    this.isGarbage = true
    return { _tag: "Garbage", refusal }
  }

  /** The next bytes in one piece. `undefined`: not so many have come. */
  private peek(size: number): Uint8Array | undefined {
    if (this.size < size) return undefined
    const [first] = this.chunks
    if (first !== undefined && first.length >= size) return first
    const whole = join(this.chunks)
    this.chunks = [whole]
    this.owned = 1
    return whole
  }

  /** Drops what `peek` gave. */
  private skip(size: number): void {
    const [first] = this.chunks
    if (first === undefined) return
    this.size -= size
    if (first.length > size) this.chunks[0] = first.subarray(size)
    else {
      this.chunks.shift()
      this.owned = Math.max(0, this.owned - 1)
    }
  }
}

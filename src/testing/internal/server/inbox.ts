/**
 * What a client has sent and its connection has not handled: bytes in; the protocol header, then frames out.
 *
 * A frame is cut off when everything before it has been handled, so that the size that was negotiated applies to what
 * comes behind. Frames are views of their chunk, which is the transport's: what has to wait gets bytes of its own.
 *
 * @since 0.1.0
 */
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { Refusal } from "../model/refusal.ts"
import { broken, type RawFrame } from "./clientFrame.ts"
import { join } from "./incoming.ts"

/** What comes of a client's bytes. Nothing comes behind what cannot be cut. */
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
  /** How many of `chunks`, which are the first, are nobody else's. */
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

  /** What is left has to wait. */
  keep(): void {
    for (; this.owned < this.chunks.length; this.owned++) {
      this.chunks[this.owned] = this.chunks[this.owned]?.slice() ?? new Uint8Array(0)
    }
  }

  /** What is left has no meaning any more. */
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
    // Clients get that many more bytes for nothing, because many of them count wrong.
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

  /** The next bytes in one piece, if so many have come. */
  private peek(size: number): Uint8Array | undefined {
    if (this.size < size) return undefined
    const [first] = this.chunks
    if (first !== undefined && first.length >= size) return first
    const whole = join(this.chunks)
    this.chunks = [whole]
    this.owned = 1
    return whole
  }

  /** Takes off what `peek` gave. */
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

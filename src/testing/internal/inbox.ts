/**
 * What a client has sent and its connection has not handled: bytes in; the protocol header, then frames out.
 *
 * A chunk is parsed when everything before it has been handled. Frames are views of their chunk, which is the
 * transport's: `keep` gives bytes of its own to what has to wait.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import type { AmqpConnectionError } from "../../AmqpError.ts"
import * as AmqpProtocol from "../../AmqpProtocol.ts"
import { join } from "./incoming.ts"

/** What comes of a client's bytes. Nothing comes behind what cannot be understood. */
export type Received =
  | AmqpProtocol.Frame
  | { readonly _tag: "ProtocolHeader"; readonly isKnown: boolean }
  | { readonly _tag: "Garbage"; readonly error: AmqpConnectionError }

/** With bytes of its own. */
export const copied = (frame: AmqpProtocol.Frame): AmqpProtocol.Frame => {
  if (frame._tag === "Header") return { ...frame, properties: frame.properties.slice() }
  if (frame._tag === "Body") return { ...frame, payload: frame.payload.slice() }
  return frame
}

export class Inbox {
  private readonly parser = AmqpProtocol.makeParser({ frameMax: AmqpProtocol.frameMinSize })
  /** The part of the protocol header that has come; `undefined` behind it. */
  private header: Uint8Array | undefined = new Uint8Array(0)
  private chunks: Array<Uint8Array> = []
  private frames: ReadonlyArray<AmqpProtocol.Frame> = []
  /** How many of `frames` have been handled. */
  private handled = 0
  /** What came behind `frames` and is none. */
  private garbage: Received | undefined

  constructor() {
    this.parser.unsplitMax = AmqpProtocol.frameMinSize
  }

  /** The size of frames that has been negotiated, for what is not parsed yet. */
  limit(frameMax: number): void {
    this.parser.frameMax = this.parser.unsplitMax = frameMax
  }

  push(chunk: Uint8Array): void {
    this.chunks.push(chunk)
  }

  next(): Received | undefined {
    while (true) {
      const frame = this.frames[this.handled]
      if (frame !== undefined) {
        this.handled++
        return frame
      }
      const { garbage } = this
      this.clearFrames()
      if (garbage !== undefined) return garbage
      const chunk = this.chunks.shift()
      if (chunk === undefined) return undefined
      if (this.header === undefined) this.parse(chunk)
      else {
        const header = this.begin(this.header, chunk)
        if (header !== undefined) return header
      }
    }
  }

  /** What is left has to wait. */
  keep(): void {
    this.frames = this.frames.slice(this.handled).map(copied)
    this.handled = 0
    this.chunks = this.chunks.map((chunk) => chunk.slice())
  }

  /** What is left has no meaning any more. */
  clear(): void {
    this.clearFrames()
    this.chunks = []
  }

  private clearFrames(): void {
    this.frames = []
    this.handled = 0
    this.garbage = undefined
  }

  private begin(header: Uint8Array, chunk: Uint8Array): Received | undefined {
    const { protocolHeader } = AmqpProtocol
    const whole = join([header, chunk])
    if (whole.length < protocolHeader.length) {
      this.header = whole
      return undefined
    }
    this.header = undefined
    this.chunks.unshift(whole.subarray(protocolHeader.length))
    return { _tag: "ProtocolHeader", isKnown: protocolHeader.every((byte, i) => whole[i] === byte) }
  }

  private parse(chunk: Uint8Array): void {
    const parsed = this.parser.push(chunk)
    this.frames = this.parser.completed
    if (Result.isFailure(parsed)) this.garbage = { _tag: "Garbage", error: parsed.failure }
  }
}

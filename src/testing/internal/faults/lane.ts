/**
 * One direction of a connection. It knows where frames and contents begin and end, so that something can be put between
 * them or left out.
 *
 * While nobody looks at frames, bytes pass at once, in the chunks in which they came. While somebody does, a frame is
 * kept until it is complete. After bytes that are no frame everything passes as it is: a network does not judge what it
 * carries.
 *
 * @since 0.1.0
 */
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import { Reader } from "../../../internal/codec/wire.ts"
import type { Direction } from "./faults.ts"
import { headSize, RawFrame } from "./frame.ts"

const { frameBody, frameEnd, frameHeader, frameHeartbeat, frameMethod } = AmqpProtocol

/** A frame that announces more is not kept in memory. */
const maxSize = 16 * 1024 * 1024

const none = new Uint8Array(0)

/** What goes on to the other side, in order. */
export type Item =
  | { readonly _tag: "Bytes"; readonly bytes: Uint8Array }
  | { readonly _tag: "Pause"; readonly millis: number }
  /** The connection is reset here. */
  | { readonly _tag: "Reset" }
  /** The sender hangs up here. */
  | { readonly _tag: "End" }

/** What a lane needs of its link. */
export interface LaneHost {
  readonly send: (direction: Direction, item: Item) => void
  /** Whether frames may have to be left out or changed. */
  readonly isCareful: (direction: Direction) => boolean
  /** Whether the payload of bodies is of interest. */
  readonly wantsBodies: () => boolean
  /** A frame has come whole. Gives whether it passes. `isOut`: it has passed already. */
  readonly onFrame: (direction: Direction, frame: RawFrame, isOut: boolean) => boolean
  /** The next offset beyond this one at which something is to happen. */
  readonly nextOffset: (direction: Direction, from: number) => number
  readonly onOffset: (direction: Direction, offset: number) => void
}

/** A method whose content is coming. */
interface Content {
  /** `undefined` before the header. */
  missing: number | undefined
  /** The method did not pass, so the rest of the content does not pass either. */
  readonly isDropped: boolean
  readonly after: Array<() => void>
}

/** One direction. */
export class FrameLane {
  readonly direction: Direction
  /** Bytes that came. */
  total = 0
  /** Nothing passes, and nobody is told. */
  isDark = false
  /** Whether a byte was lost in the dark. */
  hasLost = false
  /** The connection is over on this side: nothing passes, ever. */
  isDead = false
  private readonly host: LaneHost
  private readonly contents = new Map<number, Content>()
  private waiting: Array<{ readonly channel: number | undefined; readonly run: () => void }> = []
  /** What runs after the frame that is being looked at. */
  private after: Array<() => void> = []
  private toDrop = 0
  /** The bytes are no frames, or not any more. */
  private isOpaque = false
  /** Bytes of the protocol header that are missing; `undefined` before the first byte. */
  private preamble: number | undefined
  // the frame that is coming
  private readonly head = new Uint8Array(headSize)
  private headFilled = 0
  /** Bytes of payload and end octet that are missing. */
  private missing = 0
  private payload: Uint8Array | undefined
  private payloadFilled = 0
  /** The parts of the frame that are kept until it is complete. */
  private kept: Array<Uint8Array> = []
  /** Whether the beginning of the frame has passed. */
  private isOut = false
  // the chunk that is being looked at: bytes before `run` have passed, those before `cut` will
  private chunk: Uint8Array = none
  private run = 0
  private cut = 0

  constructor(direction: Direction, host: LaneHost) {
    this.direction = direction
    this.host = host
  }

  /** Takes what has come. */
  push(chunk: Uint8Array): void {
    let rest = chunk
    while (rest.length > 0 && !this.isDead) {
      const offset = this.host.nextOffset(this.direction, this.total)
      const part = rest.subarray(0, offset - this.total)
      this.scan(part.length === chunk.length ? chunk : part)
      rest = rest.subarray(part.length)
      if (this.total !== offset || this.isDead) continue
      this.release()
      this.host.onOffset(this.direction, offset)
    }
    if (this.isDead) this.total += rest.length
  }

  /** Puts something behind what has passed so far. */
  insert(item: Item): void {
    this.flush(this.cut)
    if (item._tag === "Bytes") this.emit(item.bytes)
    else if (!this.isDead) this.host.send(this.direction, item)
  }

  /** Passes what is complete, before a fault begins to apply to what follows. */
  settle(): void {
    this.flush(this.cut)
  }

  /** The next so many bytes are left out. */
  drop(count: number): void {
    this.settle()
    this.toDrop += count
  }

  /** Runs something after the frame that is being looked at, and its content. */
  behind(run: () => void): void {
    this.after.push(run)
  }

  /** Runs something where a frame of this channel may begin: now, or when what is going out is complete. */
  whenFree(channel: number | undefined, run: () => void): void {
    if (this.isFree(channel)) run()
    else this.waiting.push({ channel, run })
  }

  /** Whether the method of the content that is coming on this channel was left out. */
  isDropping(channel: number): boolean {
    return this.contents.get(channel)?.isDropped ?? false
  }

  /** Follows contents. Frames that do not come from `push` have to be given to it. */
  follow(frame: RawFrame, passes: boolean): void {
    const { after } = this
    this.after = []
    const content = this.contents.get(frame.channel)
    if (frame.hasContent) this.contents.set(frame.channel, { missing: undefined, isDropped: !passes, after })
    else {
      if (frame.isContentPart && content !== undefined) {
        const size = frame.frame?._tag === "Header" ? frame.frame.bodySize : 0
        content.missing = (content.missing ?? size) - (frame.type === frameBody ? frame.size : 0)
        if (content.missing <= 0) {
          this.contents.delete(frame.channel)
          after.unshift(...content.after)
        }
      } else if (frame.type === frameMethod) this.contents.delete(frame.channel)
      for (const run of after) run()
    }
    this.runWaiting()
  }

  // ---------------------------------------------------------------------------

  private get isCareful(): boolean {
    if (this.host.isCareful(this.direction)) return true
    for (const { isDropped } of this.contents.values()) if (isDropped) return true
    return false
  }

  private isFree(channel: number | undefined): boolean {
    if (this.preamble !== 0 && this.preamble !== undefined) return false
    if (this.isOpaque || (this.headFilled > 0 && this.isOut)) return false
    const content = channel === undefined ? undefined : this.contents.get(channel)
    return content === undefined || content.isDropped
  }

  private runWaiting(): void {
    if (this.waiting.length === 0) return
    const { waiting } = this
    this.waiting = []
    for (const { channel, run } of waiting) this.whenFree(channel, run)
  }

  private emit(bytes: Uint8Array): void {
    const left = bytes.subarray(Math.min(this.toDrop, bytes.length))
    this.toDrop -= bytes.length - left.length
    if (left.length === 0 || this.isDead) return
    if (this.isDark) this.hasLost = true
    else this.host.send(this.direction, { _tag: "Bytes", bytes: left.length === bytes.length ? bytes : left })
  }

  private flush(to: number): void {
    const { chunk, run } = this
    if (to <= run) return
    this.run = to
    this.emit(run === 0 && to === chunk.length ? chunk : chunk.subarray(run, to))
  }

  /** Lets the kept parts of the frame that is coming pass. Then the rest of it passes, too. */
  private release(): void {
    const { kept } = this
    this.kept = []
    for (const bytes of kept) this.emit(bytes)
    this.isOut = this.headFilled > 0
  }

  private scan(chunk: Uint8Array): void {
    this.total += chunk.length
    this.chunk = chunk
    let at = 0
    while (at < chunk.length && !this.isOpaque && !this.isDead) at = this.step(chunk, at)
    if (this.isOpaque || this.headFilled === 0 || this.isOut || !this.isCareful) {
      this.release()
      this.flush(chunk.length)
    } else {
      this.flush(this.cut)
      this.kept.push(chunk.subarray(this.cut))
    }
    this.chunk = none
    this.run = 0
    this.cut = 0
  }

  /** Reads one part of a chunk: a header, a payload. Gives where it ends. */
  private step(chunk: Uint8Array, at: number): number {
    this.preamble ??= chunk[at] === AmqpProtocol.protocolHeader[0] ? AmqpProtocol.protocolHeader.length : 0
    if (this.preamble > 0) {
      const taken = Math.min(this.preamble, chunk.length - at)
      this.preamble -= taken
      this.cut = at + taken
      if (this.preamble === 0) this.runWaiting()
      return at + taken
    }
    if (this.headFilled < headSize) {
      const taken = Math.min(headSize - this.headFilled, chunk.length - at)
      this.head.set(chunk.subarray(at, at + taken), this.headFilled)
      this.headFilled += taken
      if (this.headFilled === headSize) this.begin()
      return at + taken
    }
    const taken = Math.min(this.missing, chunk.length - at)
    const end = at + taken
    const isComplete = taken === this.missing
    this.missing -= taken
    if (this.payload !== undefined) {
      const bytes = chunk.subarray(at, isComplete ? end - 1 : end)
      // A payload that lies whole in a chunk is not copied.
      if (this.payloadFilled === 0 && bytes.length === this.payload.length) this.payload = bytes
      else this.payload.set(bytes, this.payloadFilled)
      this.payloadFilled += bytes.length
    }
    if (!isComplete) return end
    if (chunk[end - 1] === frameEnd) this.complete(end)
    else this.isOpaque = true
    return end
  }

  private begin(): void {
    const head = new Reader(this.head)
    const type = head.u8()
    head.u16()
    const size = head.u32()
    const isKnown = type === frameMethod || type === frameHeader || type === frameBody || type === frameHeartbeat
    if (!isKnown || size > maxSize) {
      this.isOpaque = true
      return
    }
    this.missing = size + 1
    this.payload = type !== frameBody || this.host.wantsBodies() ? new Uint8Array(size) : undefined
    this.payloadFilled = 0
  }

  private complete(end: number): void {
    const head = new Reader(this.head)
    const frame = new RawFrame(head.u8(), head.u16(), head.u32(), this.payload)
    this.payload = undefined
    const passes = this.host.onFrame(this.direction, frame, this.isOut)
    this.headFilled = 0
    if (this.isDead) return
    if (passes) {
      this.release()
      this.cut = end
    } else {
      this.kept = []
      this.flush(this.cut)
      this.run = this.cut = end
    }
    this.follow(frame, passes)
  }
}

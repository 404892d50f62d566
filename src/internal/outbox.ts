/**
 * The write side of a connection: every frame is encoded into it, and the shell takes what has gathered, once per turn.
 *
 * Small contents are copied into a shared pool. Large bodies stay where they are and go out by reference, some frames
 * per turn, so that 64 MiB on one channel do not starve the others; the frames behind one on the same channel wait in
 * that channel's lane. The gate tells publishers when to wait: too many unwritten bytes, or a blocked connection. The
 * outbox neither writes to a socket nor keeps time.
 *
 * @since 0.1.0
 */
import { frameOverhead, protocolHeader, writeBodyFrames } from "./frames.ts"
import { frameBody, frameEnd } from "./spec.ts"
import { sizeOf, view, Writer } from "./wire.ts"

/** From here a body goes by reference: a copy of 16 KiB costs about 1 us, as much as the extra writes. */
export const byReferenceSize = 16 * 1024

/** Unwritten bytes from which publishers wait. */
export const highWater = 1024 * 1024

/** Bytes of large bodies per turn; whole frames, so one frame at least. */
const quantum = 256 * 1024

/** Frames of a channel, and what they end with: a large body, or a stop until `release`. */
interface Segment {
  readonly before: ReadonlyArray<Uint8Array>
  /** Empty for a stop. */
  readonly body: Uint8Array
  offset: number
  /** Whether `before` has been handed out: from there on the content must be completed. */
  started: boolean
  holds: boolean
}

const noBody = new Uint8Array(0)

/** The frames of one channel, in order. */
export class Lane {
  readonly channel: number
  readonly outbox: Outbox
  private madeOwn: Writer | undefined
  private readonly queue: Array<Segment> = []

  constructor(outbox: Outbox, channel: number) {
    this.outbox = outbox
    this.channel = channel
  }

  get frameMax(): number {
    return this.outbox.frameMax
  }

  /** Frames behind a large body, or behind `hold`: most channels have none. */
  private get own(): Writer {
    return this.madeOwn ??= new Writer()
  }

  /** Where the next frame of this channel is encoded. */
  get writer(): Writer {
    const { madeOwn } = this
    return this.queue.length > 0 || (madeOwn !== undefined && madeOwn.pending > 0) ? this.own : this.outbox.shared
  }

  /** Makes what was encoded into `writer` part of the output. */
  commit(writer: Writer): void {
    const size = writer.unitSize
    writer.commit()
    this.outbox.accept(size)
  }

  /** Completes a content whose method and header are in `writer` already. */
  commitContent(writer: Writer, body: Uint8Array): void {
    if (body.length < byReferenceSize) {
      writeBodyFrames(writer, this.channel, body, this.outbox.frameMax)
      return this.commit(writer)
    }
    const size = writer.unitSize
    writer.commit()
    this.push(body, false)
    this.outbox.accept(size + this.framed(body.length))
  }

  private push(body: Uint8Array, holds: boolean): void {
    this.queue.push({ before: this.own.take(), body, offset: 0, started: false, holds })
    this.outbox.enqueue(this)
  }

  /** Size with its frames of so much of a body. */
  private framed(size: number): number {
    return size + Math.ceil(size / (this.outbox.frameMax - frameOverhead)) * frameOverhead
  }

  /** Keeps the frames that follow until `release`; what was encoded before goes out. */
  hold(): void {
    this.push(noBody, true)
  }

  /** Undoes the first `hold` that is in force. */
  release(): void {
    const held = this.queue.find(({ holds }) => holds)
    if (held === undefined) return
    held.holds = false
    this.outbox.enqueue(this)
    this.outbox.accept(0)
  }

  /** Tells that the shared pool, which holds the head of the first body, is going out. */
  sharedTaken(): void {
    const first = this.queue[0]
    if (first !== undefined && first.before.length === 0) first.started = true
  }

  /** Moves up to one quantum into `out`. Returns whether there is nothing more to move at present. */
  take(out: Array<Uint8Array>): boolean {
    let left = quantum
    for (let first = this.queue[0]; first !== undefined; first = this.queue[0]) {
      if (!first.started) out.push(...first.before)
      first.started = true
      if (first.holds) return true
      if (first.body.length > 0) left -= this.takeBody(first, left, out)
      if (first.offset < first.body.length) return false
      this.queue.shift()
      if (left <= 0) return false
    }
    out.push(...this.own.take())
    return true
  }

  private takeBody(large: Segment, left: number, out: Array<Uint8Array>): number {
    const max = this.outbox.frameMax - frameOverhead
    const size = Math.min(large.body.length - large.offset, Math.max(1, Math.floor(left / max)) * max)
    // The end octet of a frame and the head of the next one travel together.
    const heads = new Uint8Array(frameOverhead * Math.ceil(size / max))
    let head = 0
    for (let at = large.offset; at < large.offset + size; at += max) {
      const end = Math.min(at + max, large.body.length)
      const start = head
      if (at > large.offset) heads[head++] = frameEnd
      heads[head++] = frameBody
      heads[head++] = this.channel >>> 8
      heads[head++] = this.channel
      const length = end - at
      heads[head++] = length >>> 24
      heads[head++] = length >>> 16
      heads[head++] = length >>> 8
      heads[head++] = length
      out.push(view(heads, start, head), view(large.body, at, end))
    }
    heads[head] = frameEnd
    out.push(view(heads, head, head + 1))
    large.offset += size
    return size
  }

  /**
   * Drops every content and frame that has not begun to go out, for a channel that the broker has closed: nothing but
   * `channel.close-ok` may follow, yet a content that is partly out must be completed. Returns whether there was any.
   */
  discard(): boolean {
    const first = this.queue[0]
    const size = this.drop(first !== undefined && first.started && first.body.length > 0 ? 1 : 0)
    return size + this.outbox.discardShared(this.channel) > 0
  }

  /** Drops all but so many segments. Returns the size of what was dropped. */
  drop(kept: number): number {
    let size = sizeOf(this.own.take())
    for (const { before, body, offset, started } of this.queue.splice(kept)) {
      size += (started ? 0 : sizeOf(before)) + this.framed(body.length - offset)
    }
    this.outbox.drop(size)
    return size
  }
}

/** What the outbox asks of its surroundings. */
export interface OutboxHooks {
  /** Runs a function at the end of the current turn. */
  readonly schedule: (run: () => void) => void
}

/** Gathers the frames of a connection. */
export class Outbox {
  readonly shared = new Writer()
  /** The negotiated size of a whole frame. */
  frameMax: number
  /** Whether the broker reads nothing at present (`connection.blocked`). */
  private blocked = false
  private readonly hooks: OutboxHooks
  private readonly lanes: Array<Lane> = []
  /** Bytes accepted and not yet written. */
  private unwritten = 0
  private taken = 0
  private scheduled = false
  private wake: (() => void) | undefined
  private drained: (() => void) | undefined
  private readonly waiting = new Set<() => void>()
  private ended = false

  constructor(frameMax: number, hooks: OutboxHooks) {
    this.frameMax = frameMax
    this.hooks = hooks
  }

  // --- writers of frames

  accept(size: number): void {
    this.unwritten += size
    if (this.scheduled || this.wake === undefined) return
    this.scheduled = true
    this.hooks.schedule(this.flush)
  }

  private readonly flush = (): void => {
    this.scheduled = false
    const wake = this.wake
    this.wake = undefined
    wake?.()
  }

  drop(size: number): void {
    this.unwritten -= size
  }

  /** Adds bytes that are no frame of a channel: the protocol header, a heartbeat. */
  raw(bytes: Uint8Array): void {
    this.shared.raw(bytes)
    this.shared.commit()
    this.accept(bytes.length)
  }

  /** The lane of a channel: the one that still has frames of the number's former channel to write, or a new one. */
  lane(channel: number): Lane {
    return this.lanes.find((lane) => lane.channel === channel) ?? new Lane(this, channel)
  }

  /** Lets a lane have its turns. */
  enqueue(lane: Lane): void {
    if (!this.lanes.includes(lane)) this.lanes.push(lane)
  }

  /** Removes a channel's frames from what waits in the shared pool. Returns their size. */
  discardShared(channel: number): number {
    const { shared } = this
    let dropped = 0
    for (const chunk of shared.take()) {
      let at = 0
      while (at < chunk.length) {
        // The protocol header is no frame, but it is as long as a heartbeat.
        const isFrame = chunk[at] !== protocolHeader[0]
        const size = frameOverhead + (isFrame ? new DataView(chunk.buffer, chunk.byteOffset + at).getUint32(3) : 0)
        if (isFrame && (((chunk[at + 1] ?? 0) << 8) | (chunk[at + 2] ?? 0)) === channel) dropped += size
        else shared.raw(view(chunk, at, at + size))
        shared.commit()
        at += size
      }
    }
    this.drop(dropped)
    return dropped
  }

  // --- the shell

  /** Everything that may go out now; `undefined` when there is nothing. What is taken must be written. */
  take(): ReadonlyArray<Uint8Array> | undefined {
    const out = this.shared.take()
    for (const lane of this.lanes) lane.sharedTaken()
    let lane = this.lanes.shift()
    while (lane !== undefined) {
      if (!lane.take(out)) this.lanes.push(lane)
      lane = out.length === 0 ? this.lanes.shift() : undefined
    }
    this.taken = sizeOf(out)
    if (this.lanes.length === 0) {
      this.drained?.()
      this.drained = undefined
    }
    return out.length === 0 ? undefined : out
  }

  /** Calls back once, when no body is partly out: what is added then follows everything that was accepted before. */
  whenDrained(callback: () => void): void {
    if (this.lanes.length === 0) callback()
    else this.drained = callback
  }

  /** What `take` handed out last has been written. */
  written(): void {
    this.unwritten -= this.taken
    this.taken = 0
    this.admit()
  }

  /** Whether what was taken is still being written. */
  get isWriting(): boolean {
    return this.taken > 0
  }

  /** Calls back once, when there is something to take or the outbox has ended. */
  onReady(callback: () => void): void {
    this.wake = callback
    if (this.ended || this.shared.pending > 0 || this.lanes.length > 0) this.accept(0)
  }

  /** Forgets the callback of `onReady`. */
  offReady(): void {
    this.wake = undefined
  }

  /**
   * Nothing more will be accepted: once all is taken, the shell may close the socket. What is left of large bodies is
   * dropped, because the peer reads no contents any more.
   */
  end(): void {
    this.ended = true
    for (const lane of this.lanes.splice(0)) lane.drop(0)
    this.accept(0)
  }

  get isEnded(): boolean {
    return this.ended
  }

  // --- the gate

  /** Whether content may be added now. */
  get isOpen(): boolean {
    return !this.blocked && this.unwritten < highWater
  }

  get isBlocked(): boolean {
    return this.blocked
  }

  /** `admit` has to follow where that opens the gate. */
  setBlocked(blocked: boolean): void {
    this.blocked = blocked
  }

  /** Calls back once, as soon as the gate is open: at once if it is. */
  wait(callback: () => void): void {
    if (this.isOpen) callback()
    else this.waiting.add(callback)
  }

  /** Takes back a `wait`. */
  unwait(callback: () => void): void {
    this.waiting.delete(callback)
  }

  /** Lets those in who wait, in their order, while the gate is open. */
  admit(): void {
    for (const callback of this.waiting) {
      if (!this.isOpen) return
      this.waiting.delete(callback)
      callback()
    }
  }
}

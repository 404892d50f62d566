/**
 * The write side of one channel: the frames that wait for a turn, in order, and the gate that tells its publishers to wait.
 *
 * @since 0.1.0
 */
import { frameOverhead, writeBodyFrames } from "../codec/frames.ts"
import { frameBody, frameEnd } from "../codec/spec.ts"
import { sizeOf, view, Writer } from "../codec/wire.ts"

/** From this size on a body goes out by reference. A copy of 16 KiB costs about 1 us, as much as the extra writes. */
export const byReferenceSize = 16 * 1024

/** From so many unwritten bytes on, publishers wait if their channel has its share of them. */
export const highWater = 1024 * 1024

/** Bytes of a channel that go into the shared pool in one turn. Further frames wait for the turn of the channel. */
export const poolShare = 64 * 1024

/** Bytes of one turn of a lane. At least one whole frame goes out. */
export const quantum = 256 * 1024

/** Frames of a channel, followed by a large body, a stop until `release`, or nothing. */
interface Segment {
  /**
   * The frames that have not been handed out. Only the last ones may belong to the body; all others are whole contents.
   */
  readonly before: Array<Uint8Array>
  /** Empty where there is none. */
  readonly body: Uint8Array
  offset: number
  /** Whether all of `before` has been handed out. From then on the content must be completed. */
  started: boolean
  holds: boolean
}

const noBody = new Uint8Array(0)

/** What a lane needs of its outbox. */
export interface LaneHost {
  /** Where small frames of all channels are encoded. */
  readonly shared: Writer
  /** The negotiated size of a whole frame. */
  readonly frameMax: number
  /** Bytes of all lanes that are accepted and not yet written. */
  readonly unwritten: number
  /** How many lanes have such bytes. */
  readonly busy: number
  /** Whether the broker reads nothing at present (`connection.blocked`). */
  readonly isBlocked: boolean
  /** Lanes with frames in the shared pool. */
  readonly pooled: Array<Lane>
  /** Lanes with frames in what was handed out last. */
  readonly taken: Array<Lane>
  /** Lanes whose publishers wait. */
  readonly waiting: Set<Lane>
  /** There may be something to take. */
  readonly ready: () => void
  /** Counts bytes that a lane has accepted; fewer where `change` is negative. */
  readonly count: (lane: Lane, change: number) => void
  /** Lets a lane have its turns. */
  readonly enqueue: (lane: Lane) => void
  /** Removes a channel's frames from the shared pool. */
  readonly discardShared: (channel: number) => void
}

/** The frames of one channel, in order. */
export class Lane {
  readonly channel: number
  private readonly outbox: LaneHost
  /** Bytes accepted and not yet written. For the outbox, which counts them. */
  unwritten = 0
  /** Whether it is in the list of lanes that take turns. For the outbox. */
  hasTurns = false
  private madeOwn: Writer | undefined
  private readonly queue: Array<Segment> = []
  /** Of `unwritten`, what is in the shared pool, and what has been handed out. */
  private pooled = 0
  private taken = 0
  private madeWaiting: Set<() => void> | undefined

  constructor(outbox: LaneHost, channel: number) {
    this.outbox = outbox
    this.channel = channel
  }

  get frameMax(): number {
    return this.outbox.frameMax
  }

  /** Frames that wait for a turn. Made on first use: most channels have none. */
  private get own(): Writer {
    return this.madeOwn ??= new Writer()
  }

  private get ownPending(): number {
    return this.madeOwn === undefined ? 0 : this.madeOwn.pending
  }

  private get waiting(): Set<() => void> {
    return this.madeWaiting ??= new Set()
  }

  /** Where the next frame of this channel is encoded. */
  get writer(): Writer {
    return this.queue.length > 0 || this.pooled >= poolShare || this.ownPending > 0 ? this.own : this.outbox.shared
  }

  /** Makes what was encoded into `writer` part of the output. */
  commit(writer: Writer): void {
    this.commitUnit(writer)
    this.outbox.ready()
  }

  private commitUnit(writer: Writer): void {
    const { outbox } = this
    const size = writer.unitSize
    writer.commit()
    outbox.count(this, size)
    if (writer !== outbox.shared) {
      // With a queue the lane has its turns already, or is held.
      if (this.queue.length === 0) outbox.enqueue(this)
    } else {
      if (this.pooled === 0) outbox.pooled.push(this)
      this.pooled += size
    }
  }

  /** Completes a content whose method and header are in `writer` already. */
  commitContent(writer: Writer, body: Uint8Array): void {
    if (body.length < byReferenceSize) {
      writeBodyFrames(writer, this.channel, body, this.outbox.frameMax)
      return this.commit(writer)
    }
    this.commitUnit(writer)
    this.outbox.count(this, this.framed(body.length))
    this.push(body, false)
    this.outbox.ready()
  }

  private push(body: Uint8Array, holds: boolean): void {
    this.queue.push({ before: this.takeOwn(), body, offset: 0, started: false, holds })
    this.outbox.enqueue(this)
  }

  private takeOwn(): Array<Uint8Array> {
    return this.madeOwn === undefined ? [] : this.madeOwn.take()
  }

  /** Size with its frames of so much of a body. */
  private framed(size: number): number {
    return size + Math.ceil(size / (this.outbox.frameMax - frameOverhead)) * frameOverhead
  }

  /** Keeps all further frames until `release`. Earlier frames still go out. */
  hold(): void {
    this.push(noBody, true)
  }

  /** Undoes the first `hold` that is in force. */
  release(): void {
    const held = this.queue.find(({ holds }) => holds)
    if (held === undefined) return
    held.holds = false
    this.outbox.enqueue(this)
    this.outbox.ready()
  }

  /** The shared pool is going out. It may hold the head of the first body. */
  onPoolTaken(): void {
    this.onTaken(this.pooled)
    this.pooled = 0
    const first = this.queue[0]
    if (first !== undefined && first.before.length === 0) first.started = true
  }

  private onTaken(size: number): void {
    if (size === 0) return
    if (this.taken === 0) this.outbox.taken.push(this)
    this.taken += size
  }

  /** What was handed out has been written. */
  onWritten(): void {
    this.outbox.count(this, -this.taken)
    this.taken = 0
  }

  /** Whether there is something for a turn. */
  get hasMore(): boolean {
    const first = this.queue[0]
    return first === undefined ? this.ownPending > 0 : first.before.length > 0 || !first.holds
  }

  /** Moves up to one quantum into `out`. Returns how much. */
  take(out: Array<Uint8Array>): number {
    let size = 0
    for (let first = this.first(); first !== undefined && size < quantum; first = this.first()) {
      size += this.takeFrames(first, quantum - size, out)
      if (first.before.length > 0) break
      first.started = true
      if (first.holds) break
      if (first.body.length > 0 && size < quantum) size += this.takeBody(first, quantum - size, out)
      if (first.offset < first.body.length) break
      this.queue.shift()
    }
    // Most channels never need it again.
    if (this.queue.length === 0 && this.ownPending === 0) this.madeOwn = undefined
    this.onTaken(size)
    return size
  }

  private first(): Segment | undefined {
    if (this.queue.length === 0 && this.ownPending > 0) {
      this.queue.push({ before: this.takeOwn(), body: noBody, offset: 0, started: false, holds: false })
    }
    return this.queue[0]
  }

  private takeFrames({ before }: Segment, left: number, out: Array<Uint8Array>): number {
    let size = 0
    while (size < left) {
      const chunk = before.shift()
      if (chunk === undefined) break
      out.push(chunk)
      size += chunk.length
    }
    return size
  }

  private takeBody(large: Segment, left: number, out: Array<Uint8Array>): number {
    const { frameMax } = this.outbox
    const max = frameMax - frameOverhead
    const size = Math.min(large.body.length - large.offset, Math.max(1, Math.floor(left / frameMax)) * max)
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
    return size + heads.length
  }

  /**
   * Drops every content and frame that has not begun to go out, for a channel that the broker has closed. Nothing but
   * `channel.close-ok` may follow, but a content that is partly out must be completed. Returns whether anything was
   * dropped.
   */
  discard(): boolean {
    const first = this.queue[0]
    const size = this.drop(first !== undefined && first.started && first.body.length > 0 ? 1 : 0)
    this.outbox.discardShared(this.channel)
    this.outbox.count(this, -this.pooled)
    const dropped = size + this.pooled
    this.pooled = 0
    return dropped > 0
  }

  /** Drops all but so many segments. Returns the size of what was dropped. */
  drop(kept: number): number {
    let size = sizeOf(this.takeOwn())
    for (const { before, body, offset } of this.queue.splice(kept)) {
      size += sizeOf(before) + this.framed(body.length - offset)
    }
    this.outbox.count(this, -size)
    return size
  }

  // --- the gate

  /** Whether content may be added now. */
  get isOpen(): boolean {
    const { outbox } = this
    return !outbox.isBlocked && (outbox.unwritten < highWater || this.unwritten * outbox.busy < highWater)
  }

  /** Calls back once, as soon as the gate is open: at once if it is. */
  wait(callback: () => void): void {
    if (this.isOpen) return callback()
    this.waiting.add(callback)
    this.outbox.waiting.add(this)
  }

  /** Takes back a `wait`. */
  unwait(callback: () => void): void {
    this.madeWaiting?.delete(callback)
  }

  /** Lets in the publisher that has waited longest. Returns whether others wait. */
  admit(): boolean {
    const { waiting } = this
    const [first] = waiting
    if (first === undefined) return false
    waiting.delete(first)
    first()
    return waiting.size > 0
  }
}

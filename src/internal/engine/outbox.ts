/**
 * The write side of a connection: every frame is encoded into it, and the shell takes what has gathered, once per turn.
 *
 * Small contents are copied into a shared pool, which goes out whole. What a channel has beyond that waits in its lane:
 * large bodies, which stay where they are and go out by reference, the frames behind one, and more small ones than go
 * into the pool in a turn. Lanes take turns of one quantum, so that megabytes on one channel hold up nobody else.
 *
 * The gate tells publishers when to wait: the connection is blocked, or too much is unwritten and too much of it is their
 * channel's. It has them wait by channel, because one queue for all would have each wait for the bodies of all others.
 * So at most `highWater` bytes are unwritten, the n-th channel that is busy may add its n-th part of that, and each a
 * message: for 2,000 channels some 9 MiB and a message each.
 *
 * The outbox neither writes to a socket nor keeps time.
 *
 * @since 0.1.0
 */
import { frameOverhead, protocolHeader, writeBodyFrames } from "../codec/frames.ts"
import { frameBody, frameEnd } from "../codec/spec.ts"
import { sizeOf, view, Writer } from "../codec/wire.ts"

/** From here a body goes by reference: a copy of 16 KiB costs about 1 us, as much as the extra writes. */
export const byReferenceSize = 16 * 1024

/** Unwritten bytes from which publishers wait whose channel has its share of them. */
export const highWater = 1024 * 1024

/** Bytes of a channel that go into the shared pool in one turn; what follows waits for the turn of the channel. */
export const poolShare = 64 * 1024

/** Bytes of one turn of a lane; whole frames, so one frame at least. */
export const quantum = 256 * 1024

/** Frames of a channel, and what they end with: a large body, a stop until `release`, or nothing. */
interface Segment {
  /** What of them has not been handed out. Only the last may belong to the body; all others are whole contents. */
  readonly before: Array<Uint8Array>
  /** Empty where there is none. */
  readonly body: Uint8Array
  offset: number
  /** Whether all of `before` has been handed out: from there on the content must be completed. */
  started: boolean
  holds: boolean
}

const noBody = new Uint8Array(0)

/** The frames of one channel, in order. */
export class Lane {
  readonly channel: number
  readonly outbox: Outbox
  /** Bytes accepted and not yet written. For the outbox, which counts them. */
  unwritten = 0
  /** Whether it has a place among those that take turns. For the outbox. */
  hasTurns = false
  private madeOwn: Writer | undefined
  private readonly queue: Array<Segment> = []
  /** Of `unwritten`, what is in the shared pool, and what has been handed out. */
  private pooled = 0
  private taken = 0
  private madeWaiting: Set<() => void> | undefined

  constructor(outbox: Outbox, channel: number) {
    this.outbox = outbox
    this.channel = channel
  }

  get frameMax(): number {
    return this.outbox.frameMax
  }

  /** Frames that wait for a turn: most channels have none. */
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
      // With a queue it has its turns already, or is held.
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
    this.outbox.ready()
  }

  /** Tells that the shared pool, which may hold the head of the first body, is going out. */
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
   * Drops every content and frame that has not begun to go out, for a channel that the broker has closed: nothing but
   * `channel.close-ok` may follow, yet a content that is partly out must be completed. Returns whether there was any.
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

  /** Lets in the one who has waited longest. Returns whether others wait. */
  admit(): boolean {
    const { waiting } = this
    const [first] = waiting
    if (first === undefined) return false
    waiting.delete(first)
    first()
    return waiting.size > 0
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
  /** Bytes of channels that are accepted and not yet written. */
  unwritten = 0
  /** How many channels they are of. */
  busy = 0
  /** Lanes with frames in the shared pool, those with frames in what was handed out, and those whose publishers wait. */
  readonly pooled: Array<Lane> = []
  readonly taken: Array<Lane> = []
  readonly waiting = new Set<Lane>()
  /** Lanes that take turns. */
  private readonly lanes: Array<Lane> = []
  /** Whether the broker reads nothing at present (`connection.blocked`). */
  private blocked = false
  private readonly hooks: OutboxHooks
  private writing = false
  private scheduled = false
  private wake: (() => void) | undefined
  private drained: (() => void) | undefined
  private ended = false

  constructor(frameMax: number, hooks: OutboxHooks) {
    this.frameMax = frameMax
    this.hooks = hooks
  }

  // --- writers of frames

  /** There may be something to take. */
  ready(): void {
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

  /** Adds bytes that are no frame of a channel: the protocol header, a heartbeat. */
  raw(bytes: Uint8Array): void {
    this.shared.raw(bytes)
    this.shared.commit()
    this.ready()
  }

  /** The lane of a channel: the one that still has frames of the number's former channel to write, or a new one. */
  lane(channel: number): Lane {
    return this.lanes.find((lane) => lane.channel === channel) ?? new Lane(this, channel)
  }

  // --- lanes

  /** Counts what a lane has accepted, or less of it. */
  count(lane: Lane, change: number): void {
    if (change === 0) return
    if (lane.unwritten === 0) this.busy++
    lane.unwritten += change
    if (lane.unwritten === 0) this.busy--
    this.unwritten += change
  }

  /** Lets a lane have its turns. */
  enqueue(lane: Lane): void {
    if (lane.hasTurns) return
    lane.hasTurns = true
    this.lanes.push(lane)
  }

  /** Removes a channel's frames from what waits in the shared pool. */
  discardShared(channel: number): void {
    const { shared } = this
    for (const chunk of shared.take()) {
      let at = 0
      while (at < chunk.length) {
        // The protocol header is no frame, but it is as long as a heartbeat.
        const isFrame = chunk[at] !== protocolHeader[0]
        const size = frameOverhead + (isFrame ? new DataView(chunk.buffer, chunk.byteOffset + at).getUint32(3) : 0)
        const isDropped = isFrame && (((chunk[at + 1] ?? 0) << 8) | (chunk[at + 2] ?? 0)) === channel
        if (!isDropped) shared.raw(view(chunk, at, at + size))
        shared.commit()
        at += size
      }
    }
  }

  // --- the shell

  /** Everything that may go out now; `undefined` when there is nothing. What is taken must be written. */
  take(): ReadonlyArray<Uint8Array> | undefined {
    const out = this.shared.take()
    for (const lane of this.pooled.splice(0)) lane.onPoolTaken()
    // The small rests of many lanes are one write.
    let size = 0
    while (size < quantum / 2) {
      const lane = this.lanes.shift()
      if (lane === undefined) break
      size += lane.take(out)
      lane.hasTurns = false
      if (lane.hasMore) this.enqueue(lane)
    }
    this.writing = out.length > 0
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
    this.writing = false
    for (const lane of this.taken.splice(0)) lane.onWritten()
    this.admit()
  }

  /** Whether what was taken is still being written. */
  get isWriting(): boolean {
    return this.writing
  }

  /** Calls back once, when there is something to take or the outbox has ended. */
  onReady(callback: () => void): void {
    this.wake = callback
    if (this.ended || this.shared.pending > 0 || this.lanes.length > 0) this.ready()
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
    for (const lane of this.lanes.splice(0)) {
      lane.hasTurns = false
      lane.drop(0)
    }
    this.ready()
  }

  get isEnded(): boolean {
    return this.ended
  }

  // --- the gate

  get isBlocked(): boolean {
    return this.blocked
  }

  /** `admit` has to follow where that opens the gate. */
  setBlocked(blocked: boolean): void {
    this.blocked = blocked
  }

  /** Lets those in who wait: one of each channel whose gate is open, and again, until none is. */
  admit(): void {
    for (const lane of this.waiting) {
      if (!lane.isOpen) continue
      this.waiting.delete(lane)
      if (lane.admit()) this.waiting.add(lane)
    }
  }
}

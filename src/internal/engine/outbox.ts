/**
 * The write side of a connection. Every frame is encoded into it. The shell takes what has gathered, once per turn.
 *
 * Small contents are copied into a shared pool, which goes out whole. Everything else waits in the lane of its channel:
 * large bodies, which go out by reference, the frames behind them, and small frames beyond the channel's share of the
 * pool. Lanes take turns of one quantum, so that megabytes on one channel hold up nobody else.
 *
 * The gate tells publishers to wait while the connection is blocked, or while too much is unwritten and too much of it
 * belongs to their channel. Publishers wait by channel: in one queue for all, each would wait for the bodies of all
 * others. So `highWater` bytes may be unwritten, the n-th busy channel may add an n-th part of that, and each channel
 * one message: for 2,000 channels some 9 MiB and a message each.
 *
 * The outbox neither writes to a socket nor keeps time.
 *
 * @since 0.1.0
 */
import { frameOverhead, protocolHeader } from "../codec/frames.ts"
import { view, Writer } from "../codec/wire.ts"
import { Lane, type LaneHost, quantum } from "./lane.ts"

/** What the outbox asks of its surroundings. */
export interface OutboxHooks {
  /** Runs a function at the end of the current turn. */
  readonly schedule: (run: () => void) => void
}

/** Gathers the frames of a connection. */
export class Outbox implements LaneHost {
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

  /** Adds bytes that belong to no channel: the protocol header, a heartbeat. */
  raw(bytes: Uint8Array): void {
    this.shared.raw(bytes)
    this.shared.commit()
    this.ready()
  }

  /**
   * The lane of a channel. If the former channel of this number still has frames to write, it is the same lane;
   * otherwise a new one.
   */
  lane(channel: number): Lane {
    return this.lanes.find((lane) => lane.channel === channel) ?? new Lane(this, channel)
  }

  // --- lanes

  /** Counts bytes that a lane has accepted; fewer where `change` is negative. */
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

  /** Takes everything that may go out now; `undefined` if there is nothing. The caller must write it. */
  take(): ReadonlyArray<Uint8Array> | undefined {
    const out = this.shared.take()
    for (const lane of this.pooled.splice(0)) lane.onPoolTaken()
    // The small rests of many lanes go out in one write.
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

  /**
   * Calls back once, when the lanes are empty. What is added then goes out after everything that was accepted before.
   */
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
   * Accepts nothing more: once all is taken, the shell may close the socket. What lanes still hold is dropped, because
   * the peer reads no contents any more.
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

  /** The caller must call `admit` if that opens the gate. */
  setBlocked(blocked: boolean): void {
    this.blocked = blocked
  }

  /** Lets waiting publishers in: one of each channel whose gate is open, again and again, until no gate is open. */
  admit(): void {
    for (const lane of this.waiting) {
      if (!lane.isOpen) continue
      this.waiting.delete(lane)
      if (lane.admit()) this.waiting.add(lane)
    }
  }
}

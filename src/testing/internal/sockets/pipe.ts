/**
 * What is on its way in one direction of a faulty connection, and when it arrives.
 *
 * Without a condition nothing stays here: a writer waits until its bytes have gone on, and a reader gets them in the
 * batches in which they came. What a condition holds back is kept, up to a bound.
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Socket from "effect/socket/Socket"
import type { Shape } from "../faults/conditions.ts"
import type { Item } from "../faults/lane.ts"

/** Bytes that a delay holds back at most. */
const capacity = 1024 * 1024

type Chunks = Arr.NonEmptyReadonlyArray<Uint8Array>

interface Entry {
  readonly item: Item
  /** In milliseconds since 1970. */
  due: number
  shape: Shape
  /** Whether its time on a slow line has been waited for. */
  isPaid: boolean
}

const none: Shape = { delay: 0, size: 0, bytesPerSecond: 0 }

/** One direction. */
export class LinkPipe {
  private entries: Array<Entry> = []
  private size = 0
  private error: Socket.SocketError | undefined
  /** Somebody has taken what was due, and not passed it on yet. */
  private isBusy = false
  private isOpenEnded = false
  private taker: (() => void) | undefined
  private writers: Array<() => void> = []
  private reader: (() => void) | undefined
  private readonly now: () => number
  private readonly sleep: (duration: Duration.Duration) => Effect.Effect<void>
  private readonly shape: () => Shape
  private readonly onReset: () => void
  private readonly onEnd: () => Socket.SocketError

  constructor(options: {
    /** In milliseconds since 1970. */
    readonly now: () => number
    readonly sleep: (duration: Duration.Duration) => Effect.Effect<void>
    readonly shape: () => Shape
    readonly onReset: () => void
    /** The end has arrived; gives what it looks like. */
    readonly onEnd: () => Socket.SocketError
  }) {
    this.now = options.now
    this.sleep = options.sleep
    this.shape = options.shape
    this.onReset = options.onReset
    this.onEnd = options.onEnd
  }

  /** Whether a condition keeps something here. */
  get isHeldBack(): boolean {
    const now = this.now()
    return this.entries.some(({ due, item, shape }) =>
      due > now || item._tag === "Pause" || shape.size + shape.bytesPerSecond > 0
    )
  }

  /** Wakes nobody before `notify`: more may belong to the same batch. */
  push(item: Item): void {
    if (this.error !== undefined || this.isOpenEnded) return
    const shape = this.shape()
    const last = this.entries[this.entries.length - 1]
    const due = Math.max(last?.due ?? 0, this.now() + shape.delay)
    this.entries.push({ item, due, shape, isPaid: false })
    if (item._tag === "Bytes") this.size += item.bytes.length
  }

  /** What is held back may pass. */
  release(): void {
    this.entries = this.entries.filter(({ item }) => item._tag !== "Pause")
    for (const entry of this.entries) {
      entry.due = 0
      entry.shape = none
    }
  }

  /** Nothing passes any more; what is on its way is lost. */
  fail(error: Socket.SocketError): void {
    this.error ??= error
    this.entries = []
    this.size = 0
    this.isBusy = false
  }

  /** Drops everything from now on. Whoever writes does not notice. */
  discard(): void {
    this.isOpenEnded = true
    this.entries = []
    this.size = 0
    this.isBusy = false
  }

  /** Wakes whoever can go on. */
  notify(): void {
    if (this.entries.length > 0 || this.error !== undefined) this.wakeTaker()
    if (this.error !== undefined || this.takesMore) { for (const writer of this.writers.splice(0)) writer() }
    this.wakeReader()
  }

  // --- reading

  /** The next batch that arrives. */
  readonly take: Effect.Effect<Chunks, Socket.SocketError> = Effect.suspend(() => this.next())

  private next(): Effect.Effect<Chunks, Socket.SocketError> {
    if (this.error !== undefined) return Effect.fail(this.error)
    const [first] = this.entries
    if (first === undefined) return Effect.flatMap(this.changed, () => this.next())
    const wait = first.due - this.now()
    if (wait > 0) {
      return Effect.flatMap(
        Effect.raceFirst(this.sleep(Duration.millis(wait)), this.changed),
        () => this.next()
      )
    }
    const { item, shape } = first
    switch (item._tag) {
      case "Bytes":
        return this.takeBytes(first, item.bytes, shape)
      case "Pause":
        if (first.isPaid) this.entries.shift()
        else this.charge(first, item.millis)
        return this.next()
      case "Reset":
        this.onReset()
        return Effect.suspend(() => this.next())
      case "End":
        this.fail(this.onEnd())
        return this.next()
    }
  }

  private charge(entry: Entry, millis: number): void {
    entry.isPaid = true
    entry.due = this.now() + millis
  }

  private takeBytes(first: Entry, bytes: Uint8Array, shape: Shape): Effect.Effect<Chunks, Socket.SocketError> {
    if (shape.size === 0 && shape.bytesPerSecond === 0) return Effect.succeed(this.takeDue(bytes))
    // A tenth of a second at a time.
    const slow = shape.bytesPerSecond === 0 ? Infinity : Math.max(1, Math.floor(shape.bytesPerSecond / 10))
    const piece = bytes.subarray(0, Math.min(shape.size === 0 ? Infinity : shape.size, slow))
    if (shape.bytesPerSecond > 0 && !first.isPaid) {
      this.charge(first, piece.length * 1000 / shape.bytesPerSecond)
      return this.next()
    }
    this.size -= piece.length
    this.isBusy = true
    const rest = bytes.subarray(piece.length)
    if (rest.length === 0) this.entries.shift()
    else this.entries[0] = { item: { _tag: "Bytes", bytes: rest }, due: first.due, shape, isPaid: false }
    return Effect.succeed([piece])
  }

  /** Takes everything that is due and need not be cut: what came as one batch leaves as one. */
  private takeDue(first: Uint8Array): Chunks {
    const now = this.now()
    const batch: [Uint8Array, ...Array<Uint8Array>] = [first]
    this.size -= first.length
    this.entries.shift()
    for (let entry = this.entries[0]; entry !== undefined; entry = this.entries[0]) {
      const { due, item, shape } = entry
      if (item._tag !== "Bytes" || due > now || shape.size + shape.bytesPerSecond > 0) break
      batch.push(item.bytes)
      this.size -= item.bytes.length
      this.entries.shift()
    }
    this.isBusy = true
    return batch
  }

  private readonly changed: Effect.Effect<void> = Effect.callback((resume) => {
    this.isBusy = false
    const taker = (): void => resume(Effect.void)
    this.taker = taker
    this.wakeReader()
    return Effect.sync(() => {
      if (this.taker === taker) this.taker = undefined
    })
  })

  private wakeTaker(): void {
    const { taker } = this
    this.taker = undefined
    taker?.()
  }

  /** What was taken has gone on. */
  passed(): void {
    this.isBusy = false
    if (this.takesMore) { for (const writer of this.writers.splice(0)) writer() }
  }

  // --- writing

  private get takesMore(): boolean {
    if (this.size >= capacity) return false
    const last = this.entries[this.entries.length - 1]
    return last === undefined ? !this.isBusy : last.shape.delay > 0
  }

  /** Waits until more may be written. */
  readonly accepted: Effect.Effect<void, Socket.SocketError> = Effect.suspend(() => {
    if (this.error !== undefined) return Effect.fail(this.error)
    if (this.takesMore) return Effect.void
    return Effect.flatMap(
      Effect.callback<void>((resume) => {
        const writer = (): void => resume(Effect.void)
        this.writers.push(writer)
        return Effect.sync(() => {
          this.writers = this.writers.filter((one) => one !== writer)
        })
      }),
      () => this.accepted
    )
  })

  // --- reading ahead

  /** Waits until the reader waits for bytes, or a delay has room for them, or nobody is interested in them. */
  wanted(isOfNoInterest: () => boolean): Effect.Effect<void> {
    const isWanted = (): boolean =>
      isOfNoInterest() || (this.taker !== undefined && this.entries.length === 0) ||
      (this.size < capacity && this.shape().delay > 0)
    return Effect.callback((resume) => {
      const look = (): void => {
        if (!isWanted()) return
        this.reader = undefined
        resume(Effect.void)
      }
      this.reader = look
      look()
      return Effect.sync(() => {
        if (this.reader === look) this.reader = undefined
      })
    })
  }

  private wakeReader(): void {
    this.reader?.()
  }
}

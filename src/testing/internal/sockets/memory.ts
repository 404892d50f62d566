/**
 * A connection without a network: on one side a `Socket` as a client uses it, on the other a `Link` as the broker does.
 *
 * Bytes arrive in the turn in which they were written. Where a side does not read, they wait as in TCP: from some size
 * on the broker is told to wait, and a client's write suspends. What the client has written by then arrives even if the
 * write is interrupted, and before the news that the client has hung up.
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Socket from "effect/socket/Socket"
import type { Link, Peer } from "../model/model.ts"

/** With so many bytes on the way to a client that does not read, the broker has to wait. */
const highWater = 256 * 1024

/**
 * With so many bytes on the way to a broker that does not read, writes suspend. It is what Node reads ahead from a TCP
 * socket. The kernel's buffers, which hold megabytes, would add nothing but memory.
 */
export const unreadMax = 64 * 1024

type Chunks = Arr.NonEmptyReadonlyArray<Uint8Array>

const systemError = (call: string, code: string): Error => Object.assign(new Error(`${call} ${code}`), { code })

const closeError = (code: 1000 | 1006): Socket.SocketError =>
  new Socket.SocketError({ reason: new Socket.SocketCloseError({ code }) })

const resetError = (): Socket.SocketError =>
  new Socket.SocketError({ reason: new Socket.SocketReadError({ cause: systemError("read", "ECONNRESET") }) })

const writeError = (): Socket.SocketError =>
  new Socket.SocketError({ reason: new Socket.SocketWriteError({ cause: systemError("write", "EPIPE") }) })

const refusedError = (): Socket.SocketError =>
  new Socket.SocketError({
    reason: new Socket.SocketOpenError({ kind: "Unknown", cause: systemError("connect", "ECONNREFUSED") })
  })

/** One connection. */
class Wire implements Link {
  readonly name: string
  private peer: Peer | undefined
  // --- down
  private chunks: Array<Uint8Array> = []
  private size = 0
  private isFull = false
  private isWaking = false
  private reader: ((effect: Effect.Effect<Chunks, Socket.SocketError>) => void) | undefined
  // --- up
  private unread: Array<Uint8Array> = []
  private unreadSize = 0
  private isPaused = false
  private readonly room = Latch.makeUnsafe(true)
  /** Why nothing more will come. */
  ending: Socket.SocketError | undefined

  constructor(name: string) {
    this.name = name
  }

  /** Connects. `false`: the broker does not listen, and has dropped the connection at once. */
  open(accept: (link: Link) => Peer): boolean {
    const peer = accept(this)
    if (this.ending !== undefined) return false
    this.peer = peer
    return true
  }

  // ---------------------------------------------------------------------------
  // the broker's side
  // ---------------------------------------------------------------------------

  write(bytes: Uint8Array): boolean {
    if (this.ending !== undefined) return true
    this.chunks.push(bytes)
    this.size += bytes.length
    this.isFull = this.size >= highWater
    this.wake()
    return !this.isFull
  }

  end(): void {
    this.finish(closeError(1000))
    this.wake()
  }

  reset(): void {
    this.drop(resetError())
    this.wake()
    // Not on the broker's stack.
    queueMicrotask(() => this.left())
  }

  resume(): void {
    // Not on the broker's stack.
    queueMicrotask(() => {
      const { unread } = this
      this.isPaused = false
      this.unread = []
      this.unreadSize = 0
      for (const bytes of unread) this.post(bytes)
      if (this.unreadSize < unreadMax) this.room.openUnsafe()
    })
  }

  // ---------------------------------------------------------------------------
  // the client's side
  // ---------------------------------------------------------------------------

  readonly pull: Effect.Effect<Chunks, Socket.SocketError> = Effect.callback((resume) => {
    this.reader = resume
    this.flush()
    return Effect.sync(() => {
      if (this.reader === resume) this.reader = undefined
    })
  })

  send(chunks: ReadonlyArray<Uint8Array | string>): Effect.Effect<void, Socket.SocketError> {
    return Effect.suspend(() => {
      for (const chunk of chunks) {
        if (!this.isOpen) return Effect.fail(writeError())
        this.post(typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk)
      }
      if (this.unreadSize < unreadMax) return Effect.void
      this.room.closeUnsafe()
      return Effect.andThen(
        this.room.await,
        Effect.suspend(() => this.isOpen ? Effect.void : Effect.fail(writeError()))
      )
    })
  }

  private get isOpen(): boolean {
    return this.peer !== undefined && this.ending === undefined
  }

  /** Gives bytes to the broker, or keeps them while it does not read. */
  private post(bytes: Uint8Array): void {
    if (this.isPaused) {
      this.unread.push(bytes.slice())
      this.unreadSize += bytes.length
    } else this.isPaused = this.peer?.receive(bytes) === false
  }

  /** The client hangs up. What it has written still arrives. */
  hangUp(): void {
    this.finish(closeError(1000))
    this.left()
    this.flush()
  }

  /** The client is gone, and with it what it has not read. */
  destroy(): void {
    this.drop(closeError(1006))
    this.left()
    this.flush()
  }

  // ---------------------------------------------------------------------------

  private finish(error: Socket.SocketError): void {
    this.ending ??= error
    this.room.openUnsafe()
  }

  private drop(error: Socket.SocketError): void {
    this.finish(error)
    this.chunks = []
    this.size = 0
  }

  /** Tells the broker once, however the connection ended. */
  private left(): void {
    const { peer, unread } = this
    this.peer = undefined
    this.unread = []
    for (const bytes of unread) peer?.receive(bytes)
    peer?.closed()
  }

  /** A client that waits runs on the stack that wakes it. This must not be the broker's stack. */
  private wake(): void {
    if (this.isWaking || this.reader === undefined) return
    this.isWaking = true
    queueMicrotask(() => {
      this.isWaking = false
      this.flush()
    })
  }

  private flush(): void {
    const { chunks, reader } = this
    if (reader === undefined) return
    const [first, ...others] = chunks
    if (first === undefined && this.ending === undefined) return
    this.reader = undefined
    this.chunks = []
    this.size = 0
    if (this.isFull) {
      this.isFull = false
      this.peer?.drained()
    }
    if (first !== undefined) reader(Effect.succeed([first, ...others]))
    else if (this.ending !== undefined) reader(Effect.fail(this.ending))
  }
}

/** A socket that connects when its reader is acquired. `accept` is the broker's. */
export const memorySocket = (accept: (link: Link) => Peer, makeName: () => string): Socket.Socket => {
  let wire: Wire | undefined
  const dialled = Latch.makeUnsafe(false)
  const whenDialled = (use: (wire: Wire) => Effect.Effect<void, Socket.SocketError>) => {
    const attempt: Effect.Effect<void, Socket.SocketError> = Effect.suspend(() =>
      wire === undefined ? Effect.andThen(dialled.await, attempt) : use(wire)
    )
    return attempt
  }
  const writeAll = (chunks: ReadonlyArray<Uint8Array | string>) => whenDialled((wire) => wire.send(chunks))
  return Socket.make({
    reader: Effect.acquireRelease(
      Effect.suspend(() => {
        const opened = new Wire(makeName())
        if (!opened.open(accept)) return Effect.fail(refusedError())
        wire = opened
        dialled.openUnsafe()
        return Effect.succeed(opened)
      }),
      (opened) => Effect.sync(() => opened.destroy())
    ).pipe(Effect.map(({ pull }) => ({ pull, upgrade: Socket.SocketUpgradeError.unsupported }))),
    writer: Effect.acquireRelease(
      Effect.succeed<Socket.Writer>({
        write: (chunk) =>
          Socket.isCloseEvent(chunk) ? whenDialled((wire) => Effect.sync(() => wire.destroy())) : writeAll([chunk]),
        writeAll
      }),
      () => Effect.sync(() => wire?.hangUp())
    )
  })
}

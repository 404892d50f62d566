/**
 * A connection without a network: on one side a `Socket` as a client uses it, on the other a `Link` as the broker does.
 *
 * Bytes arrive in the turn in which they were written. A client that does not read is answered as TCP does: the broker
 * is told to wait from some size on. What a client writes is never refused, because the broker takes it at once.
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Socket from "effect/socket/Socket"
import type { Link, Peer } from "./model.ts"

/** Bytes on the way to a client that does not read, from which the broker has to wait. */
const highWater = 256 * 1024

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
  private chunks: Array<Uint8Array> = []
  private size = 0
  private isFull = false
  private isWaking = false
  private resume: ((effect: Effect.Effect<Chunks, Socket.SocketError>) => void) | undefined
  /** Why nothing more will come. */
  ending: Socket.SocketError | undefined

  constructor(name: string) {
    this.name = name
  }

  /** Connects; `false`: the broker does not listen, and has dropped the connection in the same breath. */
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

  // ---------------------------------------------------------------------------
  // the client's side
  // ---------------------------------------------------------------------------

  readonly pull: Effect.Effect<Chunks, Socket.SocketError> = Effect.callback((resume) => {
    this.resume = resume
    this.flush()
    return Effect.sync(() => {
      if (this.resume === resume) this.resume = undefined
    })
  })

  send(chunks: ReadonlyArray<Uint8Array | string>): Effect.Effect<void, Socket.SocketError> {
    return Effect.suspend(() => {
      for (const chunk of chunks) {
        if (this.peer === undefined || this.ending !== undefined) return Effect.fail(writeError())
        this.peer.receive(typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk)
      }
      return Effect.void
    })
  }

  /** The client has said its last word. */
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
  }

  private drop(error: Socket.SocketError): void {
    this.finish(error)
    this.chunks = []
    this.size = 0
  }

  /** Tells the broker once, however the connection ended. */
  private left(): void {
    const { peer } = this
    this.peer = undefined
    peer?.closed()
  }

  /** A client that waits runs on the stack that wakes it, which must not be the broker's. */
  private wake(): void {
    if (this.isWaking || this.resume === undefined) return
    this.isWaking = true
    queueMicrotask(() => {
      this.isWaking = false
      this.flush()
    })
  }

  private flush(): void {
    const { chunks, resume } = this
    if (resume === undefined) return
    const [first, ...others] = chunks
    if (first === undefined && this.ending === undefined) return
    this.resume = undefined
    this.chunks = []
    this.size = 0
    if (this.isFull) {
      this.isFull = false
      this.peer?.drained()
    }
    if (first !== undefined) resume(Effect.succeed([first, ...others]))
    else if (this.ending !== undefined) resume(Effect.fail(this.ending))
  }
}

/** A socket that connects to the broker whose `accept` is given when its reader is acquired. */
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

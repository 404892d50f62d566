/**
 * The read side of a TCP socket.
 *
 * @since 0.1.0
 */
/// <reference types="node" />
import type * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Socket from "effect/socket/Socket"
import type { OnReadOpts, Socket as NetSocket } from "node:net"

/** The size of a slab. Reads fill it one after another. It is freed with the last view of it. */
const leastSlab = 64 * 1024

/** The largest slab, for large reads: fewer turns, and fewer bodies of some KiB that lie across two slabs. */
const mostSlab = 256 * 1024

/** If less room than this is left, the next read begins a new slab. */
const leastRead = 16 * 1024

/**
 * The read side of a TCP socket, below Node's stream: no buffer of 64 KiB for each read, and no copy where several have
 * gathered. Consuming and confirms cost a tenth less for it. Pieces of a large body are all read into the same memory. The
 * socket is read while somebody waits for what it brings.
 */
export class Inbox {
  /** Where the next read goes. */
  private room: Uint8Array = Buffer.allocUnsafeSlow(leastSlab)
  /** The size of the next slab: four reads like the last one. */
  private slabSize = leastSlab
  /** The chunks that came while nobody waited. */
  private chunk: Uint8Array | undefined
  private waiter:
    | ((effect: Effect.Effect<Arr.NonEmptyReadonlyArray<Uint8Array>, Socket.SocketError>) => void)
    | undefined
  private error: Socket.SocketError | undefined
  private socket: NetSocket | undefined
  private stopped = false

  readonly onread: OnReadOpts = {
    // Node reads this after each callback.
    buffer: () => {
      if (this.room.length < leastRead) this.room = Buffer.allocUnsafeSlow(this.slabSize)
      return this.room
    },
    callback: (size, bytes) => {
      this.chunk = bytes.subarray(0, size)
      this.room = bytes.subarray(size)
      this.slabSize = Math.max(leastSlab, Math.min(4 * size, mostSlab))
      this.drain()
      // The reader that got the chunks may already wait for more.
      this.stopped = this.waiter === undefined
      return !this.stopped
    }
  }

  /**
   * Makes the chunk before the free room part of it again, if reads are small enough for that. It does nothing if the
   * system already has the room.
   */
  readonly reuse = (chunk: Uint8Array): void => {
    const { room } = this
    const size = chunk.length + room.length
    if (
      size >= this.slabSize && chunk.buffer === room.buffer && chunk.byteOffset + chunk.length === room.byteOffset
    ) this.room = new Uint8Array(chunk.buffer, chunk.byteOffset, size)
  }

  /** Listens for the end of the socket, which must have been made with `onread`. */
  attach(socket: NetSocket): void {
    const end = (reason: Socket.SocketErrorReason): void => {
      this.error ??= new Socket.SocketError({ reason })
      this.drain()
    }
    this.socket = socket
    socket.on("end", () => end(new Socket.SocketCloseError({ code: 1000 })))
    socket.on("error", (cause) => end(new Socket.SocketReadError({ cause })))
    socket.on("close", (hadError) => end(new Socket.SocketCloseError({ code: hadError ? 1006 : 1000 })))
  }

  private drain(): void {
    const { chunk, error, waiter } = this
    if (waiter === undefined) return
    if (chunk !== undefined) {
      this.chunk = undefined
      this.waiter = undefined
      waiter(Effect.succeed([chunk]))
    } else if (error !== undefined) {
      this.waiter = undefined
      waiter(Effect.fail(error))
    }
  }

  readonly pull = Effect.callback<Arr.NonEmptyReadonlyArray<Uint8Array>, Socket.SocketError>((resume) => {
    this.waiter = resume
    this.drain()
    if (this.waiter !== resume) return
    if (this.stopped) {
      this.stopped = false
      this.socket?.resume()
    }
    return Effect.sync(() => {
      if (this.waiter === resume) this.waiter = undefined
    })
  })
}

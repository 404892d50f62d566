/**
 * The bytes that came through one direction of one connection: kept, and waited for.
 */
import { Data, Effect } from "effect"

/** The sender ended or lost the connection before the bytes that a test waits for. */
export class PeerClosed extends Data.TaggedError("PeerClosed")<{
  /** What came instead of `wanted` bytes. */
  readonly got: Uint8Array
  readonly wanted: number
}> {
  override get message(): string {
    return `closed after ${this.got.length} of ${this.wanted} bytes: ${Buffer.from(this.got).toString("hex")}`
  }
}

/** A record of bytes with a reading position. One fiber reads at a time. */
export class ByteLog {
  private chunks: Array<Uint8Array> = []
  private taken = 0
  private isEnded = false
  private wake = () => {}
  /** How many bytes there are. */
  length = 0

  /** Everything since the connection began. */
  get all(): Uint8Array {
    if (this.chunks.length > 1) this.chunks = [new Uint8Array(Buffer.concat(this.chunks))]
    return this.chunks[0] ?? new Uint8Array(0)
  }

  push(chunk: Uint8Array): void {
    this.chunks.push(new Uint8Array(chunk)) // a copy that is no Buffer, whose `slice` copies nothing
    this.length += chunk.length
    this.wake()
  }

  end(): void {
    this.isEnded = true
    this.wake()
  }

  /** Waits for the next `count` bytes after those that were read before. */
  read(count: number): Effect.Effect<Uint8Array, PeerClosed> {
    return Effect.callback((resume) => {
      const look = () => {
        const isThere = this.length - this.taken >= count
        if (!isThere && !this.isEnded) return
        this.wake = () => {}
        const bytes = this.all.slice(this.taken, this.taken + count)
        if (!isThere) return resume(Effect.fail(new PeerClosed({ got: bytes, wanted: count })))
        this.taken += count
        resume(Effect.succeed(bytes))
      }
      this.wake = look
      look()
      return Effect.sync(() => {
        this.wake = () => {}
      })
    })
  }
}

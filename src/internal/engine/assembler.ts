/**
 * Puts one channel's contents together: method, header, then body frames until the announced size is there
 * (specification 4.2.6). It checks order and sizes. The channel knows what a content is for.
 *
 * @since 0.1.0
 */
import { readHeaderFields, violation } from "../codec/frames.ts"
import { type Reader, view } from "../codec/wire.ts"

const noBytes: Uint8Array = new Uint8Array(0)

/** The user sets the limit of a content, and may set it higher than the memory there is. */
const allocate = (size: number): Uint8Array => {
  try {
    return new Uint8Array(size)
  } catch {
    throw violation(506, `there is no memory for a content of ${size} bytes`)
  }
}

/** From this size on the header is copied too. Nothing then refers to its chunk, which can be reused. */
const largeSize = 64 * 1024

/** Below this the objects around bodies fill V8's young generation soon enough. */
const heavySize = 8 * 1024

/** Holds the last ballast. Without it the compiler would remove the allocation. */
const ballast: { last: ReadonlyArray<number> } = { last: [] }

/**
 * Allocates ballast on V8's heap: half the size of a body, which itself is outside of the heap. Young collections free
 * memory outside as well, but such memory sets off only full collections, every 64 MB. Each of them marks the whole
 * heap: 20 MB in a program with Effect. With ballast, young collections come first. Consuming 16 KiB takes 15 us
 * instead of 23, 1 MiB 600 instead of 1,300.
 */
const weigh = (size: number): void => {
  // 64 KiB at most: V8 keeps much larger objects elsewhere.
  for (let slots = size >>> 4; slots > 0; slots -= 8192) ballast.last = new Array(Math.min(slots, 8192))
}

/** A content that is being received. The fields are valid once `header`, `body` or `bodyEnd` has returned `true`. */
export class Assembler {
  /** What holds the content header. */
  headerBytes = noBytes
  /** Where the property flags begin. */
  headerStart = 0
  headerEnd = 0
  /** The whole body: a view of the received chunk where it lay in one piece, else a buffer of its own. */
  content: Uint8Array = noBytes
  private phase: "idle" | "header" | "body" = "idle"
  private size = 0
  private received = 0

  /** A method with content has arrived. */
  begin(): void {
    if (this.phase !== "idle") throw violation(505, "a method came in the middle of a content")
    this.phase = "header"
  }

  /** Another method has arrived: not allowed inside a content. */
  expectIdle(): void {
    if (this.phase !== "idle") throw violation(505, "a method came in the middle of a content")
  }

  /** The content header. Returns whether the content is complete, as it is without a body. */
  header(reader: Reader, maxSize: number): boolean {
    if (this.phase !== "header") throw violation(505, "a content header came without its method")
    const size = readHeaderFields(reader)
    if (size > maxSize) throw violation(501, `a content of ${size} bytes, the limit is ${maxSize}`)
    const { bytes, end, offset } = reader
    const isLarge = size >= largeSize
    this.headerBytes = isLarge ? view(bytes, offset, end).slice() : bytes
    this.headerStart = isLarge ? 0 : offset
    this.headerEnd = isLarge ? end - offset : end
    this.size = size
    this.received = 0
    this.content = noBytes
    this.phase = size === 0 ? "idle" : "body"
    return size === 0
  }

  /** A piece of a body frame. Returns whether the content is a view of it, as it is when it lies in one piece. */
  body(bytes: Uint8Array, start: number, end: number): boolean {
    if (this.phase !== "body") throw violation(505, "a body frame came without its content header")
    const length = end - start
    if (length > this.size - this.received) throw violation(501, "a content is longer than its header says")
    const isWhole = length === this.size
    if (isWhole) this.content = view(bytes, start, end)
    else {
      if (this.received === 0) this.content = allocate(this.size)
      this.content.set(view(bytes, start, end), this.received)
    }
    this.received += length
    return isWhole
  }

  /** The end of a body frame. Returns whether the content is complete. */
  bodyEnd(): boolean {
    if (this.phase !== "body") throw violation(505, "a body frame came without its content header")
    if (this.received < this.size) return false
    if (this.size >= heavySize) weigh(this.size)
    this.phase = "idle"
    return true
  }

  /** Drops a content that will not be completed. */
  reset(): void {
    this.phase = "idle"
    this.content = noBytes
    this.headerBytes = noBytes
  }
}

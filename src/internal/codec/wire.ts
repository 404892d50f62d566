/**
 * Cursors over bytes: the `Writer` that every frame is encoded with and the `Reader` that every payload is decoded
 * with, in AMQP's elementary types (specification 4.2.5). Integers are big-endian.
 *
 * Nothing here knows a method, a frame type or a table tag, and nothing here does IO. A value that the type cannot
 * carry throws `AmqpEncodeError`, bytes that end too early throw `AmqpDecodeError`; the callers give them their path
 * and turn them into results.
 *
 * @since 0.1.0
 */
import { AmqpDecodeError, AmqpEncodeError } from "../errors/value.ts"

const textEncoder = new TextEncoder()
// A byte order mark is data here; without `ignoreBOM` the decoder would swallow it.
const strictDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const lossyDecoder = new TextDecoder("utf-8", { ignoreBOM: true })

/** Up to here a loop over char codes beats `encodeInto` and `decode`, which cost about 50 ns and 100 ns per call. */
const asciiLimit = 48

/**
 * The pool that small frames share. One allocation of it costs about 5 us, some hundred messages apart. The first is
 * small: 64 KiB of zeros were a twentieth of what opening a connection costs.
 */
const poolSize = 64 * 1024
const firstPoolSize = 2 * 1024

const noBytes = new Uint8Array(0)

/** 2^32, the weight of the high word of a 64-bit integer. */
const highWord = 0x1_0000_0000

/** Views without the species lookup of `subarray`, which costs about 30 ns more. */
export const view = (bytes: Uint8Array, start: number, end: number): Uint8Array<ArrayBufferLike> =>
  new Uint8Array(bytes.buffer, bytes.byteOffset + start, end - start)

/** Bytes of several chunks. */
export const sizeOf = (chunks: ReadonlyArray<Uint8Array>): number => {
  let size = 0
  for (const chunk of chunks) size += chunk.length
  return size
}

/** What a value is that should be another. */
export const describeType = (value: unknown): string => {
  if (value === null || value === undefined) return String(value)
  const name: unknown = typeof value === "object" ? value.constructor?.name : undefined
  const type = typeof name === "string" && name !== "Object" && name !== "" ? name : typeof value
  return `${/^[aeiou]/i.test(type) ? "an" : "a"} ${type}`
}

/** Whether these are the same bytes. */
export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean =>
  a.length === b.length && a.every((octet, at) => octet === b[at])

const checkWellFormed = (value: string, path: string): void => {
  if (!value.isWellFormed()) {
    throw new AmqpEncodeError({ path, reason: "a string with a lone surrogate has no UTF-8 form" })
  }
}

/** The UTF-8 bytes of a string; a string that has none throws `AmqpEncodeError`. */
export const utf8 = (value: string, path: string): Uint8Array<ArrayBuffer> => {
  checkWellFormed(value, path)
  return textEncoder.encode(value)
}

/** Strict UTF-8, or `undefined` where the bytes are not UTF-8. */
export const utf8Decode = (bytes: Uint8Array): string | undefined => {
  try {
    return strictDecoder.decode(bytes)
  } catch {
    return undefined
  }
}

/**
 * Writes units (whole frames, or all the frames of one content) back to back into a pool and hands them out as views.
 *
 * Bytes that were handed out are never written again: a full pool is replaced, not reused. A unit that fails in the
 * middle is rolled back, so an operation that cannot be encoded leaves no byte behind.
 */
export class Writer {
  /** The first pool comes with the first byte: most channels never write into their own. */
  bytes: Uint8Array = noBytes
  /** Where the next byte goes. */
  offset = 0
  /** Committed bytes that `take` has not handed out yet. */
  pending = 0
  /** Names the field being written, for errors. Setting it costs one store. */
  path = ""
  /** Start of the unit in progress. */
  private unit = 0
  /** End of what `take` has handed out. */
  private taken = 0
  /** Start of the frame in progress, relative to the unit, which may move to a new pool. */
  private frame = 0
  private full: Array<Uint8Array> = []

  reserve(size: number): void {
    if (this.offset + size > this.bytes.length) this.grow(size)
  }

  private grow(size: number): void {
    const unfinished = this.offset - this.unit
    if (this.unit > this.taken) this.full.push(view(this.bytes, this.taken, this.unit))
    let capacity = Math.min(poolSize, Math.max(firstPoolSize, this.bytes.length * 8))
    while (capacity < unfinished + size) capacity *= 2
    const next = new Uint8Array(capacity)
    next.set(view(this.bytes, this.unit, this.offset))
    this.bytes = next
    this.taken = 0
    this.unit = 0
    this.offset = unfinished
  }

  private fail(reason: string): never {
    throw new AmqpEncodeError({ path: this.path, reason })
  }

  /** Checks an integer that a caller gave before it is cut to its width. */
  integer(value: number, max: number): number {
    if (Number.isInteger(value) && value >= 0 && value <= max) return value
    this.fail(`expected an integer from 0 to ${max}, not ${String(value)}`)
  }

  /** Makes the unit part of the output. */
  commit(): void {
    this.pending += this.offset - this.unit
    this.unit = this.offset
  }

  /** Drops what was written since the last `commit`. */
  rollback(): void {
    this.offset = this.unit
  }

  /** Size of the unit in progress, in bytes. */
  get unitSize(): number {
    return this.offset - this.unit
  }

  /** Hands out everything that was committed, in order. */
  take(): Array<Uint8Array> {
    const out = this.full
    if (this.unit > this.taken) out.push(view(this.bytes, this.taken, this.unit))
    this.full = []
    this.taken = this.unit
    this.pending = 0
    return out
  }

  /** Opens a frame; its size is filled in by `frameEnd`. */
  frameStart(type: number, channel: number): void {
    this.reserve(7)
    this.frame = this.offset - this.unit
    const bytes = this.bytes
    const at = this.offset
    bytes[at] = type
    bytes[at + 1] = channel >>> 8
    bytes[at + 2] = channel
    this.offset = at + 7
  }

  /** Closes the frame; one that is larger than `frameMax` bytes in all cannot be sent and throws. */
  frameEnd(frameMax: number): void {
    this.reserve(1)
    const start = this.unit + this.frame
    const size = this.offset - start - 7
    if (size + 8 > frameMax) {
      this.fail(`${size + 8} bytes do not fit into one frame of at most ${frameMax} bytes`)
    }
    this.setU32(start + 3, size)
    this.bytes[this.offset++] = 0xce
  }

  u8(value: number): void {
    this.reserve(1)
    this.bytes[this.offset++] = value
  }

  u16(value: number): void {
    this.reserve(2)
    const bytes = this.bytes
    const at = this.offset
    bytes[at] = value >>> 8
    bytes[at + 1] = value
    this.offset = at + 2
  }

  u32(value: number): void {
    this.reserve(4)
    this.setU32(this.offset, value)
    this.offset += 4
  }

  private setU32(at: number, value: number): void {
    const bytes = this.bytes
    bytes[at] = value >>> 24
    bytes[at + 1] = value >>> 16
    bytes[at + 2] = value >>> 8
    bytes[at + 3] = value
  }

  /** An unsigned 64-bit integer from a non-negative safe integer. */
  u64(value: number): void {
    this.u32(Math.floor(value / highWord))
    this.u32(value % highWord)
  }

  /** A 64-bit integer, signed or unsigned, modulo 2^64. */
  big64(value: bigint): void {
    const bits = BigInt.asUintN(64, value)
    this.u32(Number(bits >> 32n))
    this.u32(Number(bits & 0xffff_ffffn))
  }

  f32(value: number): void {
    this.reserve(4)
    new DataView(this.bytes.buffer, this.bytes.byteOffset + this.offset).setFloat32(0, value)
    this.offset += 4
  }

  f64(value: number): void {
    this.reserve(8)
    new DataView(this.bytes.buffer, this.bytes.byteOffset + this.offset).setFloat64(0, value)
    this.offset += 8
  }

  raw(value: Uint8Array): void {
    const length = value.length
    this.reserve(length)
    this.bytes.set(value, this.offset)
    this.offset += length
  }

  /** Writes a string as UTF-8 and returns the number of bytes. */
  private text(value: string): number {
    const length = value.length
    if (length <= asciiLimit) {
      this.reserve(length)
      const bytes = this.bytes
      const at = this.offset
      let i = 0
      for (; i < length; i++) {
        const code = value.charCodeAt(i)
        if (code > 0x7f) break
        bytes[at + i] = code
      }
      if (i === length) {
        this.offset = at + length
        return length
      }
    }
    checkWellFormed(value, this.path)
    // UTF-8 takes at most three bytes per UTF-16 code unit.
    this.reserve(length * 3)
    const at = this.offset
    const { written } = textEncoder.encodeInto(value, view(this.bytes, at, this.bytes.length))
    this.offset = at + written
    return written
  }

  /** A short string: at most 255 *bytes* (4.2.5.3). */
  shortString(value: string): void {
    if (typeof value !== "string") this.fail(`expected a string, not ${describeType(value)}`)
    if (value.length > 255) this.shortStringTooLong(value)
    this.reserve(1)
    const prefix = this.offset - this.unit
    this.offset++
    const length = this.text(value)
    if (length > 255) this.shortStringTooLong(value)
    this.bytes[this.unit + prefix] = length
  }

  private shortStringTooLong(value: string): never {
    this.fail(`a short string holds at most 255 bytes, not ${textEncoder.encode(value).length}`)
  }

  /** POSIX seconds as an unsigned 64-bit integer (4.2.5.4). */
  timestamp(seconds: number | bigint): void {
    if (typeof seconds === "number") this.u64(this.integer(seconds, Number.MAX_SAFE_INTEGER))
    else if (typeof seconds !== "bigint") {
      this.fail(
        `expected seconds as a number or a bigint, not ${describeType(seconds)}: Math.floor(date.getTime() / 1000)`
      )
    } else if (seconds >= 0n && seconds < 0x1_0000_0000_0000_0000n) this.big64(seconds)
    else this.fail(`expected seconds from 0 to 2^64 - 1, not ${seconds}`)
  }

  /** A long string from text (UTF-8) or bytes. */
  longString(value: string | Uint8Array): void {
    const token = this.lengthStart()
    if (typeof value === "string") this.text(value)
    else if (value instanceof Uint8Array) this.raw(value)
    else this.fail(`expected a string or a Uint8Array, not ${describeType(value)}`)
    this.lengthEnd(token)
  }

  /** Opens a 32-bit length prefix; `lengthEnd` fills it in. */
  lengthStart(): number {
    this.reserve(4)
    const token = this.offset - this.unit
    this.offset += 4
    return token
  }

  lengthEnd(token: number): void {
    const at = this.unit + token
    this.setU32(at, this.offset - at - 4)
  }
}

/** Reads elementary types from a range of bytes. A read past its end throws `AmqpDecodeError`. */
export class Reader {
  bytes: Uint8Array
  offset: number
  end: number
  /** Names the field being read, for errors. */
  path = ""

  constructor(bytes: Uint8Array, offset = 0, end = bytes.length) {
    this.bytes = bytes
    this.offset = offset
    this.end = end
  }

  /** Points the reader at another range, so that one reader serves a whole connection. */
  reset(bytes: Uint8Array, offset: number, end: number): void {
    this.bytes = bytes
    this.offset = offset
    this.end = end
  }

  get remaining(): number {
    return this.end - this.offset
  }

  private fail(reason: string): never {
    throw new AmqpDecodeError({ path: this.path, reason })
  }

  private advance(size: number, what: string): number {
    const at = this.offset
    if (size > this.end - at) this.fail(`the data ends inside ${what}`)
    this.offset = at + size
    return at
  }

  /** As `advance`, and says how much is missing; only then, because the words cost more than the check. */
  private field(size: number): number {
    if (size > this.end - this.offset) this.fail(`the data ends inside a field of ${size} bytes`)
    return this.advance(size, "a field")
  }

  // In-range reads below cannot be undefined: `advance` has checked them. `?? 0` costs nothing in compiled code.

  u8(): number {
    return this.bytes[this.advance(1, "an octet")] ?? 0
  }

  u16(): number {
    const at = this.advance(2, "a 16-bit integer")
    const bytes = this.bytes
    return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)
  }

  u32(): number {
    const at = this.advance(4, "a 32-bit integer")
    const bytes = this.bytes
    return (((bytes[at] ?? 0) << 24) | ((bytes[at + 1] ?? 0) << 16) | ((bytes[at + 2] ?? 0) << 8) |
      (bytes[at + 3] ?? 0)) >>> 0
  }

  i8(): number {
    return (this.u8() << 24) >> 24
  }

  i16(): number {
    return (this.u16() << 16) >> 16
  }

  i32(): number {
    return this.u32() | 0
  }

  /** An unsigned 64-bit integer that must be a safe integer: delivery tags and body sizes. */
  u64(): number {
    const high = this.u32()
    const low = this.u32()
    if (high > 0x1f_ffff) this.fail("a 64-bit integer exceeds 2^53 - 1")
    return high * highWord + low
  }

  bigU64(): bigint {
    const high = this.u32()
    return (BigInt(high) << 32n) | BigInt(this.u32())
  }

  bigI64(): bigint {
    return BigInt.asIntN(64, this.bigU64())
  }

  /** POSIX seconds: a number while that is exact. */
  timestamp(): number | bigint {
    const seconds = this.bigU64()
    return seconds <= Number.MAX_SAFE_INTEGER ? Number(seconds) : seconds
  }

  f32(): number {
    const at = this.advance(4, "a float")
    return new DataView(this.bytes.buffer, this.bytes.byteOffset + at, 4).getFloat32(0)
  }

  f64(): number {
    const at = this.advance(8, "a double")
    return new DataView(this.bytes.buffer, this.bytes.byteOffset + at, 8).getFloat64(0)
  }

  /** A view of the next `size` bytes. */
  raw(size: number): Uint8Array {
    const at = this.field(size)
    return view(this.bytes, at, at + size)
  }

  /** A long string, as a view of its bytes. */
  longString(): Uint8Array {
    return this.raw(this.u32())
  }

  /** A long string as text, or `undefined` where it is not UTF-8. */
  longText(): string | undefined {
    const length = this.u32()
    const at = this.field(length)
    return ascii(this.bytes, at, at + length) ?? utf8Decode(view(this.bytes, at, at + length))
  }

  /** A short string whose invalid UTF-8, which brokers relay, reads as U+FFFD: names and routing keys. */
  shortString(): string {
    const length = this.u8()
    const at = this.advance(length, "a short string")
    return ascii(this.bytes, at, at + length) ?? lossyDecoder.decode(view(this.bytes, at, at + length))
  }

  /** A short string that must be UTF-8: properties and table keys. */
  shortStringStrict(): string {
    const length = this.u8()
    const at = this.advance(length, "a short string")
    const text = ascii(this.bytes, at, at + length) ?? utf8Decode(view(this.bytes, at, at + length))
    return text ?? this.fail("a short string is not UTF-8")
  }
}

/**
 * The text of a range that is short and all ASCII. Eight codes at a time: 35 ns for 16 bytes, 120 one by one.
 */
const ascii = (bytes: Uint8Array, start: number, end: number): string | undefined => {
  if (end - start > asciiLimit) return undefined
  let text = ""
  let i = start
  for (; i + 8 <= end; i += 8) {
    const a = bytes[i] ?? 0
    const b = bytes[i + 1] ?? 0
    const c = bytes[i + 2] ?? 0
    const d = bytes[i + 3] ?? 0
    const e = bytes[i + 4] ?? 0
    const f = bytes[i + 5] ?? 0
    const g = bytes[i + 6] ?? 0
    const h = bytes[i + 7] ?? 0
    if ((a | b | c | d | e | f | g | h) > 0x7f) return undefined
    text += String.fromCharCode(a, b, c, d, e, f, g, h)
  }
  for (; i < end; i++) {
    const code = bytes[i] ?? 0
    if (code > 0x7f) return undefined
    text += String.fromCharCode(code)
  }
  return text
}

/** The longest prefix of a text that fits into `max` bytes of UTF-8; lone surrogates, which have none, become U+FFFD. */
export const truncateUtf8 = (text: string, max: number): string => {
  const wellFormed = text.toWellFormed()
  const { read } = textEncoder.encodeInto(wellFormed, new Uint8Array(max))
  return wellFormed.slice(0, read)
}

/** The beginning of a text that somebody else may have made as long as they like, for errors and logs. */
export const excerpt = (text: string, max = 200): string =>
  text.length <= max ? text : `${text.slice(0, max).toWellFormed()}… (${text.length} characters)`

import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { AmqpDecodeError, AmqpEncodeError } from "../../src/AmqpError.ts"
import { Reader, truncateUtf8, utf8, utf8Decode, view, Writer } from "../../src/internal/codec/wire.ts"
import { fromHex, thrown, toHex } from "../fixtures/frames.ts"

// -----------------------------------------------------------------------------
// helpers
// -----------------------------------------------------------------------------

/** What a committed unit hands out. */
const written = (write: (writer: Writer) => void): string => {
  const writer = new Writer()
  write(writer)
  writer.commit()
  return toHex(Buffer.concat(writer.take()))
}

/** The error of a write to the field `f`, which must leave nothing behind. */
const encodeError = (write: (writer: Writer) => void): AmqpEncodeError => {
  const writer = new Writer()
  writer.path = "f"
  const error = thrown(() => write(writer))
  writer.rollback()
  writer.commit()
  assert.deepStrictEqual(writer.take(), [])
  if (!(error instanceof AmqpEncodeError)) throw error
  assert.strictEqual(error.path, "f")
  return error
}

const decodeError = (hex: string, read: (reader: Reader) => unknown): AmqpDecodeError => {
  const reader = new Reader(fromHex(hex))
  reader.path = "f"
  const error = thrown(() => read(reader))
  if (!(error instanceof AmqpDecodeError)) throw error
  assert.strictEqual(error.path, "f")
  return error
}

const reads = <A>(hex: string, read: (reader: Reader) => A): A => {
  const reader = new Reader(fromHex(hex))
  const value = read(reader)
  assert.strictEqual(reader.remaining, 0)
  return value
}

const options = (runs: number) => ({ arbitrary: { runs } })
const Octet = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))

/** Text of any code units, pairs and lone surrogates among them. */
const anyText = Arbitrary.array(
  Arbitrary.schema(Schema.Literals(["a", "~", "\0", "\x7f", "\x80", "é", "€", "\ufeff", "😀", "\ud83d", "\ude00"])),
  { maxLength: 120 }
).pipe(Arbitrary.map((pieces) => pieces.join("")))

// -----------------------------------------------------------------------------
// integers and floats
// -----------------------------------------------------------------------------

const maxSafe = Number.MAX_SAFE_INTEGER

describe("integers", () => {
  it("are big-endian", () => {
    assert.strictEqual(written((w) => w.u8(0xab)), "ab")
    assert.strictEqual(written((w) => w.u16(0xabcd)), "abcd")
    assert.strictEqual(written((w) => w.u32(0x89abcdef)), "89abcdef")
    assert.strictEqual(written((w) => w.u64(0x1f_ffff_ffff_fffe)), "001ffffffffffffe")
    assert.strictEqual(reads("ab", (r) => r.u8()), 0xab)
    assert.strictEqual(reads("abcd", (r) => r.u16()), 0xabcd)
    assert.strictEqual(reads("89abcdef", (r) => r.u32()), 0x89abcdef)
    assert.strictEqual(reads("001ffffffffffffe", (r) => r.u64()), 0x1f_ffff_ffff_fffe)
  })

  it("are signed where the type is", () => {
    assert.strictEqual(reads("80", (r) => r.i8()), -0x80)
    assert.strictEqual(reads("7f", (r) => r.i8()), 0x7f)
    assert.strictEqual(reads("8000", (r) => r.i16()), -0x8000)
    assert.strictEqual(reads("7fff", (r) => r.i16()), 0x7fff)
    assert.strictEqual(reads("80000000", (r) => r.i32()), -0x8000_0000)
    assert.strictEqual(reads("7fffffff", (r) => r.i32()), 0x7fff_ffff)
    assert.strictEqual(reads("8000000000000000", (r) => r.bigI64()), -(2n ** 63n))
    assert.strictEqual(reads("ffffffffffffffff", (r) => r.bigI64()), -1n)
    assert.strictEqual(reads("ffffffffffffffff", (r) => r.bigU64()), 2n ** 64n - 1n)
  })

  it("of 64 bits survive at their edges", () => {
    for (const value of [0, 1, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, maxSafe - 1, maxSafe]) {
      assert.strictEqual(reads(written((w) => w.u64(value)), (r) => r.u64()), value)
    }
    for (const value of [0n, 1n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      assert.strictEqual(reads(written((w) => w.big64(value)), (r) => r.bigU64()), value)
      assert.strictEqual(reads(written((w) => w.big64(-value)), (r) => r.bigI64()), BigInt.asIntN(64, -value))
    }
  })

  it("of 64 bits are refused where they would be rounded", () => {
    assert.strictEqual(reads("001fffffffffffff", (r) => r.u64()), maxSafe)
    for (const hex of ["0020000000000000", "8000000000000000", "ffffffffffffffff"]) {
      assert.match(decodeError(hex, (r) => r.u64()).reason, /exceeds 2\^53 - 1/)
    }
  })

  it("are checked against their width", () => {
    const writer = new Writer()
    assert.strictEqual(writer.integer(0, 255), 0)
    assert.strictEqual(writer.integer(255, 255), 255)
    for (const value of [-1, 256, 1.5, NaN, Infinity, -Infinity]) {
      assert.strictEqual(
        encodeError((w) => w.integer(value, 255)).reason,
        `expected an integer from 0 to 255, not ${value}`
      )
    }
  })

  it("of a float are IEEE 754, at any offset", () => {
    for (const lead of ["", "00", "0000", "000000"]) {
      const skip = (w: Writer) => w.raw(fromHex(lead))
      assert.strictEqual(written((w) => (skip(w), w.f32(-1.5))), `${lead}bfc00000`)
      assert.strictEqual(written((w) => (skip(w), w.f64(0.1))), `${lead}3fb999999999999a`)
      const bytes = fromHex(`${lead}bfc000003fb999999999999a`)
      const reader = new Reader(view(bytes, lead.length / 2, bytes.length))
      assert.deepStrictEqual([reader.f32(), reader.f64()], [-1.5, 0.1])
    }
  })
})

describe("timestamps", () => {
  it("PB03: seconds from 0 to 2^64 - 1, as a number while that is exact", () => {
    for (
      const [seconds, hex] of [
        [0, "0000000000000000"],
        [1_700_000_000, "000000006553f100"],
        [maxSafe, "001fffffffffffff"],
        [2n ** 53n, "0020000000000000"],
        [2n ** 63n, "8000000000000000"],
        [2n ** 64n - 1n, "ffffffffffffffff"]
      ] as const
    ) {
      assert.strictEqual(written((w) => w.timestamp(seconds)), hex)
      assert.strictEqual(reads(hex, (r) => r.timestamp()), seconds)
    }
    assert.strictEqual(written((w) => w.timestamp(1n)), "0000000000000001")
  })

  it("nothing else", () => {
    for (const seconds of [-1, 0.5, NaN, 2 ** 53, -1n, 2n ** 64n]) {
      assert.match(encodeError((w) => w.timestamp(seconds)).reason, /^expected /)
    }
  })
})

// -----------------------------------------------------------------------------
// strings
// -----------------------------------------------------------------------------

const isLone = (text: string): boolean => !text.isWellFormed()

describe("short strings", () => {
  it("are limited in bytes, not in characters", () => {
    for (const text of ["", "a".repeat(255), `${"é".repeat(127)}a`, "€".repeat(85)]) {
      const hex = written((w) => w.shortString(text))
      assert.strictEqual(hex, toHex(Uint8Array.of(Buffer.byteLength(text))) + toHex(Buffer.from(text)))
      assert.strictEqual(reads(hex, (r) => r.shortString()), text)
      assert.strictEqual(reads(hex, (r) => r.shortStringStrict()), text)
    }
    for (const text of ["a".repeat(256), "é".repeat(128), `${"€".repeat(85)}a`, "a".repeat(100_000)]) {
      assert.strictEqual(
        encodeError((w) => w.shortString(text)).reason,
        `a short string holds at most 255 bytes, not ${Buffer.byteLength(text)}`
      )
    }
  })

  it("with a lone surrogate have no UTF-8", () => {
    for (const text of ["\ud800", "\udfff", "a\ud83d", "\ude00a", "\ude00\ud83d", `${"a".repeat(60)}\ud83d`]) {
      assert.match(encodeError((w) => w.shortString(text)).reason, /lone surrogate/)
      assert.match(encodeError((w) => w.longString(text)).reason, /lone surrogate/)
      assert.match((thrown(() => utf8(text, "p")) as AmqpEncodeError).message, /^cannot encode p: .*lone surrogate/)
    }
    assert.strictEqual(written((w) => w.shortString("😀")), "04f09f9880")
  })

  it("keep a byte order mark", () => {
    assert.strictEqual(reads("03efbbbf", (r) => r.shortString()), "\ufeff")
    assert.strictEqual(reads("03efbbbf", (r) => r.shortStringStrict()), "\ufeff")
    assert.strictEqual(utf8Decode(fromHex("efbbbf61")), "\ufeffa")
  })

  it("that are not UTF-8 read as U+FFFD, or are refused where that would lose something", () => {
    for (const hex of ["02c328", "0180", "02c080", "03eda080"]) {
      assert.match(reads(hex, (r) => r.shortString()), /\ufffd/)
      assert.strictEqual(decodeError(hex, (r) => r.shortStringStrict()).reason, "a short string is not UTF-8")
    }
    assert.strictEqual(utf8Decode(fromHex("c328")), undefined)
  })

  it("must be strings", () => {
    const notText: unknown = 5
    const error = thrown(() => {
      const writer = new Writer()
      writer.path = "queue"
      writer.shortString(notText as string)
    })
    assert.instanceOf(error, AmqpEncodeError)
    assert.strictEqual(error.message, "cannot encode queue: expected a string, not a number")
  })
})

describe("long strings", () => {
  it("are text or bytes with a length", () => {
    assert.strictEqual(written((w) => w.longString("")), "00000000")
    assert.strictEqual(written((w) => w.longString("é€")), "00000005c3a9e282ac")
    assert.strictEqual(written((w) => w.longString(fromHex("00ff"))), "0000000200ff")
    assert.strictEqual(toHex(reads("0000000200ff", (r) => r.longString())), "00ff")
  })

  it("must be one of them", () => {
    const values: ReadonlyArray<readonly [unknown, string]> = [
      [5, "a number"],
      [undefined, "undefined"],
      [null, "null"],
      [[1, 2], "an Array"],
      [{ length: 2 }, "an object"]
    ]
    for (const [value, what] of values) {
      const writer = new Writer()
      writer.path = "response"
      const error = thrown(() => writer.longString(value as string))
      assert.instanceOf(error, AmqpEncodeError)
      assert.strictEqual(error.message, `cannot encode response: expected a string or a Uint8Array, not ${what}`)
    }
  })

  it("that announce more than there is are refused before anything is read, whatever they announce", () => {
    for (const hex of ["ffffffff", "ffffffff0000", "00000001"]) {
      assert.match(decodeError(hex, (r) => r.longString()).reason, /^the data ends inside a field of \d+ bytes$/)
    }
  })
})

describe("any text", () => {
  it.prop("is written as its UTF-8, or refused for a lone surrogate or its length", [anyText], ([text]) => {
    const bytes = Buffer.from(text)
    if (isLone(text)) {
      assert.match(encodeError((w) => w.longString(text)).reason, /lone surrogate/)
      assert.match(encodeError((w) => w.shortString(text)).reason, /lone surrogate/)
      return
    }
    const long = written((w) => w.longString(text))
    assert.strictEqual(long.slice(8), toHex(bytes))
    assert.strictEqual(utf8Decode(reads(long, (r) => r.longString())), text)
    assert.strictEqual(toHex(utf8(text, "")), toHex(bytes))
    if (bytes.length > 255) {
      assert.match(encodeError((w) => w.shortString(text)).reason, /at most 255 bytes/)
      return
    }
    const short = written((w) => w.shortString(text))
    assert.strictEqual(short.slice(2), toHex(bytes))
    assert.strictEqual(reads(short, (r) => r.shortString()), text)
    assert.strictEqual(reads(short, (r) => r.shortStringStrict()), text)
  }, options(500))

  it.prop("ML20: is cut at a character, and what is left can be sent", [
    anyText,
    Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 300 }))
  ], ([text, max]) => {
    const cut = truncateUtf8(text, max)
    const whole = text.toWellFormed()
    assert.isTrue(whole.startsWith(cut))
    assert.isAtMost(Buffer.byteLength(cut), max)
    const next = whole.slice(cut.length)[Symbol.iterator]().next()
    if (next.done !== true) assert.isAbove(Buffer.byteLength(cut + next.value), max)
    if (max <= 255) assert.strictEqual(reads(written((w) => w.shortString(cut)), (r) => r.shortString()), cut)
  }, options(500))
})

// -----------------------------------------------------------------------------
// the reader's end
// -----------------------------------------------------------------------------

describe("the reader", () => {
  const all: ReadonlyArray<readonly [name: string, hex: string, read: (reader: Reader) => unknown]> = [
    ["u8", "01", (r) => r.u8()],
    ["i8", "01", (r) => r.i8()],
    ["u16", "0102", (r) => r.u16()],
    ["i16", "0102", (r) => r.i16()],
    ["u32", "01020304", (r) => r.u32()],
    ["i32", "01020304", (r) => r.i32()],
    ["u64", "0001020304050607", (r) => r.u64()],
    ["bigU64", "0102030405060708", (r) => r.bigU64()],
    ["bigI64", "0102030405060708", (r) => r.bigI64()],
    ["timestamp", "0102030405060708", (r) => r.timestamp()],
    ["f32", "01020304", (r) => r.f32()],
    ["f64", "0102030405060708", (r) => r.f64()],
    ["raw", "010203", (r) => r.raw(3)],
    ["longString", "0000000361c3a9", (r) => r.longString()],
    ["shortString", "0361c3a9", (r) => r.shortString()],
    ["shortStringStrict", "0361c3a9", (r) => r.shortStringStrict()]
  ]

  it.each(all)("%s cut at any byte is an AmqpDecodeError", (_, hex, read) => {
    reads(hex, read)
    for (let size = 0; size < hex.length / 2; size++) {
      assert.match(decodeError(hex.slice(0, size * 2), read).reason, /^the data ends inside /)
    }
  })

  it.each(all)("%s does not read beyond its range, though the buffer goes on", (_, hex, read) => {
    const bytes = fromHex(`ff${hex}ff`)
    const reader = new Reader(bytes, 1, bytes.length - 2)
    assert.instanceOf(thrown(() => read(reader)), AmqpDecodeError)
    reader.reset(bytes, 1, bytes.length - 1)
    assert.deepStrictEqual(read(reader), reads(hex, read))
  })

  it("gives views, not copies", () => {
    const bytes = fromHex("00000002aabb")
    assert.strictEqual(new Reader(bytes).longString().buffer, bytes.buffer)
  })
})

// -----------------------------------------------------------------------------
// units and the pool
// -----------------------------------------------------------------------------

const pool = 64 * 1024

describe("the writer", () => {
  it("drops a unit that fails in the middle", () => {
    const writer = new Writer()
    writer.u32(1)
    writer.commit()
    writer.u32(2)
    writer.raw(new Uint8Array(pool))
    writer.rollback()
    writer.u32(3)
    writer.commit()
    assert.strictEqual(toHex(Buffer.concat(writer.take())), "0000000100000003")
  })

  it("hands out only what was committed, and counts it", () => {
    const writer = new Writer()
    writer.u16(1)
    writer.commit()
    writer.u16(2)
    assert.deepStrictEqual([writer.pending, writer.unitSize], [2, 2])
    assert.strictEqual(toHex(Buffer.concat(writer.take())), "0001")
    assert.deepStrictEqual([writer.pending, writer.unitSize], [0, 2])
    writer.commit()
    assert.strictEqual(toHex(Buffer.concat(writer.take())), "0002")
    assert.deepStrictEqual(writer.take(), [])
  })

  it("moves an unfinished unit to the next pool, with its frame and its lengths", () => {
    for (let before = pool - 40; before <= pool; before++) {
      const writer = new Writer()
      writer.raw(new Uint8Array(before))
      writer.commit()
      writer.frameStart(1, 0x0102)
      const length = writer.lengthStart()
      writer.shortString("inside")
      writer.longString("€".repeat(20))
      writer.lengthEnd(length)
      writer.frameEnd(4096)
      writer.commit()
      assert.strictEqual(
        toHex(Buffer.concat(writer.take()).subarray(before)),
        `010102 0000004b 00000047 06 ${toHex(Buffer.from("inside"))} 0000003c ${"e282ac".repeat(20)} ce`.replaceAll(
          " ",
          ""
        )
      )
    }
  })

  it("grows for a unit that is larger than a pool", () => {
    const writer = new Writer()
    const body = new Uint8Array(5 * pool).fill(7)
    writer.u8(1)
    writer.raw(body)
    writer.longString("€".repeat(pool))
    writer.commit()
    const bytes = Buffer.concat(writer.take())
    assert.strictEqual(bytes.length, 1 + body.length + 4 + 3 * pool)
    assert.strictEqual(bytes[body.length], 7)
  })

  it("does not write again what it has handed out", () => {
    const writer = new Writer()
    const kept: Array<readonly [view: Uint8Array, copy: string]> = []
    for (let i = 0; i < 300; i++) {
      writer.raw(new Uint8Array(1000).fill(i))
      if (i % 3 === 0) writer.rollback()
      else writer.commit()
      for (const bytes of writer.take()) kept.push([bytes, toHex(bytes)])
    }
    assert.strictEqual(kept.length, 200)
    for (const [bytes, copy] of kept) assert.strictEqual(toHex(bytes), copy)
  })

  it.prop("gives the committed units back in order, whatever was rolled back, taken and replaced in between", [
    Arbitrary.array(
      Arbitrary.all([
        Arbitrary.schema(Schema.Literals(["commit", "rollback", "take"])),
        Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: pool }))),
        Arbitrary.schema(Octet)
      ]),
      { maxLength: 20 }
    )
  ], ([steps]) => {
    const writer = new Writer()
    const expected: Array<Uint8Array> = []
    const out: Array<Uint8Array> = []
    for (const [step, size, octet] of steps) {
      const unit = new Uint8Array(size).fill(octet)
      writer.raw(unit)
      if (step === "rollback") writer.rollback()
      else {
        writer.commit()
        expected.push(unit)
      }
      if (step === "take") out.push(...writer.take())
    }
    out.push(...writer.take())
    assert.isTrue(Buffer.concat(out).equals(Buffer.concat(expected)))
    assert.isTrue(out.every((bytes) => bytes.length > 0))
  }, options(100))

  it("fills in the size of a frame and refuses one that is too large by a byte", () => {
    const frame = (size: number) => (w: Writer) => {
      w.frameStart(3, 1)
      w.raw(new Uint8Array(size))
      w.frameEnd(4096)
    }
    assert.strictEqual(written(frame(0)), "03000100000000ce")
    assert.strictEqual(written(frame(4088)).length / 2, 4096)
    assert.strictEqual(
      encodeError(frame(4089)).reason,
      "4097 bytes do not fit into one frame of at most 4096 bytes"
    )
  })
})

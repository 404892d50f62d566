import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Redacted, Result, Schema } from "effect"
import { AmqpDecodeError, AmqpEncodeError } from "../../src/AmqpError.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import { readTable, readTableTagged } from "../../src/internal/codec/tableReader.ts"
import { writeTable } from "../../src/internal/codec/tableWriter.ts"
import { Reader, Writer } from "../../src/internal/codec/wire.ts"

// -----------------------------------------------------------------------------
// helpers
// -----------------------------------------------------------------------------

const fromHex = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex.replaceAll(" ", ""), "hex"))
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")
const text = (value: string): string => toHex(new TextEncoder().encode(value))
const u32 = (value: number): string => value.toString(16).padStart(8, "0")
/** A table's key. */
const key = (name: string): string => Buffer.byteLength(name).toString(16).padStart(2, "0") + text(name)
/** A length and what it counts. */
const sized = (hex: string): string => u32(hex.replaceAll(" ", "").length / 2) + hex

const encoded = (table: AmqpTable.InputTable): string => toHex(Result.getOrThrow(AmqpTable.encode(table)))
const decoded = (hex: string): AmqpTable.PlainTable => Result.getOrThrow(AmqpTable.decode(fromHex(hex)))
const decodedTagged = (hex: string): AmqpTable.Table => Result.getOrThrow(AmqpTable.decodeTagged(fromHex(hex)))

const encodeError = (table: AmqpTable.InputTable): AmqpEncodeError =>
  Result.match(AmqpTable.encode(table), {
    onFailure: (error) => {
      assert.instanceOf(error, AmqpEncodeError)
      return error
    },
    onSuccess: (bytes) => assert.fail(`encoded ${toHex(bytes)}`)
  })

/** Both ways to decode have to fail alike. */
const decodeError = (hex: string): AmqpDecodeError => {
  const errors = [AmqpTable.decode(fromHex(hex)), AmqpTable.decodeTagged(fromHex(hex))].map((result) =>
    Result.match<AmqpTable.Table | AmqpTable.PlainTable, AmqpDecodeError, AmqpDecodeError>(result, {
      onFailure: (error) => {
        assert.instanceOf(error, AmqpDecodeError)
        return error
      },
      onSuccess: () => assert.fail(`decoded ${hex}`)
    })
  )
  assert.strictEqual(errors[0]?.message, errors[1]?.message)
  return errors[0] ?? assert.fail()
}

/** What the types exclude but plain JavaScript can pass. */
const untyped = (value: unknown): AmqpTable.Input => value as AmqpTable.Input

const thrown = (f: () => unknown): unknown => {
  try {
    f()
  } catch (error) {
    return error
  }
  return assert.fail("did not throw")
}

// -----------------------------------------------------------------------------
// golden bytes
// -----------------------------------------------------------------------------

interface Golden {
  /** Type tag and payload. */
  readonly hex: string
  readonly value: AmqpTable.Value
  readonly plain: AmqpTable.Plain
}

const goldens: ReadonlyArray<Golden> = [
  { hex: "74 00", value: AmqpTable.bool(false), plain: false },
  { hex: "74 01", value: AmqpTable.bool(true), plain: true },
  { hex: "62 80", value: AmqpTable.int8(-128), plain: -128 },
  { hex: "62 7f", value: AmqpTable.int8(127), plain: 127 },
  { hex: "42 ff", value: AmqpTable.uint8(255), plain: 255 },
  { hex: "73 8000", value: AmqpTable.int16(-32768), plain: -32768 },
  { hex: "73 7fff", value: AmqpTable.int16(32767), plain: 32767 },
  { hex: "75 ffff", value: AmqpTable.uint16(65535), plain: 65535 },
  { hex: "49 80000000", value: AmqpTable.int32(-2147483648), plain: -2147483648 },
  { hex: "49 7fffffff", value: AmqpTable.int32(2147483647), plain: 2147483647 },
  { hex: "69 ffffffff", value: AmqpTable.uint32(4294967295), plain: 4294967295 },
  { hex: "6c 8000000000000000", value: AmqpTable.int64(-(2n ** 63n)), plain: -(2n ** 63n) },
  { hex: "6c 7fffffffffffffff", value: AmqpTable.int64(2n ** 63n - 1n), plain: 2n ** 63n - 1n },
  { hex: "6c fffffffffffffffe", value: AmqpTable.int64(-2n), plain: -2 },
  { hex: "4c ffffffffffffffff", value: AmqpTable.int64(-1n, "L"), plain: -1 },
  { hex: "4c 0000000100000002", value: AmqpTable.int64(4294967298n, "L"), plain: 4294967298 },
  { hex: "66 3fc00000", value: AmqpTable.float(1.5), plain: 1.5 },
  { hex: "64 bff8000000000000", value: AmqpTable.double(-1.5), plain: -1.5 },
  { hex: "64 8000000000000000", value: AmqpTable.double(-0), plain: -0 },
  {
    hex: "44 02 ffffff85",
    value: AmqpTable.decimal({ scale: 2, value: -123 }),
    plain: AmqpTable.decimal({ scale: 2, value: -123 })
  },
  {
    hex: "44 ff 7fffffff",
    value: AmqpTable.decimal({ scale: 255, value: 2147483647 }),
    plain: AmqpTable.decimal({ scale: 255, value: 2147483647 })
  },
  { hex: "53 00000000", value: AmqpTable.longString(""), plain: "" },
  { hex: "53 00000006 e282ac c3a9 61", value: AmqpTable.longString("€éa"), plain: "€éa" },
  { hex: "53 00000004 efbbbf 61", value: AmqpTable.longString("\ufeffa"), plain: "\ufeffa" },
  { hex: "53 00000002 c328", value: AmqpTable.longString(fromHex("c328")), plain: fromHex("c328") },
  { hex: "78 00000003 00ff10", value: AmqpTable.bytes(fromHex("00ff10")), plain: fromHex("00ff10") },
  { hex: "54 0000000000000000", value: AmqpTable.timestamp(0n), plain: new Date(0) },
  { hex: "54 0000000065920080", value: AmqpTable.timestamp(1704067200n), plain: new Date("2024-01-01T00:00:00Z") },
  {
    hex: "54 000007dba8218000",
    value: AmqpTable.timestamp(8_640_000_000_000n),
    plain: new Date(8_640_000_000_000_000)
  },
  {
    hex: "54 000007dba8218001",
    value: AmqpTable.timestamp(8_640_000_000_001n),
    plain: AmqpTable.timestamp(8_640_000_000_001n)
  },
  {
    hex: "54 ffffffffffffffff",
    value: AmqpTable.timestamp(2n ** 64n - 1n),
    plain: AmqpTable.timestamp(2n ** 64n - 1n)
  },
  { hex: "41 00000000", value: AmqpTable.array([]), plain: [] },
  {
    hex: "41 00000008 56 7401 49 00000003",
    value: AmqpTable.array([AmqpTable.void, AmqpTable.bool(true), AmqpTable.int32(3)]),
    plain: [null, true, 3]
  },
  { hex: "46 00000000", value: AmqpTable.table([]), plain: {} },
  {
    hex: "46 00000009 0161 56 00 46 00000000",
    value: AmqpTable.table([["a", AmqpTable.void], ["", AmqpTable.table([])]]),
    plain: { a: null, "": {} }
  },
  { hex: "56", value: AmqpTable.void, plain: null }
].map((golden) => ({ ...golden, hex: golden.hex.replaceAll(" ", "") }))

/** One table with every golden value in it. */
const everything = goldens.map(({ hex }, i) => key(`k${i}`) + hex).join("")

describe("golden bytes", () => {
  it.each(goldens)("PB04 $hex is the same both ways, tagged and plain", ({ hex, plain, value }) => {
    const bytes = key("k") + hex
    assert.strictEqual(encoded({ k: value }), bytes)
    assert.strictEqual(encoded(AmqpTable.table([["k", value]])), bytes)
    assert.deepStrictEqual(decodedTagged(bytes), AmqpTable.table([["k", value]]))
    assert.deepStrictEqual(decoded(bytes), { k: plain })
    assert.deepStrictEqual(AmqpTable.toPlain(value), plain)
  })

  it.each<[what: string, input: AmqpTable.Input, hex: string]>([
    ["string", "€", "53 00000003 e282ac"],
    ["boolean", true, "74 01"],
    ["Uint8Array", fromHex("00ff"), "78 00000002 00ff"],
    ["Buffer", Buffer.from("hi"), "78 00000002 6869"],
    ["Date", new Date(1000), "54 0000000000000001"],
    ["last Date", new Date(8_640_000_000_000_000), "54 000007dba8218000"],
    ["null", null, "56"],
    ["array", [1, "a", []], "41 00000010 49 00000001 53 00000001 61 41 00000000"],
    ["record", { a: null }, "46 00000003 0161 56"],
    ["record without prototype", Object.assign(Object.create(null), { a: null }), "46 00000003 0161 56"],
    ["tagged value in an array", [AmqpTable.uint8(1)], "41 00000002 42 01"],
    ["0", 0, "49 00000000"],
    ["-0", -0, "64 8000000000000000"],
    ["greatest int32", 2147483647, "49 7fffffff"],
    ["least int32", -2147483648, "49 80000000"],
    ["beyond int32", 2147483648, "6c 0000000080000000"],
    ["below int32", -2147483649, "6c ffffffff7fffffff"],
    ["greatest safe integer", Number.MAX_SAFE_INTEGER, "6c 001fffffffffffff"],
    ["least safe integer", Number.MIN_SAFE_INTEGER, "6c ffe0000000000001"],
    ["an integer that is not safe", 2 ** 53, "64 4340000000000000"],
    ["fraction", 1.5, "64 3ff8000000000000"],
    ["small bigint", 1n, "6c 0000000000000001"],
    ["least bigint", -(2n ** 63n), "6c 8000000000000000"]
  ])("a plain %s has one default type", (_, input, hex) => {
    assert.strictEqual(encoded({ k: input }), key("k") + hex.replaceAll(" ", ""))
  })

  it("is an empty string of bytes for an empty table", () => {
    assert.strictEqual(encoded({}), "")
    assert.deepStrictEqual(decoded(""), {})
    assert.deepStrictEqual(decodedTagged(""), AmqpTable.table([]))
  })

  it("leaves out what is undefined", () => {
    assert.strictEqual(encoded({ a: undefined, b: { c: undefined } }), key("b") + "4600000000")
  })

  it("never takes data for a tagged value", () => {
    const record = { _tag: "Int8", value: 1, "~effect-amqp/AmqpTable/Value": true }
    assert.isFalse(AmqpTable.isValue(record))
    assert.isTrue(AmqpTable.isValue(AmqpTable.int8(1)))
    assert.deepStrictEqual(decoded(encoded({ record })), { record })
  })

  it("EQ30 carries nested tables and arrays as arguments", () => {
    const args = { "x-custom": { list: [1, "two", { three: [true, null] }], empty: {} } }
    const list = "4900000001" + `53${sized(text("two"))}` + `46${sized(`${key("three")}41${sized("740156")}`)}`
    const hex = `${key("x-custom")}46${sized(`${key("list")}41${sized(list)}${key("empty")}4600000000`)}`
    assert.strictEqual(encoded(args), hex)
    assert.deepStrictEqual(decoded(hex), args)
  })
})

// -----------------------------------------------------------------------------
// exactness
// -----------------------------------------------------------------------------

describe("exactness", () => {
  it("does not round integers beyond 2^53, of either tag", () => {
    for (const tag of ["6c", "4c"]) {
      const hex = `${key("a")}${tag}0020000000000001${key("b")}${tag}ffdfffffffffffff${key("c")}${tag}001fffffffffffff`
      assert.deepStrictEqual(decoded(hex), { a: 2n ** 53n + 1n, b: -(2n ** 53n) - 1n, c: Number.MAX_SAFE_INTEGER })
      assert.deepStrictEqual(AmqpTable.toPlain(decodedTagged(hex)), decoded(hex))
      assert.strictEqual(encoded(decodedTagged(hex)), hex)
    }
  })

  it("keeps the octet of a boolean", () => {
    assert.deepStrictEqual(decoded(key("k") + "7402"), { k: true })
    assert.strictEqual(encoded(decodedTagged(key("k") + "7402")), key("k") + "7402")
  })

  it("holds floats as what the wire will carry", () => {
    assert.strictEqual(AmqpTable.float(0.1).value, Math.fround(0.1))
    assert.deepStrictEqual(decoded(encoded({ k: AmqpTable.float(0.1) })), { k: Math.fround(0.1) })
  })

  it("reads floats that are not finite, and does not write them", () => {
    for (const hex of ["667f800000", "667fc00000", "647ff0000000000000", "647ff8000000000000"]) {
      assert.isFalse(Number.isFinite(decoded(key("k") + hex)["k"]))
      assert.strictEqual(encodeError(decodedTagged(key("k") + hex)).path, "k")
    }
  })

  it("keeps the order of keys and keys that occur twice; of the plain value the last one counts", () => {
    const hex = `${key("2")}56${key("b")}7400${key("1")}56${key("b")}7401`
    assert.strictEqual(encoded(decodedTagged(hex)), hex)
    assert.deepStrictEqual(decoded(hex), { "1": null, "2": null, b: true })
    assert.deepStrictEqual(AmqpTable.toPlain(decodedTagged(hex)), decoded(hex))
  })

  it("reads __proto__ as a key like any other", () => {
    const hex = `${key("__proto__")}46${sized(`${key("polluted")}7401`)}${key("constructor")}56`
    for (const table of [decoded(hex), AmqpTable.toPlain(decodedTagged(hex))]) {
      assert.strictEqual(Object.getPrototypeOf(table), Object.prototype)
      assert.isUndefined(table["polluted"])
      assert.deepStrictEqual(Object.keys(table), ["__proto__", "constructor"])
      assert.strictEqual(encoded(table), hex)
    }
  })

  it("copies bytes out of the buffer that they came in", () => {
    const hex = `${key("x")}78${sized("0102")}${key("S")}53${sized("ff02")}`
    const buffer = fromHex(hex)
    const plain = Result.getOrThrow(AmqpTable.decode(buffer))
    const tagged = Result.getOrThrow(AmqpTable.decodeTagged(buffer))
    buffer.fill(0)
    assert.deepStrictEqual(plain, decoded(hex))
    assert.deepStrictEqual(tagged, decodedTagged(hex))
  })
})

// -----------------------------------------------------------------------------
// what cannot be encoded
// -----------------------------------------------------------------------------

describe("what cannot be encoded", () => {
  class Instance {
    readonly a = 1
  }

  it.each<[what: string, input: AmqpTable.Input, reason: RegExp]>([
    ["NaN", Number.NaN, /finite/],
    ["Infinity", Infinity, /finite/],
    ["-Infinity", -Infinity, /finite/],
    ["a float beyond its range", AmqpTable.float(1e39), /finite/],
    ["a tagged NaN", AmqpTable.double(Number.NaN), /finite/],
    ["a bigint above int64", 2n ** 63n, /from -9223372036854775808 to 9223372036854775807$/],
    ["a bigint below int64", -(2n ** 63n) - 1n, /from -9223372036854775808 to 9223372036854775807$/],
    ["a tagged int64 out of range", AmqpTable.int64(2n ** 63n, "L"), /bigint/],
    ["int8 -129", AmqpTable.int8(-129), /from -128 to 127$/],
    ["int8 128", AmqpTable.int8(128), /from -128 to 127$/],
    ["int8 1.5", AmqpTable.int8(1.5), /integer/],
    ["int8 NaN", AmqpTable.int8(Number.NaN), /integer/],
    ["uint8 -1", AmqpTable.uint8(-1), /from 0 to 255$/],
    ["uint8 256", AmqpTable.uint8(256), /from 0 to 255$/],
    ["int16 -32769", AmqpTable.int16(-32769), /from -32768 to 32767$/],
    ["int16 32768", AmqpTable.int16(32768), /from -32768 to 32767$/],
    ["uint16 -1", AmqpTable.uint16(-1), /from 0 to 65535$/],
    ["uint16 65536", AmqpTable.uint16(65536), /from 0 to 65535$/],
    ["int32 below", AmqpTable.int32(-2147483649), /from -2147483648 to 2147483647$/],
    ["int32 above", AmqpTable.int32(2147483648), /from -2147483648 to 2147483647$/],
    ["uint32 -1", AmqpTable.uint32(-1), /from 0 to 4294967295$/],
    ["uint32 above", AmqpTable.uint32(4294967296), /from 0 to 4294967295$/],
    ["decimal with scale 256", AmqpTable.decimal({ scale: 256, value: 0 }), /from 0 to 255$/],
    ["decimal out of range", AmqpTable.decimal({ scale: 0, value: 2147483648 }), /2147483647$/],
    ["timestamp -1", AmqpTable.timestamp(-1n), /from 0 to 18446744073709551615$/],
    ["timestamp 2^64", AmqpTable.timestamp(2n ** 64n), /from 0 to 18446744073709551615$/],
    ["an invalid Date", new Date(Number.NaN), /invalid date/],
    ["a Date with milliseconds", new Date(1500), /setMilliseconds\(0\)/],
    ["a Date before 1970", new Date(-1000), /before 1970/],
    ["a lone surrogate", "a\ud800", /surrogate/],
    ["a long lone surrogate", "a".repeat(100) + "\udc00", /surrogate/],
    ["undefined in an array", untyped(undefined), /^undefined has no form/],
    ["a function", untyped(() => 1), /^a function has no form/],
    ["a symbol", untyped(Symbol.iterator), /^a symbol has no form/],
    ["a Map", untyped(new Map()), /instance of a class/],
    ["an instance", untyped(new Instance()), /instance of a class/],
    ["an Error", untyped(new Error("no")), /instance of a class/],
    ["another typed array", untyped(new Uint16Array(1)), /instance of a class/],
    ["an ArrayBuffer", untyped(new ArrayBuffer(1)), /instance of a class/],
    ["a secret", untyped(Redacted.make("hunter2")), /instance of a class/],
    ["a number tagged as int64", untyped(AmqpTable.int64(untyped(1) as bigint)), /bigint/],
    ["a number tagged as bytes", untyped(AmqpTable.bytes(untyped(1) as Uint8Array)), /Uint8Array/],
    ["a number tagged as string", untyped(AmqpTable.longString(untyped(1) as string)), /Uint8Array/],
    ["a key that is a number", AmqpTable.table([[untyped(1) as string, AmqpTable.void]]), /key must be a string/]
  ])("%s is an error with the path", (what, input, reason) => {
    const error = encodeError({ retries: [0, 1, input] })
    const inner = what.startsWith("a key") ? "[1]" : ""
    assert.strictEqual(error.path, `retries[2]${inner}`)
    assert.match(error.reason, reason)
  })

  it("names the path from the root that the caller gives", () => {
    const path = (table: AmqpTable.InputTable): unknown => {
      const error = thrown(() => writeTable(new Writer(), table, "headers"))
      return error instanceof AmqpEncodeError ? error.path : error
    }
    assert.strictEqual(path({ ok: 1, retries: [1, 2, Number.NaN] }), "headers.retries[2]")
    assert.strictEqual(path({ "x-death": [{ count: Number.NaN }] }), "headers.x-death[0].count")
    assert.strictEqual(path({ "a.b": { "": Number.NaN } }), "headers[\"a.b\"][\"\"]")
    assert.strictEqual(
      path(AmqpTable.table([["a", AmqpTable.table([["b", AmqpTable.array([AmqpTable.int8(1000)])]])]])),
      "headers.a.b[0]"
    )
    assert.strictEqual(path(untyped(null) as AmqpTable.Table), "headers")
  })

  it("repeats no value in its error", () => {
    const secret = "hunter2"
    for (const value of [`${secret}\ud800`, untyped(new Map([[secret, secret]])), untyped(() => secret)]) {
      const error = encodeError({ LOGIN: "guest", PASSWORD: value })
      assert.strictEqual(error.path, "PASSWORD")
      assert.notInclude(`${error.message} ${error.stack} ${JSON.stringify(error)}`, secret)
    }
  })

  it.each<[string, unknown]>([
    ["null", null],
    ["undefined", undefined],
    ["a string", "a"],
    ["an array", []],
    ["a Map", new Map()],
    ["another tagged value", AmqpTable.int8(1)]
  ])("%s is no table", (_, table) => {
    assert.match(encodeError(untyped(table) as AmqpTable.Table).reason, /a table must be/)
  })

  it("a value that contains itself is an error that says so", () => {
    const table: Record<string, AmqpTable.Input> = {}
    table["list"] = [0, { again: table }]
    assert.strictEqual(encodeError(table).message, "cannot encode list[1].again: the value contains itself")
    const list: Array<AmqpTable.Value> = []
    list.push(AmqpTable.array(list))
    assert.strictEqual(encodeError({ list: AmqpTable.array(list) }).path, "list[0]")
  })

  it("the same value may occur more than once", () => {
    const shared = { a: [1] }
    assert.deepStrictEqual(decoded(encoded({ x: shared, y: [shared, shared] })), { x: shared, y: [shared, shared] })
  })

  it("a failure leaves no byte behind once its unit is rolled back", () => {
    const writer = new Writer()
    writer.u8(0x01)
    writer.commit()
    thrown(() => writeTable(writer, { a: "b".repeat(100_000), c: Number.NaN }, "headers"))
    writer.rollback()
    writer.u8(0x02)
    writer.commit()
    assert.strictEqual(writer.take().map((bytes) => toHex(bytes)).join(""), "0102")
  })

  it("what a getter throws passes as it is", () => {
    const table = {
      a: {
        get b(): number {
          throw new Error("mine")
        }
      }
    }
    assert.throws(() => AmqpTable.encode(table), "mine")
  })
})

// -----------------------------------------------------------------------------
// limits
// -----------------------------------------------------------------------------

describe("limits", () => {
  it("PB09 a key has at most 255 bytes, and may be empty", () => {
    for (const ok of ["", "k".repeat(255), "é".repeat(127) + "k", "€".repeat(85)]) {
      assert.strictEqual(encoded({ [ok]: null }), key(ok) + "56")
      assert.deepStrictEqual(decoded(key(ok) + "56"), { [ok]: null })
    }
    for (const bad of ["k".repeat(256), "é".repeat(128), "€".repeat(86), "k".repeat(100_000)]) {
      const error = encodeError({ outer: { [bad]: null } })
      assert.match(error.reason, /at most 255 bytes, not (25[68]|100000)$/)
      assert.isTrue(error.path.startsWith("outer"))
      assert.isBelow(error.message.length, 400)
    }
    assert.match(encodeError({ "\ud800": null }).reason, /surrogate/)
  })

  it("strings and bytes may be longer than the writer's buffer", () => {
    const table = { a: "€".repeat(100_000), b: new Uint8Array(200_000).fill(7), c: 1 }
    assert.deepStrictEqual(decoded(encoded(table)), table)
  })

  const nested = (levels: number): AmqpTable.PlainTable => {
    let value: AmqpTable.Plain = "core"
    for (let level = 1; level < levels; level++) value = level % 2 === 0 ? [value] : { t: value }
    return { t: value }
  }

  it("500 levels work both ways, and so do 1024", () => {
    for (const levels of [500, 1024]) {
      const table = nested(levels)
      const hex = encoded(table)
      assert.strictEqual(encoded(decoded(hex)), hex)
      assert.strictEqual(encoded(decodedTagged(hex)), hex)
      assert.strictEqual(encoded(AmqpTable.toPlain(decodedTagged(hex))), hex)
    }
  })

  it("1025 levels are an error both ways", () => {
    assert.match(encodeError(nested(1025)).reason, /more than 1024 levels/)
    assert.match(decodeError(`${key("t")}46${sized(encoded(nested(1024)))}`).reason, /more than 1024 levels/)
  })

  it("100,000 levels cannot end the stack, and their path stays short", () => {
    const levels = 100_000
    const tables = new Uint8Array(levels * 6)
    const arrays = new Uint8Array(levels * 5)
    for (let level = 0; level < levels; level++) {
      tables[level * 6 + 1] = 0x46
      new DataView(tables.buffer).setUint32(level * 6 + 2, tables.length - level * 6 - 6)
      arrays[level * 5] = 0x41
      new DataView(arrays.buffer).setUint32(level * 5 + 1, arrays.length - level * 5 - 5)
    }
    for (const hex of [toHex(tables), key("k") + toHex(arrays)]) {
      const error = decodeError(hex)
      assert.match(error.reason, /more than 1024 levels/)
      assert.isBelow(error.path.length, 300)
    }
    let value: AmqpTable.Input = 1
    for (let level = 0; level < levels; level++) value = [value]
    assert.match(encodeError({ value }).reason, /more than 1024 levels/)
  })
})

// -----------------------------------------------------------------------------
// what cannot be decoded
// -----------------------------------------------------------------------------

describe("what cannot be decoded", () => {
  it.each<[what: string, hex: string, message: RegExp]>([
    ["an unknown tag", key("k") + "5a", /^cannot decode k: unknown type tag 0x5a \(Z\)$/],
    ["an unprintable tag", key("k") + "07", /^cannot decode k: unknown type tag 0x07$/],
    ["the specification's U", key("k") + "550001", /unknown type tag 0x55 \(U\)/],
    ["no tag", key("k"), /^cannot decode k: the data ends/],
    ["a key beyond the end", "05 61", /^cannot decode: the data ends/],
    ["a key that is not UTF-8", `${key("a")}56 02c328 56`, /^cannot decode: .*UTF-8/],
    ["a nested fault", `${key("a")}41${sized(`56 46${sized(`${key("b")}5a`)}`)}`, /^cannot decode a\[1\]\.b: unknown/],
    ["ML09 a string of 0xFFFFFFFF bytes", `${key("k")}53ffffffff61`, /^cannot decode k: .*4294967295/],
    ["ML09 bytes of 0xFFFFFFFF bytes", `${key("k")}78ffffffff61`, /^cannot decode k: .*4294967295/],
    ["ML09 a table of 0xFFFFFFFF bytes", `${key("k")}46ffffffff61`, /^cannot decode k: .*4294967295/],
    ["ML09 an array of 0xFFFFFFFF bytes", `${key("k")}41ffffffff61`, /^cannot decode k: .*4294967295/],
    ["an array that ends inside of its item", `${key("k")}41 00000004 49 00000001`, /^cannot decode k\[0\]: /],
    ["an array that takes the next key", `${key("k")}41 00000002 56 ${key("l")} 56`, /^cannot decode k\[1\]: /],
    ["a table that ends inside of its entry", `${key("k")}46 00000002 0161 56`, /^cannot decode k\.a: /],
    ["an inner length beyond the outer", `${key("k")}46 00000007 0161 41 00000001 56`, /^cannot decode k\.a: /]
  ])("%s", (_, hex, message) => {
    assert.match(decodeError(hex.replaceAll(" ", "")).message, message)
  })

  it("ML09 a table whose length is beyond the frame, read from a larger buffer", () => {
    for (const read of [readTable, readTableTagged]) {
      // The table is whole in the buffer, but not in the reader's range.
      const bytes = fromHex(sized(everything) + "56".repeat(100))
      const reader = new Reader(bytes, 0, 4 + everything.length / 2 - 1)
      const error = thrown(() => read(reader, "headers"))
      assert.instanceOf(error, AmqpDecodeError)
      assert.match(
        (error as AmqpDecodeError).message,
        /^cannot decode headers: a length of \d+ bytes where \d+ are left$/
      )
    }
  })

  it("reads exactly one table and leaves the reader behind it, also when it fails", () => {
    for (const read of [readTable, readTableTagged]) {
      const bytes = fromHex(`ff${sized(everything)}2a`)
      const reader = new Reader(bytes, 1)
      read(reader, "headers")
      assert.strictEqual(reader.u8(), 0x2a)
      assert.strictEqual(reader.remaining, 0)
      const broken = new Reader(fromHex(sized(`${key("a")}46${sized(`${key("b")}5a`)}`) + "2a"))
      thrown(() => read(broken, "headers"))
      assert.strictEqual(broken.end, broken.bytes.length)
    }
  })

  it("a table that is cut at any byte is a typed error", () => {
    const whole = fromHex(sized(everything))
    for (let size = 0; size < whole.length; size++) {
      for (const read of [readTable, readTableTagged]) {
        const error = thrown(() => read(new Reader(whole, 0, size), "headers"))
        assert.instanceOf(error, AmqpDecodeError, `cut at ${size}`)
      }
    }
  })

  it("a table that is cut at any byte, its length adjusted, is an error or its first entries", () => {
    const boundaries = new Set<number>([0])
    for (const { hex } of goldens) {
      boundaries.add(Math.max(...boundaries) + (key(`k${boundaries.size - 1}`) + hex).length / 2)
    }
    for (let size = 0; size < everything.length / 2; size++) {
      const hex = everything.slice(0, size * 2)
      if (boundaries.has(size)) assert.strictEqual(encoded(decodedTagged(hex)), hex)
      else decodeError(hex)
    }
  })
})

// -----------------------------------------------------------------------------
// properties
// -----------------------------------------------------------------------------

/** Which golden value, or a nest of them. */
type Shape = number | ReadonlyArray<Shape>
const Index = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: goldens.length - 1 }))
const Shape: Schema.Codec<Shape> = Schema.Union([Index, Schema.Array(Schema.suspend(() => Shape))])
const Octet = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))

const valueOf = (shape: Shape): AmqpTable.Value => {
  if (typeof shape === "number") return goldens[shape]?.value ?? AmqpTable.void
  const values = shape.map(valueOf)
  return values.length % 2 === 0
    ? AmqpTable.array(values)
    : AmqpTable.table(values.map((value, i) => [`k${i % 3}`, value]))
}

const options = (runs: number) => ({ arbitrary: { runs } })

/** What holds for any bytes whatever. */
const holds = (bytes: Uint8Array): void => {
  const tagged = AmqpTable.decodeTagged(bytes)
  const plain = AmqpTable.decode(bytes)
  if (Result.isFailure(tagged)) {
    assert.instanceOf(tagged.failure, AmqpDecodeError)
    assert.isTrue(Result.isFailure(plain))
    return
  }
  assert.deepStrictEqual(Result.getOrThrow(plain), AmqpTable.toPlain(tagged.success))
  Result.match(AmqpTable.encode(tagged.success), {
    onFailure: (error) => assert.match(error.reason, /finite/),
    onSuccess: (again) => assert.strictEqual(toHex(again), toHex(bytes))
  })
}

const Text = Schema.String.check(Schema.makeFilter((value: string) => value.isWellFormed()))

const plainInput = Schema.Union([
  Schema.Null,
  Schema.Boolean,
  Schema.Int,
  Schema.Finite,
  Text,
  Schema.Uint8Array,
  Schema.Array(Schema.Union([Text, Schema.Finite, Schema.Record(Text, Schema.Boolean)])),
  Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: -(2n ** 63n), maximum: 2n ** 63n - 1n }))
])

describe("properties", () => {
  it.prop("tags in every order are read, and written back to the same bytes", [
    Arbitrary.array(Arbitrary.schema(Index))
  ], ([indexes]) => {
    const hex = indexes.map((index, i) => key(`k${i}`) + goldens[index]?.hex).join("")
    assert.strictEqual(encoded(decodedTagged(hex)), hex)
    assert.deepStrictEqual(
      decoded(hex),
      Object.fromEntries(indexes.map((index, i) => [`k${i}`, goldens[index]?.plain]))
    )
  }, options(200))

  it.prop("tagged values survive, nested as they may be", [Shape], ([shape]) => {
    const table = AmqpTable.table([["v", valueOf(shape)]])
    const hex = encoded(table)
    assert.deepStrictEqual(decodedTagged(hex), table)
    assert.deepStrictEqual(decoded(hex), AmqpTable.toPlain(table))
    assert.strictEqual(encoded(decodedTagged(hex)), hex)
  }, options(200))

  it.prop(
    "plain values survive",
    [Schema.Record(Text.check(Schema.isMaxLength(80)), plainInput)],
    ([table]) => {
      const expected = Object.fromEntries(
        Object.entries(table).map((
          [k, v]
        ) => [k, typeof v === "bigint" && Number.isSafeInteger(Number(v)) ? Number(v) : v])
      )
      assert.deepStrictEqual(decoded(encoded(table)), expected)
    },
    options(200)
  )

  it.prop("any bytes are a table or an AmqpDecodeError", [Arbitrary.array(Arbitrary.schema(Octet))], ([octets]) => {
    holds(Uint8Array.from(octets))
  }, options(500))

  it.prop("any payload behind any known tag is a value or an AmqpDecodeError", [
    Index,
    Arbitrary.array(Arbitrary.schema(Octet), { minLength: 0, maxLength: 10 })
  ], ([index, octets]) => {
    holds(Uint8Array.from([1, 0x6b, parseInt(goldens[index]?.hex.slice(0, 2) ?? "", 16), ...octets]))
  }, options(500))

  it.prop("a table with any byte changed is a table or an AmqpDecodeError", [
    Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: everything.length / 2 - 1 })),
    Octet
  ], ([at, octet]) => {
    const bytes = fromHex(everything)
    bytes[at] = octet
    holds(bytes)
  }, options(1000))
})

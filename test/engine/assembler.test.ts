import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { AmqpConnectionError, AmqpDecodeError } from "../../src/AmqpError.ts"
import { Reader } from "../../src/internal/codec/wire.ts"
import { Assembler } from "../../src/internal/engine/assembler.ts"
import { bytes, headerFrame, pattern } from "./peer.ts"

/** A reader at the payload of a content header. */
const header = (size: number): Reader => {
  const frame = headerFrame(1, size, { contentType: "text/plain" })
  return new Reader(frame, 7, frame.length - 1)
}

const limit = 1024 * 1024

/** Begins a content of that size. */
const begun = (size: number): Assembler => {
  const assembler = new Assembler()
  assembler.begin()
  assert.strictEqual(assembler.header(header(size), limit), size === 0)
  return assembler
}

const violates = (replyCode: number, run: () => void): void => {
  try {
    run()
  } catch (error) {
    assert.instanceOf(error, AmqpConnectionError)
    assert.strictEqual(error.reason._tag === "ProtocolViolation" && error.reason.replyCode, replyCode)
    return
  }
  assert.fail("it is no violation")
}

describe("a content", () => {
  it("in one piece is a view of what came", () => {
    const assembler = begun(5)
    const chunk = bytes("--hello--")
    assembler.body(chunk, 2, 7)
    assert.isTrue(assembler.bodyEnd())
    assert.strictEqual(new TextDecoder().decode(assembler.content), "hello")
    assert.strictEqual(assembler.content.buffer, chunk.buffer)
  })

  it("in many pieces and frames is a buffer of its own", () => {
    const body = pattern(1000)
    const assembler = begun(body.length)
    assembler.body(body, 0, 1)
    assembler.body(body, 1, 400)
    assert.isFalse(assembler.bodyEnd())
    assembler.body(body, 400, 1000)
    assert.isTrue(assembler.bodyEnd())
    assert.deepStrictEqual(assembler.content, body)
    assert.notStrictEqual(assembler.content.buffer, body.buffer)
  })

  it("of no size is complete with its header, and has no body frame", () => {
    const assembler = begun(0)
    assert.lengthOf(assembler.content, 0)
    violates(505, () => assembler.bodyEnd())
  })

  it("does not keep the body of the one before", () => {
    const assembler = begun(3)
    assembler.body(bytes("abc"), 0, 3)
    assembler.bodyEnd()
    assembler.begin()
    assembler.header(header(0), limit)
    assert.lengthOf(assembler.content, 0)
  })

  it("ML11 may have body frames of no size in between", () => {
    const assembler = begun(3)
    assert.isFalse(assembler.bodyEnd())
    assembler.body(bytes("ab"), 0, 2)
    assert.isFalse(assembler.bodyEnd())
    assert.isFalse(assembler.bodyEnd())
    assembler.body(bytes("c"), 0, 1)
    assert.isTrue(assembler.bodyEnd())
    violates(505, () => assembler.bodyEnd())
  })

  it("gives the range of its properties", () => {
    const assembler = new Assembler()
    assembler.begin()
    const reader = header(0)
    assembler.header(reader, limit)
    assert.strictEqual(assembler.headerBytes, reader.bytes)
    assert.strictEqual(assembler.headerStart, 7 + 12)
    assert.strictEqual(assembler.headerEnd, reader.end)
  })

  it.prop("is the same however its frames are cut", [
    Schema.Uint8Array,
    Arbitrary.array(Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 }))))
  ], ([body, cuts]) => {
    if (body.length === 0) return
    const assembler = begun(body.length)
    let at = 0
    for (const cut of cuts) {
      const end = Math.min(at + cut, body.length - 1)
      if (end > at) assembler.body(body, at, end)
      at = end
      if (cut % 2 === 0) assert.isFalse(assembler.bodyEnd())
    }
    assembler.body(body, at, body.length)
    assert.isTrue(assembler.bodyEnd())
    assert.deepStrictEqual(assembler.content, body)
  })
})

describe("refuses", () => {
  it("a header without its method", () => {
    violates(505, () => new Assembler().header(header(1), limit))
    violates(505, () => begun(1).header(header(1), limit))
  })

  it("a body without its header", () => {
    const assembler = new Assembler()
    violates(505, () => assembler.body(bytes("a"), 0, 1))
    assembler.begin()
    violates(505, () => assembler.body(bytes("a"), 0, 1))
    violates(505, () => assembler.bodyEnd())
  })

  it("a method in the middle of a content", () => {
    const assembler = new Assembler()
    assembler.begin()
    violates(505, () => assembler.begin())
    violates(505, () => assembler.expectIdle())
    const inBody = begun(1)
    violates(505, () => inBody.begin())
    violates(505, () => inBody.expectIdle())
    inBody.body(bytes("a"), 0, 1)
    violates(505, () => inBody.expectIdle())
    inBody.bodyEnd()
    inBody.expectIdle()
  })

  it("more than the header announced, in one piece or in two", () => {
    violates(501, () => begun(2).body(bytes("abc"), 0, 3))
    const assembler = begun(2)
    assembler.body(bytes("a"), 0, 1)
    violates(501, () => assembler.body(bytes("bc"), 0, 2))
    const complete = begun(2)
    complete.body(bytes("ab"), 0, 2)
    violates(501, () => complete.body(bytes("c"), 0, 1))
  })

  it("a size over the limit, before anything is allocated", () => {
    const assembler = new Assembler()
    assembler.begin()
    violates(501, () => assembler.header(header(limit + 1), limit))
    const huge = header(Number.MAX_SAFE_INTEGER)
    const other = new Assembler()
    other.begin()
    violates(501, () => other.header(huge, limit))
    begun(limit)
  })

  it("a size beyond 2^53, and a header that ends early", () => {
    const wrong = (payload: ReadonlyArray<number>): void => {
      const assembler = new Assembler()
      assembler.begin()
      assert.throws(() => assembler.header(new Reader(new Uint8Array(payload)), limit), AmqpDecodeError)
    }
    wrong([0, 60, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0])
    wrong([0, 60, 0, 0, 0, 0, 0])
    wrong([])
  })

  it("ML08 another class, and a weight", () => {
    for (const payload of [[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0, 60, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]]) {
      const assembler = new Assembler()
      assembler.begin()
      violates(501, () => assembler.header(new Reader(new Uint8Array(payload)), limit))
    }
  })
})

it("forgets a content that will not be completed", () => {
  const assembler = begun(5)
  assembler.body(bytes("ab"), 0, 2)
  assembler.reset()
  assembler.expectIdle()
  assert.lengthOf(assembler.content, 0)
  assembler.begin()
  assembler.header(header(1), limit)
  assembler.body(bytes("c"), 0, 1)
  assert.isTrue(assembler.bodyEnd())
})

import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { AmqpConnectionError, AmqpEncodeError } from "../../src/AmqpError.ts"
import {
  type FrameHandler,
  frameOverhead,
  FrameParser,
  heartbeatFrame,
  maxUnsplitSize,
  protocolHeader,
  writeBodyFrames,
  writeHeaderFrame,
  writeMethodFrame,
  writePublishFrame,
  writeRawHeaderFrame
} from "../../src/internal/codec/frames.ts"
import { frameEnd, frameMinSize } from "../../src/internal/codec/spec.ts"
import { Writer } from "../../src/internal/codec/wire.ts"
import { concat, fromHex, thrown, toHex, u32 } from "../fixtures/frames.ts"

// -----------------------------------------------------------------------------
// helpers
// -----------------------------------------------------------------------------

const u16 = (value: number): string => value.toString(16).padStart(4, "0")
const u8 = (value: number): string => value.toString(16).padStart(2, "0")

/** The head of a frame. */
const head = (type: number, channel: number, size: number): string => u8(type) + u16(channel) + u32(size)
const frame = (type: number, channel: number, payload: string): string =>
  `${head(type, channel, payload.length / 2)}${payload}ce`

/** Everything that a handler hears, as text; the pieces of one body are put together. */
class Recorder implements FrameHandler {
  readonly events: Array<string> = []
  private body = ""

  readonly onMethod: FrameHandler["onMethod"] = (channel, reader) => {
    this.events.push(`method ${channel} ${toHex(reader.raw(reader.remaining))}`)
  }
  readonly onHeader: FrameHandler["onHeader"] = (channel, reader) => {
    this.events.push(`header ${channel} ${toHex(reader.raw(reader.remaining))}`)
  }
  readonly onBody: FrameHandler["onBody"] = (_channel, bytes, start, end) => {
    assert.isBelow(start, end)
    this.body += toHex(bytes.subarray(start, end))
  }
  readonly onBodyEnd: FrameHandler["onBodyEnd"] = (channel) => {
    this.events.push(`body ${channel} ${this.body}`)
    this.body = ""
  }
  readonly onHeartbeat = (): void => {
    this.events.push("heartbeat")
  }
}

/** The violation that a parser throws; afterwards it must be dead. */
const violation = (parser: FrameParser, chunk: Uint8Array): { readonly replyCode: number; readonly detail: string } => {
  const error = thrown(() => parser.push(chunk))
  if (!(error instanceof AmqpConnectionError) || error.reason._tag !== "ProtocolViolation") throw error
  const again = thrown(() => parser.push(heartbeatFrame))
  assert.instanceOf(again, AmqpConnectionError)
  assert.match((again as Error).message, /cannot be used after a failure/)
  const { detail, replyCode } = error.reason
  return { replyCode, detail }
}

const parse = (chunks: ReadonlyArray<Uint8Array>, frameMax = frameMinSize): ReadonlyArray<string> => {
  const recorder = new Recorder()
  const parser = new FrameParser(recorder, frameMax)
  for (const chunk of chunks) parser.push(chunk)
  return recorder.events
}

const refused = (hex: string, frameMax = frameMinSize) =>
  violation(new FrameParser(new Recorder(), frameMax), fromHex(hex))

const options = (runs: number) => ({ arbitrary: { runs } })
const Octet = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))
const bytes = (maxLength: number) =>
  Arbitrary.array(Arbitrary.schema(Octet), { maxLength }).pipe(Arbitrary.map((octets) => Uint8Array.from(octets)))

const method = frame(1, 1, "0014000a00")
const header = frame(2, 1, "003c000000000000000000030000")
const body = frame(3, 1, "a1b2c3")
const stream = [
  ["method 1 0014000a00", method],
  ["heartbeat", "08000000000000ce"],
  ["header 1 003c000000000000000000030000", header],
  ["heartbeat", "08000000000000ce"], // ML21
  ["method 2 00140029", frame(1, 2, "00140029")], // ML22
  ["body 1 ", frame(3, 1, "")], // ML11
  ["body 1 a1b2c3", body],
  ["body 65535 ce", frame(3, 65535, "ce")],
  ["method 0 ", frame(1, 0, "")]
] as const
const expected = stream.map(([event]) => event)
const whole = fromHex(stream.map(([, hex]) => hex).join(""))

// -----------------------------------------------------------------------------
// parsing
// -----------------------------------------------------------------------------

describe("the parser", () => {
  it("ML18, ML21, ML22: gives the same frames however the bytes are cut", () => {
    assert.deepStrictEqual(parse([whole]), expected)
    assert.deepStrictEqual(parse([...whole].map((octet) => Uint8Array.of(octet))), expected)
    for (let at = 0; at <= whole.length; at++) {
      assert.deepStrictEqual(parse([whole.slice(0, at), whole.slice(at)]), expected, `cut at ${at}`)
    }
  })

  it("accepts empty chunks anywhere", () => {
    const nothing = new Uint8Array(0)
    assert.deepStrictEqual(parse([...whole].flatMap((octet) => [nothing, Uint8Array.of(octet), nothing])), expected)
  })

  it("works in place where a frame lies whole in a chunk", () => {
    const chunk = fromHex(method + body)
    const seen: Array<Uint8Array> = []
    const parser = new FrameParser({
      onMethod: (_channel, reader) => seen.push(reader.bytes),
      onHeader: () => {},
      onBody: (_channel, bytes) => seen.push(bytes),
      onBodyEnd: () => {},
      onHeartbeat: () => {}
    }, frameMinSize)
    parser.push(chunk)
    assert.strictEqual(seen[0], chunk)
    assert.strictEqual(seen[1], chunk)
  })

  it("hands a body on as it comes and keeps none of it", () => {
    const pieces: Array<string> = []
    const recorder = new Recorder()
    const parser = new FrameParser({
      ...recorder,
      onBody: (channel, bytes, start, end) => pieces.push(`${channel} ${toHex(bytes.subarray(start, end))}`)
    }, frameMinSize)
    const chunk = fromHex(body)
    parser.push(chunk.subarray(0, 8))
    parser.push(chunk.subarray(8, 10))
    assert.deepStrictEqual(pieces, ["1 a1", "1 b2c3"])
    parser.push(chunk.subarray(10))
    assert.deepStrictEqual(recorder.events, ["body 1 "])
  })

  it("does not need a chunk after the push", () => {
    const recorder = new Recorder()
    const parser = new FrameParser(recorder, frameMinSize)
    for (let at = 0; at < whole.length; at += 5) {
      const chunk = whole.slice(at, at + 5)
      parser.push(chunk)
      chunk.fill(0xee)
    }
    assert.deepStrictEqual(recorder.events, expected)
  })

  it.prop("ML18: frames of any type, channel and content, cut anywhere, come out as they went in", [
    Arbitrary.array(
      Arbitrary.all([
        Arbitrary.schema(Schema.Literals(["method", "header", "body", "heartbeat"])),
        Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65535 }))),
        bytes(40)
      ])
    ),
    Arbitrary.array(Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 30 }))))
  ], ([frames, cuts]) => {
    const types = { method: 1, header: 2, body: 3 }
    const input = fromHex(
      frames.map(([type, channel, payload]) =>
        type === "heartbeat" ? toHex(heartbeatFrame) : frame(types[type], channel, toHex(payload))
      ).join("")
    )
    const chunks: Array<Uint8Array> = []
    let at = 0
    for (const cut of cuts) chunks.push(input.slice(at, at += cut))
    chunks.push(input.slice(at))
    assert.deepStrictEqual(
      parse(chunks),
      frames.map(([type, channel, payload]) =>
        type === "heartbeat" ? "heartbeat" : `${type} ${channel} ${toHex(payload)}`
      )
    )
  }, options(200))
})

describe("the parser refuses", () => {
  it("ML01: a frame that does not end with CE", () => {
    for (const octet of ["00", "cd", "cf", "ff"]) {
      for (const good of [method, header, body, "08000000000000ce"]) {
        const bad = good.slice(0, -2) + octet
        assert.deepStrictEqual(refused(bad), {
          replyCode: 501,
          detail: `a frame ends with octet ${parseInt(octet, 16)}, not ${frameEnd}`
        })
        // The end may also be all that is in the chunk.
        const parser = new FrameParser(new Recorder(), frameMinSize)
        parser.push(fromHex(bad.slice(0, -2)))
        assert.strictEqual(violation(parser, fromHex(octet)).replyCode, 501)
      }
    }
  })

  it("ML01: without having handed the frame on", () => {
    const recorder = new Recorder()
    violation(new FrameParser(recorder, frameMinSize), fromHex(method + header.slice(0, -2) + "00"))
    assert.deepStrictEqual(recorder.events, ["method 1 0014000a00"])
  })

  it("ML02: a type that does not exist, as soon as the head is there", () => {
    for (const type of [0, 4, 5, 6, 7, 9, 65, 255]) {
      assert.deepStrictEqual(refused(head(type, 0, 0)), {
        replyCode: 501,
        detail: `frame type ${type} does not exist`
      })
    }
  })

  it("another protocol", () => {
    assert.strictEqual(refused(toHex(protocolHeader)).detail, "frame type 65 does not exist")
    assert.strictEqual(refused(toHex(Buffer.from("HTTP/1.1 400 Bad Request"))).detail, "frame type 72 does not exist")
  })

  it("a size beyond the limit, before it allocates or waits for it", () => {
    for (const size of [frameMinSize - 7, 131072, 0x7fff_ffff, 0xffff_ffff]) {
      assert.deepStrictEqual(refused(head(3, 1, size)), {
        replyCode: 501,
        detail: `a frame of type 3 announces ${size} bytes, the limit is ${frameMinSize - frameOverhead}`
      })
    }
    for (const type of [1, 2]) {
      for (const size of [maxUnsplitSize + 1, 0xffff_ffff]) {
        assert.deepStrictEqual(refused(head(type, 1, size)), {
          replyCode: 501,
          detail: `a frame of type ${type} announces ${size} bytes, the limit is ${maxUnsplitSize}`
        })
      }
    }
    assert.strictEqual(
      refused(head(2, 1, 2 * maxUnsplitSize + 1), 2 * maxUnsplitSize).detail,
      `a frame of type 2 announces ${2 * maxUnsplitSize + 1} bytes, the limit is ${2 * maxUnsplitSize}`
    )
  })

  it("nothing that is exactly at the limit", () => {
    const payload = "5a".repeat(frameMinSize - frameOverhead)
    assert.deepStrictEqual(parse([fromHex(frame(3, 1, payload))]), [`body 1 ${payload}`])
    const large = fromHex(frame(2, 1, "00".repeat(maxUnsplitSize)))
    assert.strictEqual(parse([large])[0]?.length, "header 1 ".length + 2 * maxUnsplitSize)
    assert.strictEqual(parse([large.slice(0, 100), large.slice(100)]).length, 1)
  })

  it("a body beyond a limit that was lowered in between", () => {
    const recorder = new Recorder()
    const parser = new FrameParser(recorder, 8192)
    parser.push(fromHex(frame(3, 1, "00".repeat(8184))))
    parser.frameMax = frameMinSize
    assert.strictEqual(violation(parser, fromHex(head(3, 1, frameMinSize - 7))).replyCode, 501)
  })

  it("a heartbeat with a payload or on a channel", () => {
    assert.strictEqual(refused(frame(8, 0, "00")).detail, "a frame of type 8 announces 1 bytes, the limit is 0")
    assert.deepStrictEqual(refused(frame(8, 1, "")), { replyCode: 501, detail: "a heartbeat came on a channel" })
  })

  it("everything after its handler has thrown", () => {
    const parser = new FrameParser({
      ...new Recorder(),
      onMethod: () => {
        throw new RangeError("ours")
      }
    }, frameMinSize)
    assert.instanceOf(thrown(() => parser.push(fromHex(method + body))), RangeError)
    assert.instanceOf(thrown(() => parser.push(fromHex(body))), AmqpConnectionError)
  })

  it.prop("any bytes with a violation, or takes them for frames", [bytes(100)], ([chunk]) => {
    try {
      parse([chunk])
    } catch (error) {
      assert.instanceOf(error, AmqpConnectionError)
    }
  }, options(500))
})

// -----------------------------------------------------------------------------
// writing
// -----------------------------------------------------------------------------

const written = (write: (writer: Writer) => void): Uint8Array => {
  const writer = new Writer()
  write(writer)
  writer.commit()
  return concat(writer.take())
}

/** Type and payload size of each frame. */
const shape = (input: Uint8Array): ReadonlyArray<string> => {
  const view = new DataView(input.buffer, input.byteOffset, input.length)
  const frames: Array<string> = []
  for (let at = 0; at < input.length;) {
    const size = view.getUint32(at + 3)
    assert.strictEqual(view.getUint16(at + 1), 7)
    assert.strictEqual(input[at + 7 + size], 0xce)
    frames.push(`${input[at]}:${size}`)
    at += size + 8
  }
  return frames
}

describe("body frames", () => {
  const room = frameMinSize - 8

  it.each([
    [0, []],
    [1, ["3:1"]],
    [frameMinSize - 9, [`3:${room - 1}`]],
    [frameMinSize - 8, [`3:${room}`]],
    [frameMinSize - 7, [`3:${room}`, "3:1"]],
    [2 * room, [`3:${room}`, `3:${room}`]],
    [2 * room + 1, [`3:${room}`, `3:${room}`, "3:1"]]
  ] as ReadonlyArray<readonly [size: number, frames: ReadonlyArray<string>]>)(
    "PB01: a body of %i bytes is in full frames, none of them empty",
    (size, frames) => {
      const content = Uint8Array.from({ length: size }, (_, i) => i * 7)
      const output = written((w) => writeBodyFrames(w, 7, content, frameMinSize))
      assert.deepStrictEqual(shape(output), frames)
      assert.strictEqual(parse([output]).map((event) => event.slice("body 7 ".length)).join(""), toHex(content))
    }
  )

  it.prop("PB01: any body in any frame size", [
    Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 50_000 })),
    Schema.Int.check(Schema.isBetween({ minimum: frameMinSize, maximum: 20_000 }))
  ], ([size, frameMax]) => {
    const content = new Uint8Array(size).fill(size)
    const frames = shape(written((w) => writeBodyFrames(w, 7, content, frameMax)))
    assert.strictEqual(frames.length, Math.ceil(size / (frameMax - 8)))
    assert.isTrue(frames.slice(0, -1).every((frame) => frame === `3:${frameMax - 8}`))
    assert.notStrictEqual(frames.at(-1), "3:0")
  }, options(100))
})

describe("method and header frames", () => {
  it("are golden", () => {
    assert.strictEqual(
      toHex(written((w) => writeMethodFrame(w, 7, { _tag: "basic.ack", deliveryTag: 5, multiple: true }, 4096))),
      "0100070000000d003c0050000000000000000501ce"
    )
    assert.strictEqual(
      toHex(written((w) => writePublishFrame(w, 7, "ex", "key", true, 4096))),
      "0100070000000e003c00280000026578036b657901ce"
    )
    assert.strictEqual(
      toHex(written((w) => writeHeaderFrame(w, 7, 2 ** 40, { priority: 0 }, 4096))),
      "0200070000000f003c00000000010000000000080000ce"
    )
    assert.strictEqual(toHex(protocolHeader), "414d515000000901")
  })

  it("of a publish are what the method itself would be", () => {
    for (const mandatory of [true, false]) {
      const method = { _tag: "basic.publish", exchange: "é", routingKey: "€", mandatory, immediate: false } as const
      assert.strictEqual(
        toHex(written((w) => writePublishFrame(w, 1, "é", "€", mandatory, 4096))),
        toHex(written((w) => writeMethodFrame(w, 1, method, 4096)))
      )
    }
  })

  it("of raw properties are what the properties themselves would be", () => {
    assert.strictEqual(
      toHex(written((w) => writeRawHeaderFrame(w, 7, 3, fromHex("08000900").subarray(0, 3), 4096))),
      toHex(written((w) => writeHeaderFrame(w, 7, 3, { priority: 9 }, 4096)))
    )
  })

  it("that are larger than frame_max by one byte cannot be sent, and those of exactly its size can", () => {
    const limited = (
      path: string,
      write: (text: string) => (writer: Writer) => void
    ) => {
      const rest = written(write("")).length
      assert.strictEqual(written(write("x".repeat(frameMinSize - rest))).length, frameMinSize)
      const writer = new Writer()
      const error = thrown(() => write("x".repeat(frameMinSize - rest + 1))(writer))
      if (!(error instanceof AmqpEncodeError)) throw error
      assert.strictEqual(error.path, path)
      assert.strictEqual(error.reason, "4097 bytes do not fit into one frame of at most 4096 bytes")
      writer.rollback()
      writer.commit()
      assert.deepStrictEqual(writer.take(), [])
    }
    limited(
      "exchange.unbind",
      (text) => (w) =>
        writeMethodFrame(
          w,
          1,
          { _tag: "exchange.unbind", destination: "", source: "", routingKey: "", noWait: false, arguments: { text } },
          frameMinSize
        )
    )
    limited("properties", (text) => (w) => writeHeaderFrame(w, 1, 0, { headers: { text } }, frameMinSize))
    limited("properties", (text) => (w) => writeRawHeaderFrame(w, 1, 0, Buffer.from(text), frameMinSize))
  })
})

import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import {
  frameOverhead,
  heartbeatFrame,
  writeHeaderFrame,
  writeMethodFrame,
  writePublishFrame
} from "../../src/internal/codec/frames.ts"
import { byReferenceSize, highWater, Lane, poolShare, quantum } from "../../src/internal/engine/lane.ts"
import { Outbox } from "../../src/internal/engine/outbox.ts"
import { bytes, line, pattern, type Sent, SentFrames } from "./peer.ts"

const frameMax = 4096

/** A shell around an outbox: takes one turn at a time, or all. */
class Shell {
  readonly outbox: Outbox
  readonly out = new SentFrames()
  readonly taken: Array<Uint8Array> = []
  private scheduled: Array<() => void> = []
  private readonly lanes = new Map<number, Lane>()

  constructor(max = frameMax) {
    this.outbox = new Outbox(max, { schedule: (run) => void this.scheduled.push(run) })
  }

  turn(): void {
    for (const run of this.scheduled.splice(0)) run()
  }

  lane(channel: number): Lane {
    const lane = this.lanes.get(channel) ?? new Lane(this.outbox, channel)
    this.lanes.set(channel, lane)
    return lane
  }

  /** A small frame that can be told apart. */
  mark(channel: number, text: string): void {
    const lane = this.lane(channel)
    const { writer } = lane
    writeMethodFrame(writer, channel, { _tag: "basic.cancel", consumerTag: text, noWait: false }, frameMax)
    lane.commit(writer)
  }

  publish(channel: number, body: Uint8Array): void {
    const lane = this.lane(channel)
    const { writer } = lane
    writePublishFrame(writer, channel, "", "q", false, frameMax)
    writeHeaderFrame(writer, channel, body.length, {}, frameMax)
    lane.commitContent(writer, body)
  }

  /** One write. */
  take(): ReadonlyArray<Sent> | undefined {
    const chunks = this.outbox.take()
    if (chunks === undefined) return undefined
    for (const chunk of chunks) {
      this.taken.push(chunk)
      this.out.push(chunk)
    }
    this.outbox.written()
    return this.out.frames.splice(0)
  }

  /** Writes until there is nothing left. */
  drain(): ReadonlyArray<Sent> {
    const all: Array<Sent> = []
    for (let sent = this.take(); sent !== undefined; sent = this.take()) all.push(...sent)
    return all
  }

  /** As `drain`, in words; body frames of one content that follow one another as one. */
  words(): ReadonlyArray<string> {
    return words(this.drain())
  }
}

const words = (frames: ReadonlyArray<Sent>): ReadonlyArray<string> => {
  const out: Array<string> = []
  for (const sent of frames) {
    if (sent._tag === "Method" && sent.method._tag === "basic.cancel") {
      out.push(`${sent.channel} ${sent.method.consumerTag}`)
    } else if (sent._tag !== "Body") out.push(line(sent))
    else if (out.at(-1) !== `${sent.channel} body`) out.push(`${sent.channel} body`)
  }
  return out
}

/** Bytes of whole frames of contents. */
const sizeOf = (frames: ReadonlyArray<Sent>): number =>
  frames.reduce((size, sent) => size + (sent._tag === "Body" ? sent.body.length + frameOverhead : 0), 0)

/** The bodies of one channel's contents, which must be complete and in sequence. */
const bodies = (frames: ReadonlyArray<Sent>, channel: number): ReadonlyArray<Uint8Array> => {
  const out: Array<Uint8Array> = []
  let missing = 0
  for (const sent of frames) {
    if (sent._tag === "Heartbeat" || sent.channel !== channel) continue
    if (sent._tag === "Header") {
      missing = sent.size
      out.push(new Uint8Array(sent.size))
    } else if (sent._tag === "Body") {
      assert.isAbove(sent.body.length, 0, "an empty body frame")
      assert.isAtMost(sent.body.length + frameOverhead, frameMax, "a body frame over the limit")
      const body = out.at(-1) ?? assert.fail("a body without a header")
      body.set(sent.body, body.length - missing)
      missing -= sent.body.length
    } else {
      assert.strictEqual(missing, 0, `${sent.method._tag} came inside a content`)
    }
  }
  assert.strictEqual(missing, 0, "the last content is not complete")
  return out
}

/** Whether nothing counts as unwritten. */
const isEmpty = (outbox: Outbox): boolean => outbox.unwritten === 0 && outbox.busy === 0

const kib = 1024

describe("order", () => {
  it("hands out the small frames of all channels together, as they were written", () => {
    const shell = new Shell()
    shell.mark(1, "a")
    shell.mark(2, "b")
    shell.publish(1, bytes("small"))
    shell.mark(1, "c")
    shell.outbox.raw(heartbeatFrame)
    shell.mark(3, "d")
    const chunks = shell.outbox.take() ?? assert.fail("there is something to take")
    assert.lengthOf(chunks, 1)
    for (const chunk of chunks) shell.out.push(chunk)
    assert.deepStrictEqual(words(shell.out.frames), [
      "1 a",
      "2 b",
      "1 basic.publish",
      "1 header 5",
      "1 body",
      "1 c",
      "heartbeat",
      "3 d"
    ])
    assert.isUndefined(shell.outbox.take())
  })

  it("keeps a channel's frames behind its large body, and lets other channels pass (PB19)", () => {
    const shell = new Shell()
    shell.publish(1, pattern(1000 * kib))
    shell.mark(1, "behind")
    shell.mark(2, "beside")
    const first = words(shell.take() ?? [])
    assert.deepStrictEqual(first, ["1 basic.publish", `1 header ${1000 * kib}`, "2 beside", "1 body"])
    shell.mark(1, "far behind")
    shell.mark(2, "between")
    assert.deepStrictEqual(words(shell.take() ?? []), ["2 between", "1 body"])
    assert.deepStrictEqual(shell.words(), ["1 body", "1 behind", "1 far behind"])
  })

  it("takes turns among large bodies, some 256 KiB each", () => {
    const shell = new Shell()
    shell.publish(1, pattern(600 * kib))
    shell.publish(2, pattern(600 * kib))
    const turns: Array<ReadonlyArray<string>> = []
    for (let sent = shell.take(); sent !== undefined; sent = shell.take()) {
      turns.push(words(sent))
      assert.isAtMost(sizeOf(sent), quantum)
    }
    // What is left of both fits into one turn.
    assert.deepStrictEqual(turns.map((turn) => turn.filter((word) => word.endsWith(" body"))), [
      ["1 body"],
      ["2 body"],
      ["1 body"],
      ["2 body"],
      ["1 body", "2 body"]
    ])
  })

  it("keeps the order where a turn ends with the last frame of a body", () => {
    const shell = new Shell(512 * kib)
    shell.publish(1, pattern(300 * kib))
    shell.mark(1, "behind")
    assert.strictEqual(words(shell.take() ?? []).at(-1), "1 body")
    shell.mark(1, "after")
    assert.deepStrictEqual(shell.words(), ["1 behind", "1 after"])
  })

  it("gives a channel a part of the pool, and what it has beyond that its turns", () => {
    const shell = new Shell()
    const count = 40
    for (let i = 0; i < count; i++) shell.publish(1, pattern(15 * kib, i))
    shell.mark(1, "end")
    shell.mark(2, "beside")
    const first = shell.take() ?? []
    const at = words(first).indexOf("2 beside")
    assert.isAbove(at, 0)
    const ahead = first.slice(0, first.findIndex((sent) => sent._tag === "Method" && sent.channel === 2))
    assert.isAtMost(sizeOf(ahead), poolShare + 16 * kib)
    assert.isAtMost(sizeOf(first), poolShare + 16 * kib + quantum + 64 * kib)
    const sent = [...first, ...shell.drain()]
    assert.deepStrictEqual(bodies(sent, 1), Array.from({ length: count }, (_, i) => pattern(15 * kib, i)))
    assert.strictEqual(words(sent).at(-1), "1 end")
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("writes the small frames of many lanes in one turn", () => {
    const shell = new Shell()
    for (let channel = 1; channel <= 100; channel++) {
      shell.publish(channel, pattern(byReferenceSize))
      shell.mark(channel, "end")
    }
    let turns = 0
    for (let sent = shell.take(); sent !== undefined; sent = shell.take()) {
      turns++
      assert.isBelow(sizeOf(sent), 2 * quantum)
    }
    assert.isBelow(turns, 20)
  })

  it("keeps the order where a channel goes from the pool to its lane and back, with large bodies between", () => {
    const shell = new Shell()
    const sizes = [0, 200 * kib, 100, 15 * kib, 15 * kib, 15 * kib, 15 * kib, 15 * kib, 20 * kib, 1, 15 * kib]
    const sent: Array<Sent> = []
    const expected: Array<Uint8Array> = []
    for (let i = 0; i < 200; i++) {
      const body = pattern(sizes[i * 7 % sizes.length] ?? 0, i)
      expected.push(body)
      shell.publish(1, body)
      if (i % 9 === 0) sent.push(...shell.take() ?? [])
      if (i === 100) sent.push(...shell.drain())
    }
    sent.push(...shell.drain())
    assert.deepStrictEqual(bodies(sent, 1), expected)
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("passes over a lane that has nothing to say", () => {
    const shell = new Shell()
    shell.publish(2, pattern(1000 * kib))
    shell.take()
    shell.lane(1).hold()
    for (let i = 0; i < 3; i++) assert.deepStrictEqual(words(shell.take() ?? []), ["2 body"])
    assert.isUndefined(shell.take())
  })
})

describe("bodies", () => {
  const max = frameMax - frameOverhead

  it.each([
    0,
    1,
    max - 1,
    max,
    max + 1,
    2 * max,
    2 * max + 1,
    byReferenceSize - 1,
    byReferenceSize,
    5 * max,
    5 * max + 1,
    256 * kib,
    64 * max,
    64 * max + 1,
    1024 * kib
  ])("PB01 splits %d bytes into full frames and a rest", (size) => {
    const shell = new Shell()
    const body = pattern(size)
    shell.publish(1, body)
    shell.mark(1, "end")
    const sent = shell.drain()
    const lengths = sent.flatMap((frame) => frame._tag === "Body" ? frame.body.length : [])
    assert.lengthOf(lengths, Math.ceil(size / max))
    for (const length of lengths.slice(0, -1)) assert.strictEqual(length, max)
    assert.deepStrictEqual(bodies(sent, 1), [body])
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("copies a small body, and hands a large one out by reference", () => {
    for (const size of [byReferenceSize - 1, byReferenceSize]) {
      const shell = new Shell()
      const body = pattern(size)
      shell.publish(1, body)
      const chunks = shell.outbox.take() ?? []
      assert.strictEqual(chunks.some(({ buffer }) => buffer === body.buffer), size === byReferenceSize)
    }
  })

  it("never writes again to what it handed out", () => {
    const shell = new Shell()
    const before: Array<[taken: Uint8Array, copy: Uint8Array]> = []
    for (let i = 0; i < 200; i++) {
      shell.publish(1 + i % 3, pattern(i * 97 % 5000, i))
      shell.mark(2, `m${i}`)
      if (i % 7 !== 0) continue
      for (const chunk of shell.outbox.take() ?? []) before.push([chunk, chunk.slice()])
      shell.outbox.written()
      if (i % 21 === 0) shell.lane(2).discard()
    }
    assert.isAbove(before.length, 20)
    for (const [taken, copy] of before) assert.deepStrictEqual(taken, copy)
  })
})

describe("hold", () => {
  it("TX05 keeps what follows until release", () => {
    const shell = new Shell()
    shell.mark(1, "commit")
    shell.lane(1).hold()
    shell.mark(1, "a")
    shell.publish(1, bytes("b"))
    shell.mark(2, "other")
    assert.deepStrictEqual(shell.words(), ["1 commit", "2 other"])
    shell.lane(1).release()
    assert.deepStrictEqual(shell.words(), ["1 a", "1 basic.publish", "1 header 1", "1 body"])
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("keeps the order of what is written after release, before the lane had its turn", () => {
    const shell = new Shell()
    shell.lane(1).hold()
    shell.mark(1, "held")
    shell.lane(1).release()
    shell.mark(1, "after")
    shell.publish(1, pattern(20 * kib))
    shell.mark(1, "end")
    assert.deepStrictEqual(shell.words(), [
      "1 held",
      "1 after",
      "1 basic.publish",
      `1 header ${20 * kib}`,
      "1 body",
      "1 end"
    ])
  })

  it("holds behind a large body that is still going out, and large bodies behind it", () => {
    const shell = new Shell()
    const first = pattern(600 * kib, 1)
    const second = pattern(300 * kib, 2)
    shell.publish(1, first)
    shell.mark(1, "commit")
    shell.lane(1).hold()
    shell.publish(1, second)
    shell.mark(1, "end")
    const before = shell.drain()
    assert.deepStrictEqual(words(before), ["1 basic.publish", `1 header ${600 * kib}`, "1 body", "1 commit"])
    shell.lane(1).release()
    const after = shell.drain()
    assert.deepStrictEqual(words(after), ["1 basic.publish", `1 header ${300 * kib}`, "1 body", "1 end"])
    assert.deepStrictEqual([...bodies(before, 1), ...bodies(after, 1)], [first, second])
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("TX05 holds once for each transaction that was asked to end", () => {
    const shell = new Shell()
    shell.mark(1, "commit 1")
    shell.lane(1).hold()
    shell.publish(1, pattern(20 * kib))
    shell.mark(1, "commit 2")
    shell.lane(1).hold()
    shell.mark(1, "end")
    assert.deepStrictEqual(shell.words(), ["1 commit 1"])
    shell.lane(1).release()
    assert.deepStrictEqual(shell.words(), ["1 basic.publish", `1 header ${20 * kib}`, "1 body", "1 commit 2"])
    shell.lane(1).release()
    assert.deepStrictEqual(shell.words(), ["1 end"])
    shell.lane(1).release()
    shell.mark(1, "free")
    assert.deepStrictEqual(shell.words(), ["1 free"])
    assert.isTrue(isEmpty(shell.outbox))
  })
})

describe("discard", () => {
  it("drops a channel's small frames and leaves the others'", () => {
    const shell = new Shell()
    shell.mark(1, "dropped")
    shell.mark(2, "a")
    shell.publish(1, bytes("dropped"))
    shell.outbox.raw(heartbeatFrame)
    shell.publish(2, pattern(9 * kib))
    shell.mark(1, "dropped")
    shell.lane(1).discard()
    shell.mark(1, "close-ok")
    shell.mark(2, "b")
    assert.deepStrictEqual(
      shell.words(),
      ["2 a", "heartbeat", "2 basic.publish", `2 header ${9 * kib}`, "2 body", "1 close-ok", "2 b"]
    )
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("leaves more than one pool of the others' frames whole", () => {
    const shell = new Shell()
    const kept: Array<Uint8Array> = []
    for (let i = 0; i < 60; i++) {
      const body = pattern(4000, i)
      shell.publish(1 + i % 2, body)
      if (i % 2 === 1) kept.push(body)
    }
    shell.lane(1).discard()
    assert.deepStrictEqual(bodies(shell.drain(), 2), kept)
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("drops large bodies that have not begun, with their heads", () => {
    const shell = new Shell()
    shell.publish(1, pattern(600 * kib, 1))
    shell.publish(1, pattern(20 * kib, 2))
    shell.mark(1, "dropped")
    shell.lane(1).discard()
    shell.mark(1, "close-ok")
    assert.deepStrictEqual(shell.words(), ["1 close-ok"])
    assert.isTrue(isEmpty(shell.outbox))
  })

  it.each([1, 2])("completes a content whose head is out, %d turns later", (turns) => {
    const shell = new Shell()
    const body = pattern(900 * kib)
    const sent: Array<Sent> = []
    // Another lane has the first turn: of channel 1 only method and header are out.
    shell.publish(2, pattern(20 * kib))
    shell.publish(1, body)
    shell.publish(1, pattern(20 * kib))
    shell.mark(1, "dropped")
    for (let i = 0; i < turns; i++) sent.push(...shell.take() ?? [])
    shell.lane(1).discard()
    shell.mark(1, "close-ok")
    sent.push(...shell.drain())
    assert.deepStrictEqual(bodies(sent, 1), [body])
    assert.deepStrictEqual(words(sent).filter((word) => word.startsWith("1")).slice(-2), ["1 body", "1 close-ok"])
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("completes a started content behind which the channel was held, and nothing of what was held", () => {
    const shell = new Shell()
    const body = pattern(600 * kib)
    shell.publish(1, body)
    const sent = [...shell.take() ?? []]
    shell.mark(1, "commit")
    shell.lane(1).hold()
    shell.publish(1, pattern(20 * kib))
    shell.mark(1, "held")
    shell.lane(1).discard()
    shell.mark(1, "close-ok")
    sent.push(...shell.drain())
    assert.deepStrictEqual(bodies(sent, 1), [body])
    assert.deepStrictEqual(words(sent).slice(-2), ["1 body", "1 close-ok"])
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("drops what is held, before and after its turn", () => {
    for (const taken of [false, true]) {
      const shell = new Shell()
      shell.lane(1).hold()
      shell.mark(1, "held")
      shell.publish(1, pattern(20 * kib))
      shell.mark(1, "held")
      if (taken) assert.isUndefined(shell.take())
      shell.lane(1).discard()
      shell.mark(1, "close-ok")
      assert.deepStrictEqual(shell.words(), ["1 close-ok"])
      assert.isTrue(isEmpty(shell.outbox))
    }
  })

  it("drops what is held behind a large body that is out", () => {
    const shell = new Shell()
    shell.publish(1, pattern(20 * kib))
    shell.mark(1, "commit")
    shell.lane(1).hold()
    shell.mark(1, "held")
    assert.strictEqual(shell.words().at(-1), "1 commit")
    shell.lane(1).discard()
    shell.mark(1, "close-ok")
    assert.deepStrictEqual(shell.words(), ["1 close-ok"])
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("does not mistake the protocol header for a frame", () => {
    const shell = new Shell()
    shell.outbox.raw(bytes("AMQP\0\0\x09\x01"))
    shell.mark(1, "dropped")
    shell.mark(2, "kept")
    shell.lane(1).discard()
    const chunks = shell.outbox.take() ?? []
    assert.strictEqual(String.fromCharCode(...(chunks[0] ?? []).slice(0, 4)), "AMQP")
    assert.strictEqual(chunks.reduce((size, chunk) => size + chunk.length, 0), 8 + 8 + 4 + 5 + 1)
  })
})

describe("any sequence of operations", () => {
  const channel = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2 }))
  const Operation = Schema.Union([
    Schema.Struct({ name: Schema.tag("mark"), channel }),
    Schema.Struct({ name: Schema.tag("small"), channel }),
    Schema.Struct({ name: Schema.tag("burst"), channel }),
    Schema.Struct({
      name: Schema.tag("large"),
      channel,
      size: Schema.Int.check(Schema.isBetween({ minimum: byReferenceSize, maximum: 300 * kib }))
    }),
    Schema.Struct({ name: Schema.tag("hold"), channel }),
    Schema.Struct({ name: Schema.tag("release"), channel }),
    Schema.Struct({ name: Schema.tag("take") }),
    Schema.Struct({ name: Schema.tag("discard"), channel })
  ])

  it.prop(
    "keeps the order of each channel and completes every content that it starts",
    [Arbitrary.array(Arbitrary.schema(Operation), { minLength: 5, maxLength: 60 })],
    ([operations]) => {
      const shell = new Shell()
      const sent: Array<Sent> = []
      let sequence = 0
      for (const operation of operations) {
        switch (operation.name) {
          case "mark":
            shell.mark(operation.channel, `m${sequence++}`)
            break
          case "small":
            shell.mark(operation.channel, `m${sequence++}`)
            shell.publish(operation.channel, pattern(sequence * 37 % 6000))
            break
          case "burst":
            // More than the pool takes of a channel.
            shell.mark(operation.channel, `m${sequence++}`)
            for (let i = 0; i < 6; i++) shell.publish(operation.channel, pattern(15 * kib, i))
            break
          case "large":
            shell.publish(operation.channel, pattern(operation.size))
            break
          case "hold":
            shell.mark(operation.channel, `h${sequence++}`)
            shell.lane(operation.channel).hold()
            break
          case "release":
            shell.lane(operation.channel).release()
            break
          case "take":
            sent.push(...shell.take() ?? [])
            break
          case "discard":
            shell.lane(operation.channel).discard()
            break
        }
      }
      for (const channel of [1, 2]) {
        sent.push(...shell.drain())
        const holds = operations.filter((operation) => operation.name === "hold" && operation.channel === channel)
        for (const _ of holds) {
          shell.lane(channel).release()
          sent.push(...shell.drain())
        }
      }
      for (const channel of [1, 2]) {
        bodies(sent, channel)
        const marks = sent.flatMap((frame) =>
          frame._tag === "Method" && frame.channel === channel && frame.method._tag === "basic.cancel"
            ? Number(frame.method.consumerTag.slice(1))
            : []
        )
        assert.deepStrictEqual(marks, marks.toSorted((a, b) => a - b))
        if (operations.some(({ name }) => name === "discard")) continue
        const written = operations.filter((operation) =>
          operation.name !== "large" && operation.name !== "release" && operation.name !== "take" &&
          operation.channel === channel
        )
        assert.lengthOf(marks, written.length)
      }
      assert.isUndefined(shell.outbox.take())
      assert.isTrue(isEmpty(shell.outbox))
    },
    { arbitrary: { runs: 500 } }
  )
})

describe("the gate", () => {
  /** A waiter that publishes once when the gate is open, and otherwise waits again. */
  const waiter = (shell: Shell, log: Array<string>, name: string, size: number, channel = 1): () => void => {
    const callback = (): void => {
      log.push(name)
      if (!shell.lane(channel).isOpen) return shell.lane(channel).wait(callback)
      shell.publish(channel, pattern(size))
    }
    return callback
  }

  /** Publishers of one channel, each with one message; they are let in as the gate has it. */
  const flood = (shell: Shell, channel: number, count: number, size: number, log: Array<string> = []): void => {
    for (let i = 0; i < count; i++) shell.lane(channel).wait(waiter(shell, log, `${channel}.${i}`, size, channel))
  }

  it("closes at the high water mark and opens as bytes are written", () => {
    const shell = new Shell()
    assert.isTrue(shell.lane(1).isOpen)
    shell.publish(1, pattern(highWater))
    assert.isFalse(shell.lane(1).isOpen)
    shell.take()
    assert.isTrue(shell.lane(1).isOpen)
  })

  it("counts what is taken as unwritten until it is written", () => {
    const shell = new Shell()
    shell.publish(1, pattern(highWater))
    shell.outbox.take()
    assert.isFalse(shell.lane(1).isOpen)
    shell.outbox.written()
    assert.isTrue(shell.lane(1).isOpen)
  })

  it("releases the waiters of a channel in order, one by one, while it is open", () => {
    const shell = new Shell()
    const log: Array<string> = []
    shell.publish(1, pattern(highWater))
    shell.lane(1).wait(waiter(shell, log, "a", 200 * kib))
    shell.lane(1).wait(waiter(shell, log, "b", highWater))
    shell.lane(1).wait(waiter(shell, log, "c", 0))
    const withdrawn = waiter(shell, log, "d", 0)
    shell.lane(1).wait(withdrawn)
    shell.lane(1).unwait(withdrawn)
    assert.deepStrictEqual(log, [])
    shell.take()
    // The first turn wrote 256 KiB: room for the first, and then for the second, which closes the gate.
    assert.deepStrictEqual(log, ["a", "b"])
    shell.drain()
    assert.deepStrictEqual(log, ["a", "b", "c"])
    assert.isTrue(isEmpty(shell.outbox))
  })

  it("lets a channel add that has nothing unwritten, however much the others have", () => {
    const shell = new Shell()
    flood(shell, 1, 100, quantum)
    shell.publish(3, pattern(64 * highWater))
    assert.isFalse(shell.lane(1).isOpen)
    assert.isTrue(shell.lane(2).isOpen)
    shell.take()
    shell.mark(2, "small")
    assert.strictEqual(words(shell.take() ?? [])[0], "2 small")
    shell.publish(2, pattern(quantum))
    const passed: Array<Sent> = []
    while (!words(passed).includes("2 body")) passed.push(...shell.take() ?? assert.fail("the body never comes"))
    assert.isAtMost(sizeOf(passed), 4 * quantum)
  })

  it("gives a new channel a turn after one of each busy channel, in bytes", () => {
    const shell = new Shell()
    for (let channel = 1; channel <= 8; channel++) flood(shell, channel, 50, channel % 2 === 0 ? quantum : 10 * kib)
    for (let i = 0; i < 10; i++) shell.take()
    flood(shell, 9, 50, quantum)
    const passed: Array<Sent> = []
    for (let i = 0; i < 40; i++) passed.push(...shell.take() ?? [])
    const of = (channel: number) =>
      sizeOf(passed.filter((sent) => sent._tag !== "Heartbeat" && sent.channel === channel)) / quantum
    for (const channel of [2, 4, 6, 8, 9]) {
      assert.isAbove(of(channel), 6)
      assert.isBelow(of(channel), 10)
    }
    for (const channel of [1, 3, 5, 7]) assert.strictEqual(shell.lane(channel).unwritten, 0)
  })

  it("lets the waiters of all channels in by turns", () => {
    const shell = new Shell()
    const log: Array<string> = []
    shell.outbox.setBlocked(true)
    for (const channel of [1, 2, 3]) flood(shell, channel, 3, 100 * kib, log)
    shell.outbox.setBlocked(false)
    shell.outbox.admit()
    assert.deepStrictEqual(log, ["1.0", "2.0", "3.0", "1.1", "2.1", "3.1", "1.2", "2.2", "3.2"])
  })

  it("does not have a few bytes wait because many channels have some", () => {
    const shell = new Shell()
    for (let channel = 1; channel <= 1000; channel++) shell.mark(channel, "ack")
    flood(shell, 1001, 100, 5 * kib)
    assert.isAbove(shell.lane(1001).unwritten, 100 * 5 * kib)
  })

  it.each([1, 10, 1000])("holds a bounded part of what %d channels want to send", (channels) => {
    const shell = new Shell()
    const size = 1000
    for (let channel = 1; channel <= channels; channel++) flood(shell, channel, 20 * highWater / channels / size, size)
    const bound = () => highWater * (2 + Math.log(channels)) + channels * (size + kib)
    assert.isAbove(shell.outbox.unwritten, highWater - 2 * size)
    for (let i = 0; i < 100; i++) {
      assert.isBelow(shell.outbox.unwritten, bound())
      shell.take()
    }
  })

  it("is closed while the connection is blocked, whatever is written", () => {
    const shell = new Shell()
    const log: Array<string> = []
    shell.outbox.setBlocked(true)
    assert.isFalse(shell.lane(1).isOpen)
    shell.lane(1).wait(waiter(shell, log, "a", 1))
    shell.mark(1, "passes")
    assert.deepStrictEqual(shell.words(), ["1 passes"])
    assert.deepStrictEqual(log, [])
    shell.outbox.setBlocked(false)
    shell.outbox.admit()
    assert.deepStrictEqual(log, ["a"])
  })

  it("calls back at once where it is open", () => {
    const log: Array<string> = []
    new Shell().lane(1).wait(() => log.push("a"))
    assert.deepStrictEqual(log, ["a"])
  })

  it("forgets what was discarded, also of what is being written", () => {
    const shell = new Shell()
    for (let i = 0; i < 30; i++) shell.publish(1, pattern(15 * kib))
    shell.publish(1, pattern(600 * kib))
    shell.publish(2, pattern(600 * kib))
    shell.outbox.take()
    for (let i = 0; i < 30; i++) shell.publish(1, pattern(15 * kib))
    shell.lane(1).discard()
    assert.isAbove(shell.lane(1).unwritten, 0)
    shell.outbox.written()
    assert.strictEqual(shell.lane(1).unwritten, 0)
    shell.lane(2).discard()
    while (shell.outbox.take() !== undefined) shell.outbox.written()
    assert.isTrue(isEmpty(shell.outbox))
  })
})

describe("the shell's side", () => {
  const watched = (): { readonly shell: Shell; readonly ready: () => number } => {
    const shell = new Shell()
    let calls = 0
    shell.outbox.onReady(() => calls++)
    return { shell, ready: () => calls }
  }

  it("tells once, at the end of the turn, that there is something to take", () => {
    const { ready, shell } = watched()
    shell.turn()
    assert.strictEqual(ready(), 0)
    shell.mark(1, "a")
    shell.mark(1, "b")
    assert.strictEqual(ready(), 0)
    shell.turn()
    assert.strictEqual(ready(), 1)
    shell.mark(1, "c")
    shell.turn()
    assert.strictEqual(ready(), 1)
  })

  it("tells of what was there before it was asked", () => {
    for (const body of [bytes("small"), pattern(600 * kib)]) {
      const shell = new Shell()
      shell.publish(1, body)
      shell.take()
      if (body.length < kib) shell.mark(1, "more")
      let calls = 0
      shell.outbox.onReady(() => calls++)
      shell.turn()
      assert.strictEqual(calls, 1)
    }
  })

  it("can be asked to be silent", () => {
    const { ready, shell } = watched()
    shell.outbox.offReady()
    shell.mark(1, "a")
    shell.turn()
    assert.strictEqual(ready(), 0)
  })

  it("does not wake for frames that are held", () => {
    const { ready, shell } = watched()
    shell.lane(1).hold()
    shell.mark(1, "held")
    shell.turn()
    shell.take()
    shell.outbox.onReady(() => assert.fail("there is nothing to take"))
    shell.turn()
    assert.isAtMost(ready(), 1)
  })

  it("ends when what was written before is out", () => {
    const { ready, shell } = watched()
    shell.mark(1, "last")
    shell.outbox.end()
    shell.turn()
    assert.strictEqual(ready(), 1)
    assert.deepStrictEqual(shell.words(), ["1 last"])
    assert.isTrue(shell.outbox.isEnded)
    let calls = 0
    shell.outbox.onReady(() => calls++)
    shell.turn()
    assert.strictEqual(calls, 1)
  })

  it("does not send the rest of large bodies to a peer that has gone", () => {
    const shell = new Shell()
    shell.publish(1, pattern(2048 * kib))
    shell.take()
    shell.mark(1, "behind")
    shell.mark(2, "last")
    shell.outbox.end()
    assert.deepStrictEqual(shell.words(), ["2 last"])
    assert.isTrue(isEmpty(shell.outbox))
  })
})

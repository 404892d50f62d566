/**
 * Faults in the stream of one connection, without sockets and time: what passes, what does not, and what both sides are
 * told.
 */
import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import * as AmqpProtocol from "../../../src/AmqpProtocol.ts"
import * as AmqpFaults from "../../../src/testing/AmqpFaults.ts"
import { Arm, type Place } from "../../../src/testing/internal/faults/arm.ts"
import type { Item } from "../../../src/testing/internal/faults/lane.ts"
import { FaultyLink } from "../../../src/testing/internal/faults/link.ts"

const method = (channel: number, value: AmqpProtocol.Method): Uint8Array =>
  Result.getOrThrow(AmqpProtocol.encodeMethod(channel, value))

const deliver = (channel: number, deliveryTag: number, body: string, consumerTag = "tag"): Uint8Array =>
  Result.getOrThrow(AmqpProtocol.encodeContent({
    channel,
    method: {
      _tag: "basic.deliver",
      consumerTag,
      deliveryTag,
      redelivered: false,
      exchange: "",
      routingKey: "q"
    },
    body: new TextEncoder().encode(body)
  }))

const publish = (channel: number, body = "x"): Uint8Array =>
  Result.getOrThrow(AmqpProtocol.encodeContent({
    channel,
    method: { _tag: "basic.publish", exchange: "", routingKey: "q", mandatory: false, immediate: false },
    body: new TextEncoder().encode(body)
  }))

const concat = (parts: ReadonlyArray<Uint8Array>): Uint8Array => Uint8Array.from(parts.flatMap((part) => [...part]))

/** Cuts bytes after so many, again and again. */
const cut = (bytes: Uint8Array, sizes: ReadonlyArray<number>): ReadonlyArray<Uint8Array> => {
  const chunks: Array<Uint8Array> = []
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = Math.max(1, sizes[i % sizes.length] ?? bytes.length)
    chunks.push(bytes.subarray(at, at + size))
    at += size
  }
  return chunks
}

const textOf = (frame: AmqpProtocol.Frame): string => {
  switch (frame._tag) {
    case "Method": {
      const { method } = frame
      const tag = "deliveryTag" in method ? ` ${method.deliveryTag}` : ""
      return `${frame.channel} ${method._tag}${tag}${"multiple" in method && method.multiple ? "+" : ""}`
    }
    case "Body":
      return `${frame.channel} ${new TextDecoder().decode(frame.payload)}`
    case "Header":
      return `${frame.channel} header`
    default:
      return "heartbeat"
  }
}

/** A link whose other ends are arrays. */
const makeLink = (id = 1) => {
  const arms = new Set<Arm>()
  const sent: Record<AmqpFaults.Direction, Array<Item>> = { up: [], down: [] }
  const fired: Array<Place> = []
  const late: Array<() => void> = []
  let resets = 0
  const link = new FaultyLink(id, {
    arms,
    send: (direction, item) => sent[direction].push(item),
    later: (_, run) => late.push(run),
    reset: () => resets++,
    leaveBroker: () => {},
    isTapped: () => false,
    tap: () => {}
  })
  const striker = { onFired: (place: Place) => void fired.push(place), hold: () => {} }
  const bytes = (direction: AmqpFaults.Direction): Uint8Array =>
    concat(sent[direction].flatMap((item) => item._tag === "Bytes" ? item.bytes : []))
  return {
    link,
    sent,
    fired,
    late,
    bytes,
    resets: () => resets,
    arm: (point: AmqpFaults.Point, fault: AmqpFaults.Fault, times = 1) =>
      arms.add(new Arm(point, fault, times, striker)),
    strike: (fault: AmqpFaults.Incident | AmqpFaults.ChannelClose | AmqpFaults.Condition, channel?: number) =>
      link.strike(fault, striker, channel === undefined ? {} : { channel }),
    /** Frames that went on, and forgets them. */
    take: (direction: AmqpFaults.Direction): ReadonlyArray<string> => {
      const all = bytes(direction)
      sent[direction].length = 0
      const frames = all[0] === 0x41 ? all.subarray(8) : all
      return Result.getOrThrow(AmqpProtocol.makeParser().push(frames)).map(textOf)
    }
  }
}

const openOk: AmqpProtocol.Method = { _tag: "connection.open-ok" }

/** A link with an open connection and an open channel 1 that confirms. */
const makeOpen = () => {
  const link = makeLink()
  link.link.up.push(AmqpProtocol.protocolHeader)
  link.link.down.push(method(0, openOk))
  link.link.up.push(method(1, { _tag: "channel.open" }))
  link.link.down.push(method(1, { _tag: "channel.open-ok" }))
  link.link.up.push(method(1, { _tag: "confirm.select", noWait: false }))
  link.link.down.push(method(1, { _tag: "confirm.select-ok" }))
  link.sent.up.length = 0
  link.sent.down.length = 0
  return link
}

const never = (): boolean => false

const traffic = concat([
  AmqpProtocol.heartbeatFrame,
  deliver(1, 1, "one"),
  method(2, { _tag: "queue.purge-ok", messageCount: 3 }),
  deliver(1, 2, ""),
  deliver(2, 3, "three".repeat(50)),
  method(1, { _tag: "basic.ack", deliveryTag: 3, multiple: true }),
  AmqpProtocol.heartbeatFrame
])

describe("without a fault", () => {
  it("the chunks themselves go on, wherever they are cut", () => {
    for (let size = 1; size < 40; size++) {
      const link = makeLink()
      const chunks = cut(traffic, [size])
      for (const chunk of chunks) link.link.down.push(chunk)
      assert.strictEqual(link.sent.down.length, chunks.length)
      link.sent.down.forEach((item, i) => assert.strictEqual(item._tag === "Bytes" ? item.bytes : item, chunks[i]))
    }
  })

  it.prop("a fault that waits changes no byte", [Schema.NonEmptyArray(Schema.Int.check(Schema.isBetween({
    minimum: 1,
    maximum: 90
  })))], ([sizes]) => {
    const link = makeLink()
    link.arm(AmqpFaults.down("basic.deliver", { where: never }), AmqpFaults.drop)
    link.arm(AmqpFaults.bytes("down", 1_000_000), AmqpFaults.reset)
    link.arm(AmqpFaults.confirm({ nth: 50 }), AmqpFaults.confirmLost)
    for (const chunk of cut(traffic, sizes)) link.link.down.push(chunk)
    assert.deepStrictEqual(link.bytes("down"), traffic)
  })

  it.prop("bytes that are no frames pass as they are", [
    Schema.Uint8Array,
    Schema.Int.check(Schema.isBetween({
      minimum: 1,
      maximum: 9
    }))
  ], ([noise, size]) => {
    const link = makeLink()
    link.arm(AmqpFaults.down("basic.deliver", { where: never }), AmqpFaults.drop)
    const bytes = concat([AmqpProtocol.heartbeatFrame, noise])
    for (const chunk of cut(bytes, [size])) link.link.down.push(chunk)
    link.link.down.push(AmqpProtocol.heartbeatFrame)
    const { length } = link.bytes("down")
    // A frame that is not complete is kept back, and nothing else.
    assert.deepStrictEqual(link.bytes("down"), concat([bytes, AmqpProtocol.heartbeatFrame]).subarray(0, length))
  })
})

describe("points", () => {
  it.prop("a method is dropped with its content, wherever chunks are cut", [
    Schema.NonEmptyArray(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 60 })))
  ], ([sizes]) => {
    const link = makeLink()
    link.arm(AmqpFaults.down("basic.deliver", { nth: 2 }), AmqpFaults.drop, 2)
    for (const chunk of cut(traffic, sizes)) link.link.down.push(chunk)
    assert.deepStrictEqual(link.take("down"), [
      "heartbeat",
      "1 basic.deliver 1",
      "1 header",
      "1 one",
      "2 queue.purge-ok",
      "1 basic.ack 3+",
      "heartbeat"
    ])
    assert.deepStrictEqual(link.fired.map(({ channel }) => channel), [1, 2])
  })

  it.prop("before a frame and behind its content are exact places", [
    Schema.NonEmptyArray(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 60 })))
  ], ([sizes]) => {
    for (const isAfter of [false, true]) {
      const link = makeLink()
      const point = AmqpFaults.down("basic.deliver", { channel: 2 })
      link.arm(isAfter ? AmqpFaults.after(point) : point, AmqpFaults.reset)
      for (const chunk of cut(traffic, sizes)) link.link.down.push(chunk)
      const passed = ["heartbeat", "1 basic.deliver 1", "1 header", "1 one", "2 queue.purge-ok", "1 basic.deliver 2"]
      const rest = isAfter ? ["2 basic.deliver 3", "2 header", `2 ${"three".repeat(50)}`] : []
      assert.strictEqual(link.sent.down[link.sent.down.length - 1]?._tag, "Reset")
      assert.deepStrictEqual(link.take("down"), [...passed, "1 header", ...rest])
    }
  })

  it.prop("an offset is between two bytes", [
    Schema.NonEmptyArray(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 60 }))),
    Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 300 }))
  ], ([sizes, offset]) => {
    const link = makeLink()
    link.arm(AmqpFaults.bytes("down", offset), AmqpFaults.dropBytes(7, "down"))
    link.arm(AmqpFaults.down("heartbeat", { where: never }), AmqpFaults.drop)
    for (const chunk of cut(traffic, sizes)) link.link.down.push(chunk)
    assert.deepStrictEqual(link.bytes("down"), concat([traffic.subarray(0, offset), traffic.subarray(offset + 7)]))
  })

  it("belong to the connection that they name", () => {
    const link = makeLink(2)
    link.arm(AmqpFaults.down("heartbeat", { connection: 1 }), AmqpFaults.drop)
    link.arm(AmqpFaults.bytes("down", 3, { connection: 1 }), AmqpFaults.reset)
    link.link.down.push(AmqpProtocol.heartbeatFrame)
    assert.deepStrictEqual(link.take("down"), ["heartbeat"])
    assert.deepStrictEqual(link.fired, [])
  })

  it("a predicate never sees a secret", () => {
    const seen: Array<number> = []
    const link = makeLink()
    link.arm(
      AmqpFaults.up("connection.start-ok", {
        where: ({ response }) => {
          seen.push(response.length)
          return true
        }
      }),
      AmqpFaults.pause(1)
    )
    link.link.up.push(AmqpProtocol.protocolHeader)
    const startOk = method(0, {
      _tag: "connection.start-ok",
      clientProperties: {},
      mechanism: "PLAIN",
      response: new TextEncoder().encode("\0guest\0secret"),
      locale: "en_US"
    })
    link.link.up.push(startOk)
    assert.deepStrictEqual(seen, [0])
    assert.deepStrictEqual(link.bytes("up"), concat([AmqpProtocol.protocolHeader, startOk]))
  })
})

describe("a channel that is closed", () => {
  const close = AmqpFaults.channelClose(406, "PRECONDITION_FAILED - because")

  it("is closed on both sides, and what either sends in between is for nobody", () => {
    const link = makeOpen()
    assert.isTrue(link.strike(close, 1))
    assert.deepStrictEqual(link.take("down"), ["1 channel.close"])
    assert.deepStrictEqual(link.take("up"), ["1 channel.close"])
    assert.deepStrictEqual(link.link.channels, [])
    link.link.up.push(publish(1))
    link.link.down.push(deliver(1, 1, "late"))
    link.link.down.push(method(2, { _tag: "basic.get-empty" }))
    link.link.up.push(method(1, { _tag: "channel.close-ok" }))
    link.link.down.push(method(1, { _tag: "channel.close-ok" }))
    assert.deepStrictEqual(link.take("down"), ["2 basic.get-empty"])
    assert.deepStrictEqual(link.take("up"), [])
    // The number is anybody's again.
    link.link.up.push(method(1, { _tag: "channel.open" }))
    link.link.down.push(method(1, { _tag: "channel.open-ok" }))
    assert.deepStrictEqual(link.take("up"), ["1 channel.open"])
    assert.deepStrictEqual(link.take("down"), ["1 channel.open-ok"])
  })

  it("what the client opens next under its number waits for the broker's answer", () => {
    const link = makeOpen()
    link.strike(close, 1)
    link.take("up")
    link.link.up.push(concat([
      method(1, { _tag: "channel.close-ok" }),
      method(1, { _tag: "channel.open" }),
      publish(1, "next"),
      AmqpProtocol.heartbeatFrame
    ]))
    assert.deepStrictEqual(link.take("up"), ["heartbeat"])
    link.link.down.push(method(1, { _tag: "channel.close-ok" }))
    assert.deepStrictEqual(link.take("up"), ["1 channel.open", "1 basic.publish", "1 header", "1 next"])
  })

  it("at a request the client is told which, and the broker never sees it", () => {
    const link = makeOpen()
    link.arm(AmqpFaults.up("queue.purge"), close)
    link.link.up.push(concat([publish(1), method(1, { _tag: "queue.purge", queue: "q", noWait: false })]))
    assert.deepStrictEqual(link.take("up"), ["1 basic.publish", "1 header", "1 x", "1 channel.close"])
    const [frame] = Result.getOrThrow(AmqpProtocol.makeParser().push(link.bytes("down")))
    assert.deepStrictEqual(frame, {
      _tag: "Method",
      channel: 1,
      method: {
        _tag: "channel.close",
        replyCode: 406,
        replyText: "PRECONDITION_FAILED - because",
        classId: 50,
        methodId: 30
      }
    })
    assert.strictEqual(link.fired[0]?.frame?.name, "queue.purge")
  })

  it("waits for the end of contents in both directions", () => {
    const link = makeOpen()
    const up = publish(1, "a body")
    const down = deliver(1, 1, "another")
    link.link.up.push(up.subarray(0, up.length - 3))
    link.link.down.push(down.subarray(0, down.length - 12))
    link.strike(close, 1)
    link.link.up.push(up.subarray(up.length - 3))
    link.link.down.push(down.subarray(down.length - 12))
    assert.deepStrictEqual(link.take("up"), ["1 basic.publish", "1 header", "1 a body", "1 channel.close"])
    assert.deepStrictEqual(link.take("down"), ["1 basic.deliver 1", "1 header", "1 another", "1 channel.close"])
  })

  it("where both sides close at once each gets its answer", () => {
    const link = makeOpen()
    link.strike(close, 1)
    link.take("down")
    link.take("up")
    const closing: AmqpProtocol.Method = {
      _tag: "channel.close",
      replyCode: 404,
      replyText: "",
      classId: 0,
      methodId: 0
    }
    link.link.up.push(method(1, { ...closing, replyCode: 200 }))
    link.link.down.push(method(1, closing))
    assert.deepStrictEqual(link.take("down"), ["1 channel.close-ok"])
    assert.deepStrictEqual(link.take("up"), ["1 channel.close-ok"])
  })

  it("needs a channel that is open", () => {
    const link = makeOpen()
    assert.isFalse(link.strike(close, 2))
    link.link.up.push(method(1, { _tag: "channel.close", replyCode: 200, replyText: "", classId: 0, methodId: 0 }))
    assert.isFalse(link.strike(close, 1))
  })

  it("one that is refused at its opening was never open for the broker", () => {
    const link = makeOpen()
    link.arm(AmqpFaults.up("channel.open"), close)
    link.link.up.push(method(2, { _tag: "channel.open" }))
    assert.deepStrictEqual(link.take("up"), [])
    assert.deepStrictEqual(link.take("down"), ["2 channel.close"])
    link.link.up.push(method(2, { _tag: "channel.close-ok" }))
    link.link.up.push(method(2, { _tag: "channel.open" }))
    assert.deepStrictEqual(link.take("up"), ["2 channel.open"])
  })
})

describe("a connection that is closed", () => {
  it("is closed on both sides in good order", () => {
    const link = makeOpen()
    link.strike(AmqpFaults.connectionClose(320, "CONNECTION_FORCED - because"))
    assert.deepStrictEqual(link.take("down"), ["0 connection.close"])
    assert.deepStrictEqual(link.take("up"), ["0 connection.close"])
    link.link.up.push(concat([publish(1), method(0, { _tag: "connection.close-ok" })]))
    link.link.down.push(concat([deliver(1, 1, "late"), method(0, { _tag: "connection.close-ok" })]))
    assert.deepStrictEqual(link.sent.up, [])
    assert.deepStrictEqual(link.sent.down, [{ _tag: "End" }])
  })
})

describe("a consumer that is cancelled", () => {
  const consume = (link: ReturnType<typeof makeOpen>, consumerTag: string, queue: string, noAck = false) => {
    link.link.up.push(method(1, {
      _tag: "basic.consume",
      queue,
      consumerTag,
      noLocal: false,
      noAck,
      exclusive: false,
      noWait: false,
      arguments: {}
    }))
    link.link.down.push(method(1, { _tag: "basic.consume-ok", consumerTag: consumerTag || "generated" }))
    link.take("up")
    link.take("down")
  }

  it("is cancelled at the broker, and what still comes goes back", () => {
    const link = makeOpen()
    consume(link, "a", "one")
    consume(link, "b", "two")
    consume(link, "", "three", true)
    assert.isTrue(link.strike(AmqpFaults.consumerCancel({ queue: "one" })))
    assert.isTrue(link.strike(AmqpFaults.consumerCancel({ consumerTag: "generated" })))
    assert.isFalse(link.strike(AmqpFaults.consumerCancel({ queue: "one" })))
    assert.deepStrictEqual(link.take("down"), ["1 basic.cancel", "1 basic.cancel"])
    assert.deepStrictEqual(link.take("up"), ["1 basic.cancel", "1 basic.cancel"])
    link.link.down.push(concat([
      deliver(1, 1, "back", "a"),
      deliver(1, 2, "kept", "b"),
      deliver(1, 3, "gone", "generated")
    ]))
    assert.deepStrictEqual(link.take("down"), ["1 basic.deliver 2", "1 header", "1 kept"])
    assert.deepStrictEqual(link.take("up"), ["1 basic.reject 1"])
    // Its tag is used again.
    consume(link, "a", "one")
    link.link.down.push(deliver(1, 4, "new", "a"))
    assert.deepStrictEqual(link.take("down"), ["1 basic.deliver 4", "1 header", "1 new"])
  })
})

describe("confirms", () => {
  const ack = (deliveryTag: number, multiple: boolean): Uint8Array =>
    method(1, { _tag: "basic.ack", deliveryTag, multiple })

  it("one that is lost is not covered by a later multiple", () => {
    const link = makeOpen()
    link.arm(AmqpFaults.confirm({ nth: 2 }), AmqpFaults.confirmLost)
    for (let i = 0; i < 5; i++) link.link.up.push(publish(1))
    link.link.down.push(ack(3, true))
    link.link.down.push(ack(5, true))
    const expected = ["1 basic.ack 1", "1 basic.ack 3", "1 basic.ack 4", "1 basic.ack 5"]
    assert.deepStrictEqual(link.take("down"), expected)
  })

  it("one that is late comes by itself, one that is turned is a nack", () => {
    const link = makeOpen()
    link.arm(AmqpFaults.confirm(), AmqpFaults.confirmLate("1 second"))
    link.arm(AmqpFaults.confirm(), AmqpFaults.confirmNacked)
    for (let i = 0; i < 3; i++) link.link.up.push(publish(1))
    link.link.down.push(ack(0, true))
    assert.deepStrictEqual(link.take("down"), ["1 basic.nack 2", "1 basic.ack 3"])
    link.late.forEach((run) => run())
    assert.deepStrictEqual(link.take("down"), ["1 basic.ack 1"])
  })

  it("a publish that is dropped moves the numbers of those behind it", () => {
    const link = makeOpen()
    link.arm(AmqpFaults.up("basic.publish", { nth: 2 }), AmqpFaults.drop)
    for (let i = 0; i < 4; i++) link.link.up.push(publish(1))
    link.link.down.push(ack(3, true))
    assert.deepStrictEqual(link.take("down"), ["1 basic.ack 1", "1 basic.ack 3", "1 basic.ack 4"])
  })

  it("a frame of confirms that is dropped loses all that are in it", () => {
    const link = makeOpen()
    link.arm(AmqpFaults.down("basic.ack"), AmqpFaults.drop)
    for (let i = 0; i < 3; i++) link.link.up.push(publish(1))
    link.link.down.push(ack(2, true))
    link.link.down.push(ack(3, true))
    assert.deepStrictEqual(link.take("down"), ["1 basic.ack 3"])
  })

  it.prop("each publish has the fate that was chosen for it, however the broker confirms", [
    Schema.NonEmptyArray(Schema.Literals(["none", "lost", "late", "nacked", "dropped"])),
    Schema.NonEmptyArray(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 7 }))),
    Schema.Boolean
  ], ([fates, steps, isMultiple]) => {
    const link = makeOpen()
    const faults = {
      lost: AmqpFaults.confirmLost,
      late: AmqpFaults.confirmLate(1),
      nacked: AmqpFaults.confirmNacked
    }
    let arrived = 0
    fates.forEach((fate, i) => {
      if (fate === "dropped") link.arm(AmqpFaults.up("basic.publish", { nth: i + 1 }), AmqpFaults.drop)
      else {
        arrived++
        if (fate !== "none") link.arm(AmqpFaults.confirm({ nth: arrived }), faults[fate])
      }
    })
    fates.forEach(() => link.link.up.push(publish(1)))
    for (let at = 0, i = 0; at < arrived; i++) {
      const next = Math.min(arrived, at + (steps[i % steps.length] ?? 1))
      if (isMultiple) link.link.down.push(ack(next, true))
      else for (let tag = next; tag > at; tag--) link.link.down.push(ack(tag, false))
      at = next
    }
    const outcome = new Map<number, string>()
    const settle = (late: boolean): void => {
      for (const text of link.take("down")) {
        const [, name = "", tag = ""] = text.split(" ")
        const isMany = tag.endsWith("+")
        const last = Number.parseInt(tag, 10)
        for (let n = isMany ? 1 : last; n <= last; n++) {
          if (isMany && outcome.has(n)) continue
          assert.isFalse(outcome.has(n), `${n} is settled twice`)
          outcome.set(n, late ? "late" : name === "basic.ack" ? "none" : "nacked")
        }
      }
    }
    settle(false)
    link.late.forEach((run) => run())
    settle(true)
    // Single confirms come in any order, and which is the nth then differs: only their numbers can be compared.
    const expected = fates.map((fate) => fate === "dropped" ? "lost" : fate)
    const actual = fates.map((_, i) => outcome.get(i + 1) ?? "lost")
    if (isMultiple) assert.deepStrictEqual(actual, expected)
    else assert.sameMembers(actual, expected)
  })
})

describe("directions that are dark", () => {
  it("lose what comes, and the connection is reset when they are not any more", () => {
    const link = makeOpen()
    link.strike(AmqpFaults.halfOpen("down"))
    link.link.up.push(publish(1))
    assert.deepStrictEqual(link.take("up"), ["1 basic.publish", "1 header", "1 x"])
    link.link.lift(AmqpFaults.halfOpen("down"))
    assert.strictEqual(link.resets(), 0)
    link.strike(AmqpFaults.halfOpen("down"))
    link.link.down.push(AmqpProtocol.heartbeatFrame)
    assert.deepStrictEqual(link.sent.down, [])
    link.link.lift(AmqpFaults.halfOpen("down"))
    assert.strictEqual(link.resets(), 1)
  })
})

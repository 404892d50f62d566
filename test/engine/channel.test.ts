import { assert, describe, it } from "@effect/vitest"
import { AmqpEncodeError, type ChannelCloseCause } from "../../src/AmqpError.ts"
import type { Publish } from "../../src/AmqpMessage.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import type { Method } from "../../src/internal/codec/spec.ts"
import type { ChannelState } from "../../src/internal/engine/channelState.ts"
import type { PublishOutcome } from "../../src/internal/engine/confirms.ts"
import {
  bodyFrames,
  bytes,
  channelClose,
  concat,
  content,
  declare,
  declareOk,
  deliver,
  frame,
  getOk,
  headerFrame,
  line,
  pattern,
  Peer,
  pull,
  returned
} from "./peer.ts"

const opened = (): { readonly peer: Peer; readonly channel: ChannelState } => {
  const peer = new Peer().open()
  return { peer, channel: peer.channel() }
}

const causeOf = (
  heard: ReadonlyArray<{ readonly _tag: string; readonly cause?: ChannelCloseCause }>
): ChannelCloseCause => {
  assert.lengthOf(heard, 1)
  return heard[0]?.cause
}

/** The connection ended with this violation, and the peer was told. */
const violates = (peer: Peer, replyCode: number): void => {
  const reason = peer.end?.reason
  assert.strictEqual(reason?._tag === "ProtocolViolation" && reason.replyCode, replyCode, reason?.message)
  const close = peer.methods().at(-1)
  assert.strictEqual(close?._tag === "connection.close" && close.replyCode, replyCode)
}

const declareId = [50, 10] as const
const publishId = [60, 40] as const

describe("requests", () => {
  it("CH19 are answered in their order, without waiting for one another", () => {
    const { channel, peer } = opened()
    const heard = Array.from({ length: 100 }, (_, i) => peer.declare(channel, `q${i}`))
    assert.lengthOf(peer.lines(), 100)
    for (let i = 0; i < 100; i += 10) {
      peer.reply(1, ...Array.from({ length: 10 }, (_, j) => declareOk(`q${i + j}`)))
    }
    for (const [i, answer] of heard.entries()) {
      assert.deepStrictEqual(answer, [{
        _tag: "Reply",
        reply: { _tag: "queue.declare-ok", queue: `q${i}`, messageCount: 0, consumerCount: 0 },
        content: undefined
      }])
    }
  })

  it("hear of their reply at the end of the batch", () => {
    const { channel, peer } = opened()
    const first = peer.declare(channel, "a")
    const second = peer.declare(channel, "b")
    let seen = 0
    channel.request(declare("c"), {
      entity: "",
      onReply: () => {
        seen = first.length + second.length
      },
      onFailure: () => assert.fail("it failed")
    })
    peer.receive(frame(1, declareOk("a")), frame(1, declareOk("b")), frame(1, declareOk("c")))
    assert.strictEqual(seen, 2)
  })

  it("CH18 that get another method's reply end the connection with 503", () => {
    const { channel, peer } = opened()
    const heard = peer.declare(channel, "q")
    peer.reply(1, { _tag: "basic.consume-ok", consumerTag: "c" })
    violates(peer, 503)
    assert.strictEqual(causeOf(heard), peer.end)
  })

  it.each(
    [
      declareOk("q"),
      { _tag: "basic.consume-ok", consumerTag: "c" },
      { _tag: "basic.get-empty" },
      { _tag: "tx.commit-ok" },
      { _tag: "tx.rollback-ok" },
      { _tag: "basic.recover-ok" },
      { _tag: "channel.open-ok" },
      { _tag: "channel.close-ok" },
      { _tag: "confirm.select-ok" },
      { _tag: "channel.flow-ok", active: true },
      { _tag: "basic.cancel-ok", consumerTag: "c" }
    ] as const
  )("ML15 $_tag that nobody asked for ends the connection with 503", (method) => {
    const { peer } = opened()
    peer.reply(1, method)
    violates(peer, 503)
  })

  it("ML15 so does get-ok, once its content is there", () => {
    const { peer } = opened()
    peer.receive(content(1, getOk(1), "body"))
    violates(peer, 503)
  })

  it("that cannot be encoded write nothing and wait for nothing", () => {
    const { channel, peer } = opened()
    assert.throws(() => peer.declare(channel, "q".repeat(256)), AmqpEncodeError)
    assert.throws(() => peer.request(channel, { ...declare("q"), arguments: { "x-bad": Number.NaN } }), AmqpEncodeError)
    const heard = peer.declare(channel, "good")
    assert.deepStrictEqual(peer.methods().map((method) => method._tag === "queue.declare" && method.queue), ["good"])
    peer.reply(1, declareOk("good"))
    assert.lengthOf(heard, 1)
  })

  it("CH07 on a closed channel fail with its cause and write nothing", () => {
    const { channel, peer } = opened()
    peer.reply(1, channelClose(406, "late"))
    peer.sent()
    const heard = peer.declare(channel, "q")
    assert.deepStrictEqual(heard, [])
    assert.deepStrictEqual(peer.lines(), [])
    assert.deepStrictEqual(heard, [{ _tag: "Failure", cause: channel.closeCause, own: false }])
  })
})

describe("get", () => {
  const get = { _tag: "basic.get", queue: "q", noAck: false } as const

  it("GE01 GE02 gives its message, or nothing", () => {
    const { channel, peer } = opened()
    const none = peer.request(channel, get)
    const empty = peer.request(channel, get)
    const large = peer.request(channel, get)
    const body = pattern(10_000)
    peer.receive(frame(1, { _tag: "basic.get-empty" }), content(1, getOk(1)), content(1, getOk(2), body))
    assert.strictEqual(none[0]?._tag === "Reply" && none[0].reply._tag, "basic.get-empty")
    assert.lengthOf(empty[0]?._tag === "Reply" && empty[0].content?.content || assert.fail("no content"), 0)
    assert.deepStrictEqual(large[0]?._tag === "Reply" && large[0].content?.content, body)
    assert.strictEqual(channel.unsettledCount, 2)
    assert.strictEqual(channel.ack(1), "Settled")
    assert.strictEqual(channel.ack(1), "AlreadySettled")
  })

  it("GE04 without acknowledgement leaves nothing to settle", () => {
    const { channel, peer } = opened()
    peer.request(channel, { ...get, noAck: true })
    peer.receive(content(1, getOk(1), "x"))
    assert.strictEqual(channel.unsettledCount, 0)
    assert.strictEqual(channel.ack(1), "AlreadySettled")
    assert.deepStrictEqual(peer.lines(), ["1 basic.get"])
  })

  it("keeps each message apart when many come in one batch", () => {
    const { channel, peer } = opened()
    const heard = Array.from({ length: 50 }, () => peer.request(channel, get))
    peer.receive(concat(heard.map((_, i) => content(1, getOk(i + 1), `body ${i}`))))
    for (const [i, [answer]] of heard.entries()) {
      const body = answer?._tag === "Reply" ? answer.content?.content : undefined
      assert.strictEqual(new TextDecoder().decode(body), `body ${i}`)
    }
  })
})

describe("a soft error", () => {
  it("belongs to the request that provoked it; the others learn what closed the channel", () => {
    const { channel, peer } = opened()
    const first = peer.declare(channel, "a")
    const second = peer.declare(channel, "b")
    const third = peer.request(channel, { _tag: "queue.purge", queue: "b", noWait: false }, "b")
    peer.reply(1, declareOk("a"), channelClose(406, "inequivalent arg", ...declareId))
    assert.strictEqual(first[0]?._tag, "Reply")
    const cause = causeOf(second)
    assert.deepStrictEqual(second, [{ _tag: "Failure", cause, own: true }])
    assert.deepStrictEqual(third, [{ _tag: "Failure", cause, own: false }])
    assert.isTrue(cause?._tag === "AmqpPreconditionFailed")
    if (cause?._tag !== "AmqpPreconditionFailed") return
    assert.deepStrictEqual(
      [cause.replyCode, cause.replyText, cause.operation, cause.entity, cause.classId, cause.methodId],
      [406, "inequivalent arg", "queue.declare", "b", 50, 10]
    )
    assert.strictEqual(channel.closeCause, cause)
    assert.isTrue(channel.isClosed)
  })

  it("of something that waits for no reply belongs to no request", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    peer.receive(content(1, deliver("c", 1), "x"))
    pull(consumer)
    channel.ack(1)
    const heard = peer.declare(channel, "q")
    peer.reply(1, channelClose(406, "PRECONDITION_FAILED - unknown delivery tag 1", 60, 80))
    const cause = causeOf(heard)
    assert.deepStrictEqual(heard, [{ _tag: "Failure", cause, own: false }])
    assert.strictEqual(cause?._tag === "AmqpPreconditionFailed" && cause.operation, "basic.ack")
    assert.strictEqual(cause?._tag === "AmqpPreconditionFailed" && cause.entity, "")
  })

  it("without a method, as a late acknowledgement, is the channel's", () => {
    const { channel, peer } = opened()
    const heard = peer.declare(channel, "q")
    peer.reply(1, channelClose(406, "PRECONDITION_FAILED - delivery acknowledgement timed out"))
    const cause = causeOf(heard)
    assert.strictEqual(cause?._tag === "AmqpPreconditionFailed" && cause.operation, "channel")
  })

  it("CH08 leaves the connection and its other channels alone", () => {
    const { channel, peer } = opened()
    const other = peer.channel()
    const heard = peer.declare(other, "q")
    peer.declare(channel, "x")
    peer.reply(1, channelClose(404, "gone", ...declareId))
    peer.reply(2, declareOk("q"))
    assert.strictEqual(heard[0]?._tag, "Reply")
    assert.isUndefined(peer.end)
    assert.isFalse(other.isClosed)
  })

  it("is answered by one close-ok, and by nothing else afterwards", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    peer.receive(content(1, deliver("c", 1), "x"))
    assert.deepStrictEqual(pull(consumer), [[1]])
    peer.declare(channel, "not sent")
    channel.publish({ body: "not sent" }, undefined)
    channel.publish({ body: pattern(100_000) }, undefined)
    peer.reply(1, channelClose(406, "x"))
    assert.strictEqual(channel.ack(1), "Stale")
    assert.strictEqual(channel.settle(1, { _tag: "Nack", requeue: true }), "Stale")
    assert.strictEqual(channel.settleUpTo(undefined, { _tag: "Ack" }), "Stale")
    channel.requeueAll(consumer)
    channel.close()
    // RabbitMQ repeats the close until it is answered, and deliveries may be under way.
    peer.reply(1, channelClose(406, "x"))
    peer.receive(
      content(1, deliver("c", 2), "x"),
      frame(1, declareOk("not sent")),
      frame(1, { _tag: "channel.close-ok" })
    )
    assert.deepStrictEqual(peer.lines(), ["1 channel.close-ok"])
    assert.isUndefined(peer.end)
  })

  it("completes a content that is partly out before close-ok", () => {
    const { channel, peer } = opened()
    const body = pattern(600_000)
    channel.publish({ body }, undefined)
    channel.publish({ body: "not sent" }, undefined)
    peer.writeOnce()
    peer.reply(1, channelClose(404, "no exchange", ...publishId))
    const sent = peer.sent()
    assert.deepStrictEqual(concat(sent.flatMap((sent) => sent._tag === "Body" ? sent.body : [])), body)
    assert.deepStrictEqual(sent.map(line).filter((line) => !line.includes("body")), [
      "1 basic.publish",
      "1 header 600000",
      "1 channel.close-ok"
    ])
  })

  it("calls each onClosed once, later, and afterwards at once", () => {
    const { channel, peer } = opened()
    let calls = 0
    let withdrawn = 0
    const callback = () => withdrawn++
    channel.onClosed(() => calls++)
    channel.onClosed(callback)
    channel.offClosed(callback)
    peer.reply(1, channelClose(406, "x"))
    peer.reply(1, channelClose(406, "x"))
    assert.deepStrictEqual([calls, withdrawn], [1, 0])
    channel.onClosed(() => calls++)
    assert.strictEqual(calls, 2)
  })

  it("ends consumers after what came before", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const waiting = peer.consume(channel, "d")
    const end = pull(waiting)
    peer.receive(content(1, deliver("c", 1), "x"), frame(1, channelClose(404, "deleted")))
    assert.deepStrictEqual(pull(consumer), [[1]])
    assert.deepStrictEqual(pull(consumer), [{ _tag: "ChannelClosed", cause: channel.closeCause }])
    assert.deepStrictEqual(end, [{ _tag: "ChannelClosed", cause: channel.closeCause }])
  })
})

describe("close", () => {
  it("sends one channel.close and waits for close-ok", () => {
    const { channel, peer } = opened()
    const heard = peer.declare(channel, "q")
    let closed = 0
    channel.onClosed(() => closed++)
    channel.close()
    channel.close()
    assert.deepStrictEqual(peer.lines(), ["1 queue.declare", "1 channel.close"])
    assert.deepStrictEqual(heard, [{ _tag: "Failure", cause: undefined, own: false }])
    assert.isTrue(channel.isClosed)
    assert.strictEqual(closed, 0)
    peer.reply(1, declareOk("q"), { _tag: "channel.close-ok" })
    assert.strictEqual(closed, 1)
    assert.deepStrictEqual(peer.lines(), [])
    assert.isUndefined(peer.end)
  })

  it("ignores everything but close and close-ok, in the middle of contents as well", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const body = bytes("body")
    peer.receive(frame(1, deliver("c", 1)), headerFrame(1, body.length))
    channel.close()
    peer.receive(
      bodyFrames(1, body),
      content(1, deliver("c", 2), "x"),
      frame(1, { _tag: "channel.flow", active: false })
    )
    peer.reply(1, { _tag: "basic.cancel", consumerTag: "c", noWait: false }, {
      _tag: "basic.ack",
      deliveryTag: 1,
      multiple: false
    })
    assert.deepStrictEqual(pull(consumer), [{ _tag: "ChannelClosed", cause: undefined }])
    assert.deepStrictEqual(peer.lines(), ["1 channel.close"])
    peer.reply(1, { _tag: "channel.close-ok" })
    assert.isUndefined(peer.end)
  })

  it("CH15 follows a large content that is being written", () => {
    const { channel, peer } = opened()
    channel.publish({ body: pattern(600_000) }, undefined)
    peer.writeOnce()
    channel.close()
    const lines = peer.lines()
    assert.strictEqual(lines.at(-1), "1 channel.close")
    assert.lengthOf(lines.filter((line) => line.startsWith("1 body")), 5)
  })

  it("that crosses the broker's is over with our answer: it has the broker's reason, and waits for nothing more", () => {
    const { channel, peer } = opened()
    const heard = peer.declare(channel, "q")
    let closed = 0
    channel.onClosed(() => closed++)
    channel.close()
    assert.deepStrictEqual(peer.lines(), ["1 queue.declare", "1 channel.close"])
    peer.reply(1, channelClose(406, "x", ...declareId), channelClose(406, "x", ...declareId))
    peer.reply(1, channelClose(406, "x", ...declareId))
    assert.deepStrictEqual(peer.lines(), ["1 channel.close-ok"])
    assert.deepStrictEqual(heard, [{ _tag: "Failure", cause: undefined, own: false }])
    assert.strictEqual(closed, 1)
    assert.deepInclude(channel.closeCause, { _tag: "AmqpPreconditionFailed", operation: "queue.declare" })
    // Where the broker answers ours as well.
    peer.reply(1, { _tag: "channel.close-ok" })
    assert.deepStrictEqual(peer.lines(), [])
    assert.isUndefined(peer.end)
  })

  const crossed = () => {
    const peer = new Peer().open({ channelMax: 1 })
    peer.channel().close()
    assert.deepStrictEqual(peer.lines(), ["1 channel.close"])
    peer.reply(1, channelClose(404, "NOT_FOUND - no exchange 'x' in vhost '/'", 60, 40))
    assert.deepStrictEqual(peer.lines(), ["1 channel.close-ok"])
    return peer
  }

  it("that crossed the broker's gives its number back, and a late close-ok is not the next channel's", () => {
    const peer = crossed()
    const channel = peer.session.openChannel() ?? assert.fail("no number")
    const opening = peer.request(channel, { _tag: "channel.open" })
    peer.reply(1, { _tag: "channel.close-ok" })
    assert.deepStrictEqual(opening, [])
    peer.reply(1, { _tag: "channel.open-ok" })
    assert.lengthOf(opening, 1)
    assert.isFalse(channel.isClosed)
    const before = peer.end
    assert.isUndefined(before)
    // Now nobody can have asked for it.
    peer.reply(1, { _tag: "channel.close-ok" })
    assert.strictEqual(peer.end?.reason._tag, "ProtocolViolation")
  })

  it("before open-ok does not take a late close-ok for its own", () => {
    const peer = crossed()
    const channel = peer.session.openChannel() ?? assert.fail("no number")
    peer.request(channel, { _tag: "channel.open" })
    channel.close()
    peer.reply(1, { _tag: "channel.close-ok" })
    assert.isFalse(channel.isGone)
    assert.isUndefined(peer.session.openChannel())
    peer.reply(1, { _tag: "channel.open-ok" }, { _tag: "channel.close-ok" })
    assert.isTrue(channel.isGone)
    peer.channel()
  })

  it("that nobody answers keeps its number until there is no other; then it is tried", () => {
    const peer = new Peer().open({ channelMax: 2 })
    const [silent, other] = [peer.channel(), peer.channel()]
    let forgotten = 0
    silent.onClosed(() => forgotten++)
    silent.close()
    assert.isUndefined(peer.session.openChannel(), "somebody waits for the answer")
    silent.isAbandoned = true
    assert.isUndefined(peer.session.openChannel(1), "asked for by its number")
    other.close()
    peer.reply(2, { _tag: "channel.close-ok" })
    assert.strictEqual(peer.channel().id, 2)
    peer.sent()
    const next = peer.session.openChannel() ?? assert.fail("no number")
    assert.strictEqual(next.id, 1)
    const opening = peer.request(next, { _tag: "channel.open" })
    peer.reply(1, { _tag: "channel.close-ok" }, { _tag: "channel.open-ok" })
    assert.lengthOf(opening, 1)
    assert.isFalse(next.isClosed)
    assert.strictEqual(forgotten, 1)
    assert.isUndefined(peer.end)
  })

  it("that is answered late gives its number back as ever", () => {
    const peer = new Peer().open({ channelMax: 1 })
    const channel = peer.channel()
    channel.close()
    channel.isAbandoned = true
    peer.reply(1, { _tag: "channel.close-ok" })
    assert.strictEqual(peer.channel().id, 1)
  })

  it("after finish: nothing new is taken, what is under way has its outcome, deliveries can be settled", () => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    channel.confirms.limit = 1
    const consumer = peer.consume(channel, "c")
    const outcome = peer.publish(channel)
    const asked = peer.declare(channel, "q")
    let admitted = 0
    channel.confirms.wait(() => admitted++)
    channel.onFlow(() => {})
    peer.sent()
    channel.finish(undefined)
    assert.isTrue(channel.isClosed)
    peer.turn()
    assert.strictEqual(admitted, 1)
    assert.deepStrictEqual(peer.lines(), [])
    assert.deepStrictEqual(peer.declare(channel, "late"), [])
    peer.receive(content(1, deliver("c", 1), "x"))
    peer.reply(1, { _tag: "basic.ack", deliveryTag: 1, multiple: false }, declareOk("q"))
    assert.deepStrictEqual(outcome, [{ _tag: "Confirmed", count: 1 }])
    assert.lengthOf(asked, 1)
    assert.deepStrictEqual(pull(consumer), [[1]])
    assert.strictEqual(channel.ack(1), "Settled")
    channel.close()
    assert.deepStrictEqual(peer.lines(), ["1 basic.ack", "1 channel.close"])
  })

  it("knows whether what was published without confirms has arrived", () => {
    const { channel, peer } = opened()
    const doubts: Array<boolean> = []
    const look = () => void doubts.push(channel.isInDoubt)
    look()
    peer.declare(channel, "before")
    channel.publish({ body: "x" }, undefined)
    look()
    peer.reply(1, declareOk("before"))
    look()
    peer.declare(channel, "behind")
    look()
    peer.reply(1, declareOk("behind"))
    look()
    assert.deepStrictEqual(doubts, [false, true, true, true, false])
    const confirming = peer.confirming()
    peer.publish(confirming)
    assert.isFalse(confirming.isInDoubt)
  })

  it("that is not out yet when the broker's arrives never goes out", () => {
    for (const before of ["a request", "a large body", "a commit"]) {
      const peer = new Peer().open()
      const channel = peer.transacting()
      if (before === "a request") peer.declare(channel, "q")
      else if (before === "a large body") channel.publish({ body: pattern(600_000) }, undefined)
      else peer.request(channel, { _tag: "tx.commit" })
      if (before !== "a request") peer.writeOnce()
      let closed = 0
      channel.onClosed(() => closed++)
      channel.close()
      peer.reply(1, channelClose(406, "x"))
      assert.deepStrictEqual(peer.lines().filter((line) => line.includes("close")), ["1 channel.close-ok"], before)
      assert.strictEqual(closed, 1)
      peer.reply(1, channelClose(406, "x"))
      assert.deepStrictEqual(peer.lines(), [])
      assert.isUndefined(peer.end)
    }
  })

  it("TX05 waits for the answer to a commit, and then goes out", () => {
    for (const end of ["tx.commit", "tx.rollback"] as const) {
      const peer = new Peer().open()
      const channel = peer.transacting()
      peer.request(channel, { _tag: end })
      channel.close()
      assert.deepStrictEqual(peer.lines(), [`1 ${end}`])
      peer.reply(1, { _tag: `${end}-ok` })
      assert.deepStrictEqual(peer.lines(), ["1 channel.close"])
    }
  })

  it("before open-ok is no different", () => {
    const peer = new Peer().open()
    const channel = peer.session.openChannel() ?? assert.fail("no number")
    const heard = peer.request(channel, { _tag: "channel.open" })
    channel.close()
    assert.deepStrictEqual(peer.lines(), ["1 channel.open", "1 channel.close"])
    peer.reply(1, { _tag: "channel.open-ok" }, { _tag: "channel.close-ok" })
    assert.deepStrictEqual(heard, [{ _tag: "Failure", cause: undefined, own: false }])
    assert.isUndefined(peer.end)
  })
})

describe("numbers", () => {
  it("CH02 are distinct, from 1 to the maximum, and then run out", () => {
    const peer = new Peer().open({ channelMax: 5 })
    const channels = Array.from({ length: 5 }, () => peer.channel())
    assert.deepStrictEqual(channels.map(({ id }) => id), [1, 2, 3, 4, 5])
    assert.isUndefined(peer.session.openChannel())
    channels[2]?.close()
    assert.isUndefined(peer.session.openChannel(), "CH04 the broker has not answered")
    peer.reply(3, { _tag: "channel.close-ok" })
    assert.strictEqual(peer.channel().id, 3)
  })

  it("CH22 rotate: a number is used again last", () => {
    const peer = new Peer().open({ channelMax: 4 })
    const ids: Array<number> = []
    for (let i = 0; i < 9; i++) {
      const { id } = peer.channel()
      ids.push(id)
      peer.reply(id, channelClose(406, "x"))
    }
    assert.deepStrictEqual(ids, [1, 2, 3, 4, 1, 2, 3, 4, 1])
  })

  it("may be asked for, within the limits and while they are free", () => {
    const peer = new Peer().open({ channelMax: 100 })
    assert.strictEqual(peer.channel(7).id, 7)
    assert.isUndefined(peer.session.openChannel(7))
    for (const id of [0, -1, 101, 65536, 1.5, Number.NaN]) assert.isUndefined(peer.session.openChannel(id), `${id}`)
    assert.strictEqual(peer.channel(100).id, 100)
    assert.strictEqual(peer.channel().id, 1)
    assert.deepStrictEqual(peer.lines(), [])
  })

  it("that are opened again wait for the rest of a content that was being written", () => {
    const peer = new Peer().open({ channelMax: 1 })
    const channel = peer.channel()
    channel.publish({ body: pattern(600_000) }, undefined)
    peer.writeOnce()
    peer.reply(1, channelClose(404, "x", ...publishId))
    const again = peer.session.openChannel() ?? assert.fail("no number")
    peer.request(again, { _tag: "channel.open" })
    assert.deepStrictEqual(peer.lines().slice(-3), ["1 body 75744", "1 channel.close-ok", "1 channel.open"])
  })
})

describe("frames for a channel that is not open", () => {
  it("are ignored where it was open once", () => {
    const { channel, peer } = opened()
    peer.consume(channel, "c")
    peer.reply(1, channelClose(406, "x"))
    peer.receive(content(1, deliver("c", 1), "body"), content(1, returned("", "q"), "body"))
    peer.receive(headerFrame(1, 5), bodyFrames(1, bytes("x")))
    peer.reply(1, declareOk("q"), { _tag: "basic.ack", deliveryTag: 1, multiple: true })
    assert.isUndefined(peer.end)
  })

  it.each(
    [
      ["a method", frame(2, declareOk("q"))],
      ["a delivery", content(2, deliver("c", 1), "x")],
      ["a content header", headerFrame(2, 5)],
      ["a body", bodyFrames(2, bytes("x"))],
      ["channel.close", frame(2, channelClose(406, "x"))]
    ] as const
  )("are a violation where it never was: %s", (_, chunk) => {
    const { peer } = opened()
    peer.receive(chunk)
    violates(peer, 504)
  })

  it("are ignored on a number that was opened again, before and after open-ok", () => {
    const { channel, peer } = opened()
    peer.consume(channel, "old")
    peer.reply(1, channelClose(406, "x"))
    peer.receive(content(1, deliver("old", 1), "before"))
    const again = peer.session.openChannel(1) ?? assert.fail("no number")
    const heard = peer.request(again, { _tag: "channel.open" })
    peer.receive(content(1, deliver("old", 2), "opening"))
    peer.reply(1, { _tag: "channel.open-ok" })
    peer.receive(content(1, deliver("old", 3), "after"))
    assert.lengthOf(heard, 1)
    assert.strictEqual(again.unsettledCount, 0)
    const consumer = peer.consume(again, "new")
    peer.receive(content(1, deliver("new", 1), "mine"))
    assert.deepStrictEqual(pull(consumer), [[1]])
    assert.isUndefined(peer.end)
  })

  it("are ignored on a number that was opened again in the middle of an old content", () => {
    const body = pattern(100)
    const old = [
      frame(1, deliver("old", 1)),
      headerFrame(1, body.length),
      bodyFrames(1, body.slice(0, 60)),
      bodyFrames(1, body.slice(60))
    ]
    const whole = concat(old)
    for (let cut = 1; cut < whole.length; cut++) {
      const { peer } = opened()
      peer.reply(1, channelClose(406, "x"))
      peer.receive(whole.slice(0, cut))
      const again = peer.session.openChannel(1) ?? assert.fail("no number")
      peer.request(again, { _tag: "channel.open" })
      peer.receive(whole.slice(cut), frame(1, { _tag: "channel.open-ok" }))
      assert.isUndefined(peer.end, `cut at ${cut}: ${peer.end?.message}`)
      const consumer = peer.consume(again, "new")
      peer.receive(content(1, deliver("new", 1), "mine"))
      assert.deepStrictEqual(pull(consumer), [[1]])
    }
  })

  it("are checked again on that number once open-ok has come", () => {
    const { peer } = opened()
    peer.reply(1, channelClose(406, "x"))
    const again = peer.channel(1)
    peer.consume(again, "c")
    peer.receive(headerFrame(1, 5))
    violates(peer, 505)
  })
})

describe("flow", () => {
  it("is answered, and content waits", () => {
    const { channel, peer } = opened()
    assert.isTrue(channel.isFlowing)
    peer.reply(1, { _tag: "channel.flow", active: false })
    assert.isFalse(channel.isFlowing)
    assert.deepStrictEqual(peer.methods(), [{ _tag: "channel.flow-ok", active: false }])
    let calls = 0
    let withdrawn = 0
    const callback = () => withdrawn++
    channel.onFlow(() => calls++)
    channel.onFlow(callback)
    channel.offFlow(callback)
    peer.reply(1, { _tag: "channel.flow", active: false })
    assert.strictEqual(calls, 0)
    peer.sent()
    peer.declare(channel, "passes")
    assert.deepStrictEqual(peer.lines(), ["1 queue.declare"])
    peer.reply(1, { _tag: "channel.flow", active: true })
    assert.isTrue(channel.isFlowing)
    assert.deepStrictEqual([calls, withdrawn], [1, 0])
    assert.deepStrictEqual(peer.methods(), [{ _tag: "channel.flow-ok", active: true }])
  })

  it.each(["the broker", "us", "the connection"])(
    "lets those who wait look again when the channel is closed by %s",
    (who) => {
      const { channel, peer } = opened()
      peer.reply(1, { _tag: "channel.flow", active: false })
      let calls = 0
      channel.onFlow(() => calls++)
      if (who === "the broker") peer.reply(1, channelClose(406, "x"))
      else if (who === "us") channel.close()
      else peer.session.onSocketEnd(peer.session.lost("EOF"))
      peer.turn()
      assert.strictEqual(calls, 1)
      assert.isTrue(channel.isClosed)
    }
  )

  it.each(["the broker", "us", "the connection"])(
    "lets those who wait at the connection's gate look again when the channel is closed by %s",
    (who) => {
      const { channel, peer } = opened()
      peer.reply(0, { _tag: "connection.blocked", reason: "low on memory" })
      assert.isFalse(channel.isFlowing)
      let calls = 0
      channel.onFlow(() => calls++)
      if (who === "the broker") peer.reply(1, channelClose(406, "x"))
      else if (who === "us") channel.close()
      else peer.session.onSocketEnd(peer.session.lost("EOF"))
      peer.turn()
      assert.strictEqual(calls, 1)
      peer.reply(0, { _tag: "connection.unblocked" })
      assert.strictEqual(calls, 1)
    }
  )

  it("waits for the connection's gate as well, and calls back at once where it is open", () => {
    const { channel, peer } = opened()
    let calls = 0
    channel.onFlow(() => calls++)
    assert.strictEqual(calls, 1)
    peer.reply(0, { _tag: "connection.blocked", reason: "low on memory" })
    channel.onFlow(() => calls++)
    const withdrawn = () => assert.fail("it was withdrawn")
    channel.onFlow(withdrawn)
    channel.offFlow(withdrawn)
    peer.turn()
    assert.strictEqual(calls, 1)
    peer.reply(0, { _tag: "connection.unblocked" })
    assert.strictEqual(calls, 2)
    peer.reply(1, channelClose(406, "x"))
    assert.strictEqual(calls, 2)
  })

  it("our own request is answered by flow-ok", () => {
    const { channel, peer } = opened()
    const heard = peer.request(channel, { _tag: "channel.flow", active: true })
    peer.reply(1, { _tag: "channel.flow-ok", active: true })
    assert.strictEqual(heard[0]?._tag, "Reply")
  })
})

describe("transactions", () => {
  it("TX05 send nothing between commit and its answer", () => {
    const peer = new Peer().open()
    const channel = peer.transacting()
    const other = peer.channel()
    channel.publish({ body: "in" }, undefined)
    peer.request(channel, { _tag: "tx.commit" })
    channel.publish({ body: "next" }, undefined)
    peer.request(channel, { _tag: "tx.commit" })
    peer.declare(channel, "q")
    peer.declare(other, "passes")
    assert.deepStrictEqual(peer.lines(), [
      "1 basic.publish",
      "1 header 2",
      "1 body 2",
      "1 tx.commit",
      "2 queue.declare"
    ])
    peer.reply(1, { _tag: "tx.commit-ok" })
    assert.deepStrictEqual(peer.lines(), ["1 basic.publish", "1 header 4", "1 body 4", "1 tx.commit"])
    peer.reply(1, { _tag: "tx.commit-ok" })
    assert.deepStrictEqual(peer.lines(), ["1 queue.declare"])
  })

  it("CF11 stay transactions when confirms are asked for as well, and the other way round", () => {
    const peer = new Peer().open()
    const transacting = peer.transacting()
    peer.request(transacting, { _tag: "confirm.select", noWait: false })
    assert.strictEqual(transacting.mode, "tx")
    const confirming = peer.confirming()
    peer.request(confirming, { _tag: "tx.select" })
    assert.strictEqual(confirming.mode, "confirm")
  })

  it("collect the messages that came back", () => {
    const peer = new Peer().open()
    const channel = peer.transacting()
    channel.publish({ exchange: "e", routingKey: "none", body: "x", mandatory: true }, undefined)
    peer.receive(content(1, returned("e", "none"), "x"))
    const came = channel.takeReturned()
    assert.deepStrictEqual(came.map(({ replyCode, routingKey }) => [replyCode, routingKey]), [[312, "none"]])
    assert.deepStrictEqual(channel.takeReturned(), [])
  })

  const consuming = (tags: number) => {
    const peer = new Peer().open()
    const channel = peer.transacting()
    const consumer = peer.consume(channel, "c")
    for (let tag = 1; tag <= tags; tag++) peer.receive(content(1, deliver("c", tag), "x"))
    pull(consumer)
    return { peer, channel }
  }

  it("TX01 a rollback makes what was settled in it unsettled again, in the order of the tags", () => {
    const { channel, peer } = consuming(4)
    assert.strictEqual(channel.ack(3), "Settled")
    assert.strictEqual(channel.settleUpTo(2, { _tag: "Ack" }), "Settled")
    assert.strictEqual(channel.unsettledCount, 1)
    peer.request(channel, { _tag: "tx.rollback" })
    assert.strictEqual(channel.ack(3), "AlreadySettled")
    peer.reply(1, { _tag: "tx.rollback-ok" })
    assert.strictEqual(channel.unsettledCount, 4)
    peer.sent()
    assert.strictEqual(channel.settleUpTo(3, { _tag: "Ack" }), "Settled")
    assert.deepStrictEqual(peer.methods(), [{ _tag: "basic.ack", deliveryTag: 3, multiple: true }])
    assert.strictEqual(channel.unsettledCount, 1)
  })

  it("TX01 a commit keeps it settled", () => {
    const { channel, peer } = consuming(2)
    channel.ack(1)
    peer.request(channel, { _tag: "tx.commit" })
    peer.reply(1, { _tag: "tx.commit-ok" })
    channel.ack(2)
    peer.request(channel, { _tag: "tx.rollback" })
    peer.reply(1, { _tag: "tx.rollback-ok" })
    assert.strictEqual(channel.ack(1), "AlreadySettled")
    assert.strictEqual(channel.ack(2), "Settled")
  })

  it("each rollback has its own", () => {
    const { channel, peer } = consuming(2)
    channel.ack(1)
    peer.request(channel, { _tag: "tx.rollback" })
    channel.ack(2)
    peer.request(channel, { _tag: "tx.rollback" })
    peer.reply(1, { _tag: "tx.rollback-ok" })
    assert.strictEqual(channel.unsettledCount, 1)
    peer.reply(1, { _tag: "tx.rollback-ok" })
    assert.strictEqual(channel.unsettledCount, 2)
  })

  it("a recover behind a rollback takes back what the rollback gave back", () => {
    const { channel, peer } = consuming(2)
    channel.ack(1)
    peer.request(channel, { _tag: "tx.rollback" })
    peer.request(channel, { _tag: "basic.recover", requeue: true })
    peer.reply(1, { _tag: "tx.rollback-ok" })
    assert.strictEqual(channel.ack(1), "AlreadySettled")
    peer.reply(1, { _tag: "basic.recover-ok" })
    assert.strictEqual(channel.unsettledCount, 0)
  })
})

describe("recover", () => {
  it("AK11 makes every unsettled delivery the broker's again", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const noAck = peer.consume(channel, "n", true)
    peer.receive(content(1, deliver("c", 1), "taken"))
    pull(consumer)
    peer.receive(content(1, deliver("c", 2), "buffered"), content(1, deliver("n", 3), "settled"))
    peer.request(channel, { _tag: "basic.recover", requeue: true })
    // Sent before the broker heard of it: it takes this one back as well.
    peer.receive(content(1, deliver("c", 4), "on its way"), content(1, deliver("n", 5), "settled"))
    peer.sent()
    for (const tag of [1, 2, 4]) assert.strictEqual(channel.ack(tag), "AlreadySettled")
    assert.strictEqual(channel.settleUpTo(undefined, { _tag: "Ack" }), "AlreadySettled")
    assert.deepStrictEqual(peer.lines(), [])
    peer.receive(frame(1, { _tag: "basic.recover-ok" }), content(1, deliver("c", 6, { redelivered: true }), "taken"))
    assert.deepStrictEqual(pull(consumer), [[6]])
    assert.deepStrictEqual(pull(noAck), [[3, 5]])
    assert.strictEqual(channel.ack(6), "Settled")
  })

  it("takes back what a cancelled consumer has not handed out", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    peer.receive(content(1, deliver("c", 1), "x"))
    channel.endConsumer(consumer)
    peer.request(channel, { _tag: "basic.recover", requeue: true })
    assert.deepStrictEqual(pull(consumer), [{ _tag: "Cancelled" }])
  })

  it("leaves the message of a get before it to the broker, and one behind it to us", () => {
    const { channel, peer } = opened()
    const get = { _tag: "basic.get", queue: "q", noAck: false } as const
    peer.request(channel, get)
    peer.request(channel, { _tag: "basic.recover", requeue: true })
    peer.request(channel, get)
    peer.receive(content(1, getOk(1), "x"), frame(1, { _tag: "basic.recover-ok" }), content(1, getOk(2), "x"))
    assert.strictEqual(channel.ack(1), "AlreadySettled")
    assert.strictEqual(channel.ack(2), "Settled")
  })
})

describe("settling", () => {
  const consuming = (tags: number) => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    for (let tag = 1; tag <= tags; tag++) peer.receive(content(1, deliver("c", tag), "x"))
    pull(consumer)
    return { peer, channel, consumer }
  }

  it("AK05 AK08 AK10 writes what was asked for, once", () => {
    const { channel, peer } = consuming(5)
    assert.strictEqual(channel.ack(2), "Settled")
    assert.strictEqual(channel.settle(1, { _tag: "Nack", requeue: true }), "Settled")
    assert.strictEqual(channel.settle(3, { _tag: "Nack", requeue: false }), "Settled")
    assert.strictEqual(channel.settle(4, { _tag: "Reject", requeue: true }), "Settled")
    assert.strictEqual(channel.settle(5, { _tag: "Reject", requeue: false }), "Settled")
    for (const tag of [1, 2, 3, 4, 5, 6, 0, -1, 1.5]) assert.strictEqual(channel.ack(tag), "AlreadySettled")
    assert.deepStrictEqual(peer.methods(), [
      { _tag: "basic.ack", deliveryTag: 2, multiple: false },
      { _tag: "basic.nack", deliveryTag: 1, multiple: false, requeue: true },
      { _tag: "basic.nack", deliveryTag: 3, multiple: false, requeue: false },
      { _tag: "basic.reject", deliveryTag: 4, requeue: true },
      { _tag: "basic.reject", deliveryTag: 5, requeue: false }
    ])
  })

  it("AK05 AK09 up to a tag covers what is left up to it, and names a tag that is unsettled", () => {
    const { channel, peer } = consuming(6)
    channel.ack(4)
    peer.sent()
    assert.strictEqual(channel.settleUpTo(4, { _tag: "Nack", requeue: true }), "Settled")
    assert.strictEqual(channel.settleUpTo(4, { _tag: "Ack" }), "AlreadySettled")
    assert.strictEqual(channel.ack(1), "AlreadySettled")
    assert.strictEqual(channel.unsettledCount, 2)
    assert.strictEqual(channel.settleUpTo(undefined, { _tag: "Ack" }), "Settled")
    assert.strictEqual(channel.settleUpTo(undefined, { _tag: "Ack" }), "AlreadySettled")
    assert.deepStrictEqual(peer.methods(), [
      { _tag: "basic.nack", deliveryTag: 3, multiple: true, requeue: true },
      { _tag: "basic.ack", deliveryTag: 6, multiple: true }
    ])
  })

  it("a consumer's deliveries leaves those of others alone", () => {
    const { channel, consumer, peer } = consuming(2)
    peer.consume(channel, "other")
    peer.receive(content(1, deliver("other", 3), "x"), content(1, deliver("c", 4), "x"))
    channel.ack(1)
    peer.sent()
    channel.requeueAll(consumer)
    assert.deepStrictEqual(peer.methods(), [
      { _tag: "basic.nack", deliveryTag: 2, multiple: false, requeue: true },
      { _tag: "basic.nack", deliveryTag: 4, multiple: false, requeue: true }
    ])
    assert.strictEqual(channel.ack(3), "Settled")
  })
})

describe("publishing", () => {
  it("writes method, header and body, in one piece", () => {
    const { channel, peer } = opened()
    channel.publish({ exchange: "e", routingKey: "k", body: "héllo", properties: { messageId: "m" } }, undefined)
    channel.publish({ body: new Uint8Array(0) }, undefined)
    const [method, header, body, ...rest] = peer.sent()
    assert.deepStrictEqual(method, {
      _tag: "Method",
      channel: 1,
      method: { _tag: "basic.publish", exchange: "e", routingKey: "k", mandatory: false, immediate: false }
    })
    assert.deepStrictEqual(header, { _tag: "Header", channel: 1, size: 6, properties: { messageId: "m" } })
    assert.deepStrictEqual(body, { _tag: "Body", channel: 1, body: bytes("héllo") })
    assert.deepStrictEqual(rest.map(line), ["1 basic.publish", "1 header 0"])
  })

  it.each(
    [
      ["exchange", { exchange: "e".repeat(256), body: "x" }],
      ["routingKey", { routingKey: "k".repeat(256), body: "x" }],
      ["body", { body: "\ud800" }],
      ["headers.x", { body: "x", properties: { headers: { x: Number.NaN } } }],
      ["priority", { body: "x", properties: { priority: 256 } }],
      ["timestamp", { body: "x", properties: { timestamp: 1_700_000_000_000 } }],
      ["properties", { body: "x", properties: { headers: { x: "x".repeat(200_000) } } }],
      ["clusterId", { body: "x", mandatory: true, properties: { clusterId: "c" } }]
    ] as const
  )("that fails in %s writes nothing and takes no number", (path, message) => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    try {
      peer.publish(channel, message)
      assert.fail("it was published")
    } catch (error) {
      assert.instanceOf(error, AmqpEncodeError)
      assert.strictEqual(error.path, path)
    }
    assert.strictEqual(channel.confirms.latest, 0)
    const heard = peer.publish(channel, { body: "good" })
    assert.deepStrictEqual(peer.lines(), ["1 basic.publish", "1 header 4", "1 body 4"])
    peer.reply(1, { _tag: "basic.ack", deliveryTag: 1, multiple: false })
    assert.deepStrictEqual(heard, [{ _tag: "Confirmed", count: 1 }])
  })

  it("of a body that is neither text nor bytes says what to give instead, and writes nothing", () => {
    const { channel, peer } = opened()
    for (const body of [undefined, null, 5, {}, [1, 2], new ArrayBuffer(3), new Uint16Array(3)]) {
      const message: object = { body }
      // @ts-expect-error - types exclude it
      assert.throws(() => channel.publish(message, undefined), AmqpEncodeError, /body: .* not .*JSON\.stringify/)
    }
    assert.deepStrictEqual(peer.lines(), [])
  })

  it.each(
    [
      [
        { timestamp: 1_700_000_000_000 },
        "timestamp: expected seconds since 1970, not milliseconds: Math.floor(Date.now()"
      ],
      [
        { timestamp: new Date(0) },
        "timestamp: expected seconds as a number or a bigint, not a Date: Math.floor(date.getTi"
      ],
      [{ timestamp: 1.5 }, "timestamp: expected an integer"],
      [{ expiration: 5000 }, "expiration: expected a string, not a number"],
      [
        { headers: { at: new Date(1500) } },
        "headers.at: a timestamp holds whole seconds: drop the rest by date.setMillis"
      ]
    ] as const
  )("whose properties are mistaken (%j) says what to give instead", (properties, text) => {
    const { channel, peer } = opened()
    const message: object = { body: "x", properties }
    // @ts-expect-error - types exclude some of them
    assert.throws(() => channel.publish(message, undefined), AmqpEncodeError, text)
    assert.deepStrictEqual(peer.lines(), [])
  })

  it("may have any timestamp that is a bigint", () => {
    const { channel, peer } = opened()
    channel.publish({ body: "x", properties: { timestamp: 1_700_000_000_000n } }, undefined)
    const [header] = peer.sent().flatMap((sent) => sent._tag === "Header" ? [sent] : [])
    assert.strictEqual(header?.properties.timestamp, 1_700_000_000_000)
  })

  it("mandatory without confirms or a transaction is refused", () => {
    const { channel, peer } = opened()
    assert.throws(() => channel.publish({ body: "x", mandatory: true }, undefined), AmqpEncodeError)
    assert.deepStrictEqual(peer.lines(), [])
  })

  it("is counted from confirm.select on, before its answer", () => {
    const { channel, peer } = opened()
    const select = peer.request(channel, { _tag: "confirm.select", noWait: false })
    const heard = peer.publish(channel)
    peer.reply(1, { _tag: "confirm.select-ok" }, { _tag: "basic.ack", deliveryTag: 1, multiple: false })
    assert.strictEqual(select[0]?._tag, "Reply")
    assert.deepStrictEqual(heard, [{ _tag: "Confirmed", count: 1 }])
  })

  it("takes a number in confirm mode, whether somebody waits or not", () => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    channel.publish({ body: "unwatched" }, undefined)
    const heard = peer.publish(channel)
    peer.reply(1, { _tag: "basic.ack", deliveryTag: 1, multiple: false })
    assert.deepStrictEqual(heard, [])
    peer.reply(1, { _tag: "basic.ack", deliveryTag: 2, multiple: false })
    assert.deepStrictEqual(heard, [{ _tag: "Confirmed", count: 1 }])
  })

  it("CF06 pairs each return with its own publish, among equal ones", () => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    const heard = Array.from({ length: 30 }, () => peer.publish(channel, { body: "same", mandatory: true }))
    const headers = peer.sent().flatMap((sent) => sent._tag === "Header" ? [sent.properties] : [])
    assert.strictEqual(new Set(headers.map(({ clusterId }) => clusterId)).size, 30)
    const unroutable = [3, 7, 8, 29]
    for (const i of unroutable) peer.receive(content(1, returned("", "q"), "same", headers[i]))
    peer.reply(1, { _tag: "basic.ack", deliveryTag: 30, multiple: true })
    for (const [i, outcomes] of heard.entries()) {
      assert.deepStrictEqual(outcomes.map(({ _tag }) => _tag), [unroutable.includes(i) ? "Returned" : "Confirmed"])
    }
    const [outcome] = heard[3] ?? []
    if (outcome?._tag !== "Returned") return assert.fail("it was not returned")
    assert.isUndefined(outcome.message.properties.clusterId)
    assert.strictEqual(outcome.message.text, "same")
  })
})

describe("unconfirmed publishes of a channel that the broker closes", () => {
  const blames = (heard: ReadonlyArray<ReadonlyArray<PublishOutcome>>) =>
    heard.map((one) => one.map((outcome) => outcome._tag === "ChannelClosed" ? outcome.blame : outcome._tag).join())

  /** What each of these publishes hears of a refusal. */
  const refuse = (replyCode: number, replyText: string, messages: ReadonlyArray<Partial<Publish>>) => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    const heard = messages.map((message) => peer.publish(channel, message))
    peer.reply(1, channelClose(replyCode, replyText, ...publishId))
    return { blames: blames(heard), cause: channel.closeCause }
  }

  it("were refused where they went to the exchange that it names", () => {
    const messages = ["good", "nope", "", "nope", "vhost"].map((exchange) => ({ exchange }))
    const { blames, cause } = refuse(404, "NOT_FOUND - no exchange 'nope' in vhost 'vhost'", messages)
    assert.deepStrictEqual(blames, ["none", "own", "none", "own", "none"])
    assert.deepInclude(cause, { _tag: "AmqpNotFound", entity: "nope", operation: "basic.publish" })
  })

  it.each(
    [
      "ACCESS_REFUSED - access to exchange 'e' in vhost '/' refused for user 'u'",
      "ACCESS_REFUSED - cannot publish to internal exchange 'e' in vhost '/'"
    ]
  )("%s", (replyText) => {
    const messages = ["e", "u", "/", "k"].map((exchange) => ({ exchange }))
    assert.deepStrictEqual(refuse(403, replyText, messages).blames, ["own", "none", "none", "none"])
  })

  it("were refused where they went to the default exchange, whose name the broker makes up", () => {
    const replyText = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'"
    assert.deepStrictEqual(refuse(403, replyText, [{ exchange: "e" }, {}, { exchange: "amq.default" }]).blames, [
      "none",
      "own",
      "own"
    ])
  })

  it.each(
    [
      "ACCESS_REFUSED - access to topic 'k' in exchange 'e' in vhost '/' refused for user 'u'",
      "ACCESS_REFUSED - write access to topic 'k' in exchange exchange 'e' in vhost '/' refused for user 'u'"
    ]
  )("%s: others may still go there", (replyText) => {
    const messages = [{ exchange: "e" }, { exchange: "e", routingKey: "k" }, { exchange: "k", routingKey: "k" }, {}]
    const { blames, cause } = refuse(403, replyText, messages)
    assert.deepStrictEqual(blames, ["none", "own", "none", "none"])
    assert.deepInclude(cause, { entity: "e", routingKey: "k" })
    assert.include(cause?.message, `basic.publish to exchange "e", routing key "k" was refused`)
  })

  const cc = (...headers: ReadonlyArray<AmqpTable.InputTable>) =>
    headers.map((headers) => ({ properties: { headers } }))
  const entry = AmqpTable.longString("q")

  it.each(
    [
      [
        "message size 5 is larger than configured max size 4",
        [{ body: "12345" }, { body: "€12" }, { body: "1234" }, { body: new Uint8Array(5) }]
      ],
      [
        "message size 5 is larger than max size 4",
        [{ body: "12345" }, { body: "€12" }, { body: "1234" }, { body: new Uint8Array(5) }]
      ],
      [
        "user_id property set to 'x' but authenticated user was 'y'",
        [{ properties: { userId: "x" } }, { properties: { userId: "x" } }, { properties: { userId: "y" } }, {
          properties: { userId: "x" }
        }]
      ],
      [
        "invalid expiration 'x': no_integer",
        [
          { properties: { expiration: "x" } },
          { properties: { expiration: "x" } },
          // It says what another refusal says.
          { properties: { expiration: "y': user_id property set to 'x'" } },
          { properties: { expiration: "x" } }
        ]
      ],
      [
        "fast reply consumer does not exist",
        [
          { properties: { replyTo: "amq.rabbitmq.reply-to" } },
          { properties: { replyTo: "amq.rabbitmq.reply-to" } },
          { properties: { replyTo: "q" } },
          { properties: { replyTo: "amq.rabbitmq.reply-to" } }
        ]
      ],
      [
        "invalid message: {delivery_mode_unknown,3}",
        [
          { properties: { deliveryMode: 3 } },
          { properties: { deliveryMode: 3 } },
          { properties: { deliveryMode: 33 } },
          {
            properties: { deliveryMode: 3 }
          }
        ]
      ],
      [
        `invalid message: {unacceptable_type_in_header,"CC",longstr}`,
        cc({ CC: "x" }, { CC: entry }, { CC: ["x"], BCC: "x" }, { CC: null })
      ],
      [
        `invalid message: {unacceptable_type_in_header,"BCC",longstr}`,
        cc({ BCC: "x" }, { BCC: entry }, { CC: "x" }, AmqpTable.table([["BCC", entry], ["BCC", AmqpTable.array([])]]))
      ]
    ] as const
  )("%s", (words, [one, two, good, three]) => {
    const { blames } = refuse(406, `PRECONDITION_FAILED - ${words}`, [good, one, {}, two, good, three])
    assert.deepStrictEqual(blames, ["none", "own", "none", "own", "none", "own"])
  })

  it("are told where the words are cut off, unless they would be the same for several", () => {
    const long = (end: string) => ({ properties: { expiration: "9".repeat(240) + end } })
    const replyText = `${`PRECONDITION_FAILED - invalid expiration '${"9".repeat(240)}`.slice(0, 252)}...`
    assert.deepStrictEqual(refuse(406, replyText, [{}, long("a"), { body: "x" }]).blames, ["none", "own", "none"])
    assert.deepStrictEqual(refuse(406, replyText, [{}, long("a"), long("b")]).blames, [
      "possible",
      "possible",
      "possible"
    ])
    const name = "x".repeat(250)
    const missing = `${`NOT_FOUND - no exchange '${name}`.slice(0, 252)}...`
    assert.deepStrictEqual(refuse(404, missing, [{}, { exchange: name }]).blames, ["none", "own"])
  })

  it("may all be meant where it names none and there are several; one is the one", () => {
    for (const count of [1, 2]) {
      const messages = Array.from({ length: count }, () => ({}))
      const { blames, cause } = refuse(406, "PRECONDITION_FAILED - this is new", messages)
      assert.deepStrictEqual(blames, messages.map(() => count === 1 ? "own" : "possible"))
      assert.strictEqual(cause?._tag === "AmqpPreconditionFailed" && cause.routingKey, count === 1 ? "q" : undefined)
    }
  })

  it("are not meant where the broker has answered what came behind them", () => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    const taken = peer.publish(channel)
    const declared = peer.declare(channel, "q")
    peer.reply(1, { _tag: "queue.declare-ok", queue: "q", messageCount: 0, consumerCount: 0 })
    const bad = peer.publish(channel)
    peer.reply(1, channelClose(406, "PRECONDITION_FAILED - this is new", ...publishId))
    assert.deepStrictEqual(blames([taken, bad]), ["none", "own"])
    assert.strictEqual(declared[0]?._tag, "Reply")
  })

  it("are in doubt where another operation closed it", () => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    const heard = peer.publish(channel)
    const declared = peer.declare(channel, "q")
    peer.reply(1, channelClose(406, "inequivalent", ...declareId))
    assert.deepStrictEqual(blames([heard]), ["none"])
    assert.strictEqual(declared[0]?._tag === "Failure" && declared[0].own, true)
  })

  it("are in doubt where we close it, or the connection ends", () => {
    const peer = new Peer().open()
    const first = peer.confirming()
    const second = peer.confirming()
    const heard = [peer.publish(first), peer.publish(second)]
    first.close()
    peer.turn()
    peer.session.onSocketEnd(peer.session.lost("EOF"))
    peer.turn()
    assert.deepStrictEqual(heard, [
      [{ _tag: "ChannelClosed", sequence: 1, cause: undefined, blame: "none" }],
      [{ _tag: "ChannelClosed", sequence: 1, cause: peer.end, blame: "none" }]
    ])
  })

  it.each(
    [
      [541, 0, 0, "possible"],
      [505, ...publishId, "possible"],
      [540, 20, 20, "none"],
      [320, 0, 0, "none"]
    ] as const
  )("may be meant by a connection that ends with %i because of %i.%i: %s", (replyCode, classId, methodId, blame) => {
    const peer = new Peer().open()
    const heard = [peer.publish(peer.confirming())]
    peer.receive(frame(0, { _tag: "connection.close", replyCode, replyText: "", classId, methodId }))
    peer.turn()
    assert.deepStrictEqual(blames(heard), [blame])
  })

  it("in a transaction: the first that is bad in this way is named, the connection of others is not lost", () => {
    const { channel, peer } = opened()
    const failed = peer.request(channel, { _tag: "tx.select" })
    peer.reply(1, { _tag: "tx.select-ok" })
    const publish = (routingKey: string, expiration?: string) =>
      channel.publish({ exchange: "e", routingKey, body: "x", properties: { expiration } }, undefined)
    publish("committed", "x")
    peer.request(channel, { _tag: "tx.commit" })
    peer.reply(1, { _tag: "tx.commit-ok" })
    publish("good")
    publish("bad", "x")
    publish("bad, too", "x")
    peer.reply(1, channelClose(406, "PRECONDITION_FAILED - invalid expiration 'x': no_integer", ...publishId))
    assert.strictEqual(failed[0]?._tag, "Reply")
    assert.deepInclude(channel.closeCause, { entity: "e", routingKey: "bad" })
  })
})

describe("contents from the broker", () => {
  it.each([
    ["a header without its method", headerFrame(1, 5)],
    ["a body without its header", bodyFrames(1, bytes("x"))],
    ["a method inside a content", concat([frame(1, deliver("c", 1)), frame(1, deliver("c", 2))])],
    [
      "another method inside a content",
      concat([
        frame(1, deliver("c", 1)),
        headerFrame(1, 5),
        frame(1, { _tag: "basic.ack", deliveryTag: 1, multiple: false })
      ])
    ],
    [
      "a body behind an empty content",
      concat([frame(1, deliver("c", 1)), headerFrame(1, 0), bodyFrames(1, bytes("x"))])
    ]
  ])("%s is a violation", (_, chunk) => {
    const { channel, peer } = opened()
    peer.consume(channel, "c")
    peer.receive(chunk)
    violates(peer, 505)
  })

  it("a body beyond its size, and a size beyond the limit, are violations", () => {
    for (const [announced, sent] of [[3, 4], [20_000_000, 0]] as const) {
      const { channel, peer } = opened()
      peer.consume(channel, "c")
      peer.receive(frame(1, deliver("c", 1)), headerFrame(1, announced), bodyFrames(1, new Uint8Array(sent)))
      violates(peer, 501)
    }
  })

  it("a header that cannot be decoded is that delivery's problem", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const wrong = headerFrame(1, 1, { headers: { x: "y" } })
    wrong[7 + 14 + 3] = 200
    peer.receive(frame(1, deliver("c", 1)), wrong, bodyFrames(1, bytes("x")), content(1, deliver("c", 2), "good"))
    const pulled: Array<boolean> = []
    consumer.pull((deliveries) => {
      if ("_tag" in deliveries) return
      for (const delivery of deliveries) pulled.push(delivery.decodeError === undefined)
    })
    assert.deepStrictEqual(pulled, [false, true])
    assert.strictEqual(channel.settle(1, { _tag: "Reject", requeue: false }), "Settled")
    assert.isUndefined(peer.end)
  })
})

describe("methods that a server may not send", () => {
  const wrong: ReadonlyArray<Method<AmqpTable.InputTable>> = [
    declare("q"),
    { _tag: "basic.publish", exchange: "", routingKey: "", mandatory: false, immediate: false },
    { _tag: "channel.open" },
    { _tag: "basic.reject", deliveryTag: 1, requeue: true },
    { _tag: "basic.get", queue: "q", noAck: true }
  ]

  it.each(wrong)("ML12 $_tag is 503", (method) => {
    const { peer } = opened()
    peer.reply(1, method)
    violates(peer, 503)
  })

  it("ML14 a channel's methods and contents on channel 0, and a connection's on a channel, are 504", () => {
    const cases = [
      frame(0, declareOk("q")),
      frame(0, deliver("c", 1)),
      content(0, deliver("c", 1), "x"),
      headerFrame(0, 5),
      bodyFrames(0, bytes("x")),
      frame(1, { _tag: "connection.close-ok" }),
      frame(1, { _tag: "connection.blocked", reason: "" })
    ]
    for (const chunk of cases) {
      const { peer } = opened()
      peer.receive(chunk)
      violates(peer, 504)
    }
  })

  it("ML03 and methods that do not exist are 503", () => {
    for (const [channel, classId] of [[0, 10], [1, 60], [1, 30]] as const) {
      const { peer } = opened()
      const unknown = frame(channel, { _tag: "basic.recover-ok" })
      unknown[8] = classId
      unknown[10] = 99
      peer.receive(unknown)
      violates(peer, 503)
    }
  })
})

import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { type AmqpConnectionError, AmqpEncodeError } from "../../src/AmqpError.ts"
import type { Session } from "../../src/internal/engine/session.ts"
import {
  bodyFrames,
  bytes,
  channelClose,
  concat,
  connectionClose,
  content,
  declareOk,
  deliver,
  frame,
  getOk,
  headerFrame,
  heartbeat,
  line,
  pattern,
  Peer,
  pull,
  rawFrame,
  returned,
  TestDelivery
} from "./peer.ts"

const reasonOf = (error: AmqpConnectionError | undefined): string | undefined => error?.reason._tag

/** Every way in which a session ends, and the reason it leaves. */
const ends: ReadonlyArray<{
  readonly name: string
  readonly end: (peer: Peer) => void
  readonly reason: string
  readonly says: ReadonlyArray<string>
}> = [
  {
    name: "the socket",
    end: ({ session }) => session.onSocketEnd(session.lost("EOF")),
    reason: "ConnectionLost",
    says: []
  },
  {
    name: "the broker",
    end: (peer) => peer.reply(0, connectionClose(320, "CONNECTION_FORCED - shutdown")),
    reason: "ConnectionForced",
    says: ["0 connection.close-ok"]
  },
  {
    name: "a violation",
    end: (peer) => peer.receive(rawFrame(4, 0, [])),
    reason: "ProtocolViolation",
    says: ["0 connection.close"]
  },
  { name: "silence", end: ({ session }) => session.onHeartbeatTimeout(), reason: "HeartbeatTimeout", says: [] },
  {
    name: "us",
    end: (peer) => {
      peer.session.close()
      peer.reply(0, { _tag: "connection.close-ok" })
    },
    reason: "ConnectionClosed",
    says: ["0 connection.close"]
  }
]

const secret = (session: Session) => {
  const heard: Array<string> = []
  session.updateSecret(bytes("token"), "renewed", {
    onReply: () => void heard.push("reply"),
    onFailure: (error) => void heard.push(error.reason._tag)
  })
  return heard
}

describe("the end", () => {
  it.each(ends)("by $name reaches everybody who waits, once, and the shell last", ({ end, reason, says }) => {
    const peer = new Peer().open()
    const { session } = peer
    const channel = peer.confirming()
    const other = peer.channel()
    const calls: Array<string> = []
    const waiting = pull(peer.consume(other, "c"))
    const buffered = peer.consume(other, "d")
    peer.receive(content(2, deliver("d", 1), "x"))
    const requests = [peer.declare(channel, "a"), peer.declare(channel, "b"), peer.declare(other, "c")]
    const published = peer.publish(channel)
    channel.confirms.onIdle(() => calls.push("idle"))
    channel.onClosed(() => calls.push("closed 1"))
    other.onClosed(() => calls.push("closed 2"))
    peer.reply(0, { _tag: "connection.blocked", reason: "memory" })
    peer.reply(2, { _tag: "channel.flow", active: false })
    channel.onFlow(() => calls.push("gate 1"))
    other.onFlow(() => calls.push("gate 2"))
    const secrets = secret(session)
    peer.sent()

    end(peer)
    end(peer)
    session.onSocketEnd(session.lost("again"))
    session.close()
    session.onHeartbeatTimeout()
    peer.turn()

    const error = session.error
    assert.strictEqual(reasonOf(error), reason)
    assert.deepStrictEqual(requests, requests.map(() => [{ _tag: "Failure", cause: error, own: false }]))
    assert.deepStrictEqual(published, [{ _tag: "ChannelClosed", sequence: 1, cause: error, blame: "none" }])
    assert.deepStrictEqual(waiting, [{ _tag: "ChannelClosed", cause: error }])
    assert.deepStrictEqual(pull(buffered), [[1]])
    assert.deepStrictEqual(pull(buffered), [{ _tag: "ChannelClosed", cause: error }])
    assert.deepStrictEqual(calls.toSorted(), ["closed 1", "closed 2", "gate 1", "gate 2", "idle"])
    assert.deepStrictEqual(secrets, [reason])
    assert.strictEqual(peer.events.at(-1)?._tag, "End")
    assert.strictEqual(reasonOf(peer.end), reason)
    assert.isTrue(channel.isClosed && other.isClosed)
    assert.isFalse(session.isOpen)
    assert.isTrue(session.outbox.isEnded)
    assert.deepStrictEqual(peer.lines(), says)
  })

  it.each(ends)("by $name leaves nothing that could wait: what is asked afterwards fails with it", ({ end }) => {
    const peer = new Peer().open()
    const { session } = peer
    end(peer)
    peer.sent()
    const secrets = secret(session)
    const channel = session.openChannel() ?? assert.fail("no number")
    const heard = peer.request(channel, { _tag: "channel.open" })
    peer.turn()
    assert.deepStrictEqual(secrets, [reasonOf(session.error)])
    assert.deepStrictEqual(heard, [{ _tag: "Failure", cause: session.error, own: false }])
    assert.deepStrictEqual(peer.lines(), [])
  })

  it("LC06 tells the broker's code and text", () => {
    const peer = new Peer().open()
    peer.reply(0, connectionClose(320, "CONNECTION_FORCED - user 'guest' is deleted"))
    const reason = peer.end?.reason
    assert.deepStrictEqual(
      reason?._tag === "ConnectionForced" && [reason.replyCode, reason.replyText],
      [320, "CONNECTION_FORCED - user 'guest' is deleted"]
    )
  })

  it("ML23 ignores what comes behind connection.close, in the same chunk and later", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const heard = [peer.declare(channel, "a"), peer.declare(channel, "b"), peer.declare(channel, "c")]
    peer.sent()
    const behind = concat([
      frame(1, declareOk("a")),
      content(1, deliver("c", 1), "x"),
      frame(1, channelClose(404, "x")),
      frame(0, connectionClose(541, "again")),
      frame(0, { _tag: "connection.close-ok" }),
      frame(0, { _tag: "connection.blocked", reason: "x" }),
      frame(9, declareOk("never open"))
    ])
    peer.receive(concat([frame(0, connectionClose(320, "bye")), behind]), behind)
    peer.receive(behind)
    peer.receive(rawFrame(77, 0, []))
    assert.deepStrictEqual(peer.lines(), ["0 connection.close-ok"])
    assert.strictEqual(reasonOf(peer.end), "ConnectionForced")
    for (const one of heard) assert.deepStrictEqual(one, [{ _tag: "Failure", cause: peer.end, own: false }])
    assert.deepStrictEqual(peer.events.map(({ _tag }) => _tag), ["Open", "End"])
  })

  it("says close-ok at once, and drops the large bodies that nobody reads", () => {
    const peer = new Peer().open()
    peer.channel().publish({ body: pattern(3_000_000) }, undefined)
    peer.writeOnce()
    peer.reply(0, connectionClose(320, "bye"))
    const lines = peer.lines()
    assert.strictEqual(lines.at(-1), "0 connection.close-ok")
    assert.isBelow(lines.length, 6)
  })
})

describe("close", () => {
  it("LC02 sends one connection.close and ends with the answer", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const heard = peer.declare(channel, "q")
    for (let i = 0; i < 10; i++) peer.session.close()
    assert.deepStrictEqual(peer.methods().at(-1), {
      _tag: "connection.close",
      replyCode: 200,
      replyText: "",
      classId: 0,
      methodId: 0
    })
    assert.isUndefined(peer.end)
    assert.strictEqual(reasonOf(peer.session.error), "ConnectionClosed")
    assert.deepStrictEqual(heard, [{ _tag: "Failure", cause: peer.session.error, own: false }])
    peer.reply(0, { _tag: "connection.close-ok" })
    assert.strictEqual(reasonOf(peer.end), "ConnectionClosed")
    for (let i = 0; i < 10; i++) peer.session.close()
    assert.deepStrictEqual(peer.lines(), [])
  })

  it("discards all but close and close-ok", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const consumer = peer.consume(channel, "c")
    peer.session.close()
    peer.sent()
    peer.receive(
      content(1, deliver("c", 1), "x"),
      frame(1, { _tag: "channel.flow", active: false }),
      frame(1, channelClose(404, "x")),
      frame(5, declareOk("never open")),
      frame(0, { _tag: "connection.blocked", reason: "x" }),
      frame(0, { _tag: "connection.open-ok" }),
      heartbeat
    )
    assert.deepStrictEqual(peer.events.map(({ _tag }) => _tag), ["Open"])
    assert.deepStrictEqual(pull(consumer), [{ _tag: "ChannelClosed", cause: peer.session.error }])
    assert.deepStrictEqual(peer.lines(), [])
    assert.isUndefined(peer.end)
  })

  it("that crosses the broker's answers it, and both are done", () => {
    const peer = new Peer().open()
    peer.session.close()
    peer.reply(0, connectionClose(320, "x"))
    assert.deepStrictEqual(peer.lines(), ["0 connection.close", "0 connection.close-ok"])
    assert.strictEqual(reasonOf(peer.end), "ConnectionClosed")
  })

  it("that waits behind a large body is not sent any more once the broker has closed", () => {
    const peer = new Peer().open()
    peer.channel().publish({ body: pattern(600_000) }, undefined)
    peer.writeOnce()
    peer.session.close()
    peer.reply(0, connectionClose(320, "x"))
    assert.deepStrictEqual(peer.lines().slice(-1), ["0 connection.close-ok"])
    assert.strictEqual(reasonOf(peer.end), "ConnectionClosed")
  })

  it.each(
    [
      ["the socket ends", (peer: Peer) => peer.session.onSocketEnd(peer.session.lost("EOF"))],
      ["ML24 nobody answers", (peer: Peer) => peer.session.onSocketEnd(peer.session.lost("timeout"))],
      ["the peer is silent", (peer: Peer) => peer.session.onHeartbeatTimeout()],
      ["the peer sends garbage", (peer: Peer) => peer.receive(rawFrame(4, 0, []))],
      ["the broker closes", (peer: Peer) => peer.reply(0, connectionClose(541, "x"))]
    ] as const
  )("is what ended it when %s meanwhile", (_, happen) => {
    const peer = new Peer().open()
    peer.session.close()
    happen(peer)
    peer.turn()
    assert.strictEqual(reasonOf(peer.end), "ConnectionClosed")
    assert.strictEqual(peer.session.error, peer.end)
  })

  it("writes no heartbeat and no second close afterwards", () => {
    const peer = new Peer().open()
    peer.session.close()
    peer.sent()
    for (let i = 0; i < 3; i++) assert.isFalse(peer.session.tick())
    assert.deepStrictEqual(peer.lines(), [])
  })
})

describe("a violation", () => {
  it.each(
    [
      ["a wrong frame end", rawFrame(1, 0, [0, 10, 0, 61], 0), 501],
      ["a body frame over frame_max", new Uint8Array([3, 0, 1, 0, 2, 0, 0, 0]), 501],
      ["a method of 2 MiB", new Uint8Array([1, 0, 1, 0, 0x20, 0, 0, 0]), 501],
      ["a heartbeat on a channel", rawFrame(8, 1, []), 501],
      ["a heartbeat with a payload", rawFrame(8, 0, [1]), 501],
      ["a method with too few fields", rawFrame(1, 1, [0, 50, 0, 11, 1]), 502],
      ["a method with too many fields", rawFrame(1, 1, [0, 20, 0, 41, 0]), 502],
      ["a delivery with too few fields", rawFrame(1, 1, [0, 60, 0, 60, 1, 99]), 502],
      ["a delivery with too many fields", rawFrame(1, 1, [0, 60, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7]), 502],
      [
        "a delivery tag beyond 2^53",
        rawFrame(1, 1, [0, 60, 0, 60, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0]),
        502
      ],
      ["half a class id", rawFrame(1, 1, [0]), 502]
    ] as const
  )("%s is told the peer by its code, once, and ends everything", (_, chunk, replyCode) => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const heard = peer.declare(channel, "q")
    peer.sent()
    peer.receive(chunk, chunk)
    peer.receive(chunk)
    const [close, ...rest] = peer.methods()
    assert.strictEqual(close?._tag === "connection.close" && close.replyCode, replyCode)
    assert.deepStrictEqual(rest, [])
    const reason = peer.end?.reason
    assert.strictEqual(reason?._tag === "ProtocolViolation" && reason.replyCode, replyCode)
    assert.deepStrictEqual(heard, [{ _tag: "Failure", cause: peer.end, own: false }])
  })

  it("after good frames of the same batch does not take them back", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const first = peer.declare(channel, "a")
    const second = peer.declare(channel, "b")
    peer.receive(concat([frame(1, declareOk("a")), rawFrame(4, 0, [])]))
    assert.strictEqual(first[0]?._tag, "Reply")
    assert.strictEqual(second[0]?._tag, "Failure")
  })
})

describe("callbacks", () => {
  it("run at the end of a batch, in the order of what caused them", () => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    const log: Array<string> = []
    const publish = (name: string) =>
      channel.publish({ routingKey: "q", body: name }, {
        messageOf: () => undefined,
        onOutcome: ({ _tag }) => void log.push(`${name} ${_tag}`)
      })
    publish("a")
    channel.request({ _tag: "basic.qos", prefetchSize: 0, prefetchCount: 1, global: false }, {
      entity: "",
      onReply: () => void log.push("qos"),
      onFailure: () => assert.fail("qos")
    })
    publish("b")
    publish("c")
    const consumer = peer.consumer(channel, "d")
    consumer.pull(() => void log.push("delivered"))
    const { session } = peer
    session.receive([
      frame(1, { _tag: "basic.ack", deliveryTag: 1, multiple: false }),
      concat([frame(1, { _tag: "basic.qos-ok" }), content(1, deliver("d", 1), "x")]),
      frame(1, { _tag: "basic.nack", deliveryTag: 3, multiple: true, requeue: false })
    ])
    assert.deepStrictEqual(log, ["a Confirmed", "qos", "delivered", "b Nacked", "c Nacked"])
  })

  it("may publish, request, settle and close", () => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    const other = peer.channel()
    const consumer = peer.consume(channel, "c")
    const inner: Array<string> = []
    consumer.pull((pulled) => {
      if ("_tag" in pulled) return assert.fail("it ended")
      for (const { deliveryTag } of pulled) inner.push(channel.ack(deliveryTag))
      channel.publish({ routingKey: "r", body: "reply" }, {
        messageOf: () => undefined,
        onOutcome: ({ _tag }) => {
          inner.push(_tag)
          other.close()
          peer.session.close()
        }
      })
    })
    peer.receive(content(1, deliver("c", 1), "x"), content(1, deliver("c", 2), "x"))
    // Both acknowledgements are one.
    assert.deepStrictEqual(peer.lines(), ["1 basic.ack", "1 basic.publish", "1 header 5", "1 body 5"])
    peer.receive(
      frame(1, { _tag: "basic.ack", deliveryTag: 1, multiple: false }),
      frame(0, { _tag: "connection.unblocked" })
    )
    assert.deepStrictEqual(inner, ["Settled", "Settled", "Confirmed"])
    assert.deepStrictEqual(peer.lines(), ["2 channel.close", "0 connection.close"])
  })

  it("may end the session in the middle of the others", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const log: Array<string> = []
    channel.request({ _tag: "basic.qos", prefetchSize: 0, prefetchCount: 1, global: false }, {
      entity: "",
      onReply: () => {
        log.push("qos")
        peer.session.onSocketEnd(peer.session.lost("EOF"))
        log.push("ended")
      },
      onFailure: () => assert.fail("qos")
    })
    const replied = peer.declare(channel, "a")
    const pending = peer.declare(channel, "b")
    peer.reply(1, { _tag: "basic.qos-ok" }, declareOk("a"))
    assert.deepStrictEqual(log, ["qos", "ended"])
    assert.strictEqual(replied[0]?._tag, "Reply")
    assert.deepStrictEqual(pending, [{ _tag: "Failure", cause: peer.end, own: false }])
  })

  it("that are caused outside a batch run at the end of the turn", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const heard = peer.declare(channel, "q")
    channel.close()
    assert.deepStrictEqual(heard, [])
    peer.turn()
    assert.lengthOf(heard, 1)
  })

  it("may cause others, which run as well", () => {
    const peer = new Peer().open()
    const log: Array<number> = []
    const nest = (depth: number): void => {
      log.push(depth)
      if (depth < 5) peer.session.later(() => nest(depth + 1))
    }
    peer.session.later(() => nest(0))
    peer.turn()
    assert.deepStrictEqual(log, [0, 1, 2, 3, 4, 5])
    const channel = peer.channel()
    channel.onClosed(() => nest(4))
    peer.reply(1, channelClose(406, "x"))
    assert.deepStrictEqual(log.slice(6), [4, 5])
  })
})

describe("blocked", () => {
  const publishWhenOpen = (peer: Peer, log: Array<string>) => {
    const channel = peer.channel()
    const attempt = (): void => {
      if (!channel.isFlowing) return channel.onFlow(attempt)
      log.push("published")
    }
    attempt()
  }

  it("BL01 BL07 tells the shell, and opens the gate again", () => {
    const peer = new Peer().open()
    const log: Array<string> = []
    peer.reply(0, { _tag: "connection.blocked", reason: "low on memory" })
    publishWhenOpen(peer, log)
    assert.isTrue(peer.session.outbox.isBlocked)
    assert.deepStrictEqual(log, [])
    peer.reply(0, { _tag: "connection.unblocked" })
    assert.deepStrictEqual(log, ["published"])
    assert.deepStrictEqual(peer.events.slice(1), [{ _tag: "Blocked", reason: "low on memory" }, { _tag: "Unblocked" }])
  })

  it("keeps the last word of a batch", () => {
    const peer = new Peer().open()
    const log: Array<string> = []
    peer.reply(0, { _tag: "connection.blocked", reason: "a" })
    publishWhenOpen(peer, log)
    peer.reply(0, { _tag: "connection.unblocked" }, { _tag: "connection.blocked", reason: "b" })
    assert.isTrue(peer.session.outbox.isBlocked)
    assert.deepStrictEqual(log, [])
    peer.reply(0, { _tag: "connection.unblocked" })
    assert.deepStrictEqual(log, ["published"])
    assert.deepStrictEqual(peer.events.map(({ _tag }) => _tag), [
      "Open",
      "Blocked",
      "Unblocked",
      "Blocked",
      "Unblocked"
    ])
  })

  it("lets everything but content pass", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const consumer = peer.consume(channel, "c")
    peer.receive(content(1, deliver("c", 1), "x"))
    pull(consumer)
    peer.reply(0, { _tag: "connection.blocked", reason: "x" })
    channel.ack(1)
    peer.declare(channel, "q")
    channel.close()
    assert.deepStrictEqual(peer.lines(), ["1 basic.ack", "1 queue.declare", "1 channel.close"])
  })
})

describe("update-secret", () => {
  it("LC01 is answered in order", () => {
    const peer = new Peer().open()
    const first = secret(peer.session)
    const second = secret(peer.session)
    assert.deepStrictEqual(peer.methods()[0], {
      _tag: "connection.update-secret",
      newSecret: bytes("token"),
      reason: "renewed"
    })
    peer.reply(0, { _tag: "connection.update-secret-ok" })
    assert.deepStrictEqual([first, second], [["reply"], []])
    peer.reply(0, { _tag: "connection.update-secret-ok" })
    assert.deepStrictEqual([first, second], [["reply"], ["reply"]])
  })

  it("that is refused ends the connection", () => {
    const peer = new Peer().open()
    const heard = secret(peer.session)
    peer.reply(0, connectionClose(530, "NOT_ALLOWED - refused"))
    assert.deepStrictEqual(heard, ["NotAllowed"])
  })

  it("that cannot be encoded writes nothing and waits for nothing", () => {
    const peer = new Peer().open()
    const waiter = { onReply: () => assert.fail("reply"), onFailure: () => assert.fail("failure") }
    assert.throws(() => peer.session.updateSecret(bytes("x"), "r".repeat(256), waiter), AmqpEncodeError)
    peer.reply(0, { _tag: "connection.update-secret-ok" })
    assert.deepStrictEqual(peer.lines(), [])
  })

  it("ML25 answers that nobody waits for change nothing", () => {
    const peer = new Peer().open()
    peer.reply(0, { _tag: "connection.update-secret-ok" })
    assert.isTrue(peer.session.isOpen)
    assert.deepStrictEqual(secret(peer.session), [])
  })
})

describe("reading pauses", () => {
  /** One delivery more than a consumer holds. */
  const flood = (consumerTag: string): Uint8Array =>
    concat(Array.from({ length: 4097 }, (_, i) => content(1, deliver(consumerTag, i + 1), "x")))

  /** A consumer with more than it can hold, and how often reading was resumed. */
  const overfull = () => {
    const peer = new Peer().open()
    const channel = peer.confirming()
    const consumer = peer.consume(channel, "c", true)
    peer.receive(flood("c"))
    let resumed = 0
    assert.isTrue(peer.session.isPaused)
    peer.session.onResume(() => resumed++)
    peer.turn()
    assert.strictEqual(resumed, 0)
    return { peer, channel, consumer, resumed: () => (peer.turn(), resumed) }
  }

  it("for a consumer that holds more than 4096 deliveries, until they are pulled", () => {
    const { consumer, peer, resumed } = overfull()
    pull(consumer)
    assert.isFalse(peer.session.isPaused)
    assert.strictEqual(resumed(), 1)
    assert.strictEqual(resumed(), 1)
  })

  it("not while somebody waits for a reply", () => {
    const { channel, peer, resumed } = overfull()
    const heard = peer.declare(channel, "q")
    assert.isFalse(peer.session.isPaused)
    assert.strictEqual(resumed(), 1)
    peer.reply(1, declareOk("q"))
    assert.lengthOf(heard, 1)
    assert.isTrue(peer.session.isPaused)
  })

  it("not while somebody waits for a confirm, however it comes", () => {
    const answers = [
      frame(1, { _tag: "basic.ack", deliveryTag: 1, multiple: false }),
      frame(1, { _tag: "basic.nack", deliveryTag: 0, multiple: true, requeue: false })
    ]
    for (const answer of answers) {
      const { channel, peer, resumed } = overfull()
      peer.publish(channel)
      assert.isFalse(peer.session.isPaused)
      assert.strictEqual(resumed(), 1)
      peer.receive(answer)
      assert.isTrue(peer.session.isPaused)
    }
  })

  it("not while somebody waits for a new secret", () => {
    const { peer, resumed } = overfull()
    secret(peer.session)
    assert.isFalse(peer.session.isPaused)
    assert.strictEqual(resumed(), 1)
    peer.reply(0, { _tag: "connection.update-secret-ok" })
    assert.isTrue(peer.session.isPaused)
  })

  it("not for those who waited on a channel that is gone", () => {
    const { peer } = overfull()
    const other = peer.confirming()
    peer.declare(other, "q")
    peer.publish(other)
    peer.declare(other, "r")
    assert.isFalse(peer.session.isPaused)
    peer.reply(2, channelClose(406, "x"))
    assert.isTrue(peer.session.isPaused)
  })

  it.each(
    [
      ["the consumer's end", (peer: Peer) => peer.reply(1, { _tag: "basic.cancel", consumerTag: "c", noWait: true })],
      ["the channel's end", (peer: Peer) => peer.reply(1, channelClose(406, "x"))],
      ["close", (peer: Peer) => peer.session.close()],
      ["the connection's end", (peer: Peer) => peer.session.onSocketEnd(peer.session.lost("EOF"))]
    ] as const
  )("no longer than %s", (_, end) => {
    const { peer, resumed } = overfull()
    end(peer)
    assert.isFalse(peer.session.isPaused)
    assert.strictEqual(resumed(), 1)
  })

  it("until the last of the overfull consumers has been pulled", () => {
    const { channel, consumer, peer } = overfull()
    const second = peer.consumer(channel, "d", true)
    peer.receive(flood("d"))
    pull(consumer)
    assert.isTrue(peer.session.isPaused)
    pull(second)
    assert.isFalse(peer.session.isPaused)
  })

  it("and resumes at once where that is over already", () => {
    const peer = new Peer().open()
    let resumed = 0
    peer.session.onResume(() => resumed++)
    peer.turn()
    assert.strictEqual(resumed, 1)
  })
})

describe("ML18 ML21 ML22 the cuts of the network", () => {
  const large = pattern(9000)
  /** What the broker sends: replies, contents of two channels in one another, heartbeats everywhere, the end. */
  const conversation = concat([
    frame(1, declareOk("q1")),
    heartbeat,
    frame(2, { _tag: "basic.consume-ok", consumerTag: "d" }),
    frame(1, deliver("c", 1, { redelivered: true, exchange: "é", routingKey: "k".repeat(255) })),
    heartbeat,
    frame(2, deliver("d", 1)),
    headerFrame(1, large.length, { contentType: "text/plain", headers: { n: 1 } }),
    headerFrame(2, 3, { messageId: "m" }),
    bodyFrames(1, large.slice(0, 4000)),
    heartbeat,
    bodyFrames(2, bytes("ab")),
    rawFrame(3, 1, []),
    bodyFrames(1, large.slice(4000)),
    bodyFrames(2, bytes("c")),
    frame(2, { _tag: "basic.ack", deliveryTag: 2, multiple: true }),
    content(2, returned("e", "k"), "back", { clusterId: "\u00013" }),
    frame(0, { _tag: "connection.blocked", reason: "memory" }),
    content(1, getOk(2), "got"),
    content(1, deliver("c", 3), ""),
    frame(0, { _tag: "connection.unblocked" }),
    frame(1, { _tag: "basic.cancel", consumerTag: "c", noWait: true }),
    frame(1, { _tag: "channel.flow", active: false }),
    frame(2, channelClose(406, "too late")),
    frame(1, { _tag: "channel.flow", active: true }),
    frame(1, declareOk("q2")),
    frame(0, connectionClose(320, "bye"))
  ])

  /** Plays it in these chunks, and writes down whatever anybody heard. */
  const play = (chunks: ReadonlyArray<Uint8Array>, batched: boolean): ReadonlyArray<string> => {
    const peer = new Peer().open()
    const log: Array<string> = []
    const one = peer.channel()
    const two = peer.confirming()
    const note = (what: string) => (value: unknown): void => void log.push(`${what} ${JSON.stringify(value)}`)
    for (const queue of ["q1", "q2"]) {
      if (queue === "q2") {
        one.request({ _tag: "basic.get", queue: "g", noAck: false }, {
          entity: "",
          onReply: (reply, content) => note("get")([reply, content && Buffer.from(content.content).toString()]),
          onFailure: note("get failed")
        })
      }
      one.request(
        {
          _tag: "queue.declare",
          queue,
          passive: false,
          durable: false,
          exclusive: false,
          autoDelete: false,
          noWait: false,
          arguments: {}
        },
        { entity: queue, onReply: note("declare"), onFailure: note("declare failed") }
      )
    }
    two.request({
      _tag: "basic.consume",
      queue: "q",
      consumerTag: "d",
      noLocal: false,
      noAck: false,
      exclusive: false,
      noWait: false,
      arguments: {}
    }, { entity: "", onReply: note("consume"), onFailure: note("consume failed") })
    for (let i = 1; i <= 4; i++) {
      two.publish({ exchange: "e", routingKey: "k", body: "x", mandatory: i === 3 }, {
        messageOf: () => undefined,
        onOutcome: (outcome) =>
          note(`publish ${i}`)([outcome._tag, outcome._tag === "Returned" && outcome.message.text])
      })
    }
    for (const [channel, tag] of [[one, "c"], [two, "d"]] as const) {
      const consumer = peer.consumer(channel, tag)
      const next = (): void =>
        consumer.pull((pulled) => {
          if ("_tag" in pulled) return note(tag)(pulled._tag)
          for (const delivery of pulled) {
            const { body, deliveryTag, exchange, properties, redelivered, routingKey } = delivery
            assert.instanceOf(delivery, TestDelivery)
            note(tag)([deliveryTag, redelivered, exchange, routingKey, properties, Buffer.from(body).toString("hex")])
          }
          next()
        })
      next()
    }
    peer.sent()
    if (batched) peer.receive(...chunks)
    else for (const chunk of chunks) peer.receive(chunk)
    for (const event of peer.events) note(event._tag)(event._tag === "End" ? event.error.message : undefined)
    return [...log, ...peer.lines()]
  }

  const at = (cuts: ReadonlyArray<number>): ReadonlyArray<Uint8Array> => {
    const sorted = [...new Set([0, ...cuts, conversation.length])].sort((a, b) => a - b)
    return sorted.slice(1).map((end, i) => conversation.slice(sorted[i], end))
  }

  const byChannel = (log: ReadonlyArray<string>): ReadonlyArray<string> => log.toSorted()

  const whole = play([conversation], true)

  it("is heard by everybody who waits", () => {
    assert.include(
      whole,
      "declare {\"_tag\":\"queue.declare-ok\",\"queue\":\"q2\",\"messageCount\":0,\"consumerCount\":0}"
    )
    assert.include(whole, "publish 1 [\"Confirmed\",false]")
    assert.include(whole, "publish 3 [\"Returned\",\"back\"]")
    assert.include(whole, "publish 4 [\"ChannelClosed\",false]")
    assert.include(whole, "c \"CancelledByBroker\"")
    assert.include(whole, "d \"ChannelClosed\"")
    assert.lengthOf(whole.filter((entry) => entry.startsWith("c [")), 2)
    assert.lengthOf(whole.filter((entry) => entry.startsWith("d [")), 1)
    assert.include(whole, "Blocked undefined")
    assert.deepStrictEqual(whole.slice(-4), [
      "1 channel.flow-ok",
      "2 channel.close-ok",
      "1 channel.flow-ok",
      "0 connection.close-ok"
    ])
  })

  it("is the same byte by byte, in one batch and in many", () => {
    const single = at(Array.from({ length: conversation.length }, (_, i) => i))
    assert.deepStrictEqual(play(single, true), whole)
    assert.deepStrictEqual(byChannel(play(single, false)), byChannel(whole))
  })

  it.prop("is the same however it is cut", [
    Arbitrary.array(Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: conversation.length })))),
    Schema.Boolean
  ], ([cuts, batched]) => {
    const log = play(at(cuts), batched)
    assert.deepStrictEqual(batched ? log : byChannel(log), batched ? whole : byChannel(whole))
  }, { arbitrary: { runs: 100 } })
})

describe("a chunk of which nothing is kept", () => {
  const sizes = [0, 1, 5000, 64 * 1024 - 1, 64 * 1024, 200_000]
  const bodies = sizes.map((size, i) => pattern(size, i))
  const sent = concat(bodies.map((body, i) => {
    const fields = { exchange: `e${i}`, routingKey: `k${i}` }
    return content(1, deliver("c", i + 1, fields), body, { messageId: `m${i}`, headers: { i } })
  }))

  /** Cuts what is sent into chunks, each of which is overwritten as soon as it is given back. */
  const overwriting = (sizeOf: (i: number) => number): void => {
    const peer = new Peer().open()
    const consumer = peer.consume(peer.channel(), "c")
    for (let at = 0, i = 0; at < sent.length; i++) {
      const end = at + sizeOf(i)
      peer.session.receive([sent.slice(at, end)], (chunk) => void chunk.fill(0xff))
      at = end
    }
    const received: Array<TestDelivery> = []
    consumer.pull((pulled) => {
      if (!("_tag" in pulled)) received.push(...pulled)
    })
    assert.lengthOf(received, sizes.length)
    for (const [i, { body, exchange, properties, routingKey }] of received.entries()) {
      assert.strictEqual(Buffer.compare(body, bodies[i] ?? bytes("none")), 0)
      assert.deepStrictEqual([exchange, routingKey, properties], [`e${i}`, `k${i}`, {
        messageId: `m${i}`,
        headers: { i }
      }])
    }
  }

  it.prop("may be overwritten at once, however it is cut", [
    Arbitrary.array(Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 100, maximum: 100_000 }))), {
      minLength: 1,
      maxLength: 20
    })
  ], ([cuts]) => {
    overwriting((i) => cuts[i % cuts.length] ?? 1)
  }, { arbitrary: { runs: 100 } })

  it("is one of a large body, also with its method and its header", () => {
    const whole = new Peer().open()
    whole.consume(whole.channel(), "c")
    const large = content(1, deliver("c", 1), pattern(200_000))
    const chunks = [large.subarray(0, 64 * 1024), large.subarray(64 * 1024, 128 * 1024), large.subarray(128 * 1024)]
    const reused: Array<number> = []
    whole.session.receive(chunks, (chunk) => void reused.push(chunks.indexOf(chunk)))
    assert.deepStrictEqual(reused, [0, 1, 2])
  })

  it("is none with a small body, a header, or a method whose fields are handed on", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    peer.consume(channel, "c")
    const small = content(1, deliver("c", 1), "small")
    const header = headerFrame(1, 5, {})
    for (const chunk of [small, frame(1, getOk(2)), concat([header, bodyFrames(1, bytes("small"))])]) {
      peer.session.receive([chunk], () => assert.fail("it is given back"))
    }
  })
})

describe("names", () => {
  it("are remembered by bytes of their own", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const consumer = peer.consume(channel, "aa")
    peer.consumer(channel, "bb")
    const chunk = Buffer.from(content(1, deliver("aa", 1), "x"))
    peer.receive(chunk)
    chunk.fill("b")
    peer.receive(content(1, deliver("bb", 2), "x"))
    assert.deepStrictEqual(pull(consumer), [[1]])
  })

  it("of one length are told apart, and so are empty ones", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const seen: Array<string> = []
    const consumer = peer.consume(channel, "c")
    const keys = ["aa", "ab", "", "ab", "aa", "aaa", "", "é", "\u00c3\u00a9"]
    peer.receive(concat(keys.map((routingKey, i) => content(1, deliver("c", i + 1, { routingKey }), "x"))))
    consumer.pull((pulled) => {
      if (!("_tag" in pulled)) seen.push(...pulled.map(({ routingKey }) => routingKey))
    })
    assert.deepStrictEqual(seen, keys)
  })

  it("of consumers are never used twice on a connection, nor on the next", () => {
    const { session } = new Peer().open()
    const tags = Array.from({ length: 100 }, () => session.consumerTag())
    tags.push(new Peer({ nextEpoch: () => 8 }).open().session.consumerTag())
    assert.strictEqual(new Set(tags).size, 101)
  })
})

describe("a fault of this client", () => {
  const broken = () => {
    throw new Error("broken")
  }
  const hooks = { onOpen: () => {}, onBlocked: () => {}, onUnblocked: () => {} }

  it.each(["onOpen", "onBlocked", "onUnblocked"] as const)("in %s is the end of the session, and typed", (name) => {
    const ends: Array<AmqpConnectionError> = []
    const peer = new Peer({ hooks: { ...hooks, onEnd: (error) => void ends.push(error), [name]: broken } }).open()
    peer.reply(0, { _tag: "connection.blocked", reason: "memory" }, { _tag: "connection.unblocked" })
    assert.deepStrictEqual(ends.map(({ message }) => message.includes("this client failed: Error: broken")), [true])
    assert.strictEqual(reasonOf(peer.session.error), "ConnectionLost")
  })

  it("in a callback is in no other's way", () => {
    for (const inBatch of [true, false]) {
      const peer = new Peer().open()
      const channel = peer.channel()
      const heard: Array<string> = []
      const request = (name: string, run: () => void) =>
        channel.request({ _tag: "basic.recover", requeue: true }, {
          entity: "",
          onReply: () => {
            heard.push(name)
            run()
          },
          onFailure: (cause) => void heard.push(`${name} ${cause?._tag}`)
        })
      request("one", broken)
      request("two", broken)
      request("three", () => {})
      peer.sent()
      if (inBatch) peer.reply(1, ...Array.from({ length: 3 }, () => ({ _tag: "basic.recover-ok" }) as const))
      else {
        peer.session.later(broken)
        peer.session.later(() => heard.push("later"))
        peer.turn()
      }
      const expected = ["one AmqpConnectionError", "two AmqpConnectionError", "three AmqpConnectionError"]
      assert.deepStrictEqual(heard, inBatch ? ["one", "two", "three"] : ["later", ...expected])
      assert.strictEqual(reasonOf(peer.end), "ConnectionLost")
      assert.lengthOf(peer.events.filter(({ _tag }) => _tag === "End"), 1)
    }
  })

  it("in what parses a frame is not the peer's, and ends the session at once", () => {
    const peer = new Peer().open()
    const channel = peer.channel()
    const pending = peer.declare(channel, "q")
    channel.addConsumer({
      consumerTag: "c",
      queue: "q",
      channel: channel.id,
      noAck: true,
      push: broken,
      clear: () => {},
      end: () => {}
    })
    peer.receive(content(1, deliver("c", 1), "x"))
    assert.strictEqual(reasonOf(peer.end), "ConnectionLost")
    assert.deepStrictEqual(pending, [{ _tag: "Failure", cause: peer.end, own: false }])
  })

  it("in the platform's microtasks is heard of without them", () => {
    for (const works of [0, 1, 2, 3, 4, 5, 6]) {
      let calls = 0
      const ends: Array<AmqpConnectionError> = []
      const peer = new Peer({
        schedule: (run) => {
          if (++calls > works) throw new TypeError("Illegal invocation")
          run()
        },
        hooks: { ...hooks, onEnd: (error) => void ends.push(error) }
      })
      const outbox = peer.session.outbox
      outbox.onReady(() => {})
      peer.open()
      const channel = peer.session.openChannel()
      const heard = channel === undefined ? [] : peer.request(channel, { _tag: "channel.open" })
      outbox.onReady(() => {})
      for (let i = 0; i < 10; i++) peer.session.later(() => {})
      assert.strictEqual(reasonOf(ends[0]), "ConnectionLost", String(works))
      assert.lengthOf(ends, 1)
      assert.isAtMost(heard.length, 1)
      if (channel !== undefined) assert.deepInclude(heard[0], { _tag: "Failure" })
    }
  })
})

it("a heartbeat of the peer changes nothing", () => {
  const peer = new Peer().open()
  peer.receive(heartbeat, heartbeat)
  assert.deepStrictEqual(peer.sent().map(line), [])
})

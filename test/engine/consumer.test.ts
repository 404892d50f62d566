import { assert, describe, it } from "@effect/vitest"
import type { ChannelState } from "../../src/internal/engine/channelState.ts"
import { type ConsumerEnd, Deliveries, type Pulled } from "../../src/internal/engine/deliveries.ts"
import {
  bytes,
  concat,
  consume,
  content,
  deliver,
  frame,
  headerFrame,
  pattern,
  Peer,
  pull,
  rawFrame,
  TestDelivery
} from "./peer.ts"

const opened = (): { readonly peer: Peer; readonly channel: ChannelState } => {
  const peer = new Peer().open()
  return { peer, channel: peer.channel() }
}

const cancelled: ConsumerEnd = { _tag: "Cancelled" }

describe("a pull", () => {
  it("takes what is there, in the order of arrival, and then waits", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    peer.receive(content(1, deliver("c", 1), "x"), content(1, deliver("c", 2), "x"))
    peer.receive(content(1, deliver("c", 3), "x"))
    assert.deepStrictEqual(pull(consumer), [[1, 2, 3]])
    const waiting = pull(consumer)
    assert.deepStrictEqual(waiting, [])
    peer.receive(content(1, deliver("c", 4), "x"))
    assert.deepStrictEqual(waiting, [[4]])
    peer.receive(content(1, deliver("c", 5), "x"))
    assert.deepStrictEqual(waiting, [[4]])
    assert.deepStrictEqual(pull(consumer), [[5]])
  })

  it("that waits gets a whole batch at once", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const waiting = pull(consumer)
    const chunk = concat([content(1, deliver("c", 1), "x"), content(1, deliver("c", 2), "x")])
    peer.receive(chunk, content(1, deliver("c", 3), "x"))
    assert.deepStrictEqual(waiting, [[1, 2, 3]])
  })

  it("CO01 gets deliveries that came in one chunk with consume-ok", () => {
    const { channel, peer } = opened()
    const consumer = peer.consumer(channel, "c")
    peer.request(channel, consume("c"))
    peer.receive(concat([frame(1, { _tag: "basic.consume-ok", consumerTag: "c" }), content(1, deliver("c", 1), "x")]))
    assert.deepStrictEqual(pull(consumer), [[1]])
  })

  it("that was taken back hears nothing, and the deliveries stay for the next", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const callback = () => assert.fail("it was taken back")
    consumer.pull(callback)
    consumer.unpull(callback)
    peer.receive(content(1, deliver("c", 1), "x"))
    assert.deepStrictEqual(pull(consumer), [[1]])
  })

  it("that was taken back between the delivery and the end of the batch does not lose it", () => {
    const { channel, peer } = opened()
    const first = peer.consume(channel, "a")
    const second = peer.consume(channel, "b")
    const callback = () => assert.fail("it was taken back")
    first.pull(() => second.unpull(callback))
    second.pull(callback)
    peer.receive(content(1, deliver("a", 1), "x"), content(1, deliver("b", 2), "x"))
    assert.deepStrictEqual(pull(second), [[2]])
    const waiting = pull(second)
    peer.receive(content(1, deliver("b", 3), "x"))
    assert.deepStrictEqual(waiting, [[3]])
  })

  it("may pull again at once", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const seen: Array<number> = []
    const next = (): void =>
      consumer.pull((pulled) => {
        if ("_tag" in pulled) return void seen.push(-1)
        seen.push(...pulled.map(({ deliveryTag }) => deliveryTag))
        next()
      })
    next()
    for (let tag = 1; tag <= 3; tag++) peer.receive(content(1, deliver("c", tag), "x"))
    channel.endConsumer(consumer)
    peer.turn()
    assert.deepStrictEqual(seen, [1, 2, 3, -1])
  })

  it("of several gets its share in turn, and each of them the end", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const waiting = [pull(consumer), pull(consumer), pull(consumer)]
    peer.receive(content(1, deliver("c", 1), "x"))
    assert.deepStrictEqual(waiting, [[[1]], [], []])
    peer.receive(content(1, deliver("c", 2), "x"))
    assert.deepStrictEqual(waiting, [[[1]], [[2]], []])
    channel.endConsumer(consumer)
    peer.turn()
    assert.deepStrictEqual(waiting, [[[1]], [[2]], [cancelled]])
    assert.deepStrictEqual(pull(consumer), [cancelled])
  })
})

describe("a delivery", () => {
  it("CO05 has the fields of its frames", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "é✓")
    const body = pattern(10_000)
    peer.receive(
      content(1, deliver("é✓", 2 ** 53 - 1, { redelivered: true, exchange: "e", routingKey: "r.k" }), body, {
        contentType: "text/plain",
        headers: { a: 1 },
        priority: 0
      })
    )
    const seen: Array<TestDelivery> = []
    consumer.pull((pulled) => void ("_tag" in pulled || seen.push(...pulled)))
    const [delivery] = seen
    assert.deepStrictEqual(
      [delivery?.deliveryTag, delivery?.redelivered, delivery?.exchange, delivery?.routingKey],
      [2 ** 53 - 1, true, "e", "r.k"]
    )
    assert.deepStrictEqual(delivery?.body, body)
    assert.deepStrictEqual(delivery?.properties, { contentType: "text/plain", headers: { a: 1 }, priority: 0 })
  })

  it("keeps its own content when many come in one batch, small and large, whole and cut", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const bodies = [0, 1, 10_000, 0, 5000, 3].map((size, i) => pattern(size, i))
    const conversation = concat(
      bodies.map((body, i) => content(1, deliver("c", i + 1), body, { messageId: `m${i}` }))
    )
    peer.receive(conversation.slice(0, 150), conversation.slice(150, 5000), conversation.slice(5000))
    consumer.pull((pulled) => {
      if ("_tag" in pulled) return assert.fail("it ended")
      assert.deepStrictEqual(pulled.map(({ body }) => body), bodies)
      assert.deepStrictEqual(pulled.map(({ properties }) => properties.messageId), bodies.map((_, i) => `m${i}`))
    })
  })

  it("CO21 without acknowledgement is not there to be settled", () => {
    const { channel, peer } = opened()
    peer.consume(channel, "c", true)
    peer.receive(content(1, deliver("c", 1), "x"))
    assert.strictEqual(channel.unsettledCount, 0)
    assert.strictEqual(channel.ack(1), "AlreadySettled")
    assert.deepStrictEqual(peer.lines(), [])
  })

  it("for a consumer that the channel does not have is dropped", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    peer.receive(content(1, deliver("x", 1), "x"), content(1, deliver("c", 2), "x"))
    assert.strictEqual(channel.unsettledCount, 1)
    assert.deepStrictEqual(pull(consumer), [[2]])
  })

  it("CO23 of one consumer does not wait for another's", () => {
    const { channel, peer } = opened()
    const slow = peer.consume(channel, "slow")
    const fast = peer.consume(channel, "fast")
    for (let tag = 1; tag <= 6; tag++) {
      peer.receive(content(1, deliver(tag % 2 === 0 ? "fast" : "slow", tag), "x"))
    }
    assert.deepStrictEqual(pull(fast), [[2, 4, 6]])
    assert.deepStrictEqual(pull(slow), [[1, 3, 5]])
  })
})

describe("cancelling", () => {
  it("by us ends it with the answer; what comes before is delivered", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    peer.receive(content(1, deliver("c", 1), "x"))
    channel.request({ _tag: "basic.cancel", consumerTag: "c", noWait: false }, {
      entity: "",
      onReply: () => channel.endConsumer(consumer),
      onFailure: () => assert.fail("cancel")
    })
    peer.receive(content(1, deliver("c", 2), "x"), frame(1, { _tag: "basic.cancel-ok", consumerTag: "c" }))
    assert.isUndefined(channel.consumer("c"))
    assert.deepStrictEqual(pull(consumer), [[1, 2]])
    assert.deepStrictEqual(pull(consumer), [cancelled])
    assert.strictEqual(channel.ack(1), "Settled")
    assert.strictEqual(channel.ack(2), "Settled")
    assert.strictEqual(channel.unsettledCount, 0)
  })

  it("by the broker ends it after what came before; no-wait is not answered", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    const waiting = pull(peer.consume(channel, "d"))
    peer.receive(content(1, deliver("c", 1), "x"))
    for (const consumerTag of ["c", "d"]) peer.reply(1, { _tag: "basic.cancel", consumerTag, noWait: true })
    assert.deepStrictEqual(peer.lines(), [])
    assert.deepStrictEqual(pull(consumer), [[1]])
    const [end] = pull(consumer)
    if (end === undefined || !("_tag" in end) || end._tag !== "CancelledByBroker") return assert.fail("no end")
    assert.deepStrictEqual([end.error.consumerTag, end.error.queue], ["c", "q"])
    assert.strictEqual(waiting[0] !== undefined && "_tag" in waiting[0] && waiting[0]._tag, "CancelledByBroker")
    assert.isUndefined(channel.consumer("c"))
    assert.strictEqual(channel.ack(1), "Settled")
  })

  it("by a broker that waits is answered", () => {
    const { channel, peer } = opened()
    peer.consume(channel, "c")
    peer.reply(1, { _tag: "basic.cancel", consumerTag: "c", noWait: false })
    assert.deepStrictEqual(peer.methods(), [{ _tag: "basic.cancel-ok", consumerTag: "c" }])
  })

  it("CO14 of a tag that is unknown is ignored, even one that cannot be written back", () => {
    const { channel, peer } = opened()
    peer.reply(1, { _tag: "basic.cancel", consumerTag: "unknown", noWait: true })
    peer.reply(1, { _tag: "basic.cancel", consumerTag: "unknown", noWait: false })
    // 255 bytes that are not UTF-8 read as 255 times U+FFFD, which take three bytes each.
    peer.receive(rawFrame(1, 1, [0, 60, 0, 30, 255, ...Array.from({ length: 255 }, () => 0xff), 0]))
    assert.isUndefined(peer.end)
    assert.isFalse(channel.isClosed)
    assert.deepStrictEqual(peer.lines(), [])
  })

  it("CO15 by both at once ends it once, whoever is first", () => {
    for (const brokerFirst of [true, false]) {
      const { channel, peer } = opened()
      const consumer = peer.consume(channel, "c")
      const waiting = pull(consumer)
      let replies = 0
      channel.request({ _tag: "basic.cancel", consumerTag: "c", noWait: false }, {
        entity: "",
        onReply: () => {
          replies++
          channel.endConsumer(consumer)
        },
        onFailure: () => assert.fail("cancel")
      })
      const frames = [
        frame(1, { _tag: "basic.cancel", consumerTag: "c", noWait: true }),
        frame(1, { _tag: "basic.cancel-ok", consumerTag: "c" })
      ]
      for (const chunk of brokerFirst ? frames : frames.toReversed()) peer.receive(chunk)
      assert.strictEqual(replies, 1)
      assert.lengthOf(waiting, 1)
      assert.deepStrictEqual(peer.lines(), ["1 basic.cancel"])
    }
  })

  it("leaves another consumer of the same tag alone", () => {
    const { channel, peer } = opened()
    const old = peer.consume(channel, "c")
    channel.endConsumer(old)
    const next = peer.consume(channel, "c")
    channel.removeConsumer(old)
    assert.strictEqual(channel.consumer("c"), next)
    peer.receive(content(1, deliver("c", 1), "x"))
    assert.deepStrictEqual(pull(next), [[1]])
    assert.deepStrictEqual(pull(old), [cancelled])
  })

  it("gives back what was taken and what was not", () => {
    const { channel, peer } = opened()
    const consumer = peer.consume(channel, "c")
    peer.receive(content(1, deliver("c", 1), "x"), content(1, deliver("c", 2), "x"))
    pull(consumer)
    peer.receive(content(1, deliver("c", 3), "x"))
    channel.ack(2)
    peer.sent()
    channel.requeueAll(consumer)
    channel.endConsumer(consumer)
    assert.deepStrictEqual(peer.methods(), [
      { _tag: "basic.nack", deliveryTag: 1, multiple: false, requeue: true },
      { _tag: "basic.nack", deliveryTag: 3, multiple: false, requeue: true }
    ])
    assert.deepStrictEqual(pull(consumer), [cancelled])
    assert.strictEqual(channel.ack(1), "AlreadySettled")
  })
})

describe("the bound of a buffer", () => {
  /** A consumer without a session, and what it says of its bound. */
  const alone = () => {
    const log: Array<boolean> = []
    const later: Array<() => void> = []
    const consumer = new Deliveries<TestDelivery>(
      { consumerTag: "c", queue: "q", channel: 1, noAck: true },
      (tag, redelivered, exchange, routingKey, content) =>
        new TestDelivery(tag, redelivered, exchange, routingKey, content),
      { later: (callback) => void later.push(callback), onOverfull: (_, overfull) => void log.push(overfull) }
    )
    const push = (count: number, body: Uint8Array): void => {
      for (let i = 0; i < count; i++) {
        consumer.push(i, false, "", "q", { content: body, headerBytes: body, headerStart: 0, headerEnd: 0 })
      }
    }
    return { consumer, push, log, later }
  }

  it("is 4096 deliveries, told once each way", () => {
    const { consumer, log, push } = alone()
    push(4096, bytes("x"))
    assert.deepStrictEqual(log, [])
    push(3, bytes("x"))
    assert.deepStrictEqual(log, [true])
    consumer.pull(() => {})
    assert.deepStrictEqual(log, [true, false])
    push(253, bytes("x"))
    assert.deepStrictEqual(log, [true, false])
    push(1, bytes("x"))
    assert.deepStrictEqual(log, [true, false, true])
  })

  it("is 8 MiB of bodies", () => {
    const { consumer, log, push } = alone()
    const body = new Uint8Array(1024 * 1024)
    push(8, body)
    assert.deepStrictEqual(log, [])
    push(1, bytes("x"))
    assert.deepStrictEqual(log, [true])
    consumer.pull(() => {})
    assert.deepStrictEqual(log, [true, false])
    push(1, body)
    consumer.clear()
    assert.deepStrictEqual(log, [true, false, true, false])
  })

  it("is handed out in parts of 256 deliveries or 1 MiB, so that a slow consumer lets the socket be read in between", () => {
    const { consumer, push } = alone()
    const sizes: Array<number> = []
    const pullAll = (): void => {
      let rest = true
      while (rest) {
        rest = false
        const callback = (pulled: Pulled<TestDelivery>): void => {
          if ("_tag" in pulled) return
          sizes.push(pulled.length)
          rest = true
        }
        consumer.pull(callback)
        if (!rest) consumer.unpull(callback)
      }
    }
    push(600, bytes("x"))
    pullAll()
    assert.deepStrictEqual(sizes.splice(0), [256, 256, 88])
    push(5, new Uint8Array(600 * 1024))
    pullAll()
    assert.deepStrictEqual(sizes, [2, 2, 1])
  })

  it("does not matter after the end", () => {
    const { consumer, log, push } = alone()
    push(4097, bytes("x"))
    consumer.end({ _tag: "Cancelled" })
    consumer.end({ _tag: "ChannelClosed", cause: undefined })
    assert.deepStrictEqual(log, [true, false])
    const seen: Array<string | number> = []
    for (let i = 0; i < 18; i++) consumer.pull((pulled) => seen.push("_tag" in pulled ? pulled._tag : pulled.length))
    assert.deepStrictEqual(seen, [...Array.from({ length: 16 }, () => 256), 1, "Cancelled"])
    assert.deepStrictEqual(log, [true, false])
  })

  it("is kept by a pull that waits, without a word to the host", () => {
    const { consumer, later, log, push } = alone()
    let taken = 0
    consumer.pull((pulled) => {
      taken = "_tag" in pulled ? -1 : pulled.length
    })
    push(4096, bytes("x"))
    assert.lengthOf(later, 1, "one wake-up per batch")
    for (const callback of later) callback()
    assert.strictEqual(taken, 256)
    assert.deepStrictEqual(log, [])
  })
})

it("a header without properties is a message without properties", () => {
  const { channel, peer } = opened()
  const consumer = peer.consume(channel, "c")
  peer.receive(frame(1, deliver("c", 1)), headerFrame(1, 0))
  consumer.pull((pulled) => assert.deepStrictEqual("_tag" in pulled ? undefined : pulled[0].properties, {}))
})

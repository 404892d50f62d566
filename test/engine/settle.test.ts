import { assert, describe, it } from "vitest"
import { content, deliver, Peer, type Sent } from "./peer.ts"

/** `"<tag>"` or `"<tag>+"` (multiple) of each acknowledgement. */
const acks = (sent: ReadonlyArray<Sent>): ReadonlyArray<string> =>
  sent.flatMap((one) =>
    one._tag === "Method" && one.method._tag === "basic.ack"
      ? [`${one.method.deliveryTag}${one.method.multiple ? "+" : ""}`]
      : []
  )

/** A channel with a consumer that has been delivered so many messages. */
const delivered = (count: number) => {
  const peer = new Peer()
  peer.open()
  const channel = peer.channel()
  peer.consumer(channel, "c")
  for (let tag = 1; tag <= count; tag++) peer.receive(content(1, deliver("c", tag)))
  peer.sent()
  return { peer, channel }
}

describe("acknowledgements of one turn", () => {
  it("become one where nothing unfinished lies before them, in whatever order they come", () => {
    const { channel, peer } = delivered(5)
    for (const tag of [3, 1, 2]) assert.strictEqual(channel.ack(tag), "Settled")
    assert.deepStrictEqual(acks(peer.sent()), ["3+"])
    assert.strictEqual(channel.ack(2), "AlreadySettled")
    channel.ack(4)
    assert.deepStrictEqual(acks(peer.sent()), ["4"])
  })

  it("never cover an unfinished delivery", () => {
    const { channel, peer } = delivered(6)
    for (const tag of [1, 2, 4, 6]) channel.ack(tag)
    assert.deepStrictEqual(acks(peer.sent()), ["2+", "4", "6"])
    for (const tag of [3, 5]) channel.ack(tag)
    assert.deepStrictEqual(acks(peer.sent()), ["5+"])
  })

  it("never cover a delivery that was ignored, because nobody knows its consumer", () => {
    const { channel, peer } = delivered(2)
    peer.receive(content(1, deliver("unknown", 3)), content(1, deliver("c", 4)))
    for (const tag of [1, 2, 4]) channel.ack(tag)
    assert.deepStrictEqual(acks(peer.sent()), ["1", "2", "4"])
  })

  it("go out before everything that is written after them", () => {
    const { channel, peer } = delivered(3)
    channel.ack(1)
    channel.settleUpTo(2, { _tag: "Nack", requeue: true })
    channel.ack(3)
    channel.close()
    const methods = peer.sent().flatMap((one) => one._tag === "Method" ? [one.method._tag] : [])
    assert.deepStrictEqual(methods, ["basic.ack", "basic.nack", "basic.ack", "channel.close"])
  })

  it("are not lost when the connection is closed in the same turn", () => {
    const { channel, peer } = delivered(1)
    channel.ack(1)
    peer.session.close()
    const methods = peer.sent().flatMap((one) => one._tag === "Method" ? [one.method._tag] : [])
    assert.deepStrictEqual(methods, ["basic.ack", "connection.close"])
  })

  it("stay single in a transaction, which may roll them back", () => {
    const peer = new Peer()
    peer.open()
    const channel = peer.transacting()
    peer.consumer(channel, "c")
    peer.receive(content(1, deliver("c", 1)), content(1, deliver("c", 2)))
    peer.sent()
    for (const tag of [1, 2]) channel.ack(tag)
    assert.deepStrictEqual(acks(peer.sent()), ["1", "2"])
  })
})

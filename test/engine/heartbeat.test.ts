import { assert, describe, it } from "@effect/vitest"
import { heartbeat, pattern, Peer } from "./peer.ts"

/** A tick is half an interval. */
const opened = (): Peer => {
  const peer = new Peer().open({ heartbeat: 10 })
  peer.session.tick()
  peer.sent()
  return peer
}

describe("TU09 what is written", () => {
  it("is a heartbeat after a half interval in which nothing was, so one in each interval", () => {
    const peer = opened()
    const written: Array<ReadonlyArray<string>> = []
    for (let i = 0; i < 6; i++) {
      peer.receive(heartbeat)
      peer.session.tick()
      written.push(peer.lines())
    }
    assert.deepStrictEqual(written, [["heartbeat"], [], ["heartbeat"], [], ["heartbeat"], []])
  })

  it("counts: anything is as good as a heartbeat", () => {
    const peer = opened()
    const channel = peer.channel()
    for (let i = 0; i < 5; i++) {
      peer.declare(channel, "q")
      assert.deepStrictEqual(peer.lines(), ["1 queue.declare"])
      peer.session.tick()
      assert.deepStrictEqual(peer.lines(), [])
    }
  })

  it("goes out while a transaction holds everything else back", () => {
    const peer = new Peer().open({ heartbeat: 10 })
    const channel = peer.transacting()
    peer.request(channel, { _tag: "tx.commit" })
    channel.publish({ body: "held" }, undefined)
    peer.sent()
    peer.session.tick()
    peer.session.tick()
    assert.deepStrictEqual(peer.lines(), ["heartbeat"])
  })

  it("does not pile up behind a peer that reads nothing", () => {
    const peer = opened()
    peer.channel().publish({ body: pattern(1000) }, undefined)
    const chunks = peer.session.outbox.take() ?? assert.fail("nothing to write")
    assert.lengthOf(chunks, 1)
    // The write does not end.
    for (let i = 0; i < 10; i++) {
      peer.receive(heartbeat)
      peer.session.tick()
    }
    peer.session.outbox.written()
    assert.isAtMost(peer.lines().length, 1)
  })
})

describe("a peer that is silent", () => {
  it("for two intervals is dead", () => {
    const { session } = opened()
    assert.deepStrictEqual(Array.from({ length: 5 }, () => session.tick()), [false, false, false, true, true])
    assert.isTrue(session.isSilent)
  })

  it("until its last byte starts over with it", () => {
    const peer = opened()
    for (let i = 0; i < 3; i++) assert.isFalse(peer.session.tick())
    // Any byte counts, also a part of a frame.
    peer.receive(heartbeat.slice(0, 1))
    assert.deepStrictEqual(
      Array.from({ length: 5 }, () => peer.session.tick()),
      [false, false, false, false, true]
    )
  })

  it("F15 is not judged before what has arrived is read", () => {
    const peer = opened()
    for (let i = 0; i < 3; i++) peer.session.tick()
    assert.isTrue(peer.session.tick())
    peer.receive(heartbeat)
    assert.isFalse(peer.session.isSilent)
    assert.isFalse(peer.session.tick())
  })

  it("is not judged by us while we do not read", () => {
    const peer = opened()
    const consumer = { isFarOverfull: false }
    peer.session.onOverfull(consumer, true)
    assert.isTrue(peer.session.isPaused)
    for (let i = 0; i < 10; i++) assert.isFalse(peer.session.tick())
    peer.session.onOverfull(consumer, false)
    assert.deepStrictEqual(Array.from({ length: 4 }, () => peer.session.tick()), [false, false, false, true])
  })

  it("ends the session with the interval", () => {
    const peer = opened()
    peer.session.onHeartbeatTimeout()
    peer.turn()
    const reason = peer.end?.reason
    assert.strictEqual(reason?._tag === "HeartbeatTimeout" && reason.intervalSeconds, 10)
  })
})

it("TU13 nothing is written after the end", () => {
  const peer = opened()
  peer.session.onSocketEnd(peer.session.lost("EOF"))
  peer.sent()
  for (let i = 0; i < 10; i++) assert.isFalse(peer.session.tick())
  assert.deepStrictEqual(peer.lines(), [])
})

/**
 * Reads that wait for more to gather: when they do, when they stop to, and that the transport of Node follows.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import * as Socket from "effect/socket/Socket"
import { AmqpTransport } from "../../src/AmqpTransport.ts"
import { ReadPacing } from "../../src/internal/node/readPacing.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import { listen } from "../harness/listen.ts"

/** A peer: what there is to read at a time, when the last read was at another; milliseconds. */
type Peer = (now: number, last: number) => number

const steady = (bytesPerMillisecond: number): Peer => (now, last) => (now - last) * bytesPerMillisecond
/** Sends so much, and no more before it has been read. */
const windowed = (bytes: number): Peer => () => bytes

/** Reads from `from` to `to`, every `step` or after an interval of 1 ms. Gives the share of the time that was waited. */
const run = (
  pacing: ReadPacing,
  peer: Peer,
  { from = 0, step = 0.1, to }: { from?: number; step?: number; to: number }
) => {
  let waited = 0
  for (let last = from, waits = false; last < to;) {
    const now = last + (waits ? 1 : step)
    if (waits) waited++
    waits = pacing.afterRead(peer(now, last), now)
    last = now
  }
  return waited / (to - from)
}

describe("reads wait for more", () => {
  it("where many small ones come, soon and most of the time", () => {
    const pacing = new ReadPacing(1)
    assert.isAbove(run(pacing, steady(8_000), { to: 150 }), 0.3)
    assert.isAbove(run(pacing, steady(8_000), { from: 150, to: 10_000 }), 0.9)
  })

  it("not where few come", () => {
    assert.strictEqual(run(new ReadPacing(1), steady(8_000), { step: 0.3, to: 10_000 }), 0)
  })

  it("not after one that brought much", () => {
    assert.strictEqual(run(new ReadPacing(1), steady(200_000), { to: 10_000 }), 0)
  })

  it("not where the peer waits, too; tries are ever rarer", () => {
    const pacing = new ReadPacing(1)
    assert.isBelow(run(pacing, windowed(800), { to: 10_000 }), 0.02)
    assert.isBelow(run(pacing, windowed(800), { from: 10_000, to: 100_000 }), 0.005)
  })

  it("nor where half as much would come", () => {
    const halved: Peer = (now, last) => (now - last > 0.5 ? 3200 : 800)
    assert.isBelow(run(new ReadPacing(1), halved, { to: 10_000 }), 0.05)
  })

  it("although the flow changes by the moment", () => {
    const bursts: Peer = (now, last) => (now - last) * (Math.floor(now / 5) % 2 === 0 ? 12_000 : 4_000)
    assert.isAbove(run(new ReadPacing(1), bursts, { to: 10_000 }), 0.85)
  })

  it("no longer than a second once the peer waits, too", () => {
    const pacing = new ReadPacing(1)
    run(pacing, steady(8_000), { to: 1000 })
    run(pacing, windowed(800), { from: 1000, to: 2300 })
    assert.isBelow(run(pacing, windowed(800), { from: 2300, to: 10_000 }), 0.05)
  })

  it("again once it waits no more", () => {
    const pacing = new ReadPacing(1)
    run(pacing, windowed(800), { to: 1000 })
    run(pacing, steady(8_000), { from: 1000, to: 2000 })
    assert.isAbove(run(pacing, steady(8_000), { from: 2000, to: 10_000 }), 0.9)
  })

  it("not over a pause in which nothing came", () => {
    const pacing = new ReadPacing(1)
    run(pacing, steady(8_000), { to: 100 })
    assert.isBelow(run(pacing, steady(100), { from: 60_000, step: 10, to: 70_000 }), 0.005)
  })
})

describe("the transport of Node", () => {
  /** Bytes of a read, on average, from a peer that writes 100 bytes in each turn of the event loop: it counts in them. */
  const averageRead = (readInterval: Duration.Duration) =>
    Effect.gen(function*() {
      const port = yield* listen((peer) => {
        let sent = 0
        const write = (): void => {
          if (peer.destroyed) return
          peer.write(Uint8Array.from({ length: 100 }, () => sent++))
          setImmediate(write)
        }
        write()
      })
      const transport = yield* AmqpTransport
      const socket = yield* transport.connect({ host: "127.0.0.1", port }, { readInterval })
      const pull = yield* Socket.readerBytes(socket)
      yield* socket.writer
      let [bytes, reads, received] = [0, 0, 0]
      const start = performance.now()
      while (performance.now() - start < 1000) {
        const chunks = yield* pull
        for (const chunk of chunks) {
          for (const byte of chunk) if (byte !== (received++ & 0xff)) assert.fail(`byte ${received} is another`)
        }
        // The first tries are over.
        if (performance.now() - start < 400) continue
        reads++
        for (const chunk of chunks) bytes += chunk.length
      }
      return bytes / reads
    }).pipe(Effect.scoped, Effect.provide(NodeAmqp.layerTransport))

  it.effect("reads less often, in order, while a TestClock stands still; at once where it may not wait", () =>
    Effect.gen(function*() {
      const atOnce = yield* averageRead(Duration.zero)
      const gathered = yield* averageRead(Duration.millis(1))
      assert.isAbove(gathered, 3 * atOnce)
    }))
})

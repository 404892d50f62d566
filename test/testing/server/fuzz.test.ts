/**
 * Whatever a client sends, the embedded broker does not fail: seeded runs of what RabbitMQ's clients have sent, in any
 * order, cut anywhere, with bytes changed. In the end nobody holds anything, and it serves the next client.
 */
import { assert, it } from "@effect/vitest"
import { concat, goldens } from "../../fixtures/frames.ts"
import { ack, confirmSelect, consume, declare, get } from "../../fixtures/violations.ts"
import { makeBroker, RawClient } from "./rawClient.ts"

/** Numbers from 0 up to a bound, the same for the same seed. */
const dice = (seed: number) => {
  let state = seed * 0x9e3779b1 | 1
  return (bound: number): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % bound
  }
}

interface Unit {
  readonly name: string
  readonly bytes: Uint8Array
}

/** What clients have sent: methods, each with its content. */
const said = goldens.filter(({ from }) => from === "client").flatMap(({ bytes, name }, index, all): Array<Unit> => {
  if (!name.includes(".")) return []
  const next = all.findIndex((golden, at) => at > index && golden.name !== "header" && golden.name !== "body")
  return [{
    name,
    bytes: concat([bytes, ...all.slice(index + 1, Math.max(next, index + 1)).map(({ bytes }) => bytes)])
  }]
})

/** Without those that end a connection. */
const usual = said.filter(({ name }) => !/^connection|^tx|-ok$/.test(name))

const run = (seed: number, changes: number): ReadonlyArray<string> => {
  const roll = dice(seed)
  const broker = makeBroker({ consumerTimeout: 1000 })
  const client = new RawClient(broker.core).open({ limits: { heartbeat: 1 } }).channel().queue("other")
  if (seed % 2 === 0) client.send(1, confirmSelect, consume("other", "c"))
  const heard: Array<string> = []
  for (let unit = 0; unit < 60; unit++) {
    if (roll(3) === 0) client.publish(1, { routingKey: "other", mandatory: roll(2) === 0 })
    if (roll(3) === 0) client.send(1, get("other"))
    if (roll(3) === 0) client.send(1, ack(roll(3), roll(2) === 0))
    const from = roll(50) === 0 ? said : usual
    const sent = (from[roll(from.length)]?.bytes ?? assert.fail("nothing was said")).slice()
    if (roll(60) < changes) sent[roll(sent.length)] = roll(2) === 0 ? roll(256) : roll(4)
    for (let at = 0; at < sent.length;) {
      const size = 1 + roll(200)
      client.raw(sent.subarray(at, at + size))
      at += size
    }
    const lines = client.lines()
    if (lines.includes("1 channel.close")) client.send(1, { _tag: "channel.close-ok" })
    if (lines.some((line) => line.startsWith("1 channel.close"))) client.channel()
    heard.push(...lines)
    if (roll(20) === 0) broker.advance(roll(500))
    if (roll(40) === 0) broker.core.block("low on memory")
    else if (roll(5) === 0) broker.core.unblock()
  }
  client.peer.closed()
  broker.core.unblock()
  broker.advance(100_000)
  assert.strictEqual(broker.core.connections.size, 0)
  for (const vhost of broker.core.vhosts.values()) {
    for (const queue of vhost.queues.values()) {
      assert.deepStrictEqual([queue.unsettled, queue.subscribers.length], [0, 0], queue.name)
    }
  }
  const next = new RawClient(broker.core, "memory:2").open().channel()
  next.send(1, declare("mine")).publish(1, { routingKey: "mine" })
  next.frames()
  assert.deepStrictEqual(next.send(1, get("mine")).lines(), ["1 basic.get-ok", "1 header 0"])
  return heard
}

it("frames in any order", () => {
  const seen = new Set(Array.from({ length: 200 }, (_, seed) => run(seed + 1, 0)).flat())
  // It is not all refused at the door.
  for (
    const line of [
      "1 basic.deliver",
      "1 basic.ack",
      "1 basic.get-ok",
      "1 queue.declare-ok",
      "1 channel.close",
      "0 connection.close"
    ]
  ) {
    assert(seen.has(line), line)
  }
})

it("frames with changed bytes", () => {
  for (let seed = 1000; seed < 1300; seed++) run(seed, 1 + seed % 7)
})

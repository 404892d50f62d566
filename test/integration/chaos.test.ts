/**
 * The short form of `npm run chaos`: the same faults and the same checks, for one seed.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import { kinds, schedule } from "../chaos/faults.ts"
import { run } from "../chaos/run.ts"
import { Wire } from "../chaos/wire.ts"
import { makeNode } from "../harness/rabbitmq.ts"

it("a seed gives the same faults each time, and every kind before any comes again", () => {
  const first = (seed: number) => {
    const faults = schedule(seed)
    return Array.from({ length: 2 * kinds.length }, () => faults.next().value)
  }
  assert.deepStrictEqual(first(7), first(7))
  assert.notDeepEqual(first(7), first(8))
  for (const half of [first(7).slice(0, kinds.length), first(7).slice(kinds.length)]) {
    assert.deepStrictEqual(half.map(({ kind }) => kind).toSorted(), kinds.toSorted())
  }
})

const encoded = (...methods: ReadonlyArray<AmqpProtocol.Method>): Uint8Array =>
  new Uint8Array(Buffer.concat(methods.map((method) => Result.getOrThrow(AmqpProtocol.encodeMethod(1, method)))))

/** What the wire check says of settlements, after tags 1 to 3 were delivered on the second channel of number 1. */
const settling = (...methods: ReadonlyArray<AmqpProtocol.Method>): ReadonlyArray<string> => {
  const deliver = (deliveryTag: number): AmqpProtocol.Method => ({
    _tag: "basic.deliver",
    consumerTag: "tag",
    deliveryTag,
    redelivered: false,
    exchange: "",
    routingKey: ""
  })
  const opened: AmqpProtocol.Method = { _tag: "channel.open-ok" }
  const open: AmqpProtocol.Method = { _tag: "channel.open" }
  const wire = new Wire()
  wire.add("it", {
    up: Uint8Array.of(...AmqpProtocol.protocolHeader, ...encoded(open, { _tag: "channel.close-ok" }, open, ...methods)),
    down: encoded(opened, deliver(1), deliver(2), deliver(3), deliver(4), opened, deliver(1), deliver(2), deliver(3))
  }, () => "")
  return wire.violations.map((text) => text.replace(/^it, channel 1: basic\.\w+ of /, ""))
}
const ack = (deliveryTag: number, multiple = false): AmqpProtocol.Method => ({
  _tag: "basic.ack",
  deliveryTag,
  multiple
})

it("the check of the wire accepts each delivery settled once, and sees stale and repeated settlements", () => {
  assert.deepStrictEqual(settling(ack(1), ack(3, true)), [])
  assert.deepStrictEqual(settling(ack(3), ack(2, true)), [])
  assert.deepStrictEqual(settling(ack(4)), ["4, which was not delivered there"])
  assert.deepStrictEqual(settling(ack(2), ack(2)), ["2, which had been settled"])
  assert.deepStrictEqual(settling(ack(2, true), ack(1)), ["1, which had been settled"])
  assert.deepStrictEqual(settling(ack(2, true), ack(2, true)), ["2, which had been settled"])
  assert.deepStrictEqual(
    settling({ _tag: "channel.close-ok" }, { _tag: "basic.reject", deliveryTag: 1, requeue: true }),
    ["1, which was not delivered there"]
  )
})

it.live(
  "P1 P2 P3 no fault loses a confirmed message, settles twice or leaves anything behind",
  () =>
    Effect.scoped(Effect.gen(function*() {
      const node = yield* makeNode()
      const { ledger, struck, violations, wire } = yield* run(node, { seed: 7, duration: 15_000, onProgress: () => {} })
      assert.deepStrictEqual(violations, [])
      assert.isAtLeast(new Set(struck.map(({ fault }) => fault.kind)).size, 5)
      assert.isAbove(ledger.confirmed, 100)
      assert.isAbove(wire.settlements, 100)
    })),
  180_000
)

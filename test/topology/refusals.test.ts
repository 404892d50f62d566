/**
 * Whom a connection's end is held against: the entity that was alone, each time, with the same words.
 */
import { assert, describe, it } from "@effect/vitest"
import { AmqpConnectionError, ConnectionLost, fromConnectionClose } from "../../src/AmqpError.ts"
import { bind, classicQueue, exchange } from "../../src/AmqpTopology.ts"
import { TopologyRefusals } from "../../src/internal/topology/refusals.ts"

const [x, y, q] = [exchange("x"), exchange("y"), classicQueue("q")]
const binding = bind({ queue: "q", exchange: "x" })

const ended = (replyCode: number, classId: number, methodId: number, replyText = "no") =>
  fromConnectionClose({ replyCode, replyText, classId, methodId })
const exchangeDeclare = ended(503, 40, 10)
const alone = { inQuestion: 1 }

describe("the end of a connection", () => {
  it("is held against one that was alone three times", () => {
    const refusals = new TopologyRefusals()
    for (const times of [1, 2, 3]) {
      assert.isUndefined(refusals.reason(x))
      refusals.onEnd(exchangeDeclare, [x, q, binding], alone)
      assert.deepStrictEqual([x, y, q, binding].map((entity) => refusals.isSuspect(entity)), [
        true,
        false,
        false,
        false
      ])
      assert.strictEqual(refusals.reason(x), times === 3 ? exchangeDeclare : undefined)
    }
    assert.isUndefined(refusals.reason(q))
  })

  it("sends several one at a time, and is held against none of them", () => {
    const refusals = new TopologyRefusals()
    for (let i = 0; i < 5; i++) refusals.onEnd(exchangeDeclare, [x, y, q], { inQuestion: 2 })
    assert.isTrue(refusals.isSuspect(x) && refusals.isSuspect(y))
    assert.isUndefined(refusals.reason(x) ?? refusals.reason(y))
    refusals.clear(x)
    assert.isFalse(refusals.isSuspect(x))
  })

  it("may be for a request of somebody else", () => {
    const refusals = new TopologyRefusals()
    for (let i = 0; i < 5; i++) refusals.onEnd(exchangeDeclare, [x], { inQuestion: 2 })
    for (let i = 0; i < 5; i++) refusals.onEnd(ended(503, 50, 10), [x], alone)
    for (let i = 0; i < 5; i++) refusals.onEnd(ended(540, 20, 20), [x, q], alone)
    assert.isUndefined(refusals.reason(x) ?? refusals.reason(q))
  })

  it("may not say for which method", () => {
    const refusals = new TopologyRefusals()
    for (let i = 0; i < 3; i++) refusals.onEnd(ended(541, 0, 0), [q], alone)
    assert.deepNestedInclude(refusals.reason(q), { "reason._tag": "InternalError" })
  })

  it("has to be for the same reason; what the broker takes is forgiven", () => {
    const refusals = new TopologyRefusals()
    for (let i = 0; i < 6; i++) refusals.onEnd(ended(503, 40, 10, `no ${i % 2}`), [x], alone)
    assert.isUndefined(refusals.reason(x))
    refusals.onEnd(exchangeDeclare, [x], alone)
    refusals.onEnd(exchangeDeclare, [x], alone)
    refusals.clear(x)
    refusals.onEnd(exchangeDeclare, [x], alone)
    assert.isUndefined(refusals.reason(x))
  })

  it("is a loss where the broker says nothing, or an operator does", () => {
    const refusals = new TopologyRefusals()
    const lost = new AmqpConnectionError({ reason: new ConnectionLost({ phase: "open", detail: "reset" }) })
    for (let i = 0; i < 5; i++) {
      refusals.onEnd(lost, [x], alone)
      refusals.onEnd(ended(320, 0, 0), [x], alone)
    }
    assert.isFalse(refusals.isSuspect(x))
    assert.isUndefined(refusals.reason(x))
  })
})

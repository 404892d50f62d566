import { assert, describe, it } from "@effect/vitest"
import { Confirms } from "../../src/internal/engine/confirms.ts"

/** Confirms of at most so many unsettled publishes; waiters publish when they are let in. */
const limited = (limit: number) => {
  const log: Array<string> = []
  const later: Array<() => void> = []
  const confirms = new Confirms({
    later: (callback) => void later.push(callback),
    settle: (waiter, outcome) => waiter.onOutcome(outcome)
  })
  confirms.limit = limit
  const write = (name: string) => {
    log.push(`write ${name}`)
    confirms.add({ messageOf: () => undefined, onOutcome: ({ _tag }) => void log.push(`${name} ${_tag}`) })
  }
  const publish = (name: string): () => void => {
    const attempt = () => confirms.isOpen ? write(name) : confirms.wait(attempt)
    attempt()
    return attempt
  }
  return {
    confirms,
    publish,
    log: () => log.splice(0),
    turn: () => {
      for (const callback of later.splice(0)) callback()
    }
  }
}

describe("the window", () => {
  it("lets so many in at a time, in their order, once per batch", () => {
    const { confirms, log, publish, turn } = limited(2)
    for (const name of ["a", "b", "c", "d", "e"]) publish(name)
    assert.deepStrictEqual(log(), ["write a", "write b"])
    confirms.settle(2, true, true)
    assert.deepStrictEqual(log(), ["a Confirmed", "b Confirmed"])
    turn()
    assert.deepStrictEqual(log(), ["write c", "write d"])
    confirms.settle(3, false, false)
    turn()
    assert.deepStrictEqual(log(), ["c Nacked", "write e"])
    turn()
    assert.deepStrictEqual(log(), [])
  })

  it("forgets those who leave", () => {
    const { confirms, log, publish, turn } = limited(1)
    publish("a")
    confirms.unwait(publish("b"))
    publish("c")
    confirms.settle(1, false, true)
    turn()
    assert.deepStrictEqual(log(), ["write a", "a Confirmed", "write c"])
  })

  it("lets everybody look again when the channel is gone", () => {
    const { confirms, log, turn } = limited(1)
    confirms.add({ messageOf: () => undefined, onOutcome: () => {} })
    let looked = 0
    for (let i = 0; i < 3; i++) confirms.wait(() => looked++)
    confirms.fail(undefined, [], false)
    turn()
    assert.strictEqual(looked, 3)
    assert.deepStrictEqual(log(), [])
  })
})

describe("publishes that have waited for too long", () => {
  it("hear so once, keep their place, and make room when the broker answers", () => {
    const { confirms, log, publish, turn } = limited(2)
    publish("a")
    publish("b")
    publish("c")
    log()
    confirms.expire(1, 1)
    confirms.expire(1, 1)
    turn()
    assert.deepStrictEqual(log(), ["a TimedOut"])
    assert.strictEqual(confirms.unsettled, 2)
    confirms.settle(2, true, true)
    turn()
    assert.deepStrictEqual(log(), ["b Confirmed", "write c"])
  })

  it("hear nothing more when the channel is gone", () => {
    const { confirms, log, publish, turn } = limited(2)
    publish("a")
    confirms.expire(1, 1)
    confirms.fail(undefined, [], false)
    turn()
    assert.deepStrictEqual(log(), ["write a", "a TimedOut"])
    assert.strictEqual(confirms.unsettled, 0)
  })
})

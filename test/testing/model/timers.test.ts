/**
 * Deadlines of the embedded broker, by a clock that is turned by hand.
 */
import { assert, describe, it } from "@effect/vitest"
import { Timers } from "../../../src/testing/internal/model/timers.ts"

const make = () => {
  let now = 0
  let earlier = 0
  const timers = new Timers({ now: () => now, onEarlier: () => void earlier++ })
  const done: Array<string> = []
  const set = (name: string, millis: number) => timers.after(millis, () => void done.push(name))
  return {
    timers,
    done,
    set,
    earlier: () => earlier,
    pass: (millis: number) => {
      now += millis
      timers.runDue()
    }
  }
}

describe("Timers", () => {
  it("does what is due, the earliest first, equal ones in the order in which they were set", () => {
    const { done, pass, set, timers } = make()
    set("b", 20)
    set("a", 10)
    set("c", 20)
    set("d", 30)
    assert.strictEqual(timers.next, 10)
    pass(9)
    assert.deepStrictEqual(done, [])
    pass(11)
    assert.deepStrictEqual(done, ["a", "b", "c"])
    assert.strictEqual(timers.next, 30)
  })

  it("says when the next deadline has become earlier, and only then", () => {
    const { earlier, set } = make()
    set("a", 20)
    set("b", 20)
    set("c", 30)
    assert.strictEqual(earlier(), 1)
    set("d", 10)
    assert.strictEqual(earlier(), 2)
  })

  it("leaves out what was cancelled, also by what is due with it", () => {
    const { done, pass, set, timers } = make()
    const cancelled = set("a", 20)
    set("b", 20)
    timers.after(10, () => cancelled.cancel())
    pass(20)
    cancelled.cancel()
    assert.deepStrictEqual(done, ["b"])
    assert.isUndefined(timers.next)
  })

  it("does what was set for a time that has passed when it runs next", () => {
    const { done, pass, set, timers } = make()
    timers.after(10, () => set("a", -5))
    pass(10)
    assert.deepStrictEqual(done, ["a"])
  })
})

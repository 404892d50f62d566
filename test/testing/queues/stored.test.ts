/**
 * Classic and quorum queues of the embedded broker: order, turns, limits, times to live. What is expected was seen at
 * RabbitMQ 3.10.8.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import type { Entry } from "../../../src/testing/internal/model/model.ts"
import { contents, Lab, message, refusal, show } from "./lab.ts"

const quorum = { type: "quorum" } as const

describe("messages", () => {
  it("come in the order in which they were published, by get and by consuming", () => {
    const lab = new Lab()
    const queue = lab.queue("q")
    lab.publish(queue, "a", "b", "c", "d")
    assert.strictEqual(contents(queue), "a b c d")
    assert.strictEqual(lab.get(queue), "a 3")
    const consumer = lab.consume(queue, "c")
    assert.deepStrictEqual(consumer.got, ["b", "c", "d"])
    assert.deepStrictEqual([queue.ready, queue.unsettled], [0, 3])
    consumer.settle("ack")
    assert.strictEqual(queue.unsettled, 0)
    assert.strictEqual(lab.get(queue), undefined)
  })

  it("go back to their old place, marked, whichever way they come back", () => {
    for (const outcome of ["requeue", "abandon"] as const) {
      const lab = new Lab()
      const queue = lab.queue("q")
      lab.publish(queue, "a", "b", "c", "d", "e")
      const consumer = lab.consume(queue, "c", { prefetch: 3 })
      consumer.cancel()
      const [a, b, c] = consumer.held as [Entry, Entry, Entry]
      queue.settle([b], outcome)
      queue.settle([c, a], outcome)
      assert.strictEqual(contents(queue), "a* b* c* d e")
      assert.strictEqual(lab.get(queue), "a* 4")
      assert.strictEqual(queue.unsettled, 0)
    }
  })

  it("are settled at once without acknowledgement", () => {
    const lab = new Lab()
    const queue = lab.queue("q")
    const consumer = lab.consume(queue, "c", { noAck: true })
    lab.publish(queue, "a", "b")
    assert.deepStrictEqual(consumer.got, ["a", "b"])
    assert.strictEqual(queue.unsettled, 0)
    lab.publish(queue, "c")
    assert.strictEqual(lab.get(queue, true), undefined)
  })

  it("that are ready are what a purge takes", () => {
    const lab = new Lab()
    const queue = lab.queue("q")
    lab.publish(queue, "a", "b", "c")
    const consumer = lab.consume(queue, "c", { prefetch: 1 })
    assert.strictEqual(queue.purge(), 2)
    assert.deepStrictEqual([queue.ready, queue.unsettled], [0, 1])
    consumer.cancel()
    consumer.settle("requeue")
    assert.strictEqual(contents(queue), "a*")
  })

  it("outlive a restart if they are persistent", () => {
    const lab = new Lab()
    const queue = lab.queue("q")
    lab.publish(queue, message("a", { deliveryMode: 2 }), message("b", { deliveryMode: 1 }), "c")
    queue.restart()
    assert.strictEqual(contents(queue), "a")
    const replicated = lab.queue("r", {}, quorum)
    lab.publish(replicated, "a")
    replicated.restart()
    assert.strictEqual(contents(replicated), "a")
  })

  it("of a closed queue are nobody's any more", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-message-ttl": 10, "x-expires": 10 })
    const consumer = lab.consume(queue, "c")
    lab.publish(queue, "a", "b")
    queue.close()
    assert.isTrue(consumer.isCancelled)
    consumer.settle("requeue", 1)
    consumer.settle("discard")
    assert.deepStrictEqual([queue.ready, lab.deaths], [0, []])
    // Nor does it set a timer, if it is on the agenda.
    const other = lab.queue("r", { "x-message-ttl": 10, "x-expires": 10 })
    other.publish(message("a"))
    other.close()
    lab.run()
    assert.strictEqual(lab.timers.next, undefined)
  })
})

// -----------------------------------------------------------------------------
// a model
// -----------------------------------------------------------------------------

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

/** What is done to a queue, one after the other; publishing and getting more often than settling. */
const steps = Arbitrary.array(
  Arbitrary.schema(
    Schema.Struct({
      do: Schema.Literals(["publish", "get", "publish", "get", "ack", "requeue", "abandon", "discard"]),
      priority: between(0, 4),
      which: between(0, 7),
      count: between(1, 4)
    })
  ),
  { maxLength: 200 }
)

describe("order", () => {
  for (const maxPriority of [0, 3]) {
    it.prop(
      `whatever is done, what comes next is the oldest of the highest priority (of ${maxPriority})`,
      [steps],
      ([steps]) => {
        const lab = new Lab()
        const queue = lab.queue("q", { "x-max-priority": maxPriority })
        /** Ready ones: sorted anew each time. */
        const model: Array<{ readonly id: number; readonly priority: number; isMarked: boolean }> = []
        const held: Array<{ readonly entry: Entry; readonly item: typeof model[number] }> = []
        let id = 0
        for (const step of steps) {
          if (step.do === "publish") {
            // 0 is also what none is.
            lab.publish(queue, message(String(id), step.priority === 0 ? {} : { priority: step.priority }))
            model.push({ id: id++, priority: Math.min(step.priority, maxPriority), isMarked: false })
          } else if (step.do === "get") {
            const taken = queue.get(false)
            const item = model.shift()
            assert.strictEqual(taken && show(taken.entry), item && `${item.id}${item.isMarked ? "*" : ""}`)
            if (taken !== undefined && item !== undefined) held.push({ entry: taken.entry, item })
          } else {
            const settled = held.splice(held.length === 0 ? 0 : step.which % held.length, step.count)
            queue.settle(settled.map(({ entry }) => entry), step.do)
            if (step.do === "requeue" || step.do === "abandon") {
              for (const { item } of settled) {
                item.isMarked = true
                model.push(item)
              }
            }
          }
          model.sort((a, b) => b.priority - a.priority || a.id - b.id)
          assert.deepStrictEqual([queue.ready, queue.unsettled], [model.length, held.length])
        }
        assert.strictEqual(contents(queue), model.map(({ id, isMarked }) => `${id}${isMarked ? "*" : ""}`).join(" "))
      }
    )
  }

  it("costs nothing per message that waits", () => {
    const lab = new Lab()
    const queue = lab.queue("q")
    const count = 100_000
    const one = message("m")
    for (let i = 0; i < count; i++) queue.publish(one)
    const consumer = lab.consume(queue, "c")
    assert.strictEqual(consumer.held.length, count)
    consumer.cancel()
    consumer.settle("requeue")
    for (let i = 0; i < count; i++) {
      const taken = queue.get(false)
      if (taken === undefined) throw new Error("it is empty")
      queue.settle([taken.entry], i % 2 === 0 ? "ack" : "requeue")
    }
    assert.strictEqual(queue.ready, count / 2)
  })
})

// -----------------------------------------------------------------------------
// consumers
// -----------------------------------------------------------------------------

describe("consumers", () => {
  it("take turns, and one that is not ready does not hold the others up", () => {
    const lab = new Lab()
    const queue = lab.queue("q")
    const a = lab.consume(queue, "a")
    const b = lab.consume(queue, "b", { prefetch: 1 })
    const c = lab.consume(queue, "c")
    lab.publish(queue, "1", "2", "3", "4", "5", "6")
    assert.deepStrictEqual([a.got, b.got, c.got], [["1", "4", "6"], ["2"], ["3", "5"]])
    b.settle("ack")
    lab.publish(queue, "7", "8", "9")
    assert.deepStrictEqual([a.got.slice(3), b.got.slice(1), c.got.slice(2)], [["8"], ["9"], ["7"]])
  })

  it("of a higher priority come first while they are ready", () => {
    const lab = new Lab()
    const queue = lab.queue("q")
    const low = lab.consume(queue, "low")
    const high = lab.consume(queue, "high", { priority: 5, prefetch: 2 })
    const least = lab.consume(queue, "least", { priority: -1 })
    lab.publish(queue, "1", "2", "3", "4")
    assert.deepStrictEqual([high.got, low.got, least.got], [["1", "2"], ["3", "4"], []])
    high.settle("ack", 1)
    lab.publish(queue, "5", "6")
    assert.deepStrictEqual([high.got, low.got], [["1", "2", "5"], ["3", "4", "6"]])
  })

  it("get what others give back", () => {
    const lab = new Lab()
    const queue = lab.queue("q")
    const a = lab.consume(queue, "a", { prefetch: 2 })
    lab.publish(queue, "1", "2")
    const b = lab.consume(queue, "b")
    a.cancel()
    a.settle("abandon")
    assert.deepStrictEqual(b.got, ["1*", "2*"])
  })

  it("may be exclusive, alone", () => {
    const lab = new Lab()
    const queue = lab.queue("q")
    const text = "403 ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"
    const first = lab.consume(queue, "a")
    assert.strictEqual(refusal(() => lab.consume(queue, "b", { isExclusive: true })), text)
    first.cancel()
    const only = lab.consume(queue, "c", { isExclusive: true })
    assert.strictEqual(refusal(() => lab.consume(queue, "d")), text)
    only.cancel()
    lab.consume(queue, "e")
    assert.deepStrictEqual(queue.subscribers.map(({ tag }) => tag), ["e"])
    // Quorum queues do not know it.
    const replicated = lab.queue("r", {}, quorum)
    lab.consume(replicated, "a", { isExclusive: true })
    lab.consume(replicated, "b", { isExclusive: true })
  })

  it("may be one at a time, of which the next takes over: by priority, in a quorum queue by arrival", () => {
    for (const type of ["classic", "quorum"] as const) {
      const lab = new Lab()
      const queue = lab.queue("q", { "x-single-active-consumer": true }, { type })
      const a = lab.consume(queue, "a", { prefetch: 1 })
      const b = lab.consume(queue, "b")
      const c = lab.consume(queue, "c", { priority: 5 })
      lab.publish(queue, "1", "2")
      assert.deepStrictEqual([a.got, b.got, c.got], [["1"], [], []])
      a.settle("ack")
      assert.deepStrictEqual(a.got, ["1", "2"])
      a.cancel()
      lab.publish(queue, "3")
      assert.deepStrictEqual([b.got, c.got], type === "quorum" ? [["3"], []] : [[], ["3"]])
    }
    const lab = new Lab()
    const queue = lab.queue("q", { "x-single-active-consumer": true })
    assert.strictEqual(
      refusal(() => lab.consume(queue, "a", { isExclusive: true })),
      "403 ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"
    )
  })

  it("take an auto-delete queue with them, once there were any", () => {
    const lab = new Lab()
    const queue = lab.queue("q", {}, { autoDelete: true })
    lab.publish(queue, "1")
    assert.isTrue(lab.queues.has("q"))
    const a = lab.consume(queue, "a")
    const b = lab.consume(queue, "b")
    a.cancel()
    assert.isTrue(lab.queues.has("q"))
    b.cancel()
    assert.isFalse(lab.queues.has("q"))
  })
})

// -----------------------------------------------------------------------------
// times
// -----------------------------------------------------------------------------

describe("a time to live", () => {
  it("is the queue's or the message's, whichever is less, and ends at the head alone", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-message-ttl": 100 })
    lab.publish(queue, "queue's", message("own", { expiration: "10" }), message("longer", { expiration: "1000" }))
    lab.pass(50)
    // Not at the head, so it is still there, and counts.
    assert.strictEqual(queue.ready, 3)
    lab.pass(49)
    assert.strictEqual(queue.ready, 3)
    lab.pass(1)
    assert.deepStrictEqual([queue.ready, lab.deaths.length], [0, 3])
    lab.publish(queue, message("own", { expiration: "10" }), "queue's")
    lab.pass(10)
    assert.strictEqual(contents(queue), "queue's")
  })

  it("goes on while a message is out, and is over when it comes back late", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-message-ttl": 100 })
    lab.publish(queue, "a", "b")
    const consumer = lab.consume(queue, "c", { prefetch: 1 })
    lab.pass(200)
    assert.strictEqual(queue.ready, 0)
    assert.strictEqual(queue.unsettled, 1)
    consumer.settle("requeue")
    assert.deepStrictEqual(consumer.got, ["a"])
    assert.deepStrictEqual(lab.deaths, ["q expired", "q expired"])
  })

  it("of 0 is enough for a consumer that is ready at once", () => {
    for (const [args, expiration] of [[{ "x-message-ttl": 0 }, undefined], [{}, "0"]] as const) {
      const lab = new Lab()
      const queue = lab.queue("q", args)
      const now = (body: string) => message(body, { ...(expiration !== undefined && { expiration }) })
      lab.publish(queue, now("a"))
      assert.strictEqual(queue.ready, 0)
      const consumer = lab.consume(queue, "c", { prefetch: 1 })
      lab.publish(queue, now("b"), now("c"))
      assert.deepStrictEqual(consumer.got, ["b"])
      consumer.settle("requeue")
      assert.deepStrictEqual([consumer.got, queue.ready], [["b"], 0])
      // "At once" is before anything else happens, not before the clock moves.
      queue.publish(now("d"))
      lab.now += 5
      lab.run()
      assert.deepStrictEqual(consumer.got, ["b", "d"])
    }
  })

  it("takes one timer of a queue", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-message-ttl": 100 })
    for (let i = 0; i < 10; i++) {
      lab.publish(queue, String(i))
      lab.pass(1)
    }
    let ticks = 0
    while (lab.timers.next !== undefined) {
      lab.pass(lab.timers.next - lab.now)
      ticks++
    }
    assert.deepStrictEqual([ticks, queue.ready], [10, 0])
  })

  it("is the queue's own, too, while nobody uses it", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-expires": 100 })
    lab.publish(queue, "a", "b", "c")
    lab.pass(99)
    lab.get(queue)
    lab.pass(99)
    queue.touch()
    lab.pass(99)
    const consumer = lab.consume(queue, "c")
    lab.pass(1000)
    assert.isTrue(lab.queues.has("q"))
    consumer.cancel()
    lab.pass(99)
    assert.isTrue(lab.queues.has("q"))
    lab.pass(1)
    assert.isFalse(lab.queues.has("q"))
  })
})

// -----------------------------------------------------------------------------
// limits
// -----------------------------------------------------------------------------

describe("a limit", () => {
  it("of messages drops the oldest that are ready", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-max-length": 2 })
    lab.publish(queue, "a", "b", "c")
    assert.strictEqual(contents(queue), "b c")
    const consumer = lab.consume(queue, "c", { prefetch: 1 })
    // What is out does not count, until it comes back.
    lab.publish(queue, "d")
    assert.strictEqual(contents(queue), "c d")
    consumer.settle("requeue")
    assert.deepStrictEqual([consumer.got, contents(queue)], [["b", "c"], "d"])
    assert.deepStrictEqual(lab.deaths, ["q maxlen", "q maxlen"])
  })

  it("of bytes counts bodies", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-max-length-bytes": 5 })
    lab.publish(queue, "aa", "bb", message("c", { headers: { long: "header" } }))
    assert.strictEqual(contents(queue), "aa bb c")
    lab.publish(queue, "d")
    assert.strictEqual(contents(queue), "bb c d")
    lab.publish(queue, "too long")
    assert.strictEqual(contents(queue), "")
  })

  it("is no obstacle for what a consumer takes at once", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-max-length": 0 })
    const consumer = lab.consume(queue, "c", { prefetch: 1 })
    lab.publish(queue, "a", "b")
    assert.deepStrictEqual([consumer.got, queue.ready], [["a"], 0])
  })

  it("may refuse new messages instead", () => {
    for (const overflow of ["reject-publish", "reject-publish-dlx"]) {
      const lab = new Lab()
      const queue = lab.queue("q", {
        "x-max-length": 2,
        "x-overflow": overflow,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead"
      })
      const dead = lab.queue("dead")
      assert.deepStrictEqual(lab.publish(queue, "a", "b", "c"), [true, true, false])
      assert.strictEqual(contents(queue), "a b")
      assert.strictEqual(contents(dead), overflow === "reject-publish" ? "" : "c")
      lab.get(queue)
      assert.deepStrictEqual(lab.publish(queue, "d", "e"), [true, false])
      const bytes = lab.queue("bytes", { "x-max-length-bytes": 3, "x-overflow": overflow })
      assert.deepStrictEqual(lab.publish(bytes, "aa", "bb", "c"), [true, false, true])
    }
  })

  it("of a quorum queue refuses from one message too many until a fifth of it is free", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-max-length": 10, "x-overflow": "reject-publish" }, quorum)
    const taken = lab.publish(queue, ..."0123456789abc")
    assert.deepStrictEqual(taken, [...Array.from({ length: 11 }, () => true), false, false])
    const later = Array.from({ length: 4 }, () => {
      lab.get(queue)
      return lab.publish(queue, "x")[0]
    })
    assert.deepStrictEqual(later, [false, false, true, true])
  })
})

// -----------------------------------------------------------------------------
// quorum queues
// -----------------------------------------------------------------------------

describe("a quorum queue", () => {
  const count = (entry: Entry | undefined) => entry?.message.received.properties.headers?.["x-delivery-count"]

  it("counts how often a message came back, and puts it behind all others", () => {
    const lab = new Lab()
    const queue = lab.queue("q", {}, quorum)
    lab.publish(queue, "1", "2", "3", "4")
    const first = queue.get(false)
    // By get it always has the header, by consuming from the second time on.
    assert.strictEqual(count(first?.entry), 0)
    if (first !== undefined) queue.settle([first.entry], "requeue")
    const consumer = lab.consume(queue, "c", { prefetch: 3 })
    assert.deepStrictEqual([consumer.got, consumer.held.map(count)], [["2", "3", "4"], [
      undefined,
      undefined,
      undefined
    ]])
    const [two, three, four] = consumer.held.splice(0) as [Entry, Entry, Entry]
    consumer.held.push(two, four)
    queue.settle([three], "requeue")
    lab.run()
    consumer.held.shift()
    queue.settle([two], "requeue")
    lab.run()
    assert.deepStrictEqual(consumer.got, ["2", "3", "4", "1*", "3*"])
    assert.deepStrictEqual(consumer.held.map(count), [undefined, 1, 1])
    // At the end of the channel they go to the front.
    consumer.cancel()
    consumer.settle("abandon")
    assert.strictEqual(contents(queue), "4* 1* 3* 2*")
    assert.deepStrictEqual(queue.entries().map(count), [1, 2, 2, 1])
  })

  it("with a limit puts it before all others, and gives it up after so many", () => {
    const lab = new Lab()
    const queue = lab.queue("q", {
      "x-delivery-limit": 1,
      "x-dead-letter-exchange": "",
      "x-dead-letter-routing-key": "dead"
    }, quorum)
    const dead = lab.queue("dead")
    lab.publish(queue, "1", "2", "3", "4")
    const consumer = lab.consume(queue, "c", { prefetch: 3 })
    const [one, two, three] = consumer.held.splice(0) as [Entry, Entry, Entry]
    consumer.held.push(two)
    queue.settle([three], "requeue")
    queue.settle([one], "requeue")
    lab.run()
    assert.deepStrictEqual(consumer.got, ["1", "2", "3", "3*", "1*"])
    consumer.cancel()
    consumer.settle("abandon")
    assert.strictEqual(contents(queue), "2* 4")
    assert.strictEqual(contents(dead), "3 1")
    assert.deepStrictEqual(lab.deaths, ["q delivery_limit", "q delivery_limit"])
    assert.isTrue(dead.entries().every((entry) => count(entry) === undefined))
  })

  it("gives a message that expires at once a moment", () => {
    const lab = new Lab()
    const queue = lab.queue("q", {}, quorum)
    lab.publish(queue, message("a", { expiration: "0" }))
    assert.strictEqual(queue.ready, 1)
    lab.pass(1)
    assert.strictEqual(queue.ready, 0)
  })

  it("gives the turn to whoever was ready first", () => {
    const turns = (type: "classic" | "quorum") => {
      const lab = new Lab()
      const queue = lab.queue("q", {}, { type })
      const a = lab.consume(queue, "a", { prefetch: 1 })
      const b = lab.consume(queue, "b", { prefetch: 1 })
      lab.publish(queue, "1", "2")
      b.settle("ack")
      a.settle("ack")
      lab.publish(queue, "3")
      return [a.got, b.got]
    }
    assert.deepStrictEqual(turns("quorum"), [["1"], ["2", "3"]])
    assert.deepStrictEqual(turns("classic"), [["1", "3"], ["2"]])
  })

  it("refuses what RabbitMQ's refuses", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-single-active-consumer": true }, quorum)
    assert.strictEqual(
      refusal(() => lab.consume(queue, "c", { hasGlobalPrefetch: true })),
      "540 NOT_IMPLEMENTED - queue 'q' in vhost '/' does not support global qos"
    )
    assert.strictEqual(
      refusal(() => queue.get(true)),
      "405 RESOURCE_LOCKED - cannot obtain access to locked queue 'q' in vhost '/'. basic.get operations are not " +
        "supported by quorum queues with single active consumer"
    )
    assert.strictEqual(
      refusal(() => lab.queue("r", { "x-dead-letter-strategy": "at-least-once" }, quorum)),
      "540 NOT_IMPLEMENTED - x-dead-letter-strategy 'at-least-once'"
    )
  })
})

/**
 * Dead-lettering in the embedded broker: what the headers say, and which queues a message does not come back to. The
 * headers are those that RabbitMQ 3.10.8 wrote for the same.
 */
import { assert, describe, it } from "@effect/vitest"
import * as AmqpTable from "../../../src/AmqpTable.ts"
import type { Message } from "../../../src/testing/internal/model/message.ts"
import type { Queue } from "../../../src/testing/internal/model/model.ts"
import { contents, Lab, message } from "./lab.ts"

const { array, int64, longString, table, timestamp } = AmqpTable

const to = (queue: string) => ({ "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue })

/** Takes the first message. */
const take = (lab: Lab, queue: Queue): Message => {
  const taken = queue.get(false)
  if (taken === undefined) throw new Error(`${queue.name} is empty`)
  queue.settle([taken.entry], "ack")
  lab.run()
  return taken.entry.message
}

/** Rejects the first message. */
const reject = (lab: Lab, queue: Queue): void => {
  const taken = queue.get(false)
  if (taken === undefined) throw new Error(`${queue.name} is empty`)
  queue.settle([taken.entry], "discard")
  lab.run()
}

/** A death as one reads it: `count reason queue`. */
const deaths = (one: Message): Array<string> => {
  const all = one.received.properties.headers?.["x-death"]
  return Array.isArray(all) ? all.map(({ count, queue, reason }) => `${count} ${reason} ${queue}`) : []
}

describe("a first death", () => {
  it("is told in full, before what the message's headers were, which are sorted", () => {
    const lab = new Lab()
    lab.now = 1_700_000_000_990
    const queue = lab.queue("q", to("dead"))
    const dead = lab.queue("dead")
    lab.publish(
      queue,
      message("m", {
        contentType: "text/plain",
        deliveryMode: 2,
        expiration: "5",
        headers: table([["zz", AmqpTable.int16(1)], ["CC", array([longString("copy")])], ["aa", longString("x")]])
      }, { exchange: "orders", routingKey: "new" })
    )
    lab.pass(5)
    const letter = take(lab, dead)
    assert.deepStrictEqual([letter.exchange, letter.routingKey], ["", "dead"])
    assert.deepStrictEqual(
      letter.headers,
      table([
        ["aa", longString("x")],
        [
          "x-death",
          array([table([
            ["count", int64(1n)],
            ["reason", longString("expired")],
            ["queue", longString("q")],
            ["time", timestamp(1_700_000_000n)],
            ["exchange", longString("orders")],
            ["routing-keys", array([longString("new"), longString("copy")])],
            ["original-expiration", longString("5")]
          ])])
        ],
        ["x-first-death-exchange", longString("orders")],
        ["x-first-death-queue", longString("q")],
        ["x-first-death-reason", longString("expired")],
        ["zz", AmqpTable.int16(1)]
      ])
    )
    // Above all no expiration.
    const { headers: _headers, ...rest } = letter.decoded
    assert.deepStrictEqual(rest, { contentType: "text/plain", deliveryMode: 2 })
  })

  it("leaves routing key and CC as they are where the queue has no key for dead letters", () => {
    const lab = new Lab()
    const dead = lab.queue("dead")
    const queue = lab.queue("q", { "x-dead-letter-exchange": "", "x-max-length": 0 })
    lab.publish(queue, message("m", { headers: { CC: ["copy"] } }, { routingKey: "dead" }))
    const letter = take(lab, dead)
    assert.deepStrictEqual(letter.received.properties.headers?.["CC"], ["copy"])
  })

  it("of several at once comes to what get took, then to consumers in the order of their tags", () => {
    const lab = new Lab()
    const queue = lab.queue("q", to("dead"))
    const dead = lab.queue("dead")
    const b = lab.consume(queue, "b")
    const a = lab.consume(queue, "a")
    lab.publish(queue, "b1", "a1", "b2", "a2")
    b.cancel()
    a.cancel()
    lab.publish(queue, "got")
    const got = queue.get(false)
    queue.settle([...b.held, ...a.held, ...(got === undefined ? [] : [got.entry])], "discard")
    assert.strictEqual(contents(dead), "got a1 a2 b1 b2")
  })

  it("is nothing that anybody gets to know without a dead-letter exchange", () => {
    const lab = new Lab()
    const queue = lab.queue("q", { "x-max-length": 1 })
    lab.publish(queue, "a", "b")
    reject(lab, queue)
    assert.deepStrictEqual(
      lab.events.filter(({ _tag }) => _tag === "DeadLettered"),
      (["maxlen", "rejected"] as const).map((reason) => ({
        _tag: "DeadLettered" as const,
        vhost: "/",
        queue: "q",
        exchange: undefined,
        reason
      }))
    )
  })

  it("resets what the publisher made up", () => {
    const lab = new Lab()
    const dead = lab.queue("dead")
    const queue = lab.queue("q", { ...to("dead"), "x-max-length": 0 })
    lab.publish(queue, message("m", { headers: { "x-death": "foo" } }))
    const letter = take(lab, dead)
    assert.deepStrictEqual(deaths(letter), ["1 maxlen q"])
    assert.deepStrictEqual(Object.keys(letter.received.properties.headers ?? {}), ["x-death"])
    // With any integer type for the count.
    lab.publish(queue, message("m", { headers: { "x-death": [{ queue: "q", reason: "maxlen", count: 5 }] } }))
    assert.deepStrictEqual(
      take(lab, dead).headers,
      table([[
        "x-death",
        array([table([["count", int64(6n)], ["queue", longString("q")], ["reason", longString("maxlen")]])])
      ]])
    )
  })
})

describe("further deaths", () => {
  it("come first, with their fields sorted, and turn the others around", () => {
    const lab = new Lab()
    const [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map((name, i) =>
      lab.queue(name, i < 4 ? to("bcde"[i] ?? "") : {})
    )
    if (a === undefined || b === undefined || c === undefined || d === undefined || e === undefined) throw new Error()
    lab.publish(a, message("m", { expiration: "1" }, { routingKey: "a" }))
    lab.pass(1)
    reject(lab, b)
    reject(lab, c)
    const [first] = d.entries()
    assert.deepStrictEqual(first && deaths(first.message), ["1 rejected c", "1 expired a", "1 rejected b"])
    reject(lab, d)
    const letter = take(lab, e)
    assert.deepStrictEqual(deaths(letter), ["1 rejected d", "1 rejected b", "1 expired a", "1 rejected c"])
    const [, all] = letter.headers.value.find(([key]) => key === "x-death") ?? []
    const keys = all?._tag === "Array"
      ? all.value.map((death) => death._tag === "Table" ? death.value.map(([key]) => key) : [])
      : []
    const later = ["count", "exchange", "queue", "reason", "routing-keys", "time"]
    assert.deepStrictEqual(keys, [
      later,
      later,
      ["count", "reason", "queue", "time", "exchange", "routing-keys", "original-expiration"],
      later
    ])
    assert.strictEqual(letter.received.properties.headers?.["x-first-death-queue"], "a")
  })

  it("in the same queue for the same reason are counted", () => {
    const lab = new Lab()
    const work = lab.queue("work", to("retry"))
    lab.queue("retry", { ...to("work"), "x-message-ttl": 10 })
    lab.publish(work, "m")
    for (let i = 0; i < 3; i++) {
      reject(lab, work)
      lab.pass(10)
    }
    assert.deepStrictEqual(deaths(take(lab, work)), ["3 expired retry", "3 rejected work"])
  })
})

describe("a circle", () => {
  it("of queues that nobody rejects in ends where it would close", () => {
    const lab = new Lab()
    const a = lab.queue("a", { ...to("b"), "x-message-ttl": 10 })
    const b = lab.queue("b", { ...to("a"), "x-message-ttl": 10 })
    lab.publish(a, "m")
    lab.pass(10)
    assert.deepStrictEqual([contents(a), contents(b)], ["", "m"])
    lab.pass(10)
    assert.deepStrictEqual([contents(a), contents(b)], ["", ""])
    assert.deepStrictEqual(lab.deaths, ["a expired", "b expired"])
    // Of one queue, too.
    const self = lab.queue("self", { ...to("self"), "x-max-length": 0 })
    lab.publish(self, "m")
    assert.deepStrictEqual(lab.deaths.slice(2), ["self maxlen"])
  })

  it("goes on while somebody rejects in it", () => {
    const lab = new Lab()
    const self = lab.queue("self", to("self"))
    lab.publish(self, "m")
    for (let i = 0; i < 3; i++) reject(lab, self)
    const taken = take(lab, self)
    assert.deepStrictEqual(deaths(taken), ["3 rejected self"])
  })
})

/**
 * Streams of the embedded broker: offsets, credit, retention, and what they refuse. What is expected was seen at
 * RabbitMQ 3.10.8.
 */
import { assert, describe, it } from "@effect/vitest"
import * as AmqpTable from "../../../src/AmqpTable.ts"
import { type Consumer, contents, Lab, message, refusal } from "./lab.ts"

const make = (args: AmqpTable.PlainTable = {}) => {
  const lab = new Lab()
  const stream = lab.queue("s", args, { type: "stream" })
  return {
    lab,
    stream,
    consume: (offset?: AmqpTable.Plain, prefetch = 100): Consumer =>
      lab.consume(stream, "c", { prefetch, ...(offset !== undefined && { arguments: { "x-stream-offset": offset } }) })
  }
}

describe("a stream", () => {
  it("keeps what it has delivered, and tells the offset", () => {
    const { consume, lab, stream } = make()
    lab.publish(stream, "a", "b")
    const one = consume("first")
    const other = consume("first")
    lab.publish(stream, "c")
    assert.deepStrictEqual([one.got, other.got], [["a", "b", "c"], ["a", "b", "c"]])
    assert.deepStrictEqual(
      one.held.map(({ message }) => message.headers),
      [0n, 1n, 2n].map((offset) => AmqpTable.table([["x-stream-offset", AmqpTable.int64(offset)]]))
    )
    one.settle("ack")
    other.cancel()
    other.settle("abandon")
    assert.deepStrictEqual([contents(stream), stream.ready, stream.unsettled], ["a b c", 3, 0])
  })

  it("delivers as many as there is room for", () => {
    const { consume, lab, stream } = make()
    lab.publish(stream, "a", "b", "c", "d")
    const consumer = consume("first", 2)
    assert.deepStrictEqual(consumer.got, ["a", "b"])
    consumer.settle("ack", 1)
    assert.deepStrictEqual(consumer.got, ["a", "b", "c"])
    lab.publish(stream, "e")
    assert.deepStrictEqual(consumer.got, ["a", "b", "c"])
    consumer.settle("ack")
    assert.deepStrictEqual(consumer.got, ["a", "b", "c", "d", "e"])
  })

  it("is read from any offset", () => {
    const { consume, lab, stream } = make()
    lab.now = 1_700_000_000_000
    for (const body of ["0", "1", "2", "3"]) {
      lab.publish(stream, body)
      lab.pass(60_000)
    }
    const at = (seconds: number) => new Date((1_700_000_000 + seconds) * 1000)
    const cases: ReadonlyArray<readonly [AmqpTable.Plain | undefined, string]> = [
      ["first", "0123n"],
      ["last", "3n"],
      ["next", "n"],
      [undefined, "n"],
      [2, "23n"],
      [3n, "3n"],
      [-1, "0123n"],
      [at(60), "123n"],
      [at(61), "23n"],
      [at(-1), "0123n"],
      [at(500), "n"],
      ["1h", "0123n"],
      ["2m", "23n"],
      ["1s", "n"]
    ]
    const consumers = cases.map(([offset]) => consume(offset))
    const later = consume(5)
    lab.publish(stream, "n")
    for (const [i, [offset, bodies]] of cases.entries()) {
      assert.strictEqual(consumers[i]?.got.join(""), bodies, String(offset))
    }
    assert.deepStrictEqual(later.got, [])
    lab.publish(stream, "later")
    assert.deepStrictEqual(later.got, ["later"])
  })

  it("starts empty at 0, whatever the offset", () => {
    const { consume, lab, stream } = make()
    const consumers = ["first", "last", "next"].map((offset) => consume(offset))
    lab.publish(stream, "a")
    assert.deepStrictEqual(consumers.map(({ got }) => got), [["a"], ["a"], ["a"]])
  })

  it("loses the headers that have no simple type", () => {
    const { consume, lab, stream } = make()
    const kept = { a: 1, b: "x", c: true, d: new Uint8Array([1]) }
    lab.publish(stream, message("m", { priority: 1, headers: { t: { n: 1 }, ...kept, arr: [1], nul: null } }))
    const [entry] = consume("first").held
    assert.deepStrictEqual(entry?.message.received.properties, {
      priority: 1,
      headers: { ...kept, "x-stream-offset": 0 }
    })
  })

  it("drops whole segments, the oldest first, never the current one", () => {
    const { consume, lab, stream } = make({ "x-max-length-bytes": 4, "x-stream-max-segment-size-bytes": 2 })
    const slow = consume("first", 1)
    lab.publish(stream, ..."abcd")
    assert.strictEqual(contents(stream), "a b c d")
    lab.publish(stream, "e")
    assert.strictEqual(contents(stream), "c d e")
    // Who has not read them never will.
    slow.settle("ack")
    assert.deepStrictEqual(slow.got, ["a", "c"])
    assert.deepStrictEqual(slow.held.map((entry) => entry.message.received.properties.headers), [
      { "x-stream-offset": 2 }
    ])
    // Nor does one message that is too long by itself go.
    lab.publish(stream, "too long", "longer still")
    assert.strictEqual(contents(stream), "longer still")
    const aged = make({ "x-max-age": "1m", "x-stream-max-segment-size-bytes": 1 })
    aged.lab.publish(aged.stream, "a")
    aged.lab.pass(60_000)
    aged.lab.publish(aged.stream, "b")
    assert.strictEqual(contents(aged.stream), "a b")
    aged.lab.pass(1)
    aged.lab.publish(aged.stream, "c")
    assert.strictEqual(contents(aged.stream), "b c")
  })

  it("survives a restart", () => {
    const { lab, stream } = make()
    lab.publish(stream, "a")
    stream.restart()
    assert.strictEqual(contents(stream), "a")
  })

  it("tells its consumers when it is deleted", () => {
    const { consume, stream } = make()
    const consumer = consume()
    stream.close()
    assert.isTrue(consumer.isCancelled)
    assert.deepStrictEqual(stream.subscribers, [])
  })

  it("refuses what RabbitMQ's refuse", () => {
    const { consume, lab, stream } = make()
    const title = "queue 's' in vhost '/'"
    lab.publish(stream, "a")
    const consumer = consume("first")
    assert.deepStrictEqual(
      [
        () => stream.get(true),
        () => stream.purge(),
        () => stream.settle(consumer.held, "requeue"),
        () => stream.settle(consumer.held, "discard"),
        () => consume("first", 0),
        () => lab.consume(stream, "d", { prefetch: 1, noAck: true }),
        () => lab.consume(stream, "d", { prefetch: 1, hasGlobalPrefetch: true }),
        () => consume("soon")
      ].map(refusal),
      [
        `540 NOT_IMPLEMENTED - basic.get not supported by stream queues ${title}`,
        `540 NOT_IMPLEMENTED - queue.purge not supported by stream queues ${title}`,
        `540 NOT_IMPLEMENTED - basic.nack and basic.reject not supported by stream queues ${title}`,
        `540 NOT_IMPLEMENTED - basic.nack and basic.reject not supported by stream queues ${title}`,
        `406 PRECONDITION_FAILED - consumer prefetch count is not set for '${title}'`,
        `540 NOT_IMPLEMENTED - automatic acknowledgement not supported by stream queues ${title}`,
        `540 NOT_IMPLEMENTED - ${title} does not support global qos`,
        "541 INTERNAL_ERROR"
      ]
    )
  })
})

/**
 * What is printed of events and frames: readable, and harmless to a terminal.
 */
import { assert, describe, it } from "@effect/vitest"
import { describeEvent, describeFrame } from "../../../src/testing/internal/model/describe.ts"

const vhost = "/"
const channel = { connection: "127.0.0.1:50022", channel: 1 }

describe("lines", () => {
  it("say where, and what", () => {
    const lines = [
      describeEvent({ _tag: "QueueDeclared", vhost, queue: "orders", type: "quorum" }),
      describeEvent({ _tag: "QueueDeclared", vhost: "staging", queue: "two words", type: "classic" }),
      describeEvent({
        _tag: "Bound",
        vhost,
        source: "amq.topic",
        destination: "orders",
        destinationType: "queue",
        routingKey: "order.#"
      }),
      describeEvent({
        _tag: "Delivered",
        ...channel,
        consumerTag: undefined,
        queue: "orders",
        deliveryTag: 3,
        redelivered: true,
        size: 1
      }),
      describeEvent({ _tag: "Settled", ...channel, queue: "orders", outcome: "discard", count: 2 }),
      describeEvent({ _tag: "DeadLettered", vhost, queue: "orders", exchange: undefined, reason: "maxlen" }),
      describeEvent({ _tag: "DeadLettered", vhost, queue: "orders", exchange: "", reason: "expired" }),
      describeFrame({ connection: "memory:1", direction: "down", frame: { _tag: "Heartbeat" } }),
      describeFrame({
        connection: "memory:1",
        direction: "up",
        frame: {
          _tag: "Method",
          channel: 2,
          method: {
            _tag: "queue.declare",
            queue: "",
            passive: false,
            durable: true,
            exclusive: false,
            autoDelete: false,
            noWait: false,
            arguments: { "x-max-length": 3, list: ["a", 1n, null], bytes: new Uint8Array(2) }
          }
        }
      })
    ]
    assert.deepStrictEqual(lines, [
      "queue orders declared (quorum)",
      `vhost staging queue "two words" declared (classic)`,
      "queue orders bound to amq.topic with order.#",
      "127.0.0.1:50022 #1 delivered 1 byte from orders to basic.get (tag 3, redelivered)",
      "127.0.0.1:50022 #1 discarded 2 of orders",
      "orders dropped a message (maxlen)",
      "orders dead-lettered a message to the default exchange (expired)",
      "memory:1 ← heartbeat",
      `memory:1 → #2 queue.declare queue="" passive=false durable=true exclusive=false autoDelete=false noWait=false ` +
      `arguments={x-max-length=3 list=[a 1 null] bytes=<2 bytes>}`
    ])
  })

  it("are of a size for people", () => {
    const line = describeFrame({
      connection: "memory:1",
      direction: "up",
      frame: {
        _tag: "Method",
        channel: 2,
        method: {
          _tag: "exchange.bind",
          destination: "",
          source: "",
          routingKey: "",
          noWait: false,
          arguments: { key: "x".repeat(100_000) }
        }
      }
    })
    assert.isBelow(line.length, 1100)
  })

  it("do not let clients write to the terminal", () => {
    const hostile = "\u001b[2J\u009b31m\n\u202e\u2066\u007f"
    const lines = [
      describeEvent({ _tag: "QueueDeclared", vhost: hostile, queue: hostile, type: hostile }),
      describeEvent({ _tag: "ConnectionClosed", connection: "memory:1", reason: `it said ${hostile}` })
    ]
    for (const line of lines) {
      assert.notMatch(line, /[\p{Cc}\p{Cf}]/u)
    }
    assert.include(lines[1], "it said \\u{1b}[2J")
  })
})

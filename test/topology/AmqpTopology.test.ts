import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import * as AmqpTable from "../../src/AmqpTable.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import { diagnose } from "../../src/internal/topology/diagnosis.ts"
import { inOrder } from "../../src/internal/topology/order.ts"

const { bind, bindExchange, classicQueue, exchange, passiveExchange, passiveQueue, quorumQueue, serverNamedQueue } =
  AmqpTopology
const { streamQueue } = AmqpTopology

describe("values", () => {
  it("typed options become arguments; what is not given is not there", () => {
    const queue = classicQueue("q", {
      messageTtl: "5 seconds",
      expires: Duration.minutes(1),
      maxLength: 10,
      maxLengthBytes: 1000,
      overflow: "reject-publish-dlx",
      deadLetter: { exchange: "", routingKey: "dead" },
      maxPriority: 5,
      singleActiveConsumer: true,
      queueMode: "lazy",
      version: 2,
      arguments: { "x-plugin": true }
    })
    assert.deepStrictEqual(queue, {
      _tag: "Queue",
      name: "q",
      type: "classic",
      durable: true,
      exclusive: false,
      autoDelete: false,
      arguments: {
        "x-queue-type": "classic",
        "x-message-ttl": 5000,
        "x-expires": 60_000,
        "x-max-length": 10,
        "x-max-length-bytes": 1000,
        "x-overflow": "reject-publish-dlx",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
        "x-max-priority": 5,
        "x-single-active-consumer": true,
        "x-queue-mode": "lazy",
        "x-queue-version": 2,
        "x-plugin": true
      }
    })
    assert.deepStrictEqual(classicQueue("q").arguments, { "x-queue-type": "classic" })
  })

  it("quorum queues and streams", () => {
    const quorum = quorumQueue("q", {
      deliveryLimit: 5,
      deadLetter: { exchange: "dead", strategy: "at-least-once" },
      overflow: "reject-publish",
      initialGroupSize: 3,
      leaderLocator: "balanced"
    })
    assert.deepStrictEqual(quorum.arguments, {
      "x-queue-type": "quorum",
      "x-overflow": "reject-publish",
      "x-dead-letter-exchange": "dead",
      "x-dead-letter-strategy": "at-least-once",
      "x-delivery-limit": 5,
      "x-quorum-initial-group-size": 3,
      "x-queue-leader-locator": "balanced"
    })
    const stream = streamQueue("s", {
      maxAge: "2 hours",
      maxLengthBytes: 1e12,
      maxSegmentSizeBytes: 1e6,
      initialClusterSize: 3
    })
    assert.deepStrictEqual(stream.arguments, {
      "x-queue-type": "stream",
      "x-max-length-bytes": 1e12,
      "x-max-age": "7200s",
      "x-stream-max-segment-size-bytes": 1e6,
      "x-initial-cluster-size": 3
    })
  })

  it("exchanges and server-named queues", () => {
    assert.deepStrictEqual(exchange("x", { type: "topic", alternateExchange: "rest" }), {
      _tag: "Exchange",
      name: "x",
      type: "topic",
      durable: true,
      autoDelete: false,
      internal: false,
      arguments: { "alternate-exchange": "rest" }
    })
    const { durable, exclusive } = serverNamedQueue()
    assert.deepStrictEqual({ durable, exclusive }, { durable: false, exclusive: true })
  })

  it("they are declared exchanges first (alternates before the others), then queues, then bindings", () => {
    const binding = bind({ queue: "q", exchange: "a" })
    const toOther = bindExchange({ destination: "b", source: "a" })
    const queue = quorumQueue("q")
    const [a, b, c] = [
      exchange("a", { alternateExchange: "b" }),
      exchange("b", { alternateExchange: "c" }),
      exchange("c", { alternateExchange: "a" })
    ]
    assert.deepStrictEqual(inOrder([binding, toOther, queue, a, b, c]), [c, b, a, queue, toOther, binding])
  })
})

describe("diagnosis", () => {
  it("what may work is not refused", () => {
    const replies = serverNamedQueue()
    assert.deepStrictEqual(
      diagnose([
        exchange("orders", { type: "topic", alternateExchange: "elsewhere" }),
        quorumQueue("billing", { deliveryLimit: 5, deadLetter: { exchange: "orders.dead" } }),
        bind({ queue: "billing", exchange: "orders", routingKey: "order.*.paid" }),
        bind({ queue: "billing", exchange: "orders", routingKey: "order.*.paid" }),
        exchange("orders", { type: "topic", alternateExchange: "elsewhere" }),
        replies,
        serverNamedQueue({ exclusive: false, expires: "1 hour" }),
        bind({ queue: replies, exchange: "amq.topic", routingKey: "#" }),
        passiveQueue("theirs"),
        passiveExchange("their.exchange"),
        bind({ queue: "theirs", exchange: "their.exchange" }),
        bindExchange({ destination: "orders", source: "their.exchange" }),
        classicQueue("odd", { arguments: { "x-max-length": AmqpTable.int64(5n), "x-of-a-plugin": 1 } })
      ]),
      []
    )
  })

  const cases: ReadonlyArray<readonly [string, ReadonlyArray<AmqpTopology.Entity>, ReadonlyArray<RegExp>]> = [
    // Options that the types do not offer: from a caller without types, or by way of a variable.
    ["an exclusive quorum queue", [quorumQueue("q", untyped({ exclusive: true }))], [/quorum .* cannot be exclusive/]],
    [
      "an auto-delete quorum queue",
      [quorumQueue("q", untyped({ autoDelete: true }))],
      [/quorum .* cannot be auto-delete/]
    ],
    ["a transient quorum queue", [quorumQueue("q", untyped({ durable: false }))], [/quorum queue is always durable/]],
    ["priorities on a quorum queue", [quorumQueue("q", untyped({ maxPriority: 5 }))], [
      /quorum queue has no x-max-prio/
    ]],
    [
      "priorities on a quorum queue by argument",
      [quorumQueue("q", { arguments: { "x-max-priority": 5 } })],
      [/x-max-priority/]
    ],
    ["a quorum queue that is lazy", [quorumQueue("q", untyped({ queueMode: "lazy" }))], [/x-queue-mode/]],
    ["an exclusive stream", [streamQueue("q", untyped({ exclusive: true }))], [/stream .* cannot be exclusive/]],
    ["a stream with a TTL", [streamQueue("q", untyped({ messageTtl: "1 second" }))], [
      /stream queue has no x-message-ttl/
    ]],
    ["a delivery limit on a classic queue", [classicQueue("q", untyped({ deliveryLimit: 1 }))], [/x-delivery-limit/]],
    ["another type by argument", [classicQueue("q", { arguments: { "x-queue-type": "stream" } })], [/another than/]],
    ["reject-publish-dlx on a quorum queue", [quorumQueue("q", untyped({ overflow: "reject-publish-dlx" }))], [
      /cannot reject-publish-dlx/
    ]],
    [
      "at-least-once without reject-publish",
      [quorumQueue("q", { deadLetter: { exchange: "", strategy: "at-least-once" } })],
      [/at-least-once needs/]
    ],
    [
      "a dead letter key without an exchange",
      [classicQueue("q", { arguments: { "x-dead-letter-routing-key": "k" } })],
      [/x-dead-letter-routing-key without/]
    ],
    ["a negative TTL", [classicQueue("q", { messageTtl: "-1 seconds" })], [/x-message-ttl: expected .* not -1000/]],
    ["an endless TTL", [classicQueue("q", { messageTtl: Duration.infinity })], [
      /cannot encode arguments/,
      /x-message-ttl: .* not Infinity/
    ]],
    ["to expire at once", [classicQueue("q", { expires: 0 })], [/x-expires: expected an integer from 1/]],
    ["a negative length", [classicQueue("q", { maxLength: -1 })], [/x-max-length/]],
    ["a fractional length", [classicQueue("q", { maxLength: 1.5 })], [/x-max-length/]],
    ["too high a priority", [classicQueue("q", { maxPriority: 256 })], [/x-max-priority: expected .* 0 to 255/]],
    ["less than a second of age", [streamQueue("q", { maxAge: "1500 millis" })], [/x-max-age/]],
    ["a name of 256 bytes", [classicQueue("é".repeat(128))], [/cannot encode queue/]],
    ["an exchange of 256 bytes", [exchange("x".repeat(256))], [/cannot encode exchange/]],
    ["a key of 256 bytes", [
      classicQueue("q"),
      bind({ queue: "q", exchange: "amq.topic", routingKey: "k".repeat(256) })
    ], [/cannot encode routing/]],
    ["arguments without a form", [exchange("x", { arguments: { a: [NaN] } })], [/arguments\.a\[0\]/]],
    ["a name that the broker changes", [passiveQueue("q\n")], [/line breaks/]],
    ["a queue without a name", [classicQueue("")], [/is a serverNamedQueue/]],
    ["the default exchange", [exchange("")], [/always there/]],
    ["a server-named queue that stays behind", [serverNamedQueue({ exclusive: false, autoDelete: true })], [
      /leave one behind/
    ]],
    ["a binding to nothing", [bind({ queue: "q", exchange: "x" })], [/queue q is not in/, /exchange x is not in/]],
    ["a binding of exchanges to nothing", [bindExchange({ destination: "d", source: "s" })], [
      /exchange d is not in/,
      /exchange s is not in/
    ]],
    ["a binding to the default exchange", [classicQueue("q"), bind({ queue: "q", exchange: "" })], [
      /takes no bindings/
    ]],
    ["a binding to a server-named queue of nobody", [bind({ queue: serverNamedQueue(), exchange: "amq.topic" })], [
      /server-named queue is not in/
    ]],
    ["the same name, otherwise", [classicQueue("q"), quorumQueue("q")], [/queue "q": .* twice/]],
    ["the same name, passive", [exchange("x"), passiveExchange("x")], [/exchange "x": .* twice/]]
  ]
  it.each(cases)("%s", (_, entities, expected) => {
    const problems = diagnose(entities)
    assert.strictEqual(problems.length, expected.length, problems.join("\n"))
    expected.forEach((pattern, i) => assert.match(problems[i] ?? "", pattern))
  })

  it("all problems are told at once", () => {
    const problems = diagnose([
      quorumQueue("q", untyped({ exclusive: true, maxPriority: 5 })),
      bind({ queue: "q", exchange: "x" }),
      exchange("")
    ])
    assert.strictEqual(problems.length, 4, problems.join("\n"))
  })
})

describe("dead letter loops", () => {
  const ttl = "1 second"
  const loops: ReadonlyArray<readonly [string, ReadonlyArray<AmqpTopology.Entity>]> = [
    ["by the default exchange", [quorumQueue("q", { deadLetter: { exchange: "", routingKey: "q" } })]],
    ["by a fanout", [
      exchange("x", { type: "fanout" }),
      classicQueue("q", { deadLetter: { exchange: "x" } }),
      bind({ queue: "q", exchange: "x" })
    ]],
    ["by the exchange that it is bound to, under the message's own key", [
      exchange("x"),
      classicQueue("q", { deadLetter: { exchange: "x" } }),
      bind({ queue: "q", exchange: "x", routingKey: "k" })
    ]],
    ["by a topic pattern", [
      classicQueue("q", { deadLetter: { exchange: "amq.topic", routingKey: "dead.q.now" } }),
      bind({ queue: "q", exchange: "amq.topic", routingKey: "dead.#.*" })
    ]],
    ["by a binding of exchanges", [
      exchange("x"),
      exchange("y", { type: "fanout" }),
      classicQueue("q", { deadLetter: { exchange: "x", routingKey: "k" } }),
      bindExchange({ source: "x", destination: "y", routingKey: "k" }),
      bindExchange({ source: "y", destination: "x" }),
      bind({ queue: "q", exchange: "y" })
    ]],
    ["by way of another, from which messages expire as well", [
      classicQueue("a", { messageTtl: ttl, deadLetter: { exchange: "", routingKey: "b" } }),
      classicQueue("b", { messageTtl: ttl, deadLetter: { exchange: "", routingKey: "a" } })
    ]]
  ]
  it.each(loops)("%s", (_, entities) => {
    const problems = diagnose(entities)
    assert.strictEqual(problems.length, 1, problems.join("\n"))
    assert.match(problems[0] ?? "", /dead letters come back to it/)
  })

  const none: ReadonlyArray<readonly [string, ReadonlyArray<AmqpTopology.Entity>]> = [
    ["work and delayed retries: only a consumer rejects", [
      quorumQueue("work", { deadLetter: { exchange: "", routingKey: "retry" } }),
      classicQueue("retry", { messageTtl: ttl, deadLetter: { exchange: "", routingKey: "work" } })
    ]],
    ["another key", [
      exchange("x"),
      classicQueue("q", { deadLetter: { exchange: "x", routingKey: "dead" } }),
      bind({ queue: "q", exchange: "x", routingKey: "k" })
    ]],
    ["a pattern of fewer words", [
      classicQueue("q", { deadLetter: { exchange: "amq.topic", routingKey: "a.b.c" } }),
      bind({ queue: "q", exchange: "amq.topic", routingKey: "a.*" })
    ]],
    ["an exchange that others declare", [
      passiveExchange("theirs"),
      classicQueue("q", { deadLetter: { exchange: "theirs", routingKey: "k" } }),
      bind({ queue: "q", exchange: "theirs", routingKey: "k" })
    ]]
  ]
  it.each(none)("none: %s", (_, entities) => {
    assert.deepStrictEqual(diagnose(entities), [])
  })
})

/** Options as a caller without types would give them. */
function untyped(options: AmqpTopology.ClassicQueueOptions | AmqpTopology.QuorumQueueOptions): object {
  return options
}

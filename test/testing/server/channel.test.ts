/** The embedded broker's side of a channel: every class, as a client sees it frame by frame. */
import { assert, describe, it } from "@effect/vitest"
import type * as AmqpProtocol from "../../../src/AmqpProtocol.ts"
import type { InputTable } from "../../../src/AmqpTable.ts"
import {
  ack,
  channelViolations,
  closeLine,
  confirmSelect,
  consume,
  declare,
  get,
  nack,
  qos,
  replyViolations
} from "../../fixtures/violations.ts"
import { makeBroker, RawClient, type TestBroker, text } from "./rawClient.ts"

/** A client with channel 1 and an empty queue `q`. */
const start = (options: Parameters<typeof makeBroker>[0] = {}): TestBroker & { readonly client: RawClient } => {
  const broker = makeBroker(options)
  return { ...broker, client: new RawClient(broker.core).open().channel().queue("q") }
}

const queueOf = ({ core }: TestBroker, name = "q") => {
  const queue = core.vhosts.get("/")?.queues.get(name)
  assert(queue !== undefined, `there is no queue ${name}`)
  return queue
}

/** Bodies with the tags that they came with: `1:a`, and `1:a!` where it is redelivered. */
const delivered = (client: RawClient): ReadonlyArray<string> => {
  const deliveries: Array<string> = []
  for (const frame of client.frames()) {
    if (frame._tag === "Method" && (frame.method._tag === "basic.deliver" || frame.method._tag === "basic.get-ok")) {
      deliveries.push(`${frame.method.deliveryTag}:${frame.method.redelivered ? "!" : ""}`)
    } else if (frame._tag === "Body") {
      const last = deliveries.pop() ?? "none"
      deliveries.push(last.endsWith("!") ? `${last.slice(0, -1)}${text(frame.payload)}!` : last + text(frame.payload))
    }
  }
  return deliveries
}

const publishAll = (client: RawClient, ...bodies: ReadonlyArray<string>): RawClient => {
  for (const body of bodies) client.publish(1, { body })
  return client
}

describe("refusals", () => {
  it.each(channelViolations.map((each) => [...each] as const))("%s", (_, wrong, expected) => {
    const { client } = start()
    wrong(client)
    assert.strictEqual(closeLine(client.methods().at(-1)), expected)
    if (expected.startsWith("channel")) {
      assert.strictEqual(client.channel(9).call(9, declare("q"))[0]?._tag, "queue.declare-ok")
    }
  })

  it("a closed channel ignores everything until it is answered, then its number is free", () => {
    const broker = start()
    const { client } = broker
    client.send(1, get("missing"))
    client.frames()
    assert.deepStrictEqual(client.publish(1, { body: "lost" }).send(1, declare("q"), ack(7)).lines(), [])
    assert.strictEqual(queueOf(broker).ready, 0)
    assert.deepStrictEqual(client.send(1, { _tag: "channel.close-ok" }, { _tag: "channel.open" }).lines(), [
      "1 channel.open-ok"
    ])
  })

  it("a message larger than the limit", () => {
    const { client } = start({ maxMessageSize: 3 })
    assert.deepStrictEqual(client.publish(1, { body: "123" }).lines(), [])
    assert.strictEqual(
      closeLine(client.publish(1, { body: "1234" }).methods()[0]),
      "channel.close 406 PRECONDITION_FAILED - message size 4 is larger than configured max size 3 (60.40)"
    )
  })

  it("a text of more than 255 bytes is cut", () => {
    const { client } = start()
    const [close] = client.call(1, get("ü".repeat(120)))
    assert(close?._tag === "channel.close")
    assert.strictEqual(close.replyText, `NOT_FOUND - no queue '${"ü".repeat(115)}...`)
  })
})

describe("permissions", () => {
  it("what is there already can be declared again without a right to its dead letters", () => {
    const { client, core } = start()
    const exchange: AmqpProtocol.ExchangeDeclare = {
      _tag: "exchange.declare",
      exchange: "e",
      type: "fanout",
      passive: false,
      durable: false,
      autoDelete: false,
      internal: false,
      noWait: false,
      arguments: { "alternate-exchange": "secret" }
    }
    const queue = { ...declare("d"), arguments: { "x-dead-letter-exchange": "secret" } }
    client.send(1, exchange, queue)
    core.setPermissions("guest", "/", { configure: /^[deq]$/, write: /^[deq]$/, read: /^[deq]$/ })
    client.frames()
    assert.deepStrictEqual(client.send(1, exchange, queue).lines(), ["1 exchange.declare-ok", "1 queue.declare-ok"])
  })

  it("an empty expression allows nothing that has a name", () => {
    const { client, core } = start()
    core.setPermissions("guest", "/", { configure: /.*/, write: /.*/, read: new RegExp("") })
    assert.strictEqual(
      closeLine(client.call(1, get("q"))[0]),
      "channel.close 403 ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'guest' (60.70)"
    )
  })

  const restricted = () => {
    const broker = makeBroker()
    broker.core.addUser("u", "p")
    const all = /.*/
    broker.core.setPermissions("u", "/", { configure: /^c-/, write: /^w-|^c-/, read: /^r-|^c-/ })
    broker.core.setPermissions("guest", "/", { configure: all, write: all, read: all })
    const owner = new RawClient(broker.core).open().channel().queue("r-q").queue("w-q").queue("x-q")
    owner.send(1, {
      _tag: "exchange.declare",
      exchange: "x-e",
      type: "fanout",
      passive: false,
      durable: false,
      autoDelete: false,
      internal: false,
      noWait: false,
      arguments: {}
    })
    return new RawClient(broker.core).open({ credentials: "\0u\0p" }).channel()
  }
  const refused = (what: string) =>
    `channel.close 403 ACCESS_REFUSED - access to ${what} in vhost '/' refused for user 'u'`
  const bind: AmqpProtocol.QueueBind = {
    _tag: "queue.bind",
    queue: "w-q",
    exchange: "x-e",
    routingKey: "",
    noWait: false,
    arguments: {}
  }
  const exchange: AmqpProtocol.ExchangeDeclare = {
    _tag: "exchange.declare",
    exchange: "c-e",
    type: "fanout",
    passive: false,
    durable: false,
    autoDelete: false,
    internal: false,
    noWait: false,
    arguments: {}
  }

  it.each<[string, AmqpProtocol.Method<InputTable>, string]>([
    ["declare a queue", declare("x-q"), `${refused("queue 'x-q'")} (50.10)`],
    [
      "delete a queue",
      { _tag: "queue.delete", queue: "x-q", ifUnused: false, ifEmpty: false, noWait: false },
      `${refused("queue 'x-q'")} (50.40)`
    ],
    ["purge a queue", { _tag: "queue.purge", queue: "x-q", noWait: false }, `${refused("queue 'x-q'")} (50.30)`],
    ["get", get("w-q"), `${refused("queue 'w-q'")} (60.70)`],
    ["consume", consume("w-q", "c"), `${refused("queue 'w-q'")} (60.20)`],
    ["bind a queue", { ...bind, queue: "r-q" }, `${refused("queue 'r-q'")} (50.20)`],
    ["bind to an exchange", bind, `${refused("exchange 'x-e'")} (50.20)`],
    ["declare an exchange", { ...exchange, exchange: "x-f" }, `${refused("exchange 'x-f'")} (40.10)`],
    [
      "dead-letter to an exchange",
      { ...declare("c-q"), arguments: { "x-dead-letter-exchange": "x-e" } },
      `${refused("exchange 'x-e'")} (50.10)`
    ],
    [
      "have an alternate exchange",
      { ...exchange, arguments: { "alternate-exchange": "x-e" } },
      `${refused("exchange 'x-e'")} (40.10)`
    ],
    ["declare a queue without a name", declare(""), ""]
  ])("%s", (_, method, expected) => {
    const [close] = restricted().call(1, method)
    if (expected === "") assert(close?._tag === "channel.close" && close.replyCode === 403)
    else assert.strictEqual(closeLine(close), expected)
  })

  it("publish, to the default exchange by the name amq.default", () => {
    assert.strictEqual(
      closeLine(restricted().publish(1, { exchange: "x-e" }).methods()[0]),
      `${refused("exchange 'x-e'")} (60.40)`
    )
    assert.strictEqual(
      closeLine(restricted().publish(1).methods()[0]),
      `${refused("exchange 'amq.default'")} (60.40)`
    )
  })

  it("passive declares need no permission", () => {
    assert.strictEqual(restricted().call(1, { ...declare("x-q"), passive: true })[0]?._tag, "queue.declare-ok")
  })
})

describe("consumers", () => {
  it("consume-ok comes before the first delivery; deliveries keep the properties' bytes", () => {
    const { client } = start()
    client.publish(1, { body: "a", properties: { contentType: "text/plain", headers: { n: 1 } } })
    const frames = client.send(1, consume("q", "c")).frames()
    assert.deepStrictEqual(frames.map((frame) => frame._tag === "Method" ? frame.method : frame._tag), [
      { _tag: "basic.consume-ok", consumerTag: "c" },
      {
        _tag: "basic.deliver",
        consumerTag: "c",
        deliveryTag: 1,
        redelivered: false,
        exchange: "",
        routingKey: "q"
      },
      "Header",
      "Body"
    ])
    const header = frames[2]
    assert(header?._tag === "Header")
    assert.strictEqual(text(header.properties.subarray(3, 13)), "text/plain")
  })

  it("a stream is said to have no consumers", () => {
    const { client } = start()
    const stream = { ...declare("s"), durable: true, arguments: { "x-queue-type": "stream" } }
    client.send(1, stream, qos(1), consume("s", "c"))
    client.frames()
    assert.deepStrictEqual(client.call(1, stream), [
      { _tag: "queue.declare-ok", queue: "s", messageCount: 0, consumerCount: 0 }
    ])
  })

  it("a binding without names is of the last declared queue, under its name", () => {
    const { client } = start()
    const binding = { exchange: "amq.direct", queue: "", routingKey: "", noWait: false, arguments: {} }
    client.send(1, { _tag: "queue.bind", ...binding })
    client.publish(1, { exchange: "amq.direct" })
    assert.deepStrictEqual(client.send(1, get("q")).lines(), ["1 queue.bind-ok", "1 basic.get-ok", "1 header 0"])
    client.send(1, { _tag: "queue.unbind", ...binding })
    client.publish(1, { exchange: "amq.direct" })
    assert.deepStrictEqual(client.send(1, get("q")).lines(), ["1 queue.unbind-ok", "1 basic.get-empty"])
  })

  it("a tag is made where none is given, and a queue is the last declared where none is named", () => {
    const { client } = start()
    const [ok] = client.call(1, consume("", ""))
    assert(ok?._tag === "basic.consume-ok")
    assert.match(ok.consumerTag, /^amq\.ctag-[\w-]{22}$/)
    assert.deepStrictEqual(client.publish(1).lines(), ["1 basic.deliver", "1 header 0"])
  })

  it("no-wait asks for no answer", () => {
    const { client } = start()
    const silent = { noWait: true }
    assert.deepStrictEqual(
      client.send(
        1,
        { ...declare("r"), ...silent },
        { ...consume("r", "c"), ...silent },
        { _tag: "basic.cancel", consumerTag: "c", ...silent },
        { _tag: "queue.purge", queue: "r", ...silent },
        { _tag: "confirm.select", ...silent },
        { _tag: "queue.delete", queue: "r", ifUnused: false, ifEmpty: false, ...silent }
      ).lines(),
      []
    )
  })

  it("prefetch of each: so many are unsettled, no more", () => {
    const { client } = start()
    client.send(1, qos(2), consume("q", "c"))
    publishAll(client, "a", "b", "c", "d", "e")
    assert.deepStrictEqual(delivered(client), ["1:a", "2:b"])
    assert.deepStrictEqual(delivered(client.send(1, ack(1))), ["3:c"])
    assert.deepStrictEqual(delivered(client.send(1, ack(3, true))), ["4:d", "5:e"])
  })

  it("a changed prefetch is for later consumers", () => {
    const { client } = start()
    client.send(1, qos(1), consume("q", "c"), qos(0))
    assert.deepStrictEqual(delivered(publishAll(client, "a", "b")), ["1:a"])
    assert.deepStrictEqual(delivered(client.send(1, consume("q", "d"))), ["2:b"])
  })

  it("prefetch of all: consumers of the channel share it, and a greater one has effect at once", () => {
    const { client } = start()
    client.queue("r").send(1, qos(2, true), consume("q", "c"), consume("r", "d"))
    publishAll(client, "a", "b", "c").publish(1, { routingKey: "r", body: "d" })
    assert.deepStrictEqual(delivered(client), ["1:a", "2:b"])
    assert.deepStrictEqual(delivered(client.send(1, qos(3, true))), ["3:d"])
    assert.deepStrictEqual(delivered(client.send(1, ack(1))), ["4:c"])
  })

  it("prefetch of all: its queues take turns, however many places become free", () => {
    const { client } = start()
    const queues = ["q", "r", "s"]
    client.queue("r").queue("s")
    for (const routingKey of queues) {
      for (const body of "1234") client.publish(1, { routingKey, body: routingKey + body })
    }
    client.send(1, qos(1, true), ...queues.map((queue) => consume(queue, queue)))
    const got = [...delivered(client)]
    for (let tag = 1; tag < 12; tag++) got.push(...delivered(client.send(1, ack(tag))))
    assert.strictEqual(
      got.map((one) => one.split(":")[1]).join(" "),
      "q1 q2 r1 s1 q3 r2 s2 q4 r3 s3 r4 s4"
    )
    const second = start().client
    second.queue("r").send(1, qos(2, true), consume("q", "q"), consume("r", "r"))
    for (const routingKey of ["q", "r"]) {
      for (const body of "1234") second.publish(1, { routingKey, body: routingKey + body })
    }
    assert.deepStrictEqual(delivered(second), ["1:q1", "2:q2"])
    assert.deepStrictEqual(delivered(second.send(1, ack(2, true))), ["3:r1", "4:q3"])
  })

  it("a prefetch of each ends that of all", () => {
    const { client } = start()
    client.send(1, qos(1, true), consume("q", "c"))
    assert.deepStrictEqual(delivered(publishAll(client, "a", "b")), ["1:a"])
    assert.deepStrictEqual(delivered(client.send(1, qos(0))), ["2:b"])
  })

  it("without acknowledgement no prefetch counts, and nothing is to be settled", () => {
    const { client } = start()
    client.send(1, qos(1), { ...consume("q", "c"), noAck: true })
    assert.deepStrictEqual(delivered(publishAll(client, "a", "b")), ["1:a", "2:b"])
    assert.strictEqual(
      closeLine(client.methods()[0] ?? client.call(1, ack(1))[0]),
      "channel.close 406 PRECONDITION_FAILED - unknown delivery tag 1 (60.80)"
    )
  })

  it("cancel ends deliveries and leaves what is unsettled", () => {
    const broker = start()
    const { client } = broker
    client.send(1, consume("q", "c"))
    publishAll(client, "a")
    client.frames()
    assert.deepStrictEqual(client.send(1, { _tag: "basic.cancel", consumerTag: "c", noWait: false }).lines(), [
      "1 basic.cancel-ok"
    ])
    assert.deepStrictEqual(delivered(publishAll(client, "b")), [])
    assert.strictEqual(queueOf(broker).unsettled, 1)
    client.send(1, ack(1))
    assert.deepStrictEqual([queueOf(broker).ready, queueOf(broker).unsettled], [1, 0])
  })

  it("cancelling a tag that is not there is no error", () => {
    const { client } = start()
    assert.deepStrictEqual(client.call(1, { _tag: "basic.cancel", consumerTag: "none", noWait: false }), [
      { _tag: "basic.cancel-ok", consumerTag: "none" }
    ])
  })

  it("a queue that goes tells those who announced that they understand it", () => {
    const broker = start()
    const { client } = broker
    const older = new RawClient(broker.core, "memory:2").open({ announced: {} }).channel()
    client.send(1, consume("q", "c"))
    older.send(1, consume("q", "d"))
    client.frames()
    older.frames()
    client.send(1, { _tag: "queue.delete", queue: "q", ifUnused: false, ifEmpty: false, noWait: false })
    assert.deepStrictEqual(client.methods().toSorted((a, b) => a._tag < b._tag ? -1 : 1), [
      { _tag: "basic.cancel", consumerTag: "c", noWait: true },
      { _tag: "queue.delete-ok", messageCount: 0 }
    ])
    assert.deepStrictEqual(older.lines(), [])
    assert.deepStrictEqual(
      [...broker.core.connections.values()].flatMap(({ channels }) =>
        [...channels.values()].flatMap(({ consumers }) => consumers)
      ),
      []
    )
  })

  it("an operator can cancel a consumer", () => {
    const { client, core } = start()
    client.send(1, consume("q", "c"))
    client.frames()
    const [channel] = [...core.connections.values()].flatMap(({ channels }) => [...channels.values()])
    assert(channel !== undefined)
    assert.strictEqual(channel.cancelConsumer("c"), true)
    assert.strictEqual(channel.cancelConsumer("c"), false)
    assert.deepStrictEqual(client.methods(), [{ _tag: "basic.cancel", consumerTag: "c", noWait: true }])
    assert.deepStrictEqual(delivered(publishAll(client, "a")), [])
  })
})

describe("settlements", () => {
  it("get: tags count on, with and without acknowledgement", () => {
    const broker = start()
    const { client } = broker
    publishAll(client, "a", "b", "c")
    const [first] = client.call(1, get("q"))
    assert.deepStrictEqual(first, {
      _tag: "basic.get-ok",
      deliveryTag: 1,
      redelivered: false,
      exchange: "",
      routingKey: "q",
      messageCount: 2
    })
    client.send(1, get("q", true), get("q"), get("q"))
    assert.deepStrictEqual(client.lines(), [
      "1 basic.get-ok",
      "1 header 1",
      "1 body 1",
      "1 basic.get-ok",
      "1 header 1",
      "1 body 1",
      "1 basic.get-empty"
    ])
    assert.strictEqual(queueOf(broker).unsettled, 2)
    client.send(1, ack(0, true))
    assert.strictEqual(queueOf(broker).unsettled, 0)
    assert.deepStrictEqual(client.send(1, ack(0, true)).lines(), [])
  })

  it("nack and reject requeue to the old place or discard; a settled tag is unknown", () => {
    const broker = start()
    const { client } = broker
    publishAll(client, "a", "b", "c")
    client.send(1, get("q"), get("q"), get("q"), nack(2, true, true), {
      _tag: "basic.reject",
      deliveryTag: 3,
      requeue: false
    })
    client.frames()
    assert.deepStrictEqual(queueOf(broker).entries().map(({ message }) => text(message.body)), ["a", "b"])
    assert.deepStrictEqual(delivered(client.send(1, get("q"), get("q"))), ["4:a!", "5:b!"])
    assert.strictEqual(
      closeLine(client.call(1, nack(2))[0]),
      "channel.close 406 PRECONDITION_FAILED - unknown delivery tag 2 (60.120)"
    )
  })

  it("recover gives everything back, in order", () => {
    const { client } = start()
    publishAll(client, "a", "b")
    client.send(1, consume("q", "c"))
    client.frames()
    const frames = client.send(1, { _tag: "basic.recover", requeue: true })
    assert.deepStrictEqual(delivered(frames), ["3:a!", "4:b!"])
    assert.strictEqual(
      closeLine(client.call(1, ack(1))[0]),
      "channel.close 406 PRECONDITION_FAILED - unknown delivery tag 1 (60.80)"
    )
  })

  it("the end of a channel, by either side, gives back what it had, in order", () => {
    const broker = start()
    const { client } = broker
    publishAll(client, "a", "b", "c")
    client.channel(2).send(2, qos(2), consume("q", "c"))
    client.frames()
    client.send(2, { _tag: "channel.close", replyCode: 200, replyText: "", classId: 0, methodId: 0 })
    assert.deepStrictEqual(client.lines(), ["2 channel.close-ok"])
    assert.deepStrictEqual(
      queueOf(broker).entries().map(({ message, redelivered }) => [text(message.body), redelivered]),
      [
        ["a", true],
        ["b", true],
        ["c", false]
      ]
    )
    client.channel(3).send(3, consume("q", "c"), get("missing"))
    assert.strictEqual(queueOf(broker).ready, 3)
    assert.strictEqual(queueOf(broker).subscribers.length, 0)
  })

  it("a delivery that is not settled in time ends its channel", () => {
    const broker = start({ consumerTimeout: 60_000 })
    const { client } = broker
    client.send(1, consume("q", "c"))
    publishAll(client, "a")
    broker.advance(50_000)
    publishAll(client, "b")
    client.send(1, ack(1))
    client.frames()
    broker.advance(59_999)
    assert.deepStrictEqual(client.lines(), [])
    broker.advance(1)
    assert.strictEqual(
      closeLine(client.methods()[0]),
      "channel.close 406 PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: " +
        "60000 ms. This timeout value can be configured, see consumers doc guide to learn more (0.0)"
    )
    assert.strictEqual(queueOf(broker).ready, 1)
    client.channel(2).send(2, get("q")).send(2, {
      _tag: "channel.close",
      replyCode: 200,
      replyText: "",
      classId: 0,
      methodId: 0
    })
    client.frames()
    assert.strictEqual(broker.core.timers.next, undefined)
    broker.advance(60_000)
    assert.deepStrictEqual(client.lines(), [])
    client.peer.closed()
    assert.strictEqual(broker.events.filter(({ _tag }) => _tag === "ChannelClosed").length, 2)
  })
})

describe("publishing", () => {
  it("confirms: each in its order, those of one chunk together", () => {
    const { client } = start()
    client.send(1, confirmSelect)
    client.frames()
    assert.deepStrictEqual(client.publish(1).methods(), [{ _tag: "basic.ack", deliveryTag: 1, multiple: false }])
    assert.deepStrictEqual(client.publish(1, { routingKey: "nowhere" }).methods(), [
      { _tag: "basic.ack", deliveryTag: 2, multiple: false }
    ])
  })

  it("a queue that is full and says so: nack, and the others an ack", () => {
    const { client, core } = start()
    client.queue("full", { "x-max-length": 1, "x-overflow": "reject-publish" }).send(1, confirmSelect)
    client.frames()
    const full = { routingKey: "full" }
    assert.deepStrictEqual(client.publish(1, full).methods(), [{ _tag: "basic.ack", deliveryTag: 1, multiple: false }])
    assert.deepStrictEqual(client.publish(1, full).methods(), [
      { _tag: "basic.nack", deliveryTag: 2, multiple: true, requeue: true }
    ])
    // Held back by the pause, they come together.
    core.pause()
    for (const message of [full, {}, full, full, {}]) client.publish(1, message)
    core.resume()
    assert.deepStrictEqual(client.methods(), [
      { _tag: "basic.ack", deliveryTag: 4, multiple: false },
      { _tag: "basic.ack", deliveryTag: 7, multiple: false },
      { _tag: "basic.nack", deliveryTag: 3, multiple: true, requeue: true },
      { _tag: "basic.nack", deliveryTag: 5, multiple: false, requeue: true },
      { _tag: "basic.nack", deliveryTag: 6, multiple: false, requeue: true }
    ])
    core.pause()
    for (const message of [{}, {}, full]) client.publish(1, message)
    core.resume()
    assert.deepStrictEqual(client.methods(), [
      { _tag: "basic.ack", deliveryTag: 9, multiple: true },
      { _tag: "basic.nack", deliveryTag: 10, multiple: false, requeue: true }
    ])
  })

  it("what is mandatory and goes nowhere comes back before its ack", () => {
    const { client } = start()
    client.send(1, confirmSelect)
    client.frames()
    client.publish(1, { routingKey: "nowhere", mandatory: true, body: "a" })
    const frames = client.frames()
    assert.deepStrictEqual(frames.map((frame) => frame._tag === "Method" ? frame.method : frame._tag), [
      { _tag: "basic.return", replyCode: 312, replyText: "NO_ROUTE", exchange: "", routingKey: "nowhere" },
      "Header",
      "Body",
      { _tag: "basic.ack", deliveryTag: 1, multiple: false }
    ])
  })

  it("a channel that is closed confirms nothing more", () => {
    const { client, core } = start()
    client.send(1, confirmSelect)
    core.pause()
    client.publish(1).send(1, get("missing")).publish(1)
    core.resume()
    assert.deepStrictEqual(client.lines(), ["1 confirm.select-ok", "1 channel.close"])
  })

  it("properties and bodies are copies of what came", () => {
    const { client } = start()
    // RawClient overwrites what it has sent.
    client.publish(1, { body: "kept", properties: { messageId: "kept" } })
    const frames = client.send(1, get("q")).frames()
    assert.deepStrictEqual(
      frames.flatMap((frame) =>
        frame._tag === "Body" ? text(frame.payload) : frame._tag === "Header" ? text(frame.properties.subarray(3)) : []
      ),
      ["kept", "kept"]
    )
  })
})

describe("transactions", () => {
  const transacting = () => {
    const broker = start()
    publishAll(broker.client, "a", "b")
    broker.client.send(1, get("q"), get("q"), { _tag: "tx.select" })
    broker.client.frames()
    return broker
  }

  it("publishes and settlements happen at the commit, returns too", () => {
    const broker = transacting()
    const { client } = broker
    client.publish(1, { body: "c" }).publish(1, { routingKey: "nowhere", mandatory: true }).send(1, ack(1), nack(2))
    assert.deepStrictEqual(client.lines(), [])
    assert.deepStrictEqual([queueOf(broker).ready, queueOf(broker).unsettled], [0, 2])
    assert.deepStrictEqual(client.send(1, { _tag: "tx.commit" }).lines(), [
      "1 basic.return",
      "1 header 0",
      "1 tx.commit-ok"
    ])
    assert.deepStrictEqual(queueOf(broker).entries().map(({ message }) => text(message.body)), ["b", "c"])
    assert.strictEqual(queueOf(broker).unsettled, 0)
  })

  it("a rollback forgets publishes and gives the settlements back to the client", () => {
    const broker = transacting()
    const { client } = broker
    client.publish(1, { body: "c" }).send(1, ack(2), ack(1), { _tag: "tx.rollback" })
    assert.deepStrictEqual(client.lines(), ["1 tx.rollback-ok"])
    assert.strictEqual(queueOf(broker).ready, 0)
    client.send(1, ack(2, true), { _tag: "tx.commit" })
    assert.deepStrictEqual(client.lines(), ["1 tx.commit-ok"])
    assert.strictEqual(queueOf(broker).unsettled, 0)
  })

  it("what is not committed when the channel ends did not happen", () => {
    const broker = transacting()
    const { client } = broker
    client.publish(1, { body: "c" }).send(1, ack(1))
    client.send(1, { _tag: "channel.close", replyCode: 200, replyText: "", classId: 0, methodId: 0 })
    assert.deepStrictEqual(queueOf(broker).entries().map(({ message }) => text(message.body)), ["a", "b"])
  })

  it("a publish that no queue takes fails the commit", () => {
    const { client } = transacting()
    client.queue("full", { "x-max-length": 1, "x-overflow": "reject-publish" })
    client.publish(1, { routingKey: "full" }).publish(1, { routingKey: "full" })
    assert.strictEqual(
      closeLine(client.call(1, { _tag: "tx.commit" })[0]),
      "channel.close 406 PRECONDITION_FAILED - partial tx completion (90.20)"
    )
  })
})

describe("direct reply-to", () => {
  const address = "amq.rabbitmq.reply-to"
  const repliesTo = (client: RawClient, consumerTag = "r") =>
    client.send(1, { ...consume(address, consumerTag), noAck: true })

  /** A request that arrived at `q`, and where its reply is to go. */
  const request = () => {
    const broker = start()
    const { client } = broker
    repliesTo(client)
    client.publish(1, { properties: { replyTo: address } })
    client.frames()
    const [entry] = queueOf(broker).entries()
    return { ...broker, replyTo: entry?.message.decoded.replyTo ?? "" }
  }

  it("a request bears an address, and replies to it arrive", () => {
    const { client, core, replyTo } = request()
    assert.match(replyTo, /^amq\.rabbitmq\.reply-to\..+/)
    const server = new RawClient(core, "memory:2").open().channel()
    assert.deepStrictEqual(server.call(1, { ...declare(replyTo), passive: true }), [
      { _tag: "queue.declare-ok", queue: replyTo, messageCount: 0, consumerCount: 1 }
    ])
    server.publish(1, { routingKey: replyTo, body: "a" }).publish(1, { routingKey: replyTo, body: "b" })
    assert.deepStrictEqual(delivered(client), ["1:a", "1:b"])
    client.send(1, { _tag: "basic.cancel", consumerTag: "r", noWait: false })
    client.frames()
    server.publish(1, { routingKey: replyTo, body: "late" })
    assert.deepStrictEqual(client.lines(), [])
    assert.strictEqual(
      closeLine(server.call(1, { ...declare(replyTo), passive: true })[0]),
      `channel.close 404 NOT_FOUND - no queue '${replyTo}' in vhost '/' (50.10)`
    )
  })

  it("an address ends with its channel", () => {
    const { client, core, replyTo } = request()
    client.send(1, { _tag: "channel.close", replyCode: 200, replyText: "", classId: 0, methodId: 0 })
    client.frames()
    const server = new RawClient(core, "memory:2").open().channel()
    server.publish(1, { routingKey: replyTo, body: "late" })
    assert.deepStrictEqual(client.lines(), [])
    assert(server.call(1, { ...declare(replyTo), passive: true })[0]?._tag === "channel.close")
  })

  it("an address is no queue: mandatory replies come back", () => {
    const { client, replyTo } = request()
    client.publish(1, { routingKey: replyTo, mandatory: true })
    assert.deepStrictEqual(client.lines(), ["1 basic.return", "1 header 0", "1 basic.deliver", "1 header 0"])
  })

  it.each(replyViolations.map((each) => [...each] as const))("%s: 406", (_, wrong, expected) => {
    const { client } = start()
    wrong(client)
    assert.strictEqual(closeLine(client.methods().at(-1)), expected)
  })
})

it("what happens is told", () => {
  const { client, events } = start()
  client.send(1, consume("q", "c")).publish(1, { body: "a" }).send(1, ack(1), {
    _tag: "channel.close",
    replyCode: 200,
    replyText: "",
    classId: 0,
    methodId: 0
  })
  assert.deepStrictEqual(events.map(({ _tag }) => _tag), [
    "ConnectionOpened",
    "ChannelOpened",
    "QueueDeclared",
    "ConsumerStarted",
    "Published",
    "Delivered",
    "Settled",
    "ConsumerEnded",
    "ChannelClosed"
  ])
})

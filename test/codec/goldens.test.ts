/**
 * Every frame of the conversations that were captured from a live broker (`scripts/goldens.ts`): read, written back to
 * the same bytes, and cut in all ways.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import { AmqpMessage } from "../../src/AmqpMessage.ts"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import {
  concat,
  firstOf,
  frame,
  fromHex,
  type Golden,
  goldens,
  methodNames,
  parse,
  parseOne,
  print,
  toHex,
  utf8
} from "../fixtures/frames.ts"
import { versionAnswer } from "../fixtures/goldens.ts"

type Method = AmqpProtocol.Method
type MethodOf<Name extends AmqpProtocol.MethodName> = Extract<Method, { readonly _tag: Name }>

// -----------------------------------------------------------------------------
// goldens
// -----------------------------------------------------------------------------

/** What the first frame of each method says. The server's properties are looked at apart. */
const expected: { readonly [Name in AmqpProtocol.MethodName]: MethodOf<Name> } = {
  "connection.start": {
    _tag: "connection.start",
    versionMajor: 0,
    versionMinor: 9,
    serverProperties: {},
    mechanisms: utf8("PLAIN AMQPLAIN RABBIT-CR-DEMO"),
    locales: utf8("en_US")
  },
  "connection.start-ok": {
    _tag: "connection.start-ok",
    clientProperties: {
      product: "effect-amqp",
      capabilities: {
        "authentication_failure_close": true,
        "basic.nack": true,
        "connection.blocked": true,
        "consumer_cancel_notify": true,
        "publisher_confirms": true
      }
    },
    mechanism: "PLAIN",
    response: utf8("\0guest\0guest"),
    locale: "en_US"
  },
  "connection.secure": { _tag: "connection.secure", challenge: utf8("Please tell me your password") },
  "connection.secure-ok": { _tag: "connection.secure-ok", response: utf8("My password is guest") },
  "connection.tune": { _tag: "connection.tune", channelMax: 2047, frameMax: 131072, heartbeat: 60 },
  "connection.tune-ok": { _tag: "connection.tune-ok", channelMax: 2047, frameMax: 4096, heartbeat: 0 },
  "connection.open": { _tag: "connection.open", virtualHost: "/" },
  "connection.open-ok": { _tag: "connection.open-ok" },
  "connection.close": { _tag: "connection.close", replyCode: 200, replyText: "done", classId: 0, methodId: 0 },
  "connection.close-ok": { _tag: "connection.close-ok" },
  "connection.blocked": { _tag: "connection.blocked", reason: "low on memory" },
  "connection.unblocked": { _tag: "connection.unblocked" },
  "connection.update-secret": { _tag: "connection.update-secret", newSecret: utf8("guest"), reason: "rotation" },
  "connection.update-secret-ok": { _tag: "connection.update-secret-ok" },
  "channel.open": { _tag: "channel.open" },
  "channel.open-ok": { _tag: "channel.open-ok" },
  "channel.flow": { _tag: "channel.flow", active: true },
  "channel.flow-ok": { _tag: "channel.flow-ok", active: true },
  "channel.close": { _tag: "channel.close", replyCode: 200, replyText: "", classId: 0, methodId: 0 },
  "channel.close-ok": { _tag: "channel.close-ok" },
  "exchange.declare": {
    _tag: "exchange.declare",
    exchange: "outer",
    type: "topic",
    passive: false,
    durable: true,
    autoDelete: false,
    internal: true,
    noWait: false,
    arguments: { "alternate-exchange": "amq.fanout" }
  },
  "exchange.declare-ok": { _tag: "exchange.declare-ok" },
  "exchange.delete": { _tag: "exchange.delete", exchange: "inner", ifUnused: true, noWait: false },
  "exchange.delete-ok": { _tag: "exchange.delete-ok" },
  "exchange.bind": {
    _tag: "exchange.bind",
    destination: "inner",
    source: "outer",
    routingKey: "a.#",
    noWait: false,
    arguments: { "x-match": "all" }
  },
  "exchange.bind-ok": { _tag: "exchange.bind-ok" },
  "exchange.unbind": {
    _tag: "exchange.unbind",
    destination: "inner",
    source: "outer",
    routingKey: "a.#",
    noWait: false,
    arguments: { "x-match": "all" }
  },
  "exchange.unbind-ok": { _tag: "exchange.unbind-ok" },
  "queue.declare": {
    _tag: "queue.declare",
    queue: "goldens",
    passive: false,
    durable: false,
    exclusive: true,
    autoDelete: true,
    noWait: false,
    arguments: { "x-max-length": 100, "x-message-ttl": 60_000, "x-single-active-consumer": false }
  },
  "queue.declare-ok": { _tag: "queue.declare-ok", queue: "goldens", messageCount: 0, consumerCount: 0 },
  "queue.bind": {
    _tag: "queue.bind",
    queue: "goldens",
    exchange: "amq.topic",
    routingKey: "*.golden",
    noWait: false,
    arguments: { n: null }
  },
  "queue.bind-ok": { _tag: "queue.bind-ok" },
  "queue.purge": { _tag: "queue.purge", queue: "kept", noWait: false },
  "queue.purge-ok": { _tag: "queue.purge-ok", messageCount: 1 },
  "queue.delete": { _tag: "queue.delete", queue: "kept", ifUnused: false, ifEmpty: false, noWait: false },
  "queue.delete-ok": { _tag: "queue.delete-ok", messageCount: 0 },
  "queue.unbind": {
    _tag: "queue.unbind",
    queue: "goldens",
    exchange: "amq.topic",
    routingKey: "*.golden",
    arguments: { n: null }
  },
  "queue.unbind-ok": { _tag: "queue.unbind-ok" },
  "basic.qos": { _tag: "basic.qos", prefetchSize: 0, prefetchCount: 10, global: true },
  "basic.qos-ok": { _tag: "basic.qos-ok" },
  "basic.consume": {
    _tag: "basic.consume",
    queue: "goldens",
    consumerTag: "tag",
    noLocal: false,
    noAck: false,
    exclusive: true,
    noWait: false,
    arguments: { "x-priority": 1 }
  },
  "basic.consume-ok": { _tag: "basic.consume-ok", consumerTag: "tag" },
  "basic.cancel": { _tag: "basic.cancel", consumerTag: "tag", noWait: false },
  "basic.cancel-ok": { _tag: "basic.cancel-ok", consumerTag: "tag" },
  "basic.publish": {
    _tag: "basic.publish",
    exchange: "",
    routingKey: "goldens",
    mandatory: false,
    immediate: false
  },
  "basic.return": {
    _tag: "basic.return",
    replyCode: 312,
    replyText: "NO_ROUTE",
    exchange: "",
    routingKey: "nowhere"
  },
  "basic.deliver": {
    _tag: "basic.deliver",
    consumerTag: "tag",
    deliveryTag: 2,
    redelivered: false,
    exchange: "",
    routingKey: "goldens"
  },
  "basic.get": { _tag: "basic.get", queue: "goldens", noAck: true },
  "basic.get-ok": {
    _tag: "basic.get-ok",
    deliveryTag: 1,
    redelivered: false,
    exchange: "",
    routingKey: "goldens",
    messageCount: 2
  },
  "basic.get-empty": { _tag: "basic.get-empty" },
  "basic.ack": { _tag: "basic.ack", deliveryTag: 3, multiple: false },
  "basic.reject": { _tag: "basic.reject", deliveryTag: 2, requeue: true },
  "basic.recover-async": { _tag: "basic.recover-async", requeue: true },
  "basic.recover": { _tag: "basic.recover", requeue: true },
  "basic.recover-ok": { _tag: "basic.recover-ok" },
  "basic.nack": { _tag: "basic.nack", deliveryTag: 0, multiple: true, requeue: false },
  "confirm.select": { _tag: "confirm.select", noWait: false },
  "confirm.select-ok": { _tag: "confirm.select-ok" },
  "tx.select": { _tag: "tx.select" },
  "tx.select-ok": { _tag: "tx.select-ok" },
  "tx.commit": { _tag: "tx.commit" },
  "tx.commit-ok": { _tag: "tx.commit-ok" },
  "tx.rollback": { _tag: "tx.rollback" },
  "tx.rollback-ok": { _tag: "tx.rollback-ok" }
}

/** The method of a golden, without what depends on the broker's build. */
const methodOf = ({ bytes }: Golden): Method => {
  const parsed = parseOne(bytes)
  if (parsed._tag !== "Method") return assert.fail(parsed._tag)
  const { method } = parsed
  return method._tag === "connection.start" ? { ...method, serverProperties: {} } : method
}

describe("goldens from a live broker", () => {
  it.each(methodNames)("%s is read", (name) => {
    assert.deepStrictEqual(methodOf(firstOf(name)), expected[name])
  })

  it("every frame is what its line says, and was sent by whom the specification lets", () => {
    for (const golden of goldens) {
      const parsed = parseOne(golden.bytes)
      assert.strictEqual(parsed._tag === "Method" ? parsed.method._tag : parsed._tag.toLowerCase(), golden.name)
      if (parsed._tag !== "Method") continue
      const { client, server } = AmqpProtocol.methods[parsed.method._tag]
      assert.isTrue(golden.from === "client" ? client : server, `${golden.name} from the ${golden.from}`)
    }
  })

  it("what the server says of itself is a table", () => {
    const parsed = parseOne(firstOf("connection.start").bytes)
    if (parsed._tag !== "Method" || parsed.method._tag !== "connection.start") return assert.fail(parsed._tag)
    assert.deepInclude(parsed.method.serverProperties, { product: "RabbitMQ" })
    assert.deepInclude(parsed.method.serverProperties["capabilities"], { "publisher_confirms": true })
  })

  it("every method and every heartbeat is written back to the same bytes", () => {
    for (const { bytes } of goldens) {
      const parsed = parseOne(bytes)
      if (parsed._tag === "Heartbeat") assert.strictEqual(toHex(AmqpProtocol.heartbeatFrame), toHex(bytes))
      if (parsed._tag !== "Method") continue
      const again = Result.getOrThrow(AmqpProtocol.encodeMethod(parsed.channel, parsed.method))
      assert.strictEqual(toHex(again), toHex(bytes))
    }
  })

  it("PB03: every content is written back to the same bytes, from its values and from its raw properties", () => {
    let contents = 0
    for (let at = 0; at < goldens.length; at++) {
      const parsed = goldens.slice(at, at + 5).map(({ bytes }) => parseOne(bytes))
      const [method, header] = parsed
      if (method?._tag !== "Method" || header?._tag !== "Header") continue
      if (!isContentMethod(method.method)) return assert.fail(method.method._tag)
      const rest = parsed.slice(2).map((frame) => frame._tag === "Body" ? frame.payload : undefined)
      const bodies = rest.slice(0, Math.ceil(header.bodySize / 4088)).map((body) => body ?? assert.fail("no body"))
      const body = concat(bodies)
      assert.strictEqual(body.length, header.bodySize)

      const { channel } = method
      const content = { channel, method: method.method, body, frameMax: 4096 }
      const received = {
        content: body,
        headerBytes: header.properties,
        headerStart: 0,
        headerEnd: header.properties.length
      }
      const tagged = new AmqpMessage("", "", received).headersTagged
      const decoded = Result.getOrThrow(AmqpProtocol.decodeProperties(header.properties))
      const properties = tagged === undefined ? decoded : { ...decoded, headers: tagged }
      const captured = toHex(concat(goldens.slice(at, at + 2 + bodies.length).map(({ bytes }) => bytes)))
      for (const form of [properties, header.properties]) {
        assert.strictEqual(
          toHex(Result.getOrThrow(AmqpProtocol.encodeContent({ ...content, properties: form }))),
          captured
        )
      }
      contents++
    }
    assert.strictEqual(contents, goldens.filter(({ name }) => name === "header").length)
    assert.isAbove(contents, 10)
  })

  it("PB03: all properties and all header types survived the broker", () => {
    const headers = goldens.filter(({ bytes, name }) => name === "header" && bytes.length > 100)
    assert.deepStrictEqual(headers.map(({ from }) => from), ["client", "server", "server", "server", "server"])
    assert.strictEqual(new Set(headers.map(({ bytes }) => toHex(bytes))).size, 1)
    const parsed = parseOne(headers[1]?.bytes ?? new Uint8Array(0))
    if (parsed._tag !== "Header") return assert.fail(parsed._tag)
    assert.deepStrictEqual(Result.getOrThrow(AmqpProtocol.decodeProperties(parsed.properties)), {
      contentType: "application/json",
      contentEncoding: "identity",
      headers: {
        t: true,
        b: -128,
        B: 255,
        s: -32768,
        u: 65535,
        I: -2147483648,
        i: 4294967295,
        l: -(2n ** 63n),
        L: 2n ** 63n - 1n,
        f: -1.5,
        d: 0.1,
        D: AmqpTable.decimal({ scale: 2, value: -1999 }),
        S: "grüße",
        "S bytes": Uint8Array.of(0xc3, 0x28),
        A: [1, "two", []],
        T: new Date(1_700_000_000_000),
        F: { "": null, twice: false },
        V: null,
        x: Uint8Array.of(0, 1, 0xce, 0xff)
      },
      deliveryMode: 2,
      priority: 9,
      correlationId: "correlation",
      replyTo: "reply.to",
      expiration: "60000",
      messageId: "message-1",
      timestamp: 1_700_000_000,
      type: "type",
      userId: "guest",
      appId: "app",
      clusterId: "cluster"
    })
  })

  it("a server of another version answers with its own protocol header", () => {
    assert.strictEqual(versionAnswer, toHex(AmqpProtocol.protocolHeader))
  })
})

const isContentMethod = (method: Method): method is AmqpProtocol.ContentMethod =>
  AmqpProtocol.methods[method._tag].content

// -----------------------------------------------------------------------------
// cutting the stream
// -----------------------------------------------------------------------------

const stream = concat(goldens.map(({ bytes }) => bytes))
const streamFrames = goldens.map(({ bytes }) => parseOne(bytes))

describe("the captured stream", () => {
  it("ML18: in one chunk, byte by byte, in chunks of any one size", () => {
    assert.deepStrictEqual(parse([stream]), streamFrames)
    for (const size of [1, 2, 3, 7, 8, 9, 64, 1000, 4095, 4096, 4097]) {
      const chunks = Array.from(
        { length: Math.ceil(stream.length / size) },
        (_, i) => stream.slice(i * size, (i + 1) * size)
      )
      assert.deepStrictEqual(parse(chunks), streamFrames, `chunks of ${size}`)
    }
  })

  it("ML18: cut in two at every byte, each frame between its neighbours, all by one parser", () => {
    const parser = AmqpProtocol.makeParser()
    const push = (chunk: Uint8Array) => Result.getOrThrow(parser.push(chunk)).map(print)
    goldens.forEach((golden, i) => {
      const window = goldens.slice(Math.max(0, i - 1), i + 2)
      const bytes = concat(window.map((golden) => golden.bytes))
      const expected = push(bytes)
      assert.strictEqual(expected.length, window.length)
      const before = window[0] === golden ? 0 : window[0]?.bytes.length ?? 0
      for (let at = before; at <= before + golden.bytes.length; at++) {
        const frames = [...push(bytes.subarray(0, at)), ...push(bytes.subarray(at))]
        assert.deepStrictEqual(frames, expected, `${golden.name} cut at ${at - before}`)
      }
    })
  }, 60_000)

  it.prop("ML18: in random chunks", [
    Arbitrary.array(Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2000 }))), {
      maxLength: 100
    })
  ], ([sizes]) => {
    const chunks: Array<Uint8Array> = []
    let at = 0
    for (const size of sizes) chunks.push(stream.slice(at, at += size))
    assert.deepStrictEqual(parse([...chunks, stream.slice(at)]), streamFrames)
  }, { arbitrary: { runs: 30 } })

  it("from chunks whose memory is used again: straddling frames are copied", () => {
    const parser = AmqpProtocol.makeParser()
    const buffer = new Uint8Array(100)
    const seen: Array<string> = []
    for (let at = 0; at < stream.length; at += buffer.length) {
      const size = Math.min(buffer.length, stream.length - at)
      buffer.set(stream.subarray(at, at + size))
      // What lies whole in the chunk is a view of it, so it is looked at before the memory is used again.
      for (const frame of Result.getOrThrow(parser.push(buffer.subarray(0, size)))) seen.push(print(frame))
    }
    assert.deepStrictEqual(seen, streamFrames.map(print))
  })

  it("gives views of the chunk, and copies of what straddles two", () => {
    const bytes = frame(3, 1, "aabbcc")
    const whole = parseOne(bytes)
    assert.strictEqual(whole._tag === "Body" && whole.payload.buffer, bytes.buffer)
    const [cut] = parse([bytes.subarray(0, 8), bytes.subarray(8)])
    bytes.fill(0)
    assert.deepStrictEqual(cut, { _tag: "Body", channel: 1, payload: fromHex("aabbcc") })
  })
})

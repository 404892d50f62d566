import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import { AmqpConnectionError, AmqpDecodeError, AmqpEncodeError } from "../src/AmqpError.ts"
import { AmqpMessage } from "../src/AmqpMessage.ts"
import * as AmqpProtocol from "../src/AmqpProtocol.ts"
import * as AmqpTable from "../src/AmqpTable.ts"
import { conversations, versionAnswer } from "./fixtures/goldens.ts"

type Method = AmqpProtocol.Method
type MethodName = AmqpProtocol.MethodName
type MethodOf<Name extends MethodName> = Extract<Method, { readonly _tag: Name }>
type Frame = AmqpProtocol.Frame

// -----------------------------------------------------------------------------
// helpers
// -----------------------------------------------------------------------------

const fromHex = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex.replaceAll(" ", ""), "hex"))
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)
const concat = (parts: ReadonlyArray<Uint8Array>): Uint8Array => new Uint8Array(Buffer.concat(parts))
const u32 = (value: number): string => value.toString(16).padStart(8, "0")
const frame = (type: number, channel: number, payload: string): Uint8Array =>
  fromHex(`0${type}${channel.toString(16).padStart(4, "0")}${u32(payload.length / 2)}${payload}ce`)

const parse = (chunks: Iterable<Uint8Array>, frameMax?: number): ReadonlyArray<Frame> => {
  const parser = AmqpProtocol.makeParser({ frameMax })
  return Array.from(chunks, (chunk) => Result.getOrThrow(parser.push(chunk))).flat()
}

/** The one frame that the bytes are. */
const parseOne = (bytes: Uint8Array): Frame => {
  const [only, ...more] = parse([bytes])
  assert.deepStrictEqual(more, [])
  return only ?? assert.fail("no frame")
}

/** Why a parser refuses the bytes; it has to stay refusing. */
const refused = (bytes: Uint8Array, parser = AmqpProtocol.makeParser()) => {
  const result = parser.push(bytes)
  if (Result.isSuccess(result)) return assert.fail(`parsed ${JSON.stringify(result.success)}`)
  assert.instanceOf(result.failure, AmqpConnectionError)
  const { reason } = result.failure
  if (reason._tag !== "ProtocolViolation") return assert.fail(reason.message)
  assert.isTrue(Result.isFailure(parser.push(AmqpProtocol.heartbeatFrame)), "the parser lives on")
  return { replyCode: reason.replyCode, detail: reason.detail }
}

const encodeError = (result: Result.Result<Uint8Array, AmqpEncodeError>): AmqpEncodeError => {
  if (Result.isSuccess(result)) return assert.fail(`encoded ${toHex(result.success)}`)
  assert.instanceOf(result.failure, AmqpEncodeError)
  return result.failure
}

const thrown = (f: () => unknown): unknown => {
  try {
    f()
  } catch (error) {
    return error
  }
  return assert.fail("did not throw")
}

const methodNames = Object.keys(AmqpProtocol.methods) as ReadonlyArray<MethodName>

// -----------------------------------------------------------------------------
// goldens
// -----------------------------------------------------------------------------

interface Golden {
  readonly from: string
  readonly name: string
  readonly bytes: Uint8Array
}

const goldensOf = (conversation: string): ReadonlyArray<Golden> =>
  conversation.trim().split("\n").map((line) => {
    const [from = "", name = "", hex = ""] = line.split(" ")
    return { from, name, bytes: fromHex(hex) }
  })
const goldens = Object.values(conversations).flatMap(goldensOf)

/** What the first frame of each method says. The server's properties are looked at apart. */
const expected: { readonly [Name in MethodName]: MethodOf<Name> } = {
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

const firstOf = (name: MethodName): Golden =>
  goldens.find((golden) => golden.name === name) ?? assert.fail(`no golden of ${name}`)

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

/** A frame as text. */
const print = (frame: Frame): string =>
  JSON.stringify(frame, (_, value: unknown) => {
    if (value instanceof Uint8Array) return toHex(value)
    return typeof value === "bigint" ? `${value}n` : value
  })

// -----------------------------------------------------------------------------
// arbitrary methods and contents
// -----------------------------------------------------------------------------

const from = <S extends Schema.Constraint>(schema: S) => Arbitrary.schema(schema)
const integer = (maximum: number) => from(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

const Text = Schema.String.check(Schema.makeFilter((value: string) => value.isWellFormed()))
const bit = from(Schema.Boolean)
const octet = integer(0xff)
const short = integer(0xffff)
const long = integer(0xffff_ffff)
const longlong = integer(Number.MAX_SAFE_INTEGER)
// 63 code units are at most 189 bytes.
const shortstr = from(Text.check(Schema.isMaxLength(63)))
const longstr = from(Schema.Uint8Array)

const Leaf = Schema.Union([
  Schema.Null,
  Schema.Boolean,
  Schema.Int,
  Schema.Finite,
  Text,
  Schema.Uint8Array,
  Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 2n ** 53n, maximum: 2n ** 63n - 1n }))
])
const Key = Text.check(Schema.isMaxLength(63))
const table: Arbitrary.Arbitrary<AmqpTable.PlainTable> = from(
  Schema.Record(Key, Schema.Union([Leaf, Schema.Array(Leaf), Schema.Record(Key, Leaf)]))
)

const close = { replyCode: short, replyText: shortstr, classId: short, methodId: short }
const exchangeBinding = { destination: shortstr, source: shortstr, routingKey: shortstr, noWait: bit, arguments: table }
const queueBinding = { queue: shortstr, exchange: shortstr, routingKey: shortstr, arguments: table }
const tune = { channelMax: short, frameMax: long, heartbeat: short }
const delivery = { deliveryTag: longlong, redelivered: bit, exchange: shortstr, routingKey: shortstr }

const fields: {
  readonly [Name in MethodName]: {
    readonly [Field in Exclude<keyof MethodOf<Name>, "_tag">]: Arbitrary.Arbitrary<MethodOf<Name>[Field]>
  }
} = {
  "connection.start": {
    versionMajor: octet,
    versionMinor: octet,
    serverProperties: table,
    mechanisms: longstr,
    locales: longstr
  },
  "connection.start-ok": { clientProperties: table, mechanism: shortstr, response: longstr, locale: shortstr },
  "connection.secure": { challenge: longstr },
  "connection.secure-ok": { response: longstr },
  "connection.tune": tune,
  "connection.tune-ok": tune,
  "connection.open": { virtualHost: shortstr },
  "connection.open-ok": {},
  "connection.close": close,
  "connection.close-ok": {},
  "connection.blocked": { reason: shortstr },
  "connection.unblocked": {},
  "connection.update-secret": { newSecret: longstr, reason: shortstr },
  "connection.update-secret-ok": {},
  "channel.open": {},
  "channel.open-ok": {},
  "channel.flow": { active: bit },
  "channel.flow-ok": { active: bit },
  "channel.close": close,
  "channel.close-ok": {},
  "exchange.declare": {
    exchange: shortstr,
    type: shortstr,
    passive: bit,
    durable: bit,
    autoDelete: bit,
    internal: bit,
    noWait: bit,
    arguments: table
  },
  "exchange.declare-ok": {},
  "exchange.delete": { exchange: shortstr, ifUnused: bit, noWait: bit },
  "exchange.delete-ok": {},
  "exchange.bind": exchangeBinding,
  "exchange.bind-ok": {},
  "exchange.unbind": exchangeBinding,
  "exchange.unbind-ok": {},
  "queue.declare": {
    queue: shortstr,
    passive: bit,
    durable: bit,
    exclusive: bit,
    autoDelete: bit,
    noWait: bit,
    arguments: table
  },
  "queue.declare-ok": { queue: shortstr, messageCount: long, consumerCount: long },
  "queue.bind": { ...queueBinding, noWait: bit },
  "queue.bind-ok": {},
  "queue.purge": { queue: shortstr, noWait: bit },
  "queue.purge-ok": { messageCount: long },
  "queue.delete": { queue: shortstr, ifUnused: bit, ifEmpty: bit, noWait: bit },
  "queue.delete-ok": { messageCount: long },
  "queue.unbind": queueBinding,
  "queue.unbind-ok": {},
  "basic.qos": { prefetchSize: long, prefetchCount: short, global: bit },
  "basic.qos-ok": {},
  "basic.consume": {
    queue: shortstr,
    consumerTag: shortstr,
    noLocal: bit,
    noAck: bit,
    exclusive: bit,
    noWait: bit,
    arguments: table
  },
  "basic.consume-ok": { consumerTag: shortstr },
  "basic.cancel": { consumerTag: shortstr, noWait: bit },
  "basic.cancel-ok": { consumerTag: shortstr },
  "basic.publish": { exchange: shortstr, routingKey: shortstr, mandatory: bit, immediate: bit },
  "basic.return": { replyCode: short, replyText: shortstr, exchange: shortstr, routingKey: shortstr },
  "basic.deliver": { ...delivery, consumerTag: shortstr },
  "basic.get": { queue: shortstr, noAck: bit },
  "basic.get-ok": { ...delivery, messageCount: long },
  "basic.get-empty": {},
  "basic.ack": { deliveryTag: longlong, multiple: bit },
  "basic.reject": { deliveryTag: longlong, requeue: bit },
  "basic.recover-async": { requeue: bit },
  "basic.recover": { requeue: bit },
  "basic.recover-ok": {},
  "basic.nack": { deliveryTag: longlong, multiple: bit, requeue: bit },
  "confirm.select": { noWait: bit },
  "confirm.select-ok": {},
  "tx.select": {},
  "tx.select-ok": {},
  "tx.commit": {},
  "tx.commit-ok": {},
  "tx.rollback": {},
  "tx.rollback-ok": {}
}

/** Any method of this name; `fields` has made sure that its fields are there. */
const methodsOf = <Name extends MethodName>(name: Name): Arbitrary.Arbitrary<MethodOf<Name>> =>
  Arbitrary.all(fields[name]).pipe(Arbitrary.map((values) => ({ _tag: name, ...values }) as unknown as MethodOf<Name>))

const contentMethods = ["basic.publish", "basic.return", "basic.deliver", "basic.get-ok"] as const
const contentMethod = from(Schema.Literals(contentMethods)).pipe(
  Arbitrary.flatMap((name): Arbitrary.Arbitrary<AmqpProtocol.ContentMethod> => methodsOf(name))
)

const timestamp = Arbitrary.all([
  bit,
  longlong,
  from(Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 2n ** 53n, maximum: 2n ** 64n - 1n })))
]).pipe(Arbitrary.map(([isSmall, small, large]) => isSmall ? small : large))

/** Any properties; each is absent in every other case. */
const properties = Arbitrary.all([
  Arbitrary.all({
    contentType: shortstr,
    contentEncoding: shortstr,
    headers: table,
    deliveryMode: octet,
    priority: octet,
    correlationId: shortstr,
    replyTo: shortstr,
    expiration: shortstr,
    messageId: shortstr,
    timestamp,
    type: shortstr,
    userId: shortstr,
    appId: shortstr,
    clusterId: shortstr
  }),
  integer(0x3fff)
]).pipe(
  Arbitrary.map(([all, present]): AmqpProtocol.BasicProperties =>
    Object.fromEntries(Object.entries(all).filter((_, i) => (present & (1 << i)) !== 0))
  )
)

describe("any method", () => {
  for (const name of methodNames) {
    it.prop(`${name} is read as it was written`, [short, methodsOf(name)], ([channel, method]) => {
      const bytes = Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method))
      assert.deepStrictEqual(parseOne(bytes), { _tag: "Method", channel, method })
    }, { arbitrary: { runs: 25 } })
  }

  it("has its ids", () => {
    for (const [name, hex] of [["connection.start", "000a000a"], ["exchange.unbind-ok", "00280033"]] as const) {
      assert.strictEqual(u32(AmqpProtocol.methods[name].id), hex)
      assert.strictEqual(toHex(firstOf(name).bytes.subarray(7, 11)), hex)
    }
  })

  it("with a reply names a method of its class that the other side may send", () => {
    for (const name of methodNames) {
      for (const reply of AmqpProtocol.methods[name].replies) {
        assert.strictEqual(reply.split(".")[0], name.split(".")[0])
        assert.isTrue(AmqpProtocol.methods[name].client ? AmqpProtocol.methods[reply].server : true, name)
        assert.isTrue(AmqpProtocol.methods[name].server ? AmqpProtocol.methods[reply].client : true, name)
      }
    }
    assert.deepStrictEqual(AmqpProtocol.methods["basic.get"].replies, ["basic.get-ok", "basic.get-empty"])
    assert.deepStrictEqual(
      methodNames.filter((name) => AmqpProtocol.methods[name].content).toSorted(),
      contentMethods.toSorted()
    )
  })
})

describe("any content", () => {
  it.prop("is read as it was written, in as few body frames as possible", [
    Arbitrary.all({ channel: short, method: contentMethod, properties }),
    integer(20_000),
    Arbitrary.all([bit, integer(6000)]).pipe(Arbitrary.map(([isLeast, more]) => isLeast ? 4096 : 4096 + more))
  ], ([content, size, frameMax]) => {
    const body = Uint8Array.from({ length: size }, (_, i) => i)
    const bytes = Result.getOrThrow(AmqpProtocol.encodeContent({ ...content, body, frameMax }))
    const [method, header, ...bodies] = parse([bytes], frameMax)
    const { channel } = content
    assert.deepStrictEqual(method, { _tag: "Method", channel, method: content.method })
    if (header?._tag !== "Header") return assert.fail("no header")
    assert.deepStrictEqual([header.channel, header.bodySize], [channel, size])
    assert.deepStrictEqual(
      Result.getOrThrow(AmqpProtocol.decodeProperties(header.properties)),
      content.properties
    )
    assert.strictEqual(bodies.length, Math.ceil(size / (frameMax - 8)))
    const payloads = bodies.map((frame) => frame._tag === "Body" ? frame.payload : assert.fail(frame._tag))
    assert.isTrue(payloads.every((payload) => payload.length > 0))
    assert.deepStrictEqual(concat(payloads), body)
  }, { arbitrary: { runs: 200 } })
})

// -----------------------------------------------------------------------------
// encoding
// -----------------------------------------------------------------------------

const publish = { _tag: "basic.publish", exchange: "", routingKey: "q", mandatory: false, immediate: false } as const

describe("encodeContent", () => {
  const room = 4096 - 8
  it.each([0, 1, room - 1, room, room + 1, 2 * room + 1])(
    "PB01: a body of %i bytes has no empty frame, and none at all if it is empty",
    (size) => {
      const body = new Uint8Array(size).fill(1)
      const bytes = Result.getOrThrow(AmqpProtocol.encodeContent({ channel: 1, method: publish, body, frameMax: 4096 }))
      const [method, header, ...bodies] = parse([bytes], 4096)
      assert.deepStrictEqual([method?._tag, header?._tag], ["Method", "Header"])
      const sizes = bodies.map((frame) => frame._tag === "Body" ? frame.payload.length : -1)
      const full = Math.floor(size / room)
      assert.deepStrictEqual(sizes, [
        ...Array.from({ length: full }, () => room),
        ...(size % room === 0 ? [] : [size % room])
      ])
    }
  )

  it("PB03: tells absent properties from empty ones", () => {
    const header = (properties: AmqpProtocol.BasicProperties<AmqpTable.InputTable>) => {
      const body = new Uint8Array(0)
      const [, header] = parse([
        Result.getOrThrow(AmqpProtocol.encodeContent({ channel: 1, method: publish, properties, body }))
      ])
      return header?._tag === "Header" ? header.properties : assert.fail("no header")
    }
    assert.strictEqual(toHex(header({})), "0000")
    assert.strictEqual(toHex(header({ contentType: undefined })), "0000")
    assert.strictEqual(
      toHex(header({ contentType: "", headers: {}, priority: 0, timestamp: 0 })),
      "a840 00 00000000 00 0000000000000000".replaceAll(" ", "")
    )
    const edges = { priority: 255, timestamp: 2n ** 63n, deliveryMode: 255, clusterId: "", messageId: "é".repeat(127) }
    assert.deepStrictEqual(Result.getOrThrow(AmqpProtocol.decodeProperties(header(edges))), edges)
  })

  it("writes raw properties as they are, decodable or not", () => {
    for (const hex of ["", "ff", "0003", "8000ff"]) {
      const properties = fromHex(hex)
      const bytes = Result.getOrThrow(
        AmqpProtocol.encodeContent({ channel: 1, method: publish, properties, body: new Uint8Array(0) })
      )
      assert.deepStrictEqual(parse([bytes])[1], { _tag: "Header", channel: 1, bodySize: 0, properties })
    }
  })

  it("is for methods with a content, and bodies of bytes", () => {
    const method: unknown = { _tag: "basic.get", queue: "", noAck: true }
    const body: unknown = "text"
    const wrongMethod = { channel: 1, method: method as AmqpProtocol.ContentMethod, body: new Uint8Array(0) }
    assert.match(
      String(thrown(() => AmqpProtocol.encodeContent(wrongMethod))),
      /TypeError: basic.get carries no content/
    )
    const wrongBody = { channel: 1, method: publish, body: body as Uint8Array }
    assert.match(String(thrown(() => AmqpProtocol.encodeContent(wrongBody))), /TypeError: body must be a Uint8Array/)
  })
})

describe("an encoder that fails", () => {
  const declare = (
    queue: string,
    args: AmqpTable.InputTable = {}
  ): AmqpProtocol.QueueDeclare<AmqpTable.InputTable> => ({
    _tag: "queue.declare",
    queue,
    passive: false,
    durable: true,
    exclusive: false,
    autoDelete: false,
    noWait: false,
    arguments: args
  })
  const failures: ReadonlyArray<
    readonly [path: string, reason: RegExp, result: () => Result.Result<Uint8Array, AmqpEncodeError>]
  > = [
    ["channel", /0 to 65535, not 65536/, () => AmqpProtocol.encodeMethod(65536, { _tag: "channel.open" })],
    ["channel", /not -1/, () => AmqpProtocol.encodeMethod(-1, { _tag: "channel.open" })],
    [
      "channel",
      /not 1.5/,
      () => AmqpProtocol.encodeContent({ channel: 1.5, method: publish, body: new Uint8Array(0) })
    ],
    ["queue", /255 bytes, not 256/, () => AmqpProtocol.encodeMethod(1, declare("é".repeat(128)))],
    ["queue", /lone surrogate/, () => AmqpProtocol.encodeMethod(1, declare("\ud800"))],
    ["arguments.a[1]", /finite/, () => AmqpProtocol.encodeMethod(1, declare("q", { a: [1, NaN] }))],
    ["queue.declare", /do not fit/, () => AmqpProtocol.encodeMethod(1, declare("q", { a: "a".repeat(131072) }))],
    [
      "queue.declare",
      /4096/,
      () => AmqpProtocol.encodeMethod(1, declare("q", { a: "a".repeat(4096) }), { frameMax: 4096 })
    ],
    [
      "deliveryTag",
      /integer/,
      () => AmqpProtocol.encodeMethod(1, { _tag: "basic.ack", deliveryTag: 2 ** 53, multiple: false })
    ],
    [
      "prefetchCount",
      /65535, not 65536/,
      () => AmqpProtocol.encodeMethod(1, { _tag: "basic.qos", prefetchSize: 0, prefetchCount: 65536, global: false })
    ],
    [
      "headers.h",
      /lone surrogate/,
      () =>
        AmqpProtocol.encodeContent({
          channel: 1,
          method: publish,
          properties: { headers: { h: "\udfff" } },
          body: new Uint8Array(9)
        })
    ],
    [
      "priority",
      /255, not 256/,
      () => AmqpProtocol.encodeContent({ channel: 1, method: publish, properties: { priority: 256 }, body: utf8("b") })
    ],
    [
      "properties",
      /do not fit/,
      () =>
        AmqpProtocol.encodeContent({
          channel: 1,
          method: publish,
          properties: new Uint8Array(4096),
          body: utf8("b"),
          frameMax: 4096
        })
    ]
  ]

  it.each(failures)("names %s and leaves nothing behind", (path, reason, result) => {
    const error = encodeError(result())
    assert.strictEqual(error.path, path)
    assert.match(error.reason, reason)
    assert.strictEqual(
      toHex(Result.getOrThrow(AmqpProtocol.encodeMethod(2, { _tag: "channel.open" }))),
      "010002000000050014000a00ce"
    )
  })

  it("on its caller's own exception passes it on and leaves nothing behind", () => {
    const args = {
      get boom(): string {
        throw new RangeError("ours")
      }
    }
    assert.instanceOf(thrown(() => AmqpProtocol.encodeMethod(1, declare("q", args))), RangeError)
    const stranger: unknown = { _tag: "queue.steal" }
    assert.match(
      String(thrown(() => AmqpProtocol.encodeMethod(1, stranger as Method))),
      /TypeError: queue.steal is not the name of a method/
    )
    assert.strictEqual(
      toHex(Result.getOrThrow(AmqpProtocol.encodeMethod(2, { _tag: "channel.open" }))),
      "010002000000050014000a00ce"
    )
  })

  it("does not disturb, nor does one that succeeds, the encoding that it is called from", () => {
    const encodings: Array<string> = []
    const args = {
      get inner(): string {
        encodings.push(toHex(Result.getOrThrow(AmqpProtocol.encodeMethod(2, { _tag: "channel.open" }))))
        encodeError(AmqpProtocol.encodeMethod(1, declare("\ud800")))
        return "value"
      }
    }
    assert.strictEqual(
      toHex(Result.getOrThrow(AmqpProtocol.encodeMethod(1, declare("q", args)))),
      toHex(Result.getOrThrow(AmqpProtocol.encodeMethod(1, declare("q", { inner: "value" }))))
    )
    assert.deepStrictEqual(encodings, ["010002000000050014000a00ce"])
  })

  it("does not write again what it has handed out", () => {
    const body = new Uint8Array(1000)
    const encode = (i: number) =>
      Result.getOrThrow(AmqpProtocol.encodeContent({ channel: i, method: publish, body: body.fill(i) }))
    const kept = Array.from({ length: 200 }, (_, i) => encode(i))
    kept.forEach((bytes, i) => assert.deepStrictEqual(toHex(bytes), toHex(encode(i))))
  })
})

describe("frameMax", () => {
  it("is 131072 unless given", () => {
    const body = new Uint8Array(131073)
    const bytes = Result.getOrThrow(AmqpProtocol.encodeContent({ channel: 1, method: publish, body }))
    assert.deepStrictEqual(
      parse([bytes]).map((frame) => frame._tag === "Body" ? frame.payload.length : 0),
      [0, 0, 131064, 9]
    )
    assert.strictEqual(AmqpProtocol.defaultFrameMax, 131072)
    assert.strictEqual(AmqpProtocol.makeParser().frameMax, 131072)
  })

  it("is never below what every peer must take, not even as the 0 of a negotiation", () => {
    for (const frameMax of [0, 1, 8, 4095, NaN, -1]) {
      const body = new Uint8Array(5000)
      const bytes = Result.getOrThrow(AmqpProtocol.encodeContent({ channel: 1, method: publish, body, frameMax }))
      const parser = AmqpProtocol.makeParser({ frameMax })
      assert.strictEqual(parser.frameMax, 4096)
      assert.strictEqual(Result.getOrThrow(parser.push(bytes)).length, 4)
      assert.strictEqual(refused(fromHex(`030001${u32(4089)}`), parser).replyCode, 501)
    }
  })

  it("of a parser can be set when it is negotiated", () => {
    const parser = AmqpProtocol.makeParser({ frameMax: 4096 })
    parser.frameMax = 8192
    assert.strictEqual(Result.getOrThrow(parser.push(frame(3, 1, "00".repeat(8184)))).length, 1)
    parser.frameMax = 0
    assert.strictEqual(parser.frameMax, 4096)
    assert.match(refused(fromHex(`030001${u32(4089)}`), parser).detail, /announces 4089 bytes, the limit is 4088/)
  })
})

// -----------------------------------------------------------------------------
// hostile input
// -----------------------------------------------------------------------------

describe("a parser refuses", () => {
  it("ML01: a wrong frame end, ML02: an unknown type, a size beyond its limit", () => {
    for (const type of [1, 2, 3, 8]) {
      assert.strictEqual(refused(fromHex(`0${type}0000${u32(0)}00`)).replyCode, 501)
    }
    for (const type of ["00", "04", "ff"]) {
      assert.match(refused(fromHex(`${type}000000000000`)).detail, /does not exist/)
    }
    for (const type of [1, 2, 3]) assert.match(refused(fromHex(`0${type}0001ffffffff`)).detail, /4294967295/)
  })

  it("ML03: a class or a method that does not exist, on any channel", () => {
    for (const channel of [0, 1]) {
      assert.deepStrictEqual(refused(frame(1, channel, "00630001")), {
        replyCode: 503,
        detail: "method 99.1 does not exist"
      })
      assert.strictEqual(refused(frame(1, channel, "003c0063")).detail, "method 60.99 does not exist")
      // 0-8's realms, which RabbitMQ does not know either
      assert.strictEqual(refused(frame(1, channel, "001e000a")).detail, "method 30.10 does not exist")
    }
  })

  it("bytes after the last field", () => {
    assert.deepStrictEqual(refused(frame(1, 1, "003c006fff")), {
      replyCode: 502,
      detail: "1 bytes after the fields of basic.recover-ok"
    })
  })

  it.each(methodNames)("ML09: %s that ends too early, wherever that is", (name) => {
    const payload = toHex(firstOf(name).bytes.slice(7, -1))
    for (let size = 0; size < payload.length; size += 2) {
      assert.strictEqual(refused(frame(1, 1, payload.slice(0, size))).replyCode, 502, `${size / 2} bytes`)
    }
  })

  it("ML08: a content header of another class or with a weight, or of a size that no number holds", () => {
    assert.deepStrictEqual(refused(frame(2, 1, "003d000000000000000000000000")), {
      replyCode: 501,
      detail: "a content header of class 61"
    })
    assert.strictEqual(
      refused(frame(2, 1, "003c000100000000000000000000")).detail,
      "a content header with a weight"
    )
    assert.strictEqual(refused(frame(2, 1, "003c000000200000000000000000")).replyCode, 502)
    for (let size = 0; size < 12; size++) {
      assert.strictEqual(refused(frame(2, 1, "003c00000000000000000000".slice(0, size * 2))).replyCode, 502)
    }
  })

  it("ML09: no properties: they are the message's affair", () => {
    for (const hex of ["", "00", "8000", "2000ffffffff", "0001", "8000ff", "0000aa"]) {
      const properties = fromHex(hex)
      const header = parseOne(frame(2, 1, `003c00000000000000000005${hex}`))
      assert.deepStrictEqual(header, { _tag: "Header", channel: 1, bodySize: 5, properties })
      const decoded = AmqpProtocol.decodeProperties(properties)
      assert.instanceOf(Result.isFailure(decoded) ? decoded.failure : undefined, AmqpDecodeError, hex)
    }
  })

  it("everything after a failure, and gives no frame of the chunk that failed", () => {
    const parser = AmqpProtocol.makeParser()
    assert.strictEqual(Result.getOrThrow(parser.push(AmqpProtocol.heartbeatFrame)).length, 1)
    const bad = concat([AmqpProtocol.heartbeatFrame, frame(1, 1, "00630001")])
    assert.strictEqual(refused(bad, parser).replyCode, 503)
    assert.strictEqual(refused(AmqpProtocol.heartbeatFrame, parser).replyCode, 501)
  })

  it("the protocol header, which is no frame", () => {
    assert.match(refused(AmqpProtocol.protocolHeader).detail, /frame type 65/)
  })
})

/** A result is all that comes of any bytes, and it does not depend on how they are cut. */
const holds = (bytes: Uint8Array): void => {
  const outcome = (chunks: Iterable<Uint8Array>) => {
    const parser = AmqpProtocol.makeParser({ frameMax: 4096 })
    const frames: Array<string> = []
    for (const chunk of chunks) {
      const result = parser.push(chunk)
      if (Result.isFailure(result)) {
        assert.instanceOf(result.failure, AmqpConnectionError)
        return { frames: [], error: result.failure.message }
      }
      for (const frame of result.success) frames.push(print(frame))
    }
    return { frames, error: undefined }
  }
  assert.deepStrictEqual(outcome([bytes]), outcome(Array.from(bytes, (octet) => Uint8Array.of(octet))))
}

describe("fuzz", () => {
  it.prop("any bytes", [Arbitrary.array(octet)], ([octets]) => {
    holds(Uint8Array.from(octets))
  }, { arbitrary: { runs: 300 } })

  it.prop("any fields of any method", [
    from(Schema.Literals(methodNames)),
    Arbitrary.array(octet, { maxLength: 60 })
  ], ([name, octets]) => {
    holds(frame(1, 1, u32(AmqpProtocol.methods[name].id) + toHex(Uint8Array.from(octets))))
  }, { arbitrary: { runs: 500 } })

  it.prop("any properties", [short, Arbitrary.array(octet, { maxLength: 60 })], ([flags, octets]) => {
    const bytes = Uint8Array.of(flags >>> 8, flags, ...octets)
    const decoded = AmqpProtocol.decodeProperties(bytes)
    if (Result.isFailure(decoded)) assert.instanceOf(decoded.failure, AmqpDecodeError)
  }, { arbitrary: { runs: 500 } })

  it.prop("captured frames with any bytes changed", [
    integer(goldens.length - 1),
    Arbitrary.array(Arbitrary.all([integer(400), octet]), { minLength: 1, maxLength: 4 })
  ], ([index, changes]) => {
    const bytes = goldens[index]?.bytes.slice(0, 600) ?? new Uint8Array(0)
    for (const [at, octet] of changes) bytes[at % bytes.length] = octet
    holds(bytes)
  }, { arbitrary: { runs: 500 } })
})

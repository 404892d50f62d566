import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import { AmqpConnectionError, AmqpDecodeError, AmqpEncodeError } from "../../src/AmqpError.ts"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import type * as AmqpTable from "../../src/AmqpTable.ts"
import {
  concat,
  firstOf,
  frame,
  fromHex,
  goldens,
  methodNames,
  parse,
  parseOne,
  print,
  thrown,
  toHex,
  u32,
  utf8
} from "../fixtures/frames.ts"

type Method = AmqpProtocol.Method
type MethodName = AmqpProtocol.MethodName
type MethodOf<Name extends MethodName> = Extract<Method, { readonly _tag: Name }>

// -----------------------------------------------------------------------------
// helpers
// -----------------------------------------------------------------------------

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

  it("unsplitMax is for methods and headers, in both directions", () => {
    const content = {
      channel: 1,
      method: publish,
      properties: { type: "a".repeat(255), headers: { a: "a".repeat(5000) } }
    }
    const body = new Uint8Array(5000)
    const tooLarge = AmqpProtocol.encodeContent({ ...content, body, frameMax: 4096 })
    assert.strictEqual(encodeError(tooLarge).path, "properties")
    const bytes = Result.getOrThrow(AmqpProtocol.encodeContent({ ...content, body, frameMax: 4096, unsplitMax: 8192 }))
    const parser = AmqpProtocol.makeParser({ frameMax: 4096 })
    const frames = Result.getOrThrow(parser.push(bytes))
    assert.deepStrictEqual(frames.flatMap((frame) => frame._tag === "Body" ? frame.payload.length : []), [4088, 912])
    parser.unsplitMax = 4096
    assert.strictEqual(refused(bytes, parser).replyCode, 501)
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

  it("everything after a failure, but not what came before it", () => {
    const parser = AmqpProtocol.makeParser()
    assert.strictEqual(Result.getOrThrow(parser.push(AmqpProtocol.heartbeatFrame)).length, 1)
    const bad = concat([AmqpProtocol.heartbeatFrame, frame(1, 1, "00630001")])
    assert.isTrue(Result.isFailure(parser.push(bad)))
    assert.deepStrictEqual(parser.completed, [{ _tag: "Heartbeat" }])
    assert.strictEqual(refused(AmqpProtocol.heartbeatFrame, parser).replyCode, 501)
    assert.deepStrictEqual(parser.completed, [])
    assert.strictEqual(refused(bad).replyCode, 503)
  })

  it("the protocol header, which is no frame", () => {
    assert.match(refused(AmqpProtocol.protocolHeader).detail, /frame type 65/)
  })
})

/** Frames and a result are all that comes of any bytes, and they do not depend on how these are cut. */
const holds = (bytes: Uint8Array): void => {
  const outcome = (chunks: Iterable<Uint8Array>) => {
    const parser = AmqpProtocol.makeParser({ frameMax: 4096 })
    const frames: Array<string> = []
    for (const chunk of chunks) {
      const result = parser.push(chunk)
      for (const frame of parser.completed) frames.push(print(frame))
      if (Result.isFailure(result)) {
        assert.instanceOf(result.failure, AmqpConnectionError)
        return { frames, error: result.failure.message }
      }
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

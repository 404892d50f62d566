import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import { AmqpDecodeError } from "../../src/AmqpError.ts"
import { AmqpMessage, type PropertiesInput } from "../../src/AmqpMessage.ts"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import { concat, fromHex, goldens, parse, parseOne, thrown, toHex, u32, utf8 } from "../fixtures/frames.ts"

// -----------------------------------------------------------------------------
// helpers
// -----------------------------------------------------------------------------

/** A message whose header is these bytes, from the flags on; they lie in the middle of a larger buffer. */
const received = (properties: Uint8Array, body: Uint8Array = new Uint8Array(0)): AmqpMessage => {
  const around = Uint8Array.of(0xff, 0xff, 0xff)
  return new AmqpMessage("ex", "key", {
    content: body,
    headerBytes: concat([around, properties, around]),
    headerStart: 3,
    headerEnd: 3 + properties.length
  })
}

const publish = { _tag: "basic.publish", exchange: "", routingKey: "", mandatory: false, immediate: false } as const

/** The bytes of properties. */
const encoded = (properties: PropertiesInput): Uint8Array => {
  const content = { channel: 1, method: publish, properties, body: new Uint8Array(0) }
  const [, header] = parse([Result.getOrThrow(AmqpProtocol.encodeContent(content))])
  return header?._tag === "Header" ? header.properties : assert.fail("no header")
}

const message = (properties: PropertiesInput): AmqpMessage => received(encoded(properties))

/** The error of a header that cannot be decoded; all that needs it must fail with it, and nothing else must. */
const decodeError = (properties: Uint8Array): AmqpDecodeError => {
  const message = received(properties, utf8("body"))
  const error = message.decodeError
  if (error === undefined) return assert.fail(`decoded ${toHex(properties)}`)
  assert.instanceOf(error, AmqpDecodeError)
  assert.strictEqual(thrown(() => message.properties), error)
  assert.strictEqual(thrown(() => message.headersTagged), error)
  assert.deepStrictEqual([message.exchange, message.routingKey, message.text], ["ex", "key", "body"])
  assert.isUndefined(message.pairing)
  return error
}

/** The header of the captured message that has everything. */
const everything = goldens.filter(({ name }) => name === "header").map(({ bytes }) => parseOne(bytes))
  .flatMap((frame) => frame._tag === "Header" ? [frame.properties] : [])
  .reduce((longest, properties) => properties.length > longest.length ? properties : longest)

// -----------------------------------------------------------------------------
// properties
// -----------------------------------------------------------------------------

describe("properties", () => {
  it("PB03: are exactly those that were sent", () => {
    assert.deepStrictEqual(message({}).properties, {})
    assert.deepStrictEqual(Object.keys(message({ priority: 0, contentType: "", headers: {} }).properties), [
      "contentType",
      "headers",
      "priority"
    ])
    const edges = { priority: 255, deliveryMode: 0, timestamp: 2n ** 63n, messageId: "", appId: "é".repeat(127) }
    assert.deepStrictEqual(message(edges).properties, edges)
    assert.deepStrictEqual(message({ timestamp: 0 }).properties, { timestamp: 0 })
  })

  it("of a captured message are what the protocol decodes", () => {
    assert.deepStrictEqual(
      received(everything).properties,
      Result.getOrThrow(AmqpProtocol.decodeProperties(everything))
    )
    assert.strictEqual(Object.keys(received(everything).properties).length, 14)
  })

  it("are decoded on first use, once", () => {
    const headerBytes = encoded({ priority: 1 })
    const message = new AmqpMessage("", "", {
      content: new Uint8Array(0),
      headerBytes,
      headerStart: 0,
      headerEnd: headerBytes.length
    })
    headerBytes[2] = 2
    assert.strictEqual(message.properties.priority, 2)
    headerBytes[2] = 3
    assert.strictEqual(message.properties.priority, 2)
    assert.strictEqual(message.properties, message.properties)
    assert.isUndefined(message.decodeError)
  })
})

describe("a header that cannot be decoded", () => {
  it("is the problem of its message alone, wherever it is cut", () => {
    for (let size = 0; size < everything.length; size++) {
      assert.match(decodeError(everything.subarray(0, size)).reason, /ends inside|bytes where|bytes after/, `${size}`)
    }
  })

  it("has a path", () => {
    const cases: ReadonlyArray<readonly [hex: string, path: string, reason: RegExp]> = [
      ["0001", "properties", /unknown property flags/],
      ["0002", "properties", /unknown property flags/],
      ["0000 00", "properties", /^1 bytes after the last property$/],
      ["0800 09 0000", "properties", /^2 bytes after the last property$/],
      ["8000 02 c328", "contentType", /not UTF-8/],
      ["0080 01 ff", "messageId", /not UTF-8/],
      ["0004 02 61", "clusterId", /ends inside a short string/],
      ["0040 00000000", "timestamp", /ends inside/],
      ["2000 ffffffff", "headers", /4294967295 bytes/], // ML09
      ["2000 00000004 016b 5a00", "headers.k", /unknown type tag 0x5a/],
      ["2000 0000000b 016b 46 00000004 0161 5300", "headers.k.a", /ends inside/]
    ]
    for (const [hex, path, reason] of cases) {
      const error = decodeError(fromHex(hex))
      assert.strictEqual(error.path, path, hex)
      assert.match(error.reason, reason, hex)
    }
  })

  it.prop("is an AmqpDecodeError, whatever it holds", [
    Arbitrary.array(Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))))
  ], ([octets]) => {
    const bytes = Uint8Array.from(octets)
    if (received(bytes).decodeError === undefined) assert.isObject(received(bytes).properties)
    else decodeError(bytes)
  }, { arbitrary: { runs: 500 } })
})

describe("the tag that pairs a returned message with its publish", () => {
  it("is not among the properties", () => {
    const paired = message({ clusterId: "\u00011z", appId: "app" })
    assert.deepStrictEqual(paired.properties, { appId: "app" })
    assert.notProperty(paired.properties, "clusterId")
    assert.strictEqual(paired.pairing, "\u00011z")
  })

  it("is told from a cluster id of the application", () => {
    for (const clusterId of ["", "cluster", "1z", "a\u0001", "\u0002"]) {
      const other = message({ clusterId })
      assert.deepStrictEqual(other.properties, { clusterId })
      assert.isUndefined(other.pairing)
    }
    assert.isUndefined(message({}).pairing)
  })

  it("can be asked for before anything else", () => {
    assert.strictEqual(message({ clusterId: "\u0001", headers: { a: 1 } }).pairing, "\u0001")
  })
})

// -----------------------------------------------------------------------------
// headers
// -----------------------------------------------------------------------------

describe("headersTagged", () => {
  const headers = AmqpTable.table([
    ["twice", AmqpTable.int64(1n, "L")],
    ["b", AmqpTable.int8(1)],
    ["twice", AmqpTable.longString(Uint8Array.of(0xff))],
    ["nested", AmqpTable.table([["a", AmqpTable.array([AmqpTable.uint16(1), AmqpTable.void])]])]
  ])

  it("keeps types, order and duplicates, whatever comes before the headers", () => {
    for (const contentType of [undefined, "", "é"]) {
      for (const contentEncoding of [undefined, "", "x".repeat(255)]) {
        const tagged = message({ contentType, contentEncoding, headers, priority: 1 }).headersTagged
        assert.deepStrictEqual(tagged, headers)
      }
    }
    assert.deepStrictEqual(message({ headers }).properties.headers, {
      twice: Uint8Array.of(0xff),
      b: 1,
      nested: { a: [1, null] }
    })
  })

  it("PB04: gives the bytes of the captured headers back", () => {
    const tagged = received(everything).headersTagged ?? assert.fail("no headers")
    const bytes = toHex(Result.getOrThrow(AmqpTable.encode(tagged)))
    assert.include(toHex(everything), u32(bytes.length / 2) + bytes)
    assert.deepStrictEqual(
      tagged.value.map(([key, { _tag }]) => [key, _tag]).slice(0, 5),
      [["t", "Bool"], ["b", "Int8"], ["B", "UInt8"], ["s", "Int16"], ["u", "UInt16"]]
    )
  })

  it("tells no headers from none in it", () => {
    assert.isUndefined(message({ contentType: "text/plain" }).headersTagged)
    assert.deepStrictEqual(message({ headers: {} }).headersTagged, AmqpTable.table([]))
  })
})

// -----------------------------------------------------------------------------
// the body
// -----------------------------------------------------------------------------

describe("the body", () => {
  it("is the received bytes, not a copy", () => {
    const body = utf8("grüße")
    assert.strictEqual(received(encoded({}), body).body, body)
  })

  it("is text where it is UTF-8, byte order mark included", () => {
    for (const text of ["", "grüße", "\ufeff{}", "😀".repeat(100)]) {
      assert.strictEqual(received(encoded({}), utf8(text)).text, text)
    }
  })

  it("is an AmqpDecodeError as text where it is not, and can still be had as bytes", () => {
    const message = received(encoded({}), fromHex("61c328"))
    const error = thrown(() => message.text)
    assert.instanceOf(error, AmqpDecodeError)
    assert.strictEqual((error as AmqpDecodeError).message, "cannot decode body: it is not UTF-8")
    assert.strictEqual(toHex(message.body), "61c328")
    assert.isUndefined(message.decodeError)
  })
})

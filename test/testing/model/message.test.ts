/**
 * Messages of the embedded broker: relayed as the bytes they came as, rewritten without losing a type.
 */
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import type { PropertiesInput } from "../../../src/AmqpMessage.ts"
import * as AmqpProtocol from "../../../src/AmqpProtocol.ts"
import * as AmqpTable from "../../../src/AmqpTable.ts"
import { Message } from "../../../src/testing/internal/model/message.ts"

const make = (properties: PropertiesInput) =>
  new Message({
    exchange: "x",
    routingKey: "k",
    properties: Result.getOrThrow(AmqpProtocol.encodeProperties(properties)),
    body: new Uint8Array([1, 2, 3])
  })

const typed = AmqpTable.table([
  ["a", AmqpTable.int16(1)],
  ["b", AmqpTable.double(1)],
  ["c", AmqpTable.longString("one")]
])

describe("Message", () => {
  it("sets, adds and removes headers, and keeps the types of the others", () => {
    const message = make({ contentType: "text/plain", headers: typed })
    const changed = message.withHeaders({ a: AmqpTable.int32(5), c: undefined, d: AmqpTable.bool(true), e: undefined })
    assert.deepStrictEqual(
      changed.headers,
      AmqpTable.table([["a", AmqpTable.int32(5)], ["b", AmqpTable.double(1)], ["d", AmqpTable.bool(true)]])
    )
    assert.strictEqual(changed.decoded.contentType, "text/plain")
    assert.strictEqual(changed.body, message.body)
    assert.deepStrictEqual(message.headers, typed, "the original is as it was")
  })

  it("gives headers to a message that had none", () => {
    const message = make({})
    assert.isUndefined(message.decoded.headers)
    assert.deepStrictEqual(message.withHeaders({ n: AmqpTable.int64(1n) }).decoded.headers, { n: 1 })
  })

  it("changes where it goes and leaves out properties", () => {
    const message = make({ expiration: "10", priority: 3 }).with({ expiration: undefined }, { routingKey: "other" })
    assert.deepInclude(message, { exchange: "x", routingKey: "other" })
    assert.deepStrictEqual({ ...message.decoded }, { ...make({ priority: 3 }).decoded })
  })

  it("keeps the property by which a client pairs returns, which clients do not see", () => {
    const message = make({ clusterId: "\u00017" }).withHeaders({ n: AmqpTable.int32(1) })
    assert.strictEqual(message.decoded.clusterId, "\u00017")
    assert.isUndefined(message.received.properties.clusterId)
  })
})

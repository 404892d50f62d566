/**
 * The embedded broker's core answers what a client sends in one piece in the order in which RabbitMQ does.
 */
import { assert, describe, it } from "@effect/vitest"
import { orders, said, setUp } from "../../fixtures/orders.ts"
import { Script, type Sender } from "../../fixtures/violations.ts"
import { makeBroker, RawClient } from "./rawClient.ts"

describe("what a client sends in one piece", () => {
  it.each(orders.map((order) => [order.title, order] as const))("%s", (_, { answers, before, send }) => {
    const client = new RawClient(makeBroker().core).open()
    const inOnePiece = (what: (client: Sender) => Sender) => {
      const script = new Script()
      what(script)
      return client.raw(script.bytes()).frames().flatMap(said)
    }
    inOnePiece(setUp)
    if (before !== undefined) assert.strictEqual(inOnePiece(before[0]).length, before[1])
    assert.deepStrictEqual(inOnePiece(send), answers)
  })
})

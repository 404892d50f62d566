/**
 * Which bindings a message matches, by the type of the exchange: topics against the definition, headers by examples that
 * `test/integration/exchanges.test.ts` has from RabbitMQ.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as AmqpProtocol from "../../../src/AmqpProtocol.ts"
import * as AmqpTable from "../../../src/AmqpTable.ts"
import { Message } from "../../../src/testing/internal/model/message.ts"
import type { Binding } from "../../../src/testing/internal/model/model.ts"
import { type Matcher, matchers } from "../../../src/testing/internal/vhost/routing.ts"

const matcher = (type: string): Matcher => matchers.get(type)?.() ?? assert.fail(`no type ${type}`)

const binding = (routingKey: string, all: AmqpTable.PlainTable = {}): Binding => ({
  source: "x",
  destination: routingKey,
  destinationType: "queue",
  routingKey,
  arguments: all
})

const message = (headers?: AmqpTable.InputTable): Message =>
  new Message({
    exchange: "x",
    routingKey: "",
    properties: Result.getOrThrow(AmqpProtocol.encodeProperties({ headers })),
    body: new Uint8Array()
  })

/** The bindings that it tells of, each once. */
const matched = (matcher: Matcher, keys: ReadonlyArray<string>, headers?: AmqpTable.InputTable) => {
  const found = new Set<Binding>()
  matcher.match(message(headers), keys, (binding) => found.add(binding))
  return found
}

/** The definition: `*` is one word, `#` is any number of them. */
const isTopic = (pattern: ReadonlyArray<string>, key: ReadonlyArray<string>): boolean => {
  const [first, ...rest] = pattern
  if (first === undefined) return key.length === 0
  if (first === "#") return isTopic(rest, key) || (key.length > 0 && isTopic(pattern, key.slice(1)))
  return key.length > 0 && (first === "*" || first === key[0]) && isTopic(rest, key.slice(1))
}

const wordsOf = (key: string): ReadonlyArray<string> => key === "" ? [] : key.split(".")

const words = <A extends string>(...from: ReadonlyArray<A>) =>
  Arbitrary.map(
    Arbitrary.array(Arbitrary.schema(Schema.Literals(from)), { maxLength: 6 }),
    (words) => words.join(".")
  )

const pattern = words("a", "b", "", "*", "#")

describe("topic", () => {
  it.prop("matches what the definition says", [
    Arbitrary.array(pattern, { maxLength: 8 }),
    words("a", "b", "c", "", "#", "*")
  ], ([patterns, key]) => {
    const topic = matcher("topic")
    const bindings = patterns.map((pattern) => binding(pattern))
    for (const each of bindings) topic.add(each)
    const expected = bindings.filter(({ routingKey }) => isTopic(wordsOf(routingKey), wordsOf(key)))
    assert.sameMembers([...matched(topic, [key])], expected)
  }, { arbitrary: { runs: 1000 } })

  it.prop("knows nothing of what was removed, and all of what was not", [
    Arbitrary.array(pattern, { maxLength: 8 }),
    Arbitrary.array(pattern, { maxLength: 8 }),
    words("a", "b", "")
  ], ([kept, removed, key]) => {
    const [one, other] = [matcher("topic"), matcher("topic")]
    const bindings = kept.map((pattern) => binding(pattern))
    const gone = removed.map((pattern) => binding(pattern))
    for (const each of bindings) one.add(each)
    for (const each of [...gone, ...bindings]) other.add(each)
    for (const each of gone) other.remove(each)
    assert.deepStrictEqual(matched(other, [key]), matched(one, [key]))
  }, { arbitrary: { runs: 300 } })

  it("has no words in an empty key, and empty ones around dots", () => {
    const topic = matcher("topic")
    const patterns = ["", "#", "*", "*.*", ".", "#.a.#", "#.#", "*.#", "a..b", "a.*.b", "a.#.b"].map((key) =>
      binding(key)
    )
    for (const each of patterns) topic.add(each)
    const found = (key: string) => [...matched(topic, [key])].map(({ routingKey }) => routingKey)
    assert.sameMembers(found(""), ["", "#", "#.#"])
    assert.sameMembers(found("."), ["#", "*.*", ".", "#.#", "*.#"])
    assert.sameMembers(found("a"), ["#", "*", "#.a.#", "#.#", "*.#"])
    assert.sameMembers(found("a..b"), ["#", "#.a.#", "#.#", "*.#", "a..b", "a.*.b", "a.#.b"])
    assert.sameMembers(found("x.a.y"), ["#", "#.a.#", "#.#", "*.#"])
  })

  it("goes by each of several keys", () => {
    const topic = matcher("topic")
    const [a, b, c] = [binding("a.*"), binding("*.b"), binding("c")]
    for (const each of [a, b, c]) topic.add(each)
    assert.deepStrictEqual(matched(topic, ["a.x", "a.b"]), new Set([a, b]))
  })
})

describe("direct and fanout", () => {
  it("match the key, and everything", () => {
    const [direct, fanout] = [matcher("direct"), matcher("fanout")]
    const [a, b, again] = [binding("a"), binding("b"), binding("a")]
    for (const each of [a, b, again]) {
      direct.add(each)
      fanout.add(each)
    }
    assert.deepStrictEqual(matched(direct, ["a"]), new Set([a, again]))
    assert.deepStrictEqual(matched(direct, ["b", "none"]), new Set([b]))
    assert.deepStrictEqual(matched(fanout, ["none"]), new Set([a, b, again]))
    direct.remove(a)
    fanout.remove(b)
    assert.deepStrictEqual(matched(direct, ["a"]), new Set([again]))
    assert.deepStrictEqual(matched(fanout, ["a"]), new Set([a, again]))
  })
})

describe("headers", () => {
  const matches = (wanted: AmqpTable.PlainTable, headers: AmqpTable.InputTable | undefined): boolean => {
    const exchange = matcher("headers")
    exchange.add(binding("", wanted))
    return matched(exchange, [""], headers).size === 1
  }

  it("all, by default, and any", () => {
    const wanted = { a: 1, b: "text" }
    const headers: ReadonlyArray<readonly [AmqpTable.InputTable | undefined, all: boolean, any: boolean]> = [
      [{ a: 1, b: "text" }, true, true],
      [{ a: 1, b: "text", c: 2 }, true, true],
      [{ a: 1 }, false, true],
      [{ a: 2, b: "text" }, false, true],
      [{ a: 2, b: "Text" }, false, false],
      [{}, false, false],
      [undefined, false, false]
    ]
    for (const [each, all, any] of headers) {
      assert.strictEqual(matches(wanted, each), all)
      assert.strictEqual(matches({ ...wanted, "x-match": "all" }, each), all)
      assert.strictEqual(matches({ ...wanted, "x-match": "any" }, each), any)
    }
  })

  it("nothing wanted is all there is, but not any of it", () => {
    assert.isTrue(matches({}, undefined))
    assert.isTrue(matches({ "x-match": "all" }, { a: 1 }))
    assert.isFalse(matches({ "x-match": "any" }, { a: 1 }))
  })

  it("names that start with x- count only if they are asked to", () => {
    const wanted = { "x-a": 1, b: 1 }
    assert.isTrue(matches({ ...wanted, "x-match": "all" }, { b: 1 }))
    assert.isFalse(matches({ ...wanted, "x-match": "all-with-x" }, { b: 1 }))
    assert.isTrue(matches({ ...wanted, "x-match": "all-with-x" }, { "x-a": 1, b: 1 }))
    assert.isFalse(matches({ ...wanted, "x-match": "any" }, { "x-a": 1 }))
    assert.isTrue(matches({ ...wanted, "x-match": "any-with-x" }, { "x-a": 1 }))
  })

  it("void wants the header, whatever it says", () => {
    assert.isTrue(matches({ a: null }, { a: "anything" }))
    assert.isTrue(matches({ a: null }, { a: null }))
    assert.isFalse(matches({ a: null }, { b: null }))
    assert.isFalse(matches({ a: 1 }, { a: null }))
  })

  it("values are equal as RabbitMQ compares them: integers of all sizes, text and bytes, seconds", () => {
    assert.isTrue(matches({ a: 5 }, { a: AmqpTable.int8(5) }))
    assert.isTrue(matches({ a: 5 }, { a: AmqpTable.int64(5n) }))
    assert.isTrue(matches({ a: 5 }, { a: AmqpTable.double(5) }))
    assert.isTrue(matches({ a: 5 }, { a: new Date(5000) }))
    assert.isTrue(matches({ a: "a" }, { a: new TextEncoder().encode("a") }))
    assert.isTrue(matches({ a: [1, { b: true }] }, { a: [1, { b: true }] }))
    assert.isFalse(matches({ a: 5 }, { a: "5" }))
    assert.isFalse(matches({ a: 1 }, { a: true }))
    assert.isFalse(matches({ a: [1, { b: true }] }, { a: [1, { b: false }] }))
  })
})

import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Redacted, Result, Schema } from "effect"
import { inspect } from "node:util"
import * as AmqpAuth from "../../src/AmqpAuth.ts"
import { AmqpEncodeError } from "../../src/AmqpError.ts"

const credentials = (username: string, password: string): AmqpAuth.Credentials => ({
  username,
  password: Redacted.make(password)
})

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

const hex = (result: Result.Result<Uint8Array, AmqpEncodeError>): string =>
  Buffer.from(Result.getOrThrow(result)).toString("hex")

/** Hexadecimal, spaced at will. */
const golden = (text: string): string => text.replaceAll(/\s+/g, "")

const failure = (result: Result.Result<Uint8Array, AmqpEncodeError>): AmqpEncodeError =>
  Result.match(result, { onFailure: (error) => error, onSuccess: () => assert.fail("succeeded") })

const respond = (mechanism: AmqpAuth.Mechanism, challenge: string, round: number) =>
  (mechanism.respond ?? assert.fail(`${mechanism.name} answers no challenge`))(utf8(challenge), round)

describe("plain", () => {
  it("separates user name and password by NUL, without an authorization identity", () => {
    const mechanism = AmqpAuth.plain(credentials("guest", "s3cret"))
    assert.strictEqual(mechanism.name, "PLAIN")
    assert.strictEqual(hex(mechanism.initialResponse()), golden("00 6775657374 00 733363726574"))
    assert.isUndefined(mechanism.respond)
  })

  it("HS14 sends UTF-8", () => {
    const mechanism = AmqpAuth.plain(credentials("pässwörd✓", "🐇"))
    assert.strictEqual(hex(mechanism.initialResponse()), "0070c3a4737377c3b67264e29c9300f09f9087")
  })

  it("carries empty fields", () => {
    assert.strictEqual(hex(AmqpAuth.plain(credentials("", "")).initialResponse()), "0000")
  })

  it.each([
    ["username", credentials("us\0er", "s3cret")],
    ["password", credentials("user", "s3cret\0")],
    ["username", credentials("user\ud800", "s3cret")],
    ["password", credentials("user", "\udc00s3cret")]
  ])("refuses a %s that it cannot carry", (path, credentials) => {
    const error = failure(AmqpAuth.plain(credentials).initialResponse())
    assert.instanceOf(error, AmqpEncodeError)
    assert.strictEqual(error.path, path)
    assert.notInclude(inspect(error, { depth: null, showHidden: true }) + JSON.stringify(error), "s3cret")
  })
})

describe("amqplain", () => {
  it("HS10 is the body of a table, without its length", () => {
    const mechanism = AmqpAuth.amqplain(credentials("guest", "s3cret"))
    assert.strictEqual(mechanism.name, "AMQPLAIN")
    assert.strictEqual(
      hex(mechanism.initialResponse()),
      golden(`
        05 4c4f47494e       53 00000005 6775657374
        08 50415353574f5244 53 00000006 733363726574
      `)
    )
    assert.isUndefined(mechanism.respond)
  })

  it("HS14 counts octets, not characters", () => {
    assert.strictEqual(
      hex(AmqpAuth.amqplain(credentials("ä", "✓\0")).initialResponse()),
      golden("05 4c4f47494e 53 00000002 c3a4 08 50415353574f5244 53 00000004 e29c9300")
    )
  })

  it("carries fields of any size", () => {
    const response = Result.getOrThrow(AmqpAuth.amqplain(credentials("u".repeat(70_000), "p")).initialResponse())
    assert.strictEqual(response.length, 6 + 5 + 70_000 + 9 + 5 + 1)
  })

  it.each([
    ["username", credentials("user\ud800", "s3cret")],
    ["password", credentials("user", "s3cret\ud800")]
  ])("refuses a %s that has no UTF-8 form", (path, credentials) => {
    const error = failure(AmqpAuth.amqplain(credentials).initialResponse())
    assert.strictEqual(error.path, path)
    assert.notInclude(inspect(error, { depth: null, showHidden: true }) + JSON.stringify(error), "s3cret")
  })
})

describe("external and anonymous", () => {
  it.each([[AmqpAuth.external, "EXTERNAL"], [AmqpAuth.anonymous, "ANONYMOUS"]])(
    "%#: an empty response",
    (mechanism, name) => {
      assert.strictEqual(mechanism.name, name)
      assert.strictEqual(hex(mechanism.initialResponse()), "")
      assert.isUndefined(mechanism.respond)
    }
  )
})

describe("make", () => {
  const crDemo = ({ password, username }: AmqpAuth.Credentials) =>
    AmqpAuth.make({
      name: "RABBIT-CR-DEMO",
      initialResponse: () => utf8(username),
      respond: () => utf8(`My password is ${Redacted.value(password)}`)
    })

  it("HS13 answers a challenge", () => {
    const mechanism = crDemo(credentials("guest", "s3cret"))
    assert.strictEqual(hex(mechanism.initialResponse()), hex(Result.succeed(utf8("guest"))))
    assert.strictEqual(
      hex(respond(mechanism, "Please tell me your password", 0)),
      hex(Result.succeed(utf8("My password is s3cret")))
    )
  })

  it("HS13 passes challenge and round to each of many answers", () => {
    const mechanism = AmqpAuth.make({
      name: "ROUNDS",
      initialResponse: () => new Uint8Array(0),
      respond: (challenge, round) => utf8(`${new TextDecoder().decode(challenge)}${round}`)
    })
    assert.deepStrictEqual(
      ["a", "b", "c"].map((challenge, round) =>
        new TextDecoder().decode(Result.getOrThrow(respond(mechanism, challenge, round)))
      ),
      ["a0", "b1", "c2"]
    )
  })

  const throwing = (error: () => unknown) =>
    AmqpAuth.make({
      name: "CUSTOM",
      initialResponse: () => {
        throw error()
      },
      respond: () => {
        throw error()
      }
    })

  it("turns what a step throws into a typed failure that does not repeat it", () => {
    for (const thrown of [new Error("s3cret"), "s3cret", undefined]) {
      const mechanism = throwing(() => thrown)
      const errors = [failure(mechanism.initialResponse()), failure(respond(mechanism, "", 0))]
      assert.deepStrictEqual(errors.map((error) => [error._tag, error.path]), [
        ["AmqpEncodeError", "CUSTOM.initialResponse"],
        ["AmqpEncodeError", "CUSTOM.respond"]
      ])
      assert.notInclude(inspect(errors, { depth: null, showHidden: true }) + JSON.stringify(errors), "s3cret")
    }
  })

  it("keeps the AmqpEncodeError that a step throws", () => {
    const error = new AmqpEncodeError({ path: "token", reason: "it has expired" })
    assert.strictEqual(failure(throwing(() => error).initialResponse()), error)
    assert.strictEqual(failure(respond(throwing(() => error), "", 0)), error)
  })

  it("refuses a response that is not bytes", () => {
    // @ts-expect-error: a mistake of plain JavaScript
    const mechanism = AmqpAuth.make({ name: "CUSTOM", initialResponse: () => "text", respond: () => undefined })
    assert.match(failure(mechanism.initialResponse()).reason, /Uint8Array/)
    assert.match(failure(respond(mechanism, "", 0)).reason, /Uint8Array/)
  })

  it("refuses a password that is not Redacted", () => {
    // @ts-expect-error: a mistake of plain JavaScript
    const mistake: AmqpAuth.Credentials = { username: "guest", password: "s3cret" }
    for (const mechanism of [AmqpAuth.plain(mistake), AmqpAuth.amqplain(mistake)]) {
      const error = failure(mechanism.initialResponse())
      assert.match(error.message, /password.*Redacted/)
      assert.notInclude(error.message, "s3cret")
    }
  })

  it("shows no secret when a mechanism is printed", () => {
    const secret = credentials("guest", "s3cret")
    for (const mechanism of [AmqpAuth.plain(secret), AmqpAuth.amqplain(secret), crDemo(secret)]) {
      mechanism.initialResponse()
      assert.notInclude(
        `${String(mechanism)} ${JSON.stringify(mechanism)} ${inspect(mechanism, { depth: null, showHidden: true })}`,
        "s3cret"
      )
    }
  })
})

describe("select", () => {
  const plain = AmqpAuth.plain(credentials("guest", "s3cret"))
  const amqplain = AmqpAuth.amqplain(credentials("guest", "s3cret"))
  const all = [AmqpAuth.external, plain, amqplain]

  it.each<[offered: string, name: string | undefined]>([
    ["PLAIN AMQPLAIN", "PLAIN"],
    ["AMQPLAIN PLAIN", "PLAIN"],
    ["AMQPLAIN PLAIN EXTERNAL", "EXTERNAL"],
    ["AMQPLAIN", "AMQPLAIN"],
    ["AMQPLAIN AMQPLAIN PLAIN PLAIN", "PLAIN"],
    ["  AMQPLAIN \t PLAIN\n", "PLAIN"],
    ["amqplain plain", "plain"],
    ["plain PLAIN", "PLAIN"],
    ["Plain plain", "Plain"],
    ["PLAINER XPLAIN AMQPLAIN", "AMQPLAIN"],
    ["SCRAM-SHA-256", undefined],
    ["", undefined],
    ["   ", undefined]
  ])("HS32 of %j picks %s", (offered, name) => {
    assert.strictEqual(AmqpAuth.select(offered, all)?.name, name)
  })

  it("HS32 picks nothing when nothing is preferred", () => {
    assert.isUndefined(AmqpAuth.select("PLAIN", []))
    assert.isUndefined(
      AmqpAuth.select("", [{ ...AmqpAuth.external, name: "" }])
    )
  })

  it("keeps the steps of a mechanism that the server spells differently", () => {
    const selected = AmqpAuth.select("plain", all) ?? assert.fail()
    assert.strictEqual(hex(selected.initialResponse()), hex(plain.initialResponse()))
  })

  it.prop(
    "HS32 depends on the client's order, not on the server's",
    [Arbitrary.schema(Schema.Array(Schema.Literals(["EXTERNAL", "PLAIN", "AMQPLAIN", "OTHER"])))],
    ([offered]) => {
      const expected = all.find((mechanism) => offered.some((name) => name === mechanism.name))
      assert.strictEqual(AmqpAuth.select(offered.join(" "), all), expected)
      assert.strictEqual(AmqpAuth.select(offered.toReversed().join("  "), all), expected)
    }
  )
})

import { assert, describe, it } from "@effect/vitest"
import { Redacted } from "effect"
import * as AmqpAuth from "../../src/AmqpAuth.ts"
import {
  AmqpConnectionError,
  type AmqpConnectionErrorReason,
  AmqpEncodeError,
  isTransient
} from "../../src/AmqpError.ts"
import type { Method } from "../../src/internal/codec/spec.ts"
import { type Limits, negotiate } from "../../src/internal/engine/handshake.ts"
import type { SessionOptions } from "../../src/internal/engine/session.ts"
import {
  bytes,
  concat,
  connectionClose,
  connectionStart,
  connectionTune,
  declareOk,
  frame,
  heartbeat,
  Peer,
  rawFrame
} from "./peer.ts"

const credentials: AmqpAuth.Credentials = { username: "guest", password: Redacted.make("s3cret") }
const text = (value: Uint8Array): string => new TextDecoder().decode(value)

const ofType = <Tag extends Method["_tag"]>(
  methods: ReadonlyArray<Method>,
  tag: Tag
): Extract<Method, { _tag: Tag }> => {
  const found = methods.find((method): method is Extract<Method, { _tag: Tag }> => method._tag === tag)
  return found ?? assert.fail(`no ${tag}`)
}

/** The reason for which the session ended. */
const reason = (peer: Peer): AmqpConnectionErrorReason => peer.end?.reason ?? assert.fail("the session has not ended")

const failsWith = <Tag extends AmqpConnectionErrorReason["_tag"]>(
  peer: Peer,
  tag: Tag
): Extract<AmqpConnectionErrorReason, { readonly _tag: Tag }> => {
  const found = reason(peer)
  const isIt = (
    candidate: AmqpConnectionErrorReason
  ): candidate is Extract<AmqpConnectionErrorReason, { readonly _tag: Tag }> => candidate._tag === tag
  return isIt(found) ? found : assert.fail(`the reason is ${found._tag}: ${found.message}`)
}

/** Fails as a protocol violation, without a connection.close: none may be sent before open-ok. */
const violates = (peer: Peer, replyCode: number): void => {
  assert.strictEqual(failsWith(peer, "ProtocolViolation").replyCode, replyCode)
  assert.notInclude(peer.lines(), "0 connection.close")
}

const started = (...mechanisms: ReadonlyArray<AmqpAuth.Mechanism>): Peer => {
  const peer = new Peer(mechanisms.length === 0 ? {} : { mechanisms })
  peer.session.start()
  return peer
}

const tuned = (): Peer => {
  const peer = started()
  peer.reply(0, connectionStart())
  peer.reply(0, connectionTune())
  return peer
}

describe("the way to an open connection", () => {
  it("HS02 begins with the protocol header, before anything is received", () => {
    const peer = started()
    peer.sent()
    assert.deepStrictEqual(concat(peer.wire), new Uint8Array([0x41, 0x4d, 0x51, 0x50, 0, 0, 9, 1]))
  })

  it("answers start, tune and open-ok, step by step", () => {
    const peer = started()
    assert.strictEqual(peer.session.phase, "the protocol header")
    peer.reply(0, connectionStart())
    assert.deepStrictEqual(peer.lines(), ["0 connection.start-ok"])
    assert.strictEqual(peer.session.phase, "connection.start-ok")
    peer.reply(0, connectionTune())
    assert.deepStrictEqual(peer.lines(), ["0 connection.tune-ok", "0 connection.open"])
    assert.strictEqual(peer.session.phase, "connection.open")
    assert.isFalse(peer.session.isOpen)
    peer.reply(0, { _tag: "connection.open-ok" })
    assert.deepStrictEqual(peer.lines(), [])
    assert.isTrue(peer.session.isOpen)
    assert.strictEqual(peer.session.phase, "open")
    assert.deepStrictEqual(peer.events, [{
      _tag: "Open",
      negotiated: {
        serverProperties: { product: "peer" },
        mechanism: "ANONYMOUS",
        limits: { channelMax: 2047, frameMax: 131072, heartbeat: 60 }
      }
    }])
  })

  it("HS27 carries the client's properties, locale and vhost", () => {
    const peer = new Peer({
      vhost: "shop",
      locale: "de_DE",
      clientProperties: { product: "p", capabilities: { a: true } }
    })
    peer.open()
    assert.deepStrictEqual(concat(peer.wire).slice(0, 4), bytes("AMQP"))
    const again = new Peer({
      vhost: "shop",
      locale: "de_DE",
      clientProperties: { product: "p", capabilities: { a: true } }
    })
    again.session.start()
    again.reply(0, connectionStart())
    const startOk = ofType(again.methods(), "connection.start-ok")
    assert.deepStrictEqual(startOk.clientProperties, { product: "p", capabilities: { a: true } })
    assert.strictEqual(startOk.locale, "de_DE")
    again.reply(0, connectionTune())
    assert.strictEqual(ofType(again.methods(), "connection.open").virtualHost, "shop")
  })

  it("ML18 is the same byte by byte", () => {
    const peer = started()
    const conversation = concat([
      frame(0, connectionStart()),
      heartbeat,
      frame(0, connectionTune()),
      frame(0, { _tag: "connection.open-ok" })
    ])
    for (const byte of conversation) peer.receive(new Uint8Array([byte]))
    assert.deepStrictEqual(peer.lines(), ["0 connection.start-ok", "0 connection.tune-ok", "0 connection.open"])
    assert.isTrue(peer.session.isOpen)
  })
})

describe("mechanisms", () => {
  it.each([
    { name: "PLAIN", mechanism: AmqpAuth.plain(credentials), response: "\0guest\0s3cret" },
    {
      name: "AMQPLAIN",
      mechanism: AmqpAuth.amqplain(credentials),
      response: "\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x06s3cret"
    },
    { name: "EXTERNAL", mechanism: AmqpAuth.external, response: "" },
    { name: "ANONYMOUS", mechanism: AmqpAuth.anonymous, response: "" }
  ])("HS10 HS11 $name answers connection.start", ({ mechanism, name, response }) => {
    const peer = started(mechanism)
    peer.reply(0, connectionStart({ mechanisms: "EXTERNAL ANONYMOUS AMQPLAIN PLAIN" }))
    const startOk = ofType(peer.methods(), "connection.start-ok")
    assert.strictEqual(startOk.mechanism, name)
    assert.strictEqual(text(startOk.response), response)
    peer.reply(0, connectionTune())
    peer.reply(0, { _tag: "connection.open-ok" })
    assert.isTrue(peer.session.isOpen)
  })

  it("HS32 come in the client's order, from a list of the server's own spelling", () => {
    const peer = started(AmqpAuth.external, AmqpAuth.plain(credentials), AmqpAuth.amqplain(credentials))
    peer.reply(0, connectionStart({ mechanisms: "  AMQPLAIN  plain plain " }))
    assert.strictEqual(ofType(peer.methods(), "connection.start-ok").mechanism, "plain")
  })

  it("without a common one fail as authentication, and send nothing", () => {
    const peer = started(AmqpAuth.external)
    peer.reply(0, connectionStart({ mechanisms: "PLAIN AMQPLAIN" }))
    const { detail, mechanism } = failsWith(peer, "AuthenticationFailed")
    assert.strictEqual(mechanism, "")
    assert.include(detail, "PLAIN AMQPLAIN")
    assert.include(detail, "EXTERNAL")
    assert.deepStrictEqual(peer.lines(), [])
  })

  it("are cut short in the error, however many there are", () => {
    const peer = started(AmqpAuth.external)
    peer.reply(0, connectionStart({ mechanisms: "PLAIN ".repeat(150_000) }))
    const { detail } = failsWith(peer, "AuthenticationFailed")
    assert.include(detail, "900000 characters")
    assert.isBelow(detail.length, 500)
  })

  it("HS13 answer as many rounds as the server asks for", () => {
    const challenges: Array<string> = []
    const peer = started(AmqpAuth.make({
      name: "CR-DEMO",
      initialResponse: () => bytes("guest"),
      respond: (challenge, round) => {
        challenges.push(text(challenge))
        return bytes(`answer ${round}`)
      }
    }))
    peer.reply(0, connectionStart({ mechanisms: "CR-DEMO" }))
    assert.strictEqual(text(ofType(peer.methods(), "connection.start-ok").response), "guest")
    for (let round = 0; round < 3; round++) {
      peer.reply(0, { _tag: "connection.secure", challenge: bytes(`challenge ${round}`) })
      assert.strictEqual(text(ofType(peer.methods(), "connection.secure-ok").response), `answer ${round}`)
      assert.strictEqual(peer.session.phase, "connection.secure-ok")
    }
    assert.deepStrictEqual(challenges, ["challenge 0", "challenge 1", "challenge 2"])
    peer.reply(0, connectionTune())
    assert.deepStrictEqual(peer.lines(), ["0 connection.tune-ok", "0 connection.open"])
  })

  it("that know no challenge make one a violation", () => {
    const peer = started()
    peer.reply(0, connectionStart())
    peer.reply(0, { _tag: "connection.secure", challenge: bytes("?") })
    violates(peer, 503)
  })

  it.each([
    ["the first response", () => new Uint8Array(0), 0],
    ["a later one", () => assert.fail("s3cret"), 1]
  ])("that fail in %s fail as authentication, without what they threw", (_, respond, rounds) => {
    const peer = started(AmqpAuth.make({
      name: "X",
      initialResponse: () => rounds === 0 ? assert.fail("s3cret") : new Uint8Array(0),
      respond
    }))
    peer.reply(0, connectionStart({ mechanisms: "X" }))
    if (rounds > 0) peer.reply(0, { _tag: "connection.secure", challenge: bytes("?") })
    const failed = failsWith(peer, "AuthenticationFailed")
    assert.strictEqual(failed.mechanism, "X")
    assert.notInclude(JSON.stringify(peer.end) + String(peer.end), "s3cret")
    assert.deepStrictEqual(peer.lines(), rounds === 0 ? [] : ["0 connection.start-ok"])
  })

  it("whose name has no form on the wire fail as authentication, and write nothing", () => {
    const name = "é".repeat(200)
    const peer = started(AmqpAuth.make({ name, initialResponse: () => new Uint8Array(0) }))
    peer.reply(0, connectionStart({ mechanisms: name }))
    failsWith(peer, "AuthenticationFailed")
    assert.deepStrictEqual(peer.lines(), [])
  })
})

describe("tuning", () => {
  const limits = (channelMax: number, frameMax: number, heartbeat: number): Limits => ({
    channelMax,
    frameMax,
    heartbeat
  })

  it.each([
    {
      server: limits(2047, 131072, 60),
      client: limits(0, 0, 60),
      agreed: limits(2047, 131072, 60),
      why: "TU01 the server's"
    },
    {
      server: limits(2047, 131072, 60),
      client: limits(65535, 1048576, 300),
      agreed: limits(2047, 131072, 60),
      why: "TU01 never more"
    },
    {
      server: limits(2047, 131072, 60),
      client: limits(10, 4096, 10),
      agreed: limits(10, 4096, 10),
      why: "TU02 TU08 the client's"
    },
    { server: limits(0, 0, 0), client: limits(0, 0, 10), agreed: limits(65535, 131072, 10), why: "TU07 TU08 our own" },
    { server: limits(0, 0, 0), client: limits(7, 8192, 0), agreed: limits(7, 8192, 0), why: "TU07 TU08 the client's" },
    { server: limits(1, 4096, 60), client: limits(0, 0, 0), agreed: limits(1, 4096, 0), why: "TU08 no heartbeat" },
    { server: limits(1, 4096, 0), client: limits(0, 0, 0), agreed: limits(1, 4096, 0), why: "TU08 no heartbeat" },
    { server: limits(1, 4096, 10), client: limits(0, 0, 60), agreed: limits(1, 4096, 10), why: "TU08 the shorter" },
    {
      server: limits(1, 0x8000_0000, 0),
      client: limits(0, 131072, 0),
      agreed: limits(1, 131072, 0),
      why: "TU06 no sign"
    },
    {
      server: limits(1, 0xffff_ffff, 0),
      client: limits(0, 0, 0),
      agreed: limits(1, 0xffff_ffff, 0),
      why: "TU06 no sign"
    }
  ])("$why: $server and $client give $agreed", ({ agreed, client, server }) => {
    assert.deepStrictEqual(negotiate(server, client), agreed)
    const peer = new Peer({ limits: client })
    peer.session.start()
    peer.reply(0, connectionStart())
    peer.reply(0, connectionTune(server))
    assert.deepStrictEqual(ofType(peer.methods(), "connection.tune-ok"), { _tag: "connection.tune-ok", ...agreed })
    peer.reply(0, { _tag: "connection.open-ok" })
    const opened = peer.events[0]
    assert.deepStrictEqual(opened?._tag === "Open" && opened.negotiated.limits, agreed)
    assert.strictEqual(peer.session.channelMax, agreed.channelMax)
  })

  it("refuses frames that are smaller than the specification's least", () => {
    const peer = started()
    peer.reply(0, connectionStart())
    peer.reply(0, connectionTune({ frameMax: 4095 }))
    violates(peer, 501)
    assert.isUndefined(peer.methods().find(({ _tag }) => _tag === "connection.tune-ok"))
  })

  it("TU02 applies to what is sent and to what is received", () => {
    const peer = new Peer().open({ frameMax: 4096 })
    const channel = peer.channel()
    peer.publish(channel, { body: new Uint8Array(10_000) })
    assert.deepStrictEqual(
      peer.lines(),
      ["1 basic.publish", "1 header 10000", "1 body 4088", "1 body 4088", "1 body 1824"]
    )
    peer.receive(rawFrame(3, 1, Array.from({ length: 4089 }, () => 0)))
    assert.strictEqual(failsWith(peer, "ProtocolViolation").replyCode, 501)
  })
})

describe("a server that hangs up without a word", () => {
  const hungUp = (peer: Peer): AmqpConnectionErrorReason => {
    peer.session.onHangUp(peer.session.lost("EOF"))
    peer.turn()
    return reason(peer)
  }
  const loggedIn = (options: Partial<SessionOptions> = {}, start: Parameters<typeof connectionStart>[0] = {}): Peer => {
    const peer = new Peer(options)
    peer.session.start()
    peer.reply(0, connectionStart(start))
    return peer
  }

  it("says nothing as long as it was told nothing, or in the middle of what it says", () => {
    assert.deepInclude(hungUp(started()), { _tag: "ConnectionLost", phase: "the protocol header", detail: "EOF" })
    const inTune = loggedIn()
    inTune.receive(frame(0, connectionTune()).subarray(0, 3))
    assert.deepInclude(hungUp(inTune), { _tag: "ConnectionLost", phase: "connection.start-ok" })
    assert.deepInclude(hungUp(new Peer().open()), { _tag: "ConnectionLost", phase: "open" })
  })

  it("refuses the login after start-ok and secure-ok", () => {
    const secured = loggedIn({
      mechanisms: [AmqpAuth.make({ name: "X", initialResponse: () => bytes(""), respond: () => bytes("") })]
    }, { mechanisms: "X" })
    secured.reply(0, { _tag: "connection.secure", challenge: bytes("?") })
    for (
      const [peer, mechanism, step] of [[loggedIn(), "ANONYMOUS", "start-ok"], [secured, "X", "secure-ok"]] as const
    ) {
      const refused = hungUp(peer)
      assert.deepInclude(refused, { _tag: "AuthenticationFailed", mechanism, unspoken: true })
      assert.include(refused.message, step)
      assert.match(refused.message, /credentials or a mechanism/)
      assert.isFalse(isTransient(new AmqpConnectionError({ reason: refused })))
    }
  })

  it("may have found the login too large for its first frame", () => {
    const password = Redacted.make("s".repeat(4096))
    const peer = loggedIn({ mechanisms: [AmqpAuth.plain({ username: "u", password })] }, { mechanisms: "PLAIN" })
    const size = concat(peer.sent().length === 0 ? [] : peer.wire).length - 8
    const { message } = hungUp(peer)
    assert.include(message, `takes ${size} bytes`)
    assert.include(message, "initial_frame_max")
    assert.notInclude(message, "sss")
  })

  it("refuses limits or the vhost after tune-ok and open", () => {
    const refused = hungUp(tuned())
    assert.deepInclude(refused, { _tag: "NegotiationFailed", unspoken: true })
    assert.match(refused.message, /frameMax 131072, channelMax 2047, heartbeat 60 s.*vhost \("\/"\)/)
    assert.notMatch(refused.message, /network/)
    assert.isFalse(isTransient(new AmqpConnectionError({ reason: refused })))
  })
})

describe("a frameMax that RabbitMQ refuses without a word", () => {
  const toVersion = (version: string | undefined, frameMax: number, product = "RabbitMQ"): Peer => {
    const peer = new Peer({ limits: { channelMax: 0, frameMax, heartbeat: 60 } })
    peer.session.start()
    peer.reply(0, connectionStart({ serverProperties: { product, ...(version === undefined ? {} : { version }) } }))
    return peer
  }

  it.each(["4.1.0", "4.1.0-rc.1", "4.3.6", "4.10.0", "5.0.0+1"])("is not sent to %s", (version) => {
    for (const frameMax of [4096, 8191]) {
      const peer = toVersion(version, frameMax)
      const refused = failsWith(peer, "NegotiationFailed")
      assert.include(refused.message, `RabbitMQ ${version} accepts a frameMax of 8192 or more, not ${frameMax}`)
      assert.isUndefined(refused.unspoken)
      assert.isFalse(isTransient(new AmqpConnectionError({ reason: refused })))
      // Not even the password is.
      assert.deepStrictEqual(peer.lines(), [])
    }
    for (const frameMax of [0, 8192]) assert.isUndefined(toVersion(version, frameMax).end)
  })

  it.each<[version: string | undefined, product: string]>([
    ["4.0.9", "RabbitMQ"],
    ["3.13.7", "RabbitMQ"],
    ["3.10.8", "RabbitMQ"],
    [undefined, "RabbitMQ"],
    ["new", "RabbitMQ"],
    ["4.3.6", "another broker"]
  ])(
    "is sent to %s of %s",
    (version, product) => {
      const peer = toVersion(version, 4096, product)
      peer.reply(0, connectionTune())
      assert.deepStrictEqual(peer.lines(), ["0 connection.start-ok", "0 connection.tune-ok", "0 connection.open"])
    }
  )

  it("is not sent where it is the broker's own wish", () => {
    const peer = toVersion("4.3.6", 0)
    peer.reply(0, connectionTune({ frameMax: 4096 }))
    failsWith(peer, "NegotiationFailed")
    assert.deepStrictEqual(peer.lines(), ["0 connection.start-ok"])
  })
})

describe("a server that says no", () => {
  it("HS06 HS07 403 at login is AuthenticationFailed, answered by close-ok, without the password", () => {
    const peer = started(AmqpAuth.plain(credentials))
    peer.reply(0, connectionStart({ mechanisms: "PLAIN" }))
    peer.sent()
    peer.reply(0, connectionClose(403, "ACCESS_REFUSED - Login was refused"))
    const failed = failsWith(peer, "AuthenticationFailed")
    assert.deepStrictEqual([failed.mechanism, failed.detail], ["PLAIN", "ACCESS_REFUSED - Login was refused"])
    assert.deepStrictEqual(peer.lines(), ["0 connection.close-ok"])
    assert.notInclude(JSON.stringify(peer.end) + String(peer.end), "s3cret")
    assert.isTrue(peer.session.outbox.isEnded)
  })

  it.each([[530, "NotAllowed"], [403, "NotAllowed"], [402, "InvalidPath"], [320, "ConnectionForced"]] as const)(
    "HS16 HS29 %d after connection.open is %s",
    (replyCode, tag) => {
      const peer = tuned()
      peer.sent()
      peer.reply(0, connectionClose(replyCode, "no"))
      const failed = failsWith(peer, tag)
      assert.deepStrictEqual([failed.replyCode, failed.replyText], [replyCode, "no"])
      assert.deepStrictEqual(peer.lines(), ["0 connection.close-ok"])
    }
  )

  it("530 for the limits does not speak of the vhost", () => {
    for (const methodId of [30, 31]) {
      const peer = tuned()
      const replyText = "NOT_ALLOWED - negotiated frame_max = 4096 is lower than the minimum allowed value (8192)"
      peer.reply(0, { _tag: "connection.close", replyCode: 530, replyText, classId: 10, methodId })
      const refused = failsWith(peer, "NotAllowed")
      assert.isUndefined(refused.vhost)
      assert.match(refused.message, /Check the limits/)
    }
  })

  it("with a code that is unknown is told with it", () => {
    const peer = started()
    peer.reply(0, connectionStart())
    peer.reply(0, connectionClose(599, "odd"))
    assert.strictEqual(failsWith(peer, "UnknownReply").replyCode, 599)
  })

  it("may say so before anything else", () => {
    const peer = started()
    peer.reply(0, connectionClose(320, "draining"))
    failsWith(peer, "ConnectionForced")
  })
})

describe("another protocol", () => {
  it.each([[8, 0], [0, 8], [0, 10], [1, 0], [1, 9]])(
    "HS04 start of version %d-%d sends no start-ok",
    (versionMajor, versionMinor) => {
      const peer = started()
      peer.sent()
      peer.reply(0, connectionStart({ versionMajor, versionMinor }))
      assert.strictEqual(failsWith(peer, "ProtocolVersionMismatch").offered, `AMQP ${versionMajor}-${versionMinor}`)
      assert.deepStrictEqual(peer.lines(), [])
    }
  )

  it.each([
    ["AMQP\0\0\x09\x01", "AMQP 0-9-1"],
    ["AMQP\x00\x01\x00\x00", "AMQP 1-0-0"],
    ["AMQP\x03\x01\x00\x00", "AMQP 1-0-0"]
  ])("a header %j is told by its version, however it is cut", (header, offered) => {
    const whole = started()
    whole.receive(bytes(header))
    assert.strictEqual(failsWith(whole, "ProtocolVersionMismatch").offered, offered)
    const cut = started()
    for (const byte of bytes(header)) cut.receive(new Uint8Array([byte]))
    assert.strictEqual(failsWith(cut, "ProtocolVersionMismatch").offered, offered)
    cut.receive(bytes("more"))
    assert.deepStrictEqual(cut.lines(), [])
  })

  it.each([
    "HTTP/1.1 400 Bad Request\r\n",
    "SSH-2.0-OpenSSH\r\n",
    "\x15\x03\x01\x00\x02\x02\x0a",
    "\0",
    "\x08\0\0\0\0\0\0\xce"
  ])(
    "%j is no AMQP",
    (greeting) => {
      const peer = started()
      peer.receive(new Uint8Array(0))
      peer.receive(Uint8Array.from(greeting, (character) => character.charCodeAt(0)))
      failsWith(peer, "ProtocolVersionMismatch")
    }
  )

  it("an A that is not followed by MQP is no AMQP either", () => {
    const peer = started()
    peer.receive(bytes("A"))
    peer.receive(bytes("h, well\n"))
    assert.include(failsWith(peer, "ProtocolVersionMismatch").offered, "Ah, well")
  })
})

describe("ML13 a server out of turn", () => {
  const openOk: Method = { _tag: "connection.open-ok" }
  const secure: Method = { _tag: "connection.secure", challenge: bytes("?") }
  const start = connectionStart()
  const tune = connectionTune()

  it.each(
    [
      { name: "tune before start", methods: [tune] },
      { name: "open-ok before start", methods: [openOk] },
      { name: "secure before start", methods: [secure] },
      { name: "start twice", methods: [start, start] },
      { name: "open-ok before tune", methods: [start, openOk] },
      { name: "tune twice", methods: [start, tune, tune] },
      { name: "secure after tune", methods: [start, tune, secure] },
      { name: "start after tune", methods: [start, tune, start] },
      { name: "blocked in the handshake", methods: [start, { _tag: "connection.blocked", reason: "" }] },
      { name: "close-ok in the handshake", methods: [start, { _tag: "connection.close-ok" }] },
      { name: "update-secret-ok in the handshake", methods: [start, { _tag: "connection.update-secret-ok" }] },
      {
        name: "ML12 a client's method",
        methods: [start, { _tag: "connection.tune-ok", channelMax: 1, frameMax: 1, heartbeat: 1 }]
      }
    ] as const
  )("$name", ({ methods }) => {
    const peer = started()
    for (const method of methods) peer.reply(0, method)
    violates(peer, 503)
    assert.notMatch(failsWith(peer, "ProtocolViolation").detail, /has no such step/)
    assert.isTrue(peer.session.outbox.isEnded)
  })

  it.each(
    [
      { name: "start", method: start },
      { name: "tune", method: tune },
      { name: "open-ok", method: openOk },
      { name: "secure", method: secure },
      { name: "close-ok", method: { _tag: "connection.close-ok" } }
    ] as const
  )("$name on an open connection is answered by connection.close 503", ({ method }) => {
    const peer = new Peer().open()
    peer.reply(0, method)
    assert.strictEqual(failsWith(peer, "ProtocolViolation").replyCode, 503)
    const close = ofType(peer.methods(), "connection.close")
    assert.strictEqual(close.replyCode, 503)
  })

  it("a channel's method in the handshake", () => {
    const peer = started()
    peer.reply(0, start)
    peer.reply(1, declareOk("q"))
    violates(peer, 504)
  })

  it("a content frame in the handshake", () => {
    for (const type of [2, 3]) {
      const peer = started()
      peer.reply(0, start)
      peer.receive(rawFrame(type, 0, [0, 60]))
      violates(peer, 504)
    }
  })
})

describe("HS25 garbage", () => {
  it.each(
    [
      ["a wrong frame end", rawFrame(1, 0, [0, 10, 0, 11], 0xcd), 501],
      ["an unknown frame type", rawFrame(4, 0, []), 501],
      ["a method that does not exist", rawFrame(1, 0, [0, 10, 0, 99]), 503],
      ["a method without its fields", rawFrame(1, 0, [0, 10, 0, 30, 0]), 502],
      ["a method with more than its fields", rawFrame(1, 0, [0, 10, 0, 41, 0, 1]), 502],
      ["an empty method", rawFrame(1, 0, []), 502],
      ["a frame of 4 GiB", new Uint8Array([1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]), 501]
    ] as const
  )("%s", (_, garbage, replyCode) => {
    const peer = started()
    peer.reply(0, connectionStart())
    peer.receive(garbage)
    violates(peer, replyCode)
  })
})

describe("the end of the socket", () => {
  const lost = (peer: Peer): string => {
    peer.session.onSocketEnd(peer.session.lost("EOF"))
    peer.turn()
    return failsWith(peer, "ConnectionLost").phase
  }

  it("names the step that got no answer", () => {
    assert.strictEqual(lost(started()), "the protocol header")
    const started1 = started()
    started1.reply(0, connectionStart())
    assert.strictEqual(lost(started1), "connection.start-ok")
    const secured = started(AmqpAuth.make({ name: "X", initialResponse: () => bytes(""), respond: () => bytes("") }))
    secured.reply(0, connectionStart({ mechanisms: "X" }))
    secured.reply(0, { _tag: "connection.secure", challenge: bytes("?") })
    assert.strictEqual(lost(secured), "connection.secure-ok")
    assert.strictEqual(lost(tuned()), "connection.open")
    assert.strictEqual(lost(new Peer().open()), "open")
  })

  it("can come at every byte, and ends the session once", () => {
    const conversation = concat([
      frame(0, connectionStart()),
      frame(0, connectionTune()),
      frame(0, { _tag: "connection.open-ok" })
    ])
    for (let length = 0; length <= conversation.length; length++) {
      const peer = started()
      peer.receive(conversation.slice(0, length))
      peer.session.onSocketEnd(peer.session.lost("EOF"))
      peer.session.onSocketEnd(peer.session.lost("again"))
      peer.turn()
      assert.strictEqual(failsWith(peer, "ConnectionLost").detail, "EOF")
      assert.strictEqual(peer.session.isOpen, false)
    }
  })

  it("is the end: what comes after it is ignored", () => {
    const peer = started()
    peer.session.onSocketEnd(peer.session.lost("EOF"))
    peer.reply(0, connectionStart())
    assert.deepStrictEqual(peer.lines(), [])
    assert.lengthOf(peer.events, 1)
  })
})

it("close during the handshake sends nothing: the shell drops the socket", () => {
  const peer = tuned()
  peer.sent()
  peer.session.close()
  assert.deepStrictEqual(peer.lines(), [])
  assert.isUndefined(peer.end)
})

it("options without a form on the wire are not the session's to check, yet never break it", () => {
  const peer = new Peer({ vhost: "v".repeat(256) })
  peer.session.start()
  peer.reply(0, connectionStart())
  peer.reply(0, connectionTune())
  assert.isDefined(peer.end)
  assert.notInstanceOf(peer.end, AmqpEncodeError)
})

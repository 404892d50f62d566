/** The embedded broker's side of a connection: opening, tuning, heartbeats, alarms, pauses, closing. */
import { assert, describe, it } from "@effect/vitest"
import * as AmqpProtocol from "../../../src/AmqpProtocol.ts"
import {
  bytes,
  capabilities,
  closeLine,
  connectionViolations,
  consume,
  declare,
  frameViolations,
  get,
  Script
} from "../../fixtures/violations.ts"
import { makeBroker, RawClient, type TestBroker, text } from "./rawClient.ts"

const openMethod: AmqpProtocol.ConnectionOpen = { _tag: "connection.open", virtualHost: "/" }

/** A client that has answered `connection.start`. */
const authenticated = (broker = makeBroker()) => new RawClient(broker.core).raw(AmqpProtocol.protocolHeader).startOk()

describe("opening", () => {
  it("HS01: start, tune, open, in any pieces", () => {
    const { core } = makeBroker()
    const client = new RawClient(core)
    for (const byte of AmqpProtocol.protocolHeader) client.raw(new Uint8Array([byte]))
    const [start] = client.methods()
    assert(start?._tag === "connection.start")
    assert.strictEqual(text(start.mechanisms), "PLAIN AMQPLAIN")
    assert.strictEqual(text(start.locales), "en_US")
    assert.strictEqual(start.serverProperties["product"], "RabbitMQ")
    assert.include(start.serverProperties["information"], "embedded broker of effect-amqp")
    assert.deepStrictEqual(Object.keys(Object(start.serverProperties["capabilities"])), [
      "publisher_confirms",
      "exchange_exchange_bindings",
      "basic.nack",
      "consumer_cancel_notify",
      "connection.blocked",
      "consumer_priorities",
      "authentication_failure_close",
      "per_consumer_qos",
      "direct_reply_to"
    ])
    assert.deepStrictEqual(client.startOk().methods(), [
      { _tag: "connection.tune", channelMax: 2047, frameMax: 131072, heartbeat: 60 }
    ])
    assert.deepStrictEqual(client.tuneOk().send(0, openMethod).lines(), ["0 connection.open-ok"])
    assert.deepStrictEqual([...core.connections.values()].map(({ user, vhost }) => [user, vhost]), [["guest", "/"]])
  })

  it("another protocol header is answered with ours, and the end", () => {
    const client = new RawClient(makeBroker().core).raw(bytes("AMQP\u0001\u0001\u0000\u000a"))
    assert.deepStrictEqual(client.chunks, [AmqpProtocol.protocolHeader])
    assert.strictEqual(client.ended, "end")
  })

  it("AMQPLAIN is understood", () => {
    const client = new RawClient(makeBroker().core).raw(AmqpProtocol.protocolHeader)
    client.frames()
    client.startOk(
      "\u0005LOGINS\u0000\u0000\u0000\u0005guest\u0008PASSWORDS\u0000\u0000\u0000\u0005guest",
      {},
      "AMQPLAIN"
    )
    assert.deepStrictEqual(client.lines(), ["0 connection.tune"])
  })

  it("a wrong password is a 403 for those who announced that they understand it", () => {
    const client = new RawClient(makeBroker().core).raw(AmqpProtocol.protocolHeader)
    client.frames()
    assert.strictEqual(
      closeLine(client.startOk("\0guest\0wrong").methods()[0]),
      "connection.close 403 ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see " +
        "the broker logfile. (0.0)"
    )
    client.send(0, { _tag: "connection.close-ok" })
    assert.strictEqual(client.ended, "end")
  })

  it("who does not answer that is reset after three seconds", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).raw(AmqpProtocol.protocolHeader).startOk("\0guest\0wrong")
    broker.advance(2999)
    assert.strictEqual(client.ended, undefined)
    broker.advance(1)
    assert.strictEqual(client.ended, "reset")
  })

  it.each<[string, (client: RawClient) => RawClient]>([
    ["a wrong password of an older client", (client) => client.startOk("\0guest\0wrong", {})],
    ["a mechanism that is not offered", (client) => client.startOk("", capabilities, "EXTERNAL")],
    ["an authorization identity", (client) => client.startOk("other\0guest\0guest")],
    ["a method out of turn", (client) => client.send(0, openMethod)],
    ["a channel out of turn", (client) => client.send(1, { _tag: "channel.open" })],
    ["a frame that is none", (client) => client.raw(bytes("no frame at all"))]
  ])("%s: three seconds of silence, then a reset", (_, wrong) => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).raw(AmqpProtocol.protocolHeader)
    client.frames()
    silenced(wrong(client), broker)
  })

  it.each<[string, (client: RawClient) => RawClient]>([
    ["a frame size below the minimum", (client) => client.tuneOk({ frameMax: 4095 })],
    ["a frame size above ours", (client) => client.tuneOk({ frameMax: 131073 })],
    ["no limit of frames where there is one", (client) => client.tuneOk({ frameMax: 0 })],
    ["no limit of channels where there is one", (client) => client.tuneOk({ channelMax: 0 })]
  ])("%s: the same", (_, wrong) => {
    const broker = makeBroker()
    const client = authenticated(broker)
    client.frames()
    silenced(wrong(client), broker)
  })

  /** Three seconds of silence, whatever it says, then a reset. */
  const silenced = (client: RawClient, broker: TestBroker): void => {
    assert.deepStrictEqual(client.lines(), [])
    client.send(0, openMethod)
    broker.advance(2999)
    assert.strictEqual(client.ended, undefined)
    broker.advance(1)
    assert.deepStrictEqual(client.lines(), [])
    assert.strictEqual(client.ended, "reset")
    assert.strictEqual(broker.core.connections.size, 0)
  }

  it("who says nothing for ten seconds is dropped", () => {
    const broker = makeBroker()
    const client = authenticated(broker)
    broker.advance(9999)
    assert.strictEqual(client.ended, undefined)
    broker.advance(1)
    assert.strictEqual(client.ended, "reset")
  })

  it("vhosts that are not there, or not for this user: 530", () => {
    const broker = makeBroker()
    broker.core.addUser("other", "secret")
    const missing = authenticated(broker).tuneOk()
    missing.frames()
    assert.strictEqual(
      closeLine(missing.call(0, { ...openMethod, virtualHost: "nowhere" })[0]),
      "connection.close 530 NOT_ALLOWED - vhost nowhere not found (10.40)"
    )
    const refused = new RawClient(broker.core).raw(AmqpProtocol.protocolHeader).startOk("\0other\0secret").tuneOk()
    refused.frames()
    assert.strictEqual(
      closeLine(refused.call(0, openMethod)[0]),
      "connection.close 530 NOT_ALLOWED - access to vhost '/' refused for user 'other' (10.40)"
    )
  })
})

describe("wrong sequences", () => {
  const open = () => new RawClient(makeBroker().core).open()

  it.each(connectionViolations.map((each) => [...each] as const))("%s", (_, wrong, expected) => {
    const client = open()
    wrong(client)
    assert.strictEqual(closeLine(client.methods().at(-1)), expected)
  })

  it("more channels than agreed: 530", () => {
    const client = new RawClient(makeBroker().core).open({ limits: { channelMax: 1 } }).channel(7)
    assert.strictEqual(
      closeLine(client.call(8, { _tag: "channel.open" })[0]),
      "connection.close 530 NOT_ALLOWED - number of channels opened (1) has reached the negotiated channel_max (1) " +
        "(20.10)"
    )
  })

  it("after connection.close everything but its answer is ignored", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open().channel()
    client.send(1, { _tag: "channel.close-ok" })
    client.frames()
    assert.deepStrictEqual(client.send(1, declare("q")).lines(), [])
    assert.strictEqual(broker.core.vhosts.get("/")?.queues.size, 0)
    client.send(0, { _tag: "connection.close-ok" })
    assert.strictEqual(client.ended, "end")
  })

  it("a close that nobody answers ends by itself", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open({ limits: { heartbeat: 7 } })
    client.send(0, { _tag: "connection.close", replyCode: 200, replyText: "", classId: 0, methodId: 0 })
    assert.deepStrictEqual(client.lines(), ["0 connection.close-ok"])
    assert.strictEqual(client.ended, undefined)
    broker.advance(7000)
    assert.strictEqual(client.ended, "reset")
    assert.strictEqual(broker.core.connections.size, 0)
  })
})

describe("heartbeats", () => {
  it("are sent after half an interval of silence, and a silent client is dropped after two", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open({ limits: { heartbeat: 10 } })
    broker.advance(4999)
    assert.deepStrictEqual(client.lines(), [])
    broker.advance(1)
    assert.deepStrictEqual(client.lines(), ["heartbeat"])
    client.raw(AmqpProtocol.heartbeatFrame)
    broker.advance(19_999)
    assert.deepStrictEqual(client.lines(), ["heartbeat", "heartbeat", "heartbeat"])
    assert.strictEqual(client.ended, undefined)
    broker.advance(1)
    assert.strictEqual(client.ended, "reset")
    assert.deepStrictEqual(broker.events.at(-1), {
      _tag: "ConnectionClosed",
      connection: "memory:1",
      reason: "missed heartbeats from the client"
    })
  })

  it("there are none where the client wants none", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open()
    broker.advance(1_000_000)
    assert.deepStrictEqual([client.lines(), client.ended], [[], undefined])
  })
})

describe("alarms", () => {
  it("who publishes is told and not read until it is over; others are not concerned", () => {
    const broker = makeBroker()
    const publisher = new RawClient(broker.core).open({ limits: { heartbeat: 10 } }).channel().queue("q")
    const consumer = new RawClient(broker.core).open().channel()
    broker.core.block("low on memory")
    assert.deepStrictEqual(publisher.send(1, declare("q")).lines(), ["1 queue.declare-ok"])
    publisher.publish(1, { body: "1" })
    assert.deepStrictEqual(publisher.methods(), [{ _tag: "connection.blocked", reason: "low on memory" }])
    publisher.publish(1, { body: "2" }).send(1, get("q"))
    assert.deepStrictEqual(publisher.lines(), [])
    assert.deepStrictEqual(consumer.send(1, consume("q", "c")).lines(), ["1 basic.consume-ok"])
    broker.advance(60_000)
    assert.strictEqual(publisher.ended, undefined)
    publisher.frames()
    broker.core.unblock()
    assert.deepStrictEqual(publisher.lines(), ["0 connection.unblocked", "1 basic.get-empty"])
    assert.deepStrictEqual(
      consumer.frames().flatMap((frame) => frame._tag === "Body" ? text(frame.payload) : []),
      ["1", "2"]
    )
  })
})

describe("a client that is not read", () => {
  /** One that has published in an alarm, and the queue of that. */
  const blocked = (options: Parameters<RawClient["open"]>[0] = {}) => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open(options).channel().queue("q")
    broker.core.block("low on memory")
    assert.isFalse(client.isHeld)
    client.publish(1, { body: "1" })
    client.frames()
    const queued = () => broker.core.vhosts.get("/")?.queues.get("q")?.ready
    return { ...broker, client, queued }
  }

  it("is told of an alarm before what its publish has for an answer, and nothing that it sends is heard", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open().channel()
    broker.core.block("low on memory")
    client.publish(1, { exchange: "missing" }).send(1, { _tag: "channel.close-ok" }, { _tag: "channel.open" })
    assert.deepStrictEqual(client.lines(), ["0 connection.blocked", "1 channel.close"])
    broker.core.unblock()
    assert.deepStrictEqual(client.lines(), ["0 connection.unblocked", "1 channel.open-ok"])
  })

  it("is to send no more until it is: in an alarm, and in a pause from the first bytes on", () => {
    const { client, core } = blocked()
    assert.isTrue(client.isHeld)
    core.pause()
    core.unblock()
    assert.isTrue(client.isHeld)
    const other = new RawClient(core, "memory:2")
    assert.isFalse(other.isHeld)
    assert.isTrue(other.raw(AmqpProtocol.protocolHeader).isHeld)
    core.resume()
    assert.deepStrictEqual([client.isHeld, other.isHeld], [false, false])
  })

  it("has hung up behind what it has sent", () => {
    const { client, core, queued } = blocked()
    client.publish(1, { body: "2" })
    client.peer.closed()
    assert.deepStrictEqual([core.connections.size, queued()], [1, 0])
    core.pause()
    core.unblock()
    assert.deepStrictEqual([core.connections.size, queued()], [1, 0])
    core.resume()
    assert.deepStrictEqual([core.connections.size, queued()], [0, 2])
  })

  it("has hung up when it can no longer be written to", () => {
    const { advance, client, core, queued } = blocked({ limits: { heartbeat: 10 } })
    client.peer.closed()
    advance(4999)
    assert.strictEqual(core.connections.size, 1)
    advance(1)
    assert.strictEqual(core.connections.size, 0)
    core.unblock()
    assert.strictEqual(queued(), 0)
  })

  it("is read again when an operator closes it", () => {
    const { client, core } = blocked()
    for (const connection of core.connections.values()) connection.close({ replyCode: 320, replyText: "BYE" })
    assert.strictEqual(client.isHeld, false)
    assert.deepStrictEqual(client.lines(), ["0 connection.close"])
    client.send(0, { _tag: "connection.close-ok" })
    assert.deepStrictEqual([client.ended, core.connections.size], ["end", 0])
  })

  it("is let go when the broker resets it or stops", () => {
    for (const end of ["reset", "stop"] as const) {
      const { client, core } = blocked()
      if (end === "stop") core.stop()
      else for (const connection of core.connections.values()) connection.reset()
      assert.deepStrictEqual([client.isHeld, client.ended], [false, end === "stop" ? "end" : "reset"])
      assert.isFalse(client.publish(1, { body: "2" }).isHeld)
    }
  })
})

describe("bytes that are no frames", () => {
  const garbage = Uint8Array.of(9, 0, 0, 0, 0, 0, 0, 0xce)
  const good = () => new Script().publish(1).send(1, declare("next")).bytes()

  it("are refused behind the frames before them, in one chunk as in two", () => {
    const linesOf = (say: (client: RawClient) => RawClient) => {
      const broker = makeBroker()
      const client = say(new RawClient(broker.core).open().channel().queue("q"))
      assert.deepStrictEqual([...broker.core.vhosts.get("/")?.queues.keys() ?? []], ["q", "next"])
      assert.strictEqual(broker.core.vhosts.get("/")?.queues.get("q")?.ready, 1)
      return client.lines()
    }
    const lines = linesOf((client) => client.raw(good(), garbage))
    assert.deepStrictEqual(lines, ["1 queue.declare-ok", "0 connection.close"])
    assert.deepStrictEqual(linesOf((client) => client.raw(good()).raw(garbage)), lines)
  })

  it.each(frameViolations.map((each) => [...each] as const))("%s", (_, wrong, expected) => {
    const client = new RawClient(makeBroker().core).open().channel()
    wrong(client)
    const [close] = client.methods()
    assert.strictEqual(close === undefined ? client.ended : closeLine(close), expected)
  })

  it("leave the rest readable, or end with a reset three seconds later", () => {
    const after = (bytes: Uint8Array) => {
      const broker = makeBroker()
      const client = new RawClient(broker.core).open().raw(bytes).send(0, { _tag: "connection.close-ok" })
      broker.advance(3000)
      return client.ended
    }
    assert.strictEqual(after(Uint8Array.of(7, 0, 0, 0, 0, 0, 0, 0xce)), "end")
    assert.strictEqual(after(Uint8Array.of(7, 0, 0, 0, 0, 0, 0, 0xcf)), "reset")
  })

  it("wait behind them while the client is not read", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open().channel().queue("q")
    broker.core.block("low on memory")
    client.raw(good(), garbage)
    assert.deepStrictEqual(client.lines(), ["0 connection.blocked"])
    broker.core.unblock()
    assert.deepStrictEqual(client.lines(), ["0 connection.unblocked", "1 queue.declare-ok", "0 connection.close"])
  })

  it("mean nothing to a connection that has ended before them", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open()
    const close: AmqpProtocol.ConnectionClose = {
      _tag: "connection.close",
      replyCode: 200,
      replyText: "",
      classId: 0,
      methodId: 0
    }
    client.raw(new Script().send(0, close).bytes(), garbage)
    assert.deepStrictEqual(client.lines(), ["0 connection.close-ok"])
    broker.advance(30_000)
    assert.strictEqual(broker.core.connections.size, 0)
  })
})

describe("pauses", () => {
  it("nothing is read, written or missed; then everything is", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open({ limits: { heartbeat: 10 } }).channel()
    broker.core.pause()
    client.send(1, declare("a")).send(1, declare("b"))
    broker.advance(100_000)
    assert.deepStrictEqual([client.lines(), client.ended], [[], undefined])
    broker.core.resume()
    assert.deepStrictEqual(client.lines(), ["1 queue.declare-ok", "1 queue.declare-ok"])
    broker.advance(10_000)
    assert.strictEqual(client.ended, undefined)
  })
})

describe("pauses of those who open", () => {
  it("a handshake that was in time is, one that was not is not", () => {
    const broker = makeBroker()
    broker.core.pause()
    const quick = new RawClient(broker.core).raw(AmqpProtocol.protocolHeader).startOk().tuneOk().send(0, openMethod)
    const slow = new RawClient(broker.core).raw(AmqpProtocol.protocolHeader)
    broker.advance(60_000)
    assert.deepStrictEqual([quick.ended, slow.ended, quick.lines()], [undefined, undefined, []])
    broker.core.resume()
    assert.deepStrictEqual([quick.ended, slow.ended], [undefined, "reset"])
    assert.deepStrictEqual(quick.lines(), ["0 connection.start", "0 connection.tune", "0 connection.open-ok"])
  })
})

describe("what an operator does", () => {
  it("stop: 320 and the end for all, a reset for newcomers, until start", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open().channel().queue("kept", {}, { durable: true }).queue("lost")
    broker.core.stop()
    assert.strictEqual(
      closeLine(client.methods()[0]),
      "connection.close 320 CONNECTION_FORCED - broker forced connection closure with reason 'shutdown' (0.0)"
    )
    assert.strictEqual(client.ended, "end")
    assert.strictEqual(new RawClient(broker.core).ended, "reset")
    broker.core.start()
    assert.deepStrictEqual([...broker.core.vhosts.get("/")?.queues.keys() ?? []], ["kept"])
    assert.strictEqual(
      new RawClient(broker.core).open().channel().call(1, declare("lost"))[0]?._tag,
      "queue.declare-ok"
    )
  })

  it("a vhost that is deleted takes its connections with it, and so does a user", () => {
    const broker = makeBroker()
    broker.core.addVhost("v")
    broker.core.addUser("u", "p")
    broker.core.setPermissions("u", "v", { configure: /.*/, write: /.*/, read: /.*/ })
    const inVhost = new RawClient(broker.core).open({ credentials: "\0u\0p", vhost: "v" })
    broker.core.deleteVhost("v")
    assert.strictEqual(
      closeLine(inVhost.methods()[0]),
      "connection.close 320 CONNECTION_FORCED - vhost 'v' is deleted (0.0)"
    )
    broker.core.addVhost("v")
    const after = new RawClient(broker.core).raw(AmqpProtocol.protocolHeader).startOk("\0u\0p").tuneOk()
    after.frames()
    assert.strictEqual(
      closeLine(after.call(0, { ...openMethod, virtualHost: "v" })[0]),
      "connection.close 530 NOT_ALLOWED - access to vhost 'v' refused for user 'u' (10.40)"
    )
    broker.core.setPermissions("u", "/", { configure: /.*/, write: /.*/, read: /.*/ })
    const ofUser = new RawClient(broker.core).open({ credentials: "\0u\0p" })
    broker.core.deleteUser("u")
    assert.strictEqual(
      closeLine(ofUser.methods()[0]),
      "connection.close 320 CONNECTION_FORCED - user 'u' is deleted (0.0)"
    )
  })

  it("a reset gives back what was unsettled", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open().channel().queue("q").queue("own", {}, { exclusive: true })
    client.publish(1).publish(1).send(1, get("q"))
    const queue = broker.core.vhosts.get("/")?.queues.get("q")
    assert.deepStrictEqual([queue?.ready, queue?.unsettled], [1, 1])
    for (const connection of broker.core.connections.values()) connection.reset()
    assert.strictEqual(client.ended, "reset")
    assert.deepStrictEqual([queue?.ready, queue?.unsettled], [2, 0])
    assert.deepStrictEqual([...broker.core.vhosts.get("/")?.queues.keys() ?? []], ["q"])
    assert.deepStrictEqual(queue?.entries().map(({ redelivered }) => redelivered), [true, false])
  })
})

describe("writing", () => {
  it("a link that has enough is given no more deliveries until it is drained", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open().channel().queue("q")
    for (let i = 0; i < 3; i++) client.publish(1, { body: "x".repeat(700_000) })
    client.isRoomy = false
    client.send(1, { ...consume("q", "c"), noAck: true })
    assert.deepStrictEqual(client.lines().filter((line) => line.includes("deliver")).length, 2)
    client.isRoomy = true
    client.peer.drained()
    assert.deepStrictEqual(client.lines().filter((line) => line.includes("deliver")).length, 1)
  })

  it("a link that takes everything is given everything", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open().channel().queue("q")
    for (let i = 0; i < 4; i++) client.publish(1, { body: "x".repeat(700_000) })
    client.send(1, { ...consume("q", "c"), noAck: true })
    assert.deepStrictEqual(client.lines().filter((line) => line.includes("deliver")).length, 4)
  })

  it("a client that answers while it is written to is heard afterwards", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open().channel().queue("q")
    let answers = 0
    client.onWrite = () => {
      if (answers++ < 3) client.publish(1, { body: `answer ${answers}` })
    }
    client.send(1, { ...consume("q", "c"), noAck: true })
    assert.deepStrictEqual(
      client.frames().flatMap((frame) => frame._tag === "Body" ? text(frame.payload) : []),
      ["answer 1", "answer 2", "answer 3"]
    )
  })

  it("the agreed size is for what the client sends; headers go out as they came", () => {
    const broker = makeBroker()
    const client = new RawClient(broker.core).open().channel().queue("q")
    const small = new RawClient(broker.core, "memory:2").open({ limits: { frameMax: 4096 } }).channel()
    client.publish(1, { properties: { headers: { large: "x".repeat(5000) } } })
    assert.deepStrictEqual(small.send(1, get("q")).lines(), ["1 basic.get-ok", "1 header 0"])
    assert.strictEqual(
      closeLine(small.call(1, { ...declare("r"), arguments: { large: "x".repeat(5000) } })[0]).slice(0, 36),
      "connection.close 501 FRAME_ERROR - t"
    )
    broker.advance(2999)
    assert.strictEqual(small.ended, undefined)
    broker.advance(1)
    assert.strictEqual(small.ended, "reset")
  })

  it("bodies are cut at the agreed size", () => {
    const client = new RawClient(makeBroker().core).open({ limits: { frameMax: 4096 } }).channel().queue("q")
    const body = "x".repeat(5000)
    const frames = AmqpProtocol.encodeContent({
      channel: 1,
      method: { _tag: "basic.publish", exchange: "", routingKey: "q", mandatory: false, immediate: false },
      body: bytes(body),
      frameMax: 4096
    })
    assert(frames._tag === "Success")
    client.raw(frames.success).send(1, get("q"))
    assert.deepStrictEqual(client.lines(), ["1 basic.get-ok", "1 header 5000", "1 body 4088", "1 body 912"])
  })
})

it("the end of a body that is longer than announced never comes", () => {
  const client = new RawClient(makeBroker().core).open().channel()
  client.send(1, { _tag: "basic.publish", exchange: "", routingKey: "q", mandatory: false, immediate: false })
  client.raw(new Uint8Array([2, 0, 1, 0, 0, 0, 14, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0xce]))
  client.raw(new Uint8Array([3, 0, 1, 0, 0, 0, 2, 1, 2, 0xce]))
  assert.deepStrictEqual(client.lines(), [])
  assert.strictEqual(
    closeLine(client.call(1, declare("q"))[0]),
    "connection.close 505 UNEXPECTED_FRAME - expected content body, got non content body frame instead (60.40)"
  )
})

/**
 * Captures `test/fixtures/goldens.ts`: every method in the bytes of a live RabbitMQ and in those that it accepted.
 *
 *     node scripts/goldens.ts
 *
 * It starts a private node, speaks to it over plain sockets with `AmqpProtocol`'s encoders, and stops it again. What
 * changes from run to run are the names that the broker makes up. Its host name is replaced by a neutral one.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Effect, Result } from "effect"
import { writeFileSync } from "node:fs"
import * as AmqpProtocol from "../src/AmqpProtocol.ts"
import * as AmqpTable from "../src/AmqpTable.ts"
import { type BrokerNode, makeNode } from "../test/harness/rabbitmq.ts"
import { dial } from "../test/harness/scripted.ts"

type Sent = AmqpProtocol.Method<AmqpTable.InputTable>

const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

const frameMax = 4096

/** The size of a whole frame, from its head. */
const frameSize = (bytes: Uint8Array, at: number): number =>
  new DataView(bytes.buffer, bytes.byteOffset + at).getUint32(3) + AmqpProtocol.frameOverhead

// -----------------------------------------------------------------------------
// one recorded connection
// -----------------------------------------------------------------------------

const connect = Effect.fnUntraced(function*(node: BrokerNode) {
  const socket = yield* dial(node)
  const lines: Array<string> = []

  const record = (from: "client" | "server", bytes: Uint8Array): AmqpProtocol.Frame => {
    const [frame] = Result.getOrThrow(AmqpProtocol.makeParser().push(bytes))
    if (frame === undefined) throw new Error(`no frame: ${toHex(bytes)}`)
    const name = frame._tag === "Method" ? frame.method._tag : frame._tag.toLowerCase()
    lines.push(`${from} ${name} ${toHex(bytes)}`)
    return frame
  }

  const write = (bytes: Uint8Array) =>
    Effect.suspend(() => {
      for (let at = 0; at < bytes.length; at += frameSize(bytes, at)) {
        record("client", bytes.subarray(at, at + frameSize(bytes, at)))
      }
      return socket.write(bytes)
    })

  const read = Effect.gen(function*() {
    const head = yield* socket.read(7)
    const rest = yield* socket.read(frameSize(head, 0) - head.length)
    return record("server", Uint8Array.from([...head, ...rest]))
  })

  /** Reads until each of these methods has come with its content, in whatever order. */
  const expect = Effect.fnUntraced(function*(...names: ReadonlyArray<AmqpProtocol.MethodName>) {
    const missing = [...names]
    while (missing.length > 0) {
      const frame = yield* read
      const at = frame._tag === "Method" ? missing.indexOf(frame.method._tag) : -1
      const [found] = at < 0 ? [] : missing.splice(at, 1)
      if (found === undefined) return yield* Effect.die(`expected ${missing}: ${lines.at(-1)}`)
      if (!AmqpProtocol.methods[found].content) continue
      const header = yield* read
      let left = header._tag === "Header" ? header.bodySize : 0
      while (left > 0) {
        const body = yield* read
        left -= body._tag === "Body" ? body.payload.length : left
      }
    }
  })

  const send = (channel: number, method: Sent) => write(Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method)))

  /** Sends a request and waits for its reply. */
  const call = (channel: number, method: Sent) =>
    Effect.andThen(send(channel, method), expect(...AmqpProtocol.methods[method._tag].replies))

  const publish = (
    channel: number,
    routingKey: string,
    body: Uint8Array,
    properties: AmqpProtocol.BasicProperties<AmqpTable.InputTable> = {},
    mandatory = false
  ) => {
    const method = { _tag: "basic.publish", exchange: "", routingKey, mandatory, immediate: false } as const
    return write(Result.getOrThrow(AmqpProtocol.encodeContent({ channel, method, properties, body, frameMax })))
  }

  const open = Effect.fnUntraced(function*(heartbeat: number, mechanism: string, first: string, answer?: string) {
    yield* socket.write(AmqpProtocol.protocolHeader)
    yield* expect("connection.start")
    yield* send(0, {
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
      mechanism,
      response: utf8(first),
      locale: "en_US"
    })
    if (answer !== undefined) {
      yield* expect("connection.secure")
      yield* send(0, { _tag: "connection.secure-ok", response: utf8(answer) })
    }
    yield* expect("connection.tune")
    yield* send(0, { _tag: "connection.tune-ok", channelMax: 2047, frameMax, heartbeat })
    yield* call(0, { _tag: "connection.open", virtualHost: "/" })
  })
  const close = call(0, { _tag: "connection.close", replyCode: 200, replyText: "done", classId: 0, methodId: 0 })

  return { lines, write, read, expect, send, call, publish, open, close }
})

const plain = "\0guest\0guest"

// -----------------------------------------------------------------------------
// the conversations
// -----------------------------------------------------------------------------

const everyType = AmqpTable.table([
  ["t", AmqpTable.bool(true)],
  ["b", AmqpTable.int8(-128)],
  ["B", AmqpTable.uint8(255)],
  ["s", AmqpTable.int16(-32768)],
  ["u", AmqpTable.uint16(65535)],
  ["I", AmqpTable.int32(-2147483648)],
  ["i", AmqpTable.uint32(4294967295)],
  ["l", AmqpTable.int64(-(2n ** 63n))],
  ["L", AmqpTable.int64(2n ** 63n - 1n, "L")],
  ["f", AmqpTable.float(-1.5)],
  ["d", AmqpTable.double(0.1)],
  ["D", AmqpTable.decimal({ scale: 2, value: -1999 })],
  ["S", AmqpTable.longString("grüße")],
  ["S bytes", AmqpTable.longString(Uint8Array.of(0xc3, 0x28))],
  ["A", AmqpTable.array([AmqpTable.int32(1), AmqpTable.longString("two"), AmqpTable.array([])])],
  ["T", AmqpTable.timestamp(1_700_000_000n)],
  ["F", AmqpTable.table([["", AmqpTable.void], ["twice", AmqpTable.bool(true)], ["twice", AmqpTable.bool(false)]])],
  ["V", AmqpTable.void],
  ["x", AmqpTable.bytes(Uint8Array.of(0, 1, 0xce, 0xff))]
])

const everyProperty: AmqpProtocol.BasicProperties<AmqpTable.InputTable> = {
  contentType: "application/json",
  contentEncoding: "identity",
  headers: everyType,
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
}

const declare = (queue: string, args: AmqpTable.InputTable = {}): Sent => ({
  _tag: "queue.declare",
  queue,
  passive: false,
  durable: false,
  exclusive: true,
  autoDelete: true,
  noWait: false,
  arguments: args
})
const get = (queue: string): Sent => ({ _tag: "basic.get", queue, noAck: true })
const consume = (queue: string, consumerTag: string): Sent => ({
  _tag: "basic.consume",
  queue,
  consumerTag,
  noLocal: false,
  noAck: false,
  exclusive: true,
  noWait: false,
  arguments: { "x-priority": 1 }
})
const exchange = (name: string, args: AmqpTable.InputTable, type = "topic"): Sent => ({
  _tag: "exchange.declare",
  exchange: name,
  type,
  passive: false,
  durable: true,
  autoDelete: false,
  internal: true,
  noWait: false,
  arguments: args
})
const binding = { destination: "inner", source: "outer", routingKey: "a.#", arguments: { "x-match": "all" } }

/** All of a life without trouble, on three channels, and one refusal. */
const main = Effect.fnUntraced(function*(node: BrokerNode) {
  const { call, close, expect, lines, open, publish, send } = yield* connect(node)
  yield* open(0, "PLAIN", plain)

  yield* call(1, { _tag: "channel.open" })
  yield* call(1, { _tag: "channel.flow", active: true })
  yield* call(1, exchange("outer", { "alternate-exchange": "amq.fanout" }))
  yield* call(1, exchange("inner", {}))
  yield* call(1, { _tag: "exchange.bind", noWait: false, ...binding })
  yield* call(1, { _tag: "exchange.unbind", noWait: false, ...binding })
  yield* call(1, { _tag: "exchange.delete", exchange: "inner", ifUnused: true, noWait: false })
  yield* call(1, { _tag: "exchange.delete", exchange: "outer", ifUnused: false, noWait: false })

  yield* call(
    1,
    declare("goldens", { "x-max-length": 100, "x-message-ttl": 60_000, "x-single-active-consumer": false })
  )
  yield* call(1, declare(""))
  const bound = { queue: "goldens", exchange: "amq.topic", routingKey: "*.golden", arguments: { n: null } }
  yield* call(1, { _tag: "queue.bind", noWait: false, ...bound })
  yield* call(1, { _tag: "queue.unbind", ...bound })
  yield* call(1, { _tag: "basic.qos", prefetchSize: 0, prefetchCount: 10, global: true })

  // bodies: none, one frame with every property and every header type, and three frames
  yield* publish(1, "goldens", new Uint8Array(0))
  yield* publish(1, "goldens", utf8("{}"), everyProperty)
  yield* publish(1, "goldens", Uint8Array.from({ length: 2 * (frameMax - 8) + 1 }, (_, i) => i), {
    headers: {},
    priority: 0,
    contentType: ""
  })
  yield* send(1, get("goldens"))
  yield* expect("basic.get-ok")
  yield* send(1, consume("goldens", "tag"))
  yield* expect("basic.consume-ok", "basic.deliver", "basic.deliver")
  yield* send(1, { _tag: "basic.ack", deliveryTag: 3, multiple: false })
  yield* send(1, { _tag: "basic.reject", deliveryTag: 2, requeue: true })
  yield* expect("basic.deliver")
  yield* send(1, { _tag: "basic.recover-async", requeue: true })
  yield* expect("basic.deliver")
  yield* send(1, { _tag: "basic.recover", requeue: true })
  yield* expect("basic.recover-ok", "basic.deliver")
  yield* send(1, { _tag: "basic.nack", deliveryTag: 0, multiple: true, requeue: false })
  yield* call(1, { _tag: "basic.cancel", consumerTag: "tag", noWait: false })
  yield* call(1, declare("kept"))
  yield* send(1, get("kept"))
  yield* expect("basic.get-empty")
  yield* publish(1, "kept", utf8("purged"))
  yield* call(1, { _tag: "queue.purge", queue: "kept", noWait: false })

  // the broker cancels the consumer of a queue that is deleted
  yield* call(1, consume("kept", "deleted"))
  yield* send(1, { _tag: "queue.delete", queue: "kept", ifUnused: false, ifEmpty: false, noWait: false })
  yield* expect("queue.delete-ok", "basic.cancel")

  yield* call(2, { _tag: "channel.open" })
  yield* call(2, declare("full", { "x-max-length": 1, "x-overflow": "reject-publish" }))
  yield* call(2, { _tag: "confirm.select", noWait: false })
  yield* publish(2, "full", utf8("fits"))
  yield* expect("basic.ack")
  yield* publish(2, "full", utf8("does not"))
  yield* expect("basic.nack")
  yield* publish(2, "nowhere", utf8("lost"), { messageId: "lost-1" }, true)
  yield* expect("basic.return", "basic.ack")
  yield* call(2, { _tag: "channel.close", replyCode: 200, replyText: "", classId: 0, methodId: 0 })

  yield* call(3, { _tag: "channel.open" })
  yield* call(3, { _tag: "tx.select" })
  yield* publish(3, "goldens", utf8("committed"))
  yield* call(3, { _tag: "tx.commit" })
  yield* call(3, { _tag: "tx.rollback" })
  // refused: there is no such queue
  yield* send(3, get("missing"))
  yield* expect("channel.close")
  yield* send(3, { _tag: "channel.close-ok" })

  yield* call(0, { _tag: "connection.update-secret", newSecret: utf8("guest"), reason: "rotation" })
  yield* close
  return lines
})

/** A hard error: an exchange of a type that does not exist. */
const refused = Effect.fnUntraced(function*(node: BrokerNode) {
  const { call, expect, lines, open, send } = yield* connect(node)
  yield* open(0, "PLAIN", plain)
  yield* call(1, { _tag: "channel.open" })
  yield* send(1, exchange("odd", {}, "x-odd"))
  yield* expect("connection.close")
  yield* send(0, { _tag: "connection.close-ok" })
  return lines
})

/** A mechanism with a challenge, and heartbeats. */
const challenged = Effect.fnUntraced(function*(node: BrokerNode) {
  const { close, lines, open, read, write } = yield* connect(node)
  yield* open(1, "RABBIT-CR-DEMO", "guest", "My password is guest")
  yield* write(AmqpProtocol.heartbeatFrame)
  yield* read
  yield* close
  return lines
})

/** A publish while the broker is short of memory. */
const blocked = Effect.fnUntraced(function*(node: BrokerNode) {
  const { call, close, expect, lines, open, publish } = yield* connect(node)
  yield* open(0, "PLAIN", plain)
  yield* call(1, { _tag: "channel.open" })
  yield* Effect.scoped(Effect.gen(function*() {
    yield* node.alarm("memory")
    yield* publish(1, "nowhere", utf8("waits"))
    yield* expect("connection.blocked")
  }))
  yield* expect("connection.unblocked")
  yield* close
  return lines
})

/** The answer to a version that the broker does not speak is no frame, but its own protocol header. */
const otherVersion = Effect.fnUntraced(function*(node: BrokerNode) {
  const socket = yield* dial(node)
  yield* socket.write(utf8("AMQP\0\0\x09\x09"))
  return toHex(yield* socket.read(8))
})

// -----------------------------------------------------------------------------
// the fixture
// -----------------------------------------------------------------------------

/** Replaces the broker's name for itself, which holds the name of this machine, by another one of its length. */
const scrub = (source: string): string => {
  const start = Buffer.from(/connection\.start ([0-9a-f]+)/.exec(source)?.[1] ?? "", "hex")
  const [frame] = Result.getOrThrow(AmqpProtocol.makeParser().push(start))
  if (frame?._tag !== "Method" || frame.method._tag !== "connection.start") throw new Error("no connection.start")
  const name = String(frame.method.serverProperties["cluster_name"])
  return source.replaceAll(toHex(utf8(name)), toHex(utf8("broker@".padEnd(name.length, "x").slice(0, name.length))))
}

const program = Effect.gen(function*() {
  const node = yield* makeNode()
  const conversations = {
    main: yield* main(node),
    refused: yield* refused(node),
    challenged: yield* challenged(node),
    blocked: yield* blocked(node)
  }
  const versionAnswer = yield* otherVersion(node)
  const blocks = Object.entries(conversations).map(([name, lines]) => `  ${name}: \`\n${lines.join("\n")}\n\``)
  const source = `/**
 * Frames captured from RabbitMQ 3.10.8 by \`node scripts/goldens.ts\`. Do not edit.
 */

/** Whole connections. Each line is a frame: who sent it, its method (or what else it is), its bytes. */
export const conversations = {
${blocks.join(",\n")}
}

/** What the broker answers to the protocol header of another version. */
export const versionAnswer = "${versionAnswer}"
`
  writeFileSync(new URL("../test/fixtures/goldens.ts", import.meta.url), scrub(source))
  console.log(`${Object.values(conversations).flat().length} frames`)
})

NodeRuntime.runMain(Effect.scoped(program))

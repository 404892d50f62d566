/**
 * A peer that speaks AMQP and does nothing else, as fast as it can: it counts what is published and confirms it, one
 * `multiple` for each chunk that it reads, and delivers what a queue's name asks for (`null.<size>.<count>`) from bytes
 * that are ready. What a client costs against it is the client's own.
 *
 * `node nullPeer.ts` prints its port, and ends with its standard input. It serves well-behaved clients only.
 */
import { Result } from "effect"
import { createServer, type Socket } from "node:net"
import * as AmqpProtocol from "../src/AmqpProtocol.ts"
import { contentType } from "./job.ts"

type Method = AmqpProtocol.Method

const publishId = AmqpProtocol.methods["basic.publish"].id
const ackId = AmqpProtocol.methods["basic.ack"].id
/** Bytes of deliveries that are written at once. */
const blockSize = 64 * 1024

const encoded = (channel: number, method: Method): Uint8Array =>
  Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method))

/** Deliveries of one consumer. */
class Delivering {
  private readonly socket: Socket
  private readonly one: Uint8Array
  private readonly tagAt: number
  private readonly noAck: boolean
  private readonly prefetch: number
  private left: number
  private sent = 0
  acked = 0

  constructor(socket: Socket, channel: number, consume: AmqpProtocol.BasicConsume, prefetch: number) {
    const [, size, count] = consume.queue.split(".")
    this.socket = socket
    this.noAck = consume.noAck
    this.prefetch = prefetch
    this.left = Number(count)
    const { consumerTag, queue } = consume
    this.one = Result.getOrThrow(AmqpProtocol.encodeContent({
      channel,
      method: {
        _tag: "basic.deliver",
        consumerTag,
        deliveryTag: 0,
        redelivered: false,
        exchange: "",
        routingKey: queue
      },
      properties: { contentType, deliveryMode: 1 },
      body: new Uint8Array(Number(size)).fill(0x61)
    }))
    // Frame head, class and method, the consumer tag with its length.
    this.tagAt = 7 + 4 + 1 + Buffer.byteLength(consumerTag)
  }

  /** Writes until the window or the socket is full. */
  readonly pump = (): void => {
    const perBlock = Math.max(1, Math.floor(blockSize / this.one.length))
    while (this.left > 0 && !this.socket.writableNeedDrain) {
      const open = this.noAck ? this.left : this.prefetch - (this.sent - this.acked)
      const count = Math.min(perBlock, this.left, open)
      if (count <= 0) return
      const block = Buffer.allocUnsafe(count * this.one.length)
      for (let i = 0, at = 0; i < count; i++, at += this.one.length) {
        block.set(this.one, at)
        block.writeUInt32BE(++this.sent, at + this.tagAt + 4)
      }
      this.left -= count
      this.socket.write(block)
    }
  }
}

/** One connection. */
class Peer {
  private readonly socket: Socket
  private readonly parser = AmqpProtocol.makeParser()
  private greeted = false
  private rest: Buffer = Buffer.alloc(0)
  private prefetch = 65535
  private readonly delivering = new Map<number, Delivering>()
  /** Of each channel, what is published and how much of the present content is missing. */
  private readonly published: Array<number> = []
  private readonly confirmed: Array<number | undefined> = []
  private readonly missing: Array<number> = []

  constructor(socket: Socket) {
    this.socket = socket.setNoDelay(true)
    socket.on("data", this.onData)
    socket.on("drain", () => {
      for (const delivering of this.delivering.values()) delivering.pump()
    })
    socket.on("error", () => socket.destroy())
  }

  private send(channel: number, method: Method): void {
    this.socket.write(encoded(channel, method))
  }

  private readonly onData = (chunk: Buffer): void => {
    let bytes = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk])
    if (!this.greeted) {
      if (bytes.length < 8) return void (this.rest = bytes)
      this.greeted = true
      bytes = bytes.subarray(8)
      const mechanisms = new TextEncoder().encode("PLAIN")
      const locales = new TextEncoder().encode("en_US")
      const serverProperties = { capabilities: { "publisher_confirms": true, "basic.nack": true } }
      this.send(0, {
        _tag: "connection.start",
        versionMajor: 0,
        versionMinor: 9,
        serverProperties,
        mechanisms,
        locales
      })
    }
    const end = this.frames(bytes)
    this.rest = bytes.subarray(end)
    for (const [channel, published] of this.published.entries()) {
      const confirmed = this.confirmed[channel]
      if (confirmed === undefined || published === confirmed) continue
      this.confirmed[channel] = published
      this.send(channel, { _tag: "basic.ack", deliveryTag: published, multiple: published > confirmed + 1 })
    }
    for (const delivering of this.delivering.values()) delivering.pump()
  }

  /** Takes whole frames. Returns where the rest begins. */
  private frames(bytes: Buffer): number {
    let at = 0
    while (bytes.length - at >= 8) {
      const channel = bytes.readUInt16BE(at + 1)
      const size = bytes.readUInt32BE(at + 3)
      const end = at + size + 8
      if (end > bytes.length) break
      const type = bytes[at]
      if (type === AmqpProtocol.frameBody) this.content(channel, (this.missing[channel] ?? 0) - size)
      else if (type === AmqpProtocol.frameHeader) this.content(channel, bytes.readUInt32BE(at + 7 + 8))
      else if (type === AmqpProtocol.frameMethod) this.method(channel, bytes, at, end)
      at = end
    }
    return at
  }

  private content(channel: number, missing: number): void {
    this.missing[channel] = missing
    if (missing === 0) this.published[channel] = (this.published[channel] ?? 0) + 1
  }

  private method(channel: number, bytes: Buffer, start: number, end: number): void {
    const id = bytes.readUInt32BE(start + 7)
    if (id === publishId) return
    if (id === ackId) {
      const delivering = this.delivering.get(channel)
      if (delivering !== undefined) delivering.acked = Math.max(delivering.acked, bytes.readUInt32BE(start + 7 + 8))
      return
    }
    for (const frame of Result.getOrThrow(this.parser.push(bytes.subarray(start, end)))) {
      if (frame._tag === "Method") this.answer(channel, frame.method)
    }
  }

  private answer(channel: number, method: Method): void {
    switch (method._tag) {
      case "connection.start-ok":
        return this.send(0, { _tag: "connection.tune", channelMax: 2047, frameMax: 131072, heartbeat: 0 })
      case "connection.open":
        return this.send(0, { _tag: "connection.open-ok" })
      case "connection.close":
        this.send(0, { _tag: "connection.close-ok" })
        return void this.socket.end()
      case "channel.open":
        return this.send(channel, { _tag: "channel.open-ok" })
      case "channel.close":
        return this.send(channel, { _tag: "channel.close-ok" })
      case "confirm.select":
        this.confirmed[channel] = 0
        this.published[channel] = 0
        return this.send(channel, { _tag: "confirm.select-ok" })
      case "queue.declare":
        return this.send(channel, {
          _tag: "queue.declare-ok",
          queue: method.queue,
          messageCount: 0,
          consumerCount: 0
        })
      case "basic.qos":
        this.prefetch = method.prefetchCount
        return this.send(channel, { _tag: "basic.qos-ok" })
      case "basic.consume": {
        const consumerTag = method.consumerTag === "" ? "null-peer-consumer" : method.consumerTag
        const consume = { ...method, consumerTag }
        this.send(channel, { _tag: "basic.consume-ok", consumerTag })
        // After what a client has to do with the reply: not all of them are ready in the same chunk.
        return void setTimeout(() => {
          const delivering = new Delivering(this.socket, channel, consume, this.prefetch)
          this.delivering.set(channel, delivering)
          delivering.pump()
        }, 20)
      }
      case "basic.cancel":
        this.delivering.delete(channel)
        return this.send(channel, { _tag: "basic.cancel-ok", consumerTag: method.consumerTag })
    }
  }
}

const server = createServer((socket) => void new Peer(socket))
server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  if (address !== null && typeof address === "object") process.stdout.write(`${address.port}\n`)
})
process.stdin.on("end", () => process.exit(0)).resume()

/**
 * Drives a `Session` without a socket: time is a list of scheduled functions, the network is a call. It plays the shell
 * (takes from the outbox, tells what was written) and the broker (parses what the client wrote, sends frames).
 */
import * as AmqpAuth from "../../src/AmqpAuth.ts"
import type { AmqpConnectionError, ChannelCloseCause } from "../../src/AmqpError.ts"
import { AmqpMessage, type Publish } from "../../src/AmqpMessage.ts"
import type { InputTable } from "../../src/AmqpTable.ts"
import {
  FrameParser,
  protocolHeader,
  type ReceivedContent,
  writeBodyFrames,
  writeHeaderFrame,
  writeMethodFrame
} from "../../src/internal/codec/frames.ts"
import { type BasicProperties, type Method, readBasicProperties, readMethod } from "../../src/internal/codec/spec.ts"
import { view, Writer } from "../../src/internal/codec/wire.ts"
import type { ChannelState } from "../../src/internal/engine/channelState.ts"
import type { PublishOutcome } from "../../src/internal/engine/confirms.ts"
import { type ConsumerEnd, Deliveries, type Pulled } from "../../src/internal/engine/deliveries.ts"
import type { Limits, Negotiated } from "../../src/internal/engine/handshake.ts"
import type { ReplyTo, Request, RequestName } from "../../src/internal/engine/pendingRequests.ts"
import { Session, type SessionOptions } from "../../src/internal/engine/session.ts"

// -----------------------------------------------------------------------------
// bytes
// -----------------------------------------------------------------------------

/** Larger than any frame of a test. */
const anySize = 0xffff_ffff

export const concat = (chunks: ReadonlyArray<Uint8Array>): Uint8Array => {
  const whole = new Uint8Array(chunks.reduce((size, chunk) => size + chunk.length, 0))
  let at = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.length
  }
  return whole
}

const writer = new Writer()

const written = (write: (writer: Writer) => void): Uint8Array => {
  writer.rollback()
  write(writer)
  writer.commit()
  return concat(writer.take())
}

/** A method frame. */
export const frame = (channel: number, method: Method<InputTable>): Uint8Array =>
  written((w) => writeMethodFrame(w, channel, method, anySize))

/** A content header frame. */
export const headerFrame = (
  channel: number,
  size: number,
  properties: BasicProperties<InputTable> = {}
): Uint8Array => written((w) => writeHeaderFrame(w, channel, size, properties, anySize))

/** The body frames of a content. */
export const bodyFrames = (channel: number, body: Uint8Array, frameMax = 4096): Uint8Array =>
  written((w) => writeBodyFrames(w, channel, body, frameMax))

/** Any frame, right or wrong. */
export const rawFrame = (type: number, channel: number, payload: ReadonlyArray<number>, end = 0xce): Uint8Array =>
  new Uint8Array([
    type,
    channel >>> 8,
    channel & 0xff,
    payload.length >>> 24,
    (payload.length >>> 16) & 0xff,
    (payload.length >>> 8) & 0xff,
    payload.length & 0xff,
    ...payload,
    end
  ])

export const heartbeat = rawFrame(8, 0, [])

export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

/** `size` bytes that differ from place to place. */
export const pattern = (size: number, seed = 1): Uint8Array => {
  const body = new Uint8Array(size)
  for (let i = 0; i < size; i++) body[i] = (i * 31 + seed * 7 + (i >>> 8)) & 0xff
  return body
}

/** A whole content. */
export const content = (
  channel: number,
  method: Method<InputTable>,
  body: Uint8Array | string = "",
  properties: BasicProperties<InputTable> = {}
): Uint8Array => {
  const payload = typeof body === "string" ? bytes(body) : body
  return concat([
    frame(channel, method),
    headerFrame(channel, payload.length, properties),
    bodyFrames(channel, payload)
  ])
}

export const deliver = (
  consumerTag: string,
  deliveryTag: number,
  fields: { readonly redelivered?: boolean; readonly exchange?: string; readonly routingKey?: string } = {}
): Method => ({
  _tag: "basic.deliver",
  consumerTag,
  deliveryTag,
  redelivered: false,
  exchange: "",
  routingKey: "q",
  ...fields
})

export const getOk = (deliveryTag: number): Method => ({
  _tag: "basic.get-ok",
  deliveryTag,
  redelivered: false,
  exchange: "",
  routingKey: "q",
  messageCount: 0
})

export const returned = (exchange: string, routingKey: string): Method => ({
  _tag: "basic.return",
  replyCode: 312,
  replyText: "NO_ROUTE",
  exchange,
  routingKey
})

export const channelClose = (replyCode: number, replyText: string, classId = 0, methodId = 0): Method => ({
  _tag: "channel.close",
  replyCode,
  replyText,
  classId,
  methodId
})

export const connectionClose = (replyCode: number, replyText: string): Method => ({
  _tag: "connection.close",
  replyCode,
  replyText,
  classId: 0,
  methodId: 0
})

export const connectionStart = (
  fields: {
    readonly versionMajor?: number
    readonly versionMinor?: number
    readonly mechanisms?: string
    readonly serverProperties?: InputTable
  } = {}
): Method<InputTable> => ({
  _tag: "connection.start",
  versionMajor: 0,
  versionMinor: 9,
  serverProperties: { product: "peer" },
  locales: bytes("en_US"),
  ...fields,
  mechanisms: bytes(fields.mechanisms ?? "ANONYMOUS")
})

export const connectionTune = (limits: Partial<Limits> = {}): Method => ({
  _tag: "connection.tune",
  channelMax: 2047,
  frameMax: 131072,
  heartbeat: 60,
  ...limits
})

// -----------------------------------------------------------------------------
// what the client wrote
// -----------------------------------------------------------------------------

export type Sent =
  | { readonly _tag: "Method"; readonly channel: number; readonly method: Method }
  | { readonly _tag: "Header"; readonly channel: number; readonly size: number; readonly properties: BasicProperties }
  | { readonly _tag: "Body"; readonly channel: number; readonly body: Uint8Array }
  | { readonly _tag: "Heartbeat" }

/** One line per frame: `1 queue.declare`, `1 header 5`, `1 body 5`, `heartbeat`. */
export const line = (sent: Sent): string => {
  switch (sent._tag) {
    case "Method":
      return `${sent.channel} ${sent.method._tag}`
    case "Header":
      return `${sent.channel} header ${sent.size}`
    case "Body":
      return `${sent.channel} body ${sent.body.length}`
    case "Heartbeat":
      return "heartbeat"
  }
}

/** Parses what a client writes. */
export class SentFrames {
  readonly frames: Array<Sent> = []
  private body: Array<Uint8Array> = []
  private readonly parser = new FrameParser({
    onMethod: (channel, reader) => {
      const method = readMethod(reader.u32(), reader)
      if (method === undefined || reader.remaining !== 0) throw new Error("the client wrote a method that is none")
      this.frames.push({ _tag: "Method", channel, method })
    },
    onHeader: (channel, reader) => {
      if (reader.u32() !== 60 * 0x1_0000) throw new Error("the client wrote a header of another class")
      const size = reader.u64()
      this.frames.push({ _tag: "Header", channel, size, properties: readBasicProperties(reader, reader.u16()) })
    },
    onBody: (_channel, bytes, start, end) => void this.body.push(view(bytes, start, end).slice()),
    onBodyEnd: (channel) => {
      this.frames.push({ _tag: "Body", channel, body: concat(this.body) })
      this.body = []
    },
    onHeartbeat: () => void this.frames.push({ _tag: "Heartbeat" })
  }, anySize)

  push(chunk: Uint8Array): void {
    this.parser.push(chunk)
  }
}

// -----------------------------------------------------------------------------
// records of what callers heard
// -----------------------------------------------------------------------------

export type Answer<Name extends RequestName> =
  | { readonly _tag: "Reply"; readonly reply: ReplyTo<Name>; readonly content: ReceivedContent | undefined }
  | { readonly _tag: "Failure"; readonly cause: ChannelCloseCause; readonly own: boolean }

/** Everything that one caller heard; more than one entry is an error of the engine. */
export type Heard<A> = ReadonlyArray<A>

/** A delivery as a consumer of the tests gets it. */
export class TestDelivery extends AmqpMessage {
  readonly deliveryTag: number
  readonly redelivered: boolean

  constructor(
    deliveryTag: number,
    redelivered: boolean,
    ...message: ConstructorParameters<typeof AmqpMessage>
  ) {
    super(...message)
    this.deliveryTag = deliveryTag
    this.redelivered = redelivered
  }
}

export type Event =
  | { readonly _tag: "Open"; readonly negotiated: Negotiated }
  | { readonly _tag: "Blocked"; readonly reason: string }
  | { readonly _tag: "Unblocked" }
  | { readonly _tag: "End"; readonly error: AmqpConnectionError }

// -----------------------------------------------------------------------------
// the peer
// -----------------------------------------------------------------------------

export class Peer {
  readonly session: Session
  /** What the session told the shell, in order. */
  readonly events: Array<Event> = []
  /** Every byte that the client wrote. */
  readonly wire: Array<Uint8Array> = []
  /** Functions that wait for the end of the turn. */
  private scheduled: Array<() => void> = []
  private readonly out = new SentFrames()
  private headerLeft = protocolHeader.length

  constructor(options: Partial<SessionOptions> = {}) {
    this.session = new Session({
      nextEpoch: () => 7,
      maxMessageSize: 16 * 1024 * 1024,
      mechanisms: [AmqpAuth.anonymous],
      vhost: "/",
      locale: "en_US",
      clientProperties: { product: "test" },
      limits: { channelMax: 0, frameMax: 0, heartbeat: 60 },
      schedule: (run) => void this.scheduled.push(run),
      hooks: {
        onOpen: (negotiated) => void this.events.push({ _tag: "Open", negotiated }),
        onBlocked: (reason) => void this.events.push({ _tag: "Blocked", reason }),
        onUnblocked: () => void this.events.push({ _tag: "Unblocked" }),
        onEnd: (error) => void this.events.push({ _tag: "End", error })
      },
      ...options
    })
  }

  /** The error that ended the session. */
  get end(): AmqpConnectionError | undefined {
    const ends = this.events.flatMap((event) => event._tag === "End" ? event.error : [])
    if (ends.length > 1) throw new Error("the session ended more than once")
    return ends[0]
  }

  /** Runs what waits for the end of the turn, until nothing does. */
  turn(): void {
    while (this.scheduled.length > 0) {
      const { scheduled } = this
      this.scheduled = []
      for (const run of scheduled) run()
    }
  }

  // --- the network

  /** One write of the shell. Returns whether there was anything. */
  writeOnce(): boolean {
    const chunks = this.session.outbox.take()
    if (chunks === undefined) return false
    this.session.onWritten()
    for (const chunk of chunks) {
      const bytes = chunk.slice()
      this.wire.push(bytes)
      const head = Math.min(this.headerLeft, bytes.length)
      this.headerLeft -= head
      this.out.push(bytes.subarray(head))
    }
    this.session.outbox.written()
    return true
  }

  /** Ends the turn and returns all that the client has written since the last call. */
  sent(): ReadonlyArray<Sent> {
    do this.turn()
    while (this.writeOnce())
    this.turn()
    return this.out.frames.splice(0)
  }

  /** As `sent`, one line per frame. */
  lines(): ReadonlyArray<string> {
    return this.sent().map(line)
  }

  /** As `sent`, methods alone. */
  methods(): ReadonlyArray<Method> {
    return this.sent().flatMap((sent) => sent._tag === "Method" ? sent.method : [])
  }

  /** Sends chunks as one batch. */
  receive(...chunks: ReadonlyArray<Uint8Array>): void {
    this.session.receive(chunks)
    this.turn()
  }

  /** Sends methods as one batch, in one chunk. */
  reply(channel: number, ...methods: ReadonlyArray<Method<InputTable>>): void {
    this.receive(concat(methods.map((method) => frame(channel, method))))
  }

  // --- conversations

  /** Goes through the handshake; what the client wrote is forgotten. */
  open(limits: Partial<Limits> = {}): this {
    this.session.start()
    this.reply(0, connectionStart())
    this.reply(0, connectionTune(limits))
    this.reply(0, { _tag: "connection.open-ok" })
    this.sent()
    return this
  }

  /** Opens a channel; what the client wrote is forgotten. */
  channel(wanted?: number): ChannelState {
    const channel = this.session.openChannel(wanted)
    if (channel === undefined) throw new Error("no number is free")
    const heard = this.request(channel, { _tag: "channel.open" })
    this.reply(channel.id, { _tag: "channel.open-ok" })
    if (heard.length !== 1) throw new Error("the channel did not open")
    this.sent()
    return channel
  }

  request<Name extends RequestName>(
    channel: ChannelState,
    method: Request<Name>,
    entity = ""
  ): Heard<Answer<Name>> {
    const heard: Array<Answer<Name>> = []
    channel.request(method, {
      entity,
      onReply: (reply, content) => void heard.push({ _tag: "Reply", reply, content }),
      onFailure: (cause, own) => void heard.push({ _tag: "Failure", cause, own })
    })
    return heard
  }

  /** A queue.declare of that name. */
  declare(channel: ChannelState, queue: string): Heard<Answer<"queue.declare">> {
    return this.request(channel, declare(queue), queue)
  }

  /** A channel in confirm mode. */
  confirming(wanted?: number): ChannelState {
    const channel = this.channel(wanted)
    this.request(channel, { _tag: "confirm.select", noWait: false })
    this.reply(channel.id, { _tag: "confirm.select-ok" })
    this.sent()
    return channel
  }

  /** A channel in tx mode. */
  transacting(): ChannelState {
    const channel = this.channel()
    this.request(channel, { _tag: "tx.select" })
    this.reply(channel.id, { _tag: "tx.select-ok" })
    this.sent()
    return channel
  }

  publish(channel: ChannelState, message: Partial<Publish> = {}): Heard<PublishOutcome> {
    const heard: Array<PublishOutcome> = []
    const whole = { routingKey: "q", body: "", ...message }
    channel.publish(whole, {
      messageOf: () => whole,
      onOutcome: (outcome) => void heard.push(outcome)
    })
    return heard
  }

  /** A consumer that the broker knows; what the client wrote is forgotten. */
  consume(channel: ChannelState, consumerTag: string, noAck = false): Deliveries<TestDelivery> {
    const consumer = this.consumer(channel, consumerTag, noAck)
    this.request(channel, consume(consumerTag, noAck), "q")
    this.reply(channel.id, { _tag: "basic.consume-ok", consumerTag })
    this.sent()
    return consumer
  }

  /** A consumer that the broker has not heard of. */
  consumer(channel: ChannelState, consumerTag: string, noAck = false): Deliveries<TestDelivery> {
    const consumer = new Deliveries<TestDelivery>(
      { consumerTag, queue: "q", channel: channel.id, noAck },
      (deliveryTag, redelivered, exchange, routingKey, received) =>
        new TestDelivery(deliveryTag, redelivered, exchange, routingKey, received),
      this.session
    )
    channel.addConsumer(consumer)
    return consumer
  }
}

export const declare = (queue: string): Request<"queue.declare"> => ({
  _tag: "queue.declare",
  queue,
  passive: false,
  durable: false,
  exclusive: false,
  autoDelete: false,
  noWait: false,
  arguments: {}
})

export const declareOk = (queue: string): Method => ({
  _tag: "queue.declare-ok",
  queue,
  messageCount: 0,
  consumerCount: 0
})

export const consume = (consumerTag: string, noAck = false): Request<"basic.consume"> => ({
  _tag: "basic.consume",
  queue: "q",
  consumerTag,
  noLocal: false,
  noAck,
  exclusive: false,
  noWait: false,
  arguments: {}
})

/** What a pull has heard: tags of deliveries, or how the consumer ended. */
export const pull = (consumer: Deliveries<TestDelivery>): Heard<ReadonlyArray<number> | ConsumerEnd> => {
  const heard: Array<ReadonlyArray<number> | ConsumerEnd> = []
  consumer.pull((pulled: Pulled<TestDelivery>) =>
    void heard.push("_tag" in pulled ? pulled : pulled.map(({ deliveryTag }) => deliveryTag))
  )
  return heard
}

/**
 * A client of the embedded broker's core that sends what a test says, frame by frame, and reads what comes. Its clock
 * stands still until it is moved.
 */
import { Result } from "effect"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import type { InputTable } from "../../src/AmqpTable.ts"
import { makeCore } from "../../src/testing/internal/broker.ts"
import type { BrokerEvent } from "../../src/testing/internal/events.ts"
import type { Core, CoreOptions, Peer } from "../../src/testing/internal/model.ts"

export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
export const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

/** A broker with a clock of its own. */
export interface TestBroker {
  readonly core: Core
  readonly events: Array<BrokerEvent>
  /** Moves the clock, and does what is due at each deadline on the way. */
  readonly advance: (millis: number) => void
}

export const makeBroker = (options: Partial<CoreOptions> = {}): TestBroker => {
  let now = 1_700_000_000_000
  const events: Array<BrokerEvent> = []
  const core = makeCore({
    now: () => now,
    onEarlier: () => {},
    emit: (event) => void events.push(event),
    tap: () => undefined,
    ...options
  })
  return {
    core,
    events,
    advance: (millis) => {
      const end = now + millis
      for (let next = core.timers.next; next !== undefined && next <= end; next = core.timers.next) {
        now = Math.max(now, next)
        core.wake()
      }
      now = end
    }
  }
}

/** What a broker sends, one line each: `1 queue.declare-ok`, `1 header 5`, `1 body 5`, `heartbeat`. */
export const line = (frame: AmqpProtocol.Frame): string => {
  switch (frame._tag) {
    case "Method":
      return `${frame.channel} ${frame.method._tag}`
    case "Header":
      return `${frame.channel} header ${frame.bodySize}`
    case "Body":
      return `${frame.channel} body ${frame.payload.length}`
    case "Heartbeat":
      return "heartbeat"
  }
}

/** PLAIN, as guest. */
export const guest = "\0guest\0guest"

/** The capabilities that our client announces. */
export const capabilities = {
  "basic.nack": true,
  authentication_failure_close: true,
  "connection.blocked": true,
  consumer_cancel_notify: true
}

/** One connection to a core. */
export class RawClient {
  readonly peer: Peer
  /** How the broker ended the link. */
  ended: "end" | "reset" | undefined
  /** Whether the link takes more. */
  isRoomy = true
  /** Every chunk that the broker wrote. */
  readonly chunks: Array<Uint8Array> = []
  private readonly parser = AmqpProtocol.makeParser({ frameMax: 1 << 24 })
  private received: Array<AmqpProtocol.Frame> = []

  constructor(core: Core, name = "memory:1") {
    this.peer = core.connect({
      name,
      write: (bytes) => {
        const chunk = bytes.slice()
        this.chunks.push(chunk)
        const frames = Result.getOrUndefined(this.parser.push(chunk))
        if (frames !== undefined) this.received.push(...frames)
        return this.isRoomy
      },
      end: () => {
        this.ended = "end"
      },
      reset: () => {
        this.ended = "reset"
      }
    })
  }

  /** All that came since the last call. */
  frames(): ReadonlyArray<AmqpProtocol.Frame> {
    return this.received.splice(0)
  }

  lines(): ReadonlyArray<string> {
    return this.frames().map(line)
  }

  methods(): ReadonlyArray<AmqpProtocol.Method> {
    return this.frames().flatMap((frame) => frame._tag === "Method" ? frame.method : [])
  }

  /** Sends bytes and overwrites them, as a transport does that uses its buffers again. */
  raw(...chunks: ReadonlyArray<Uint8Array>): this {
    const whole = Uint8Array.from(chunks.flatMap((chunk) => [...chunk]))
    this.peer.receive(whole)
    whole.fill(0xee)
    return this
  }

  /** Sends methods in one chunk. */
  send(channel: number, ...methods: ReadonlyArray<AmqpProtocol.Method<InputTable>>): this {
    return this.raw(...methods.map((method) => Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method))))
  }

  /** Sends methods and gives what they had for an answer. */
  call(channel: number, ...methods: ReadonlyArray<AmqpProtocol.Method<InputTable>>) {
    return this.send(channel, ...methods).methods()
  }

  publish(channel: number, message: {
    readonly exchange?: string
    readonly routingKey?: string
    readonly body?: string
    readonly mandatory?: boolean
    readonly immediate?: boolean
    readonly properties?: AmqpProtocol.Content["properties"]
  } = {}): this {
    const { body = "", exchange = "", immediate = false, mandatory = false, properties, routingKey = "q" } = message
    return this.raw(Result.getOrThrow(AmqpProtocol.encodeContent({
      channel,
      method: { _tag: "basic.publish", exchange, routingKey, mandatory, immediate },
      properties,
      body: bytes(body)
    })))
  }

  startOk(response = guest, announced: InputTable = capabilities, mechanism = "PLAIN"): this {
    return this.send(0, {
      _tag: "connection.start-ok",
      clientProperties: { capabilities: announced },
      mechanism,
      response: bytes(response),
      locale: "en_US"
    })
  }

  tuneOk(limits: { readonly channelMax?: number; readonly frameMax?: number; readonly heartbeat?: number } = {}): this {
    return this.send(0, { _tag: "connection.tune-ok", channelMax: 2047, frameMax: 131072, heartbeat: 0, ...limits })
  }

  /** Goes through the handshake; what the broker sent is forgotten. */
  open(options: {
    readonly announced?: InputTable
    readonly limits?: { readonly channelMax?: number; readonly frameMax?: number; readonly heartbeat?: number }
    readonly credentials?: string
    readonly vhost?: string
  } = {}): this {
    this.raw(AmqpProtocol.protocolHeader).startOk(options.credentials, options.announced).tuneOk(options.limits)
    this.send(0, { _tag: "connection.open", virtualHost: options.vhost ?? "/" })
    this.frames()
    return this
  }

  /** Opens a channel; what the broker sent is forgotten. */
  channel(number = 1): this {
    this.send(number, { _tag: "channel.open" })
    this.frames()
    return this
  }

  /** Declares a queue; what the broker sent is forgotten. */
  queue(name: string, args: InputTable = {}, options: Partial<AmqpProtocol.QueueDeclare> = {}): this {
    this.send(1, { ...declare(name), ...options, arguments: args })
    this.frames()
    return this
  }
}

export const declare = (queue: string): AmqpProtocol.QueueDeclare => ({
  _tag: "queue.declare",
  queue,
  passive: false,
  durable: false,
  exclusive: false,
  autoDelete: false,
  noWait: false,
  arguments: {}
})

export const consume = (queue: string, consumerTag: string): AmqpProtocol.BasicConsume => ({
  _tag: "basic.consume",
  queue,
  consumerTag,
  noLocal: false,
  noAck: false,
  exclusive: false,
  noWait: false,
  arguments: {}
})

export const ack = (deliveryTag: number, multiple = false): AmqpProtocol.BasicAck => ({
  _tag: "basic.ack",
  deliveryTag,
  multiple
})

export const nack = (deliveryTag: number, requeue = true, multiple = false): AmqpProtocol.BasicNack => ({
  _tag: "basic.nack",
  deliveryTag,
  multiple,
  requeue
})

export const get = (queue: string, noAck = false): AmqpProtocol.BasicGet => ({ _tag: "basic.get", queue, noAck })

export const qos = (prefetchCount: number, global = false): AmqpProtocol.BasicQos => ({
  _tag: "basic.qos",
  prefetchSize: 0,
  prefetchCount,
  global
})

export const confirmSelect: AmqpProtocol.ConfirmSelect = { _tag: "confirm.select", noWait: false }

/** `channel.close` or `connection.close` in one line: `404 NOT_FOUND - no queue … (60.70)`. */
export const closeLine = (method: AmqpProtocol.Method | undefined): string => {
  if (method?._tag !== "channel.close" && method?._tag !== "connection.close") return method?._tag ?? "nothing"
  return `${method._tag} ${method.replyCode} ${method.replyText} (${method.classId}.${method.methodId})`
}

/**
 * A client of the embedded broker's core that sends what a test says, frame by frame, and reads what comes. Its clock
 * stands still until it is moved.
 */
import { Result } from "effect"
import * as AmqpProtocol from "../../../src/AmqpProtocol.ts"
import type { InputTable } from "../../../src/AmqpTable.ts"
import type { BrokerEvent } from "../../../src/testing/internal/model/events.ts"
import type { Core, CoreOptions, Peer } from "../../../src/testing/internal/model/model.ts"
import { makeCore } from "../../../src/testing/internal/server/broker.ts"
import { declare, Sender } from "../../fixtures/violations.ts"

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

/** One connection to a core. */
export class RawClient extends Sender {
  readonly peer: Peer
  /** How the broker ended the link. */
  ended: "end" | "reset" | undefined
  /** What the client does as soon as it is written to. */
  onWrite: () => void = () => {}
  /** Whether the link takes more. */
  isRoomy = true
  /** Whether the broker wants no more for now. */
  isHeld = false
  /** Every chunk that the broker wrote. */
  readonly chunks: Array<Uint8Array> = []
  private readonly parser = AmqpProtocol.makeParser({ frameMax: 1 << 24 })
  private received: Array<AmqpProtocol.Frame> = []

  constructor(core: Core, name = "memory:1") {
    super()
    this.peer = core.connect({
      name,
      write: (bytes) => {
        const chunk = bytes.slice()
        this.chunks.push(chunk)
        const frames = Result.getOrUndefined(this.parser.push(chunk))
        if (frames !== undefined) this.received.push(...frames)
        this.onWrite()
        return this.isRoomy
      },
      end: () => {
        this.ended = "end"
      },
      reset: () => {
        this.ended = "reset"
      },
      resume: () => {
        this.isHeld = false
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
    if (!this.peer.receive(whole)) this.isHeld = true
    whole.fill(0xee)
    return this
  }

  /** Sends methods and gives what they had for an answer. */
  call(channel: number, ...methods: ReadonlyArray<AmqpProtocol.Method<InputTable>>) {
    return this.send(channel, ...methods).methods()
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

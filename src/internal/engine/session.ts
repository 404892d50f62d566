/**
 * One epoch of a connection, without Effect. It parses bytes, hands frames to their channels, sends frames through the
 * outbox, and ends everything once.
 *
 * The shell feeds it with chunks and heartbeat ticks, and writes what the outbox holds. `SessionHooks` tell the shell
 * when the connection is open, blocked or over. A session does no IO, knows no clock, and is not used again after its
 * end: the next connection is the next epoch.
 *
 * @since 0.1.0
 */
import {
  type FrameHandler,
  FrameParser,
  heartbeatFrame,
  protocolHeader,
  readMethodFields,
  violation,
  writeMethodFrame
} from "../codec/frames.ts"
import { type Method, methods } from "../codec/spec.ts"
import { type Reader, truncateUtf8 } from "../codec/wire.ts"
import { ConnectionClosed, ConnectionLost, HeartbeatTimeout } from "../errors/clientReasons.ts"
import { AmqpConnectionError, fromConnectionClose } from "../errors/connection.ts"
import { AmqpDecodeError, AmqpEncodeError } from "../errors/value.ts"
import type { InputTable } from "../values/tableValue.ts"
import { Backpressure } from "./backpressure.ts"
import { Batch } from "./batch.ts"
import { type ChannelHost, ChannelState } from "./channelState.ts"
import { Handshake, type HandshakeOptions, type Limits, type Negotiated, unlimited } from "./handshake.ts"
import { Outbox } from "./outbox.ts"
import { Preamble } from "./preamble.ts"
import { TextCache } from "./textCache.ts"

/** What a session tells the shell. Each is called at the end of a batch. */
export interface SessionHooks {
  readonly onOpen: (negotiated: Negotiated) => void
  readonly onBlocked: (reason: string) => void
  readonly onUnblocked: () => void
  /** The end, once. What the outbox still holds should be written before the socket is closed. */
  readonly onEnd: (error: AmqpConnectionError) => void
}

/** What a session needs to know. */
export interface SessionOptions extends HandshakeOptions {
  /** The number of the next epoch, which is the session's once it is open. */
  readonly nextEpoch: () => number
  /** The largest content that is accepted, in bytes. */
  readonly maxMessageSize: number
  readonly schedule: (run: () => void) => void
  readonly hooks: SessionHooks
}

type State = "handshake" | "open" | "closing" | "closed"

/** Waits for the reply to a request on channel 0. */
interface SecretWaiter {
  readonly onReply: () => void
  readonly onFailure: (error: AmqpConnectionError) => void
}

const deliverId = methods["basic.deliver"].id
const connectionClass = methods["connection.start"].id >>> 16

/** A session. */
export class Session {
  readonly outbox: Outbox
  /** Why nothing can be done on it any more; `undefined` while it lives. */
  error: AmqpConnectionError | undefined
  /**
   * How many requests without an answer had the method that the broker ended the connection for. Only if there was one
   * is it certainly to blame.
   */
  inQuestion = 0
  /** Why the broker takes no content at present. */
  blockedReason: string | undefined
  private readonly options: SessionOptions
  private readonly hooks: SessionHooks
  private readonly handshake: Handshake
  private readonly parser: FrameParser
  private state: State = "handshake"
  private limits: Limits = unlimited
  /** By number; `null` where there was one. */
  private readonly channels: Array<ChannelState | null | undefined> = []
  private lastChannel = 0
  private readonly secrets: Array<SecretWaiter> = []
  private nextConsumer = 1
  private readonly batch: Batch
  private readonly backpressure: Backpressure
  /** The first bytes, until it is clear that the peer speaks AMQP. */
  private preamble: Preamble | undefined = new Preamble()
  /**
   * Whether somebody keeps a view of the chunk that is being parsed: of a method's fields, a header or a small body.
   */
  private isKept = false
  private receivedSinceTick = false
  private writtenSinceTick = false
  private silentTicks = 0

  private readonly host: ChannelHost & { epoch: number }
  /** Runs a callback at the end of the batch that is being received, or else at the end of the turn. */
  readonly later: Batch["later"]
  /** Hears of consumers that hold too much. */
  readonly onOverfull: Backpressure["onOverfull"]

  constructor(options: SessionOptions) {
    this.batch = new Batch({ schedule: this.schedule, onDefect: (defect) => this.onDefect(defect) })
    this.backpressure = new Backpressure(this.schedule)
    this.later = this.batch.later
    this.onOverfull = this.backpressure.onOverfull
    this.host = {
      epoch: 0,
      maxMessageSize: options.maxMessageSize,
      later: this.later,
      settlePublish: this.batch.settlePublish,
      expect: this.backpressure.expect,
      onGone: (channel) => {
        this.channels[channel.id] = null
      }
    }
    this.options = options
    this.hooks = options.hooks
    this.handshake = new Handshake(options)
    this.outbox = new Outbox(unlimited.frameMax, { schedule: this.schedule })
    this.parser = new FrameParser(this.frames, unlimited.frameMax)
  }

  /** Its number, 0 until it is open. For people to read, not to tell sessions apart. */
  get epoch(): number {
    return this.host.epoch
  }

  /** Writes the protocol header. */
  start(): void {
    this.outbox.raw(protocolHeader)
  }

  /** The step of the handshake that waits for an answer, or `"open"`. */
  get phase(): string {
    return this.state === "handshake" ? this.handshake.waitingOn : "open"
  }

  get isOpen(): boolean {
    return this.state === "open"
  }

  // --- reading

  /** Takes a batch of chunks, then runs what they caused. Chunks of which nothing is kept are given back at once. */
  receive(chunks: ReadonlyArray<Uint8Array>, reuse?: (chunk: Uint8Array) => void): void {
    this.receivedSinceTick = true
    this.batch.begin()
    try {
      for (const chunk of chunks) {
        if (this.state === "closed") break
        if (this.preamble !== undefined) {
          if (!this.preamble.endsWith(chunk)) continue
          this.preamble = undefined
        }
        this.isKept = false
        this.parser.push(chunk)
        if (!this.isKept) reuse?.(chunk)
      }
    } catch (error) {
      this.onViolation(error)
    } finally {
      this.batch.end()
    }
  }

  private onViolation(error: unknown): void {
    if (error instanceof AmqpDecodeError) return this.refuse(violation(502, error.message))
    if (error instanceof AmqpConnectionError) return this.refuse(error)
    this.onDefect(error)
  }

  /** Ends the connection for the peer's fault, and tells it why if the connection is open. */
  private refuse(error: AmqpConnectionError): void {
    if (this.state === "open" && error.reason._tag === "ProtocolViolation") {
      const replyText = truncateUtf8(error.reason.detail, 255)
      this.write({ _tag: "connection.close", replyCode: error.reason.replyCode, replyText, classId: 0, methodId: 0 })
    }
    this.fatal(error)
  }

  private readonly texts = [new TextCache(), new TextCache(), new TextCache()] as const
  private readonly text = (reader: Reader, slot: 0 | 1 | 2): string => this.texts[slot].read(reader)

  private readonly frames: FrameHandler = {
    onMethod: (id, reader) => {
      const methodId = reader.u32()
      if (methodId === deliverId && id !== 0) return this.channel(id)?.onDeliver(reader, this.text)
      this.isKept = true
      const method = readMethodFields(methodId, reader)
      if (!methods[method._tag].server) throw violation(503, `${method._tag} is for clients to send`)
      const ofConnection = methodId >>> 16 === connectionClass
      if (ofConnection !== (id === 0)) throw violation(504, `${method._tag} came on channel ${id}`)
      if (id === 0) this.onConnectionMethod(method)
      else this.channel(id)?.onMethod(method)
    },
    onHeader: (id, reader) => {
      if (this.channel(id)?.onHeader(reader)) this.isKept = true
    },
    onBody: (id, bytes, start, end) => {
      if (this.channel(id)?.onBody(bytes, start, end)) this.isKept = true
    },
    onBodyEnd: (id) => this.channel(id)?.onBodyEnd(),
    // Any byte counts as a sign of life.
    onHeartbeat: () => {}
  }

  /** The channel that a frame is for; `undefined` where it is to be ignored. */
  private channel(id: number): ChannelState | undefined {
    if (this.state === "closing" || this.state === "closed") return undefined
    const channel = this.channels[id]
    if (channel !== undefined) return channel ?? undefined
    throw violation(
      504,
      id === 0 ? "a content frame came on channel 0" : `a frame came on channel ${id}, which was never open`
    )
  }

  // --- channel 0

  private onConnectionMethod(method: Method): void {
    if (this.state === "handshake") return this.onHandshake(method)
    // The beginning of this chunk ended the connection.
    if (this.state === "closed") return
    switch (method._tag) {
      case "connection.close":
        this.write({ _tag: "connection.close-ok" })
        for (const channel of this.channels) {
          this.inQuestion += channel?.pendingOf(method.classId * 0x1_0000 + method.methodId) ?? 0
        }
        // Also if both sides closed at once: there is nothing more to wait for.
        return this.fatal(fromConnectionClose(method))
      case "connection.close-ok":
        if (this.state !== "closing") throw violation(503, "connection.close-ok came, nobody asked for it")
        return this.fatal(closedByClient())
    }
    if (this.state === "closing") return
    switch (method._tag) {
      case "connection.blocked":
        // A second alarm says nothing new. All alarms end with one `connection.unblocked`.
        if (this.outbox.isBlocked) return
        this.blockedReason = method.reason
        this.outbox.setBlocked(true)
        return this.later(() => this.hooks.onBlocked(method.reason))
      case "connection.unblocked":
        if (!this.outbox.isBlocked) return
        this.blockedReason = undefined
        this.outbox.setBlocked(false)
        this.later(() => this.outbox.admit())
        return this.later(this.hooks.onUnblocked)
      case "connection.update-secret-ok": {
        const waiter = this.secrets.shift()
        // An answer that nobody asked for changes nothing.
        if (waiter === undefined) return
        this.backpressure.expect(-1)
        return this.later(waiter.onReply)
      }
      default:
        throw violation(503, `${method._tag} came on an open connection`)
    }
  }

  private onHandshake(method: Method): void {
    const step = this.handshake.onMethod(method)
    switch (step._tag) {
      case "Send":
        if (step.limits !== undefined) {
          this.limits = step.limits
          this.outbox.frameMax = step.limits.frameMax
          this.parser.frameMax = step.limits.frameMax
        }
        return this.answer(step.methods)
      case "Done":
        this.state = "open"
        this.host.epoch = this.options.nextEpoch()
        return this.later(() => this.hooks.onOpen(step.negotiated))
      case "Fail":
        if (step.answer !== undefined) this.write(step.answer)
        return this.fatal(step.error)
    }
  }

  private answer(replies: ReadonlyArray<Method<InputTable>>): void {
    try {
      for (const reply of replies) this.handshake.sentSize = this.write(reply)
    } catch (error) {
      if (!(error instanceof AmqpEncodeError)) throw error
      this.fatal(this.handshake.onUnsendable(error))
    }
  }

  /** Returns the size of the frame. */
  private write(method: Method<InputTable>): number {
    const writer = this.outbox.shared
    try {
      writeMethodFrame(writer, 0, method, this.outbox.frameMax)
    } catch (error) {
      writer.rollback()
      throw error
    }
    const size = writer.unitSize
    writer.commit()
    this.outbox.ready()
    return size
  }

  /**
   * Sends `connection.update-secret`: a new password or token for this connection. The waiter is called exactly once.
   * Throws `AmqpEncodeError`.
   */
  updateSecret(newSecret: Uint8Array, reason: string, waiter: SecretWaiter): void {
    const { error } = this
    if (error !== undefined) return this.later(() => waiter.onFailure(error))
    this.write({ _tag: "connection.update-secret", newSecret, reason })
    this.backpressure.expect(1)
    this.secrets.push(waiter)
  }

  // --- channels

  /**
   * Makes a channel on a free number; the caller sends `channel.open`. Returns `undefined` if no number is free. On a
   * connection that is over, the channel is closed from the beginning.
   *
   * Numbers rotate. After a `channel.close` from the broker, late frames of the old channel may still come. So a number
   * is used again as late as possible.
   */
  openChannel(wanted?: number): ChannelState | undefined {
    const id = wanted === undefined ? this.freeNumber() : this.isFree(wanted) ? wanted : undefined
    if (id === undefined) return undefined
    if (wanted === undefined) this.lastChannel = id
    this.channels[id]?.forget()
    const channel = new ChannelState(id, this.outbox.lane(id), this.host)
    this.channels[id] = channel
    if (this.error !== undefined) channel.fail(this.error)
    return channel
  }

  private isFree(id: number): boolean {
    return Number.isInteger(id) && id >= 1 && id <= this.limits.channelMax && !this.channels[id]
  }

  /**
   * The next free number. If there is none, the number of a channel whose close the broker has not answered in time. If
   * the broker still knows that channel, it ends the connection (504), and the next connection has all numbers again.
   */
  private freeNumber(): number | undefined {
    const max = this.limits.channelMax
    let unanswered: number | undefined
    for (let i = 0; i < max; i++) {
      const candidate = (this.lastChannel + i) % max + 1
      const channel = this.channels[candidate]
      if (!channel) return candidate
      if (channel.isAbandoned) unanswered ??= candidate
    }
    return unanswered
  }

  get channelMax(): number {
    return this.limits.channelMax
  }

  /** A consumer tag that this connection has not used. */
  consumerTag(): string {
    return `effect-amqp.${this.epoch}.${this.nextConsumer++}`
  }

  // --- turns

  /** Runs a function at the end of the turn. */
  private readonly schedule = (run: () => void): void => {
    const guarded = () => {
      try {
        run()
      } catch (defect) {
        this.onDefect(defect)
      }
    }
    try {
      this.options.schedule(guarded)
    } catch (defect) {
      // Nothing can run later. Yet the shell must hear of the end of the session.
      this.onDefect(defect)
      guarded()
    }
  }

  // --- backpressure on the socket

  /** Whether the shell should stop reading: see `Backpressure`. */
  get isPaused(): boolean {
    return this.backpressure.isPaused
  }

  /** Whether nothing at all may be read. */
  get isFull(): boolean {
    return this.backpressure.isFull
  }

  /** Calls back once, when reading may go on; also where it may already. */
  onResume(callback: () => void): void {
    this.backpressure.onResume(callback)
  }

  // --- heartbeats

  /** The shell has written something. */
  onWritten(): void {
    this.writtenSinceTick = true
  }

  /**
   * Half a heartbeat interval has passed. Writes a heartbeat if nothing was written. Returns whether the peer has been
   * silent for two intervals; the shell then reads what is pending and asks `isSilent` again. It counts ticks, not
   * time: a process that was stopped for an hour sees one tick, and reads before it judges.
   */
  tick(): boolean {
    if (this.state !== "open") return false
    // Behind a write that does not end, a heartbeat would not go out, and each tick would add another one.
    if (!this.writtenSinceTick && !this.outbox.isWriting) this.outbox.raw(heartbeatFrame)
    this.writtenSinceTick = false
    if (this.receivedSinceTick || this.isPaused) this.silentTicks = 0
    else this.silentTicks++
    this.receivedSinceTick = false
    return this.isSilent
  }

  get isSilent(): boolean {
    return this.silentTicks >= 4 && !this.receivedSinceTick
  }

  /** The peer is taken for dead. */
  onHeartbeatTimeout(): void {
    const reason = new HeartbeatTimeout({ intervalSeconds: this.limits.heartbeat })
    this.fatal(new AmqpConnectionError({ reason }))
  }

  // --- the end

  /**
   * Takes no new channels, requests or publishes. Everything that was written still gets its outcome. Returns the
   * channels that wait for confirms.
   */
  finish(): ReadonlyArray<ChannelState> {
    if (this.state !== "open") return []
    const error = this.error ??= closedByClient()
    const channels = this.channels.flatMap((channel) => channel ?? [])
    for (const channel of channels) channel.finish(error)
    return channels.filter(({ unconfirmed }) => unconfirmed > 0)
  }

  /** Sends `connection.close`. Everything on the connection ends; `onEnd` follows with the broker's `close-ok`. */
  close(): void {
    if (this.state !== "open") return
    this.error ??= closedByClient()
    // Settlements that were accepted are sent.
    for (const channel of this.channels) channel?.flushAcks()
    this.failAll(this.error)
    this.state = "closing"
    // Messages that were published are sent: the close does not overtake large bodies.
    this.outbox.whenDrained(() => {
      if (this.state !== "closing") return
      this.write({ _tag: "connection.close", replyCode: 200, replyText: "", classId: 0, methodId: 0 })
    })
    this.backpressure.end()
  }

  /** The socket is gone, or must go: `error` says why. */
  onSocketEnd(error: AmqpConnectionError): void {
    this.fatal(error)
  }

  /**
   * The peer hung up, as `error` says. In the handshake that may be its answer, unless it hung up in the middle of a
   * frame.
   */
  onHangUp(error: AmqpConnectionError): void {
    const isAnswer = this.state === "handshake" && this.parser.isBetweenFrames
    this.fatal((isAnswer ? this.handshake.onHangUp() : undefined) ?? error)
  }

  /** The error of a socket that went away. */
  lost(detail: string): AmqpConnectionError {
    return new AmqpConnectionError({ reason: new ConnectionLost({ phase: this.phase, detail }) })
  }

  /** Ends the session for a fault of this library, or of what it calls. Nobody else would hear of it. */
  onDefect(defect: unknown): void {
    this.fatal(this.lost(`this client failed: ${String(defect)}`))
  }

  /**
   * Ends the session once, with every waiter, pull and gate that it owns. After `close` the error is that we closed it,
   * whatever happens.
   */
  private fatal(happened: AmqpConnectionError): void {
    if (this.state === "closed") return
    const error = this.error ??= happened
    // Before `close` somebody may wait for confirms. They fail with what has happened.
    const cause = this.state === "open" ? happened : error
    this.state = "closed"
    this.failAll(cause)
    this.outbox.end()
    this.backpressure.end()
    this.later(() => this.hooks.onEnd(error))
  }

  private failAll(error: AmqpConnectionError): void {
    for (const channel of this.channels) channel?.fail(error)
    for (const waiter of this.secrets.splice(0)) this.later(() => waiter.onFailure(error))
  }
}

const closedByClient = (): AmqpConnectionError => new AmqpConnectionError({ reason: new ConnectionClosed({}) })

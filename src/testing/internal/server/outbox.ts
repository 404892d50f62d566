/**
 * What a connection has said and its link has not taken: methods and contents in; bytes of each turn in one piece out.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { InputTable } from "../../../AmqpTable.ts"
import type { Message } from "../model/message.ts"
import type { Services } from "../model/services.ts"
import { join } from "./incoming.ts"

/** At this many bytes that are not written yet, consumers have to wait. */
const maxBuffered = 1024 * 1024

/** The frame size where there is no limit. */
export const unlimited = 0xffff_ffff

export class Outbox {
  /** The frame size that has been negotiated. 0: none. */
  frameMax: number = AmqpProtocol.frameMinSize
  /** The link has enough for now. */
  isCongested = false
  private written: Array<Uint8Array> = []
  private buffered = 0
  /** Bytes that queues have delivered and channels have not written yet. */
  private posting = 0
  /** A consumer could have been given more. */
  private isWanted = false
  private isClosed = false
  private readonly connection: string
  private readonly tap: Services["tap"]
  private readonly onWrite: () => void

  constructor(connection: string, tap: Services["tap"], onWrite: () => void) {
    this.connection = connection
    this.tap = tap
    this.onWrite = onWrite
  }

  write(bytes: Uint8Array): void {
    if (this.isClosed) return
    this.written.push(bytes)
    this.buffered += bytes.length
    this.onWrite()
  }

  send(channel: number, method: AmqpProtocol.Method<InputTable>): void {
    this.write(Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method, { frameMax: unlimited })))
    this.tapMethod(channel, method)
  }

  sendContent(channel: number, method: AmqpProtocol.ContentMethod, message: Message): void {
    const { body, properties } = message
    const frameMax = this.frameMax === 0 ? AmqpProtocol.defaultFrameMax : this.frameMax
    this.write(Result.getOrThrow(AmqpProtocol.encodeContent({
      channel,
      method,
      properties,
      body,
      frameMax,
      unsplitMax: unlimited
    })))
    if (this.tap() === undefined) return
    this.tapMethod(channel, method)
    this.tapped({ _tag: "Header", channel, bodySize: body.length, properties })
    for (let at = 0; at < body.length; at += frameMax - AmqpProtocol.frameOverhead) {
      this.tapped({ _tag: "Body", channel, payload: body.subarray(at, at + frameMax - AmqpProtocol.frameOverhead) })
    }
  }

  sendHeartbeat(): void {
    this.write(AmqpProtocol.heartbeatFrame)
    this.tapped({ _tag: "Heartbeat" })
  }

  private tapMethod(channel: number, method: AmqpProtocol.Method<InputTable>): void {
    // What the broker sends has plain tables.
    if (this.tap() !== undefined) this.tapped({ _tag: "Method", channel, method: method as AmqpProtocol.Method })
  }

  private tapped(frame: AmqpProtocol.Frame): void {
    this.tap()?.({ connection: this.connection, direction: "down", frame })
  }

  /** A queue has delivered so many bytes, which a channel will write. */
  posted(size: number): void {
    this.posting += size
  }

  /** Channels have written everything that was posted. */
  allPosted(): void {
    this.posting = 0
  }

  /** Whether one more delivery may be written. If not, somebody wants to hear when it may. */
  isWritable(): boolean {
    if (!this.isCongested && this.buffered + this.posting < maxBuffered) return true
    this.isWanted = true
    return false
  }

  /** Whether somebody wants to hear that there is room. They are told once. */
  takeWanted(): boolean {
    const { isWanted } = this
    this.isWanted = false
    return isWanted
  }

  /** Everything that is written, in one piece. */
  take(): Uint8Array | undefined {
    if (this.written.length === 0) return undefined
    const bytes = join(this.written)
    this.written = []
    this.buffered = 0
    return bytes
  }

  /** Nothing more is written. What is written can still be taken. */
  close(): void {
    this.isClosed = true
  }
}

/**
 * Puts the frames of one channel together to commands: a method, with its content where it has one.
 *
 * The bytes of contents are copied, because the transport owns the chunks.
 *
 * @since 0.1.0
 */
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import { unexpectedFrame } from "../model/refusal.ts"
import type { ChannelFrame } from "./clientFrame.ts"

/** A content without its method. */
export interface IncomingContent {
  /** From the property flags on. */
  readonly properties: Uint8Array
  readonly body: Uint8Array
}

/** A method that is complete. */
export interface Command {
  readonly method: AmqpProtocol.Method
  readonly content: IncomingContent | undefined
}

const noBytes = new Uint8Array(0)

/** The class of all contents. */
const basic = 60

/** The command that is being received. */
export class Incoming {
  /** The method whose content is being received. */
  private method: AmqpProtocol.Method | undefined
  private properties: Uint8Array | undefined
  private pieces: Array<Uint8Array> = []
  private missing = 0

  /** The method that a refusal of this frame is about. */
  methodOf(frame: ChannelFrame): AmqpProtocol.Method | undefined {
    return this.method ?? (frame._tag === "Method" ? frame.method : undefined)
  }

  /** Takes a frame and gives the command that it completes. */
  push(frame: ChannelFrame): Command | undefined {
    if (this.method === undefined) return this.begin(frame)
    if (this.properties === undefined) return this.header(frame)
    return this.body(frame, this.properties)
  }

  private begin(frame: ChannelFrame): Command | undefined {
    if (frame._tag !== "Method") throw unexpectedFrame("expected method frame, got non method frame instead")
    if (!AmqpProtocol.methods[frame.method._tag].content) return { method: frame.method, content: undefined }
    this.method = frame.method
    return undefined
  }

  private header(frame: ChannelFrame): Command | undefined {
    if (frame._tag !== "Header" || frame.weight !== 0) {
      throw unexpectedFrame(`expected content header for class ${basic}, got non content header frame instead`)
    }
    if (frame.classId !== basic) {
      throw unexpectedFrame(`expected content header for class ${basic}, got one for class ${frame.classId} instead`)
    }
    this.properties = frame.properties.slice()
    this.missing = frame.bodySize
    return this.missing === 0 ? this.complete(this.properties) : undefined
  }

  private body(frame: ChannelFrame, properties: Uint8Array): Command | undefined {
    if (frame._tag !== "Body") throw unexpectedFrame("expected content body, got non content body frame instead")
    this.missing -= frame.payload.length
    // As in RabbitMQ, a body that is too long never ends.
    if (this.missing >= 0) this.pieces.push(frame.payload.slice())
    return this.missing === 0 ? this.complete(properties) : undefined
  }

  private complete(properties: Uint8Array): Command | undefined {
    const { method, pieces } = this
    this.method = undefined
    this.properties = undefined
    this.pieces = []
    return method && { method, content: { properties, body: join(pieces) } }
  }
}

/** The chunks as one. */
export const join = (chunks: ReadonlyArray<Uint8Array>): Uint8Array => {
  const [first = noBytes] = chunks
  if (chunks.length <= 1) return first
  const whole = new Uint8Array(chunks.reduce((size, chunk) => size + chunk.length, 0))
  let at = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.length
  }
  return whole
}

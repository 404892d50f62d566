/**
 * A frame that has come whole. It is decoded when somebody looks at it, and shows no secrets.
 *
 * @since 0.1.0
 */
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import { readHeaderFields, readMethodFields } from "../../../internal/codec/frames.ts"
import { Reader } from "../../../internal/codec/wire.ts"
import type { FrameName } from "./faults.ts"

/** Bytes of a frame before its payload. */
export const headSize = 7

const { frameBody, frameEnd, frameHeader, frameMethod } = AmqpProtocol

const names = new Map<number, AmqpProtocol.MethodName>()
for (const name of Object.keys(AmqpProtocol.methods)) {
  if (isMethodName(name)) names.set(AmqpProtocol.methods[name].id, name)
}

function isMethodName(name: string): name is AmqpProtocol.MethodName {
  return name in AmqpProtocol.methods
}

const none = new Uint8Array(0)

/** The method without secrets. */
const redacted = (method: AmqpProtocol.Method): AmqpProtocol.Method => {
  switch (method._tag) {
    case "connection.start-ok":
    case "connection.secure-ok":
      return { ...method, response: none }
    case "connection.update-secret":
      return { ...method, newSecret: none }
    default:
      return method
  }
}

/** A frame that has come whole. */
export class RawFrame {
  readonly type: number
  readonly channel: number
  /** In bytes of payload. */
  readonly size: number
  private readonly payload: Uint8Array | undefined
  private decoded: AmqpProtocol.Frame | undefined

  /** `payload`: that of a body is only there if somebody wants it. */
  constructor(type: number, channel: number, size: number, payload: Uint8Array | undefined) {
    this.type = type
    this.channel = channel
    this.size = size
    this.payload = payload
  }

  /** `undefined` for a method that does not exist. */
  get name(): FrameName | undefined {
    switch (this.type) {
      case frameMethod:
        return this.size < 4 || this.payload === undefined ? undefined : names.get(new Reader(this.payload).u32())
      case frameHeader:
        return "header"
      case frameBody:
        return "body"
      default:
        return "heartbeat"
    }
  }

  get hasContent(): boolean {
    const { name } = this
    return name !== undefined && isMethodName(name) && AmqpProtocol.methods[name].content
  }

  get isContentPart(): boolean {
    return this.type === frameHeader || this.type === frameBody
  }

  /** What it says, without secrets; `undefined` where it does not keep to the protocol. */
  get frame(): AmqpProtocol.Frame | undefined {
    try {
      return this.decoded ??= this.decode()
    } catch {
      return undefined
    }
  }

  /** The method, without secrets. */
  get method(): AmqpProtocol.Method | undefined {
    return this.frame?._tag === "Method" ? this.frame.method : undefined
  }

  /** As it is on the wire. */
  get bytes(): Uint8Array {
    const { payload = none } = this
    const bytes = new Uint8Array(headSize + payload.length + 1)
    const view = new DataView(bytes.buffer)
    view.setUint8(0, this.type)
    view.setUint16(1, this.channel)
    view.setUint32(3, payload.length)
    bytes.set(payload, headSize)
    view.setUint8(headSize + payload.length, frameEnd)
    return bytes
  }

  private decode(): AmqpProtocol.Frame {
    const { channel, payload = none } = this
    const reader = new Reader(payload)
    switch (this.type) {
      case frameMethod:
        return { _tag: "Method", channel, method: redacted(readMethodFields(reader.u32(), reader)) }
      case frameHeader: {
        const bodySize = readHeaderFields(reader)
        return { _tag: "Header", channel, bodySize, properties: reader.raw(reader.remaining) }
      }
      case frameBody:
        return { _tag: "Body", channel, payload }
      default:
        return { _tag: "Heartbeat" }
    }
  }
}

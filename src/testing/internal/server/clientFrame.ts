/**
 * The frames of a client as RabbitMQ reads them, and what it says of those that it cannot read.
 *
 * It refuses a frame that has the wrong shape, or fields that are cut short (501). A method or a type of table value
 * that does not exist crashes its reader: the connection is reset.
 *
 * @since 0.1.0
 */
import * as Data from "effect/Data"
import { AmqpDecodeError } from "../../../AmqpError.ts"
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import { readMethod } from "../../../internal/codec/spec.ts"
import { Reader } from "../../../internal/codec/wire.ts"
import { term, withTuple } from "../model/fieldValue.ts"
import { frameError, internalError, type Refusal, unexpectedFrame } from "../model/refusal.ts"

/** A frame of which only the outside has been read. */
export interface RawFrame {
  readonly type: number
  readonly channel: number
  /** A view of the transport's chunk, or a copy of it. */
  readonly payload: Uint8Array
}

/** A frame of a channel that makes sense by itself. */
export type ChannelFrame =
  | { readonly _tag: "Method"; readonly channel: number; readonly method: AmqpProtocol.Method }
  | {
    readonly _tag: "Header"
    readonly channel: number
    readonly classId: number
    readonly weight: number
    readonly bodySize: number
    readonly properties: Uint8Array
  }
  | { readonly _tag: "Body"; readonly channel: number; readonly payload: Uint8Array }

export type ClientFrame = ChannelFrame | { readonly _tag: "Heartbeat" }

/** The frame as a value for the tap, with bytes of its own. */
export const copied = (frame: ClientFrame): AmqpProtocol.Frame => {
  if (frame._tag === "Body") return { ...frame, payload: frame.payload.slice() }
  if (frame._tag !== "Header") return frame
  const { bodySize, channel, properties } = frame
  return { _tag: "Header", channel, bodySize, properties: properties.slice() }
}

/** RabbitMQ's process that reads the connection crashes. The client sees a reset. */
export class Crash extends Data.TaggedError("Crash")<{ readonly reason: string }> {}

/** What RabbitMQ shows of a frame that it refuses. */
const shown = ({ payload, type }: RawFrame): string => {
  const which = payload.length <= 16 ? "all" : "first 16"
  return `type ${type}, ${which} octets = ${term(payload.subarray(0, 16))}`
}

/** A refusal of a frame that may not come here. */
export const unexpected = (frame: RawFrame): Refusal => unexpectedFrame(shown(frame))

/** A refusal of what is no frame, with the reason. */
export const broken = (frame: RawFrame, reason: string, ...details: ReadonlyArray<number>): Refusal => {
  const text = `${shown(frame)}: `
  return frameError(details.length === 0 ? text + reason : withTuple(text, reason, ...details))
}

/** A method, as far as a close has to name it. */
export interface Named {
  readonly _tag: AmqpProtocol.MethodName
}

const names = new Map<number, AmqpProtocol.MethodName>()
for (const name of Object.keys(AmqpProtocol.methods) as Array<AmqpProtocol.MethodName>) {
  names.set(AmqpProtocol.methods[name].id, name)
}

/** The method that a frame names. Its fields are not looked at. */
export const methodNamed = ({ payload, type }: RawFrame): Named | undefined => {
  if (type !== AmqpProtocol.frameMethod || payload.length < 4) return undefined
  const _tag = names.get(new Reader(payload).u32())
  return _tag && { _tag }
}

/** Throws a `Refusal`, or a `Crash`. */
export const readFrame = (frame: RawFrame): ClientFrame => {
  const { channel, payload, type } = frame
  if (type === AmqpProtocol.frameMethod && payload.length >= 4) {
    return { _tag: "Method", channel, method: readClientMethod(frame) }
  }
  if (type === AmqpProtocol.frameHeader && payload.length >= 12) {
    const reader = new Reader(payload)
    const [classId, weight] = [reader.u16(), reader.u16()]
    return { _tag: "Header", channel, classId, weight, bodySize: bodySize(reader), properties: payload.subarray(12) }
  }
  if (type === AmqpProtocol.frameBody) return { _tag: "Body", channel, payload }
  if (type === AmqpProtocol.frameHeartbeat && payload.length === 0) {
    if (channel !== 0) throw unexpected(frame)
    return { _tag: "Heartbeat" }
  }
  throw broken(frame, "unknown_frame")
}

/** A size beyond the safe integers is not exact. So many bytes never come. */
const bodySize = (reader: Reader): number => {
  const high = reader.u32()
  return high * 0x1_0000_0000 + reader.u32()
}

const readClientMethod = ({ channel, payload }: RawFrame): AmqpProtocol.Method => {
  const reader = new Reader(payload)
  const id = reader.u32()
  const cannotDecode = () =>
    channel === 0 ? internalError : frameError(`cannot decode <<${payload.subarray(4).join()}>>`)
  let method: AmqpProtocol.Method | undefined
  try {
    method = readMethod(id, reader)
  } catch (error) {
    if (!(error instanceof AmqpDecodeError)) throw error
    if (channel !== 0 && /[.[]/.test(error.path)) throw new Crash({ reason: "a table has a value that does not exist" })
    throw cannotDecode()
  }
  if (method === undefined) throw new Crash({ reason: "a method does not exist" })
  if (reader.remaining > 0) throw cannotDecode()
  return method
}

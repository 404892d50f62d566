/** amqplib's codec, put together as its connection does. */
import { createRequire } from "node:module"
import * as Path from "node:path"
import { body, type Codec, frameMax, headers, properties, propertiesWithHeaders, queue } from "./codec.ts"

interface Frame {
  readonly rest: Buffer
}

const require = createRequire(import.meta.url)
/** By their path: the package exports only its API. */
const lib = Path.join(Path.dirname(require.resolve("amqplib")), "lib")
const defs: {
  readonly BasicPublish: number
  readonly BasicProperties: number
  readonly encodeMethod: (id: number, channel: number, fields: object) => Buffer
  readonly encodeProperties: (id: number, channel: number, size: number, fields: object) => Buffer
} = require(Path.join(lib, "defs.js"))
const frames: {
  readonly makeBodyFrame: (channel: number, payload: Buffer) => Buffer
  readonly parseFrame: (bytes: Buffer, max: number) => Frame | false
  readonly decodeFrame: (frame: Frame) => { readonly content?: Buffer }
} = require(Path.join(lib, "frame.js"))
const tables: {
  readonly encodeTable: (to: Buffer, table: object, offset: number) => number
  readonly decodeFields: (bytes: Buffer) => object
} = require(Path.join(lib, "codec.js"))

const fields = { exchange: "", routingKey: queue, mandatory: false, immediate: false, ticket: 0 }

export const makeCodec = (): Codec => {
  const scratch = Buffer.alloc(64 * 1024)
  const deliver = (chunk: Buffer): number => {
    let count = 0
    let frame = frames.parseFrame(chunk, frameMax)
    while (frame !== false) {
      if (frames.decodeFrame(frame).content !== undefined) count++
      frame = frames.parseFrame(frame.rest, frameMax)
    }
    return count
  }
  return {
    publish: (withHeaders) => {
      const method = defs.encodeMethod(defs.BasicPublish, 1, fields)
      const header = defs.encodeProperties(
        defs.BasicProperties,
        1,
        body.length,
        withHeaders ? propertiesWithHeaders : properties
      )
      const all = Buffer.allocUnsafe(method.length + header.length + body.length + 8)
      const offset = method.copy(all, 0)
      frames.makeBodyFrame(1, body).copy(all, offset + header.copy(all, offset))
      return all
    },
    deliver,
    deliverProperties: deliver,
    encodeTable: () => Buffer.from(scratch.subarray(0, tables.encodeTable(scratch, headers, 0))),
    decodeTable: (entries) => () => tables.decodeFields(entries)
  }
}

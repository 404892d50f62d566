/** rabbitmq-client's codec: generators of frames for what goes out, an asynchronous reader for what comes in. */
import { createRequire } from "node:module"
import { body, type Codec, frameMax, properties, propertiesWithHeaders, queue } from "./codec.ts"

const require = createRequire(import.meta.url)
const codec: {
  readonly genContentFrames: (channel: number, params: object, body: Buffer, frameMax: number) => Iterable<Buffer>
  readonly decodeFrame: (read: (size: number) => Promise<Buffer>) => Promise<{ readonly payload?: Buffer }>
} = require("rabbitmq-client/lib/codec.js")

const envelope = { exchange: "", routingKey: queue, rsvp1: 0 }

export const makeCodec = (): Codec => {
  const deliver = async (chunk: Buffer): Promise<number> => {
    let at = 0
    let count = 0
    const read = async (size: number): Promise<Buffer> => chunk.subarray(at, at += size)
    while (at < chunk.length) if ((await codec.decodeFrame(read)).payload !== undefined) count++
    return count
  }
  return {
    publish: (withHeaders) => {
      const params = { ...envelope, ...withHeaders ? propertiesWithHeaders : properties }
      return Array.from(codec.genContentFrames(1, params, body, frameMax))
    },
    deliver,
    deliverProperties: deliver,
    // Not for others to call.
    encodeTable: undefined,
    decodeTable: undefined
  }
}

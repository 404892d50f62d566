/**
 * What a codec is measured by. All of them encode the same content and decode the same bytes.
 */
import { contentType, headers } from "../job.ts"

export interface Codec {
  /** One `basic.publish` with a body of 100 bytes, as bytes for the socket, with or without five headers. */
  readonly publish: (withHeaders: boolean) => unknown
  /** Bytes of deliveries to what a handler is given. Gives how many there were. */
  readonly deliver: (chunk: Buffer) => number | Promise<number>
  /** The same where the handler looks at the properties, for those who decode them only then. */
  readonly deliverProperties: (chunk: Buffer) => number | Promise<number>
  /** Five headers as a field table; a codec that does not offer that for itself has none. */
  readonly encodeTable: (() => unknown) | undefined
  /** The bytes are the entries, without their length. */
  readonly decodeTable: ((entries: Buffer) => () => unknown) | undefined
}

export const frameMax = 131072
export const body = Buffer.alloc(100, "a")
export const queue = "bench.queue"
export const properties = { contentType, deliveryMode: 1 }
export const propertiesWithHeaders = { ...properties, headers: { ...headers } }
export { headers }

/**
 * `@cloudamqp/amqp-client`'s codec. Its frames are put together inside of its channel and taken apart inside of its
 * client, so here the same calls of its `AMQPView` are made in the same order.
 */
import type { AMQPProperties } from "@cloudamqp/amqp-client"
import { AMQPView } from "@cloudamqp/amqp-client/amqp-view"
import { body, type Codec, frameMax, headers, properties, propertiesWithHeaders, queue } from "./codec.ts"

const bodyFrame = 3
const headerFrame = 2
const end = 206

const publish = (view: AMQPView, content: AMQPProperties): Uint8Array => {
  let at = 0
  const open = (type: number): number => {
    view.setUint8(at, type)
    view.setUint16(at + 1, 1)
    at += 7
    return at
  }
  const close = (start: number): void => {
    view.setUint32(start - 4, at - start)
    view.setUint8(at++, end)
  }
  const method = open(1)
  view.setUint16(at, 60)
  view.setUint16(at + 2, 40)
  view.setUint16(at + 4, 0)
  at += 6
  at += view.setShortString(at, "")
  at += view.setShortString(at, queue)
  view.setUint8(at++, 0)
  close(method)
  const header = open(headerFrame)
  view.setUint16(at, 60)
  view.setUint16(at + 2, 0)
  view.setUint32(at + 4, 0)
  view.setUint32(at + 8, body.length)
  at += 12
  at += view.setProperties(at, content)
  close(header)
  const bytes = new Uint8Array(view.buffer)
  const content_ = open(bodyFrame)
  bytes.set(body, at)
  at += body.length
  close(content_)
  return bytes.subarray(0, at)
}

const deliver = (view: AMQPView): number => {
  let count = 0
  for (let at = 0; at < view.byteLength;) {
    const type = view.getUint8(at)
    const size = view.getUint32(at + 3)
    let i = at + 7
    if (type === headerFrame) view.getProperties(i + 12)
    else if (type === bodyFrame) {
      new Uint8Array(size).set(new Uint8Array(view.buffer, view.byteOffset + i, size))
      count++
    } else {
      i += 4
      const [, tagLength] = view.getShortString(i)
      i += tagLength
      view.getUint64(i)
      i += 9
      const [, exchangeLength] = view.getShortString(i)
      view.getShortString(i + exchangeLength)
    }
    at += size + 8
  }
  return count
}

export const makeCodec = (): Codec => {
  const view = new AMQPView(new ArrayBuffer(frameMax))
  const deliverAll = (chunk: Buffer): number => deliver(new AMQPView(chunk.buffer, chunk.byteOffset, chunk.byteLength))
  return {
    publish: (withHeaders) => publish(view, withHeaders ? propertiesWithHeaders : properties),
    deliver: deliverAll,
    deliverProperties: deliverAll,
    encodeTable: () => view.setTable(0, headers),
    decodeTable: (entries) => {
      const table = new AMQPView(new ArrayBuffer(4 + entries.length))
      table.setUint32(0, entries.length)
      new Uint8Array(table.buffer).set(entries, 4)
      return () => table.getTable(0)
    }
  }
}

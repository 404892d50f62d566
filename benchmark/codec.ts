/**
 * Micro-benchmarks of one codec: `node codec.ts <client>` prints nanoseconds for each operation as JSON.
 */
import { Result } from "effect"
import type { PropertiesInput } from "../src/AmqpMessage.ts"
import * as AmqpProtocol from "../src/AmqpProtocol.ts"
import * as AmqpTable from "../src/AmqpTable.ts"
import { body, type Codec, headers, properties, propertiesWithHeaders, queue } from "./codecs/codec.ts"
import type { ClientName } from "./job.ts"
import { median } from "./measure.ts"

/** What is measured, in the order of the table. */
export const operations = {
  "publish": "encode a publish",
  "publish-headers": "encode a publish with 5 headers",
  "deliver": "decode a delivery",
  "deliver-properties": "decode a delivery, properties read",
  "deliver-headers": "decode a delivery with 5 headers, read",
  "encode-table": "encode a table of 5 fields",
  "decode-table": "decode a table of 5 fields"
} as const

export type Operation = keyof typeof operations

/** Nanoseconds for each. */
export type CodecFigures = Partial<Record<Operation, number>>

const codecs: Partial<Record<ClientName, () => Promise<{ readonly makeCodec: () => Codec }>>> = {
  "effect-amqp": () => import("./codecs/effectAmqp.ts"),
  "amqplib": () => import("./codecs/amqplib.ts"),
  "rabbitmq-client": () => import("./codecs/rabbitmqClient.ts"),
  "cloudamqp": () => import("./codecs/cloudamqp.ts")
}

/** Deliveries that are decoded at once: some 64 KiB, as a socket gives them. */
const perChunk = 300

const chunkOf = (content: PropertiesInput): Buffer =>
  Buffer.concat(Array.from({ length: perChunk }, (_, i) =>
    Result.getOrThrow(AmqpProtocol.encodeContent({
      channel: 1,
      method: {
        _tag: "basic.deliver",
        consumerTag: "consumer",
        deliveryTag: i + 1,
        redelivered: false,
        exchange: "",
        routingKey: queue
      },
      properties: content,
      body
    }))))

/** The median of some runs, each long enough to be measured, after some that are not. */
const time = async (count: number, run: () => unknown): Promise<number> => {
  const figures: Array<number> = []
  for (let round = 0; round < 12; round++) {
    const began = process.hrtime.bigint()
    const result = run()
    if (result instanceof Promise) await result
    if (round >= 5) figures.push(Number(process.hrtime.bigint() - began) / count)
  }
  return median(figures)
}

const measure = async (codec: Codec, times: number): Promise<CodecFigures> => {
  const small = chunkOf(properties)
  const large = chunkOf(propertiesWithHeaders)
  const table = Buffer.from(Result.getOrThrow(AmqpTable.encode(headers)))
  const { decodeTable, deliver, deliverProperties, encodeTable } = codec
  const loop = (run: () => unknown) => () => {
    for (let i = 0; i < times; i++) run()
  }
  const decode = (deliver: Codec["deliver"], chunk: Buffer) => async () => {
    for (let left = times; left > 0; left -= perChunk) {
      const count = deliver(chunk)
      if ((typeof count === "number" ? count : await count) !== perChunk) throw new Error("not what was sent")
    }
  }
  return {
    "publish": await time(times, loop(() => codec.publish(false))),
    "publish-headers": await time(times, loop(() => codec.publish(true))),
    "deliver": await time(times, decode(deliver, small)),
    "deliver-properties": await time(times, decode(deliverProperties, small)),
    "deliver-headers": await time(times, decode(deliverProperties, large)),
    ...(encodeTable === undefined ? {} : { "encode-table": await time(times, loop(encodeTable)) }),
    ...(decodeTable === undefined ? {} : { "decode-table": await time(times, loop(decodeTable(table))) })
  }
}

if (import.meta.main) {
  const [, , name, times] = process.argv
  const load = Object.entries(codecs).find(([client]) => client === name)?.[1]
  if (load === undefined) throw new Error("usage: node codec.ts <client> <times>")
  console.log(JSON.stringify(await measure((await load()).makeCodec(), Number(times))))
}

/**
 * `@cloudamqp/amqp-client`, by its documentation: the low-level client for speed, promises of many publishes at a time,
 * callbacks for consumers; the session for handlers that acknowledge by their end, and for requests.
 */
import { AMQPClient, type AMQPMessage, type AMQPProperties, AMQPSession } from "@cloudamqp/amqp-client"
import { contentType, headers, type Job, queuesOf } from "../job.ts"
import { concurrency, type Connect, deferred, limited, oneByOne, type Publish } from "./client.ts"

/** Promises of publishes that are waited for together, where the broker confirms nothing. */
const plainWindow = 1000

const propertiesOf = (job: Job): AMQPProperties => ({
  contentType,
  deliveryMode: 1,
  ...(job.headers ? { headers } : {})
})

const urlOf = (job: Job): string =>
  `amqp://guest:guest@${job.host}:${job.port}/%2f${job.frameMax > 0 ? `?frameMax=${job.frameMax}` : ""}`

const makePublisher = async (client: AMQPClient, job: Job, body: Uint8Array): Promise<Publish> => {
  const channel = await client.channel()
  if (job.kind !== "publish") await channel.confirmSelect()
  const properties = propertiesOf(job)
  const send = (): Promise<number> => channel.basicPublish("", job.queue, body, properties, job.mandatory)
  const batches = async (count: number, size: number): Promise<void> => {
    for (let sent = 0; sent < count;) {
      const promises: Array<Promise<number>> = []
      for (let i = 0; i < size && sent < count; i++, sent++) promises.push(send())
      await Promise.all(promises)
    }
  }
  switch (job.kind) {
    case "publish":
      return async (count) => {
        await batches(count, plainWindow)
        await channel.queueDeclare(job.queue, { passive: true })
      }
    case "batch":
      return (count) => batches(count, job.inFlight)
    default:
      return async (count) => {
        let sent = 0
        const loop = async (): Promise<void> => {
          while (sent++ < count) await send()
        }
        await Promise.all(Array.from({ length: job.inFlight }, loop))
      }
  }
}

export const connect: Connect = async (job) => {
  const client = new AMQPClient(urlOf(job))
  await client.connect()
  let session: AMQPSession | undefined
  const openSession = async (): Promise<AMQPSession> => session = await AMQPSession.connect(urlOf(job))
  return {
    publisher: (job, body) => makePublisher(client, job, body),
    consume: async (job, total, onMessage) => {
      const { promise, resolve } = deferred()
      let seen = 0
      const handle = (message: AMQPMessage): void => {
        onMessage(message.body ?? new Uint8Array(0))
        if (job.headers && message.properties.headers?.["x-attempt"] !== 1) throw new Error("the headers are missing")
        if (job.prefetch > 0) void message.ack()
        if (++seen === total) resolve()
      }
      const channel = await client.channel()
      if (job.prefetch > 0) await channel.prefetch(job.prefetch)
      const start = limited(concurrency, async (message: AMQPMessage) => handle(message))
      const onDelivery = job.kind === "consume" ? handle : start
      const subscribe = (queue: string) => channel.basicConsume(queue, { noAck: job.prefetch === 0 }, onDelivery)
      await Promise.all(queuesOf(job).map(subscribe))
      await promise
    },
    requester: async (queue, body) => {
      const rpc = await (await openSession()).rpcClient()
      return oneByOne(() => rpc.call(queue, body, { contentType, deliveryMode: 1 }))
    },
    openChannels: async (count) => {
      await Promise.all(Array.from({ length: count }, () => client.channel()))
    },
    close: async () => {
      await session?.stop()
      await client.close()
    }
  }
}

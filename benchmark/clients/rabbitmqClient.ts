/**
 * rabbitmq-client, by its documentation: the raw channel for publishing and plain consuming, which is its cheapest path,
 * `createConsumer` for handlers whose end acknowledges, `createRPCClient` for requests.
 */
import { Connection, type Envelope, type RPCClient } from "rabbitmq-client"
import { contentType, headers, type Job, queuesOf } from "../job.ts"
import { concurrency, type Connect, deferred, oneByOne, type Publish } from "./client.ts"

/** Promises of publishes that are waited for together, where the broker confirms nothing. */
const plainWindow = 1000

/** By itself it adds the time to each message, and nobody else does; its types do not know that it can be turned off. */
const noTimestamp: object = { timestamp: undefined }

const envelopeOf = (job: Job): Envelope => ({
  routingKey: job.queue,
  contentType,
  ...noTimestamp,
  ...(job.mandatory ? { mandatory: true } : {}),
  ...(job.headers ? { headers } : {})
})

const makePublisher = async (rabbit: Connection, job: Job, bytes: Uint8Array): Promise<Publish> => {
  const body = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const channel = await rabbit.acquire()
  if (job.kind !== "publish") await channel.confirmSelect()
  const envelope = envelopeOf(job)
  const send = (): Promise<void> => channel.basicPublish(envelope, body)
  const batches = async (count: number, size: number): Promise<void> => {
    for (let sent = 0; sent < count;) {
      const promises: Array<Promise<void>> = []
      for (let i = 0; i < size && sent < count; i++, sent++) promises.push(send())
      await Promise.all(promises)
    }
  }
  switch (job.kind) {
    case "publish":
      return async (count) => {
        await batches(count, plainWindow)
        await channel.queueDeclare({ queue: job.queue, passive: true })
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

const isBuffer = (body: unknown): body is Buffer => Buffer.isBuffer(body)

export const connect: Connect = async (job) => {
  const rabbit = new Connection({
    url: `amqp://guest:guest@${job.host}:${job.port}/%2f`,
    noDelay: true,
    ...(job.frameMax > 0 ? { frameMax: job.frameMax } : {})
  })
  rabbit.on("error", (error: unknown) => {
    throw error
  })
  await rabbit.onConnect()
  let rpc: RPCClient | undefined
  return {
    publisher: (job, body) => makePublisher(rabbit, job, body),
    consume: async (job, total, onMessage) => {
      const { promise, resolve } = deferred()
      let seen = 0
      const handle = (message: { readonly body: unknown; readonly headers?: Record<string, unknown> }): void => {
        if (!isBuffer(message.body)) throw new Error("not the body that was sent")
        onMessage(message.body)
        if (job.headers && message.headers?.["x-attempt"] !== 1) throw new Error("the headers are missing")
        if (++seen === total) resolve()
      }
      if (job.kind === "run") {
        rabbit.createConsumer({
          queue: job.queue,
          queueOptions: { passive: true },
          qos: { prefetchCount: job.prefetch },
          concurrency
        }, async (message) => handle(message))
        return promise
      }
      const channel = await rabbit.acquire()
      if (job.prefetch > 0) await channel.basicQos({ prefetchCount: job.prefetch })
      const subscribe = (queue: string) =>
        channel.basicConsume({ queue, noAck: job.prefetch === 0 }, (message) => {
          handle(message)
          if (job.prefetch > 0) channel.basicAck({ deliveryTag: message.deliveryTag })
        })
      // One at a time: replies to several are mixed up.
      for (const queue of queuesOf(job)) await subscribe(queue)
      await promise
    },
    requester: async (queue, bytes) => {
      const body = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const client = rabbit.createRPCClient()
      rpc = client
      const envelope: Envelope = { routingKey: queue, contentType, ...noTimestamp }
      return oneByOne(() => client.send(envelope, body))
    },
    openChannels: async (count) => {
      await Promise.all(Array.from({ length: count }, () => rabbit.acquire()))
    },
    close: async () => {
      await rpc?.close()
      rabbit.unsafeDestroy()
    }
  }
}

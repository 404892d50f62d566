/**
 * amqplib, by its documentation: `publish` until it says `false`, then wait for `drain`; a confirm channel with callbacks,
 * `waitForConfirms` for a batch; `consume` with a callback.
 */
import * as amqplib from "amqplib"
import { once } from "node:events"
import { contentType, headers, type Job, queuesOf } from "../job.ts"
import { concurrency, type Connect, deferred, limited, oneByOne, type Publish } from "./client.ts"

const bufferOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const optionsOf = (job: Job): amqplib.Options.Publish => ({
  contentType,
  deliveryMode: 1,
  ...(job.mandatory ? { mandatory: true } : {}),
  ...(job.headers ? { headers } : {})
})

const plain = async (model: amqplib.ChannelModel, job: Job, body: Buffer): Promise<Publish> => {
  const channel = await model.createChannel()
  const options = optionsOf(job)
  return async (count) => {
    for (let i = 0; i < count; i++) {
      if (!channel.publish("", job.queue, body, options)) await once(channel, "drain")
    }
    await channel.checkQueue(job.queue)
  }
}

const confirmed = async (model: amqplib.ChannelModel, job: Job, body: Buffer): Promise<Publish> => {
  const channel = await model.createConfirmChannel()
  const options = optionsOf(job)
  return (count) => {
    const { promise, reject, resolve } = deferred()
    let sent = 0
    let confirmed = 0
    const send = (): void => {
      if (sent === count) return
      sent++
      channel.publish("", job.queue, body, options, onConfirm)
    }
    const onConfirm = (error: unknown): void => {
      if (error !== null) return reject(error)
      if (++confirmed === count) resolve()
      else send()
    }
    for (let i = 0; i < job.inFlight; i++) send()
    return promise
  }
}

const batches = async (model: amqplib.ChannelModel, job: Job, body: Buffer): Promise<Publish> => {
  const channel = await model.createConfirmChannel()
  const options = optionsOf(job)
  return async (count) => {
    for (let sent = 0; sent < count;) {
      for (let i = 0; i < job.inFlight && sent < count; i++, sent++) channel.publish("", job.queue, body, options)
      await channel.waitForConfirms()
    }
  }
}

export const connect: Connect = async (job) => {
  const model = await amqplib.connect(`amqp://guest:guest@${job.host}:${job.port}/%2f`, { noDelay: true })
  return {
    publisher: (job, bytes) => {
      const body = bufferOf(bytes)
      if (job.kind === "publish") return plain(model, job, body)
      return job.kind === "batch" ? batches(model, job, body) : confirmed(model, job, body)
    },
    consume: async (job, total, onMessage) => {
      const channel = await model.createChannel()
      if (job.prefetch > 0) await channel.prefetch(job.prefetch)
      const { promise, resolve } = deferred()
      let seen = 0
      const handle = (message: amqplib.ConsumeMessage): void => {
        onMessage(message.content)
        if (job.headers && message.properties.headers?.["x-attempt"] !== 1) throw new Error("the headers are missing")
        if (job.prefetch > 0) channel.ack(message)
        if (++seen === total) resolve()
      }
      const start = limited(concurrency, async (message: amqplib.ConsumeMessage) => handle(message))
      const onDelivery = (message: amqplib.ConsumeMessage | null): void => {
        if (message === null) return
        if (job.kind === "consume") handle(message)
        else start(message)
      }
      const subscribe = (queue: string) => channel.consume(queue, onDelivery, { noAck: job.prefetch === 0 })
      await Promise.all(queuesOf(job).map(subscribe))
      await promise
    },
    requester: async (queue, bytes) => {
      const body = bufferOf(bytes)
      const channel = await model.createChannel()
      const waiting = new Map<string, () => void>()
      let next = 0
      await channel.consume("amq.rabbitmq.reply-to", (message) => {
        if (message !== null) waiting.get(String(message.properties.correlationId))?.()
      }, { noAck: true })
      return oneByOne(() => {
        const { promise, resolve } = deferred()
        const correlationId = String(next++)
        waiting.set(correlationId, () => {
          waiting.delete(correlationId)
          resolve()
        })
        channel.publish("", queue, body, {
          contentType,
          deliveryMode: 1,
          correlationId,
          replyTo: "amq.rabbitmq.reply-to"
        })
        return promise
      })
    },
    openChannels: async (count) => {
      await Promise.all(Array.from({ length: count }, () => model.createChannel()))
    },
    close: () => model.close()
  }
}

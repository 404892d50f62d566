/**
 * The queues that a sample needs, made and filled before its process starts.
 */
import { Effect } from "effect"
import * as AmqpChannel from "../src/AmqpChannel.ts"
import * as AmqpPublisher from "../src/AmqpPublisher.ts"
import { contentType, headers, type Job, queuesOf } from "./job.ts"

/** What a queue keeps that nobody consumes: enough for its work to be real, too little to fill the memory. */
const kept = (size: number) => Math.max(100, Math.min(10_000, Math.floor(64 * 1024 * 1024 / size)))

/** Messages that a `publishAll` of ours fills with. */
const batch = 1000

const declare = (channel: AmqpChannel.AmqpChannel, queue: string, args: Readonly<Record<string, number>>) =>
  Effect.acquireRelease(
    channel.queueDeclare({ queue, durable: false, arguments: args }),
    () => Effect.ignore(channel.queueDelete({ queue }))
  )

/** Makes the queues of a sample, filled where messages are consumed; they go with the scope. */
export const makeQueues = (job: Job) =>
  Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    if (job.kind === "queues") {
      return yield* Effect.forEach(queuesOf(job), (queue) => declare(channel, queue, {}), {
        concurrency: "unbounded",
        discard: true
      })
    }
    if (job.kind !== "consume" && job.kind !== "run") {
      return yield* declare(channel, job.queue, { "x-max-length": kept(job.size) })
    }
    const publisher = yield* AmqpPublisher.make()
    const body = new Uint8Array(job.size).fill(0x61)
    const properties = { contentType, deliveryMode: 1, ...(job.headers ? { headers } : {}) }
    for (const [queue, count] of [[job.warmQueue, job.warm], [job.queue, job.count]] as const) {
      yield* declare(channel, queue, {})
      if (job.arrivals > 0) continue
      const message = { routingKey: queue, body, properties, mandatory: false }
      for (let left = count; left > 0; left -= batch) {
        yield* publisher.publishAll(Array.from({ length: Math.min(left, batch) }, () => message))
      }
    }
  })

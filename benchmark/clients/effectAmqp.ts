/**
 * This library, as its users write it: `AmqpPublisher` and `AmqpConsumer`, and the raw channel for what these do not do
 * (publishing without confirms, consuming without acknowledgement, requests over direct reply-to).
 */
import { Deferred, Effect, Layer, ManagedRuntime, Redacted, Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import type { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import type { AmqpMessage, Publish as Message } from "../../src/AmqpMessage.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import { contentType, headers, type Job, queuesOf } from "../job.ts"
import { concurrency, type Connect, type Publish } from "./client.ts"

const messageOf = (job: Job, body: Uint8Array): Message => ({
  routingKey: job.queue,
  body,
  mandatory: job.mandatory,
  properties: { contentType, deliveryMode: 1, ...(job.headers ? { headers } : {}) }
})

/** One result for each of several fibers. */
const inParallel = <A, E, R>(count: number, effect: Effect.Effect<A, E, R>): Effect.Effect<ReadonlyArray<A>, E, R> =>
  Effect.all(Array.from({ length: count }, () => effect), { concurrency: "unbounded" })

/** Calls back with each message, and reads a header where messages have some. */
const reading = (job: Job, onMessage: (body: Uint8Array) => void) => (message: AmqpMessage): Effect.Effect<void> =>
  Effect.sync(() => {
    onMessage(message.body)
    if (job.headers && message.properties.headers?.["x-attempt"] !== 1) throw new Error("the headers are missing")
  })

const plain = (job: Job, body: Uint8Array) =>
  Effect.gen(function*() {
    const channels = yield* inParallel(job.channels, AmqpChannel.open)
    const message = messageOf(job, body)
    const [first] = channels
    if (first === undefined) return yield* Effect.die("no channel")
    return (count: number) =>
      Effect.gen(function*() {
        for (let i = 0; i < count; i++) yield* (channels[i % channels.length] ?? first).publish(message)
        // With more than one channel nobody but the null peer is spoken to, which reads all of them in their order.
        yield* first.queueDeclarePassive(job.queue)
      })
  })

const confirmed = (job: Job, body: Uint8Array) =>
  Effect.gen(function*() {
    const publishers = yield* inParallel(job.channels, AmqpPublisher.make({ maxInFlight: job.inFlight }))
    const message = messageOf(job, body)
    const [first] = publishers
    if (first === undefined) return yield* Effect.die("no publisher")
    return (count: number) =>
      Effect.suspend(() => {
        let sent = 0
        const loop = Effect.whileLoop({
          while: () => sent < count,
          body: () => (publishers[sent++ % publishers.length] ?? first).publish(message),
          step: () => {}
        })
        return inParallel(job.inFlight, loop)
      })
  })

const batches = (job: Job, body: Uint8Array) =>
  Effect.gen(function*() {
    const publisher = yield* AmqpPublisher.make({ maxInFlight: job.inFlight })
    const message = messageOf(job, body)
    return (count: number) =>
      Effect.gen(function*() {
        for (let sent = 0; sent < count; sent += job.inFlight) {
          const size = Math.min(job.inFlight, count - sent)
          yield* publisher.publishAll(Array.from({ length: size }, () => message))
        }
      })
  })

const consume = (job: Job, total: number, onMessage: (body: Uint8Array) => void) => {
  const read = reading(job, onMessage)
  if (job.kind === "run" || job.kind === "queues") {
    return Effect.gen(function*() {
      const done = yield* Deferred.make<void>()
      let seen = 0
      const handler = (message: AmqpMessage) =>
        Effect.andThen(
          read(message),
          Effect.suspend(() => ++seen < total ? Effect.void : Deferred.succeed(done, undefined))
        )
      const options = { prefetch: job.prefetch, concurrency, onFailure: AmqpConsumer.requeue }
      yield* Effect.raceFirst(AmqpConsumer.run(queuesOf(job), handler, options), Deferred.await(done))
    })
  }
  if (job.prefetch > 0) {
    return AmqpConsumer.stream(job.queue, { prefetch: job.prefetch }).pipe(
      Stream.take(total),
      Stream.runForEach((delivery) => Effect.andThen(read(delivery), delivery.ack))
    )
  }
  return Effect.scoped(Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    const { deliveries } = yield* channel.consume({ queue: job.queue, noAck: true })
    yield* Stream.runForEach(Stream.take(deliveries, total), read)
  }))
}

const requester = (queue: string, body: Uint8Array) =>
  Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    const waiting = new Map<string, Deferred.Deferred<void>>()
    let next = 0
    const { deliveries } = yield* channel.consume({ queue: "amq.rabbitmq.reply-to", noAck: true })
    yield* Effect.forkScoped(Stream.runForEach(deliveries, (reply) =>
      Effect.suspend(() => {
        const deferred = waiting.get(reply.properties.correlationId ?? "")
        return deferred === undefined ? Effect.void : Deferred.succeed(deferred, undefined)
      })))
    const call = Effect.gen(function*() {
      const correlationId = String(next++)
      const reply = yield* Deferred.make<void>()
      waiting.set(correlationId, reply)
      yield* channel.publish({
        routingKey: queue,
        body,
        properties: { contentType, deliveryMode: 1, correlationId, replyTo: "amq.rabbitmq.reply-to" }
      })
      yield* Deferred.await(reply)
      waiting.delete(correlationId)
    })
    return (count: number, onReply: () => void) =>
      Effect.gen(function*() {
        for (let i = 0; i < count; i++) {
          yield* call
          onReply()
        }
      })
  })

export const connect: Connect = async (job) => {
  const runtime = ManagedRuntime.make(Layer.merge(
    NodeAmqp.layer({
      url: Redacted.make(`amqp://guest:guest@${job.host}:${job.port}/%2f`),
      readInterval: job.readInterval
    }),
    Layer.effect(Scope.Scope, Effect.scope)
  ))
  await runtime.context()
  const run = <A>(effect: Effect.Effect<A, unknown, AmqpConnection | Scope.Scope>): Promise<A> =>
    runtime.runPromise(effect)
  return {
    publisher: async (job, body): Promise<Publish> => {
      const publish = await run<(count: number) => Effect.Effect<unknown, unknown>>(
        job.kind === "publish" ? plain(job, body) : job.kind === "batch" ? batches(job, body) : confirmed(job, body)
      )
      return async (count) => {
        await run(publish(count))
      }
    },
    consume: (job, total, onMessage) => run(consume(job, total, onMessage)),
    requester: async (queue, body) => {
      const requests = await run(requester(queue, body))
      return (count, onReply) => run(requests(count, onReply))
    },
    openChannels: async (count) => {
      await run(inParallel(count, AmqpChannel.open))
    },
    close: () => runtime.dispose()
  }
}

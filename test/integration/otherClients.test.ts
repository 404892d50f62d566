/**
 * Clients that others wrote: what RabbitMQ does for them, the embedded broker does as well.
 */
import { assert, describe, layer } from "@effect/vitest"
import { type ConfirmChannel, connect, type ConsumeMessage, type Message } from "amqplib"
import { Deferred, Effect, Queue } from "effect"
import { exec, onPath } from "../harness/exec.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, Vhost } from "../harness/shared.ts"

/** amqplib's channel with confirms, on a connection of its own. */
const amqplib = Effect.gen(function*() {
  const { amqpUrl } = yield* Vhost
  const model = yield* Effect.acquireRelease(
    Effect.promise(() => connect(amqpUrl)),
    (model) => Effect.promise(() => model.close())
  )
  const channel = yield* Effect.promise(() => model.createConfirmChannel())
  return { model, channel }
})

/** Subscribes; what comes, in order. */
const consume = (channel: ConfirmChannel, queue: string) =>
  Effect.gen(function*() {
    const messages = yield* Queue.unbounded<ConsumeMessage | null>()
    yield* Effect.promise(() => channel.consume(queue, (message) => Queue.offerUnsafe(messages, message)))
    return messages
  })

const next = (messages: Queue.Dequeue<ConsumeMessage | null>) =>
  Effect.flatMap(Queue.take(messages), (message) => Effect.fromNullishOr(message)).pipe(Effect.orDie)

layer(onVhost, { excludeTestServices: true })("amqplib", (it) => {
  it.effect("publishes, confirmed, and consumes: properties, headers and bodies of any size arrive as they were", () =>
    noLeaks(Effect.gen(function*() {
      const { channel } = yield* amqplib
      yield* Effect.promise(async () => {
        await channel.assertExchange("events", "topic", { durable: false })
        await channel.assertQueue("large", { exclusive: true })
        await channel.bindQueue("large", "events", "*.large.#")
      })
      const content = Buffer.from(new Uint8Array(3_000_000).map((_, index) => index % 251))
      channel.publish("events", "a.large.one", content, {
        persistent: true,
        contentType: "application/octet-stream",
        messageId: "1",
        correlationId: "2",
        timestamp: 1_700_000_000,
        priority: 4,
        headers: {
          text: "é",
          integer: 1,
          large: 2 ** 40,
          float: 1.5,
          yes: true,
          nothing: null,
          list: [1, "2"],
          inner: { a: 1 }
        }
      })
      channel.publish("events", "a.small", Buffer.from("nowhere"))
      yield* Effect.promise(() => channel.waitForConfirms())
      const messages = yield* consume(channel, "large")
      const message = yield* next(messages)
      assert.isTrue(message.content.equals(content))
      assert.deepInclude(message.fields, { exchange: "events", routingKey: "a.large.one", redelivered: false })
      assert.deepInclude(message.properties, {
        deliveryMode: 2,
        contentType: "application/octet-stream",
        messageId: "1",
        correlationId: "2",
        timestamp: 1_700_000_000,
        priority: 4
      })
      assert.deepEqual(message.properties.headers, {
        text: "é",
        integer: 1,
        large: 2 ** 40,
        float: 1.5,
        yes: true,
        nothing: null,
        list: [1, "2"],
        inner: { a: 1 }
      })
      channel.ack(message)
    })))

  it.effect("gives messages back, within its prefetch", () =>
    noLeaks(Effect.gen(function*() {
      const { channel } = yield* amqplib
      yield* Effect.promise(() => channel.assertQueue("jobs", { exclusive: true }))
      yield* Effect.promise(() => channel.prefetch(1))
      for (const text of ["one", "two"]) channel.sendToQueue("jobs", Buffer.from(text))
      yield* Effect.promise(() => channel.waitForConfirms())
      const messages = yield* consume(channel, "jobs")
      const first = yield* next(messages)
      assert.strictEqual((yield* Effect.promise(() => channel.checkQueue("jobs"))).messageCount, 1)
      channel.nack(first)
      const again = yield* next(messages)
      assert.deepInclude(again.fields, { redelivered: true, deliveryTag: 2 })
      assert.strictEqual(again.content.toString(), "one")
      channel.ack(again)
      assert.strictEqual((yield* next(messages)).content.toString(), "two")
      channel.ackAll()
      assert.isFalse(yield* Effect.promise(() => channel.get("jobs")))
    })))

  it.effect("hears of messages that cannot be routed, and of a queue that goes", () =>
    noLeaks(Effect.gen(function*() {
      const { channel } = yield* amqplib
      const returned = yield* Deferred.make<Message>()
      channel.on("return", (message: Message) => Deferred.doneUnsafe(returned, Effect.succeed(message)))
      channel.publish("amq.direct", "nowhere", Buffer.from("lost"), { mandatory: true })
      yield* Effect.promise(() => channel.waitForConfirms())
      const message = yield* Deferred.await(returned)
      // The types know only the fields of a delivery.
      assert.deepEqual<object>(message.fields, {
        replyCode: 312,
        replyText: "NO_ROUTE",
        exchange: "amq.direct",
        routingKey: "nowhere"
      })
      const { queue } = yield* Effect.promise(() => channel.assertQueue("", { exclusive: true }))
      assert.match(queue, /^amq\.gen-/)
      const messages = yield* consume(channel, queue)
      yield* Effect.promise(() => channel.deleteQueue(queue))
      assert.isNull(yield* Queue.take(messages))
    })))

  it.effect("answers requests by direct reply-to", () =>
    noLeaks(Effect.gen(function*() {
      const { channel } = yield* amqplib
      const server = yield* amqplib
      // It belongs to the other connection, which does not keep this one from publishing to it.
      yield* Effect.promise(() => server.channel.assertQueue("requests", { exclusive: true }))
      yield* Effect.promise(() =>
        server.channel.consume("requests", (request) => {
          if (request === null) return
          server.channel.sendToQueue(request.properties.replyTo, Buffer.from(`re: ${request.content.toString()}`), {
            correlationId: request.properties.correlationId
          })
        }, { noAck: true })
      )
      const replies = yield* Queue.unbounded<ConsumeMessage | null>()
      yield* Effect.promise(() =>
        channel.consume("amq.rabbitmq.reply-to", (reply) => Queue.offerUnsafe(replies, reply), { noAck: true })
      )
      channel.sendToQueue("requests", Buffer.from("ping"), { replyTo: "amq.rabbitmq.reply-to", correlationId: "7" })
      const reply = yield* next(replies)
      assert.strictEqual(reply.content.toString(), "re: ping")
      assert.strictEqual(reply.properties.correlationId, "7")
    })))

  it.effect("is refused in the broker's words", () =>
    noLeaks(Effect.gen(function*() {
      const { model } = yield* amqplib
      const { name } = yield* Vhost
      const refusalOf = (use: (channel: ConfirmChannel) => Promise<unknown>) =>
        Effect.gen(function*() {
          const channel = yield* Effect.promise(() => model.createConfirmChannel())
          // It is an event, too, and ends the process where nobody listens.
          channel.on("error", () => {})
          return yield* Effect.flip(Effect.tryPromise({
            try: () => use(channel),
            catch: (error) => error instanceof Error ? error.message : String(error)
          }))
        })
      assert.include(
        yield* refusalOf((channel) => channel.checkQueue("missing")),
        `404 (NOT-FOUND) with message "NOT_FOUND - no queue 'missing' in vhost '${name}'"`
      )
      assert.include(
        yield* refusalOf((channel) => channel.assertExchange("amq.direct", "fanout")),
        "406 (PRECONDITION-FAILED) with message \"PRECONDITION_FAILED - inequivalent arg 'type' for exchange " +
          `'amq.direct' in vhost '${name}': received 'fanout' but current is 'direct'"`
      )
    })))
})

const hasTools = await Effect.runPromise(onPath("amqp-publish")) !== undefined

describe.runIf(hasTools)("amqp-tools", () => {
  layer(onVhost, { excludeTestServices: true })("of Debian", (it) => {
    const run = (tool: string, args: ReadonlyArray<string>, input?: string) =>
      Effect.flatMap(Vhost, ({ amqpUrl }) => exec(`amqp-${tool}`, ["--url", amqpUrl, ...args], { input }))

    it.effect("declare, publish, get, consume and delete", () =>
      noLeaks(Effect.gen(function*() {
        assert.strictEqual(yield* run("declare-queue", ["-d", "-q", "tools"]), "tools\n")
        yield* run("publish", ["-r", "tools", "-p", "-C", "text/plain", "-H", "key: value", "-b", "one"])
        yield* run("publish", ["-r", "tools", "-l"], "two\nthree\nfour\n")
        assert.strictEqual(yield* run("get", ["-q", "tools"]), "one")
        assert.strictEqual(yield* run("consume", ["-q", "tools", "-c", "2", "cat"]), "two\nthree\n")
        assert.strictEqual(yield* run("delete-queue", ["-q", "tools"]), "1\n")
      })))

    it.effect("are refused in the broker's words", () =>
      noLeaks(Effect.gen(function*() {
        const { name } = yield* Vhost
        const error = yield* Effect.flip(run("get", ["-q", "missing"]))
        assert.include(
          error.message,
          `server channel error 404, message: NOT_FOUND - no queue 'missing' in vhost '${name}'`
        )
      })))
  })
})

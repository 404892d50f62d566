/**
 * What the compiler refuses, so that it need not be said at run time.
 */
import { type Effect, type Option, Redacted, type Stream } from "effect"
import type { AmqpChannel, Got } from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import type { AmqpDelivery, AmqpUnacknowledged } from "../../src/AmqpDelivery.ts"
import { int64, timestamp } from "../../src/AmqpTable.ts"
import { type Equal, expectType } from "./assert.ts"

declare const channel: AmqpChannel

/** Takes what a call returns; nothing here runs. */
const call = (_: unknown): void => {}

// -----------------------------------------------------------------------------
// publishing
// -----------------------------------------------------------------------------

call(channel.publish({ body: "" }))
call(channel.publish({ exchange: "e", routingKey: "k", body: Uint8Array.of(1), mandatory: true }))
call(channel.publish({ body: "", properties: { deliveryMode: 2, expiration: "1000", timestamp: 1_700_000_000 } }))
call(channel.publish({
  body: "",
  properties: {
    headers: {
      text: "",
      flag: true,
      number: 1.5,
      large: 1n,
      nothing: null,
      left: undefined,
      bytes: Uint8Array.of(1),
      date: new Date(0),
      list: [1, "a", { nested: [] }],
      exact: int64(1n),
      seconds: timestamp(0n)
    }
  }
}))

// @ts-expect-error - a message has a body
call(channel.publish({ routingKey: "k" }))
// @ts-expect-error - the application serializes
call(channel.publish({ body: { id: 1 } }))
// @ts-expect-error - an ArrayBuffer is no bytes: wrap it
call(channel.publish({ body: new ArrayBuffer(1) }))
// @ts-expect-error - RabbitMQ does not implement immediate
call(channel.publish({ body: "", immediate: true }))
// @ts-expect-error - an option, not a position
call(channel.publish("exchange", "key", "body"))
// @ts-expect-error - a property is no option
call(channel.publish({ body: "", persistent: true }))
// @ts-expect-error - properties have a place of their own
call(channel.publish({ body: "", headers: {} }))
// @ts-expect-error - no such property
call(channel.publish({ body: "", properties: { persistent: true } }))
// @ts-expect-error - 2 is persistent
call(channel.publish({ body: "", properties: { deliveryMode: "persistent" } }))
// @ts-expect-error - AMQP carries the milliseconds as text
call(channel.publish({ body: "", properties: { expiration: 1000 } }))
// @ts-expect-error - seconds since 1970
call(channel.publish({ body: "", properties: { timestamp: new Date() } }))
// @ts-expect-error - a function has no form on the wire
call(channel.publish({ body: "", properties: { headers: { callback: () => {} } } }))
// @ts-expect-error - neither has one that is nested
call(channel.publish({ body: "", properties: { headers: { nested: { list: [() => {}] } } } }))
// @ts-expect-error - nor a symbol
call(channel.publish({ body: "", properties: { headers: { symbol: Symbol.iterator } } }))
// @ts-expect-error - nor a Map
call(channel.publish({ body: "", properties: { headers: { map: new Map() } } }))
// @ts-expect-error - nor a secret: it would be text on the wire
call(channel.publish({ body: "", properties: { headers: { token: Redacted.make("") } } }))

// -----------------------------------------------------------------------------
// exchanges and queues
// -----------------------------------------------------------------------------

call(channel.queueDeclare())
call(channel.queueDeclare({ queue: "q", durable: true, arguments: { "x-queue-type": "quorum" } }))
call(channel.exchangeDeclare({ exchange: "e", type: "topic" }))
call(channel.exchangeDeclare({ exchange: "e", type: "x-delayed-message" }))

// @ts-expect-error - every request has a reply; requests are pipelined instead
call(channel.queueDeclare({ queue: "q", noWait: true }))
// @ts-expect-error - an operation of its own
call(channel.queueDeclare({ queue: "q", passive: true }))
// @ts-expect-error - a name is text
call(channel.queueDeclare({ queue: 1 }))
// @ts-expect-error - a flag is a boolean
call(channel.queueDeclare({ queue: "q", durable: "yes" }))
// @ts-expect-error - arguments are a table
call(channel.queueDeclare({ queue: "q", arguments: ["x-queue-type"] }))
// @ts-expect-error - arguments have a place of their own
call(channel.queueDeclare({ queue: "q", "x-queue-type": "quorum" }))
// @ts-expect-error - the name of an exchange is not optional
call(channel.exchangeDeclare({ type: "topic" }))
// @ts-expect-error - nor is that of a queue to delete
call(channel.queueDelete({ ifEmpty: true }))
// @ts-expect-error - a binding has two ends
call(channel.queueBind({ queue: "q" }))
// @ts-expect-error - an exchange is bound from a source to a destination
call(channel.exchangeBind({ exchange: "e", source: "s" }))
// @ts-expect-error - RabbitMQ has no prefetch by bytes
call(channel.qos({ prefetchCount: 1, prefetchSize: 1024 }))
// @ts-expect-error - a limit is what it is for
call(channel.qos({ global: true }))

// -----------------------------------------------------------------------------
// consuming and settling
// -----------------------------------------------------------------------------

type Delivered<T> = Effect.Success<T> extends { readonly deliveries: infer S } ? Stream.Success<S> : never

// @ts-expect-error - a consumer has a queue
call(channel.consume({}))
// @ts-expect-error - RabbitMQ does not implement no-local
call(channel.consume({ queue: "q", noLocal: true }))
// @ts-expect-error - the stream is the handler's place
call(channel.consume("q", () => {}))

const consumed = channel.consume({ queue: "q" })
expectType<Equal<Delivered<typeof consumed>, AmqpDelivery>>()
const unacknowledged = channel.consume({ queue: "q", noAck: true })
expectType<Equal<Delivered<typeof unacknowledged>, AmqpUnacknowledged>>()

const got = channel.get({ queue: "q" })
expectType<Equal<Effect.Success<typeof got>, Option.Option<Got<AmqpDelivery>>>>()
const gotUnacknowledged = channel.get({ queue: "q", noAck: true })
expectType<Equal<Effect.Success<typeof gotUnacknowledged>, Option.Option<Got<AmqpUnacknowledged>>>>()

// What the broker has forgotten cannot be settled: there is no way to write it.
expectType<Equal<Extract<keyof AmqpUnacknowledged, "ack" | "nack" | "reject">, never>>()

declare const delivery: AmqpDelivery
call(delivery.nack({ requeue: false }))
call(channel.ack({ deliveryTag: 0, multiple: true }))
// @ts-expect-error - an option, not a position
call(delivery.nack(false))
// @ts-expect-error - one delivery is one delivery: `channel.ack` has multiple
call(delivery.nack({ multiple: true }))
// @ts-expect-error - there is nothing to requeue
call(channel.ack({ deliveryTag: 1, requeue: true }))
// @ts-expect-error - the specification has no multiple reject
call(channel.reject({ deliveryTag: 1, multiple: true }))
// @ts-expect-error - only a channel makes deliveries
delivery.body = new Uint8Array()

// -----------------------------------------------------------------------------
// connections
// -----------------------------------------------------------------------------

call(AmqpConnection.make({ url: "amqp://localhost", heartbeat: "10 seconds", tls: { caFile: "ca.pem" } }))
call(AmqpConnection.make({ credentials: { username: "u", password: Redacted.make("p") }, mechanisms: ["EXTERNAL"] }))

// @ts-expect-error - a password is Redacted
call(AmqpConnection.make({ credentials: { username: "u", password: "p" } }))
// @ts-expect-error - so is the key of a certificate
call(AmqpConnection.make({ tls: { key: "-----BEGIN PRIVATE KEY-----" } }))
// @ts-expect-error - Node's name for it is not ours
call(AmqpConnection.make({ tls: { rejectUnauthorized: false } }))
// @ts-expect-error - a mechanism that is not built in is made with AmqpAuth.make
call(AmqpConnection.make({ mechanisms: ["SCRAM-SHA-256"] }))
// @ts-expect-error - the name of the option is vhost
call(AmqpConnection.make({ virtualHost: "/" }))
// @ts-expect-error - a lost connection is not replaced
call(AmqpConnection.make({ reconnect: true }))
// @ts-expect-error - a duration has a unit
call(AmqpConnection.make({ heartbeat: "10" }))

// @ts-expect-error - a delivery settles itself: by its number alone it could be of another channel
call(channel.ack(delivery))

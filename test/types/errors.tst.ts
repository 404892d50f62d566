/**
 * What each operation can fail with, and nothing else.
 */
import { type Cause, type Config, Effect, type Layer, type Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import type { AmqpDelivery, AmqpSupervisedDelivery, Settled } from "../../src/AmqpDelivery.ts"
import type {
  AmqpAccessRefused,
  AmqpChannelClosed,
  AmqpCloseUnanswered,
  AmqpConnectionError,
  AmqpConsumerCancelled,
  AmqpContentTooLarge,
  AmqpEncodeError,
  AmqpMessageReturned,
  AmqpNotFound,
  AmqpPreconditionFailed,
  AmqpPublishNacked,
  AmqpPublishUnconfirmed,
  AmqpResourceLocked,
  AmqpStaleDelivery,
  NotAllowed,
  SoftError
} from "../../src/AmqpError.ts"
import type { AmqpTopologyError, AmqpTopologyInvalid } from "../../src/AmqpTopology.ts"
import type { AmqpTransport } from "../../src/AmqpTransport.ts"
import type { AmqpUriError } from "../../src/AmqpUri.ts"
import type * as NodeAmqp from "../../src/NodeAmqp.ts"
import { type Equal, expectType } from "./assert.ts"

type Channel = AmqpChannel.AmqpChannel
type Connection = AmqpConnection.AmqpConnection

/** The errors of an Effect, or of the Effects that a function returns. */
type ErrorOf<T> = T extends (...args: never) => Effect.Effect<unknown, infer E, unknown> ? E
  : T extends Effect.Effect<unknown, infer E, unknown> ? E
  : "no operation"

/** The errors of all operations of a handle, but for those that are tested on their own. */
type ErrorsOf<T, Others extends keyof T> = {
  readonly [K in Exclude<keyof T, symbol | `~${string}` | Others>]: ErrorOf<T[K]>
}

// -----------------------------------------------------------------------------
// a channel for a function
// -----------------------------------------------------------------------------

const used = AmqpChannel.use((channel) => Effect.as(channel.publish({ body: "x" }), 1))
expectType<
  Equal<
    typeof used,
    Effect.Effect<number, AmqpChannel.PublishError | SoftError | AmqpCloseUnanswered, Connection>
  >
>()
// The scope is the function's, and ends before the channel.
const consumed = AmqpChannel.use((channel) => channel.consume({ queue: "q" }))
expectType<Equal<Effect.Services<typeof consumed>, Connection>>()

// -----------------------------------------------------------------------------
// operations of a channel
// -----------------------------------------------------------------------------

type Ended = AmqpChannelClosed | AmqpConnectionError
type Named = Ended | AmqpEncodeError

// Every operation is here: a new one has to state its errors before this compiles again.
expectType<
  Equal<
    ErrorsOf<Channel, "id" | "epoch" | "transaction">,
    {
      readonly exchangeDeclare: AmqpAccessRefused | AmqpPreconditionFailed | Named
      readonly exchangeDeclarePassive: AmqpAccessRefused | AmqpNotFound | Named
      readonly exchangeDelete: AmqpAccessRefused | AmqpPreconditionFailed | Named
      readonly exchangeBind: AmqpAccessRefused | AmqpNotFound | AmqpPreconditionFailed | Named
      readonly exchangeUnbind: AmqpAccessRefused | AmqpNotFound | Named

      readonly queueDeclare: AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | AmqpPreconditionFailed | Named
      readonly queueDeclarePassive: AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | Named
      readonly queueBind: AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | AmqpPreconditionFailed | Named
      readonly queueUnbind: AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | Named
      readonly queuePurge: AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | Named
      readonly queueDelete: AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | AmqpPreconditionFailed | Named

      readonly qos: Named
      readonly publish:
        | AmqpAccessRefused
        | AmqpNotFound
        | AmqpPreconditionFailed
        | AmqpContentTooLarge
        | AmqpPublishNacked
        | AmqpMessageReturned
        | AmqpPublishUnconfirmed
        | Named
      readonly get: AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | Named
      readonly consume: AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | AmqpPreconditionFailed | Named
      readonly cancel: Named

      readonly ack: AmqpStaleDelivery
      readonly nack: AmqpStaleDelivery
      readonly reject: AmqpStaleDelivery
      readonly recover: Ended

      readonly confirmSelect: AmqpPreconditionFailed | Ended
      readonly waitForConfirms: Ended
      readonly flow: Ended

      readonly close: never
      readonly closed: never
    }
  >
>()

declare const channel: Channel

// A transaction adds its own errors to those of what it runs, and hides none.
declare const work: Effect.Effect<number, AmqpResourceLocked, AmqpTransport>
const transaction = channel.transaction(work)
expectType<
  Equal<
    typeof transaction,
    Effect.Effect<
      number,
      | AmqpResourceLocked
      | AmqpAccessRefused
      | AmqpNotFound
      | AmqpPreconditionFailed
      | AmqpContentTooLarge
      | AmqpMessageReturned
      | Ended,
      AmqpTransport
    >
  >
>()

// -----------------------------------------------------------------------------
// consumers and deliveries
// -----------------------------------------------------------------------------

const consuming = channel.consume({ queue: "orders" })
expectType<Equal<Effect.Services<typeof consuming>, Scope.Scope>>()
type Consumer = Effect.Success<typeof consuming>
expectType<Equal<Consumer["deliveries"], Stream.Stream<AmqpDelivery, AmqpConsumerCancelled | Ended>>>()
expectType<Equal<Consumer["cancel"], Effect.Effect<void, Ended>>>()

declare const delivery: AmqpDelivery
expectType<Equal<typeof delivery.ack, Effect.Effect<Settled, AmqpStaleDelivery>>>()
expectType<Equal<ReturnType<typeof delivery.nack>, Effect.Effect<Settled, AmqpStaleDelivery>>>()
expectType<Equal<ReturnType<typeof delivery.reject>, Effect.Effect<Settled, AmqpStaleDelivery>>>()

declare const consumer: Consumer
const settled = Stream.runForEach(consumer.deliveries, (delivery) => delivery.ack)
expectType<Equal<Effect.Error<typeof settled>, AmqpConsumerCancelled | AmqpStaleDelivery | Ended>>()

// -----------------------------------------------------------------------------
// consumers that outlive their connections
// -----------------------------------------------------------------------------

type Failed = AmqpConsumer.AmqpConsumerFailed

// All that can go wrong on the way is in one error, or recovered from.
const streamed = AmqpConsumer.stream(["orders", "returns"], { prefetch: 10 })
expectType<Equal<typeof streamed, Stream.Stream<AmqpSupervisedDelivery, Failed, Connection>>>()
const supervised = AmqpConsumer.make("orders")
expectType<Equal<typeof supervised, Effect.Effect<AmqpConsumer.AmqpConsumer, Failed, Connection>>>()
expectType<
  Equal<ErrorsOf<AmqpConsumer.AmqpConsumer, "deliveries" | "changes">, {
    readonly setPrefetch: AmqpEncodeError
    readonly status: never
  }>
>()
expectType<Equal<AmqpConsumer.AmqpConsumer["deliveries"], Stream.Stream<AmqpSupervisedDelivery, Failed>>>()
expectType<Equal<AmqpConsumer.AmqpConsumer["changes"], Stream.Stream<AmqpConsumer.Status>>>()

// A delivery of an earlier epoch is no failure.
declare const supervisedDelivery: AmqpSupervisedDelivery
type SupervisedSettle = Effect.Effect<Settled | AmqpStaleDelivery>
expectType<Equal<typeof supervisedDelivery.ack, SupervisedSettle>>()
expectType<Equal<ReturnType<typeof supervisedDelivery.nack>, SupervisedSettle>>()
expectType<Equal<ReturnType<typeof supervisedDelivery.reject>, SupervisedSettle>>()

declare const handler: (delivery: AmqpSupervisedDelivery) => Effect.Effect<void, AmqpNotFound, AmqpTransport>

// Without a policy a handler's failure is the consumer's, with one it is not.
const unhandled = AmqpConsumer.run("orders", handler)
expectType<
  Equal<typeof unhandled, Effect.Effect<void, Failed | AmqpNotFound | Cause.TimeoutError, AmqpTransport | Connection>>
>()
const handled = AmqpConsumer.run("orders", handler, { onFailure: AmqpConsumer.requeue })
expectType<Equal<typeof handled, Effect.Effect<void, Failed, AmqpTransport | Connection>>>()

// A policy sees what the handler failed with, and answers with a disposition.
export const byPolicy = AmqpConsumer.run("orders", handler, {
  onFailure: (cause, delivery) => {
    expectType<Equal<typeof cause, Cause.Cause<AmqpNotFound | Cause.TimeoutError>>>()
    expectType<Equal<typeof delivery, AmqpSupervisedDelivery>>()
    return AmqpConsumer.deadLetter
  }
})
// @ts-expect-error - an Effect is no disposition
export const noPolicy = AmqpConsumer.run("orders", handler, { onFailure: () => Effect.void })
// @ts-expect-error - what nobody acknowledges cannot be settled by an exit
export const unacknowledged = AmqpConsumer.run("orders", handler, { noAck: true })

expectType<
  Equal<
    Failed["reason"],
    | AmqpAccessRefused
    | AmqpNotFound
    | AmqpResourceLocked
    | AmqpPreconditionFailed
    | AmqpConsumerCancelled
    | AmqpTopologyError
    | AmqpTopologyInvalid
    | Named
  >
>()

// -----------------------------------------------------------------------------
// connections
// -----------------------------------------------------------------------------

type Connect = AmqpConnectionError | AmqpUriError | AmqpEncodeError

const connecting = AmqpConnection.make()
expectType<
  Equal<typeof connecting, Effect.Effect<Connection, Connect, AmqpTransport | Scope.Scope>>
>()
expectType<
  Equal<ReturnType<typeof AmqpConnection.layer>, Layer.Layer<Connection, Connect, AmqpTransport>>
>()
expectType<
  Equal<
    ReturnType<typeof AmqpConnection.layerConfig>,
    Layer.Layer<Connection, Connect | Config.ConfigError, AmqpTransport>
  >
>()
expectType<Equal<ReturnType<typeof NodeAmqp.layer>, Layer.Layer<Connection, Connect>>>()
expectType<
  Equal<
    ReturnType<typeof NodeAmqp.layerConfig>,
    Layer.Layer<Connection, Connect | Config.ConfigError>
  >
>()

// Every operation is here, as above.
expectType<
  Equal<
    ErrorsOf<Connection, "changes" | "publishing">,
    {
      readonly status: never
      readonly server: AmqpConnectionError
      readonly updateSecret: AmqpConnectionError | AmqpEncodeError
      readonly close: never
      readonly closed: never
    }
  >
>()
expectType<Equal<Connection["changes"], Stream.Stream<AmqpConnection.Status>>>()

expectType<
  Equal<typeof AmqpChannel.open, Effect.Effect<Channel, Ended, Connection | Scope.Scope>>
>()
const numbered = AmqpChannel.make({ id: 7 })
expectType<Equal<typeof numbered, Effect.Effect<Channel, Named, Connection | Scope.Scope>>>()
expectType<Equal<typeof AmqpChannel.layer, Layer.Layer<Channel, Ended, Connection>>>()

// -----------------------------------------------------------------------------
// recovery
// -----------------------------------------------------------------------------

// What was caught is gone from the type, so that the compiler proves the rest.
const declared = channel.queueDeclare({ queue: "orders" }).pipe(
  Effect.catchTag("AmqpPreconditionFailed", () => channel.queueDeclarePassive("orders"))
)
expectType<Equal<Effect.Error<typeof declared>, AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked | Named>>()

const onlySoft = channel.queuePurge("orders").pipe(
  Effect.catchTag(["AmqpConnectionError", "AmqpChannelClosed", "AmqpEncodeError"], () => Effect.succeed(0))
)
expectType<Equal<Effect.Error<typeof onlySoft>, AmqpAccessRefused | AmqpNotFound | AmqpResourceLocked>>()

// @ts-expect-error - a purge cannot be refused as a precondition
export const refused = Effect.catchTag(channel.queuePurge("orders"), "AmqpPreconditionFailed", () => Effect.succeed(0))

// A reason of a connection error is caught by its name; the error itself stays, for the other reasons.
const vhostMissing = connecting.pipe(
  Effect.catchReason("AmqpConnectionError", "NotAllowed", (reason) => {
    expectType<Equal<typeof reason, NotAllowed>>()
    return Effect.succeed(reason.replyText)
  })
)
expectType<Equal<Effect.Success<typeof vhostMissing>, Connection | string>>()
expectType<Equal<Effect.Error<typeof vhostMissing>, Connect>>()

// Of all reasons, `unwrapReason` makes errors of their own.
const unwrapped = Effect.unwrapReason(connecting, "AmqpConnectionError")
expectType<Equal<Effect.Error<typeof unwrapped>, AmqpConnectionError["reason"] | AmqpUriError | AmqpEncodeError>>()

// @ts-expect-error - the reason has another name
export const renamed = Effect.catchReason(connecting, "AmqpConnectionError", "VhostNotFound", () => Effect.succeed(0))

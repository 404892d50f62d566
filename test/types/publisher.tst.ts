import type { Effect, Layer, Schedule, Scope, Sink } from "effect"
import type { AmqpConnection } from "../../src/AmqpConnection.ts"
import type {
  AmqpAccessRefused,
  AmqpChannelClosed,
  AmqpConnectionError,
  AmqpContentTooLarge,
  AmqpEncodeError,
  AmqpMessageReturned,
  AmqpNotFound,
  AmqpPreconditionFailed,
  AmqpPublishNacked,
  AmqpPublishUnconfirmed
} from "../../src/AmqpError.ts"
import type { Publish } from "../../src/AmqpMessage.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import { type Equal, expectType } from "./assert.ts"

declare const publisher: AmqpPublisher.AmqpPublisher
declare const message: Publish
declare const resend: Schedule.Schedule<number, AmqpPublisher.PublishError>
declare const failing: Schedule.Schedule<number, AmqpPublisher.PublishError, Error>

const once = publisher.publish(message)
const again = publisher.publish(message, { resend })
const all = publisher.publishAll([message], { resend })
const sink = publisher.sink()
const resending = publisher.sink({ resend })
const made = AmqpPublisher.make()
const layer = AmqpPublisher.layer({ maxInFlight: 1 })

type Final =
  | AmqpAccessRefused
  | AmqpNotFound
  | AmqpPreconditionFailed
  | AmqpContentTooLarge
  | AmqpMessageReturned
  | AmqpChannelClosed
  | AmqpConnectionError
  | AmqpEncodeError
type Once = Final | AmqpPublishNacked | AmqpPublishUnconfirmed
type Again = Final | AmqpPublisher.AmqpResendFailed
type OpenError = AmqpChannelClosed | AmqpConnectionError | AmqpEncodeError

expectType<Equal<typeof once, Effect.Effect<void, Once>>>()
// What is transient is not seen on its own.
expectType<Equal<typeof again, Effect.Effect<void, Again>>>()
expectType<Equal<typeof all, Effect.Effect<void, AmqpPublisher.AmqpBatchError>>>()
expectType<Equal<typeof sink, Sink.Sink<void, Publish, never, Once>>>()
expectType<Equal<typeof resending, Sink.Sink<void, Publish, never, Again>>>()
expectType<Equal<typeof publisher.waitForConfirms, Effect.Effect<void>>>()
expectType<
  Equal<typeof made, Effect.Effect<AmqpPublisher.AmqpPublisher, OpenError, AmqpConnection | Scope.Scope>>
>()
expectType<Equal<typeof layer, Layer.Layer<AmqpPublisher.AmqpPublisher, OpenError, AmqpConnection>>>()

// @ts-expect-error - a schedule that can fail would hide what became of the message
publisher.publish(message, { resend: failing })

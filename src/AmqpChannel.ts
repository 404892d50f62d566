/**
 * A channel: every operation of AMQP 0-9-1 and of RabbitMQ's extensions under its own name, scoped, with exactly the
 * errors that it can meet.
 *
 * A channel belongs to one epoch of its connection. It ends with the epoch, or with the first operation that the broker
 * refuses. Operations of many fibers on one channel are pipelined and do not wait for one another. Closing the scope
 * waits for unsettled confirms, then closes the channel. Both together take at most the connection's `closeTimeout`,
 * which is shared with everything that ends at the same time. `use` reports what the broker says until then.
 *
 * Not offered, because nobody would learn of their failures or RabbitMQ refuses them: `no-wait` (requests are pipelined
 * instead), `immediate`, a `prefetch-size`, `recover` without requeueing, `recover-async`, and class access.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { AmqpConnection } from "./AmqpConnection.ts"
import type { AmqpChannel as Channel } from "./internal/channel/api.ts"
import type { ClosedError, RequestError } from "./internal/channel/errors.ts"
import { openChannel } from "./internal/connection/openChannel.ts"
import type { AmqpCloseUnanswered } from "./internal/errors/channel.ts"
import type { SoftError } from "./internal/errors/soft.ts"

export type {
  ClosedError,
  ConsumeError,
  ConsumerError,
  ExchangeBindError,
  ExchangeDeclareError,
  ExchangeDeclarePassiveError,
  ExchangeDeleteError,
  ExchangeUnbindError,
  GetError,
  PublishError,
  QueueBindError,
  QueueDeclareError,
  QueueDeclarePassiveError,
  QueueDeleteError,
  QueuePurgeError,
  QueueUnbindError,
  RequestError,
  SelectError,
  TransactionError
} from "./internal/channel/errors.ts"
export type {
  ConsumeOptions,
  Consumer,
  ExchangeBindOptions,
  ExchangeDeclareOptions,
  ExchangeDeleteOptions,
  GetOptions,
  Got,
  QosOptions,
  QueueBindOptions,
  QueueDeclareOptions,
  QueueDeleteOptions,
  QueueInfo,
  SettleOptions
} from "./internal/channel/options.ts"

/**
 * A channel of a connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpChannel extends Channel {}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpChannel = Context.Service<AmqpChannel>("effect-amqp/AmqpChannel")

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Opens a channel of the connection and closes it with the scope (specification 1.5.2.1).
 *
 * **Details**
 *
 * `id` asks for a channel number. Fails with `AmqpEncodeError` if it is taken or out of range. Without `id` the
 * connection uses its numbers in turn. Fails with `AmqpConnectionError` (`ChannelsExhausted`) when all are open.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: { readonly id?: number | undefined } = {}
): Effect.Effect<AmqpChannel, RequestError, AmqpConnection | Scope.Scope> =>
  Effect.flatMap(
    AmqpConnection,
    (connection) => Effect.map(openChannel(connection, options.id), ({ channel }) => channel)
  )

/**
 * Opens a channel of the connection and closes it with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open: Effect.Effect<AmqpChannel, ClosedError, AmqpConnection | Scope.Scope> = Effect.catchTag(
  make(),
  "AmqpEncodeError",
  Effect.die
)

/**
 * What `use` can fail with, apart from the errors of its function: there is no channel, the broker refused something,
 * or it did not answer the close.
 *
 * @category errors
 * @since 0.1.0
 */
export type UseError = ClosedError | SoftError | AmqpCloseUnanswered

/**
 * Opens a channel, runs a function with it, and closes it. Fails if the broker has refused something that no operation
 * failed with.
 *
 * **Details**
 *
 * Without confirms a publish succeeds before the broker has seen it. `use` listens to the broker until it has answered
 * the close. If an operation of the function has failed with a refusal, `use` does not report it again, whatever the
 * function made of it. `AmqpCloseUnanswered` means that the close has no answer, because the connection was lost or
 * `closeTimeout` was over, and that the broker has answered nothing since the last publish. Scoped resources of the
 * function end before the channel does.
 *
 * If the function fails or dies, the channel is closed as well, and a refusal of the broker is added to the cause. If
 * the function is interrupted, the channel is closed, and nothing is added.
 *
 * **Example**
 *
 * ```ts
 * const logged = AmqpChannel.use((channel) => channel.publish({ exchange: "logs", body: "hello" })).pipe(
 *   Effect.catchTag("AmqpNotFound", ({ entity, operation }) => Effect.log(`${operation}: there is no ${entity}`))
 * )
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const use = <A, E, R>(
  f: (channel: AmqpChannel) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | UseError, AmqpConnection | Exclude<R, Scope.Scope>> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const connection = yield* AmqpConnection
      const scope = yield* Scope.make()
      const opening = Effect.catchTag(Scope.provide(openChannel(connection), scope), "AmqpEncodeError", Effect.die)
      const open = yield* Effect.onError(
        restore(opening),
        (cause) => Scope.close(scope, Exit.failCause(cause))
      )
      const exit = yield* Effect.exit(restore(Scope.provide(Effect.suspend(() => f(open.channel)), scope)))
      yield* Scope.close(scope, exit)
      if (Exit.isSuccess(exit)) return yield* Effect.as(open.lastWord, exit.value)
      if (Cause.hasInterruptsOnly(exit.cause)) return yield* exit
      return yield* Effect.matchEffect(open.lastWord, {
        onSuccess: () => exit,
        onFailure: (word) => Effect.failCause(Cause.combine(exit.cause, Cause.fail(word)))
      })
    })
  )

/**
 * A channel that everything above the layer shares. It belongs to one epoch. A program that outlives its connections
 * uses `AmqpPublisher` and `AmqpConsumer`, which have channels of their own.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<AmqpChannel, ClosedError, AmqpConnection> = Layer.effect(AmqpChannel, open)

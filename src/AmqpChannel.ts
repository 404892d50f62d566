/**
 * A channel: every operation of AMQP 0-9-1 and of RabbitMQ's extensions under its own name, scoped, with exactly the
 * errors that it can meet.
 *
 * A channel belongs to one epoch of its connection and ends with it, or with the first operation that the broker
 * refuses. Operations of many fibers on one channel are pipelined and do not wait for one another. Closing the scope
 * waits for unsettled confirms, then closes the channel, together within the connection's `closeTimeout`, which it shares
 * with whatever ends at the same time. `use` hears what the broker says until then.
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
 * `id` asks for a channel number; one that is taken or out of range is an `AmqpEncodeError`. Without it the connection
 * picks a number, and uses the numbers in turn. Fails with `AmqpConnectionError` (`ChannelsExhausted`) when all are open.
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
 * What `use` can fail with beside what the function fails with: there is no channel, the broker's last word, or none.
 *
 * @category errors
 * @since 0.1.0
 */
export type UseError = ClosedError | SoftError | AmqpCloseUnanswered

/**
 * Opens a channel, runs a function with it, closes it, and fails with what the broker refused in the meantime and nobody
 * has heard.
 *
 * **Details**
 *
 * Without confirms a publish succeeds before the broker has seen it; `use` hears the broker until it has answered the
 * close. A refusal that an operation of the function failed with is that operation's, whatever the function made of it.
 * `AmqpCloseUnanswered`: the answer did not come, because the connection was lost or `closeTimeout` was over, and nothing
 * that was answered came after the last publish. What needs a scope in the function ends before the channel does.
 *
 * A function that fails or dies closes the channel as well; what the broker has refused is then added to its cause. One
 * that is interrupted closes it, and that is all.
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
 * A channel that everything above the layer shares. It belongs to one epoch: in a program that outlives its connections
 * use `AmqpPublisher` and `AmqpConsumer`, which have channels of their own.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<AmqpChannel, ClosedError, AmqpConnection> = Layer.effect(AmqpChannel, open)

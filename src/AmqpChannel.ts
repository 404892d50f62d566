/**
 * A channel: every operation of AMQP 0-9-1 and of RabbitMQ's extensions under its own name, scoped, with exactly the
 * errors that it can meet.
 *
 * A channel belongs to one epoch of its connection and ends with it, or with the first operation that the broker
 * refuses. Operations of many fibers on one channel are pipelined and do not wait for one another. Closing the scope
 * waits for unsettled confirms, then closes the channel, each within the connection's `closeTimeout`.
 *
 * Not offered, because nobody would learn of their failures or RabbitMQ refuses them: `no-wait` (requests are pipelined
 * instead), `immediate`, a `prefetch-size`, `recover` without requeueing, `recover-async`, and class access.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { AmqpConnection, internals } from "./AmqpConnection.ts"
import { AmqpConnectionError, AmqpEncodeError, ResourceError } from "./AmqpError.ts"
import { makeChannel } from "./internal/channel.ts"
import type { ChannelState } from "./internal/channelState.ts"
import type { AmqpChannel as Channel, CommandError } from "./internal/channelTypes.ts"
import { command, type RequestError } from "./internal/requests.ts"
import type { Session } from "./internal/session.ts"

export type {
  CommandError,
  ConsumeError,
  ConsumeOptions,
  Consumer,
  ConsumerError,
  ExchangeBindError,
  ExchangeBindOptions,
  ExchangeDeclareError,
  ExchangeDeclareOptions,
  ExchangeDeclarePassiveError,
  ExchangeDeleteError,
  ExchangeDeleteOptions,
  ExchangeUnbindError,
  GetError,
  GetOptions,
  Got,
  QosOptions,
  QueueBindError,
  QueueBindOptions,
  QueueDeclareError,
  QueueDeclareOptions,
  QueueDeclarePassiveError,
  QueueDeleteError,
  QueueDeleteOptions,
  QueueInfo,
  QueuePurgeError,
  QueueUnbindError,
  SelectError,
  SettleOptions,
  TransactionError
} from "./internal/channelTypes.ts"
export type { PublishError, RequestError } from "./internal/requests.ts"

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

/** A channel of a number that is free. */
const allocate = (session: Session, id: number | undefined): Effect.Effect<ChannelState, CommandError> => {
  if (session.error !== undefined) return Effect.fail(session.error)
  const state = session.openChannel(id)
  if (state !== undefined) return Effect.succeed(state)
  if (id !== undefined) {
    const reason = `expected a number from 1 to ${session.channelMax} that is not open, not ${id}`
    return Effect.fail(new AmqpEncodeError({ path: "id", reason }))
  }
  const reason = new ResourceError({
    replyCode: 506,
    replyText: `all ${session.channelMax} channels of this connection are open`,
    classId: 20,
    methodId: 10
  })
  return Effect.fail(new AmqpConnectionError({ reason }))
}

/**
 * Opens a channel of the connection and closes it with the scope (specification 1.5.2.1).
 *
 * **Details**
 *
 * `id` asks for a channel number; one that is taken or out of range is an `AmqpEncodeError`. Without it the connection
 * picks a number, and uses the numbers in turn. Fails with `AmqpConnectionError` (`ResourceError`) when all are open.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: { readonly id?: number | undefined } = {}
): Effect.Effect<AmqpChannel, CommandError, AmqpConnection | Scope.Scope> =>
  Effect.gen(function*() {
    const { closeTimeout, session } = (yield* AmqpConnection)[internals]()
    return yield* Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const state = yield* Effect.suspend(() => allocate(session, options.id))
        const channel = makeChannel(session, state, closeTimeout)
        yield* Effect.addFinalizer(() => channel.close)
        yield* restore(command(state, { _tag: "channel.open" }, {
          soft: [],
          onReply: () => {},
          onLateReply: () => state.close()
        }))
        return channel
      })
    )
  })

/**
 * Opens a channel of the connection and closes it with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open: Effect.Effect<AmqpChannel, RequestError, AmqpConnection | Scope.Scope> = Effect.catchTag(
  make(),
  "AmqpEncodeError",
  Effect.die
)

/**
 * A channel that everything above the layer shares.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<AmqpChannel, RequestError, AmqpConnection> = Layer.effect(AmqpChannel, open)

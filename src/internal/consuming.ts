/**
 * Consumers as scoped Effects: subscribing, the stream of deliveries, cancelling, and giving back what was not settled.
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { AmqpDelivery, AmqpUnacknowledged } from "../AmqpDelivery.ts"
import { AmqpConnectionError, AmqpEncodeError } from "../AmqpError.ts"
import type { AmqpMessage } from "../AmqpMessage.ts"
import type { ChannelState, Request } from "./channelState.ts"
import type { CommandError, ConsumeError, ConsumeOptions, Consumer, ConsumerError } from "./channelTypes.ts"
import { type ConsumerEnd, type ConsumerEntry, Deliveries, type MakeDelivery, type Pulled } from "./deliveries.ts"
import { channelClosed, request, type RequestError } from "./requests.ts"
import type { Session } from "./session.ts"

const ended = (end: ConsumerEnd, channel: ChannelState): Effect.Effect<never, ConsumerError | Cause.Done> => {
  switch (end._tag) {
    case "Cancelled":
      return Cause.done()
    case "CancelledByBroker":
      return Effect.fail(end.error)
    case "ChannelClosed":
      return Effect.fail(end.cause instanceof AmqpConnectionError ? end.cause : channelClosed(channel, "basic.deliver"))
  }
}

const isEnd = <D>(pulled: Pulled<D>): pulled is ConsumerEnd => "_tag" in pulled

/** One Effect per pulled array; none per delivery. */
const deliveriesOf = <D extends AmqpMessage>(
  deliveries: Deliveries<D>,
  channel: ChannelState
): Stream.Stream<D, ConsumerError> =>
  Stream.fromPull(Effect.succeed(
    Effect.callback<Arr.NonEmptyReadonlyArray<D>, ConsumerError | Cause.Done>((resume) => {
      const callback = (pulled: Pulled<D>): void => {
        if (isEnd(pulled)) resume(ended(pulled, channel))
        else resume(Effect.succeed(pulled))
      }
      deliveries.pull(callback)
      return Effect.sync(() => deliveries.unpull(callback))
    })
  ))

/** Subscribes a channel's consumers. */
export interface Consuming {
  consume(
    options: ConsumeOptions & { readonly noAck: true }
  ): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
  consume(
    options: ConsumeOptions & { readonly noAck?: false | undefined }
  ): Effect.Effect<Consumer<AmqpDelivery>, ConsumeError, Scope.Scope>
  consume(options: ConsumeOptions): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
  /** `consume` with deliveries of the caller's making. */
  readonly consumeWith: <D extends AmqpUnacknowledged>(
    options: ConsumeOptions,
    make: MakeDelivery<D>
  ) => Effect.Effect<Consumer<D>, ConsumeError, Scope.Scope>
  readonly cancel: (consumerTag: string) => Effect.Effect<void, CommandError>
}

/** `bounded` limits what a finalizer waits for. */
export const makeConsuming = (
  session: Session,
  state: ChannelState,
  bounded: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<void>
): Consuming => {
  /** Consumers that wait for their `consume-ok`. */
  const consuming = new Map<string, Latch.Latch>()

  /** `basic.cancel` before `consume-ok` would end the connection (541). */
  const answered = (consumerTag: string): Effect.Effect<void> =>
    Effect.suspend(() => consuming.get(consumerTag)?.await ?? Effect.void)

  const cancel = (consumerTag: string): Effect.Effect<void, CommandError> =>
    Effect.andThen(
      answered(consumerTag),
      Effect.suspend(() => {
        // By the time of the reply the tag may be another's.
        const consumer = state.consumer(consumerTag)
        const onReply = () => consumer && state.endConsumer(consumer)
        return request(state, { _tag: "basic.cancel", consumerTag, noWait: false }, {
          soft: [],
          onReply,
          onLateReply: onReply
        })
      })
    )

  const isSubscribed = (consumer: ConsumerEntry): boolean => state.consumer(consumer.consumerTag) === consumer

  /** Cancels a consumer, unless it has ended. */
  const stop = (consumer: ConsumerEntry): Effect.Effect<void, RequestError> =>
    Effect.suspend(() =>
      isSubscribed(consumer)
        // A tag that was sent once can be sent again.
        ? Effect.catchTag(cancel(consumer.consumerTag), "AmqpEncodeError", Effect.die)
        : Effect.void
    )

  /** Cancels a consumer and gives back what was not settled; calls back when that is done. */
  const cancelUnsafe = <D extends AmqpMessage>(deliveries: Deliveries<D>, done: () => void): void => {
    const giveBack = () => {
      state.requeueAll(deliveries)
      state.removeConsumer(deliveries)
      done()
    }
    if (state.isClosed) return done()
    // Cancelled already, by `cancel` or by the broker.
    if (!isSubscribed(deliveries)) return giveBack()
    state.request({ _tag: "basic.cancel", consumerTag: deliveries.consumerTag, noWait: false }, {
      entity: deliveries.queue,
      onReply: giveBack,
      onFailure: done
    })
  }

  const unsubscribe = <D extends AmqpMessage>(deliveries: Deliveries<D>): Effect.Effect<void> =>
    Effect.andThen(
      answered(deliveries.consumerTag),
      Effect.callback<void>((resume) => cancelUnsafe(deliveries, () => resume(Effect.void)))
    )

  const subscribe = <D extends AmqpMessage>(
    deliveries: Deliveries<D>,
    consume: Request<"basic.consume">
  ): Effect.Effect<void, ConsumeError> => {
    const { consumerTag } = deliveries
    const latch = Latch.makeUnsafe(false)
    const onAnswer = (): void => {
      consuming.delete(consumerTag)
      latch.openUnsafe()
    }
    return Effect.suspend(() => {
      // Deliveries may be in the same chunk as the reply.
      state.addConsumer(deliveries)
      consuming.set(consumerTag, latch)
      return request(state, consume, {
        entity: deliveries.queue,
        soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked", "AmqpPreconditionFailed"],
        onReply: onAnswer,
        onLateReply: () => {
          onAnswer()
          cancelUnsafe(deliveries, () => {})
        }
      })
    }).pipe(Effect.onError((cause) =>
      Effect.sync(() => {
        // An interrupted subscription is answered all the same, unless the channel goes.
        if (Cause.hasInterruptsOnly(cause)) return state.onClosed(onAnswer)
        state.removeConsumer(deliveries)
        onAnswer()
      })
    ))
  }

  const start = <D extends AmqpMessage>(
    deliveries: Deliveries<D>,
    { arguments: args = {}, exclusive = false }: ConsumeOptions
  ): Effect.Effect<Consumer<D>, ConsumeError, Scope.Scope> => {
    const { consumerTag, noAck, queue } = deliveries
    if (state.consumer(consumerTag) !== undefined) {
      const reason = "this channel has a consumer of that tag"
      return Effect.fail(new AmqpEncodeError({ path: "consumerTag", reason }))
    }
    // The finalizer comes first: no interruption can fall between the reply and it.
    return Effect.addFinalizer(() => bounded(unsubscribe(deliveries))).pipe(
      Effect.andThen(subscribe(deliveries, {
        _tag: "basic.consume",
        queue,
        consumerTag,
        noLocal: false,
        noAck,
        exclusive,
        noWait: false,
        arguments: args
      })),
      Effect.as({ consumerTag, deliveries: deliveriesOf(deliveries, state), cancel: stop(deliveries) })
    )
  }

  const consumeWith = <D extends AmqpUnacknowledged>(options: ConsumeOptions, make: MakeDelivery<D>) =>
    Effect.suspend(() => {
      const { noAck = false, queue } = options
      // An empty one would be the broker's to choose, and its choice comes too late for the first deliveries.
      const consumerTag = options.consumerTag || session.consumerTag()
      return start(new Deliveries({ consumerTag, queue, noAck }, make, session), options)
    })

  function consume(
    options: ConsumeOptions & { readonly noAck: true }
  ): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
  function consume(
    options: ConsumeOptions & { readonly noAck?: false | undefined }
  ): Effect.Effect<Consumer<AmqpDelivery>, ConsumeError, Scope.Scope>
  function consume(options: ConsumeOptions): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
  function consume(options: ConsumeOptions): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope> {
    return consumeWith<AmqpUnacknowledged>(
      options,
      options.noAck === true
        ? (deliveryTag, redelivered, exchange, routingKey, content) =>
          new AmqpUnacknowledged(deliveryTag, redelivered, exchange, routingKey, content)
        : (deliveryTag, redelivered, exchange, routingKey, content) =>
          new AmqpDelivery(state, deliveryTag, redelivered, exchange, routingKey, content)
    )
  }

  return { consume, consumeWith, cancel }
}

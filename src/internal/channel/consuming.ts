/**
 * Consumers as scoped Effects: subscribing, the stream of deliveries, cancelling, and giving back what was not settled.
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { AmqpMessage } from "../codec/message.ts"
import type { ChannelState } from "../engine/channelState.ts"
import {
  type ConsumerEnd,
  type ConsumerEntry,
  Deliveries,
  type MakeDelivery,
  type Pulled
} from "../engine/deliveries.ts"
import type { Session } from "../engine/session.ts"
import type { ChannelCloseCause } from "../errors/channel.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import { AmqpEncodeError } from "../errors/value.ts"
import { AmqpDelivery, AmqpUnacknowledged } from "./delivery.ts"
import type { ClosedError, ConsumeError, ConsumerError, RequestError } from "./errors.ts"
import type { ConsumeOptions, Consumer } from "./options.ts"
import { channelClosed, request } from "./requests.ts"

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

/** Options of `basic.consume` that are not properties of the consumer. */
export type SubscribeOptions = Pick<ConsumeOptions, "exclusive" | "arguments">

/** Waits for the end of a `basic.cancel`. */
interface Cancelling {
  readonly onReply: () => void
  readonly onFailure: (cause: ChannelCloseCause) => void
}

/** Subscribes a channel's consumers. */
export interface Consuming {
  /** Subscribes a consumer. Interrupted, it is cancelled as soon as the broker has answered. */
  readonly subscribe: (consumer: ConsumerEntry, options: SubscribeOptions) => Effect.Effect<void, ConsumeError>
  /** Cancels a consumer, unless it has ended, and waits for the answer. */
  readonly stop: (consumer: ConsumerEntry) => Effect.Effect<void, ClosedError>
  /** Cancels a consumer, unless it has ended, as soon as that may be done; waits for nothing. */
  readonly leave: (consumer: ConsumerEntry) => void
  consume(
    options: ConsumeOptions & { readonly noAck: true }
  ): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
  consume(
    options: ConsumeOptions & { readonly noAck?: false | undefined }
  ): Effect.Effect<Consumer<AmqpDelivery>, ConsumeError, Scope.Scope>
  consume(options: ConsumeOptions): Effect.Effect<Consumer<AmqpUnacknowledged>, ConsumeError, Scope.Scope>
  readonly cancel: (consumerTag: string) => Effect.Effect<void, RequestError>
}

/** `bounded` limits what a finalizer waits for. */
export const makeConsuming = (
  session: Session,
  state: ChannelState,
  bounded: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<void>
): Consuming => {
  /** Consumers without their `consume-ok`, and the callbacks that wait for it. */
  const consuming = new Map<string, Array<() => void>>()

  /** `basic.cancel` before `consume-ok` would end the connection (541). */
  const whenAnswered = (consumerTag: string, callback: () => void): void => {
    const waiting = consuming.get(consumerTag)
    if (waiting === undefined) callback()
    else waiting.push(callback)
  }

  const answered = (consumerTag: string): Effect.Effect<void> =>
    Effect.callback((resume) => whenAnswered(consumerTag, () => resume(Effect.void)))

  /** Consumers without their `cancel-ok`, and the callbacks that wait for it. */
  const cancelling = new Map<ConsumerEntry, Array<Cancelling>>()

  /**
   * Cancels a consumer once. The broker would answer a second `basic.cancel` at once, maybe ahead of deliveries that
   * come before its answer to the first.
   */
  const cancelUnsafe = (consumer: ConsumerEntry, waiter: Cancelling): void => {
    const waiting = cancelling.get(consumer)
    if (waiting !== undefined) return void waiting.push(waiter)
    const waiters = [waiter]
    cancelling.set(consumer, waiters)
    const { consumerTag, queue } = consumer
    state.request({ _tag: "basic.cancel", consumerTag, noWait: false }, {
      entity: queue,
      onReply: () => {
        cancelling.delete(consumer)
        state.endConsumer(consumer)
        for (const { onReply } of waiters) onReply()
      },
      onFailure: (cause) => {
        cancelling.delete(consumer)
        for (const { onFailure } of waiters) onFailure(cause)
      }
    })
  }

  const isSubscribed = (consumer: ConsumerEntry): boolean => state.consumer(consumer.consumerTag) === consumer

  /** Cancels a consumer, unless it has ended. */
  const stop = (consumer: ConsumerEntry): Effect.Effect<void, ClosedError> =>
    Effect.callback((resume) => {
      if (!isSubscribed(consumer)) return resume(Effect.void)
      cancelUnsafe(consumer, {
        onReply: () => resume(Effect.void),
        onFailure: (cause) =>
          resume(Effect.fail(cause instanceof AmqpConnectionError ? cause : channelClosed(state, "basic.cancel")))
      })
    })

  const cancel = (consumerTag: string): Effect.Effect<void, RequestError> =>
    Effect.andThen(
      answered(consumerTag),
      Effect.suspend(() => {
        const consumer = state.consumer(consumerTag)
        return consumer === undefined
          ? request(state, { _tag: "basic.cancel", consumerTag, noWait: false }, { soft: [], onReply: () => {} })
          : stop(consumer)
      })
    )

  /** Cancels a consumer, unless it has ended, and gives back what was not settled. */
  const release = (consumer: ConsumerEntry, done: () => void): void => {
    const giveBack = () => {
      state.requeueAll(consumer)
      done()
    }
    if (isSubscribed(consumer)) cancelUnsafe(consumer, { onReply: giveBack, onFailure: done })
    else giveBack()
  }

  const unsubscribe = (consumer: ConsumerEntry): Effect.Effect<void> =>
    Effect.andThen(
      answered(consumer.consumerTag),
      Effect.callback<void>((resume) => release(consumer, () => resume(Effect.void)))
    )

  const leave = (consumer: ConsumerEntry): void =>
    whenAnswered(consumer.consumerTag, () => {
      if (isSubscribed(consumer)) cancelUnsafe(consumer, { onReply: () => {}, onFailure: () => {} })
    })

  const subscribe = (
    consumer: ConsumerEntry,
    { arguments: args = {}, exclusive = false }: SubscribeOptions
  ): Effect.Effect<void, ConsumeError> => {
    const { consumerTag, noAck, queue } = consumer
    const onAnswer = (): void => {
      const waiting = consuming.get(consumerTag) ?? []
      consuming.delete(consumerTag)
      for (const callback of waiting) callback()
    }
    return Effect.suspend(() => {
      if (state.consumer(consumerTag) !== undefined) {
        const reason = "this channel has a consumer of that tag"
        return Effect.fail(new AmqpEncodeError({ path: "consumerTag", reason }))
      }
      // Deliveries may be in the same chunk as the reply.
      state.addConsumer(consumer)
      consuming.set(consumerTag, [])
      const consume = {
        _tag: "basic.consume",
        queue,
        consumerTag,
        noLocal: false,
        noAck,
        exclusive,
        noWait: false,
        arguments: args
      } as const
      return request(state, consume, {
        entity: queue,
        soft: ["AmqpAccessRefused", "AmqpNotFound", "AmqpResourceLocked", "AmqpPreconditionFailed"],
        onReply: onAnswer,
        onLateReply: () => {
          onAnswer()
          release(consumer, () => {})
        }
      }).pipe(Effect.onError((cause) =>
        Effect.sync(() => {
          // The broker answers an interrupted subscription too, unless the channel goes.
          if (Cause.hasInterruptsOnly(cause)) return state.onClosed(onAnswer)
          state.removeConsumer(consumer)
          onAnswer()
        })
      ))
    })
  }

  const consumeWith = <D extends AmqpUnacknowledged>(options: ConsumeOptions, make: MakeDelivery<D>) =>
    Effect.suspend(() => {
      const { noAck = false, queue } = options
      // With an empty tag the broker would choose one, and tell it too late for the first deliveries.
      const consumerTag = options.consumerTag || session.consumerTag()
      const deliveries = new Deliveries({ consumerTag, queue, channel: state.id, noAck }, make, session)
      // The finalizer comes first: no interruption can fall between the reply and it.
      return Effect.addFinalizer(() => bounded(unsubscribe(deliveries))).pipe(
        Effect.andThen(subscribe(deliveries, options)),
        Effect.as({ consumerTag, deliveries: deliveriesOf(deliveries, state), cancel: stop(deliveries) })
      )
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
        ? (deliveryTag, redelivered, exchange, routingKey, content, source) =>
          new AmqpUnacknowledged(deliveryTag, redelivered, exchange, routingKey, content, source)
        : (deliveryTag, redelivered, exchange, routingKey, content, source) =>
          new AmqpDelivery(state, deliveryTag, redelivered, exchange, routingKey, content, source)
    )
  }

  return { subscribe, stop, leave, consume, cancel }
}

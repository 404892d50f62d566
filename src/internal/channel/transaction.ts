/**
 * Transactions of a channel: one after another, each committed or rolled back by the exit of its effect.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Semaphore from "effect/Semaphore"
import type { ChannelState } from "../engine/channelState.ts"
import { AmqpChannelClosed } from "../errors/channel.ts"
import type { AmqpChannel } from "./api.ts"
import type { PublishRefusal, TransactionError } from "./errors.ts"
import { channelClosed, command, publishRefusal } from "./requests.ts"

const nothing = (): void => {}

/** The channels whose transactions the fiber is inside of. */
const OpenTransactions = Context.Reference<ReadonlyArray<ChannelState>>("effect-amqp/OpenTransactions", {
  defaultValue: () => []
})

/** Makes `transaction` of a channel. */
export const makeTransaction = (state: ChannelState): AmqpChannel["transaction"] => {
  const transacting = Semaphore.makeUnsafe(1)
  const select = command(state, { _tag: "tx.select" }, { soft: ["AmqpPreconditionFailed"], onReply: nothing })
  const commit = command(state, { _tag: "tx.commit" }, { soft: ["AmqpPreconditionFailed"], onReply: nothing })
  const rollback = command(state, { _tag: "tx.rollback" }, { soft: [], onReply: nothing })

  /**
   * A refused publish closes the channel, and nothing waits for a publish. So what fails with the closed channel fails
   * with that refusal.
   */
  const becauseOfPublish = <A, E>(exit: Exit.Exit<A, E>): Exit.Exit<A, E | PublishRefusal> => {
    const refusal = publishRefusal(state.closeCause)
    if (refusal === undefined || Exit.isSuccess(exit)) return exit
    const isFollowing = ({ reasons }: Cause.Cause<E>): boolean =>
      reasons.some((reason) =>
        reason._tag === "Fail" && reason.error instanceof AmqpChannelClosed && reason.error.cause === refusal
      )
    return isFollowing(exit.cause) ? Exit.fail(refusal) : exit
  }

  const commitOrRollback = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | TransactionError, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        state.inTransaction = true
        if (state.isClosed) return yield* channelClosed(state, "tx.select")
        if (state.mode !== "tx") yield* select
        const exit = yield* Effect.exit(restore(effect))
        if (Exit.isFailure(exit)) {
          // The broker has rolled back if the channel is gone.
          yield* Effect.ignore(rollback)
          return yield* becauseOfPublish(exit)
        }
        yield* becauseOfPublish(yield* Effect.exit(commit))
        const returned = state.takeReturned()
        if (returned.length === 0) return exit.value
        return yield* Effect.failCause(Cause.fromReasons(returned.map((error) => Cause.makeFailReason(error))))
      }).pipe(
        // Only after the answer: what others write before it waits behind the end, and belongs to the next transaction.
        Effect.ensuring(Effect.sync(() => {
          state.inTransaction = false
        }))
      )
    )

  return <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | TransactionError, R> =>
    Effect.flatMap(OpenTransactions, (open) =>
      open.includes(state)
        // It would wait for itself.
        ? Effect.die(new Error(`a transaction inside a transaction of channel ${state.id}`))
        : transacting.withPermit(
          commitOrRollback(Effect.provideService(effect, OpenTransactions, [...open, state]))
        ))
}

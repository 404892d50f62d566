/**
 * Asks the broker whether it refuses what `test/fixtures/refusals.ts` says, and with those words: they are what the
 * embedded broker is held to.
 */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { inspect } from "node:util"
import type * as AmqpChannel from "../../src/AmqpChannel.ts"
import { type Case, cases, type Step } from "../fixtures/refusals.ts"
import { onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { connect, openOn } from "./support.ts"

/** The broker's own exchanges, and no name at all. */
const isPredeclared = (name: string): boolean => name.trim() === "" || name.startsWith("amq.")

/** Takes a step with the client, on names of this case. */
const take = (
  channel: AmqpChannel.AmqpChannel,
  step: Step,
  prefix: string
): Effect.Effect<unknown, AmqpChannel.QueueDeclareError | AmqpChannel.PublishError> => {
  const own = (name: string): string => isPredeclared(name) ? name : prefix + name
  switch (step.do) {
    case "exchange.declare":
      return step.passive === true
        ? channel.exchangeDeclarePassive(own(step.exchange))
        : channel.exchangeDeclare({ ...step, exchange: own(step.exchange) })
    case "exchange.delete":
      return channel.exchangeDelete({ ...step, exchange: own(step.exchange) })
    case "exchange.bind":
      return channel.exchangeBind({ ...step, source: own(step.source), destination: own(step.destination) })
    case "exchange.unbind":
      return channel.exchangeUnbind({ ...step, source: own(step.source), destination: own(step.destination) })
    case "queue.declare":
      return step.passive === true
        ? channel.queueDeclarePassive(own(step.queue))
        : channel.queueDeclare({ ...step, queue: own(step.queue) })
    case "queue.bind":
      return channel.queueBind({ ...step, queue: own(step.queue), exchange: own(step.exchange) })
    case "queue.unbind":
      return channel.queueUnbind({ ...step, queue: own(step.queue), exchange: own(step.exchange) })
    case "queue.delete":
      return channel.queueDelete({ ...step, queue: own(step.queue) })
    case "queue.purge":
      return channel.queuePurge(own(step.queue))
    case "consume":
      return Effect.scoped(
        Effect.andThen(
          channel.qos({ prefetchCount: 1 }),
          channel.consume({ ...step, queue: own(step.queue) })
        )
      )
    case "publish": {
      const routingKey = step.routingKey === undefined ? "" : own(step.routingKey)
      return Effect.andThen(
        channel.confirmSelect,
        channel.publish({
          exchange: own(step.exchange),
          routingKey,
          body: "",
          properties: { headers: step.headers }
        })
      )
    }
  }
}

/** The reply text among what a step can fail with. */
const replyText = (error: object): string => {
  if ("replyText" in error) return `${error.replyText}`
  if ("reason" in error && typeof error.reason === "object" && error.reason !== null) return replyText(error.reason)
  return assert.fail(inspect(error))
}

layer(onVhost, { excludeTestServices: true })("refusals", (it) => {
  it.effect("are those that the embedded broker has, word for word", () =>
    Effect.gen(function*() {
      const vhost = yield* Vhost
      const check = Effect.fnUntraced(function*({ steps, text }: Case, prefix: string) {
        // A refusal may end the connection: each case has one of its own, in turn and not at once.
        const mine = yield* connect()
        const stranger = steps.some((step) => "stranger" in step) ? yield* connect() : mine
        for (const [index, step] of steps.entries()) {
          const channel = yield* openOn("stranger" in step ? stranger : mine)
          const result = yield* Effect.result(take(channel, step, prefix))
          const said = result._tag === "Failure"
            ? replyText(result.failure).replaceAll(prefix, "").replace(`'${vhost.name}'`, "'/'")
            : undefined
          assert.strictEqual(said, index === steps.length - 1 ? text : undefined, inspect(steps, { depth: 4 }))
        }
      }, Effect.scoped)
      const cleaner = yield* openOn(yield* connect())
      for (const each of cases) {
        const prefix = `${uniqueName("case")}.`
        yield* check(each, prefix)
        yield* cleaner.queueDelete({ queue: `${prefix}q` })
        yield* cleaner.exchangeDelete({ exchange: `${prefix}x` })
        yield* cleaner.exchangeDelete({ exchange: `${prefix}y` })
      }
    }), 60_000)
})

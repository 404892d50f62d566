/**
 * Brokers that confirm some publishes never: who has given up on them does not wait for them, and nobody else does.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Schedule, Scope } from "effect"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import { channelClose } from "../engine/peer.ts"
import { failureOf, hostile, opened, type Server, start, tagged } from "./peer.ts"

/** Never confirms "slow", closes the channel at "bad" in words that name nobody, confirms the rest. */
const serve = (server: Server) =>
  Effect.gen(function*() {
    const published = new Map<number, number>()
    while (true) {
      const sent = yield* server.next
      if (sent._tag !== "Method") continue
      const { channel, method } = sent
      switch (method._tag) {
        case "channel.open":
          published.set(channel, 0)
          yield* server.send(channel, { _tag: "channel.open-ok" })
          break
        case "confirm.select":
          yield* server.send(channel, { _tag: "confirm.select-ok" })
          break
        case "channel.close":
          yield* server.send(channel, { _tag: "channel.close-ok" })
          break
        case "basic.publish": {
          const before = published.get(channel)
          // It is closed.
          if (before === undefined) break
          published.set(channel, before + 1)
          if (method.routingKey === "bad") {
            published.delete(channel)
            yield* server.send(channel, channelClose(406, "PRECONDITION_FAILED - unheard of", 60, 40))
          } else if (method.routingKey !== "slow") {
            yield* server.send(channel, { _tag: "basic.ack", deliveryTag: before + 1, multiple: false })
          }
          break
        }
      }
    }
  })

describe("publishes that are never confirmed", () => {
  it.live("and have waited for their confirmTimeout are not waited for: waitForConfirms, and the end of the publisher", () =>
    hostile(Effect.gen(function*() {
      const { connection, server } = yield* opened({ closeTimeout: "1 minute" })
      yield* start(serve(server))
      const scope = yield* Scope.fork(yield* Effect.scope)
      const publisher = yield* AmqpPublisher.make({ confirmTimeout: "40 millis" }).pipe(
        Effect.provideService(AmqpConnection, connection),
        Scope.provide(scope)
      )
      tagged(yield* failureOf(publisher.publish({ routingKey: "slow", body: "" })), "AmqpPublishUnconfirmed")
      yield* publisher.waitForConfirms
      yield* publisher.publish({ routingKey: "quick", body: "" })
      yield* Scope.close(scope, Exit.void)
    })))

  it.live("of one publisher hold up nobody else of the connection who sends messages alone", () =>
    hostile(Effect.gen(function*() {
      const { connection, server } = yield* opened()
      yield* start(serve(server))
      const make = (options: AmqpPublisher.Options) =>
        Effect.provideService(AmqpPublisher.make(options), AmqpConnection, connection)
      const slow = yield* make({ confirmTimeout: "40 millis", maxInFlight: 2 })
      const other = yield* make({})
      // Two attempts fill its channel, and two that are alone the second one: the next waits for room there.
      const full = yield* Deferred.make<void>()
      const resend = Schedule.forever.pipe(
        Schedule.tap(({ attempt }) => attempt === 4 ? Deferred.succeed(full, undefined) : Effect.void)
      )
      yield* start(slow.publish({ routingKey: "slow", body: "" }, { resend }))
      yield* Deferred.await(full)
      const error = yield* failureOf(other.publishAll(
        ["good", "bad", "good"].map((routingKey) => ({ routingKey, body: "" })),
        { resend: Schedule.forever }
      ))
      assert.deepStrictEqual(error.failures.map(({ error, index }) => [index, error._tag]), [[
        1,
        "AmqpPreconditionFailed"
      ]])
    })))
})

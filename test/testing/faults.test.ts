/**
 * Faults in front of the embedded broker, under `TestClock`: what a program sees of each, and that nothing is left.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schedule } from "effect"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpBroker from "../../src/testing/AmqpBroker.ts"
import * as AmqpFaults from "../../src/testing/AmqpFaults.ts"
import { cases } from "./faultCases.ts"

const transport = AmqpFaults.layer.pipe(Layer.provideMerge(AmqpBroker.layer()))

/** A connection that comes back at once. */
const connection = AmqpConnection.layer({ reconnect: Schedule.forever })

/** Runs a test with a broker of its own, which must hold nothing of it in the end. */
const withBroker = <A, E, R>(test: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const broker = yield* AmqpBroker.AmqpBroker
    const faults = yield* AmqpFaults.AmqpFaults
    const result = yield* Effect.scoped(test)
    assert.deepStrictEqual(yield* broker.connections, [])
    assert.deepStrictEqual(yield* broker.queues, [])
    assert.deepStrictEqual(yield* faults.connections, [])
    return result
  }).pipe(Effect.provide(transport))

describe("what a program sees", () => {
  for (const { name, run } of cases) {
    it.effect(name, () => withBroker(Effect.provide(Effect.scoped(run), connection, { local: true })))
  }
})

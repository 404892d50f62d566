import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as AmqpConnection from "../src/AmqpConnection.ts"
import * as AmqpPublisher from "../src/AmqpPublisher.ts"
import { AmqpBroker, AmqpFaults } from "../src/testing/index.ts"
import { billing, order, Topology } from "./billing.ts"

// The program's own layers, over a broker in memory with a faulty network in front of it.
const Test = AmqpPublisher.layer().pipe(
  Layer.provide(Topology),
  Layer.provideMerge(AmqpConnection.layer()),
  Layer.provideMerge(AmqpFaults.layer),
  Layer.provideMerge(AmqpBroker.layer())
)

it.effect("an order whose confirm is lost with the connection is billed once", () =>
  Effect.gen(function*() {
    const broker = yield* AmqpBroker.AmqpBroker
    const faults = yield* AmqpFaults.AmqpFaults
    const bills: Array<string> = []
    const bill = (orderId: string) => Effect.sync(() => void bills.push(orderId))

    // The broker has the order, and its word for it never arrives.
    const lost = yield* faults.at(AmqpFaults.down("basic.ack"), AmqpFaults.reset)
    yield* Effect.forkScoped(order("one"))
    yield* lost.fired

    // A minute passes in no time: reconnected, sent again, stored twice.
    yield* TestClock.adjust("1 minute")
    assert.strictEqual((yield* broker.messages("billing")).length, 2)

    yield* Effect.forkScoped(billing(new Set(), bill))
    yield* broker.waitUntil(Effect.map(broker.queues, ([queue]) => queue?.ready === 0 && queue.unsettled === 0))
    assert.deepStrictEqual(bills, ["one"])
  }).pipe(Effect.provide(Test)))

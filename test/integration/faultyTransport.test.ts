/**
 * Faults in front of RabbitMQ: what a program sees is the same as with the embedded broker, and the real one has nothing
 * left of it.
 */
import { describe, layer } from "@effect/vitest"
import { Effect, Layer, Redacted, Schedule } from "effect"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import * as AmqpFaults from "../../src/testing/AmqpFaults.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { cases } from "../testing/faultCases.ts"

const faults = Layer.provide(AmqpFaults.layer, NodeAmqp.layerTransport)

/** A connection that comes back at once. */
const connection = Layer.unwrap(Effect.map(Vhost, ({ amqpUrl }) =>
  AmqpConnection.layer({
    url: Redacted.make(amqpUrl),
    connectionName: uniqueName("faults"),
    reconnect: Schedule.forever
  })))

describe("what a program sees of faults in front of RabbitMQ", () => {
  layer(onVhost, { excludeTestServices: true })("over TCP", (it) => {
    for (const { name, run } of cases) {
      it.effect(name, () =>
        noLeaks(
          Effect.scoped(run).pipe(
            Effect.provide(Layer.provideMerge(connection, faults), { local: true })
          )
        ))
    }
  })
})

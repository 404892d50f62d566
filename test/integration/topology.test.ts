/**
 * Topologies on a real broker: declared once, and again in each epoch before anybody else may use it.
 */
import { assert, layer } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, uniqueName } from "../harness/shared.ts"
import { methodsOf, openOn, proxied } from "./support.ts"

/** A connection through a proxy that comes back at once. */
const through = (options?: AmqpConnection.Options) => proxied({ reconnect: Schedule.spaced("20 millis"), ...options })

const make = (
  connection: AmqpConnection.AmqpConnection,
  entities: ReadonlyArray<AmqpTopology.Entity>,
  options?: AmqpTopology.Options
) => Effect.provideService(AmqpTopology.make(entities, options), AmqpConnection.AmqpConnection, connection)

layer(onVhost, { excludeTestServices: true })("topology", (it) => {
  it.effect("F44 F53 it is back before anybody uses the next epoch, server-named queues under new names", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* through()
      const [x, q, s] = [uniqueName("x"), uniqueName("q"), AmqpTopology.serverNamedQueue()]
      const topology = yield* make(connection, [
        AmqpTopology.bind({ queue: s, exchange: x, routingKey: "s" }),
        AmqpTopology.bind({ queue: q, exchange: x, routingKey: "q" }),
        s,
        AmqpTopology.classicQueue(q, { durable: false, exclusive: true, autoDelete: true }),
        AmqpTopology.exchange(x, { durable: false, autoDelete: true })
      ])
      const before = yield* topology.queueName(s)
      yield* link.reset
      // Asked for while the connection is down, so it waits.
      const channel = yield* Effect.retry(openOn(connection), { times: 3 })
      const next = yield* proxy.accept
      yield* channel.confirmSelect
      yield* channel.publish({ exchange: x, routingKey: "q", body: "1", mandatory: true })
      yield* channel.publish({ exchange: x, routingKey: "s", body: "2", mandatory: true })
      const after = yield* topology.queueName(s)
      assert.notStrictEqual(after, before)
      assert.strictEqual((yield* channel.get({ queue: after, noAck: true }))._tag, "Some")
      const methods = yield* methodsOf(next, "up")
      assert.deepStrictEqual(methods.slice(3).map((method) => method.replace(/^\d+ /, "")).slice(0, 9), [
        "channel.open",
        "exchange.declare",
        "queue.declare",
        "queue.declare",
        "queue.bind",
        "queue.bind",
        "channel.close",
        "channel.open",
        "confirm.select"
      ])
    })))
})

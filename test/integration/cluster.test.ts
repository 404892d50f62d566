/**
 * Three nodes that are one broker: clients and queues that outlive the node they are on.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Redacted, Schedule, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import { type Cluster, makeCluster, startAll } from "../harness/cluster.ts"
import type { BrokerNode } from "../harness/rabbitmq.ts"
import { canControl, onVhost, uniqueName } from "../harness/shared.ts"
import { connect, openOn } from "./support.ts"

class Nodes extends Context.Service<Nodes, Cluster>()("test/Cluster") {
  static readonly layer = Layer.effect(Nodes, makeCluster)
}

/** A connection to the first of these nodes that is up. */
const connectTo = (nodes: ReadonlyArray<BrokerNode>) =>
  connect({
    url: Redacted.make("amqp://guest:guest@localhost/%2f"),
    endpoints: nodes.map(({ host, port }) => ({ host, port })),
    reconnect: Schedule.spaced("100 millis"),
    waitTimeout: "60 seconds"
  })

/** Kills a node, until the end of the scope. */
const kill = (node: BrokerNode) => Effect.acquireRelease(node.kill9, () => Effect.orDie(node.start))

const endpointOf = ({ host, port }: BrokerNode): string => `amqp://${host}:${port}`

/** A quorum queue on all nodes, whose leader is the node of the connection. */
const quorumQueue = Effect.scoped(Effect.gen(function*() {
  const channel = yield* AmqpChannel.open
  const { queue } = yield* channel.queueDeclare({
    queue: uniqueName("quorum"),
    durable: true,
    arguments: { "x-queue-type": "quorum" }
  })
  return queue
}))

/** Publishes, and consumes what arrives, while `fault` happens after a third of the messages. */
const through = <E, R>(queue: string, count: number, fault: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function*() {
    const publisher = yield* AmqpPublisher.make({ maxInFlight: 50 })
    const confirmed = new Set<string>()
    const arrived = new Set<string>()
    const complete = yield* Deferred.make<void>()
    let isPublished = false
    const look = Effect.suspend(() =>
      isPublished && [...confirmed].every((body) => arrived.has(body))
        ? Deferred.succeed(complete, undefined)
        : Effect.void
    )
    const consuming = yield* AmqpConsumer.stream(queue, { prefetch: 20, recover: Schedule.spaced("100 millis") }).pipe(
      Stream.runForEach((delivery) => {
        arrived.add(delivery.text)
        return Effect.andThen(delivery.ack, look)
      }),
      Effect.forkScoped
    )
    const third = yield* Deferred.make<void>()
    const failing = yield* Effect.forkScoped(Effect.andThen(Deferred.await(third), fault))
    const unknown: Array<string> = []
    const refused: Array<string> = []
    yield* Effect.forEach(Array.from({ length: count }, (_, i) => String(i)), (body) =>
      publisher.publish({ routingKey: queue, body }).pipe(
        Effect.flatMap(() => {
          confirmed.add(body)
          return confirmed.size === Math.floor(count / 3) ? Deferred.succeed(third, undefined) : Effect.void
        }),
        Effect.catchTags({
          AmqpPublishUnconfirmed: () =>
            Effect.sync(() => void unknown.push(body)),
          // The queue's leader went while it had the message.
          AmqpPublishNacked: () => Effect.sync(() => void refused.push(body))
        })
      ), { concurrency: 50, discard: true })
    yield* Fiber.join(failing)
    isPublished = true
    yield* look
    yield* Effect.timeout(Deferred.await(complete), "30 seconds")
    yield* Fiber.interrupt(consuming)
    assert.strictEqual(confirmed.size + unknown.length + refused.length, count)
    return { confirmed: confirmed.size, unknown: unknown.length }
  })

describe.runIf(canControl)("a cluster", () => {
  layer(Layer.merge(onVhost, Nodes.layer), { excludeTestServices: true, timeout: "120 seconds" })("of three", (it) => {
    it.effect(
      "kill -9 of the node we are connected to, which leads the queue: another takes us, and nothing is lost",
      () =>
        Effect.scoped(Effect.gen(function*() {
          const [one, two, three] = yield* Nodes
          const connection = yield* connectTo([one, two, three])
          assert.deepInclude(yield* connection.status, { endpoint: endpointOf(one) })
          yield* Effect.gen(function*() {
            const queue = yield* quorumQueue
            const { unknown } = yield* through(queue, 3_000, kill(one))
            assert.isAtMost(unknown, 50)
          }).pipe(Effect.provideService(AmqpConnection, connection))
          assert.deepInclude(yield* connection.status, { _tag: "Open", epoch: 2, endpoint: endpointOf(two) })
        })),
      60_000
    )

    it.effect(
      "F37 kill -9 of the queue's leader, elsewhere: no new epoch, no cancel, and nothing is lost",
      () =>
        Effect.scoped(Effect.gen(function*() {
          const [one, two, three] = yield* Nodes
          const queue = yield* Effect.scoped(
            Effect.flatMap(connectTo([three]), (other) => Effect.provideService(quorumQueue, AmqpConnection, other))
          )
          const connection = yield* connectTo([one, two])
          yield* Effect.provideService(through(queue, 3_000, kill(three)), AmqpConnection, connection)
          assert.deepInclude(yield* connection.status, { _tag: "Open", epoch: 1 })
        })),
      60_000
    )

    it.effect(
      "CO16 a mirrored queue fails over: a consumer that asked for it is cancelled, another gets its messages again",
      () =>
        Effect.scoped(Effect.gen(function*() {
          const [one, two, three] = yield* Nodes
          const mirrored = JSON.stringify({ "ha-mode": "all", "ha-sync-mode": "automatic" })
          yield* one.ctl("set_policy", "--apply-to", "queues", "ha", "^ha-", mirrored)
          const elsewhere = yield* connectTo([three])
          const [cancelled = "", kept = ""] = yield* Effect.scoped(Effect.gen(function*() {
            const channel = yield* openOn(elsewhere)
            return yield* Effect.forEach([1, 2], () => channel.queueDeclare({ queue: uniqueName("ha"), durable: true }))
          })).pipe(Effect.map((declared) => declared.map(({ queue }) => queue)))
          const connection = yield* connectTo([one, two])
          const channel = yield* openOn(connection)
          yield* channel.confirmSelect
          yield* channel.publish({ routingKey: kept, body: "held" })
          const wanting = yield* channel.consume({ queue: cancelled, arguments: { "x-cancel-on-ha-failover": true } })
          const failing = yield* Effect.forkScoped(Effect.flip(Stream.runDrain(wanting.deliveries)))
          const other = yield* openOn(connection)
          const keeping = yield* other.consume({ queue: kept })
          const first = yield* Deferred.make<void>()
          const taking = yield* Effect.forkScoped(
            keeping.deliveries.pipe(
              Stream.tap(() => Deferred.succeed(first, undefined)),
              Stream.map(({ redelivered, text }) => ({ redelivered, text })),
              Stream.take(2),
              Stream.runCollect
            )
          )
          yield* Deferred.await(first)
          yield* kill(three)
          assert.strictEqual((yield* Fiber.join(failing))._tag, "AmqpConsumerCancelled")
          assert.deepStrictEqual(yield* Fiber.join(taking), [
            { redelivered: false, text: "held" },
            { redelivered: true, text: "held" }
          ])
          assert.deepInclude(yield* connection.status, { _tag: "Open", epoch: 1 })
        })),
      60_000
    )

    it.effect(
      "F38 without a majority publishes are in doubt after confirmTimeout; with it they are confirmed again",
      () =>
        Effect.scoped(Effect.gen(function*() {
          const [one, two, three] = yield* Nodes
          const connection = yield* connectTo([one])
          yield* Effect.gen(function*() {
            const queue = yield* quorumQueue
            const publisher = yield* AmqpPublisher.make({ confirmTimeout: "2 seconds" })
            const publish = (body: string) => publisher.publish({ routingKey: queue, body })
            yield* publish("before")
            yield* Effect.all([two.kill9, three.kill9], { concurrency: 2 })
            const error = yield* Effect.timeout(Effect.flip(publish("in doubt")), "10 seconds")
            assert.strictEqual(error._tag, "AmqpPublishUnconfirmed")
            yield* startAll([two, three])
            yield* Effect.retry(publish("after"), { schedule: Schedule.spaced("500 millis") })
            const bodies = new Set<string>()
            yield* AmqpConsumer.stream(queue).pipe(
              Stream.takeUntil((delivery) => delivery.text === "after"),
              Stream.runForEach((delivery) => {
                bodies.add(delivery.text)
                return delivery.ack
              }),
              Effect.timeout("30 seconds")
            )
            assert.isTrue(bodies.has("before"))
          }).pipe(Effect.provideService(AmqpConnection, connection))
        })),
      60_000
    )
  })
})

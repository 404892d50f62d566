/**
 * What a program does on its connections while everything else goes on, each with what must come of it: it publishes
 * something that the broker refuses, ends a consumer at work, closes a connection that publishes, loses a queue.
 *
 * A trial fails with what contradicts the promises, in words.
 */
import { Deferred, Effect, Fiber, Schedule, type Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import type { Ledger } from "./ledger.ts"
import { backoff, quorum, recover } from "./program.ts"

const unless = (holds: boolean, what: string): Effect.Effect<void, string> => holds ? Effect.void : Effect.fail(what)

/** A durable queue with so many messages, on a channel of its own. */
const filled = Effect.fnUntraced(function*(queue: string, count: number) {
  const channel = yield* AmqpChannel.open
  yield* channel.queueDeclare({ queue, durable: true })
  yield* channel.confirmSelect
  yield* Effect.forEach(
    Array.from({ length: count }, (_, i) => String(i)),
    (body) => channel.publish({ routingKey: queue, body }),
    { concurrency: "unbounded", discard: true }
  )
  return channel
})

/** A consumer whose queue is deleted under it says so, and why. */
const queueDeleted = (queue: string) =>
  Effect.gen(function*() {
    const channel = yield* filled(queue, 1)
    const consumer = yield* AmqpConsumer.make(queue, { recover })
    let isTaken = false
    const running = yield* Effect.forkScoped(Stream.runForEach(consumer.deliveries, () =>
      Effect.suspend(() => {
        if (isTaken) return Effect.void
        isTaken = true
        return Effect.orDie(Effect.asVoid(channel.queueDelete({ queue })))
      })))
    const error = yield* Effect.flip(Fiber.join(running))
    yield* unless(
      error._tag === "AmqpConsumerFailed" && error.reason._tag === "AmqpNotFound",
      `the consumer of a deleted queue failed otherwise: ${error}`
    )
  })

/** A queue that is deleted and comes back does not disturb the handler of another one of the same consumer. */
const oneQueueOfTwo = (name: string) =>
  Effect.gen(function*() {
    const [a, b] = [`${name}-a`, `${name}-b`]
    const channel = yield* filled(b, 1)
    const busy = yield* Deferred.make<void>()
    const back = yield* Deferred.make<void>()
    const settled = yield* Deferred.make<string>()
    const running = yield* AmqpConsumer.run([a, b], (delivery) =>
      Effect.gen(function*() {
        if (delivery.queue === a) return yield* Deferred.succeed(back, undefined)
        yield* Deferred.succeed(busy, undefined)
        yield* Deferred.await(back)
        yield* Deferred.succeed(settled, String(yield* delivery.ack))
      }), { recover, topology: [AmqpTopology.classicQueue(a)], concurrency: 2 }).pipe(Effect.forkScoped)
    yield* Deferred.await(busy)
    yield* channel.queueDelete({ queue: a })
    yield* channel.publish({ routingKey: a, body: "again", mandatory: true }).pipe(
      Effect.retry({ schedule: Schedule.spaced("20 millis"), while: ({ _tag }) => _tag === "AmqpMessageReturned" })
    )
    const result = yield* Effect.raceFirst(
      Deferred.await(settled),
      Effect.as(Fiber.await(running), "its consumer ended")
    )
    yield* unless(result === "Settled", `the handler of the other queue was disturbed: ${result}`)
    yield* Fiber.interrupt(running)
    yield* channel.queueDelete({ queue: a })
    yield* channel.queueDelete({ queue: b })
  })

/** What is being handled when a consumer is told to end is handled once, and the rest goes back. */
const endOfRun = (queue: string) =>
  Effect.gen(function*() {
    const channel = yield* filled(queue, 20)
    const busy = yield* Deferred.make<void>()
    const results: Array<string> = []
    let started = 0
    const running = yield* AmqpConsumer.run(queue, (delivery) =>
      Effect.gen(function*() {
        if (++started === 5) yield* Deferred.succeed(busy, undefined)
        // Longer than a round trip.
        yield* Effect.sleep("150 millis")
        results.push(String(yield* delivery.ack))
      }), { recover, concurrency: 5, prefetch: 10 }).pipe(Effect.forkScoped)
    yield* Deferred.await(busy)
    yield* Fiber.interrupt(running)
    yield* unless(results.length === started, `${started - results.length} of ${started} handlers were not waited for`)
    yield* unless(results.every((result) => result === "Settled"), `handlers could not settle: ${results.join(", ")}`)
    const left = yield* channel.queuePurge(queue)
    yield* unless(left === 20 - started, `${left} messages are left, ${started} of 20 were handled`)
    yield* channel.queueDelete({ queue })
  })

/** One message that the broker refuses, among others: it alone fails, with its refusal. */
const poison = (name: string, ledger: Ledger) =>
  Effect.gen(function*() {
    const publisher = yield* AmqpPublisher.make()
    const messages = Array.from({ length: 40 }, (_, i) => `${name}-${i}`)
    const neighbours = yield* Effect.forkScoped(Effect.forEach(messages, (id) => {
      const at = performance.now()
      ledger.begin(id, name, true)
      return Effect.matchEffect(publisher.publish({ routingKey: quorum, body: `${id} ` }, { resend: backoff }), {
        onSuccess: () => Effect.sync(() => ledger.end(id, "confirmed", at)),
        onFailure: (error) =>
          Effect.andThen(Effect.sync(() => ledger.end(id, error._tag, at)), Effect.fail(`a neighbour failed: ${error}`))
      })
    }, { concurrency: "unbounded", discard: true }))
    const error = yield* Effect.flip(publisher.publish({
      routingKey: quorum,
      body: "poison ",
      properties: { headers: { CC: "no list" } }
    }, { resend: backoff }))
    yield* unless(error._tag === "AmqpPreconditionFailed", `the poison failed otherwise: ${error}`)
    yield* Fiber.join(neighbours)
  })

/** A connection that is closed while it publishes waits for what it has written. */
const closeUnderLoad = (connect: Effect.Effect<AmqpConnection, unknown, Scope.Scope>, name: string, ledger: Ledger) =>
  Effect.gen(function*() {
    const connection = yield* connect
    const publisher = yield* Effect.provideService(AmqpPublisher.make(), AmqpConnection, connection)
    const begun = yield* Deferred.make<void>()
    let count = 0
    /** Publishes until it is told that there is no connection any more. */
    const lane: Effect.Effect<void> = Effect.suspend(() => {
      const id = `${name}-${count++}`
      const at = performance.now()
      ledger.begin(id, name, false)
      return Effect.matchEffect(publisher.publish({ routingKey: quorum, body: `${id} ` }), {
        onSuccess: () => {
          ledger.end(id, "confirmed", at)
          return Effect.andThen(Deferred.succeed(begun, undefined), lane)
        },
        onFailure: (error) => Effect.sync(() => ledger.end(id, error._tag, at))
      })
    })
    const publishing = yield* Effect.forkScoped(
      Effect.all(Array.from({ length: 50 }, () => lane), { concurrency: "unbounded", discard: true })
    )
    yield* Deferred.await(begun)
    yield* connection.close
    yield* Fiber.join(publishing)
    const inDoubt = ledger.countOf(name, "AmqpPublishUnconfirmed")
    yield* unless(inDoubt === 0, `${inDoubt} publishes in doubt after a close in good order`)
  })

/** Somebody else's mistake, which ends the connection. */
const bystander = Effect.gen(function*() {
  const channel = yield* AmqpChannel.open
  const error = yield* Effect.flip(channel.flow(false))
  yield* unless(error._tag === "AmqpConnectionError", `flow failed otherwise: ${error}`)
})

export const trialKinds = [
  "queue deleted",
  "one queue of two deleted",
  "end of a consumer at work",
  "poison message",
  "close under load",
  "hard error of a bystander"
] as const

export type Trial = (typeof trialKinds)[number]

/** What trials work with. */
export interface Stage {
  readonly ledger: Ledger
  readonly connections: readonly [AmqpConnection, AmqpConnection]
  /** A connection of its own, which its scope closes. */
  readonly connect: Effect.Effect<AmqpConnection, unknown, Scope.Scope>
}

let trials = 0

/** Runs a trial on one of the connections. Fails with what contradicts the promises. */
export const runTrial = (
  kind: Trial,
  { connect, connections, ledger }: Stage,
  index: number
): Effect.Effect<void, unknown> => {
  const name = `chaos-trial-${++trials}`
  const trial = {
    "queue deleted": queueDeleted(name),
    "one queue of two deleted": oneQueueOfTwo(name),
    "end of a consumer at work": endOfRun(name),
    "poison message": poison(name, ledger),
    "close under load": closeUnderLoad(connect, name, ledger),
    "hard error of a bystander": bystander
  }[kind]
  return trial.pipe(
    Effect.scoped,
    Effect.provideService(AmqpConnection, connections[index === 0 ? 0 : 1]),
    Effect.timeout("20 seconds")
  )
}

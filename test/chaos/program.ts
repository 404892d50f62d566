/**
 * The program under test: what a user would write. It says nothing about faults, it has schedules; what it publishes and
 * handles goes into the ledger.
 */
import { Effect, FiberSet, Option, Schedule, type Scope, Stream } from "effect"
import type { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import type { AmqpSupervisedDelivery } from "../../src/AmqpDelivery.ts"
import { isTransient } from "../../src/AmqpError.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import type { Ledger, Outcome } from "./ledger.ts"

/** What a user writes: how long to go on, and how fast. */
export const backoff = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("1 second")]).pipe(
  Schedule.jittered
)
export const recover = backoff.pipe(
  Schedule.setInputType<unknown>(),
  Schedule.while(({ input }) => isTransient(input))
)

const exchange = "chaos"
export const quorum = "chaos-quorum"
const classic = "chaos-classic"
const dead = "chaos-dead"

export const topology = [
  AmqpTopology.exchange(exchange, { type: "direct" }),
  AmqpTopology.exchange(dead, { type: "fanout" }),
  AmqpTopology.quorumQueue(quorum),
  AmqpTopology.classicQueue(classic, { deadLetter: { exchange: dead } }),
  AmqpTopology.classicQueue(dead),
  AmqpTopology.bind({ queue: quorum, exchange, routingKey: quorum }),
  AmqpTopology.bind({ queue: classic, exchange, routingKey: classic }),
  AmqpTopology.bind({ queue: dead, exchange: dead })
]

const events = "chaos-events"
const exclusive = AmqpTopology.classicQueue("chaos-exclusive", { durable: false, exclusive: true })
const serverNamed = AmqpTopology.serverNamedQueue({ exclusive: true })

/** Queues that go with the connection of the consumers and come back with the next. */
export const ownTopology = [
  ...topology,
  AmqpTopology.exchange(events, { type: "fanout" }),
  exclusive,
  serverNamed,
  AmqpTopology.bind({ queue: exclusive.name, exchange: events }),
  AmqpTopology.bind({ queue: serverNamed, exchange: events })
]

/** Its number, then padding: some messages are larger than a frame. */
const toBody = (id: string, n: number): string => `${id} ${"x".repeat(n % 1000 === 500 ? 150_000 : n % 200)}`
export const toId = (body: Uint8Array): string =>
  Buffer.from(body.subarray(0, 40)).toString("latin1").split(" ", 1)[0] ?? ""

/** Each of a publisher's fibers publishes, waits, publishes. */
const lanes = 8
const pace = "10 millis"

/** One publisher. */
const publish = Effect.fnUntraced(function*(
  ledger: Ledger,
  { batch, name, resends, routingKey }: {
    readonly name: string
    readonly routingKey: string
    readonly resends: boolean
    readonly batch: number
  },
  isOver: () => boolean
) {
  const resend = resends ? { resend: backoff } : undefined
  const publisher = yield* AmqpPublisher.make({ exchange, maxInFlight: 256 })
  let count = 0
  const one = Effect.suspend(() => {
    const at = performance.now()
    const ids: Array<string> = []
    const messages = Array.from({ length: batch }, () => {
      const n = count++
      const id = `${name}-${n}`
      ids.push(id)
      // Some go where no queue is.
      return { routingKey: n % 50 === 49 ? "nobody" : routingKey, body: toBody(id, n) }
    })
    for (const id of ids) ledger.begin(id, name, resends)
    const record = (outcomeOf: (index: number) => Outcome) =>
      ids.forEach((id, index) => ledger.end(id, outcomeOf(index), at))
    const [first] = messages
    if (batch === 1 && first !== undefined) {
      const published: Effect.Effect<void, AmqpPublisher.PublishError | AmqpPublisher.ResendError> =
        resend === undefined ? publisher.publish(first) : publisher.publish(first, resend)
      const ended = Effect.match(published, { onFailure: toOutcome, onSuccess: () => "confirmed" })
      // Some callers change their minds.
      const limited = count % 40 === 20
        ? Effect.map(Effect.timeoutOption(ended, "1 millis"), Option.getOrElse(() => "interrupted"))
        : ended
      return Effect.map(limited, (outcome) => record(() => outcome))
    }
    return Effect.match(publisher.publishAll(messages, resend), {
      onFailure: ({ failures }) => {
        const failed = new Map(failures.map(({ error, index }) => [index, toOutcome(error)]))
        record((index) => failed.get(index) ?? "confirmed")
      },
      onSuccess: () => record(() => "confirmed")
    })
  })
  const lane = Effect.gen(function*() {
    while (!isOver()) {
      yield* one
      yield* Effect.sleep(pace)
    }
  })
  yield* Effect.all(Array.from({ length: lanes }, () => lane), { concurrency: "unbounded", discard: true })
}, Effect.scoped)

/** A resend that was given up is in doubt if one of its attempts is. */
const toOutcome = (error: { readonly _tag: string; readonly inDoubt?: boolean }): Outcome =>
  error.inDoubt === true ? "AmqpPublishUnconfirmed" : error._tag

/** Consumers that handle each message; they end when they are interrupted and not before. */
export const startConsumers = (
  ledger: Ledger
): Effect.Effect<FiberSet.FiberSet<void>, never, AmqpConnection | Scope.Scope> =>
  Effect.gen(function*() {
    const consuming = yield* FiberSet.make<void>()
    const consume = <E>(name: string, running: Effect.Effect<void, E, AmqpConnection>) =>
      FiberSet.run(
        consuming,
        Effect.map(Effect.exit(running), (exit) => ledger.accuse(`${name} ended by itself: ${exit}`))
      )
    /** Takes a moment for each message, so that faults find some half done. */
    const handler = (name: string) => {
      ledger.expect(name)
      return (delivery: AmqpSupervisedDelivery) =>
        Effect.andThen(
          Effect.sleep(delivery.deliveryTag % 5),
          Effect.sync(() => ledger.handle(toId(delivery.body), name))
        )
    }
    const options = { recover, prefetch: 100, concurrency: 32 }

    const quorumRun = handler("run of the quorum queue")
    yield* consume("run of the quorum queue", AmqpConsumer.run(quorum, quorumRun, options))

    const classicRun = handler("run of the classic queue")
    yield* consume(
      "run of the classic queue",
      AmqpConsumer.run(classic, (delivery) =>
        Effect.as(
          classicRun(delivery),
          delivery.deliveryTag % 10 === 0 ? AmqpConsumer.deadLetter : AmqpConsumer.ack
        ), options)
    )

    const quorumStream = handler("stream of the quorum queue")
    yield* consume(
      "stream of the quorum queue",
      Stream.runForEach(AmqpConsumer.stream(quorum, { recover, prefetch: 10 }), (delivery) =>
        Effect.gen(function*() {
          yield* quorumStream(delivery)
          if (typeof (yield* delivery.ack) !== "string") ledger.stale++
          if ((yield* delivery.ack) === "Settled") ledger.accuse("a delivery was settled twice")
        }))
    )

    for (const [name, queue] of [["exclusive", exclusive.name], ["server-named", serverNamed]] as const) {
      const who = `stream of the ${name} queue`
      ledger.expect(who)
      yield* consume(
        who,
        Stream.runForEach(AmqpConsumer.stream(queue, { recover, exclusive: true }), (delivery) =>
          Effect.andThen(Effect.sync(() => ledger.proceed(who)), delivery.ack))
      )
    }

    yield* consume(
      "stream of the dead letters",
      Stream.runForEach(AmqpConsumer.stream(dead, { recover }), (delivery) =>
        delivery.ack)
    )
    return consuming
  })

/** Publishers that go on until it is over. */
export const startPublishers = (
  ledger: Ledger,
  isOver: () => boolean
): Effect.Effect<FiberSet.FiberSet<void>, never, AmqpConnection | Scope.Scope> =>
  Effect.gen(function*() {
    const publishing = yield* FiberSet.make<void>()
    for (
      const one of [
        { name: "q-once", routingKey: quorum, resends: false, batch: 1 },
        { name: "q-resend", routingKey: quorum, resends: true, batch: 1 },
        { name: "c-once", routingKey: classic, resends: false, batch: 6 },
        { name: "c-resend", routingKey: classic, resends: true, batch: 6 }
      ]
    ) {
      ledger.expect(one.name)
      yield* FiberSet.run(
        publishing,
        Effect.catch(publish(ledger, one, isOver), (error) =>
          Effect.sync(() => ledger.accuse(`${one.name} failed: ${error}`)))
      )
    }
    // Events, which may be lost with the queues that they are for.
    yield* FiberSet.run(
      publishing,
      Effect.scoped(Effect.gen(function*() {
        const publisher = yield* AmqpPublisher.make({ exchange: events, mandatory: false, persistent: false })
        while (!isOver()) {
          yield* Effect.ignore(publisher.publish({ body: "event " }))
          yield* Effect.sleep(pace)
        }
      })).pipe(Effect.catch((error) =>
        Effect.sync(() => ledger.accuse(`the events failed: ${error}`))
      ))
    )
    return publishing
  })

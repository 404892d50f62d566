/**
 * A chaos run: publishers and consumers of numbered messages on supervised connections, through a proxy, while faults
 * come one after another; then the books are checked.
 *
 * Each fault strikes while messages are on their way, and the next one waits until every publisher and every consumer
 * has made progress again. The program under test says nothing about faults: it has schedules.
 */
import { Effect, Fiber, FiberSet, Option, Redacted, Schedule, type Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import type { AmqpSupervisedDelivery } from "../../src/AmqpDelivery.ts"
import { isTransient } from "../../src/AmqpError.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import type { BrokerNode } from "../harness/broker.ts"
import type { BrokerError } from "../harness/exec.ts"
import { makeProxy, type ProxyLink } from "../harness/proxy.ts"
import { type Fault, inject, type Kind, schedule } from "./faults.ts"
import { Ledger } from "./ledger.ts"
import { Wire } from "./wire.ts"

export interface ChaosOptions {
  readonly seed: number
  /** Milliseconds in which faults are begun. */
  readonly duration: number
  /** Hears what is going on, a few times a second. */
  readonly onProgress: (progress: Progress) => void
}

export interface Progress {
  readonly elapsed: number
  readonly fault: Kind | undefined
  readonly faults: number
  readonly published: number
  readonly confirmed: number
  readonly arrived: number
}

/** A fault that was done, and how long after its end (ms) everybody had made progress again. */
export interface Struck {
  readonly fault: Fault
  readonly recovery: number
}

export interface ChaosResult {
  readonly struck: ReadonlyArray<Struck>
  readonly ledger: Ledger
  readonly wire: Wire
  /** Sessions that were opened after the first ones. */
  readonly reconnects: number
  /** What contradicts the promises; empty when all is well. */
  readonly violations: ReadonlyArray<string>
}

/** Recovery takes this long (ms), or it is none. */
const patience = 30_000

const connectionNames = ["chaos-publishers", "chaos-consumers"] as const

/** What a user writes: how long to go on, and how fast. */
const backoff = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("1 second")]).pipe(Schedule.jittered)
const recover = backoff.pipe(
  Schedule.setInputType<unknown>(),
  Schedule.while(({ input }) => isTransient(input))
)

const exchange = "chaos"
const quorum = "chaos-quorum"
const classic = "chaos-classic"
const dead = "chaos-dead"

const topology = [
  AmqpTopology.exchange(exchange, { type: "direct" }),
  AmqpTopology.exchange(dead, { type: "fanout" }),
  AmqpTopology.quorumQueue(quorum),
  AmqpTopology.classicQueue(classic, { deadLetter: { exchange: dead } }),
  AmqpTopology.classicQueue(dead),
  AmqpTopology.bind({ queue: quorum, exchange, routingKey: quorum }),
  AmqpTopology.bind({ queue: classic, exchange, routingKey: classic }),
  AmqpTopology.bind({ queue: dead, exchange: dead })
]

/** Its number, then padding: some messages are larger than a frame. */
const toBody = (id: string, n: number): string => `${id} ${"x".repeat(n % 1000 === 500 ? 150_000 : n % 200)}`
const toId = (body: Uint8Array): string => Buffer.from(body.subarray(0, 40)).toString("latin1").split(" ", 1)[0] ?? ""

/** Each of a publisher's fibers publishes, waits, publishes. */
const lanes = 8
const pace = "25 millis"

const publishing = (ledger: Ledger, isOver: () => boolean) => {
  const record = (ids: ReadonlyArray<string>, at: number, outcomeOf: (index: number) => string) =>
    ids.forEach((id, index) => ledger.end(id, outcomeOf(index), at))
  /** A resend that was given up is in doubt if one of its attempts is. */
  const outcome = (error: { readonly _tag: string; readonly inDoubt?: boolean }): string =>
    error.inDoubt === true ? "AmqpPublishUnconfirmed" : error._tag

  return Effect.fnUntraced(function*(options: {
    readonly name: string
    readonly routingKey: string
    readonly resend: boolean
    readonly batch: number
  }) {
    const { batch, name, routingKey } = options
    const resend = options.resend ? { resend: backoff } : undefined
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
      for (const id of ids) ledger.begin(id, name, options.resend)
      const [first] = messages
      if (batch === 1 && first !== undefined) {
        const published: Effect.Effect<void, AmqpPublisher.PublisherError | AmqpPublisher.ResendError> =
          resend === undefined ? publisher.publish(first) : publisher.publish(first, resend)
        const recorded = Effect.match(published, { onFailure: outcome, onSuccess: () => "confirmed" })
        // Some callers change their minds.
        const ended = count % 40 === 20
          ? Effect.map(Effect.timeoutOption(recorded, "1 millis"), Option.getOrElse(() => "interrupted"))
          : recorded
        return Effect.map(ended, (outcome) => record(ids, at, () => outcome))
      }
      return Effect.match(publisher.publishAll(messages, resend), {
        onFailure: ({ failures }) => {
          const failed = new Map(failures.map(({ error, index }) => [index, outcome(error)]))
          record(ids, at, (index) => failed.get(index) ?? "confirmed")
        },
        onSuccess: () => record(ids, at, () => "confirmed")
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
}

/** A consumer whose queue is deleted under it must say so, and why. */
const losesItsQueue = (queue: string) =>
  Effect.scoped(Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    yield* channel.queueDeclare({ queue, durable: true })
    yield* channel.confirmSelect
    yield* channel.publish({ routingKey: queue, body: "here" })
    const consumer = yield* AmqpConsumer.make(queue, { recover })
    let isTaken = false
    const running = yield* Effect.forkScoped(Stream.runForEach(consumer.deliveries, () =>
      Effect.suspend(() => {
        if (isTaken) return Effect.void
        isTaken = true
        return Effect.orDie(Effect.asVoid(channel.queueDelete({ queue })))
      })))
    return yield* Effect.flip(Fiber.join(running))
  }))

/** Runs faults against a node of its own. */
export const run = (
  node: BrokerNode,
  options: ChaosOptions
): Effect.Effect<ChaosResult, unknown> =>
  Effect.gen(function*() {
    const ledger = new Ledger()
    const links: Array<ProxyLink> = []
    const struck: Array<Struck> = []
    let reconnects = 0
    yield* Effect.scoped(clients(node, options, { ledger, links, struck, onReconnect: () => reconnects++ }))

    yield* accuseOfLeaks(ledger, node.held({ patience: 10_000 }))
    const wire = new Wire()
    for (const [i, link] of links.entries()) {
      const [up, down] = yield* Effect.all([link.seen("up"), link.seen("down")])
      wire.add(`connection ${i + 1}`, { up, down }, toId)
    }
    const violations = [...ledger.violations(wire.written), ...wire.violations]
    return { struck, ledger, wire, reconnects, violations }
  })

const accuseOfLeaks = (ledger: Ledger, held: ReturnType<BrokerNode["held"]>) =>
  Effect.map(held, (held) => {
    for (const [what, left] of Object.entries(held)) {
      if (left.length > 0) ledger.accuse(`the broker still holds ${left.length} ${what}`)
    }
  })

/** What the clients and faults of a run write down. */
interface Books {
  readonly ledger: Ledger
  /** Every connection that came through the proxy. */
  readonly links: Array<ProxyLink>
  readonly struck: Array<Struck>
  readonly onReconnect: () => void
}

const clients = (
  node: BrokerNode,
  { duration, onProgress, seed }: ChaosOptions,
  { ledger, links, onReconnect, struck }: Books
): Effect.Effect<void, unknown, Scope.Scope> =>
  Effect.gen(function*() {
    const proxy = yield* makeProxy(node)
    const open = new Set<ProxyLink>()
    yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
      const link = yield* proxy.accept
      links.push(link)
      open.add(link)
      yield* Effect.forkScoped(Effect.andThen(link.closed, Effect.sync(() => open.delete(link))))
    })))

    const connect = (connectionName: string) =>
      AmqpConnection.make({
        url: Redacted.make(node.amqpUrl),
        host: proxy.host,
        port: proxy.port,
        connectionName,
        heartbeat: "1 second",
        handshakeTimeout: "3 seconds",
        waitTimeout: 2 * patience,
        reconnect: backoff
      }).pipe(Effect.provide(NodeAmqp.layerTransport))
    const publishers = yield* connect(connectionNames[0])
    const consumers = yield* connect(connectionNames[1])
    for (const connection of [publishers, consumers]) {
      yield* Effect.provideService(AmqpTopology.make(topology), AmqpConnection.AmqpConnection, connection)
      yield* Effect.forkScoped(Stream.runForEach(
        Stream.filter(connection.changes, ({ _tag }) => _tag === "Reconnecting"),
        (status) => Effect.sync(() => status._tag === "Reconnecting" && status.attempt === 1 && onReconnect())
      ))
    }

    // --- consumers, which end when the run does and not before

    const handled = (name: string) => (delivery: AmqpSupervisedDelivery) =>
      Effect.andThen(
        Effect.sleep(delivery.deliveryTag % 5),
        Effect.sync(() => ledger.handle(toId(delivery.body), name))
      )
    const consuming = yield* FiberSet.make<void>()
    const consume = (name: string, running: Effect.Effect<void, unknown, AmqpConnection.AmqpConnection>) => {
      if (name !== dead) ledger.expect(name)
      return FiberSet.run(
        consuming,
        Effect.provideService(running, AmqpConnection.AmqpConnection, consumers).pipe(
          Effect.exit,
          Effect.map((exit) => ledger.accuse(`${name} ended by itself: ${exit}`))
        )
      )
    }
    const runOptions = { recover, prefetch: 50, concurrency: 8 }
    yield* consume("run of the quorum queue", AmqpConsumer.run(quorum, handled("run of the quorum queue"), runOptions))
    yield* consume(
      "stream of the quorum queue",
      Stream.runForEach(AmqpConsumer.stream(quorum, { recover, prefetch: 10 }), (delivery) =>
        Effect.gen(function*() {
          yield* handled("stream of the quorum queue")(delivery)
          const first = yield* delivery.ack
          if (typeof first !== "string") ledger.stale++
          if ((yield* delivery.ack) === "Settled") ledger.accuse("a delivery was settled twice")
        }))
    )
    yield* consume(
      "run of the classic queue",
      AmqpConsumer.run(classic, (delivery) =>
        Effect.as(
          handled("run of the classic queue")(delivery),
          delivery.deliveryTag % 10 === 0 ? AmqpConsumer.deadLetter : AmqpConsumer.ack
        ), runOptions)
    )
    yield* consume(
      dead,
      Stream.runForEach(AmqpConsumer.stream(dead, { recover }), (delivery) => delivery.ack)
    )

    // --- publishers

    let isOver = false
    const publish = publishing(ledger, () => isOver)
    const publishingFibers = yield* FiberSet.make<void>()
    for (
      const one of [
        { name: "q-once", routingKey: quorum, resend: false, batch: 1 },
        { name: "q-resend", routingKey: quorum, resend: true, batch: 1 },
        { name: "c-once", routingKey: classic, resend: false, batch: 5 },
        { name: "c-resend", routingKey: classic, resend: true, batch: 5 }
      ]
    ) {
      ledger.expect(one.name)
      yield* FiberSet.run(
        publishingFibers,
        publish(one).pipe(
          Effect.provideService(AmqpConnection.AmqpConnection, publishers),
          Effect.catch((error) => Effect.sync(() => ledger.accuse(`${one.name} failed: ${error}`)))
        )
      )
    }

    // --- faults

    let current: Kind | undefined
    const startedAt = performance.now()
    const elapsed = () => performance.now() - startedAt
    const report = Effect.sync(() =>
      onProgress({
        elapsed: elapsed(),
        fault: current,
        faults: struck.length,
        published: ledger.begun,
        confirmed: ledger.confirmed,
        arrived: ledger.arrived
      })
    )
    const reporting = yield* Effect.forkScoped(Effect.repeat(report, Schedule.spaced("200 millis")))

    let deletions = 0
    const deleteQueue = Effect.suspend(() =>
      losesItsQueue(`chaos-deleted-${++deletions}`).pipe(
        Effect.provideService(AmqpConnection.AmqpConnection, consumers),
        Effect.timeout("20 seconds"),
        Effect.matchEffect({
          onFailure: (error) => Effect.sync(() => ledger.accuse(`a consumer did not lose its queue: ${error}`)),
          onSuccess: (error) =>
            Effect.sync(() => {
              const isTyped = error._tag === "AmqpConsumerFailed" && error.reason._tag === "AmqpNotFound"
              if (!isTyped) ledger.accuse(`the consumer of a deleted queue failed otherwise: ${error}`)
            })
        })
      )
    )
    const victim = { node, proxy, links: open, connectionNames, deleteQueue: Effect.asVoid(deleteQueue) }
    const recovered = Effect.gen(function*() {
      const since = performance.now()
      const all = ledger.until(() => ledger.stuck(since).length === 0 || ledger.accusations.length > 0)
      const inTime = yield* Effect.timeoutOption(all, patience)
      if (inTime._tag === "None") {
        ledger.accuse(`no progress within ${patience} ms after ${current}: ${ledger.stuck(since).join(", ")}`)
      }
      return performance.now() - since
    })

    yield* recovered
    for (const fault of schedule(seed)) {
      if (elapsed() > duration || ledger.accusations.length > 0) break
      const { begun } = ledger
      yield* ledger.until(() => ledger.begun >= begun + fault.after && ledger.begun > ledger.settled)
      current = fault.kind
      yield* Effect.scoped(inject(victim, fault))
      struck.push({ fault, recovery: yield* recovered })
      current = undefined
    }

    // --- the end: everything has its outcome, everything confirmed arrives, nothing is left in a queue

    isOver = true
    const inTime = yield* Effect.timeoutOption(FiberSet.awaitEmpty(publishingFibers), patience)
    if (inTime._tag === "None") ledger.accuse(`publishes had no outcome within ${patience} ms`)
    yield* Effect.timeoutOption(ledger.until(() => ledger.missing.length === 0), patience / 2)
    yield* drained(node).pipe(
      Effect.retry({ schedule: Schedule.spaced("100 millis"), times: 100 }),
      Effect.catch((left) => Effect.sync(() => ledger.accuse(`left in queues: ${left}`)))
    )
    yield* Fiber.interrupt(reporting)
    yield* report
    yield* FiberSet.clear(consuming)
    // The connections are open, and nothing of publishers and consumers is left on them.
    const connections = yield* node.listConnections
    if (connections.length !== 2) ledger.accuse(`${connections.length} connections instead of 2`)
    yield* accuseOfLeaks(ledger, node.held({ except: { connections, channels: [], consumers: [] }, patience: 5000 }))
  })

/** Fails with what queues still hold. */
const drained = (node: BrokerNode): Effect.Effect<void, string | BrokerError> =>
  Effect.flatMap(node.listQueues("/"), (queues) => {
    const left = queues.filter(({ ready, unacknowledged }) => ready + unacknowledged > 0)
    return left.length === 0
      ? Effect.void
      : Effect.fail(left.map((one) => `${one.name}: ${one.ready} + ${one.unacknowledged}`).join(", "))
  })

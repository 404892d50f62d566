/**
 * A chaos run: publishers and consumers of numbered messages on supervised connections, through a proxy, while faults
 * come one after another; then the books are checked.
 *
 * Each fault strikes while messages are on their way, and the next one waits until every publisher and every consumer
 * has made progress again.
 */
import { Cause, Effect, Fiber, FiberSet, Redacted, Schedule, type Scope, Stream } from "effect"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import type { BrokerError } from "../harness/exec.ts"
import { makeProxy, type ProxyLink } from "../harness/proxy.ts"
import type { BrokerNode } from "../harness/rabbitmq.ts"
import { type Fault, inject, type Kind, schedule } from "./faults.ts"
import { Ledger } from "./ledger.ts"
import { backoff, ownTopology, startConsumers, startPublishers, toId, topology } from "./program.ts"
import { runTrial, type Trial } from "./trials.ts"
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

/** Runs faults against a node of its own. */
export const run = (
  node: BrokerNode,
  options: ChaosOptions
): Effect.Effect<ChaosResult, unknown> =>
  Effect.gen(function*() {
    const ledger = new Ledger()
    const wire = new Wire()
    const struck: Array<Struck> = []
    let reconnects = 0
    const reading = yield* FiberSet.make()
    yield* Effect.scoped(clients(node, options, { ledger, wire, reading, struck, onReconnect: () => reconnects++ }))

    yield* accuseOfLeaks(ledger, node.held({ patience: 10_000 }))
    yield* FiberSet.awaitEmpty(reading)
    const violations = [...ledger.violations(wire.written), ...wire.violations]
    return { struck, ledger, wire, reconnects, violations }
  }).pipe(Effect.scoped)

const accuseOfLeaks = (ledger: Ledger, held: ReturnType<BrokerNode["held"]>) =>
  Effect.map(held, (held) => {
    for (const [what, left] of Object.entries(held)) {
      if (left.length > 0) ledger.accuse(`the broker still holds ${left.length} ${what}`)
    }
  })

/** What the clients and faults of a run write down. */
interface Books {
  readonly ledger: Ledger
  /** What every connection that came through the proxy has sent, once it is over. */
  readonly wire: Wire
  /** Wait for the ends of connections. */
  readonly reading: FiberSet.FiberSet
  readonly struck: Array<Struck>
  readonly onReconnect: () => void
}

const clients = (
  node: BrokerNode,
  { duration, onProgress, seed }: ChaosOptions,
  { ledger, onReconnect, reading, struck, wire }: Books
): Effect.Effect<void, unknown, Scope.Scope> =>
  Effect.gen(function*() {
    const proxy = yield* makeProxy(node)
    const open = new Set<ProxyLink>()
    let connected = 0
    yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
      const link = yield* proxy.accept
      open.add(link)
      const name = `connection ${++connected}`
      yield* FiberSet.run(
        reading,
        Effect.gen(function*() {
          yield* link.closed
          open.delete(link)
          const [up, down] = yield* Effect.all([link.seen("up"), link.seen("down")])
          wire.add(name, { up, down }, toId)
        })
      )
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
    for (const [connection, entities] of [[publishers, topology], [consumers, ownTopology]] as const) {
      yield* Effect.provideService(AmqpTopology.make(entities), AmqpConnection.AmqpConnection, connection)
      yield* Effect.forkScoped(Stream.runForEach(
        Stream.filter(connection.changes, ({ _tag }) => _tag === "Reconnecting"),
        (status) => Effect.sync(() => status._tag === "Reconnecting" && status.attempt === 1 && onReconnect())
      ))
    }

    const consuming = yield* startConsumers(ledger).pipe(
      Effect.provideService(AmqpConnection.AmqpConnection, consumers)
    )
    let isOver = false
    const publishing = yield* startPublishers(ledger, () => isOver).pipe(
      Effect.provideService(AmqpConnection.AmqpConnection, publishers)
    )

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

    const stage = { ledger, connections: [publishers, consumers], connect: connect("chaos-closing") } as const
    const trial = (kind: Trial, index: number) =>
      Effect.catchCause(runTrial(kind, stage, index), (cause) =>
        Effect.sync(() => ledger.accuse(`${kind}: ${Cause.pretty(cause)}`)))
    const victim = { node, proxy, links: open, connectionNames, trial }
    const recovered = Effect.gen(function*() {
      const since = performance.now()
      const all = ledger.until(() =>
        ledger.stuck(since).length === 0 || ledger.accusations.length > 0
      )
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
    const inTime = yield* Effect.timeoutOption(FiberSet.awaitEmpty(publishing), patience)
    if (inTime._tag === "None") ledger.accuse(`publishes had no outcome within ${patience} ms`)
    yield* Effect.timeoutOption(ledger.until(() => ledger.outstanding === 0), patience)
    yield* drained(node).pipe(
      Effect.retry({ schedule: Schedule.spaced("100 millis"), times: 100 }),
      Effect.catch((left) => Effect.sync(() => ledger.accuse(`left in queues: ${left}`)))
    )
    yield* Fiber.interrupt(reporting)
    yield* report
    yield* FiberSet.clear(consuming)
    // The connections are open, and nothing of publishers and consumers is left on them.
    const { connections } = yield* node.held({})
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

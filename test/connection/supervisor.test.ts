/**
 * How a connection is kept alive: when it is tried again, where, with what, and what is told of it. In memory, under
 * `TestClock`.
 */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Option, Random, Redacted, Schedule, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import { AmqpConnectionError, ConnectFailed } from "../../src/AmqpError.ts"
import type { Method } from "../../src/AmqpProtocol.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import { AmqpTransport } from "../../src/AmqpTransport.ts"
import { internals } from "../../src/internal/connection/service.ts"
import { type MemoryBroker, memoryBroker, type Script } from "../integration/memoryBroker.ts"

type Answer = MemoryBroker | "refused" | "silent"

/** A network in memory: what is at the other end of each attempt to connect, counted from 1. */
const network = (answer: (attempt: number, host: string) => Answer) => {
  const attempts: Array<{ readonly at: number; readonly host: string }> = []
  const brokers: Array<MemoryBroker> = []
  const transport = AmqpTransport.of({
    connect: (endpoint) =>
      Effect.clockWith((clock) => {
        attempts.push({ at: clock.currentTimeMillisUnsafe(), host: endpoint.host })
        const found = answer(attempts.length, endpoint.host)
        if (found === "silent") return Effect.never
        if (found === "refused") {
          const reason = new ConnectFailed({ endpoint: endpoint.host, code: "ECONNREFUSED", detail: "refused" })
          return Effect.fail(new AmqpConnectionError({ reason }))
        }
        brokers.push(found)
        return found.transport.connect(endpoint)
      })
  })
  return {
    /** Every attempt at an endpoint: when, in milliseconds, and which. */
    attempts,
    /** The broker of the latest connection. */
    latest: (): MemoryBroker => brokers.at(-1) ?? assert.fail("nothing is connected"),
    brokers,
    connect: (options?: AmqpConnection.Options) =>
      Effect.provideService(AmqpConnection.make({ heartbeat: 0, ...options }), AmqpTransport, transport)
  }
}

/** Milliseconds between the attempts from the `from`-th on. */
const delays = (attempts: ReadonlyArray<{ readonly at: number }>, from = 0): ReadonlyArray<number> =>
  attempts.slice(from + 1).map(({ at }, i) => at - (attempts[from + i]?.at ?? NaN))

const close = (replyCode: number, replyText: string): Method => ({
  _tag: "connection.close",
  replyCode,
  replyText,
  classId: 0,
  methodId: 0
})

/** A broker that answers `connection.open` with this close. */
const closing = (replyCode: number, replyText: string): MemoryBroker =>
  memoryBroker({ script: { "connection.open": () => [close(replyCode, replyText)] } })

/** A broker that opens and goes at once. */
const fleeting = (): MemoryBroker => {
  const broker = memoryBroker({
    script: {
      "connection.open": () => {
        queueMicrotask(broker.lose)
        return [{ _tag: "connection.open-ok" }]
      }
    }
  })
  return broker
}

/** A broker that hangs up on this method, and says nothing. */
const hangingUp = (method: "connection.start-ok" | "connection.open"): MemoryBroker => {
  const broker = memoryBroker({
    script: {
      [method]: () => {
        queueMicrotask(broker.lose)
        return []
      }
    }
  })
  return broker
}

const summary = (status: AmqpConnection.Status): string =>
  status._tag === "Open"
    ? `Open ${status.epoch} ${status.endpoint}`
    : status._tag === "Reconnecting"
    ? `Reconnecting ${status.attempt} ${status.cause.reason._tag}`
    : status._tag === "Blocked"
    ? `Blocked ${status.epoch}`
    : status._tag === "Closed"
    ? `Closed ${status.error.reason._tag}`
    : status._tag

/** Everything that was to be seen of the states, so far. */
const watch = (connection: AmqpConnection.AmqpConnection) =>
  Effect.gen(function*() {
    const seen: Array<string> = []
    const watching = yield* Effect.forkScoped(
      Stream.runForEach(connection.changes, (status) => Effect.sync(() => void seen.push(summary(status)))),
      { startImmediately: true }
    )
    return { seen, ended: Fiber.join(watching) }
  })

/** Lets everything happen that takes no time. */
const settle = TestClock.adjust(0)

const every = Schedule.spaced("1 second")

describe("when", () => {
  it.effect("F21 a broker that is down: anything up to 2 s doubled up to 30 s; one recovery when it is back", () =>
    Effect.gen(function*() {
      let isUp = true
      const net = network(() => isUp ? memoryBroker() : "refused")
      const connection = yield* net.connect()
      isUp = false
      net.latest().lose()
      yield* TestClock.adjust("20 minutes")
      const waited = delays(net.attempts)
      assert.isAbove(waited.length, 40)
      waited.forEach((delay, i) => assert.isAtMost(delay, Math.min(2_000 * 2 ** i, 30_000), `attempt ${i + 1}`))
      // Over the whole of it: neither near its end nor near its beginning.
      const late = waited.slice(5)
      assert.isBelow(Math.min(...late), 10_000)
      assert.isAbove(Math.max(...late), 20_000)
      const mean = late.reduce((sum, delay) => sum + delay, 0) / late.length
      assert.isAbove(mean, 10_000)
      assert.isBelow(mean, 20_000)
      isUp = true
      const count = net.attempts.length
      yield* TestClock.adjust("30 seconds")
      assert.deepInclude(yield* connection.status, { _tag: "Open", epoch: 2 })
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(net.attempts, count + 1)
    }).pipe(Random.withSeed("a fleet")))

  it.effect("F21 fifty clients that lost their broker at the same moment come back over more than a second", () =>
    Effect.gen(function*() {
      const nets = Array.from({ length: 50 }, () => network(() => memoryBroker()))
      for (const net of nets) yield* net.connect()
      yield* TestClock.adjust("1 minute")
      for (const net of nets) net.latest().lose()
      yield* TestClock.adjust("2 seconds")
      const back = nets.map(({ attempts }) => (attempts[1]?.at ?? assert.fail("not back within 2 s")) - 60_000)
      assert.isAbove(Math.max(...back) - Math.min(...back), 1_000)
      // No tenth of the time has more than a third of them.
      for (let from = 0; from < 2_000; from += 200) {
        assert.isBelow(back.filter((at) => at >= from && at < from + 200).length, 17, `${from} ms`)
      }
      for (const { attempts } of nets) assert.lengthOf(attempts, 2)
    }).pipe(Random.withSeed("a fleet")))

  it.effect.each([["opens and goes", fleeting], ["refuses to open", () => closing(541, "INTERNAL_ERROR")]] as const)(
    "F21 a broker that %s again and again is not asked faster and faster",
    ([, make]) =>
      Effect.gen(function*() {
        const net = network((attempt) => attempt === 1 ? memoryBroker() : make())
        yield* net.connect()
        net.latest().lose()
        yield* TestClock.adjust("10 minutes")
        // From the fifth on every 15 s on average; at twice that rate something would be wrong.
        assert.isAtMost(delays(net.attempts).length, 5 + 600 / 7.5)
      })
  )

  it.effect("F21 an epoch of 10 s begins the schedule anew, a shorter one does not", () =>
    Effect.gen(function*() {
      const net = network(() => memoryBroker())
      yield* net.connect({ reconnect: Schedule.exponential("1 second") })
      for (
        const [lasting, delay] of [[10_000, 1_000], [9_999, 2_000], [0, 4_000], [10_000, 1_000], [1, 2_000]] as const
      ) {
        yield* TestClock.adjust(lasting)
        const count = net.attempts.length
        net.latest().lose()
        yield* TestClock.adjust(delay - 1)
        assert.lengthOf(net.attempts, count, `after ${lasting} ms`)
        yield* TestClock.adjust(1)
        assert.lengthOf(net.attempts, count + 1, `after ${lasting} ms`)
      }
    }))

  it.effect("F22 a vhost that is deleted is asked for again and again, the status says why; it comes back", () =>
    Effect.gen(function*() {
      const gone = "NOT_ALLOWED - vhost v not found"
      let isThere = true
      const net = network(() => isThere ? memoryBroker() : closing(530, gone))
      const connection = yield* net.connect()
      isThere = false
      net.latest().send(close(320, "CONNECTION_FORCED - vhost 'v' is deleted"))
      yield* TestClock.adjust("10 minutes")
      const status = yield* connection.status
      assert.deepNestedInclude(status, { _tag: "Reconnecting", "cause.reason._tag": "NotAllowed" })
      assert.deepNestedInclude(status, { "cause.reason.replyText": gone })
      isThere = true
      yield* TestClock.adjust("36 seconds")
      assert.deepInclude(yield* connection.status, { _tag: "Open", epoch: 2 })
    }))

  it.effect("F22 a schedule that looks at the cause gives up, typed; so do those who wait and those who come", () =>
    Effect.gen(function*() {
      const net = network((attempt) => attempt === 1 ? memoryBroker() : closing(530, "NOT_ALLOWED - vhost v not found"))
      const connection = yield* net.connect({
        reconnect: every.pipe(
          Schedule.setInputType<AmqpConnectionError>(),
          Schedule.while(({ input }) => input.reason._tag !== "NotAllowed")
        )
      })
      const { ended, seen } = yield* watch(connection)
      net.latest().lose()
      yield* settle
      const waiting = yield* Effect.forkChild(Effect.flip(connection.server), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      const error = yield* connection.closed
      assert.strictEqual(error.reason._tag, "NotAllowed")
      assert.strictEqual(yield* Fiber.join(waiting), error)
      assert.strictEqual(yield* Effect.flip(connection.server), error)
      yield* ended
      assert.deepStrictEqual(seen, [
        "Open 1 amqp://localhost:5672",
        "Reconnecting 1 ConnectionLost",
        "Closed NotAllowed"
      ])
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(net.attempts, 2)
    }))

  it.effect("F28 a connection limit that our own dead connection still fills is tried again under the schedule", () =>
    Effect.gen(function*() {
      const limit = "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (1) is reached"
      const net = network((attempt) => attempt === 1 || attempt > 5 ? memoryBroker() : closing(530, limit))
      const connection = yield* net.connect({ reconnect: every })
      net.latest().lose()
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(delays(net.attempts), [1_000, 1_000, 1_000, 1_000, 1_000])
      assert.deepInclude(yield* connection.status, { _tag: "Open", epoch: 2 })
    }))
})

describe("the first connection", () => {
  const failing = (name: string, make: () => Answer, tag: string) => [name, make, tag] as const
  const refusing = memoryBroker({ script: { "connection.start-ok": () => [close(403, "ACCESS_REFUSED")] } })
  const configured = [
    failing("credentials", () => refusing, "AuthenticationFailed"),
    failing("vhost", () => closing(530, "NOT_ALLOWED - vhost v not found"), "NotAllowed"),
    failing("mechanism", () => memoryBroker(), "AuthenticationFailed")
  ]

  it.effect.each(configured)(
    "fails at once for its %s, whatever the schedule",
    ([name, make, tag]) =>
      Effect.gen(function*() {
        const net = network(make)
        const options: AmqpConnection.Options = name === "mechanism" ? { mechanisms: ["EXTERNAL"] } : {}
        const error = yield* Effect.flip(net.connect({ ...options, reconnect: every }))
        assert.deepNestedInclude(error, { "reason._tag": tag })
        assert.lengthOf(net.attempts, 1)
      })
  )

  it.effect("fails at once also for what is transient, without a schedule", () =>
    Effect.gen(function*() {
      const net = network(() => "refused")
      const error = yield* Effect.flip(net.connect())
      assert.deepNestedInclude(error, { "reason._tag": "ConnectFailed" })
      assert.lengthOf(net.attempts, 1)
    }))

  it.effect("is retried under the schedule that is given, while the failures are transient", () =>
    Effect.gen(function*() {
      const net = network((attempt) => attempt <= 3 ? "refused" : memoryBroker())
      const connecting = yield* Effect.forkScoped(net.connect({ reconnect: every }), { startImmediately: true })
      yield* TestClock.adjust("3 seconds")
      const connection = yield* Fiber.join(connecting)
      assert.deepInclude(yield* connection.status, { _tag: "Open", epoch: 1 })
      assert.deepStrictEqual(delays(net.attempts), [1_000, 1_000, 1_000])
    }))

  const silences = [
    ["connection.start-ok", "AuthenticationFailed"],
    ["connection.open", "NegotiationFailed"]
  ] as const

  it.effect.each(silences)(
    "that a broker hangs up on after %s is %s, and is asked for once more if at all",
    ([method, tag]) =>
      Effect.gen(function*() {
        const once = network(() => hangingUp(method))
        assert.deepNestedInclude(yield* Effect.flip(once.connect()), { "reason._tag": tag })
        assert.lengthOf(once.attempts, 1)
        const twice = network((attempt) => attempt === 1 || attempt > 3 ? hangingUp(method) : "refused")
        const connecting = yield* Effect.forkScoped(Effect.flip(twice.connect({ reconnect: every })), {
          startImmediately: true
        })
        yield* TestClock.adjust("1 hour")
        assert.deepNestedInclude(yield* Fiber.join(connecting), { "reason._tag": tag })
        // Twice in a row is an answer. Before, it may have been about to stop.
        assert.lengthOf(twice.attempts, 5)
      })
  )

  it.effect.each(silences)(
    "that a broker hangs up on in the moment that it stops, after %s, is made up for",
    ([method]) =>
      Effect.gen(function*() {
        const net = network((attempt) => attempt === 1 ? hangingUp(method) : attempt === 2 ? "refused" : memoryBroker())
        const connecting = yield* Effect.forkScoped(net.connect({ reconnect: every }), { startImmediately: true })
        yield* TestClock.adjust("2 seconds")
        assert.deepInclude(yield* (yield* Fiber.join(connecting)).status, { _tag: "Open", epoch: 1 })
      })
  )

  it.effect.each(silences)(
    "once open, is replaced for as long as a broker hangs up on it after %s",
    ([method]) =>
      Effect.gen(function*() {
        let isWell = true
        const net = network(() => isWell ? memoryBroker() : hangingUp(method))
        const connection = yield* net.connect({ reconnect: every })
        isWell = false
        net.latest().lose()
        yield* TestClock.adjust("10 seconds")
        assert.isAbove(net.attempts.length, 9)
        isWell = true
        yield* TestClock.adjust("1 second")
        assert.deepInclude(yield* connection.status, { _tag: "Open", epoch: 2 })
      })
  )

  it.effect("is not asked for twice where the frames are known to be too small", () =>
    Effect.gen(function*() {
      const net = network(() => memoryBroker({ serverProperties: { product: "RabbitMQ", version: "4.3.6" } }))
      const error = yield* Effect.flip(net.connect({ frameMax: 4096, reconnect: every }))
      assert.deepNestedInclude(error, { "reason._tag": "NegotiationFailed" })
      assert.include(error.message, "8192")
      assert.lengthOf(net.attempts, 1)
      assert.deepStrictEqual(net.latest().received, [])
    }))

  it.effect("fails at the first failure that is not, also when others went before", () =>
    Effect.gen(function*() {
      const net = network((attempt) => attempt === 1 ? "refused" : closing(530, "NOT_ALLOWED - vhost v not found"))
      const connecting = yield* Effect.forkScoped(Effect.flip(net.connect({ reconnect: every })), {
        startImmediately: true
      })
      yield* TestClock.adjust("1 minute")
      assert.deepNestedInclude(yield* Fiber.join(connecting), { "reason._tag": "NotAllowed" })
      assert.lengthOf(net.attempts, 2)
    }))

  it.effect.each(["soon", -1] as const)(
    "P1 a waitTimeout of %s is refused before anything is connected",
    (waitTimeout) =>
      Effect.gen(function*() {
        const net = network(() => memoryBroker())
        const error = yield* Effect.flip(net.connect({ ...JSON.parse(JSON.stringify({ waitTimeout })) }))
        assert.deepInclude(error, { _tag: "AmqpEncodeError", path: "options.waitTimeout" })
        assert.lengthOf(net.attempts, 0)
      })
  )

  it.effect("fails with the last failure when the schedule gives up", () =>
    Effect.gen(function*() {
      const net = network(() => "refused")
      const connecting = yield* Effect.forkScoped(
        Effect.flip(net.connect({ reconnect: Schedule.max([every, Schedule.recurs(2)]) })),
        { startImmediately: true }
      )
      yield* TestClock.adjust("1 minute")
      assert.deepNestedInclude(yield* Fiber.join(connecting), { "reason._tag": "ConnectFailed" })
      assert.lengthOf(net.attempts, 3)
    }))
})

describe("where, and with what", () => {
  const hosts = ["a", "b", "c"]
  const endpoints = hosts.map((host) => ({ host }))

  it.effect("F33 all hosts are down: each is tried once per cycle, then one sleep", () =>
    Effect.gen(function*() {
      const net = network((attempt) => attempt === 1 ? memoryBroker() : "refused")
      const connection = yield* net.connect({ endpoints, reconnect: every })
      const { seen } = yield* watch(connection)
      net.latest().lose()
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(net.attempts.slice(1), [
        ...hosts.map((host) => ({ at: 1_000, host })),
        ...hosts.map((host) => ({ at: 2_000, host }))
      ])
      assert.deepStrictEqual(seen.slice(1), [
        "Reconnecting 1 ConnectionLost",
        "Reconnecting 2 ConnectFailed",
        "Reconnecting 3 ConnectFailed"
      ])
    }))

  it.effect("F27 a host that takes the socket and says 320 to open is passed over", () =>
    Effect.gen(function*() {
      const net = network((_, host) => host === "b" ? memoryBroker() : closing(320, "CONNECTION_FORCED - draining"))
      const connection = yield* net.connect({ endpoints })
      assert.deepInclude(yield* connection.status, { endpoint: "amqp://b:5672" })
      assert.deepStrictEqual(net.attempts.map(({ host }) => host), ["a", "b"])
    }))

  /** Whose words, or whose silence after `connection.start-ok`, are a refusal. */
  const refusing: ReadonlyArray<readonly [name: string, make: () => MemoryBroker, tag: string, times: number]> = [
    ["knows no such vhost", () => closing(530, "NOT_ALLOWED - vhost v not found"), "NotAllowed", 1],
    [
      "refuses the credentials",
      () => memoryBroker({ script: { "connection.start-ok": () => [close(403, "ACCESS_REFUSED")] } }),
      "AuthenticationFailed",
      1
    ],
    ["hangs up on them", () => hangingUp("connection.start-ok"), "AuthenticationFailed", 2]
  ]

  it.effect.each(refusing.flatMap((kind) => [["a", ...kind] as const, ["b", ...kind] as const]))(
    "the first connection of two hosts, of which %s %s and the other is down, fails with the refusal",
    ([refused, , make, tag, times]) =>
      Effect.gen(function*() {
        const net = network((_, host) => host === refused ? make() : "refused")
        const connecting = yield* Effect.forkScoped(
          Effect.flip(net.connect({ endpoints: [{ host: "a" }, { host: "b" }], reconnect: every })),
          { startImmediately: true }
        )
        yield* TestClock.adjust("1 minute")
        assert.deepNestedInclude(yield* Fiber.join(connecting), { "reason._tag": tag })
        assert.lengthOf(net.attempts, 2 * times)
      })
  )

  it.effect("F31 a host that does not answer at all costs connectTimeout, and then the next is tried", () =>
    Effect.gen(function*() {
      const net = network((_, host) => host === "c" ? memoryBroker() : "silent")
      const connecting = yield* Effect.forkScoped(net.connect({ endpoints, connectTimeout: "3 seconds" }), {
        startImmediately: true
      })
      yield* TestClock.adjust("6 seconds")
      const connection = yield* Fiber.join(connecting)
      assert.deepInclude(yield* connection.status, { endpoint: "amqp://c:5672" })
      assert.deepStrictEqual(net.attempts, [{ at: 0, host: "a" }, { at: 3_000, host: "b" }, { at: 6_000, host: "c" }])
    }))

  it.effect("fixed order begins with the first each time; shuffled begins anywhere and tries each", () =>
    Effect.gen(function*() {
      const net = network((attempt) => attempt === 1 ? memoryBroker() : "refused")
      yield* net.connect({ endpoints, endpointOrder: "shuffled", reconnect: every })
      net.latest().lose()
      yield* TestClock.adjust("40 seconds")
      const cycles = new Map<number, Array<string>>()
      for (const { at, host } of net.attempts.slice(1)) cycles.set(at, [...cycles.get(at) ?? [], host])
      assert.strictEqual(cycles.size, 40)
      for (const cycle of cycles.values()) assert.deepStrictEqual([...cycle].sort(), hosts)
      assert.lengthOf(new Set([...cycles.values()].map(([first]) => first)), 3)
    }))

  it.effect("F32 endpoints and F25 credentials of an Effect are asked for at each attempt, failures of theirs too", () =>
    Effect.gen(function*() {
      let asked = 0
      let tokens = 0
      const net = network((attempt) => attempt === 2 ? "refused" : memoryBroker())
      const down = new AmqpConnectionError({
        reason: new ConnectFailed({ endpoint: "", code: "ENOTFOUND", detail: "no name service" })
      })
      const connection = yield* net.connect({
        reconnect: every,
        endpoints: Effect.suspend(() => ++asked === 3 ? Effect.fail(down) : Effect.succeed([{ host: `h${asked}` }])),
        credentials: Effect.sync(() => ({ username: "u", password: Redacted.make(`token ${++tokens}`) }))
      })
      net.latest().lose()
      yield* TestClock.adjust("2 seconds")
      assert.deepNestedInclude(yield* connection.status, { "cause.reason.code": "ENOTFOUND" })
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* connection.status, { _tag: "Open", endpoint: "amqp://h4:5672" })
      const said = net.latest().received.flatMap((frame) =>
        frame._tag === "Method" && frame.method._tag === "connection.start-ok"
          ? [new TextDecoder().decode(frame.method.response)]
          : []
      )
      assert.deepStrictEqual(said, [`\0u\0token ${tokens}`])
      assert.strictEqual(tokens, 4)
    }))
})

describe("those who wait", () => {
  const lost = (options: AmqpConnection.Options) =>
    Effect.gen(function*() {
      let isUp = true
      const net = network(() => isUp ? memoryBroker() : "refused")
      const connection = yield* net.connect({ reconnect: every, ...options })
      isUp = false
      net.latest().lose()
      yield* settle
      const raise = Effect.sync(() => {
        isUp = true
      })
      return { connection, net, raise }
    })

  it.effect("P1 wait for the next epoch", () =>
    Effect.gen(function*() {
      const { connection, raise } = yield* lost({})
      const waiting = yield* Effect.forkChild(connection.server, { startImmediately: true })
      yield* TestClock.adjust("5500 millis")
      assert.isUndefined(waiting.pollUnsafe())
      yield* raise
      yield* TestClock.adjust("500 millis")
      assert.strictEqual((yield* Fiber.join(waiting)).mechanism, "PLAIN")
    }))

  it.effect("P1 fail with the reason of the loss when waitTimeout is over, each after its own", () =>
    Effect.gen(function*() {
      const { connection, net } = yield* lost({ waitTimeout: "10 seconds" })
      const one = yield* Effect.forkChild(Effect.flip(connection.server), { startImmediately: true })
      yield* TestClock.adjust("4 seconds")
      const two = yield* Effect.forkChild(Effect.flip(connection.server), { startImmediately: true })
      yield* TestClock.adjust("5999 millis")
      assert.isUndefined(one.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* Fiber.join(one)).reason._tag, "ConnectionLost")
      assert.isUndefined(two.pollUnsafe())
      yield* TestClock.adjust("4 seconds")
      yield* Fiber.join(two)
      assert.strictEqual((yield* connection.status)._tag, "Reconnecting")
      assert.isAbove(net.attempts.length, 10)
    }))

  it.effect("P1 do not wait with a waitTimeout of 0", () =>
    Effect.gen(function*() {
      const { connection } = yield* lost({ waitTimeout: 0 })
      const failing = yield* Effect.forkChild(Effect.flip(connection.server), { startImmediately: true })
      yield* settle
      assert.strictEqual((yield* Fiber.join(failing)).reason._tag, "ConnectionLost")
    }))

  it.effect("P1 can be interrupted; the others go on", () =>
    Effect.gen(function*() {
      const { connection, raise } = yield* lost({})
      const one = yield* Effect.forkChild(connection.server, { startImmediately: true })
      const two = yield* Effect.forkChild(connection.server, { startImmediately: true })
      yield* Fiber.interrupt(one)
      yield* raise
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(two)).mechanism, "PLAIN")
    }))
})

describe("what is told, restored and closed", () => {
  it.effect("P8 changes shows every state in order, to each who watches, and ends with the connection", () =>
    Effect.gen(function*() {
      const net = network((attempt) => attempt === 2 ? "refused" : memoryBroker())
      const connection = yield* net.connect({ reconnect: every })
      const one = yield* watch(connection)
      net.latest().send({ _tag: "connection.blocked", reason: "low on memory" })
      yield* settle
      net.latest().send({ _tag: "connection.unblocked" })
      yield* settle
      net.latest().send(close(320, "CONNECTION_FORCED - maintenance"))
      yield* settle
      const two = yield* watch(connection)
      yield* TestClock.adjust("2 seconds")
      yield* connection.close
      yield* one.ended
      yield* two.ended
      const later = [
        "Reconnecting 1 ConnectionForced",
        "Reconnecting 2 ConnectFailed",
        "Open 2 amqp://localhost:5672",
        "Closed ConnectionClosed"
      ]
      assert.deepStrictEqual(one.seen, [
        "Open 1 amqp://localhost:5672",
        "Blocked 1",
        "Open 1 amqp://localhost:5672",
        ...later
      ])
      assert.deepStrictEqual(two.seen, later)
      assert.deepStrictEqual(yield* Stream.runCollect(Stream.map(connection.changes, summary)), later.slice(-1))
    }))

  it.effect("restores each epoch once, in order, before anybody may use it", () =>
    Effect.gen(function*() {
      const net = network(() => memoryBroker())
      const connection = yield* net.connect({ reconnect: every })
      const { onEpoch } = connection[internals]()
      const done: Array<string> = []
      const restores = (name: string) =>
        onEpoch(({ epoch }) =>
          Effect.delay(Effect.sync(() => void done.push(`${name} ${epoch}`)), epoch === 1 ? 0 : "1 second")
        )
      yield* restores("a")
      const own = yield* Scope.fork(yield* Effect.scope)
      yield* Scope.provide(restores("gone"), own)
      net.latest().lose()
      yield* settle
      yield* Scope.close(own, Exit.void)
      // Registered while there is no epoch: the next one is its first.
      const late = yield* Effect.forkScoped(restores("late"), { startImmediately: true })
      const user = yield* Effect.forkChild(connection.server, { startImmediately: true })
      yield* TestClock.adjust("2999 millis")
      assert.isUndefined(user.pollUnsafe())
      assert.deepStrictEqual(done, ["a 1", "gone 1", "a 2"])
      assert.strictEqual((yield* connection.status)._tag, "Reconnecting")
      yield* TestClock.adjust(1)
      yield* Fiber.join(user)
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(late)
      assert.deepStrictEqual(done, ["a 1", "gone 1", "a 2", "late 2"])
    }))

  it.effect("a session that ends while it is restored is nobody's", () =>
    Effect.gen(function*() {
      const net = network(() => memoryBroker())
      const connection = yield* net.connect({ reconnect: every })
      const { onEpoch } = connection[internals]()
      yield* onEpoch(() => Effect.sleep("1 second")).pipe(Effect.forkScoped({ startImmediately: true }))
      yield* TestClock.adjust("1 second")
      const { seen } = yield* watch(connection)
      net.latest().lose()
      yield* TestClock.adjust("1500 millis")
      net.latest().lose()
      yield* settle
      // Not when it would have been restored.
      assert.strictEqual(seen.at(-1), "Reconnecting 2 ConnectionLost")
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(seen, [
        "Open 1 amqp://localhost:5672",
        "Reconnecting 1 ConnectionLost",
        "Reconnecting 2 ConnectionLost",
        "Open 3 amqp://localhost:5672"
      ])
      assert.isTrue(net.brokers[1]?.isClosed())
    }))

  it.effect("what is registered while an epoch is being restored belongs to it, also if that one is lost", () =>
    Effect.gen(function*() {
      for (const isLost of [false, true]) {
        const net = network(() => memoryBroker())
        const connection = yield* net.connect({ reconnect: every })
        const { onEpoch } = connection[internals]()
        const done: Array<string> = []
        const restores = (name: string) =>
          onEpoch(({ epoch }) =>
            Effect.delay(Effect.sync(() => void done.push(`${name} ${epoch}`)), epoch === 1 ? 0 : "1 second")
          )
        yield* restores("a")
        net.latest().lose()
        yield* TestClock.adjust("1500 millis")
        const late = yield* Effect.forkScoped(restores("late"), { startImmediately: true })
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* connection.status)._tag, "Reconnecting")
        if (isLost) net.latest().lose()
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(late)
        assert.strictEqual((yield* connection.status)._tag, "Open")
        assert.deepStrictEqual(done, isLost ? ["a 1", "a 2", "a 3", "late 3"] : ["a 1", "a 2", "late 2"])
      }
    }))

  const silentBroker = (): MemoryBroker => memoryBroker({ script: { "connection.start-ok": () => [] } })
  const phases: ReadonlyArray<readonly [string, () => Answer]> = [
    ["sleeps", () => "refused"],
    ["dials", () => "silent"],
    ["shakes hands", silentBroker],
    ["restores", () => memoryBroker()]
  ]

  it.effect.each(phases)(
    "F87 is closed at once while it %s, and leaves nothing open",
    ([phase, answer]) =>
      Effect.gen(function*() {
        const net = network((attempt) => attempt === 1 ? memoryBroker() : answer())
        const connection = yield* net.connect({ reconnect: every })
        yield* connection[internals]().onEpoch(({ epoch }) => epoch === 1 ? Effect.void : Effect.never)
        const { ended, seen } = yield* watch(connection)
        net.latest().lose()
        yield* TestClock.adjust("1500 millis")
        const waiting = yield* Effect.forkChild(Effect.flip(connection.server), { startImmediately: true })
        const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
        yield* settle
        assert.isTrue(Option.isSome(Option.fromUndefinedOr(closing.pollUnsafe())), phase)
        assert.strictEqual((yield* Fiber.join(waiting)).reason._tag, "ConnectionClosed")
        yield* ended
        assert.strictEqual(seen.at(-1), "Closed ConnectionClosed")
        for (const broker of net.brokers) assert.isTrue(broker.isClosed())
        const count = net.attempts.length
        yield* TestClock.adjust("1 hour")
        assert.lengthOf(net.attempts, count)
      })
  )

  it.effect("close has what is registered end first, together, while the connection still works", () =>
    Effect.gen(function*() {
      const net = network(() => memoryBroker())
      const connection = yield* net.connect({ reconnect: every })
      const { isOver, onClosing, session } = connection[internals]()
      const done: Array<string> = []
      const ends = (name: string, after: number) =>
        Effect.delay(Effect.andThen(Effect.orDie(session), Effect.sync(() => void done.push(name))), after)
      const own = yield* Scope.fork(yield* Effect.scope)
      yield* Scope.provide(onClosing(ends("gone", 0)), own)
      yield* onClosing(ends("slow", 2_000))
      yield* onClosing(Effect.die("broken"))
      yield* onClosing(ends("quick", 1_000))
      yield* Scope.close(own, Exit.void)
      const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
      yield* TestClock.adjust("1999 millis")
      assert.deepStrictEqual(done, ["quick"])
      assert.isFalse(isOver())
      assert.strictEqual((yield* connection.status)._tag, "Open")
      yield* TestClock.adjust(1)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(done, ["quick", "slow"])
      assert.isTrue(isOver())
      assert.strictEqual((yield* Effect.flip(connection.server)).reason._tag, "ConnectionClosed")
    }))

  it.effect("a connection that is lost while it is being closed is not replaced, and nobody waits for it", () =>
    Effect.gen(function*() {
      const net = network(() => memoryBroker())
      const connection = yield* net.connect({ reconnect: every })
      const { isOver, nextSession, onClosing } = connection[internals]()
      const closed = yield* Effect.forkScoped(connection.closed, { startImmediately: true })
      yield* onClosing(Effect.delay(Effect.ignore(nextSession), "1 second"))
      const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
      yield* settle
      net.latest().lose()
      yield* settle
      assert.isTrue(isOver())
      assert.strictEqual((yield* Effect.flip(connection.server)).reason._tag, "ConnectionClosed")
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
      assert.strictEqual((yield* Fiber.join(closed)).reason._tag, "ConnectionClosed")
      assert.lengthOf(net.attempts, 1)
    }))

  it.effect("P5 the scope closes it while it reconnects", () =>
    Effect.gen(function*() {
      const net = network((attempt) => attempt === 1 ? memoryBroker() : "refused")
      const scope = yield* Scope.fork(yield* Effect.scope)
      const connection = yield* Scope.provide(net.connect(), scope)
      net.latest().lose()
      yield* TestClock.adjust("5 seconds")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* connection.closed).reason._tag, "ConnectionClosed")
      const count = net.attempts.length
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(net.attempts, count)
    }))
})

describe("what is opened and closed all the time", () => {
  it.effect("has the whole of closeTimeout for each end, and gets its numbers back", () =>
    Effect.gen(function*() {
      const net = network(() => memoryBroker({ tune: { channelMax: 3 }, script: { "channel.close": () => [] } }))
      const connection = yield* net.connect()
      const times: Array<number> = []
      const once = Effect.gen(function*() {
        const start = yield* Clock.currentTimeMillis
        yield* Effect.scoped(Effect.provideService(AmqpChannel.open, AmqpConnection.AmqpConnection, connection))
        times.push((yield* Clock.currentTimeMillis) - start)
      })
      // Each begins while the others are closing.
      const all = yield* Effect.forkChild(
        Effect.forEach([0, 1_500, 3_000], (after) => Effect.delay(Effect.repeat(once, { times: 9 }), after), {
          concurrency: "unbounded"
        }),
        { startImmediately: true }
      )
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(all)
      assert.deepStrictEqual(times, Array.from({ length: 30 }, () => 5_000))
      const closing = yield* Effect.forkChild(connection.close, { startImmediately: true })
      yield* settle
      yield* Fiber.join(closing)
    }))
})

describe("a fault of this program", () => {
  it.effect("in a schedule, in credentials or in what restores ends the connection, typed, instead of nothing", () =>
    Effect.gen(function*() {
      const broken = Effect.die(new Error("broken"))
      const cases: ReadonlyArray<(isBroken: () => boolean) => AmqpConnection.Options> = [
        () => ({ reconnect: Schedule.tap(every, () => broken) }),
        (isBroken) => ({
          reconnect: every,
          credentials: Effect.suspend(() =>
            isBroken() ? broken : Effect.succeed({ username: "u", password: Redacted.make("p") })
          )
        }),
        () => ({ reconnect: every })
      ]
      for (const [i, options] of cases.entries()) {
        let isBroken = false
        const net = network(() => memoryBroker())
        const connection = yield* net.connect(options(() => isBroken))
        const { onEpoch } = connection[internals]()
        yield* onEpoch(({ epoch }) => i === 2 && epoch > 1 ? broken : Effect.void)
        isBroken = true
        const closed = yield* Effect.forkChild(connection.closed, { startImmediately: true })
        net.latest().lose()
        yield* TestClock.adjust("1 minute")
        const error = yield* Fiber.join(closed)
        assert.include(error.message, "this client failed: Error: broken")
        assert.strictEqual(yield* Effect.flip(connection.server), error)
        for (const broker of net.brokers) assert.isTrue(broker.isClosed())
      }
    }))

  it.effect("a microtask is not asked for as a method of another object", () =>
    Effect.gen(function*() {
      const native = globalThis.queueMicrotask
      const strict = function(this: unknown, run: () => void): void {
        if (this !== undefined && this !== globalThis) throw new TypeError("Illegal invocation")
        native(run)
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          globalThis.queueMicrotask = strict
        }),
        () =>
          Effect.sync(() => {
            globalThis.queueMicrotask = native
          })
      )
      const net = network(() => memoryBroker())
      const connection = yield* net.connect()
      yield* Effect.scoped(Effect.provideService(AmqpChannel.open, AmqpConnection.AmqpConnection, connection))
      yield* connection.close
      assert.isTrue(net.latest().isClosed())
    }))

  it.effect("a platform without microtasks fails the connection at once, typed", () =>
    Effect.gen(function*() {
      const native = globalThis.queueMicrotask
      yield* Effect.acquireUseRelease(
        Effect.sync(() => {
          globalThis.queueMicrotask = () => {
            throw new TypeError("Illegal invocation")
          }
        }),
        () =>
          Effect.gen(function*() {
            const net = network(() => memoryBroker())
            const error = yield* Effect.flip(net.connect())
            assert.deepNestedInclude(error, { "reason._tag": "ConnectionLost" })
            assert.include(error.message, "Illegal invocation")
          }),
        () =>
          Effect.sync(() => {
            globalThis.queueMicrotask = native
          })
      )
    }))
})

describe("a topology", () => {
  const entities = [
    AmqpTopology.exchange("bad", { type: "x-of-a-plugin" }),
    AmqpTopology.exchange("good", { durable: false }),
    AmqpTopology.classicQueue("q")
  ]
  const declaring: Script = {
    "exchange.declare": () => [{ _tag: "exchange.declare-ok" }],
    "queue.declare": () => [{ _tag: "queue.declare-ok", queue: "q", messageCount: 0, consumerCount: 0 }]
  }
  const refusal: Method = {
    _tag: "connection.close",
    replyCode: 503,
    replyText: "COMMAND_INVALID - unknown exchange type 'x-of-a-plugin'",
    classId: 40,
    methodId: 10
  }

  it.effect("of which the broker takes one entity no more does not lose every epoch for it", () =>
    Effect.gen(function*() {
      // A node without the plugin.
      const without = (): MemoryBroker => {
        const broker: MemoryBroker = memoryBroker({
          script: {
            ...declaring,
            "exchange.declare": () => {
              const last = broker.received.at(-1)
              const isBad = last?._tag === "Method" && last.method._tag === "exchange.declare" &&
                last.method.exchange === "bad"
              if (!isBad) return [{ _tag: "exchange.declare-ok" }]
              broker.send(refusal)
              return []
            }
          }
        })
        return broker
      }
      const net = network((attempt) => attempt === 1 ? memoryBroker({ script: declaring }) : without())
      const connection = yield* net.connect({ reconnect: every })
      const topology = yield* Effect.provideService(
        AmqpTopology.make(entities),
        AmqpConnection.AmqpConnection,
        connection
      )
      const { seen } = yield* watch(connection)
      net.latest().lose()
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* connection.status)._tag, "Open")
      // It was alone each time.
      assert.lengthOf(seen.filter((status) => status === "Reconnecting 1 ConnectionLost"), 1)
      assert.lengthOf(seen.filter((status) => status.endsWith("CommandInvalid")), 3)
      assert.lengthOf(seen.filter((status) => status.startsWith("Open")), 2)
      const [failure, ...others] = yield* topology.failures
      assert.lengthOf(others, 0)
      assert.deepInclude(failure, { _tag: "AmqpTopologyError", entity: "exchange \"bad\"" })
      assert.deepNestedInclude(failure?.cause, { "reason._tag": "CommandInvalid" })
      const sent = net.latest().received.flatMap((frame) =>
        frame._tag === "Method" && frame.method._tag === "exchange.declare" ? [frame.method.exchange] : []
      )
      assert.deepStrictEqual(sent, ["good"])
    }))

  it.effect("that the broker does not answer is listed as pending when the epoch opens without it", () =>
    Effect.gen(function*() {
      const silent = memoryBroker({ script: { ...declaring, "queue.declare": () => [] } })
      const net = network((attempt) => attempt === 1 ? memoryBroker({ script: declaring }) : silent)
      const connection = yield* net.connect({ reconnect: every })
      const topology = yield* Effect.provideService(
        AmqpTopology.make(entities),
        AmqpConnection.AmqpConnection,
        connection
      )
      net.latest().lose()
      yield* TestClock.adjust("10999 millis")
      assert.strictEqual((yield* connection.status)._tag, "Reconnecting")
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* connection.status)._tag, "Open")
      assert.deepStrictEqual((yield* topology.failures).map(({ cause, entity }) => [entity, cause._tag]), [
        ["queue \"q\"", "AmqpTopologyPending"]
      ])
    }))

  it.effect("whose schedule is broken fails with that, instead of waiting for ever", () =>
    Effect.gen(function*() {
      const broker: MemoryBroker = memoryBroker({
        script: {
          "exchange.declare": () => [
            { _tag: "channel.close", replyCode: 406, replyText: "PRECONDITION_FAILED", classId: 40, methodId: 10 }
          ]
        }
      })
      const connection = yield* network(() => broker).connect()
      const retry = Schedule.tap(every, () => Effect.die("broken")).pipe(
        Schedule.setInputType<AmqpTopology.AmqpTopologyError>()
      )
      const exit = yield* Effect.exit(Effect.provideService(
        AmqpTopology.make([AmqpTopology.exchange("x")], { onFailure: { retry } }),
        AmqpConnection.AmqpConnection,
        connection
      ))
      assert.isTrue(Exit.hasDies(exit))
    }))
})

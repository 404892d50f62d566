/**
 * The faults of a chaos run: which, in what order and how long, all drawn from a seed, and how each is done to a broker
 * and the proxy in front of it.
 *
 * Every kind comes once before any comes again. The bytes of a stream are never changed: a connection that has lost
 * bytes is reset before it could go on.
 */
import { Effect, type Scope } from "effect"
import type { BrokerError } from "../harness/exec.ts"
import type { Direction, FaultProxy, ProxyLink } from "../harness/proxy.ts"
import type { BrokerNode } from "../harness/rabbitmq.ts"
import { type Trial, trialKinds } from "./trials.ts"

/** What can be done to a client. */
export const kinds = [
  "reset",
  "second loss during recovery",
  "cut inside a frame",
  "half-open",
  "stall",
  "delay and jitter",
  "one byte at a time",
  "throttle",
  "close_connection",
  "memory alarm",
  "stop_app",
  "kill -9",
  ...trialKinds
] as const

export type Kind = (typeof kinds)[number]

/** One fault of the schedule; each kind uses what it needs. */
export interface Fault {
  readonly kind: Kind
  /** It strikes when so many more messages were begun to be published since the last recovery. */
  readonly after: number
  /** How long it lasts. */
  readonly millis: number
  readonly direction: Direction
  /** Bytes until the cut; bytes at a time. */
  readonly bytes: number
  /** Which of the client's connections, where it is done to one. */
  readonly index: number
}

/** Milliseconds that a fault of a kind lasts, at least and at most. */
const durations: Record<Kind, readonly [number, number]> = {
  "reset": [0, 0],
  "second loss during recovery": [0, 0],
  "cut inside a frame": [0, 0],
  "half-open": [500, 4000], // a heartbeat of 1 s notices after 2 to 3 s
  "stall": [200, 900],
  "delay and jitter": [500, 1500],
  "one byte at a time": [300, 800],
  "throttle": [500, 1500],
  "close_connection": [0, 0],
  "memory alarm": [300, 1500],
  "stop_app": [100, 1000],
  "kill -9": [0, 1000],
  "queue deleted": [0, 0],
  "one queue of two deleted": [0, 0],
  "end of a consumer at work": [0, 0],
  "poison message": [0, 0],
  "close under load": [0, 0],
  "hard error of a bystander": [0, 0]
}

/** Random numbers in [0, 1) from a seed of 32 bits (mulberry32). */
const random = (seed: number) => {
  let state = seed >>> 0
  return (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** The faults of a seed, without end; the same ones in the same order each time. */
export function* schedule(seed: number): Generator<Fault, never> {
  const next = random(seed)
  const integer = (min: number, max: number) => min + Math.floor(next() * (max - min + 1))
  for (;;) {
    const deck = [...kinds]
    while (deck.length > 0) {
      for (const kind of deck.splice(integer(0, deck.length - 1), 1)) {
        yield {
          kind,
          after: integer(1, 60),
          millis: integer(...durations[kind]),
          direction: next() < 0.5 ? "up" : "down",
          bytes: integer(1, 4000),
          index: integer(0, 1)
        }
      }
    }
  }
}

/** What faults are done to. */
export interface Victim {
  readonly node: BrokerNode
  readonly proxy: FaultProxy
  /** Connections that stand open. */
  readonly links: ReadonlySet<ProxyLink>
  /** The names of the client's connections. */
  readonly connectionNames: readonly [string, string]
  /** Has the program do something of its own. */
  readonly trial: (kind: Trial, index: number) => Effect.Effect<void>
}

/** Lets a connection go on for `bytes` more in one direction, then resets it, likely between the ends of a frame. */
const cutAfter = ({ links, proxy }: Victim, direction: Direction, bytes: number) =>
  Effect.gen(function*() {
    let busiest: ProxyLink | undefined
    let most = -1
    for (const link of links) {
      const { length } = yield* link.seen(direction)
      if (length > most) {
        busiest = link
        most = length
      }
    }
    if (busiest === undefined) return
    yield* proxy.set(direction, { cutAfter: most + bytes })
    yield* Effect.timeoutOption(busiest.closed, "2 seconds")
    yield* proxy.set(direction, { cutAfter: Infinity })
  })

/** Resets everything, and the first connections that come again once more, in their handshake or in their topology. */
const lostAgain = ({ links, proxy }: Victim, bytes: number) =>
  Effect.gen(function*() {
    yield* proxy.resetAll
    // About what a handshake and the declarations take: 400 bytes, 1200 more.
    yield* proxy.set("up", { cutAfter: 300 + bytes % 1300 })
    const accepted = yield* proxy.accepted
    yield* Effect.timeoutOption(
      Effect.repeat(Effect.andThen(Effect.sleep("5 millis"), proxy.accepted), {
        until: (count) => count >= accepted + 2
      }),
      "3 seconds"
    )
    for (const link of links) yield* Effect.timeoutOption(link.closed, "500 millis")
    yield* proxy.set("up", { cutAfter: Infinity })
  })

/** Does a fault and undoes it. */
export const inject = (victim: Victim, fault: Fault): Effect.Effect<void, BrokerError, Scope.Scope> => {
  const { connectionNames, node, proxy, trial } = victim
  const { direction, index, millis } = fault
  const last = Effect.sleep(millis)
  switch (fault.kind) {
    case "reset":
      return proxy.resetAll
    case "second loss during recovery":
      return lostAgain(victim, fault.bytes)
    case "cut inside a frame":
      return cutAfter(victim, direction, fault.bytes)
    case "half-open":
      return Effect.gen(function*() {
        yield* proxy.set(direction, { mode: "hole" })
        yield* last
        yield* proxy.resetAll
        yield* proxy.set(direction, { mode: "pass" })
      })
    case "stall":
      return Effect.gen(function*() {
        yield* proxy.set(direction, { mode: "stall" })
        yield* last
        yield* proxy.set(direction, { mode: "pass" })
      })
    case "delay and jitter":
      return Effect.gen(function*() {
        for (let spent = 0, delay = fault.bytes % 40; spent < millis; spent += 100, delay = (delay * 7 + 3) % 40) {
          yield* proxy.set(direction, { delay })
          yield* Effect.sleep(100)
        }
        yield* proxy.set(direction, { delay: 0 })
      })
    case "one byte at a time":
      return Effect.gen(function*() {
        yield* proxy.set("up", { slice: 1 })
        yield* proxy.set("down", { slice: 1 })
        yield* last
        yield* proxy.set("up", { slice: 0 })
        yield* proxy.set("down", { slice: 0 })
      })
    case "throttle":
      return Effect.gen(function*() {
        yield* proxy.set(direction, { slice: 100 + fault.bytes, delay: 5 })
        yield* last
        yield* proxy.set(direction, { slice: 0, delay: 0 })
      })
    case "close_connection":
      // One that is not there (just lost for a reason of its own) needs no fault.
      return Effect.ignore(node.closeConnection(connectionNames[index === 0 ? 0 : 1], "chaos"))
    case "memory alarm":
      return Effect.gen(function*() {
        yield* node.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.00001)")
        yield* last
        yield* node.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
      })
    case "stop_app":
      return Effect.scoped(Effect.andThen(node.stopApp, last))
    case "kill -9":
      return Effect.andThen(node.kill9, Effect.andThen(last, node.start))
    default:
      return trial(fault.kind, index)
  }
}

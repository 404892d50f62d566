/**
 * A TCP proxy in front of a broker that damages what passes: it drops, delays, slices and cuts, resets and half-closes.
 * It also records both directions of each connection.
 */
import { Effect, Queue, type Scope } from "effect"
import { EventEmitter, once, setMaxListeners } from "node:events"
import { connect, type Socket } from "node:net"
import { setImmediate, setTimeout } from "node:timers/promises"
import { ByteLog, type PeerClosed } from "./bytes.ts"
import { listen } from "./listen.ts"

/** `up`: from the client to the broker; `down`: from the broker to the client. */
export type Direction = "up" | "down"

/** What happens to the bytes of one direction, from the next chunk on. */
export interface Faults {
  /** `hole` reads and drops, and hides that the other side has closed; `stall` stops reading. */
  readonly mode: "pass" | "hole" | "stall"
  /** Passes at most so many bytes at a time, each in a turn of its own; 0: as they come. */
  readonly slice: number
  /** Milliseconds before each piece. */
  readonly delay: number
  /** Resets a connection when so many of its bytes have passed. */
  readonly cutAfter: number
}

const noFaults: Faults = { mode: "pass", slice: 0, delay: 0, cutAfter: Infinity }

/** One connection through the proxy. */
export interface ProxyLink {
  /** Everything that came from that side so far, also what did not pass. */
  readonly seen: (direction: Direction) => Effect.Effect<Uint8Array>
  /** Waits for the next `count` bytes from that side. */
  readonly read: (direction: Direction, count: number) => Effect.Effect<Uint8Array, PeerClosed>
  /** Drops both sides (RST). */
  readonly reset: Effect.Effect<void>
  /** Ends one direction (FIN) as if its sender had. */
  readonly halfClose: (direction: Direction) => Effect.Effect<void>
  /** Waits until both sides are gone. */
  readonly closed: Effect.Effect<void>
}

/** A listening proxy. */
export interface FaultProxy {
  readonly host: string
  readonly port: number
  /** Waits for the next connection, in the order in which they came. */
  readonly accept: Effect.Effect<ProxyLink>
  /** How many connections came. */
  readonly accepted: Effect.Effect<number>
  /** Changes the faults of one direction of all connections, present and future; what is left out stays. */
  readonly set: (direction: Direction, faults: Partial<Faults>) => Effect.Effect<void>
  /** Whether new connections are reset at once. */
  readonly refuse: (isRefusing: boolean) => Effect.Effect<void>
  /** Drops all connections (RST). */
  readonly resetAll: Effect.Effect<void>
}

/** Starts a proxy in front of a TCP address; the end of the scope drops everything. */
export const makeProxy = (
  target: { readonly host: string; readonly port: number }
): Effect.Effect<FaultProxy, never, Scope.Scope> =>
  Effect.gen(function*() {
    const faults: Record<Direction, Faults> = { up: noFaults, down: noFaults }
    const changes = new EventEmitter().setMaxListeners(0)
    const links = new Set<ProxyLink>()
    const queue = yield* Queue.unbounded<ProxyLink>()
    let accepted = 0
    let isRefusing = false

    const open = (client: Socket): ProxyLink => {
      const broker = connect({ ...target, allowHalfOpen: true, noDelay: true })
      broker.on("error", () => {}) // its `close` follows
      const logs: Record<Direction, ByteLog> = { up: new ByteLog(), down: new ByteLog() }
      const gone = new AbortController()
      setMaxListeners(0, gone.signal)
      const reset = () => {
        gone.abort()
        client.resetAndDestroy()
        broker.resetAndDestroy()
      }

      // Also resolves when `to` is gone: then the bytes are lost, as on any wire.
      const pass = (to: Socket, bytes: Uint8Array) => new Promise((resolve) => to.write(bytes, resolve))
      const pump = async (direction: Direction, from: Socket, to: Socket) => {
        let passed = 0
        for await (const chunk of from.iterator({ destroyOnReturn: false })) {
          logs[direction].push(chunk)
          let rest: Uint8Array = chunk
          while (rest.length > 0) {
            while (faults[direction].mode === "stall") await once(changes, "change", gone)
            const { cutAfter, delay, mode, slice } = faults[direction]
            if (mode === "hole") break
            if (delay > 0) await setTimeout(delay, undefined, gone)
            if (slice > 0) await setImmediate(undefined, gone)
            const size = Math.min(rest.length, slice > 0 ? slice : Infinity, cutAfter - passed)
            await pass(to, rest.subarray(0, size))
            rest = rest.subarray(size)
            passed += size
            if (passed >= cutAfter) return reset()
          }
        }
        logs[direction].end()
        if (faults[direction].mode === "pass") to.end()
      }
      // Whatever ends a pump early ends the link: a reset of one side, or ours.
      const lost = (direction: Direction) => () => {
        logs[direction].end()
        if (faults[direction].mode !== "hole") reset()
      }
      const closed = Promise.all([
        new Promise((resolve) => client.once("close", resolve)),
        new Promise((resolve) => broker.once("close", resolve))
      ])
      const pumps = [
        pump("up", client, broker).catch(lost("up")),
        pump("down", broker, client).catch(lost("down"))
      ]
      void Promise.all([closed, ...pumps]).then(() => links.delete(link))

      const link: ProxyLink = {
        seen: (direction) => Effect.sync(() => logs[direction].all),
        read: (direction, count) => logs[direction].read(count),
        reset: Effect.sync(reset),
        halfClose: (direction) => Effect.sync(() => void (direction === "up" ? broker : client).end()),
        closed: Effect.promise(() => closed)
      }
      return link
    }

    const port = yield* listen((client) => {
      accepted++
      if (isRefusing) return client.resetAndDestroy()
      const link = open(client)
      links.add(link)
      Queue.offerUnsafe(queue, link)
    })
    const resetAll = Effect.suspend(() => Effect.forEach([...links], (link) => link.reset, { discard: true }))
    yield* Effect.addFinalizer(() => resetAll)

    return {
      host: "127.0.0.1",
      port,
      accept: Queue.take(queue),
      accepted: Effect.sync(() => accepted),
      set: (direction, changed) =>
        Effect.sync(() => {
          faults[direction] = { ...faults[direction], ...changed }
          changes.emit("change")
        }),
      refuse: (refusing) =>
        Effect.sync(() => {
          isRefusing = refusing
        }),
      resetAll
    }
  })

/**
 * A transport that fails on demand: between a client and any broker, real or embedded.
 *
 * Faults are values. One can be armed at a point (the third publish, the confirm of the second, the 100th byte), injected
 * now, or drawn from a seed under a `Schedule`. A client under it sees what a broken network or broker shows; a broker
 * sees a client that keeps to the protocol, so nothing has to be cleaned up. Time is Effect's `Clock`.
 *
 * Without a fault it changes nothing: bytes and chunks pass as they come.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type * as AmqpProtocol from "../AmqpProtocol.ts"
import { AmqpTransport, formatEndpoint } from "../AmqpTransport.ts"
import { Arm, type Place, type Striker } from "./internal/faults/arm.ts"
import { Conditions, type Held, isCondition, isOfNetwork } from "./internal/faults/conditions.ts"
import { drawer, type Drawn, type RandomOptions } from "./internal/faults/drawing.ts"
import type {
  AfterPoint,
  BytePoint,
  ChannelClose,
  Condition,
  ConfirmFault,
  ConfirmPoint,
  Direction,
  Drop,
  Fault,
  FaultAfter,
  FrameName,
  FramePoint,
  Incident,
  Point,
  Refuse
} from "./internal/faults/faults.ts"
import { type FaultyConnection, faultySocket, type Hub, refusedSocket } from "./internal/sockets/faulty.ts"
import { Watchers } from "./internal/sockets/watchers.ts"

const TypeId = "~effect-amqp/testing/AmqpFaults"

export type { Drawn, RandomOptions, Weighted } from "./internal/faults/drawing.ts"
export * from "./internal/faults/faults.ts"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * A fault that struck.
 *
 * @category models
 * @since 0.1.0
 */
export interface Fired {
  readonly fault: Fault
  /** In milliseconds since 1970, by the `Clock`. */
  readonly at: number
  /** The number of the connection. */
  readonly connection: number
  /** The channel of the frame, or of what it struck. `undefined`: it struck the connection as a whole. */
  readonly channel: number | undefined
  /** The frame at which it struck, in its direction; `undefined`: it was injected, or struck between bytes. */
  readonly frame: { readonly direction: Direction; readonly name: FrameName } | undefined
}

/**
 * A fault that waits for its point. The end of the scope in which it was armed takes it back.
 *
 * @category models
 * @since 0.1.0
 */
export interface Armed {
  /** Waits until it has struck for the first time. */
  readonly fired: Effect.Effect<Fired>
  /** How often it has struck. */
  readonly count: Effect.Effect<number>
}

/**
 * A connection through this transport.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConnectionInfo {
  /** In the order in which they were dialled, from 1. */
  readonly connection: number
  /** `amqp://host:port` */
  readonly endpoint: string
  /** The channels that are open. */
  readonly channels: ReadonlyArray<number>
  /** Bytes that came from each side, passed or not. */
  readonly bytes: { readonly up: number; readonly down: number }
}

/**
 * A frame, and what became of it. Secrets are taken out: the responses of SASL and the new secret are empty.
 *
 * @category models
 * @since 0.1.0
 */
export interface TappedFrame {
  readonly connection: number
  readonly direction: Direction
  readonly frame: AmqpProtocol.Frame
  /** `injected`: its sender never sent it. */
  readonly fate: "passed" | "dropped" | "injected"
}

/**
 * The fault has nothing to strike: a test that goes on would test nothing.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpFaultMissed extends Schema.TaggedError<AmqpFaultMissed>("effect-amqp/AmqpFaultMissed")(
  "AmqpFaultMissed",
  {
    /** The tag of the fault. */
    fault: Schema.String,
    /** What it was looking for. */
    target: Schema.String
  }
) {
  override get message(): string {
    return `${this.fault} was injected and there is no ${this.target}. Wait until there is, or arm it with \`at\``
  }
}

// -----------------------------------------------------------------------------
// the service
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface AtOptions {
  /** How often it strikes; `Infinity`: whenever the point is reached, until the scope closes. Defaults to 1. */
  readonly times?: number | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface InjectOptions {
  /** The number of a connection. Defaults to all. */
  readonly connection?: number | undefined
}

/**
 * Faults between clients and a broker.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpFaults {
  readonly [TypeId]: typeof TypeId
  /**
   * Arms a fault: it strikes when a connection comes to the point, once or as often as `times` says.
   *
   * **Details**
   *
   * It does not look at what is on its way already. The end of the scope takes the fault back, and lifts the condition
   * that it has brought about.
   */
  readonly at: {
    <Name extends FrameName>(
      point: FramePoint<Name>,
      fault: FaultAfter<Name> | Drop,
      options?: AtOptions
    ): Effect.Effect<Armed, never, Scope.Scope>
    <Name extends FrameName>(
      point: AfterPoint<Name>,
      fault: FaultAfter<Name>,
      options?: AtOptions
    ): Effect.Effect<Armed, never, Scope.Scope>
    (point: BytePoint, fault: Incident | Condition, options?: AtOptions): Effect.Effect<Armed, never, Scope.Scope>
    (point: ConfirmPoint, fault: ConfirmFault, options?: AtOptions): Effect.Effect<Armed, never, Scope.Scope>
  }
  /**
   * Lets a fault strike now. What the broker has to say, it says as soon as the frame or content that is being sent is
   * complete.
   *
   * **Details**
   *
   * An incident strikes the connections that are open. A condition holds for them, and except for `halfOpen` and `blocked`
   * for those to come, until the scope closes.
   */
  readonly inject: {
    (fault: Incident, options?: InjectOptions): Effect.Effect<void, AmqpFaultMissed>
    (
      fault: ChannelClose,
      options: InjectOptions & { readonly channel: number }
    ): Effect.Effect<void, AmqpFaultMissed>
    (fault: Condition, options?: InjectOptions): Effect.Effect<void, AmqpFaultMissed, Scope.Scope>
    (fault: Refuse): Effect.Effect<void, never, Scope.Scope>
  }
  /** Lifts all conditions: what they hold back passes. Armed faults stay armed. */
  readonly heal: Effect.Effect<void>
  /**
   * Draws a fault at each step of the schedule and injects it, until the schedule or the scope ends. A fault that has
   * nothing to strike is skipped.
   *
   * **Details**
   *
   * The same seed and faults give the same order, which `draw` shows.
   */
  readonly random: (
    options: RandomOptions & { readonly schedule: Schedule.Schedule<unknown> }
  ) => Effect.Effect<void, never, Scope.Scope>
  /** The connections that are open. */
  readonly connections: Effect.Effect<ReadonlyArray<ConnectionInfo>>
  /** The faults that have struck so far, in order. */
  readonly log: Effect.Effect<ReadonlyArray<Fired>>
  /** The faults that strike from now on. A subscriber that is 16,384 behind loses the oldest. */
  readonly strikes: Stream.Stream<Fired>
  /** The frames of all connections from now on. A subscriber that is 16,384 behind loses the oldest. */
  readonly frames: Stream.Stream<TappedFrame>
}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpFaults = Context.Service<AmqpFaults>("effect-amqp/testing/AmqpFaults")

// -----------------------------------------------------------------------------
// drawing
// -----------------------------------------------------------------------------

const drawing = ({ faults, seed }: RandomOptions): Effect.Effect<() => Drawn> =>
  Effect.map(
    Effect.service(Random.Random).pipe(Random.withSeed(seed)),
    (random) => drawer(faults, () => random.nextDoubleUnsafe())
  )

/**
 * The first so many faults of a seed: what `random` injects.
 *
 * @category constructors
 * @since 0.1.0
 */
export const draw = (options: RandomOptions, count: number): Effect.Effect<ReadonlyArray<Drawn>> =>
  Effect.map(drawing(options), (next) => Array.from({ length: count }, next))

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/** What a fault that struck nothing was looking for. */
const targetOf = (fault: Incident | ChannelClose | Condition): string => {
  switch (fault._tag) {
    case "ChannelClose":
      return "open channel of this number"
    case "ConsumerCancel":
      return "such consumer"
    default:
      return "open connection"
  }
}

/**
 * Faults in front of a transport, and the transport that goes through them. The end of the scope closes its connections.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  transport: AmqpTransport
): Effect.Effect<readonly [AmqpFaults, AmqpTransport], never, Scope.Scope> =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const scope = yield* Effect.scope
    const fork = yield* FiberSet.makeRuntime<never, unknown>()
    const arms = new Set<Arm>()
    const conditions = new Conditions()
    const refusals = new Set<{ left: number }>()
    const connections = new Set<FaultyConnection>()
    const strikes = new Watchers<Fired>()
    const frames = new Watchers<TappedFrame>()
    const log: Array<Fired> = []
    let lastId = 0

    // Whoever is woken runs on this stack, and may call this again. All changes are done by then.
    let changing = 0
    const following: Array<() => void> = []
    const transact = (change: () => void, then: () => void): void => {
      changing++
      try {
        change()
      } finally {
        changing--
      }
      following.push(then)
      if (changing > 0) return
      for (let next = following.shift(); next !== undefined; next = following.shift()) next()
    }

    const hub: Hub = {
      arms,
      scope,
      now: () => clock.currentTimeMillisUnsafe(),
      sleep: (duration) => clock.sleep(duration),
      fork,
      transact,
      isTapped: () => !frames.isEmpty,
      tap: ({ id }, direction, frame, fate) => frames.tell({ connection: id, direction, frame, fate }),
      shape: (link, direction) => conditions.shape(link, direction),
      nextId: () => ++lastId,
      opened: (connection) => connections.add(connection),
      closed: (connection) => connections.delete(connection)
    }

    const fired = (fault: Fault, { channel, frame, link }: Place): Fired => {
      const strike: Fired = { fault, at: hub.now(), connection: link.id, channel, frame }
      log.push(strike)
      strikes.tell(strike)
      return strike
    }

    const lift = (held: Held): void => {
      if (!conditions.delete(held)) return
      const { condition } = held
      for (const connection of [...connections]) {
        const { link } = connection
        if (!held.isFor(link)) continue
        const isHeld = conditions.holds(condition._tag, link)
        connection.transact(() => {
          if (!isHeld) link.lift(condition)
          connection.lifted()
        })
      }
    }

    /** Keeps the conditions of an injection until its scope closes. */
    const holding = <E>(impose: (held: Set<Held>) => Effect.Effect<void, E>): Effect.Effect<void, E, Scope.Scope> =>
      Effect.suspend(() => {
        const held = new Set<Held>()
        return Effect.acquireRelease(impose(held), () => Effect.sync(() => held.forEach(lift)))
      })

    const injectInto = (
      fault: Incident | ChannelClose | Condition,
      options: InjectOptions & { readonly channel?: number },
      held: Set<Held>
    ): Effect.Effect<void, AmqpFaultMissed> =>
      Effect.suspend(() => {
        const striker: Striker = {
          onFired: (place) => void fired(fault, place),
          hold: (condition, link) => {
            if (!isOfNetwork(condition)) held.add(conditions.add(condition, (one) => one === link))
          }
        }
        const { channel, connection: id } = options
        // Conditions of the network hold for later connections, too.
        const isForAll = isOfNetwork(fault) && id === undefined
        if (isOfNetwork(fault)) held.add(conditions.add(fault, ({ id: one }) => one === (id ?? one)))
        const struck = [...connections].filter((connection) => {
          let isStruck = false
          if ((id ?? connection.link.id) !== connection.link.id) return false
          connection.transact(() => {
            isStruck = connection.link.strike(fault, striker, channel === undefined ? {} : { channel })
          })
          return isStruck
        })
        if (isForAll || struck.length > 0) return Effect.void
        held.forEach(lift)
        return Effect.fail(new AmqpFaultMissed({ fault: fault._tag, target: targetOf(fault) }))
      })

    function inject(fault: Incident, options?: InjectOptions): Effect.Effect<void, AmqpFaultMissed>
    function inject(
      fault: ChannelClose,
      options: InjectOptions & { readonly channel: number }
    ): Effect.Effect<void, AmqpFaultMissed>
    function inject(fault: Condition, options?: InjectOptions): Effect.Effect<void, AmqpFaultMissed, Scope.Scope>
    function inject(fault: Refuse): Effect.Effect<void, never, Scope.Scope>
    function inject(
      fault: Incident | ChannelClose | Condition | Refuse,
      options: InjectOptions & { readonly channel?: number } = {}
    ): Effect.Effect<void, AmqpFaultMissed, Scope.Scope> {
      if (fault._tag === "Refuse") {
        return Effect.asVoid(Effect.acquireRelease(
          Effect.sync(() => {
            const refusal = { left: fault.times }
            refusals.add(refusal)
            return refusal
          }),
          (refusal) => Effect.sync(() => refusals.delete(refusal))
        ))
      }
      return isCondition(fault)
        ? holding((held) => injectInto(fault, options, held))
        : injectInto(fault, options, new Set())
    }

    const at = (
      point: Point,
      fault: Fault,
      { times = 1 }: AtOptions = {}
    ): Effect.Effect<Armed, never, Scope.Scope> =>
      Effect.suspend(() => {
        if (!(times >= 1)) return Effect.die(new RangeError(`times must be at least 1, not ${times}`))
        const first = Deferred.makeUnsafe<Fired>()
        const held = new Set<Held>()
        let count = 0
        const arm: Arm = new Arm(point, fault, times, {
          onFired: (place) => {
            count++
            const strike = fired(fault, place)
            following.push(() => Deferred.doneUnsafe(first, Effect.succeed(strike)))
            if (arm.isSpent) arms.delete(arm)
          },
          hold: (condition, link) => void held.add(conditions.add(condition, (one) => one === link))
        })
        return Effect.acquireRelease(
          Effect.sync((): Armed => {
            arms.add(arm)
            return { fired: Deferred.await(first), count: Effect.sync(() => count) }
          }),
          () =>
            Effect.sync(() => {
              arms.delete(arm)
              held.forEach(lift)
            })
        )
      })

    const heal = Effect.sync(() => {
      refusals.clear()
      for (const held of conditions.all) lift(held)
      for (const connection of [...connections]) connection.transact(() => connection.lifted())
    })

    const random: AmqpFaults["random"] = ({ schedule, ...options }) =>
      Effect.gen(function*() {
        const next = yield* drawing(options)
        const owner = yield* Effect.scope
        const step = Effect.suspend(() => {
          const { fault, millis, pick } = next()
          const open = [...connections]
          const connection = open[Math.floor(pick * open.length)]
          const last = Effect.sleep(Duration.millis(millis))
          if (fault._tag === "Refuse") return Effect.scoped(Effect.andThen(inject(fault), last))
          if (connection === undefined) return Effect.void
          const { id } = connection.link
          return isCondition(fault)
            ? Effect.scoped(Effect.andThen(inject(fault, { connection: id }), last))
            : inject(fault, { connection: id })
        })
        yield* Effect.forkScoped(
          Effect.schedule(Effect.forkIn(Effect.ignore(step), owner, { startImmediately: true }), schedule)
        )
      })

    const faults: AmqpFaults = {
      [TypeId]: TypeId,
      at,
      inject,
      heal,
      random,
      connections: Effect.sync(() =>
        Array.from(connections, ({ endpoint, link }) => ({
          connection: link.id,
          endpoint,
          channels: link.channels,
          bytes: { up: link.up.total, down: link.down.total }
        }))
      ),
      log: Effect.sync(() => [...log]),
      strikes: strikes.stream,
      frames: frames.stream
    }
    const connect: AmqpTransport["connect"] = (endpoint, options) =>
      Effect.suspend(() => {
        for (const refusal of refusals) {
          if (--refusal.left <= 0) refusals.delete(refusal)
          return Effect.succeed(refusedSocket)
        }
        return Effect.map(
          transport.connect(endpoint, options),
          (socket) => faultySocket(socket, formatEndpoint(endpoint), hub)
        )
      })
    return [faults, { connect }]
  })

/**
 * Faults in front of a transport.
 *
 * **Example** (over the embedded broker)
 *
 * ```ts
 * const Test = AmqpConnection.layer().pipe(Layer.provideMerge(AmqpFaults.layer), Layer.provideMerge(AmqpBroker.layer()))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<AmqpFaults | AmqpTransport, never, AmqpTransport> = Layer.effectContext(
  Effect.gen(function*() {
    const [faults, transport] = yield* make(yield* AmqpTransport)
    return Context.make(AmqpFaults, faults).pipe(Context.add(AmqpTransport, transport))
  })
)

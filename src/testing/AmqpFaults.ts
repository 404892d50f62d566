/**
 * A transport that fails on demand: between a client and any broker, real or embedded.
 *
 * Faults are values. One can be armed at a point (the third publish, the confirm of the second, the 100th byte), injected
 * now, or drawn from a seed under a `Schedule`. A client under it sees what a broken network or broker shows; a broker
 * sees a client that keeps to the protocol, so nothing has to be cleaned up. Time is Effect's `Clock`.
 *
 * It does not change what passes, other than as told: without a fault bytes and chunks pass as they come.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type * as AmqpProtocol from "../AmqpProtocol.ts"
import type { AmqpTransport } from "../AmqpTransport.ts"
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
  Refuse
} from "./internal/faults.ts"

const TypeId = "~effect-amqp/testing/AmqpFaults"

export * from "./internal/faults.ts"

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
  /** `undefined`: the connection as a whole. */
  readonly channel: number | undefined
  /** The frame at which it struck, in its direction; `undefined`: it was injected, or struck between bytes. */
  readonly frame: { readonly direction: Direction; readonly name: FrameName } | undefined
}

/**
 * A fault that waits for its point. It is taken back when the scope closes in which it was armed.
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
 * A fault to be drawn. Heavier ones are drawn more often; the weight defaults to 1. Conditions last `for` so long.
 *
 * @category models
 * @since 0.1.0
 */
export type Weighted =
  | { readonly weight?: number | undefined; readonly fault: Incident }
  | { readonly weight?: number | undefined; readonly fault: Condition | Refuse; readonly for: Duration.Input }

/**
 * A fault that was drawn.
 *
 * @category models
 * @since 0.1.0
 */
export interface Drawn {
  readonly fault: Incident | Condition | Refuse
  /** How long it lasts, in milliseconds; 0 for incidents. */
  readonly millis: number
  /** Which of the open connections it is done to: from 0 to 1, the oldest to the newest. */
  readonly pick: number
}

/**
 * @category models
 * @since 0.1.0
 */
export interface RandomOptions {
  readonly seed: string | number
  readonly faults: ReadonlyArray<Weighted>
}

/**
 * There is nothing that the fault could be done to: a test that goes on would test nothing.
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
   * What is on its way already is not looked at again. The end of the scope takes the fault back, and lifts the condition
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
   * Does it now. What the broker would say, it says as soon as the frame and the content that is being sent are complete.
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
  /** Lifts all conditions: what they hold back passes. What is armed stays so. */
  readonly heal: Effect.Effect<void>
  /**
   * Draws a fault at each step of the schedule and injects it, until the schedule or the scope ends. One that has nothing
   * to strike is passed over.
   *
   * **Details**
   *
   * The same seed and faults give the same order, which `draw` shows.
   */
  readonly random: (
    options: RandomOptions & { readonly schedule: Schedule.Schedule<unknown> }
  ) => Effect.Effect<void, never, Scope.Scope>
  /** Those that are open. */
  readonly connections: Effect.Effect<ReadonlyArray<ConnectionInfo>>
  /** What has struck so far, in order. */
  readonly log: Effect.Effect<ReadonlyArray<Fired>>
  /** What strikes from now on. Who is 16,384 behind loses the oldest. */
  readonly strikes: Stream.Stream<Fired>
  /** Frames from now on, of all connections. Who is 16,384 behind loses the oldest. */
  readonly frames: Stream.Stream<TappedFrame>
}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpFaults = Context.Service<AmqpFaults>("effect-amqp/testing/AmqpFaults")

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
export declare const layer: Layer.Layer<AmqpFaults | AmqpTransport, never, AmqpTransport>

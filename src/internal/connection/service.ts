/**
 * A connection, as its users and the library's own modules see it. `AmqpConnection` publishes all of it except the door
 * for those modules (`internals`).
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type * as Semaphore from "effect/Semaphore"
import type * as Stream from "effect/Stream"
import type { Limits } from "../engine/handshake.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import type { AmqpEncodeError } from "../errors/value.ts"
import type { Ending } from "../time/ending.ts"
import type { PlainTable } from "../values/tableValue.ts"
import type { Supervisor } from "./supervisor.ts"

/** Tells connections from other values. */
export const TypeId = "~effect-amqp/AmqpConnection"

/**
 * What the broker says about itself, and what was agreed with it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Server {
  /** For example `"RabbitMQ"`; empty where the broker does not say. */
  readonly product: string
  /** For example `"3.10.8"`; empty where the broker does not say. */
  readonly version: string
  /** The capabilities that the broker announces as present, for example `"publisher_confirms"`. */
  readonly capabilities: ReadonlySet<string>
  /** All properties that it announces. */
  readonly properties: PlainTable
  /** The mechanism that authenticated the connection. */
  readonly mechanism: string
  /** Highest channel number, largest frame in bytes, heartbeat interval in seconds (0: none). */
  readonly limits: Limits
}

/**
 * The state of a connection.
 *
 * @category models
 * @since 0.1.0
 */
export type Status =
  | { readonly _tag: "Connecting" }
  | { readonly _tag: "Open"; readonly epoch: number; readonly endpoint: string; readonly server: Server }
  /** The broker is short of a resource and reads nothing from this connection; publishes wait. */
  | { readonly _tag: "Blocked"; readonly epoch: number; readonly reason: string }
  /**
   * The connection is lost. `attempt` counts from 1 after each loss. `cause` is why the last attempt or epoch ended.
   */
  | { readonly _tag: "Reconnecting"; readonly attempt: number; readonly cause: AmqpConnectionError }
  /** The end: this client closed it, or the schedule gave up. */
  | { readonly _tag: "Closed"; readonly error: AmqpConnectionError }

/**
 * A connection to a broker.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpConnection {
  readonly [TypeId]: typeof TypeId
  /** The present state. */
  readonly status: Effect.Effect<Status>
  /** The present state and every one that follows; ends with the connection. */
  readonly changes: Stream.Stream<Status>
  /** What the broker said of itself. Fails once the connection is closed. */
  readonly server: Effect.Effect<Server, AmqpConnectionError>
  /**
   * Gives the broker a new password or token for this connection (`connection.update-secret`, RabbitMQ). A broker that
   * refuses it closes the connection.
   */
  readonly updateSecret: (
    secret: Redacted.Redacted,
    reason?: string
  ) => Effect.Effect<void, AmqpConnectionError | AmqpEncodeError>
  /**
   * Closes the connection and everything on it; the scope does the same.
   *
   * **Details**
   *
   * `AmqpConsumer.run` ends first: its handlers at work may finish and settle, within their `drainTimeout`. From then
   * on it takes nothing new: channels, requests and publishes fail with `ConnectionClosed`, also those that wait to be
   * sent. It waits for unsettled confirms, then closes the connection. All of this shares one `closeTimeout`, also if
   * the broker does not answer. Returns when the socket is closed. Closing again does nothing (specification 1.4.2.9).
   *
   * **Gotchas**
   *
   * A handler of `AmqpConsumer.run` that waits for `close` blocks it until `drainTimeout`: `close` waits for the
   * handler. Fork it there.
   */
  readonly close: Effect.Effect<void>
  /** Waits for the end of the connection, whatever ends it, and returns the reason. */
  readonly closed: Effect.Effect<AmqpConnectionError>
  /**
   * The connection of publishers, with the option `separatePublishers`. Without the option they use this connection,
   * and this is `undefined`.
   *
   * **Details**
   *
   * It is lost, blocked and replaced independently of this one: see its own `status`, `changes`, `server` and `closed`.
   * Each of its epochs begins when this connection is open, so that topology is declared before anybody publishes.
   * `close` and `updateSecret` apply to both: consumers end first, then publishers. Raw channels are on the connection
   * that they are opened on.
   */
  readonly publishing: AmqpConnection | undefined
  /** @internal */
  readonly [internals]: () => Internals
}

/**
 * The door for the library's own modules.
 */
export const internals: unique symbol = Symbol.for("effect-amqp/AmqpConnection/internals")

/**
 * How many requests of topologies may be under way. When one is refused, those behind it were sent in vain.
 */
export const declareWindow = 256

/** Whether a queue is about to be declared, or has been since a moment (milliseconds of the Clock). */
export type Restores = (queue: unknown, since: number) => boolean

/** What the library's own modules know of a connection. */
export interface Internals extends Pick<Supervisor, "session" | "nextSession" | "onEpoch" | "onClosing" | "isOver"> {
  /** Bounds what ends on the connection. */
  readonly ending: Ending
  /** `declareWindow` permits, one for each request of a topology. A request that goes alone takes all of them. */
  readonly declaring: Semaphore.Semaphore
  /** What the topologies know of their queues: see `isRestored`. */
  readonly restorations: Set<Restores>
}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpConnection = Context.Service<AmqpConnection>("effect-amqp/AmqpConnection")

/**
 * Faults, and the points at which they strike, as plain values: they can be compared, printed and drawn from a seed.
 *
 * Their types say what goes with what: a channel is only closed where there is one, only a frame can be dropped, only a
 * confirm can be lost.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"

/**
 * `up`: from the client to the broker; `down`: from the broker to the client.
 *
 * @category models
 * @since 0.1.0
 */
export type Direction = "up" | "down"

/**
 * @category models
 * @since 0.1.0
 */
export type Directions = Direction | "both"

// -----------------------------------------------------------------------------
// faults
// -----------------------------------------------------------------------------

/**
 * Something that happens to a connection, once.
 *
 * @category faults
 * @since 0.1.0
 */
export type Incident =
  | { readonly _tag: "Reset" }
  | { readonly _tag: "Pause"; readonly millis: number; readonly directions: Directions }
  | { readonly _tag: "DropBytes"; readonly count: number; readonly direction: Direction }
  | { readonly _tag: "ConnectionClose"; readonly replyCode: number; readonly replyText: string }
  | {
    readonly _tag: "ConsumerCancel"
    readonly consumerTag: string | undefined
    readonly queue: string | undefined
  }
  | { readonly _tag: "Unblocked" }

/**
 * Something that happens to a channel, once.
 *
 * @category faults
 * @since 0.1.0
 */
export interface ChannelClose {
  readonly _tag: "ChannelClose"
  readonly replyCode: number
  readonly replyText: string
}

/**
 * The state of a network or a broker, which lasts until it is lifted.
 *
 * @category faults
 * @since 0.1.0
 */
export type Condition =
  | { readonly _tag: "HalfOpen"; readonly directions: Directions }
  | { readonly _tag: "Delay"; readonly millis: number; readonly directions: Directions }
  | { readonly _tag: "Split"; readonly size: number; readonly directions: Directions }
  | { readonly _tag: "Throttle"; readonly bytesPerSecond: number; readonly directions: Directions }
  | { readonly _tag: "Blocked"; readonly reason: string }

/**
 * New connections are refused: the next so many, or all until it is lifted.
 *
 * @category faults
 * @since 0.1.0
 */
export interface Refuse {
  readonly _tag: "Refuse"
  readonly times: number
}

/**
 * A frame disappears; a method takes its content with it.
 *
 * @category faults
 * @since 0.1.0
 */
export interface Drop {
  readonly _tag: "Drop"
}

/**
 * What becomes of the confirm of one publish.
 *
 * @category faults
 * @since 0.1.0
 */
export type ConfirmFault =
  | { readonly _tag: "ConfirmLost" }
  | { readonly _tag: "ConfirmLate"; readonly millis: number }
  | { readonly _tag: "ConfirmNacked" }

/**
 * Any fault.
 *
 * @category faults
 * @since 0.1.0
 */
export type Fault = Incident | ChannelClose | Condition | Refuse | Drop | ConfirmFault

const millisOf = (duration: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(duration))

const positive = (what: string, value: number): number => {
  if (Number.isInteger(value) && value > 0) return value
  throw new RangeError(`${what} must be a positive integer, not ${value}`)
}

/**
 * The connection is gone on both sides, without a word.
 *
 * @category faults
 * @since 0.1.0
 */
export const reset: Incident = { _tag: "Reset" }

/**
 * Nothing passes for so long; then everything does, in order.
 *
 * @category faults
 * @since 0.1.0
 */
export const pause = (duration: Duration.Input, directions: Directions = "both"): Incident => ({
  _tag: "Pause",
  millis: millisOf(duration),
  directions
})

/**
 * The next so many bytes of one direction disappear, wherever frames begin and end.
 *
 * @category faults
 * @since 0.1.0
 */
export const dropBytes = (count: number, direction: Direction): Incident => ({
  _tag: "DropBytes",
  count: positive("count", count),
  direction
})

/**
 * The broker closes the connection. The broker itself is told that the client does.
 *
 * @category faults
 * @since 0.1.0
 */
export const connectionClose = (replyCode: number, replyText: string): Incident => ({
  _tag: "ConnectionClose",
  replyCode,
  replyText
})

/**
 * The broker closes the channel, for the frame at which it strikes. The broker itself is told that the client does, so
 * that it forgets the channel too: unsettled deliveries go back to their queues.
 *
 * @category faults
 * @since 0.1.0
 */
export const channelClose = (replyCode: number, replyText: string): ChannelClose => ({
  _tag: "ChannelClose",
  replyCode,
  replyText
})

/**
 * The broker cancels consumers, as it does when their queue is gone: that of this tag, those of this queue, or all of
 * the connection. The broker itself is told that the client does; what it still delivers goes back.
 *
 * @category faults
 * @since 0.1.0
 */
export const consumerCancel = (
  which: { readonly consumerTag?: string | undefined; readonly queue?: string | undefined } = {}
): Incident => ({ _tag: "ConsumerCancel", consumerTag: which.consumerTag, queue: which.queue })

/**
 * The broker says that its alarm is over.
 *
 * @category faults
 * @since 0.1.0
 */
export const unblocked: Incident = { _tag: "Unblocked" }

/**
 * The broker says that it is short of a resource. When the condition is lifted, it says that this is over. It still
 * takes what is published.
 *
 * @category faults
 * @since 0.1.0
 */
export const blocked = (reason = "low on memory"): Condition => ({ _tag: "Blocked", reason })

/**
 * Nothing passes any more, not even the end of a connection, and nobody is told. When the condition is lifted,
 * connections that have lost bytes are reset: nothing could be read on them any more.
 *
 * @category faults
 * @since 0.1.0
 */
export const halfOpen = (directions: Directions = "both"): Condition => ({ _tag: "HalfOpen", directions })

/**
 * Every byte takes so long to arrive. At most 1 MiB is on its way in each direction.
 *
 * @category faults
 * @since 0.1.0
 */
export const delay = (duration: Duration.Input, directions: Directions = "both"): Condition => ({
  _tag: "Delay",
  millis: millisOf(duration),
  directions
})

/**
 * Bytes arrive at most so many at a time; 1 by default, which cuts everywhere.
 *
 * @category faults
 * @since 0.1.0
 */
export const split = (size = 1, directions: Directions = "both"): Condition => ({
  _tag: "Split",
  size: positive("size", size),
  directions
})

/**
 * At most so many bytes pass in a second.
 *
 * @category faults
 * @since 0.1.0
 */
export const throttle = (bytesPerSecond: number, directions: Directions = "both"): Condition => ({
  _tag: "Throttle",
  bytesPerSecond: positive("bytesPerSecond", bytesPerSecond),
  directions
})

/**
 * Nobody listens (`ECONNREFUSED`): for the next so many connections, or until it is lifted.
 *
 * @category faults
 * @since 0.1.0
 */
export const refuse = (times?: number): Refuse => ({
  _tag: "Refuse",
  times: times === undefined ? Infinity : positive("times", times)
})

/**
 * The frame disappears; a method takes its content with it.
 *
 * **Details**
 *
 * The peers go on from what they know: a dropped publish is never confirmed, a dropped delivery stays unsettled at the
 * broker until its channel ends.
 *
 * @category faults
 * @since 0.1.0
 */
export const drop: Drop = { _tag: "Drop" }

/**
 * The confirm never comes, and no later one that covers several publishes (`multiple`) stands for it.
 *
 * @category faults
 * @since 0.1.0
 */
export const confirmLost: ConfirmFault = { _tag: "ConfirmLost" }

/**
 * The confirm comes so much later; others overtake it.
 *
 * @category faults
 * @since 0.1.0
 */
export const confirmLate = (duration: Duration.Input): ConfirmFault => ({
  _tag: "ConfirmLate",
  millis: millisOf(duration)
})

/**
 * The confirm says that the broker did not take the message, although it has.
 *
 * @category faults
 * @since 0.1.0
 */
export const confirmNacked: ConfirmFault = { _tag: "ConfirmNacked" }

// -----------------------------------------------------------------------------
// points
// -----------------------------------------------------------------------------

type MethodInfo = typeof AmqpProtocol.methods

/** What frames that are no methods are called. */
type OtherFrame = "header" | "body" | "heartbeat"

/**
 * The frames that clients send: methods by their specification names, and the other kinds.
 *
 * @category points
 * @since 0.1.0
 */
export type UpName =
  | { [Name in AmqpProtocol.MethodName]: MethodInfo[Name]["client"] extends true ? Name : never }[
    AmqpProtocol.MethodName
  ]
  | OtherFrame

/**
 * The frames that brokers send.
 *
 * @category points
 * @since 0.1.0
 */
export type DownName =
  | { [Name in AmqpProtocol.MethodName]: MethodInfo[Name]["server"] extends true ? Name : never }[
    AmqpProtocol.MethodName
  ]
  | OtherFrame

/**
 * @category points
 * @since 0.1.0
 */
export type FrameName = UpName | DownName

/**
 * What a predicate is given: the method, or the frame where it is none. Secrets are taken out.
 *
 * @category points
 * @since 0.1.0
 */
export type Subject<Name extends FrameName> = Name extends AmqpProtocol.MethodName
  ? Extract<AmqpProtocol.Method, { readonly _tag: Name }>
  : Extract<AmqpProtocol.Frame, { readonly _tag: Capitalize<Name> }>

interface Which {
  /** The number of a connection, in the order in which they were dialled, from 1. Defaults to any. */
  readonly connection?: number | undefined
  /**
   * The fault strikes from this one on. Counted for each connection since the fault was armed. Defaults to 1, the
   * first.
   */
  readonly nth?: number | undefined
}

interface WhichOnChannel extends Which {
  /** Defaults to any. */
  readonly channel?: number | undefined
}

/**
 * @category points
 * @since 0.1.0
 */
export interface FrameOptions<Name extends FrameName> extends WhichOnChannel {
  /** Only frames for which it returns `true`. `nth` counts those alone. */
  readonly where?: ((subject: Subject<Name>) => boolean) | undefined
}

/**
 * A frame; a method is one with its content. Faults strike before it.
 *
 * @category points
 * @since 0.1.0
 */
export interface FramePoint<Name extends FrameName = FrameName> extends WhichOnChannel {
  readonly _tag: "Frame"
  readonly direction: Direction
  readonly name: Name
  // A method, because it is only called with the subject of its name.
  where?(subject: AmqpProtocol.Method | AmqpProtocol.Frame): boolean
}

/**
 * Behind a frame and its content.
 *
 * @category points
 * @since 0.1.0
 */
export interface AfterPoint<Name extends FrameName = FrameName> {
  readonly _tag: "After"
  readonly frame: FramePoint<Name>
}

/**
 * Between two bytes of one direction.
 *
 * @category points
 * @since 0.1.0
 */
export interface BytePoint {
  readonly _tag: "Bytes"
  readonly direction: Direction
  /** How many bytes have passed, the protocol header included. */
  readonly offset: number
  readonly connection?: number | undefined
}

/**
 * The confirm of one publish, whether it comes alone or for several (`multiple`).
 *
 * @category points
 * @since 0.1.0
 */
export interface ConfirmPoint extends WhichOnChannel {
  readonly _tag: "Confirm"
}

/**
 * @category points
 * @since 0.1.0
 */
export type Point = FramePoint | AfterPoint | BytePoint | ConfirmPoint

/** The frames that belong to no channel. */
type OffChannel = "heartbeat" | `connection.${string}`

/**
 * What can be done at a frame of this name, or behind it: channels are closed at frames of channels.
 *
 * @category points
 * @since 0.1.0
 */
export type FaultAfter<Name extends FrameName> =
  | Incident
  | Condition
  | ([Name] extends [OffChannel] ? never : ChannelClose)

/**
 * A frame that the client sends.
 *
 * @category points
 * @since 0.1.0
 */
export const up = <Name extends UpName>(name: Name, options: FrameOptions<Name> = {}): FramePoint<Name> =>
  frame("up", name, options)

/**
 * A frame that the broker sends.
 *
 * @category points
 * @since 0.1.0
 */
export const down = <Name extends DownName>(name: Name, options: FrameOptions<Name> = {}): FramePoint<Name> =>
  frame("down", name, options)

const frame = <Name extends FrameName>(
  direction: Direction,
  name: Name,
  { where, ...which }: FrameOptions<Name>
): FramePoint<Name> => ({ _tag: "Frame", direction, name, ...which, ...(where === undefined ? {} : { where }) })

/**
 * Behind a frame and its content, before anything comes of it.
 *
 * @category points
 * @since 0.1.0
 */
export const after = <Name extends FrameName>(frame: FramePoint<Name>): AfterPoint<Name> => ({ _tag: "After", frame })

/**
 * Where so many bytes of a connection have passed in this direction, the protocol header included; likely in the middle
 * of a frame.
 *
 * @category points
 * @since 0.1.0
 */
export const bytes = (
  direction: Direction,
  offset: number,
  options: { readonly connection?: number | undefined } = {}
): BytePoint => ({ _tag: "Bytes", direction, offset: positive("offset", offset), connection: options.connection })

/**
 * The confirm of one publish, whether it comes alone or for several (`multiple`).
 *
 * @category points
 * @since 0.1.0
 */
export const confirm = (options: WhichOnChannel = {}): ConfirmPoint => ({ _tag: "Confirm", ...options })

/**
 * A fault that waits for its point, how often it has yet to strike, and who hears of it.
 *
 * @since 0.1.0
 */
import type { Condition, ConfirmFault, Direction, Fault, FrameName, FramePoint, Point } from "./faults.ts"
import type { RawFrame } from "./frame.ts"

/** A connection, as far as faults have to tell it from others: compared by identity. */
export interface Target {
  readonly id: number
}

/** Where a fault struck. */
export interface Place {
  readonly link: Target
  readonly channel: number | undefined
  readonly frame: { readonly direction: Direction; readonly name: FrameName } | undefined
}

/** Who arms or injects a fault. */
export interface Striker {
  /** The fault has struck. This may be later than it was asked to. */
  readonly onFired: (place: Place) => void
  /** From now on a condition holds for a connection. */
  readonly hold: (condition: Condition, link: Target) => void
}

/** A fault that waits for its point. */
export class Arm {
  readonly point: Point
  readonly fault: Fault
  readonly striker: Striker
  private remaining: number
  /** How often each connection has come to the point. */
  private readonly counts = new WeakMap<Target, number>()

  constructor(point: Point, fault: Fault, times: number, striker: Striker) {
    this.point = point
    this.fault = fault
    this.remaining = times
    this.striker = striker
  }

  /** Whether the fault can still strike this connection. */
  isFor(link: Target): boolean {
    const which = this.point._tag === "After" ? this.point.frame : this.point
    return this.remaining > 0 && (which.connection ?? link.id) === link.id
  }

  /** Whether the fault will not strike again. */
  get isSpent(): boolean {
    return this.remaining === 0
  }

  /** A connection has come to the point. Gives whether the fault strikes this time. */
  takes(link: Target): boolean {
    const which = this.point._tag === "After" ? this.point.frame : this.point
    const count = (this.counts.get(link) ?? 0) + 1
    this.counts.set(link, count)
    if (this.remaining === 0 || ("nth" in which && count < (which.nth ?? 1))) return false
    this.remaining--
    return true
  }

  /** The fault could not strike there: this time does not count. */
  spare(): void {
    this.remaining++
  }
}

/** Whether a fault changes a confirm. */
export const isOfConfirm = (fault: Fault): fault is ConfirmFault =>
  fault._tag === "ConfirmLost" || fault._tag === "ConfirmLate" || fault._tag === "ConfirmNacked"

/** The direction of a point. */
export const directionOf = (point: Point): Direction => {
  switch (point._tag) {
    case "Confirm":
      return "down"
    case "After":
      return point.frame.direction
    default:
      return point.direction
  }
}

/** Whether a frame is at a point. This does not look at `nth`. */
export const isAt = (point: FramePoint, direction: Direction, frame: RawFrame, name: FrameName): boolean => {
  if (point.direction !== direction || point.name !== name || (point.channel ?? frame.channel) !== frame.channel) {
    return false
  }
  if (point.where === undefined) return true
  const decoded = frame.frame
  const subject = decoded?._tag === "Method" ? decoded.method : decoded
  return subject !== undefined && point.where(subject)
}

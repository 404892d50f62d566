/**
 * The conditions that hold, for which connections, and how those pass bytes under them.
 *
 * @since 0.1.0
 */
import type { Target } from "./arm.ts"
import type { Condition, Direction, Fault } from "./faults.ts"

/** How a connection passes bytes. 0: no limit. */
export interface Shape {
  /** Milliseconds. */
  readonly delay: number
  /** Bytes at a time. */
  readonly size: number
  readonly bytesPerSecond: number
}

/** A condition that holds. */
export interface Held {
  readonly condition: Condition
  readonly isFor: (link: Target) => boolean
}

/** Whether a fault changes how bytes pass. */
export const isOfNetwork = (fault: Fault): fault is Extract<Fault, { readonly _tag: "Delay" | "Split" | "Throttle" }> =>
  fault._tag === "Delay" || fault._tag === "Split" || fault._tag === "Throttle"

/** Whether a fault lasts until it is lifted. */
export const isCondition = (fault: Fault): fault is Condition =>
  isOfNetwork(fault) || fault._tag === "HalfOpen" || fault._tag === "Blocked"

const least = (a: number, b: number): number => a === 0 ? b : Math.min(a, b)

/** Delays add up. Of sizes and rates the least counts. */
const combine = (shape: Shape, condition: Condition, direction: Direction): Shape => {
  if (condition._tag === "Blocked" || (condition.directions !== "both" && condition.directions !== direction)) {
    return shape
  }
  switch (condition._tag) {
    case "Delay":
      return { ...shape, delay: shape.delay + condition.millis }
    case "Split":
      return { ...shape, size: least(shape.size, condition.size) }
    case "Throttle":
      return { ...shape, bytesPerSecond: least(shape.bytesPerSecond, condition.bytesPerSecond) }
    default:
      return shape
  }
}

/** The conditions that hold at present. */
export class Conditions {
  private readonly held = new Set<Held>()

  get all(): ReadonlyArray<Held> {
    return [...this.held]
  }

  add(condition: Condition, isFor: Held["isFor"]): Held {
    const held = { condition, isFor }
    this.held.add(held)
    return held
  }

  /** Whether it was there. */
  delete(held: Held): boolean {
    return this.held.delete(held)
  }

  /** Whether a condition of this kind holds for a connection. */
  holds(tag: Condition["_tag"], link: Target): boolean {
    return this.all.some(({ condition, isFor }) => condition._tag === tag && isFor(link))
  }

  /** How a connection passes bytes in this direction. */
  shape(link: Target, direction: Direction): Shape {
    let shape: Shape = { delay: 0, size: 0, bytesPerSecond: 0 }
    for (const { condition, isFor } of this.held) if (isFor(link)) shape = combine(shape, condition, direction)
    return shape
  }
}

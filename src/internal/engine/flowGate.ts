/**
 * The gate of a channel: publishers wait at it until the broker takes content (`channel.flow`) and the gate of the lane
 * is open.
 *
 * @since 0.1.0
 */
import type { Lane } from "./lane.ts"

/** The gate of a channel. */
export class FlowGate {
  /** Whether the broker has asked for content to stop. */
  isStopped = false
  private readonly lane: Lane
  /** Each callback, with the function that waits for it at the lane's gate. */
  private readonly waiting = new Map<() => void, () => void>()

  constructor(lane: Lane) {
    this.lane = lane
  }

  /** Calls back once. The caller then looks again whether content may flow. */
  wait(callback: () => void): void {
    const admitted = (): void => {
      this.waiting.delete(callback)
      callback()
    }
    this.waiting.set(callback, admitted)
    if (!this.isStopped) this.lane.wait(admitted)
  }

  /** Takes back a `wait`. */
  unwait(callback: () => void): void {
    const admitted = this.waiting.get(callback)
    if (admitted === undefined) return
    this.waiting.delete(callback)
    this.lane.unwait(admitted)
  }

  /** Calls all of them back, each by way of `later`. */
  release(later: (callback: () => void) => void): void {
    for (const callback of this.waiting.keys()) {
      this.unwait(callback)
      later(callback)
    }
  }
}

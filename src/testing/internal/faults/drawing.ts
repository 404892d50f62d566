/**
 * Faults drawn from a seed, by their weights.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import type { Condition, Incident, Refuse } from "./faults.ts"

/**
 * A fault to be drawn. Heavier ones are drawn more often; the weight defaults to 1. A condition lasts `for` so long.
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
  /** Which of the open connections it strikes: from 0 to 1, the oldest to the newest. */
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

/** Draws one fault after another. `nextDouble` gives numbers from 0 to 1. Throws a `RangeError` for no faults. */
export const drawer = (faults: RandomOptions["faults"], nextDouble: () => number): () => Drawn => {
  const total = faults.reduce((sum, { weight = 1 }) => sum + weight, 0)
  const last = faults[faults.length - 1]
  if (last === undefined || !(total > 0)) throw new RangeError("there is no fault to draw")
  return () => {
    let left = nextDouble() * total
    // The last one, where rounding has left something over.
    const drawn = faults.find(({ weight = 1 }) => (left -= weight) < 0) ?? last
    const millis = "for" in drawn ? Duration.toMillis(Duration.fromInputUnsafe(drawn.for)) : 0
    return { fault: drawn.fault, millis, pick: nextDouble() }
  }
}

/**
 * Options that all entities of a topology have: further arguments, and what happens when the broker refuses the entity.
 *
 * Entities are plain values. Nothing is checked when they are made: `diagnosis.ts` checks a whole topology at once.
 *
 * @since 0.1.0
 */
import type * as Schedule from "effect/Schedule"
import type { Input } from "../values/tableValue.ts"
import type { AmqpTopologyError } from "./error.ts"

/**
 * Arguments beyond the typed ones, for example those of a plugin. They win over typed ones of the same name.
 *
 * @category models
 * @since 0.1.0
 */
export type Arguments = { readonly [key: string]: Input | undefined }

/**
 * What happens when the broker refuses an entity.
 *
 * **Details**
 *
 * `"fail"` fails the first declaration; in later epochs the entity is left out and listed in `failures`. `"skip"`
 * leaves it out and lists it from the first declaration on. `retry` declares it again under the schedule, whose input
 * is the failure; when the schedule gives up, the entity is treated as with `"fail"`.
 *
 * @category models
 * @since 0.1.0
 */
export type OnFailure = "fail" | "skip" | { readonly retry: Schedule.Schedule<unknown, AmqpTopologyError> }

/**
 * @category models
 * @since 0.1.0
 */
export interface EntityOptions {
  /** Defaults to that of the topology. */
  readonly onFailure?: OnFailure | undefined
}

/** Leaves out what is `undefined`, so that equal options give equal values. */
export const defined = (values: Arguments): Arguments =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))

/** The `onFailure` of an entity, if it has one. */
export const policy = ({ onFailure }: EntityOptions): EntityOptions => onFailure === undefined ? {} : { onFailure }

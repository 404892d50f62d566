/**
 * Checks of options. Each takes what a user gave and returns a value that can be used, or an `AmqpEncodeError` that says
 * what was expected.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { excerpt } from "../codec/wire.ts"
import { AmqpEncodeError } from "../errors/value.ts"

/** Shows a wrong value in few characters. It does not look into objects, which may hold secrets. */
export const shown = (value: unknown): string => {
  if (typeof value === "string") return JSON.stringify(excerpt(value))
  return typeof value === "object" && value !== null ? "an object" : String(value)
}

const refused = (path: string, reason: string): Result.Result<never, AmqpEncodeError> =>
  Result.fail(new AmqpEncodeError({ path, reason }))

/** The error of an option. */
export const invalid = (option: string, reason: string): Result.Result<never, AmqpEncodeError> =>
  refused(`options.${option}`, reason)

/** Checks an integer at any path. `zero` says what 0 means, where 0 is allowed. */
export const integerAt = (
  path: string,
  value: number,
  min: number,
  max: number,
  zero?: string
): Result.Result<number, AmqpEncodeError> => {
  if (zero !== undefined && value === 0) return Result.succeed(0)
  if (Number.isInteger(value) && value >= min && value <= max) return Result.succeed(value)
  const or = zero === undefined ? "" : `, or 0 for ${zero}`
  return refused(path, `expected an integer from ${min} to ${max}${or}, not ${shown(value)}`)
}

/** Checks an integer of an option. `zero` says what 0 means, where 0 is allowed. */
export const integer = (
  option: string,
  value: number,
  min: number,
  max: number,
  zero?: string
): Result.Result<number, AmqpEncodeError> => integerAt(`options.${option}`, value, min, max, zero)

const hasNaN = (input: unknown): boolean =>
  typeof input === "object" && input !== null && !Duration.isDuration(input)
    ? Object.values(input).some(hasNaN)
    : Number.isNaN(input)

/** Reads a duration. NaN is none, though `Duration.fromInput` takes it for zero. */
export const durationOf = (input: Duration.Input): Option.Option<Duration.Duration> =>
  hasNaN(input) ? Option.none() : Duration.fromInput(input)

/** Checks a duration of an option. `zero` says what 0 means, where 0 is allowed. */
export const duration = (
  option: string,
  input: Duration.Input | undefined,
  fallback: Duration.Duration,
  zero?: string
): Result.Result<Duration.Duration, AmqpEncodeError> => {
  if (input === undefined) return Result.succeed(fallback)
  const value = Option.filter(durationOf(input), (value) => {
    const millis = Duration.toMillis(value)
    return zero === undefined ? millis > 0 : millis >= 0
  })
  const or = zero === undefined ? "" : `, or 0 for ${zero}`
  return Option.isSome(value)
    ? Result.succeed(value.value)
    : invalid(option, `expected a positive duration such as "10 seconds"${or}, not ${shown(input)}`)
}

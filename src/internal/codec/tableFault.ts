/**
 * The fault of a table on its way out: each level adds its step to the path, and the outermost one makes the error.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { AmqpDecodeError, AmqpEncodeError } from "../errors/value.ts"

/** Nested tables and arrays, the outermost counted. Brokers relay 500; the peer must not be able to end our stack. */
export const maxDepth = 1024

/** Longer paths are shown without their middle: they can be 1024 keys of 255 bytes. */
const maxPathLength = 256

/**
 * What is wrong, on its way out. Each level adds its step, so that a path costs nothing unless it is needed, and the
 * outermost one makes the error.
 */
export class Fault {
  readonly reason: string
  /** From the value outwards. */
  readonly steps: Array<string | number> = []

  constructor(reason: string) {
    this.reason = reason
  }
}

const asFault = (error: unknown): Fault | undefined => {
  if (error instanceof Fault) return error
  if (error instanceof AmqpEncodeError || error instanceof AmqpDecodeError) return new Fault(error.reason)
  return undefined
}

/** Everything but a fault is thrown as it is, such as an error of a getter of the caller's object. */
export const addStep = (error: unknown, step: string | number | undefined): unknown => {
  const fault = asFault(error)
  if (fault === undefined) return error
  if (step !== undefined) fault.steps.push(step)
  return fault
}

export const toError = <E>(
  error: unknown,
  root: string,
  TypedError: new(props: { readonly path: string; readonly reason: string }) => E
): unknown => {
  const fault = asFault(error)
  if (fault === undefined) return error
  let path = root
  for (const step of fault.steps.reverse()) {
    if (typeof step === "number") path += `[${step}]`
    else if (!/^[\w-]+$/.test(step)) path += `[${JSON.stringify(step)}]`
    else path += path === "" ? step : `.${step}`
  }
  if (path.length > maxPathLength) path = `${path.slice(0, maxPathLength / 2)}…${path.slice(-maxPathLength / 2)}`
  return new TypedError({ path, reason: fault.reason })
}

export const failure = <E>(
  error: unknown,
  TypedError: new(props: { readonly path: string; readonly reason: string }) => E
): Result.Result<never, E> => {
  const typed = toError(error, "", TypedError)
  if (typed instanceof TypedError) return Result.fail(typed)
  throw typed
}

/**
 * Garbage collection on demand, for tests that look at what is kept.
 */
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

setFlagsFromString("--expose-gc")

/** Collects now. What the current turn of the event loop holds stays. */
export const collectGarbage: () => void = runInNewContext("gc")

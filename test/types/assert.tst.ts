import { type Equal, expectType } from "./assert.ts"

expectType<Equal<string | number, number | string>>()
expectType<Equal<{ readonly a: 1 }, { readonly a: 1 }>>()

// @ts-expect-error - assignable is not equal
expectType<Equal<1, number>>()
// @ts-expect-error - a modifier is a difference
expectType<Equal<{ readonly a: 1 }, { a: 1 }>>()
// @ts-expect-error - `any` hides nothing
expectType<Equal<any, string>>() // oxlint-disable-line typescript/no-explicit-any

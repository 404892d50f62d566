/**
 * Words and how often they occur: nothing here knows of messages.
 */

/** How often each word occurs. */
export type Totals = Map<string, number>

/** The words of a text, in lower case. None spans two lines. */
export const split = (text: string): ReadonlyArray<string> => text.toLowerCase().match(/\p{L}+/gu) ?? []

/** No words yet. */
export const empty = (): Totals => new Map()

/** Adds words to the totals, in place. */
export const add = (totals: Totals, words: ReadonlyArray<string>): Totals => {
  for (const word of words) totals.set(word, (totals.get(word) ?? 0) + 1)
  return totals
}

/** How many words there are. */
export const sum = (totals: Totals): number => [...totals.values()].reduce((sum, count) => sum + count, 0)

/** The most frequent words, with their numbers. */
export const mostFrequent = (totals: Totals, limit: number): ReadonlyArray<readonly [word: string, count: number]> =>
  [...totals].toSorted(([, a], [, b]) => b - a).slice(0, limit)

/** The words that two counts disagree on. */
export const differences = (a: Totals, b: Totals): ReadonlyArray<string> =>
  [...new Set([...a.keys(), ...b.keys()])].filter((word) => a.get(word) !== b.get(word))

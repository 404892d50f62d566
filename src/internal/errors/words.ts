/**
 * The words of errors: what RabbitMQ means by its own, where one reply code has several meanings, and how a route is called.
 *
 * @since 0.1.0
 */
export interface SoftParts {
  readonly replyText: string
  readonly operation: string
  readonly entity: string
  readonly routingKey?: string | undefined
}

/**
 * The broker's own words: its text without what stands between the first quote and the last. Names, which may be any words,
 * it quotes. Of a text that it cut off at 255 bytes only the beginning is certain to be its own.
 */
export const wordsOf = (replyText: string): string => {
  const first = replyText.indexOf("'")
  if (first === -1) return replyText
  const end = replyText.endsWith("...") ? "" : replyText.slice(replyText.lastIndexOf("'") + 1)
  return `${replyText.slice(0, first)}''${end}`
}

export const says = (replyText: string, pattern: RegExp): boolean => pattern.test(wordsOf(replyText))

/** Whether the broker waited too long for an acknowledgement: the one 406 that speaks of time. */
export const isLateAck = ({ replyText }: SoftParts): boolean => says(replyText, /timed out/)

/** A text about a queue that was cut off in its name: of 403 and 404, those that begin so speak of its state. */
const isCutQueue = (replyText: string): boolean => /^[A-Z_]+ - queue '.*\.\.\.$/s.test(replyText)

/** Another consumer has the queue for itself: perhaps our own of a connection whose loss the broker has not noticed. */
export const isInUse = ({ replyText }: SoftParts): boolean =>
  says(replyText, /in exclusive use|exclusive consumer/) || isCutQueue(replyText)

/** The queue is there, what serves it is not: its node is down, its process has crashed, its leader changes or is slow. */
export const isAway = ({ replyText }: SoftParts): boolean =>
  says(
    replyText,
    /home node|is down|inaccessible|not running|stopped by supervisor|crashed|failed to perform operation|timeout/
  ) || isCutQueue(replyText)

/** A limit on queues or exchanges. */
export const limitReached = /(\(\d+\)|limit of \d+) is reached$/

/** Not in anybody's use: nobody may ever delete it. */
export const isProtected = ({ replyText }: SoftParts): boolean => says(replyText, /Cannot delete protected/)

/** An exchange and a routing key in words. */
export const route = (error: { readonly exchange: string; readonly routingKey: string }): string =>
  `exchange ${JSON.stringify(error.exchange)}, routing key ${JSON.stringify(error.routingKey)}`

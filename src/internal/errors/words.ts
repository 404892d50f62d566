/**
 * The words of errors: what RabbitMQ's words mean where one reply code has several meanings, and how a route is
 * described.
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
 * The broker's own words: its text without what stands between the first and the last quote. The broker quotes names,
 * which may be any words. If the text was cut off at 255 bytes, only its beginning is certain to be the broker's own.
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

/** Whether a text about a queue was cut off in its name. A 403 or 404 that begins so speaks of the queue's state. */
const isCutQueue = (replyText: string): boolean => /^[A-Z_]+ - queue '.*\.\.\.$/s.test(replyText)

/**
 * Another consumer uses the queue exclusively: perhaps our own, of a connection whose loss the broker has not noticed.
 */
export const isInUse = ({ replyText }: SoftParts): boolean =>
  says(replyText, /in exclusive use|exclusive consumer/) || isCutQueue(replyText)

/** The queue exists but is not served: its node is down, its process has crashed, its leader changes or is slow. */
export const isAway = ({ replyText }: SoftParts): boolean =>
  says(
    replyText,
    /home node|is down|inaccessible|not running|stopped by supervisor|crashed|failed to perform operation|timeout/
  ) || isCutQueue(replyText)

/** A limit on queues or exchanges. */
export const limitReached = /(\(\d+\)|limit of \d+) is reached$/

/** Refusals of a deletion that no waiting will change: nobody may ever delete this. */
export const isProtected = ({ replyText }: SoftParts): boolean => says(replyText, /Cannot delete protected/)

/** An exchange and a routing key in words. */
export const route = (error: { readonly exchange: string; readonly routingKey: string }): string =>
  `exchange ${JSON.stringify(error.exchange)}, routing key ${JSON.stringify(error.routingKey)}`

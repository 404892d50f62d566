/**
 * What each client of the comparison can do. A workload is written once, over this; how a client does it best is its own
 * file's business, by the client's documentation.
 */
import type { Job } from "../job.ts"

/** Publishes so many more messages, and waits as its options say. */
export type Publish = (count: number) => Promise<void>

/** Sends so many requests, each after the reply to the one before, and calls back with each reply. */
export type Requests = (count: number, onReply: () => void) => Promise<void>

export interface Connection {
  /**
   * To the default exchange, the queue's name as routing key. `publish` ends when the broker has read all of it; `confirm`
   * keeps `inFlight` publishes unconfirmed; `batch` publishes `inFlight` messages, then waits for all of them.
   */
  readonly publisher: (job: Job, body: Uint8Array) => Promise<Publish>
  /**
   * Calls back with each message, and ends with message `total`. `consume` settles in the order of arrival; `run` has up
   * to ten handlers at work, whose end settles; `queues` does so for all of `queuesOf`, as one consumer where there is
   * such a thing.
   */
  readonly consume: (job: Job, total: number, onMessage: (body: Uint8Array) => void) => Promise<void>
  /** To a queue that somebody answers, by RabbitMQ's direct reply-to. */
  readonly requester: (queue: string, body: Uint8Array) => Promise<Requests>
  readonly openChannels: (count: number) => Promise<void>
  readonly close: () => Promise<void>
}

export type Connect = (job: Job) => Promise<Connection>

/** Handlers at work in `run`. */
export const concurrency = 10

/** Requests of clients whose calls are promises. */
export const oneByOne = (call: () => Promise<unknown>): Requests => async (count, onReply) => {
  for (let i = 0; i < count; i++) {
    await call()
    onReply()
  }
}

/** Work in order, so many at a time; for clients that have no such thing. */
export const limited = <A>(limit: number, work: (item: A) => Promise<void>): (item: A) => void => {
  const waiting: Array<A> = []
  let running = 0
  const next = (): void => {
    while (running < limit) {
      const item = waiting.shift()
      if (item === undefined) return
      running++
      void work(item).finally(() => {
        running--
        next()
      })
    }
  }
  return (item) => {
    waiting.push(item)
    next()
  }
}

/** A promise to be resolved from outside. */
export const deferred = <A = void>() => Promise.withResolvers<A>()

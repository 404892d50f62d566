/**
 * The requests of a channel that have no reply: which one a reply answers, and which one a refusal speaks of.
 *
 * @since 0.1.0
 */
import { type ReceivedContent, violation } from "../codec/frames.ts"
import { type Method, type MethodName, methods } from "../codec/spec.ts"
import type { ChannelCloseCause } from "../errors/channel.ts"
import type { InputTable } from "../values/tableValue.ts"

/** The methods that the broker answers. */
export type RequestName = {
  [Name in MethodName]: typeof methods[Name]["replies"] extends readonly [] ? never
    : typeof methods[Name]["client"] extends true ? Name
    : never
}[MethodName]

/** A request as it is written. */
export type Request<Name extends RequestName> = Method<InputTable> & { readonly _tag: Name }

/** The methods that answer a request. */
export type ReplyTo<Name extends RequestName> = Extract<
  Method,
  { readonly _tag: typeof methods[Name]["replies"][number] }
>

const isReplyTo = <Name extends RequestName>(request: Name, method: Method): method is ReplyTo<Name> => {
  const replies: ReadonlyArray<string> = methods[request].replies
  return replies.includes(method._tag)
}

/** Whether a reply names another consumer than its request. */
const isForAnother = (request: Method<InputTable>, reply: Method): boolean =>
  "consumerTag" in request && "consumerTag" in reply && request.consumerTag !== reply.consumerTag

/** In RabbitMQ the queue answers these. So later requests may be answered before them. */
const isAnsweredByQueue = (request: RequestName): boolean => request === "basic.consume" || request === "basic.cancel"

/** The callbacks of a request. Exactly one of the two is called, once. */
export interface RequestHandlers<Name extends RequestName> {
  /** The queue or exchange that the request names, for errors. */
  readonly entity: string
  /** `content` comes with `basic.get-ok`. */
  readonly onReply: (reply: ReplyTo<Name>, content: ReceivedContent | undefined) => void
  /** `own`: this request provoked the end of the channel. */
  readonly onFailure: (cause: ChannelCloseCause, own: boolean) => void
}

/** A request whose reply has not come. */
export interface Pending {
  readonly request: RequestName
  readonly entity: string
  /** Whether the message of a `basic.get-ok` has to be settled. */
  readonly settles: boolean
  /** How many publishes came before it, with confirms or in tx mode. */
  readonly published: number
  /** Takes the reply. Returns `false` if it answers another request. */
  readonly reply: (method: Method, content: ReceivedContent | undefined) => boolean
  readonly fail: (cause: ChannelCloseCause, own: boolean) => void
}

/** The requests of one channel that have no reply, in the order in which they were sent. */
export class PendingRequests {
  private readonly channel: number
  private readonly later: (callback: () => void) => void
  private readonly pending: Array<Pending> = []

  /** `later` runs a callback at the end of the batch. */
  constructor(channel: number, later: (callback: () => void) => void) {
    this.channel = channel
    this.later = later
  }

  get count(): number {
    return this.pending.length
  }

  /** How many are of the method with this id; of any method where it is 0. */
  countOf(id: number): number {
    return this.pending.filter(({ request }) => id === 0 || methods[request].id === id).length
  }

  /** A request was written, behind so many publishes with confirms or in tx mode. */
  add<Name extends RequestName>(method: Request<Name>, handlers: RequestHandlers<Name>, published: number): void {
    const name: Name = method._tag
    const frame: Method<InputTable> = method
    this.pending.push({
      request: name,
      entity: handlers.entity,
      settles: frame._tag === "basic.get" && !frame.noAck,
      published,
      reply: (reply, content) => {
        if (!isReplyTo(name, reply) || isForAnother(frame, reply)) return false
        this.later(() => handlers.onReply(reply, content))
        return true
      },
      fail: (cause, own) => this.later(() => handlers.onFailure(cause, own))
    })
  }

  /**
   * Removes the request that a reply answers: the oldest one, or a later one if a queue has yet to answer those before
   * it.
   */
  answer(method: Method, content: ReceivedContent | undefined): Pending {
    const { pending } = this
    for (let at = 0; at < pending.length; at++) {
      const one = pending[at]
      if (one?.reply(method, content)) {
        pending.splice(at, 1)
        return one
      }
      if (one !== undefined && !isAnsweredByQueue(one.request)) break
    }
    const [oldest] = pending
    const why = oldest === undefined ? ", nobody asked for it" : ` in answer to ${oldest.request}`
    throw violation(503, `${method._tag} came on channel ${this.channel}${why}`)
  }

  /**
   * The request that the broker refused. Where several may be answered in any order, it is the only one whose queue the
   * broker names. `undefined` if that is not clear.
   */
  refused(operation: string, replyText: string): Pending | undefined {
    const end = this.pending.findIndex(({ request }) => !isAnsweredByQueue(request))
    const inQuestion = (end < 0 ? this.pending : this.pending.slice(0, end + 1))
      .filter(({ request }) => request === operation)
    const named = inQuestion.filter(({ entity }) => replyText.includes(`'${entity}'`))
    const suspects = named.length > 0 ? named : inQuestion
    return suspects.length === 1 ? suspects[0] : undefined
  }

  /** Takes all of them: no reply comes any more. */
  takeAll(): ReadonlyArray<Pending> {
    return this.pending.splice(0)
  }
}

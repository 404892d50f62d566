/**
 * What connections and channels need of their broker and of one another, so that none of them has to import the others.
 *
 * @since 0.1.0
 */
import type * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { InputTable } from "../../../AmqpTable.ts"
import type { Message } from "./message.ts"
import type { Context, Owner, Permissions, TappedFrame, User, Vhost } from "./model.ts"

/** What the broker grants at most. */
export interface Limits {
  /** What `connection.tune` proposes, in seconds; 0: none. */
  readonly heartbeatSeconds: number
  /** In bytes; 0: none. */
  readonly frameMax: number
  /** 0: none. */
  readonly channelMax: number
  /** In bytes. */
  readonly maxMessageSize: number
  /** In milliseconds. */
  readonly consumerTimeout: number
}

/** The broker, as its connections see it. */
export interface Services extends Context {
  readonly limits: Limits
  readonly users: ReadonlyMap<string, User>
  readonly vhosts: ReadonlyMap<string, Vhost>
  /** The reason of the present resource alarm. */
  readonly alarm: () => string | undefined
  readonly isPaused: () => boolean
  readonly tap: () => ((frame: TappedFrame) => void) | undefined
  /** By the address that replies are published to: the channels that consume `amq.rabbitmq.reply-to`. */
  readonly replyAddresses: Map<string, (message: Message) => void>
  /** Whether a turn is under way. */
  readonly isBusy: () => boolean
  /** Does work that comes from outside, then what is on the agenda, then all writes. */
  readonly turn: (work: () => void) => void
  /** Lets queues deliver. */
  readonly deliver: () => void
  /** This has something to write at the end of the turn. */
  readonly writing: (writer: { readonly flush: () => void }) => void
  /** The connection is no more. */
  readonly ended: (owner: Owner) => void
}

/** A connection, as its channels see it. */
export interface ChannelHost extends Owner {
  readonly name: string
  readonly account: User
  readonly home: Vhost
  /** Refuses what the user may not do in this vhost. */
  readonly check: (right: keyof Permissions, kind: "queue" | "exchange", name: string) => void
  /** Whether the client announced a capability. */
  readonly can: (capability: string) => boolean
  /** Whether one more delivery may be written now; if not, consumers are tried again once it may. */
  readonly isWritable: () => boolean
  readonly send: (channel: number, method: AmqpProtocol.Method<InputTable>) => void
  readonly sendContent: (channel: number, method: AmqpProtocol.ContentMethod, message: Message) => void
  /**
   * The channel has mail to read once the client's present chunk is handled. `size`: bytes that it will write, 0 by
   * default.
   */
  readonly posted: (channel: { readonly readMail: () => void }, size?: number) => void
  /** The number is free again. */
  readonly forget: (channel: number) => void
}

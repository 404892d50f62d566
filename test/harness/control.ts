/**
 * What tests may do to a broker of the run's own, and ask of it.
 */
import { type Effect, Schema, type Scope } from "effect"
import type { Certs } from "./certs.ts"
import type { BrokerError } from "./exec.ts"

const Connection = Schema.Struct({
  /** The broker's own; each `id` below is one, too. */
  id: Schema.String,
  /** The broker's own name: `127.0.0.1:50022 -> 127.0.0.1:5672`. */
  name: Schema.String,
  /** `connection_name` of the client's properties. */
  connectionName: Schema.NullOr(Schema.String),
  user: Schema.String,
  /** `null` until `connection.open`. */
  vhost: Schema.NullOr(Schema.String),
  state: Schema.String,
  channels: Schema.Int
})

const Channel = Schema.Struct({
  id: Schema.String,
  /** The `id` of its connection. */
  connection: Schema.String,
  number: Schema.Int,
  consumers: Schema.Int,
  unacknowledged: Schema.Int
})

const Consumer = Schema.Struct({
  tag: Schema.String,
  queue: Schema.String,
  /** The `id` of its channel. */
  channel: Schema.String
})

/** A queue, in a listing. */
export const QueueInfo = Schema.Struct({
  name: Schema.String,
  durable: Schema.Boolean,
  autoDelete: Schema.Boolean,
  ready: Schema.Int,
  unacknowledged: Schema.Int,
  consumers: Schema.Int
})

/** What clients hold at the broker. */
export const Held = Schema.Struct({
  connections: Schema.Array(Connection),
  channels: Schema.Array(Channel),
  consumers: Schema.Array(Consumer)
})

/** What clients hold at the broker. */
export type Held = typeof Held.Type

/** Controls a broker of the run's own, of whatever kind. */
export interface BrokerControl {
  readonly listQueues: (vhost: string) => Effect.Effect<ReadonlyArray<typeof QueueInfo.Type>, BrokerError>
  /**
   * What clients of a vhost hold (connections that have not got as far as a vhost included), without what `except` has.
   * Given `patience` (ms), it first waits that long for there to be nothing.
   */
  readonly held: (
    options: {
      readonly vhost?: string | undefined
      readonly except?: Held | undefined
      readonly patience?: number | undefined
    }
  ) => Effect.Effect<Held, BrokerError>
  /** Closes the connections of that `connection_name` (or broker's name) with reply 320. */
  readonly closeConnection: (name: string, why: string) => Effect.Effect<void, BrokerError>
  /** Raises a resource alarm, until `unalarm` or the end of the scope. */
  readonly alarm: (resource: "memory" | "disk") => Effect.Effect<void, BrokerError, Scope.Scope>
  readonly unalarm: (resource: "memory" | "disk") => Effect.Effect<void, BrokerError>
  /** Makes a vhost in which the default user may do everything. */
  readonly addVhost: (name: string) => Effect.Effect<void, BrokerError>
  /** Closes its connections with reply 320 and deletes it. */
  readonly deleteVhost: (name: string) => Effect.Effect<void, BrokerError>
  readonly addUser: (name: string, password: string) => Effect.Effect<void, BrokerError>
  readonly deleteUser: (name: string) => Effect.Effect<void, BrokerError>
  readonly changePassword: (name: string, password: string) => Effect.Effect<void, BrokerError>
  /** Regular expressions of what the user may configure, write and read; each `.*` if left out. */
  readonly setPermissions: (
    user: string,
    vhost: string,
    permissions?: { readonly configure?: string; readonly write?: string; readonly read?: string }
  ) => Effect.Effect<void, BrokerError>
  /** Waits (up to 5 s) for the end of a queue that is about to go. */
  readonly queueEnds: (vhost: string, queue: string) => Effect.Effect<void, BrokerError>
  /** Sockets stay open, nobody answers (RabbitMQ's process gets SIGSTOP), until the end of the scope. */
  readonly pause: Effect.Effect<void, BrokerError, Scope.Scope>
  /** Stops the broker with reply 320 to all, until the end of the scope. What is not durable is gone. */
  readonly stopApp: Effect.Effect<void, BrokerError, Scope.Scope>
}

/** Controls a private RabbitMQ node: also what only RabbitMQ can do or be done to. */
export interface RabbitControl extends BrokerControl {
  readonly tlsPort: number
  /** Of `localhost`, with the client certificates that the node accepts and does not. */
  readonly certs: Certs
  /** `rabbitmqctl`: 0.4 s of a processor; prefer what is below. */
  readonly ctl: (...args: ReadonlyArray<string>) => Effect.Effect<string, BrokerError>
  /** Evaluates Erlang (one expression or several, ASCII, no final dot) on the node; gives what it prints. */
  readonly eval: (expressions: string) => Effect.Effect<string, BrokerError>
}

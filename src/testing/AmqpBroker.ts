/**
 * A broker inside the process, for tests: it speaks the real protocol, and has RabbitMQ's semantics and reply texts.
 *
 * A program under test gets another layer and is otherwise the same. Connections go through memory; `NodeAmqpBroker`
 * serves the same broker to any client over TCP. Everything that takes time (TTLs, heartbeats, acknowledgement timeouts)
 * is on Effect's `Clock`, so `TestClock` drives it. Everything in it can be looked at, and broken on purpose.
 *
 * One node that keeps everything in memory; `restart` keeps what a disk would. What it does not do, it refuses with
 * `NOT_IMPLEMENTED` (540): dead letters `at-least-once` of quorum queues, and everything that RabbitMQ 3.10 itself
 * refuses in this way (`immediate`, a prefetch size, `channel.flow` to stop, `basic.recover` without requeueing, what
 * streams and quorum queues cannot do). There are no policies, no permissions by topic, no plugins and their exchange
 * types (503), no other protocols, no mechanisms but PLAIN and AMQPLAIN, and no alarms other than by `block`.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { AmqpTransport } from "../AmqpTransport.ts"
import type { BrokerEvent } from "./internal/model/events.ts"
import {
  type BindingInfo,
  type ChannelInfo,
  type ConnectionInfo,
  type ConsumerInfo,
  type ExchangeInfo,
  inspectBindings,
  inspectChannels,
  inspectConnections,
  inspectConsumers,
  inspectExchanges,
  inspectMessages,
  inspectQueue,
  inspectQueues,
  inspectUnsettled,
  type QueuedMessage,
  type QueueInfo,
  type UnsettledDelivery
} from "./internal/model/inspection.ts"
import type {
  Core,
  Link,
  Peer,
  Permissions,
  Queue as CoreQueue,
  Reply,
  TappedFrame,
  User,
  Vhost
} from "./internal/model/model.ts"
import {
  type ChannelSelector,
  type ConnectionSelector,
  type ConsumerSelector,
  selectChannels,
  selectConnections,
  selectConsumers
} from "./internal/model/selection.ts"
import { makeCore } from "./internal/server/broker.ts"
import { memorySocket } from "./internal/sockets/memory.ts"
import { Watchers } from "./internal/sockets/watchers.ts"

const TypeId = "~effect-amqp/testing/AmqpBroker"

export type { BrokerEvent } from "./internal/model/events.ts"
export type {
  BindingInfo,
  ChannelInfo,
  ConnectionInfo,
  ConsumerInfo,
  ExchangeInfo,
  QueuedMessage,
  QueueInfo,
  UnsettledDelivery
} from "./internal/model/inspection.ts"
export type { Link, Peer, Permissions, Reply, TappedFrame } from "./internal/model/model.ts"
export type { ChannelSelector, ConnectionSelector, ConsumerSelector } from "./internal/model/selection.ts"

// -----------------------------------------------------------------------------
// options and errors
// -----------------------------------------------------------------------------

/**
 * A user of the broker.
 *
 * @category models
 * @since 0.1.0
 */
export interface UserOptions {
  readonly name: string
  readonly password: Redacted.Redacted
  /** By vhost. Defaults to everything in each vhost of the options. */
  readonly permissions?: { readonly [vhost: string]: Permissions } | undefined
}

/**
 * Options of the broker.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Defaults to guest with the password guest. */
  readonly users?: ReadonlyArray<UserOptions> | undefined
  /** Defaults to `/`. */
  readonly vhosts?: ReadonlyArray<string> | undefined
  /** What it proposes, in whole seconds; 0: none. Defaults to 60 seconds. */
  readonly heartbeat?: Duration.Input | undefined
  /** The largest frame that it proposes, in bytes, from 4096. Defaults to 131072. */
  readonly frameMax?: number | undefined
  /** The highest channel number that it proposes. Defaults to 2047. */
  readonly channelMax?: number | undefined
  /** The largest content that it takes, in bytes. Defaults to 128 MiB. */
  readonly maxMessageSize?: number | undefined
  /** How long a delivery may stay unsettled before its channel is closed (406). Defaults to 30 minutes. */
  readonly consumerTimeout?: Duration.Input | undefined
}

/**
 * The broker has no such thing.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpUnknownEntity
  extends Schema.TaggedError<AmqpUnknownEntity>("effect-amqp/AmqpUnknownEntity")("AmqpUnknownEntity", {
    kind: Schema.Literals(["vhost", "user", "queue", "connection", "channel", "consumer"]),
    /** What was asked for. */
    name: Schema.String
  })
{
  override get message(): string {
    return `The embedded broker has no ${this.kind} ${this.name}`
  }
}

// -----------------------------------------------------------------------------
// the service
// -----------------------------------------------------------------------------

/**
 * A broker inside the process. Where a vhost is not given it is `/`.
 *
 * @category models
 * @since 0.1.0
 */
export interface AmqpBroker {
  readonly [TypeId]: typeof TypeId
  /** Connects to this broker, whatever the endpoint. */
  readonly transport: AmqpTransport
  /** Takes a client that has connected by another kind of transport. */
  readonly accept: (link: Link) => Peer

  // ---- inspection ----

  readonly connections: Effect.Effect<ReadonlyArray<ConnectionInfo>>
  readonly channels: Effect.Effect<ReadonlyArray<ChannelInfo>>
  readonly consumers: Effect.Effect<ReadonlyArray<ConsumerInfo>>
  /** Deliveries that clients have not settled yet. */
  readonly unsettled: Effect.Effect<ReadonlyArray<UnsettledDelivery>>
  readonly exchanges: Effect.Effect<ReadonlyArray<ExchangeInfo>>
  readonly bindings: Effect.Effect<ReadonlyArray<BindingInfo>>
  readonly queues: Effect.Effect<ReadonlyArray<QueueInfo>>
  /** One queue; `None` where it is not there. */
  readonly queue: (name: string, vhost?: string) => Effect.Effect<Option.Option<QueueInfo>>
  /** The messages that wait in a queue, in order; they stay there. */
  readonly messages: (
    queue: string,
    vhost?: string
  ) => Effect.Effect<ReadonlyArray<QueuedMessage>, AmqpUnknownEntity>
  /**
   * What happens from now on, until the broker ends.
   *
   * Each subscriber has a buffer of 16,384 events. The broker does not wait: a subscriber that is further behind loses
   * the oldest.
   */
  readonly events: Stream.Stream<BrokerEvent>
  /** All frames of all connections from now on, in both directions; buffered as `events`. */
  readonly frames: Stream.Stream<TappedFrame>
  /** Events and frames from now on, in the order in which they happen; buffered as `events`. */
  readonly journal: Stream.Stream<BrokerEvent | TappedFrame>
  /** Waits until the condition holds. It is run now, and again whenever something has happened in the broker. */
  readonly waitUntil: <E, R>(condition: Effect.Effect<boolean, E, R>) => Effect.Effect<void, E, R>

  // ---- administration ----

  /**
   * Adds a vhost with its predefined exchanges, in which every user may do everything. A vhost that is there stays as
   * it is.
   */
  readonly addVhost: (name: string) => Effect.Effect<void>
  /** Deletes a vhost with all that is in it. Its connections are closed (320). */
  readonly deleteVhost: (name: string) => Effect.Effect<void, AmqpUnknownEntity>
  /** Adds a user without any permissions. A user that is there gets the new password. */
  readonly addUser: (name: string, password: Redacted.Redacted) => Effect.Effect<void>
  /** Deletes a user, whose connections are closed (320). */
  readonly deleteUser: (name: string) => Effect.Effect<void, AmqpUnknownEntity>
  /** Sets what a user may do in a vhost from now on. The permissions default to everything. */
  readonly setPermissions: (
    user: string,
    permissions?: Permissions,
    vhost?: string
  ) => Effect.Effect<void, AmqpUnknownEntity>
  /** Deletes a queue, whoever uses it: its consumers are cancelled. */
  readonly deleteQueue: (name: string, vhost?: string) => Effect.Effect<void, AmqpUnknownEntity>

  // ---- faults ----

  /** Sends `connection.close`, as an operator does (320), or with another reply. */
  readonly closeConnections: (
    selector?: ConnectionSelector,
    reply?: Reply
  ) => Effect.Effect<void, AmqpUnknownEntity>
  /** Drops connections without a word. */
  readonly resetConnections: (selector?: ConnectionSelector) => Effect.Effect<void, AmqpUnknownEntity>
  /**
   * Resets the client's side of connections only: until the scope closes, or two heartbeats are missed, the broker goes
   * on as if the client were there, and keeps its exclusive queues, its consumers and what it has not settled.
   */
  readonly strandConnections: (
    selector?: ConnectionSelector
  ) => Effect.Effect<void, AmqpUnknownEntity, Scope.Scope>
  /** Sends `channel.close` with a reply of your choice. */
  readonly closeChannels: (reply: Reply, selector?: ChannelSelector) => Effect.Effect<void, AmqpUnknownEntity>
  /** Sends `basic.cancel`, as when a queue has gone; the queue stays. */
  readonly cancelConsumers: (selector?: ConsumerSelector) => Effect.Effect<void, AmqpUnknownEntity>
  /**
   * Raises a resource alarm until the scope closes: connections that publish are told (`connection.blocked`) and not
   * read any more.
   */
  readonly block: (reason?: string) => Effect.Effect<void, never, Scope.Scope>
  /** Neither reads nor answers nor sends heartbeats until the scope closes, like a process that is suspended. */
  readonly pause: Effect.Effect<void, never, Scope.Scope>
  /** Closes all connections (320) and takes no new ones; what was not durable is gone. */
  readonly stop: Effect.Effect<void>
  /** After `stop`: takes connections again. */
  readonly start: Effect.Effect<void>
  /** Stops and starts. */
  readonly restart: Effect.Effect<void>
}

/**
 * @category services
 * @since 0.1.0
 */
export const AmqpBroker = Context.Service<AmqpBroker>("effect-amqp/testing/AmqpBroker")

const everything: Permissions = { configure: /.*/, write: /.*/, read: /.*/ }

const closedByOperator: Reply = { replyCode: 320, replyText: "CONNECTION_FORCED - Closed via management plugin" }

const unknown = (kind: AmqpUnknownEntity["kind"], name: string): AmqpUnknownEntity =>
  new AmqpUnknownEntity({ kind, name: JSON.stringify(name) })

// -----------------------------------------------------------------------------
// lookups
// -----------------------------------------------------------------------------

const vhostOf = (core: Core, name: string): Effect.Effect<Vhost, AmqpUnknownEntity> => {
  const vhost = core.vhosts.get(name)
  return vhost === undefined ? Effect.fail(unknown("vhost", name)) : Effect.succeed(vhost)
}

const userOf = (core: Core, name: string): Effect.Effect<User, AmqpUnknownEntity> => {
  const user = core.users.get(name)
  return user === undefined ? Effect.fail(unknown("user", name)) : Effect.succeed(user)
}

const queueOf = (core: Core, name: string, vhost: string): Effect.Effect<CoreQueue, AmqpUnknownEntity> =>
  Effect.flatMap(vhostOf(core, vhost), ({ queues }) => {
    const queue = queues.get(name)
    return queue === undefined ? Effect.fail(unknown("queue", name)) : Effect.succeed(queue)
  })

/** What was selected, or an error where that is nothing: a test whose fault hits nobody tests nothing. */
const some = <A>(
  kind: AmqpUnknownEntity["kind"],
  selector: ConsumerSelector,
  found: ReadonlyArray<A>
): Effect.Effect<ReadonlyArray<A>, AmqpUnknownEntity> => {
  if (found.length > 0) return Effect.succeed(found)
  const asked = Object.entries(selector).map(([key, value]) => `${key} ${JSON.stringify(value)}`).join(", ")
  return Effect.fail(new AmqpUnknownEntity({ kind, name: asked === "" ? "at all" : `with ${asked}` }))
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/** Sleeps until something is due, and does it. */
const keepTime = (core: Core, clock: Clock.Clock, earlier: Latch.Latch): Effect.Effect<never> =>
  Effect.gen(function*() {
    while (true) {
      earlier.closeUnsafe()
      const { next } = core.timers
      if (next === undefined) yield* earlier.await
      else if (next > clock.currentTimeMillisUnsafe()) {
        yield* Effect.raceFirst(clock.sleep(Duration.millis(next - clock.currentTimeMillisUnsafe())), earlier.await)
      } else core.wake()
    }
  })

/** Begins something for the first scope that asks for it, and ends it with the last. */
const shared = <A>(begin: (argument: A) => void, end: () => void) => {
  let holders = 0
  return (argument: A): Effect.Effect<void, never, Scope.Scope> =>
    Effect.acquireRelease(
      Effect.sync(() => {
        holders++
        if (holders === 1) begin(argument)
      }),
      () =>
        Effect.sync(() => {
          holders--
          if (holders === 0) end()
        })
    )
}

const seconds = (input: Duration.Input): number => Math.round(Duration.toSeconds(Duration.fromInputUnsafe(input)))

const millis = (input: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(input))

/**
 * Starts a broker, which stops with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Effect.Effect<AmqpBroker, never, Scope.Scope> =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const events = new Watchers<BrokerEvent>()
    const frames = new Watchers<TappedFrame>()
    const journal = new Watchers<BrokerEvent | TappedFrame>()
    const turns = new Watchers<void>(1)
    const tap = (frame: TappedFrame): void => {
      frames.tell(frame)
      journal.tell(frame)
    }
    const earlier = Latch.makeUnsafe()
    const core = makeCore({
      now: () => clock.currentTimeMillisUnsafe(),
      // The fiber that keeps the time would run on the broker's stack.
      onEarlier: () => queueMicrotask(() => earlier.openUnsafe()),
      emit: (event) => {
        events.tell(event)
        journal.tell(event)
      },
      onTurn: () => turns.tell(undefined),
      tap: () => frames.isEmpty && journal.isEmpty ? undefined : tap,
      heartbeatSeconds: options.heartbeat === undefined ? undefined : seconds(options.heartbeat),
      frameMax: options.frameMax,
      channelMax: options.channelMax,
      maxMessageSize: options.maxMessageSize,
      consumerTimeout: options.consumerTimeout === undefined ? undefined : millis(options.consumerTimeout)
    })
    const vhosts = options.vhosts ?? ["/"]
    const users = options.users ?? [{ name: "guest", password: Redacted.make("guest") }]
    // The core begins with a vhost and a user, which are only defaults.
    for (const vhost of core.vhosts.keys()) if (!vhosts.includes(vhost)) core.deleteVhost(vhost)
    for (const user of core.users.keys()) core.deleteUser(user)
    for (const vhost of vhosts) core.addVhost(vhost)
    for (const user of users) {
      core.addUser(user.name, Redacted.value(user.password))
      const permissions = user.permissions ?? Object.fromEntries(vhosts.map((vhost) => [vhost, everything]))
      for (const [vhost, granted] of Object.entries(permissions)) core.setPermissions(user.name, vhost, granted)
    }

    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        core.stop()
        for (const watchers of [events, frames, journal, turns]) watchers.end()
      })
    )
    yield* keepTime(core, clock, earlier).pipe(
      Effect.tapCause((cause) => Effect.logError("The embedded broker failed", cause)),
      Effect.forkScoped
    )

    let connected = 0
    const inspect = <A>(read: (core: Core) => A): Effect.Effect<A> => Effect.sync(() => read(core))
    // What an operator does may give queues something to deliver.
    const operate = (change: () => void): Effect.Effect<void> =>
      Effect.sync(() => {
        change()
        core.wake()
      })
    const stop = operate(() => core.stop())
    const start = operate(() => core.start())
    const block = shared((reason: string) => core.block(reason), () => core.unblock())
    const pause = shared(() => core.pause(), () => core.resume())

    return AmqpBroker.of({
      [TypeId]: TypeId,
      transport: AmqpTransport.of({
        connect: () => Effect.sync(() => memorySocket((link) => core.connect(link), () => `memory:${++connected}`))
      }),
      accept: (link) => core.connect(link),

      connections: inspect(inspectConnections),
      channels: inspect(inspectChannels),
      consumers: inspect(inspectConsumers),
      unsettled: inspect(inspectUnsettled),
      exchanges: inspect(inspectExchanges),
      bindings: inspect(inspectBindings),
      queues: inspect(inspectQueues),
      queue: (name, vhostName = "/") =>
        inspect(({ vhosts }) => {
          const vhost = vhosts.get(vhostName)
          const queue = vhost?.queues.get(name)
          return vhost === undefined || queue === undefined ? Option.none() : Option.some(inspectQueue(vhost, queue))
        }),
      messages: (queue, vhost = "/") => Effect.map(Effect.suspend(() => queueOf(core, queue, vhost)), inspectMessages),
      events: events.stream,
      frames: frames.stream,
      journal: journal.stream,
      waitUntil: (condition) =>
        Effect.scoped(Effect.gen(function*() {
          const changes = yield* turns.watch
          // When the broker has ended, the condition cannot come true any more.
          while (!(yield* condition)) yield* Effect.orDie(Queue.take(changes))
        })),

      addVhost: (name) =>
        operate(() => {
          if (core.vhosts.has(name)) return
          core.addVhost(name)
          for (const user of core.users.keys()) core.setPermissions(user, name, everything)
        }),
      deleteVhost: (name) =>
        Effect.flatMap(Effect.suspend(() => vhostOf(core, name)), () => operate(() => core.deleteVhost(name))),
      addUser: (name, password) =>
        Effect.sync(() => {
          const user = core.users.get(name)
          if (user === undefined) core.addUser(name, Redacted.value(password))
          else user.password = Redacted.value(password)
        }),
      deleteUser: (name) => Effect.map(Effect.suspend(() => userOf(core, name)), () => core.deleteUser(name)),
      setPermissions: (user, permissions = everything, vhost = "/") =>
        Effect.suspend(() => Effect.all([userOf(core, user), vhostOf(core, vhost)])).pipe(
          Effect.map(() => core.setPermissions(user, vhost, permissions))
        ),
      deleteQueue: (name, vhost = "/") =>
        Effect.suspend(() => Effect.all([vhostOf(core, vhost), queueOf(core, name, vhost)])).pipe(
          Effect.flatMap(([vhost]) => operate(() => vhost.deleteQueue(name)))
        ),

      closeConnections: (selector = {}, reply = closedByOperator) =>
        Effect.suspend(() => some("connection", selector, selectConnections(core, selector))).pipe(
          Effect.flatMap((connections) => operate(() => connections.forEach((connection) => connection.close(reply))))
        ),
      resetConnections: (selector = {}) =>
        Effect.suspend(() => some("connection", selector, selectConnections(core, selector))).pipe(
          Effect.flatMap((connections) => operate(() => connections.forEach((connection) => connection.reset())))
        ),
      strandConnections: (selector = {}) =>
        Effect.suspend(() => some("connection", selector, selectConnections(core, selector))).pipe(
          Effect.flatMap((connections) =>
            Effect.acquireRelease(
              operate(() => connections.forEach((connection) => connection.strand())),
              () => operate(() => connections.forEach((connection) => connection.notice()))
            )
          )
        ),
      closeChannels: (reply, selector = {}) =>
        Effect.suspend(() => some("channel", selector, selectChannels(core, selector))).pipe(
          Effect.flatMap((channels) => operate(() => channels.forEach((channel) => channel.close(reply))))
        ),
      cancelConsumers: (selector = {}) =>
        Effect.suspend(() => some("consumer", selector, selectConsumers(core, selector))).pipe(
          Effect.flatMap((consumers) =>
            operate(() => consumers.forEach(({ channel, tag }) => channel.cancelConsumer(tag)))
          )
        ),
      block: (reason = "low on memory") => block(reason),
      pause: pause(undefined),
      stop,
      start,
      restart: Effect.andThen(stop, start)
    })
  })

/**
 * A broker, and the transport that connects to it, as a layer.
 *
 * **Example**
 *
 * ```ts
 * const Test = AmqpConnection.layer().pipe(Layer.provideMerge(AmqpBroker.layer()))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<AmqpBroker | AmqpTransport> =>
  Layer.effectContext(
    Effect.map(make(options), (broker) =>
      Context.make(AmqpBroker, broker).pipe(Context.add(AmqpTransport, broker.transport)))
  )

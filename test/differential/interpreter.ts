/**
 * Takes a sequence of commands with the client, and writes down everything that it sees.
 *
 * A broker does many things behind its answers, in an order of its own. So after each command come rounds of questions,
 * to each queue and then on each channel, until two in succession have the same answers: what the command set going is
 * over then, and the next one begins at the same point with any broker. Deliveries are told per consumer, because the
 * order of two queues' deliveries is nobody's promise.
 */
import { Effect, Exit, Fiber, Option, Result, Scope, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import { AmqpDelivery, type AmqpUnacknowledged } from "../../src/AmqpDelivery.ts"
import type * as AmqpTable from "../../src/AmqpTable.ts"
import {
  bindingArguments,
  bindingKeys,
  type Command,
  counts,
  exchangeTypes,
  messageHeaders,
  messageProperties,
  type QueueKind,
  queueKinds,
  routingKeys,
  type Sequence,
  streamOffsets
} from "./commands.ts"

/** What was seen of one command. */
export interface Observed {
  readonly command: string
  readonly result: string
  /** By consumer or channel. */
  readonly events: ReadonlyArray<string>
  /** Messages that are ready, and consumers. */
  readonly queues: ReadonlyArray<string>
}

export interface Setting {
  readonly connect: Effect.Effect<
    AmqpConnection.AmqpConnection,
    AmqpConnection.ConnectError,
    Scope.Scope
  >
  /** Of all names. */
  readonly prefix: string
  /** How long to wait before each round of questions, in milliseconds, where something is written to a disk first. */
  readonly patience: number
}

// -----------------------------------------------------------------------------
// what is seen
// -----------------------------------------------------------------------------

/** What a failure says: everything but the client's own words. */
const said = (error: unknown): string => {
  if (typeof error !== "object" || error === null) return String(error)
  const tag = "_tag" in error ? String(error._tag) : "?"
  if ("reason" in error) return `${tag}(${said(error.reason)})`
  if ("replyText" in error && "replyCode" in error) return `${tag} ${error.replyCode} ${error.replyText}`
  if ("cause" in error && error.cause !== undefined) return `${tag}(${said(error.cause)})`
  return tag
}

/** What is different each time: when something died. */
const timeless = (_key: string, value: unknown): unknown => {
  if (typeof value === "bigint") return `${value}n`
  if (typeof value !== "object" || value === null || !("_tag" in value)) return value
  return value._tag === "Timestamp" ? { _tag: "Timestamp" } : value
}

/** A message as its receiver sees it, except for when it died. */
const seen = (delivery: AmqpUnacknowledged): string => {
  const { headers: _headers, ...properties } = delivery.properties
  const headers = delivery.headersTagged?.value
  return JSON.stringify(
    [
      delivery.text,
      delivery.redelivered ? "redelivered" : "first",
      delivery.exchange,
      delivery.routingKey,
      { ...properties, headers }
    ],
    timeless
  )
}

/** The queue that a message died in last; nobody has promised in which order the dead letters of two queues meet. */
const origin = ({ properties }: AmqpUnacknowledged): string => {
  const deaths = properties.headers?.["x-death"]
  return Array.isArray(deaths) ? JSON.stringify(deaths[0]?.queue) : ""
}

/** In the order that was promised. */
const byOrigin = (deliveries: ReadonlyArray<AmqpUnacknowledged>): ReadonlyArray<AmqpUnacknowledged> =>
  deliveries.toSorted((a, b) => origin(a).localeCompare(origin(b)))

// -----------------------------------------------------------------------------
// what there is
// -----------------------------------------------------------------------------

interface Link {
  readonly scope: Scope.Closeable
  readonly connection: AmqpConnection.AmqpConnection
}

interface Lane {
  readonly scope: Scope.Closeable
  readonly channel: AmqpChannel.AmqpChannel
  readonly closed: Fiber.Fiber<string>
}

interface Subscription {
  readonly name: string
  readonly queue: number
  readonly lane: Lane
  readonly consumer: AmqpChannel.Consumer<AmqpUnacknowledged>
  /** What has come since it was last told. */
  readonly fresh: Array<AmqpUnacknowledged>
  /** How it ended. */
  readonly end: Fiber.Fiber<string>
}

/** The connections on which the channels are. The first channel has confirms. */
const linkOf = [0, 0, 1] as const

/** A turn of the event loop: what has arrived has been taken. */
const turn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

const pick = <A>(from: ReadonlyArray<A>, index: number): A | undefined => from[index % Math.max(from.length, 1)]

/** The result of an operation, as text. */
const resultOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<string, never, R> =>
  Effect.match(effect, {
    onFailure: said,
    onSuccess: (value) => value === undefined ? "ok" : JSON.stringify(value, timeless)
  })

// -----------------------------------------------------------------------------
// the commands
// -----------------------------------------------------------------------------

/** Takes a sequence, and gives what it saw: after the last command all channels are closed, and all queues emptied. */
export const observe = (
  sequence: Sequence,
  { connect, patience, prefix }: Setting
): Effect.Effect<ReadonlyArray<Observed>, AmqpConnection.ConnectError | AmqpChannel.SelectError, Scope.Scope> =>
  Effect.gen(function*() {
    const root = yield* Effect.scope
    const links: Array<Link> = []
    const lanes: Array<Lane> = []
    const subscriptions: Array<Subscription> = []
    let held: Array<{ readonly source: string; readonly lane: Lane; readonly delivery: AmqpDelivery }> = []
    /** All bindings that were ever asked for. */
    const bound: Array<{
      readonly exchange: string
      readonly routingKey: string
      readonly undo: (
        channel: AmqpChannel.AmqpChannel
      ) => Effect.Effect<void, AmqpChannel.QueueUnbindError | AmqpChannel.ExchangeUnbindError>
    }> = []
    /** The link of an exclusive one; `undefined`: anybody's. */
    const owners = new Map<number, number | undefined>()
    const kinds = new Map<number, QueueKind>()
    const argument = (queue: number, name: string): AmqpTable.Input | undefined =>
      Object.entries(kinds.get(queue)?.arguments ?? {}).find(([key]) => key === name)?.[1]
    const typeOf = (queue: number) => argument(queue, "x-queue-type")
    let bodies = 0

    const exchangeName = (index: number): string => index >= counts.exchanges ? "" : `${prefix}x${index}`
    const queueName = (index: number): string => `${prefix}q${index}`
    /** Names in keys and arguments. */
    const named = (text: string): string => /^[xq]\d$/.test(text) ? prefix + text : text
    const namedTable = (table: AmqpTable.InputTable): AmqpTable.InputTable =>
      Object.fromEntries(
        Object.entries(table).map(([key, value]) => [
          key,
          typeof value === "string"
            ? named(value)
            : Array.isArray(value)
            ? value.map((item) => typeof item === "string" ? named(item) : item)
            : value
        ])
      )

    const openLink = (index: number) =>
      Effect.gen(function*() {
        const scope = yield* Scope.fork(root)
        links[index] = { scope, connection: yield* Scope.provide(connect, scope) }
      })

    /** A channel of a connection, or of the next one where it has ended. */
    const openOn = (index: number): Effect.Effect<Lane, AmqpConnection.ConnectError | AmqpChannel.SelectError> =>
      Effect.gen(function*() {
        const link = links[index] ?? never()
        const scope = yield* Scope.fork(link.scope)
        const opened = yield* AmqpChannel.open.pipe(
          Effect.provideService(AmqpConnection.AmqpConnection, link.connection),
          Scope.provide(scope),
          Effect.result
        )
        if (Result.isSuccess(opened)) {
          const channel = opened.success
          return { scope, channel, closed: yield* Effect.forkIn(Effect.map(channel.closed, said), root) }
        }
        yield* link.connection.closed
        if (links[index] === link) {
          yield* Scope.close(link.scope, Exit.void)
          yield* openLink(index)
        }
        return yield* openOn(index)
      })

    const openLane = (index: number) =>
      Effect.gen(function*() {
        const lane = yield* openOn(linkOf[index] ?? 0)
        if (index === 0) yield* lane.channel.confirmSelect
        lanes[index] = lane
      })

    const laneOf = (index: number): Lane => lanes[index] ?? never()

    // -------------------------------------------------------------------------
    // rounds of questions
    // -------------------------------------------------------------------------

    const probes: Array<Lane | undefined> = []

    /** A channel for questions, which goes with the first one that is refused. */
    const probe = <A, E>(index: number, use: (channel: AmqpChannel.AmqpChannel) => Effect.Effect<A, E>) =>
      Effect.gen(function*() {
        let lane = probes[index]
        if (lane === undefined || lane.closed.pollUnsafe() !== undefined) probes[index] = lane = yield* openOn(index)
        const result = yield* Effect.result(use(lane.channel))
        if (Result.isFailure(result)) {
          probes[index] = undefined
          yield* Scope.close(lane.scope, Exit.void)
        }
        return result
      })

    const countsOf = Effect.gen(function*() {
      const queues: Array<string> = []
      for (const [queue, owner] of owners) {
        const info = yield* probe(owner ?? 1, (channel) => channel.queueDeclarePassive(queueName(queue)))
        if (Result.isSuccess(info)) {
          const { consumerCount, messageCount } = info.success
          // Streams count late, and quorum queues count those that hold messages as consumers.
          const type = typeOf(queue)
          queues.push(
            `q${queue} ${type === "stream" ? "" : messageCount} ${type === "quorum" ? "" : consumerCount}`
          )
        } else {
          const why = said(info.failure)
          queues.push(`q${queue} ${why}`)
          if (why.startsWith("AmqpNotFound")) owners.delete(queue)
        }
      }
      return queues
    })

    const round = Effect.gen(function*() {
      if (patience > 0) yield* Effect.sleep(patience)
      const queues = yield* countsOf
      for (const { channel } of lanes) yield* Effect.ignore(channel.exchangeDeclarePassive("amq.direct"))
      yield* turn
      return queues
    })

    const state = (queues: ReadonlyArray<string>): string =>
      JSON.stringify([
        queues,
        subscriptions.map(({ end, fresh }) => [fresh.length, end.pollUnsafe() !== undefined]),
        lanes.map(({ closed }) => closed.pollUnsafe() !== undefined)
      ])

    const settled = Effect.gen(function*() {
      let before = ""
      for (let i = 0; i < 50; i++) {
        const queues = yield* round
        const now = state(queues)
        if (now === before) return queues
        before = now
      }
      return ["it never comes to rest"]
    })

    /** Tells what has come, and replaces what has ended. */
    const collect = Effect.gen(function*() {
      const events: Array<string> = []
      for (const subscription of [...subscriptions]) {
        const { end, fresh, lane, name } = subscription
        for (const delivery of byOrigin(fresh.splice(0))) {
          events.push(`${name} ${seen(delivery)}`)
          if (delivery instanceof AmqpDelivery) held.push({ source: name, lane, delivery })
        }
        if (end.pollUnsafe() === undefined) continue
        events.push(`${name} ended: ${yield* Fiber.join(end)}`)
        subscriptions.splice(subscriptions.indexOf(subscription), 1)
      }
      for (const [index, lane] of [...lanes.entries()]) {
        if (lane.closed.pollUnsafe() === undefined) continue
        events.push(`channel ${index} closed: ${yield* Fiber.join(lane.closed)}`)
        held = held.filter((one) => one.lane !== lane)
        yield* Scope.close(lane.scope, Exit.void)
        yield* openLane(index)
      }
      return events
    })

    // -------------------------------------------------------------------------
    // single commands
    // -------------------------------------------------------------------------

    const settle = ({ delivery }: { readonly delivery: AmqpDelivery }, how: "ack" | "nack" | "reject" | "requeue") =>
      how === "ack"
        ? delivery.ack
        : how === "requeue"
        ? delivery.nack()
        : how === "nack"
        ? delivery.nack({ requeue: false })
        : delivery.reject({ requeue: false })

    const body = (): string => `m${bodies++}`

    const take = (command: Command): Effect.Effect<string, AmqpConnection.ConnectError | AmqpChannel.SelectError> =>
      Effect.gen(function*() {
        switch (command._tag) {
          case "DeclareExchange": {
            const { alternate, autoDelete, exchange, internal, type } = command
            return yield* resultOf(
              laneOf(1).channel.exchangeDeclare({
                exchange: exchangeName(exchange),
                type: exchangeTypes[type],
                autoDelete,
                internal: internal === 0,
                arguments: alternate < counts.exchanges ? { "alternate-exchange": exchangeName(alternate) } : {}
              })
            )
          }
          case "DeclareQueue": {
            const { channel, kind, queue } = command
            const { arguments: all = {}, ...options } = queueKinds[kind] ?? {}
            const result = yield* resultOf(
              laneOf(channel).channel.queueDeclare({
                queue: queueName(queue),
                ...options,
                arguments: namedTable(all)
              })
            )
            if (result.startsWith("{") && !owners.has(queue)) {
              kinds.set(queue, queueKinds[kind] ?? {})
              owners.set(queue, options.exclusive === true ? linkOf[channel] : undefined)
            }
            return result
          }
          case "Bind": {
            const binding = {
              queue: queueName(command.queue),
              exchange: exchangeName(command.exchange),
              routingKey: named(bindingKeys[command.key] ?? ""),
              arguments: bindingArguments[command.arguments] ?? {}
            }
            bound.push({
              exchange: binding.exchange,
              routingKey: binding.routingKey,
              undo: (channel) => channel.queueUnbind(binding)
            })
            return yield* resultOf(laneOf(1).channel.queueBind(binding))
          }
          case "BindExchange": {
            const binding = {
              source: exchangeName(command.source),
              destination: exchangeName(command.destination),
              routingKey: named(bindingKeys[command.key] ?? "")
            }
            bound.push({
              exchange: binding.source,
              routingKey: binding.routingKey,
              undo: (channel) => channel.exchangeUnbind(binding)
            })
            return yield* resultOf(laneOf(1).channel.exchangeBind(binding))
          }
          case "Unbind": {
            const binding = pick(bound, command.binding)
            return binding === undefined ? "nothing" : yield* resultOf(binding.undo(laneOf(1).channel))
          }
          case "Publish": {
            const { binding, channel, exchange, headers, key, mandatory, priority, properties } = command
            const table = messageHeaders[headers]
            const aim = (binding < 8 ? pick(bound, binding) : undefined) ??
              { exchange: exchangeName(exchange), routingKey: named(routingKeys[key] ?? "") }
            return yield* resultOf(
              laneOf(channel).channel.publish({
                exchange: aim.exchange,
                routingKey: aim.routingKey,
                body: body(),
                mandatory: mandatory && channel === 0,
                properties: {
                  priority: priority === 0 ? undefined : priority,
                  headers: table && namedTable(table),
                  ...messageProperties[properties]
                }
              })
            )
          }
          case "PublishToQueue": {
            const { channel, more, priority, queue } = command
            const results: Array<string> = []
            for (let i = 0; i <= more; i++) {
              // The dead letters of two queues come to a third one in any order.
              if (i > 0) yield* settled
              results.push(
                yield* resultOf(
                  laneOf(channel).channel.publish({
                    routingKey: queueName(queue),
                    body: body(),
                    properties: { priority: priority === 0 ? undefined : priority }
                  })
                )
              )
            }
            return results.join()
          }
          case "Get": {
            const lane = laneOf(command.channel)
            const got = yield* Effect.result(
              lane.channel.get({ queue: queueName(command.queue), noAck: command.noAck })
            )
            if (Result.isFailure(got)) return said(got.failure)
            if (Option.isNone(got.success)) return "empty"
            const { delivery, messageCount } = got.success.value
            if (delivery instanceof AmqpDelivery) held.push({ source: "get", lane, delivery })
            return `${seen(delivery)}, ${messageCount} left`
          }
          case "Consume": {
            const { channel, exclusive, noAck, offset, prefetch, priority, queue } = command
            const isStream = typeOf(queue) === "stream"
            const lane = laneOf(channel)
            // In one go: between them nobody else sets another limit.
            const started = yield* Effect.result(Effect.andThen(
              // RabbitMQ hands out whole chunks of a stream, which it makes as it likes.
              lane.channel.qos({ prefetchCount: isStream && prefetch > 0 ? 1000 : prefetch }),
              Scope.provide(
                lane.channel.consume({
                  queue: queueName(queue),
                  noAck: noAck === 0,
                  exclusive: exclusive === 0,
                  arguments: {
                    "x-priority": priority === 0 ? undefined : priority,
                    "x-stream-offset": isStream ? streamOffsets[offset] : undefined
                  }
                }),
                lane.scope
              )
            ))
            if (Result.isFailure(started)) return said(started.failure)
            const fresh: Array<AmqpUnacknowledged> = []
            const end = yield* Effect.forkIn(
              Effect.match(
                Stream.runForEach(started.success.deliveries, (delivery) => Effect.sync(() => fresh.push(delivery))),
                { onFailure: said, onSuccess: () => "cancelled" }
              ),
              root
            )
            subscriptions.push({ queue, name: `consumer ${consumers++}`, lane, consumer: started.success, fresh, end })
            return "ok"
          }
          case "Cancel": {
            const subscription = pick(subscriptions, command.consumer)
            if (subscription === undefined) return "nobody"
            // Whoever is active next gets nothing before the next publish in RabbitMQ 3.10.
            if (
              argument(subscription.queue, "x-single-active-consumer") === true &&
              typeOf(subscription.queue) !== "quorum"
            ) {
              return "not asked"
            }
            return yield* resultOf(subscription.consumer.cancel)
          }
          case "Settle": {
            const one = pick(held, command.delivery)
            if (one === undefined) return "nothing"
            held.splice(held.indexOf(one), 1)
            return yield* resultOf(settle(one, command.how))
          }
          case "SettleUpTo": {
            const one = pick(held, command.delivery)
            if (one === undefined) return "nothing"
            const { deliveryTag } = one.delivery
            const { channel } = one.lane
            const multiple = held.every(({ lane, source }) => lane !== one.lane || source === one.source)
            held = held.filter((other) =>
              multiple ? other.lane !== one.lane || other.delivery.deliveryTag > deliveryTag : other !== one
            )
            const settled = { deliveryTag, multiple }
            return yield* resultOf(
              command.how === "ack"
                ? channel.ack(settled)
                : channel.nack({ ...settled, requeue: command.how === "requeue" })
            )
          }
          case "SettleAll": {
            const lane = laneOf(command.channel)
            held = held.filter((one) => one.lane !== lane)
            const all = { deliveryTag: 0, multiple: true }
            return yield* resultOf(
              command.how === "ack"
                ? lane.channel.ack(all)
                : lane.channel.nack({ ...all, requeue: command.how === "requeue" })
            )
          }
          case "Purge":
            return yield* resultOf(laneOf(command.channel).channel.queuePurge(queueName(command.queue)))
          case "DeleteQueue": {
            const { channel, ifEmpty, ifUnused, queue } = command
            return yield* resultOf(
              laneOf(channel).channel.queueDelete({ queue: queueName(queue), ifEmpty, ifUnused })
            )
          }
          case "DeleteExchange":
            return yield* resultOf(
              laneOf(1).channel.exchangeDelete({
                exchange: exchangeName(command.exchange),
                ifUnused: command.ifUnused
              })
            )
          case "Recover": {
            const lane = laneOf(command.channel)
            held = held.filter((one) => one.lane !== lane)
            return yield* resultOf(lane.channel.recover)
          }
          case "Qos":
            return yield* resultOf(
              laneOf(command.channel).channel.qos({ prefetchCount: command.prefetch, global: command.global })
            )
          case "Transaction": {
            const { channel, scope } = yield* openOn(1)
            const results: Array<string> = []
            const work = Effect.gen(function*() {
              for (const { how, queue } of command.gets) {
                const got = yield* channel.get({ queue: queueName(queue) })
                results.push(Option.match(got, { onNone: () => "empty", onSome: ({ delivery }) => seen(delivery) }))
                if (Option.isSome(got)) yield* settle(got.value, how)
              }
              for (const { exchange, key, mandatory } of command.publishes) {
                yield* channel.publish({
                  exchange: exchangeName(exchange),
                  routingKey: named(routingKeys[key] ?? ""),
                  body: body(),
                  mandatory
                })
              }
              // Refused publishes end the channel only now.
              yield* channel.exchangeDeclarePassive("amq.direct")
              if (!command.commit) return yield* Effect.fail("rolled back")
            })
            results.push(yield* resultOf(channel.transaction(work)))
            yield* Scope.close(scope, Exit.void)
            return results.join(", ")
          }
          case "CloseChannel": {
            yield* laneOf(command.channel).channel.close
            return "ok"
          }
          case "CloseConnection": {
            yield* links[linkOf[command.channel] ?? 0]?.connection.close ?? never()
            return "ok"
          }
        }
      })

    // -------------------------------------------------------------------------
    // the sequence
    // -------------------------------------------------------------------------

    let consumers = 0
    for (let i = 0; i < 2; i++) yield* openLink(i)
    for (let i = 0; i < counts.channels; i++) yield* openLane(i)

    const setup: ReadonlyArray<Command> = [
      ...sequence.exchanges.map((options, exchange): Command => ({
        _tag: "DeclareExchange",
        exchange,
        internal: 1,
        ...options
      })),
      ...sequence.queues.map(({ kind }, queue): Command => ({ _tag: "DeclareQueue", channel: 1, queue, kind })),
      ...sequence.bindings,
      ...sequence.exchangeBindings
    ]
    const observed: Array<Observed> = []
    for (const command of setup) {
      observed.push({ command: JSON.stringify(command), result: yield* take(command), events: [], queues: [] })
    }
    for (const command of sequence.commands) {
      const result = yield* take(command)
      let queues = yield* settled
      const events = [...yield* collect]
      // Channels that are opened again are no end of it.
      if (events.length > 0) {
        queues = yield* settled
        events.push(...yield* collect)
      }
      observed.push({ command: JSON.stringify(command), result, events, queues })
    }

    // What is left.
    for (const lane of lanes) yield* lane.channel.close
    yield* settled
    for (const [queue, owner] of owners) {
      const left: Array<AmqpUnacknowledged> = []
      let end = ""
      while (end === "") {
        const got = yield* probe(owner ?? 1, (channel) => channel.get({ queue: queueName(queue), noAck: true }))
        if (Result.isFailure(got)) end = said(got.failure)
        else if (Option.isNone(got.success)) end = "empty"
        else left.push(got.success.value.delivery)
      }
      observed.push({ command: `what is left in q${queue}`, result: end, events: byOrigin(left).map(seen), queues: [] })
    }

    // Nothing of it stays.
    for (let i = 0; i < counts.queues; i++) {
      for (const link of [0, 1]) yield* probe(link, (channel) => channel.queueDelete({ queue: queueName(i) }))
    }
    for (let i = 0; i < counts.exchanges; i++) {
      yield* probe(1, (channel) => channel.exchangeDelete({ exchange: exchangeName(i) }))
    }
    return observed
  })

const never = (): never => {
  throw new Error("there is none")
}

/**
 * What integration tests share: connections, channels and filled queues on the test's vhost, the states of a consumer, and the
 * frames that a proxy has seen.
 */
import { assert } from "@effect/vitest"
import { Cause, Clock, Effect, Redacted, Result, Schedule, type Scope, Stream } from "effect"
import { inspect } from "node:util"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import type * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import { type AmqpConnectionErrorReason, isTransient } from "../../src/AmqpError.ts"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import { Broker } from "../harness/broker.ts"
import type { PeerClosed } from "../harness/bytes.ts"
import { noLeaks } from "../harness/leaks.ts"
import { type Direction, type FaultProxy, makeProxy, type ProxyLink } from "../harness/proxy.ts"
import { uniqueName, Vhost } from "../harness/shared.ts"

/** Gives up at once, so that the first loss of a connection ends everything typed. */
export const noReconnect = Schedule.recurs(0)

/**
 * A connection to the test's vhost, under a name of its own. `host` and `port` of a proxy go into the options. It is over at
 * its first loss; `reconnect: undefined` is the library's default.
 */
export const connect = (
  options: AmqpConnection.Options = {}
): Effect.Effect<AmqpConnection.AmqpConnection, AmqpConnection.ConnectError, Vhost | Scope.Scope> =>
  Effect.flatMap(
    Vhost,
    ({ amqpUrl }) =>
      AmqpConnection.make({
        url: Redacted.make(amqpUrl),
        connectionName: uniqueName("test"),
        reconnect: noReconnect,
        ...options
      })
  ).pipe(
    Effect.provide(NodeAmqp.layerTransport)
  )

/** A channel of this connection. */
export const openOn = (
  connection: AmqpConnection.AmqpConnection
): Effect.Effect<AmqpChannel.AmqpChannel, AmqpChannel.ClosedError, Scope.Scope> =>
  Effect.provideService(AmqpChannel.open, AmqpConnection.AmqpConnection, connection)

/** A connection through a proxy of its own; `nextMethod` starts with the first frame of either side. */
export const proxied = (options: AmqpConnection.Options = {}) =>
  Effect.gen(function*() {
    const proxy = yield* makeProxy(yield* Broker)
    const connection = yield* connect({ host: proxy.host, port: proxy.port, ...options })
    const link = yield* proxy.accept
    yield* skipHeader(link)
    return { proxy, connection, link }
  })

/** A durable queue with so many messages, "0" first, made by another connection. */
export const filled = Effect.fnUntraced(function*(count: number) {
  const channel = yield* openOn(yield* connect())
  const { queue } = yield* channel.queueDeclare({ queue: uniqueName("filled"), durable: true })
  yield* channel.confirmSelect
  for (let i = 0; i < count; i++) yield* channel.publish({ routingKey: queue, body: String(i) })
  return { channel, queue }
})

/** From here on nothing passes, in either direction, and nobody learns of it. */
export const hole = (proxy: FaultProxy): Effect.Effect<void> =>
  Effect.andThen(proxy.set("up", { mode: "hole" }), proxy.set("down", { mode: "hole" }))

/** How long it takes, in milliseconds. */
export const millisOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<number, E, R> =>
  Effect.gen(function*() {
    const start = yield* Clock.currentTimeMillis
    yield* effect
    return (yield* Clock.currentTimeMillis) - start
  })

/** How a consumer recovers by default, but soon. */
export const recoverSoon = Schedule.spaced("20 millis").pipe(
  Schedule.setInputType<AmqpConsumer.AmqpConsumerFailed>(),
  Schedule.while(({ input }) => isTransient(input))
)

/** Waits for a state of a consumer; the present one is the first. */
export const until = (
  consumer: AmqpConsumer.AmqpConsumer,
  is: (status: AmqpConsumer.Status) => boolean
): Effect.Effect<void> => Stream.runDrain(Stream.takeUntil(consumer.changes, is))

/** Subscribed to every queue, on this connection or a later one. */
export const isAttachedIn = (epoch: number) => (status: AmqpConsumer.Status): boolean =>
  status._tag === "Attached" && status.epoch >= epoch

/** Runs a test with a connection of its own, which must leave nothing at the broker. */
export const onConnection = <A, E, R>(
  test: Effect.Effect<A, E, R>,
  options?: AmqpConnection.Options
) => noLeaks(Effect.provideServiceEffect(test, AmqpConnection.AmqpConnection, connect(options)))

/** What an operation fails with, on a channel that is opened for it alone. */
export const failureOf = <A, E, R>(
  use: (channel: AmqpChannel.AmqpChannel) => Effect.Effect<A, E, R>
): Effect.Effect<E, AmqpChannel.ClosedError, AmqpConnection.AmqpConnection | Exclude<R, Scope.Scope>> =>
  AmqpChannel.open.pipe(
    Effect.flatMap((channel) =>
      Effect.matchEffect(use(channel), {
        onFailure: Effect.succeed,
        onSuccess: (value) => Effect.die(new Error(`it succeeded: ${inspect(value)}`))
      })
    ),
    Effect.scoped
  )

/** Checks what an operation failed with: the tag, and what the message says (the broker's words among it). */
export const assertFailure = (
  error: { readonly _tag: string; readonly message: string },
  tag: string,
  ...texts: ReadonlyArray<string>
): void => {
  assert.strictEqual(error._tag, tag, error.message)
  for (const text of texts) assert.include(error.message, text)
}

/** Takes everything that is ready in a queue, as text. */
export const drain = (
  channel: AmqpChannel.AmqpChannel,
  queue: string
): Effect.Effect<ReadonlyArray<string>, AmqpChannel.GetError> =>
  Effect.gen(function*() {
    const texts: Array<string> = []
    while (true) {
      const got = yield* channel.get({ queue, noAck: true })
      if (got._tag === "None") return texts
      texts.push(got.value.delivery.text)
    }
  })

/** How many deliveries the broker counts as unsettled on this channel, the vhost's only one of its number. */
export const unsettled = (channel: AmqpChannel.AmqpChannel) =>
  Effect.gen(function*() {
    // Behind everything that was sent before.
    yield* channel.exchangeDeclarePassive("amq.direct")
    const control = yield* Broker.control
    const { channels } = yield* control.held({ vhost: (yield* Vhost).name })
    return channels.find(({ number }) => number === channel.id)?.unacknowledged
  })

/** The frames that came from that side so far; those of the client without the protocol header. */
export const framesOf = (
  link: ProxyLink,
  direction: Direction
): Effect.Effect<ReadonlyArray<AmqpProtocol.Frame>> =>
  Effect.map(link.seen(direction), (bytes) => {
    const frames = bytes.subarray(direction === "up" ? AmqpProtocol.protocolHeader.length : 0)
    return Result.getOrThrow(AmqpProtocol.makeParser().push(frames))
  })

/** The methods among those frames, in order, as `"<channel> <name>"`. */
export const methodsOf = (link: ProxyLink, direction: Direction): Effect.Effect<ReadonlyArray<string>> =>
  Effect.map(
    framesOf(link, direction),
    (frames) => frames.flatMap((frame) => frame._tag === "Method" ? [`${frame.channel} ${frame.method._tag}`] : [])
  )

/** Waits for the next frame from that side; `nextMethod` and `skipHeader` read on from where it stopped. */
export const nextFrame = (link: ProxyLink, direction: Direction): Effect.Effect<AmqpProtocol.Frame, PeerClosed> =>
  Effect.gen(function*() {
    const head = yield* link.read(direction, 7)
    const rest = yield* link.read(direction, new DataView(head.buffer).getUint32(3) + 1)
    const parser = AmqpProtocol.makeParser()
    parser.push(head)
    const [frame] = Result.getOrThrow(parser.push(rest))
    return frame ?? assert.fail("a whole frame is no frame")
  })

/** Reads past the protocol header, which is no frame. */
export const skipHeader = (link: ProxyLink): Effect.Effect<unknown, PeerClosed> =>
  link.read("up", AmqpProtocol.protocolHeader.length)

type MethodOf<Name> = Extract<AmqpProtocol.Method, { readonly _tag: Name }>

const isNamed = <Name extends AmqpProtocol.MethodName>(
  method: AmqpProtocol.Method,
  name: Name
): method is MethodOf<Name> => method._tag === name

/** Waits for the next method of this name from that side. */
export const nextMethod = <Name extends AmqpProtocol.MethodName>(
  link: ProxyLink,
  direction: Direction,
  name: Name
): Effect.Effect<MethodOf<Name>, PeerClosed> =>
  Effect.flatMap(
    nextFrame(link, direction),
    (frame) =>
      frame._tag === "Method" && isNamed(frame.method, name)
        ? Effect.succeed(frame.method)
        : nextMethod(link, direction, name)
  )

/** Why a connection with these options does not come about. */
export const refusal = (
  options: AmqpConnection.Options
): Effect.Effect<AmqpConnectionErrorReason, AmqpConnection.AmqpConnection, Vhost> =>
  connect(options).pipe(
    Effect.scoped,
    Effect.flip,
    Effect.map((error) => error._tag === "AmqpConnectionError" ? error.reason : assert.fail(error.message))
  )

/** What anybody may print of a value: its text, its JSON, and everything that Node's inspector reaches. */
export const printed = (value: unknown): string =>
  [
    String(value),
    value instanceof Error ? `${value.message}\n${value.stack}` : "",
    JSON.stringify(value) ?? "",
    Cause.pretty(Cause.fail(value)),
    inspect(value, { depth: Infinity, showHidden: true, getters: true, maxArrayLength: null, maxStringLength: null })
  ].join("\n")

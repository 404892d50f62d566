/**
 * What integration tests share: connections and channels on the test's vhost, and the frames that a proxy has seen.
 */
import { Effect, Redacted, Result, type Scope } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import { noLeaks } from "../harness/leaks.ts"
import type { Direction, ProxyLink } from "../harness/proxy.ts"
import { uniqueName, Vhost } from "../harness/shared.ts"

/** A connection to the test's vhost, under a name of its own. `host` and `port` of a proxy go into the options. */
export const connect = (
  options: AmqpConnection.Options = {}
): Effect.Effect<AmqpConnection.AmqpConnection, AmqpConnection.ConnectError, Vhost | Scope.Scope> =>
  Effect.flatMap(
    Vhost,
    ({ amqpUrl }) =>
      AmqpConnection.make({ url: Redacted.make(amqpUrl), connectionName: uniqueName("test"), ...options })
  ).pipe(
    Effect.provide(NodeAmqp.layerTransport)
  )

/** A channel of this connection. */
export const openOn = (
  connection: AmqpConnection.AmqpConnection
): Effect.Effect<AmqpChannel.AmqpChannel, AmqpChannel.RequestError, Scope.Scope> =>
  Effect.provideService(AmqpChannel.open, AmqpConnection.AmqpConnection, connection)

/** Runs a test with a connection of its own, which must leave nothing at the broker. */
export const onConnection = <A, E, R>(
  test: Effect.Effect<A, E, R>,
  options?: AmqpConnection.Options
) => noLeaks(Effect.provideServiceEffect(test, AmqpConnection.AmqpConnection, connect(options)))

/** What an operation fails with, on a channel that is opened for it alone. */
export const failureOf = <A, E, R>(
  use: (channel: AmqpChannel.AmqpChannel) => Effect.Effect<A, E, R>
): Effect.Effect<
  E,
  A | AmqpChannel.RequestError,
  AmqpConnection.AmqpConnection | Exclude<R, Scope.Scope>
> => Effect.scoped(Effect.flatMap(AmqpChannel.open, (channel) => Effect.flip(use(channel))))

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

/**
 * AMQP over TCP and TLS on Node: `AmqpConnection.layer` with the transport that this platform has.
 *
 * Only this module imports the platform, so only this module needs `@effect/platform-node`.
 *
 * @since 0.1.0
 */
/// <reference types="node" />
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as AmqpConnection from "./AmqpConnection.ts"
import { AmqpTransport } from "./internal/connection/transport.ts"
import type { AmqpEncodeError } from "./internal/errors/value.ts"
import { defaults, resolve, type SocketOptions } from "./internal/node/socketOptions.ts"
import { transport } from "./internal/node/transport.ts"

export type { SocketOptions } from "./internal/node/socketOptions.ts"

/**
 * Connects by `node:net` and `node:tls`. Many small reads gather for up to `readInterval`, in real time.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTransport: Layer.Layer<AmqpTransport> = Layer.succeed(AmqpTransport, transport(defaults))

/**
 * As `layerTransport`, with options of the socket. Fails with `AmqpEncodeError` for those that cannot work.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTransportWith = (options: SocketOptions): Layer.Layer<AmqpTransport, AmqpEncodeError> =>
  Layer.effect(AmqpTransport, Effect.fromResult(Result.map(resolve(options), transport)))

/**
 * Options of a connection over TCP or TLS.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends AmqpConnection.Options {
  /** Options of the TCP socket: keepalive, Nagle's algorithm, the address to connect from, and so on. */
  readonly socket?: SocketOptions | undefined
}

/**
 * A connection over TCP or TLS, as a layer.
 *
 * **Example**
 *
 * ```ts
 * const Amqp = NodeAmqp.layer({
 *   url: Redacted.make("amqp://guest:guest@localhost:5672"),
 *   connectionName: "orders",
 *   socket: { keepAlive: true, keepAliveInitialDelay: "1 minute" }
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options = {}
): Layer.Layer<AmqpConnection.AmqpConnection, AmqpConnection.ConnectError> =>
  Layer.provide(AmqpConnection.layer(options), layerTransportWith(options.socket ?? {}))

/**
 * A connection whose options come from `Config`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<AmqpConnection.AmqpConnection, AmqpConnection.ConnectError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Config.unwrap(options), layer))

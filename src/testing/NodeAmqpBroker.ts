/**
 * The embedded broker on a TCP port, so that any AMQP client can use it.
 *
 * Needs nothing but Node. No TLS: it is for local development and tests, and listens on the loopback address unless told
 * otherwise.
 *
 * @since 0.1.0
 */
/// <reference types="node" />
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { createServer, type Server, type Socket } from "node:net"
import { AmqpBroker, type Link, type Reply } from "./AmqpBroker.ts"

/**
 * Where to listen.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Defaults to 0: any port that is free. */
  readonly port?: number | undefined
  /** Defaults to `127.0.0.1`: nobody else on the network can connect. */
  readonly host?: string | undefined
}

/**
 * Where the broker listens.
 *
 * @category models
 * @since 0.1.0
 */
export interface Address {
  readonly host: string
  readonly port: number
}

/**
 * @category services
 * @since 0.1.0
 */
export const Address = Context.Service<Address>("effect-amqp/testing/NodeAmqpBroker/Address")

/**
 * The broker cannot listen there: the port is in use, or may not be used.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmqpListenError extends Schema.TaggedError<AmqpListenError>("effect-amqp/AmqpListenError")(
  "AmqpListenError",
  {
    host: Schema.String,
    port: Schema.Int,
    /** The system's: `"EADDRINUSE"`. */
    code: Schema.String
  }
) {
  override get message(): string {
    const reasons: { readonly [code: string]: string | undefined } = {
      EADDRINUSE: "the port is already in use",
      EACCES: "this user may not use the port",
      EADDRNOTAVAIL: "this machine has no such address",
      ENOTFOUND: "there is no such host"
    }
    return `Cannot listen on ${this.host}:${this.port}: ${reasons[this.code] ?? this.code}`
  }
}

/** How long clients may take to close when the broker stops. */
const linger = "500 millis"

const shutdown: Reply = {
  replyCode: 320,
  replyText: "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
}

/** How long clients are read before everything else has its turn, in milliseconds. */
const readingTime = 10

/**
 * Has clients wait that send more than is handled in time. Without it Node reads two megabytes of each before it looks
 * at signals and timers.
 */
const makeTurns = (): (socket: Socket) => void => {
  let began: number | undefined
  const waiting: Array<() => void> = []
  const end = (): void => {
    began = undefined
    for (const resume of waiting.splice(0)) resume()
  }
  return (socket) => {
    if (began === undefined) {
      began = performance.now()
      setImmediate(end)
    } else if (performance.now() - began > readingTime && !socket.isPaused()) {
      socket.pause()
      waiting.push(() => socket.resume())
    }
  }
}

/** One client. Errors of its socket only mean that it has ended. */
const accept = (broker: AmqpBroker, socket: Socket, takeTurn: (socket: Socket) => void): Link => {
  const link: Link = {
    name: `${socket.remoteAddress}:${socket.remotePort}`,
    write: (bytes) => {
      if (!socket.writable) return true
      // What the broker says in one turn goes out together.
      if (socket.writableCorked === 0) {
        socket.cork()
        process.nextTick(() => socket.uncork())
      }
      return socket.write(bytes)
    },
    end: () => socket.end(),
    reset: () => socket.resetAndDestroy(),
    resume: () => socket.resume()
  }
  socket.on("error", () => {})
  const peer = broker.accept(link)
  socket.on("data", (chunk) => {
    if (!peer.receive(chunk)) socket.pause()
    else takeTurn(socket)
  })
  socket.on("drain", () => peer.drained())
  socket.on("close", () => peer.closed())
  return link
}

const listen = (server: Server, host: string, port: number): Effect.Effect<Address, AmqpListenError> =>
  Effect.callback((resume) => {
    const fail = (code: string) => resume(Effect.fail(new AmqpListenError({ host, port, code })))
    server.once("error", (cause) => fail("code" in cause ? String(cause.code) : cause.message))
    server.listen({ host, port }, () => {
      const address = server.address()
      if (address === null || typeof address === "string") return fail("no address")
      // From here on, errors are about clients that could not connect.
      server.on("error", () => {})
      resume(Effect.succeed({ host, port: address.port }))
    })
  })

/**
 * Serves the broker until the scope closes; clients are then told (320), and have half a second to leave.
 *
 * @category constructors
 * @since 0.1.0
 */
export const serve = (
  { host = "127.0.0.1", port = 0 }: Options = {}
): Effect.Effect<Address, AmqpListenError, AmqpBroker | Scope.Scope> =>
  Effect.gen(function*() {
    const broker = yield* AmqpBroker
    const clients = new Map<Socket, Link>()
    const takeTurn = makeTurns()
    const server = yield* Effect.acquireRelease(
      Effect.sync(() =>
        createServer({ noDelay: true }, (socket) => {
          clients.set(socket, accept(broker, socket, takeTurn))
          socket.on("close", () => clients.delete(socket))
        })
      ),
      (server) =>
        Effect.gen(function*() {
          if (!server.listening) return
          const closed = Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
          const told = Effect.forEach(
            clients.values(),
            ({ name }) => Effect.ignore(broker.closeConnections({ connection: name }, shutdown)),
            { discard: true }
          )
          yield* Effect.all([closed, told], { concurrency: 2, discard: true }).pipe(
            Effect.interruptible,
            Effect.timeoutOption(linger)
          )
          clients.forEach((_link, socket) => socket.destroy())
        })
    )
    return yield* listen(server, host, port)
  })

/**
 * Serves the broker, as a layer that says where.
 *
 * **Example**
 *
 * ```ts
 * const Served = NodeAmqpBroker.layer({ port: 5672 }).pipe(Layer.provideMerge(AmqpBroker.layer()))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<Address, AmqpListenError, AmqpBroker> =>
  Layer.effect(Address, serve(options))

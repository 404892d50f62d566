/**
 * AMQP over TCP and TLS on Node: `AmqpConnection.layer` with the transport that this platform has.
 *
 * The only module that imports the platform, and so the only one that needs `@effect/platform-node`.
 *
 * @since 0.1.0
 */
/// <reference types="node" />
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import type * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import { readFile } from "node:fs/promises"
import { connect as connectTcp, isIP, type OnReadOpts, type Socket as NetSocket } from "node:net"
import { connect as connectTls, type ConnectionOptions } from "node:tls"
import * as AmqpConnection from "./AmqpConnection.ts"
import {
  AmqpTransport,
  type Endpoint,
  formatEndpoint,
  type TlsOptions,
  type TransportSocket
} from "./internal/connection/transport.ts"
import { AmqpConnectionError, TlsFailed } from "./internal/errors/connection.ts"
import type { AmqpEncodeError } from "./internal/errors/value.ts"
import { ReadPacing } from "./internal/node/readPacing.ts"
import { defaults, resolve, type ResolvedSocketOptions, type SocketOptions } from "./internal/node/socketOptions.ts"

export type { SocketOptions } from "./internal/node/socketOptions.ts"

const toBytes = (pem: string | Uint8Array): string | Buffer =>
  typeof pem === "string" ? pem : Buffer.from(pem.buffer, pem.byteOffset, pem.byteLength)

/** PEM from a value, or else from a file. */
const pem = (
  endpoint: Endpoint,
  value: string | Uint8Array | undefined,
  path: string | undefined
): Effect.Effect<string | Buffer | undefined, AmqpConnectionError> => {
  if (value !== undefined) return Effect.succeed(toBytes(value))
  if (path === undefined) return Effect.undefined
  return Effect.tryPromise({
    try: () => readFile(path),
    catch: (cause) =>
      new AmqpConnectionError({
        reason: new TlsFailed({
          endpoint: formatEndpoint(endpoint),
          code: cause instanceof Error && "code" in cause ? String(cause.code) : "",
          detail: `cannot read ${path}`
        })
      })
  })
}

const tlsOptions = (
  endpoint: Endpoint,
  tls: TlsOptions,
  { connect }: ResolvedSocketOptions
): Effect.Effect<ConnectionOptions, AmqpConnectionError> =>
  Effect.map(
    Effect.all({
      ca: pem(endpoint, tls.ca, tls.caFile),
      cert: pem(endpoint, tls.cert, tls.certFile),
      key: pem(endpoint, tls.key === undefined ? undefined : Redacted.value(tls.key), tls.keyFile)
    }),
    ({ ca, cert, key }): ConnectionOptions => ({
      ...connect,
      host: endpoint.host,
      port: endpoint.port,
      rejectUnauthorized: tls.verify ?? true,
      // An address is not a name that a client may ask for.
      ...(tls.servername === false || (tls.servername === undefined && isIP(endpoint.host) !== 0)
        ? {}
        : { servername: tls.servername ?? endpoint.host }),
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      ...(tls.passphrase === undefined ? {} : { passphrase: Redacted.value(tls.passphrase) })
    })
  )

/** What the system says of a peer that went away; in the middle of TLS it says nothing against the certificates. */
const isGone = (cause: Error): boolean => "code" in cause && /^E(CONNRESET|PIPE|TIMEDOUT)$/.test(String(cause.code))

/** How long bytes that are written may take to go out when a socket closes. */
const linger = "1 second"

/** What was written goes out before the socket closes, unless the peer does not take it. */
const hangUp = (socket: NetSocket): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    if (socket.closed) return resume(Effect.void)
    socket.once("close", () => resume(Effect.void))
    if (socket.connecting) socket.destroy()
    else socket.destroySoon()
  }).pipe(
    Effect.interruptible,
    Effect.timeoutOption(linger),
    Effect.andThen(Effect.sync(() => socket.destroy()))
  )

/**
 * Dials, until `ready` is emitted. Unlike `NodeSocket.makeNet` and `makeTls` it sets the options of the socket for TLS, too;
 * tells a failure of TLS (`SocketUpgradeError`) from one of the
 * connection below it (`SocketOpenError`); and does not keep a socket, and with it the process, for a peer that does not
 * read.
 */
const dial = <S extends NetSocket>(
  connect: () => S,
  ready: "connect" | "secureConnect",
  { keepAlive, keepAliveInitialDelay, noDelay }: ResolvedSocketOptions
): Effect.Effect<S, Socket.SocketError, Scope.Scope> =>
  Effect.acquireRelease(
    // OpenSSL reads certificates and keys here, and throws.
    Effect.try({
      try: () => connect().setNoDelay(noDelay).setKeepAlive(keepAlive, keepAliveInitialDelay),
      catch: (cause) => new Socket.SocketError({ reason: new Socket.SocketUpgradeError({ cause }) })
    }),
    hangUp
  ).pipe(Effect.flatMap((socket) =>
    Effect.callback<S, Socket.SocketError>((resume) => {
      let connected = false
      socket.once("connect", () => {
        connected = true
      })
      socket.once(ready, () => resume(Effect.succeed(socket)))
      // Stays for the life of the socket: an error that nobody listens to would end the process.
      socket.on("error", (cause) => {
        const reason = connected && !isGone(cause)
          ? new Socket.SocketUpgradeError({ cause })
          : new Socket.SocketOpenError({ kind: "Unknown", cause })
        resume(Effect.fail(new Socket.SocketError({ reason })))
      })
    })
  ))

/** What is received goes into slabs of this size, read after read; one is let go with the last view of it. */
const leastSlab = 64 * 1024

/** Slabs are up to this size where reads are large: fewer turns, and fewer bodies of some KiB that lie across two. */
const mostSlab = 256 * 1024

/** With less room than this the next read begins a new slab. */
const leastRead = 16 * 1024

/**
 * The read side of a TCP socket, below Node's stream: no buffer of 64 KiB for each read, and no copy where several have
 * gathered. Consuming and confirms cost a tenth less for it. Pieces of a large body are all read into the same memory. The
 * socket is read while somebody waits for what it brings.
 */
class Inbox {
  /** Where the next read goes. */
  private room: Uint8Array = Buffer.allocUnsafeSlow(leastSlab)
  /** Of the next slab: four reads like the last one. */
  private slabSize = leastSlab
  /** What came while nobody waited. */
  private chunk: Uint8Array | undefined
  private waiter:
    | ((effect: Effect.Effect<Arr.NonEmptyReadonlyArray<Uint8Array>, Socket.SocketError>) => void)
    | undefined
  private error: Socket.SocketError | undefined
  private socket: NetSocket | undefined
  private stopped = false

  readonly onread: OnReadOpts = {
    // Asked for after each callback.
    buffer: () => {
      if (this.room.length < leastRead) this.room = Buffer.allocUnsafeSlow(this.slabSize)
      return this.room
    },
    callback: (size, bytes) => {
      this.chunk = bytes.subarray(0, size)
      this.room = bytes.subarray(size)
      this.slabSize = Math.max(leastSlab, Math.min(4 * size, mostSlab))
      this.drain()
      // Whoever was served may wait for more already.
      this.stopped = this.waiter === undefined
      return !this.stopped
    }
  }

  /**
   * The chunk before the room becomes part of it again, if that is enough for the reads there are. It changes nothing
   * where the system has the room already.
   */
  readonly reuse = (chunk: Uint8Array): void => {
    const { room } = this
    const size = chunk.length + room.length
    if (
      size >= this.slabSize && chunk.buffer === room.buffer && chunk.byteOffset + chunk.length === room.byteOffset
    ) this.room = new Uint8Array(chunk.buffer, chunk.byteOffset, size)
  }

  /** Listens to the end of the socket that was made with `onread`. */
  attach(socket: NetSocket): void {
    const end = (reason: Socket.SocketErrorReason): void => {
      this.error ??= new Socket.SocketError({ reason })
      this.drain()
    }
    this.socket = socket
    socket.on("end", () => end(new Socket.SocketCloseError({ code: 1000 })))
    socket.on("error", (cause) => end(new Socket.SocketReadError({ cause })))
    socket.on("close", (hadError) => end(new Socket.SocketCloseError({ code: hadError ? 1006 : 1000 })))
  }

  private drain(): void {
    const { chunk, error, waiter } = this
    if (waiter === undefined) return
    if (chunk !== undefined) {
      this.chunk = undefined
      this.waiter = undefined
      waiter(Effect.succeed([chunk]))
    } else if (error !== undefined) {
      this.waiter = undefined
      waiter(Effect.fail(error))
    }
  }

  readonly pull = Effect.callback<Arr.NonEmptyReadonlyArray<Uint8Array>, Socket.SocketError>((resume) => {
    this.waiter = resume
    this.drain()
    if (this.waiter !== resume) return
    if (this.stopped) {
      this.stopped = false
      this.socket?.resume()
    }
    return Effect.sync(() => {
      if (this.waiter === resume) this.waiter = undefined
    })
  })
}

/** The clock of the machine: the pace of reads, of which no program can tell, goes on where a test has stopped its own. */
const machineClock = Clock.Clock.defaultValue()

/** Gathers what comes in many small reads. */
const paced = (socket: TransportSocket, interval: Duration.Duration): TransportSocket => {
  if (Duration.isZero(interval)) return socket
  const rest = machineClock.sleep(interval)
  const pacedReader = (reader: Socket.Reader): Socket.Reader => {
    const pacing = new ReadPacing(Duration.toMillis(interval))
    let waits = false
    const read = Effect.map(reader.pull, (chunks) => {
      waits = pacing.afterRead(chunks.reduce((size, { length }) => size + length, 0), performance.now())
      return chunks
    })
    return { ...reader, pull: Effect.suspend(() => waits ? Effect.andThen(rest, read) : read) }
  }
  return { ...socket, reader: Effect.map(socket.reader, pacedReader) }
}

/** Waits until a socket takes more, or is closed, of which its read side tells. */
const drained = (socket: NetSocket): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const off = (): void => void socket.off("drain", done).off("close", done)
    const done = (): void => {
      off()
      resume(Effect.void)
    }
    socket.on("drain", done).on("close", done)
    return Effect.sync(off)
  })

const writerOf = (socket: NetSocket): Socket.Writer => {
  const writeAll: Socket.Writer["writeAll"] = (chunks) =>
    Effect.suspend(() => {
      if (chunks.length > 1) socket.cork()
      for (const chunk of chunks) socket.write(chunk)
      if (chunks.length > 1) socket.uncork()
      return socket.writableNeedDrain ? drained(socket) : Effect.void
    })
  return {
    writeAll,
    write: (chunk) => Socket.isCloseEvent(chunk) ? Effect.sync(() => socket.destroy()) : writeAll([chunk])
  }
}

/**
 * A socket that is read through an `Inbox`. Not one of `NodeSocket`, whose read side would only stand by: connecting
 * costs 5 % less.
 */
const tcpSocket = ({ host, port }: Endpoint, options: ResolvedSocketOptions): TransportSocket => {
  const inbox = new Inbox()
  const dialed = Deferred.makeUnsafe<NetSocket>()
  const connect = () => connectTcp({ ...options.connect, host, port, onread: inbox.onread })
  const made = Socket.make({
    reader: Effect.map(dial(connect, "connect", options), (socket) => {
      inbox.attach(socket)
      Deferred.doneUnsafe(dialed, Effect.succeed(socket))
      return { pull: inbox.pull, upgrade: Socket.SocketUpgradeError.unsupported }
    }),
    writer: Effect.map(Deferred.await(dialed), writerOf)
  })
  return { ...made, reuse: inbox.reuse }
}

const tlsSocket = (
  endpoint: Endpoint,
  tls: TlsOptions,
  options: ResolvedSocketOptions
): Effect.Effect<TransportSocket, AmqpConnectionError> =>
  Effect.flatMap(
    tlsOptions(endpoint, tls, options),
    (connect) => NodeSocket.fromDuplex(dial(() => connectTls(connect), "secureConnect", options))
  )

const transport = (options: ResolvedSocketOptions): AmqpTransport => ({
  connect: (endpoint, { readInterval } = { readInterval: Duration.zero }) =>
    Effect.map(
      endpoint.tls === undefined
        ? Effect.sync(() => tcpSocket(endpoint, options))
        : tlsSocket(endpoint, endpoint.tls, options),
      (socket) => paced(socket, readInterval)
    )
})

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
  /** Of the TCP socket: keepalive, Nagle's algorithm, the address to connect from, and so on. */
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

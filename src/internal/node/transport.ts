/**
 * TCP and TLS as an `AmqpTransport`.
 *
 * @since 0.1.0
 */
/// <reference types="node" />
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Socket from "effect/socket/Socket"
import { connect as connectTcp, type Socket as NetSocket } from "node:net"
import { connect as connectTls } from "node:tls"
import type { AmqpTransport, Endpoint, TlsOptions, TransportSocket } from "../connection/transport.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import { dial } from "./dial.ts"
import { Inbox } from "./inbox.ts"
import { ReadPacing } from "./readPacing.ts"
import type { ResolvedSocketOptions } from "./socketOptions.ts"
import { tlsOptions } from "./tls.ts"

/** The clock of the machine. Reads keep their pace also where a test has stopped its own clock. */
const machineClock = Clock.Clock.defaultValue()

/** Waits between small reads, so that their bytes gather. */
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

/** Waits until a socket takes more or is closed. The read side reports the close. */
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
 * A socket that is read through an `Inbox`. `NodeSocket` would add a read side that is not used: without it connecting
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

export const transport = (options: ResolvedSocketOptions): AmqpTransport => ({
  connect: (endpoint, { readInterval } = { readInterval: Duration.zero }) =>
    Effect.map(
      endpoint.tls === undefined
        ? Effect.sync(() => tcpSocket(endpoint, options))
        : tlsSocket(endpoint, endpoint.tls, options),
      (socket) => paced(socket, readInterval)
    )
})

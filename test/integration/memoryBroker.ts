/**
 * A broker without a network, which answers in the same turn: for tests under `TestClock`, and for orders of frames that
 * RabbitMQ does not send.
 */
import { Cause, Effect, Queue, Result } from "effect"
import { Socket } from "effect/socket"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import { AmqpTransport } from "../../src/AmqpTransport.ts"

/** What a broker in memory answers to a method, on the same channel. */
export type Script = { readonly [Name in AmqpProtocol.MethodName]?: () => ReadonlyArray<AmqpProtocol.Method> }

/** One connection to a broker in memory. */
export interface MemoryBroker {
  readonly transport: AmqpTransport
  /** What the client has sent, without the protocol header. */
  readonly received: ReadonlyArray<AmqpProtocol.Frame>
  readonly send: (...methods: ReadonlyArray<AmqpProtocol.Method>) => void
  readonly sendHeartbeat: () => void
  /** Drops the connection, as a reset does. */
  readonly lose: () => void
  /** Whether the client has let go of the socket. */
  readonly isClosed: () => boolean
}

const noText = new Uint8Array(0)

const lost = new Socket.SocketError({ reason: new Socket.SocketCloseError({ code: 1006 }) })

/** The least that opens and closes a connection and its channels. */
const opening = (tune: Omit<AmqpProtocol.ConnectionTune, "_tag">): Script => ({
  "connection.start-ok": () => [{ _tag: "connection.tune", ...tune }],
  "connection.open": () => [{ _tag: "connection.open-ok" }],
  "connection.close": () => [{ _tag: "connection.close-ok" }],
  "channel.open": () => [{ _tag: "channel.open-ok" }],
  "channel.close": () => [{ _tag: "channel.close-ok" }]
})

/**
 * A broker that answers in the same turn, for tests under `TestClock`. It takes any credentials; `script` says what else
 * it does, or does otherwise.
 */
export const memoryBroker = (
  options: {
    readonly serverProperties?: AmqpProtocol.ConnectionStart["serverProperties"]
    readonly tune?: Partial<Omit<AmqpProtocol.ConnectionTune, "_tag">>
    readonly script?: Script
  } = {}
): MemoryBroker => {
  const down = Effect.runSync(Queue.unbounded<Uint8Array, Socket.SocketError>())
  const received: Array<AmqpProtocol.Frame> = []
  const script = { ...opening({ channelMax: 0, frameMax: 0, heartbeat: 0, ...options.tune }), ...options.script }
  const parser = AmqpProtocol.makeParser()
  let header = AmqpProtocol.protocolHeader.length
  let isClosed = false

  const send = (channel: number, methods: ReadonlyArray<AmqpProtocol.Method>): void => {
    // In one chunk, as a broker that answers several at once may send them.
    const frames = methods.flatMap((method) => [...Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method))])
    if (frames.length > 0) Queue.offerUnsafe(down, Uint8Array.from(frames))
  }
  const receive = (bytes: Uint8Array): void => {
    const skipped = Math.min(header, bytes.length)
    header -= skipped
    if (skipped > 0 && header === 0) {
      send(0, [{
        _tag: "connection.start",
        versionMajor: 0,
        versionMinor: 9,
        serverProperties: options.serverProperties ?? {},
        mechanisms: new TextEncoder().encode("PLAIN"),
        locales: noText
      }])
    }
    for (const frame of Result.getOrThrow(parser.push(bytes.slice(skipped)))) {
      received.push(frame)
      if (frame._tag === "Method") send(frame.channel, script[frame.method._tag]?.() ?? [])
    }
  }
  const writeAll = (chunks: ReadonlyArray<Uint8Array | string>) =>
    Effect.sync(() =>
      chunks.forEach((chunk) => receive(typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk))
    )
  const socket = Socket.make({
    reader: Effect.acquireRelease(
      Effect.succeed({ pull: Queue.takeAll(down), upgrade: Socket.SocketUpgradeError.unsupported }),
      () =>
        Effect.sync(() => {
          isClosed = true
        })
    ),
    writer: Effect.succeed({
      write: (chunk) => Socket.isCloseEvent(chunk) ? Effect.void : writeAll([chunk]),
      writeAll
    })
  })
  return {
    transport: AmqpTransport.of({ connect: () => Effect.succeed(socket) }),
    received,
    send: (...methods) => send(0, methods),
    sendHeartbeat: () => void Queue.offerUnsafe(down, AmqpProtocol.heartbeatFrame),
    lose: () => void Queue.failCauseUnsafe(down, Cause.fail(lost)),
    isClosed: () => isClosed
  }
}

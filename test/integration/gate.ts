/**
 * TCP with a gate in front of the client: what the broker sends can be kept back and then handed over as one batch, so
 * that a test is exactly between an answer's arrival and its effect, or has several answers take effect in one turn.
 */
import { type Array as Arr, Effect, Latch, Redacted, Result, type Scope } from "effect"
import { Socket } from "effect/socket"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import { AmqpTransport } from "../../src/AmqpTransport.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import { uniqueName, Vhost } from "../harness/shared.ts"
import { noReconnect } from "./support.ts"

type Pull = Effect.Effect<Arr.NonEmptyReadonlyArray<Uint8Array>, Socket.SocketError>

/** What a broker sends to one connection. */
export class Gate {
  /** Whether the client asks for bytes at present; while it does not, the broker's writes back up. */
  isReading = false
  private isHeld = false
  private readonly latch = Latch.makeUnsafe(true)
  private readonly parser = AmqpProtocol.makeParser()
  private readonly counts = new Map<string, number>()
  private waiting: Array<() => void> = []

  /** Keeps back whatever arrives from now on. */
  readonly hold = Effect.sync(() => {
    this.isHeld = true
    this.latch.closeUnsafe()
  })

  /** Hands over what was kept, as one batch, and lets everything pass again. */
  readonly release = Effect.sync(() => {
    this.isHeld = false
    this.latch.openUnsafe()
  })

  /** How many methods of this name have arrived since the connection began, handed over or kept. */
  count(name: AmqpProtocol.MethodName): number {
    return this.counts.get(name) ?? 0
  }

  /** Waits until so many methods of this name have arrived. */
  arrived(name: AmqpProtocol.MethodName, count = 1): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const look = () => {
        if (this.count(name) >= count) resume(Effect.void)
        else this.waiting.push(look)
      }
      look()
    })
  }

  /** A socket's pull behind this gate. */
  pull(pull: Pull): Pull {
    const more = Effect.raceFirst(pull, Effect.as(this.latch.await, []))
    return Effect.gen({ self: this }, function*() {
      this.isReading = true
      const chunks: Arr.NonEmptyArray<Uint8Array> = [...yield* pull]
      this.record(chunks)
      while (this.isHeld) {
        const arrived = yield* more
        chunks.push(...arrived)
        this.record(arrived)
      }
      this.isReading = false
      return chunks
    })
  }

  /** Whoever waits for what has arrived goes on inside. */
  private record(chunks: ReadonlyArray<Uint8Array>): void {
    for (const chunk of chunks) {
      for (const frame of Result.getOrThrow(this.parser.push(chunk))) {
        if (frame._tag !== "Method") continue
        const { _tag } = frame.method
        this.counts.set(_tag, this.count(_tag) + 1)
      }
    }
    const { waiting } = this
    this.waiting = []
    // Each waits again if it has to.
    for (const look of waiting) look()
  }
}

/** A connection to the test's vhost behind a gate, which is open at first; it is over at its first loss. */
export const gated = (
  options: AmqpConnection.Options = {}
): Effect.Effect<
  { readonly connection: AmqpConnection.AmqpConnection; readonly gate: Gate },
  AmqpConnection.ConnectError,
  Vhost | Scope.Scope
> =>
  Effect.gen(function*() {
    const gate = new Gate()
    const { connect } = yield* Effect.provide(AmqpTransport, NodeAmqp.layerTransport)
    const behind = (socket: Socket.Socket) =>
      Socket.make({
        reader: Effect.map(Socket.readerBytes(socket), (pull) => ({
          pull: gate.pull(pull),
          upgrade: Socket.SocketUpgradeError.unsupported
        })),
        writer: socket.writer
      })
    const url = Redacted.make((yield* Vhost).amqpUrl)
    const connection = yield* AmqpConnection.make({
      url,
      connectionName: uniqueName("test"),
      reconnect: noReconnect,
      ...options
    }).pipe(
      Effect.provideService(AmqpTransport, { connect: (endpoint) => Effect.map(connect(endpoint), behind) })
    )
    return { connection, gate }
  })

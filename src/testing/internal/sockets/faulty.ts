/**
 * A socket with a faulty link in it: the fibers that read and write the real one, and what either side is told of the
 * end of the other.
 *
 * The real socket has a scope of its own. It outlives the client where the broker does not learn that the client has
 * hung up, like the broker's half of a dead connection.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import type { Shape } from "../faults/conditions.ts"
import type { Direction } from "../faults/faults.ts"
import { FaultyLink, type LinkHost } from "../faults/link.ts"
import { LinkPipe } from "./pipe.ts"

const systemError = (call: string, code: string): Error => Object.assign(new Error(`${call} ${code}`), { code })

const refusedError = (): Socket.SocketError =>
  new Socket.SocketError({
    reason: new Socket.SocketOpenError({ kind: "Unknown", cause: systemError("connect", "ECONNREFUSED") })
  })

const resetError = (): Socket.SocketError =>
  new Socket.SocketError({ reason: new Socket.SocketReadError({ cause: systemError("read", "ECONNRESET") }) })

const closeError = (code: 1000 | 1006): Socket.SocketError =>
  new Socket.SocketError({ reason: new Socket.SocketCloseError({ code }) })

/** Nobody listens there. */
export const refusedSocket: Socket.Socket = Socket.make({
  reader: Effect.suspend(() => Effect.fail(refusedError())),
  writer: Effect.succeed({ write: () => Effect.never, writeAll: () => Effect.never })
})

/** What all connections have in common. */
export interface Hub extends Pick<LinkHost, "arms" | "isTapped"> {
  readonly scope: Scope.Scope
  /** In milliseconds since 1970. */
  readonly now: () => number
  readonly sleep: (duration: Duration.Duration) => Effect.Effect<void>
  readonly fork: (effect: Effect.Effect<unknown>) => void
  /** Changes something, and does what follows from it when all changes are done. */
  readonly transact: (change: () => void, then: () => void) => void
  readonly shape: (link: FaultyLink, direction: Direction) => Shape
  readonly tap: (link: FaultyLink, ...frame: Parameters<LinkHost["tap"]>) => void
  /** Gives the number of a connection. */
  readonly nextId: () => number
  readonly opened: (connection: FaultyConnection) => void
  readonly closed: (connection: FaultyConnection) => void
}

const encoder = new TextEncoder()

/** A connection through faults. */
export class FaultyConnection {
  readonly link: FaultyLink
  readonly endpoint: string
  readonly up: LinkPipe
  readonly down: LinkPipe
  private readonly hub: Hub
  private readonly scope: Scope.Closeable
  private readonly writer: Socket.Writer
  /** The client has let go of its socket. */
  private isLeft = false
  private brokerEnd: Socket.SocketError | undefined

  constructor(hub: Hub, endpoint: string, scope: Scope.Closeable, writer: Socket.Writer) {
    const reset = (): void => this.transact(() => this.reset())
    const link = new FaultyLink(hub.nextId(), {
      arms: hub.arms,
      isTapped: hub.isTapped,
      send: (direction, item) => this[direction].push(item),
      later: (millis, run) =>
        hub.fork(Effect.forkIn(
          Effect.andThen(hub.sleep(Duration.millis(millis)), Effect.sync(() => this.transact(run))),
          scope
        )),
      reset: () => this.reset(),
      leaveBroker: () => this.dispose(),
      tap: (...frame) => hub.tap(link, ...frame)
    })
    this.hub = hub
    this.endpoint = endpoint
    this.scope = scope
    this.writer = writer
    this.link = link
    this.up = new LinkPipe({
      ...hub,
      shape: () => hub.shape(link, "up"),
      onReset: reset,
      onEnd: () => {
        this.dispose()
        return closeError(1000)
      }
    })
    this.down = new LinkPipe({
      ...hub,
      shape: () => hub.shape(link, "down"),
      onReset: reset,
      onEnd: () => this.brokerEnd ?? closeError(1000)
    })
  }

  /** Changes the link, then wakes whoever can go on. */
  transact(change: () => void): void {
    this.hub.transact(change, () => {
      this.up.notify()
      this.down.notify()
    })
  }

  /** A condition is over. */
  lifted(): void {
    this.up.release()
    this.down.release()
    // The client hung up while nothing passed.
    if (this.isLeft && !this.link.up.isDark) this.dispose()
  }

  /** Reads what the broker sends, as far as the client wants it. */
  reading(pull: Effect.Effect<ReadonlyArray<Uint8Array>, Socket.SocketError>): Effect.Effect<void> {
    const isOfNoInterest = (): boolean => this.isLeft || this.link.isBrokerForgotten
    const step = Effect.flatMap(this.down.wanted(isOfNoInterest), () => pull).pipe(
      Effect.map((chunks) =>
        this.transact(() => {
          for (const chunk of chunks) this.link.down.push(chunk)
        })
      )
    )
    return Effect.forever(step, { disableYield: true }).pipe(
      Effect.catch((error) =>
        Effect.sync(() => {
          if (this.isLeft) return this.dispose()
          if (this.link.isBrokerForgotten) return
          this.brokerEnd = error
          this.transact(() => this.link.down.insert({ _tag: "End" }))
        })
      ),
      // A predicate of a fault may throw. Then nothing would pass any more, and nobody would be told.
      Effect.catchDefect((cause) =>
        Effect.sync(() => {
          this.transact(() => {
            this.down.fail(new Socket.SocketError({ reason: new Socket.SocketReadError({ cause }) }))
            this.dispose()
          })
        })
      )
    )
  }

  /** Writes to the broker what has passed. */
  get writing(): Effect.Effect<void> {
    const step = Effect.flatMap(this.up.take, (chunks) => this.writer.writeAll(chunks)).pipe(
      Effect.map(() => this.up.passed())
    )
    return Effect.forever(step, { disableYield: true }).pipe(
      Effect.catch((error) =>
        Effect.sync(() => {
          this.transact(() => this.link.isEnding ? this.up.discard() : this.up.fail(error))
          if (this.isLeft) this.dispose()
        })
      )
    )
  }

  /** What the client writes. */
  write(chunks: ReadonlyArray<Uint8Array | string>): Effect.Effect<void, Socket.SocketError> {
    return Effect.suspend(() => {
      this.transact(() => {
        for (const chunk of chunks) this.link.up.push(typeof chunk === "string" ? encoder.encode(chunk) : chunk)
      })
      return this.up.accepted
    })
  }

  /** The client drops the connection. */
  drop(event: Socket.CloseEvent): Effect.Effect<void, Socket.SocketError> {
    return Effect.suspend(() =>
      this.link.up.isDark || this.scope.state._tag === "Closed" ? Effect.void : this.writer.write(event)
    )
  }

  /** The client lets go of its socket. */
  readonly leave: Effect.Effect<void> = Effect.suspend(() => {
    this.isLeft = true
    this.transact(() => this.down.fail(closeError(1006)))
    if (this.link.up.isDark) return Effect.void
    if (this.link.up.isDead || !this.up.isHeldBack) return Scope.close(this.scope, Exit.void)
    this.transact(() => this.link.up.insert({ _tag: "End" }))
    return Effect.void
  })

  /** The real socket is closed. */
  gone(): void {
    this.hub.closed(this)
    this.transact(() => {
      // The client still answers what it was told.
      if (this.link.isEnding) return this.up.discard()
      this.up.fail(closeError(1006))
      this.down.fail(closeError(1006))
    })
  }

  private reset(): void {
    this.up.fail(resetError())
    this.down.fail(resetError())
    this.dispose()
  }

  /** Lets go of the real socket. */
  private dispose(): void {
    this.hub.fork(Effect.uninterruptible(Scope.close(this.scope, Exit.void)))
  }
}

/** A socket whose connections go through faults. */
export const faultySocket = (inner: Socket.Socket, endpoint: string, hub: Hub): Socket.Socket => {
  const dialled = Deferred.makeUnsafe<FaultyConnection>()
  const reader = Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const scope = yield* Scope.fork(hub.scope)
      const dial = Effect.gen(function*() {
        const pull = yield* Socket.readerBytes(inner)
        return { pull, writer: yield* inner.writer }
      })
      const { pull, writer } = yield* restore(Scope.provide(dial, scope)).pipe(
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )
      const connection = new FaultyConnection(hub, endpoint, scope, writer)
      yield* Scope.addFinalizer(scope, Effect.sync(() => connection.gone()))
      hub.opened(connection)
      yield* Effect.addFinalizer(() => connection.leave)
      yield* Effect.forkIn(Effect.interruptible(connection.writing), scope, { startImmediately: true })
      yield* Effect.forkIn(Effect.interruptible(connection.reading(pull)), scope, { startImmediately: true })
      Deferred.doneUnsafe(dialled, Effect.succeed(connection))
      return { pull: connection.down.take, upgrade: Socket.SocketUpgradeError.unsupported }
    })
  )
  const whenDialled = (use: (connection: FaultyConnection) => Effect.Effect<void, Socket.SocketError>) =>
    Effect.flatMap(Deferred.await(dialled), use)
  const writer: Socket.Writer = {
    write: (chunk) =>
      whenDialled((connection) => Socket.isCloseEvent(chunk) ? connection.drop(chunk) : connection.write([chunk])),
    writeAll: (chunks) => whenDialled((connection) => connection.write(chunks))
  }
  return Socket.make({ reader, writer: Effect.succeed(writer) })
}

/**
 * Runs one session over one socket: the fibers that read, write and keep the heartbeat, under the Clock.
 *
 * One session, one socket, one scope. The socket is not used before its handshake nor after its end, so no byte of one
 * epoch can reach the next. Reconnecting is not here.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import { AmqpConnectionError, ConnectFailed, HandshakeTimeout } from "../AmqpError.ts"
import { AmqpTransport, type Endpoint, formatEndpoint, lostError, openError } from "../AmqpTransport.ts"
import type { HandshakeOptions, Negotiated } from "./handshake.ts"
import { Session, type SessionHooks } from "./session.ts"

/** What a connection attempt needs to know. */
export interface ShellOptions extends HandshakeOptions {
  readonly epoch: number
  readonly endpoint: Endpoint
  readonly maxMessageSize: number
  readonly connectTimeout: Duration.Duration
  readonly handshakeTimeout: Duration.Duration
  readonly closeTimeout: Duration.Duration
  /** Shortest time between two reads of an open connection. */
  readonly readInterval: Duration.Duration
  readonly onBlocked: SessionHooks["onBlocked"]
  readonly onUnblocked: SessionHooks["onUnblocked"]
}

/** An open connection of one epoch. */
export interface OpenSession {
  readonly session: Session
  readonly endpoint: Endpoint
  readonly negotiated: Negotiated
  /** The end of the connection, however it comes; the socket is then closed. */
  readonly ended: Effect.Effect<AmqpConnectionError>
  /** Closes in good order, bounded by `closeTimeout`; returns when the socket is closed. */
  readonly close: Effect.Effect<void>
}

const writeAll = (session: Session, writer: Socket.Writer): Effect.Effect<void, Socket.SocketError> => {
  const { outbox } = session
  let done = false
  const ready = Effect.callback<void>((resume) => {
    outbox.onReady(() => resume(Effect.void))
    return Effect.sync(() => outbox.offReady())
  })
  return Effect.whileLoop({
    while: () => !done,
    body: () => {
      const chunks = outbox.take()
      if (chunks === undefined || !Arr.isReadonlyArrayNonEmpty(chunks)) {
        done = outbox.isEnded
        return done ? Effect.void : ready
      }
      session.onWritten()
      return Effect.map(writer.writeAll(chunks), () => outbox.written())
    },
    step: () => {}
  })
}

/** Bytes of a read after which the next one need not wait: there is more, and enough has gathered. */
const enough = 16 * 1024

const sizeOf = (chunks: ReadonlyArray<Uint8Array>): number => chunks.reduce((size, { length }) => size + length, 0)

const readAll = (
  session: Session,
  pull: Effect.Effect<Arr.NonEmptyReadonlyArray<Uint8Array>, Socket.SocketError>,
  interval: Duration.Duration
): Effect.Effect<never, Socket.SocketError> => {
  const rest = Duration.isZero(interval) ? Effect.void : Effect.sleep(interval)
  const resumed = Effect.callback<void>((resume) => session.onResume(() => resume(Effect.void)))
  return Effect.forever(
    Effect.flatMap(pull, (chunks) => {
      session.receive(chunks)
      if (session.isPaused) return resumed
      return session.isOpen && sizeOf(chunks) < enough ? rest : Effect.void
    }),
    { disableYield: true }
  )
}

const beat = (session: Session, seconds: number): Effect.Effect<void> =>
  Effect.gen(function*() {
    while (session.error === undefined) {
      yield* Effect.sleep(Duration.millis(seconds * 500))
      if (!session.tick()) continue
      // The timer may be ahead of bytes that have arrived: one turn of the event loop reads them.
      yield* Effect.yieldNow
      if (session.isSilent) session.onHeartbeatTimeout()
    }
  })

const isLost = ({ reason }: AmqpConnectionError): boolean =>
  reason._tag === "ConnectionLost" || reason._tag === "HeartbeatTimeout"

/** Connects, and opens a session. The scope that is given ends it in good order. */
export const open = (
  options: ShellOptions
): Effect.Effect<OpenSession, AmqpConnectionError, AmqpTransport | Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const { closeTimeout, connectTimeout, endpoint, handshakeTimeout, readInterval } = options
      const scope = yield* Scope.fork(yield* Effect.scope)
      const ended = Deferred.makeUnsafe<AmqpConnectionError>()
      const opened = Deferred.makeUnsafe<Negotiated, AmqpConnectionError>()

      const session = new Session({
        ...options,
        schedule: queueMicrotask,
        hooks: {
          onOpen: (negotiated) => void Deferred.doneUnsafe(opened, Effect.succeed(negotiated)),
          onBlocked: options.onBlocked,
          onUnblocked: options.onUnblocked,
          onEnd: (error) => {
            Deferred.doneUnsafe(opened, Effect.fail(error))
            Deferred.doneUnsafe(over, Effect.succeed(error))
          }
        }
      })
      const over = Deferred.makeUnsafe<AmqpConnectionError>()

      const transport = yield* AmqpTransport
      const dial = Effect.gen(function*() {
        const socket = yield* transport.connect(endpoint)
        const pull = yield* Effect.mapError(Socket.readerBytes(socket), (error) => openError(error, endpoint))
        return { pull, writer: yield* socket.writer }
      }).pipe(
        Effect.timeoutOrElse({
          duration: connectTimeout,
          orElse: () =>
            Effect.fail(
              new AmqpConnectionError({
                reason: new ConnectFailed({
                  endpoint: formatEndpoint(endpoint),
                  code: "",
                  detail: `no connection after ${Duration.toMillis(connectTimeout)} ms`
                })
              })
            )
        })
      )
      const { pull, writer } = yield* restore(Scope.provide(dial, scope)).pipe(
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )

      const endedBySocket = Effect.catch((error: Socket.SocketError) =>
        Effect.sync(() => session.onSocketEnd(lostError(error, endpoint, session.phase)))
      )
      // A fault of this library must not leave behind a connection that nobody reads or writes.
      const endedByDefect = Effect.catchDefect((defect) =>
        Effect.sync(() => session.onSocketEnd(session.lost(`this client failed: ${String(defect)}`)))
      )
      const writing = yield* writeAll(session, writer).pipe(endedBySocket, endedByDefect, Effect.forkIn(scope))
      yield* readAll(session, pull, readInterval).pipe(endedBySocket, endedByDefect, Effect.forkIn(scope))
      session.start()

      // Whatever ends the session: let its last words out, then close the socket.
      yield* Deferred.await(over).pipe(
        Effect.flatMap((error) =>
          // A socket that is gone or dead takes no last words.
          (isLost(error) ? Effect.void : Effect.timeoutOption(Fiber.await(writing), closeTimeout)).pipe(
            Effect.andThen(Scope.close(scope, Exit.void)),
            Effect.andThen(Deferred.succeed(ended, error))
          )
        ),
        Effect.forkDetach({ startImmediately: true })
      )
      // A broker that does not answer in time is left, whoever still waits for the close. The socket goes with what it
      // has not sent: its peer may not read either.
      const leave = Effect.sleep(closeTimeout).pipe(
        Effect.andThen(Effect.sync(() => {
          session.onSocketEnd(session.lost("the broker did not answer connection.close"))
        })),
        Effect.andThen(Effect.ignore(writer.write(new Socket.CloseEvent(1000))))
      )
      const close = Effect.uninterruptibleMask((restore) =>
        Effect.gen(function*() {
          if (session.isOpen) {
            session.close()
            yield* Effect.forkIn(leave, scope)
          }
          yield* restore(Deferred.await(ended))
        })
      )
      const handshake = Effect.timeoutOrElse(Deferred.await(opened), {
        duration: handshakeTimeout,
        orElse: () =>
          Effect.fail(
            new AmqpConnectionError({
              reason: new HandshakeTimeout({
                step: session.phase,
                timeoutMillis: Duration.toMillis(handshakeTimeout)
              })
            })
          )
      })
      // A race is only interrupted as a whole where it stands in an interruptible region as a whole.
      const negotiated = yield* restore(handshake).pipe(
        // Before open-ok there is no close to be negotiated.
        Effect.onError(() => {
          session.onSocketEnd(session.lost("the attempt was given up"))
          return Deferred.await(ended)
        })
      )
      if (negotiated.limits.heartbeat > 0) {
        yield* Effect.forkIn(beat(session, negotiated.limits.heartbeat), scope)
      }
      yield* Effect.addFinalizer(() => close)
      return { session, endpoint, negotiated, ended: Deferred.await(ended), close }
    })
  )

/**
 * Runs one session over one socket: the fibers that read, write and keep the heartbeat, under the Clock.
 *
 * One session has one socket and one scope. A socket is never used for a second session, so no byte of one epoch can
 * reach the next. Reconnecting is not here.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import { confirmsIdle } from "../channel/requests.ts"
import type { HandshakeOptions, Negotiated } from "../engine/handshake.ts"
import { Session } from "../engine/session.ts"
import { ConnectFailed, HandshakeTimeout } from "../errors/clientReasons.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import type { Ending } from "../time/ending.ts"
import {
  AmqpTransport,
  type Endpoint,
  formatEndpoint,
  isHangUp,
  lostError,
  openError,
  type TransportOptions,
  type TransportSocket
} from "./transport.ts"

/** What a connection attempt needs to know. */
export interface ShellOptions extends HandshakeOptions, TransportOptions {
  readonly nextEpoch: () => number
  readonly endpoint: Endpoint
  readonly maxMessageSize: number
  readonly connectTimeout: Duration.Duration
  readonly handshakeTimeout: Duration.Duration
  /** Bounds the end. */
  readonly ending: Ending
  /** The broker has stopped taking content, or takes it again. */
  readonly onBlocking: (session: Session) => void
}

/** An open connection of one epoch. */
export interface OpenSession {
  readonly session: Session
  readonly endpoint: Endpoint
  readonly negotiated: Negotiated
  /** The end of the connection, whatever ends it. The socket is closed by then. */
  readonly ended: Effect.Effect<AmqpConnectionError>
  /**
   * Closes in good order: takes nothing new, waits for confirms, then closes. Bounded by the ending; returns when the
   * socket is closed.
   */
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

/**
 * When consumers have enough, the socket is read only once in this time. Without any read RabbitMQ would close the
 * connection after some 30 s, and messages that it sent without acknowledgement would be lost.
 */
const trickle = "5 seconds"

const readAll = (
  session: Session,
  pull: Effect.Effect<Arr.NonEmptyReadonlyArray<Uint8Array>, Socket.SocketError>,
  reuse: TransportSocket["reuse"]
): Effect.Effect<never, Socket.SocketError> => {
  const resumed = Effect.callback<void>((resume) => session.onResume(() => resume(Effect.void)))
  return Effect.forever(
    Effect.flatMap(pull, (chunks) => {
      session.receive(chunks, reuse)
      if (!session.isPaused) return Effect.void
      return session.isFull ? resumed : Effect.timeoutOption(resumed, trickle)
    }),
    { disableYield: true }
  )
}

const beat = (session: Session, seconds: number): Effect.Effect<void> =>
  Effect.gen(function*() {
    while (session.isOpen) {
      yield* Effect.sleep(Duration.millis(seconds * 500))
      if (!session.tick()) continue
      // The timer may be ahead of bytes that have arrived: one turn of the event loop reads them.
      yield* Effect.yieldNow
      if (session.isSilent) session.onHeartbeatTimeout()
    }
  })

/** Whether it makes no sense to write last frames: the socket is gone, or nobody answers on it. */
const isLost = ({ reason: { _tag } }: AmqpConnectionError): boolean =>
  _tag === "ConnectionLost" || _tag === "HeartbeatTimeout" || _tag === "HandshakeTimeout"

/** Connects, and opens a session. The scope that is given ends it in good order. */
export const open = (
  options: ShellOptions
): Effect.Effect<OpenSession, AmqpConnectionError, AmqpTransport | Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const { connectTimeout, ending, endpoint, handshakeTimeout, readInterval } = options
      const outer = yield* Effect.scope
      const scope = yield* Scope.fork(outer)
      const transport = yield* AmqpTransport
      const runFork = Effect.runForkWith(yield* Effect.context())
      const opened = Deferred.makeUnsafe<Negotiated, AmqpConnectionError>()
      const ended = Deferred.makeUnsafe<AmqpConnectionError>()
      let writer: Socket.Writer | undefined
      let writing: Fiber.Fiber<void> | undefined
      let clock: Fiber.Fiber<void> | undefined

      /** Ends the session for a fault of this library: nobody would read, write or watch it any more. */
      const orEnd = Effect.catchDefect((defect) => Effect.sync(() => session.onDefect(defect)))

      // There is one wait at a time: for the dial, the handshake or the next heartbeat. A race for each would take two
      // fibers.
      const onClock = (effect: Effect.Effect<void>): void => {
        clock?.interruptUnsafe()
        clock = runFork(orEnd(effect))
      }

      // Drops what the socket has not sent: the peer may not be reading either.
      const drop = Effect.suspend(() => Effect.ignore(writer?.write(new Socket.CloseEvent(1000)) ?? Effect.void))

      // Whatever ends the session: let its last words out, then close the socket.
      const finish = (error: AmqpConnectionError): Effect.Effect<void> =>
        Effect.gen(function*() {
          if (writing !== undefined && !isLost(error)) yield* ending.within(Fiber.await(writing))
          // The system may still have something to send.
          const late = runFork(Effect.andThen(isLost(error) ? Effect.void : ending.within(Effect.never), drop))
          yield* Scope.close(scope, Exit.void)
          late.interruptUnsafe()
        }).pipe(
          Effect.ensuring(Effect.sync(() => {
            Deferred.doneUnsafe(ended, Effect.succeed(error))
            Deferred.doneUnsafe(opened, Effect.fail(error))
          }))
        )

      const session = new Session({
        ...options,
        // A browser's function must not be called with another `this`.
        schedule: (run) => queueMicrotask(run),
        hooks: {
          onOpen: (negotiated) => {
            const { heartbeat } = negotiated.limits
            onClock(heartbeat === 0 ? Effect.void : beat(session, heartbeat))
            Deferred.doneUnsafe(opened, Effect.succeed(negotiated))
          },
          onBlocked: () => options.onBlocking(session),
          onUnblocked: () => options.onBlocking(session),
          onEnd: (error) => {
            clock?.interruptUnsafe()
            runFork(finish(error))
          }
        }
      })

      /** Runs at once, until the socket is closed; a failure is the end of the session. */
      const fork = (effect: Effect.Effect<void, AmqpConnectionError | Socket.SocketError>) =>
        effect.pipe(
          Effect.catch((error) =>
            Effect.sync(() => {
              if (!Socket.isSocketError(error)) return session.onSocketEnd(error)
              const lost = lostError(error, endpoint, session.phase)
              if (isHangUp(error) && lost.reason._tag === "ConnectionLost") session.onHangUp(lost)
              else session.onSocketEnd(lost)
            })
          ),
          orEnd,
          Effect.forkIn(scope, { startImmediately: true })
        )

      const deadline = (duration: Duration.Duration, reason: () => AmqpConnectionError["reason"]): void =>
        onClock(Effect.andThen(
          Effect.sleep(duration),
          Effect.sync(() => session.onSocketEnd(new AmqpConnectionError({ reason: reason() })))
        ))

      const connected = Effect.gen(function*() {
        const socket = yield* transport.connect(endpoint, { readInterval })
        const pull = yield* Effect.mapError(Socket.readerBytes(socket), (error) => openError(error, endpoint))
        writer = yield* socket.writer
        deadline(handshakeTimeout, () =>
          new HandshakeTimeout({ step: session.phase, timeoutMillis: Duration.toMillis(handshakeTimeout) }))
        writing = yield* fork(writeAll(session, writer))
        session.start()
        return yield* readAll(session, pull, socket.reuse)
      })
      deadline(connectTimeout, () =>
        new ConnectFailed({
          endpoint: formatEndpoint(endpoint),
          code: "",
          detail: `no connection after ${Duration.toMillis(connectTimeout)} ms`
        }))
      yield* fork(Scope.provide(connected, scope))

      const close = Effect.uninterruptible(Effect.gen(function*() {
        const busy = session.finish()
        if (busy.length > 0) {
          yield* ending.within(Effect.forEach(busy, confirmsIdle, { concurrency: "unbounded", discard: true }))
        }
        session.close()
        const answered = yield* ending.within(Deferred.await(ended))
        if (Option.isSome(answered)) {
          return
        }
        // A broker that does not answer in time is left.
        session.onSocketEnd(session.lost("the broker did not answer connection.close"))
        yield* Deferred.await(ended)
      }))
      const negotiated = yield* restore(Deferred.await(opened)).pipe(
        // Before open-ok there is no close to be negotiated.
        Effect.onError(() => {
          session.onSocketEnd(session.lost("the attempt was given up"))
          return Deferred.await(ended)
        })
      )
      yield* Scope.addFinalizer(outer, close)
      return { session, endpoint, negotiated, ended: Deferred.await(ended), close }
    })
  )

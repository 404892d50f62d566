/**
 * Keeps one session alive: opens the first, replaces each one that is lost under a `Schedule`, and lets those who need
 * an open connection wait for it.
 *
 * Every session is a new epoch with a new number, also one that is lost before it is restored. Before anybody may use
 * it, everything that was registered with `onEpoch` restores its part (topology), in the order of registration.
 * Sessions are not shared between epochs, and nothing of an old one is sent on a new one.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import type { Session } from "../engine/session.ts"
import { ConnectionClosed, ConnectionLost } from "../errors/clientReasons.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import { isTransient } from "../errors/transient.ts"
import type { OpenSession } from "./shell.ts"

/** How reconnecting is going, for those who watch. */
export interface SupervisorHooks {
  /** The next attempt comes after the schedule's delay. `cause` is why the last connection or attempt ended. */
  readonly onReconnecting: (attempt: number, cause: AmqpConnectionError) => void
  /** The session is open and restored. */
  readonly onOpen: (open: OpenSession) => void
  /** There will be no further session. */
  readonly onClosed: (error: AmqpConnectionError) => void
}

/** What a supervisor needs to know. */
export interface SupervisorOptions<R> {
  /** One attempt, at all endpoints. The scope that it gets is the session's. */
  readonly attempt: (nextEpoch: () => number) => Effect.Effect<OpenSession, AmqpConnectionError, R | Scope.Scope>
  readonly reconnect: Schedule.Schedule<unknown, AmqpConnectionError>
  /** Whether the first connection is retried as well, while its failures are transient. */
  readonly retryFirst: boolean
  /** How long `session` waits. */
  readonly waitTimeout: Duration.Duration
  readonly hooks: SupervisorHooks
}

/** A supervised connection. */
export interface Supervisor {
  /** The open session; waits for one, bounded by `waitTimeout`. */
  readonly session: Effect.Effect<OpenSession, AmqpConnectionError>
  /** The open session; waits for one as long as there may be one. */
  readonly nextSession: Effect.Effect<OpenSession, AmqpConnectionError>
  /** Restores something on the present session and on every later one, before anybody may use it. */
  readonly onEpoch: (
    restore: (session: Session) => Effect.Effect<void>
  ) => Effect.Effect<void, AmqpConnectionError, Scope.Scope>
  /**
   * Registers something that `close` ends first, while everything still works. Several end at the same time. Each
   * limits its own time.
   */
  readonly onClosing: (end: Effect.Effect<void>) => Effect.Effect<void, never, Scope.Scope>
  /** Whether there will be no session any more: closed, given up, or lost while it was being closed. */
  readonly isOver: () => boolean
  readonly close: Effect.Effect<void>
  /** The end: closed, or the schedule has given up. */
  readonly closed: Effect.Effect<AmqpConnectionError>
}

/** A session and the scope that it lives in. */
interface Epoch {
  readonly open: OpenSession
  readonly scope: Scope.Closeable
}

/**
 * After an epoch that lasted so long, the schedule begins anew. After a shorter one it goes on, so that no loop spins.
 */
const stable = Duration.seconds(10)

/** The error for a defect of this library, or of what it was given: credentials, endpoints, a schedule. */
export const clientFailed = (defect: unknown): AmqpConnectionError =>
  new AmqpConnectionError({
    reason: new ConnectionLost({ phase: "open", detail: `this client failed: ${String(defect)}` })
  })
/** Whether the broker hung up in answer to what it was told, and said nothing. */
const isUnspoken = ({ reason }: AmqpConnectionError): boolean => "unspoken" in reason && reason.unspoken === true

/**
 * Whether a first connection is tried again after `error`; `before` is the error of the attempt before it. A broker
 * that hangs up without a word refuses the client, or is just stopping. So it is asked once more.
 */
const isWorthAnother = (error: AmqpConnectionError, before: AmqpConnectionError | undefined): boolean =>
  isTransient(error) || (isUnspoken(error) && (before === undefined || !isUnspoken(before)))

const closedByClient = (): AmqpConnectionError => new AmqpConnectionError({ reason: new ConnectionClosed({}) })

/** Opens the first session and supervises it from then on. */
export const make = <R>(
  options: SupervisorOptions<R>
): Effect.Effect<Supervisor, AmqpConnectionError, R | Scope.Scope> =>
  Effect.gen(function*() {
    const { hooks, reconnect, waitTimeout } = options
    // Registered first, so it outlives what follows: closing ends the supervision before it ends a session.
    const scope = yield* Scope.fork(yield* Effect.scope)
    const clock = yield* Clock.Clock
    const closed = Deferred.makeUnsafe<AmqpConnectionError>()
    const restorers = new Set<(session: Session) => Effect.Effect<void>>()
    const endings = new Set<{ readonly end: Effect.Effect<void> }>()
    let epochs = 0
    let current: Epoch | undefined
    let isClosing = false
    /** Why no session is handed out any more. */
    let over: AmqpConnectionError | undefined
    /** The next session. */
    let next = Deferred.makeUnsafe<OpenSession, AmqpConnectionError>()
    let lastError: AmqpConnectionError | undefined

    const openSession = (): OpenSession | undefined =>
      over === undefined && current?.open.session.error === undefined ? current?.open : undefined

    const restored = Effect.gen(function*() {
      const open = yield* options.attempt(() => ++epochs)
      const restoring = Effect.gen(function*() {
        for (const restorer of restorers) yield* restorer(open.session)
      })
      // A loss ends it: there is no session to restore anything on.
      if (restorers.size > 0) yield* Effect.raceFirst(restoring, open.ended)
      return open
    })

    /** One attempt in a scope of its own, with everything restored. */
    const attempt = Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const own = yield* Scope.fork(scope)
        const open = yield* restore(Scope.provide(restored, own)).pipe(
          Effect.onError((cause) => Scope.close(own, Exit.failCause(cause)))
        )
        if (open.session.error !== undefined) {
          yield* Scope.close(own, Exit.void)
          return yield* open.session.error
        }
        current = { open, scope: own }
        hooks.onOpen(open)
        const waiting = next
        next = Deferred.makeUnsafe()
        Deferred.doneUnsafe(waiting, Effect.succeed(open))
        return current
      })
    )

    const steps = Schedule.toStep(reconnect)

    /** Attempts under the schedule, from the failure `error` on. Fails with the last error where the schedule gives up. */
    const reopen = (
      step: Effect.Success<typeof steps>,
      error: AmqpConnectionError,
      isRetried: typeof isWorthAnother = () => true
    ): Effect.Effect<Epoch, AmqpConnectionError, R> =>
      Effect.gen(function*() {
        let cause = error
        let before: AmqpConnectionError | undefined
        for (let number = 1;; number++) {
          lastError = cause
          if (!isRetried(cause, before)) return yield* cause
          before = cause
          const delay = yield* Effect.map(step(clock.currentTimeMillisUnsafe(), cause), ([, delay]) => delay).pipe(
            Pull.catchDone(() => cause)
          )
          hooks.onReconnecting(number, cause)
          yield* Effect.sleep(delay)
          const result = yield* Effect.result(attempt)
          if (result._tag === "Success") return result.success
          cause = result.failure
        }
      })

    const first = options.retryFirst
      ? Effect.catch(attempt, (error) => Effect.flatMap(steps, (step) => reopen(step, error, isWorthAnother)))
      : attempt

    /** Waits for the end of each session and replaces it. */
    const supervise = (begin: Epoch): Effect.Effect<AmqpConnectionError, never, R> =>
      Effect.gen(function*() {
        let { open, scope } = begin
        // Made at the first loss, not for each connection.
        let step: Effect.Success<typeof steps> | undefined
        for (;;) {
          const since = clock.currentTimeMillisUnsafe()
          const error = yield* open.ended
          yield* Scope.close(scope, Exit.void)
          if (clock.currentTimeMillisUnsafe() - since >= Duration.toMillis(stable)) step = undefined
          step ??= yield* steps
          const result = yield* Effect.result(reopen(step, error))
          if (result._tag === "Failure") return result.failure
          ;({ open, scope } = result.success)
        }
      })

    /** No session is handed out from here on. */
    const refuse = (error: AmqpConnectionError): AmqpConnectionError => {
      over ??= error
      Deferred.doneUnsafe(next, Effect.fail(over))
      return over
    }

    const end = (error: AmqpConnectionError): Effect.Effect<void> =>
      Effect.sync(() => {
        if (Deferred.isDoneUnsafe(closed)) return
        lastError = error
        over = error
        // This comes first, so that whoever hears of the end sees it everywhere.
        hooks.onClosed(error)
        Deferred.doneUnsafe(closed, Effect.succeed(error))
        refuse(error)
      })

    const begin = yield* first
    const supervising = yield* supervise(begin).pipe(
      // Nobody else would hear of it.
      Effect.catchDefect((defect) => {
        const error = refuse(clientFailed(defect))
        return Effect.as(current === undefined ? Effect.void : Scope.close(current.scope, Exit.void), error)
      }),
      Effect.flatMap(end),
      Effect.forkIn(scope, { startImmediately: true })
    )

    const shutdown = Effect.gen(function*() {
      yield* Fiber.interrupt(supervising)
      if (openSession() === undefined) refuse(closedByClient())
      yield* Effect.forEach(endings, ({ end }) => Effect.exit(end), { concurrency: "unbounded", discard: true })
      const error = refuse(closedByClient())
      if (current !== undefined) yield* current.open.close
      yield* end(error)
    })
    // It goes on, within its time limit, also if the caller is interrupted.
    const close = Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        if (!isClosing && !Deferred.isDoneUnsafe(closed)) {
          isClosing = true
          yield* Effect.forkDetach(shutdown, { startImmediately: true })
        }
        yield* restore(Deferred.await(closed))
      })
    )
    yield* Effect.addFinalizer(() => close)

    const sessionOr = (
      wait: Effect.Effect<OpenSession, AmqpConnectionError>
    ): Effect.Effect<OpenSession, AmqpConnectionError> =>
      Effect.suspend(() => {
        const open = openSession()
        if (open !== undefined) return Effect.succeed(open)
        if (over !== undefined) return Effect.fail(over)
        // It was lost during the close, and is not replaced.
        return isClosing ? Effect.fail(refuse(closedByClient())) : wait
      })
    const upcoming = Effect.suspend(() => Deferred.await(next))
    const session = sessionOr(Effect.timeoutOrElse(upcoming, {
      duration: waitTimeout,
      orElse: () => Effect.fail(current?.open.session.error ?? lastError ?? closedByClient())
    }))

    return {
      session,
      nextSession: sessionOr(upcoming),
      onEpoch: (restore) =>
        Effect.gen(function*() {
          let restored: Session | undefined
          // If an epoch begins while this waits, it is restored before it is open.
          const once = (session: Session) =>
            Effect.suspend(() => {
              if (session === restored) return Effect.void
              restored = session
              return restore(session)
            })
          yield* Effect.acquireRelease(
            Effect.sync(() => restorers.add(once)),
            () => Effect.sync(() => restorers.delete(once))
          )
          yield* once((yield* session).session)
        }),
      onClosing: (end) => {
        const ending = { end }
        return Effect.asVoid(Effect.acquireRelease(
          Effect.sync(() => endings.add(ending)),
          () => Effect.sync(() => endings.delete(ending))
        ))
      },
      isOver: () => over !== undefined || (isClosing && openSession() === undefined),
      close,
      closed: Deferred.await(closed)
    }
  })

/**
 * The bound that all shares that ends together on a connection: what belongs to an ending and what does not, and which time
 * counts.
 */
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Schedule, Scope } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as AmqpConsumer from "../../src/AmqpConsumer.ts"
import * as AmqpPublisher from "../../src/AmqpPublisher.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost } from "../harness/shared.ts"
import { connect, filled, hole, millisOf, nextMethod, openOn, proxied } from "./support.ts"

const closeTimeout = 500

/** Longer than `closeTimeout`; the end goes on meanwhile. */
const long = Effect.sleep(closeTimeout + 100)

/** A consumer whose handler has been waited for longer than `closeTimeout`. `finish` lets it do its work, then end. */
const waitedFor = <A, E>(
  work: (publisher: AmqpPublisher.AmqpPublisher) => Effect.Effect<A, E, AmqpConnection | Scope.Scope>
) =>
  Effect.gen(function*() {
    const { queue } = yield* filled(1)
    const connection = yield* connect({ closeTimeout })
    const busy = yield* Deferred.make<void>()
    const go = yield* Deferred.make<void>()
    const done = yield* Deferred.make<A, E>()
    const running = yield* Effect.gen(function*() {
      const publisher = yield* AmqpPublisher.make()
      yield* AmqpConsumer.run(queue, () =>
        Deferred.succeed(busy, undefined).pipe(
          Effect.andThen(Deferred.await(go)),
          Effect.andThen(Effect.scoped(work(publisher))),
          Effect.onExit((exit) => Deferred.done(done, exit))
        ), { drainTimeout: 10 * closeTimeout })
    }).pipe(Effect.scoped, Effect.provideService(AmqpConnection, connection), Effect.forkScoped)
    yield* Deferred.await(busy)
    const ending = yield* Effect.forkScoped(Fiber.interrupt(running), { startImmediately: true })
    yield* long
    const finish = Deferred.succeed(go, undefined).pipe(
      Effect.andThen(Deferred.await(done)),
      Effect.tap(() => Fiber.join(ending))
    )
    return { connection, finish }
  })

layer(onVhost, { excludeTestServices: true })("what ends together", (it) => {
  it.effect("lets a handler that is waited for publish in each way, also later than closeTimeout", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, queue } = yield* filled(0)
      const message = { routingKey: queue, body: "x" }
      const { finish } = yield* waitedFor((publisher) =>
        Effect.gen(function*() {
          yield* publisher.publish(message)
          yield* AmqpChannel.use((own) => own.publish(message))
          const own = yield* AmqpPublisher.make()
          yield* own.publish(message)
        })
      )
      yield* finish
      assert.strictEqual(yield* channel.queuePurge(queue), 3)
    })))

  it.effect("leaves its time to others that come and go while a handler is waited for", () =>
    noLeaks(Effect.gen(function*() {
      const { channel, queue } = yield* filled(0)
      const { connection, finish } = yield* waitedFor(() => Effect.void)
      const use = AmqpChannel.use((own) => own.publish({ routingKey: queue, body: "x" }))
      for (let i = 0; i < 3; i++) yield* Effect.provideService(use, AmqpConnection, connection)
      yield* finish
      assert.strictEqual(yield* channel.queuePurge(queue), 3)
    })))

  it.effect("takes as long as it likes where the broker answers: channels of one age, closed one after the other", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, proxy } = yield* proxied({ closeTimeout })
      const outer = yield* Effect.scope
      const parts = yield* Effect.forEach([0, 1, 2], () =>
        Effect.gen(function*() {
          const scope = yield* Scope.fork(outer)
          const channel = yield* Scope.provide(openOn(connection), scope)
          yield* channel.confirmSelect
          return { channel, scope }
        }))
      yield* proxy.set("down", { delay: 20 })
      for (const { channel, scope } of parts) {
        const publishing = yield* Effect.forkChild(channel.publish({ exchange: "amq.fanout", body: "x" }), {
          startImmediately: true
        })
        yield* Scope.close(scope, Exit.void)
        yield* Fiber.join(publishing)
        yield* Effect.sleep(closeTimeout - 100)
      }
    })))

  it.effect("takes closeTimeout once in a black hole, however others try to open channels", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link, proxy } = yield* proxied({ closeTimeout })
      const scope = yield* Scope.make()
      for (let i = 0; i < 5; i++) yield* Scope.provide(openOn(connection), scope)
      yield* hole(proxy)
      yield* Effect.scoped(openOn(connection)).pipe(
        Effect.timeoutOption("20 millis"),
        Effect.forkScoped,
        Effect.repeat(Schedule.spaced("50 millis")),
        Effect.forkScoped
      )
      assert.isBelow(yield* millisOf(Scope.close(scope, Exit.void)), 3 * closeTimeout)
      yield* link.reset
    })))

  it.effect("gives a whole drainTimeout to those whose end begins while another is drained", () =>
    noLeaks(Effect.gen(function*() {
      const { connection, link } = yield* proxied({ closeTimeout })
      /** One that is at work until `go`. */
      const consumer = (drainTimeout: number) =>
        Effect.gen(function*() {
          const { channel, queue } = yield* filled(1)
          const busy = yield* Deferred.make<void>()
          const go = yield* Deferred.make<void>()
          const running = yield* AmqpConsumer.run(
            queue,
            () => Effect.andThen(Deferred.succeed(busy, undefined), Deferred.await(go)),
            { drainTimeout }
          ).pipe(Effect.provideService(AmqpConnection, connection), Effect.forkScoped)
          yield* Deferred.await(busy)
          return {
            /** Waits until its end has begun. */
            end: Effect.tap(
              Effect.forkScoped(Fiber.interrupt(running), { startImmediately: true }),
              () => nextMethod(link, "up", "basic.cancel")
            ),
            go: Deferred.succeed(go, undefined),
            left: channel.queuePurge(queue)
          }
        })
      const drained = yield* consumer(10 * closeTimeout)
      const early = yield* consumer(closeTimeout)
      const draining = yield* drained.end
      yield* long
      const late = yield* consumer(closeTimeout)
      for (const { end, go, left } of [early, late]) {
        const ending = yield* end
        yield* go
        yield* Fiber.join(ending)
        assert.strictEqual(yield* left, 0)
      }
      yield* drained.go
      yield* Fiber.join(draining)
      assert.strictEqual(yield* drained.left, 0)
    })))
})

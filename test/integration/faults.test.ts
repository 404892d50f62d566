/**
 * Every fault in the middle of every operation (P1, P2): the request is on the wire, its answer has not come. Each
 * operation ends, once, with a typed failure that tells what happened; a publish is in doubt; what was delivered is stale.
 */
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Redacted, type Scope, Stream } from "effect"
import type * as AmqpChannel from "../../src/AmqpChannel.ts"
import type { AmqpConnection } from "../../src/AmqpConnection.ts"
import type { AmqpDelivery } from "../../src/AmqpDelivery.ts"
import { type AmqpConnectionErrorReason, isTransient } from "../../src/AmqpError.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import type { FaultProxy, ProxyLink } from "../harness/proxy.ts"
import { canControl, onVhost, uniqueName } from "../harness/shared.ts"
import { nextMethod, openOn, proxied } from "./support.ts"

interface Fixture {
  readonly connection: AmqpConnection
  readonly channel: AmqpChannel.AmqpChannel
  /** Holds one message. */
  readonly queue: string
}

interface Operation {
  readonly name: string
  /** What comes before the fault, on the operation's own channel. */
  readonly before?: (channel: AmqpChannel.AmqpChannel) => Effect.Effect<unknown, unknown, Scope.Scope>
  readonly run: (fixture: Fixture) => Effect.Effect<unknown, unknown, Scope.Scope>
  /** Fails as a publish whose outcome nobody knows. */
  readonly isInDoubt?: boolean
}

const confirming = (channel: AmqpChannel.AmqpChannel) => channel.confirmSelect

const operations: ReadonlyArray<Operation> = [
  { name: "exchangeDeclare", run: ({ channel }) => channel.exchangeDeclare({ exchange: "e", autoDelete: true }) },
  { name: "exchangeDeclarePassive", run: ({ channel }) => channel.exchangeDeclarePassive("amq.topic") },
  { name: "exchangeDelete", run: ({ channel }) => channel.exchangeDelete({ exchange: "missing" }) },
  {
    name: "exchangeBind",
    run: ({ channel }) => channel.exchangeBind({ destination: "amq.topic", source: "amq.fanout" })
  },
  {
    name: "exchangeUnbind",
    run: ({ channel }) => channel.exchangeUnbind({ destination: "amq.topic", source: "amq.fanout" })
  },
  { name: "queueDeclare", run: ({ channel }) => channel.queueDeclare() },
  { name: "queueDeclarePassive", run: ({ channel, queue }) => channel.queueDeclarePassive(queue) },
  { name: "queueBind", run: ({ channel, queue }) => channel.queueBind({ queue, exchange: "amq.topic" }) },
  { name: "queueUnbind", run: ({ channel, queue }) => channel.queueUnbind({ queue, exchange: "amq.topic" }) },
  { name: "queuePurge", run: ({ channel }) => channel.queuePurge("missing") },
  { name: "queueDelete", run: ({ channel }) => channel.queueDelete({ queue: "missing" }) },
  { name: "qos", run: ({ channel }) => channel.qos({ prefetchCount: 1 }) },
  { name: "get", run: ({ channel, queue }) => channel.get({ queue }) },
  { name: "consume", run: ({ channel, queue }) => channel.consume({ queue }) },
  { name: "cancel", run: ({ channel }) => channel.cancel("unknown") },
  {
    name: "a consumer's deliveries",
    run: ({ channel, queue }) =>
      Effect.flatMap(channel.consume({ queue }), ({ deliveries }) => Stream.runDrain(deliveries))
  },
  { name: "recover", run: ({ channel }) => channel.recover },
  { name: "confirmSelect", run: ({ channel }) => channel.confirmSelect },
  { name: "transaction", run: ({ channel }) => channel.transaction(Effect.void) },
  { name: "flow", run: ({ channel }) => channel.flow(true) },
  {
    name: "publish",
    before: confirming,
    isInDoubt: true,
    run: ({ channel, queue }) => channel.publish({ routingKey: queue, body: "x", mandatory: true })
  },
  {
    name: "publish of 1 MiB",
    before: confirming,
    isInDoubt: true,
    run: ({ channel, queue }) => channel.publish({ routingKey: queue, body: new Uint8Array(1024 * 1024) })
  },
  { name: "AmqpChannel.open", run: ({ connection }) => openOn(connection) },
  // The last one: when it is on the wire, all are.
  { name: "updateSecret", run: ({ connection }) => connection.updateSecret(Redacted.make("guest")) }
]

interface Fault {
  readonly name: string
  readonly needsControl?: boolean
  readonly inject: (at: {
    readonly name: string
    readonly proxy: FaultProxy
    readonly link: ProxyLink
  }) => Effect.Effect<unknown, unknown, Broker>
  readonly reason: AmqpConnectionErrorReason["_tag"]
}

const faults: ReadonlyArray<Fault> = [
  { name: "F01 a reset", inject: ({ link }) => link.reset, reason: "ConnectionLost" },
  { name: "F02 a FIN without a close frame", inject: ({ link }) => link.halfClose("down"), reason: "ConnectionLost" },
  {
    name: "F06 a peer that vanishes behind a hole",
    inject: ({ proxy }) => proxy.set("down", { mode: "hole" }),
    reason: "HeartbeatTimeout"
  },
  {
    name: "F17 an operator's close",
    needsControl: true,
    inject: ({ name }) =>
      Effect.flatMap(
        Broker,
        ({ control }) =>
          Effect.flatMap(Effect.fromOption(control), ({ closeConnection }) => closeConnection(name, "a fault"))
      ),
    reason: "ConnectionForced"
  }
]

layer(onVhost, { excludeTestServices: true })("a fault in the middle of every operation", (it) => {
  for (const fault of faults) {
    it.effect.runIf(fault.needsControl !== true || canControl)(
      `${fault.name} ends each of them as ${fault.reason}`,
      () =>
        noLeaks(Effect.gen(function*() {
          const name = uniqueName("fault")
          const { connection, link, proxy } = yield* proxied({ connectionName: name, heartbeat: "1 second" })
          const first = yield* openOn(connection)
          const { queue } = yield* first.queueDeclare({
            queue: uniqueName("faults"),
            autoDelete: true,
            exclusive: true
          })
          yield* first.confirmSelect
          yield* first.publish({ routingKey: queue, body: "held", mandatory: true })
          const held: AmqpDelivery = Option.getOrThrow(yield* first.get({ queue })).delivery

          const channels = yield* Effect.forEach(operations, ({ before }) =>
            Effect.tap(openOn(connection), (channel) => before?.(channel) ?? Effect.void))
          // What the client says from here on is recorded, and never reaches the broker.
          yield* proxy.set("up", { mode: "hole" })
          const running = yield* Effect.forEach(channels, (channel, index) =>
            Effect.forkScoped(Effect.exit(operations[index]?.run({ connection, channel, queue }) ?? Effect.void), {
              startImmediately: true
            }))
          yield* nextMethod(link, "up", "connection.update-secret")
          for (const fiber of running) {
            assert.isUndefined(fiber.pollUnsafe())
          }
          yield* fault.inject({ name, proxy, link })

          for (const [index, { isInDoubt, name }] of operations.entries()) {
            const fiber = running[index]
            if (fiber === undefined) {
              return assert.fail(name)
            }
            const exit = yield* Effect.timeout(Fiber.join(fiber), "10 seconds")
            const error = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
            if (error?._tag !== "Fail") {
              return assert.fail(`${name}: ${String(exit)}`)
            }
            assert.isTrue(isTransient(error.error), name)
            const failure = failureOf(error.error)
            assert.strictEqual(failure.tag, isInDoubt === true ? "AmqpPublishUnconfirmed" : "AmqpConnectionError", name)
            assert.strictEqual(failure.reason, fault.reason, name)
          }
          const stale = yield* Effect.flip(held.ack)
          assert.strictEqual(stale._tag, "AmqpStaleDelivery")
          const late = yield* Effect.flip(first.queuePurge(queue))
          assert.strictEqual(late._tag, "AmqpChannelClosed")
        }))
    )
  }
})

/** The tag of a failure, and the reason of the connection error that it is or has as its cause. */
const failureOf = (error: unknown): { readonly tag: string; readonly reason: string } => {
  const text = (value: unknown, key: string): unknown =>
    typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined
  const connectionError = text(error, "_tag") === "AmqpConnectionError" ? error : text(error, "cause")
  return { tag: String(text(error, "_tag")), reason: String(text(text(connectionError, "reason"), "_tag")) }
}

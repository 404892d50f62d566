/**
 * A program that is told to stop in the middle of its work (law 8, P7): it settles what it has begun, and gives back the
 * rest.
 */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import * as Path from "node:path"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import { noLeaks } from "../harness/leaks.ts"
import { onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { runProgram } from "./program.ts"
import { connect, drain } from "./support.ts"

const folder = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(Path.join(tmpdir(), "effect-amqp-shutdown-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true, force: true }))
)

layer(onVhost, { excludeTestServices: true })("shutdown", (it) => {
  it.effect("F90 SIGTERM with 10,000 messages in flight loses none and handles none twice", () =>
    noLeaks(Effect.provideServiceEffect(
      Effect.gen(function*() {
        const count = 10_000
        const { amqpUrl } = yield* Vhost
        const channel = yield* AmqpChannel.open
        const { queue } = yield* channel.queueDeclare({ queue: uniqueName("shutdown"), durable: true })
        yield* channel.confirmSelect
        yield* Effect.forEach(
          Array.from({ length: count }, (_, i) => String(i)),
          (body) => channel.publish({ routingKey: queue, body }),
          { concurrency: "unbounded", discard: true }
        )
        const handled = Path.join(yield* folder, "handled")

        const program = yield* runProgram(`
        import { NodeRuntime } from "@effect/platform-node"
        import { Effect } from "effect"
        import { appendFileSync } from "node:fs"
        import * as AmqpConsumer from "src/AmqpConsumer.ts"
        import { layer } from "src/NodeAmqp.ts"
        let done = 0
        AmqpConsumer.run(${JSON.stringify(queue)}, ({ text }) =>
          Effect.map(Effect.sleep("2 millis"), () => {
            appendFileSync(${JSON.stringify(handled)}, text + "\\n")
            if (++done === 1000) console.log("busy")
          }), { prefetch: ${count}, concurrency: 100 }).pipe(
          Effect.provide(layer({ url: ${JSON.stringify(amqpUrl)} })),
          NodeRuntime.runMain
        )`)
        assert.strictEqual(yield* program.line, "busy")
        yield* program.signal("SIGTERM")
        const code = yield* Effect.timeout(program.exited, "15 seconds")
        assert.include([0, 130, 143], code)

        const texts = (yield* Effect.promise(() => readFile(handled, "utf8"))).trimEnd().split("\n")
        const left = yield* drain(channel, queue)
        assert.isAtLeast(texts.length, 1000)
        assert.isAtLeast(left.length, 1)
        assert.strictEqual(texts.length + left.length, count)
        assert.strictEqual(new Set([...texts, ...left]).size, count)
      }),
      AmqpConnection,
      connect()
    )))
})

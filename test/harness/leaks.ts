/**
 * Leak check: after a test the broker holds no connection, channel or consumer that was not there before it.
 */
import { Data, Effect, Option, type Scope } from "effect"
import { Broker } from "./broker.ts"
import type { Held } from "./control.ts"
import type { BrokerError } from "./exec.ts"
import { Vhost } from "./shared.ts"

/** A test left something at the broker. */
export class BrokerLeak extends Data.TaggedError("BrokerLeak")<{ readonly left: Held }> {
  override get message(): string {
    const { channels, connections, consumers } = this.left
    return [
      "the broker still holds what this test opened:",
      ...connections.map((one) =>
        `connection ${one.connectionName ?? one.name} (${one.state}, ${one.channels} channels)`
      ),
      ...channels.map((one) =>
        `channel ${one.number} (${one.consumers} consumers, ${one.unacknowledged} unacknowledged)`
      ),
      ...consumers.map((one) => `consumer ${one.tag} on queue ${one.queue}`)
    ].join("\n  ")
  }
}

/**
 * Runs a test in a scope of its own, then fails with `BrokerLeak` if its vhost holds more than before.
 *
 * What stands open around the test, such as a file's shared connection, was there before. Tests that run at the same
 * time in one vhost would accuse one another. RabbitMQ has no event for "nothing is left": its node looks every 20 ms, in
 * a single call from here. A test that failed is not checked: its own failure is the news.
 */
export const noLeaks = <A, E, R>(
  test: Effect.Effect<A, E, R>,
  /** Milliseconds; the broker forgets a closed connection within a few, only a real leak waits so long. */
  patience = 5_000
): Effect.Effect<A, E | BrokerError | BrokerLeak, Exclude<R, Scope.Scope> | Broker | Vhost> =>
  Effect.gen(function*() {
    const { control } = yield* Broker
    const { name } = yield* Vhost
    if (Option.isNone(control)) return yield* Effect.scoped(test)
    const before = yield* control.value.held({ vhost: name })
    const result = yield* Effect.scoped(test)
    const left = yield* control.value.held({ vhost: name, except: before, patience })
    const isClean = left.connections.length + left.channels.length + left.consumers.length === 0
    return isClean ? result : yield* new BrokerLeak({ left })
  })

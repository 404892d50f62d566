/**
 * The broker that integration tests talk to: a private RabbitMQ node, the embedded broker in the test's own process, or
 * the one that somebody else runs and `AMQP_URL` names. Only the last cannot be controlled.
 */
import { Context, Effect, Option } from "effect"
import { TestRunner } from "vitest"
import type { BrokerControl, RabbitControl } from "./control.ts"
import { BrokerError } from "./exec.ts"

/**
 * Leaves out the test that is running: it needs what the broker of `AMQP_URL` does not give. By what it asks for, and not
 * by a list of such tests, which would be one behind.
 */
const leaveOut: Effect.Effect<never, BrokerError> = Effect.suspend(() => {
  const note = "this test controls its broker: run it without AMQP_URL"
  // Throws, and the runner takes that for what it is.
  TestRunner.getCurrentTest()?.context.skip(note)
  return new BrokerError({ message: note })
})

/** The broker that a test talks to. */
export class Broker extends Context.Service<Broker, {
  readonly amqpUrl: string
  readonly host: string
  readonly port: number
  /** None: the broker of `AMQP_URL`, which is not ours to disturb. */
  readonly control: Option.Option<BrokerControl>
  /** None: it is that of `AMQP_URL`, or no RabbitMQ. */
  readonly rabbitmq: Option.Option<RabbitControl>
}>()("test/Broker") {
  /** The control of a test that cannot do without; with `AMQP_URL` the test is left out. */
  static readonly control: Effect.Effect<BrokerControl, BrokerError, Broker> = Effect.flatMap(
    Broker,
    ({ control }) => Option.match(control, { onNone: () => leaveOut, onSome: Effect.succeed })
  )

  /** What a test does to RabbitMQ that no other broker can do; it belongs behind `isRabbitMQ`. */
  static readonly rabbitmq: Effect.Effect<RabbitControl, BrokerError, Broker> = Effect.flatMap(
    Broker,
    ({ control, rabbitmq }) =>
      Option.match(rabbitmq, {
        onNone: () =>
          Option.isNone(control)
            ? leaveOut
            : new BrokerError({ message: "this test controls RabbitMQ itself: put it behind isRabbitMQ" }),
        onSome: Effect.succeed
      })
  )
}

/**
 * The broker that integration tests talk to: a private RabbitMQ node, the embedded broker in the test's own process, or
 * the one that somebody else runs and `AMQP_URL` names. Only the last cannot be controlled.
 */
import { Context, Effect, Option } from "effect"
import type { BrokerControl, RabbitControl } from "./control.ts"
import { BrokerError } from "./exec.ts"

const need = <A>(control: Option.Option<A>, what: string): Effect.Effect<A, BrokerError> =>
  Option.match(control, { onNone: () => new BrokerError({ message: what }), onSome: Effect.succeed })

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
  /** The control of a test that cannot do without. */
  static readonly control: Effect.Effect<BrokerControl, BrokerError, Broker> = Effect.flatMap(
    Broker,
    ({ control }) => need(control, "this test controls its broker: run it without AMQP_URL")
  )

  /** What a test does to RabbitMQ that no other broker can do; it belongs behind `isRabbitMQ`. */
  static readonly rabbitmq: Effect.Effect<RabbitControl, BrokerError, Broker> = Effect.flatMap(
    Broker,
    ({ rabbitmq }) => need(rabbitmq, "this test controls RabbitMQ itself: run it without AMQP_URL, behind isRabbitMQ")
  )
}

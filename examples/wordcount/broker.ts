/**
 * The broker of the example: the one that `AMQP_URL` names, or else a private RabbitMQ node that lasts as long as the
 * connection to it. The node comes from the tests' harness; a program of yours needs `NodeAmqp.layer` alone.
 */
import { Config, Console, Effect, Layer, Option, Redacted } from "effect"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import { makeNode } from "../../test/harness/broker.ts"
import { withProgress } from "./progress.ts"

const connectionName = "wordcount"

const givenUrl = Config.Redacted("AMQP_URL").pipe(
  Config.option,
  Config.map(Option.filter((url) => Redacted.value(url) !== ""))
)

const stopping = Console.log("Broker  stopping the private node")

const privateNode = Effect.gen(function*() {
  const { amqpUrl } = yield* makeNode().pipe(
    withProgress((seconds) => Effect.succeed(`Broker  starting a private RabbitMQ node, ${seconds.toFixed(0)} s`)),
    Effect.onInterrupt(() => stopping)
  )
  yield* Effect.addFinalizer(() => stopping)
  return NodeAmqp.layer({ url: amqpUrl, connectionName })
})

/** The connection to the broker. */
export const layer = Layer.unwrap(Effect.flatMap(
  givenUrl,
  Option.match({
    onNone: () => privateNode,
    onSome: (url) => Effect.succeed(NodeAmqp.layer({ url, connectionName }))
  })
))

/** Which broker it is. */
export const describe = Effect.gen(function*() {
  const connection = yield* AmqpConnection
  const status = yield* connection.status
  if (status._tag !== "Open") return status._tag
  const { product, version } = status.server
  const from = Option.isSome(yield* givenUrl) ? "from AMQP_URL" : "a private node for this run"
  return `${product} ${version} at ${status.endpoint}, ${from}`
})

/**
 * The broker of the example: the one that `AMQP_URL` names, or else the embedded one, in the memory of this process.
 */
import { Config, Effect, Layer, Option, Redacted } from "effect"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import * as AmqpBroker from "../../src/testing/AmqpBroker.ts"

const connectionName = "wordcount"

const givenUrl = Config.Redacted("AMQP_URL").pipe(
  Config.option,
  Config.map(Option.filter((url) => Redacted.value(url) !== ""))
)

/** The connection to the broker. */
export const layer = Layer.unwrap(Effect.map(
  givenUrl,
  Option.match({
    onNone: () => Layer.provide(AmqpConnection.layer({ connectionName }), AmqpBroker.layer()),
    onSome: (url) => NodeAmqp.layer({ url, connectionName })
  })
))

/** Which broker it is. */
export const describe = Effect.gen(function*() {
  const connection = yield* AmqpConnection.AmqpConnection
  const status = yield* connection.status
  if (status._tag !== "Open") return status._tag
  const { product, version } = status.server
  return Option.isSome(yield* givenUrl)
    ? `${product} ${version} at ${status.endpoint}, from AMQP_URL`
    : `${product} ${version}, embedded, in memory; AMQP_URL names another`
})

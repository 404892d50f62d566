/**
 * Vitest's global setup: one RabbitMQ for the whole run, private unless `AMQP_URL` names one.
 *
 * Vitest runs the setup of a project only if one of its test files is to run, so it belongs to the project of the
 * integration tests.
 */
import { Cause, Effect, Exit, Scope } from "effect"
import type { TestProject } from "vitest/node"
import type { BrokerError } from "./exec.ts"
import { makeNode } from "./rabbitmq.ts"
import type { SharedBroker } from "./shared.ts"

const acquire: Effect.Effect<SharedBroker, BrokerError, Scope.Scope> = Effect.gen(function*() {
  const given = process.env["AMQP_URL"]
  if (given !== undefined && given !== "") return { _tag: "RabbitMQ", amqpUrl: given, node: undefined }
  const { address, amqpUrl } = yield* makeNode()
  return { _tag: "RabbitMQ", amqpUrl, node: address }
})

/** Starts the broker; what it gives back stops it. */
export const setup = async (project: TestProject): Promise<() => Promise<void>> => {
  const scope = Scope.makeUnsafe()
  const stop = () => Effect.runPromise(Scope.close(scope, Exit.void))
  const exit = await Effect.runPromiseExit(Scope.provide(acquire, scope))
  if (Exit.isSuccess(exit)) {
    project.provide("broker", exit.value)
    return stop
  }
  await stop()
  // Without a stack trace: what to do about it is in the message.
  throw Object.assign(new Error(Cause.prettyErrors(exit.cause)[0]?.message), { stack: "" })
}

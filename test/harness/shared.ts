/**
 * The broker that all test files of a run share, and names on it that no other test has.
 *
 * Tests with real sockets need the real clock: `layer(onVhost, { excludeTestServices: true })("…", (it) => it.effect(…))`.
 */
import { Context, Effect, Layer, Option, type Scope } from "effect"
import { randomUUID } from "node:crypto"
import { inject } from "vitest"
import { Broker, makeControl } from "./broker.ts"
import type { BrokerError } from "./exec.ts"
import type { NodeAddress } from "./node.ts"

/** What the global setup tells the test files: where the broker is, and where its node is if it is ours. */
export interface SharedBroker {
  readonly amqpUrl: string
  readonly node: NodeAddress | undefined
}

declare module "vitest" {
  export interface ProvidedContext {
    readonly broker: SharedBroker
  }
}

/** Whether the shared broker can be controlled; false with `AMQP_URL`. For `describe.runIf` around tests that must. */
export const canControl: boolean = inject("broker").node !== undefined

/** The broker of this run. */
export const sharedBroker: Layer.Layer<Broker> = Layer.sync(Broker, () => {
  const { amqpUrl, node } = inject("broker")
  const url = new URL(amqpUrl)
  return {
    amqpUrl,
    host: url.hostname,
    port: Number(url.port || 5672),
    control: Option.map(Option.fromUndefinedOr(node), makeControl)
  }
})

/** A name that nobody else uses. */
export const uniqueName = (prefix: string): string => `${prefix}-${randomUUID().slice(0, 13)}`

/** A vhost for one test or one file. With `AMQP_URL` it is the vhost of that URL. */
export class Vhost extends Context.Service<Vhost, {
  readonly name: string
  readonly amqpUrl: string
}>()("test/Vhost") {
  /** Made with all permissions for the default user; its end closes the connections in it and deletes it. */
  static readonly make: Effect.Effect<Vhost["Service"], BrokerError, Broker | Scope.Scope> = Effect.gen(function*() {
    const { amqpUrl, control } = yield* Broker
    const url = new URL(amqpUrl)
    if (Option.isNone(control)) return { name: decodeURIComponent(url.pathname.slice(1) || "/"), amqpUrl }
    const name = uniqueName("vhost")
    const { addVhost, deleteVhost } = control.value
    yield* Effect.acquireRelease(addVhost(name), () => Effect.orDie(deleteVhost(name)))
    url.pathname = encodeURIComponent(name)
    return { name, amqpUrl: url.href }
  })

  static readonly layer: Layer.Layer<Vhost, BrokerError, Broker> = Layer.effect(Vhost, Vhost.make)
}

/** The shared broker and a vhost on it. */
export const onVhost: Layer.Layer<Broker | Vhost, BrokerError> = Layer.provideMerge(Vhost.layer, sharedBroker)

/**
 * The broker that the test files of a vitest project share, and names on it that no other test has.
 *
 * Tests with real sockets need the real clock: `layer(onVhost, { excludeTestServices: true })("…", (it) => it.effect(…))`.
 */
import { Context, Duration, Effect, Layer, Option, type Scope } from "effect"
import { randomUUID } from "node:crypto"
import { inject } from "vitest"
import { Broker } from "./broker.ts"
import { embedded } from "./embedded.ts"
import type { BrokerError } from "./exec.ts"
import type { NodeAddress } from "./node.ts"
import { makeControl, makeNode } from "./rabbitmq.ts"

/** The broker of a vitest project, as its test files are told: by the global setup, or by the configuration. */
export type SharedBroker =
  | {
    readonly _tag: "RabbitMQ"
    readonly amqpUrl: string
    /** Where its node is, if it is ours; `undefined` with `AMQP_URL`. */
    readonly node: NodeAddress | undefined
  }
  /** In the process of the test file, one for each `layer(…)`. */
  | { readonly _tag: "Embedded" }

declare module "vitest" {
  export interface ProvidedContext {
    readonly broker: SharedBroker
  }
}

const shared = inject("broker")

/** Whether the broker can be controlled; false with `AMQP_URL`. For `describe.runIf` around tests that must. */
export const canControl: boolean = shared._tag === "Embedded" || shared.node !== undefined

/**
 * Whether it is RabbitMQ and not the embedded broker. For `runIf` around what the latter does not do or cannot show; each
 * use says why.
 */
export const isRabbitMQ: boolean = shared._tag === "RabbitMQ"

/** The broker of this run. */
export const sharedBroker: Layer.Layer<Broker> = Layer.unwrap(Effect.sync(() => {
  if (shared._tag === "Embedded") return embedded()
  const { amqpUrl, node } = shared
  const url = new URL(amqpUrl)
  const rabbitmq = Option.map(Option.fromUndefinedOr(node), makeControl)
  return Layer.succeed(Broker, {
    amqpUrl,
    host: url.hostname,
    port: Number(url.port || 5672),
    control: rabbitmq,
    rabbitmq
  })
}))

/** What a broker of one's own may have different, of whatever kind it is. */
export interface BrokerSettings {
  /** In bytes. */
  readonly maxMessageSize?: number | undefined
  /** In milliseconds; it takes half a second more at most. */
  readonly consumerTimeout?: number | undefined
}

/** A broker of the kind of this run, for this layer alone. RabbitMQ takes 6 to 8 s to start. */
export const ownBroker = (settings: BrokerSettings = {}): Layer.Layer<Broker, BrokerError> => {
  if (shared._tag === "Embedded") return embedded(settings)
  const { consumerTimeout, maxMessageSize } = settings
  const node = makeNode({
    conf: {
      ...maxMessageSize !== undefined ? { max_message_size: String(maxMessageSize) } : {},
      ...consumerTimeout !== undefined ? { consumer_timeout: String(consumerTimeout) } : {}
    },
    advanced: "[{rabbit,[{channel_tick_interval,500}]}].\n"
  })
  return Layer.effect(
    Broker,
    Effect.map(node, (node) => ({ ...node, control: Option.some(node), rabbitmq: Option.some(node) }))
  )
}

/** What `connection.tune` may propose. */
export interface Proposal {
  readonly channelMax?: number | undefined
  readonly frameMax?: number | undefined
  /** In seconds. */
  readonly heartbeat?: number | undefined
}

/** Runs a test with a broker that proposes something else in `connection.tune`. */
export const proposing =
  (proposal: Proposal) =>
  <A, E>(test: Effect.Effect<A, E, Broker | Vhost>): Effect.Effect<A, E | BrokerError, Broker | Vhost> => {
    const { channelMax, frameMax, heartbeat } = proposal
    if (shared._tag === "Embedded") {
      const options = { ...proposal, heartbeat: heartbeat === undefined ? undefined : Duration.seconds(heartbeat) }
      return Effect.provide(test, Layer.fresh(Layer.provideMerge(Vhost.layer, embedded(options))))
    }
    const settings = Object.entries({ channel_max: channelMax, frame_max: frameMax, heartbeat })
    return Effect.gen(function*() {
      const rabbitmq = yield* Broker.rabbitmq
      for (const [setting, value] of settings) {
        if (value === undefined) continue
        const put = (value: string) => rabbitmq.eval(`application:set_env(rabbit, ${setting}, ${value})`)
        yield* Effect.acquireRelease(
          rabbitmq.eval(`{ok, V} = application:get_env(rabbit, ${setting}), io:format("~p", [V])`),
          (before) => Effect.orDie(put(before))
        )
        yield* put(String(value))
      }
      return yield* test
    }).pipe(Effect.scoped)
  }

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

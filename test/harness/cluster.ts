/**
 * A cluster of three private RabbitMQ nodes on this machine: one cookie, one port mapper, each node with a folder of its
 * own. Nothing stays behind, as with a single node.
 */
import { Effect, type Scope } from "effect"
import { randomBytes } from "node:crypto"
import type { BrokerError } from "./exec.ts"
import { freePort } from "./listen.ts"
import { type BrokerNode, makeNode } from "./rabbitmq.ts"

/** Three nodes that are one broker. */
export type Cluster = readonly [BrokerNode, BrokerNode, BrokerNode]

/** Starts three nodes and joins them (20 to 30 s); the end of the scope kills them. */
export const makeCluster: Effect.Effect<Cluster, BrokerError, Scope.Scope> = Effect.gen(function*() {
  const epmdPort = yield* freePort
  const node = makeNode({ shared: { cookie: randomBytes(16).toString("hex"), epmdPort } })
  const cluster = yield* Effect.all([node, node, node], { concurrency: "unbounded" })
  // All at once: those that would be left alone would wait for the others before they stop in order.
  yield* Effect.addFinalizer(() => Effect.forEach(cluster, ({ kill9 }) => kill9, { discard: true }))
  const [first, ...others] = cluster
  for (const { ctl } of others) {
    yield* ctl("stop_app")
    yield* ctl("join_cluster", first.address.name)
    yield* ctl("start_app")
  }
  yield* first.ctl("await_online_nodes", "3", "--timeout", "60")
  return cluster
})

/** Starts the nodes of a cluster that do not run: one alone may wait for the others before it is up. */
export const startAll = (nodes: ReadonlyArray<BrokerNode>): Effect.Effect<void, BrokerError> =>
  Effect.forEach(nodes, ({ start }) => start, { concurrency: "unbounded", discard: true })

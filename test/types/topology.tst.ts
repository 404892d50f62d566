import type { Effect, Layer, Scope } from "effect"
import type { AmqpConnection } from "../../src/AmqpConnection.ts"
import type {
  AmqpAccessRefused,
  AmqpChannelClosed,
  AmqpConnectionError,
  AmqpEncodeError,
  AmqpNotFound,
  AmqpPreconditionFailed,
  AmqpResourceLocked
} from "../../src/AmqpError.ts"
import * as AmqpTopology from "../../src/AmqpTopology.ts"
import type { QueueRef, resolveQueue } from "../../src/internal/topology/queueNames.ts"
import { type Equal, expectType } from "./assert.ts"

type Failure = AmqpTopology.AmqpTopologyInvalid | AmqpTopology.AmqpTopologyError | AmqpConnectionError

expectType<
  Equal<
    ReturnType<typeof AmqpTopology.declare>,
    Effect.Effect<ReadonlyArray<AmqpTopology.AmqpTopologyError>, Failure, AmqpConnection>
  >
>()
expectType<
  Equal<
    ReturnType<typeof AmqpTopology.make>,
    Effect.Effect<AmqpTopology.AmqpTopology, Failure, AmqpConnection | Scope.Scope>
  >
>()
expectType<
  Equal<
    ReturnType<typeof AmqpTopology.layer>,
    Layer.Layer<AmqpTopology.AmqpTopology, Failure, AmqpConnection>
  >
>()
expectType<
  Equal<
    AmqpTopology.AmqpTopologyError["cause"],
    | AmqpAccessRefused
    | AmqpNotFound
    | AmqpResourceLocked
    | AmqpPreconditionFailed
    | AmqpEncodeError
    | AmqpChannelClosed
    | AmqpConnectionError
    | AmqpTopology.AmqpTopologyPending
  >
>()
expectType<
  Equal<ReturnType<typeof resolveQueue>, Effect.Effect<string, AmqpConnectionError | AmqpEncodeError>>
>()
expectType<Equal<QueueRef, string | AmqpTopology.ServerNamedQueue>>()

// The type of a queue decides what can be asked of it.
AmqpTopology.classicQueue("q", { maxPriority: 5, exclusive: true, overflow: "reject-publish-dlx" })
// @ts-expect-error - a quorum queue is never exclusive
AmqpTopology.quorumQueue("q", { exclusive: true })
// @ts-expect-error - a quorum queue has no priorities
AmqpTopology.quorumQueue("q", { maxPriority: 5 })
// @ts-expect-error - a quorum queue cannot reject-publish-dlx
AmqpTopology.quorumQueue("q", { overflow: "reject-publish-dlx" })
// @ts-expect-error - a classic queue has no delivery limit
AmqpTopology.classicQueue("q", { deliveryLimit: 5 })
// @ts-expect-error - a stream keeps messages by age and size, not by TTL
AmqpTopology.streamQueue("q", { messageTtl: "1 minute" })
// @ts-expect-error - a dead letter key needs an exchange
AmqpTopology.classicQueue("q", { deadLetter: { routingKey: "dead" } })
// @ts-expect-error - a server-named queue has no name to give
AmqpTopology.serverNamedQueue("q")

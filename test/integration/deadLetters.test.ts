/**
 * Deaths that a publisher brings along: what the broker makes of them when the message dies once more.
 */
import { assert, layer } from "@effect/vitest"
import { Effect, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import type * as AmqpTable from "../../src/AmqpTable.ts"
import { onVhost, uniqueName } from "../harness/shared.ts"
import { onConnection } from "./support.ts"

const rejected = (queue: string, fields: AmqpTable.InputTable = {}) => ({ queue, reason: "rejected", ...fields })

interface Case {
  readonly title: string
  /** Which deaths the message brings; it dies in `q`, rejected. */
  readonly brought: AmqpTable.Input
  /** Count, queue and reason of what it has then, in that order. */
  readonly deaths: ReadonlyArray<string>
}

const cases: ReadonlyArray<Case> = [
  { title: "none", brought: [], deaths: ["1 q rejected"] },
  { title: "no list", brought: "text", deaths: ["1 q rejected"] },
  { title: "one of this cause, without a count", brought: [rejected("q")], deaths: ["1 q rejected"] },
  { title: "two of this cause, without counts", brought: [rejected("q"), rejected("q")], deaths: ["3 q rejected"] },
  {
    title: "three of this cause, of which the first counts",
    brought: [rejected("q", { count: 5 }), rejected("q", { count: 7 }), rejected("q")],
    deaths: ["6 q rejected"]
  },
  {
    title: "two of this cause, of which the second has a count",
    brought: [rejected("q"), rejected("q", { count: 7 })],
    deaths: ["3 q rejected"]
  },
  {
    title: "one of another cause, without a count",
    brought: [rejected("z")],
    deaths: ["1 q rejected", "- z rejected"]
  },
  {
    title: "two of another cause, without counts",
    brought: [rejected("z"), rejected("z")],
    deaths: ["1 q rejected", "2 z rejected"]
  },
  {
    title: "several of several causes, which turn around",
    brought: [rejected("a"), rejected("q", { count: 2 }), rejected("b"), rejected("a", { count: 4 }), rejected("c")],
    deaths: ["3 q rejected", "1 c rejected", "1 b rejected", "2 a rejected"]
  },
  {
    title: "those that name no cause",
    brought: [{ reason: "x" }, { reason: "x" }, {}],
    deaths: ["1 q rejected", "1 - -", "2 - x"]
  }
]

const isTable = (value: AmqpTable.Plain | undefined): value is AmqpTable.PlainTable =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype

layer(onVhost, { excludeTestServices: true })("deaths that a publisher brings along", (it) => {
  for (const { brought, deaths, title } of cases) {
    it.effect(title, () =>
      onConnection(Effect.gen(function*() {
        const channel = yield* AmqpChannel.open
        const [q, dead] = [uniqueName("q"), uniqueName("dead")]
        yield* channel.queueDeclare({ queue: dead, exclusive: true })
        yield* channel.queueDeclare({
          queue: q,
          exclusive: true,
          arguments: { "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead }
        })
        const named = JSON.parse(JSON.stringify(brought).replaceAll(`"q"`, JSON.stringify(q)))
        yield* channel.confirmSelect
        yield* channel.publish({ routingKey: q, body: "m", properties: { headers: { "x-death": named } } })
        const { deliveries } = yield* channel.consume({ queue: q })
        yield* Stream.runForEach(Stream.take(deliveries, 1), (delivery) => delivery.reject({ requeue: false }))
        const letters = yield* channel.consume({ queue: dead })
        const [letter] = yield* Stream.runCollect(Stream.take(letters.deliveries, 1))
        const all = letter?.properties.headers?.["x-death"]
        assert.deepStrictEqual(
          (Array.isArray(all) ? all : []).map((death: AmqpTable.Plain) =>
            isTable(death)
              ? ["count", "queue", "reason"].map((key) => `${death[key] ?? "-"}`.replace(q, "q")).join(" ")
              : "no table"
          ),
          deaths
        )
      })))
  }
})

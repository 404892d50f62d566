/**
 * Asks the broker, over a bare socket, in which order it answers what `test/fixtures/orders.ts` says that a client sends
 * in one piece.
 */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { orders, said, setUp } from "../fixtures/orders.ts"
import { onVhost, Vhost } from "../harness/shared.ts"
import { logIn, opening } from "./raw.ts"

layer(onVhost, { excludeTestServices: true })("what a client sends in one piece", (it) => {
  for (const { answers, before, send, title } of orders) {
    it.effect(title, () =>
      Effect.gen(function*() {
        const client = yield* logIn
        const { name } = yield* Vhost
        const hear = Effect.fnUntraced(function*(count: number) {
          const lines: Array<string> = []
          while (lines.length < count) lines.push(...said(yield* client.next))
          return lines.map((line) => line.replace(`vhost '${name}'`, "vhost '/'"))
        })
        yield* client.send(yield* opening)
        yield* client.send(setUp)
        assert.deepStrictEqual(yield* hear(4), [
          "connection.open-ok",
          "channel.open-ok",
          "confirm.select-ok",
          "queue.declare-ok"
        ])
        if (before !== undefined) {
          yield* client.send(before[0])
          yield* hear(before[1])
        }
        yield* client.send(send)
        assert.deepStrictEqual(yield* hear(answers.length), answers)
      }).pipe(Effect.scoped))
  }
})

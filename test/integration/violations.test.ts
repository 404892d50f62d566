/**
 * Asks the broker, over a bare socket, how it ends channels and connections of clients that do what
 * `test/fixtures/violations.ts` says.
 */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import type * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import {
  channelViolations,
  closeLine,
  connectionViolations,
  declare,
  frameViolations,
  replyViolations,
  type Sender,
  type Violation
} from "../fixtures/violations.ts"
import { onVhost, Vhost } from "../harness/shared.ts"
import { logIn, opening } from "./raw.ts"

const isClose = ({ _tag }: AmqpProtocol.Method): boolean => _tag === "channel.close" || _tag === "connection.close"

layer(onVhost, { excludeTestServices: true })("violations", (it) => {
  /** What the broker says to it; `"reset"`: nothing. */
  const closeFor = Effect.fnUntraced(function*([, wrong]: Violation, prepare: (client: Sender) => void) {
    const client = yield* logIn
    const open = yield* opening
    const { name } = yield* Vhost
    yield* client.send((script) => {
      prepare(open(script))
      return wrong(script)
    })
    return yield* client.until(isClose).pipe(
      Effect.map((close) => closeLine(close).replace(`vhost '${name}'`, "vhost '/'")),
      Effect.catchTag("PeerClosed", () => Effect.succeed("reset"))
    )
  }, Effect.scoped)

  const same = (violations: ReadonlyArray<Violation>, prepare: (client: Sender) => void) =>
    Effect.gen(function*() {
      const said = yield* Effect.forEach(violations, (each) =>
        Effect.timeout(closeFor(each, prepare), 10_000).pipe(
          Effect.map((line) => [each[0], line]),
          Effect.catch((error) => Effect.succeed([each[0], error.message]))
        ))
      assert.deepStrictEqual(said, violations.map(([title, , close]) => [title, close]))
    })

  it.effect("of frames", () => same(frameViolations, (client) => client.send(1, { _tag: "channel.open" })))
  it.effect("of a connection", () => same(connectionViolations, () => {}))
  it.effect("of a channel", () =>
    same(channelViolations, (client) => client.send(1, { _tag: "channel.open" }, declare("q"))))
  it.effect("of direct reply-to", () =>
    same(replyViolations, (client) => client.send(1, { _tag: "channel.open" }, declare("q"))))
})

/**
 * Asks the broker, over a bare socket, how it ends channels and connections of clients that do what
 * `test/fixtures/violations.ts` says.
 */
import { assert, layer } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import {
  channelViolations,
  closeLine,
  connectionViolations,
  declare,
  replyViolations,
  Script,
  type Sender,
  type Violation
} from "../fixtures/violations.ts"
import { Broker } from "../harness/broker.ts"
import { dial } from "../harness/scripted.ts"
import { onVhost, Vhost } from "../harness/shared.ts"

const isClose = ({ _tag }: AmqpProtocol.Method): boolean => _tag === "channel.close" || _tag === "connection.close"

layer(onVhost, { excludeTestServices: true })("violations", (it) => {
  /** What the broker says to it. */
  const closeFor = Effect.fnUntraced(function*([, wrong]: Violation, prepare: (client: Sender) => void) {
    const { host, port } = yield* Broker
    const { name } = yield* Vhost
    const socket = yield* dial({ host, port })
    const parser = AmqpProtocol.makeParser()
    const next = Effect.gen(function*() {
      const head = yield* socket.read(7)
      const payload = yield* socket.read(new DataView(head.buffer, head.byteOffset).getUint32(3) + 1)
      const [frame] = Result.getOrThrow(parser.push(Uint8Array.from([...head, ...payload])))
      return frame
    })
    const until = Effect.fnUntraced(function*(isIt: (method: AmqpProtocol.Method) => boolean) {
      for (;;) {
        const frame = yield* next
        if (frame?._tag === "Method" && isIt(frame.method)) return frame.method
      }
    })
    yield* socket.write(AmqpProtocol.protocolHeader)
    yield* socket.write(new Script().startOk().bytes())
    yield* until(({ _tag }) => _tag === "connection.tune")
    const client = new Script().tuneOk().send(0, { _tag: "connection.open", virtualHost: name })
    prepare(client)
    wrong(client)
    yield* socket.write(client.bytes())
    return closeLine(yield* until(isClose)).replace(`vhost '${name}'`, "vhost '/'")
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

  it.effect("of a connection", () => same(connectionViolations, () => {}))
  it.effect("of a channel", () =>
    same(channelViolations, (client) => client.send(1, { _tag: "channel.open" }, declare("q"))))
  it.effect("of direct reply-to", () =>
    same(replyViolations, (client) => client.send(1, { _tag: "channel.open" }, declare("q"))))
})

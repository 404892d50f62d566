/**
 * A client on a bare socket that sends what a test says, and reads the broker frame by frame.
 */
import { Effect, Result } from "effect"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import { Script, type Sender } from "../fixtures/violations.ts"
import { Broker } from "../harness/broker.ts"
import { dial } from "../harness/scripted.ts"
import { Vhost } from "../harness/shared.ts"

/** Connects, and says nothing yet. */
export const dialBroker = Effect.gen(function*() {
  const { host, port } = yield* Broker
  const socket = yield* dial({ host, port })
  const parser = AmqpProtocol.makeParser()
  const next = Effect.gen(function*() {
    const head = yield* socket.read(7)
    const payload = yield* socket.read(new DataView(head.buffer, head.byteOffset).getUint32(3) + 1)
    const [frame] = Result.getOrThrow(parser.push(Uint8Array.from([...head, ...payload])))
    if (frame === undefined) return yield* Effect.die(new Error("half a frame"))
    return frame
  })
  /** The next method that this is true of; what is before it is skipped. */
  const until = (isIt: (method: AmqpProtocol.Method) => boolean) =>
    Effect.gen(function*() {
      for (;;) {
        const frame = yield* next
        if (frame._tag === "Method" && isIt(frame.method)) return frame.method
      }
    })
  /** Sends in one piece. */
  const send = (what: (client: Sender) => Sender) =>
    Effect.suspend(() => {
      const script = new Script()
      what(script)
      return socket.write(script.bytes())
    })
  return { ...socket, next, until, send }
})

/** Connects up to `connection.tune`. */
export const logIn = Effect.gen(function*() {
  const client = yield* dialBroker
  yield* client.write(AmqpProtocol.protocolHeader)
  yield* client.send((script) => script.startOk())
  yield* client.until(({ _tag }) => _tag === "connection.tune")
  return client
})

/** What opens a connection to the vhost behind `connection.tune`. */
export const opening = Effect.map(
  Vhost,
  ({ name }) => (client: Sender): Sender => client.tuneOk().send(0, { _tag: "connection.open", virtualHost: name })
)

/**
 * Random bytes, seeded: after a handshake, in its place, and in the middle of valid traffic. Each run ends in a typed error
 * or leaves a connection that lives; everything that waited hears one typed outcome.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Stream } from "effect"
import { AmqpConnectionError } from "../../src/AmqpError.ts"
import { frameHeader, methods } from "../../src/internal/codec/spec.ts"
import {
  bytes,
  concat,
  connectionStart,
  connectionTune,
  content,
  declareOk,
  deliver,
  frame,
  headerFrame,
  heartbeat,
  pattern,
  rawFrame,
  returned
} from "../engine/peer.ts"
import { assertAlive, both, connect, hostile, type HostilePeer, makePeer, openOn, type Server, start } from "./peer.ts"

/** Numbers that are the same for the same seed (mulberry32). */
class Dice {
  private state: number

  constructor(seed: number) {
    this.state = seed
  }

  /** From 0 up to `bound`, which is not included. */
  roll(bound: number): number {
    this.state = (this.state + 0x6d2b79f5) | 0
    let t = this.state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) % bound
  }

  bytes(size: number): Uint8Array {
    return Uint8Array.from({ length: size }, () => this.roll(256))
  }

  /** Bytes that tend to be lengths, tags and limits. */
  spicy(size: number): Uint8Array {
    const spices = [0, 0, 0, 1, 2, 10, 60, 0x46, 0x41, 0x53, 0x78, 0x7f, 0x80, 0xce, 0xff]
    return Uint8Array.from({ length: size }, () => this.roll(3) === 0 ? this.roll(256) : spices[this.roll(15)] ?? 0)
  }

  pick<A>(from: ReadonlyArray<A>): A {
    return from[this.roll(from.length)] ?? assert.fail("nothing to pick from")
  }
}

const frameOf = (type: number, channel: number, payload: Uint8Array): Uint8Array =>
  rawFrame(type, channel, Array.from(payload))

/** What a broker may say to the client of these runs. */
const valid: ReadonlyArray<Uint8Array> = [
  heartbeat,
  frame(1, declareOk("q")),
  content(1, deliver("c", 1), "body", { headers: { a: 1, b: ["x", null, { c: true }] }, messageId: "m" }),
  content(1, deliver("c", 2), pattern(5000)),
  content(1, deliver("c", 3)),
  content(1, deliver("gone", 4), "late"),
  content(1, returned("", "q"), "back"),
  frame(1, { _tag: "basic.ack", deliveryTag: 1, multiple: true }),
  frame(1, { _tag: "basic.nack", deliveryTag: 1, multiple: false, requeue: true }),
  frame(1, { _tag: "channel.flow", active: false }),
  frame(1, { _tag: "channel.flow", active: true }),
  frame(0, { _tag: "connection.blocked", reason: "disk" }),
  frame(0, { _tag: "connection.unblocked" }),
  frame(0, { _tag: "connection.update-secret-ok" }),
  frame(1, { _tag: "basic.cancel", consumerTag: "c", noWait: true }),
  frame(1, { _tag: "channel.close", replyCode: 404, replyText: "NOT_FOUND", classId: 50, methodId: 10 })
]

const ids = Object.values(methods).map(({ id }) => id)

const methodBytes = (id: number, fields: Uint8Array): Uint8Array =>
  concat([Uint8Array.of(id >>> 24, (id >>> 16) & 255, (id >>> 8) & 255, id & 255), fields])

const flipped = (dice: Dice, original: Uint8Array, flips: number): Uint8Array => {
  const copy = original.slice()
  for (let n = 0; n < flips; n++) {
    copy[dice.roll(copy.length)] = dice.roll(2) === 0
      ? dice.roll(256)
      : dice.pick([0, 0xff])
  }
  return copy
}

const traffic = (dice: Dice): Uint8Array => concat(Array.from({ length: 1 + dice.roll(6) }, () => dice.pick(valid)))

const kinds: ReadonlyArray<readonly [name: string, make: (dice: Dice) => Uint8Array]> = [
  ["noise", (dice) => dice.bytes(1 + dice.roll(300))],
  [
    "frames of noise",
    (dice) =>
      concat(
        Array.from({ length: 1 + dice.roll(4) }, () =>
          frameOf(dice.pick([1, 2, 3, 8]), dice.roll(3), dice.spicy(dice.roll(40))))
      )
  ],
  ["methods of noise", (dice) => {
    const id = dice.pick(ids)
    return frameOf(1, id >>> 16 === 10 ? 0 : 1, methodBytes(id, dice.spicy(dice.roll(30))))
  }],
  ["flipped traffic", (dice) => flipped(dice, traffic(dice), 1 + dice.roll(4))],
  ["traffic with a hole", (dice) => {
    const whole = traffic(dice)
    const from = dice.roll(whole.length)
    return concat([whole.subarray(0, from), whole.subarray(from + 1 + dice.roll(30))])
  }],
  ["traffic with noise in it", (dice) => {
    const whole = traffic(dice)
    const at = dice.roll(whole.length)
    return concat([whole.subarray(0, at), dice.spicy(1 + dice.roll(12)), whole.subarray(at)])
  }],
  ["contents in pieces", (dice) =>
    concat(Array.from({ length: 1 + dice.roll(8) }, () =>
      dice.pick([
        frame(1, deliver("c", 1 + dice.roll(5))),
        headerFrame(1, dice.roll(12)),
        frameOf(frameHeader, 1, dice.spicy(dice.roll(30))),
        frameOf(3, 1, dice.bytes(dice.roll(8))),
        heartbeat
      ])))]
]

/** In up to three writes. */
const writeTorn = (dice: Dice, server: Server, noise: Uint8Array) =>
  Effect.gen(function*() {
    const first = dice.roll(noise.length + 1)
    for (const part of [noise.subarray(0, first), noise.subarray(first)]) {
      if (part.length > 0) yield* server.write(part)
      yield* Effect.yieldNow
    }
  })

/** A connection of this peer with a channel in confirm mode that has a consumer `c`. */
const prepare = (peer: HostilePeer) =>
  Effect.gen(function*() {
    const [connection, server] = yield* both(
      connect(peer, { closeTimeout: "300 millis", maxMessageSize: 1024 * 1024 }),
      Effect.tap(peer.accept, (server) => server.handshake())
    )
    const [channel] = yield* both(openOn(connection), server.answer(1, "channel.open", { _tag: "channel.open-ok" }))
    yield* both(channel.confirmSelect, server.answer(1, "confirm.select", { _tag: "confirm.select-ok" }))
    const [consumer] = yield* both(channel.consume({ queue: "q", consumerTag: "c" }), server.consume(1))
    return { connection, server, channel, consumer }
  })

/** An exit that holds no defect. */
const assertTyped = (exit: Exit.Exit<unknown, unknown>, seed: string): void => {
  if (Exit.isFailure(exit)) assert.isFalse(Cause.hasDies(exit.cause), `${seed}: ${Cause.pretty(exit.cause)}`)
}

describe("law 11", () => {
  it.live(
    "500 runs of noise after the handshake: a typed end, or a connection that lives",
    () =>
      hostile(Effect.gen(function*() {
        const peer = yield* makePeer
        const reasons = new Map<string, number>()
        for (let seed = 1; seed <= 500; seed++) {
          const dice = new Dice(seed)
          const [name, make] = dice.pick(kinds)
          const label = `seed ${seed}, ${name}`
          yield* Effect.gen(function*() {
            const { channel, connection, consumer, server } = yield* prepare(peer)
            const waiting = [
              yield* start(Effect.exit(channel.queueDeclare({ queue: "q" }))),
              yield* start(Effect.exit(channel.publish({ routingKey: "q", body: "x", mandatory: true }))),
              yield* start(Effect.exit(Stream.runForEach(consumer.deliveries, (delivery) => {
                if (delivery.decodeError === undefined) void delivery.headersTagged
                return Effect.ignore(delivery.ack)
              })))
            ]
            yield* writeTorn(dice, server, make(dice))
            // What the noise has not ended, the end of the socket ends.
            yield* server.link.end
            const error = yield* connection.closed
            assert.instanceOf(error, AmqpConnectionError, label)
            reasons.set(error.reason._tag, (reasons.get(error.reason._tag) ?? 0) + 1)
            for (const exit of yield* Fiber.joinAll(waiting)) assertTyped(exit, label)
            yield* server.link.closed
          }).pipe(
            Effect.scoped,
            Effect.timeoutOrElse({ duration: "3 seconds", orElse: () => Effect.die(new Error(`${label} hangs`)) })
          )
        }
        // The noise is neither all harmless nor all the same.
        assert.isAbove(reasons.get("ProtocolViolation") ?? 0, 100)
        assert.isAbove(reasons.get("ConnectionLost") ?? 0, 50)
      })),
    60_000
  )

  it.live(
    "100 runs of noise in content headers: the deliveries arrive, can be settled, and the connection lives",
    () =>
      hostile(Effect.gen(function*() {
        const peer = yield* makePeer
        const { channel, connection, consumer, server } = yield* prepare(peer)
        const count = 100
        for (let seed = 1; seed <= count; seed++) {
          const dice = new Dice(seed)
          const properties = dice.roll(2) === 0
            ? dice.spicy(dice.roll(60))
            : flipped(
              dice,
              headerFrame(1, 0, { headers: { a: [1, "b"], c: { d: null } }, appId: "x" }).slice(19, -1),
              2
            )
          yield* server.write(
            frame(1, deliver("c", seed)),
            frameOf(frameHeader, 1, concat([bytes("\0\x3c\0\0\0\0\0\0\0\0\0\x01"), properties])),
            frameOf(3, 1, Uint8Array.of(seed))
          )
        }
        let undecodable = 0
        let next = 1
        yield* Stream.runForEach(Stream.take(consumer.deliveries, count), (delivery) => {
          assert.strictEqual(delivery.deliveryTag, next)
          assert.deepStrictEqual(delivery.body, Uint8Array.of(next++))
          if (delivery.decodeError === undefined) void delivery.headersTagged
          else undecodable++
          return Effect.map(delivery.ack, (settled) => assert.strictEqual(settled, "Settled"))
        })
        // Contiguous ones of a turn are one acknowledgement; none goes backwards or beyond.
        for (let settled = 0; settled < count;) {
          const { deliveryTag, multiple } = yield* server.expect(1, "basic.ack")
          assert.isTrue(multiple ? deliveryTag > settled : deliveryTag === settled + 1)
          settled = deliveryTag
          assert.isAtMost(settled, count)
        }
        assert.isAbove(undecodable, 20)
        yield* assertAlive({ server }, channel)
        assert.strictEqual((yield* connection.status)._tag, "Open")
      })),
    20_000
  )

  it.live(
    "200 runs of noise in the handshake: a typed failure, or an open connection",
    () =>
      hostile(Effect.gen(function*() {
        const peer = yield* makePeer
        const whole = [
          frame(
            0,
            connectionStart({ mechanisms: "PLAIN", serverProperties: { product: "p", capabilities: { a: true } } })
          ),
          frame(0, connectionTune({ heartbeat: 0 })),
          frame(0, { _tag: "connection.open-ok" })
        ]
        for (let seed = 1; seed <= 200; seed++) {
          const dice = new Dice(seed)
          const [client] = yield* both(
            Effect.exit(
              Effect.scoped(Effect.flatMap(connect(peer, { handshakeTimeout: "1 second" }), ({ closed }) => closed))
            ),
            Effect.gen(function*() {
              const server = yield* peer.accept
              const noise = dice.roll(3) === 0
                ? dice.spicy(1 + dice.roll(200))
                : flipped(dice, concat(whole), 1 + dice.roll(3))
              yield* writeTorn(dice, server, noise)
              yield* server.link.end
              yield* server.link.closed
            })
          )
          assertTyped(client, `seed ${seed}`)
          if (Exit.isFailure(client)) assert.isTrue(Cause.hasFails(client.cause), `seed ${seed}`)
          else assert.instanceOf(client.value, AmqpConnectionError)
        }
      })),
    30_000
  )
})

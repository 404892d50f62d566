/**
 * Peers that spoil the handshake: whatever they send, and wherever they stop, `make` fails typed and in time, says where,
 * and leaves no socket.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Option } from "effect"
import * as AmqpAuth from "../../src/AmqpAuth.ts"
import type { Options } from "../../src/AmqpConnection.ts"
import { AmqpConnectionError } from "../../src/AmqpError.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import { frameOverhead, maxUnsplitSize, protocolHeader } from "../../src/internal/codec/frames.ts"
import type { Method, MethodName } from "../../src/internal/codec/spec.ts"
import type { Limits } from "../../src/internal/engine/handshake.ts"
import {
  bytes,
  concat,
  connectionClose,
  connectionStart,
  connectionTune,
  declareOk,
  frame,
  heartbeat,
  pattern,
  rawFrame
} from "../engine/peer.ts"
import {
  assertAlive,
  both,
  channelOn,
  connect,
  failureOf,
  hostile,
  makePeer,
  opened,
  openOn,
  reasonOf,
  secret,
  type Server
} from "./peer.ts"

/** Three rounds of questions, answered with the question backwards. */
const riddles = AmqpAuth.make({
  name: "RIDDLES",
  initialResponse: () => bytes("ask"),
  respond: (challenge, round) => Uint8Array.of(round, ...challenge.toReversed())
})

interface Step {
  readonly bytes: Uint8Array
  /** What the client answers. */
  readonly answers: ReadonlyArray<MethodName>
  /** What the client says it was waiting for, before these bytes are complete. */
  readonly phase: string
}

/** A whole handshake with one question. */
const steps: ReadonlyArray<Step> = [
  {
    bytes: frame(0, connectionStart({ mechanisms: "RIDDLES", serverProperties: { product: "peer", version: "1" } })),
    answers: ["connection.start-ok"],
    phase: "the protocol header"
  },
  {
    bytes: frame(0, { _tag: "connection.secure", challenge: bytes("why") }),
    answers: ["connection.secure-ok"],
    phase: "connection.start-ok"
  },
  {
    bytes: frame(0, connectionTune({ heartbeat: 0 })),
    answers: ["connection.tune-ok", "connection.open"],
    phase: "connection.secure-ok"
  },
  { bytes: frame(0, { _tag: "connection.open-ok" }), answers: [], phase: "connection.open" }
]

const total = steps.reduce((size, step) => size + step.bytes.length, 0)

/** Goes through the first `count` bytes of the handshake. Gives what the client waits for then. */
const until = (server: Server, count: number): Effect.Effect<string> =>
  Effect.gen(function*() {
    yield* server.header
    let left = count
    for (const { answers, bytes, phase } of steps) {
      if (left < bytes.length) {
        if (left > 0) yield* server.write(bytes.subarray(0, left))
        return phase
      }
      yield* server.write(bytes)
      for (const name of answers) yield* server.expect(0, name)
      left -= bytes.length
    }
    return "open"
  })

/** What a client fails with that is connected to this script; it writes nothing that the script does not read. */
const refusedBy = <A>(script: (server: Server) => Effect.Effect<A>, options: Options = {}) =>
  Effect.gen(function*() {
    const peer = yield* makePeer
    const [error, rest] = yield* both(
      failureOf(connect(peer, options)),
      Effect.gen(function*() {
        const server = yield* peer.accept
        yield* script(server)
        return yield* server.restLines
      })
    )
    return { error, rest }
  }).pipe(Effect.scoped)

/** As `refusedBy`, after a start of this kind has been answered. */
const refusedAfterStart = (script: (server: Server) => Effect.Effect<void>, options?: Options) =>
  refusedBy((server) =>
    Effect.gen(function*() {
      yield* server.header
      yield* server.send(0, connectionStart({ mechanisms: "PLAIN" }))
      yield* server.expect(0, "connection.start-ok")
      yield* script(server)
    }), options)

/** As `refusedBy`, while `connection.open` waits for its answer. */
const refusedAtOpen = (script: (server: Server) => Effect.Effect<void>, limits?: Partial<Limits>, options?: Options) =>
  refusedAfterStart((server) =>
    Effect.gen(function*() {
      yield* server.send(0, connectionTune(limits))
      yield* server.expect(0, "connection.tune-ok")
      yield* server.expect(0, "connection.open")
      yield* script(server)
    }), options)

/** What it means where the server hangs up in this phase, between two frames. */
const refusedIn: Readonly<Record<string, "AuthenticationFailed" | "NegotiationFailed">> = {
  "connection.start-ok": "AuthenticationFailed",
  "connection.secure-ok": "AuthenticationFailed",
  "connection.open": "NegotiationFailed"
}

/** Whether so many bytes of the handshake end a frame. */
const isWhole = (count: number): boolean => {
  let at = 0
  for (const { bytes } of steps) {
    if (at === count) return true
    at += bytes.length
  }
  return at === count
}

describe("a handshake that ends early", () => {
  for (const how of ["end", "reset"] as const) {
    it.live(
      `HS25 ${
        how === "end" ? "EOF" : "RST"
      } after every byte is a loss in its phase, but between frames the answer of a server that gives none`,
      () =>
        hostile(Effect.gen(function*() {
          const cuts = Array.from({ length: total + 1 }, (_, count) => count)
          yield* Effect.forEach(cuts, (count) =>
            Effect.gen(function*() {
              const peer = yield* makePeer
              const [error, phase] = yield* both(
                // Open after the last byte, and then lost.
                connect(peer, { mechanisms: [riddles] }).pipe(
                  Effect.flatMap(({ closed }) => closed),
                  Effect.catch((error) => Effect.succeed(error))
                ),
                Effect.gen(function*() {
                  const server = yield* peer.accept
                  const phase = yield* until(server, count)
                  yield* server.link[how]
                  assert.deepStrictEqual(yield* server.restLines, [])
                  return phase
                })
              )
              if (!(error instanceof AmqpConnectionError)) return assert.fail(`${error}`)
              const refusal = refusedIn[phase]
              if (refusal !== undefined && isWhole(count)) return void reasonOf(error, refusal)
              // A reset takes with it what has not been read yet.
              if (how === "reset" && error.reason._tag === refusal) return
              assert.strictEqual(reasonOf(error, "ConnectionLost").phase, phase, `after ${count} bytes`)
            }).pipe(Effect.scoped), { concurrency: 8, discard: true })
        })),
      20_000
    )
  }

  it.live("a peer that is gone before it has said a word", () =>
    hostile(Effect.gen(function*() {
      for (let run = 0; run < 20; run++) {
        const { error } = yield* refusedBy((server) => server.link.reset)
        if (!(error instanceof AmqpConnectionError)) return assert.fail(error._tag)
        // The system may report the reset while it still connects.
        assert.include(["ConnectionLost", "ConnectFailed"], error.reason._tag)
      }
    })))

  it.live("the attempt is interrupted at every step: the socket is gone", () =>
    hostile(Effect.gen(function*() {
      let count = 0
      for (const step of [undefined, ...steps.slice(0, -1)]) {
        count += step?.bytes.length ?? 0
        const peer = yield* makePeer
        const waiting = Effect.gen(function*() {
          const server = yield* peer.accept
          yield* until(server, count)
          return server
        })
        const server = yield* Effect.raceFirst(
          Effect.andThen(connect(peer, { mechanisms: [riddles] }), Effect.die("it opened")),
          waiting
        ).pipe(Effect.scoped)
        assert.deepStrictEqual(yield* server.restLines, [])
      }
    })))
})

describe("a handshake that stalls", () => {
  const boundaries = steps.map((_, index) => steps.slice(0, index).reduce((size, { bytes }) => size + bytes.length, 0))

  for (const [index, { phase }] of steps.entries()) {
    for (const into of [0, 5]) {
      it.live(`HandshakeTimeout names the step: ${phase}${into === 0 ? "" : ", in the middle of the answer"}`, () =>
        hostile(Effect.gen(function*() {
          const [elapsed, { error, rest }] = yield* Effect.timed(
            refusedBy((server) => until(server, (boundaries[index] ?? 0) + into), {
              mechanisms: [riddles],
              handshakeTimeout: "80 millis"
            })
          )
          const reason = reasonOf(error, "HandshakeTimeout")
          assert.strictEqual(reason.step, phase)
          assert.strictEqual(reason.timeoutMillis, 80)
          // No connection.close before the connection is open.
          assert.deepStrictEqual(rest, [])
          assert.isBelow(Duration.toMillis(elapsed), 1000)
        })))
    }
  }

  it.live("the timeout is for the whole handshake: dripping bytes and heartbeats do not extend it", () =>
    hostile(Effect.gen(function*() {
      const { error, rest } = yield* refusedBy(
        Effect.fnUntraced(function*(server) {
          yield* server.header
          for (const byte of steps[0]?.bytes.subarray(0, -1) ?? []) {
            yield* server.write(Uint8Array.of(byte))
            yield* Effect.sleep("2 millis")
          }
        }),
        { mechanisms: [riddles], handshakeTimeout: "80 millis" }
      )
      assert.strictEqual(reasonOf(error, "HandshakeTimeout").step, "the protocol header")
      assert.deepStrictEqual(rest, [])

      const beating = yield* refusedAfterStart((server) => {
        const beat: Effect.Effect<void> = Effect.gen(function*() {
          yield* server.write(heartbeat)
          yield* Effect.sleep("5 millis")
        })
        return Effect.raceFirst(Effect.forever(beat), Effect.asVoid(server.link.closed))
      }, { handshakeTimeout: "80 millis" })
      assert.strictEqual(reasonOf(beating.error, "HandshakeTimeout").step, "connection.start-ok")
    })))

  it.live("endless connection.secure ends with the timeout", () =>
    hostile(Effect.gen(function*() {
      const { error } = yield* refusedBy(
        Effect.fnUntraced(function*(server) {
          yield* until(server, steps[0]?.bytes.length ?? 0)
          const ask = Effect.andThen(
            server.send(0, { _tag: "connection.secure", challenge: bytes("again") }),
            server.expect(0, "connection.secure-ok")
          )
          // Until the client has gone.
          yield* Effect.ignoreCause(Effect.forever(ask))
        }),
        { mechanisms: [riddles], handshakeTimeout: "100 millis" }
      )
      assert.strictEqual(reasonOf(error, "HandshakeTimeout").step, "connection.secure-ok")
    })))
})

describe("a peer of another kind", () => {
  it.live("HS04 connection.start of version 8-0: ProtocolVersionMismatch, no start-ok", () =>
    hostile(Effect.gen(function*() {
      for (const [versionMajor, versionMinor] of [[8, 0], [0, 8], [0, 10], [1, 0], [255, 255]] as const) {
        const { error, rest } = yield* refusedBy((server) =>
          Effect.andThen(server.header, server.send(0, connectionStart({ versionMajor, versionMinor })))
        )
        assert.strictEqual(reasonOf(error, "ProtocolVersionMismatch").offered, `AMQP ${versionMajor}-${versionMinor}`)
        assert.deepStrictEqual(rest, [])
      }
    })))

  it.live("HS04 a protocol header of another version, in one piece and byte by byte", () =>
    hostile(Effect.gen(function*() {
      const header = Uint8Array.of(...protocolHeader.subarray(0, 4), 1, 1, 0, 10)
      for (const size of [8, 1]) {
        const { error, rest } = yield* refusedBy(Effect.fnUntraced(function*(server) {
          yield* server.header
          for (let at = 0; at < 8; at += size) {
            yield* server.write(header.subarray(at, at + size))
            yield* Effect.yieldNow
          }
          yield* server.link.end
        }))
        assert.strictEqual(reasonOf(error, "ProtocolVersionMismatch").offered, "AMQP 1-0-10")
        assert.deepStrictEqual(rest, [])
      }
    })))

  for (
    const [name, text] of [
      ["HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n"],
      ["SSH", "SSH-2.0-OpenSSH_9.2\r\n"],
      ["SMTP", "220 mail.example ESMTP\r\n"],
      ["TLS", "\x15\x03\x03\x00\x02\x02\x28"],
      ["a heartbeat", "\x08\x00\x00\x00\x00\x00\x00\u00ce"],
      ["zeros", "\0\0\0\0\0\0\0\0"]
    ] as const
  ) {
    it.live(`${name} is ProtocolVersionMismatch`, () =>
      hostile(Effect.gen(function*() {
        const { error, rest } = yield* refusedBy((server) =>
          Effect.andThen(server.header, server.write(new Uint8Array(Buffer.from(text, "latin1"))))
        )
        reasonOf(error, "ProtocolVersionMismatch")
        assert.deepStrictEqual(rest, [])
      })))
  }
})

describe("methods that do not belong there", () => {
  const violations: ReadonlyArray<readonly [name: string, step: number, bytes: Uint8Array, replyCode: number]> = [
    ["tune before start", 0, frame(0, connectionTune()), 503],
    ["secure before start", 0, frame(0, { _tag: "connection.secure", challenge: bytes("") }), 503],
    ["open-ok before start", 0, frame(0, { _tag: "connection.open-ok" }), 503],
    ["close-ok before start", 0, frame(0, { _tag: "connection.close-ok" }), 503],
    ["ML13 start twice", 1, frame(0, connectionStart({ mechanisms: "PLAIN" })), 503],
    [
      "secure for a mechanism that has no such step",
      1,
      frame(0, { _tag: "connection.secure", challenge: bytes("?") }),
      503
    ],
    ["open-ok before tune", 1, frame(0, { _tag: "connection.open-ok" }), 503],
    ["blocked before open", 1, frame(0, { _tag: "connection.blocked", reason: "disk" }), 503],
    ["ML13 tune twice", 2, frame(0, connectionTune()), 503],
    ["secure after tune", 2, frame(0, { _tag: "connection.secure", challenge: bytes("") }), 503],
    ["update-secret-ok", 2, frame(0, { _tag: "connection.update-secret-ok" }), 503],
    ["a method of the client", 2, frame(0, { _tag: "connection.open", virtualHost: "/" }), 503],
    ["a method that does not exist", 2, rawFrame(1, 0, [0, 10, 0, 99]), 503],
    ["a channel's method on channel 0", 2, frame(0, { _tag: "channel.open-ok" }), 504],
    ["a connection's method on channel 1", 2, frame(1, { _tag: "connection.open-ok" }), 504],
    ["a frame of channel 1", 2, frame(1, declareOk("q")), 504],
    ["a content header", 2, rawFrame(2, 0, [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 504],
    ["a body", 2, rawFrame(3, 0, [1, 2, 3]), 504],
    ["HS25 a frame of unknown type", 2, rawFrame(9, 0, [1, 2, 3]), 501],
    ["a frame with a wrong end", 2, rawFrame(1, 0, [0, 10, 0, 41, 0], 0xcd), 501],
    ["a method that ends early", 2, rawFrame(1, 0, [0, 10, 0, 41]), 502],
    ["a method with bytes after its fields", 2, rawFrame(1, 0, [0, 10, 0, 41, 0, 0]), 502],
    ["an empty method", 2, rawFrame(1, 0, []), 502],
    ["a start whose table is longer than the frame", 0, rawFrame(1, 0, [0, 10, 0, 10, 0, 9, 255, 255, 255, 255]), 502],
    ["a frame that announces 4 GiB", 0, Uint8Array.of(1, 0, 0, 255, 255, 255, 255), 501],
    ["a method of 1 MiB and a byte", 0, Uint8Array.of(1, 0, 0, 0, 0x10, 0, 1), 501]
  ]

  for (const [name, step, bad, replyCode] of violations) {
    it.live(`${name}: ProtocolViolation ${replyCode}`, () =>
      hostile(Effect.gen(function*() {
        const send = (server: Server) => server.write(bad)
        const { error, rest } = yield* step === 0
          ? refusedBy((server) => Effect.andThen(server.header, send(server)))
          : step === 1
          ? refusedAfterStart(send)
          : refusedAtOpen(send)
        assert.strictEqual(reasonOf(error, "ProtocolViolation").replyCode, replyCode)
        // Before open-ok there is no close to be negotiated.
        assert.deepStrictEqual(rest, [])
      })))
  }
})

describe("a refusal before anything was said", () => {
  for (
    const [replyCode, tag] of [[320, "ConnectionForced"], [530, "NotAllowed"], [403, "AuthenticationFailed"]] as const
  ) {
    it.live(`connection.close ${replyCode} in place of connection.start is ${tag}, and is answered`, () =>
      hostile(Effect.gen(function*() {
        const { error, rest } = yield* refusedBy((server) =>
          Effect.andThen(server.header, server.send(0, connectionClose(replyCode, "go away")))
        )
        reasonOf(error, tag)
        assert.deepStrictEqual(rest, ["0 connection.close-ok"])
      })))
  }
})

describe("authentication", () => {
  it.live("is refused with a word, or without one", () =>
    hostile(Effect.gen(function*() {
      const refused = yield* refusedAfterStart((server) =>
        server.send(0, connectionClose(403, "ACCESS_REFUSED - Login was refused"))
      )
      const reason = reasonOf(refused.error, "AuthenticationFailed")
      assert.strictEqual(reason.mechanism, "PLAIN")
      assert.strictEqual(reason.detail, "ACCESS_REFUSED - Login was refused")
      assert.deepStrictEqual(refused.rest, ["0 connection.close-ok"])

      for (const how of ["end", "reset"] as const) {
        const dropped = reasonOf((yield* refusedAfterStart((server) => server.link[how])).error, "AuthenticationFailed")
        assert.deepInclude(dropped, { mechanism: "PLAIN", unspoken: true })
        assert.match(dropped.message, /without saying why.*credentials.*mechanism/)
        assert.notMatch(dropped.message, /network/)
        // What fits into the first frame of any broker is not suspected of being too large.
        assert.notInclude(dropped.message, "initial_frame_max")
      }
    })))

  it.live("a refusal with the reset right behind it is one or the other, in time", () =>
    hostile(Effect.gen(function*() {
      for (let run = 0; run < 20; run++) {
        const { error } = yield* refusedAfterStart((server) =>
          Effect.andThen(server.send(0, connectionClose(403, "ACCESS_REFUSED")), server.link.reset)
        )
        if (!(error instanceof AmqpConnectionError)) return assert.fail(error._tag)
        assert.include(["AuthenticationFailed", "ConnectionLost"], error.reason._tag)
      }
    })))

  const refusals = [
    ["a vhost that does not exist", 530, "NotAllowed"],
    ["a vhost that is forbidden", 403, "NotAllowed"],
    ["402", 402, "InvalidPath"],
    ["320", 320, "ConnectionForced"],
    ["501", 501, "FrameError"],
    ["502", 502, "SyntaxError"],
    ["503", 503, "CommandInvalid"],
    ["504", 504, "ChannelError"],
    ["505", 505, "UnexpectedFrame"],
    ["506", 506, "ResourceError"],
    ["540", 540, "NotImplemented"],
    ["541", 541, "InternalError"],
    ["a soft code", 404, "UnknownReply"],
    ["an unknown code", 999, "UnknownReply"],
    ["code 0", 0, "UnknownReply"]
  ] as const

  for (const [name, replyCode, tag] of refusals) {
    it.live(`${name} in answer to open is ${tag}, and is answered`, () =>
      hostile(Effect.gen(function*() {
        const { error, rest } = yield* refusedAtOpen((server) => server.send(0, connectionClose(replyCode, "so")))
        const reason = reasonOf(error, tag)
        assert.strictEqual(reason.replyCode, replyCode)
        assert.strictEqual(reason.replyText, "so")
        assert.deepStrictEqual(rest, ["0 connection.close-ok"])
      })))
  }

  it.live("HS32 mechanisms with odd spacing, duplicates and case; the client's preference decides", () =>
    hostile(Effect.gen(function*() {
      const chosen = (mechanisms: string, options: Options) =>
        Effect.gen(function*() {
          const peer = yield* makePeer
          const [, { mechanism }] = yield* both(
            failureOf(connect(peer, options)),
            Effect.gen(function*() {
              const server = yield* peer.accept
              yield* server.header
              yield* server.send(0, connectionStart({ mechanisms }))
              const startOk = yield* server.expect(0, "connection.start-ok")
              yield* server.link.end
              return startOk
            })
          )
          return mechanism
        }).pipe(Effect.scoped)
      assert.strictEqual(yield* chosen("  AMQPLAIN   PLAIN PLAIN ", {}), "PLAIN")
      assert.strictEqual(yield* chosen("AMQPLAIN\tplain\n", {}), "plain")
      assert.strictEqual(yield* chosen("plain PLAIN", {}), "PLAIN")
      assert.strictEqual(yield* chosen("PLAIN amqplain", { mechanisms: ["AMQPLAIN", "PLAIN"] }), "amqplain")
      assert.strictEqual(yield* chosen("SCRAM-SHA-1 AMQPLAIN", {}), "AMQPLAIN")
      assert.strictEqual(yield* chosen("XPLAIN EXTERNAL PLAINX", { mechanisms: ["PLAIN", "EXTERNAL"] }), "EXTERNAL")
    })))

  it.live("HS32 no mechanism in common is AuthenticationFailed, no start-ok", () =>
    hostile(Effect.gen(function*() {
      for (const mechanisms of ["", " ", "SCRAM-SHA-1 EXTERNAL", "XPLAIN", "PLAIN,AMQPLAIN"]) {
        const { error, rest } = yield* refusedBy((server) =>
          Effect.andThen(server.header, server.send(0, connectionStart({ mechanisms })))
        )
        assert.strictEqual(reasonOf(error, "AuthenticationFailed").mechanism, "")
        assert.deepStrictEqual(rest, [])
      }
      const notUtf8: Method<AmqpTable.InputTable> = {
        ...connectionStart(),
        _tag: "connection.start",
        versionMajor: 0,
        versionMinor: 9,
        serverProperties: {},
        locales: bytes(""),
        mechanisms: Uint8Array.of(0xff, 0xfe)
      }
      const { error } = yield* refusedBy((server) => Effect.andThen(server.header, server.send(0, notUtf8)))
      reasonOf(error, "AuthenticationFailed")
    })))

  it.live("connection.secure in several rounds", () =>
    hostile(Effect.gen(function*() {
      const peer = yield* makePeer
      const [connection, server] = yield* both(
        connect(peer, { mechanisms: [riddles] }),
        Effect.gen(function*() {
          const server = yield* peer.accept
          yield* server.header
          yield* server.send(0, connectionStart({ mechanisms: "RIDDLES" }))
          assert.deepStrictEqual((yield* server.expect(0, "connection.start-ok")).response, bytes("ask"))
          for (let round = 0; round < 3; round++) {
            yield* server.send(0, { _tag: "connection.secure", challenge: Uint8Array.of(1, 2, round + 10) })
            const { response } = yield* server.expect(0, "connection.secure-ok")
            assert.deepStrictEqual(response, Uint8Array.of(round, round + 10, 2, 1))
          }
          yield* server.send(0, connectionTune({ heartbeat: 0 }))
          yield* server.expect(0, "connection.tune-ok")
          yield* server.expect(0, "connection.open")
          yield* server.send(0, { _tag: "connection.open-ok" })
          return server
        })
      )
      assert.strictEqual((yield* connection.server).mechanism, "RIDDLES")
      yield* server.link.reset
    })))

  it.live("a mechanism that throws fails with its name, and with nothing of what it threw", () =>
    hostile(Effect.gen(function*() {
      const broken = (round: number) =>
        AmqpAuth.make({
          name: "BROKEN",
          initialResponse: () => {
            if (round === 0) throw new Error(secret)
            return bytes("")
          },
          respond: () => {
            throw new Error(secret)
          }
        })
      const start = connectionStart({ mechanisms: "BROKEN" })
      for (const round of [0, 1]) {
        const { error, rest } = yield* refusedBy(
          Effect.fnUntraced(function*(server) {
            yield* server.header
            yield* server.send(0, start)
            if (round === 0) return
            yield* server.expect(0, "connection.start-ok")
            yield* server.send(0, { _tag: "connection.secure", challenge: bytes("?") })
          }),
          { mechanisms: [broken(round)] }
        )
        assert.strictEqual(reasonOf(error, "AuthenticationFailed").mechanism, "BROKEN")
        assert.deepStrictEqual(rest, [])
      }
    })))
})

describe("tuning", () => {
  const negotiated = (limits: Partial<Limits>, options: Options = {}) =>
    Effect.gen(function*() {
      const peer = yield* makePeer
      const [connection, { server, tuneOk }] = yield* both(
        connect(peer, options),
        Effect.gen(function*() {
          const server = yield* peer.accept
          yield* server.header
          yield* server.send(0, connectionStart({ mechanisms: "PLAIN" }))
          yield* server.expect(0, "connection.start-ok")
          yield* server.send(0, connectionTune({ heartbeat: 0, ...limits }))
          const { channelMax, frameMax } = yield* server.expect(0, "connection.tune-ok")
          yield* server.expect(0, "connection.open")
          yield* server.send(0, { _tag: "connection.open-ok" })
          return { server, tuneOk: { channelMax, frameMax } }
        })
      )
      yield* Effect.addFinalizer(() => server.link.reset)
      const { channelMax, frameMax } = (yield* connection.server).limits
      assert.deepStrictEqual({ channelMax, frameMax }, tuneOk)
      return { connection, server, tuneOk }
    })

  it.live("TU06 frame_max with the high bit set is a large number, and the connection works", () =>
    hostile(Effect.gen(function*() {
      for (const frameMax of [0x8000_0000, 0xffff_ffff]) {
        const own = yield* negotiated({ frameMax }, { frameMax: 131072 })
        assert.strictEqual(own.tuneOk.frameMax, 131072)
        const open = yield* negotiated({ frameMax })
        assert.isAbove(open.tuneOk.frameMax, 0)
        assert.isAtMost(open.tuneOk.frameMax, frameMax)
        const channel = yield* channelOn(open)
        yield* assertAlive(open, channel)
        const body = pattern(300_000)
        const [, published] = yield* both(channel.publish({ routingKey: "q", body }), open.server.publish(channel.id))
        assert.deepStrictEqual(published.body, body)
      }
    })))

  it.live("TU06 frame_max with the high bit set does not let the peer announce what no memory holds", () =>
    hostile(Effect.gen(function*() {
      for (const type of [1, 2]) {
        const { connection, server } = yield* negotiated({ frameMax: 0xffff_ffff })
        const before = process.memoryUsage().arrayBuffers
        // The first bytes of a frame of almost 4 GiB.
        yield* server.write(Uint8Array.of(type, 0, 0, 0xff, 0xff, 0xff, 0x00, 1))
        const reason = reasonOf(yield* connection.closed, "ProtocolViolation")
        assert.strictEqual(reason.replyCode, 501)
        assert.isBelow(process.memoryUsage().arrayBuffers - before, 64 * 1024 * 1024)
      }
    })))

  it.live("TU07 channel_max 0 leaves it to the client, up to 65535", () =>
    hostile(Effect.gen(function*() {
      assert.strictEqual((yield* negotiated({ channelMax: 0 }, { channelMax: 10 })).tuneOk.channelMax, 10)
      const open = yield* negotiated({ channelMax: 0 })
      assert.strictEqual(open.tuneOk.channelMax, 65535)
      yield* assertAlive(open, yield* channelOn(open, 65535))
      const error = yield* failureOf(openOn(open.connection, 65536))
      assert.strictEqual(error._tag, "AmqpEncodeError")
    })))

  it.live("frame_max 0 is no limit; one below 4096 is a ProtocolViolation", () =>
    hostile(Effect.gen(function*() {
      assert.strictEqual((yield* negotiated({ frameMax: 0 })).tuneOk.frameMax, 131072)
      for (const frameMax of [1, frameOverhead, 4095]) {
        const { error, rest } = yield* refusedAfterStart((server) => server.send(0, connectionTune({ frameMax })))
        assert.strictEqual(reasonOf(error, "ProtocolViolation").replyCode, 501)
        assert.deepStrictEqual(rest, [])
      }
    })))
})

describe("what the peer says of itself", () => {
  const started = (serverProperties: AmqpTable.InputTable) => connectionStart({ mechanisms: "PLAIN", serverProperties })

  it.live("properties of every type, nested, twice, with odd keys", () =>
    hostile(Effect.gen(function*() {
      const long = "x".repeat(maxUnsplitSize - 1000)
      const peer = yield* makePeer
      const [connection, server] = yield* both(
        connect(peer),
        Effect.gen(function*() {
          const server = yield* peer.accept
          yield* server.header
          yield* server.send(
            0,
            started(AmqpTable.table([
              ["product", AmqpTable.int32(7)],
              ["capabilities", AmqpTable.longString("none")],
              ["__proto__", AmqpTable.table([["polluted", AmqpTable.bool(true)]])],
              ["", AmqpTable.void],
              ["twice", AmqpTable.uint8(1)],
              ["twice", AmqpTable.uint8(2)],
              ["bytes", AmqpTable.longString(Uint8Array.of(0xff))],
              ["long", AmqpTable.longString(long)]
            ]))
          )
          yield* server.expect(0, "connection.start-ok")
          yield* server.send(0, connectionTune({ heartbeat: 0 }))
          yield* server.expect(0, "connection.tune-ok")
          yield* server.expect(0, "connection.open")
          yield* server.send(0, { _tag: "connection.open-ok" })
          return server
        })
      )
      const { capabilities, product, properties } = yield* connection.server
      assert.strictEqual(product, "")
      assert.strictEqual(capabilities.size, 0)
      assert.strictEqual(properties["twice"], 2)
      assert.strictEqual(properties["long"], long)
      assert.deepStrictEqual(properties["bytes"], Uint8Array.of(0xff))
      assert.isFalse("polluted" in {})
      yield* server.link.reset
    })))

  it.live("a table of a hundred thousand levels is a ProtocolViolation", () =>
    hostile(Effect.gen(function*() {
      // Each level: an empty key, the tag, a length.
      const levels = 150_000
      const table = new Uint8Array(4 + levels * 6)
      const view = new DataView(table.buffer)
      view.setUint32(0, table.length - 4)
      for (let level = 0; level < levels; level++) {
        const at = 4 + level * 6
        view.setUint8(at + 1, 0x46)
        view.setUint32(at + 2, table.length - at - 6)
      }
      const payload = concat([Uint8Array.of(0, 10, 0, 10, 0, 9), table, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0)])
      const head = new Uint8Array(7)
      head[0] = 1
      new DataView(head.buffer).setUint32(3, payload.length)
      const { error } = yield* refusedBy((server) =>
        Effect.andThen(server.header, server.write(head, payload, Uint8Array.of(0xce)))
      )
      assert.strictEqual(reasonOf(error, "ProtocolViolation").replyCode, 502)
    })))
})

describe("a client that cannot say what it was asked to", () => {
  it.live("options that no frame can hold fail typed, not by the timeout", () =>
    hostile(Effect.gen(function*() {
      const options: ReadonlyArray<Options> = [
        { vhost: "v".repeat(256) },
        { locale: "l".repeat(256) },
        { clientProperties: { bad: NaN } },
        { clientProperties: { long: "x".repeat(200_000) } }
      ]
      for (const option of options) {
        const peer = yield* makePeer
        const attempt = failureOf(connect(peer, { ...option, handshakeTimeout: "2 seconds" }))
        const server = Effect.andThen(
          Effect.flatMap(peer.accept, (server) => server.handshake()).pipe(Effect.ignoreCause),
          Effect.never
        )
        const [elapsed, error] = yield* Effect.timed(Effect.raceFirst(attempt, server))
        assert.strictEqual(error._tag, "AmqpEncodeError", JSON.stringify(option).slice(0, 40))
        assert.isBelow(Duration.toMillis(elapsed), 1500)
      }
    })))
})

describe("a broker that closes at once", () => {
  it.live("open-ok, close and EOF in one packet: open or refused, never stuck", () =>
    hostile(Effect.gen(function*() {
      const peer = yield* makePeer
      const [error] = yield* both(
        connect(peer).pipe(
          Effect.flatMap(({ closed }) => closed),
          Effect.catch((error) => Effect.succeed(error)),
          Effect.scoped
        ),
        Effect.gen(function*() {
          const server = yield* peer.accept
          yield* server.header
          yield* server.send(0, connectionStart({ mechanisms: "PLAIN" }))
          yield* server.expect(0, "connection.start-ok")
          yield* server.send(0, connectionTune({ heartbeat: 0 }))
          yield* server.expect(0, "connection.tune-ok")
          yield* server.expect(0, "connection.open")
          yield* server.send(0, { _tag: "connection.open-ok" }, connectionClose(320, "CONNECTION_FORCED"))
          yield* server.link.end
          assert.deepStrictEqual(yield* server.restLines, ["0 connection.close-ok"])
        })
      )
      assert.strictEqual(reasonOf(error, "ConnectionForced").replyText, "CONNECTION_FORCED")
    })))

  it.live("a connection that is lost in the same packet as open-ok fails what is done on it", () =>
    hostile(Effect.gen(function*() {
      const { connection, server } = yield* opened()
      yield* server.link.end
      const lost = yield* connection.closed
      assert.strictEqual(reasonOf(lost, "ConnectionLost").phase, "open")
      reasonOf(yield* failureOf(openOn(connection)), "ConnectionLost")
      assert.strictEqual((yield* connection.status)._tag, "Closed")
      assert.isTrue(Option.isSome(yield* Effect.timeoutOption(connection.close, "500 millis")))
    })))
})

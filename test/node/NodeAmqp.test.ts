/**
 * The options of the socket, on real ones: what the peer sees of them, and what the system says.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Layer, type Scope } from "effect"
import { Socket } from "effect/socket"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Tls from "node:tls"
import { inspect } from "node:util"
import { vi } from "vitest"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import { AmqpTransport, type Endpoint } from "../../src/AmqpTransport.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import { type Certs, makeCerts } from "../harness/certs.ts"

const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-amqp-"))
let certs: Certs | undefined

beforeAll(async () => {
  certs = await Effect.runPromise(makeCerts(folder))
}, 60_000)
afterAll(() => Fs.rmSync(folder, { recursive: true, force: true }))

const given = (): Certs => certs ?? assert.fail("no certificates")

/** A server that notes who connects. */
const serve = (make: (onSocket: (socket: Net.Socket) => void) => Net.Server, host: string) =>
  Effect.gen(function*() {
    const sockets: Array<Net.Socket> = []
    const server = make((socket) => {
      sockets.push(socket)
      socket.on("error", () => {})
    })
    yield* Effect.acquireRelease(
      Effect.callback<void>((resume) => void server.listen(0, host, () => resume(Effect.void))),
      () =>
        Effect.callback<void>((resume) => {
          for (const socket of sockets) socket.destroy()
          server.close(() => resume(Effect.void))
        })
    )
    const address = server.address()
    if (address === null || typeof address === "string") return assert.fail("not a TCP server")
    return { port: address.port, sockets }
  })

const plain = (host = "127.0.0.1") => serve((onSocket) => Net.createServer(onSocket), host)

const secure = (host = "127.0.0.1") =>
  serve((onSocket) => {
    const { server: { cert, key } } = given()
    return Tls.createServer({ cert: Fs.readFileSync(cert), key: Fs.readFileSync(key) }, onSocket)
  }, host)

/** Dials, and keeps the socket until the end of the scope. */
const dial = (endpoint: Endpoint, options?: NodeAmqp.SocketOptions) =>
  Effect.gen(function*() {
    const { connect } = yield* AmqpTransport
    yield* Effect.asVoid(Socket.readerBytes(yield* connect(endpoint)))
  }).pipe(Effect.provide(options === undefined ? NodeAmqp.layerTransport : NodeAmqp.layerTransportWith(options)))

const kinds: ReadonlyArray<
  readonly [kind: string, server: typeof plain, tls: () => Endpoint["tls"]]
> = [
  ["TCP", plain, () => undefined],
  ["TLS", secure, () => ({ caFile: given().ca })]
]

/** The timer of our side of a connection, in seconds, if it is one of keepalive: from the system's table. */
const keepAliveTimer = (port: number): number | undefined => {
  const remote = `0100007F:${port.toString(16).toUpperCase().padStart(4, "0")}`
  for (const line of Fs.readFileSync("/proc/net/tcp", "utf8").split("\n")) {
    const [, , to, state, , timer = ""] = line.trim().split(/\s+/)
    if (to !== remote || state !== "01") continue
    const [kind, when = ""] = timer.split(":")
    return kind === "02" ? parseInt(when, 16) / 100 : undefined
  }
  return assert.fail("no such connection")
}

describe.each(kinds)("a socket of %s", (_, serve, tls) => {
  it.live.runIf(process.platform === "linux")(
    "is probed after the time that is asked for, or not at all",
    () =>
      Effect.gen(function*() {
        const probed = Effect.fnUntraced(function*(options?: NodeAmqp.SocketOptions) {
          const { port } = yield* serve()
          yield* dial({ host: "127.0.0.1", port, tls: tls() }, options)
          return keepAliveTimer(port)
        })
        assert.isUndefined(yield* probed())
        assert.isUndefined(yield* probed({ keepAlive: false }))
        const after = (yield* probed({ keepAlive: true, keepAliveInitialDelay: "90 seconds" })) ??
          assert.fail("no timer")
        assert.isAtMost(after, 90)
        assert.isAbove(after, 80)
        assert.isDefined(yield* probed({ keepAlive: true }))
      }).pipe(Effect.scoped)
  )

  it.live("sends small writes at once, unless it is asked not to", () =>
    Effect.gen(function*() {
      const spy = vi.spyOn(Net.Socket.prototype, "setNoDelay")
      yield* Effect.addFinalizer(() => Effect.sync(() => spy.mockRestore()))
      const { port } = yield* serve()
      const asked = Effect.fnUntraced(function*(options?: NodeAmqp.SocketOptions) {
        spy.mockClear()
        yield* dial({ host: "127.0.0.1", port, tls: tls() }, options)
        return spy.mock.calls.map(([on]) => on)
      })
      assert.deepStrictEqual(yield* asked(), [true])
      assert.deepStrictEqual(yield* asked({ noDelay: true }), [true])
      assert.deepStrictEqual(yield* asked({ noDelay: false }), [false])
    }).pipe(Effect.scoped))

  it.live("comes from the address and port that are asked for", () =>
    Effect.gen(function*() {
      const { port, sockets } = yield* serve()
      const free = yield* Effect.map(plain(), ({ port }) => port).pipe(Effect.scoped)
      yield* dial({ host: "127.0.0.1", port, tls: tls() }, { localAddress: "127.0.0.1", localPort: free })
      yield* untilOne(sockets)
      assert.strictEqual(sockets[0]?.remoteAddress, "127.0.0.1")
      assert.strictEqual(sockets[0]?.remotePort, free)
    }).pipe(Effect.scoped))

  it.live.runIf(process.platform === "linux")(
    "comes from another address of this machine",
    () =>
      Effect.gen(function*() {
        const { port, sockets } = yield* serve()
        yield* dial({ host: "127.0.0.1", port, tls: tls() }, { localAddress: "127.0.0.7" })
        yield* untilOne(sockets)
        assert.strictEqual(sockets[0]?.remoteAddress, "127.0.0.7")
      }).pipe(Effect.scoped)
  )

  it.live("looks up addresses of the family that is asked for", () =>
    Effect.gen(function*() {
      const { port, sockets } = yield* serve()
      yield* dial({ host: "localhost", port, tls: tls() }, { family: 4, autoSelectFamily: false })
      yield* untilOne(sockets)
      const error = yield* Effect.flip(dial({ host: "localhost", port, tls: tls() }, { family: 6 }))
      assert.strictEqual(error._tag, "SocketError")
      assert.lengthOf(sockets, 1)
    }).pipe(Effect.scoped))
})

/** A TLS server hears of its client a moment after the client is done. */
const untilOne = (sockets: ReadonlyArray<Net.Socket>): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    const look = (): unknown => sockets.length > 0 ? resume(Effect.void) : setImmediate(look)
    look()
  })

describe("an option of the socket that cannot work", () => {
  const untyped = (options: object): NodeAmqp.SocketOptions => ({ ...options })

  const wrong: ReadonlyArray<readonly [options: object, path: string, says: RegExp]> = [
    [{ keepAlive: "yes" }, "keepAlive", /true or false, not "yes"$/],
    [{ noDelay: 1 }, "noDelay", /true or false, not 1$/],
    [{ autoSelectFamily: null }, "autoSelectFamily", /true or false, not null$/],
    [{ keepAlive: true, keepAliveInitialDelay: NaN }, "keepAliveInitialDelay", /not NaN$/],
    [{ keepAlive: true, keepAliveInitialDelay: 60 }, "keepAliveInitialDelay", /at least 1s/],
    [{ keepAlive: true, keepAliveInitialDelay: Infinity }, "keepAliveInitialDelay", /not for ever/],
    [{ keepAliveInitialDelay: "1 minute" }, "keepAliveInitialDelay", /keepAlive: true/],
    [{ family: 5 }, "family", /4 or 6, not 5$/],
    [{ family: "IPv4" }, "family", /4 or 6, not "IPv4"$/],
    [{ localAddress: "localhost" }, "localAddress", /an IP address of this machine, not "localhost"$/],
    [{ localAddress: "1.2.3.4:5" }, "localAddress", /an IP address/],
    [{ localAddress: "::1", family: 4 }, "localAddress", /IPv4 address, as family says/],
    [{ localPort: 0 }, "localPort", /from 1 to 65535, not 0$/],
    [{ localPort: "1" }, "localPort", /not "1"$/],
    [{ autoSelectFamilyAttemptTimeout: 5 }, "autoSelectFamilyAttemptTimeout", /at least 10ms/]
  ]

  it.effect.each(wrong)("%j", ([options, path, says]) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Effect.scoped(Effect.provide(
        AmqpTransport,
        NodeAmqp.layerTransportWith(untyped(options))
      )))
      assert.strictEqual(error.path, `options.socket.${path}`)
      assert.match(error.reason, says)
    }))

  it.effect("fails the layer of a connection, whose options may come from Config", () =>
    Effect.gen(function*() {
      const socket = { localAddress: "nowhere" }
      for (
        const layer of [
          NodeAmqp.layer({ socket }),
          NodeAmqp.layerConfig({ socket: { localAddress: Config.String("ADDRESS") } })
        ]
      ) {
        const config = ConfigProvider.layer(ConfigProvider.fromUnknown({ ADDRESS: "nowhere" }))
        const error = yield* AmqpConnection.pipe(Effect.provide(Layer.provide(layer, config)), Effect.flip)
        assert.deepInclude(error, { _tag: "AmqpEncodeError", path: "options.socket.localAddress" })
      }
    }))

  it.live("with good ones a connection dials as they say", () =>
    Effect.gen(function*() {
      const { port, sockets } = yield* plain()
      const layer = NodeAmqp.layer({
        host: "127.0.0.1",
        port,
        handshakeTimeout: "5 seconds",
        socket: { localAddress: "127.0.0.1" }
      })
      const attempt: Effect.Effect<unknown, unknown, Scope.Scope> = AmqpConnection.pipe(
        Effect.provide(layer),
        Effect.exit
      )
      yield* Effect.forkScoped(attempt)
      yield* untilOne(sockets)
      assert.strictEqual(sockets[0]?.remoteAddress, "127.0.0.1")
    }).pipe(Effect.scoped))
})

describe("an option of TLS that cannot work", () => {
  const untyped = (options: object): NodeAmqp.Options => ({ ...options })

  it.live.each([
    { servername: 5 },
    { key: "s3cret" },
    { passphrase: "s3cret" },
    { ca: 5 },
    { verify: 0 }
  ])("fails the layer before anything is dialed, and is not repeated: %j", (tls) =>
    Effect.gen(function*() {
      const { port, sockets } = yield* secure()
      const error = yield* Effect.flip(Layer.build(NodeAmqp.layer(untyped({ host: "127.0.0.1", port, tls }))))
      assert.deepInclude(error, { _tag: "AmqpEncodeError", path: `options.tls.${Object.keys(tls)[0]}` })
      assert.notInclude(inspect(error, { depth: Infinity, showHidden: true }), "s3cret")
      assert.deepStrictEqual(sockets, [])
    }).pipe(Effect.scoped))
})

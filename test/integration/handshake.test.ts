/**
 * How a connection comes about, or does not: RabbitMQ's answers to credentials, mechanisms, vhosts and URIs, and peers
 * that do not answer. Peers that lie are in `test/hostile`.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Fiber, Redacted, Stream } from "effect"
import { Socket } from "effect/socket"
import { TestClock } from "effect/testing"
import * as AmqpAuth from "../../src/AmqpAuth.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpError from "../../src/AmqpError.ts"
import type * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import { AmqpTransport } from "../../src/AmqpTransport.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { freePort } from "../harness/listen.ts"
import { makeProxy } from "../harness/proxy.ts"
import { makeScripted } from "../harness/scripted.ts"
import { canControl, isRabbitMQ, onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { memoryBroker } from "./memoryBroker.ts"
import { runProgram } from "./program.ts"
import { connect, methodsOf, nextMethod, noReconnect, openOn, printed, refusal, skipHeader } from "./support.ts"

const credentials = (username: string, password: string): AmqpAuth.Credentials => ({
  username,
  password: Redacted.make(password)
})

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

/** A user who may do everything in the vhost, until the scope ends. */
const makeUser = Effect.fnUntraced(function*(username: string, password: string) {
  const { addUser, deleteUser, setPermissions } = yield* Broker.control
  yield* Effect.acquireRelease(addUser(username, password), () => Effect.orDie(deleteUser(username)))
  yield* setPermissions(username, (yield* Vhost).name)
  return credentials(username, password)
})

/** What `connection.start-ok` said with these options. */
const startOk = Effect.fnUntraced(function*(options: AmqpConnection.Options) {
  const proxy = yield* makeProxy(yield* Broker)
  yield* connect({ host: proxy.host, port: proxy.port, ...options })
  const link = yield* proxy.accept
  yield* skipHeader(link)
  return yield* nextMethod(link, "up", "connection.start-ok")
})

layer(onVhost, { excludeTestServices: true })("the handshake", (it) => {
  it.effect("HS01 guest opens a connection and a channel, and learns what the broker is", () =>
    noLeaks(Effect.gen(function*() {
      const connection = yield* connect()
      const server = yield* connection.server
      assert.strictEqual(server.product, "RabbitMQ")
      assert.match(server.version, /^\d+\.\d+\.\d+/)
      assert.strictEqual(server.mechanism, "PLAIN")
      assert.isTrue(server.capabilities.has("publisher_confirms"))
      assert.isTrue(server.capabilities.has("basic.nack"))
      assert.match(`${server.properties["platform"]}`, isRabbitMQ ? /^Erlang/ : /^effect$/)
      const { host, port } = yield* Broker
      assert.deepInclude(yield* connection.status, {
        _tag: "Open",
        epoch: 1,
        endpoint: `amqp://${host}:${port}`,
        server
      })
      const channel = yield* openOn(connection)
      yield* channel.close
      yield* connection.close
    })))

  it.effect("HS01 byte by byte in both directions", () =>
    noLeaks(Effect.gen(function*() {
      const proxy = yield* makeProxy(yield* Broker)
      yield* proxy.set("up", { slice: 1 })
      yield* proxy.set("down", { slice: 1 })
      const connection = yield* connect({ host: proxy.host, port: proxy.port })
      assert.isTrue((yield* connection.server).capabilities.has("consumer_cancel_notify"))
      yield* openOn(connection)
    })))

  it.effect("HS02 the protocol header is the first to be sent, before anything is received", () =>
    Effect.gen(function*() {
      const peer = yield* makeScripted
      const attempt = yield* Effect.forkChild(refusal({ host: "127.0.0.1", port: peer.port }))
      const connection = yield* peer.accept
      assert.deepStrictEqual([...yield* connection.read(8)], [...bytes("AMQP"), 0, 0, 9, 1])
      yield* connection.end
      assert.deepInclude(yield* Fiber.join(attempt), { _tag: "ConnectionLost", phase: "the protocol header" })
    }))

  it.effect("HS06 a wrong password is AuthenticationFailed within 2 s, and the socket is closed", () =>
    noLeaks(Effect.gen(function*() {
      const proxy = yield* makeProxy(yield* Broker)
      const { host, port } = proxy
      const reason = yield* refusal({ host, port, credentials: credentials("guest", "wrong") }).pipe(
        Effect.timeout("2 seconds")
      )
      assert.deepInclude(reason, { _tag: "AuthenticationFailed", mechanism: "PLAIN" })
      assert.include(reason.message, "ACCESS_REFUSED")
      assert.isFalse(AmqpError.isTransient(new AmqpError.AmqpConnectionError({ reason })))
      const link = yield* proxy.accept
      yield* link.closed
      // The broker's refusal is answered, and nothing comes after the answer.
      assert.deepStrictEqual(yield* methodsOf(link, "up"), ["0 connection.start-ok", "0 connection.close-ok"])
    })))

  it.effect("HS07 an unknown user is AuthenticationFailed, and no form of the error shows the password", () =>
    noLeaks(Effect.gen(function*() {
      const secret = "correct-horse-battery"
      for (const mechanisms of [["PLAIN"], ["AMQPLAIN"]] as const) {
        const error = yield* connect({ mechanisms, credentials: credentials("nobody", secret) }).pipe(
          Effect.scoped,
          Effect.flip
        )
        assert.deepNestedInclude(error, { "reason._tag": "AuthenticationFailed", "reason.mechanism": mechanisms[0] })
        assert.notInclude(printed(error), secret)
      }
    })))

  it.effect("HS10 AMQPLAIN is the bare fields of a table", () =>
    noLeaks(Effect.gen(function*() {
      const { mechanism, response } = yield* startOk({
        mechanisms: ["AMQPLAIN"],
        credentials: credentials("guest", "guest")
      })
      assert.strictEqual(mechanism, "AMQPLAIN")
      const fields = [5, ..."LOGIN", "S", 0, 0, 0, 5, ..."guest", 8, ..."PASSWORD", "S", 0, 0, 0, 5, ..."guest"]
      assert.deepStrictEqual(
        [...response],
        fields.map((field) => typeof field === "string" ? field.charCodeAt(0) : field)
      )
    })))

  it.effect("HS17 the vhost of amqp://host/ and amqp://host is \"/\", an empty one is an option", () =>
    noLeaks(Effect.gen(function*() {
      const { host, port } = yield* Broker
      const authority = new URL(yield* Effect.map(Broker, ({ amqpUrl }) => amqpUrl)).host
      assert.strictEqual(authority, `${host}:${port}`)
      const empty = yield* refusal({ url: `amqp://${authority}/`, vhost: "" })
      assert.deepInclude(empty, { _tag: "NotAllowed", replyCode: 530, classId: 10, methodId: 40, vhost: "" })
      assert.include(empty.message, "the default vhost is \"/\"")
      const proxy = yield* makeProxy({ host, port })
      for (const path of ["", "/", "/%2f", "/?heartbeat=5"]) {
        yield* connect({ url: `amqp://guest:guest@${proxy.host}:${proxy.port}${path}` })
        const link = yield* proxy.accept
        yield* skipHeader(link)
        assert.strictEqual((yield* nextMethod(link, "up", "connection.open")).virtualHost, "/", path)
      }
    })))

  it.effect("HS19 an invalid URI is refused before anything is connected", () =>
    Effect.gen(function*() {
      const attempts: Array<unknown> = []
      const transport = AmqpTransport.of({
        connect: (endpoint) => {
          attempts.push(endpoint)
          return Effect.die("dialed")
        }
      })
      const secret = "12/34?56"
      for (
        const url of [
          "http://localhost",
          "amqp://localhost/a/b",
          "amqp://localhost/%xx",
          "amqp://localhost:70000",
          `amqp://guest:${secret}@localhost/%2f`,
          "amqp://localhost?heartbeat=never",
          "amqp://localhost?verify=verify_none",
          ""
        ]
      ) {
        const error = yield* AmqpConnection.make({ url: Redacted.make(url) }).pipe(
          Effect.provideService(AmqpTransport, transport),
          Effect.scoped,
          Effect.flip
        )
        assert.strictEqual(error._tag, "AmqpUriError", url)
        assert.notInclude(printed(error), secret)
      }
      const options: ReadonlyArray<readonly [string, AmqpConnection.Options]> = [
        ["port", { port: 0 }],
        ["port", { port: 70_000 }],
        ["url", { url: "amqps://localhost?depth=3" }],
        ["connectTimeout", { connectTimeout: 0 }],
        ["handshakeTimeout", { handshakeTimeout: "0 seconds" }],
        ["maxMessageSize", { maxMessageSize: 0.5 }]
      ]
      for (const [path, wrong] of options) {
        const error = yield* AmqpConnection.make(wrong).pipe(
          Effect.provideService(AmqpTransport, transport),
          Effect.scoped,
          Effect.flip
        )
        assert.strictEqual(error._tag === "AmqpEncodeError" && error.path, `options.${path}`)
      }
      assert.deepStrictEqual(attempts, [])
    }))

  it.effect("HS20 the parameters of a URI apply, and options come before them", () =>
    noLeaks(Effect.gen(function*() {
      const { amqpUrl } = yield* Vhost
      const url = Redacted.make(`${amqpUrl}?heartbeat=13&channel_max=7&auth_mechanism=AMQPLAIN&auth_mechanism=PLAIN`)
      const one = yield* Effect.flatMap(connect({ url }), ({ server }) => server)
      assert.strictEqual(one.mechanism, "AMQPLAIN")
      assert.deepInclude(one.limits, { heartbeat: 13, channelMax: 7 })
      const two = yield* connect({ url, heartbeat: "14 seconds", channelMax: 8, mechanisms: ["PLAIN"] }).pipe(
        Effect.flatMap(({ server }) => server)
      )
      assert.strictEqual(two.mechanism, "PLAIN")
      assert.deepInclude(two.limits, { heartbeat: 14, channelMax: 8 })
    })))

  it.effect("HS20 connection_timeout bounds the socket and TLS", () =>
    Effect.gen(function*() {
      const peer = yield* makeScripted
      const reason = yield* refusal({ url: `amqps://127.0.0.1:${peer.port}?connection_timeout=150` })
      assert.deepInclude(reason, { _tag: "ConnectFailed", endpoint: `amqps://127.0.0.1:${peer.port}`, code: "" })
      assert.include(reason.message, "150 ms")
      yield* (yield* peer.accept).closed
    }))

  it.effect("HS21 a closed port is ConnectFailed at once", () =>
    Effect.gen(function*() {
      const port = yield* freePort
      for (const host of ["127.0.0.1", "localhost"]) {
        const reason = yield* refusal({ url: "amqp://localhost", host, port }).pipe(Effect.timeout("1 second"))
        assert.deepInclude(reason, { _tag: "ConnectFailed", code: "ECONNREFUSED", endpoint: `amqp://${host}:${port}` })
        assert.include(reason.message, "ECONNREFUSED")
        assert.isTrue(AmqpError.isTransient(new AmqpError.AmqpConnectionError({ reason })))
      }
    }))

  it.effect("HS21 a host without an address is ConnectFailed", () =>
    Effect.gen(function*() {
      const reason = yield* refusal({ url: "amqp://no-such-host.invalid" })
      assert.deepInclude(reason, { _tag: "ConnectFailed", endpoint: "amqp://no-such-host.invalid:5672" })
      assert.match(reason._tag === "ConnectFailed" ? reason.code : "", /^(ENOTFOUND|EAI_AGAIN)$/)
    }))

  it.effect("HS21 after a refused connection nothing keeps the process alive", () =>
    Effect.gen(function*() {
      const port = yield* freePort
      const program = yield* runProgram(`
        import { Effect } from "effect"
        import * as AmqpConnection from "src/AmqpConnection.ts"
        import { layerTransport } from "src/NodeAmqp.ts"
        const error = await Effect.runPromise(
          AmqpConnection.make({ host: "127.0.0.1", port: ${port} }).pipe(
            Effect.scoped, Effect.provide(layerTransport), Effect.flip))
        console.log(error.reason._tag)`)
      assert.strictEqual(yield* program.line, "ConnectFailed")
      assert.strictEqual(yield* Effect.timeout(program.exited, "5 seconds"), 0)
    }))

  it.effect("HS27 the client says what it is, and the user may say otherwise", () =>
    noLeaks(Effect.gen(function*() {
      const plain = yield* startOk({ connectionName: "orders ✓" })
      assert.strictEqual(plain.locale, "en_US")
      const { capabilities, connection_name, platform, product, version } = plain.clientProperties
      assert.deepStrictEqual({ product, platform, connection_name }, {
        product: "effect-amqp",
        platform: "JavaScript",
        connection_name: "orders ✓"
      })
      assert.match(String(version), /^\d+\.\d+\.\d+$/)
      assert.deepStrictEqual(capabilities, {
        publisher_confirms: true,
        exchange_exchange_bindings: true,
        "basic.nack": true,
        consumer_cancel_notify: true,
        "connection.blocked": true,
        consumer_priorities: true,
        authentication_failure_close: true,
        per_consumer_qos: true
      })
      const own = yield* startOk({
        connectionName: undefined,
        clientProperties: { product: "billing", nested: { since: 1999n }, none: null }
      })
      assert.strictEqual(own.clientProperties["product"], "billing")
      assert.deepStrictEqual(own.clientProperties["nested"], { since: 1999 })
      assert.isNull(own.clientProperties["none"])
      assert.deepStrictEqual(own.clientProperties["capabilities"], capabilities)
      assert.notProperty(own.clientProperties, "connection_name")
    })))

  it.effect("client properties that have no form on the wire are an AmqpEncodeError, not a broken connection", () =>
    noLeaks(Effect.gen(function*() {
      for (const clientProperties of [{ ["k".repeat(256)]: 1 }, { nan: NaN }, { big: "x".repeat(200_000) }]) {
        const error = yield* connect({ clientProperties }).pipe(Effect.scoped, Effect.flip)
        assert.strictEqual(error._tag, "AmqpEncodeError")
      }
      const error = yield* connect({ vhost: "v".repeat(256) }).pipe(Effect.scoped, Effect.flip)
      assert.strictEqual(error._tag, "AmqpEncodeError")
    })))

  it.effect("credentials may be an Effect, which is run for the attempt", () =>
    noLeaks(Effect.gen(function*() {
      let asked = 0
      yield* connect({
        credentials: Effect.sync(() => {
          asked++
          return credentials("guest", "guest")
        })
      })
      assert.strictEqual(asked, 1)
      const reason = new AmqpError.AuthenticationFailed({ mechanism: "", detail: "no token" })
      const failing = yield* refusal({ credentials: Effect.fail(new AmqpError.AmqpConnectionError({ reason })) })
      assert.strictEqual(failing, reason)
    })))

  it.effect("no mechanism in common is AuthenticationFailed", () =>
    noLeaks(Effect.gen(function*() {
      const reason = yield* refusal({ mechanisms: ["ANONYMOUS"] })
      assert.deepInclude(reason, { _tag: "AuthenticationFailed", mechanism: "" })
      assert.include(reason.message, "ANONYMOUS")
      assert.include(reason.message, "AMQPLAIN")
    })))

  it.effect("layers take options and Config", () =>
    noLeaks(Effect.gen(function*() {
      const { amqpUrl } = yield* Vhost
      const state = Effect.map(AmqpConnection.AmqpConnection.use(({ status }) => status), ({ _tag }) => _tag)
      assert.strictEqual(yield* Effect.provide(state, NodeAmqp.layer({ url: Redacted.make(amqpUrl) })), "Open")
      const fromConfig = Effect.provide(state, NodeAmqp.layerConfig({ url: Config.Redacted("AMQP_URL") }))
      const config = (values: object) => ConfigProvider.layer(ConfigProvider.fromUnknown(values))
      assert.strictEqual(yield* Effect.provide(fromConfig, config({ AMQP_URL: amqpUrl })), "Open")
      assert.strictEqual((yield* Effect.flip(Effect.provide(fromConfig, config({}))))._tag, "ConfigError")
    })))

  it.effect("an interrupted attempt closes its socket", () =>
    Effect.gen(function*() {
      const peer = yield* makeScripted
      const attempt = yield* Effect.forkChild(refusal({ host: "127.0.0.1", port: peer.port }))
      const connection = yield* peer.accept
      yield* connection.read(8)
      yield* Effect.timeout(Fiber.interrupt(attempt), "1 second")
      yield* connection.closed
      const dialing = yield* Effect.forkChild(refusal({ host: "127.0.0.1", port: peer.port, tls: true }))
      const hello = yield* peer.accept
      yield* hello.read(1)
      yield* Effect.timeout(Fiber.interrupt(dialing), "1 second")
      yield* hello.closed
    }))

  describe.runIf(canControl)("with users and vhosts of its own", () => {
    // The embedded broker has no mechanism that asks back.
    it.effect.runIf(isRabbitMQ)(
      "HS13 RABBIT-CR-DEMO answers the broker's challenge",
      () =>
        noLeaks(Effect.gen(function*() {
          const challenges: Array<string> = []
          const mechanism = (password: string) =>
            AmqpAuth.make({
              name: "RABBIT-CR-DEMO",
              initialResponse: () => bytes("guest"),
              respond: (challenge, round) => {
                challenges.push(`${round} ${new TextDecoder().decode(challenge)}`)
                return bytes(`My password is ${password}`)
              }
            })
          const connection = yield* connect({ mechanisms: [mechanism("guest")] })
          assert.strictEqual((yield* connection.server).mechanism, "RABBIT-CR-DEMO")
          assert.deepStrictEqual(challenges, ["0 Please tell me your password"])
          const reason = yield* refusal({ mechanisms: [mechanism("wrong")] })
          assert.deepInclude(reason, { _tag: "AuthenticationFailed", mechanism: "RABBIT-CR-DEMO" })
        }))
    )

    it.effect.runIf(isRabbitMQ)(
      "HS13 a step that throws is AuthenticationFailed, without what it threw",
      () =>
        noLeaks(Effect.gen(function*() {
          const mechanism = AmqpAuth.make({
            name: "RABBIT-CR-DEMO",
            initialResponse: () => bytes("guest"),
            respond: () => {
              throw new Error("hunter2")
            }
          })
          const reason = yield* refusal({ mechanisms: [mechanism] })
          assert.deepInclude(reason, { _tag: "AuthenticationFailed", mechanism: "RABBIT-CR-DEMO" })
          assert.notInclude(printed(reason), "hunter2")
        }))
    )

    it.effect("HS14 names and passwords are UTF-8", () =>
      noLeaks(Effect.gen(function*() {
        const user = yield* makeUser(uniqueName("üser✓"), "pässwörd✓")
        for (const mechanisms of [["PLAIN"], ["AMQPLAIN"]] as const) {
          yield* connect({ mechanisms, credentials: user })
        }
        const { held } = yield* Broker.control
        const users = (yield* held({})).connections.map((connection) => connection.user)
        assert.deepStrictEqual(users, [user.username, user.username])
      })))

    it.effect("HS16 a vhost without permission, and one that does not exist, are NotAllowed", () =>
      noLeaks(Effect.gen(function*() {
        const user = yield* makeUser(uniqueName("user"), "secret")
        const forbidden = yield* refusal({ credentials: user, vhost: "/" })
        assert.deepInclude(forbidden, { _tag: "NotAllowed", replyCode: 530, classId: 10, methodId: 40 })
        assert.include(forbidden.message, user.username)
        const missing = yield* refusal({ vhost: "no-such-vhost" })
        assert.deepInclude(missing, { _tag: "NotAllowed", replyCode: 530 })
        assert.include(missing.message, "no-such-vhost")
        assert.isFalse(AmqpError.isTransient(new AmqpError.AmqpConnectionError({ reason: missing })))
      })))

    // The embedded broker has no limits of vhosts and users.
    it.effect.runIf(isRabbitMQ)(
      "HS29 a vhost's and a user's connection limit are NotAllowed, and transient",
      () =>
        Effect.gen(function*() {
          const { ctl } = yield* Broker.rabbitmq
          const vhost = yield* Vhost
          yield* ctl("set_vhost_limits", "-p", vhost.name, `{"max-connections": 1}`)
          yield* noLeaks(Effect.gen(function*() {
            yield* connect()
            const reason = yield* refusal({})
            assert.deepInclude(reason, { _tag: "NotAllowed", replyCode: 530 })
            assert.include(reason.message, "connection limit")
            assert.isTrue(AmqpError.isTransient(new AmqpError.AmqpConnectionError({ reason })))
          }))
          yield* ctl("clear_vhost_limits", "-p", vhost.name)
          const user = yield* makeUser(uniqueName("user"), "secret")
          yield* ctl("set_user_limits", user.username, `{"max-connections": 1}`)
          yield* noLeaks(Effect.gen(function*() {
            yield* connect({ credentials: user })
            const reason = yield* refusal({ credentials: user })
            assert.deepInclude(reason, { _tag: "NotAllowed", replyCode: 530 })
            assert.isTrue(AmqpError.isTransient(new AmqpError.AmqpConnectionError({ reason })))
          }))
        }).pipe(Effect.provideServiceEffect(Vhost, Vhost.make), Effect.scoped)
    )

    it.effect("a broker that is stopped in its tracks is HandshakeTimeout, and its socket is closed", () =>
      noLeaks(Effect.gen(function*() {
        const { pause } = yield* Broker.control
        const proxy = yield* makeProxy(yield* Broker)
        const { host, port } = proxy
        yield* Effect.scoped(Effect.gen(function*() {
          yield* pause
          const reason = yield* refusal({ host, port, handshakeTimeout: "200 millis" })
          assert.deepInclude(reason, { _tag: "HandshakeTimeout", step: "the protocol header", timeoutMillis: 200 })
          const link = yield* proxy.accept
          yield* Effect.flip(link.read("up", 9)) // the header, then the end
        }))
      })))
  })
})

describe("the handshake, in memory", () => {
  const open = (broker: ReturnType<typeof memoryBroker>, options: AmqpConnection.Options = {}) =>
    AmqpConnection.make({ reconnect: noReconnect, ...options }).pipe(
      Effect.provideService(AmqpTransport, broker.transport)
    )

  it.effect("no socket within 10 s is ConnectFailed", () =>
    Effect.gen(function*() {
      const socket = Socket.make({
        reader: Effect.never,
        writer: Effect.succeed({ write: () => Effect.void, writeAll: () => Effect.void })
      })
      const transport = AmqpTransport.of({ connect: () => Effect.succeed(socket) })
      const attempt = yield* AmqpConnection.make({ host: "h" }).pipe(
        Effect.provideService(AmqpTransport, transport),
        Effect.scoped,
        Effect.flip,
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust(9_999)
      assert.isUndefined(attempt.pollUnsafe())
      yield* TestClock.adjust(1)
      const error = yield* Fiber.join(attempt)
      assert.deepNestedInclude(error, { "reason._tag": "ConnectFailed", "reason.endpoint": "amqp://h:5672" })
    }))

  const timesOut = (script: Parameters<typeof memoryBroker>[0], step: string) =>
    Effect.gen(function*() {
      const broker = memoryBroker(script)
      const attempt = yield* Effect.forkChild(Effect.flip(Effect.scoped(open(broker))), { startImmediately: true })
      yield* TestClock.adjust(9_999)
      assert.isUndefined(attempt.pollUnsafe())
      assert.isFalse(broker.isClosed())
      yield* TestClock.adjust(1)
      const error = yield* Fiber.join(attempt)
      assert.deepNestedInclude(error, { "reason._tag": "HandshakeTimeout", "reason.step": step })
      assert.isTrue(AmqpError.isTransient(error))
      assert.isTrue(broker.isClosed())
    })

  it.effect("no answer to start-ok within 10 s is HandshakeTimeout", () =>
    timesOut({ script: { "connection.start-ok": () => [] } }, "connection.start-ok"))

  it.effect("no answer to open within 10 s is HandshakeTimeout", () =>
    timesOut({ script: { "connection.open": () => [] } }, "connection.open"))

  it.effect("HS13 any number of rounds", () =>
    Effect.gen(function*() {
      const answers: Array<string> = []
      let asked = 0
      const challenge = (): ReadonlyArray<AmqpProtocol.Method> =>
        asked++ < 3
          ? [{ _tag: "connection.secure", challenge: bytes(`question ${asked}`) }]
          : [{ _tag: "connection.tune", channelMax: 1, frameMax: 4096, heartbeat: 0 }]
      const broker = memoryBroker({ script: { "connection.start-ok": challenge, "connection.secure-ok": challenge } })
      const mechanism = AmqpAuth.make({
        name: "plain",
        initialResponse: () => bytes("hello"),
        respond: (challenge, round) => {
          answers.push(`${round} ${new TextDecoder().decode(challenge)}`)
          return Uint8Array.of(round)
        }
      })
      const connection = yield* open(broker, { mechanisms: [mechanism] })
      assert.deepStrictEqual(answers, ["0 question 1", "1 question 2", "2 question 3"])
      const sent = broker.received.flatMap((frame) =>
        frame._tag === "Method" && frame.method._tag === "connection.secure-ok" ? [...frame.method.response] : []
      )
      assert.deepStrictEqual(sent, [0, 1, 2])
      // The broker's spelling of the mechanism is the one that is sent back.
      assert.strictEqual((yield* connection.server).mechanism, "PLAIN")
    }))

  it.effect("a challenge that a mechanism does not expect is a ProtocolViolation", () =>
    Effect.gen(function*() {
      const broker = memoryBroker({
        script: { "connection.start-ok": () => [{ _tag: "connection.secure", challenge: bytes("?") }] }
      })
      const error = yield* Effect.flip(Effect.scoped(open(broker)))
      assert.deepNestedInclude(error, { "reason._tag": "ProtocolViolation", "reason.replyCode": 503 })
    }))

  it.effect("an answer of a mechanism that has no form on the wire is AuthenticationFailed", () =>
    Effect.gen(function*() {
      const broker = memoryBroker()
      const mechanism = AmqpAuth.make({ name: "PLAIN", initialResponse: () => new Uint8Array(200_000) })
      const error = yield* Effect.flip(Effect.scoped(open(broker, { mechanisms: [mechanism] })))
      assert.deepNestedInclude(error, { "reason._tag": "AuthenticationFailed", "reason.mechanism": "PLAIN" })
      assert.deepStrictEqual(broker.received, [])
      assert.isTrue(broker.isClosed())
    }))

  it.effect("a transport that is broken ends the attempt, typed", () =>
    Effect.gen(function*() {
      const pull = Effect.die(new Error("not a socket"))
      const socket = Socket.make({
        reader: Effect.succeed({ pull, upgrade: Socket.SocketUpgradeError.unsupported }),
        writer: Effect.succeed({ write: () => Effect.void, writeAll: () => Effect.void })
      })
      const transport = AmqpTransport.of({ connect: () => Effect.succeed(socket) })
      const error = yield* Effect.flip(
        Effect.scoped(Effect.provideService(AmqpConnection.make(), AmqpTransport, transport))
      )
      assert.deepNestedInclude(error, { "reason._tag": "ConnectionLost", "reason.phase": "the protocol header" })
      assert.include(error.message, "not a socket")
    }))

  it.effect("a broker that is blocked from the first moment on shows it", () =>
    Effect.gen(function*() {
      const broker = memoryBroker({
        script: {
          "connection.open": () => [
            { _tag: "connection.open-ok" },
            { _tag: "connection.blocked", reason: "low on disk" }
          ]
        }
      })
      const connection = yield* open(broker)
      const next = (tag: AmqpConnection.Status["_tag"]) =>
        Stream.runHead(Stream.filter(connection.changes, ({ _tag }) => _tag === tag))
      yield* next("Blocked")
      assert.deepStrictEqual(yield* connection.status, { _tag: "Blocked", epoch: 1, reason: "low on disk" })
      broker.send({ _tag: "connection.unblocked" })
      yield* next("Open")
      assert.strictEqual((yield* connection.status)._tag, "Open")
    }))
})

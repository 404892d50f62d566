/**
 * TLS: whom the client trusts, who it says it is, and how it tells what went wrong.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Fiber, Redacted, Stream } from "effect"
import { Socket } from "effect/socket"
import { readFile } from "node:fs/promises"
import * as Tls from "node:tls"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import * as AmqpError from "../../src/AmqpError.ts"
import { AmqpTransport, type Endpoint, isHangUp, lostError, openError } from "../../src/AmqpTransport.ts"
import { Broker } from "../harness/broker.ts"
import type { KeyPair } from "../harness/certs.ts"
import { noLeaks } from "../harness/leaks.ts"
import { makeProxy } from "../harness/proxy.ts"
import { makeScripted } from "../harness/scripted.ts"
import { canControl, onVhost, Vhost } from "../harness/shared.ts"
import { connect, openOn, printed, refusal } from "./support.ts"

const read = (file: string) => Effect.promise(() => readFile(file))

/** A TLS server that notes the name it is asked for and hangs up. */
const tlsServer = Effect.fnUntraced(function*(pair: KeyPair, options: Tls.TlsOptions = {}) {
  const [cert, key] = yield* Effect.all([read(pair.cert), read(pair.key)])
  const names: Array<Tls.TLSSocket["servername"]> = []
  const server = yield* Effect.acquireRelease(
    Effect.callback<Tls.Server>((resume) => {
      const server = Tls.createServer({ cert, key, ...options }, (socket) => {
        names.push(socket.servername)
        socket.on("error", () => {}) // the client may be gone
        socket.end()
      })
      server.on("tlsClientError", () => {}) // what the client makes of it is the question
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) => Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
  )
  const address = server.address()
  if (address === null || typeof address === "string") return yield* Effect.die("not a TCP server")
  return { port: address.port, names }
})

/** The options of a connection to the broker's TLS port. */
const secure = Effect.fnUntraced(function*(tls: NonNullable<Endpoint["tls"]> = {}) {
  const { certs, tlsPort } = yield* Broker.rabbitmq
  return { host: "localhost", port: tlsPort, tls: { caFile: certs.ca, ...tls } }
})

describe("endpoints of URIs and options", () => {
  /** Where a connection with these options would go. */
  const endpointOf = (options: AmqpConnection.Options) =>
    Effect.gen(function*() {
      const endpoints: Array<Endpoint> = []
      const nowhere = new AmqpError.ConnectFailed({ endpoint: "", code: "", detail: "" })
      const transport = AmqpTransport.of({
        connect: (endpoint) => {
          endpoints.push(endpoint)
          return Effect.fail(new AmqpError.AmqpConnectionError({ reason: nowhere }))
        }
      })
      const attempt = Effect.provideService(AmqpConnection.make(options), AmqpTransport, transport)
      yield* Effect.flip(Effect.scoped(attempt))
      return endpoints[0] ?? assert.fail("nothing was dialed")
    })

  it.effect("TL08 5672 is the default port of amqp, 5671 of amqps", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* endpointOf({}), { host: "localhost", port: 5672, tls: undefined })
      assert.deepStrictEqual(yield* endpointOf({ url: "amqp://h" }), { host: "h", port: 5672, tls: undefined })
      assert.deepInclude(yield* endpointOf({ url: "amqps://h" }), { host: "h", port: 5671 })
      assert.deepInclude(yield* endpointOf({ url: "amqps://h:1234" }), { host: "h", port: 1234 })
      assert.deepStrictEqual(yield* endpointOf({ tls: true }), { host: "localhost", port: 5671, tls: {} })
      assert.deepStrictEqual(yield* endpointOf({ url: "amqps://h", tls: false }), {
        host: "h",
        port: 5672,
        tls: undefined
      })
    }))

  it.effect("TL08 options of a URL and explicit ones meet, the explicit ones first", () =>
    Effect.gen(function*() {
      const url = "amqps://h?cacertfile=/ca.pem&certfile=/cert.pem&keyfile=/key.pem&password=secret" +
        "&verify=verify_none&server_name_indication=broker"
      const { tls } = yield* endpointOf({ url })
      assert.deepInclude(tls, {
        caFile: "/ca.pem",
        certFile: "/cert.pem",
        keyFile: "/key.pem",
        servername: "broker",
        verify: false
      })
      assert.strictEqual(tls?.passphrase && Redacted.value(tls.passphrase), "secret")
      const over = yield* endpointOf({ url, tls: { verify: true, caFile: "/other.pem" } })
      assert.deepInclude(over.tls, { caFile: "/other.pem", certFile: "/cert.pem", verify: true })
      const none = yield* endpointOf({ url: "amqps://h?server_name_indication=disable" })
      assert.strictEqual(none.tls?.servername, false)
    }))
})

describe("the end of a socket", () => {
  const alert = Object.assign(new Error("tlsv1 alert unknown ca"), { code: "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA" })
  const reset = Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" })
  const tagOf = (cause: Error, endpoint: Endpoint, phase: string) =>
    lostError(new Socket.SocketError({ reason: new Socket.SocketReadError({ cause }) }), endpoint, phase).reason._tag

  it("is told in short, however many names a certificate has", () => {
    const cause = Object.assign(new Error(`altnames: ${"DNS:a.example, ".repeat(60_000)}`), {
      code: "ERR_TLS_CERT_ALTNAME_INVALID"
    })
    const failed = openError(
      new Socket.SocketError({ reason: new Socket.SocketUpgradeError({ cause }) }),
      { host: "h", port: 1, tls: {} }
    )
    assert.deepNestedInclude(failed, { "reason._tag": "TlsFailed", "reason.code": "ERR_TLS_CERT_ALTNAME_INVALID" })
    assert.isBelow(failed.message.length, 500)
    assert.include(failed.message, "altnames: DNS:a.example")
  })

  it("is by an act of the peer, or for want of a network", () => {
    const read = (code: string) =>
      new Socket.SocketError({
        reason: new Socket.SocketReadError({ cause: Object.assign(new Error(code), { code }) })
      })
    for (const code of ["ECONNRESET", "EPIPE"]) assert.isTrue(isHangUp(read(code)), code)
    for (const code of ["ETIMEDOUT", "EHOSTUNREACH", "ENETDOWN", "EBADF"]) assert.isFalse(isHangUp(read(code)), code)
    for (const code of [1000, 1006]) {
      assert.isTrue(isHangUp(new Socket.SocketError({ reason: new Socket.SocketCloseError({ code }) })))
    }
  })

  it("TL04 is TlsFailed where TLS says so before the connection is open", () => {
    const plain = { host: "h", port: 1 }
    const tls = { ...plain, tls: {} }
    assert.strictEqual(tagOf(alert, tls, "the protocol header"), "TlsFailed")
    assert.strictEqual(tagOf(alert, tls, "connection.start-ok"), "TlsFailed")
    assert.strictEqual(tagOf(alert, tls, "open"), "ConnectionLost")
    assert.strictEqual(tagOf(reset, tls, "the protocol header"), "ConnectionLost")
    assert.strictEqual(tagOf(reset, plain, "the protocol header"), "ConnectionLost")
  })
})

layer(onVhost, { excludeTestServices: true })("TLS", (it) => {
  describe.runIf(canControl)("with the broker's certificates", () => {
    it.effect("TL01 connects over TLS 1.2 or later, with a CA from a file, as PEM, or from the URL", () =>
      noLeaks(Effect.gen(function*() {
        const { certs, ctl, tlsPort } = yield* Broker.rabbitmq
        const { name: vhost } = yield* Vhost
        yield* connect(yield* secure())
        yield* connect(yield* secure({ caFile: undefined, ca: yield* read(certs.ca) }))
        yield* connect(yield* secure({ caFile: undefined, ca: (yield* read(certs.ca)).toString() }))
        const url = `amqps://localhost:${tlsPort}/${encodeURIComponent(vhost)}?cacertfile=${
          encodeURIComponent(certs.ca)
        }`
        const connection = yield* connect({ url })
        assert.deepInclude(yield* connection.status, { _tag: "Open", endpoint: `amqps://localhost:${tlsPort}` })
        const versions = (yield* ctl("list_connections", "--no-table-headers", "ssl_protocol")).trim().split("\n")
        assert.lengthOf(versions, 4)
        for (const version of versions) assert.match(version, /^tlsv1\.[23]$/)
      })))

    it.effect("TL01 a server that knows nothing newer than TLS 1.1 is TlsFailed", () =>
      Effect.gen(function*() {
        const { certs } = yield* Broker.rabbitmq
        const { port } = yield* tlsServer(certs.server, {
          minVersion: "TLSv1",
          maxVersion: "TLSv1.1",
          ciphers: "DEFAULT@SECLEVEL=0"
        })
        const reason = yield* refusal({ ...yield* secure(), port })
        assert.strictEqual(reason._tag, "TlsFailed")
        assert.match(reason.message, /version/)
      }))

    it.effect("TL02 a certificate of an authority that is not trusted is TlsFailed, with OpenSSL's code", () =>
      noLeaks(Effect.gen(function*() {
        const { certs, tlsPort } = yield* Broker.rabbitmq
        for (const caFile of [undefined, certs.rogueCa]) {
          const reason = yield* refusal(yield* secure({ caFile }))
          assert.deepInclude(reason, {
            _tag: "TlsFailed",
            endpoint: `amqps://localhost:${tlsPort}`,
            code: "SELF_SIGNED_CERT_IN_CHAIN"
          })
          assert.isFalse(AmqpError.isTransient(new AmqpError.AmqpConnectionError({ reason })))
        }
        // Without verification anybody will do.
        yield* connect(yield* secure({ caFile: undefined, verify: false }))
      })))

    it.effect("TL02 a certificate for another name is TlsFailed, unless that name was asked for", () =>
      Effect.gen(function*() {
        const { certs } = yield* Broker.rabbitmq
        const { names, port } = yield* tlsServer(certs.wrongHost)
        const reason = yield* refusal({ ...yield* secure(), port })
        assert.deepInclude(reason, { _tag: "TlsFailed", code: "ERR_TLS_CERT_ALTNAME_INVALID" })
        assert.include(reason.message, "other.example")
        const asked = yield* refusal({ ...yield* secure({ servername: "other.example" }), port })
        assert.deepInclude(asked, { _tag: "ConnectionLost", phase: "the protocol header" })
        assert.strictEqual(names.at(-1), "other.example")
      }))

    it.effect("TL02 TLS to a port of plain AMQP, and plain AMQP to a port of TLS, are typed", () =>
      noLeaks(Effect.gen(function*() {
        const { port } = yield* Broker
        const reason = yield* refusal({ ...yield* secure(), port })
        assert.strictEqual(reason._tag, "TlsFailed")
        assert.notStrictEqual(reason._tag === "TlsFailed" ? reason.code : "", "")
        assert.match(reason.message, /is not TLS.*amqp instead of amqps/)
        const plain = yield* refusal({ ...yield* secure(), tls: false })
        assert.include(["ProtocolVersionMismatch", "ConnectionLost"], plain._tag)
        assert.match(plain.message, /TLS.*amqps/)
      })))

    it.effect("TL04 a client certificate of a rogue authority is TlsFailed, and no wait", () =>
      noLeaks(Effect.gen(function*() {
        const { certs } = yield* Broker.rabbitmq
        const options = yield* secure({ certFile: certs.rogueClient.cert, keyFile: certs.rogueClient.key })
        const reason = yield* Effect.timeout(refusal(options), "2 seconds")
        // Under TLS 1.3 the client is done before the server looks at its certificate, and by then has sent more: the
        // reset that this brings about may overtake the alert.
        if (reason._tag === "TlsFailed") assert.match(reason.code, /ALERT/)
        else assert.deepInclude(reason, { _tag: "ConnectionLost", phase: "the protocol header" })
      })))

    it.effect("HS11 EXTERNAL is whom the client's certificate names", () =>
      noLeaks(Effect.gen(function*() {
        const { certs, held, setPermissions } = yield* Broker.rabbitmq
        yield* setPermissions("certuser", (yield* Vhost).name)
        const { cert, key } = certs.client
        const connection = yield* connect({
          ...yield* secure({ certFile: cert, keyFile: key }),
          mechanisms: ["EXTERNAL"]
        })
        assert.strictEqual((yield* connection.server).mechanism, "EXTERNAL")
        assert.deepStrictEqual((yield* held({})).connections.map(({ user }) => user), ["certuser"])
        const anonymous = yield* refusal({ ...yield* secure(), mechanisms: ["EXTERNAL"] })
        assert.strictEqual(anonymous._tag, "AuthenticationFailed")
      })))

    it.effect("TL07 the client's key may be bytes, and under a passphrase", () =>
      noLeaks(Effect.gen(function*() {
        const { certs, setPermissions } = yield* Broker.rabbitmq
        yield* setPermissions("certuser", (yield* Vhost).name)
        const { cert, encryptedKey, key, passphrase } = certs.client
        const bytes = yield* read(encryptedKey)
        const mechanisms = ["EXTERNAL"] as const
        for (
          const tls of [
            { cert: yield* read(cert), key: Redacted.make(yield* read(key)) },
            { cert: (yield* read(cert)).toString(), key: Redacted.make((yield* read(key)).toString()) },
            { cert: yield* read(cert), key: Redacted.make(bytes), passphrase: Redacted.make(passphrase) },
            { certFile: cert, keyFile: encryptedKey, passphrase: Redacted.make(passphrase) }
          ]
        ) {
          yield* connect({ ...yield* secure(tls), mechanisms })
        }
        const wrong = yield* secure({ certFile: cert, keyFile: encryptedKey, passphrase: Redacted.make("hunter2") })
        const reason = yield* refusal({ ...wrong, mechanisms })
        assert.strictEqual(reason._tag, "TlsFailed")
        assert.notInclude(printed(reason) + printed(wrong), "hunter2")
      })))

    it.effect("TL07 a key that is none, that is another's, or that cannot be read, is TlsFailed", () =>
      noLeaks(Effect.gen(function*() {
        const { certs } = yield* Broker.rabbitmq
        const certFile = certs.client.cert
        const missing = yield* refusal(yield* secure({ certFile, keyFile: "/no/such/key.pem" }))
        assert.deepInclude(missing, { _tag: "TlsFailed", code: "ENOENT" })
        assert.include(missing.message, "/no/such/key.pem")
        const garbage = yield* refusal(yield* secure({ certFile, key: Redacted.make("hunter2") }))
        assert.strictEqual(garbage._tag, "TlsFailed")
        assert.notInclude(printed(garbage), "hunter2")
        const mismatch = yield* refusal(yield* secure({ certFile, keyFile: certs.rogueClient.key }))
        assert.deepInclude(mismatch, { _tag: "TlsFailed", code: "ERR_OSSL_X509_KEY_VALUES_MISMATCH" })
        const noCa = yield* refusal(yield* secure({ caFile: "/no/such/ca.pem" }))
        assert.deepInclude(noCa, { _tag: "TlsFailed", code: "ENOENT" })
      })))

    it.effect("TL08 the server is asked for by name, unless it is an address or the name is turned off", () =>
      Effect.gen(function*() {
        const { certs } = yield* Broker.rabbitmq
        const { names, port } = yield* tlsServer(certs.server)
        const ask = (host: string, tls: Endpoint["tls"]) =>
          Effect.flatMap(secure(tls), (options) => refusal({ ...options, host, port }))
        const reasons = yield* Effect.forEach(
          [
            ["localhost", {}],
            ["127.0.0.1", {}],
            ["localhost", { servername: false }],
            ["127.0.0.1", { servername: "localhost" }]
          ] as const,
          ([host, tls]) => ask(host, tls)
        )
        for (const reason of reasons) assert.strictEqual(reason._tag, "ConnectionLost")
        assert.deepStrictEqual(names, ["localhost", false, false, "localhost"])
      }))

    it.effect("TL09 10 MB over TLS arrive intact, however the records are cut", () =>
      noLeaks(Effect.gen(function*() {
        const { tlsPort } = yield* Broker.rabbitmq
        const proxy = yield* makeProxy({ host: "127.0.0.1", port: tlsPort })
        yield* proxy.set("up", { slice: 7_919 })
        yield* proxy.set("down", { slice: 6_007 })
        const connection = yield* connect({ ...yield* secure(), port: proxy.port })
        const channel = yield* openOn(connection)
        yield* channel.confirmSelect
        const { queue } = yield* channel.queueDeclare({ exclusive: true })
        const { deliveries } = yield* channel.consume({ queue })
        const bodies = [10 * 1024 * 1024, 0, 1, 131_072].map((size, seed) =>
          Uint8Array.from({ length: size }, (_, i) => (i * 31 + (i >>> 8) + seed) & 0xff)
        )
        const consuming = yield* deliveries.pipe(
          Stream.take(bodies.length),
          Stream.mapEffect((delivery) => Effect.as(delivery.ack, Buffer.from(delivery.body))),
          Stream.runCollect,
          Effect.forkChild
        )
        yield* Effect.forEach(bodies, (body) => channel.publish({ routingKey: queue, body }), { concurrency: 2 })
        const received = yield* Fiber.join(consuming)
        assert.deepStrictEqual(received.map(({ length }) => length), bodies.map(({ length }) => length))
        bodies.forEach((body, i) => assert.isTrue(received[i]?.equals(body)))
        yield* connection.close
        yield* (yield* proxy.accept).closed
      })))
  })

  it.effect("a peer that vanishes in the middle of TLS is ConnectFailed: it says nothing against the certificates", () =>
    Effect.gen(function*() {
      const peer = yield* makeScripted
      for (const how of ["reset", "end"] as const) {
        const attempt = yield* Effect.forkChild(refusal({ host: "localhost", port: peer.port, tls: true }))
        const connection = yield* peer.accept
        yield* connection.read(1)
        yield* connection[how]
        const reason = yield* Fiber.join(attempt)
        assert.deepInclude(reason, { _tag: "ConnectFailed", code: "ECONNRESET" })
        assert.isTrue(AmqpError.isTransient(new AmqpError.AmqpConnectionError({ reason })))
      }
    }))

  it.effect("a closed port is ConnectFailed with TLS as well", () =>
    Effect.gen(function*() {
      const reason = yield* refusal({ host: "127.0.0.1", port: 1, tls: true })
      assert.deepInclude(reason, { _tag: "ConnectFailed", code: "ECONNREFUSED", endpoint: "amqps://127.0.0.1:1" })
    }))
})

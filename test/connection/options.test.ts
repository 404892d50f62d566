/**
 * Options that cannot work: each is an error before anything is dialed, says which option it is, and what to write instead.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Redacted, Result } from "effect"
import { inspect } from "node:util"
import { AmqpConnectionError, AmqpEncodeError, ConnectFailed } from "../../src/AmqpError.ts"
import type { TlsOptions } from "../../src/AmqpTransport.ts"
import { type Options, resolve } from "../../src/internal/connection/options.ts"

/** As a program in JavaScript gives them, or one whose values come from outside. */
const untyped = (options: object): Options => ({ ...options })

const refused = (options: object): AmqpEncodeError =>
  Result.match(resolve(untyped(options)), {
    onFailure: (error) => error instanceof AmqpEncodeError ? error : assert.fail(error.message),
    onSuccess: () => assert.fail(`accepted: ${inspect(options)}`)
  })

const password = Redacted.make("s3cret")

describe("an option that cannot work", () => {
  it.each<[options: object, path: string, says: RegExp]>([
    // hosts
    [{ host: "1.2.3.4:5672" }, "host", /write host: "1\.2\.3\.4", port: 5672$/],
    [{ host: "broker:1234" }, "host", /write host: "broker", port: 1234$/],
    [{ host: "broker:" }, "host", /write host: "broker", port: 5672$/],
    [{ host: "amqp://broker" }, "host", /the option url/],
    [{ host: "amqps://broker:5671/" }, "host", /the option tls/],
    [{ host: "a,b" }, "host", /the option endpoints/],
    [{ host: "[::1]" }, "host", /without brackets/],
    [{ host: "[::1]:5672" }, "host", /without brackets/],
    [{ host: "broker/vhost" }, "host", /not "broker\/vhost"$/],
    [{ host: "" }, "host", /not ""$/],
    [{ host: " broker" }, "host", /not " broker"$/],
    [{ host: "broker\n" }, "host", /not "broker\\n"$/],
    [{ host: "1::2::3" }, "host", /address alone, without a port$/],
    [{ host: 1 }, "host", /expected a text, not 1$/],
    [{ host: null }, "host", /expected a text, not null$/],
    // ports
    [{ port: "5672" }, "port", /from 1 to 65535, not "5672"$/],
    [{ port: NaN }, "port", /not NaN$/],
    [{ port: 5672.5 }, "port", /not 5672\.5$/],
    // endpoints
    [{ endpoints: [{ host: "a" }, { host: "b:5672" }] }, "endpoints[1].host", /write host: "b", port: 5672$/],
    [{ endpoints: [{ host: "a", port: 70_000 }] }, "endpoints[0].port", /not 70000$/],
    [{ endpoints: [{ host: "a", tls: "yes" }] }, "endpoints[0].tls", /true, false or options/],
    [{ endpoints: ["a:5672"] }, "endpoints[0]", /expected \{ host, port \}, not a text$/],
    [{ endpoints: [{ hostname: "a" }] }, "endpoints[0]", /expected \{ host, port \}, not an object$/],
    [{ endpoints: "a" }, "endpoints", /expected a list/],
    [{ endpoints: [] }, "endpoints", /at least one, or leave it out for host and port$/],
    [{ endpointOrder: "random" }, "endpointOrder", /"fixed" or "shuffled", not "random"$/],
    // durations
    [{ heartbeat: NaN }, "heartbeat", /such as "60 seconds".*not NaN$/],
    [{ heartbeat: 60 }, "heartbeat", /a number is in milliseconds, write "60 seconds"$/],
    [{ heartbeat: -60_000 }, "heartbeat", /not -60000$/],
    [{ heartbeat: "60" }, "heartbeat", /not "60"$/],
    [{ heartbeat: "soon" }, "heartbeat", /not "soon"$/],
    [{ heartbeat: { seconds: NaN } }, "heartbeat", /not an object$/],
    [{ heartbeat: null }, "heartbeat", /not null$/],
    [{ connectTimeout: NaN }, "connectTimeout", /such as "10 seconds", not NaN$/],
    [{ connectTimeout: "10" }, "connectTimeout", /not "10"$/],
    [{ handshakeTimeout: { minutes: NaN } }, "handshakeTimeout", /positive duration/],
    [{ handshakeTimeout: 0 }, "handshakeTimeout", /not 0$/],
    [{ closeTimeout: NaN }, "closeTimeout", /not NaN$/],
    [{ closeTimeout: -1 }, "closeTimeout", /not -1$/],
    [{ waitTimeout: NaN }, "waitTimeout", /or 0 for no wait, not NaN$/],
    [{ readInterval: NaN }, "readInterval", /or 0 for none, not NaN$/],
    [{ readInterval: "1 second" }, "readInterval", /at most 10ms/],
    // numbers
    [{ frameMax: NaN }, "frameMax", /from 4096 to 4294967295, or 0 for the broker's, not NaN$/],
    [{ frameMax: "8192" }, "frameMax", /not "8192"$/],
    [{ channelMax: Infinity }, "channelMax", /not Infinity$/],
    [{ maxMessageSize: NaN }, "maxMessageSize", /not NaN$/],
    [{ maxMessageSize: "1 MB" }, "maxMessageSize", /not "1 MB"$/],
    // texts
    [{ vhost: 5 }, "vhost", /expected a text, not 5$/],
    [{ connectionName: {} }, "connectionName", /expected a text, not an object$/],
    [{ locale: null }, "locale", /expected a text, not null$/],
    // the rest
    [{ tls: "true" }, "tls", /true, false or options, not "true"$/],
    [{ tls: null }, "tls", /not null$/],
    [{ tls: { ca: 5 } }, "tls.ca", /expected PEM as a text or bytes$/],
    [{ tls: { caFile: new URL("file:///ca.pem") } }, "tls.caFile", /expected a path$/],
    [{ tls: { cert: Redacted.make("") } }, "tls.cert", /PEM as a text or bytes$/],
    [{ tls: { certFile: null } }, "tls.certFile", /a path$/],
    [{ tls: { key: "PEM" } }, "tls.key", /PEM as Redacted\.make\("…"\)$/],
    [{ tls: { key: Redacted.make(5) } }, "tls.key", /PEM as Redacted/],
    [{ tls: { keyFile: 5 } }, "tls.keyFile", /a path$/],
    [{ tls: { passphrase: "open" } }, "tls.passphrase", /expected Redacted\.make\("…"\)$/],
    [{ tls: { servername: 5 } }, "tls.servername", /a name, or false$/],
    [{ tls: { verify: 0 } }, "tls.verify", /true or false$/],
    [{ endpoints: [{ host: "a", tls: { verify: "no" } }] }, "endpoints[0].tls.verify", /true or false$/],
    [{ separatePublishers: "no" }, "separatePublishers", /true or false, not "no"$/],
    [{ mechanisms: "PLAIN" }, "mechanisms", /a list such as \["PLAIN"\], not "PLAIN"$/],
    [{ mechanisms: ["SCRAM"] }, "mechanisms", /unknown mechanism "SCRAM": build it with AmqpAuth\.make$/],
    [{ mechanisms: [undefined] }, "mechanisms", /unknown mechanism undefined/],
    [{ mechanisms: [] }, "mechanisms", /at least one/],
    [{ clientProperties: "name" }, "clientProperties", /expected a table, not "name"$/],
    [{ reconnect: true }, "reconnect", /expected a Schedule, not true$/],
    [{ reconnect: { delay: 5 } }, "reconnect", /expected a Schedule, not an object$/],
    [{ url: "amqps://h?depth=3" }, "url", /no use for/]
  ])("%j", (options, path, says) => {
    const error = refused(options)
    assert.strictEqual(error.path, `options.${path}`)
    assert.match(error.reason, says)
    assert.isBelow(error.message.length, 200)
  })

  it.each([
    [{ credentials: { username: "u", password: "s3cret" } }],
    [{ credentials: { username: 5, password } }],
    [{ credentials: { user: "u", password } }],
    [{ credentials: "u:s3cret" }],
    [{ credentials: null }],
    [{ host: "u:s3cret@broker" }],
    [{ host: "amqp://u:s3cret@broker" }],
    [{ host: "u:s3cret@broker:5672" }],
    [{ endpoints: [{ host: "u:s3cret@broker" }] }]
  ])("says nothing of what it may hold: %#", (options) => {
    const error = refused(options)
    assert.match(error.message, /credentials/)
    assert.notInclude(error.message, "s3cret")
  })

  it.each([
    [{ endpoints: ["amqp://u:s3cret@broker"] }],
    [{ endpoints: "amqp://u:s3cret@broker" }],
    [{ host: "u:s3cret" }],
    [{ host: "u:s3cret " }],
    [{ host: "u:s3:cret" }],
    [{ host: "u:p/s3cret:" }],
    [{ endpoints: [{ host: "u:s3cret" }] }]
  ])(
    "does not repeat a URL, nor a host that may be a name and a password: %#",
    (options) => assert.notMatch(refused(options).message, /s3|cret/)
  )

  const tlsOptions: Readonly<Record<keyof TlsOptions, true>> = {
    ca: true,
    caFile: true,
    cert: true,
    certFile: true,
    key: true,
    keyFile: true,
    passphrase: true,
    servername: true,
    verify: true
  }

  it.each(Object.keys(tlsOptions))("repeats nothing of what tls.%s is in its place", (option) => {
    for (const value of [["s3cret"], { s3cret: "s3cret" }, Redacted.make(["s3cret"])]) {
      const error = refused({ tls: { [option]: value } })
      assert.strictEqual(error.path, `options.tls.${option}`)
      assert.notInclude(inspect(error, { depth: Infinity, showHidden: true }), "s3cret")
    }
  })
})

describe("options that work", () => {
  it.each<[options: Options]>([
    [{}],
    [{ host: "::1" }],
    [{ host: "fe80::1%eth0" }],
    [{ host: "bücher.example" }],
    [{ host: "my_broker.local." }],
    [{ heartbeat: 0 }],
    [{ heartbeat: 60_000 }],
    [{ heartbeat: Duration.seconds(5), waitTimeout: 0, readInterval: 0, connectTimeout: Duration.infinity }],
    [{ heartbeat: { minutes: 1 } }],
    [{ vhost: "", frameMax: 0, channelMax: 0 }],
    [{ tls: true, credentials: { username: "u", password } }],
    [{ tls: { ca: "PEM", cert: new Uint8Array(1), key: Redacted.make("PEM"), passphrase: Redacted.make("") } }],
    [{ tls: { caFile: "ca", certFile: "cert", keyFile: "key", servername: false, verify: false } }],
    [{ tls: { key: Redacted.make(new Uint8Array(1)), servername: "broker" }, separatePublishers: true }],
    [{ endpoints: [{ host: "a" }, { host: "::1", port: 1, tls: {} }], endpointOrder: "shuffled" }],
    [{ mechanisms: ["EXTERNAL", "PLAIN"] }]
  ])("%j", (options) => {
    assert.isTrue(Result.isSuccess(resolve(options)))
  })
})

describe("endpoints of an Effect", () => {
  const from = (given: ReadonlyArray<unknown>) =>
    Effect.flatMap(
      Effect.fromResult(resolve(untyped({ endpoints: Effect.succeed(given) }))),
      ({ endpoints }) => endpoints
    )

  it.effect.each<[given: ReadonlyArray<unknown>, endpoint: string, detail: RegExp]>([
    [[{ host: "a:5672" }], "options.endpoints[0].host", /write host: "a", port: 5672/],
    [[{ host: "a" }, { host: "b", port: 0 }], "options.endpoints[1].port", /not 0/],
    [["a"], "options.endpoints[0]", /expected \{ host, port \}/],
    [[{ host: "a", tls: { key: "PEM" } }], "options.endpoints[0].tls.key", /Redacted/],
    [[], "", /empty/]
  ])("that cannot work are an error of the attempt: %j", ([given, endpoint, detail]) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(from(given))
      const reason = error instanceof AmqpConnectionError ? error.reason : assert.fail(error.message)
      assert.strictEqual(reason instanceof ConnectFailed && reason.endpoint, endpoint)
      assert.match(reason.message, detail)
    }))
})

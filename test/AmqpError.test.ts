import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Schema } from "effect"
import { AmqpConsumerFailed } from "../src/AmqpConsumer.ts"
import * as AmqpError from "../src/AmqpError.ts"
import * as AmqpTable from "../src/AmqpTable.ts"
import { replyCodes } from "../src/internal/replyCodes.ts"
import { AmqpTopologyError } from "../src/internal/topologyError.ts"

// -----------------------------------------------------------------------------
// one of each
// -----------------------------------------------------------------------------

/** What is said of `"orders"` on `queue.declare`. */
const refusal = (replyCode: number, replyText: string) => ({
  replyCode,
  replyText,
  operation: "queue.declare",
  entity: "orders",
  classId: 50,
  methodId: 10
})
const soft = (replyCode: number, replyText = `TEXT ${replyCode}`) =>
  AmqpError.fromChannelClose(refusal(replyCode, replyText))

const hard = (replyCode: number, replyText = `TEXT ${replyCode}`) =>
  AmqpError.fromConnectionClose({ replyCode, replyText, classId: 40, methodId: 10 })
const connection = (reason: AmqpError.AmqpConnectionErrorReason) => new AmqpError.AmqpConnectionError({ reason })

const route = { exchange: "amq.topic", routingKey: "a.b" }
const returnedAs = { ...route, replyCode: 312, replyText: "NO_ROUTE", body: Uint8Array.of(0, 0xce, 0xff) }
const endpoint = "broker.example:5671"

/** An error of each kind: what its message must say was tried or happened, and what to do. */
const samples: ReadonlyArray<readonly [error: Error, what: string, advice: RegExp]> = [
  [soft(403), `queue.declare "orders" was refused: TEXT 403`, /permissions/],
  [soft(404), `queue.declare "orders" was refused: TEXT 404`, /Declare it/],
  [soft(405), `queue.declare "orders" was refused: TEXT 405`, /connection that declared it/],
  [soft(406), `queue.declare "orders" was refused: TEXT 406`, /Compare the options/],
  [soft(311), `queue.declare "orders" was refused: TEXT 311`, /smaller message/],
  [soft(599), `queue.declare "orders" was refused: TEXT 599`, /reply code 599/],
  [hard(320), "the broker closed the connection: TEXT 320", /connect again/],
  [hard(402), "does not know this vhost: TEXT 402", /Check its name/],
  [hard(501), "refused a frame: TEXT 501", /report/],
  [hard(502), "refused a value: TEXT 502", /report/],
  [hard(503), "refused a command: TEXT 503", /Check the options/],
  [hard(504), "refused the use of a channel: TEXT 504", /report/],
  [hard(505), "did not expect a frame: TEXT 505", /report/],
  [hard(506), "ran out of resources: TEXT 506", /later/],
  [hard(530), "does not allow this: TEXT 530", /Check the limits/],
  [hard(540), "does not implement this: TEXT 540", /without/],
  [hard(541), "the broker failed: TEXT 541", /log/],
  [hard(599), "with code 599: TEXT 599", /documentation/],
  [
    connection(new AmqpError.ConnectFailed({ endpoint, code: "ECONNREFUSED", detail: "refused" })),
    `cannot connect to ${endpoint}: refused`,
    /Check that a broker listens/
  ],
  [
    connection(new AmqpError.TlsFailed({ endpoint, code: "CERT_HAS_EXPIRED", detail: "expired" })),
    `TLS with ${endpoint} failed: expired (CERT_HAS_EXPIRED)`,
    /Check the certificates/
  ],
  [
    connection(new AmqpError.AuthenticationFailed({ mechanism: "PLAIN", detail: "ACCESS_REFUSED" })),
    "authentication with PLAIN failed: ACCESS_REFUSED",
    /Check the user name/
  ],
  [
    connection(new AmqpError.ProtocolVersionMismatch({ offered: "AMQP 1-0-0" })),
    "the peer offers AMQP 1-0-0",
    /Check the port/
  ],
  [
    connection(new AmqpError.HandshakeTimeout({ step: "connection.open", timeoutMillis: 10_000 })),
    "not over after 10000 ms: no answer to connection.open",
    /Check that a broker listens/
  ],
  [
    connection(new AmqpError.HeartbeatTimeout({ intervalSeconds: 60 })),
    "nothing for two heartbeat intervals of 60 s",
    /connect again/
  ],
  [
    connection(new AmqpError.ConnectionLost({ phase: "open", detail: "ECONNRESET" })),
    "the connection was lost: ECONNRESET",
    /connect again/
  ],
  [connection(new AmqpError.ConnectionClosed({})), "closed by this client", /./],
  [
    connection(new AmqpError.ProtocolViolation({ replyCode: 501, detail: "a frame ends with octet 0" })),
    "broke the protocol: a frame ends with octet 0",
    /Check that it is an AMQP 0-9-1 broker/
  ],
  [
    new AmqpError.AmqpChannelClosed({ operation: "basic.get", cause: soft(404) }),
    `basic.get: the channel is closed: queue.declare "orders" was refused: TEXT 404`,
    /Open another one/
  ],
  [new AmqpError.AmqpPublishNacked(route), `refused the message to exchange "amq.topic", routing key "a.b"`, /again/],
  [
    new AmqpError.AmqpMessageReturned(returnedAs),
    `the message to exchange "amq.topic", routing key "a.b" came back: NO_ROUTE (312)`,
    /Bind a queue/
  ],
  [
    new AmqpError.AmqpMessageReturned({
      ...returnedAs,
      properties: {
        contentType: "text/plain",
        deliveryMode: 2,
        timestamp: 2n ** 63n,
        headers: {
          "x-delay": 5,
          values: [
            null,
            true,
            "1",
            "",
            1.5,
            -0,
            Number.NaN,
            -Infinity,
            2n ** 60n,
            Uint8Array.of(0, 255),
            new Date(5000)
          ],
          tagged: [AmqpTable.decimal({ scale: 2, value: -1999 }), AmqpTable.timestamp(2n ** 63n)],
          table: { date: "no date", bigint: "1", number: {}, table: { table: [] }, _tag: "Decimal" }
        }
      }
    }),
    `the message to exchange "amq.topic", routing key "a.b" came back: NO_ROUTE (312)`,
    /x-delay.*without mandatory/
  ],
  [
    new AmqpError.AmqpMessageReturned({
      ...returnedAs,
      exchange: "",
      routingKey: "amq.rabbitmq.reply-to.g2d",
      properties: {}
    }),
    `the message to exchange "", routing key "amq.rabbitmq.reply-to.g2d" came back: NO_ROUTE (312)`,
    /before 4\.3.*without mandatory/
  ],
  [
    new AmqpError.AmqpPublishUnconfirmed({ ...route, maybeReturned: true }),
    "its outcome is unknown: a message came back that may be this one",
    /Publish it again/
  ],
  [
    new AmqpError.AmqpPublishUnconfirmed({ ...route, cause: hard(320) }),
    "its outcome is unknown: AMQP connection: the broker closed the connection: TEXT 320",
    /Publish it again/
  ],
  [
    new AmqpError.AmqpConsumerCancelled({ queue: "orders", consumerTag: "tag" }),
    `cancelled consumer "tag" of queue "orders"`,
    /Declare the queue/
  ],
  [
    new AmqpError.AmqpStaleDelivery({ deliveryTag: 7, epoch: 2 }),
    "delivery 7 of epoch 2 can no longer be settled",
    /delivers it again/
  ],
  [
    new AmqpError.AmqpEncodeError({ path: "headers.a[2]", reason: "because" }),
    "cannot encode headers.a[2]: because",
    /./
  ],
  [
    new AmqpError.AmqpDecodeError({ path: "headers.a[2]", reason: "because" }),
    "cannot decode headers.a[2]: because",
    /./
  ]
]

const errors = samples.map(([error]) => error)

type ErrorClass = Schema.Codec<Error, unknown> & (new(...args: Array<never>) => Error)
const isErrorClass = (u: unknown): u is ErrorClass => typeof u === "function" && u.prototype instanceof Error
const classes = Object.entries<unknown>(AmqpError).flatMap(([name, value]) =>
  isErrorClass(value) ? [{ name, Class: value }] : []
)

/** An error and, if it is the connection's, its reason. */
const withReason = (error: Error): ReadonlyArray<Error> =>
  error instanceof AmqpError.AmqpConnectionError ? [error, error.reason] : [error]

it("advice for an acknowledgement that came too late speaks of time", () => {
  const replyText = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 5 ms."
  const error = AmqpError.fromChannelClose({
    ...{ replyCode: 406, replyText, classId: 0, methodId: 0 },
    ...{ operation: "consume", entity: "orders" }
  })
  assert.match(error.message, /consumer_timeout/)
  assert.notMatch(error.message, /Compare the options/)
})

describe("every error", () => {
  it("is among the samples", () => {
    const sampled = new Set(errors.flatMap(withReason).map((error) => error.constructor))
    assert.isAbove(classes.length, 30)
    for (const { Class, name } of classes) assert.isTrue(sampled.has(Class), name)
  })

  it("has its class name as its tag", () => {
    for (const error of errors.flatMap(withReason)) {
      assert.propertyVal(error, "_tag", error.constructor.name)
    }
  })

  it("says what was tried and what to do", () => {
    for (const [{ message }, what, advice] of samples) {
      assert.include(message, what)
      assert.match(message, advice)
      assert.notMatch(message, /undefined|\.\.|[.:] *$/)
    }
  })

  it.each(classes)("$name crosses a process boundary as JSON", ({ Class }) => {
    const codec = Schema.fromJsonString(Schema.toCodecJson(Class))
    for (const error of errors.flatMap(withReason).filter((error) => error instanceof Class)) {
      const json = Schema.encodeSync(codec)(error)
      const again = Schema.decodeSync(codec)(json)
      assert.isTrue(again instanceof Class)
      assert.strictEqual(again.message, error.message)
      assert.deepStrictEqual({ ...again }, { ...error })
      assert.strictEqual(Schema.encodeSync(codec)(again), json)
    }
  })

  it("crosses it in a union with all others", () => {
    const codec = Schema.fromJsonString(Schema.toCodecJson(Schema.Union(classes.map(({ Class }) => Class))))
    for (const error of errors.flatMap(withReason)) {
      const again = Schema.decodeSync(codec)(Schema.encodeSync(codec)(error))
      assert.strictEqual(again.constructor, error.constructor)
      assert.strictEqual(again.message, error.message)
    }
  })

  it("keeps what caused it", () => {
    const cause = soft(404)
    assert.strictEqual(new AmqpError.AmqpChannelClosed({ operation: "basic.get", cause }).cause, cause)
    const error = hard(541)
    assert.strictEqual(error.cause, error.reason)
    assert.isUndefined(new AmqpError.AmqpChannelClosed({ operation: "basic.get" }).cause)
  })

  it.effect("is caught by its tag, and hard ones by their reason", () =>
    Effect.gen(function*() {
      const refused = Effect.fail<AmqpError.AmqpNotFound | AmqpError.AmqpConnectionError>(hard(530))
      const caught = refused.pipe(
        Effect.catchTag("AmqpNotFound", () => Effect.succeed("soft")),
        Effect.catchReason("AmqpConnectionError", "NotAllowed", (reason) => Effect.succeed(reason.replyText))
      )
      assert.strictEqual(yield* caught, "TEXT 530")
    }))

  it.effect("is printed with its message alone", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Effect.fail(hard(530)))
      assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "TEXT 530")
    }))
})

describe("messages", () => {
  it("HS17 a refused vhost is named, and the one of a URL that ends in a slash explained", () => {
    const refused = (vhost: string): string =>
      new AmqpError.NotAllowed({ replyCode: 530, replyText: "NOT_ALLOWED", classId: 10, methodId: 40, vhost }).message
    assert.include(refused("orders"), "the vhost \"orders\"")
    assert.notInclude(refused("orders"), "ends in")
    assert.include(refused(""), "A URL that ends in")
  })

  it("leave out what is not there", () => {
    const anonymous = AmqpError.fromChannelClose({ ...refusal(406, "unknown delivery tag"), entity: "" })
    assert.match(anonymous.message, /^queue\.declare was refused: unknown delivery tag\. /)
    assert.match(new AmqpError.AmqpEncodeError({ path: "", reason: "because" }).message, /^cannot encode: because$/)
    assert.match(new AmqpError.AmqpDecodeError({ path: "", reason: "because" }).message, /^cannot decode: because$/)
    assert.match(
      new AmqpError.AuthenticationFailed({ mechanism: "", detail: "none offered" }).message,
      /^authentication failed: /
    )
    assert.notInclude(new AmqpError.TlsFailed({ endpoint, code: "", detail: "no" }).message, "()")
  })

  it("say what the channel's own scope did", () => {
    assert.include(new AmqpError.AmqpChannelClosed({ operation: "basic.get" }).message, "closed by its scope")
    assert.include(new AmqpError.AmqpPublishUnconfirmed(route).message, "closed by its scope")
  })

  it("say in which step of the handshake the connection was lost", () => {
    const lost = new AmqpError.ConnectionLost({ phase: "connection.open", detail: "end of file" })
    assert.include(lost.message, "during the handshake (connection.open): end of file")
  })

  it("quote names, so that a strange one is seen as it is", () => {
    const odd = AmqpError.fromChannelClose({ ...refusal(404, "TEXT"), entity: "a\n\"b" })
    assert.include(odd.message, String.raw`queue.declare "a\n\"b" was refused`)
  })
})

// -----------------------------------------------------------------------------
// reply codes
// -----------------------------------------------------------------------------

describe("reply codes", () => {
  const softTags: Record<number, string> = {
    311: "AmqpContentTooLarge",
    313: "AmqpChannelException",
    403: "AmqpAccessRefused",
    404: "AmqpNotFound",
    405: "AmqpResourceLocked",
    406: "AmqpPreconditionFailed"
  }
  const hardTags: Record<number, string> = {
    320: "ConnectionForced",
    402: "InvalidPath",
    501: "FrameError",
    502: "SyntaxError",
    503: "CommandInvalid",
    504: "ChannelError",
    505: "UnexpectedFrame",
    506: "ResourceError",
    530: "NotAllowed",
    540: "NotImplemented",
    541: "InternalError"
  }

  it("are these, soft and hard", () => {
    const bySeverity = (severity: string) =>
      Object.entries(replyCodes).filter(([, known]) => known?.severity === severity).map(([code]) => code)
    assert.deepStrictEqual(bySeverity("soft"), Object.keys(softTags))
    assert.deepStrictEqual(bySeverity("hard"), Object.keys(hardTags))
  })

  it("of a channel.close make its error, with all its fields", () => {
    for (const code of [...Object.keys(softTags), ...Object.keys(hardTags), 0, 200, 312, 999].map(Number)) {
      const error = soft(code)
      assert.strictEqual(error._tag, softTags[code] ?? "AmqpChannelException")
      assert.deepInclude(error, refusal(code, `TEXT ${code}`))
      assert.isTrue(AmqpError.isSoft(error))
      assert.isFalse(AmqpError.isHard(error))
    }
  })

  it("of a connection.close make its reason, with all its fields", () => {
    for (const code of [...Object.keys(softTags), ...Object.keys(hardTags), 0, 200, 312, 999].map(Number)) {
      const error = hard(code)
      assert.strictEqual(error.reason._tag, hardTags[code] ?? "UnknownReply")
      assert.deepInclude(error.reason, { replyCode: code, replyText: `TEXT ${code}`, classId: 40, methodId: 10 })
      assert.isTrue(AmqpError.isHard(error))
      assert.isFalse(AmqpError.isSoft(error))
    }
  })

  it("are not taken from anything else", () => {
    for (const other of [undefined, null, "AmqpNotFound", { _tag: "AmqpNotFound" }, new Error("404")]) {
      assert.isFalse(AmqpError.isSoft(other))
      assert.isFalse(AmqpError.isHard(other))
      assert.isFalse(AmqpError.isTransient(other))
    }
    assert.isFalse(AmqpError.isSoft(new AmqpError.AmqpChannelClosed({ operation: "", cause: soft(404) })))
    assert.isFalse(AmqpError.isHard(hard(530).reason))
  })
})

// -----------------------------------------------------------------------------
// what may succeed later
// -----------------------------------------------------------------------------

describe("isTransient", () => {
  it("of an error without a text to read", () => {
    const transient = errors.filter(AmqpError.isTransient).map((error) => withReason(error).at(-1)?.constructor.name)
    assert.deepStrictEqual(transient, [
      "AmqpResourceLocked",
      "ConnectionForced",
      "ResourceError",
      "InternalError",
      "ConnectFailed",
      "HandshakeTimeout",
      "HeartbeatTimeout",
      "ConnectionLost",
      "AmqpPublishNacked",
      "AmqpPublishUnconfirmed",
      "AmqpPublishUnconfirmed",
      "AmqpConsumerCancelled"
    ])
  })

  it("of a closed channel is that of its cause", () => {
    const closed = (cause: AmqpError.ChannelCloseCause) => new AmqpError.AmqpChannelClosed({ operation: "", cause })
    assert.isTrue(AmqpError.isTransient(closed(hard(320))))
    assert.isTrue(AmqpError.isTransient(closed(soft(405))))
    assert.isFalse(AmqpError.isTransient(closed(hard(503))))
    assert.isFalse(AmqpError.isTransient(closed(soft(403))))
    assert.isFalse(AmqpError.isTransient(closed(undefined)))
  })

  it("of a consumer or a topology that failed is that of the reason", () => {
    const failed = (reason: AmqpConsumerFailed["reason"]) =>
      new AmqpConsumerFailed({ queue: "orders", phase: "deliver", reason })
    assert.isTrue(AmqpError.isTransient(failed(hard(320))))
    assert.isFalse(AmqpError.isTransient(failed(hard(503))))
    const topology = (code: number) =>
      new AmqpTopologyError({
        entity: "queue",
        cause: new AmqpError.AmqpChannelClosed({ operation: "", cause: soft(code) })
      })
    assert.isTrue(AmqpError.isTransient(topology(405)))
    assert.isFalse(AmqpError.isTransient(topology(403)))
    assert.isTrue(AmqpError.isTransient(failed(topology(405))))
  })

  // RabbitMQ's own words, in 3.10.
  const texts: ReadonlyArray<readonly [code: number, transient: boolean, text: string]> = [
    [404, true, "NOT_FOUND - home node 'rabbit@b' of durable queue 'orders' in vhost '/' is down or inaccessible"],
    [404, false, "NOT_FOUND - no queue 'orders' in vhost '/'"],
    [404, false, "NOT_FOUND - no exchange 'orders' in vhost '/'"],
    [
      406,
      true,
      "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 4000 ms. " +
      "This timeout value can be configured, see consumers doc guide to learn more"
    ],
    [406, false, "PRECONDITION_FAILED - unknown delivery tag 7"],
    [
      406,
      false,
      "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'orders' in vhost '/': received the value '5' " +
      "of type 'signedint' but current is none"
    ],
    [530, true, "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (2) is reached"],
    [530, true, "NOT_ALLOWED - connection refused for user 'guest': user connection limit (2) is reached"],
    [
      530,
      true,
      "NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum allowed user limit of (1)"
    ],
    [530, true, "NOT_ALLOWED - vhost '/' is down"],
    [530, false, "NOT_ALLOWED - vhost orders not found"],
    [530, false, "NOT_ALLOWED - access to vhost 'orders' refused for user 'guest'"],
    [530, false, "NOT_ALLOWED - attempt to reuse consumer tag 'orders'"]
  ]
  const of = (code: number, text: string): boolean =>
    AmqpError.isTransient(code === 530 ? hard(code, text) : soft(code, text))

  it("of a code with two meanings is in the broker's text", () => {
    for (const [code, transient, text] of texts) assert.strictEqual(of(code, text), transient, text)
  })

  it("is not in the names that the text repeats", () => {
    const names = ["limit", "limits", "is down", "not running", "inaccessible", "timeout", "timed out", "it's down"]
    for (const [code, transient, text] of texts) {
      for (const name of names) assert.strictEqual(of(code, text.replaceAll("orders", name)), transient, text)
    }
  })
})

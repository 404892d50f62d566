import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Schema } from "effect"
import { AmqpConsumerFailed } from "../../src/AmqpConsumer.ts"
import * as AmqpError from "../../src/AmqpError.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import { AmqpTopologyError, AmqpTopologyPending } from "../../src/internal/topology/error.ts"
import { replyCodes } from "../../src/internal/values/replyCodes.ts"

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
    connection(new AmqpError.NegotiationFailed({ detail: "it is too small" })),
    "no agreement with the broker: it is too small",
    /another value/
  ],
  [
    connection(new AmqpError.ChannelsExhausted({ channelMax: 7 })),
    "all 7 channels of this connection are open",
    /Close some/
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
    new AmqpError.AmqpCloseUnanswered({ cause: hard(320) }),
    "whether what was published last has arrived: AMQP connection: the broker closed the connection: TEXT 320",
    /Publish it again/
  ],
  [new AmqpError.AmqpCloseUnanswered({}), "has arrived: no answer came in time", /turn on confirms/],
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

describe("advice", () => {
  const adviceOf = (operation: string, replyCode: number, replyText: string): string => {
    const { message } = AmqpError.fromChannelClose({ ...refusal(replyCode, replyText), operation })
    return message.slice(message.indexOf(replyText) + replyText.length)
  }

  it.each<[operation: string, replyCode: number, text: string, advice: RegExp]>([
    ["basic.publish", 406, "PRECONDITION_FAILED - invalid expiration '1s': {leftover_string,\"s\"}", /milliseconds/],
    ["basic.publish", 406, "PRECONDITION_FAILED - message size 9 is larger than max size 5", /smaller message/],
    [
      "basic.publish",
      406,
      "PRECONDITION_FAILED - user_id property set to 'a' but authenticated user was 'guest'",
      /userId/
    ],
    [
      "basic.publish",
      406,
      "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",longstr}",
      /CC and BCC are arrays/
    ],
    ["basic.publish", 406, "PRECONDITION_FAILED - fast reply consumer does not exist", /before publishing/],
    ["basic.consume", 406, "PRECONDITION_FAILED - fast reply consumer already set", /another channel/],
    ["basic.consume", 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", /with noAck/],
    ["basic.publish", 406, "PRECONDITION_FAILED - invalid message: {delivery_mode_unknown,3}", /Correct the message/],
    ["basic.publish", 406, "PRECONDITION_FAILED - something new", /Correct the message/],
    [
      "basic.publish",
      403,
      "ACCESS_REFUSED - cannot publish to internal exchange 'orders' in vhost '/'",
      /bound to it only.*without internal/
    ],
    ["queue.bind", 403, "ACCESS_REFUSED - operation not permitted on the default exchange", /belongs to the broker/],
    ["basic.publish", 404, "NOT_FOUND - no exchange 'orders' in vhost '/'", /Declare it/],
    ["queue.delete", 406, "PRECONDITION_FAILED - queue 'orders' in vhost '/' in use", /ifUnused/],
    ["queue.delete", 406, "PRECONDITION_FAILED - queue 'orders' in vhost '/' not empty", /ifEmpty/],
    ["exchange.delete", 406, "PRECONDITION_FAILED - exchange 'orders' in vhost '/' in use", /ifUnused/],
    ["queue.delete", 405, "RESOURCE_LOCKED - Cannot delete protected queue 'orders' in vhost '/'", /plugin/],
    ["basic.ack", 406, "PRECONDITION_FAILED - unknown delivery tag 7", /once, on the channel/],
    [
      "basic.consume",
      406,
      "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 5 ms",
      /consumer_timeout/
    ],
    ["basic.consume", 406, "PRECONDITION_FAILED - consumer prefetch count is not set for stream 'orders'", /qos/],
    ["basic.consume", 403, "ACCESS_REFUSED - queue 'orders' in vhost '/' in exclusive use", /another consumer/i],
    [
      "queue.declare",
      403,
      "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'",
      /belongs to the broker/
    ],
    ["confirm.select", 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode", /not for both/],
    [
      "queue.declare",
      406,
      "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'timed out' in vhost '/': received none but current " +
      "is the value '5' of type 'long'",
      /Compare the options/
    ],
    [
      "queue.declare",
      406,
      "PRECONDITION_FAILED - invalid arg 'x-expires' for queue 'orders' in vhost '/': 0",
      /Correct the options/
    ],
    [
      "queue.declare",
      406,
      "PRECONDITION_FAILED - cannot declare queue 'orders': queue limit in vhost '/' (5) is reached",
      /Delete what is not needed/
    ],
    [
      "queue.declare",
      404,
      "NOT_FOUND - home node 'b' of durable queue 'orders' in vhost '/' is down or inaccessible",
      /back/
    ]
  ])("of %s, refused with %i %s", (operation, replyCode, text, advice) => {
    const given = adviceOf(operation, replyCode, text)
    assert.match(given, advice)
    if (!advice.source.includes("Compare")) assert.notMatch(given, /Compare the options/)
  })

  it.each([
    ["PLAIN", /password/],
    ["AMQPLAIN", /password/],
    ["EXTERNAL", /certificate/],
    ["external", /certificate/],
    ["ANONYMOUS", /anybody/],
    ["", /mechanisms of both/]
  ])("of refused %s speaks of what it is about", (mechanism, advice) => {
    const { message } = new AmqpError.AuthenticationFailed({ mechanism, detail: "ACCESS_REFUSED" })
    assert.match(message, advice)
    if (!advice.source.includes("password")) assert.notInclude(message, "password")
  })

  it("of all channels that are open is not that of a broker out of resources", () => {
    const { message } = connection(new AmqpError.ChannelsExhausted({ channelMax: 7 }))
    assert.notMatch(message, /resources|Connect again/)
  })

  it("of TLS to a port that has none names that", () => {
    for (
      const [code, detail] of [
        ["ERR_SSL_WRONG_VERSION_NUMBER", "wrong version number"],
        ["EPROTO", "write EPROTO 8054:error:0A00010B:SSL routines:ssl3_get_record:wrong version number"],
        ["ERR_SSL_PACKET_LENGTH_TOO_LONG", "packet length too long"]
      ] as const
    ) {
      const { message } = new AmqpError.TlsFailed({ endpoint, code, detail })
      assert.match(message, /not TLS/)
      assert.notMatch(message, /certificates/)
    }
    const hungUp = new AmqpError.ConnectFailed({ endpoint: "amqps://h:5672", code: "ECONNRESET", detail: "reset" })
    assert.match(hungUp.message, /this port speaks TLS/)
  })

  it("of a peer that says nothing names TLS", () => {
    const step = "the protocol header"
    assert.match(new AmqpError.ConnectionLost({ phase: step, detail: "closed" }).message, /amqps/)
    assert.match(new AmqpError.HandshakeTimeout({ step, timeoutMillis: 1 }).message, /amqps/)
    assert.notMatch(new AmqpError.HandshakeTimeout({ step: "connection.open", timeoutMillis: 1 }).message, /amqps/)
  })

  it("of a taken consumer tag is to take another", () => {
    assert.match(hard(530, "NOT_ALLOWED - attempt to reuse consumer tag 'a'").message, /tag of its own/)
  })
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
  it("HS17 a refused vhost is named, and an empty one explained", () => {
    const refused = (vhost: string): string =>
      new AmqpError.NotAllowed({ replyCode: 530, replyText: "NOT_ALLOWED", classId: 10, methodId: 40, vhost }).message
    assert.include(refused("orders"), "the vhost \"orders\"")
    assert.notInclude(refused("orders"), "default vhost")
    assert.include(refused(""), "the default vhost is \"/\"")
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
      "ChannelsExhausted",
      "HandshakeTimeout",
      "HeartbeatTimeout",
      "ConnectionLost",
      "AmqpPublishNacked",
      "AmqpPublishUnconfirmed",
      "AmqpPublishUnconfirmed",
      "AmqpCloseUnanswered",
      "AmqpCloseUnanswered",
      "AmqpConsumerCancelled"
    ])
  })

  it("of a topology: what is pending comes, what ends every connection stays", () => {
    const failed = (cause: AmqpTopologyError["cause"]) => new AmqpTopologyError({ entity: "queue \"q\"", cause })
    assert.isTrue(AmqpError.isTransient(failed(new AmqpTopologyPending({}))))
    for (const code of [320, 503, 541]) {
      assert.isFalse(AmqpError.isTransient(failed(hard(code))))
      const reason = failed(hard(code))
      assert.isFalse(AmqpError.isTransient(new AmqpConsumerFailed({ queue: "q", phase: "topology", reason })))
    }
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
    assert.isTrue(AmqpError.isTransient(failed(new AmqpError.AmqpConsumerCancelled({ queue: "q", consumerTag: "t" }))))
    assert.isFalse(AmqpError.isTransient(failed(new AmqpError.AmqpEncodeError({ path: "", reason: "" }))))
    const topology = (cause: AmqpTopologyError["cause"]) => new AmqpTopologyError({ entity: "queue", cause })
    const closed = (cause: AmqpError.ChannelCloseCause) => new AmqpError.AmqpChannelClosed({ operation: "", cause })
    assert.isTrue(AmqpError.isTransient(topology(closed(soft(405)))))
    assert.isFalse(AmqpError.isTransient(topology(closed(soft(403)))))
    assert.isTrue(AmqpError.isTransient(failed(topology(closed(soft(405))))))
    assert.isFalse(AmqpError.isTransient(failed(topology(closed(soft(403))))))
  })

  it("of what outlives its connection takes the end of one for a loss, whoever it was that provoked it", () => {
    for (const error of errors.filter((error) => error instanceof AmqpError.AmqpConnectionError)) {
      const isLoss = error.reason._tag !== "ConnectionClosed"
      const closed = new AmqpError.AmqpChannelClosed({ operation: "", cause: error })
      for (const reason of [error, closed]) {
        assert.strictEqual(AmqpError.isRecoverable(reason), isLoss, error.reason._tag)
        const consumer = new AmqpConsumerFailed({ queue: "orders", phase: "deliver", reason })
        assert.strictEqual(AmqpError.isTransient(consumer), isLoss, error.reason._tag)
        assert.strictEqual(AmqpError.isRecoverable(consumer), isLoss, error.reason._tag)
      }
      const topology = new AmqpTopologyError({ entity: "queue", cause: closed })
      assert.strictEqual(AmqpError.isTransient(topology), isLoss, error.reason._tag)
      const consumer = new AmqpConsumerFailed({ queue: "orders", phase: "topology", reason: topology })
      assert.strictEqual(AmqpError.isTransient(consumer), isLoss, error.reason._tag)
    }
    for (const error of errors) {
      if (error instanceof AmqpError.AmqpConnectionError || error instanceof AmqpError.AmqpChannelClosed) continue
      assert.strictEqual(AmqpError.isRecoverable(error), AmqpError.isTransient(error), error.message)
    }
  })

  // RabbitMQ's own words, from 3.10 to 4.3.
  const texts: ReadonlyArray<readonly [code: number, transient: boolean, text: string]> = [
    [404, true, "NOT_FOUND - home node 'rabbit@b' of durable queue 'orders' in vhost '/' is down or inaccessible"],
    [404, true, "NOT_FOUND - failed to perform operation on queue 'orders' in vhost '/' due to timeout"],
    [404, true, "NOT_FOUND - queue 'orders' in vhost '/' has crashed and failed to restart"],
    [404, true, "NOT_FOUND - queue 'orders' in vhost '/' process is stopped by supervisor"],
    [
      404,
      true,
      "NOT_FOUND - failed to perform operation on queue 'orders' in vhost '/': its leader <0.1.0> may be stopping or being " +
      "demoted"
    ],
    [404, false, "NOT_FOUND - no previously declared queue"],
    [403, true, "ACCESS_REFUSED - queue 'orders' in vhost '/' in exclusive use"],
    [
      403,
      true,
      "ACCESS_REFUSED - read access to queue 'orders' in vhost '/' refused for user 'guest', backend rabbit_auth_backend_http " +
      "returned an error: econnrefused"
    ],
    [403, false, "ACCESS_REFUSED - read access to queue 'orders' in vhost '/' refused for user 'guest'"],
    [403, false, "ACCESS_REFUSED - queue name 'orders' contains reserved prefix 'amq.*'"],
    [
      405,
      true,
      "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'orders' in vhost '/'. It could be originally " +
      "declared on another connection or the exclusive property value does not match that of the original declaration."
    ],
    [405, false, "RESOURCE_LOCKED - Cannot delete protected queue 'orders' in vhost '/'."],
    [404, false, "NOT_FOUND - no queue 'orders' in vhost '/'"],
    [404, false, "NOT_FOUND - no exchange 'orders' in vhost '/'"],
    [
      406,
      true,
      "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 4000 ms. " +
      "This timeout value can be configured, see consumers doc guide to learn more"
    ],
    [406, false, "PRECONDITION_FAILED - unknown delivery tag 7"],
    [406, true, "PRECONDITION_FAILED - cannot declare queue 'orders': queue limit in vhost '/' (5) is reached"],
    [406, true, "PRECONDITION_FAILED - cannot declare queue 'orders': queue limit in cluster (5) is reached"],
    [406, true, "PRECONDITION_FAILED - cannot declare exchange 'orders' in vhost '/': exchange limit of 5 is reached"],
    [
      406,
      true,
      "PRECONDITION_FAILED - stream queue 'orders' in vhost '/' does not have a running replica on the local node"
    ],
    [406, true, "PRECONDITION_FAILED - queue 'orders' does not have a replica on the local node"],
    [406, false, "PRECONDITION_FAILED - queue 'orders' in vhost '/' in use"],
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
    [
      530,
      true,
      "NOT_ALLOWED - number of channels opened on node 'rabbit@orders' has reached the maximum allowed limit of 5"
    ],
    [530, true, "NOT_ALLOWED - connection refused: node connection limit (5) is reached"],
    [
      530,
      true,
      "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit cannot be queried, timeout"
    ],
    [
      530,
      true,
      "NOT_ALLOWED - access to vhost '/' refused for user 'guest', backend rabbit_auth_backend_ldap returned an error: timeout"
    ],
    [530, false, "NOT_ALLOWED - negotiated frame_max = 4096 is lower than the minimum allowed value (8192)"],
    [530, false, "NOT_ALLOWED - reached maximum (5) of consumers per channel"],
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
    const names = [
      "in exclusive use",
      "crashed",
      "due to timeout",
      "limit of 5",
      "limit (5) is reached",
      "limit",
      "limits",
      "is down",
      "not running",
      "inaccessible",
      "timeout",
      "timed out",
      "it's down"
    ]
    for (const [code, transient, text] of texts) {
      for (const name of names) assert.strictEqual(of(code, text.replaceAll("orders", name)), transient, text)
    }
  })

  it("is not in a name that the broker cut off", () => {
    const cut = (text: string): string => `${text.slice(0, 252)}...`
    const name = "is down ".repeat(31)
    assert.isFalse(of(404, cut(`NOT_FOUND - no queue '${name}' in vhost '/'`)))
    assert.isTrue(
      of(404, cut(`NOT_FOUND - failed to perform operation on queue '${name}' in vhost '/' due to timeout`))
    )
    assert.isTrue(of(404, cut(`NOT_FOUND - home node 'b' of durable queue '${name}' in vhost '/' is down`)))
  })

  it("is known of a queue by how the text begins, when the broker cut off the rest", () => {
    const cut = (text: string): string => `${Buffer.from(text).subarray(0, 252).toString()}...`
    for (const name of ["q".repeat(230), "é".repeat(115), "it's ".repeat(50)]) {
      const queue = `queue '${name}' in vhost '/'`
      for (const vhost of ["/", "v".repeat(40)]) {
        const inUse = `ACCESS_REFUSED - queue '${name.slice(0, 190)}' in vhost '${vhost}' in exclusive use`
        assert.isTrue(of(403, Buffer.byteLength(inUse) > 255 ? cut(inUse) : inUse), inUse)
      }
      assert.isTrue(of(404, cut(`NOT_FOUND - ${queue} process is stopped by supervisor`)))
      assert.isTrue(of(404, cut(`NOT_FOUND - ${queue} has crashed and failed to restart`)))
      assert.isFalse(of(404, cut(`NOT_FOUND - no ${queue}`)))
      assert.isFalse(of(403, cut(`ACCESS_REFUSED - access to ${queue} refused for user 'guest'`)))
      assert.isFalse(of(403, cut(`ACCESS_REFUSED - queue name '${name}' contains reserved prefix 'amq.*'`)))
    }
  })
})

/**
 * Every reply code that RabbitMQ can be made to send, provoked for real: as the tag of the operation that is refused,
 * as the reason that ends the connection, or as a returned message.
 *
 * Where the library makes the mistake impossible, the bytes of the mistake go out beside it, over its own connection.
 * 311, 313, 402, 502 and 506, which RabbitMQ does not send, are a scripted peer's.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Option, Redacted, Result, type Scope } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import { AmqpConnection } from "../../src/AmqpConnection.ts"
import { AmqpConnectionError, type AmqpConnectionErrorReason, isSoft, type SoftError } from "../../src/AmqpError.ts"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import { internals } from "../../src/internal/connection/service.ts"
import { Broker } from "../harness/broker.ts"
import { noLeaks } from "../harness/leaks.ts"
import { canControl, onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { connect, failureOf, onConnection, openOn, refusal } from "./support.ts"

// -----------------------------------------------------------------------------
// soft errors and returns: one operation, one channel
// -----------------------------------------------------------------------------

interface Refused {
  readonly code: number
  readonly tag: SoftError["_tag"]
  readonly what: string
  /** The broker's words. */
  readonly text: string
  readonly operation: AmqpProtocol.MethodName
  readonly provoke: (
    channel: AmqpChannel.AmqpChannel
  ) => Effect.Effect<unknown, { readonly message: string }, Scope.Scope | Vhost>
}

/** A queue that belongs to another connection. */
const lockedQueue = Effect.gen(function*() {
  const channel = yield* openOn(yield* connect())
  return (yield* channel.queueDeclare({ exclusive: true })).queue
})

const refusedOperations: ReadonlyArray<Refused> = [
  {
    code: 403,
    tag: "AmqpAccessRefused",
    what: "an exchange with a name of the broker's",
    text: "ACCESS_REFUSED - ",
    operation: "exchange.declare",
    provoke: (channel) => channel.exchangeDeclare({ exchange: "amq.mine" })
  },
  {
    code: 403,
    tag: "AmqpAccessRefused",
    what: "a second consumer beside an exclusive one",
    text: "in exclusive use",
    operation: "basic.consume",
    provoke: (channel) =>
      Effect.gen(function*() {
        const { queue } = yield* channel.queueDeclare({ exclusive: true })
        yield* channel.consume({ queue, exclusive: true })
        return yield* channel.consume({ queue })
      })
  },
  {
    code: 404,
    tag: "AmqpNotFound",
    what: "a consumer of a missing queue",
    text: "NOT_FOUND - no queue",
    operation: "basic.consume",
    provoke: (channel) => channel.consume({ queue: uniqueName("missing") })
  },
  {
    code: 404,
    tag: "AmqpNotFound",
    what: "a publish to a missing exchange",
    text: "NOT_FOUND - no exchange",
    operation: "basic.publish",
    provoke: (channel) =>
      Effect.andThen(channel.confirmSelect, channel.publish({ exchange: uniqueName("missing"), body: "" }))
  },
  {
    code: 405,
    tag: "AmqpResourceLocked",
    what: "a queue that is exclusive to another connection",
    text: "RESOURCE_LOCKED - ",
    operation: "queue.purge",
    provoke: (channel) => Effect.flatMap(lockedQueue, (queue) => channel.queuePurge(queue))
  },
  {
    code: 406,
    tag: "AmqpPreconditionFailed",
    what: "a queue that is there with other options",
    text: "PRECONDITION_FAILED - inequivalent arg 'auto_delete'",
    operation: "queue.declare",
    provoke: (channel) =>
      Effect.gen(function*() {
        const queue = uniqueName("q")
        yield* channel.queueDeclare({ queue, exclusive: true })
        return yield* channel.queueDeclare({ queue, exclusive: true, autoDelete: true })
      })
  },
  {
    code: 406,
    tag: "AmqpPreconditionFailed",
    what: "confirms on a channel with transactions",
    text: "PRECONDITION_FAILED - ",
    operation: "confirm.select",
    provoke: (channel) => Effect.andThen(channel.transaction(Effect.void), channel.confirmSelect)
  }
]

// -----------------------------------------------------------------------------
// hard errors: the end of the connection
// -----------------------------------------------------------------------------

interface Ended {
  readonly code: number
  readonly tag: AmqpConnectionErrorReason["_tag"]
  readonly what: string
  readonly provoke: (channel: AmqpChannel.AmqpChannel) => Effect.Effect<unknown, unknown, AmqpConnection | Scope.Scope>
}

/** Sends bytes over the connection, beside the library. */
const send = (...frames: ReadonlyArray<Uint8Array>) =>
  Effect.gen(function*() {
    const { session } = yield* (yield* AmqpConnection)[internals]().session
    for (const frame of frames) session.outbox.raw(frame)
  })

const method = (channel: number, method: AmqpProtocol.Method): Uint8Array =>
  Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method))

const content = (channel: number, parts: Partial<AmqpProtocol.BasicPublish>, properties?: Uint8Array): Uint8Array =>
  Result.getOrThrow(
    AmqpProtocol.encodeContent({
      channel,
      method: {
        _tag: "basic.publish",
        exchange: "",
        routingKey: "nobody",
        mandatory: false,
        immediate: false,
        ...parts
      },
      properties: properties ?? {},
      body: new Uint8Array(1)
    })
  )

const declare = (channel: number): Uint8Array =>
  method(channel, {
    _tag: "queue.declare",
    queue: "",
    passive: false,
    durable: false,
    exclusive: true,
    autoDelete: false,
    noWait: false,
    arguments: {}
  })

const consume = (channel: number, queue: string, consumerTag: string): Uint8Array =>
  method(channel, {
    _tag: "basic.consume",
    queue,
    consumerTag,
    noLocal: false,
    noAck: false,
    exclusive: false,
    noWait: false,
    arguments: {}
  })

/** Property flags for headers, then a table of one field: its type tag and its bytes. */
const headers = (tag: string, value: ReadonlyArray<number>): Uint8Array =>
  Uint8Array.of(0x20, 0, 0, 0, 0, value.length + 3, 1, 0x61, tag.charCodeAt(0), ...value)

const nan = [0x7f, 0xf8, 0, 0, 0, 0, 0, 0]

const endings: ReadonlyArray<Ended> = [
  {
    code: 501,
    tag: "FrameError",
    what: "a frame that does not end",
    provoke: ({ id }) => send(declare(id).fill(0, -1))
  },
  {
    code: 501,
    tag: "FrameError",
    what: "a frame that is larger than agreed",
    provoke: ({ id }) => send(Uint8Array.of(AmqpProtocol.frameBody, 0, id, 0xff, 0xff, 0xff, 0xff))
  },
  {
    code: 503,
    tag: "CommandInvalid",
    what: "an exchange of an unknown type",
    provoke: (channel) => channel.exchangeDeclare({ exchange: uniqueName("x"), type: "nope" })
  },
  {
    code: 503,
    tag: "CommandInvalid",
    what: "a method that is for brokers to send",
    provoke: ({ id }) => send(method(id, { _tag: "queue.bind-ok" }))
  },
  {
    code: 504,
    tag: "ChannelError",
    what: "a channel that was never opened",
    provoke: ({ id }) => send(declare(id + 100))
  },
  {
    code: 504,
    tag: "ChannelError",
    what: "a channel that is opened twice",
    provoke: ({ id }) => send(method(id, { _tag: "channel.open" }))
  },
  {
    code: 505,
    tag: "UnexpectedFrame",
    what: "a content header without a method",
    provoke: ({ id }) => send(content(id, {}).slice(method(id, publishNobody).length))
  },
  {
    code: 505,
    tag: "UnexpectedFrame",
    what: "a method in the middle of a content",
    provoke: ({ id }) => send(method(id, publishNobody), declare(id))
  },
  {
    code: 530,
    tag: "NotAllowed",
    what: "a consumer tag that is taken",
    provoke: (channel) =>
      Effect.gen(function*() {
        const { queue } = yield* channel.queueDeclare({ exclusive: true })
        yield* channel.consume({ queue, consumerTag: "twice" })
        yield* send(consume(channel.id, queue, "twice"))
      })
  },
  {
    code: 540,
    tag: "NotImplemented",
    what: "a flow that stops",
    provoke: (channel) => channel.flow(false)
  },
  {
    code: 540,
    tag: "NotImplemented",
    what: "an immediate publish",
    provoke: ({ id }) => send(content(id, { immediate: true }))
  },
  {
    code: 540,
    tag: "NotImplemented",
    what: "a prefetch size",
    provoke: ({ id }) => send(method(id, { _tag: "basic.qos", prefetchSize: 1, prefetchCount: 1, global: false }))
  },
  {
    code: 540,
    tag: "NotImplemented",
    what: "a recover that does not requeue",
    provoke: ({ id }) => send(method(id, { _tag: "basic.recover", requeue: false }))
  },
  {
    code: 541,
    tag: "InternalError",
    what: "a header that is not a number",
    provoke: ({ id }) => send(content(id, {}, headers("d", nan)))
  },
  {
    code: 541,
    tag: "InternalError",
    what: "a header of an unknown type",
    provoke: ({ id }) => send(content(id, {}, headers("?", [0])))
  }
]

const publishNobody: AmqpProtocol.BasicPublish = {
  _tag: "basic.publish",
  exchange: "",
  routingKey: "nobody",
  mandatory: false,
  immediate: false
}

/** What ends the connection, as its channel, its status and its own end tell it: the same for all. */
const endOf = Effect.fnUntraced(function*(provoke: Ended["provoke"]) {
  const connection = yield* AmqpConnection
  const channel = yield* AmqpChannel.open
  const bystander = yield* AmqpChannel.open
  // What the library itself sends fails with it; what went out beside it is nobody's operation.
  const failure = yield* Effect.option(Effect.flip(provoke(channel)))
  const { reason } = yield* connection.closed
  if (Option.isSome(failure)) {
    assert.strictEqual(failure.value instanceof AmqpConnectionError && failure.value.reason, reason)
  }
  for (const { cause } of [yield* channel.closed, yield* bystander.closed]) {
    assert.strictEqual(cause?._tag === "AmqpConnectionError" && cause.reason, reason)
  }
  const status = yield* connection.status
  assert.strictEqual(status._tag === "Closed" && status.error.reason, reason)
  return reason
})

const assertReason = (reason: AmqpConnectionErrorReason, { code, tag }: Pick<Ended, "code" | "tag">) => {
  assert.strictEqual(reason._tag, tag, reason.message)
  if (!("replyText" in reason)) return assert.fail("no reply of the broker's")
  assert.strictEqual(reason.replyCode, code)
  assert.notStrictEqual(reason.replyText, "")
}

layer(onVhost, { excludeTestServices: true })("reply codes of RabbitMQ", (it) => {
  it.effect("312 AmqpMessageReturned: a mandatory message that nobody wants", () =>
    onConnection(Effect.gen(function*() {
      const channel = yield* AmqpChannel.open
      yield* channel.confirmSelect
      const error = yield* Effect.flip(channel.publish({ routingKey: uniqueName("nobody"), body: "", mandatory: true }))
      if (error._tag !== "AmqpMessageReturned") return assert.fail(error.message)
      assert.deepStrictEqual([error.replyCode, error.replyText], [312, "NO_ROUTE"])
    })))

  for (const { code, operation, provoke, tag, text, what } of refusedOperations) {
    it.effect(`${code} ${tag}: ${what}`, () =>
      onConnection(Effect.gen(function*() {
        const bystander = yield* AmqpChannel.open
        const error = yield* failureOf(provoke)
        if (!isSoft(error)) return assert.fail(error.message)
        assert.deepStrictEqual([error._tag, error.replyCode, error.operation], [tag, code, operation])
        assert.include(error.replyText, text)
        const { id } = AmqpProtocol.methods[operation]
        assert.deepStrictEqual([error.classId, error.methodId], [id >>> 16, id & 0xffff])
        // Its channel has gone, the others do not notice.
        yield* bystander.queueDeclare({ exclusive: true })
      })))
  }

  it.effect("403 AuthenticationFailed: a wrong password, and a user that nobody knows", () =>
    noLeaks(Effect.gen(function*() {
      for (const username of ["guest", "nobody"]) {
        const reason = yield* refusal({ credentials: { username, password: Redacted.make("wrong") } })
        if (reason._tag !== "AuthenticationFailed") return assert.fail(reason.message)
        assert.include(reason.detail, "ACCESS_REFUSED")
      }
    })))

  it.effect("530 NotAllowed: a vhost that does not exist", () =>
    noLeaks(Effect.gen(function*() {
      const vhost = uniqueName("nowhere")
      const reason = yield* refusal({ vhost })
      assertReason(reason, { code: 530, tag: "NotAllowed" })
      assert.include(reason.message, vhost)
    })))

  for (const ending of endings) {
    it.effect(`${ending.code} ${ending.tag}: ${ending.what}`, () =>
      onConnection(Effect.gen(function*() {
        assertReason(yield* endOf(ending.provoke), ending)
      })))
  }

  describe.runIf(canControl)("that an operator provokes", () => {
    it.effect("320 ConnectionForced: a connection that is closed by hand", () =>
      Effect.gen(function*() {
        const { closeConnection } = yield* Broker.control
        const connectionName = uniqueName("closed")
        const test = Effect.gen(function*() {
          const reason = yield* endOf(() => closeConnection(connectionName, "enough ✓"))
          assertReason(reason, { code: 320, tag: "ConnectionForced" })
          assert.include(reason.message, "enough ✓")
        })
        yield* onConnection(test, { connectionName })
      }))

    it.effect("403 AmqpAccessRefused: what the user has no permission for", () =>
      noLeaks(Effect.gen(function*() {
        const { addUser, deleteUser, setPermissions } = yield* Broker.control
        const { name } = yield* Vhost
        const [username, password] = [uniqueName("user"), uniqueName("password")]
        yield* Effect.acquireRelease(addUser(username, password), () => Effect.orDie(deleteUser(username)))
        yield* setPermissions(username, name, { configure: "^mine", read: "^mine", write: "^mine" })
        yield* Effect.scoped(Effect.gen(function*() {
          const connection = yield* connect({ credentials: { username, password: Redacted.make(password) } })
          const owner = yield* openOn(connection)
          const { queue } = yield* owner.queueDeclare({ queue: uniqueName("mine"), exclusive: true })
          const operations: ReadonlyArray<
            (channel: AmqpChannel.AmqpChannel) => Effect.Effect<unknown, { readonly _tag: string }, Scope.Scope>
          > = [
            (channel) => channel.exchangeDeclare({ exchange: "theirs" }),
            (channel) => channel.exchangeDelete({ exchange: "theirs" }),
            (channel) => channel.exchangeBind({ destination: "theirs", source: "mine" }),
            (channel) => channel.exchangeUnbind({ destination: "theirs", source: "mine" }),
            (channel) => channel.queueDeclare({ queue: "theirs" }),
            (channel) => channel.queueDelete({ queue: "theirs" }),
            (channel) => channel.queueBind({ queue, exchange: "amq.topic" }),
            (channel) => channel.queueUnbind({ queue, exchange: "amq.topic" }),
            (channel) => channel.queuePurge("theirs"),
            (channel) => channel.get({ queue: "theirs" }),
            (channel) => channel.consume({ queue: "theirs" }),
            (channel) => Effect.andThen(channel.confirmSelect, channel.publish({ exchange: "amq.topic", body: "" }))
          ]
          const tags = yield* Effect.forEach(operations, (operation) =>
            failureOf(operation).pipe(
              Effect.provideService(AmqpConnection, connection),
              Effect.map(({ _tag }) => _tag)
            ))
          assert.deepStrictEqual(new Set(tags), new Set(["AmqpAccessRefused"]))
        }))
      })))
  })
})

describe("the table", () => {
  it("has every code that RabbitMQ can be made to send", () => {
    const elsewhere = [312, 320]
    const codes = new Set([...elsewhere, ...[...refusedOperations, ...endings].map(({ code }) => code)])
    const unprovoked = [311, 313, 402, 502, 506]
    const known = [312, ...Object.keys(AmqpProtocol.replyCodes).map(Number)]
    assert.sameMembers([...codes, ...unprovoked], [...new Set(known)])
  })
})

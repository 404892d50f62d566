/**
 * A broker that a test plays itself, over a real socket: the AMQP side of a scripted peer, and the client under test
 * with everything that hostile tests ask of it (one typed outcome, no secret in it, nothing left behind).
 *
 * It keeps no rule of the protocol by itself: it sends what it is told, and dies where the client writes something else
 * than the test expects.
 */
import { assert } from "@effect/vitest"
import { Effect, type Fiber, Redacted, Schedule, type Scope } from "effect"
import { inspect } from "node:util"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import { AmqpConnectionError, type AmqpConnectionErrorReason } from "../../src/AmqpError.ts"
import type { InputTable } from "../../src/AmqpTable.ts"
import { frameOverhead, protocolHeader } from "../../src/internal/codec/frames.ts"
import type { BasicConsume, BasicProperties, BasicPublish, Method, MethodName } from "../../src/internal/codec/spec.ts"
import type { Limits } from "../../src/internal/engine/handshake.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import {
  concat,
  connectionStart,
  connectionTune,
  declareOk,
  frame,
  line,
  type Sent,
  SentFrames
} from "../engine/peer.ts"
import { makeScripted, type ScriptedConnection } from "../harness/scripted.ts"

/** The password of every client here: no error may hold it. */
export const secret = "the-s3cret-of-this-test"

// -----------------------------------------------------------------------------
// the broker's end
// -----------------------------------------------------------------------------

type MethodOf<Name extends MethodName> = Extract<Method, { readonly _tag: Name }>

/** A content that the client published. */
export interface Published {
  readonly method: BasicPublish
  readonly properties: BasicProperties
  readonly body: Uint8Array
}

const isNamed = <Name extends MethodName>(method: Method, name: Name): method is MethodOf<Name> => method._tag === name

/** One connection of a client. */
export class Server {
  readonly link: ScriptedConnection
  /** Bytes of the client that were read. */
  private taken = 0

  constructor(link: ScriptedConnection) {
    this.link = link
  }

  // --- writing

  /** Sends bytes, in one write. */
  write(...parts: ReadonlyArray<Uint8Array>): Effect.Effect<void> {
    return this.link.write(concat(parts))
  }

  /** Sends methods, in one write. */
  send(channel: number, ...methods: ReadonlyArray<Method<InputTable>>): Effect.Effect<void> {
    return this.write(...methods.map((method) => frame(channel, method)))
  }

  // --- reading

  private read(count: number): Effect.Effect<Uint8Array> {
    return Effect.map(Effect.orDie(this.link.read(count)), (bytes) => {
      this.taken += count
      return bytes
    })
  }

  /** The eight bytes that a client begins with. */
  get header(): Effect.Effect<void> {
    return Effect.map(this.read(protocolHeader.length), (bytes) => assert.deepStrictEqual(bytes, protocolHeader))
  }

  /** The next frame of the client, heartbeats included. */
  get frame(): Effect.Effect<Sent> {
    return Effect.gen({ self: this }, function*() {
      const head = yield* this.read(frameOverhead - 1)
      const rest = yield* this.read(new DataView(head.buffer, head.byteOffset).getUint32(3) + 1)
      const parser = new SentFrames()
      parser.push(concat([head, rest]))
      return parser.frames[0] ?? assert.fail("a whole frame is a frame")
    })
  }

  /** The next frame of the client that is no heartbeat. */
  get next(): Effect.Effect<Exclude<Sent, { readonly _tag: "Heartbeat" }>> {
    return Effect.gen({ self: this }, function*() {
      while (true) {
        const sent = yield* this.frame
        if (sent._tag !== "Heartbeat") return sent
      }
    })
  }

  /** The client's next frame, which must be this method on this channel. */
  expect<Name extends MethodName>(channel: number, name: Name): Effect.Effect<MethodOf<Name>> {
    return Effect.map(this.next, (sent) => {
      assert.strictEqual(line(sent), `${channel} ${name}`)
      return sent._tag === "Method" && isNamed(sent.method, name) ? sent.method : assert.fail("checked above")
    })
  }

  /** The client's next content, which must be a publish on this channel. */
  publish(channel: number): Effect.Effect<Published> {
    return Effect.gen({ self: this }, function*() {
      const method = yield* this.expect(channel, "basic.publish")
      const header = yield* this.next
      if (header._tag !== "Header" || header.channel !== channel) return assert.fail(`${line(header)}: no header`)
      const parts: Array<Uint8Array> = []
      let missing = header.size
      while (missing > 0) {
        const part = yield* this.next
        if (part._tag !== "Body" || part.channel !== channel) return assert.fail(`${line(part)}: no body`)
        parts.push(part.body)
        missing -= part.body.length
      }
      return { method, properties: header.properties, body: concat(parts) }
    })
  }

  /** Waits until the client has gone, and gives the whole frames that nobody has read. */
  get rest(): Effect.Effect<ReadonlyArray<Sent>> {
    return Effect.gen({ self: this }, function*() {
      yield* this.link.closed
      const parser = new SentFrames()
      parser.push((yield* this.link.received).subarray(Math.max(this.taken, protocolHeader.length)))
      return parser.frames.filter(({ _tag }) => _tag !== "Heartbeat")
    })
  }

  /** As `rest`, one line per frame. */
  get restLines(): Effect.Effect<ReadonlyArray<string>> {
    return Effect.map(this.rest, (frames) => frames.map(line))
  }

  // --- conversations

  /** Goes through the handshake, with ANONYMOUS or PLAIN and no heartbeat unless told otherwise. */
  handshake(limits: Partial<Limits> = {}): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      yield* this.header
      yield* this.send(0, connectionStart({ mechanisms: "PLAIN" }))
      yield* this.expect(0, "connection.start-ok")
      yield* this.send(0, connectionTune({ heartbeat: 0, ...limits }))
      yield* this.expect(0, "connection.tune-ok")
      yield* this.expect(0, "connection.open")
      yield* this.send(0, { _tag: "connection.open-ok" })
    })
  }

  /** Answers the client's next request. */
  answer<Name extends MethodName>(
    channel: number,
    name: Name,
    ...reply: ReadonlyArray<Method>
  ): Effect.Effect<MethodOf<Name>> {
    return Effect.tap(this.expect(channel, name), () => this.send(channel, ...reply))
  }

  /** Lets the client's next request subscribe. */
  consume(channel: number): Effect.Effect<BasicConsume> {
    return Effect.tap(
      this.expect(channel, "basic.consume"),
      ({ consumerTag }) => this.send(channel, { _tag: "basic.consume-ok", consumerTag })
    )
  }
}

/** A listening broker. */
export interface HostilePeer {
  readonly port: number
  /** Waits for the next client. */
  readonly accept: Effect.Effect<Server>
}

/** The connections of the test that runs. */
const servers = new Set<Server>()

/** Cuts all connections of this test: nobody has to answer what the client says at the end of its scopes. */
const cutAll = Effect.suspend(() => {
  const all = [...servers]
  servers.clear()
  return Effect.forEach(all, ({ link }) => link.reset, { discard: true })
})

/** Listens on a free port. */
export const makePeer: Effect.Effect<HostilePeer, never, Scope.Scope> = Effect.map(
  makeScripted,
  ({ accept, port }) => ({
    port,
    accept: Effect.map(accept, (link) => {
      const server = new Server(link)
      servers.add(server)
      return server
    })
  })
)

// -----------------------------------------------------------------------------
// the client's end
// -----------------------------------------------------------------------------

/** A connection to the peer; the client wants no heartbeat, and gives up closing soon. It is over at its first loss. */
export const connect = (
  { port }: HostilePeer,
  options: AmqpConnection.Options = {}
): Effect.Effect<AmqpConnection.AmqpConnection, AmqpConnection.ConnectError, Scope.Scope> =>
  AmqpConnection.make({
    host: "127.0.0.1",
    port,
    credentials: { username: "guest", password: Redacted.make(secret) },
    heartbeat: 0,
    closeTimeout: "1 second",
    reconnect: Schedule.recurs(0),
    ...options
  }).pipe(Effect.provide(NodeAmqp.layerTransport))

/** Both ends at once: what the client does, and what the broker does meanwhile. */
export const both = <A, E, R, B, F, S>(
  client: Effect.Effect<A, E, R>,
  server: Effect.Effect<B, F, S>
): Effect.Effect<[A, B], E | F, R | S> => Effect.all([client, server], { concurrency: "unbounded" })

/** An open connection and the broker's end of it. */
export interface Opened {
  readonly connection: AmqpConnection.AmqpConnection
  readonly server: Server
}

/** Connects a client to a peer of its own. */
export const opened = (
  options: AmqpConnection.Options = {},
  limits: Partial<Limits> = {}
): Effect.Effect<Opened, AmqpConnection.ConnectError, Scope.Scope> =>
  Effect.gen(function*() {
    const peer = yield* makePeer
    const [connection, server] = yield* both(
      connect(peer, options),
      Effect.tap(peer.accept, (server) => server.handshake(limits))
    )
    return { connection, server }
  })

/** A channel that the client opens, without the broker's answer. */
export const openOn = (
  connection: AmqpConnection.AmqpConnection,
  id?: number
): Effect.Effect<AmqpChannel.AmqpChannel, AmqpChannel.RequestError, Scope.Scope> =>
  Effect.provideService(AmqpChannel.make(id === undefined ? {} : { id }), AmqpConnection.AmqpConnection, connection)

/** A channel that both ends have opened. */
export const channelOn = (
  { connection, server }: Opened,
  id?: number
): Effect.Effect<AmqpChannel.AmqpChannel, AmqpChannel.RequestError, Scope.Scope> =>
  Effect.map(
    both(
      openOn(connection, id),
      Effect.gen(function*() {
        const open = yield* server.next
        assert.match(line(open), /^\d+ channel\.open$/)
        if (open._tag === "Method") yield* server.send(open.channel, { _tag: "channel.open-ok" })
      })
    ),
    ([channel]) => channel
  )

/** A channel in confirm mode. */
export const confirmingOn = (
  opened: Opened,
  id?: number
): Effect.Effect<AmqpChannel.AmqpChannel, AmqpChannel.SelectError | AmqpChannel.RequestError, Scope.Scope> =>
  Effect.gen(function*() {
    const channel = yield* channelOn(opened, id)
    yield* both(
      channel.confirmSelect,
      opened.server.answer(channel.id, "confirm.select", { _tag: "confirm.select-ok" })
    )
    return channel
  })

/** Asks for a queue and is answered: the connection and this channel work. */
export const assertAlive = (
  { server }: Pick<Opened, "server">,
  channel: AmqpChannel.AmqpChannel
): Effect.Effect<void, AmqpChannel.QueueDeclareError> =>
  Effect.map(
    both(
      channel.queueDeclare({ queue: "alive" }),
      server.answer(channel.id, "queue.declare", declareOk("alive"))
    ),
    ([{ queue }]) => assert.strictEqual(queue, "alive")
  )

/** Every way in which an error gets into logs. */
const assertNoSecret = (error: unknown): void => {
  const texts = [String(error), inspect(error, { depth: 12, showHidden: true }), JSON.stringify(error) ?? ""]
  if (error instanceof Error) texts.push(error.message, error.stack ?? "")
  for (const text of texts) assert.notInclude(text, secret)
}

/** The failure of an effect that must fail; no secret may be in it. */
export const failureOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<E, A, R> =>
  Effect.tap(Effect.flip(effect), (error) => Effect.sync(() => assertNoSecret(error)))

/** The reason of a connection error, which must be this one. */
export const reasonOf = <Tag extends AmqpConnectionErrorReason["_tag"]>(
  error: unknown,
  tag: Tag
): Extract<AmqpConnectionErrorReason, { readonly _tag: Tag }> => {
  assertNoSecret(error)
  if (!(error instanceof AmqpConnectionError)) return assert.fail(`${inspect(error)} is no AmqpConnectionError`)
  const { reason } = error
  assert.strictEqual(reason._tag, tag, error.message)
  const is = (reason: AmqpConnectionErrorReason): reason is Extract<typeof reason, { readonly _tag: Tag }> =>
    reason._tag === tag
  return is(reason) ? reason : assert.fail("checked above")
}

/** An error that must have this tag. */
export const tagged = <E extends { readonly _tag: string }, Tag extends E["_tag"]>(
  error: E,
  tag: Tag
): Extract<E, { readonly _tag: Tag }> => {
  assertNoSecret(error)
  assert.strictEqual(error._tag, tag, String(error))
  const is = (error: E): error is Extract<E, { readonly _tag: Tag }> => error._tag === tag
  return is(error) ? error : assert.fail("checked above")
}

// -----------------------------------------------------------------------------
// the test
// -----------------------------------------------------------------------------

const handles = (): number =>
  process.getActiveResourcesInfo().filter((name) => name.startsWith("TCP") || name === "Timeout").length

/**
 * Runs a test in a scope of its own; its connections are cut at its end. Nothing may be rejected or thrown past it, and no socket or timer may outlive it.
 */
export const hostile = <A, E>(test: Effect.Effect<A, E, Scope.Scope>): Effect.Effect<A, E> =>
  Effect.gen(function*() {
    const strays: Array<unknown> = []
    const onStray = (error: unknown): void => void strays.push(error)
    yield* Effect.acquireRelease(
      Effect.sync(() => process.on("unhandledRejection", onStray).on("uncaughtException", onStray)),
      () => Effect.sync(() => process.off("unhandledRejection", onStray).off("uncaughtException", onStray))
    )
    const before = handles()
    const result = yield* Effect.scoped(Effect.ensuring(test, cutAll))
    // Rejections that nobody handles are told at the end of a turn.
    yield* Effect.yieldNow
    // The system reports closed sockets a few turns later; a handle that is really open is so for ever.
    for (let turn = 0; turn < 2000 && handles() > before; turn++) yield* Effect.yieldNow
    assert.isAtMost(handles(), before, `open: ${process.getActiveResourcesInfo().join()}`)
    assert.deepStrictEqual(strays, [])
    return result
  }).pipe(Effect.scoped)

/** Starts a client effect that the test looks at later. */
export const start = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<Fiber.Fiber<A, E>, never, R | Scope.Scope> => Effect.forkScoped(effect, { startImmediately: true })

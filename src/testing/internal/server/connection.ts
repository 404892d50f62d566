/**
 * The broker's side of one connection: opening, tuning, heartbeats, alarms, closing, and the frames of its channels.
 *
 * It answers a client's mistakes as RabbitMQ does: before the connection is open with three seconds of silence and a
 * reset, later with `connection.close`. Only AMQP 0-9-1 is spoken.
 *
 * @since 0.1.0
 */
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { InputTable, PlainTable } from "../../../AmqpTable.ts"
import type { Message } from "../model/message.ts"
import type { Connection, Link, Peer, Permissions, Reply, User, Vhost } from "../model/model.ts"
import { channelError, closeFields, connectionForced, notAllowed, Refusal } from "../model/refusal.ts"
import type { ChannelHost, Services } from "../model/services.ts"
import type { Timer } from "../model/timers.ts"
import { authenticate } from "./authentication.ts"
import { ServerChannel } from "./channel.ts"
import {
  type ClientFrame,
  copied,
  Crash,
  methodNamed,
  type Named,
  type RawFrame,
  readFrame,
  unexpected
} from "./clientFrame.ts"
import { Heartbeats } from "./heartbeats.ts"
import { Inbox, type Received } from "./inbox.ts"
import { isTuned, loginRefused, openable, start, tune } from "./opening.ts"
import { Outbox, unlimited } from "./outbox.ts"
import { checkAccess } from "./permissions.ts"

/**
 * Where a connection stands. `doomed`: the client made a mistake before the connection was open, which will be reset.
 * `closed`: one side has closed it, the other may still answer. `gone`: it has ended.
 */
type State = "header" | "starting" | "tuning" | "opening" | "running" | "doomed" | "closed" | "gone"

/** How long a client may take to open its connection, in milliseconds. */
const handshakeTimeout = 10_000

/** How long after a mistake in the handshake RabbitMQ resets the connection, in milliseconds. */
const doom = 3000

/** The link of a stranded connection. It takes everything, and nobody is there. */
const nowhere: Omit<Link, "name"> = { write: () => true, end: () => {}, reset: () => {}, resume: () => {} }

export class ServerConnection implements Connection, Peer, ChannelHost {
  readonly id: string
  readonly name: string
  clientName: string | undefined = undefined
  clientProperties: PlainTable = {}
  heartbeatSeconds = 0
  frameMax: number = AmqpProtocol.frameMinSize
  channelMax = 0
  isBlocked = false
  readonly channels = new Map<number, ServerChannel>()
  private link: Omit<Link, "name">
  private readonly services: Services
  private state: State = "header"
  private loggedIn: User | undefined
  private opened: Vhost | undefined
  private capabilities: PlainTable = {}
  // --- reading
  private readonly inbox = new Inbox()
  /** The link has been told to wait. */
  private isPushedBack = false
  /** The client has gone, and the broker has not noticed yet. */
  private isStranded = false
  /** The client has hung up. The broker acts on it when it has read everything that the client has sent. */
  private hasHungUp = false
  /** Channels with mail that is not read yet. */
  private readonly addressees = new Set<{ readonly readMail: () => void }>()
  // --- writing
  private readonly outbox: Outbox
  /** The link ends as soon as everything is written. */
  private ending = false
  // --- time
  /** Bounds the opening, and later the closing. */
  private timer: Timer | undefined
  private readonly heartbeats: Heartbeats
  /** A deadline that passed during a pause. */
  private missed: (() => void) | undefined

  constructor(id: string, link: Link, services: Services) {
    this.id = id
    this.name = link.name
    this.link = link
    this.services = services
    this.outbox = new Outbox(link.name, services.tap.bind(services), () => services.writing(this))
    this.heartbeats = new Heartbeats(services.timers, {
      isPaused: services.isPaused.bind(services),
      isHeld: () => this.isHeld,
      beat: () => this.outbox.sendHeartbeat(),
      onSilence: () => this.drop("missed heartbeats from the client")
    })
    this.timer = this.later(handshakeTimeout, () => this.drop("the handshake took too long"))
  }

  get user(): string {
    return this.loggedIn?.name ?? ""
  }

  get vhost(): string | undefined {
    return this.opened?.name
  }

  // ---------------------------------------------------------------------------
  // the link
  // ---------------------------------------------------------------------------

  receive(bytes: Uint8Array): boolean {
    if (this.isDeaf) return true
    // The transport owns the bytes. They are copied if they wait for the end of another turn.
    const chunk = this.services.isBusy() ? bytes.slice() : bytes
    this.services.turn(() => {
      this.heartbeats.received()
      this.inbox.push(chunk)
      this.read()
    })
    this.isPushedBack = this.isHeld
    return !this.isPushedBack
  }

  drained(): void {
    this.services.turn(() => {
      this.outbox.isCongested = false
      this.wakeConsumers()
    })
  }

  closed(): void {
    if (this.isStranded) return
    this.services.turn(() => {
      this.hasHungUp = true
      this.read()
    })
  }

  /** Handles what has come, as long as the connection may be read. */
  private read(): void {
    while (!this.isHeld) {
      const next = this.inbox.next()
      if (next === undefined) break
      this.take(next)
      this.services.deliver()
    }
    if (this.isHeld) this.inbox.keep()
    this.readMail()
    if (this.isHeld) return
    if (this.hasHungUp) this.leave("the client closed the connection")
    this.listen()
  }

  /** Tells the link that the broker reads again. */
  private listen(): void {
    if (!this.isPushedBack) return
    this.isPushedBack = false
    this.link.resume()
  }

  /**
   * Runs after everything that the client has sent in one piece. In RabbitMQ queues are processes of their own, and
   * answer as late.
   */
  private readMail(): void {
    this.outbox.allPosted()
    for (const channel of this.addressees) {
      this.addressees.delete(channel)
      try {
        channel.readMail()
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        this.fail(error, undefined)
      }
    }
  }

  private get isHeld(): boolean {
    return this.isBlocked || this.services.isPaused()
  }

  private take(received: Received): void {
    if (received._tag === "ProtocolHeader") this.begin(received.isKnown)
    else if (received._tag === "Garbage") this.reject(received.refusal)
    else this.handle(received.frame)
  }

  private begin(isKnown: boolean): void {
    if (!isKnown) {
      this.outbox.write(AmqpProtocol.protocolHeader)
      return this.finish("another protocol")
    }
    this.state = "starting"
    this.send(0, start)
  }

  /** Nothing that follows can be understood. */
  private reject(refusal: Refusal): void {
    this.fail(refusal, undefined)
    if (this.state === "closed") this.doom()
  }

  /** Whether the broker ignores whatever comes. */
  private get isDeaf(): boolean {
    return this.state === "doomed" || this.state === "gone"
  }

  // ---------------------------------------------------------------------------
  // writing
  // ---------------------------------------------------------------------------

  /** Gives the link what is written. While the client is not read, its hanging up is noticed here alone. */
  flush(): void {
    if (this.hasHungUp) return this.leave("the client closed the connection")
    this.readMail()
    const bytes = this.outbox.take()
    if (bytes !== undefined) {
      this.heartbeats.sent()
      if (!this.link.write(bytes)) this.outbox.isCongested = true
    }
    if (this.ending) this.link.end()
    else if (!this.outbox.isCongested) this.wakeConsumers()
  }

  isWritable(): boolean {
    return this.outbox.isWritable()
  }

  private wakeConsumers(): void {
    if (!this.outbox.takeWanted()) return
    for (const channel of this.channels.values()) channel.wake()
  }

  send(channel: number, method: AmqpProtocol.Method<InputTable>): void {
    this.outbox.send(channel, method)
  }

  sendContent(channel: number, method: AmqpProtocol.ContentMethod, message: Message): void {
    this.outbox.sendContent(channel, method, message)
  }

  posted(channel: { readonly readMail: () => void }, size = 0): void {
    this.addressees.add(channel)
    this.outbox.posted(size)
    this.services.writing(this)
  }

  // ---------------------------------------------------------------------------
  // frames
  // ---------------------------------------------------------------------------

  private handle(raw: RawFrame): void {
    if (this.isDeaf || (this.state === "closed" && raw.channel !== 0)) return
    let about: Named | undefined = methodNamed(raw)
    try {
      if (raw.channel === 0) return this.control(raw)
      if (this.state !== "running") {
        about = undefined
        throw unexpected(raw)
      }
      const frame = this.understand(raw)
      if (frame._tag === "Heartbeat") return
      const channel = this.channels.get(raw.channel) ?? this.open(raw.channel)
      about = channel.methodOf(frame)
      const command = channel.assemble(frame)
      if (frame._tag !== "Method") this.published()
      if (command !== undefined) channel.obey(command)
    } catch (error) {
      if (error instanceof Crash) return this.drop(error.reason)
      if (!(error instanceof Refusal)) throw error
      this.fail(error, error.replyCode === 541 ? undefined : about)
    }
  }

  private understand(raw: RawFrame): ClientFrame {
    const frame = readFrame(raw)
    this.services.tap()?.({ connection: this.name, direction: "up", frame: copied(frame) })
    return frame
  }

  private open(number: number): ServerChannel {
    const { size } = this.channels
    if (this.channelMax !== 0 && size >= this.channelMax) {
      throw notAllowed(
        `number of channels opened (${size}) has reached the negotiated channel_max (${this.channelMax})`
      )
    }
    const channel = new ServerChannel(number, this, this.services)
    this.channels.set(number, channel)
    return channel
  }

  forget(number: number): void {
    const channel = this.channels.get(number)
    if (channel !== undefined) this.addressees.delete(channel)
    this.channels.delete(number)
  }

  // ---------------------------------------------------------------------------
  // the class connection
  // ---------------------------------------------------------------------------

  private control(raw: RawFrame): void {
    const { state } = this
    const frame = this.understand(raw)
    if (frame._tag === "Heartbeat") return
    if (frame._tag !== "Method") throw unexpected(raw)
    const { method } = frame
    if (state === "closed") return this.closing(method)
    if (method._tag === "connection.start-ok" && state === "starting") return this.start(method)
    if (method._tag === "connection.tune-ok" && state === "tuning") return this.tune(method)
    if (method._tag === "connection.open" && state === "opening") return this.enter(method)
    if (method._tag === "connection.close" && state === "running") {
      this.release("closed by the client")
      this.send(0, { _tag: "connection.close-ok" })
      return this.await()
    }
    if (method._tag === "connection.update-secret" && state === "running") {
      // As RabbitMQ does for users with passwords, which have no secret to update.
      return this.send(0, { _tag: "connection.update-secret-ok" })
    }
    throw channelError(`unexpected method in connection state ${state}`)
  }

  private start({ clientProperties, mechanism, response }: AmqpProtocol.ConnectionStartOk): void {
    const { capabilities, connection_name } = clientProperties
    this.clientProperties = clientProperties
    if (typeof connection_name === "string") this.clientName = connection_name
    if (isTable(capabilities)) this.capabilities = capabilities
    const user = authenticate(this.services.users, mechanism, response)
    if (user === "invalid") return this.doom()
    if (user === "refused") {
      if (!this.can("authentication_failure_close")) return this.doom()
      this.sendClose(loginRefused(mechanism), undefined)
      return this.await(doom)
    }
    this.loggedIn = user
    this.state = "tuning"
    this.send(0, tune(this.services.limits))
  }

  private tune(method: AmqpProtocol.ConnectionTuneOk): void {
    if (!isTuned(method, this.services.limits)) return this.doom()
    const { channelMax, frameMax, heartbeat } = method
    this.state = "opening"
    this.channelMax = channelMax
    this.frameMax = frameMax
    this.inbox.frameMax = frameMax === 0 ? unlimited : frameMax
    this.outbox.frameMax = frameMax
    this.heartbeatSeconds = heartbeat
  }

  private enter({ virtualHost }: AmqpProtocol.ConnectionOpen): void {
    this.opened = openable(this.services.vhosts, virtualHost, this.account)
    this.state = "running"
    this.stopTimers()
    this.send(0, { _tag: "connection.open-ok" })
    this.services.emit({
      _tag: "ConnectionOpened",
      connection: this.name,
      user: this.user,
      vhost: virtualHost
    })
    this.heartbeats.start(this.heartbeatSeconds)
  }

  get account(): User {
    if (this.loggedIn === undefined) throw new Error("nobody is logged in")
    return this.loggedIn
  }

  get home(): Vhost {
    if (this.opened === undefined) throw new Error("the connection is not open")
    return this.opened
  }

  check(right: keyof Permissions, kind: "queue" | "exchange", name: string): void {
    checkAccess(this.account, this.home.name, right, kind, name)
  }

  can(capability: string): boolean {
    return this.capabilities[capability] === true
  }

  // ---------------------------------------------------------------------------
  // alarms and pauses
  // ---------------------------------------------------------------------------

  /** The client publishes. During an alarm the broker tells it so, and reads it no more. */
  private published(): void {
    const reason = this.services.alarm()
    if (reason === undefined || this.state !== "running") return
    this.isBlocked = true
    if (this.can("connection.blocked")) this.send(0, { _tag: "connection.blocked", reason })
  }

  /** The alarm is over. */
  unblock(): void {
    if (!this.isBlocked) return
    this.isBlocked = false
    this.heartbeats.received()
    if (this.can("connection.blocked")) this.send(0, { _tag: "connection.unblocked" })
    this.read()
  }

  /** The broker listens again. */
  resume(): void {
    this.heartbeats.received()
    this.read()
    this.missed?.()
  }

  // ---------------------------------------------------------------------------
  // the end
  // ---------------------------------------------------------------------------

  close(reply: Reply): void {
    this.services.turn(() => {
      if (this.state === "running") this.sendClose(reply, undefined)
    })
  }

  /** The broker stops. A client whose connection is open is told before the broker hangs up. */
  stop(): void {
    if (this.state !== "running") return this.drop("the broker stops")
    const reason = connectionForced("broker forced connection closure with reason 'shutdown'")
    this.sendClose(reason, undefined)
    this.finish(reason.replyText)
  }

  reset(): void {
    this.services.turn(() => this.drop("reset by the broker"))
  }

  strand(): void {
    this.isStranded = true
    this.link.reset()
    this.link = nowhere
  }

  notice(): void {
    if (!this.isStranded) return
    this.isStranded = false
    this.closed()
  }

  /** Ends the connection of a client that has made a mistake. */
  private fail(refusal: Refusal, method: Named | undefined): void {
    if (this.state === "running" || this.state === "opening") this.sendClose(refusal, method)
    else if (this.state !== "closed") this.doom()
  }

  private sendClose(reply: Reply, method: Named | undefined): void {
    this.release(`${reply.replyCode} ${reply.replyText}`)
    this.send(0, { _tag: "connection.close", ...closeFields(reply, method) })
    this.await()
  }

  /** Waits for the client to hang up, for so many milliseconds. */
  private await(patience = this.farewell): void {
    this.state = "closed"
    if (this.isBlocked) {
      this.isBlocked = false
      this.services.turn(() => this.read())
    }
    this.stopTimers()
    this.timer = this.later(patience, () => this.drop("the client did not hang up"))
  }

  private get farewell(): number {
    return 1000 * (this.heartbeatSeconds > 0 && this.heartbeatSeconds < 30 ? this.heartbeatSeconds : 30)
  }

  /** In the state `closed`. */
  private closing(method: AmqpProtocol.Method): void {
    if (method._tag === "connection.close") this.send(0, { _tag: "connection.close-ok" })
    else if (method._tag === "connection.close-ok") this.finish("closed by the broker")
  }

  /** Silence, then a reset. */
  private doom(): void {
    this.state = "doomed"
    this.inbox.clear()
    this.stopTimers()
    this.timer = this.later(doom, () => this.drop("refused before it was open"))
  }

  private drop(reason: string): void {
    if (this.state === "gone") return
    this.leave(reason)
    this.link.reset()
  }

  /** Ends the link as soon as everything is written. */
  private finish(reason: string): void {
    if (this.state === "gone") return
    this.leave(reason)
    this.ending = true
    this.services.writing(this)
  }

  private leave(reason: string): void {
    if (this.state === "gone") return
    this.release(reason)
    this.state = "gone"
    this.inbox.clear()
    this.outbox.close()
    this.stopTimers()
    this.services.ended(this)
    this.listen()
  }

  /**
   * Runs something later, unless `stopTimers` comes first. A paused broker runs it after the pause, when it has read
   * what came.
   */
  private later(millis: number, run: () => void): Timer {
    return this.services.timers.after(millis, () => {
      if (this.services.isPaused()) this.missed = run
      else run()
    })
  }

  private stopTimers(): void {
    this.timer?.cancel()
    this.heartbeats.stop()
    this.missed = undefined
  }

  /** Lets go of channels and exclusive queues, once. */
  private release(reason: string): void {
    if (this.state !== "running") return
    this.state = "closed"
    for (const channel of this.channels.values()) channel.end(reason)
    this.channels.clear()
    this.addressees.clear()
    this.home.release(this)
    this.services.emit({ _tag: "ConnectionClosed", connection: this.name, reason })
  }
}

const isTable = (value: unknown): value is PlainTable =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype

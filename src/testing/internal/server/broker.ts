/**
 * The broker as a whole: its connections, vhosts and users, alarms, and the order in which things are done.
 *
 * Everything that comes from outside is one turn: the work itself, then the deliveries of queues, then one write for
 * each connection. A turn that begins inside another one is done after it.
 *
 * @since 0.1.0
 */
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { Message } from "../model/message.ts"
import type { Core, CoreOptions, Link, Owner, Peer, Permissions, Queue, User, Vhost } from "../model/model.ts"
import { connectionForced } from "../model/refusal.ts"
import type { Limits, Services } from "../model/services.ts"
import { Timers } from "../model/timers.ts"
import { makeVhost } from "../vhost/vhost.ts"
import { ServerConnection } from "./connection.ts"

/** How many queues in a row a dead letter may pass in one turn. */
const maxGenerations = 100

const halfHour = 30 * 60 * 1000

/** The peer of a client that connects while the broker is stopped. Its link is reset already. */
const nobody: Peer = { receive: () => true, drained: () => {}, closed: () => {} }

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

/** 22 characters, as in RabbitMQ's names. No two names are the same, but each run gives the same names. */
const makeNames = (): (prefix: string) => string => {
  let state = 0x9e37_79b9
  let count = 0
  return (prefix) => {
    let name = ""
    for (let i = 0; i < 18; i++) {
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      name += alphabet[state & 63]
    }
    const number = count++
    for (const shift of [18, 12, 6, 0]) name += alphabet[(number >>> shift) & 63]
    return prefix + name
  }
}

class BrokerCore implements Core, Services {
  readonly timers: Timers
  readonly connections = new Map<string, ServerConnection>()
  readonly vhosts = new Map<string, Vhost>()
  readonly users = new Map<string, User>()
  readonly limits: Limits
  readonly emit: CoreOptions["emit"]
  readonly tap: CoreOptions["tap"]
  private readonly onTurn: CoreOptions["onTurn"]
  readonly generateName = makeNames()
  readonly replyAddresses = new Map<string, (message: Message) => void>()
  readonly agenda = {
    add: (queue: Queue): void => void this.marked.add(queue),
    later: (work: () => void): void => void this.letters.push(work)
  }
  private readonly marked = new Set<Queue>()
  private readonly letters: Array<() => void> = []
  private readonly writers = new Set<{ readonly flush: () => void }>()
  private readonly works: Array<() => void> = []
  private busy = false
  private isStopped = false
  private paused = false
  private blocked: string | undefined
  private connected = 0

  constructor(options: CoreOptions) {
    const { consumerTimeout, channelMax, emit, frameMax, heartbeatSeconds, maxMessageSize, now, onEarlier, tap } =
      options
    this.timers = new Timers({ now, onEarlier })
    this.emit = emit
    this.tap = tap
    this.onTurn = options.onTurn
    this.limits = {
      heartbeatSeconds: heartbeatSeconds ?? 60,
      frameMax: frameMax ?? AmqpProtocol.defaultFrameMax,
      channelMax: channelMax ?? 2047,
      maxMessageSize: maxMessageSize ?? 128 * 1024 * 1024,
      consumerTimeout: consumerTimeout ?? halfHour
    }
    this.addVhost("/")
    this.addUser("guest", "guest")
    this.setPermissions("guest", "/", { configure: /.*/, write: /.*/, read: /.*/ })
  }

  // ---------------------------------------------------------------------------
  // turns
  // ---------------------------------------------------------------------------

  isBusy(): boolean {
    return this.busy
  }

  turn(work: () => void): void {
    this.works.push(work)
    if (this.busy) return
    this.busy = true
    try {
      do {
        for (let next = this.works.shift(); next !== undefined; next = this.works.shift()) {
          next()
          this.deliver()
        }
        this.flush()
      } while (this.works.length > 0)
    } finally {
      this.busy = false
      this.onTurn?.()
    }
  }

  deliver(): void {
    if (this.paused) return
    let generations = 0
    let left = 0
    while (true) {
      for (const queue of this.marked) {
        this.marked.delete(queue)
        queue.pump()
      }
      if (left === 0) {
        left = this.letters.length
        if (left === 0) return
        generations++
        // As in RabbitMQ, dead letters may go in a circle for ever. Others on this thread get their turn in between.
        if (generations > maxGenerations) {
          this.timers.after(1, () => {})
          return
        }
      }
      left--
      this.letters.shift()?.()
    }
  }

  writing(writer: { readonly flush: () => void }): void {
    this.writers.add(writer)
  }

  private flush(): void {
    if (this.paused) return
    for (const writer of this.writers) {
      this.writers.delete(writer)
      writer.flush()
      // There may be room again. What queues deliver now is written after the other connections.
      this.deliver()
    }
  }

  wake(): void {
    this.turn(() => this.timers.runDue())
  }

  // ---------------------------------------------------------------------------
  // connections
  // ---------------------------------------------------------------------------

  connect(link: Link): Peer {
    if (this.isStopped) {
      link.reset()
      return nobody
    }
    const connection = new ServerConnection(`${++this.connected}`, link, this)
    this.connections.set(connection.id, connection)
    return connection
  }

  ended(owner: Owner): void {
    this.connections.delete(owner.id)
  }

  private closeAll(which: (connection: ServerConnection) => boolean, text: string): void {
    for (const connection of this.connections.values()) {
      if (which(connection)) connection.close(connectionForced(text))
    }
  }

  // ---------------------------------------------------------------------------
  // vhosts and users
  // ---------------------------------------------------------------------------

  addVhost(name: string): void {
    if (!this.vhosts.has(name)) this.vhosts.set(name, makeVhost(this, name))
  }

  deleteVhost(name: string): void {
    this.turn(() => {
      this.closeAll(({ vhost }) => vhost === name, `vhost '${name}' is deleted`)
    })
    this.turn(() => {
      this.vhosts.get(name)?.close()
      this.vhosts.delete(name)
      for (const user of this.users.values()) user.permissions.delete(name)
    })
  }

  addUser(name: string, password: string): void {
    const user = this.users.get(name)
    if (user === undefined) this.users.set(name, { name, password, permissions: new Map() })
    else user.password = password
  }

  deleteUser(name: string): void {
    this.users.delete(name)
    this.turn(() => this.closeAll(({ user }) => user === name, `user '${name}' is deleted`))
  }

  setPermissions(user: string, vhost: string, permissions: Permissions): void {
    this.users.get(user)?.permissions.set(vhost, permissions)
  }

  // ---------------------------------------------------------------------------
  // what happens to a broker
  // ---------------------------------------------------------------------------

  alarm(): string | undefined {
    return this.blocked
  }

  block(reason: string): void {
    this.blocked = reason
  }

  unblock(): void {
    this.blocked = undefined
    this.turn(() => {
      for (const connection of this.connections.values()) connection.unblock()
    })
  }

  isPaused(): boolean {
    return this.paused
  }

  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
    this.turn(() => {
      for (const connection of this.connections.values()) connection.resume()
    })
  }

  stop(): void {
    this.isStopped = true
    this.paused = false
    this.turn(() => {
      for (const connection of this.connections.values()) connection.stop()
    })
  }

  start(): void {
    if (!this.isStopped) return
    this.isStopped = false
    this.turn(() => {
      for (const vhost of this.vhosts.values()) vhost.restart()
    })
  }
}

/** A broker with the vhost `/` and the user `guest`, who may do everything there. */
export const makeCore = (options: CoreOptions): Core => new BrokerCore(options)

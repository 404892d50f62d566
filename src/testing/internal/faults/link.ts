/**
 * One connection with faults in it: what strikes where, and what both sides have to be told so that each sees a peer that
 * keeps to the protocol.
 *
 * A channel that the broker is made to close is closed at the broker as if the client did it: what either side sends in
 * between is for nobody, as in a broker. Time and sockets are its owner's.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import { truncateUtf8 } from "../../../internal/codec/wire.ts"
import { ConfirmLedger } from "./confirmLedger.ts"
import type {
  ChannelClose,
  Condition,
  ConfirmFault,
  Direction,
  Directions,
  Fault,
  FrameName,
  FramePoint,
  Incident,
  Point
} from "./faults.ts"
import { FrameLane, type Item, type RawFrame } from "./lane.ts"

// -----------------------------------------------------------------------------
// what is armed
// -----------------------------------------------------------------------------

/** Where a fault struck. */
export interface Place {
  readonly link: FaultyLink
  readonly channel: number | undefined
  readonly frame: { readonly direction: Direction; readonly name: FrameName } | undefined
}

/** Whoever lets a fault strike. */
export interface Striker {
  /** It has, maybe later than it was asked to. */
  readonly onFired: (place: Place) => void
  /** A condition holds for a link from here on. */
  readonly hold: (condition: Condition, link: FaultyLink) => void
}

/** A fault that waits for its point. */
export class Arm {
  readonly point: Point
  readonly fault: Fault
  readonly striker: Striker
  private remaining: number
  private readonly counts = new WeakMap<FaultyLink, number>()

  constructor(point: Point, fault: Fault, times: number, striker: Striker) {
    this.point = point
    this.fault = fault
    this.remaining = times
    this.striker = striker
  }

  /** Whether a connection can still come to its point. */
  isFor(link: FaultyLink): boolean {
    const which = this.point._tag === "After" ? this.point.frame : this.point
    return this.remaining > 0 && (which.connection ?? link.id) === link.id
  }

  /** Whether it will not strike again. */
  get isSpent(): boolean {
    return this.remaining === 0
  }

  /** A connection has come to it: whether it strikes this time. */
  takes(link: FaultyLink): boolean {
    const which = this.point._tag === "After" ? this.point.frame : this.point
    const count = (this.counts.get(link) ?? 0) + 1
    this.counts.set(link, count)
    if (this.remaining === 0 || ("nth" in which && count < (which.nth ?? 1))) return false
    this.remaining--
    return true
  }

  /** It could not strike there. */
  spare(): void {
    this.remaining++
  }
}

/** What a link needs of its owner. */
export interface LinkHost {
  readonly arms: ReadonlySet<Arm>
  readonly send: (direction: Direction, item: Item) => void
  /** Runs something later. */
  readonly later: (millis: number, run: () => void) => void
  /** Drops the connection on both sides, at once. */
  readonly reset: () => void
  /** Hangs up on the broker. */
  readonly leaveBroker: () => void
  /** Whether anybody looks at frames. */
  readonly isTapped: () => boolean
  readonly tap: (
    direction: Direction,
    frame: AmqpProtocol.Frame,
    fate: "passed" | "dropped" | "injected"
  ) => void
}

// -----------------------------------------------------------------------------
// the link
// -----------------------------------------------------------------------------

/** A channel that both sides are being told is closed. */
interface Closing {
  /** What either side was told so far; from there on nothing passes. */
  down: boolean
  up: boolean
  clientDone: boolean
  brokerDone: boolean
  /** What the client sends on the channel that it opens next, under the same number. */
  readonly next: Array<RawFrame>
}

interface Consumer {
  readonly channel: number
  readonly tag: string
  readonly queue: string
  readonly noAck: boolean
}

/** Where something is to be done: at a frame, between bytes of a lane, or wherever the connection is. */
interface Spot {
  readonly lane?: FrameLane
  readonly channel?: number
  readonly frame?: Place["frame"]
  /** What the client is to be told is the reason. */
  readonly cause?: AmqpProtocol.MethodName | undefined
}

/** How far a channel is, as the broker knows it. */
type ChannelPhase = "open" | "closing"

const encode = (channel: number, method: AmqpProtocol.Method): Uint8Array =>
  Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method))

const directionsOf = (directions: Directions): ReadonlyArray<Direction> =>
  directions === "both" ? ["up", "down"] : [directions]

const noReason = { replyCode: 200, replyText: "", classId: 0, methodId: 0 }

const isOfConfirm = (fault: Fault): fault is ConfirmFault =>
  fault._tag === "ConfirmLost" || fault._tag === "ConfirmLate" || fault._tag === "ConfirmNacked"

/** In which direction a point among frames is. */
const directionOf = (point: Point): Direction => {
  switch (point._tag) {
    case "Confirm":
      return "down"
    case "After":
      return point.frame.direction
    default:
      return point.direction
  }
}

/** Whether a frame is the one that is waited for, `nth` aside. */
const isAt = (point: FramePoint, { direction }: FrameLane, frame: RawFrame, name: FrameName): boolean => {
  if (point.direction !== direction || point.name !== name || (point.channel ?? frame.channel) !== frame.channel) {
    return false
  }
  if (point.where === undefined) return true
  const decoded = frame.frame
  const subject = decoded?._tag === "Method" ? decoded.method : decoded
  return subject !== undefined && point.where(subject)
}

/** One connection. */
export class FaultyLink {
  readonly id: number
  readonly up: FrameLane
  readonly down: FrameLane
  private readonly host: LinkHost
  private readonly phases = new Map<number, ChannelPhase>()
  private readonly ledgers = new Map<number, ConfirmLedger>()
  private readonly closings = new Map<number, Closing>()
  /** Consumers whose reply has not come. */
  private starting: Array<Consumer> = []
  private consumers: Array<Consumer> = []
  /** Those that the client was told are cancelled. */
  private cancelled: Array<Consumer> = []
  /** `connection.open-ok` has passed. */
  private isOpen = false
  /** The client was told that the connection is closed. */
  isEnding = false
  private isBlocked = false

  constructor(id: number, host: LinkHost) {
    this.id = id
    this.host = host
    const lanes = {
      send: host.send,
      isCareful: (direction: Direction) => this.isCareful(direction),
      wantsBodies: () => host.isTapped() || this.closings.size > 0,
      onFrame: (direction: Direction, frame: RawFrame, isOut: boolean) => this.onFrame(this[direction], frame, isOut),
      nextOffset: (direction: Direction, from: number) => this.nextOffset(direction, from),
      onOffset: (direction: Direction, offset: number) => this.onOffset(this[direction], offset)
    }
    this.up = new FrameLane("up", lanes)
    this.down = new FrameLane("down", lanes)
  }

  /** The channels that are open. */
  get channels(): ReadonlyArray<number> {
    return [...this.phases].flatMap(([channel, phase]) =>
      phase === "open" && !this.closings.has(channel) ? [channel] : []
    )
  }

  /** Whether the broker hanging up is no news for the client. */
  get isBrokerForgotten(): boolean {
    return this.isEnding || this.down.isDark
  }

  // ---------------------------------------------------------------------------
  // striking
  // ---------------------------------------------------------------------------

  /**
   * Does it where the lanes are at present. Gives `false` where there is nothing to do it to; otherwise the striker hears
   * of it, maybe later.
   */
  strike(fault: Incident | ChannelClose | Condition, striker: Striker, at: Spot = {}): boolean {
    const fired = (channel = at.channel): void => striker.onFired(this.place(channel, at.frame))
    switch (fault._tag) {
      case "Reset":
        this.reset(at.lane)
        break
      case "Pause":
        for (const direction of directionsOf(fault.directions)) {
          this[direction].insert({ _tag: "Pause", millis: fault.millis })
        }
        break
      case "DropBytes":
        this[fault.direction].drop(fault.count)
        break
      case "HalfOpen":
        for (const direction of directionsOf(fault.directions)) {
          this[direction].settle()
          this[direction].isDark = true
        }
        striker.hold(fault, this)
        break
      case "Delay":
      case "Split":
      case "Throttle":
        this.up.settle()
        this.down.settle()
        striker.hold(fault, this)
        break
      case "Blocked":
      case "Unblocked":
        if (!this.isOpen || this.isEnding) return false
        if (fault._tag === "Blocked") striker.hold(fault, this)
        this.isBlocked = fault._tag === "Blocked"
        this.say(0, this.alarm(fault), fired)
        return true
      case "ConnectionClose":
        return this.closeConnection(fault, fired)
      case "ConsumerCancel":
        return this.cancelConsumers(fault, fired)
      case "ChannelClose":
        return this.closeChannel(fault, at, fired)
    }
    fired()
    return true
  }

  private alarm(fault: Extract<Fault, { readonly _tag: "Blocked" | "Unblocked" }>): AmqpProtocol.Method {
    return fault._tag === "Blocked"
      ? { _tag: "connection.blocked", reason: truncateUtf8(fault.reason, 255) }
      : { _tag: "connection.unblocked" }
  }

  /** Where a lane is, once that is reached; or at once. */
  private reset(lane: FrameLane | undefined): void {
    if (lane === undefined) this.host.reset()
    else lane.insert({ _tag: "Reset" })
    this.up.isDead = true
    this.down.isDead = true
  }

  /** What a condition has done to the link itself is over. */
  lift(condition: Condition): void {
    if (condition._tag === "HalfOpen") {
      for (const direction of directionsOf(condition.directions)) this[direction].isDark = false
      if (this.up.hasLost || this.down.hasLost) this.reset(undefined)
    }
    if (condition._tag === "Blocked" && this.isBlocked && !this.isEnding) {
      this.isBlocked = false
      this.say(0, { _tag: "connection.unblocked" })
    }
  }

  /** Speaks for the broker, where a frame of this channel may begin. */
  private say(channel: number, method: AmqpProtocol.Method, said = (): void => {}): void {
    this.down.whenFree(channel, () => {
      if (this.isEnding && method._tag !== "connection.close") return
      this.put("down", channel, method)
      said()
    })
  }

  /** Speaks for the client. */
  private tell(channel: number, method: AmqpProtocol.Method, told = (): void => {}): void {
    this.up.whenFree(channel, () => {
      this.put("up", channel, method)
      told()
    })
  }

  private put(direction: Direction, channel: number, method: AmqpProtocol.Method): void {
    this[direction].insert({ _tag: "Bytes", bytes: encode(channel, method) })
    this.host.tap(direction, { _tag: "Method", channel, method }, "injected")
  }

  private closeConnection(reply: { replyCode: number; replyText: string }, fired: () => void): boolean {
    if (this.isEnding) return false
    const { replyCode } = reply
    const replyText = truncateUtf8(reply.replyText, 255)
    this.say(0, { _tag: "connection.close", ...noReason, replyCode, replyText }, () => {
      if (this.isEnding) return
      this.isEnding = true
      fired()
      // Before it is open nothing can be closed in good order.
      if (this.isOpen) this.tell(0, { _tag: "connection.close", ...noReason, replyText: "closed by a fault" })
      else this.host.leaveBroker()
    })
    return true
  }

  private closeChannel(reply: ChannelClose, { cause, channel = 0 }: Spot, fired: () => void): boolean {
    const phase = this.phases.get(channel)
    const isOpening = phase === undefined && cause === "channel.open"
    if (channel === 0 || this.isEnding || this.closings.has(channel) || (phase !== "open" && !isOpening)) return false
    const closing: Closing = {
      down: false,
      up: false,
      clientDone: false,
      // A channel that the broker will not hear of needs no close.
      brokerDone: isOpening,
      next: []
    }
    this.closings.set(channel, closing)
    const id = cause === undefined ? 0 : AmqpProtocol.methods[cause].id
    this.say(channel, {
      _tag: "channel.close",
      replyCode: reply.replyCode,
      replyText: truncateUtf8(reply.replyText, 255),
      classId: id >>> 16,
      methodId: id & 0xffff
    }, () => {
      closing.down = true
      fired()
    })
    if (isOpening) closing.up = true
    else {
      this.tell(channel, { _tag: "channel.close", ...noReason, replyText: "closed by a fault" }, () => {
        closing.up = true
      })
    }
    return true
  }

  private cancelConsumers(
    which: { readonly consumerTag: string | undefined; readonly queue: string | undefined },
    fired: (channel: number) => void
  ): boolean {
    const found = this.consumers.filter(({ channel, queue, tag }) =>
      (which.consumerTag ?? tag) === tag && (which.queue ?? queue) === queue && !this.closings.has(channel)
    )
    this.consumers = this.consumers.filter((consumer) => !found.includes(consumer))
    for (const consumer of found) {
      const { channel, tag: consumerTag } = consumer
      this.say(channel, { _tag: "basic.cancel", consumerTag, noWait: true }, () => {
        this.cancelled.push(consumer)
        fired(channel)
      })
      this.tell(channel, { _tag: "basic.cancel", consumerTag, noWait: true })
    }
    return !this.isEnding && found.length > 0
  }

  // ---------------------------------------------------------------------------
  // points
  // ---------------------------------------------------------------------------

  private isCareful(direction: Direction): boolean {
    if (this.isEnding || this.closings.size > 0) return true
    if (
      direction === "down" && (this.cancelled.length > 0 || [...this.ledgers.values()].some((one) => one.isAltered))
    ) {
      return true
    }
    for (const { point } of this.host.arms) {
      if (point._tag !== "Bytes" && directionOf(point) === direction) return true
    }
    return false
  }

  private nextOffset(direction: Direction, from: number): number {
    let next = Infinity
    for (const arm of this.host.arms) {
      const { point } = arm
      if (point._tag !== "Bytes" || point.direction !== direction || point.offset <= from || !arm.isFor(this)) continue
      next = Math.min(next, point.offset)
    }
    return next
  }

  private onOffset(lane: FrameLane, offset: number): void {
    for (const arm of [...this.host.arms]) {
      const { point } = arm
      if (point._tag !== "Bytes" || point.direction !== lane.direction || point.offset !== offset) continue
      if (arm.isFor(this) && arm.takes(this)) this.fire(arm, { lane })
    }
  }

  private fire(
    arm: Arm,
    at: { readonly lane: FrameLane; readonly frame?: RawFrame; readonly name?: FrameName }
  ): void {
    const { fault } = arm
    if (fault._tag === "Drop" || fault._tag === "Refuse" || isOfConfirm(fault)) return
    const { frame, lane, name } = at
    const spot: Spot = frame === undefined || name === undefined
      ? { lane }
      : { lane, channel: frame.channel, cause: frame.method?._tag, frame: { direction: lane.direction, name } }
    if (!this.strike(fault, arm.striker, spot)) arm.spare()
  }

  /** Whether a frame passes. */
  private onFrame(lane: FrameLane, frame: RawFrame, isOut: boolean): boolean {
    const passes = this.decide(lane, frame, isOut)
    if (this.host.isTapped() && frame.frame !== undefined) {
      this.host.tap(lane.direction, frame.frame, passes && !lane.isDark ? "passed" : "dropped")
    }
    return passes
  }

  private decide(lane: FrameLane, frame: RawFrame, isOut: boolean): boolean {
    const { name } = frame
    let isDropped = false
    if (!isOut) {
      if (!this.isExpected(lane, frame)) return false
      const isClosing = this.closings.has(frame.channel)
      isDropped = !this.passesPoints(lane, frame, name)
      if (lane.isDead || this.isEnding) return false
      // What has struck may be the end of its channel.
      if (!isClosing && !this.isExpected(lane, frame)) return false
    }
    const ledger = this.ledgers.get(frame.channel)
    if (ledger !== undefined && name === "basic.publish") ledger.publish(!isDropped)
    if (ledger !== undefined && lane === this.down && (name === "basic.ack" || name === "basic.nack")) {
      return this.confirm(ledger, frame, isDropped)
    }
    if (!isDropped) this.follow(lane, frame)
    return !isDropped
  }

  /** Whether anybody waits for such a frame; if not, it is for nobody. */
  private isExpected(lane: FrameLane, frame: RawFrame): boolean {
    if (this.isEnding) {
      // A broker hangs up when its close is answered.
      if (lane === this.up && frame.name === "connection.close-ok") this.down.insert({ _tag: "End" })
      return false
    }
    const closing = this.closings.get(frame.channel)
    if (closing !== undefined && !this.isExpectedOfClosing(closing, lane, frame)) return false
    if (frame.isContentPart && lane.isDropping(frame.channel)) return false
    return lane === this.up || this.cancelled.length === 0 || !this.isOfCancelled(frame)
  }

  private isExpectedOfClosing(closing: Closing, lane: FrameLane, frame: RawFrame): boolean {
    const { channel, name } = frame
    if (lane === this.down) {
      // The rest of a content, behind which the client will be told.
      if (!closing.down) return true
      // Both sides have closed at once: then each answers the other.
      if (name === "channel.close") this.tell(channel, { _tag: "channel.close-ok" })
      if (name === "channel.close-ok") closing.brokerDone = true
    } else if (closing.clientDone) closing.next.push(frame)
    else if (name === "channel.close-ok") {
      closing.clientDone = true
      // Its content will never be complete: the broker would take what comes for an offence.
      if (!closing.up) this.reset(undefined)
    } else if (name === "channel.close") this.say(channel, { _tag: "channel.close-ok" })
    else if (!closing.up) return true
    if (closing.clientDone && closing.brokerDone) this.up.whenFree(undefined, () => this.closed(closing, channel))
    return false
  }

  /** Both sides have forgotten the channel. */
  private closed(closing: Closing, channel: number): void {
    if (this.closings.get(channel) !== closing) return
    this.closings.delete(channel)
    this.forget(channel)
    for (const frame of closing.next) {
      const passes = this.onFrame(this.up, frame, false)
      if (passes) this.up.insert({ _tag: "Bytes", bytes: frame.bytes })
      this.up.follow(frame, passes)
    }
  }

  private forget(channel: number): void {
    const isOther = (consumer: Consumer): boolean => consumer.channel !== channel
    this.phases.delete(channel)
    this.ledgers.delete(channel)
    this.starting = this.starting.filter(isOther)
    this.consumers = this.consumers.filter(isOther)
    this.cancelled = this.cancelled.filter(isOther)
  }

  /** A delivery to a consumer that the client takes for cancelled: it is given back. */
  private isOfCancelled({ channel, method }: RawFrame): boolean {
    if (method?._tag !== "basic.deliver") return false
    const { consumerTag, deliveryTag } = method
    const consumer = this.cancelled.find((one) => one.channel === channel && one.tag === consumerTag)
    if (consumer === undefined) return false
    if (!consumer.noAck) this.tell(channel, { _tag: "basic.reject", deliveryTag, requeue: true })
    return true
  }

  /** Whether the frame passes; a tracked direction of points that have been looked for. */
  private passesPoints(lane: FrameLane, frame: RawFrame, name: FrameName | undefined): boolean {
    if (name === undefined || this.host.arms.size === 0) return true
    let passes = true
    for (const arm of [...this.host.arms]) {
      const { fault, point } = arm
      if (point._tag === "Bytes" || point._tag === "Confirm" || !arm.isFor(this)) continue
      const wanted = point._tag === "After" ? point.frame : point
      if (!isAt(wanted, lane, frame, name) || !arm.takes(this)) continue
      if (fault._tag === "Drop") {
        passes = false
        arm.striker.onFired(this.place(frame.channel, { direction: lane.direction, name }))
      } else if (point._tag === "After") lane.behind(() => this.fire(arm, { lane, frame, name }))
      else this.fire(arm, { lane, frame, name })
    }
    return passes
  }

  private place(channel: number | undefined, frame: Place["frame"]): Place {
    return { link: this, channel: channel === 0 ? undefined : channel, frame }
  }

  // ---------------------------------------------------------------------------
  // confirms
  // ---------------------------------------------------------------------------

  /** Whether a confirm passes as it is. */
  private confirm(ledger: ConfirmLedger, { channel, method }: RawFrame, isDropped: boolean): boolean {
    if (method?._tag !== "basic.ack" && method?._tag !== "basic.nack") return true
    const numbers = ledger.settle(method.deliveryTag, method.multiple)
    const confirms: Array<{ readonly deliveryTag: number; readonly fault: ConfirmFault | undefined }> = []
    for (const deliveryTag of numbers) confirms.push({ deliveryTag, fault: this.confirmFault(channel, method._tag) })
    ledger.isAltered ||= isDropped || confirms.some(({ fault }) => fault !== undefined)
    if (!ledger.isAltered) return true
    if (isDropped) return false
    for (const { deliveryTag, fault } of confirms) {
      if (fault?._tag === "ConfirmLost") continue
      const isTaken = method._tag === "basic.ack" && fault?._tag !== "ConfirmNacked"
      const reply: AmqpProtocol.Method = isTaken
        ? { _tag: "basic.ack", deliveryTag, multiple: false }
        : { _tag: "basic.nack", deliveryTag, multiple: false, requeue: false }
      if (fault?._tag !== "ConfirmLate") this.put("down", channel, reply)
      else {
        this.host.later(fault.millis, () => {
          if (this.ledgers.get(channel) === ledger && !this.closings.has(channel)) this.say(channel, reply)
        })
      }
    }
    return false
  }

  private confirmFault(channel: number, name: FrameName): ConfirmFault | undefined {
    let chosen: ConfirmFault | undefined
    for (const arm of [...this.host.arms]) {
      const { fault, point } = arm
      if (point._tag !== "Confirm" || (point.channel ?? channel) !== channel || !isOfConfirm(fault)) continue
      if (!arm.isFor(this) || !arm.takes(this)) continue
      // One fate is enough; another fault waits for the next.
      if (chosen !== undefined) arm.spare()
      else {
        chosen = fault
        arm.striker.onFired(this.place(channel, { direction: "down", name }))
      }
    }
    return chosen
  }

  // ---------------------------------------------------------------------------
  // what both sides know
  // ---------------------------------------------------------------------------

  /** A frame passes. */
  private follow(lane: FrameLane, frame: RawFrame): void {
    const { channel, name } = frame
    if (lane === this.up) this.followClient(channel, name, frame)
    else this.followBroker(channel, name, frame)
  }

  private followClient(channel: number, name: FrameName | undefined, { method }: RawFrame): void {
    switch (name) {
      case "channel.open":
        this.phases.set(channel, "open")
        return
      case "channel.close":
        if (this.phases.has(channel)) this.phases.set(channel, "closing")
        return
      case "channel.close-ok":
        return this.forget(channel)
      case "confirm.select":
        if (!this.ledgers.has(channel)) this.ledgers.set(channel, new ConfirmLedger())
        return
      case "basic.consume": {
        if (method?._tag !== "basic.consume") return
        const { consumerTag: tag, noAck, noWait, queue } = method
        const consumer: Consumer = { channel, tag, queue, noAck }
        if (noWait) this.consumers.push(consumer)
        else this.starting.push(consumer)
        return
      }
      case "basic.cancel":
        if (method?._tag === "basic.cancel") this.stopped(channel, method.consumerTag)
    }
  }

  private followBroker(channel: number, name: FrameName | undefined, { method }: RawFrame): void {
    switch (name) {
      case "connection.open-ok":
        this.isOpen = true
        return
      case "channel.close":
        if (this.phases.has(channel)) this.phases.set(channel, "closing")
        return
      case "channel.close-ok":
        return this.forget(channel)
      case "basic.consume-ok": {
        if (method?._tag !== "basic.consume-ok") return
        const { consumerTag: tag } = method
        const index = this.starting.findIndex((one) => one.channel === channel && (one.tag === tag || one.tag === ""))
        const [started] = index < 0 ? [] : this.starting.splice(index, 1)
        if (started === undefined) return
        this.stopped(channel, tag)
        this.cancelled = this.cancelled.filter((one) => one.channel !== channel || one.tag !== tag)
        this.consumers.push({ ...started, tag })
        return
      }
      case "basic.cancel":
        if (method?._tag === "basic.cancel") this.stopped(channel, method.consumerTag)
    }
  }

  private stopped(channel: number, tag: string): void {
    this.consumers = this.consumers.filter((one) => one.channel !== channel || one.tag !== tag)
  }
}

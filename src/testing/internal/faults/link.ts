/**
 * One connection with faults in it: what strikes where, and what both sides have to be told so that each sees a peer that
 * keeps to the protocol.
 *
 * When a fault has the broker close a channel, the broker itself is told that the client closes it. What either side
 * sends in between is dropped, as in a broker. The owner of the link keeps the time and the sockets.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import { truncateUtf8 } from "../../../internal/codec/wire.ts"
import { type Arm, directionOf, isAt, isOfConfirm, type Place, type Striker } from "./arm.ts"
import type { ConfirmLedger } from "./confirmLedger.ts"
import type {
  ChannelClose,
  Condition,
  ConfirmFault,
  Direction,
  Directions,
  Fault,
  FrameName,
  Incident
} from "./faults.ts"
import type { RawFrame } from "./frame.ts"
import { FrameLane, type Item } from "./lane.ts"
import { LinkState } from "./state.ts"

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

/** A channel that both sides are being told is closed. */
interface Closing {
  /** Whether the client (`down`) and the broker (`up`) have been told. From there on nothing passes. */
  down: boolean
  up: boolean
  clientDone: boolean
  brokerDone: boolean
  /** What the client sends on the channel that it opens next, under the same number. */
  readonly next: Array<RawFrame>
}

/** Where a fault strikes: at a frame, between bytes of a lane, or wherever the connection is. */
interface Spot {
  readonly lane?: FrameLane
  readonly channel?: number
  readonly frame?: Place["frame"]
  /** The method that the client is told is the reason. */
  readonly cause?: AmqpProtocol.MethodName | undefined
}

const encode = (channel: number, method: AmqpProtocol.Method): Uint8Array =>
  Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method))

const directionsOf = (directions: Directions): ReadonlyArray<Direction> =>
  directions === "both" ? ["up", "down"] : [directions]

const noReason = { replyCode: 200, replyText: "", classId: 0, methodId: 0 }

/** One connection. */
export class FaultyLink {
  readonly id: number
  readonly up: FrameLane
  readonly down: FrameLane
  private readonly host: LinkHost
  private readonly state = new LinkState()
  private readonly closings = new Map<number, Closing>()
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
    return this.state.openChannels.filter((channel) => !this.closings.has(channel))
  }

  /** Whether the client is not to learn that the broker hangs up. */
  get isBrokerForgotten(): boolean {
    return this.isEnding || this.down.isDark
  }

  // ---------------------------------------------------------------------------
  // striking
  // ---------------------------------------------------------------------------

  /**
   * Lets a fault strike where the lanes are at present. `false`: there is nothing to strike. Otherwise the striker is
   * told, maybe later.
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
        if (!this.state.isOpen || this.isEnding) return false
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

  /** Resets the connection: behind what has passed on the lane, or at once without a lane. */
  private reset(lane: FrameLane | undefined): void {
    if (lane === undefined) this.host.reset()
    else lane.insert({ _tag: "Reset" })
    this.up.isDead = true
    this.down.isDead = true
  }

  /** Undoes what a condition has done to the link itself. */
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
      // A connection that is not open yet cannot be closed in good order.
      if (this.state.isOpen) this.tell(0, { _tag: "connection.close", ...noReason, replyText: "closed by a fault" })
      else this.host.leaveBroker()
    })
    return true
  }

  private closeChannel(reply: ChannelClose, { cause, channel = 0 }: Spot, fired: () => void): boolean {
    const phase = this.state.phaseOf(channel)
    const isOpening = phase === undefined && cause === "channel.open"
    if (channel === 0 || this.isEnding || this.closings.has(channel) || (phase !== "open" && !isOpening)) return false
    const closing: Closing = {
      down: false,
      up: false,
      clientDone: false,
      // The broker will not hear of this channel, so it needs no close.
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
    const found = this.state.takeConsumers(({ channel, queue, tag }) =>
      (which.consumerTag ?? tag) === tag && (which.queue ?? queue) === queue && !this.closings.has(channel)
    )
    for (const consumer of found) {
      const { channel, tag: consumerTag } = consumer
      this.say(channel, { _tag: "basic.cancel", consumerTag, noWait: true }, () => {
        this.state.cancel(consumer)
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
    if (direction === "down" && (this.state.hasCancelled || this.state.hasAlteredConfirms)) return true
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
      // The fault that struck may have closed the channel.
      if (!isClosing && !this.isExpected(lane, frame)) return false
    }
    const ledger = this.state.ledgerOf(frame.channel)
    if (ledger !== undefined && name === "basic.publish") ledger.publish(!isDropped)
    if (ledger !== undefined && lane === this.down && (name === "basic.ack" || name === "basic.nack")) {
      return this.confirm(ledger, frame, isDropped)
    }
    if (!isDropped) this.state.follow(lane.direction, frame)
    return !isDropped
  }

  /** Whether anybody waits for such a frame. If not, it is dropped. */
  private isExpected(lane: FrameLane, frame: RawFrame): boolean {
    if (this.isEnding) {
      // A broker hangs up when its close is answered.
      if (lane === this.up && frame.name === "connection.close-ok") this.down.insert({ _tag: "End" })
      return false
    }
    const closing = this.closings.get(frame.channel)
    if (closing !== undefined && !this.isExpectedOfClosing(closing, lane, frame)) return false
    if (frame.isContentPart && lane.isDropping(frame.channel)) return false
    return lane === this.up || !this.state.hasCancelled || !this.isOfCancelled(frame)
  }

  private isExpectedOfClosing(closing: Closing, lane: FrameLane, frame: RawFrame): boolean {
    const { channel, name } = frame
    if (lane === this.down) {
      // The rest of a content still passes. The client is told after it.
      if (!closing.down) return true
      // Both sides have closed at once: then each answers the other.
      if (name === "channel.close") this.tell(channel, { _tag: "channel.close-ok" })
      if (name === "channel.close-ok") closing.brokerDone = true
    } else if (closing.clientDone) closing.next.push(frame)
    else if (name === "channel.close-ok") {
      closing.clientDone = true
      // The client's content will never be complete, and the broker would refuse whatever comes next.
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
    this.state.forget(channel)
    for (const frame of closing.next) {
      const passes = this.onFrame(this.up, frame, false)
      if (passes) this.up.insert({ _tag: "Bytes", bytes: frame.bytes })
      this.up.follow(frame, passes)
    }
  }

  /** Whether a frame is a delivery to a consumer that the client takes for cancelled. Then it is given back. */
  private isOfCancelled({ channel, method }: RawFrame): boolean {
    if (method?._tag !== "basic.deliver") return false
    const { consumerTag, deliveryTag } = method
    const consumer = this.state.cancelledConsumer(channel, consumerTag)
    if (consumer === undefined) return false
    if (!consumer.noAck) this.tell(channel, { _tag: "basic.reject", deliveryTag, requeue: true })
    return true
  }

  /** Lets the faults strike whose point is this frame. Gives whether the frame passes. */
  private passesPoints(lane: FrameLane, frame: RawFrame, name: FrameName | undefined): boolean {
    if (name === undefined || this.host.arms.size === 0) return true
    let passes = true
    for (const arm of [...this.host.arms]) {
      const { fault, point } = arm
      if (point._tag === "Bytes" || point._tag === "Confirm" || !arm.isFor(this)) continue
      const wanted = point._tag === "After" ? point.frame : point
      if (!isAt(wanted, lane.direction, frame, name) || !arm.takes(this)) continue
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

  /** Writes a confirm anew where a fault has changed something. Gives whether it passes as it is. */
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
          if (this.state.ledgerOf(channel) === ledger && !this.closings.has(channel)) this.say(channel, reply)
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
      // One fault for each confirm. Another one waits for the next.
      if (chosen !== undefined) arm.spare()
      else {
        chosen = fault
        arm.striker.onFired(this.place(channel, { direction: "down", name }))
      }
    }
    return chosen
  }
}

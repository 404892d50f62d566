/**
 * Reads what a proxy recorded of a connection and checks every settlement in it: each tag was delivered on that very
 * channel, and is settled once.
 *
 * The two directions were recorded apart. That is enough: a channel counts its deliveries upwards, so an
 * acknowledgement of all up to a tag covers only what had been delivered when that tag had been.
 */
import { Result } from "effect"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"

/** What both sides sent, from the beginning. */
export interface Recording {
  readonly up: Uint8Array
  readonly down: Uint8Array
}

/** The life of a channel from its opening on; the same number may be opened again. */
interface Deliveries {
  /** Delivered and not settled, ascending: a broker's tags do. */
  readonly unsettled: Set<number>
  /** All that was delivered. */
  readonly delivered: Set<number>
}

/** What the frames of a run say. */
export class Wire {
  readonly violations: Array<string> = []
  /** How often each message was written. */
  readonly written = new Map<string, number>()
  settlements = 0
  deliveries = 0

  /** Adds a connection; `toId` reads a message's id from the beginning of its body. */
  add(name: string, recording: Recording, toId: (body: Uint8Array) => string): void {
    const frames = (bytes: Uint8Array): ReadonlyArray<AmqpProtocol.Frame> => {
      const result = AmqpProtocol.makeParser().push(bytes)
      if (Result.isSuccess(result)) return result.success
      this.violations.push(`${name}: what was sent is no AMQP: ${result.failure.message}`)
      return []
    }
    const lives = this.deliveriesOf(frames(recording.down))
    const openings = new Map<number, number>()
    const closed = new Set<number>()
    const publishing = new Set<number>()
    for (const frame of frames(recording.up.subarray(AmqpProtocol.protocolHeader.length))) {
      if (frame._tag === "Body" && publishing.delete(frame.channel)) {
        const id = toId(frame.payload)
        this.written.set(id, (this.written.get(id) ?? 0) + 1)
      }
      if (frame._tag !== "Method") continue
      const { channel, method } = frame
      switch (method._tag) {
        case "channel.open":
          openings.set(channel, (openings.get(channel) ?? -1) + 1)
          closed.delete(channel)
          break
        case "channel.close":
        case "channel.close-ok":
          closed.add(channel)
          break
        case "basic.publish":
          publishing.add(channel)
          break
        case "basic.ack":
        case "basic.nack":
        case "basic.reject": {
          const life = closed.has(channel) ? undefined : lives.get(channel)?.[openings.get(channel) ?? 0]
          const isMultiple = method._tag !== "basic.reject" && method.multiple
          this.settle(`${name}, channel ${channel}: ${method._tag}`, life, method.deliveryTag, isMultiple)
          break
        }
        case "basic.recover":
        case "basic.recover-async":
          lives.get(channel)?.[openings.get(channel) ?? 0]?.unsettled.clear()
          break
      }
    }
  }

  private deliveriesOf(frames: ReadonlyArray<AmqpProtocol.Frame>): ReadonlyMap<number, ReadonlyArray<Deliveries>> {
    const lives = new Map<number, Array<Deliveries>>()
    for (const frame of frames) {
      if (frame._tag !== "Method") continue
      const { channel, method } = frame
      if (method._tag === "channel.open-ok") {
        const life: Deliveries = { unsettled: new Set(), delivered: new Set() }
        const former = lives.get(channel)
        if (former === undefined) lives.set(channel, [life])
        else former.push(life)
      } else if (method._tag === "basic.deliver") {
        const life = lives.get(channel)?.at(-1)
        life?.unsettled.add(method.deliveryTag)
        life?.delivered.add(method.deliveryTag)
        this.deliveries++
      }
    }
    return lives
  }

  private settle(what: string, life: Deliveries | undefined, tag: number, isMultiple: boolean): void {
    this.settlements++
    if (life === undefined || !life.delivered.has(tag)) {
      this.violations.push(`${what} of ${tag}, which was not delivered there`)
    } else if (!life.unsettled.has(tag)) {
      this.violations.push(`${what} of ${tag}, which had been settled`)
    } else if (isMultiple) {
      for (const one of life.unsettled) {
        if (one > tag) break
        life.unsettled.delete(one)
      }
    } else life.unsettled.delete(tag)
  }
}

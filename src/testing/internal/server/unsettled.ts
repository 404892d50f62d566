/**
 * The unsettled deliveries of a channel by their tags: how they are settled, and what happens if that takes too long.
 *
 * @since 0.1.0
 */
import type { Entry, Outcome, Queue } from "../model/model.ts"
import { preconditionFailed, type Refusal } from "../model/refusal.ts"
import type { Services } from "../model/services.ts"
import type { Timer } from "../model/timers.ts"
import type { Consumer, Consumers } from "./consumers.ts"

/** A delivery that waits for its settlement. */
export interface Delivery {
  readonly deliveryTag: number
  readonly queue: Queue
  readonly entry: Entry
  /** `undefined`: by `basic.get`. */
  readonly consumer: Consumer | undefined
  /** In milliseconds since 1970. */
  readonly deliveredAt: number
}

/** Whose deliveries they are. */
export interface Place {
  /** The connection's name. */
  readonly connection: string
  readonly channel: number
}

/** Deliveries in the order of their tags. */
export class Unsettled {
  private readonly services: Services
  private readonly place: Place
  private readonly consumers: Consumers
  /** The oldest delivery was not settled in time. */
  private readonly onTimeout: (refusal: Refusal) => void
  private deliveries = new Map<number, Delivery>()
  private timer: Timer | undefined

  constructor(services: Services, place: Place, consumers: Consumers, onTimeout: (refusal: Refusal) => void) {
    this.services = services
    this.place = place
    this.consumers = consumers
    this.onTimeout = onTimeout
  }

  get all(): ReadonlyArray<Delivery> {
    return [...this.deliveries.values()]
  }

  get size(): number {
    return this.deliveries.size
  }

  private get oldest(): Delivery | undefined {
    for (const delivery of this.deliveries.values()) return delivery
    return undefined
  }

  add(deliveryTag: number, queue: Queue, entry: Entry, consumer: Consumer | undefined): void {
    const delivery = { deliveryTag, queue, entry, consumer, deliveredAt: this.services.timers.now() }
    this.deliveries.set(deliveryTag, delivery)
    this.timer ??= this.watch(delivery)
  }

  private watch(oldest: Delivery): Timer {
    const { limits: { consumerTimeout }, timers } = this.services
    return timers.at(oldest.deliveredAt + consumerTimeout, () => {
      const delivery = this.oldest
      this.timer = undefined
      if (delivery === undefined) return
      if (delivery.deliveredAt + consumerTimeout > timers.now()) this.timer = this.watch(delivery)
      else {
        this.onTimeout(preconditionFailed(
          `delivery acknowledgement on channel ${this.place.channel} timed out. Timeout value used: ` +
            `${consumerTimeout} ms. This timeout value can be configured, see consumers doc guide to learn more`
        ))
      }
    })
  }

  /**
   * Takes out the deliveries that a settlement names: one tag, or all up to it. 0 with `multiple` is all of them.
   * Refuses an unknown tag with 406.
   */
  take(deliveryTag: number, multiple: boolean): ReadonlyArray<Delivery> {
    if (multiple && deliveryTag === 0) return this.takeAll()
    const last = this.deliveries.get(deliveryTag)
    if (last === undefined) throw preconditionFailed(`unknown delivery tag ${deliveryTag}`)
    const taken: Array<Delivery> = []
    if (multiple) {
      for (const delivery of this.deliveries.values()) {
        if (delivery.deliveryTag >= deliveryTag) break
        taken.push(delivery)
      }
    }
    taken.push(last)
    for (const delivery of taken) this.deliveries.delete(delivery.deliveryTag)
    return taken
  }

  takeAll(): ReadonlyArray<Delivery> {
    const taken = this.all
    this.deliveries.clear()
    return taken
  }

  /** Puts deliveries back in their places: their settlement did not happen. */
  putBack(deliveries: ReadonlyArray<Delivery>): void {
    const all = [...deliveries, ...this.deliveries.values()].sort((a, b) => a.deliveryTag - b.deliveryTag)
    this.deliveries = new Map(all.map((delivery) => [delivery.deliveryTag, delivery]))
  }

  /**
   * Settles deliveries that were taken: each queue hears of all of its own at once. To a classic queue they go back
   * consumer by consumer, and are delivered again in between, as in RabbitMQ.
   */
  settle(deliveries: ReadonlyArray<Delivery>, outcome: Outcome): void {
    let failure: unknown
    for (const [queue, all] of Map.groupBy(deliveries, ({ queue }) => queue)) {
      const [group = [], ...others] = outcome === "requeue" && queue.type === "classic" ? byConsumer(all) : [all]
      try {
        this.settleAt(queue, group, failure === undefined ? outcome : "abandon")
      } catch (error) {
        // A stream takes nothing back. The connection will end, and these deliveries with it.
        failure = error
        queue.settle(group.map(({ entry }) => entry), "abandon")
      }
      for (const other of others) this.services.agenda.later(() => this.settleAt(queue, other, outcome))
    }
    if (failure !== undefined) throw failure
  }

  private settleAt(queue: Queue, deliveries: ReadonlyArray<Delivery>, outcome: Outcome): void {
    this.consumers.settled(deliveries)
    queue.settle(deliveries.map(({ entry }) => entry), outcome)
    this.services.emit({ _tag: "Settled", ...this.place, queue: queue.name, outcome, count: deliveries.length })
  }

  /** Gives everything back, and ends the time limit. */
  abandon(): void {
    this.timer?.cancel()
    this.settle(this.takeAll(), "abandon")
  }
}

/** By consumer tag; what `basic.get` took comes first. */
const byConsumer = (deliveries: ReadonlyArray<Delivery>): ReadonlyArray<ReadonlyArray<Delivery>> =>
  [...Map.groupBy(deliveries, ({ consumer }) => consumer?.tag ?? "")]
    .sort(([one], [other]) => one < other ? -1 : 1)
    .map(([, group]) => group)

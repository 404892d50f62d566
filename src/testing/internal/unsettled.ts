/**
 * What a channel was given and has not settled, by delivery tag.
 *
 * @since 0.1.0
 */
import type { Entry, Queue } from "./model.ts"
import { preconditionFailed } from "./refusal.ts"
import type { Consumer } from "./serverConsumers.ts"

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

/** Deliveries in the order of their tags. */
export class Unsettled {
  private deliveries = new Map<number, Delivery>()

  get size(): number {
    return this.deliveries.size
  }

  get all(): ReadonlyArray<Delivery> {
    return [...this.deliveries.values()]
  }

  get oldest(): Delivery | undefined {
    for (const delivery of this.deliveries.values()) return delivery
    return undefined
  }

  add(delivery: Delivery): void {
    this.deliveries.set(delivery.deliveryTag, delivery)
  }

  /** Takes what a settlement is about: one tag, or all up to it; 0 and `multiple` are all there are. Refuses with 406. */
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
}

/** By queue, in order: what a queue is told at once. */
export const byQueue = (deliveries: ReadonlyArray<Delivery>): ReadonlyMap<Queue, ReadonlyArray<Delivery>> =>
  Map.groupBy(deliveries, (delivery) => delivery.queue)

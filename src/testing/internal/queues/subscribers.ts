/**
 * The consumers of a queue, and whose turn it is: those of the highest priority first, equals in turn, and only those
 * that are ready.
 *
 * One that is not ready leaves the line. When it is ready again it comes behind its equals.
 *
 * @since 0.1.0
 */
import type { Subscriber } from "../model/model.ts"

/** Consumers with their turns. */
export class Subscribers {
  private readonly members: Array<Subscriber> = []
  /** Consumers in the order of their turns. */
  private readonly line: Array<Subscriber> = []
  /** Consumers that were found not ready, in that order. */
  private waiting: Array<Subscriber> = []

  /** In the order in which they came. */
  get all(): ReadonlyArray<Subscriber> {
    return this.members
  }

  add(subscriber: Subscriber): void {
    this.members.push(subscriber)
    this.enqueue(subscriber)
  }

  /** Whether it was there. */
  delete(subscriber: Subscriber): boolean {
    remove(this.line, subscriber)
    remove(this.waiting, subscriber)
    return remove(this.members, subscriber)
  }

  /** Removes all, and gives them by their tags: in this order RabbitMQ's channels hear that a queue is gone. */
  clear(): Array<Subscriber> {
    this.line.length = 0
    this.waiting = []
    return this.members.splice(0).sort((one, other) => one.tag < other.tag ? -1 : 1)
  }

  /** The first in line, ready or not. It keeps its turn. */
  get first(): Subscriber | undefined {
    return this.line[0]
  }

  /** Puts those back in line that have become ready. */
  wake(): void {
    if (this.waiting.length === 0) return
    const ready = this.waiting.filter((one) => one.isReady())
    if (ready.length === 0) return
    this.waiting = this.waiting.filter((one) => !ready.includes(one))
    for (const one of ready) this.enqueue(one)
  }

  /** Takes the next turn. `undefined`: nobody is ready. */
  next(): Subscriber | undefined {
    for (let first = this.line.shift(); first !== undefined; first = this.line.shift()) {
      if (first.isReady()) {
        this.enqueue(first)
        return first
      }
      this.waiting.push(first)
    }
    return undefined
  }

  /** Takes a consumer that is not ready any more out of the line, before its next turn. */
  rest(subscriber: Subscriber): void {
    if (!subscriber.isReady() && remove(this.line, subscriber)) this.waiting.push(subscriber)
  }

  private enqueue(subscriber: Subscriber): void {
    let index = this.line.length
    while ((this.line[index - 1]?.priority ?? Infinity) < subscriber.priority) index--
    this.line.splice(index, 0, subscriber)
  }
}

const remove = <A>(array: Array<A>, item: A): boolean => {
  const index = array.indexOf(item)
  if (index < 0) return false
  array.splice(index, 1)
  return true
}

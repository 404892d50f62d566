/**
 * Values for whoever watches when they come. A watcher cannot hold up the one who tells.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

/** The watchers, each with a buffer of its own. */
export class Watchers<A> {
  private readonly capacity: number
  private readonly queues = new Set<Queue.Queue<A, Cause.Done>>()
  private isEnded = false

  /** `capacity`: how many values a watcher may be behind before it loses the oldest. */
  constructor(capacity = 16_384) {
    this.capacity = capacity
  }

  get isEmpty(): boolean {
    return this.queues.size === 0
  }

  tell(value: A): void {
    for (const queue of this.queues) Queue.offerUnsafe(queue, value)
  }

  /** Nothing more will come. */
  end(): void {
    this.isEnded = true
    for (const queue of this.queues) Queue.endUnsafe(queue)
  }

  /** All values from now on, until the scope closes. */
  readonly watch: Effect.Effect<Queue.Dequeue<A, Cause.Done>, never, Scope.Scope> = Effect.acquireRelease(
    Effect.map(Effect.suspend(() => Queue.sliding<A, Cause.Done>(this.capacity)), (queue) => {
      if (this.isEnded) Queue.endUnsafe(queue)
      else this.queues.add(queue)
      return queue
    }),
    (queue) => Effect.sync(() => this.queues.delete(queue))
  )

  /** The same as a stream. */
  readonly stream: Stream.Stream<A> = Stream.unwrap(Effect.map(this.watch, Stream.fromQueue))
}

/**
 * A worker: takes lines from the queue, counts their words, acknowledges.
 */
import { Effect, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"
import * as Words from "./words.ts"

/**
 * Emits the words of each line that this worker took from the queue and acknowledged.
 *
 * Its channel lasts as long as the stream. Whatever it had taken and not acknowledged by then goes back to the queue.
 */
export const countWords = (queue: string) =>
  Stream.unwrap(Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    // The broker sends no more than this ahead of the acknowledgements, and the rest to the other workers.
    yield* channel.qos({ prefetchCount: 32 })
    const { deliveries } = yield* channel.consume({ queue })
    return Stream.mapEffect(deliveries, (delivery) => Effect.as(delivery.ack, Words.split(delivery.text)))
  }))

/**
 * The producer: one message per line, and the certainty that each has arrived.
 */
import { Effect, Stream } from "effect"
import * as AmqpChannel from "../../src/AmqpChannel.ts"

/** How many publishes wait for the broker's confirm at a time. */
const inFlight = 256

/**
 * Publishes lines to a queue, and emits each once the broker has taken responsibility for it.
 *
 * A message that the broker refuses, returns or does not answer for fails the stream with the error that says so.
 */
export const publishLines = (queue: string, lines: Iterable<string>) =>
  Stream.unwrap(Effect.gen(function*() {
    const channel = yield* AmqpChannel.open
    yield* channel.confirmSelect
    return Stream.fromIterable(lines).pipe(
      Stream.mapEffect((line) =>
        // By the default exchange, which routes to the queue that the key names. A broker confirms what it cannot
        // route, too: only confirmed and mandatory means stored.
        channel.publish({ routingKey: queue, body: line, mandatory: true, properties: { contentType: "text/plain" } })
          .pipe(Effect.as(line)), { concurrency: inFlight, unordered: true })
    )
  }))

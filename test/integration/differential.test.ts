/**
 * RabbitMQ and the embedded broker see the same commands, made up at random, and must be told apart by nothing that a
 * client sees: results, refusals with their texts, deliveries, returns, counts, and what is left in the end.
 *
 * `DIFFERENTIAL_RUNS` is how many sequences (100), `DIFFERENTIAL_SEED` where they start (0); a failure tells the shortest
 * sequence that it found, and the `DIFFERENTIAL_REPLAY` that has it again.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Arbitrary, Effect, Layer, Redacted, Stream } from "effect"
import * as AmqpConnection from "../../src/AmqpConnection.ts"
import { AmqpTransport } from "../../src/AmqpTransport.ts"
import * as NodeAmqp from "../../src/NodeAmqp.ts"
import * as AmqpBroker from "../../src/testing/AmqpBroker.ts"
import { type Sequence, sequences, type Subject } from "../differential/commands.ts"
import { observe } from "../differential/interpreter.ts"
import { isRabbitMQ, onVhost, uniqueName, Vhost } from "../harness/shared.ts"
import { noReconnect } from "./support.ts"

const connectTo = (url: string, transport: Layer.Layer<AmqpTransport>) =>
  Effect.provide(AmqpConnection.make({ url: Redacted.make(url), reconnect: noReconnect }), transport)

/**
 * Where the two differ first, if they do. Where dead letters of several queues meet, or several queues deliver what one
 * command set free, RabbitMQ's processes overtake each other: what it does once in so many times, the embedded broker may
 * always do.
 */
const difference = (sequence: Sequence, patience: number) =>
  Effect.gen(function*() {
    let found: string | undefined
    for (let i = 0; i < 6; i++) {
      const now = yield* differenceOnce(sequence, patience)
      if (now === undefined) return undefined
      found ??= now
    }
    return found
  })

const differenceOnce = (sequence: Sequence, patience: number) =>
  Effect.gen(function*() {
    const { amqpUrl, name } = yield* Vhost
    const prefix = `${uniqueName("d")}.`
    const broker = yield* AmqpBroker.make({ vhosts: [name] })
    const memory = Layer.succeed(AmqpTransport, broker.transport)
    // Dead letters that were rejected once may turn in a circle for ever, in either broker: nothing comes to rest then.
    const circle = broker.events.pipe(
      Stream.filter(({ _tag }) => _tag === "DeadLettered"),
      Stream.take(2_000),
      Stream.runDrain
    )
    const ours = yield* Effect.raceFirst(
      observe(sequence, { connect: connectTo(amqpUrl, memory), prefix, patience }),
      Effect.as(circle, undefined)
    )
    if (ours === undefined) return undefined
    const theirs = yield* observe(sequence, {
      connect: connectTo(amqpUrl, NodeAmqp.layerTransport),
      prefix,
      patience
    })
    for (let i = 0; i < Math.max(theirs.length, ours.length); i++) {
      const [rabbitmq, embedded] = [theirs[i], ours[i]].map((one) => JSON.stringify(one, undefined, 2))
      if (rabbitmq !== embedded) {
        const before = ours.slice(0, i).map(({ command, result }) => `${command} => ${result}`).join("\n")
        return `${before}\nRabbitMQ: ${rabbitmq}\nembedded: ${embedded}`.replaceAll(prefix, "")
      }
    }
    return undefined
  }).pipe(Effect.scoped, Effect.timeout("20 seconds"), Effect.orDie)

const runs = Number(process.env["DIFFERENTIAL_RUNS"] ?? 100)
// The same sequences in each run, so that a failure is news of a change; other seeds are for looking further.
const seed = process.env["DIFFERENTIAL_SEED"] ?? "0"
const replay = process.env["DIFFERENTIAL_REPLAY"]

const check = (subject: Subject, runs: number) =>
  Effect.gen(function*() {
    // What is written to a disk counts when it is there.
    const patience = subject === "classic" ? 0 : 20
    const result = yield* Arbitrary.checkEffect(
      sequences(30, subject),
      (sequence) => Effect.map(difference(sequence, patience), (found) => found === undefined),
      { runs, size: 1000, seed, replay, maxShrinks: 400, concurrency: 3 }
    )
    if (result._tag === "Passed") return
    if (result._tag !== "Falsified") return assert.fail(Arbitrary.formatCheckFailure(result) ?? result._tag)
    const found = yield* difference(result.shrunkInput, patience)
    assert.fail(`${found}\nDIFFERENTIAL_REPLAY='${result.replay}'`)
  })

describe.runIf(isRabbitMQ)("the embedded broker and RabbitMQ", () => {
  layer(onVhost, { excludeTestServices: true })((it) => {
    const some = Math.ceil(runs / 10)
    for (const [subject, count] of [["classic", runs], ["quorum", some], ["stream", some]] as const) {
      it.effect(
        `are not told apart by what is done with ${subject} queues`,
        () => check(subject, count),
        count * 10_000
      )
    }
  })
})

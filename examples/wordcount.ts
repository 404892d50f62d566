/**
 * Counts the words of real text files by way of a broker: `npm start`.
 *
 * A producer publishes each line as a message of its own, confirmed and mandatory; ten workers, each on a channel of its
 * own, take them from one queue, count and acknowledge. The totals are then checked against a count without a broker.
 *
 * `AMQP_URL` names the broker; without it, the one that is embedded in this package runs in the memory of this process.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Array, Cause, Console, Data, Effect, FileSystem, Layer, Number, Ref, Stream } from "effect"
import * as Path from "node:path"
import * as AmqpChannel from "../src/AmqpChannel.ts"
import * as Broker from "./wordcount/broker.ts"
import { publishLines } from "./wordcount/producer.ts"
import { withProgress } from "./wordcount/progress.ts"
import * as Words from "./wordcount/words.ts"
import { countWords } from "./wordcount/worker.ts"

const folder = Path.relative(process.cwd(), Path.join(import.meta.dirname, "../node_modules/effect/ai-docs"))
const workers = 10

class WrongTotals extends Data.TaggedError("WrongTotals")<{ readonly message: string }> {}

const format = (count: number): string => count.toLocaleString("en")

const readTexts = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const files = yield* fs.glob("**/*.{md,ts}", { root: folder })
  return yield* Effect.forEach(files, (file) => fs.readFileString(Path.join(folder, file)))
})

const program = Effect.gen(function*() {
  yield* Console.log(`Broker  ${yield* Broker.describe}`)

  const texts = yield* readTexts
  const lines = texts.flatMap((text) => text.split("\n"))
  yield* Console.log(`Input   ${format(lines.length)} lines of ${texts.length} files in ${folder}`)

  // An exclusive queue belongs to this connection and goes with it, so nothing is left at the broker.
  const channel = yield* AmqpChannel.open
  const { queue } = yield* channel.queueDeclare({ exclusive: true })

  const confirmed = yield* Ref.make(0)
  const counted = yield* Ref.make(Array.makeBy(workers, () => 0))

  const publishing = publishLines(queue, lines).pipe(
    Stream.runForEach(() => Ref.update(confirmed, (count) => count + 1))
  )
  const working = Array.makeBy(workers, (self) =>
    countWords(queue).pipe(
      Stream.tap(() => Ref.update(counted, Array.map((count, worker) => worker === self ? count + 1 : count)))
    ))
  const counting = Stream.mergeAll(working, { concurrency: workers }).pipe(
    Stream.take(lines.length), // the workers would wait for more, for ever
    Stream.runFold(Words.empty, Words.add)
  )
  const progress = Effect.gen(function*() {
    const sum = Number.sumAll(yield* Ref.get(counted))
    return `Lines   ${format(yield* Ref.get(confirmed))} confirmed, ${format(sum)} counted of ${format(lines.length)}`
  })
  const [, totals] = yield* Effect.all([publishing, counting], { concurrency: "unbounded" }).pipe(
    withProgress((seconds) => Effect.map(progress, (line) => `${line}, ${seconds.toFixed(1)} s`))
  )

  const shares = yield* Ref.get(counted)
  yield* Console.log(`Workers ${shares.map(format).join(" + ")} lines`)
  yield* Console.log(`Words   ${format(Words.sum(totals))}, ${format(totals.size)} different`)
  for (const [word, count] of Words.mostFrequent(totals, 5)) {
    yield* Console.log(`        ${word.padEnd(12)} ${format(count).padStart(5)}`)
  }

  const direct = texts.map(Words.split).reduce(Words.add, Words.empty())
  const different = Words.differences(totals, direct)
  if (different.length > 0) {
    const some = different.slice(0, 5).join(", ")
    return yield* new WrongTotals({ message: `Wrong   the direct count differs in ${different.length} words: ${some}` })
  }
  yield* Console.log("Check   the direct count is the same")
})

program.pipe(
  Effect.scoped,
  Effect.provide(Layer.mergeAll(Broker.layer, NodeServices.layer)),
  // One line says what went wrong and what to do; only a bug deserves its stack.
  Effect.tapError((error) => Console.error(error.message)),
  Effect.tapDefect((defect) => Console.error(Cause.pretty(Cause.die(defect)))),
  NodeRuntime.runMain({ disableErrorReporting: true })
)

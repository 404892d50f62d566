/**
 * Checks that every import in `src` points down: A ← B ← D and A ← C ← D.
 *
 * The table is the design. A new module has to be given its layer here first; cycles are the linter's job.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"

interface Layer {
  readonly title: string
  /** The layers whose modules it may import. */
  readonly sees: ReadonlyArray<string>
  /** The packages it may import. */
  readonly packages: RegExp
  readonly modules: ReadonlyArray<string>
}

/** Modules of effect that hold values and run nothing. */
const data =
  /^effect\/(BigDecimal|Brand|Chunk|Data|DateTime|Duration|Equal|Function|Hash|Inspectable|Option|Order|Pipeable|Predicate|Redacted|Result|Schema|SchemaTransformation|Types)$/
const effect = /^effect\//
const effectAndNode = /^(effect\/|@effect\/platform-node\/|node(:|$))/

const layers: Readonly<Record<string, Layer>> = {
  A: {
    title: "pure: bytes and values",
    sees: ["A"],
    packages: data,
    modules: [
      "AmqpAuth.ts",
      "AmqpError.ts",
      "AmqpMessage.ts",
      "AmqpProtocol.ts",
      "AmqpTable.ts",
      "AmqpUri.ts",
      "internal/connectionError.ts",
      "internal/directReply.ts",
      "internal/frames.ts",
      "internal/messageProperties.ts",
      "internal/properties.ts",
      "internal/replyCodes.ts",
      "internal/spec.ts",
      "internal/tableValue.ts",
      "internal/topologyError.ts",
      "internal/wire.ts"
    ]
  },
  B: {
    title: "engine: plain synchronous classes",
    sees: ["A", "B"],
    packages: data,
    modules: [
      "internal/assembler.ts",
      "internal/channelState.ts",
      "internal/confirms.ts",
      "internal/deliveries.ts",
      "internal/handshake.ts",
      "internal/outbox.ts",
      "internal/publishRefusal.ts",
      "internal/session.ts",
      "internal/settlements.ts"
    ]
  },
  C: {
    title: "shell: the transport service",
    sees: ["A", "C"],
    packages: effect,
    modules: ["AmqpTransport.ts", "internal/readPacing.ts"]
  },
  D: {
    title: "the Effect API",
    sees: ["A", "B", "C", "D"],
    packages: effect,
    modules: [
      "AmqpChannel.ts",
      "AmqpConnection.ts",
      "AmqpConsumer.ts",
      "AmqpDelivery.ts",
      "AmqpPublisher.ts",
      "AmqpRpc.ts",
      "AmqpSchema.ts",
      "AmqpTelemetry.ts",
      "AmqpTopology.ts",
      "internal/backoff.ts",
      "internal/channel.ts",
      "internal/channelTypes.ts",
      "internal/consumer/attachment.ts",
      "internal/consumer/disposition.ts",
      "internal/consumer/failure.ts",
      "internal/consumer/handlers.ts",
      "internal/consumer/subscriptions.ts",
      "internal/consuming.ts",
      "internal/ending.ts",
      "internal/connectionOptions.ts",
      "internal/openChannel.ts",
      "internal/publishBatch.ts",
      "internal/publisherChannel.ts",
      "internal/queueNames.ts",
      "internal/requests.ts",
      "internal/shell.ts",
      "internal/socketOptions.ts",
      "internal/supervisor.ts",
      "internal/topologyDeclaring.ts",
      "internal/topologyDiagnosis.ts",
      "internal/topologyLoops.ts",
      "internal/topologyOrder.ts",
      "internal/topologyRefusals.ts",
      "internal/topologyValues.ts"
    ]
  },
  node: {
    title: "the transport of Node, the one module that knows the platform",
    sees: ["A", "C", "D"],
    packages: effectAndNode,
    modules: ["NodeAmqp.ts"]
  },
  T: {
    title: "the embedded broker: plain synchronous classes",
    sees: ["A", "T"],
    packages: data,
    modules: [
      "testing/internal/addressing.ts",
      "testing/internal/arguments.ts",
      "testing/internal/authentication.ts",
      "testing/internal/broker.ts",
      "testing/internal/channelMail.ts",
      "testing/internal/clientFrame.ts",
      "testing/internal/confirmLedger.ts",
      "testing/internal/deadLetters.ts",
      "testing/internal/describe.ts",
      "testing/internal/events.ts",
      "testing/internal/exchange.ts",
      "testing/internal/faults.ts",
      "testing/internal/faultyLink.ts",
      "testing/internal/fieldValue.ts",
      "testing/internal/frameLane.ts",
      "testing/internal/heartbeats.ts",
      "testing/internal/inbox.ts",
      "testing/internal/incoming.ts",
      "testing/internal/inspection.ts",
      "testing/internal/message.ts",
      "testing/internal/model.ts",
      "testing/internal/permissions.ts",
      "testing/internal/publishing.ts",
      "testing/internal/queue.ts",
      "testing/internal/queueDefinition.ts",
      "testing/internal/readyMessages.ts",
      "testing/internal/refusal.ts",
      "testing/internal/replies.ts",
      "testing/internal/routing.ts",
      "testing/internal/serverChannel.ts",
      "testing/internal/serverConfirms.ts",
      "testing/internal/serverConnection.ts",
      "testing/internal/serverConsumers.ts",
      "testing/internal/serverEntities.ts",
      "testing/internal/services.ts",
      "testing/internal/storedQueue.ts",
      "testing/internal/streamQueue.ts",
      "testing/internal/subscribers.ts",
      "testing/internal/timers.ts",
      "testing/internal/unsettled.ts",
      "testing/internal/vhost.ts"
    ]
  },
  testing: {
    title: "for tests: the embedded broker and faults as services",
    sees: ["A", "C", "T", "testing"],
    packages: effect,
    modules: [
      "testing/AmqpBroker.ts",
      "testing/AmqpFaults.ts",
      "testing/index.ts",
      "testing/internal/faultySocket.ts",
      "testing/internal/linkPipe.ts",
      "testing/internal/memorySocket.ts",
      "testing/internal/watchers.ts"
    ]
  },
  testingNode: {
    title: "the embedded broker on TCP, and its command",
    sees: ["A", "C", "T", "testing", "testingNode"],
    packages: effectAndNode,
    modules: ["testing/NodeAmqpBroker.ts", "cli.ts"]
  },
  index: {
    title: "the barrel",
    sees: ["A", "C", "D"],
    packages: /^$/,
    modules: ["index.ts"]
  }
}

const layerOf = new Map(Object.entries(layers).flatMap(([name, layer]) => layer.modules.map((path) => [path, name])))

/** The specifier in `from "x"`, `import "x"`, `import("x")` and `/// <reference types="x" />`, outside doc comments. */
const imports = /^(?!\s*\*).*?(?:\bfrom|^import|\bimport\(|^\/\/\/ <reference types=)\s*"([^"]+)"/gm

const root = Path.resolve(import.meta.dirname, "../src")
const files = Fs.readdirSync(root, { recursive: true, encoding: "utf8" })
  .map((file) => file.replaceAll(Path.sep, "/"))
  .filter((file) => file.endsWith(".ts"))
  .sort()
const problems: Array<string> = []

for (const file of files) {
  const name = layerOf.get(file)
  const layer = layers[name ?? ""]
  if (layer === undefined) {
    problems.push(`src/${file} has no layer: add it to the table in scripts/check-layers.ts`)
    continue
  }
  const from = `src/${file} (${name}, ${layer.title})`
  for (const [, specifier = ""] of Fs.readFileSync(Path.join(root, file), "utf8").matchAll(imports)) {
    if (!specifier.startsWith(".")) {
      if (!layer.packages.test(specifier)) problems.push(`${from} must not import "${specifier}"`)
      continue
    }
    const target = Path.posix.join(Path.posix.dirname(file), specifier)
    const targetLayer = layerOf.get(target)
    if (targetLayer === undefined) problems.push(`${from} imports "${specifier}", which has no layer`)
    else if (!layer.sees.includes(targetLayer)) {
      problems.push(`${from} must not import "${specifier}" (${targetLayer}): it sees ${layer.sees.join(", ")} only`)
    }
  }
}

for (const problem of problems) console.error(problem)
if (problems.length > 0) process.exitCode = 1
else console.log(`Layers: ${files.length} modules in order.`)

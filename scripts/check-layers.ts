/**
 * Checks that imports in `src` point down: each room (a folder of `internal`) may import itself and the rooms that it
 * sees. Public modules, at the top of `src`, may import every room of the library and one another; nothing imports them from
 * below. `testing` is built on top of the library. Cycles are the linter's job.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"

/** Modules of effect that hold values and run nothing. */
const data =
  /^effect\/(BigDecimal|Brand|Chunk|Data|DateTime|Duration|Equal|Function|Hash|Inspectable|Option|Order|Pipeable|Predicate|Redacted|Result|Schema|SchemaTransformation|Types)$/
const effect = /^effect\//
const node = /^(effect\/|@effect\/platform-node\/|node(:|$))/

interface Room {
  readonly sees: ReadonlyArray<string>
  /** The packages that it may import. */
  readonly packages: RegExp
}

const codec = ["values", "errors", "codec"]
const channel = [...codec, "engine", "time", "channel"]
const connection = [...channel, "connection"]
const broker = ["public", ...codec, "testing/model"]

const rooms: Readonly<Record<string, Room>> = {
  // Bytes and values.
  "values": { sees: [], packages: data },
  "errors": { sees: ["values"], packages: data },
  "codec": { sees: codec, packages: data },
  // Plain synchronous classes: no fibers, no clock, no IO.
  "engine": { sees: codec, packages: data },
  // The Effect API.
  "time": { sees: [], packages: effect },
  "channel": { sees: channel, packages: effect },
  "connection": { sees: channel, packages: effect },
  "topology": { sees: connection, packages: effect },
  "publisher": { sees: connection, packages: effect },
  "consumer": { sees: [...connection, "topology"], packages: effect },
  "node": { sees: connection, packages: node },
  "public": { sees: [...connection, "topology", "publisher", "consumer"], packages: effect },
  "publicNode": { sees: ["public", ...connection, "node"], packages: node },
  // The embedded broker and faults.
  "testing/model": { sees: broker, packages: data },
  "testing/queues": { sees: broker, packages: data },
  "testing/vhost": { sees: [...broker, "testing/queues"], packages: data },
  "testing/server": { sees: [...broker, "testing/queues", "testing/vhost"], packages: data },
  "testing/faults": { sees: broker, packages: data },
  "testing/sockets": { sees: [...broker, "testing/faults"], packages: effect },
  "testing/public": { sees: [...broker, "testing/server", "testing/faults", "testing/sockets"], packages: effect },
  "testing/publicNode": { sees: ["public", "testing/public", "testing/model"], packages: node }
}

const roomOf = (file: string): string => {
  const inner = /^(testing\/)?internal\/(\w+)\//.exec(file)
  if (inner !== null) return `${inner[1] ?? ""}${inner[2]}`
  const isNode = /(^|\/)NodeAmqp\w*\.ts$|^cli\.ts$/.test(file)
  const isTesting = file.startsWith("testing/") || file === "cli.ts"
  return `${isTesting ? "testing/" : ""}${isNode ? "publicNode" : "public"}`
}

/** The specifier in `from "x"`, `import "x"`, `import("x")` and `/// <reference types="x" />`, outside doc comments. */
const imports = /^(?!\s*\*).*?(?:\bfrom|^import|\bimport\(|^\/\/\/ <reference types=)\s*"([^"]+)"/gm

const root = Path.resolve(import.meta.dirname, "../src")
const files = Fs.readdirSync(root, { recursive: true, encoding: "utf8" })
  .map((file) => file.replaceAll(Path.sep, "/"))
  .filter((file) => file.endsWith(".ts"))
  .sort()
const problems: Array<string> = []

for (const file of files) {
  const name = roomOf(file)
  const room = rooms[name]
  if (room === undefined) {
    problems.push(`src/${file} is in no room: give its folder a line in scripts/check-layers.ts`)
    continue
  }
  for (const [, specifier = ""] of Fs.readFileSync(Path.join(root, file), "utf8").matchAll(imports)) {
    if (!specifier.startsWith(".")) {
      if (!room.packages.test(specifier)) problems.push(`src/${file} (${name}) must not import "${specifier}"`)
      continue
    }
    const target = roomOf(Path.posix.join(Path.posix.dirname(file), specifier))
    if (target !== name && !room.sees.includes(target)) {
      problems.push(`src/${file} must not import "${specifier}": ${name} does not see ${target}`)
    }
  }
}

for (const problem of problems) console.error(problem)
if (problems.length > 0) process.exitCode = 1
else console.log(`Layers: ${files.length} modules in order.`)

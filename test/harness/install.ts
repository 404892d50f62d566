/**
 * Finds a RabbitMQ on this machine, or installs Debian's where that is possible.
 */
import { Effect } from "effect"
import { realpath } from "node:fs/promises"
import * as Path from "node:path"
import { BrokerError, exec, onPath } from "./exec.ts"

/** The programs that run and control a node. */
export interface Programs {
  readonly server: string
  readonly ctl: string
  /** Erlang's own remote call, 3 ms where `rabbitmqctl eval` takes 350; without it the latter does. */
  readonly erlCall: string | undefined
}

const debian = "/usr/lib/rabbitmq/bin"

const find: Effect.Effect<Programs | undefined> = Effect.gen(function*() {
  const candidates = [Path.join(debian, "rabbitmq-server"), yield* onPath("rabbitmq-server")]
  for (const server of candidates) {
    if (server === undefined) continue
    const real = yield* Effect.promise(() => realpath(server).catch(() => undefined))
    // Debian's wrapper on the PATH switches to the system's user, data folder and logs: not private.
    if (real === undefined || real.endsWith("rabbitmq-script-wrapper")) continue
    return { server, ctl: Path.join(Path.dirname(server), "rabbitmqctl"), erlCall: yield* onPath("erl_call") }
  }
})

// RUNLEVEL keeps the package from starting a broker of its own.
const install = exec(
  "/bin/sh",
  ["-c", "apt-get update && apt-get install -y --no-install-recommends rabbitmq-server"],
  {
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" },
    timeout: 600_000
  }
)

/** The installed RabbitMQ; fails with one line that says what to do. */
export const programs: Effect.Effect<Programs, BrokerError> = Effect.gen(function*() {
  const found = yield* find
  if (found !== undefined) return found
  const mayInstall = process.getuid?.() === 0 && (yield* onPath("apt-get")) !== undefined
  const why = mayInstall
    ? yield* Effect.match(install, {
      onFailure: (error) => ` (${error.message.split("\n").at(-1)})`,
      onSuccess: () => ""
    })
    : ""
  const installed = yield* find
  if (installed !== undefined) return installed
  return yield* new BrokerError({
    message: `No RabbitMQ here${why}: install rabbitmq-server, put its sbin folder on the PATH, or set AMQP_URL.`
  })
})

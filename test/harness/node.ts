/**
 * The processes of one private RabbitMQ node: free ports, a private folder (data, logs, cookie, certificates), a
 * private port mapper (epmd), its own process group.
 *
 * **Nothing stays behind.** Beside the node runs a guard, a shell that reads from a pipe whose other end this process
 * holds. When that end closes, because the scope did or because this process died in whatever way, the guard kills the node and
 * its epmd and removes the folder. So there are no signal handlers here.
 */
import { Effect, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import { once } from "node:events"
import { closeSync, openSync } from "node:fs"
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import * as Path from "node:path"
import { type Certs, makeCerts } from "./certs.ts"
import { BrokerError, exec } from "./exec.ts"
import { type Programs, programs } from "./install.ts"
import { freePort } from "./listen.ts"

/** What a test may want different in a node of its own. */
export interface NodeOptions {
  /** Lines of `rabbitmq.conf`, over the harness's own. */
  readonly conf?: Record<string, string> | undefined
  /** Erlang terms of `advanced.config`, such as `[{rabbit,[{channel_tick_interval,1000}]}].` */
  readonly advanced?: string | undefined
  /** Besides `rabbitmq_auth_mechanism_ssl`. */
  readonly plugins?: ReadonlyArray<string> | undefined
  /** What nodes share that are to see one another: the cookie, and the port of their port mapper. */
  readonly shared?: SharedSettings | undefined
}

/** What nodes share that are to see one another. */
export interface SharedSettings {
  readonly cookie: string
  readonly epmdPort: number
}

/** All that a process needs to reach and control a node; plain data, so that it can travel to another process. */
export interface NodeAddress {
  readonly programs: Programs
  readonly name: string
  readonly folder: string
  readonly host: string
  readonly port: number
  readonly tlsPort: number
  readonly distPort: number
  readonly epmdPort: number
}

/** A node's processes. */
export interface NodeProcess {
  readonly address: NodeAddress
  /** Boots the node and waits until it takes connections. */
  readonly start: Effect.Effect<void, BrokerError>
  /** Stops it in order, as far as it still answers. */
  readonly stop: Effect.Effect<void>
  /** Ends it by SIGKILL. */
  readonly kill9: Effect.Effect<void>
}

/** The environment of everything that is run for a node, the developer's own RabbitMQ settings left out. */
export const environment = (address: NodeAddress): NodeJS.ProcessEnv => {
  const file = (name: string) => Path.join(address.folder, name)
  return {
    PATH: process.env["PATH"],
    LANG: "C.UTF-8",
    HOME: address.folder, // of the cookie
    ERL_EPMD_ADDRESS: "127.0.0.1",
    ERL_EPMD_PORT: String(address.epmdPort),
    ERL_EPMD_RELAXED_COMMAND_CHECK: "1", // epmd may be killed while it still lists a node
    ERL_CRASH_DUMP_SECONDS: "0",
    RABBITMQ_NODENAME: address.name,
    RABBITMQ_NODE_IP_ADDRESS: address.host,
    RABBITMQ_NODE_PORT: String(address.port),
    RABBITMQ_DIST_PORT: String(address.distPort),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "-kernel inet_dist_use_interface {127,0,0,1}",
    RABBITMQ_CONF_ENV_FILE: "/dev/null",
    RABBITMQ_CONFIG_FILE: file("rabbitmq"),
    RABBITMQ_ADVANCED_CONFIG_FILE: file("advanced.config"),
    RABBITMQ_ENABLED_PLUGINS_FILE: file("enabled_plugins"),
    RABBITMQ_MNESIA_BASE: file("data"),
    RABBITMQ_LOG_BASE: file("log"),
    RABBITMQ_PID_FILE: file("pid")
  }
}

const defaults = (address: NodeAddress, certs: Certs): Record<string, string> => ({
  "log.console": "false",
  "listeners.ssl.1": `${address.host}:${address.tlsPort}`,
  "ssl_options.cacertfile": certs.ca,
  "ssl_options.certfile": certs.server.cert,
  "ssl_options.keyfile": certs.server.key,
  "ssl_options.verify": "verify_peer",
  "ssl_options.fail_if_no_peer_cert": "false",
  "ssl_cert_login_from": "common_name",
  "auth_mechanisms.1": "PLAIN",
  "auth_mechanisms.2": "AMQPLAIN",
  "auth_mechanisms.3": "EXTERNAL",
  "auth_mechanisms.4": "RABBIT-CR-DEMO"
})

/** Standard input: the process group of the node while it runs, an empty line when it does not; then end of file. */
const guardScript = `
while read -r pid; do group=$pid; done
[ -z "$group" ] || kill -9 -"$group" 2>/dev/null
epmd -kill >/dev/null 2>&1
rm -rf "$0" 2>/dev/null || { sleep 1; rm -rf "$0"; }
`

const startGuard = (address: NodeAddress): ChildProcess => {
  const guard = spawn("/bin/sh", ["-c", guardScript, address.folder], {
    cwd: "/",
    env: environment(address),
    detached: true, // a Ctrl-C at the terminal is for the tests, not for the guard
    stdio: ["pipe", "ignore", "ignore"]
  })
  guard.stdin?.on("error", () => {})
  return guard
}

const exited = (child: ChildProcess): Effect.Effect<void> =>
  Effect.promise(async () => {
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit")
  })

/** The usual limit of 1,024 descriptors leaves room for 800 connections. */
const serverScript = `ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"; exec "$0"`

/** Prepares a node in a folder of its own, not yet started. Everything is gone when the scope closes. */
export const makeNodeProcess = (options: NodeOptions): Effect.Effect<NodeProcess, BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const found = yield* programs
    const [port, tlsPort, distPort, ownEpmdPort] = yield* Effect.all([freePort, freePort, freePort, freePort])
    const { cookie, epmdPort } = options.shared ?? { cookie: randomBytes(16).toString("hex"), epmdPort: ownEpmdPort }
    const { address, guard } = yield* Effect.acquireRelease(
      Effect.promise(async () => {
        const folder = await mkdtemp(Path.join(tmpdir(), "effect-amqp-"))
        const name = `${Path.basename(folder)}@localhost`
        const address: NodeAddress = {
          programs: found,
          name,
          folder,
          host: "127.0.0.1",
          port,
          tlsPort,
          distPort,
          epmdPort
        }
        return { address, guard: startGuard(address) }
      }),
      ({ guard }) => Effect.andThen(Effect.sync(() => guard.stdin?.end()), exited(guard))
    )
    const env = environment(address)
    const { folder } = address
    const file = (name: string) => Path.join(folder, name)

    yield* Effect.promise(() => mkdir(file("certs")))
    const certs = yield* makeCerts(file("certs"))
    const conf = Object.entries({ ...defaults(address, certs), ...options.conf })
    const plugins = ["rabbitmq_auth_mechanism_ssl", ...options.plugins ?? []]
    yield* Effect.promise(async () => {
      await writeFile(file(".erlang.cookie"), cookie, { mode: 0o400 })
      await writeFile(file("rabbitmq.conf"), conf.map(([key, value]) => `${key} = ${value}\n`).join(""))
      await writeFile(file("advanced.config"), options.advanced ?? "[].\n")
      await writeFile(file("enabled_plugins"), `[${plugins.join(",")}].\n`)
    })

    let server: ChildProcess | undefined
    const isUp = () => server !== undefined && server.exitCode === null && server.signalCode === null
    const ctl = (timeout: number, ...args: ReadonlyArray<string>) =>
      exec(found.ctl, ["-q", `--node=${address.name}`, ...args], { env, timeout })

    const spawnServer = Effect.promise(async () => {
      await rm(file("pid"), { force: true }) // `rabbitmqctl wait` would believe the last one
      const output = openSync(file("boot.log"), "w")
      const child = spawn("/bin/sh", ["-c", serverScript, found.server], {
        cwd: folder,
        env,
        detached: true,
        stdio: ["ignore", output, output]
      })
      closeSync(output)
      guard.stdin?.write(`${child.pid}\n`)
      child.once("exit", () => guard.stdin?.write("\n")) // that number may soon be somebody else's
      server = child
      return child
    })
    const bootFailed = Effect.gen(function*() {
      const log = yield* Effect.promise(() => readFile(file("boot.log"), "utf8"))
      const at = log.indexOf("BOOT FAILED")
      const reason = log.slice(Math.max(0, (at === -1 ? log.length : at) - 1000)).slice(0, 2000)
      return yield* new BrokerError({ message: `RabbitMQ did not start:\n${reason}` })
    })
    const start = Effect.gen(function*() {
      const child = yield* spawnServer
      const ended = Effect.andThen(exited(child), bootFailed)
      yield* Effect.raceFirst(ctl(90_000, "wait", file("pid"), "--timeout", "60"), ended)
    })
    const kill9 = Effect.suspend(() => {
      if (server?.pid === undefined || !isUp()) return Effect.void
      process.kill(-server.pid, "SIGKILL")
      return exited(server)
    })
    const stop = Effect.suspend(() => {
      if (!isUp()) return Effect.void
      return Effect.andThen(Effect.ignore(ctl(10_000, "shutdown")), kill9)
    })
    yield* Effect.addFinalizer(() => stop)
    return { address, start, stop, kill9 }
  })

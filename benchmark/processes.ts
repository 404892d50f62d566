/**
 * The processes of a benchmark: one per sample, the peers that they talk to, and the C program that is compiled here.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process"
import { once } from "node:events"
import { rmSync } from "node:fs"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import * as Path from "node:path"
import { createInterface } from "node:readline"
import { promisify } from "node:util"
import type { CodecFigures } from "./codec.ts"
import { type ClientName, type Job, nativeClient, type Sample, toArguments } from "./job.ts"

const exec = promisify(execFile)
const here = import.meta.dirname
const project = Path.dirname(here)
/** What `compile` writes. */
const compiled = Path.join(project, "dist", "benchmark")

/** Compiles the library and the benchmark to JavaScript. */
export const compile = async (): Promise<void> => {
  await rm(compiled, { recursive: true, force: true })
  await exec(process.execPath, [
    Path.join(project, "node_modules", "typescript", "bin", "tsc"),
    "-p",
    Path.join(here, "tsconfig.json")
  ])
}

/** The compiled form of a script of this folder. */
export const script = (name: string): string => Path.join(compiled, "benchmark", name.replace(/\.ts$/, ".js"))

/** How long one sample may take. */
const timeout = 120_000

/** Compiles the C program into a folder of its own; otherwise says why it is left out. */
export const compileNative = async (): Promise<{ readonly program: string } | { readonly missing: string }> => {
  const folder = await mkdtemp(Path.join(tmpdir(), "effect-amqp-bench-"))
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }))
  const program = Path.join(folder, "bench")
  const source = Path.join(here, "native", "bench.c")
  try {
    await exec("cc", ["-O2", "-o", program, source, "-lrabbitmq"])
    return { program }
  } catch {
    await rm(folder, { recursive: true, force: true })
    return { missing: "librabbitmq is left out: it takes a C compiler and librabbitmq-dev" }
  }
}

/** What a program prints to standard output. */
export const output = async (program: string, args: ReadonlyArray<string>): Promise<string> => {
  const { stdout } = await exec(program, args, { timeout, killSignal: "SIGKILL", maxBuffer: 16 * 1024 * 1024 })
  return stdout
}

/** Runs one job in a process of its own. */
export const sampleOf = async (
  client: ClientName,
  job: Job,
  native: string | undefined,
  nodeOptions: ReadonlyArray<string>
): Promise<Sample> => {
  const json = client === nativeClient && native !== undefined
    ? await output(native, toArguments(job))
    : await output(process.execPath, [
      "--expose-gc",
      ...nodeOptions,
      script("worker.ts"),
      client,
      JSON.stringify(job)
    ])
  return JSON.parse(json)
}

/** Publishes what a job consumes at a rate, until it has done so or is stopped. */
export const startSource = (native: string, job: Job): ChildProcess =>
  spawn(native, toArguments(job, "source"), { stdio: ["ignore", "ignore", "inherit"] })

/** Runs the micro-benchmarks of one codec in a process of its own. */
export const codecSampleOf = async (client: ClientName, times: number): Promise<CodecFigures> =>
  JSON.parse(await output(process.execPath, [script("codec.ts"), client, String(times)]))

/** A script that prints one line when it is ready, and lives until its standard input ends. */
export class Server {
  private readonly child: ChildProcess
  readonly line: string

  private constructor(child: ChildProcess, line: string) {
    this.child = child
    this.line = line
  }

  static async start(name: string, args: ReadonlyArray<string> = []): Promise<Server> {
    const child = spawn(process.execPath, [script(name), ...args], { stdio: ["pipe", "pipe", "inherit"] })
    const lines = createInterface({ input: child.stdout })
    const ready = once(lines, "line").then(([line]) => String(line))
    const ended = once(child, "exit").then(() => {
      throw new Error(`${name} ended at once`)
    })
    const line = await Promise.race([ready, ended])
    ended.catch(() => {})
    return new Server(child, line)
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null) return
    const exit = once(this.child, "exit")
    this.child.stdin?.end()
    await exit
  }
}

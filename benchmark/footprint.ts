/**
 * What a minimal program costs before it does anything: the time and memory of its imports, as files and as one bundle,
 * and the size of that bundle.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import { gzipSync } from "node:zlib"
import { build } from "rolldown"
import type { ClientName } from "./job.ts"
import { median } from "./measure.ts"
import { output, script } from "./processes.ts"

export interface Footprint {
  readonly client: ClientName | "(nothing)"
  /** Milliseconds until all is imported, from files and from the bundle. */
  readonly importMillis: number
  readonly bundledMillis: number
  /** Bytes, resident, once it is imported from files. */
  readonly resident: number
  /** Bytes, minified. */
  readonly bundle: number
  readonly gzipped: number
}

const files: Partial<Record<ClientName, string>> = {
  "effect-amqp": "minimal/effectAmqp.ts",
  "amqplib": "minimal/amqplib.ts",
  "rabbitmq-client": "minimal/rabbitmqClient.ts",
  "cloudamqp": "minimal/cloudamqp.ts"
}

/** Imports a file in a process of its own. */
const importing = async (file: string): Promise<{ readonly millis: number; readonly resident: number }> => {
  const code = `const began = performance.now(); await import(${JSON.stringify(pathToFileURL(file).href)})
    const millis = performance.now() - began
    console.log(JSON.stringify({ millis, resident: process.memoryUsage.rss() }))`
  return JSON.parse(await output(process.execPath, ["--input-type=module", "-e", code]))
}

const bundled = async (file: string): Promise<string> => {
  const to = file.replace(/\.js$/, ".bundle.mjs")
  await build({
    input: file,
    platform: "node",
    logLevel: "silent",
    output: { file: to, format: "esm", minify: true, codeSplitting: false }
  })
  return to
}

/** Medians of so many interleaved imports. */
export const footprints = async (
  clients: ReadonlyArray<ClientName>,
  rounds: number
): Promise<ReadonlyArray<Footprint>> => {
  const nothing = script("minimal/nothing.ts")
  await mkdir(Path.dirname(nothing), { recursive: true })
  await writeFile(nothing, "export {}\n")
  const programs: Array<{ readonly client: Footprint["client"]; readonly file: string; readonly bundle: string }> = []
  for (const client of ["(nothing)", ...clients] as const) {
    const file = client === "(nothing)" ? nothing : files[client] === undefined ? undefined : script(files[client])
    if (file !== undefined) programs.push({ client, file, bundle: await bundled(file) })
  }
  const measured = programs.map((program) => ({
    ...program,
    files: new Array<number>(),
    bundles: new Array<number>(),
    resident: new Array<number>()
  }))
  for (let round = 0; round < rounds; round++) {
    for (const one of measured) {
      const { millis, resident } = await importing(one.file)
      one.files.push(millis)
      one.resident.push(resident)
      one.bundles.push((await importing(one.bundle)).millis)
    }
  }
  return Promise.all(measured.map(async ({ bundle, bundles, client, files, resident }) => {
    const code = await readFile(bundle)
    return {
      client,
      importMillis: median(files),
      bundledMillis: median(bundles),
      resident: median(resident),
      bundle: code.length,
      gzipped: gzipSync(code).length
    }
  }))
}

/**
 * The package as users get it: built, packed, installed into an empty folder, imported from JavaScript and TypeScript.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"

const root = Path.resolve(import.meta.dirname, "..")
const bin = (name: string): string => Path.join(root, "node_modules/.bin", name)

const consumer = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-amqp-"))
const installed = Path.join(consumer, "node_modules/effect-amqp")

/** Runs a program in the consumer's folder; what it printed, or an error that shows it. */
const run = (command: string, ...args: ReadonlyArray<string>): string => {
  const { status, stderr, stdout } = spawnSync(command, args, { cwd: consumer, encoding: "utf8" })
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}\n${stdout}${stderr}`)
  return stdout
}

const runModule = (source: string): string => run(process.execPath, "--input-type=module", "--eval", source)

const filesIn = (directory: string, extension: string): Array<string> =>
  Fs.readdirSync(Path.join(installed, directory), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(extension))

/** Public modules by the name users import them with. */
const publicModules = (): Array<string> =>
  filesIn("src", ".ts").map((file) => file.slice(0, -".ts".length))
    .filter((name) => !/(^|\/)(index$|internal\/)|^cli$/.test(name))

const typeCheck = (source: string): string => {
  Fs.writeFileSync(Path.join(consumer, "main.ts"), source)
  return run(bin("tsc"), "-p", consumer)
}

beforeAll(() => {
  Fs.writeFileSync(Path.join(consumer, "package.json"), `{ "private": true, "type": "module" }`)
  // `prepack` builds. The peers are linked from here, so that nothing comes over the network.
  run("npm", "pack", root, "--loglevel=error", "--pack-destination", consumer)
  const tarball = Fs.readdirSync(consumer).find((file) => file.endsWith(".tgz"))
  run("npm", "install", "--offline", "--legacy-peer-deps", "--loglevel=error", `./${tarball}`)
  for (const peer of ["effect", "@effect/platform-node", "@types/node"]) {
    const link = Path.join(consumer, "node_modules", peer)
    Fs.mkdirSync(Path.dirname(link), { recursive: true })
    Fs.symlinkSync(Path.join(root, "node_modules", peer), link)
  }
  Fs.writeFileSync(
    Path.join(consumer, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: {
        module: "NodeNext",
        target: "ES2024",
        lib: ["ES2024", "DOM"],
        types: ["node"],
        strict: true,
        exactOptionalPropertyTypes: true,
        skipLibCheck: false,
        noEmit: true
      },
      include: ["main.ts"]
    })
  )
}, 120_000)

afterAll(() => Fs.rmSync(consumer, { recursive: true, force: true }))

describe("the package", () => {
  it("shows brokers its own version", () => {
    const { version } = JSON.parse(Fs.readFileSync(Path.join(root, "package.json"), "utf8"))
    assert.include(Fs.readFileSync(Path.join(root, "src/AmqpConnection.ts"), "utf8"), `const version = "${version}"`)
  })

  it("holds sources, modules, declarations and maps that find their sources, and nothing else", () => {
    assert.sameMembers(Fs.readdirSync(installed), [
      ...["LICENSE", "README.md"].filter((file) => Fs.existsSync(Path.join(root, file))),
      "dist",
      "package.json",
      "src"
    ])
    const names = filesIn("src", ".ts").map((file) => file.slice(0, -".ts".length))
    for (const extension of [".js", ".d.ts"]) {
      assert.sameMembers(filesIn("dist", extension), names.map((name) => name + extension))
      for (const name of names) {
        const map = Path.join(installed, "dist", `${name}${extension}.map`)
        const { sources } = JSON.parse(Fs.readFileSync(map, "utf8")) as { readonly sources: ReadonlyArray<string> }
        assert.deepStrictEqual(sources.map((source) => Path.resolve(Path.dirname(map), source)), [
          Path.join(installed, "src", `${name}.ts`)
        ])
      }
    }
  })

  it("is imported from plain JavaScript, as a whole and by module", () => {
    const names = publicModules().filter((name) => name !== "NodeAmqp")
    const printed = runModule(`
      import * as Barrel from "effect-amqp"
      import * as Testing from "effect-amqp/testing"
      ${names.map((name, index) => `import * as M${index} from "effect-amqp/${name}"`).join("\n")}
      const modules = { ${names.map((name, index) => `"${name}": M${index}`).join(", ")} }
      for (const [name, module] of Object.entries(modules)) {
        const barrel = name.startsWith("testing/") ? Testing : Barrel
        const exported = barrel[name.replace("testing/", "")]
        if (exported !== module && name !== "testing/NodeAmqpBroker") throw new Error(name + " is not the one in the barrel")
      }
      console.log(Object.keys(modules).length)
    `)
    assert.strictEqual(printed.trim(), String(names.length))
  })

  it("has a command", () => {
    assert.match(run("npx", "--offline", "effect-amqp", "--help"), /^Usage: effect-amqp broker/)
  })

  it("needs the platform package only for NodeAmqp", () => {
    const link = Path.join(consumer, "node_modules/@effect")
    Fs.renameSync(link, `${link}-away`)
    try {
      runModule(`import "effect-amqp"; import "effect-amqp/testing"; import "effect-amqp/testing/NodeAmqpBroker"`)
      const { version } = JSON.parse(Fs.readFileSync(Path.join(root, "package.json"), "utf8"))
      assert.strictEqual(run(Path.join(consumer, "node_modules/.bin/effect-amqp"), "--version"), `${version}\n`)
    } finally {
      Fs.renameSync(`${link}-away`, link)
    }
  })

  it("refuses its internals", () => {
    for (const path of ["internal/codec/wire", "index", "testing/internal/server/broker", "testing/index", "cli"]) {
      assert.throws(() => runModule(`import "effect-amqp/${path}"`), /ERR_PACKAGE_PATH_NOT_EXPORTED/)
    }
  })

  it("installs next to a later Effect, without force", () => {
    const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-amqp-"))
    const npm = (...args: ReadonlyArray<string>) => {
      const { status, stderr } = spawnSync("npm", args, { cwd: folder, encoding: "utf8" })
      return { status, stderr }
    }
    /** A package of that name and version with nothing in it. */
    const empty = (name: string, version: string): string => {
      const directory = Path.join(folder, `${name.replace("/", "-")}-${version}`)
      Fs.mkdirSync(directory)
      Fs.writeFileSync(Path.join(directory, "package.json"), JSON.stringify({ name, version }))
      assert.deepInclude(npm("pack", directory, "--loglevel=error"), { status: 0 })
      return Path.join(folder, `${name.replace("@", "").replace("/", "-")}-${version}.tgz`)
    }
    const tarball = Fs.readdirSync(consumer).find((file) => file.endsWith(".tgz")) ?? assert.fail("nothing was packed")
    const install = (version: string) => {
      Fs.writeFileSync(Path.join(folder, "package.json"), `{ "private": true }`)
      Fs.rmSync(Path.join(folder, "package-lock.json"), { force: true })
      const peers = ["effect", "@effect/platform-node"].map((name) => empty(name, version))
      return npm("install", "--offline", "--loglevel=error", Path.join(consumer, tarball), ...peers)
    }
    try {
      for (const version of ["4.1.0", "4.1.7", "4.20.0"]) {
        assert.deepStrictEqual(install(version), { status: 0, stderr: "" }, version)
      }
      for (const version of ["4.0.5", "5.0.0"]) assert.match(install(version).stderr, /ERESOLVE/, version)
    } finally {
      Fs.rmSync(folder, { recursive: true, force: true })
    }
  }, 60_000)

  it("gives a strict TypeScript program its types, library declarations checked", () => {
    const names = publicModules()
    typeCheck([
      `import * as Barrel from "effect-amqp"`,
      `import * as Testing from "effect-amqp/testing"`,
      ...names.map((name, index) => `import * as M${index} from "effect-amqp/${name}"`),
      `export const all = [Barrel, Testing, ${names.map((_, index) => `M${index}`).join(", ")}]`
    ].join("\n"))
    assert.throws(() => typeCheck(`import "effect-amqp/internal/codec/wire"`), /TS2307|TS2882/)
  }, 60_000)
})

/**
 * Writes `docs/exports.txt`: what every public module exports, so that a change of the API shows in review. `--check` fails when
 * the file on disk is not what would be written.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"

const root = Path.resolve(import.meta.dirname, "..")
const source = Path.join(root, "src")

/** The exports of a file: names, and whether each is a value. What is `@internal` is no export. */
const exportsOf = (file: string): ReadonlyMap<string, boolean> => {
  const text = Fs.readFileSync(file, "utf8")
  const found = new Map<string, boolean>()
  const add = (name: string, isValue: boolean): void => void found.set(name, isValue || found.get(name) === true)
  for (
    const [, comment = "", kind = "", name = ""] of text.matchAll(
      /(\/\*\*(?:(?!\*\/)[\s\S])*\*\/\n)?^export (?:abstract )?(const|class|function|interface|type) (\w+)/gm
    )
  ) {
    if (!comment.includes("@internal")) add(name, kind !== "interface" && kind !== "type")
  }
  for (const [, type, names = ""] of text.matchAll(/^export (type )?\{([^}]*)\}/gm)) {
    for (const item of names.split(",").map((name) => name.trim()).filter(Boolean)) {
      const name = item.replace(/^type /, "").split(" as ").at(-1) ?? ""
      add(name, type === undefined && !item.startsWith("type "))
    }
  }
  for (const [, type, specifier = ""] of text.matchAll(/^export (type )?\* from "([^"]+)"/gm)) {
    for (const [name, isValue] of exportsOf(Path.join(Path.dirname(file), specifier))) {
      if (type === undefined || !isValue) add(name, isValue)
    }
  }
  return found
}

const modules = ["", "testing"].flatMap((folder) =>
  Fs.readdirSync(Path.join(source, folder))
    .filter((file) => /^(Node)?Amqp\w+\.ts$/.test(file))
    .map((file) => Path.posix.join(folder, file))
).sort()

const lines = modules.flatMap((module) => {
  const names = [...exportsOf(Path.join(source, module))].sort(([a], [b]) => a < b ? -1 : 1)
  return names.map(([name, isValue]) => `${module.slice(0, -".ts".length)}.${name}${isValue ? "" : " (type)"}`)
})
const text = `${lines.join("\n")}\n`
const target = Path.join(root, "docs/exports.txt")

if (!process.argv.includes("--check")) Fs.writeFileSync(target, text)
else if (!Fs.existsSync(target) || Fs.readFileSync(target, "utf8") !== text) {
  console.error("docs/exports.txt is not up to date: npm run exports")
  process.exitCode = 1
}

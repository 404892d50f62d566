/**
 * Writes `src/index.ts`: one namespace per public module, with the first sentence of the module's documentation.
 * `--check` fails when the file on disk is not what would be written.
 *
 * `NodeAmqp` stays out, because it imports the optional peer: users import `effect-amqp/NodeAmqp`.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"

const root = Path.resolve(import.meta.dirname, "../src")
const index = Path.join(root, "index.ts")

/** The first sentence of the comment that opens the file. */
const summary = (file: string): string => {
  const comment = /^\/\*\*([\s\S]*?)\*\//.exec(Fs.readFileSync(Path.join(root, file), "utf8"))?.[1]
  const sentence = comment?.replaceAll(/^\s*\* ?/gm, "").trim().match(/^[\s\S]*?[.:](?=\s|$)/)?.[0]
  if (sentence === undefined) throw new Error(`src/${file} has to open with a doc comment that says what it does.`)
  return sentence.replaceAll(/\s+/g, " ").replace(/:$/, ".")
}

const modules = Fs.readdirSync(root).filter((file) => /^Amqp\w+\.ts$/.test(file)).sort()
const source = [
  "/**\n * An AMQP 0-9-1 client that is native to Effect.\n *\n * Written by `npm run barrel`.\n *\n * @since 0.1.0\n */",
  ...modules.map((file) =>
    `/**\n * ${summary(file)}\n *\n * @since 0.1.0\n */\nexport * as ${Path.basename(file, ".ts")} from "./${file}"`
  )
].join("\n\n") + "\n"

if (!process.argv.includes("--check")) Fs.writeFileSync(index, source)
else if (!Fs.existsSync(index) || Fs.readFileSync(index, "utf8") !== source) {
  console.error("src/index.ts is not up to date: npm run barrel")
  process.exitCode = 1
}

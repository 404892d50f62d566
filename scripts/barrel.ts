/**
 * Writes the barrels `src/index.ts` and `src/testing/index.ts`: one namespace per public module, with the first sentence
 * of the module's documentation. `--check` fails when a file on disk is not what would be written.
 *
 * `NodeAmqp` stays out, because it imports the optional peer, and `NodeAmqpBroker`, because it imports Node: users import
 * `effect-amqp/NodeAmqp`.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"

const root = Path.resolve(import.meta.dirname, "../src")

const barrels = [
  { folder: "", title: "An AMQP 0-9-1 client that is native to Effect." },
  { folder: "testing", title: "What tests of AMQP programs need: a broker inside the process, and faults on demand." }
]

/** The first sentence of the comment that opens the file. */
const summary = (file: string): string => {
  const comment = /^\/\*\*([\s\S]*?)\*\//.exec(Fs.readFileSync(file, "utf8"))?.[1]
  const sentence = comment?.replaceAll(/^\s*\* ?/gm, "").trim().match(/^[\s\S]*?[.:](?=\s|$)/)?.[0]
  if (sentence === undefined) {
    throw new Error(`${Path.relative(root, file)} has to open with a doc comment that says what it does.`)
  }
  return sentence.replaceAll(/\s+/g, " ").replace(/:$/, ".")
}

for (const { folder, title } of barrels) {
  const directory = Path.join(root, folder)
  const modules = Fs.readdirSync(directory).filter((file) => /^Amqp\w+\.ts$/.test(file)).sort()
  const source = [
    `/**\n * ${title}\n *\n * Written by \`npm run barrel\`.\n *\n * @since 0.1.0\n */`,
    ...modules.map((file) =>
      `/**\n * ${summary(Path.join(directory, file))}\n *\n * @since 0.1.0\n */\n` +
      `export * as ${Path.basename(file, ".ts")} from "./${file}"`
    )
  ].join("\n\n") + "\n"
  const index = Path.join(directory, "index.ts")
  if (!process.argv.includes("--check")) Fs.writeFileSync(index, source)
  else if (!Fs.existsSync(index) || Fs.readFileSync(index, "utf8") !== source) {
    console.error(`${Path.relative(Path.dirname(root), index)} is not up to date: npm run barrel`)
    process.exitCode = 1
  }
}

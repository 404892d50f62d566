import { defineConfig } from "vitest/config"
import type { Reporter } from "vitest/node"

/** One line after the summary. A file that does not load counts as a failure, and so does a run of no test at all. */
const totals: Reporter = {
  onTestRunEnd(modules, errors) {
    const tests = modules.flatMap((module) => Array.from(module.children.allTests(), (test) => test.result().state))
    const passed = tests.filter((state) => state === "passed").length
    const failed = tests.filter((state) => state === "failed").length + errors.length +
      modules.flatMap((module) => module.errors()).length
    if (passed + failed === 0) process.exitCode = 1
    process.stdout.write(`${passed} passed, ${failed} failed\n`)
  }
}

export default defineConfig({
  test: {
    reporters: ["default", totals],
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/**/*.test.ts", "examples/**/*.test.ts"],
          exclude: ["test/integration/**"],
          sequence: { groupOrder: 0 }
        }
      },
      {
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          // They share one broker: an alarm in one file would block the publishes of another.
          fileParallelism: false,
          testTimeout: 30_000,
          hookTimeout: 60_000,
          globalSetup: ["test/harness/globalSetup.ts"],
          sequence: { groupOrder: 2 }
        }
      },
      {
        // The same files against the embedded broker: whatever RabbitMQ does there, it does, too. Tests of what it does not
        // do are behind `isRabbitMQ` in their files.
        test: {
          name: "embedded",
          include: ["test/integration/**/*.test.ts"],
          exclude: [
            "test/integration/benchmark.test.ts", // brings its own brokers
            "test/integration/chaos.test.ts", // kills its node's process
            "test/integration/cluster.test.ts", // has no nodes to lose
            "test/integration/examples.test.ts", // brings its own brokers
            "test/integration/tls.test.ts" // serves no TLS
          ],
          provide: { broker: { _tag: "Embedded" } },
          // Each file has brokers of its own, and most of them wait for real time to pass.
          maxWorkers: 4,
          testTimeout: 30_000,
          hookTimeout: 60_000,
          sequence: { groupOrder: 1 }
        }
      }
    ]
  }
})

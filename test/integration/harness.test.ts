/**
 * The harness itself, against a real broker and raw sockets: what the other integration tests take for granted.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Exit, Option, Scope } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync, watch } from "node:fs"
import { readFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import * as Tls from "node:tls"
import { Broker } from "../harness/broker.ts"
import { BrokerLeak, noLeaks } from "../harness/leaks.ts"
import { makeProxy } from "../harness/proxy.ts"
import { makeNode } from "../harness/rabbitmq.ts"
import { dial, makeScripted, type ScriptedConnection } from "../harness/scripted.ts"
import { canControl, isRabbitMQ, onVhost, uniqueName, Vhost } from "../harness/shared.ts"

const header = new TextEncoder().encode("AMQP\0\0\x09\x01")

// The least of AMQP that makes a broker hold a channel and a consumer.
const short = (text: string) => [text.length, ...Buffer.from(text)]
const long = (bytes: ReadonlyArray<number>) => [0, 0, bytes.length >> 8, bytes.length & 0xff, ...bytes]
const method = (channel: number, classId: number, methodId: number, args: ReadonlyArray<number>) =>
  Uint8Array.from([1, 0, channel, ...long([0, classId, 0, methodId, ...args]), 0xce])

/** Reads one frame: its class, its method and the arguments' bytes. */
const readMethod = Effect.fnUntraced(function*(connection: ScriptedConnection) {
  const size = new DataView((yield* connection.read(7)).buffer).getUint32(3)
  const payload = yield* connection.read(size + 1)
  return { id: `${payload[1]}.${payload[3]}`, args: payload.subarray(4, -1) }
})

const login = Effect.fnUntraced(function*(connection: ScriptedConnection, vhost: string, name: string) {
  const title = [...short("connection_name"), 0x53, ...long([...Buffer.from(name)])]
  yield* connection.write(header)
  yield* readMethod(connection)
  const response = long([...Buffer.from("\0guest\0guest")])
  yield* connection.write(method(0, 10, 11, [...long(title), ...short("PLAIN"), ...response, ...short("en_US")]))
  const tune = yield* readMethod(connection)
  yield* connection.write(method(0, 10, 31, [...tune.args]))
  yield* connection.write(method(0, 10, 40, [...short(vhost), 0, 0]))
  return (yield* readMethod(connection)).id
})

const tls = (options: Tls.ConnectionOptions) =>
  Effect.callback<{ readonly authorized: boolean; readonly protocol: string | null }, Error>((resume) => {
    const socket = Tls.connect(
      { host: "127.0.0.1", servername: "localhost", ...options },
      () => resume(Effect.succeed({ authorized: socket.authorized, protocol: socket.getProtocol() }))
    )
    socket.on("error", (error) => resume(Effect.fail(error)))
    return Effect.sync(() => socket.destroy())
  })

layer(onVhost, { excludeTestServices: true })("the shared broker", (it) => {
  it.effect("answers the protocol header with connection.start", () =>
    Effect.gen(function*() {
      const connection = yield* dial(yield* Broker)
      yield* connection.write(header)
      assert.strictEqual((yield* readMethod(connection)).id, "10.10")
    }))

  describe.runIf(canControl)("that is ours", () => {
    // The embedded broker has no TLS.
    it.effect.runIf(isRabbitMQ)("takes TLS from its own authority alone", () =>
      Effect.gen(function*() {
        const { certs, tlsPort } = yield* Broker.rabbitmq
        const ca = yield* Effect.promise(() => readFile(certs.ca))
        const seen = yield* tls({ port: tlsPort, ca })
        assert.deepStrictEqual(seen, { authorized: true, protocol: "TLSv1.3" })
        const rogue = yield* Effect.promise(() => readFile(certs.rogueCa))
        assert.propertyVal(
          yield* Effect.flip(tls({ port: tlsPort, ca: rogue })),
          "code",
          "SELF_SIGNED_CERT_IN_CHAIN"
        )
        const key = yield* Effect.promise(() => readFile(certs.client.encryptedKey, "utf8"))
        assert.include(key, "ENCRYPTED PRIVATE KEY")
        const cert = yield* Effect.promise(() => readFile(certs.client.cert))
        assert.isTrue((yield* tls({ port: tlsPort, ca, cert, key, passphrase: certs.client.passphrase })).authorized)
      }))

    // Erlang is asked; what clients see of an alarm is the business of other files.
    it.effect.runIf(isRabbitMQ)("raises an alarm until the scope ends", () =>
      Effect.gen(function*() {
        const control = yield* Broker.rabbitmq
        const alarms = control.eval(
          "io:put_chars(rabbit_json:encode([R || {{_, R, _}, _} <- rabbit_alarm:get_alarms()]))"
        )
        yield* Effect.scoped(Effect.gen(function*() {
          yield* control.alarm("memory")
          yield* control.alarm("disk")
          assert.sameMembers(JSON.parse(yield* alarms), ["memory", "disk"])
          yield* control.unalarm("disk")
          assert.strictEqual(yield* alarms, `["memory"]`)
        }))
        assert.strictEqual(yield* alarms, "[]")
      }))

    it.effect("stops its process until the scope ends", () =>
      Effect.gen(function*() {
        const control = yield* Broker.control
        const connection = yield* dial(yield* Broker)
        yield* Effect.scoped(Effect.gen(function*() {
          yield* control.pause
          yield* connection.write(header)
          assert.isTrue(Option.isNone(yield* Effect.timeoutOption(connection.read(1), "100 millis")))
        }))
        assert.strictEqual((yield* readMethod(connection)).id, "10.10")
      }))

    it.effect("closes the connection that a test names, and lists what it holds", () =>
      Effect.gen(function*() {
        const control = yield* Broker.control
        const vhost = (yield* Vhost).name
        const name = uniqueName("client")
        const connection = yield* dial(yield* Broker)
        assert.strictEqual(yield* login(connection, vhost, name), "10.41")
        const { connections } = yield* control.held({ vhost })
        assert.deepStrictEqual(connections.map((one) => [one.connectionName, one.user, one.vhost, one.state]), [
          [name, "guest", vhost, "running"]
        ])
        yield* control.closeConnection(name, "because ✓")
        const close = yield* readMethod(connection)
        assert.strictEqual(close.id, "10.50")
        assert.strictEqual(Buffer.from(close.args).readUInt16BE(0), 320)
        assert.include(Buffer.from(close.args).toString(), "because ✓")
      }))

    it.effect("tells a test what it left there: connection, channel, consumer", () =>
      Effect.gen(function*() {
        const broker = yield* Broker
        const { name: vhost } = yield* Vhost
        const around = yield* Effect.scope
        const test = Effect.gen(function*() {
          const connection = yield* Scope.provide(dial(broker), around)
          yield* login(connection, vhost, "forgotten")
          yield* connection.write(method(1, 20, 10, [0]))
          yield* readMethod(connection)
          yield* connection.write(method(1, 50, 10, [0, 0, ...short("jobs"), 0b01000, ...long([])]))
          yield* readMethod(connection)
          yield* connection.write(method(1, 60, 20, [0, 0, ...short("jobs"), ...short("tag"), 0, ...long([])]))
          yield* readMethod(connection)
        })
        const leak = yield* Effect.flip(noLeaks(test, 100))
        assert.instanceOf(leak, BrokerLeak)
        assert.strictEqual(
          leak.message,
          [
            "the broker still holds what this test opened:",
            "connection forgotten (running, 1 channels)",
            "channel 1 (1 consumers, 0 unacknowledged)",
            "consumer tag on queue jobs"
          ].join("\n  ")
        )
        const control = yield* Broker.control
        assert.deepStrictEqual(yield* control.listQueues(vhost), [
          { name: "jobs", durable: false, autoDelete: true, ready: 0, unacknowledged: 0, consumers: 1 }
        ])
        // What stood there before is nobody's leak, and what closes itself is none.
        yield* noLeaks(Effect.flatMap(dial(broker), (connection) => login(connection, vhost, "closed")))
      }))

    it.effect("finds a connection that never got as far as its vhost", () =>
      Effect.gen(function*() {
        const around = yield* Effect.scope
        const test = Effect.gen(function*() {
          const connection = yield* Scope.provide(dial(yield* Broker), around)
          yield* connection.write(header)
          yield* readMethod(connection)
        })
        const leak = yield* Effect.flip(noLeaks(test, 100))
        assert.include(leak.message, "(starting, 0 channels)")
      }))

    it.effect("stops and starts inside its node", () =>
      Effect.gen(function*() {
        const control = yield* Broker.control
        const connection = yield* dial(yield* Broker)
        yield* login(connection, (yield* Vhost).name, "stopped")
        yield* Effect.scoped(control.stopApp)
        const close = yield* readMethod(connection)
        assert.deepStrictEqual([close.id, Buffer.from(close.args).readUInt16BE(0)], ["10.50", 320])
        const again = yield* dial(yield* Broker)
        assert.strictEqual(yield* login(again, (yield* Vhost).name, "again"), "10.41")
      }))
  })

  describe("behind a proxy", () => {
    it.effect("is heard and recorded, in slices too", () =>
      Effect.gen(function*() {
        const proxy = yield* makeProxy(yield* Broker)
        yield* proxy.set("up", { slice: 1 })
        yield* proxy.set("down", { slice: 100, delay: 1 })
        const connection = yield* dial(proxy)
        const link = yield* proxy.accept
        yield* connection.write(header)
        assert.strictEqual((yield* readMethod(connection)).id, "10.10")
        assert.deepStrictEqual(Buffer.from(yield* link.seen("up")), Buffer.from(header))
        assert.deepStrictEqual(Buffer.from(yield* link.seen("down")), Buffer.from(yield* connection.received))
        assert.strictEqual(yield* proxy.accepted, 1)
      }))

    it.effect("is cut off by a reset, after so many bytes, and at once", () =>
      Effect.gen(function*() {
        const proxy = yield* makeProxy(yield* Broker)
        const one = yield* dial(proxy)
        const link = yield* proxy.accept
        yield* one.write(header)
        yield* one.read(1)
        yield* link.reset
        assert.strictEqual(yield* one.closed, "reset")
        yield* link.closed

        yield* proxy.set("down", { cutAfter: 10 })
        const two = yield* dial(proxy)
        yield* two.write(header)
        assert.strictEqual(yield* two.closed, "reset")
        assert.lengthOf(yield* two.received, 10)

        yield* proxy.refuse(true)
        assert.strictEqual(yield* (yield* dial(proxy)).closed, "reset")
      }))

    it.effect("vanishes in a hole, and stalls until the stall ends", () =>
      Effect.gen(function*() {
        const proxy = yield* makeProxy(yield* Broker)
        yield* proxy.set("down", { mode: "stall" })
        const stalled = yield* dial(proxy)
        const link = yield* proxy.accept
        yield* stalled.write(header)
        yield* link.read("down", 1)
        // That nothing happens takes a while to see.
        assert.isTrue(Option.isNone(yield* Effect.timeoutOption(stalled.read(1), "50 millis")))
        yield* proxy.set("down", { mode: "pass" })
        assert.strictEqual((yield* readMethod(stalled)).id, "10.10")

        yield* proxy.set("down", { mode: "hole" })
        const lost = yield* dial(proxy)
        const hole = yield* proxy.accept
        yield* lost.write(new TextEncoder().encode("garbage!")) // answered with a header and an end
        yield* hole.read("down", 8)
        assert.strictEqual((yield* Effect.flip(hole.read("down", 1)))._tag, "PeerClosed")
        assert.isTrue(Option.isNone(yield* Effect.timeoutOption(lost.closed, "50 millis")))
        assert.lengthOf(yield* lost.received, 0)
      }))

    it.effect("sees one direction end and answers in the other", () =>
      Effect.gen(function*() {
        const peer = yield* makeScripted
        const proxy = yield* makeProxy({ host: "127.0.0.1", port: peer.port })
        const client = yield* dial(proxy)
        const link = yield* proxy.accept
        const server = yield* peer.accept
        yield* link.halfClose("up")
        assert.strictEqual(yield* server.closed, "end")
        yield* server.write(header)
        assert.lengthOf(yield* client.read(8), 8)
        yield* server.end
        assert.strictEqual(yield* client.closed, "end")
      }))
  })
})

describe("a scripted peer", () => {
  it.live("reads and writes bytes as told, and tells an end from a reset", () =>
    Effect.gen(function*() {
      const peer = yield* makeScripted
      const target = { host: "127.0.0.1", port: peer.port }
      const client = yield* dial(target)
      const server = yield* peer.accept
      yield* client.write(Uint8Array.of(1, 2, 3))
      assert.deepStrictEqual([...yield* server.read(2)], [1, 2])
      yield* client.end
      assert.strictEqual(yield* server.closed, "end")
      const short = yield* Effect.flip(server.read(2))
      assert.deepStrictEqual([[...short.got], short.wanted], [[3], 2])
      assert.deepStrictEqual([...yield* server.received], [1, 2, 3])
      yield* server.reset
      assert.strictEqual(yield* client.closed, "reset")

      const other = yield* dial(target)
      const dropped = yield* peer.accept
      yield* other.reset
      assert.strictEqual(yield* dropped.closed, "reset")
    }))

  it.live("drops its clients with its scope", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const peer = yield* Scope.provide(makeScripted, scope)
      const client = yield* dial({ host: "127.0.0.1", port: peer.port })
      yield* peer.accept
      yield* Scope.close(scope, Exit.void)
      yield* client.closed
      const late = yield* dial({ host: "127.0.0.1", port: peer.port })
      assert.strictEqual(yield* late.closed, "reset")
    }))
})

/** Waits until a folder in the system's temporary folder has gone. */
const gone = (folder: string) =>
  Effect.callback<void>((resume) => {
    const look = () => existsSync(folder) ? undefined : resume(Effect.void)
    const watcher = watch(tmpdir(), look)
    look()
    return Effect.sync(() => watcher.close())
  })

// One is enough, and it takes its time: the runs of both projects would say the same.
layer(onVhost, { excludeTestServices: true })("a broker that somebody else runs", (it) => {
  it.effect.runIf(isRabbitMQ && canControl)(
    "is left alone with AMQP_URL: tests that need to control it are left out, the others pass",
    () =>
      Effect.gen(function*() {
        const { amqpUrl } = yield* Vhost
        const args = [
          "node_modules/vitest/vitest.mjs",
          "run",
          "--project",
          "integration",
          "test/integration/settle.test.ts"
        ]
        const { PATH, HOME } = process.env
        const { code, stdout } = yield* Effect.callback<{ readonly code: number | null; readonly stdout: string }>(
          (resume) => {
            const child = spawn(process.execPath, args, { env: { PATH, HOME, AMQP_URL: amqpUrl, NO_COLOR: "1" } })
            let stdout = ""
            child.stdout.setEncoding("utf8").on("data", (text: string) => stdout += text)
            child.once("close", (code) => resume(Effect.succeed({ code, stdout })))
            return Effect.sync(() => child.kill())
          }
        )
        assert.strictEqual(code, 0, stdout)
        assert.match(stdout, /^[1-9]\d* passed, 0 failed$/m)
        assert.match(stdout, /Tests .*[1-9]\d* skipped/)
      }),
    60_000
  )
})

describe.runIf(isRabbitMQ && canControl)("a node of one's own", () => {
  it.live(
    "has its own settings, stops and starts at once, survives its crash, and goes with its scope",
    () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const node = yield* Scope.provide(
          makeNode({ conf: { max_message_size: "4711" }, advanced: "[{rabbit,[{channel_tick_interval,1000}]}].\n" }),
          scope
        )
        yield* Effect.scoped(node.stopApp)
        const setting = (key: string) =>
          node.eval(`{ok, V} = application:get_env(rabbit, ${key}), io:format("~p", [V])`)
        assert.strictEqual(yield* setting("max_message_size"), "4711")
        assert.strictEqual(yield* setting("channel_tick_interval"), "1000")
        const connection = yield* dial(node)
        yield* connection.write(header)
        yield* readMethod(connection)
        yield* node.kill9
        yield* connection.closed
        yield* node.start
        assert.strictEqual(yield* login(yield* dial(node), "/", "again"), "10.41")
        yield* Scope.close(scope, Exit.void)
        assert.isFalse(existsSync(node.address.folder))
        assert.strictEqual(yield* (yield* dial(node)).closed, "reset")
      }),
    60_000
  )

  it.live("does not outlive the process that started it", () =>
    Effect.gen(function*() {
      const harness = new URL("../harness/rabbitmq.ts", import.meta.url).href
      const program = `
        import { Effect } from "effect"
        import { makeNode } from "${harness}"
        await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const node = yield* makeNode()
          console.log(JSON.stringify(node.address))
          yield* Effect.never
        })))`
      const owner = yield* Effect.acquireRelease(
        Effect.sync(() =>
          spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: ["ignore", "pipe", "inherit"] })
        ),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      const [line] = yield* Effect.promise(() => once(owner.stdout, "data"))
      const { folder, host, port } = JSON.parse(String(line))
      const connection = yield* dial({ host, port })
      yield* connection.write(header)
      yield* readMethod(connection)
      owner.kill("SIGKILL")
      yield* connection.closed
      yield* gone(folder)
    }), 60_000)

  it.live("says why it did not start", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Effect.scoped(makeNode({ conf: { no_such_setting: "1" } })))
      assert.include(error.message, "no_such_setting")
    }), 60_000)
})

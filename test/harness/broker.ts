/**
 * The broker that integration tests talk to: a private RabbitMQ node that a scope owns, or one that somebody else
 * runs and `AMQP_URL` names.
 *
 * Only a private node can be controlled. What controls it works from any process that has its address; starting,
 * stopping and killing it is for its owner (`makeNode`).
 */
import { Context, Effect, Layer, Option, Schema, type Scope } from "effect"
import { randomBytes } from "node:crypto"
import { readFile } from "node:fs/promises"
import * as Path from "node:path"
import { type Certs, certsIn } from "./certs.ts"
import { BrokerError, exec } from "./exec.ts"
import { environment, makeNodeProcess, type NodeAddress, type NodeOptions } from "./node.ts"

const Connection = Schema.Struct({
  /** Erlang's process id. */
  pid: Schema.String,
  /** The broker's own name: `127.0.0.1:50022 -> 127.0.0.1:5672`. */
  name: Schema.String,
  /** `connection_name` of the client's properties. */
  connectionName: Schema.NullOr(Schema.String),
  user: Schema.String,
  /** `null` until `connection.open`. */
  vhost: Schema.NullOr(Schema.String),
  state: Schema.String,
  channels: Schema.Int,
  peerPort: Schema.Int
})

const Channel = Schema.Struct({
  pid: Schema.String,
  /** The `pid` of its connection. */
  connection: Schema.String,
  number: Schema.Int,
  vhost: Schema.String,
  confirm: Schema.Boolean,
  transactional: Schema.Boolean,
  consumers: Schema.Int,
  unacknowledged: Schema.Int,
  unconfirmed: Schema.Int,
  prefetch: Schema.Int,
  globalPrefetch: Schema.Int
})

const Consumer = Schema.Struct({
  tag: Schema.String,
  queue: Schema.String,
  vhost: Schema.String,
  /** The `pid` of its channel. */
  channel: Schema.String,
  ackRequired: Schema.Boolean,
  prefetch: Schema.Int
})

const QueueInfo = Schema.Struct({
  name: Schema.String,
  durable: Schema.Boolean,
  autoDelete: Schema.Boolean,
  ready: Schema.Int,
  unacknowledged: Schema.Int,
  consumers: Schema.Int
})

const Held = Schema.Struct({
  connections: Schema.Array(Connection),
  channels: Schema.Array(Channel),
  consumers: Schema.Array(Consumer)
})

/** What clients hold at the broker. */
export type Held = typeof Held.Type

/** Controls a private node. */
export interface BrokerControl {
  readonly tlsPort: number
  /** Of `localhost`, with the client certificates that the node accepts and does not. */
  readonly certs: Certs
  /** `rabbitmqctl`: 0.4 s of a processor; prefer what is below. */
  readonly ctl: (...args: ReadonlyArray<string>) => Effect.Effect<string, BrokerError>
  /** Evaluates Erlang (one expression or several, ASCII, no final dot) on the node; gives what it prints. */
  readonly eval: (expressions: string) => Effect.Effect<string, BrokerError>
  readonly listConnections: Effect.Effect<Held["connections"], BrokerError>
  readonly listChannels: Effect.Effect<Held["channels"], BrokerError>
  readonly listConsumers: Effect.Effect<Held["consumers"], BrokerError>
  readonly listQueues: (vhost: string) => Effect.Effect<ReadonlyArray<typeof QueueInfo.Type>, BrokerError>
  /**
   * What clients of a vhost hold (connections that have not got as far as a vhost included), without the pids and tags of
   * `except`. Given `patience` (ms), it first waits that long for there to be nothing.
   */
  readonly held: (
    options: {
      readonly vhost?: string | undefined
      readonly except?: Held | undefined
      readonly patience?: number | undefined
    }
  ) => Effect.Effect<Held, BrokerError>
  /** Closes the connections of that `connection_name` (or broker's name, or pid) with reply 320. */
  readonly closeConnection: (name: string, why: string) => Effect.Effect<void, BrokerError>
  /** Raises a resource alarm, until `unalarm` or the end of the scope. */
  readonly alarm: (resource: "memory" | "disk") => Effect.Effect<void, BrokerError, Scope.Scope>
  readonly unalarm: (resource: "memory" | "disk") => Effect.Effect<void, BrokerError>
  /** Makes a vhost in which the default user may do everything. */
  readonly addVhost: (name: string) => Effect.Effect<void, BrokerError>
  /** Closes its connections with reply 320 and deletes it. */
  readonly deleteVhost: (name: string) => Effect.Effect<void, BrokerError>
  readonly addUser: (name: string, password: string) => Effect.Effect<void, BrokerError>
  readonly deleteUser: (name: string) => Effect.Effect<void, BrokerError>
  /** Regular expressions of what the user may configure, write and read; each `.*` if left out. */
  readonly setPermissions: (
    user: string,
    vhost: string,
    permissions?: { readonly configure?: string; readonly write?: string; readonly read?: string }
  ) => Effect.Effect<void, BrokerError>
  /** Stops the node's process (SIGSTOP): sockets stay open, nobody answers. Until `resume` or the end of the scope. */
  readonly pause: Effect.Effect<void, BrokerError, Scope.Scope>
  readonly resume: Effect.Effect<void, BrokerError>
  /** Stops the broker inside the running node, with reply 320 to all. Until `startApp` or the end of the scope. */
  readonly stopApp: Effect.Effect<void, BrokerError, Scope.Scope>
  readonly startApp: Effect.Effect<void, BrokerError>
}

/** A node of the caller's own. */
export interface BrokerNode extends BrokerControl {
  readonly address: NodeAddress
  readonly host: string
  readonly port: number
  readonly amqpUrl: string
  /** Ends the node as a crash would. */
  readonly kill9: Effect.Effect<void>
  readonly start: Effect.Effect<void, BrokerError>
  /** Stops in order and starts again, on the same ports and data: 9 s. */
  readonly restart: Effect.Effect<void, BrokerError>
}

const binary = (text: string): string => `<<${Buffer.from(text).join(",")}>>`
const binaries = (texts: ReadonlyArray<string>): string => `[${texts.map(binary).join(",")}]`

/** What the queries below share. `rabbitmqctl list_…` shows the same, at a hundred times the cost. */
const prelude = `
  Pid = fun(P) -> list_to_binary(pid_to_list(P)) end,
  Get = fun(K, L) -> proplists:get_value(K, L) end,
  Title = fun(T) -> case is_list(T) andalso lists:keyfind(<<"connection_name">>, 1, T) of
    {_, _, N} -> N; _ -> null end end`

const heldExpression = (
  { except, patience = 0, vhost }: Parameters<BrokerControl["held"]>[0]
): string => {
  const vhosts = vhost === undefined ? "rabbit_vhost:list_names()" : binaries([vhost])
  const known = binaries([
    ...except?.connections.map(({ pid }) => pid) ?? [],
    ...except?.channels.map(({ pid }) => pid) ?? [],
    ...except?.consumers.map(({ channel, tag }) => channel + tag) ?? []
  ])
  return `${prelude},
  Vhosts = ${vhosts}, Known = ${known},
  New = fun(Id) -> not lists:member(Id, Known) end,
  Held = fun() -> #{
    connections => [#{pid => Pid(Get(pid, C)), name => Get(name, C), connectionName => Title(Get(client_properties, C)),
        user => Get(user, C), vhost => case Get(vhost, C) of none -> null; V -> V end, state => Get(state, C),
        channels => Get(channels, C), peerPort => Get(peer_port, C)}
      || C <- rabbit_networking:connection_info_all([pid, name, client_properties, user, vhost, state, channels, peer_port]),
         New(Pid(Get(pid, C))), lists:member(Get(vhost, C), [none | Vhosts])],
    channels => [#{pid => Pid(Get(pid, C)), connection => Pid(Get(connection, C)), number => Get(number, C),
        vhost => Get(vhost, C), confirm => Get(confirm, C), transactional => Get(transactional, C),
        consumers => Get(consumer_count, C), unacknowledged => Get(messages_unacknowledged, C),
        unconfirmed => Get(messages_unconfirmed, C), prefetch => Get(prefetch_count, C),
        globalPrefetch => Get(global_prefetch_count, C)}
      || C <- rabbit_channel:info_all([pid, connection, number, vhost, confirm, transactional, consumer_count,
           messages_unacknowledged, messages_unconfirmed, prefetch_count, global_prefetch_count]),
         New(Pid(Get(pid, C))), lists:member(Get(vhost, C), Vhosts)],
    consumers => [#{tag => Get(consumer_tag, C), queue => element(4, Get(queue_name, C)), vhost => Vhost,
        channel => Pid(Get(channel_pid, C)), ackRequired => Get(ack_required, C), prefetch => Get(prefetch_count, C)}
      || Vhost <- Vhosts, C <- rabbit_amqqueue:consumers_all(Vhost),
         New(iolist_to_binary([Pid(Get(channel_pid, C)), Get(consumer_tag, C)]))]
  } end,
  Wait = fun W(Left) ->
    Now = Held(),
    case Left =< 0 orelse maps:values(Now) =:= [[], [], []] of
      true -> Now;
      false -> timer:sleep(20), W(Left - 20)
    end
  end,
  io:put_chars(rabbit_json:encode(Wait(${patience})))`
}

const queuesExpression = (vhost: string): string =>
  `${prelude},
  io:put_chars(rabbit_json:encode([#{name => element(4, Get(name, Q)), durable => Get(durable, Q),
      autoDelete => Get(auto_delete, Q), ready => Get(messages_ready, Q),
      unacknowledged => Get(messages_unacknowledged, Q), consumers => Get(consumers, Q)}
    || Q <- rabbit_amqqueue:info_all(${binary(vhost)},
      [name, durable, auto_delete, messages_ready, messages_unacknowledged, consumers])]))`

/** Controls the node at an address, from any process. */
export const makeControl = (address: NodeAddress): BrokerControl => {
  const env = environment(address)
  const ctl: BrokerControl["ctl"] = (...args) =>
    exec(address.programs.ctl, ["-q", `--node=${address.name}`, ...args], { env })

  const evaluate = (expressions: string): Effect.Effect<string, BrokerError> =>
    Effect.suspend(() => {
      const { ctl, erlCall } = address.programs
      const code = `begin ${expressions} end, ok.\n`
      // Each caller is a hidden node for a moment, whose name must be its own.
      const self = `harness-${randomBytes(6).toString("hex")}`
      return erlCall === undefined
        ? exec(ctl, ["-q", `--node=${address.name}`, "eval", code], { env })
        : exec(erlCall, ["-h", self, "-n", address.name, "-fetch_stdout", "-e"], { env, input: code })
    }).pipe(Effect.flatMap((output) => {
      const end = /(\{ok, ok\}|ok\n)$/.exec(output)
      return end === null
        ? Effect.fail(new BrokerError({ message: `the node could not evaluate: ${output}` }))
        : Effect.succeed(output.slice(0, end.index))
    }))
  const run = (expressions: string) => Effect.asVoid(evaluate(expressions))
  const query = <A>(schema: Schema.Codec<A, unknown>, expressions: string): Effect.Effect<A, BrokerError> =>
    evaluate(expressions).pipe(
      Effect.flatMap(Schema.decodeUnknownEffect(Schema.fromJsonString(schema))),
      Effect.mapError((error) => new BrokerError({ message: error.message }))
    )

  const held: BrokerControl["held"] = (options) => query(Held, heldExpression(options))
  const signal = (name: NodeJS.Signals) =>
    Effect.tryPromise({
      try: async () => {
        process.kill(Number(await readFile(Path.join(address.folder, "pid"), "utf8")), name)
      },
      catch: () => new BrokerError({ message: `${name}: the node does not run` })
    })
  /** An effect that the end of the scope undoes at the latest. */
  const until = <A>(fault: Effect.Effect<A, BrokerError>, undo: Effect.Effect<unknown, BrokerError>) =>
    Effect.asVoid(Effect.acquireRelease(fault, () => Effect.ignore(undo)))

  const unalarm: BrokerControl["unalarm"] = (resource) =>
    run(`rabbit_alarm:clear_alarm({resource_limit, ${resource}, node()})`)
  const resume = signal("SIGCONT")
  const startApp = run("rabbit:start()")
  const setPermissions: BrokerControl["setPermissions"] = (
    user,
    vhost,
    { configure = ".*", read = ".*", write = ".*" } = {}
  ) =>
    run(`rabbit_auth_backend_internal:set_permissions(${[user, vhost, configure, write, read, "harness"].map(binary)})`)

  return {
    tlsPort: address.tlsPort,
    certs: certsIn(Path.join(address.folder, "certs")),
    ctl,
    eval: evaluate,
    listConnections: Effect.map(held({}), (all) => all.connections),
    listChannels: Effect.map(held({}), (all) => all.channels),
    listConsumers: Effect.map(held({}), (all) => all.consumers),
    listQueues: (vhost) => query(Schema.Array(QueueInfo), queuesExpression(vhost)),
    held,
    closeConnection: (name, why) =>
      Effect.gen(function*() {
        const { connections } = yield* held({})
        const found = connections.filter((one) => [one.connectionName, one.name, one.pid].includes(name))
        if (found.length === 0) return yield* new BrokerError({ message: `no connection is called ${name}` })
        const pids = found.map(({ pid }) => `list_to_pid("${pid}")`)
        yield* run(`[rabbit_networking:close_connection(P, ${binary(why)}) || P <- [${pids}]]`)
      }),
    alarm: (resource) =>
      until(run(`rabbit_alarm:set_alarm({{resource_limit, ${resource}, node()}, []})`), unalarm(resource)),
    unalarm,
    addVhost: (name) =>
      Effect.andThen(
        run(`rabbit_vhost:add(${binary(name)}, <<"harness">>)`),
        setPermissions("guest", name)
      ),
    deleteVhost: (name) => run(`rabbit_vhost:delete(${binary(name)}, <<"harness">>)`),
    addUser: (name, password) =>
      run(`ok = rabbit_auth_backend_internal:add_user(${[name, password, "harness"].map(binary)})`),
    deleteUser: (name) => run(`rabbit_auth_backend_internal:delete_user(${[name, "harness"].map(binary)})`),
    setPermissions,
    pause: until(signal("SIGSTOP"), resume),
    resume,
    stopApp: until(run("rabbit:stop()"), startApp),
    startApp
  }
}

/** Starts a node of one's own (6 to 8 s), which the end of the scope stops. */
export const makeNode = (options: NodeOptions = {}): Effect.Effect<BrokerNode, BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const { address, kill9, start, stop } = yield* makeNodeProcess(options)
    const control = makeControl(address)
    yield* start
    // Logs in with its certificate alone.
    yield* control.addUser("certuser", randomBytes(16).toString("hex"))
    yield* control.setPermissions("certuser", "/")
    const { host, port } = address
    const amqpUrl = `amqp://guest:guest@${host}:${port}/%2f`
    return { ...control, address, host, port, amqpUrl, kill9, start, restart: Effect.andThen(stop, start) }
  })

/** The broker that a test talks to. */
export class Broker extends Context.Service<Broker, {
  readonly amqpUrl: string
  readonly host: string
  readonly port: number
  /** None: the broker of `AMQP_URL`, which is not ours to disturb. */
  readonly control: Option.Option<BrokerControl>
}>()("test/Broker") {
  /** A private node, for this layer alone. */
  static readonly layer = (options?: NodeOptions): Layer.Layer<Broker, BrokerError> =>
    Layer.effect(Broker, Effect.map(makeNode(options), (node) => ({ ...node, control: Option.some(node) })))

  /** The control of a test that cannot do without. */
  static readonly control: Effect.Effect<BrokerControl, BrokerError, Broker> = Effect.flatMap(
    Broker,
    (broker) =>
      Option.match(broker.control, {
        onNone: () =>
          new BrokerError({ message: "this test controls its broker: run it without AMQP_URL, on a private node" }),
        onSome: Effect.succeed
      })
  )
}

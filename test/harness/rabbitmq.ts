/**
 * A private RabbitMQ node.
 *
 * What controls a node works from any process that has its address; starting, stopping and killing it is for its owner
 * (`makeNode`).
 */
import { Effect, Schema, type Scope } from "effect"
import { randomBytes } from "node:crypto"
import { readFile } from "node:fs/promises"
import * as Path from "node:path"
import { certsIn } from "./certs.ts"
import { type BrokerControl, Held, QueueInfo, type RabbitControl } from "./control.ts"
import { BrokerError, exec } from "./exec.ts"
import { environment, makeNodeProcess, type NodeAddress, type NodeOptions } from "./node.ts"

/** A node of the caller's own. */
export interface BrokerNode extends RabbitControl {
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
    ...except?.connections.map(({ id }) => id) ?? [],
    ...except?.channels.map(({ id }) => id) ?? [],
    ...except?.consumers.map(({ channel, tag }) => channel + tag) ?? []
  ])
  return `${prelude},
  Vhosts = ${vhosts}, Known = ${known},
  New = fun(Id) -> not lists:member(Id, Known) end,
  Held = fun() -> #{
    connections => [#{id => Pid(Get(pid, C)), name => Get(name, C), connectionName => Title(Get(client_properties, C)),
        user => Get(user, C), vhost => case Get(vhost, C) of none -> null; V -> V end, state => Get(state, C),
        channels => Get(channels, C)}
      || C <- rabbit_networking:connection_info_all([pid, name, client_properties, user, vhost, state, channels]),
         New(Pid(Get(pid, C))), lists:member(Get(vhost, C), [none | Vhosts])],
    channels => [#{id => Pid(Get(pid, C)), connection => Pid(Get(connection, C)), number => Get(number, C),
        consumers => Get(consumer_count, C), unacknowledged => Get(messages_unacknowledged, C)}
      || C <- rabbit_channel:info_all([pid, connection, number, vhost, consumer_count, messages_unacknowledged]),
         New(Pid(Get(pid, C))), lists:member(Get(vhost, C), Vhosts)],
    consumers => [#{tag => Get(consumer_tag, C), queue => element(4, Get(queue_name, C)),
        channel => Pid(Get(channel_pid, C))}
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
export const makeControl = (address: NodeAddress): RabbitControl => {
  const env = environment(address)
  const ctl: RabbitControl["ctl"] = (...args) =>
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
    listQueues: (vhost) => query(Schema.Array(QueueInfo), queuesExpression(vhost)),
    held,
    closeConnection: (name, why) =>
      Effect.gen(function*() {
        const { connections } = yield* held({})
        const found = connections.filter((one) => [one.connectionName, one.name].includes(name))
        if (found.length === 0) return yield* new BrokerError({ message: `no connection is called ${name}` })
        const pids = found.map(({ id }) => `list_to_pid("${id}")`)
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
    changePassword: (name, password) =>
      run(`ok = rabbit_auth_backend_internal:change_password(${[name, password, "harness"].map(binary)})`),
    setPermissions,
    queueEnds: (vhost, queue) =>
      run(`
        case rabbit_amqqueue:lookup(rabbit_misc:r(${binary(vhost)}, queue, ${binary(queue)})) of
          {ok, Q} -> Ref = monitor(process, amqqueue:get_pid(Q)), receive {'DOWN', Ref, _, _, _} -> ok after 5000 -> ok end;
          {error, not_found} -> ok
        end`),
    pause: until(signal("SIGSTOP"), signal("SIGCONT")),
    // Whoever boots the node looks for its success every 200 ms. Until then `start` says `ok` and does nothing.
    stopApp: Effect.acquireRelease(
      run(`
        case whereis(rabbit_boot) of
          undefined -> ok;
          Boot -> Ref = monitor(process, Boot), receive {'DOWN', Ref, _, _, _} -> ok after 60000 -> exit(boots) end
        end,
        ok = rabbit:stop()`),
      // Without it no test after this one would find its broker.
      () => Effect.orDie(run("ok = rabbit:start(), ready = rabbit_boot_state:get()"))
    )
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

/**
 * The embedded broker in the test's own process, on a TCP port of the loopback interface, under the same control as a
 * RabbitMQ node: through what it offers to everybody.
 */
import { Effect, Exit, Layer, Option, Redacted, Scope } from "effect"
import * as AmqpBroker from "../../src/testing/AmqpBroker.ts"
import * as NodeAmqpBroker from "../../src/testing/NodeAmqpBroker.ts"
import { Broker } from "./broker.ts"
import type { BrokerControl, Held } from "./control.ts"
import { BrokerError } from "./exec.ts"

const failed = ({ message }: AmqpBroker.AmqpUnknownEntity) => new BrokerError({ message })

const holds = (broker: AmqpBroker.AmqpBroker, vhost: string | undefined, except: Held | undefined) =>
  Effect.gen(function*() {
    const connections = (yield* broker.connections).filter((one) =>
      vhost === undefined || one.vhost === undefined || one.vhost === vhost
    )
    const names = new Set(connections.map(({ name }) => name))
    const channels = (yield* broker.channels).filter(({ connection }) => names.has(connection))
    const consumers = (yield* broker.consumers).filter(({ connection }) => names.has(connection))
    const channelId = (connection: string, channel: number) => `${connection}/${channel}`
    const isNew = (known: ReadonlyArray<{ readonly id: string }> = []) => ({ id }: { readonly id: string }) =>
      known.every((one) => one.id !== id)
    const held: Held = {
      connections: connections.map((one) => ({
        id: one.name,
        name: one.name,
        connectionName: one.clientName ?? null,
        user: one.user,
        vhost: one.vhost ?? null,
        state: one.vhost === undefined ? "starting" : one.isBlocked ? "blocked" : "running",
        channels: one.channels
      })).filter(isNew(except?.connections)),
      channels: channels.map((one) => ({
        id: channelId(one.connection, one.channel),
        connection: one.connection,
        number: one.channel,
        consumers: one.consumers,
        unacknowledged: one.unsettled
      })).filter(isNew(except?.channels)),
      consumers: consumers.map((one) => ({
        tag: one.consumerTag,
        queue: one.queue,
        channel: channelId(one.connection, one.channel)
      })).filter((one) =>
        except?.consumers.every(({ channel, tag }) => channel !== one.channel || tag !== one.tag) ?? true
      )
    }
    return held
  })

const isEmpty = ({ channels, connections, consumers }: Held): boolean =>
  channels.length + connections.length + consumers.length === 0

const makeControl = (broker: AmqpBroker.AmqpBroker): BrokerControl => {
  const alarms = new Map<string, Scope.Closeable>()
  const unalarm: BrokerControl["unalarm"] = (resource) =>
    Effect.suspend(() => {
      const raised = alarms.get(resource)
      alarms.delete(resource)
      return raised === undefined ? Effect.void : Scope.close(raised, Exit.void)
    })
  return {
    listQueues: (vhost) =>
      Effect.map(broker.queues, (queues) =>
        queues.filter((queue) => queue.vhost === vhost).map(
          ({ autoDelete, consumers, durable, name, ready, unsettled }) => ({
            name,
            durable,
            autoDelete,
            ready,
            unacknowledged: unsettled,
            consumers
          })
        )),
    held: ({ except, patience = 0, vhost }) =>
      Effect.suspend(() => {
        const held = holds(broker, vhost, except)
        const isClean = Effect.map(held, isEmpty)
        return Effect.andThen(Effect.timeoutOption(broker.waitUntil(isClean), patience), held)
      }),
    closeConnection: (name, why) =>
      Effect.mapError(
        broker.closeConnections({ connection: name }, { replyCode: 320, replyText: `CONNECTION_FORCED - ${why}` }),
        failed
      ),
    alarm: (resource) =>
      Effect.asVoid(Effect.acquireRelease(
        Effect.gen(function*() {
          yield* unalarm(resource)
          const raised = yield* Scope.make()
          alarms.set(resource, raised)
          yield* Scope.provide(broker.block(`low on ${resource}`), raised)
        }),
        () => Effect.ignore(unalarm(resource))
      )),
    unalarm,
    addVhost: broker.addVhost,
    deleteVhost: (name) => Effect.mapError(broker.deleteVhost(name), failed),
    addUser: (name, password) => broker.addUser(name, Redacted.make(password)),
    deleteUser: (name) => Effect.mapError(broker.deleteUser(name), failed),
    changePassword: (name, password) => broker.addUser(name, Redacted.make(password)),
    setPermissions: (user, vhost, { configure = ".*", read = ".*", write = ".*" } = {}) =>
      Effect.mapError(
        broker.setPermissions(
          user,
          { configure: new RegExp(configure), read: new RegExp(read), write: new RegExp(write) },
          vhost
        ),
        failed
      ),
    queueEnds: (vhost, queue) =>
      Effect.asVoid(
        Effect.timeoutOption(broker.waitUntil(Effect.map(broker.queue(queue, vhost), Option.isNone)), "5 seconds")
      ),
    pause: broker.pause,
    stopApp: Effect.acquireRelease(broker.stop, () => broker.start)
  }
}

/** An embedded broker, for this layer alone. */
export const embedded = (options?: AmqpBroker.Options): Layer.Layer<Broker> =>
  Layer.effect(
    Broker,
    Effect.gen(function*() {
      const broker = yield* AmqpBroker.make(options)
      const { host, port } = yield* Effect.provideService(NodeAmqpBroker.serve(), AmqpBroker.AmqpBroker, broker)
      return {
        amqpUrl: `amqp://guest:guest@${host}:${port}/%2f`,
        host,
        port,
        control: Option.some(makeControl(broker)),
        rabbitmq: Option.none()
      }
    })
  ).pipe(Layer.orDie)

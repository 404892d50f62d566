/**
 * The vhosts of the embedded broker: what they refuse, how messages travel, and what goes with what.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { inspect } from "node:util"
import * as AmqpProtocol from "../../../src/AmqpProtocol.ts"
import * as AmqpTable from "../../../src/AmqpTable.ts"
import type { BrokerEvent } from "../../../src/testing/internal/model/events.ts"
import { Message } from "../../../src/testing/internal/model/message.ts"
import type { Agenda, Context, Owner, Vhost } from "../../../src/testing/internal/model/model.ts"
import { Refusal } from "../../../src/testing/internal/model/refusal.ts"
import { Timers } from "../../../src/testing/internal/model/timers.ts"
import { checkConsumerArguments } from "../../../src/testing/internal/vhost/arguments.ts"
import { makeVhost } from "../../../src/testing/internal/vhost/vhost.ts"
import { cases, type Step } from "../../fixtures/refusals.ts"

const me: Owner = { id: "me" }
const stranger: Owner = { id: "stranger" }

/** A vhost with nobody around it: nothing is ever delivered. */
const make = (): { readonly vhost: Vhost; readonly events: Array<BrokerEvent> } => {
  const events: Array<BrokerEvent> = []
  let names = 0
  const agenda: Agenda = { add: () => {}, later: (work) => work() }
  const context: Context = {
    timers: new Timers({ now: () => 0, onEarlier: () => {} }),
    agenda,
    emit: (event) => events.push(event),
    generateName: (prefix) => `${prefix}${++names}`
  }
  return { vhost: makeVhost(context, "/"), events }
}

/** A table as it arrives. */
const received = (table: AmqpTable.InputTable = {}): AmqpTable.PlainTable =>
  Result.getOrThrow(AmqpTable.decode(Result.getOrThrow(AmqpTable.encode(table))))

const message = (
  exchange: string,
  routingKey = "",
  headers?: AmqpTable.InputTable,
  body = ""
): Message =>
  new Message({
    exchange,
    routingKey,
    properties: Result.getOrThrow(AmqpProtocol.encodeProperties({ headers })),
    body: new TextEncoder().encode(body)
  })

const off = { durable: false, autoDelete: false, exclusive: false, internal: false, passive: false, noWait: false }

const take = (vhost: Vhost, step: Step): unknown => {
  const owner = "stranger" in step ? stranger : me
  switch (step.do) {
    case "exchange.declare":
      return vhost.exchangeDeclare({
        type: "direct",
        ...off,
        ...step,
        _tag: "exchange.declare",
        arguments: received(step.arguments)
      })
    case "exchange.delete":
      return vhost.exchangeDelete({ ifUnused: false, noWait: false, ...step, _tag: "exchange.delete" })
    case "exchange.bind":
      return vhost.exchangeBind({
        ...step,
        _tag: "exchange.bind",
        routingKey: "",
        noWait: false,
        arguments: received(step.arguments)
      })
    case "exchange.unbind":
      return vhost.exchangeUnbind({
        ...step,
        _tag: "exchange.unbind",
        routingKey: "",
        noWait: false,
        arguments: received(step.arguments)
      })
    case "queue.declare":
      return vhost.queueDeclare({ ...off, ...step, _tag: "queue.declare", arguments: received(step.arguments) }, owner)
    case "queue.bind":
      return vhost.queueBind({
        routingKey: "",
        ...step,
        _tag: "queue.bind",
        noWait: false,
        arguments: received(step.arguments)
      }, owner)
    case "queue.unbind":
      return vhost.queueUnbind({
        routingKey: "",
        ...step,
        _tag: "queue.unbind",
        arguments: received(step.arguments)
      }, owner)
    case "queue.delete":
      return vhost.queueDelete(
        { ifUnused: false, ifEmpty: false, noWait: false, ...step, _tag: "queue.delete" },
        owner
      )
    case "queue.purge":
      return vhost.queuePurge({ ...step, _tag: "queue.purge", noWait: false }, owner)
    case "consume": {
      const { type } = vhost.queue(step.queue, owner)
      return checkConsumerArguments("/", step.queue, type, received(step.arguments))
    }
    case "publish":
      return vhost.publish(message(step.exchange, step.routingKey, step.headers))
  }
}

/** What it says against it, if anything. */
const refused = (use: () => unknown): string | undefined => {
  try {
    use()
    return undefined
  } catch (error) {
    if (error instanceof Refusal) return error.replyText
    throw error
  }
}

describe("refusals", () => {
  it("are RabbitMQ's, word for word", () => {
    for (const { steps, text } of cases) {
      const { vhost } = make()
      for (const [index, step] of steps.entries()) {
        const said = refused(() => take(vhost, step))
        assert.strictEqual(said, index === steps.length - 1 ? text : undefined, inspect(steps, { depth: 4 }))
      }
    }
  })

  it("of delivery modes that there are not", () => {
    const { vhost } = make()
    const properties = Result.getOrThrow(AmqpProtocol.encodeProperties({ deliveryMode: 3 }))
    const strange = new Message({ exchange: "", routingKey: "q", properties, body: new Uint8Array() })
    assert.strictEqual(
      refused(() => vhost.publish(strange)),
      "PRECONDITION_FAILED - invalid message: {delivery_mode_unknown,3}"
    )
  })
})

/** The bodies in a queue, in order. */
const bodies = (vhost: Vhost, queue: string): ReadonlyArray<string> =>
  vhost.queues.get(queue)?.entries().map(({ message }) => message.received.text) ?? []

/** Takes all of these steps. */
const takeAll = (vhost: Vhost, ...steps: ReadonlyArray<Step>): void => {
  for (const step of steps) take(vhost, step)
}

const exchange = (exchange: string, options: Partial<Extract<Step, { do: "exchange.declare" }>> = {}): Step => ({
  exchange,
  type: "fanout",
  ...options,
  do: "exchange.declare"
})

const queue = (queue: string, options: Partial<Extract<Step, { do: "queue.declare" }>> = {}): Step => ({
  queue,
  ...options,
  do: "queue.declare"
})

const bind = (source: string, queue: string): Step => ({ do: "queue.bind", queue, exchange: source })
const bindExchange = (source: string, destination: string): Step => ({ do: "exchange.bind", source, destination })

describe("messages", () => {
  it("go around a circle of exchanges, and to each queue once", () => {
    const { vhost } = make()
    takeAll(
      vhost,
      ...["a", "b", "c"].map((name) => exchange(name)),
      ...["one", "two"].map((name) => queue(name)),
      bindExchange("a", "b"),
      bindExchange("b", "c"),
      bindExchange("c", "a"),
      bindExchange("a", "c"),
      ...["a", "b", "c"].map((name) => bind(name, "one")),
      bind("c", "two")
    )
    assert.deepStrictEqual(vhost.publish(message("b", "", {}, "m")), { isRouted: true, isAccepted: true })
    assert.deepStrictEqual(bodies(vhost, "one"), ["m"])
    assert.deepStrictEqual(bodies(vhost, "two"), ["m"])
  })

  it("that nobody takes go to the alternate exchange, and on from there; not in circles, and not out of the vhost", () => {
    const { vhost } = make()
    const to = (alternate: string) => ({ type: "direct", arguments: { "alternate-exchange": alternate } })
    takeAll(
      vhost,
      exchange("a", to("b")),
      exchange("b", to("c")),
      exchange("c", to("a")),
      exchange("lost", to("nowhere")),
      queue("one")
    )
    const unrouted = { isRouted: false, isAccepted: true }
    assert.deepStrictEqual(vhost.publish(message("a", "", {}, "m")), unrouted)
    assert.deepStrictEqual(vhost.publish(message("lost", "", {}, "m")), unrouted)
    takeAll(vhost, bind("c", "one"))
    assert.isTrue(vhost.publish(message("a", "", {}, "through")).isRouted)
    assert.isFalse(vhost.publish(message("a", "other", {}, "not")).isRouted)
    assert.deepStrictEqual(bodies(vhost, "one"), ["through"])
    // An exchange counts as one that takes it, even if it has nobody to give it to.
    takeAll(vhost, exchange("empty"), bindExchange("a", "empty"))
    assert.isFalse(vhost.publish(message("a", "", {}, "swallowed")).isRouted)
  })

  it("go by the keys of CC and BCC as well, and BCC is seen by nobody", () => {
    const { vhost } = make()
    takeAll(vhost, ...["a", "b", "c", "d"].map((name) => queue(name)))
    vhost.publish(message("", "a", { CC: ["b", "a", 5], BCC: ["c"], other: 1 }, "m"))
    for (const name of ["a", "b", "c"]) assert.deepStrictEqual(bodies(vhost, name), ["m"])
    assert.deepStrictEqual(bodies(vhost, "d"), [])
    const [entry] = vhost.queues.get("c")?.entries() ?? []
    assert.deepStrictEqual(entry?.message.received.properties.headers, { CC: ["b", "a", 5], other: 1 })
  })

  it("of a transaction are routed before they are taken", () => {
    const { vhost } = make()
    takeAll(vhost, queue("stays"), queue("goes"), bind("amq.fanout", "stays"), bind("amq.fanout", "goes"))
    const deliver = vhost.route(message("amq.fanout", "", {}, "m"))
    const alone = vhost.route(message("", "goes"))
    takeAll(vhost, queue("late"), bind("amq.fanout", "late"), { do: "queue.delete", queue: "goes" })
    assert.deepStrictEqual(bodies(vhost, "stays"), [])
    assert.deepStrictEqual(deliver(), { isRouted: true, isAccepted: true })
    assert.deepStrictEqual(alone(), { isRouted: false, isAccepted: true })
    assert.deepStrictEqual(bodies(vhost, "stays"), ["m"])
    assert.deepStrictEqual(bodies(vhost, "late"), [])
  })

  it("are refused by one queue and taken by the others", () => {
    const { vhost } = make()
    takeAll(
      vhost,
      queue("full", { arguments: { "x-max-length": 1, "x-overflow": "reject-publish" } }),
      queue("other"),
      bind("amq.fanout", "full"),
      bind("amq.fanout", "other")
    )
    const publish = () => vhost.publish(message("amq.fanout", "", {}, "m"))
    assert.deepStrictEqual([publish(), publish()], [
      { isRouted: true, isAccepted: true },
      { isRouted: true, isAccepted: false }
    ])
    assert.deepStrictEqual(bodies(vhost, "full"), ["m"])
    assert.deepStrictEqual(bodies(vhost, "other"), ["m", "m"])
  })
})

describe("what goes", () => {
  it("an auto-delete exchange with its last binding, and what it was bound to with it", () => {
    const { events, vhost } = make()
    takeAll(
      vhost,
      exchange("a", { autoDelete: true }),
      exchange("b", { autoDelete: true }),
      queue("q"),
      bindExchange("a", "b"),
      bind("b", "q")
    )
    events.length = 0
    take(vhost, { do: "queue.delete", queue: "q" })
    assert.isFalse(vhost.exchanges.has("a") || vhost.exchanges.has("b"))
    assert.deepStrictEqual(events.map(({ _tag }) => _tag), [
      "QueueDeleted",
      "Unbound",
      "ExchangeDeleted",
      "Unbound",
      "ExchangeDeleted"
    ])
  })

  it("exclusive queues with their connection, and their bindings with them", () => {
    const { vhost } = make()
    takeAll(
      vhost,
      queue("mine", { exclusive: true }),
      queue("theirs", { exclusive: true, stranger: true }),
      queue("shared"),
      bind("amq.fanout", "mine"),
      bind("amq.fanout", "shared")
    )
    vhost.release(me)
    assert.sameMembers([...vhost.queues.keys()], ["theirs", "shared"])
    assert.deepStrictEqual(vhost.exchanges.get("amq.fanout")?.bindings.map(({ destination }) => destination), [
      "shared"
    ])
  })

  it("all but what is durable, when the broker starts again", () => {
    const { vhost } = make()
    takeAll(
      vhost,
      exchange("x", { durable: true }),
      exchange("auto", { durable: true, autoDelete: true }),
      exchange("transient"),
      queue("q", { durable: true }),
      queue("gone"),
      bind("x", "q"),
      bind("x", "gone"),
      bind("auto", "gone"),
      bind("transient", "q"),
      bindExchange("x", "transient"),
      { do: "publish", exchange: "x" }
    )
    vhost.restart()
    assert.deepStrictEqual([...vhost.queues.keys()], ["q"])
    assert.isFalse(vhost.exchanges.has("transient"))
    assert.isTrue(vhost.exchanges.has("auto"))
    assert.deepStrictEqual(vhost.exchanges.get("x")?.bindings.map(({ destination }) => destination), ["q"])
    assert.strictEqual(vhost.queues.get("q")?.ready, 0)
  })
})

describe("events", () => {
  it("tell of what was created or deleted, and not of what was there or was not", () => {
    const { events, vhost } = make()
    const unbind: Step = { do: "queue.unbind", queue: "q", exchange: "x" }
    const steps = [exchange("x"), queue("q"), bind("x", "q")]
    takeAll(vhost, ...steps, ...steps, exchange("x", { passive: true }), queue("q", { passive: true }))
    takeAll(vhost, unbind, unbind)
    takeAll(vhost, { do: "queue.delete", queue: "q" }, { do: "queue.delete", queue: "q" })
    takeAll(vhost, { do: "exchange.delete", exchange: "x" }, { do: "exchange.delete", exchange: "x" })
    const binding = { vhost: "/", source: "x", destination: "q", destinationType: "queue", routingKey: "" } as const
    assert.deepStrictEqual(events, [
      { _tag: "ExchangeDeclared", vhost: "/", exchange: "x", type: "fanout" },
      { _tag: "QueueDeclared", vhost: "/", queue: "q", type: "classic" },
      { _tag: "Bound", ...binding },
      { _tag: "Unbound", ...binding },
      { _tag: "QueueDeleted", vhost: "/", queue: "q", messages: 0 },
      { _tag: "ExchangeDeleted", vhost: "/", exchange: "x" }
    ])
  })

  it("tell the name that the broker made up", () => {
    const { events, vhost } = make()
    take(vhost, queue("\r\n"))
    assert.deepStrictEqual([...vhost.queues.keys()], ["amq.gen-1"])
    assert.deepStrictEqual(events, [{ _tag: "QueueDeclared", vhost: "/", queue: "amq.gen-1", type: "classic" }])
  })
})

describe("bindings", () => {
  it("are told apart by their arguments, in any order", () => {
    const { vhost } = make()
    takeAll(vhost, exchange("x", { type: "headers" }), queue("q"))
    const bindings = () => vhost.exchanges.get("x")?.bindings.length
    const change = (what: "queue.bind" | "queue.unbind", all: AmqpTable.InputTable) =>
      take(vhost, { do: what, queue: "q", exchange: "x", arguments: all })
    change("queue.bind", { a: 1, b: 2 })
    change("queue.bind", { b: 2, a: 1 })
    assert.strictEqual(bindings(), 1)
    change("queue.bind", { a: 1 })
    assert.strictEqual(bindings(), 2)
    change("queue.unbind", { a: "1" })
    assert.strictEqual(bindings(), 2)
    change("queue.unbind", { b: 2, a: 1 })
    assert.deepStrictEqual(vhost.exchanges.get("x")?.bindings.map((binding) => binding.arguments), [{ a: 1 }])
  })

  it("of the default exchange are the names of the queues", () => {
    const { vhost } = make()
    takeAll(vhost, queue("a"), queue("b"))
    assert.deepStrictEqual(vhost.exchanges.get("")?.bindings.map(({ routingKey }) => routingKey), ["a", "b"])
  })
})

/**
 * The vhosts of the embedded broker: what they refuse, how messages travel, and what goes with what.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { inspect } from "node:util"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import { checkConsumerArguments } from "../../src/testing/internal/arguments.ts"
import type { BrokerEvent } from "../../src/testing/internal/events.ts"
import { Message } from "../../src/testing/internal/message.ts"
import type { Agenda, Context, Owner, Vhost } from "../../src/testing/internal/model.ts"
import { Refusal } from "../../src/testing/internal/refusal.ts"
import { Timers } from "../../src/testing/internal/timers.ts"
import { makeVhost } from "../../src/testing/internal/vhost.ts"
import { cases, type Step } from "../fixtures/refusals.ts"

const me: Owner = { id: "me" }
const stranger: Owner = { id: "stranger" }

/** A vhost with nobody around it: nothing is ever delivered. */
const make = (): { readonly vhost: Vhost; readonly events: Array<BrokerEvent> } => {
  const events: Array<BrokerEvent> = []
  let names = 0
  const agenda: Agenda = { add: () => {} }
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

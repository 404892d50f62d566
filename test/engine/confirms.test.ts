import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { fromChannelClose } from "../../src/AmqpError.ts"
import { AmqpMessage, type Publish } from "../../src/AmqpMessage.ts"
import type { BasicReturn, ChannelClose } from "../../src/internal/codec/spec.ts"
import { Confirms, pairingTag, type PublishOutcome, type PublishWaiter } from "../../src/internal/engine/confirms.ts"

const method: BasicReturn = {
  _tag: "basic.return",
  replyCode: 312,
  replyText: "NO_ROUTE",
  exchange: "",
  routingKey: "q"
}
const preconditionFailed: ChannelClose = {
  _tag: "channel.close",
  replyCode: 406,
  replyText: "PRECONDITION_FAILED - something",
  classId: 60,
  methodId: 40
}
const nothing = new Uint8Array(0)
const message = new AmqpMessage("", "q", { content: nothing, headerBytes: nothing, headerStart: 0, headerEnd: 0 })

/** Confirms whose outcomes are written down as `1 Confirmed`. */
const recorded = () => {
  const log: Array<string> = []
  const later: Array<() => void> = []
  const confirms = new Confirms({
    later: (callback) => void later.push(callback),
    settle: (waiter, outcome) => waiter.onOutcome(outcome)
  })
  let number = 0
  const publish = (count = 1): void => {
    for (let i = 0; i < count; i++) {
      const name = ++number
      confirms.add({ messageOf: () => undefined, onOutcome: (outcome) => void log.push(`${name} ${outcome._tag}`) })
    }
  }
  /** With one waiter for all, whose outcomes are written down as `run 3 Confirmed`, or as those of their numbers. */
  const publishRun = (count: number): void => {
    const first = number + 1
    number += count
    const waiter: PublishWaiter = {
      messageOf: () => undefined,
      onOutcome: (outcome) => {
        if (outcome._tag !== "Confirmed") return void log.push(`${outcome.sequence} ${outcome._tag}`)
        for (let i = 0; i < outcome.count; i++) log.push(`run ${first} Confirmed`)
      }
    }
    for (let i = 0; i < count; i++) confirms.add(waiter)
  }
  return {
    confirms,
    publish,
    publishRun,
    /** What happened since the last call. */
    log: () => log.splice(0),
    turn: () => {
      for (const callback of later.splice(0)) callback()
    }
  }
}

describe("acknowledgements", () => {
  it("number publishes from 1", () => {
    const { confirms, log, publish } = recorded()
    assert.strictEqual(confirms.latest, 0)
    publish(2)
    assert.strictEqual(confirms.latest, 2)
    confirms.settle(1, false, true)
    confirms.settle(2, false, false)
    assert.deepStrictEqual(log(), ["1 Confirmed", "2 Nacked"])
    assert.strictEqual(confirms.unsettled, 0)
  })

  it("may come out of order, for one and for many", () => {
    const { confirms, log, publish } = recorded()
    publish(6)
    confirms.settle(4, false, true)
    confirms.settle(2, false, true)
    confirms.settle(5, true, true)
    assert.deepStrictEqual(log(), ["4 Confirmed", "2 Confirmed", "1 Confirmed", "3 Confirmed", "5 Confirmed"])
    assert.strictEqual(confirms.unsettled, 1)
    confirms.settle(6, true, false)
    assert.deepStrictEqual(log(), ["6 Nacked"])
  })

  it("tell a waiter of several publishes once how many were confirmed, and of each that was not", () => {
    const { confirms } = recorded()
    const heard: Array<PublishOutcome> = []
    const waiter: PublishWaiter = { messageOf: () => undefined, onOutcome: (outcome) => void heard.push(outcome) }
    for (let i = 0; i < 6; i++) confirms.add(waiter)
    confirms.settle(2, false, true)
    confirms.settle(4, true, true)
    confirms.settle(6, true, false)
    assert.deepStrictEqual(heard, [
      { _tag: "Confirmed", count: 1 },
      { _tag: "Confirmed", count: 3 },
      { _tag: "Nacked", sequence: 5 },
      { _tag: "Nacked", sequence: 6 }
    ])
    assert.strictEqual(confirms.unsettled, 0)
  })

  it("speak of all with tag 0 and multiple, and of none with tag 0 alone", () => {
    const { confirms, log, publish } = recorded()
    publish(3)
    confirms.settle(0, false, true)
    assert.deepStrictEqual(log(), [])
    confirms.settle(0, true, true)
    assert.deepStrictEqual(log(), ["1 Confirmed", "2 Confirmed", "3 Confirmed"])
    publish()
    confirms.settle(0, true, false)
    assert.deepStrictEqual(log(), ["4 Nacked"])
  })

  it("for numbers that are settled or unknown change nothing", () => {
    const { confirms, log, publish } = recorded()
    publish(3)
    confirms.settle(2, false, true)
    log()
    confirms.settle(2, false, false)
    confirms.settle(4, false, true)
    confirms.settle(Number.MAX_SAFE_INTEGER, false, true)
    assert.deepStrictEqual(log(), [])
    assert.strictEqual(confirms.unsettled, 2)
    confirms.settle(1000, true, true)
    assert.deepStrictEqual(log(), ["1 Confirmed", "3 Confirmed"])
    confirms.settle(1000, true, true)
    publish()
    confirms.settle(3, true, false)
    assert.deepStrictEqual(log(), [])
    assert.strictEqual(confirms.unsettled, 1)
  })

  it("CF02 find 10 000 publishes in any order", () => {
    const { confirms, log, publish } = recorded()
    const count = 10_000
    publish(count)
    assert.strictEqual(confirms.unsettled, count)
    // 7919 is prime: every number once.
    for (let i = 0; i < count; i++) confirms.settle(1 + i * 7919 % count, false, true)
    const seen = new Set(log())
    assert.strictEqual(seen.size, count)
    assert.strictEqual(confirms.unsettled, 0)
  })

  it("find their publishes while the ring grows around old ones", () => {
    const { confirms, log, publish } = recorded()
    publish(50)
    for (let tag = 1; tag <= 49; tag++) confirms.settle(tag, false, true)
    log()
    // 50 stays, and wraps around the ring of 64.
    publish(1000)
    confirms.settle(1050, false, true)
    confirms.settle(50, false, false)
    assert.deepStrictEqual(log(), ["1050 Confirmed", "50 Nacked"])
    confirms.settle(1049, true, true)
    assert.deepStrictEqual(log(), Array.from({ length: 999 }, (_, i) => `${51 + i} Confirmed`))
    assert.strictEqual(confirms.unsettled, 0)
  })
})

describe("returns", () => {
  it("CF06 are the outcome of the publish with their tag, and the acknowledgement behind changes nothing", () => {
    const { confirms, log, publish } = recorded()
    publish(3)
    confirms.returned(pairingTag(2), method, message)
    confirms.settle(2, false, true)
    assert.deepStrictEqual(log(), ["2 Returned"])
    confirms.settle(3, true, true)
    assert.deepStrictEqual(log(), ["1 Confirmed", "3 Confirmed"])
  })

  it("of publishes that are settled or were not mandatory are ignored", () => {
    const { confirms, log, publish } = recorded()
    publish(2)
    confirms.settle(1, false, true)
    log()
    for (const tag of [undefined, pairingTag(1), pairingTag(3), pairingTag(0), "\u0001-", "\u0001"]) {
      confirms.returned(tag, method, message)
    }
    assert.deepStrictEqual(log(), [])
  })

  /** What became of these publishes when a message came back for `q` with this tag, then all were confirmed. */
  const afterReturn = (messages: ReadonlyArray<Publish>, tag: string | undefined): ReadonlyArray<string> => {
    const { confirms } = recorded()
    const heard: Array<string> = messages.map(() => "")
    for (const [i, message] of messages.entries()) {
      confirms.add({ messageOf: () => message, onOutcome: ({ _tag }) => void (heard[i] += _tag) })
    }
    confirms.returned(tag, method, message)
    confirms.settle(0, true, true)
    return heard
  }
  const toQ = { routingKey: "q", body: "", mandatory: true }
  const other = { ...toQ, routingKey: "other" }
  const unpaired = [undefined, "", "\u0001", "\u0001-1", "\u0001zz", pairingTag(99), "\u0001✓"]

  it.each(unpaired)("without a tag of ours (%j) are that of the only publish that it may be", (tag) => {
    assert.deepStrictEqual(afterReturn([other, toQ, { ...toQ, mandatory: false }, { ...toQ, body: "x" }], tag), [
      "Confirmed",
      "Returned",
      "Confirmed",
      "Confirmed"
    ])
    // A broker that gives it back otherwise than it got it.
    assert.deepStrictEqual(afterReturn([{ ...toQ, mandatory: false }, other], tag), ["Confirmed", "Returned"])
  })

  it.each(unpaired)("without a tag of ours (%j) leave nobody with a success who may have been meant", (tag) => {
    assert.deepStrictEqual(afterReturn([toQ, other, toQ], tag), ["MaybeReturned", "Confirmed", "MaybeReturned"])
    const [first, second] = [{ ...other, exchange: "e" }, other]
    assert.deepStrictEqual(afterReturn([first, { ...toQ, mandatory: false }, second], tag), [
      "MaybeReturned",
      "Confirmed",
      "MaybeReturned"
    ])
  })

  it("with the tag of another channel go to the publish that they speak of", () => {
    assert.deepStrictEqual(afterReturn([other, toQ], pairingTag(1)), ["Confirmed", "Returned"])
    assert.deepStrictEqual(afterReturn([other, toQ, toQ], pairingTag(1)), [
      "Confirmed",
      "MaybeReturned",
      "MaybeReturned"
    ])
  })

  it("pair with large numbers", () => {
    const { confirms, log, publish } = recorded()
    publish(5000)
    confirms.returned(pairingTag(4321), method, message)
    assert.deepStrictEqual(log(), ["4321 Returned"])
  })
})

describe("the end", () => {
  it("reaches every unsettled publish once, oldest first", () => {
    const { confirms, log, publish } = recorded()
    publish(4)
    confirms.settle(2, false, true)
    log()
    confirms.fail(undefined, [], false)
    assert.deepStrictEqual(log(), ["1 ChannelClosed", "3 ChannelClosed", "4 ChannelClosed"])
    assert.strictEqual(confirms.unsettled, 0)
    confirms.fail(undefined, [], false)
    confirms.settle(0, true, true)
    assert.deepStrictEqual(log(), [])
  })

  const blames = (confirms: Confirms, suspected: boolean, refused: ReadonlyArray<number> = []) => {
    const heard: Array<string> = []
    const waiter: PublishWaiter = {
      messageOf: () => undefined,
      onOutcome: (outcome) => {
        if (outcome._tag === "ChannelClosed") heard.push(`${outcome.sequence} ${outcome.blame}`)
      }
    }
    for (let i = 0; i < 5; i++) confirms.add(waiter)
    confirms.settle(3, false, true)
    confirms.fail(undefined, refused, suspected)
    return heard
  }

  it("tells each publish whether it is to blame: those that the broker has gone past are not", () => {
    assert.deepStrictEqual(blames(recorded().confirms, true), ["1 none", "2 none", "4 possible", "5 possible"])
    assert.deepStrictEqual(blames(recorded().confirms, true, [5]), ["1 none", "2 none", "4 none", "5 own"])
    assert.deepStrictEqual(blames(recorded().confirms, false), ["1 none", "2 none", "4 none", "5 none"])
  })

  /** What publishes hear of a refusal that came when the broker had taken so many of them. */
  const blamed = (
    messages: ReadonlyArray<Omit<Publish, "body">>,
    taken: number,
    replyCode: number,
    replyText: string
  ): ReadonlyArray<string> => {
    const { confirms } = recorded()
    const heard: Array<string> = []
    for (const message of messages) {
      const waiter: PublishWaiter = {
        messageOf: () => ({ ...message, body: "" }),
        onOutcome: (outcome) => {
          if (outcome._tag === "ChannelClosed") heard.push(`${outcome.sequence} ${outcome.blame}`)
        }
      }
      confirms.add(waiter, message.exchange)
    }
    confirms.take(taken)
    const close = { replyCode, replyText, classId: 60, methodId: 40 }
    const refused = confirms.refused({ _tag: "channel.close", ...close })
    confirms.fail(fromChannelClose({ ...close, operation: "basic.publish", entity: "e" }), refused, true)
    return heard
  }

  it.each([
    [404, "NOT_FOUND - no exchange 'e' in vhost '/'"],
    [403, "ACCESS_REFUSED - write access to exchange 'e' in vhost '/' refused for user 'guest'"],
    [403, "ACCESS_REFUSED - cannot publish to internal exchange 'e' in vhost '/'"]
  ])("of an exchange that publishes were taken for, the last one alone is refused for certain: %i %s", (code, text) => {
    const [e, x] = [{ exchange: "e" }, { exchange: "x" }]
    assert.deepStrictEqual(blamed([e, e, e, e], 1, code, text), ["1 none", "2 alike", "3 alike", "4 own"])
    assert.deepStrictEqual(blamed([e, x, e, x, e], 2, code, text), [
      "1 none",
      "2 none",
      "3 alike",
      "4 none",
      "5 own"
    ])
    // It was never there.
    assert.deepStrictEqual(blamed([e, e, e], 0, code, text), ["1 own", "2 own", "3 own"])
    assert.deepStrictEqual(blamed([x, {}, e, e], 2, code, text), ["1 none", "2 none", "3 own", "4 own"])
  })

  it("what is wrong with a message was always wrong", () => {
    const bad = { properties: { expiration: "x" } }
    assert.deepStrictEqual(blamed([{}, bad, {}, bad], 1, 406, "PRECONDITION_FAILED - invalid expiration 'x': bad"), [
      "1 none",
      "2 own",
      "3 none",
      "4 own"
    ])
  })

  it.each([
    [404, "NOT_FOUND - no exchange '"],
    [403, "ACCESS_REFUSED - cannot publish to internal exchange '"],
    [403, "ACCESS_REFUSED - write access to exchange '"]
  ])(
    "the name of an exchange that the broker cut off names the only publish to one that begins so: %i %s",
    (code, words) => {
      for (const name of ["e".repeat(250), "é".repeat(125)]) {
        const text = `${Buffer.from(`${words}${name}`).subarray(0, 252).toString()}...`
        const long = { exchange: name }
        const others = [{ exchange: "e" }, {}, { exchange: "x".repeat(250) }]
        assert.deepStrictEqual(blamed([long, ...others], 0, code, text), ["1 own", "2 none", "3 none", "4 none"])
        const alike = { exchange: `${name}.` }
        assert.deepStrictEqual(blamed([long, alike], 0, code, text), ["1 possible", "2 possible"])
      }
    }
  )

  it("what comes behind a publish answers for it: a nack, a return and a reply, but no number that was not sent", () => {
    const goneBy: ReadonlyArray<(confirms: Confirms) => void> = [
      (confirms) => confirms.settle(2, false, false),
      (confirms) => confirms.returned(pairingTag(2), method, message),
      (confirms) => confirms.take(2)
    ]
    for (const goBy of goneBy) {
      const { confirms } = recorded()
      const heard: Array<PublishOutcome> = []
      for (let i = 0; i < 3; i++) {
        confirms.add({ messageOf: () => undefined, onOutcome: (outcome) => void heard.push(outcome) })
      }
      goBy(confirms)
      confirms.take(7)
      confirms.settle(9, false, true)
      assert.deepStrictEqual(confirms.refused(preconditionFailed), [3])
    }
  })

  it("of one that has given up, too, a refusal may speak", () => {
    const { confirms, log, publish, turn } = recorded()
    publish(1)
    confirms.expire(1, 5)
    publish(1)
    assert.deepStrictEqual(confirms.refused(preconditionFailed), [])
    confirms.fail(undefined, [], true)
    turn()
    assert.deepStrictEqual(log(), ["2 ChannelClosed", "1 TimedOut"])
  })
})

describe("onIdle", () => {
  it("calls back once, later, when the last outcome is there", () => {
    const { confirms, publish, turn } = recorded()
    let calls = 0
    let withdrawn = 0
    const callback = () => withdrawn++
    publish(2)
    confirms.onIdle(() => calls++)
    confirms.onIdle(callback)
    confirms.offIdle(callback)
    confirms.settle(1, false, true)
    turn()
    assert.strictEqual(calls, 0)
    confirms.returned(pairingTag(2), method, message)
    assert.strictEqual(calls, 0)
    turn()
    assert.strictEqual(calls, 1)
    publish()
    confirms.settle(3, false, true)
    turn()
    assert.strictEqual(calls, 1)
    assert.strictEqual(withdrawn, 0)
  })

  it("does not wait for those that have waited for too long, whatever the broker says of them later", () => {
    const lates: ReadonlyArray<(confirms: Confirms) => void> = [
      (confirms) => confirms.settle(2, false, true),
      (confirms) => confirms.settle(2, true, true),
      (confirms) => confirms.settle(2, false, false),
      (confirms) => confirms.returned(pairingTag(2), method, message)
    ]
    for (const late of lates) {
      const { confirms, publish, turn } = recorded()
      let calls = 0
      publish(2)
      confirms.onIdle(() => calls++)
      confirms.settle(1, false, true)
      confirms.expire(2, 5)
      assert.isTrue(confirms.isIdle)
      turn()
      assert.strictEqual(calls, 1)
      // They still count for the window.
      assert.strictEqual(confirms.unsettled, 1)
      publish()
      assert.isFalse(confirms.isIdle)
      confirms.onIdle(() => calls++)
      late(confirms)
      assert.isFalse(confirms.isIdle)
      turn()
      assert.strictEqual(calls, 1)
      confirms.settle(3, false, true)
      turn()
      assert.strictEqual(calls, 2)
    }
  })

  it("calls back at the end of the channel, once", () => {
    const { confirms, publish, turn } = recorded()
    let calls = 0
    publish(2)
    confirms.onIdle(() => calls++)
    confirms.fail(undefined, [], false)
    turn()
    assert.strictEqual(calls, 1)
  })
})

describe("any sequence of publishes and answers", () => {
  /** The truth, slowly: a map from number to waiter. */
  class Model {
    readonly waiting = new Map<number, string>()
    readonly log: Array<string> = []
    latest = 0

    publish(count: number, together: boolean): void {
      const first = this.latest + 1
      for (let i = 0; i < count; i++) {
        const number = ++this.latest
        this.waiting.set(number, together ? `run ${first}` : `${number}`)
      }
    }

    settle(tag: number, multiple: boolean, outcome: string): void {
      for (const number of [...this.waiting.keys()]) {
        if (multiple ? tag === 0 || number <= tag : number === tag) this.resolve(number, outcome)
      }
    }

    resolve(number: number, outcome: string): void {
      const name = this.waiting.get(number)
      if (this.waiting.delete(number)) this.log.push(`${outcome === "Confirmed" ? name : number} ${outcome}`)
    }
  }

  const Tag = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 400 }))
  const Operation = Schema.Union([
    Schema.Struct({
      name: Schema.tag("publish"),
      count: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 90 })),
      together: Schema.Boolean
    }),
    Schema.Struct({ name: Schema.tag("settle"), tag: Tag, multiple: Schema.Boolean, ack: Schema.Boolean }),
    Schema.Struct({ name: Schema.tag("return"), tag: Tag })
  ])

  it.prop("has the outcomes of a map, in the same order", [
    Arbitrary.array(Arbitrary.schema(Operation), { minLength: 1, maxLength: 60 })
  ], ([operations]) => {
    const { confirms, log, publish, publishRun } = recorded()
    const model = new Model()
    for (const operation of operations) {
      switch (operation.name) {
        case "publish":
          if (operation.together) publishRun(operation.count)
          else publish(operation.count)
          model.publish(operation.count, operation.together)
          break
        case "settle":
          confirms.settle(operation.tag, operation.multiple, operation.ack)
          model.settle(operation.tag, operation.multiple, operation.ack ? "Confirmed" : "Nacked")
          break
        case "return":
          confirms.returned(pairingTag(operation.tag), method, message)
          model.resolve(operation.tag, "Returned")
          break
      }
      assert.strictEqual(confirms.unsettled, model.waiting.size)
      assert.strictEqual(confirms.latest, model.latest)
      assert.deepStrictEqual(confirms.pending(), [...model.waiting.keys()])
    }
    confirms.fail(undefined, [], false)
    for (const number of [...model.waiting.keys()]) model.resolve(number, "ChannelClosed")
    assert.deepStrictEqual(log(), model.log)
  }, { arbitrary: { runs: 500 } })
})

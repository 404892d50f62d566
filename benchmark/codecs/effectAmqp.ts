/**
 * Ours: the writers that the outbox has, and for what comes in a whole session without IO, its channel and its consumer
 * included.
 */
import { Result } from "effect"
import { anonymous } from "../../src/AmqpAuth.ts"
import { AmqpUnacknowledged } from "../../src/AmqpDelivery.ts"
import * as AmqpProtocol from "../../src/AmqpProtocol.ts"
import * as AmqpTable from "../../src/AmqpTable.ts"
import { writeBodyFrames, writeHeaderFrame, writePublishFrame } from "../../src/internal/codec/frames.ts"
import { Writer } from "../../src/internal/codec/wire.ts"
import { Deliveries, type Pulled } from "../../src/internal/engine/deliveries.ts"
import { Session } from "../../src/internal/engine/session.ts"
import { body, type Codec, frameMax, headers, properties, propertiesWithHeaders, queue } from "./codec.ts"

/** Publishes that go out in one write. */
const perWrite = 100

const noHooks = { onOpen: () => {}, onBlocked: () => {}, onUnblocked: () => {}, onEnd: () => {} }

/** A session with one channel and one consumer. */
const consumer = (): { readonly session: Session; readonly deliveries: Deliveries<AmqpUnacknowledged> } => {
  const session = new Session({
    nextEpoch: () => 1,
    maxMessageSize: frameMax,
    mechanisms: [anonymous],
    vhost: "/",
    locale: "en_US",
    clientProperties: {},
    limits: { channelMax: 0, frameMax: 0, heartbeat: 0 },
    schedule: (run) => run(),
    hooks: noHooks
  })
  const receive = (channel: number, method: AmqpProtocol.Method): void =>
    session.receive([Result.getOrThrow(AmqpProtocol.encodeMethod(channel, method))])
  const text = new TextEncoder()
  session.start()
  receive(0, {
    _tag: "connection.start",
    versionMajor: 0,
    versionMinor: 9,
    serverProperties: {},
    mechanisms: text.encode("ANONYMOUS"),
    locales: text.encode("en_US")
  })
  receive(0, { _tag: "connection.tune", channelMax: 2047, frameMax, heartbeat: 0 })
  receive(0, { _tag: "connection.open-ok" })
  const channel = session.openChannel()
  if (channel === undefined) throw new Error("no channel")
  channel.request({ _tag: "channel.open" }, { entity: "", onReply: () => {}, onFailure: () => {} })
  receive(channel.id, { _tag: "channel.open-ok" })
  const deliveries = new Deliveries(
    { consumerTag: "consumer", queue, channel: channel.id, noAck: true },
    (tag, redelivered, exchange, routingKey, content, source) =>
      new AmqpUnacknowledged(tag, redelivered, exchange, routingKey, content, source),
    session
  )
  channel.addConsumer(deliveries)
  return { session, deliveries }
}

export const makeCodec = (): Codec => {
  const writer = new Writer()
  let units = 0
  const { deliveries, session } = consumer()

  const receive = (chunk: Buffer, each: (message: AmqpUnacknowledged) => void): number => {
    session.receive([chunk])
    let count = 0
    let isEmpty = false
    const take = (pulled: Pulled<AmqpUnacknowledged>): void => {
      if (!("length" in pulled)) throw new Error("the consumer has ended")
      for (const message of pulled) each(message)
      count += pulled.length
      isEmpty = false
    }
    // What has come is handed out in parts.
    while (!isEmpty) {
      isEmpty = true
      deliveries.pull(take)
    }
    deliveries.unpull(take)
    return count
  }

  return {
    publish: (withHeaders) => {
      writePublishFrame(writer, 1, "", queue, false, frameMax)
      writeHeaderFrame(writer, 1, body.length, withHeaders ? propertiesWithHeaders : properties, frameMax)
      writeBodyFrames(writer, 1, body, frameMax)
      writer.commit()
      if (++units % perWrite === 0) writer.take()
    },
    deliver: (chunk) => receive(chunk, () => {}),
    deliverProperties: (chunk) => receive(chunk, (message) => message.properties),
    encodeTable: () => Result.getOrThrow(AmqpTable.encode(headers)),
    decodeTable: (entries) => () => Result.getOrThrow(AmqpTable.decode(entries))
  }
}

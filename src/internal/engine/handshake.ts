/**
 * The opening of a connection as a sequence of steps (specification 2.2.4): start, any number of secure rounds, tune,
 * open. It answers methods with methods. The session reads, writes and keeps the time.
 *
 * It refuses limits that this version of the server is known to refuse without a word. If a server hangs up in the
 * middle, it says what that most likely means.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { violation } from "../codec/frames.ts"
import {
  type ConnectionClose,
  type ConnectionStart,
  type ConnectionTune,
  frameMinSize,
  type Method,
  methods
} from "../codec/spec.ts"
import { excerpt, utf8Decode } from "../codec/wire.ts"
import { NotAllowed } from "../errors/brokerReasons.ts"
import { AuthenticationFailed, firstStep, NegotiationFailed, ProtocolVersionMismatch } from "../errors/clientReasons.ts"
import { AmqpConnectionError, fromConnectionClose } from "../errors/connection.ts"
import type { AmqpEncodeError } from "../errors/value.ts"
import type { InputTable, PlainTable } from "../values/tableValue.ts"
import { type Mechanism, select } from "./mechanisms.ts"

/** The negotiated limits of a connection. */
export interface Limits {
  /** Highest channel number. */
  readonly channelMax: number
  /** Largest frame in bytes, overhead included. */
  readonly frameMax: number
  /** Heartbeat interval in seconds; 0 is off. */
  readonly heartbeat: number
}

/** What the handshake needs to know. */
export interface HandshakeOptions {
  readonly mechanisms: ReadonlyArray<Mechanism>
  readonly vhost: string
  readonly locale: string
  readonly clientProperties: InputTable
  /** The client's wishes; 0 for `channelMax` and `frameMax` is "as the server likes". */
  readonly limits: Limits
}

/** What the server said of itself and what was agreed. */
export interface Negotiated {
  readonly serverProperties: PlainTable
  readonly mechanism: string
  readonly limits: Limits
}

/** What a step leads to. */
export type Step =
  | { readonly _tag: "Send"; readonly methods: ReadonlyArray<Method<InputTable>>; readonly limits?: Limits }
  | { readonly _tag: "Done"; readonly negotiated: Negotiated }
  | { readonly _tag: "Fail"; readonly error: AmqpConnectionError; readonly answer?: Method<InputTable> }

/** The limits if the server sets none: 65535 channels, frames of 128 KiB. */
export const unlimited: Limits = { channelMax: 65535, frameMax: 131072, heartbeat: 0 }

/** 0 is "no limit" on either side, so it counts as more than any limit. */
const lower = (server: number, client: number, fallback: number): number =>
  server === 0 ? (client === 0 ? fallback : client) : client === 0 ? server : Math.min(server, client)

/**
 * The limits both sides can keep. A client that wants no heartbeats gets none; otherwise the shorter interval applies,
 * and 0 on the server's side is no interval.
 */
export const negotiate = (server: Limits, client: Limits): Limits => ({
  channelMax: lower(server.channelMax, client.channelMax, unlimited.channelMax),
  frameMax: lower(server.frameMax, client.frameMax, unlimited.frameMax),
  heartbeat: client.heartbeat === 0 ? 0 : lower(server.heartbeat, client.heartbeat, 0)
})

const fail = (error: AmqpConnectionError, answer?: Method<InputTable>): Step =>
  answer === undefined ? { _tag: "Fail", error } : { _tag: "Fail", error, answer }

const authenticationFailed = (mechanism: string, detail: string): AmqpConnectionError =>
  new AmqpConnectionError({ reason: new AuthenticationFailed({ mechanism, detail }) })

/** RabbitMQ from 4.1 on waits three seconds and hangs up on smaller frames. */
const rabbitFrameMin = 8192

const isRabbitFrom41 = ({ product, version }: PlainTable): boolean => {
  const [, major = "", minor = ""] = /^(\d+)\.(\d+)\./.exec(typeof version === "string" ? version : "") ?? []
  return product === "RabbitMQ" && (Number(major) > 4 || (Number(major) === 4 && Number(minor) >= 1))
}

/** Before tuning, RabbitMQ takes no larger frame unless it is configured to. From 4.1 on it takes twice as much. */
const rabbitFirstFrame = 4096

/** The state of one handshake. */
export class Handshake {
  /** The step that waits for an answer, for errors. */
  waitingOn = firstStep
  /** The size of the frame that was sent last. */
  sentSize = 0
  private readonly options: HandshakeOptions
  private mechanism: Mechanism | undefined
  private rounds = 0
  private serverProperties: PlainTable = {}
  private limits: Limits | undefined

  constructor(options: HandshakeOptions) {
    this.options = options
  }

  /** The next step after a method of the server on channel 0. */
  onMethod(method: Method): Step {
    const { limits, mechanism } = this
    switch (method._tag) {
      case "connection.start":
        if (mechanism === undefined) return this.onStart(method)
        break
      case "connection.secure":
        if (mechanism !== undefined && limits === undefined) return this.onSecure(mechanism, method.challenge)
        break
      case "connection.tune":
        if (mechanism !== undefined && limits === undefined) return this.onTune(method)
        break
      case "connection.open-ok":
        if (mechanism === undefined || limits === undefined) break
        return {
          _tag: "Done",
          negotiated: { serverProperties: this.serverProperties, limits, mechanism: mechanism.name }
        }
      case "connection.close":
        return this.onClose(method)
    }
    return fail(violation(503, `${method._tag} came while ${this.waitingOn} was waiting for its answer`))
  }

  /** An answer has no form on the wire. Options are checked before, so it can only be an answer of the mechanism. */
  onUnsendable(error: AmqpEncodeError): AmqpConnectionError {
    return authenticationFailed(this.mechanism?.name ?? "", error.message)
  }

  /**
   * The server hung up. If it has not said anything yet, that means nothing, and the result is `undefined`. In answer
   * to something it is a refusal: some servers give strangers no reasons.
   */
  onHangUp(): AmqpConnectionError | undefined {
    switch (this.waitingOn) {
      case "connection.start-ok":
      case "connection.secure-ok": {
        const login = this.sentSize > rabbitFirstFrame
          ? `, or a login that is too large: ${this.waitingOn} takes ${this.sentSize} bytes, and RabbitMQ allows ` +
            `${rabbitFirstFrame} (${2 * rabbitFirstFrame} from 4.1 on) unless its initial_frame_max says more`
          : ""
        const detail =
          `the broker closed the connection after ${this.waitingOn} without saying why, which is how some ` +
          `brokers refuse credentials or a mechanism${login}`
        const mechanism = this.mechanism?.name ?? ""
        return new AmqpConnectionError({ reason: new AuthenticationFailed({ mechanism, detail, unspoken: true }) })
      }
      case "connection.open": {
        const { channelMax, frameMax, heartbeat } = this.limits ?? unlimited
        const detail =
          "the broker closed the connection after connection.tune-ok and connection.open without saying why, " +
          `which is how some brokers refuse limits (frameMax ${frameMax}, channelMax ${channelMax}, heartbeat ` +
          `${heartbeat} s) or a vhost (${JSON.stringify(this.options.vhost)})`
        return new AmqpConnectionError({ reason: new NegotiationFailed({ detail, unspoken: true }) })
      }
      default:
        return undefined
    }
  }

  /** Why frames of this size need not be tried; 0 is "as the server likes". */
  private refusedFrameMax(frameMax: number): AmqpConnectionError | undefined {
    if (frameMax === 0 || frameMax >= rabbitFrameMin || !isRabbitFrom41(this.serverProperties)) return undefined
    const detail =
      `RabbitMQ ${String(this.serverProperties["version"])} accepts a frameMax of ${rabbitFrameMin} or more, ` +
      `not ${frameMax}`
    return new AmqpConnectionError({ reason: new NegotiationFailed({ detail: excerpt(detail) }) })
  }

  private onStart(start: ConnectionStart): Step {
    const { versionMajor, versionMinor } = start
    if (versionMajor !== 0 || versionMinor !== 9) {
      const offered = `AMQP ${versionMajor}-${versionMinor}`
      return fail(new AmqpConnectionError({ reason: new ProtocolVersionMismatch({ offered }) }))
    }
    this.serverProperties = start.serverProperties
    const refused = this.refusedFrameMax(this.options.limits.frameMax)
    if (refused !== undefined) return fail(refused)
    const offered = utf8Decode(start.mechanisms) ?? ""
    const mechanism = select(offered, this.options.mechanisms)
    if (mechanism === undefined) {
      const wanted = this.options.mechanisms.map(({ name }) => name).join(", ")
      return fail(
        authenticationFailed("", `the broker offers ${excerpt(offered)}, this client is set to use ${wanted}`)
      )
    }
    const response = mechanism.initialResponse()
    if (Result.isFailure(response)) return fail(authenticationFailed(mechanism.name, response.failure.message))
    this.mechanism = mechanism
    this.waitingOn = "connection.start-ok"
    return {
      _tag: "Send",
      methods: [{
        _tag: "connection.start-ok",
        clientProperties: this.options.clientProperties,
        mechanism: mechanism.name,
        response: response.success,
        locale: this.options.locale
      }]
    }
  }

  private onSecure({ name, respond }: Mechanism, challenge: Uint8Array): Step {
    const response = respond?.(challenge, this.rounds++)
    if (response === undefined) return fail(violation(503, `connection.secure came, but ${name} has no such step`))
    if (Result.isFailure(response)) return fail(authenticationFailed(name, response.failure.message))
    this.waitingOn = "connection.secure-ok"
    return { _tag: "Send", methods: [{ _tag: "connection.secure-ok", response: response.success }] }
  }

  private onTune(tune: ConnectionTune): Step {
    const limits = negotiate(tune, this.options.limits)
    if (limits.frameMax < frameMinSize) {
      return fail(
        violation(501, `the broker asks for frames of ${limits.frameMax} bytes, the least is ${frameMinSize}`)
      )
    }
    const refused = this.refusedFrameMax(limits.frameMax)
    if (refused !== undefined) return fail(refused)
    this.limits = limits
    this.waitingOn = "connection.open"
    return {
      _tag: "Send",
      limits,
      methods: [{ _tag: "connection.tune-ok", ...limits }, { _tag: "connection.open", virtualHost: this.options.vhost }]
    }
  }

  private onClose(close: ConnectionClose): Step {
    const answer: Method<InputTable> = { _tag: "connection.close-ok" }
    if (close.replyCode === 403 && this.limits === undefined) {
      const reason = new AuthenticationFailed({ mechanism: this.mechanism?.name ?? "", detail: close.replyText })
      return fail(new AmqpConnectionError({ reason }), answer)
    }
    const { classId, methodId, replyCode, replyText } = close
    const ofTuning = (classId << 16 | methodId) === methods["connection.tune"].id ||
      (classId << 16 | methodId) === methods["connection.tune-ok"].id
    // RabbitMQ refuses a vhost with 530, other brokers with 403.
    if (this.limits !== undefined && !ofTuning && (replyCode === 403 || replyCode === 530)) {
      const reason = new NotAllowed({ replyCode, replyText, classId, methodId, vhost: this.options.vhost })
      return fail(new AmqpConnectionError({ reason }), answer)
    }
    return fail(fromConnectionClose(close), answer)
  }
}

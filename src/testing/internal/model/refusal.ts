/**
 * What the broker refuses, and with which words. Whoever finds a fault throws a `Refusal`. The channel or the
 * connection turns it into a `channel.close` or a `connection.close`, and adds the class and the method.
 *
 * The texts are RabbitMQ's, prefix included, because programs match on them.
 *
 * @since 0.1.0
 */
import * as Data from "effect/Data"
import { type MethodName, methods, replyCodes } from "../../../AmqpProtocol.ts"
import type { Reply } from "./model.ts"

/** A reply code with its text. Soft ones end the channel, hard ones the connection. */
export class Refusal extends Data.TaggedError("Refusal")<{
  readonly replyCode: number
  readonly replyText: string
}> {
  /** Whether the connection ends, not the channel alone (specification 1.2). */
  get isHard(): boolean {
    return replyCodes[this.replyCode]?.severity === "hard"
  }
}

/** A refusal with this code, whose name precedes the text. */
export const refuse = (replyCode: number) => {
  const name = replyCodes[replyCode]?.name.toUpperCase().replaceAll("-", "_")
  return (text: string): Refusal => new Refusal({ replyCode, replyText: `${name} - ${text}` })
}

export const accessRefused = refuse(403)
export const notFound = refuse(404)
export const resourceLocked = refuse(405)
export const preconditionFailed = refuse(406)
export const connectionForced = refuse(320)
export const frameError = refuse(501)
export const commandInvalid = refuse(503)
export const channelError = refuse(504)
export const unexpectedFrame = refuse(505)
export const notAllowed = refuse(530)
/** What RabbitMQ says when one of its processes has crashed. */
export const internalError = new Refusal({ replyCode: 541, replyText: "INTERNAL_ERROR" })
/** Also for what RabbitMQ does and this broker does not: it never pretends. */
export const notImplemented = refuse(540)

/** A reply text, cut as RabbitMQ does it to what a short string holds. */
const shortened = (text: string): string => {
  const bytes = new TextEncoder().encode(text)
  return bytes.length <= 255 ? text : `${new TextDecoder().decode(bytes.subarray(0, 252)).replace(/\ufffd$/, "")}...`
}

/** What `channel.close` and `connection.close` say of a reply, and of the method that it is about. */
export const closeFields = ({ replyCode, replyText }: Reply, method: { readonly _tag: MethodName } | undefined) => {
  const id = method === undefined ? 0 : methods[method._tag].id
  return { replyCode, replyText: shortened(replyText), classId: id >>> 16, methodId: id & 0xffff }
}

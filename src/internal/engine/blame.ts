/**
 * What provoked the end of a channel, as far as the broker says.
 *
 * @since 0.1.0
 */
import { methods } from "../codec/spec.ts"
import type { ChannelCloseCause } from "../errors/channel.ts"

/** The name of the method that the broker blames; `"channel"` where it blames none that is known. */
export const operationOf = (classId: number, methodId: number): string => {
  const id = classId * 0x1_0000 + methodId
  for (const [name, info] of Object.entries(methods)) if (info.id === id) return name
  return "channel"
}

/** Whether a publish may have provoked the end of a channel: the broker says so, or does not say what did. */
export const isSuspected = (cause: ChannelCloseCause): boolean => {
  if (cause === undefined) return false
  const said = cause._tag === "AmqpConnectionError" ? cause.reason : cause
  if (!("classId" in said) || said._tag === "ConnectionForced") return false
  return said.classId === 0 || operationOf(said.classId, said.methodId) === "basic.publish"
}

/** The exchange that the broker speaks of in the refusal of a publish; empty where it names none. */
export const exchangeIn = (replyText: string): string => /exchange '(.*)' in vhost '/s.exec(replyText)?.[1] ?? ""

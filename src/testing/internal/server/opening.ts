/**
 * What the broker says while a connection opens, and what it accepts of the client's answers.
 *
 * @since 0.1.0
 */
import * as AmqpProtocol from "../../../AmqpProtocol.ts"
import type { InputTable } from "../../../AmqpTable.ts"
import type { User, Vhost } from "../model/model.ts"
import { accessRefused, notAllowed, type Refusal } from "../model/refusal.ts"
import type { Limits, Services } from "../model/services.ts"
import { mechanismNames, serverProperties } from "./authentication.ts"

/** The first thing that it says. */
export const start: AmqpProtocol.Method<InputTable> = {
  _tag: "connection.start",
  versionMajor: 0,
  versionMinor: 9,
  serverProperties,
  mechanisms: new TextEncoder().encode(mechanismNames),
  locales: new TextEncoder().encode("en_US")
}

/** What it says to a client whose user or password is wrong. */
export const loginRefused = (mechanism: string): Refusal =>
  accessRefused(`Login was refused using authentication mechanism ${mechanism}. For details see the broker logfile.`)

/** What it proposes. */
export const tune = ({ channelMax, frameMax, heartbeatSeconds }: Limits): AmqpProtocol.Method => ({
  _tag: "connection.tune",
  channelMax,
  frameMax,
  heartbeat: heartbeatSeconds
})

/** Whether the client stays within what was proposed. Any heartbeat will do. */
export const isTuned = ({ channelMax, frameMax }: AmqpProtocol.ConnectionTuneOk, limits: Limits): boolean => {
  const isWithin = (value: number, min: number, max: number): boolean =>
    value === 0 ? max === 0 : value >= min && (max === 0 || value <= max)
  return isWithin(frameMax, AmqpProtocol.frameMinSize, limits.frameMax) && isWithin(channelMax, 1, limits.channelMax)
}

/** The vhost that a client wants to open. Throws a `Refusal` (530) where there is none, or not for this user. */
export const openable = (vhosts: Services["vhosts"], name: string, user: User): Vhost => {
  const vhost = vhosts.get(name)
  if (vhost === undefined) throw notAllowed(`vhost ${name} not found`)
  if (!user.permissions.has(name)) throw notAllowed(`access to vhost '${name}' refused for user '${user.name}'`)
  return vhost
}

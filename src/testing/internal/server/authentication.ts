/**
 * Who a client is, and what the broker says of itself.
 *
 * There are PLAIN and AMQPLAIN. EXTERNAL needs certificates, which this broker does not look at.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as AmqpTable from "../../../AmqpTable.ts"
import { utf8Decode } from "../../../internal/codec/wire.ts"
import type { User } from "../model/model.ts"

/**
 * What `connection.start` says: RabbitMQ's name, version and capabilities, because clients and their tests depend on
 * them. `information` says what it really is.
 */
export const serverProperties: AmqpTable.InputTable = {
  capabilities: {
    publisher_confirms: true,
    exchange_exchange_bindings: true,
    "basic.nack": true,
    consumer_cancel_notify: true,
    "connection.blocked": true,
    consumer_priorities: true,
    authentication_failure_close: true,
    per_consumer_qos: true,
    direct_reply_to: true
  },
  cluster_name: "effect-amqp",
  information: "This is the embedded broker of effect-amqp, which behaves as RabbitMQ does",
  platform: "effect",
  product: "RabbitMQ",
  version: "3.10.8"
}

interface Credentials {
  readonly username: string
  readonly password: string
}

/** An empty authorization identity, the name and the password, each after a NUL. */
const plain = (response: Uint8Array): Credentials | undefined => {
  const [authorization, username, password, ...more] = utf8Decode(response)?.split("\0") ?? []
  if (authorization !== "" || username === undefined || password === undefined || more.length > 0) return undefined
  return { username, password }
}

/** The fields of a table, without its length. */
const amqplain = (response: Uint8Array): Credentials | undefined => {
  const fields = Result.getOrUndefined(AmqpTable.decode(response))
  const username = fields?.["LOGIN"]
  const password = fields?.["PASSWORD"]
  return typeof username === "string" && typeof password === "string" ? { username, password } : undefined
}

const mechanisms: ReadonlyMap<string, (response: Uint8Array) => Credentials | undefined> = new Map([
  ["PLAIN", plain],
  ["AMQPLAIN", amqplain]
])

/** As `connection.start` lists them. */
export const mechanismNames = [...mechanisms.keys()].join(" ")

/** The user; `refused`: there is none with this password; `invalid`: not a mechanism, or not an answer to it. */
export const authenticate = (
  users: ReadonlyMap<string, User>,
  mechanism: string,
  response: Uint8Array
): User | "refused" | "invalid" => {
  const credentials = mechanisms.get(mechanism)?.(response)
  if (credentials === undefined) return "invalid"
  const user = users.get(credentials.username)
  return user?.password === credentials.password ? user : "refused"
}

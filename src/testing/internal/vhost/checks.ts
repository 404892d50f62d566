/**
 * Which names and entities of a vhost a client may use, with RabbitMQ's words where it may not.
 *
 * @since 0.1.0
 */
import type { Owner, Queue } from "../model/model.ts"
import { accessRefused, notFound, type Refusal, resourceLocked } from "../model/refusal.ts"
import { resource } from "./arguments.ts"

/** A name as RabbitMQ keeps it: without line ends. */
export const stripped = (name: string): string => name.replaceAll(/[\r\n]/g, "")

export const refuseDefault = (exchange: string): void => {
  if (exchange === "") throw accessRefused("operation not permitted on the default exchange")
}

export const refuseReserved = (kind: "queue" | "exchange", name: string): void => {
  if (name.startsWith("amq.")) throw accessRefused(`${kind} name '${name}' contains reserved prefix 'amq.*'`)
}

export const missing = (kind: "queue" | "exchange", name: string, vhost: string): Refusal =>
  notFound(`no ${resource(kind, name, vhost)}`)

export const locked = (queue: Queue, vhost: string): Refusal =>
  resourceLocked(
    `cannot obtain exclusive access to locked ${resource("queue", queue.name, vhost)}. It could be originally ` +
      "declared on another connection or the exclusive property value does not match that of the original declaration."
  )

/** Refuses an exclusive queue of another connection. */
export const refuseLocked = (queue: Queue, owner: Owner | undefined, vhost: string): void => {
  if (queue.owner !== undefined && queue.owner !== owner) throw locked(queue, vhost)
}

/**
 * Finds the entity of a topology for which the broker ends the connection.
 *
 * Such an end names a method, not an entity, and may concern somebody else's request. So entities without an answer are
 * sent one at a time from then on. If the broker says the same again while an entity's request is the only one of that
 * method on the whole connection, that counts against the entity; after some repetitions it is not sent any more. Any
 * other end of a connection is a loss, and says nothing about a topology.
 *
 * @since 0.1.0
 */
import { methods } from "../codec/spec.ts"
import type { Session } from "../engine/session.ts"
import type { AmqpConnectionError } from "../errors/connection.ts"
import type { Entity } from "./entity.ts"

/** After so many equal refusals of an entity that was sent alone, it is not sent any more. */
const enough = 3

const requestOf = {
  Exchange: "exchange.declare",
  PassiveExchange: "exchange.declare",
  Queue: "queue.declare",
  PassiveQueue: "queue.declare",
  ServerNamedQueue: "queue.declare",
  QueueBinding: "queue.bind",
  ExchangeBinding: "exchange.bind"
} as const

interface Refused {
  readonly error: AmqpConnectionError
  readonly said: string
  readonly times: number
}

/** The refusals of the entities of one topology, over all epochs. */
export class TopologyRefusals {
  private readonly suspects = new Set<Entity>()
  private readonly refused = new Map<Entity, Refused>()

  /** Whether an entity is sent alone. */
  isSuspect(entity: Entity): boolean {
    return this.suspects.has(entity)
  }

  /** Why an entity is not sent any more. */
  reason(entity: Entity): AmqpConnectionError | undefined {
    const refused = this.refused.get(entity)
    return refused !== undefined && refused.times >= enough ? refused.error : undefined
  }

  /** The broker has accepted it. */
  clear(entity: Entity): void {
    this.suspects.delete(entity)
    this.refused.delete(entity)
  }

  /** The session ended with this error, and these had no answer. */
  onEnd(error: AmqpConnectionError, unanswered: Iterable<Entity>, { inQuestion }: Pick<Session, "inQuestion">): void {
    const { reason } = error
    // 320 is an operator's word.
    if (!("classId" in reason) || reason._tag === "ConnectionForced") return
    const { classId, methodId, replyCode, replyText } = reason
    const id = classId * 0x1_0000 + methodId
    const own = [...unanswered].filter(({ _tag }) => id === 0 || methods[requestOf[_tag]].id === id)
    for (const entity of own) this.suspects.add(entity)
    const [alone] = own
    if (alone === undefined || inQuestion > 1) return
    const said = `${replyCode} ${replyText}`
    const before = this.refused.get(alone)
    this.refused.set(alone, { error, said, times: before?.said === said ? before.times + 1 : 1 })
  }
}

/**
 * What a queue was declared as, and what its arguments say.
 *
 * @since 0.1.0
 */
import type { PlainTable } from "../../AmqpTable.ts"
import type { Owner, QueueType } from "./model.ts"

/** What a queue was declared as. Its arguments have been validated. */
export interface QueueDefinition {
  readonly name: string
  readonly type: QueueType
  readonly durable: boolean
  readonly autoDelete: boolean
  /** Whose it is, if it is exclusive. */
  readonly owner: Owner | undefined
  readonly arguments: PlainTable
}

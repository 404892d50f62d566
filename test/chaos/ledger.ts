/**
 * What was published, what became of it, and what arrived: the books of a chaos run.
 */
import { Effect } from "effect"

/** What became of a publish: confirmed, the tag of its error, or interrupted by the run itself. */
export type Outcome = string

/** A message of the run. */
export interface Entry {
  /** Who published it. */
  readonly by: string
  /** Whether its publisher may send it again. */
  readonly resends: boolean
  /** All of them: there must be exactly one. */
  readonly outcomes: Array<Outcome>
  /** How often it was handled. */
  handled: number
}

/** Outcomes of messages that the broker cannot have. */
const neverStored = new Set<Outcome>(["AmqpMessageReturned", "AmqpConnectionError", "AmqpChannelClosed"])

/** Those of them that were not even written. */
const neverWritten = new Set<Outcome>(["AmqpConnectionError", "AmqpChannelClosed"])

/** Names a few of what may be thousands. */
const some = (ids: ReadonlyArray<string>): string =>
  `${ids.length} (${ids.slice(0, 5).join(", ")}${ids.length > 5 ? ", …" : ""})`

export class Ledger {
  readonly entries = new Map<string, Entry>()
  /** What contradicts the promises, as it was seen. */
  readonly accusations: Array<string> = []
  /** What was handled and never published. */
  readonly unknown: Array<string> = []
  /** For each publisher, when its latest confirmed publish was begun; for each consumer, its latest message. */
  private readonly progress = new Map<string, number>()
  private readonly watchers = new Set<() => void>()
  begun = 0
  settled = 0
  confirmed = 0
  arrived = 0
  /** Confirmed messages that nobody has handled yet. */
  outstanding = 0
  /** Settlements that were refused because the delivery's channel was gone. */
  stale = 0

  /** Somebody who has to make progress after each fault. */
  expect(who: string): void {
    this.progress.set(who, -1)
  }

  begin(id: string, by: string, resends: boolean): void {
    this.entries.set(id, { by, resends, outcomes: [], handled: 0 })
    this.begun++
    this.notify()
  }

  end(id: string, outcome: Outcome, begunAt: number): void {
    const entry = this.entries.get(id)
    if (entry === undefined) return
    entry.outcomes.push(outcome)
    this.settled++
    if (outcome === "confirmed") {
      this.confirmed++
      if (entry.handled === 0) this.outstanding++
      const latest = this.progress.get(entry.by)
      if (latest !== undefined) this.progress.set(entry.by, Math.max(begunAt, latest))
    }
    this.notify()
  }

  handle(id: string, by: string): void {
    const entry = this.entries.get(id)
    if (entry === undefined) this.unknown.push(id)
    else if (entry.handled++ === 0) {
      this.arrived++
      if (entry.outcomes.includes("confirmed")) this.outstanding--
    }
    this.proceed(by)
  }

  /** Somebody has made progress. */
  proceed(who: string): void {
    this.progress.set(who, performance.now())
    this.notify()
  }

  accuse(text: string): void {
    this.accusations.push(text)
    this.notify()
  }

  /** Who has made no progress since then. */
  stuck(since: number): ReadonlyArray<string> {
    return [...this.progress].flatMap(([who, at]) => at > since ? [] : [who])
  }

  /** Ids of confirmed messages that nobody has handled. */
  get missing(): ReadonlyArray<string> {
    return this.ids(({ handled, outcomes }) => handled === 0 && outcomes.includes("confirmed"))
  }

  /** Waits until something holds. */
  until(holds: () => boolean): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const look = () => {
        if (!holds()) return
        this.watchers.delete(look)
        resume(Effect.void)
      }
      this.watchers.add(look)
      look()
      return Effect.sync(() => this.watchers.delete(look))
    })
  }

  /** All that contradicts the promises. `written` says how often each message was written to a socket. */
  violations(written: ReadonlyMap<string, number>): ReadonlyArray<string> {
    const problems = {
      "publishes without an outcome": this.ids(({ outcomes }) => outcomes.length === 0),
      "publishes with more than one outcome": this.ids(({ outcomes }) => outcomes.length > 1),
      "confirmed messages that are lost": this.missing,
      "messages handled that nobody published": this.unknown,
      "messages handled that were returned or never written": this.ids(({ handled, outcomes }) =>
        handled > 0 && outcomes.some((outcome) => neverStored.has(outcome))
      ),
      "messages written that failed as never written": this.ids(({ outcomes }, id) =>
        written.has(id) && outcomes.some((outcome) => neverWritten.has(outcome))
      ),
      "messages written twice without a resend": this.ids(({ resends }, id) => !resends && (written.get(id) ?? 0) > 1),
      "messages confirmed that were not written": this.ids(({ outcomes }, id) =>
        outcomes.includes("confirmed") && !written.has(id)
      )
    }
    const found = Object.entries(problems).filter(([, ids]) => ids.length > 0)
    return [...this.accusations, ...found.map(([what, ids]) => `${what}: ${some(ids)}`)]
  }

  /** How many messages of a publisher had that outcome. */
  countOf(by: string, outcome: Outcome): number {
    return this.ids((entry) => entry.by === by && entry.outcomes.includes(outcome)).length
  }

  /** How many messages had that outcome. */
  count(outcome: Outcome): number {
    return this.ids(({ outcomes }) => outcomes.includes(outcome)).length
  }

  /** Every outcome and how often it came. */
  get outcomes(): ReadonlyMap<Outcome, number> {
    const counts = new Map<Outcome, number>()
    for (const { outcomes } of this.entries.values()) {
      for (const outcome of outcomes) counts.set(outcome, (counts.get(outcome) ?? 0) + 1)
    }
    return counts
  }

  get duplicated(): number {
    return this.ids(({ handled }) => handled > 1).length
  }

  private ids(where: (entry: Entry, id: string) => boolean): ReadonlyArray<string> {
    return [...this.entries].flatMap(([id, entry]) => where(entry, id) ? [id] : [])
  }

  private notify(): void {
    for (const look of this.watchers) look()
  }
}

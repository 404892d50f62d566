/**
 * When a socket is read again: at once, or a moment later.
 *
 * A busy broker sends a few messages at a time, and each small read costs as much as handling its messages does. So
 * while reads are many and small, the next one waits for more to gather. Waiting must not slow down the peer, which may
 * send no more before it is answered. The client cannot know that, so it tries: reads that wait must bring as much in
 * the same time as reads that do not wait. Otherwise waiting is given up for a while.
 *
 * It knows no clock and no socket.
 *
 * @since 0.1.0
 */

/** After a read of so many bytes the next one never waits: enough has gathered, and there is more. */
const enough = 16 * 1024

/** Intervals in a span. Spans are compared and counted. */
const spanIntervals = 8

/** From so many reads in an interval on, waiting spares three of four. */
const many = 4

/** Spans of a try. Every second one waits, because the flow of one span may differ from the next by half. */
const spansOfTry = 16

/** A try ends after so many spans if waiting has brought less than a quarter. */
const spansOfDoubt = 4

/** Reads that wait must bring at least this share of what others bring. */
const tolerance = 0.8

/** After so many milliseconds of waiting there is a new try. */
const waitingTime = 1000

/** So many milliseconds after a try in vain there is a new one. The time doubles with each. */
const leastPause = 250
const mostPause = 64_000

/** The flow of some spans. */
class Flow {
  private reads = 0
  private bytes = 0
  private time = 0

  add(reads: number, bytes: number, time: number): void {
    this.reads += reads
    this.bytes += bytes
    this.time += time
  }

  /** Reads in a millisecond. */
  get readRate(): number {
    return this.reads / this.time
  }

  /** Bytes in a millisecond. */
  get byteRate(): number {
    return this.bytes / this.time
  }
}

/** Decides for one socket. */
export class ReadPacing {
  /** Milliseconds. */
  private readonly interval: number
  private phase: "watching" | "trying" | "waiting" | "pausing" = "watching"
  /** Spans of the present try. It waits in every second one. */
  private spansLeft = 0
  /** Of waiting and pausing. */
  private timeLeft = 0
  private pause = leastPause
  private usual = new Flow()
  private waited = new Flow()
  // The span that has begun.
  private start = -Infinity
  private reads = 0
  private bytes = 0

  constructor(interval: number) {
    this.interval = interval
  }

  /** Whether the next read waits, after one of so many bytes; `now` in milliseconds, which never go back. */
  afterRead(size: number, now: number): boolean {
    this.reads++
    this.bytes += size
    const time = now - this.start
    if (time >= spanIntervals * this.interval) {
      this.onSpan(time)
      this.start = now
      this.reads = 0
      this.bytes = 0
    }
    return this.waits && size < enough
  }

  private get waits(): boolean {
    return this.phase === "waiting" || (this.phase === "trying" && this.spansLeft % 2 === 1)
  }

  private onSpan(time: number): void {
    const { bytes, interval, reads } = this
    switch (this.phase) {
      case "watching":
        if (reads * interval >= many * time) this.begin("trying")
        return
      case "trying":
        this[this.waits ? "waited" : "usual"].add(reads, bytes, time)
        this.spansLeft--
        if (this.spansLeft === 0 || this.isHopeless) this.conclude()
        return
      case "waiting":
      case "pausing":
        this.timeLeft -= time
        if (this.timeLeft <= 0) this.begin(this.waits ? "trying" : "watching")
    }
  }

  private begin(phase: ReadPacing["phase"], time = 0): void {
    this.phase = phase
    this.timeLeft = time
    if (phase !== "trying") return
    this.spansLeft = spansOfTry
    this.usual = new Flow()
    this.waited = new Flow()
  }

  private get isHopeless(): boolean {
    return this.spansLeft === spansOfTry - spansOfDoubt && this.waited.byteRate < this.usual.byteRate / 4
  }

  private conclude(): void {
    if (this.usual.readRate * this.interval < many) return this.begin("watching")
    if (this.waited.byteRate >= tolerance * this.usual.byteRate) {
      this.pause = leastPause
      return this.begin("waiting", waitingTime)
    }
    this.begin("pausing", this.pause)
    this.pause = Math.min(2 * this.pause, mostPause)
  }
}

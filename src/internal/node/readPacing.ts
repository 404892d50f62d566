/**
 * When a socket is read again: at once, or a moment later.
 *
 * A busy broker sends a few messages at a time, and each read of so little costs as much as handling them does. So while
 * reads are many and small, the next one waits for more to gather. That must not slow down what it waits for: a peer may
 * send no more before it is answered. From outside nobody can tell, so it is tried: reads that wait have to bring in a time
 * what reads that do not wait bring, or waiting is given up for a while.
 *
 * It knows no clock and no socket.
 *
 * @since 0.1.0
 */

/** Bytes of a read after which the next one never waits: enough has gathered, and there is more. */
const enough = 16 * 1024

/** Intervals of a span, which is what is compared and counted. */
const spanIntervals = 8

/** Reads in an interval that are many: waiting spares three of four. */
const many = 4

/** Spans of a try, every second one with waiting: what flows in a span differs from the next by half at times. */
const spansOfTry = 16

/** After so many of them a try ends in which waiting has brought less than a quarter. */
const spansOfDoubt = 4

/** Reads that wait have to bring so much of what others bring. */
const tolerance = 0.8

/** After so many milliseconds of waiting it is tried anew whether it is right. */
const waitingTime = 1000

/** After so many milliseconds it is tried anew after a try in vain; after the next one, twice as many. */
const leastPause = 250
const mostPause = 64_000

/** What flowed in some spans. */
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
  /** Of a try; it waits in every second one. */
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

/**
 * The heartbeats of one connection: sends them, and misses those of a client that has fallen silent.
 *
 * Times need not be whole milliseconds, as after a backoff with jitter. So whether a deadline has passed is told by the
 * same sum that set the timer. A difference may round to less, and the timer would be due again for ever.
 *
 * @since 0.1.0
 */
import type { Timer, Timers } from "../model/timers.ts"

export interface HeartbeatHost {
  /** The broker does nothing, and so writes nothing. */
  readonly isPaused: () => boolean
  /** The broker does not read the client, which is not to blame for its silence then. */
  readonly isHeld: () => boolean
  readonly beat: () => void
  readonly onSilence: () => void
}

export class Heartbeats {
  private readonly timers: Timers
  private readonly host: HeartbeatHost
  private lastSent = 0
  private lastReceived = 0
  private beating: Timer | undefined
  private reaper: Timer | undefined

  constructor(timers: Timers, host: HeartbeatHost) {
    this.timers = timers
    this.host = host
  }

  /** Something was written. */
  sent(): void {
    this.lastSent = this.timers.now()
  }

  /** Something has come, or could not come. */
  received(): void {
    this.lastReceived = this.timers.now()
  }

  start(seconds: number): void {
    if (seconds === 0) return
    this.send(seconds * 500)
    this.await(seconds * 2000)
  }

  stop(): void {
    this.beating?.cancel()
    this.reaper?.cancel()
  }

  /** Sends one after each half interval in which nothing was written. */
  private send(half: number): void {
    const { host, timers } = this
    this.beating = timers.at(Math.max(this.lastSent, timers.now() - half) + half, () => {
      const isDue = timers.now() >= this.lastSent + half
      if (isDue && !host.isPaused()) host.beat()
      if (isDue || host.isPaused()) this.sent()
      this.send(half)
    })
  }

  /** A client that has sent nothing for two intervals is dead, unless it is the broker that does not listen. */
  private await(patience: number): void {
    const { host, timers } = this
    this.reaper = timers.at(this.lastReceived + patience, () => {
      if (host.isHeld()) this.received()
      else if (timers.now() >= this.lastReceived + patience) return host.onSilence()
      this.await(patience)
    })
  }
}

/**
 * What queues have posted to a channel, and the channel has not sent on: deliveries, answers to `basic.consume` and
 * `basic.cancel`, the end of a queue.
 *
 * In RabbitMQ these come from other processes, so they follow the answers to everything that the client has sent in one
 * piece. A delivery that is on its way when the channel closes is still sent, although its queue has taken it back.
 * Nothing else is.
 *
 * @since 0.1.0
 */

/** A delivery. The first call takes it in, and gives what sends it. */
type Delivery = () => () => void

/** Letters in the order in which they were posted. */
export class ChannelMail {
  private letters: Array<{ readonly delivery: Delivery } | { readonly say: () => void }> = []
  /** How many of `letters` have been read. */
  private count = 0
  private isClosed = false
  /** There is something to `read`. `size` is in bytes. */
  private readonly onPost: (size: number) => void

  constructor(onPost: (size: number) => void) {
    this.onPost = onPost
  }

  post(say: () => void): void {
    this.add({ say }, 0)
  }

  /** `size` in bytes. */
  postDelivery(size: number, delivery: Delivery): void {
    this.add({ delivery }, size)
  }

  private add(letter: (typeof this.letters)[number], size: number): void {
    if (this.isClosed) return
    this.letters.push(letter)
    this.onPost(size)
  }

  /** Sends everything on. */
  read(): void {
    for (let letter = this.letters[this.count]; letter !== undefined; letter = this.letters[this.count]) {
      this.count++
      if ("say" in letter) letter.say()
      else letter.delivery()()
    }
    this.letters = []
    this.count = 0
  }

  /** The channel ends. Deliveries are taken in now, and sent by the next `read`. The rest is dropped. */
  close(): void {
    this.isClosed = true
    const left = this.letters.slice(this.count)
    this.count = 0
    this.letters = left.flatMap((letter) => "delivery" in letter ? { say: letter.delivery() } : [])
  }
}

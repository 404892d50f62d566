/**
 * Which publishes of a channel the broker has not confirmed yet, by the numbers that both sides have for them.
 *
 * The numbers differ once a publish is lost on its way: the client counts it, the broker does not.
 *
 * @since 0.1.0
 */

/** The publishes of one channel in confirm mode. */
export class ConfirmLedger {
  /** Whether confirms have to be written anew: a number has changed, or may not be covered by a later `multiple`. */
  isAltered = false
  private sent = 0
  private stored = 0
  /** In the order of both numbers. */
  private readonly outstanding: Array<{ readonly client: number; readonly broker: number }> = []

  /** The client has published; `arrives`: the broker will know of it. */
  publish(arrives: boolean): void {
    this.sent++
    if (!arrives) this.isAltered = true
    else this.outstanding.push({ client: this.sent, broker: ++this.stored })
  }

  /** The broker confirms: gives the client's numbers of what is confirmed. */
  settle(broker: number, multiple: boolean): ReadonlyArray<number> {
    const { outstanding } = this
    let end = outstanding.length
    // Zero stands for all (specification 1.8.3.13).
    if (broker > 0) {
      let low = 0
      while (low < end) {
        const middle = (low + end) >>> 1
        if ((outstanding[middle]?.broker ?? Infinity) <= broker) low = middle + 1
        else end = middle
      }
    }
    const start = multiple ? 0 : end - 1
    if (start < 0 || (!multiple && outstanding[start]?.broker !== broker)) return []
    return outstanding.splice(start, end - start).map(({ client }) => client)
  }
}

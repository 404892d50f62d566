/**
 * The last short string that was read in one place of a method.
 *
 * @since 0.1.0
 */
import { type Reader, view } from "../codec/wire.ts"

/** Remembers one name by its bytes: most deliveries repeat consumer tag, exchange and routing key. */
export class TextCache {
  private bytes: Uint8Array = new Uint8Array(0)
  private text = ""

  /** Reads a short string. A hit costs a comparison, about a third of decoding it. */
  read(reader: Reader): string {
    const { bytes, offset } = reader
    const length = bytes[offset] ?? 0
    const cached = this.bytes
    if (length === cached.length && offset + 1 + length <= reader.end) {
      let i = 0
      while (i < length && bytes[offset + 1 + i] === cached[i]) i++
      if (i === length) {
        reader.offset = offset + 1 + length
        return this.text
      }
    }
    this.text = reader.shortString()
    // A copy: `slice` of a Node buffer would be a view of what was received.
    this.bytes = view(bytes, offset + 1, reader.offset).slice()
    return this.text
  }
}

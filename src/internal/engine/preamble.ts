/**
 * The first bytes of a peer: they tell whether it speaks AMQP 0-9-1, before its bytes are taken for frames.
 *
 * @since 0.1.0
 */
import { protocolHeader } from "../codec/frames.ts"
import { frameMethod } from "../codec/spec.ts"
import { ProtocolVersionMismatch } from "../errors/clientReasons.ts"
import { AmqpConnectionError } from "../errors/connection.ts"

/** The bytes of a peer that has not sent a method yet. */
export class Preamble {
  private held: Uint8Array = new Uint8Array(0)

  /** Returns whether frames begin with this chunk. Throws when the peer speaks something else. */
  endsWith(chunk: Uint8Array): boolean {
    const first = this.held[0] ?? chunk[0]
    if (first === undefined) return false
    if (first === frameMethod) return true
    const held = new Uint8Array([...this.held, ...chunk.subarray(0, 8)])
    this.held = held
    // The rest of a header names the version.
    if (first === protocolHeader[0] && held.length < 8) return false
    throw new AmqpConnectionError({ reason: new ProtocolVersionMismatch({ offered: describe(held) }) })
  }
}

/** What the peer seems to speak. */
const describe = (bytes: Uint8Array): string => {
  if (bytes[0] === protocolHeader[0] && bytes[1] === protocolHeader[1]) {
    return `AMQP ${bytes[5]}-${bytes[6]}-${bytes[7]}`
  }
  // An alert or a handshake record.
  if ((bytes[0] === 0x15 || bytes[0] === 0x16) && bytes[1] === 3) return "TLS (use amqps, or another port)"
  return `no AMQP (it began with ${JSON.stringify(String.fromCharCode(...bytes))})`
}

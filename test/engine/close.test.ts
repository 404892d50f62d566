import { assert, describe, it } from "vitest"
import { line, pattern, Peer } from "./peer.ts"

describe("closing a connection", () => {
  it("does not overtake a large body that was published before", () => {
    const peer = new Peer()
    peer.open()
    const channel = peer.channel()
    peer.sent()
    channel.publish({ routingKey: "q", body: pattern(600_000) }, undefined)
    peer.session.close()
    const lines = peer.sent().map(line)
    assert.strictEqual(lines[0], "1 basic.publish")
    assert.strictEqual(lines.at(-1), "0 connection.close")
    assert.strictEqual(lines.filter((text) => text.startsWith("1 body")).length, 5)
  })
})

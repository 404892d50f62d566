/**
 * The state of a connection. It can be read at any time, and watched.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import type { Negotiated } from "../engine/handshake.ts"
import type { Session } from "../engine/session.ts"
import type { Server, Status } from "./service.ts"
import type { OpenSession } from "./shell.ts"
import { formatEndpoint } from "./transport.ts"

const text = (value: unknown): string => typeof value === "string" ? value : ""

export const toServer = ({ limits, mechanism, serverProperties }: Negotiated): Server => {
  const { capabilities } = serverProperties
  const isTable = typeof capabilities === "object" && capabilities !== null && !Array.isArray(capabilities)
  return {
    product: text(serverProperties["product"]),
    version: text(serverProperties["version"]),
    capabilities: new Set(
      isTable ? Object.entries(capabilities).flatMap(([name, on]) => on === true ? [name] : []) : []
    ),
    properties: serverProperties,
    mechanism,
    limits
  }
}

/** Holds the state of a connection, and tells watchers of each change. */
export class StatusBoard {
  current: Status = { _tag: "Connecting" }
  /** Made for the first watcher. */
  private hub: PubSub.PubSub<Status> | undefined
  private open: OpenSession | undefined

  set(status: Status): void {
    this.current = status
    if (this.hub !== undefined) PubSub.publishUnsafe(this.hub, status)
  }

  get changes(): Stream.Stream<Status> {
    return Stream.unwrap(Effect.map(PubSub.unbounded<Status>({ replay: 1 }), (made) => {
      if (this.hub === undefined) {
        this.hub = made
        this.set(this.current)
      }
      return Stream.takeUntil(Stream.fromPubSub(this.hub), ({ _tag }) => _tag === "Closed")
    }))
  }

  /** An epoch begins; its broker may be short of resources from the first moment on. */
  begin(open: OpenSession): void {
    this.open = open
    this.set({
      _tag: "Open",
      epoch: open.session.epoch,
      endpoint: formatEndpoint(open.endpoint),
      server: toServer(open.negotiated)
    })
    if (open.session.blockedReason !== undefined) this.update(open.session)
  }

  /** A session was blocked or unblocked. */
  update(session: Session): void {
    const { open } = this
    if (open?.session !== session) return
    const { blockedReason: reason, epoch } = session
    if (reason === undefined) this.begin(open)
    else this.set({ _tag: "Blocked", epoch, reason })
  }
}

/**
 * Which connections, channels and consumers an operator means.
 *
 * @since 0.1.0
 */
import { channelsOf } from "./inspection.ts"
import type { Channel, Connection, Core } from "./model.ts"

/**
 * Which connections. Defaults to all.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConnectionSelector {
  /** The connection's `name` or `clientName`. */
  readonly connection?: string | undefined
}

/**
 * Which channels. Defaults to all.
 *
 * @category models
 * @since 0.1.0
 */
export interface ChannelSelector extends ConnectionSelector {
  readonly channel?: number | undefined
}

/**
 * Which consumers. Defaults to all.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConsumerSelector extends ChannelSelector {
  readonly queue?: string | undefined
  readonly consumerTag?: string | undefined
}

const isSelected = (selector: ConnectionSelector, { clientName, name }: Connection): boolean =>
  selector.connection === undefined || selector.connection === name || selector.connection === clientName

export const selectConnections = (core: Core, selector: ConnectionSelector): ReadonlyArray<Connection> =>
  [...core.connections.values()].filter((connection) => isSelected(selector, connection))

export const selectChannels = (core: Core, selector: ChannelSelector): ReadonlyArray<Channel> =>
  channelsOf(core).flatMap(([connection, channel]) =>
    isSelected(selector, connection) && (selector.channel === undefined || selector.channel === channel.number)
      ? [channel]
      : []
  )

/** Consumers by their channels and tags. */
export const selectConsumers = (
  core: Core,
  selector: ConsumerSelector
): ReadonlyArray<{ readonly channel: Channel; readonly tag: string }> =>
  selectChannels(core, selector).flatMap((channel) =>
    channel.consumers.flatMap(({ queue, subscriber }) =>
      (selector.queue === undefined || selector.queue === queue.name) &&
        (selector.consumerTag === undefined || selector.consumerTag === subscriber.tag)
        ? [{ channel, tag: subscriber.tag }]
        : []
    )
  )

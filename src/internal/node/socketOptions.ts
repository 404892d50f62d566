/**
 * Options of the TCP socket below a connection, checked. Names and meanings are those of `node:net`.
 *
 * It does not use the platform: `NodeAmqp` hands the result to it.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import { duration, integer, invalid, shown } from "../connection/optionChecks.ts"
import * as AmqpUri from "../connection/uri.ts"
import type { AmqpEncodeError } from "../errors/value.ts"

/**
 * Options of the TCP socket, with TLS or without.
 *
 * @category models
 * @since 0.1.0
 */
export interface SocketOptions {
  /**
   * Whether the system probes a silent peer (`SO_KEEPALIVE`). That helps against devices in between that forget silent
   * connections. A dead peer is found by AMQP's heartbeats. Defaults to `false`.
   */
  readonly keepAlive?: boolean | undefined
  /** How long nothing may come before the first probe, in whole seconds. Defaults to the platform's. */
  readonly keepAliveInitialDelay?: Duration.Input | undefined
  /** Whether small writes go out at once (`TCP_NODELAY`). Defaults to `true`; with `false` each may wait for a round trip. */
  readonly noDelay?: boolean | undefined
  /** The address to connect from, of this machine. Defaults to the system's choice. */
  readonly localAddress?: string | undefined
  /** The port to connect from. Defaults to any. With a fixed port there can be only one connection to an endpoint. */
  readonly localPort?: number | undefined
  /** Whether names are looked up as IPv4 or IPv6 addresses only. Defaults to both. */
  readonly family?: 4 | 6 | undefined
  /** Whether all addresses of a name are tried, IPv6 and IPv4 in turn. Defaults to the platform's, which is `true`. */
  readonly autoSelectFamily?: boolean | undefined
  /** How long one address is tried before the next, from 10 milliseconds. Defaults to the platform's. */
  readonly autoSelectFamilyAttemptTimeout?: Duration.Input | undefined
}

/** Socket options, checked and completed. */
export interface ResolvedSocketOptions {
  readonly noDelay: boolean
  readonly keepAlive: boolean
  /** Milliseconds; 0 is the platform's choice. */
  readonly keepAliveInitialDelay: number
  /** Options of the call that connects. The platform chooses what is absent. */
  readonly connect: {
    readonly localAddress?: string
    readonly localPort?: number
    readonly family?: 4 | 6
    readonly autoSelectFamily?: boolean
    readonly autoSelectFamilyAttemptTimeout?: number
  }
}

/** The defaults. */
export const defaults: ResolvedSocketOptions = {
  noDelay: true,
  keepAlive: false,
  keepAliveInitialDelay: 0,
  connect: {}
}

const boolean = (option: string, value: unknown): Result.Result<void, AmqpEncodeError> =>
  value === undefined || typeof value === "boolean"
    ? Result.void
    : invalid(`socket.${option}`, `expected true or false, not ${shown(value)}`)

const millis = (
  option: string,
  input: Duration.Input | undefined,
  least: Duration.Duration
): Result.Result<number | undefined, AmqpEncodeError> => {
  if (input === undefined) return Result.succeed(undefined)
  const path = `socket.${option}`
  return Result.flatMap(
    duration(path, input, least),
    (value) =>
      Duration.isLessThan(value, least) || !Duration.isFinite(value)
        ? invalid(path, `expected at least ${Duration.format(least)}, and not for ever`)
        : Result.succeed(Duration.toMillis(value))
  )
}

const familyOf = (address: string): 4 | 6 | undefined => {
  if (AmqpUri.isIpv6(address)) return 6
  return /^\d{1,3}(\.\d{1,3}){3}$/.test(address) && address.split(".").every((octet) => Number(octet) <= 255)
    ? 4
    : undefined
}

/** Checks and completes. The paths of its errors begin with `options.socket`. */
export const resolve = (options: SocketOptions): Result.Result<ResolvedSocketOptions, AmqpEncodeError> =>
  Result.gen(function*() {
    const { autoSelectFamily, family, keepAlive, localAddress, localPort, noDelay } = options
    yield* boolean("keepAlive", keepAlive)
    yield* boolean("noDelay", noDelay)
    yield* boolean("autoSelectFamily", autoSelectFamily)
    if (family !== undefined && family !== 4 && family !== 6) {
      return yield* invalid("socket.family", `expected 4 or 6, not ${shown(family)}`)
    }
    if (localAddress !== undefined) {
      const own = familyOf(String(localAddress))
      if (own === undefined) {
        return yield* invalid(
          "socket.localAddress",
          `expected an IP address of this machine, not ${shown(localAddress)}`
        )
      }
      if (family !== undefined && family !== own) {
        return yield* invalid(
          "socket.localAddress",
          `expected an IPv${family} address, as family says, not ${localAddress}`
        )
      }
    }
    const delay = yield* millis("keepAliveInitialDelay", options.keepAliveInitialDelay, Duration.seconds(1))
    if (delay !== undefined && keepAlive !== true) {
      return yield* invalid("socket.keepAliveInitialDelay", "expected keepAlive: true with it")
    }
    const attempt = yield* millis(
      "autoSelectFamilyAttemptTimeout",
      options.autoSelectFamilyAttemptTimeout,
      Duration.millis(10)
    )
    return {
      noDelay: noDelay ?? defaults.noDelay,
      keepAlive: keepAlive ?? defaults.keepAlive,
      keepAliveInitialDelay: delay ?? defaults.keepAliveInitialDelay,
      connect: {
        ...(localAddress === undefined ? {} : { localAddress }),
        ...(localPort === undefined ? {} : { localPort: yield* integer("socket.localPort", localPort, 1, 65535) }),
        ...(family === undefined ? {} : { family }),
        ...(autoSelectFamily === undefined ? {} : { autoSelectFamily }),
        ...(attempt === undefined ? {} : { autoSelectFamilyAttemptTimeout: attempt })
      }
    }
  })

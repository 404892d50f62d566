/**
 * The TLS options of Node, from those of an endpoint. Files are read at each attempt.
 *
 * @since 0.1.0
 */
/// <reference types="node" />
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { readFile } from "node:fs/promises"
import { isIP } from "node:net"
import type { ConnectionOptions } from "node:tls"
import { type Endpoint, formatEndpoint, type TlsOptions } from "../connection/transport.ts"
import { TlsFailed } from "../errors/clientReasons.ts"
import { AmqpConnectionError } from "../errors/connection.ts"
import type { ResolvedSocketOptions } from "./socketOptions.ts"

const toBytes = (pem: string | Uint8Array): string | Buffer =>
  typeof pem === "string" ? pem : Buffer.from(pem.buffer, pem.byteOffset, pem.byteLength)

/** PEM from a value, or else from a file. */
const pem = (
  endpoint: Endpoint,
  value: string | Uint8Array | undefined,
  path: string | undefined
): Effect.Effect<string | Buffer | undefined, AmqpConnectionError> => {
  if (value !== undefined) return Effect.succeed(toBytes(value))
  if (path === undefined) return Effect.undefined
  return Effect.tryPromise({
    try: () => readFile(path),
    catch: (cause) =>
      new AmqpConnectionError({
        reason: new TlsFailed({
          endpoint: formatEndpoint(endpoint),
          code: cause instanceof Error && "code" in cause ? String(cause.code) : "",
          detail: `cannot read ${path}`
        })
      })
  })
}

export const tlsOptions = (
  endpoint: Endpoint,
  tls: TlsOptions,
  { connect }: ResolvedSocketOptions
): Effect.Effect<ConnectionOptions, AmqpConnectionError> =>
  Effect.map(
    Effect.all({
      ca: pem(endpoint, tls.ca, tls.caFile),
      cert: pem(endpoint, tls.cert, tls.certFile),
      key: pem(endpoint, tls.key === undefined ? undefined : Redacted.value(tls.key), tls.keyFile)
    }),
    ({ ca, cert, key }): ConnectionOptions => ({
      ...connect,
      host: endpoint.host,
      port: endpoint.port,
      rejectUnauthorized: tls.verify ?? true,
      // An address is not a name that a client may ask for.
      ...(tls.servername === false || (tls.servername === undefined && isIP(endpoint.host) !== 0)
        ? {}
        : { servername: tls.servername ?? endpoint.host }),
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      ...(tls.passphrase === undefined ? {} : { passphrase: Redacted.value(tls.passphrase) })
    })
  )

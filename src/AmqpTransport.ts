/**
 * The service that connects to an endpoint: any `effect/socket` that carries bytes in both directions.
 *
 * A transport dials, and says how dialing failed. It knows nothing of AMQP: framing, credentials and timeouts are above
 * it. `NodeAmqp` has the one for TCP and TLS on Node.
 *
 * @since 0.1.0
 */
export type { Endpoint, TlsOptions, TransportOptions, TransportSocket } from "./internal/connection/transport.ts"
export { AmqpTransport, formatEndpoint, isHangUp, lostError, openError } from "./internal/connection/transport.ts"

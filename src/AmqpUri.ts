/**
 * AMQP URIs, after the RabbitMQ URI specification and its page of query parameters:
 * `amqp://user:pass@host:5672/vhost?heartbeat=10`, `amqps://` for TLS.
 *
 * `parse` and `format` are inverses. An absent part and an empty one differ, except for host, port and vhost, where
 * empty means absent: `amqp://host/` is `amqp://host`, as most other clients read it. Every part may hold any Unicode
 * text, percent-encoded as UTF-8.
 *
 * It refuses texts outside the grammar (a second path segment, a fragment, an unencoded delimiter, a bad escape),
 * values that cannot work (port 70000), and query parameters that nobody would read: a misspelt one, one that is given
 * twice, a TLS one on `amqp://`. An error never repeats text of the URI, because in a broken URI any piece may be part
 * of the password. There is one exception, the name of an unknown query parameter: see `AmqpUriError`.
 *
 * @since 0.1.0
 */
export type { AmqpUri, AmqpUriQuery } from "./internal/connection/uri.ts"
export { AmqpUriError, defaultPort, format, formatSafe, parse, vhostOrDefault } from "./internal/connection/uri.ts"

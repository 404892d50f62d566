/**
 * An AMQP 0-9-1 client that is native to Effect.
 *
 * Written by `npm run barrel`.
 *
 * @since 0.1.0
 */

/**
 * SASL mechanisms as plain values.
 *
 * @since 0.1.0
 */
export * as AmqpAuth from "./AmqpAuth.ts"

/**
 * A channel.
 *
 * @since 0.1.0
 */
export * as AmqpChannel from "./AmqpChannel.ts"

/**
 * A connection to a broker, as a scoped value or a layer over `AmqpTransport`.
 *
 * @since 0.1.0
 */
export * as AmqpConnection from "./AmqpConnection.ts"

/**
 * Consumers that outlive their connections.
 *
 * @since 0.1.0
 */
export * as AmqpConsumer from "./AmqpConsumer.ts"

/**
 * Messages that a consumer or `basic.get` received, and how they are settled.
 *
 * @since 0.1.0
 */
export * as AmqpDelivery from "./AmqpDelivery.ts"

/**
 * Everything that can go wrong, as tagged errors.
 *
 * @since 0.1.0
 */
export * as AmqpError from "./AmqpError.ts"

/**
 * Messages.
 *
 * @since 0.1.0
 */
export * as AmqpMessage from "./AmqpMessage.ts"

/**
 * The wire protocol as pure functions.
 *
 * @since 0.1.0
 */
export * as AmqpProtocol from "./AmqpProtocol.ts"

/**
 * Publishing that is confirmed and survives.
 *
 * @since 0.1.0
 */
export * as AmqpPublisher from "./AmqpPublisher.ts"

/**
 * Field tables (headers, arguments, the properties of peers) with RabbitMQ's set of type tags, which is not the specification's.
 *
 * @since 0.1.0
 */
export * as AmqpTable from "./AmqpTable.ts"

/**
 * Exchanges, queues and bindings as values.
 *
 * @since 0.1.0
 */
export * as AmqpTopology from "./AmqpTopology.ts"

/**
 * The service that connects to an endpoint.
 *
 * @since 0.1.0
 */
export * as AmqpTransport from "./AmqpTransport.ts"

/**
 * AMQP URIs, after the RabbitMQ URI specification and its page of query parameters.
 *
 * @since 0.1.0
 */
export * as AmqpUri from "./AmqpUri.ts"

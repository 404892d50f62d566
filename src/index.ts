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
 * AMQP URIs, after the RabbitMQ URI specification and its page of query parameters.
 *
 * @since 0.1.0
 */
export * as AmqpUri from "./AmqpUri.ts"

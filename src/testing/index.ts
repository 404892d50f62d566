/**
 * What tests of AMQP programs need: a broker inside the process, and faults on demand.
 *
 * Written by `npm run barrel`.
 *
 * @since 0.1.0
 */

/**
 * A broker inside the process, for tests.
 *
 * @since 0.1.0
 */
export * as AmqpBroker from "./AmqpBroker.ts"

/**
 * A transport that fails on demand.
 *
 * @since 0.1.0
 */
export * as AmqpFaults from "./AmqpFaults.ts"

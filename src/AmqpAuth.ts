/**
 * SASL mechanisms as plain values: what a client answers to `connection.start` and to each `connection.secure`
 * (specification 1.4.2.2 to 1.4.2.4).
 *
 * PLAIN, AMQPLAIN, EXTERNAL and ANONYMOUS are here; `make` builds any other one, of any number of rounds. A step never
 * throws: it returns bytes or a typed failure. An error that a user's step threw is not repeated, because it may hold a
 * secret. Passwords stay `Redacted` until the bytes are asked for, and no mechanism shows one when it is printed.
 *
 * Not offered: a PLAIN authorization identity, which RabbitMQ refuses.
 *
 * @since 0.1.0
 */
export type { Credentials, Mechanism, MechanismOptions } from "./internal/engine/mechanisms.ts"
export { amqplain, anonymous, external, make, plain, select } from "./internal/engine/mechanisms.ts"

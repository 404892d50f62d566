/**
 * Messages: the properties and the body that a publisher gives, and the content that a broker delivers, returns or
 * hands out.
 *
 * A received message keeps its header as bytes until its properties are asked for, so a consumer that only wants the
 * body does not pay for them, and a header that cannot be decoded is the problem of that message alone. Nothing here
 * interprets a body: content type and encoding are for the application.
 *
 * @since 0.1.0
 */
export type { Properties, PropertiesInput, Publish } from "./internal/codec/message.ts"
export { AmqpMessage } from "./internal/codec/message.ts"

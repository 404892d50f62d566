/**
 * Messages: the properties and the body that a publisher gives, and the content that a broker delivers, returns or
 * hands out.
 *
 * A received message keeps its header as bytes until its properties are read. So a consumer that only wants the body
 * does not pay for them, and a header that cannot be decoded concerns that message alone. Nothing here interprets a
 * body: the application does, by content type and encoding.
 *
 * @since 0.1.0
 */
export type { Properties, PropertiesInput, Publish } from "./internal/codec/message.ts"
export { AmqpMessage } from "./internal/codec/message.ts"

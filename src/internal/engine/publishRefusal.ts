/**
 * Which publishes a refusal speaks of, by the broker's words: RabbitMQ closes the channel and gives a text, which quotes
 * what it did not like.
 *
 * A publish is named if the broker would say the same words of it. If only one is in question, it needs no name. An
 * unknown text names nobody: a resend then finds the message by sending those in question one at a time.
 *
 * @since 0.1.0
 */
import { bodyBytes, type PropertiesInput, type Publish } from "../codec/message.ts"
import type { ChannelClose } from "../codec/spec.ts"
import { isValue } from "../values/tableValue.ts"

/** The parts of a publish for which a broker may refuse it. */
export interface PublishTraits {
  readonly exchange: string
  readonly routingKey: string
  readonly properties: PropertiesInput
  /** Of the body, in bytes. */
  readonly size: number
}

/** The parts of this publish for which a broker may refuse it. */
export const traitsOf = ({ body, exchange = "", properties = {}, routingKey = "" }: Publish): PublishTraits => ({
  exchange,
  routingKey,
  properties,
  size: bodyBytes(body).length
})

/**
 * The end of a reply text that did not fit into the 255 bytes of a short string, and the least length of such a text.
 */
const cut = "..."
const cutSize = 252

/** The broker's words without the name of the reply code, and whether the end was cut off. */
interface Spoken {
  readonly text: string
  readonly isCut: boolean
}

const spokenIn = (replyText: string): Spoken => {
  const text = replyText.replace(/^[A-Z_]+ - /, "")
  return text.endsWith(cut) && new TextEncoder().encode(replyText).length >= cutSize
    // It may be cut inside of a character.
    ? { text: text.slice(0, -cut.length).replace(/\uFFFD+$/, ""), isCut: true }
    : { text, isCut: false }
}

const begins = ({ isCut, text }: Spoken, words: string): boolean =>
  text.startsWith(words) || (isCut && words.startsWith(text))

/** These headers name further routing keys: arrays, or nothing. */
const isNoArray = ({ headers }: PropertiesInput, header: "BCC" | "CC"): boolean => {
  if (headers === undefined) return false
  // The broker looks at the first of a key that occurs twice.
  const value = isValue(headers) ? headers.value.find(([key]) => key === header)?.[1] : headers[header]
  if (value === undefined) return false
  return isValue(value) ? value._tag !== "Array" : !Array.isArray(value)
}

/** Whether a 403 or 404 speaks of this exchange, or of this routing key there. */
const isRefusedThere = (spoken: Spoken, { exchange, routingKey }: PublishTraits): boolean => {
  const name = `'${exchange === "" ? "amq.default" : exchange}'`
  const topic = /^(?:write )?access to topic '/.exec(spoken.text)?.[0]
  if (topic !== undefined) {
    return begins(spoken, `${topic}${routingKey}' in `) && (spoken.isCut || spoken.text.includes(`${name} in vhost '`))
  }
  // Other brokers have other words for it. It may be cut inside of the name.
  const at = spoken.isCut ? spoken.text.lastIndexOf("exchange '") : -1
  return spoken.text.includes(`exchange ${name}`) || (at >= 0 && `exchange ${name}`.startsWith(spoken.text.slice(at)))
}

/** Whether a 406 speaks of this message. Its text begins with what is wrong. */
const isRefusedSo = (spoken: Spoken, { properties, size }: PublishTraits): boolean => {
  const { deliveryMode, expiration, replyTo, userId } = properties
  return begins(spoken, `message size ${size} is larger than `) ||
    (userId !== undefined && begins(spoken, `user_id property set to '${userId}' but authenticated user was '`)) ||
    (expiration !== undefined && begins(spoken, `invalid expiration '${expiration}': `)) ||
    (replyTo === "amq.rabbitmq.reply-to" && begins(spoken, "fast reply consumer does not exist")) ||
    begins(spoken, `invalid message: {delivery_mode_unknown,${deliveryMode}}`) ||
    (["CC", "BCC"] as const).some((header) =>
      isNoArray(properties, header) && begins(spoken, `invalid message: {unacceptable_type_in_header,"${header}",`)
    )
}

/** The publishes among `suspects` that the broker's words fit. All of them would be refused alike. */
export const refusedOf = <A>(
  { replyCode, replyText }: ChannelClose,
  suspects: ReadonlyArray<A>,
  traits: (suspect: A) => PublishTraits | undefined
): ReadonlyArray<A> => {
  const spoken = spokenIn(replyText)
  const isRefused = replyCode === 403 || replyCode === 404 ? isRefusedThere : isRefusedSo
  const named = suspects.filter((suspect) => {
    const known = traits(suspect)
    return known !== undefined && isRefused(spoken, known)
  })
  // They may differ in the part that was cut off.
  if (named.length > 1 && spoken.isCut) return []
  return named.length === 0 && suspects.length === 1 ? suspects : named
}

/**
 * What a user may do, with RabbitMQ's words where it may not. There are no permissions by topic.
 *
 * @since 0.1.0
 */
import type { Permissions, User } from "../model/model.ts"
import { accessRefused } from "../model/refusal.ts"
import { resource } from "../vhost/arguments.ts"

/** As in RabbitMQ, an empty expression matches the empty name alone. Any other may match a part of the name. */
const allows = (expression: RegExp, name: string): boolean =>
  expression.source === "(?:)" ? name === "" : name.search(expression) >= 0

/** Refuses with 403 what the user may not do with a queue or an exchange. */
export const checkAccess = (
  user: User,
  vhost: string,
  right: keyof Permissions,
  kind: "queue" | "exchange",
  name: string
): void => {
  const permissions = user.permissions.get(vhost)
  const shown = kind === "exchange" && name === "" ? "amq.default" : name
  if (permissions === undefined || !allows(permissions[right], shown)) {
    throw accessRefused(`access to ${resource(kind, shown, vhost)} refused for user '${user.name}'`)
  }
}

import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Cause, Redacted, Result, Schema } from "effect"
import { inspect } from "node:util"
import * as AmqpUri from "../../src/AmqpUri.ts"

const parsed = (uri: string): AmqpUri.AmqpUri => Result.getOrThrow(AmqpUri.parse(uri))

const failed = (uri: string): AmqpUri.AmqpUriError =>
  Result.match(AmqpUri.parse(uri), {
    onFailure: (error) => error,
    onSuccess: () => assert.fail(`accepted: ${uri}`)
  })

/** Secrets in clear, so that a comparison sees them. */
const reveal = ({ password, query, ...uri }: AmqpUri.AmqpUri) => ({
  ...uri,
  ...(password && { password: Redacted.value(password) }),
  query: { ...query, ...(query.password && { password: Redacted.value(query.password) }) }
})

/** Everything that an error can look like in a log. */
const renderings = (error: AmqpUri.AmqpUriError): string =>
  [
    error.message,
    error.stack,
    error.cause,
    String(error),
    JSON.stringify(error),
    JSON.stringify(Schema.encodeSync(AmqpUri.AmqpUriError)(error)),
    JSON.stringify(Cause.fail(error)),
    Cause.pretty(Cause.fail(error)),
    inspect(error, { depth: null, showHidden: true })
  ].join("\n")

describe("parse", () => {
  // Appendix A of the specification, row by row. An empty cell there is an absent property here, and so is an empty vhost.
  it.each<[uri: string, expected: object]>([
    ["amqp://user:pass@host:10000/vhost", {
      username: "user",
      password: "pass",
      host: "host",
      port: 10000,
      vhost: "vhost"
    }],
    ["amqp://user%61:%61pass@ho%61st:10000/v%2fhost", {
      username: "usera",
      password: "apass",
      host: "hoast",
      port: 10000,
      vhost: "v/host"
    }],
    ["amqp://", {}],
    ["amqp://:@/", { username: "", password: "" }],
    ["amqp://user@", { username: "user" }],
    ["amqp://user:pass@", { username: "user", password: "pass" }],
    ["amqp://host", { host: "host" }],
    ["amqp://:10000", { port: 10000 }],
    ["amqp:///vhost", { vhost: "vhost" }],
    ["amqp://host/", { host: "host" }],
    ["amqp://host/%2f", { host: "host", vhost: "/" }],
    ["amqp://[::1]", { host: "::1" }]
  ])("HS18 appendix A: %s", (uri, expected) => {
    assert.deepStrictEqual(reveal(parsed(uri)), { scheme: "amqp", ...expected, query: {} })
    assert.deepStrictEqual(reveal(parsed(uri.replace("amqp:", "amqps:"))), { scheme: "amqps", ...expected, query: {} })
  })

  it.each<[uri: string, expected: object]>([
    ["AMQPS://host", { scheme: "amqps", host: "host" }],
    ["amqp://user:@host", { username: "user", password: "", host: "host" }],
    ["amqp://:pass@host", { username: "", password: "pass", host: "host" }],
    ["amqp://@host", { username: "", host: "host" }],
    ["amqp://host:/v", { host: "host", vhost: "v" }],
    ["amqp://host:1/v", { host: "host", port: 1, vhost: "v" }],
    ["amqp://host:065535/v", { host: "host", port: 65535, vhost: "v" }],
    ["amqp://host?", { host: "host" }],
    ["amqp://host/?", { host: "host" }],
    ["amqp:///", {}],
    ["amqp:///?", {}],
    ["amqp://u:p@/", { username: "u", password: "p" }],
    ["amqp://u:p@host:1/", { username: "u", password: "p", host: "host", port: 1 }],
    ["amqp://host/a:b@c", { host: "host", vhost: "a:b@c" }],
    ["amqp://host/a+b%20c", { host: "host", vhost: "a+b c" }],
    ["amqp://u!$&'()*+,;=:p-._~@host", { username: "u!$&'()*+,;=", password: "p-._~", host: "host" }],
    ["amqp://%40%3A%2F:%3a%40%23@host", { username: "@:/", password: ":@#", host: "host" }],
    ["amqp://p%C3%A4ss:%E2%9C%93%f0%9f%90%87@h%C3%B6st/%EF%BB%BF", {
      username: "päss",
      password: "✓🐇",
      host: "höst",
      vhost: "\ufeff"
    }],
    ["amqp://päss:✓🐇@höst/ö", { username: "päss", password: "✓🐇", host: "höst", vhost: "ö" }],
    ["amqp://user:pass@[2001:db8::192.0.2.1]:10000/v", {
      username: "user",
      password: "pass",
      host: "2001:db8::192.0.2.1",
      port: 10000,
      vhost: "v"
    }],
    ["amqp://[fe80::1%25eth0]", { host: "fe80::1%eth0" }],
    ["amqp://[::]", { host: "::" }],
    ["amqp://[1:2:3:4:5:6:7::]", { host: "1:2:3:4:5:6:7::" }],
    ["amqp://[1:2:3:4:5:6:7:8]", { host: "1:2:3:4:5:6:7:8" }],
    ["amqp://[1:2:3:4:5:6:1.2.3.4]", { host: "1:2:3:4:5:6:1.2.3.4" }]
  ])("HS18 beyond the appendix: %s", (uri, expected) => {
    assert.deepStrictEqual(reveal(parsed(uri)), { scheme: "amqp", ...expected, query: {} })
  })

  it.each([
    ["amqp://h", "/"],
    ["amqp://h/", "/"],
    ["amqp://h/%2f", "/"],
    ["amqp:///", "/"],
    ["amqp://", "/"],
    ["amqp://guest:guest@localhost:5672/", "/"],
    ["amqp://guest:guest@localhost:5672/?heartbeat=5", "/"],
    ["amqps://guest@h/?verify=verify_none", "/"],
    ["amqp://h?heartbeat=5", "/"],
    ["amqp://h/%2F%2F", "//"],
    ["amqp://h/v", "v"]
  ])("HS17 the vhost of %s is %s", (uri, vhost) => {
    assert.strictEqual(AmqpUri.vhostOrDefault(parsed(uri)), vhost)
    assert.strictEqual(AmqpUri.vhostOrDefault(parsed(AmqpUri.format(parsed(uri)))), vhost)
  })

  it("HS17 no URI has an empty vhost", () => {
    assert.strictEqual(AmqpUri.vhostOrDefault({ vhost: "" }), "/")
    assert.notProperty(parsed("amqp://h/"), "vhost")
    assert.strictEqual(AmqpUri.format(parsed("amqp://h/")), "amqp://h")
  })

  it("TL08 knows the port of each scheme", () => {
    assert.strictEqual(AmqpUri.defaultPort(parsed("amqp://h").scheme), 5672)
    assert.strictEqual(AmqpUri.defaultPort(parsed("amqps://h").scheme), 5671)
  })

  it("takes a Redacted", () => {
    assert.strictEqual(Result.getOrThrow(AmqpUri.parse(Redacted.make("amqp://h"))).host, "h")
  })

  it("shows no password when its value is printed", () => {
    const uri = parsed("amqps://user:s3cret@h?password=s3cret")
    assert.notInclude(inspect(uri, { depth: null, showHidden: true }) + JSON.stringify(uri), "s3cret")
  })

  it.each<[uri: string, part: AmqpUri.AmqpUriError["part"]]>([
    ["", "scheme"],
    ["garbage", "scheme"],
    ["http://host", "scheme"],
    ["amqp:host", "scheme"],
    ["amqp:/host", "scheme"],
    ["amqpss://host", "scheme"],
    [" amqp://host", "scheme"],
    ["user:pass@host", "scheme"],
    ["amqp://host/a/b", "vhost"],
    ["amqp://host//", "vhost"],
    ["amqp://host/%xx", "vhost"],
    ["amqp://host/%2", "vhost"],
    ["amqp://host/%", "vhost"],
    ["amqp://host/%ff", "vhost"],
    ["amqp://host/%c0%af", "vhost"],
    ["amqp://host/%ED%A0%80", "vhost"],
    ["amqp://host/\ud800", "vhost"],
    ["amqp://host/a b", "vhost"],
    ["amqp://host/a\nb", "vhost"],
    ["amqp://host/[a]", "vhost"],
    ["amqp://us%er@host", "username"],
    ["amqp://a@b@host", "username"],
    ["amqp://a b:c@host", "username"],
    ["amqp://user:pa:ss@host", "password"],
    ["amqp://user:pa@ss@host", "password"],
    ["amqp://user:%zz@host", "password"],
    ["amqp://user:[pass@host", "password"],
    ["amqp://user:pa/ss@host", "port"],
    ["amqp://user:pa?ss@host", "port"],
    ["amqp://user:pa#ss@host", "port"],
    ["amqp://user:12#ss@host", "fragment"],
    ["amqp://ho%st", "host"],
    ["amqp://ho st", "host"],
    ["amqp://ho\\st", "host"],
    ["amqp://[::1", "host"],
    ["amqp://::1]", "port"],
    ["amqp://[]", "host"],
    ["amqp://[host]", "host"],
    ["amqp://[1.2.3.4]", "host"],
    ["amqp://[v1.x]", "host"],
    ["amqp://[::1]x", "host"],
    ["amqp://[::1%25]", "host"],
    ["amqp://[1::2::3]", "host"],
    ["amqp://[1:2:3:4:5:6:7]", "host"],
    ["amqp://[1:2:3:4:5:6:7:8:9]", "host"],
    ["amqp://[1:2:3:4::5:6:7:8]", "host"],
    ["amqp://[:1:2:3:4:5:6:7]", "host"],
    ["amqp://[12345::]", "host"],
    ["amqp://[1.2.3.4::]", "host"],
    ["amqp://[::256.1.1.1]", "host"],
    ["amqp://[::a1.2.3.4]", "host"],
    ["amqp://::1", "port"],
    ["amqp://host:70000", "port"],
    ["amqp://host:65536", "port"],
    ["amqp://host:0", "port"],
    ["amqp://host:-1", "port"],
    ["amqp://host:+1", "port"],
    ["amqp://host:1e3", "port"],
    ["amqp://host:1.5", "port"],
    ["amqp://host: 1", "port"],
    ["amqp://host:1\n", "port"],
    ["amqp://host:１", "port"],
    ["amqp://host/v#f", "fragment"],
    ["amqp://host?heartbeat=1#f", "fragment"]
  ])("HS19 refuses %j, naming the %s", (uri, part) => {
    const error = failed(uri)
    assert.strictEqual(error._tag, "AmqpUriError")
    assert.strictEqual(error.part, part)
    assert.include(error.message, error.reason)
  })

  it("HS19 refuses what is not a text at all", () => {
    // @ts-expect-error: a missing environment variable, in plain JavaScript
    assert.strictEqual(failed(undefined).part, "scheme")
  })
})

describe("query", () => {
  it("HS20 reads every parameter", () => {
    const { query } = reveal(parsed(
      "amqps://h?heartbeat=10&connection_timeout=10000&channel_max=100&frame_max=8192&auth_mechanism=plain" +
        "&auth_mechanism=amqplain&cacertfile=/path/ca.pem&certfile=/path/cert.pem&keyfile=/path/key.pem&password=p%26q" +
        "&verify=verify_peer&fail_if_no_peer_cert=true&server_name_indication=myhost&depth=3"
    ))
    assert.deepStrictEqual(query, {
      heartbeat: 10,
      connectionTimeout: 10000,
      channelMax: 100,
      frameMax: 8192,
      authMechanism: ["plain", "amqplain"],
      cacertfile: "/path/ca.pem",
      certfile: "/path/cert.pem",
      keyfile: "/path/key.pem",
      password: "p&q",
      verify: "verify_peer",
      failIfNoPeerCert: true,
      serverNameIndication: "myhost",
      depth: 3
    })
  })

  it.each<[query: string, expected: AmqpUri.AmqpUriQuery]>([
    ["heartbeat=0", { heartbeat: 0 }],
    ["heartbeat=65535", { heartbeat: 65535 }],
    ["%68eartbeat=1%30", { heartbeat: 10 }],
    ["connection_timeout=2147483647", { connectionTimeout: 2147483647 }],
    ["channel_max=0", { channelMax: 0 }],
    ["frame_max=0", { frameMax: 0 }],
    ["frame_max=4096", { frameMax: 4096 }],
    ["frame_max=4294967295", { frameMax: 4294967295 }],
    ["verify=verify_none", { verify: "verify_none" }],
    ["fail_if_no_peer_cert=false", { failIfNoPeerCert: false }],
    ["cacertfile=a=b%3Dc+d", { cacertfile: "a=b=c+d" }]
  ])("reads %s", (query, expected) => {
    assert.deepStrictEqual(parsed(`amqps://h?${query}`).query, expected)
  })

  it.each([
    ["heartbeat="],
    ["heartbeat"],
    ["heartbeat=-1"],
    ["heartbeat=65536"],
    ["heartbeat=1.5"],
    ["heartbeat=1e3"],
    ["heartbeat=0x10"],
    ["heartbeat=%2010"],
    ["heartbeat=ten"],
    ["heartbeat=1&heartbeat=2"],
    ["connection_timeout=0"],
    ["connection_timeout=2147483648"],
    ["channel_max=65536"],
    ["frame_max=4095"],
    ["frame_max=4294967296"],
    ["auth_mechanism="],
    ["verify=true"],
    ["fail_if_no_peer_cert=yes"],
    ["cacertfile="],
    ["server_name_indication="],
    ["depth=256"]
  ])("refuses %s, naming the parameter", (query) => {
    const error = failed(`amqps://h?${query}`)
    assert.strictEqual(error.part, "query")
    assert.include(error.reason, /^[a-z_]*/.exec(query)?.[0] ?? assert.fail())
  })

  it.each([["&"], ["heartbeat=1&"], ["&heartbeat=1"], ["heartbeat=%zz"], ["%zz=1"], ["heartbeat=1&a b=1"]])(
    "refuses %s",
    (query) => {
      assert.strictEqual(failed(`amqp://h?${query}`).part, "query")
    }
  )

  it("names a misspelt parameter and the known ones", () => {
    const error = failed("amqp://user:pass@h/v?hearbeat=10")
    assert.strictEqual(error.part, "query")
    assert.match(error.reason, /hearbeat;.* heartbeat,/)
  })

  it.each([
    ["cacertfile=/ca.pem"],
    ["certfile=/cert.pem"],
    ["keyfile=/key.pem"],
    ["password=p"],
    ["verify=verify_peer"],
    ["fail_if_no_peer_cert=true"],
    ["server_name_indication=h"],
    ["depth=1"]
  ])("refuses the TLS parameter %s without TLS", (query) => {
    assert.match(failed(`amqp://h?${query}`).reason, /amqps/)
    parsed(`amqps://h?${query}`)
  })
})

// Any Unicode scalar value, with as many delimiters and escapes among them as a parser can stumble over.
const text: Arbitrary.Arbitrary<string> = Arbitrary.array(
  Arbitrary.all([
    Arbitrary.schema(Schema.Literals(["delimiter", "ascii", "unicode"])),
    Arbitrary.schema(Schema.Literals([..."%:@/?#[]&=+ \0.", "%41", "%2F"])),
    Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0x7f }))),
    Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0x80, maximum: 0x10ffff })))
  ]).pipe(Arbitrary.map(([kind, delimiter, ascii, unicode]) =>
    kind === "delimiter" ?
      delimiter :
      String.fromCodePoint(kind === "ascii" ? ascii : unicode >= 0xd800 && unicode <= 0xdfff ? 0xfffd : unicode)
  ))
).pipe(Arbitrary.map((pieces) => pieces.join("")))

const filled = text.pipe(Arbitrary.map((text) => text || "x"))

const between = (minimum: number, maximum: number) =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

const boolean = Arbitrary.schema(Schema.Boolean)

/** The fields of a record, each present or absent. */
const some = <A extends object>(fields: { readonly [K in keyof A]: Arbitrary.Arbitrary<A[K]> }) =>
  Arbitrary.all([
    Arbitrary.all(fields),
    Arbitrary.array(boolean, { minLength: 16, maxLength: 16 })
  ]).pipe(
    Arbitrary.map(([record, present]) => Object.fromEntries(Object.entries(record).filter((_, i) => present[i])))
  )

const commonQuery = {
  heartbeat: between(0, 65535),
  connectionTimeout: between(1, 2147483647),
  channelMax: between(0, 65535),
  frameMax: between(4096, 4294967295),
  authMechanism: Arbitrary.array(filled, { minLength: 1 })
}

const tlsQuery = {
  cacertfile: filled,
  certfile: filled,
  keyfile: filled,
  password: text.pipe(Arbitrary.map((text) => Redacted.make(text))),
  verify: Arbitrary.schema(Schema.Literals(["verify_peer", "verify_none"])),
  failIfNoPeerCert: boolean,
  serverNameIndication: filled,
  depth: between(0, 255)
}

const host = Arbitrary.all([
  filled,
  Arbitrary.schema(Schema.Literals(["name", "::1", "1:2:3:4:5:6:7::", "::ffff:192.0.2.1", "fe80::1"])),
  filled
]).pipe(
  Arbitrary.map(([name, address, zone]) =>
    address === "name" ? name : address === "fe80::1" ? `${address}%${zone}` : address
  )
)

const uris = Arbitrary.all([
  Arbitrary.schema(Schema.Literals(["amqp", "amqps"])),
  some({ username: text, host, port: between(1, 65535), vhost: filled }),
  some({ password: text.pipe(Arbitrary.map((text) => Redacted.make(text))) }),
  some(commonQuery),
  some(tlsQuery)
]).pipe(Arbitrary.map(([scheme, parts, password, common, tls]): AmqpUri.AmqpUri => ({
  scheme,
  ...parts,
  ...("username" in parts && password),
  query: { ...common, ...(scheme === "amqps" && tls) }
})))

/** Percent-encodes every octet, in lower case: as far from what `format` writes as the grammar allows. */
const encodeAll = (text: string): string =>
  Array.from(new TextEncoder().encode(text), (octet) => `%${octet.toString(16).padStart(2, "0")}`).join("")

describe("format", () => {
  it.prop("parse undoes format", [uris], ([uri]) => {
    const text = AmqpUri.format(uri)
    assert.match(text, /^[!-~]*$/)
    assert.deepStrictEqual(reveal(parsed(text)), reveal(uri))
  }, { arbitrary: { runs: 500 } })

  it.prop(
    "format undoes parse, up to how a character was encoded",
    [Arbitrary.all({ username: text, password: text, host: filled, vhost: filled, file: filled })],
    ([{ file, host, password, username, vhost }]) => {
      const written = (encode: (text: string) => string) =>
        `amqps://${encode(username)}:${encode(password)}@${encode(host)}:5671/${encode(vhost)}?cacertfile=${
          encode(file)
        }`
      assert.strictEqual(AmqpUri.format(parsed(written(encodeURIComponent))), written(encodeURIComponent))
      assert.deepStrictEqual(reveal(parsed(written(encodeAll))), reveal(parsed(written(encodeURIComponent))))
    },
    { arbitrary: { runs: 300 } }
  )

  it.prop("any text is parsed or refused, and what is parsed survives", [text], ([text]) => {
    const result = AmqpUri.parse(`amqp://${text}`)
    if (Result.isSuccess(result)) {
      assert.deepStrictEqual(reveal(parsed(AmqpUri.format(result.success))), reveal(result.success))
    }
  }, { arbitrary: { runs: 1000 } })

  it("writes plain URIs plainly", () => {
    for (
      const uri of [
        "amqp://",
        "amqp://guest:guest@localhost:5672/%2F",
        "amqp://:@",
        "amqp://user@",
        "amqps://[::1]:5671/v?heartbeat=10&auth_mechanism=plain&auth_mechanism=external&verify=verify_peer"
      ]
    ) assert.strictEqual(AmqpUri.format(parsed(uri)), uri)
  })

  it("does not take a name with a colon for an IPv6 address", () => {
    assert.strictEqual(AmqpUri.format(parsed("amqp://a%3Ab")), "amqp://a%3Ab")
  })

  it("writes values outside the model without throwing", () => {
    assert.strictEqual(
      AmqpUri.format({ scheme: "amqp", password: Redacted.make("p"), vhost: "\ud800", query: {} }),
      "amqp://:p@/%EF%BF%BD"
    )
  })

  it("formatSafe hides both passwords and nothing else", () => {
    assert.strictEqual(
      AmqpUri.formatSafe(parsed("amqps://user:s3cret@h:1/v?certfile=c&password=s3cret&depth=1")),
      "amqps://user:***@h:1/v?certfile=c&password=***&depth=1"
    )
    assert.strictEqual(AmqpUri.formatSafe(parsed("amqp://user@h")), "amqp://user@h")
  })
})

describe("errors never repeat the user name or the password", () => {
  it.each([
    ["http://xUSERx:xPASSx@host"],
    ["xUSERx:xPASSx@host"],
    ["amqp:xUSERx:xPASSx@host"],
    ["amqp//xUSERx:xPASSx@host"],
    ["amqp://xUSERx:xPASSx"],
    ["amqp://xUSERx:%xPASSx@host"],
    ["amqp://%xUSERx:xPASSx@host"],
    ["amqp://xUSERx:p@xPASSx@host"],
    ["amqp://xUSERx:p:xPASSx@host"],
    ["amqp://xUSERx:xPASSx/p@host"],
    ["amqp://xUSERx:1/xPASSx/p@host/v"],
    ["amqp://xUSERx:xPASSx#p@host"],
    ["amqp://xUSERx:1#xPASSx@host"],
    ["amqp://xUSERx:xPASSx?p@host"],
    ["amqp://xUSERx:1?xPASSx@host"],
    ["amqp://xUSERx:1?xPASSx=2@host"],
    ["amqp://xUSERx:1?p&xPASSx=2&q@host"],
    ["amqp://xUSERx:1?heartbeat=xPASSx@host"],
    ["amqp://xUSERx:1?xPASSx"],
    ["amqp://xUSERx:1/%xPASSx"],
    ["amqp://xUSERx:[xPASSx@host"],
    ["amqp://xUSERx:xPASSx@[host"],
    ["amqp://xUSERx:xPASSx@host:70000"],
    ["amqp://xUSERx:xPASSx@host/a/b"],
    ["amqp://xUSERx:xPASSx@host?hearbeat=1"],
    ["amqps://host?password=xPASSx&password=xPASSx"],
    ["amqps://host?password=%xPASSx"]
  ])("%s", (uri) => {
    for (const input of [uri, Redacted.make(uri)]) {
      const result = AmqpUri.parse(input)
      assert.isTrue(Result.isFailure(result))
      if (Result.isFailure(result)) assert.notMatch(renderings(result.failure), /xUSERx|xPASSx/i)
    }
  })

  it.prop(
    "in whatever it is embedded",
    [Arbitrary.all({ scheme: text, before: text, between: text, after: text, rest: text })],
    ([{ after, before, between, rest, scheme }]) => {
      for (const start of ["amqp://", `${scheme}://`, `amqp:${scheme}`]) {
        const result = AmqpUri.parse(`${start}${before}xUSERx:${between}xPASSx${after}@host${rest}`)
        if (Result.isFailure(result)) assert.notMatch(renderings(result.failure), /xUSERx|xPASSx/i)
      }
    },
    { arbitrary: { runs: 300 } }
  )
})

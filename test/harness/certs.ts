/**
 * Certificates for one test run, made by `openssl`: no key is ever committed.
 */
import { Effect } from "effect"
import { writeFile } from "node:fs/promises"
import * as Path from "node:path"
import { type BrokerError, exec } from "./exec.ts"

/** A certificate and its private key: paths of PEM files. */
export interface KeyPair {
  readonly cert: string
  readonly key: string
}

/** The files that `makeCerts` leaves in a folder. */
export interface Certs {
  /** Signs `server`, `wrongHost` and `client`. */
  readonly ca: string
  /** For `localhost` and `127.0.0.1`. */
  readonly server: KeyPair
  /** From the same authority, for a host that is not us. */
  readonly wrongHost: KeyPair
  /** CN=certuser; `encryptedKey` is the same key under `passphrase`. */
  readonly client: KeyPair & { readonly encryptedKey: string; readonly passphrase: string }
  /** Signs `rogueClient`; nobody trusts it. */
  readonly rogueCa: string
  readonly rogueClient: KeyPair
}

const pair = (folder: string, name: string): KeyPair => ({
  cert: Path.join(folder, `${name}.pem`),
  key: Path.join(folder, `${name}.key`)
})

/** Where the files are, given the folder. */
export const certsIn = (folder: string): Certs => ({
  ca: pair(folder, "ca").cert,
  server: pair(folder, "server"),
  wrongHost: pair(folder, "wronghost"),
  client: {
    ...pair(folder, "client"),
    encryptedKey: Path.join(folder, "client.encrypted.key"),
    passphrase: "correct horse ✓"
  },
  rogueCa: pair(folder, "rogue-ca").cert,
  rogueClient: pair(folder, "rogue-client")
})

/** Makes all of them. P-256 keys: RSA would take seconds. */
export const makeCerts = (folder: string): Effect.Effect<Certs, BrokerError> =>
  Effect.gen(function*() {
    // The machine's own openssl.cnf would add extensions that contradict ours.
    const config = Path.join(folder, "openssl.cnf")
    yield* Effect.promise(() => writeFile(config, "[req]\ndistinguished_name = dn\n[dn]\n"))
    const make = (name: string, cn: string, signer: string | undefined, extensions: ReadonlyArray<string>) => {
      const { cert, key } = pair(folder, name)
      const ca = signer === undefined ? undefined : pair(folder, signer)
      return exec("openssl", [
        ...["req", "-x509", "-config", config, "-days", "2", "-subj", `/CN=${cn}`, "-keyout", key, "-out", cert],
        ...["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
        ...(ca === undefined ? [] : ["-CA", ca.cert, "-CAkey", ca.key]),
        ...extensions.flatMap((extension) => ["-addext", extension])
      ])
    }
    const authority = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
    const leaf = (usage: string) => [
      "basicConstraints=critical,CA:FALSE",
      "keyUsage=digitalSignature",
      `extendedKeyUsage=${usage}`
    ]
    yield* make("ca", "test authority", undefined, authority)
    yield* make("rogue-ca", "rogue authority", undefined, authority)
    yield* make("server", "localhost", "ca", [...leaf("serverAuth"), "subjectAltName=DNS:localhost,IP:127.0.0.1"])
    yield* make("wronghost", "other.example", "ca", [...leaf("serverAuth"), "subjectAltName=DNS:other.example"])
    yield* make("client", "certuser", "ca", leaf("clientAuth"))
    yield* make("rogue-client", "certuser", "rogue-ca", leaf("clientAuth"))
    const certs = certsIn(folder)
    const { encryptedKey, key, passphrase } = certs.client
    yield* exec(
      "openssl",
      ["pkcs8", "-topk8", "-v2", "aes256", "-in", key, "-out", encryptedKey, "-passout", "stdin"],
      {
        input: passphrase
      }
    )
    return certs
  })

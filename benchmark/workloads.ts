/**
 * The workloads, and what we want of them. Bodies have 100 bytes unless the title says otherwise; messages are transient,
 * queues are not durable, every client sends the same properties.
 */
import { defaults, type Job, type Place } from "./job.ts"

/** Ratios that our own figure must not exceed; of the rate, must not fall below. */
export interface Targets {
  /** Processor time per message against the best other client in JavaScript. */
  readonly cpuJs?: number
  /** The same against the C client. */
  readonly cpuC?: number
  /** Messages per second against the best other client in JavaScript. */
  readonly rateJs?: number
  /** Processor time per message against another workload of ours. */
  readonly cpuOwn?: { readonly workload: string; readonly ratio: number }
}

/**
 * RabbitMQ; the same for us alone, with a `readInterval` of 0; the null peer; or that for us alone, to see whether the cost of
 * a message stays what it is.
 */
export type Group = "broker" | "atOnce" | "ceiling" | "flat"

/** Whether it takes RabbitMQ. */
export const isOfBroker = (group: Group): boolean => group === "broker" || group === "atOnce"

export interface Workload {
  readonly id: string
  readonly title: string
  readonly group: Group
  readonly unit: "message" | "request" | "channel" | "connection"
  readonly job: Omit<Job, keyof Place>
  readonly targets: Targets
}

type Options = Partial<Job> & Pick<Job, "kind">

const workload = (
  id: string,
  title: string,
  job: Options,
  targets: Targets = {},
  unit: Workload["unit"] = "message"
): Workload => ({
  id,
  title,
  group: "broker",
  unit,
  job: { ...defaults, ...job },
  // First in every row.
  targets: { cpuJs: 1, rateJs: 1, ...targets }
})

const large = { frameMax: 131072 }
/**
 * Compilers go on with their work for seconds of a run: what is counted comes after that, because programs that publish
 * and consume run for days.
 */
const steady = { warm: 80_000, count: 160_000 }
const KiB = 1024
const MiB = 1024 * KiB

/** What a message costs a consumer that has many queues, of which most are silent. */
const queuesOfOne = (queues: number): Workload => ({
  ...workload(`queues-${queues}`, `a consumer of ${queues} queue${queues === 1 ? "" : "s"}, one message at a time`, {
    kind: "queues",
    queues,
    prefetch: 20,
    warm: 2_000,
    count: 4_000
  }),
  // What it costs is the turns of the event loop, and the broker's; the question is whether the queues add to it.
  targets: queues === 1 ? {} : { cpuOwn: { workload: "queues-1", ratio: 1.1 } }
})

const withBroker: ReadonlyArray<Workload> = [
  workload("publish", "publish", { kind: "publish", ...steady }, { cpuJs: 0.25, cpuC: 0.6 }),
  workload("confirm", "confirmed publish, 256 in flight", { kind: "confirm", ...steady }, {
    cpuJs: 0.6,
    cpuC: 0.8
  }),
  workload("mandatory", "the same, mandatory", { kind: "confirm", ...steady, mandatory: true }),
  workload("batch", "publishAll, 1,000 at a time", { kind: "batch", ...steady, inFlight: 1000 }, {
    cpuOwn: { workload: "confirm", ratio: 0.7 }
  }),
  workload("consume", "consume, no ack", { kind: "consume", ...steady }, { cpuJs: 0.75, cpuC: 1.8 }),
  workload("ack", "consume + ack, prefetch 300", { kind: "consume", prefetch: 300, ...steady }, {
    cpuJs: 0.65,
    cpuC: 1.1
  }),
  workload("run", "handlers, 10 at a time, prefetch 300", { kind: "run", prefetch: 300, ...steady }),
  workload("headers-out", "confirmed publish, 5 headers", {
    kind: "confirm",
    headers: true,
    ...steady
  }),
  workload("headers-in", "consume + ack, 5 headers, one read", {
    kind: "consume",
    headers: true,
    prefetch: 300,
    ...steady
  }),
  {
    // At a given rate there is none to be first in.
    ...workload("arrivals", "consume + ack, 10,000 come in a second", {
      kind: "consume",
      prefetch: 300,
      warm: 30_000,
      count: 30_000,
      arrivals: 10_000
    }),
    targets: { cpuJs: 1 }
  },
  ...[1, 100, 1_000].map((queues) => queuesOfOne(queues)),
  workload(
    "request",
    "request and reply, one at a time",
    { kind: "request", warm: 10_000, count: 15_000 },
    {},
    "request"
  ),
  workload("publish-16k", "confirmed publish, 16 KiB", {
    kind: "confirm",
    size: 16 * KiB,
    warm: 6_000,
    count: 12_000,
    inFlight: 64,
    ...large
  }),
  workload("consume-16k", "consume + ack, 16 KiB", {
    kind: "consume",
    prefetch: 300,
    size: 16 * KiB,
    warm: 6_000,
    count: 12_000,
    ...large
  }),
  workload("publish-1m", "confirmed publish, 1 MiB", {
    kind: "confirm",
    size: MiB,
    warm: 100,
    count: 300,
    inFlight: 8,
    ...large
  }),
  workload("consume-1m", "consume + ack, 1 MiB", {
    kind: "consume",
    prefetch: 10,
    size: MiB,
    warm: 100,
    count: 300,
    ...large
  }),
  workload("channels", "open 1,000 channels", { kind: "channels", warm: 500, count: 1_000 }, {}, "channel"),
  workload("connect", "connect", { kind: "connect", warm: 20, count: 100 }, {}, "connection")
]

const withBrokerOf = (id: string): Workload => {
  const found = withBroker.find((workload) => workload.id === id)
  if (found === undefined) throw new Error(`no workload ${id}`)
  return found
}

/** The same workload, each read at once: what `readInterval` saves, and what it costs. */
const atOnce = (id: string): Workload => {
  const found = withBrokerOf(id)
  return {
    ...found,
    id: `at-once-${id}`,
    title: `${found.title}, read at once`,
    group: "atOnce",
    job: { ...found.job, readInterval: 0 },
    targets: {}
  }
}

/** Without a broker the client itself is the limit, and runs are longer. */
const ceiling = (id: string, factor: number): Workload => {
  const found = withBrokerOf(id)
  const job = { ...found.job, count: found.job.count * factor }
  return { ...found, id: `null-${id}`, group: "ceiling", job, targets: { cpuJs: 1, rateJs: 1 } }
}

/** Ours alone, confirmed or not. */
const flat = (id: string, title: string, job: Options): Workload => ({
  ...workload(`flat-${id}`, title, { warm: 20_000, ...job }),
  group: "flat",
  targets: {}
})

export const workloads: ReadonlyArray<Workload> = [
  ...withBroker,
  atOnce("confirm"),
  atOnce("batch"),
  atOnce("consume"),
  atOnce("ack"),
  atOnce("run"),
  atOnce("arrivals"),
  atOnce("request"),
  ceiling("publish", 4),
  ceiling("confirm", 2),
  ceiling("batch", 2),
  ceiling("consume", 4),
  ceiling("ack", 2),
  ceiling("run", 2),
  flat("10", "publish, 10 messages at a time", { kind: "publish", count: 10, repeat: 2_000 }),
  flat("10k", "publish, 10,000 messages", { kind: "publish", count: 10_000, repeat: 20 }),
  flat("1m", "publish, 1,000,000 messages", { kind: "publish", count: 1_000_000 }),
  flat("consume-10k", "consume + ack, 10,000 messages", { kind: "consume", prefetch: 300, count: 10_000 }),
  flat("consume-1m", "consume + ack, 1,000,000 messages", { kind: "consume", prefetch: 300, count: 1_000_000 }),
  flat("channels-1", "publish on 1 channel", { kind: "publish", count: 300_000 }),
  flat("channels-1000", "publish on 1,000 channels", { kind: "publish", count: 300_000, channels: 1_000 }),
  flat("unconfirmed-1", "confirmed publish, 1 in flight", { kind: "confirm", warm: 2_000, count: 20_000, inFlight: 1 }),
  flat("unconfirmed-256", "confirmed publish, 256 in flight", { kind: "confirm", count: 200_000 }),
  flat("unconfirmed-10k", "confirmed publish, 10,000 in flight, a fiber for each", {
    kind: "confirm",
    count: 200_000,
    inFlight: 10_000
  }),
  flat("unconfirmed-all", "publishAll, 10,000 in flight", { kind: "batch", count: 200_000, inFlight: 10_000 })
]

/** A tenth of the work. */
export const shortened = (workload: Workload): Workload => {
  const tenth = (count: number) => Math.ceil(count / 10)
  const { count, repeat, warm } = workload.job
  const job = { ...workload.job, warm: tenth(warm) }
  return { ...workload, job: repeat > 1 ? { ...job, repeat: tenth(repeat) } : { ...job, count: tenth(count) } }
}

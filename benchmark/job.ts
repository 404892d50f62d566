/**
 * What one process of the benchmark is asked to do, and what it answers: plain data, because it goes through argv and
 * standard output, also of a C program.
 */

/** The clients that are compared. */
export const clientNames = ["effect-amqp", "amqplib", "rabbitmq-client", "cloudamqp", "librabbitmq"] as const

export type ClientName = typeof clientNames[number]

/** The one that is not written in JavaScript. */
export const nativeClient: ClientName = "librabbitmq"

/** Who is talked to. */
export interface Place {
  readonly host: string
  readonly port: number
  readonly queue: string
  /** What is consumed before the clock starts. */
  readonly warmQueue: string
}

/** The C program reads the same fields from its command line, in the order of `toArguments`. */
export interface Job extends Place {
  readonly kind: "publish" | "confirm" | "batch" | "consume" | "run" | "queues" | "request" | "channels" | "connect"
  /** Messages (requests, channels, connections) before the clock starts. */
  readonly warm: number
  /** Messages that are measured. */
  readonly count: number
  /** Of a body, in bytes. */
  readonly size: number
  readonly mandatory: boolean
  /** Whether messages carry headers, and consumers read one. */
  readonly headers: boolean
  /** Unconfirmed publishes at a time; the size of a batch. */
  readonly inFlight: number
  /** 0: no acknowledgement. */
  readonly prefetch: number
  /** Messages that come in a second while they are consumed; 0: they are there before. */
  readonly arrivals: number
  /** Channels that publishes take turns on; ours alone are asked for more than one. */
  readonly channels: number
  /** Queues of one consumer; the messages are in the first of them. */
  readonly queues: number
  /** How often the count is repeated. */
  readonly repeat: number
  /** Frames of this size are asked for; 0 leaves it to the client. */
  readonly frameMax: number
  /** In milliseconds; only ours has it. */
  readonly readInterval: number
}

export const defaults: Omit<Job, "kind" | keyof Place> = {
  warm: 0,
  count: 0,
  size: 100,
  mandatory: false,
  headers: false,
  inFlight: 256,
  prefetch: 0,
  arrivals: 0,
  channels: 1,
  queues: 1,
  repeat: 1,
  frameMax: 0,
  readInterval: 1
}

/** The queues that a consumer consumes from. */
export const queuesOf = ({ queue, queues }: Pick<Job, "queue" | "queues">): ReadonlyArray<string> =>
  Array.from({ length: queues }, (_, i) => i === 0 ? queue : `${queue}.${i}`)

/** What a process has measured. */
export interface Sample {
  /** Of the measured phase, wall clock. */
  readonly seconds: number
  /** Processor time of the client process in the measured phase, user and system, in microseconds. */
  readonly cpu: number
  /** The largest resident size of the process, in bytes. */
  readonly peak: number
  /** What only some jobs have: latencies in microseconds, bytes per channel. */
  readonly extra: Readonly<Record<string, number>>
}

/** `source` publishes what others consume at a rate, each message with the time. */
export const toArguments = (job: Job, kind: Job["kind"] | "source" = job.kind): ReadonlyArray<string> =>
  [
    kind,
    job.host,
    job.port,
    job.queue,
    job.warmQueue,
    job.warm,
    job.count,
    job.size,
    job.mandatory ? 1 : 0,
    job.headers ? 1 : 0,
    job.inFlight,
    job.prefetch,
    job.arrivals
  ].map(String)

/** The headers of messages that have some. */
export const headers: Readonly<Record<string, string | number>> = {
  "x-tenant": "customer-4711",
  "x-attempt": 1,
  "x-source": "orders.eu",
  "x-version": 12,
  "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
}

/** Where publishers say what they want, for every client the same. */
export const contentType = "application/octet-stream"

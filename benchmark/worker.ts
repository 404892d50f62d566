/**
 * One client, one workload, one process: `node worker.ts <client> <job as JSON>` prints its sample as JSON.
 */
import { type Connect, type Connection, deferred } from "./clients/client.ts"
import type { ClientName, Job, Sample } from "./job.ts"
import { Meter, percentiles } from "./measure.ts"

const clients: Partial<Record<ClientName, () => Promise<{ readonly connect: Connect }>>> = {
  "effect-amqp": () => import("./clients/effectAmqp.ts"),
  "amqplib": () => import("./clients/amqplib.ts"),
  "rabbitmq-client": () => import("./clients/rabbitmqClient.ts"),
  "cloudamqp": () => import("./clients/cloudamqp.ts")
}

const publish = async (connection: Connection, job: Job): Promise<Sample> => {
  const send = await connection.publisher(job, new Uint8Array(job.size).fill(0x61))
  if (job.warm > 0) await send(job.warm)
  const meter = new Meter()
  for (let i = 0; i < job.repeat; i++) await send(job.count)
  meter.stop()
  return meter.sample()
}

const consume = async (connection: Connection, job: Job): Promise<Sample> => {
  const meter = new Meter()
  const latencies: Array<number> = []
  const consumeFrom = (queue: string, count: number): Promise<void> => {
    let seen = 0
    meter.start()
    return connection.consume({ ...job, queue }, count, (body) => {
      if (body.length !== job.size) throw new Error(`a body of ${body.length} bytes, not ${job.size}`)
      seen++
      // The first ones have waited for the consumer.
      if (job.arrivals > 0 && seen > count / 10) {
        const published = new DataView(body.buffer, body.byteOffset).getFloat64(0, true)
        latencies.push(Number(process.hrtime.bigint()) / 1000 - published)
      }
      if (seen === count) meter.stop()
    })
  }
  await consumeFrom(job.warmQueue, job.warm)
  latencies.length = 0
  await consumeFrom(job.queue, job.count)
  return meter.sample(percentiles(latencies))
}

/** Each message is published when the one before has been handled and confirmed. */
const oneAtATime = async (connection: Connection, job: Job): Promise<Sample> => {
  const send = await connection.publisher({ ...job, kind: "confirm", inFlight: 1 }, new Uint8Array(job.size).fill(0x61))
  const total = job.warm + job.count
  const latencies: Array<number> = []
  let began = process.hrtime.bigint()
  let handled = deferred()
  const consuming = connection.consume(job, total, () => {
    latencies.push(Number(process.hrtime.bigint() - began) / 1000)
    handled.resolve()
  })
  const meter = new Meter()
  for (let i = 0; i < total; i++) {
    // What comes first waits for all to be subscribed.
    if (i === job.warm) meter.start()
    handled = deferred()
    began = process.hrtime.bigint()
    await Promise.all([send(1), handled.promise])
  }
  meter.stop()
  await consuming
  return meter.sample(percentiles(latencies.slice(job.warm)))
}

const request = async (connection: Connection, job: Job): Promise<Sample> => {
  const requests = await connection.requester(job.queue, new Uint8Array(job.size).fill(0x61))
  await requests(job.warm, () => {})
  const latencies: Array<number> = []
  const meter = new Meter()
  let began = process.hrtime.bigint()
  await requests(job.count, () => {
    const now = process.hrtime.bigint()
    latencies.push(Number(now - began) / 1000)
    began = now
  })
  meter.stop()
  return meter.sample(percentiles(latencies))
}

const channels = async (connection: Connection, job: Job): Promise<Sample> => {
  if (job.warm > 0) await connection.openChannels(job.warm)
  globalThis.gc?.()
  const before = process.memoryUsage()
  const meter = new Meter()
  await connection.openChannels(job.count)
  meter.stop()
  globalThis.gc?.()
  const after = process.memoryUsage()
  const heap = after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers
  return meter.sample({ bytesPerChannel: heap / job.count })
}

const connections = async (connect: Connect, job: Job): Promise<Sample> => {
  for (let i = 0; i < job.warm; i++) await (await connect(job)).close()
  const latencies: Array<number> = []
  const meter = new Meter()
  const open: Array<Connection> = []
  for (let i = 0; i < job.count; i++) {
    const began = process.hrtime.bigint()
    open.push(await connect(job))
    latencies.push(Number(process.hrtime.bigint() - began) / 1000)
  }
  meter.stop()
  for (const connection of open) await connection.close()
  return meter.sample(percentiles(latencies))
}

const run = async (connect: Connect, job: Job): Promise<Sample> => {
  if (job.kind === "connect") return connections(connect, job)
  const connection = await connect(job)
  switch (job.kind) {
    case "publish":
    case "confirm":
    case "batch":
      return publish(connection, job)
    case "consume":
    case "run":
      return consume(connection, job)
    case "queues":
      return oneAtATime(connection, job)
    case "request":
      return request(connection, job)
    case "channels":
      return channels(connection, job)
  }
}

const isClient = (name: string | undefined): name is ClientName => name !== undefined && name in clients

const [, , name, json] = process.argv
const load = isClient(name) ? clients[name] : undefined
if (load === undefined || json === undefined) throw new Error("usage: node worker.ts <client> <job>")
const job: Job = JSON.parse(json)
const sample = await run((await load()).connect, job)
// The connection is left as it is: how it is closed is not measured.
process.stdout.write(JSON.stringify(sample), () => process.exit(0))

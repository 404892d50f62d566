/** The least that a program does: connect, publish, consume. */
import * as amqplib from "amqplib"

export const main = async (url: string): Promise<void> => {
  const model = await amqplib.connect(url)
  const channel = await model.createConfirmChannel()
  channel.publish("", "tasks", Buffer.from("hello"))
  await channel.waitForConfirms()
  await channel.consume("tasks", (message) => {
    if (message === null) return
    channel.ack(message)
    void model.close()
  })
}

/** The least that a program does: connect, publish, consume. */
import { AMQPClient } from "@cloudamqp/amqp-client"

export const main = async (url: string): Promise<void> => {
  const client = new AMQPClient(url)
  await client.connect()
  const channel = await client.channel()
  await channel.confirmSelect()
  await channel.basicPublish("", "tasks", "hello")
  await channel.basicConsume("tasks", { noAck: false }, async (message) => {
    await message.ack()
    await client.close()
  })
}

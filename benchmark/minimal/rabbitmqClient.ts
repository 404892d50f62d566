/** The least that a program does: connect, publish, consume. */
import { Connection } from "rabbitmq-client"

export const main = async (url: string): Promise<void> => {
  const rabbit = new Connection(url)
  const publisher = rabbit.createPublisher({ confirm: true })
  await publisher.send("tasks", "hello")
  rabbit.createConsumer({ queue: "tasks" }, () => {
    void rabbit.close()
  })
}

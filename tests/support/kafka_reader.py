"""A worker's half that can be killed: receives turns, prints the id of each, acknowledges none.

`python -m tests.support.kafka_reader BOOTSTRAP TOPIC` until it is killed.
"""

import asyncio
import sys

from services.conversation.queue.kafka.cluster import KafkaOptions
from services.conversation.queue.kafka.queue import open_kafka_queue
from tests.support.kafka import SESSION_S


async def _read(bootstrap: str, name: str) -> None:
    options = KafkaOptions(bootstrap=bootstrap, topic=name, group=name, session_s=SESSION_S)
    async with open_kafka_queue(options) as queue:
        while True:
            for delivery in await queue.receive(count_max=10, wait_s=1.0):
                sys.stdout.write(f"{delivery.ref.turn_id}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_read(*sys.argv[1:]))

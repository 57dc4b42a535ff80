"""What the sender makes of what a broker reports."""

import asyncio
from typing import Any

import pytest

from services.conversation.queue.kafka.cluster import KafkaCluster, KafkaOptions
from services.conversation.queue.kafka.sender import KafkaSender, Letter
from services.mesh.errors import Unavailable

LETTER = Letter("turns", 3, "conv_1", "{}")


class Report:
    """Of one message; without an offset where the broker took it for a repeat."""

    def __init__(self, offset: int | None) -> None:
        self._offset = offset

    def offset(self) -> int | None:
        return self._offset


class Producer:
    """Stands in for `AIOProducer`; every message gets the next of the reports."""

    def __init__(self, *offsets: int | None) -> None:
        self._offsets = list(offsets)
        self.is_closed = False

    async def produce(self, **_message: object) -> asyncio.Future[Report]:
        future: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        future.set_result(Report(self._offsets.pop(0)))
        return future

    async def flush(self, _timeout_s: float) -> None:
        """All reports are there."""

    async def purge(self) -> None:
        """Nothing waits."""

    async def close(self) -> None:
        self.is_closed = True


class Cluster(KafkaCluster):
    """One whose topics are there."""

    async def make_topics(self) -> None:
        """See `KafkaCluster.make_topics`."""


async def test_a_message_that_stands_nobody_knows_where_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    producers = [doubted := Producer(7, None), Producer(7, 8)]
    sender = KafkaSender(Cluster(KafkaOptions(bootstrap="127.0.0.1:1", topic="turns", group="workers")))
    opened: Any = lambda: producers.pop(0)  # noqa: E731 - Any: stands in for the package's producer
    monkeypatch.setattr(sender, "_opened", opened)

    with pytest.raises(Unavailable):
        await sender.send([LETTER, LETTER])

    assert doubted.is_closed
    assert await sender.send([LETTER, LETTER]) == [7, 8]

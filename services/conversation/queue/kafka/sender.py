"""Writes messages to Kafka, each one once and those of a partition in their order (idempotent producer)."""

import asyncio
import contextlib
from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.aio import AIOProducer

from services.conversation.queue.kafka.cluster import KafkaCluster
from services.mesh.errors import Unavailable

SEND_S: Final = 5.0
"""Until a batch is given up; the outbox keeps its turns, and the next round publishes them."""
_SLACK_S: Final = 1.0
_BATCH_MAX: Final = 1_000
"""Messages before the producer sends by itself, which would be in the midst of a batch."""
# After a fatal error the package may raise its exception in a way that Python itself calls a SystemError.
_FAILURES: Final = (KafkaException, BufferError, TimeoutError, SystemError)


@dataclass(frozen=True, slots=True)
class Letter:
    """One message."""

    topic: str
    partition: int
    key: str
    body: str


class KafkaSender:
    """See the module. The producer is made when it is first needed, and made anew after any failure."""

    def __init__(self, cluster: KafkaCluster) -> None:
        self._cluster = cluster
        self._producer: AIOProducer | None = None
        self._sending = asyncio.Lock()

    async def send(self, letters: Sequence[Letter]) -> list[int]:
        """Returns the offsets of the messages, when every replica that has to has them.

        Raises:
            Unavailable: some of them may be missing.
        """
        offsets: list[int] = []
        async with self._sending:
            for start in range(0, len(letters), _BATCH_MAX - 1):
                await self._cluster.make_topics()
                try:
                    offsets += await self._send(letters[start : start + _BATCH_MAX - 1])
                except _FAILURES as error:
                    await self.close()
                    self._cluster.doubt_topics()
                    raise Unavailable("the queue server cannot be reached now", retry_after_s=1.0) from error
        return offsets

    async def close(self) -> None:
        """Gives up what was not sent. The next `send` starts afresh."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        with contextlib.suppress(*_FAILURES):
            async with asyncio.timeout(SEND_S):
                await producer.purge()
                await producer.close()

    async def _send(self, letters: Sequence[Letter]) -> list[int]:
        if self._producer is None:
            self._producer = self._opened()
        async with asyncio.timeout(SEND_S + _SLACK_S):
            reports = [await self._producer.produce(**_parts(letter)) for letter in letters]
            # Reports are made in threads of the producer, which may not wake us; they are there after the flush.
            await self._producer.flush(SEND_S)
        if not all(report.done() for report in reports):
            raise TimeoutError("some messages were not sent in time")
        for failure in [failure for report in reports if (failure := _failure(report)) is not None]:
            raise failure
        offsets = [report.result().offset() for report in reports]
        if any(offset is None for offset in offsets):
            # Taken for repeats of what the broker has: so it says, but not where, and one that forgot the producer says
            # so of new messages too. One that stands there twice is merged by its readers.
            raise BufferError("the broker does not tell where a message stands")
        return offsets

    def _opened(self) -> AIOProducer:
        configuration = self._cluster.configuration(
            enable_idempotence=True,
            # Also the time after which a message is given up.
            delivery_timeout_ms=int(SEND_S * 1_000),
            linger_ms=0,
            compression_type="none",
        )
        return AIOProducer(configuration, max_workers=1, batch_size=_BATCH_MAX, buffer_timeout=0)


def _parts(letter: Letter) -> dict[str, Any]:
    return {"topic": letter.topic, "partition": letter.partition, "key": letter.key, "value": letter.body}


def _failure(report: Future[Any]) -> BaseException | None:
    return report.exception()

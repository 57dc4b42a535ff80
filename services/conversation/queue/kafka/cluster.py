"""The Kafka cluster: how it is reached, which topics the queue has on it, and how far they are done."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined] # not in an __all__
from confluent_kafka.aio import AIOConsumer

from services.conversation.queue.port import PARTITIONS
from services.mesh import telemetry
from services.mesh.errors import Unavailable

REQUEST_S: Final = 3.0
"""For one administrative request: the worker asks PostgreSQL instead when this is over."""
LEADERS_S: Final = 10.0
"""For a new topic to get a broker for each of its partitions."""
TOPIC_KEEP_MS: Final = 24 * 3_600_000
"""No turn may take longer than a day, so an older message asks for nothing."""
DEAD_KEEP_MS: Final = 14 * 24 * 3_600_000
_FETCH_BYTES: Final = 16_384
"""Per partition: a look wants few messages of many partitions."""
_FETCH_WAIT_MS: Final = 100
_BROKERS_DEFAULT: Final = -1
_NOBODY: Final = -1
_SILENT: Final = 2
"""librdkafka's own log, on a level that it does not use: what it would say reaches us as errors."""

_log = telemetry.logger("conversation.queue.kafka")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """How the cluster is reached, and what the queue is called there.

    Attributes:
        bootstrap: addresses, `host:port` with commas between.
        options: further settings of librdkafka, such as those of TLS and SASL.
        topic: of the waiting turns; dead letters have a topic beside it.
        group: of the workers.
        session_s: a worker that is silent for this long is taken for dead, and others get its partitions.
    """

    bootstrap: str
    topic: str
    group: str
    options: Mapping[str, str] = field(default_factory=dict)
    session_s: float = 10.0

    @property
    def dead_topic(self) -> str:
        """Where messages end that were given up."""
        return f"{self.topic}.dead"

    @property
    def redrive_group(self) -> str:
        """Its position in the dead letters is that of the first one which was not redriven."""
        return f"{self.group}.redrive"


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a partition that is not done: offsets from `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Messages in it."""
        return max(self.end - self.start, 0)


class KafkaCluster:
    """See the module."""

    def __init__(self, options: KafkaOptions) -> None:
        self.options = options
        self._has_topics = False
        self._making = asyncio.Lock()
        self._lookers: dict[str, AIOConsumer] = {}
        self._admin = AdminClient(self.configuration())

    def configuration(self, **more: object) -> dict[str, Any]:  # Any: the type that confluent_kafka gives it
        """What a client of the cluster is made from; `more` has underscores where librdkafka has dots."""
        ours = {
            "bootstrap.servers": self.options.bootstrap,
            "client.id": "parley-conversation",
            "allow.auto.create.topics": False,
            "socket.timeout.ms": 10_000,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            "log_level": _SILENT,
        }
        return ours | dict(self.options.options) | {name.replace("_", "."): value for name, value in more.items()}

    async def make_topics(self) -> None:
        """Makes the topics where they are missing.

        Raises:
            Unavailable: the cluster is away, or somebody made the topic with too few partitions.
        """
        async with self._making:
            if self._has_topics:
                return
            with translated():
                for name, partitions, keep_ms in (
                    (self.options.topic, PARTITIONS, TOPIC_KEEP_MS),
                    (self.options.dead_topic, 1, DEAD_KEEP_MS),
                ):
                    await self.make_topic(name, partitions=partitions, keep_ms=keep_ms)
            self._has_topics = True

    def doubt_topics(self) -> None:
        """Something failed as it would without them; the next user makes sure."""
        self._has_topics = False

    async def spans(self, topic: str, group: str) -> dict[int, Span]:
        """What the group has not done yet, by partition, empty partitions left out. Raises Unavailable."""
        await self.make_topics()
        try:
            return await self._spans(topic, group)
        except Unavailable:
            self.doubt_topics()
            raise

    async def _spans(self, topic: str, group: str) -> dict[int, Span]:
        count = 1 if topic == self.options.dead_topic else PARTITIONS
        partitions = [TopicPartition(topic, number) for number in range(count)]
        async with self.looking(group) as consumer:
            # Not the admin client: librdkafka 2.16 crashes the process when a coordinator that moves refuses it.
            committed = await consumer.committed(partitions, timeout=REQUEST_S)
            firsts = self._list_offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call] # as its authors left it
            lasts = self._list_offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call] # as above
            starts = {part.partition: part.offset for part in committed}
            spans = {
                part.partition: Span(
                    max(starts.get(part.partition, 0), (await _result(firsts[part])).offset),
                    (await _result(lasts[part])).offset,
                )
                for part in partitions
            }
        return {number: span for number, span in spans.items() if span.length}

    @asynccontextmanager
    async def looking(self, group: str) -> AsyncIterator[AIOConsumer]:
        """A consumer that knows the group's positions and is no member of it. Raises Unavailable.

        It is kept for whoever looks next: connecting one costs more than what it is asked. One that failed is not.
        """
        with translated():
            consumer = self._lookers.pop(group, None) or AIOConsumer(self._looker(group), max_workers=1)
            try:
                yield consumer
                await consumer.unassign()
            except BaseException:
                await consumer.close()
                raise
            if self._lookers.setdefault(group, consumer) is not consumer:
                await consumer.close()

    def _looker(self, group: str) -> dict[str, Any]:  # Any: as in `configuration`
        return self.configuration(
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_message_max_bytes=_FETCH_BYTES,
            fetch_wait_max_ms=_FETCH_WAIT_MS,
        )

    async def close(self) -> None:
        """Ends the connections that were kept."""
        while self._lookers:
            _, consumer = self._lookers.popitem()
            with suppress(KafkaException, TimeoutError):
                async with asyncio.timeout(REQUEST_S):
                    await consumer.close()

    def _list_offsets(self, partitions: list[TopicPartition], which: OffsetSpec) -> dict[TopicPartition, Future[Any]]:
        return self._admin.list_offsets(dict.fromkeys(partitions, which), request_timeout=REQUEST_S)

    async def make_topic(self, name: str, *, partitions: int, keep_ms: int) -> None:
        """Makes one topic where it is missing. Raises as `make_topics`, or KafkaException."""
        leaders = await self._leaders_of(name)
        if not leaders:
            topic = NewTopic(
                name,
                num_partitions=partitions,
                replication_factor=_BROKERS_DEFAULT,
                config={"retention.ms": str(keep_ms), "cleanup.policy": "delete"},
            )
            try:
                await _result(self._admin.create_topics([topic], request_timeout=REQUEST_S)[name])
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
            async with asyncio.timeout(LEADERS_S):
                while len(leaders) < partitions or _NOBODY in leaders:
                    leaders = await self._leaders_of(name)
        elif len(leaders) < partitions:
            _log.error("queue_topic_too_small", topic=name, partitions=len(leaders), needed=partitions)
            raise Unavailable(f"topic {name!r} has {len(leaders)} partitions and needs {partitions}")

    async def _leaders_of(self, topic: str) -> list[int]:
        """The broker of each partition; none when there is no such topic."""
        metadata = await asyncio.to_thread(self._admin.list_topics, topic, timeout=REQUEST_S)
        found = metadata.topics[topic]
        return [] if found.error is not None else [partition.leader for partition in found.partitions.values()]


async def _result(future: Future[Any]) -> Any:  # Any: each request has its own kind of answer
    return await asyncio.wrap_future(future)


@contextmanager
def translated() -> Iterator[None]:
    """Kafka's troubles in our words.

    Raises:
        Unavailable: the cluster is away, or refuses.
    """
    try:
        yield
    except (KafkaException, TimeoutError) as error:
        raise Unavailable("the queue server cannot be reached now", retry_after_s=1.0) from error

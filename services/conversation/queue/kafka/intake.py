"""Reads messages from Kafka as a member of the workers' group, and commits what is done.

One loop has the consumer to itself: a second call would wait for the first, and a look for news waits long.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.aio import AIOConsumer

from services.conversation.queue.body import UnreadableError, decode
from services.conversation.queue.kafka.cluster import KafkaCluster
from services.conversation.queue.kafka.commits import Commits
from services.conversation.queue.ledger import Ledger
from services.mesh import telemetry
from services.mesh.errors import MeshError, Unavailable

POLL_S: Final = 0.1
"""One look for news; the longest that a commit waits."""
RETRY_S: Final = 0.5
PROBE_S: Final = 1.0
CLOSE_S: Final = 4.0
"""For leaving the group; a worker that goes without is missed for `session_s`."""
WAITING_MAX: Final = 256
"""Messages that wait here for a worker with hands free."""
FULL_S: Final = 1.0
"""Without room for this long, the partitions are paused; not at once, because what was fetched ahead is lost then."""
HELD_MAX: Final = 10_000
"""Messages that nobody acknowledges, while PostgreSQL is away for example."""
_THREADS: Final = 3
"""One reads, one commits when partitions leave in the midst of that, one is spare."""

_log = telemetry.logger("conversation.queue.kafka")
_PARTITIONS: Final = telemetry.gauge(
    "parley_conversation_queue_partitions_count", "Partitions of the queue that this worker reads."
)


class KafkaIntake:
    """See the module.

    Args:
        cluster: where the topic is.
        ledger: gets the messages, and tells what is done.
        unreadable: gets a message that names no turn.
    """

    def __init__(self, cluster: KafkaCluster, ledger: Ledger, unreadable: Callable[[bytes], Awaitable[None]]) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._commits = Commits(ledger)
        self._unreadable = unreadable
        self._topic = cluster.options.topic
        self._wanted = asyncio.Event()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._ended = asyncio.Event()
        self._partitions: set[int] = set()
        self._is_away = False
        self._is_paused: bool | None = False  # None: some partitions are, and others are not
        self._has_left = False

    @property
    def partitions(self) -> frozenset[int]:
        """Partitions that this consumer reads now."""
        return frozenset(self._partitions)

    def join(self) -> None:
        """Becomes a member of the group, soon; the first `wait` does so too."""
        self._wanted.set()

    async def run(self) -> None:
        """Reads from the first `wait` on until `leave` or cancelled; a process that never waits never joins."""
        await self._wanted.wait()
        try:
            while not self._has_left:
                await self._consume_or_pause()
        finally:
            self._ended.set()

    async def wait(self, wait_s: float) -> None:
        """Returns when something waits in the ledger, after `wait_s` at the latest.

        Raises:
            Unavailable: the cluster is away.
        """
        self.join()
        if not self._ledger.waiting and wait_s > 0 and not self._has_left and not self._is_away:
            self._arrived.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._arrived.wait()
            except TimeoutError:
                pass
        if self._is_away and not self._ledger.waiting:
            raise Unavailable("the queue server cannot be reached now", retry_after_s=1.0)

    def made_room(self) -> None:
        """Something was taken from the ledger."""
        self._taken.set()

    def leave(self) -> None:
        """Commits what is done and leaves the group, as soon as the present look for news is over."""
        self._has_left = True
        self._wanted.set()

    async def drain(self) -> None:
        """As `leave`; returns when it has happened."""
        self.leave()
        await self._ended.wait()

    async def _consume_or_pause(self) -> None:
        try:
            await self._consume()
        except (KafkaException, MeshError) as error:
            self._is_away = True
            self._arrived.set()
            self._cluster.doubt_topics()
            _log.warning("queue_reader_failed", error=repr(error.__cause__ or error))
            await asyncio.sleep(RETRY_S)

    async def _consume(self) -> None:
        await self._cluster.make_topics()
        # Threads of our own, for with its own ones the consumer waits at its end, however long that takes.
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="queue")
        consumer = AIOConsumer(self._configuration(), executor=threads)
        self._commits.start()
        try:
            await consumer.subscribe(
                [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            self._is_away = self._is_paused = False
            while not self._has_left:
                await self._turn(consumer)
        finally:
            await self._close(consumer)
            threads.shutdown(wait=False)

    async def _turn(self, consumer: AIOConsumer) -> None:
        await self._commit(consumer)
        await self._pause_or_resume(consumer)
        message = await consumer.poll(POLL_S)
        if message is not None:
            more = await consumer.consume(num_messages=max(1, WAITING_MAX - self._ledger.waiting), timeout=0)
            for each in (message, *more):
                await self._accept(each)
            self._arrived.set()
        if self._is_away:
            await self._probe(consumer)

    async def _accept(self, message: Message) -> None:
        if (error := message.error()) is not None:
            raise KafkaException(error)
        partition, offset, body = message.partition(), message.offset(), message.value() or b""
        assert partition is not None  # a message without an error has a place
        assert offset is not None
        if partition not in self._partitions:  # it left between two looks: its next reader starts with this message,
            return  # and a commit of ours would set that one's position back
        try:
            self._ledger.add(partition, offset, decode(body))
        except UnreadableError:
            await self._unreadable(body)
            self._ledger.skip(partition, offset)

    async def _commit(self, consumer: AIOConsumer) -> None:
        """Tells the broker what is done, without waiting for its answer."""
        moved = self._commits.due()
        if not moved:
            return
        try:
            await consumer.commit(offsets=self._offsets(moved), asynchronous=True)
        except KafkaException:
            self._commits.refused()
            raise

    async def _committed(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """The broker's answer to a commit."""
        if error is not None:
            self._commits.refused()
        else:
            self._commits.answered(each.partition for each in partitions if each.error is not None)

    async def _pause_or_resume(self, consumer: AIOConsumer) -> None:
        """Stops reading while too much waits; the polls go on, because by them the group knows that we live."""
        if self._is_full and not self._is_paused:
            await self._wait_for_room()
        is_full = self._is_full
        if is_full is self._is_paused:
            return
        assigned = await consumer.assignment()
        self._is_paused = is_full
        await (consumer.pause(assigned) if is_full else consumer.resume(assigned))

    @property
    def _is_full(self) -> bool:
        return self._ledger.waiting >= WAITING_MAX or self._ledger.held >= HELD_MAX

    async def _wait_for_room(self) -> None:
        self._taken.clear()
        try:
            async with asyncio.timeout(FULL_S):
                await self._taken.wait()
        except TimeoutError:
            pass

    async def _probe(self, consumer: AIOConsumer) -> None:
        """Asks whether the cluster is back."""
        try:
            await consumer.list_topics(self._topic, timeout=PROBE_S)
        except KafkaException:
            return
        self._is_away = False
        _log.info("queue_back")

    async def _troubled(self, error: KafkaError) -> None:
        """Hears of lost connections, which the consumer itself keeps to itself."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._is_away:  # noqa: SLF001 - the library's public name
            self._is_away = True
            self._arrived.set()
            _log.warning("queue_away", error=str(error))

    async def _assigned(self, consumer: AIOConsumer, partitions: Sequence[TopicPartition]) -> None:
        self._partitions |= {partition.partition for partition in partitions}
        _PARTITIONS.set(len(self._partitions))
        if self._is_paused:
            self._is_paused = None

    async def _revoked(self, consumer: AIOConsumer, partitions: Sequence[TopicPartition]) -> None:
        """Commits before others begin where we stopped."""
        moved = self._commits.last({partition.partition for partition in partitions})
        if moved and not self._is_away:
            try:
                await consumer.commit(offsets=self._offsets(moved), asynchronous=False)
            except KafkaException as error:  # the next reader finds nothing to claim
                _log.warning("not_committed", error=str(error))
        await self._lost(consumer, partitions)

    async def _lost(self, consumer: AIOConsumer, partitions: Sequence[TopicPartition]) -> None:
        numbers = {partition.partition for partition in partitions}
        self._ledger.forget(numbers)
        self._partitions -= numbers
        _PARTITIONS.set(len(self._partitions))

    async def _close(self, consumer: AIOConsumer) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await consumer.close()
        except (TimeoutError, KafkaException) as error:
            _log.warning("queue_reader_not_closed", error=repr(error))
        await self._lost(consumer, [TopicPartition(self._topic, number) for number in self._partitions])

    def _offsets(self, positions: dict[int, int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, number, at) for number, at in positions.items()]

    def _configuration(self) -> dict[str, object]:
        session_ms = int(self._cluster.options.session_s * 1_000)
        return self._cluster.configuration(
            group_id=self._cluster.options.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # Only partitions that change hands are interrupted when a worker comes or goes.
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 3,
            max_poll_interval_ms=max(60_000, session_ms),
            fetch_wait_max_ms=int(POLL_S * 1_000),
            fetch_error_backoff_ms=100,
        ) | {"on_commit": self._committed, "error_cb": self._troubled}

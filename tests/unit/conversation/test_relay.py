"""The relay: what is committed to the outbox reaches the queue, known or found."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.conversation.queue.memory import MemoryQueue
from services.conversation.running.relay import BATCH_MAX, Relay, Relays
from services.conversation.store.work import TurnRef
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import Unavailable
from tests.support.conversation import new_conversation, new_turn
from tests.support.conversation_turns import ref_of
from tests.support.waiting import until

SELDOM_S = 3_600.0


class Queue(MemoryQueue):
    """Remembers what it was given, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[TurnRef] = []
        self.is_away = False

    async def publish(self, refs: Sequence[TurnRef]) -> None:
        if self.is_away:
            raise Unavailable("the queue is away")
        self.published += refs


@asynccontextmanager
async def relaying(relay: Relay | Relays) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(relay.run())
        try:
            yield
        finally:
            task.cancel()


async def committed(store: MemoryStore) -> TurnRef:
    conversation = await store.create_conversation(new_conversation())
    return ref_of(await store.create_turn(new_turn(conversation.id)))


async def test_what_was_accepted_is_published_without_a_look_into_the_outbox() -> None:
    store, queue = MemoryStore(), Queue()
    found_first = await committed(store)
    relay = Relay(store, queue, every_s=SELDOM_S)
    async with relaying(relay):
        await until(lambda: not store.tables.outbox, within_s=60.0)
        other, ref = await committed(store), await committed(store)
        relay.accepted(ref)
        await until(lambda: store.tables.outbox == [other], within_s=60.0)

    assert queue.published == [found_first, ref]


async def test_a_hint_and_a_start_publish_what_the_outbox_holds() -> None:
    store, queue = MemoryStore(), Queue()
    first = await committed(store)
    relay = Relays([Relay(store, queue, every_s=SELDOM_S)])
    async with relaying(relay):
        await until(lambda: queue.published == [first], within_s=60.0)
        second = await committed(store)
        relay.hint()
        await until(lambda: queue.published == [first, second], within_s=60.0)

    assert store.tables.outbox == []


async def test_what_could_not_be_published_is_found_in_the_outbox() -> None:
    store, queue = MemoryStore(), Queue()
    relay = Relay(store, queue, every_s=0.05)
    async with relaying(relay):
        queue.is_away = True
        ref = await committed(store)
        relay.accepted(ref)
        await until(lambda: not relay._accepted, within_s=60.0)
        assert store.tables.outbox == [ref]

        queue.is_away = False
        await until(lambda: queue.published == [ref], within_s=60.0)
        await until(lambda: not store.tables.outbox, within_s=60.0)


async def test_more_than_a_batch_is_left_to_the_outbox() -> None:
    store, queue = MemoryStore(), Queue()
    relay = Relay(store, queue, every_s=SELDOM_S)
    ref = await committed(store)
    for _ in range(BATCH_MAX + 1):
        relay.accepted(ref)

    async with relaying(relay):
        await until(lambda: len(queue.published) >= BATCH_MAX, within_s=60.0)
        await until(lambda: not relay._is_hinted, within_s=60.0)

    assert len(queue.published) == BATCH_MAX
    assert store.tables.outbox == []

"""What every queue does."""

import asyncio
import time
from math import isnan

import pytest

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.port import DELIVERIES_MAX, PARTITIONS, Delivery, Load, Queue, partition_of
from services.conversation.store.work import TurnRef

WITHIN_S = 120.0
"""For a broker that has much else to do."""

pytestmark = pytest.mark.timeout(300)


def ref(number: int, conversation: int | None = None) -> TurnRef:
    conversation_id = ConversationId(f"conv_{number if conversation is None else conversation}")
    return TurnRef("org_acme", conversation_id, TurnId(f"turn_{number}"))


async def received(queue: Queue, count: int) -> list[Delivery]:
    """As many messages as that; they may come one by one."""
    found: list[Delivery] = []
    async with asyncio.timeout(WITHIN_S):
        while len(found) < count:
            found += await queue.receive(count_max=count - len(found), wait_s=1.0)
    return found


async def redelivered(queue: Queue, idle_s: float) -> list[Delivery]:
    """The first messages that come again."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = await queue.redeliver(count_max=5, idle_s=idle_s)
            if found:
                return found
            await asyncio.sleep(0)  # the queue in memory never waits for anything


async def loaded(queue: Queue, *, depth: int, dead: int = 0) -> Load:
    """The load, as soon as it is that; acknowledgements may take a moment to show."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            load = await queue.load()
            if (load.depth, load.dead) == (depth, dead) and not isnan(load.oldest_age_s):
                return load
            await asyncio.sleep(0)


async def died(queue: Queue) -> None:
    """Everything that was received, given up."""
    for _ in range(DELIVERIES_MAX):
        await queue.redeliver(count_max=100, idle_s=0.0)


async def test_what_is_published_is_received_once(queue: Queue) -> None:
    await queue.publish([ref(1)])

    (delivery,) = await received(queue, 1)

    assert delivery.ref == ref(1)
    assert delivery.partition == partition_of("conv_1")
    assert await queue.receive(count_max=5, wait_s=0.0) == []


async def test_no_more_is_received_than_asked_for(queue: Queue) -> None:
    await queue.publish([ref(number) for number in range(20)])

    first = await queue.receive(count_max=7, wait_s=WITHIN_S)
    rest = await received(queue, 20 - len(first))

    assert 1 <= len(first) <= 7
    assert {delivery.ref for delivery in [*first, *rest]} == {ref(number) for number in range(20)}


async def test_a_turn_that_waits_is_not_delivered_twice(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await queue.publish([ref(1), ref(2, conversation=1)])

    taken = await received(queue, 2)

    assert sorted(delivery.ref.turn_id for delivery in taken) == ["turn_1", "turn_2"]
    assert await queue.receive(count_max=5, wait_s=0.0) == []


async def test_a_turn_in_hand_is_not_delivered_twice(queue: Queue) -> None:
    await queue.publish([ref(1)])
    taken = await received(queue, 1)
    await queue.publish([ref(1), ref(2, conversation=1)])

    taken += await received(queue, 1)
    await queue.acknowledge(taken)

    assert [delivery.ref.turn_id for delivery in taken] == ["turn_1", "turn_2"]
    await loaded(queue, depth=0)


async def test_an_acknowledged_turn_can_be_published_again(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await queue.acknowledge(await received(queue, 1))

    await queue.publish([ref(1)])

    assert [delivery.ref for delivery in await received(queue, 1)] == [ref(1)]


async def test_what_is_not_acknowledged_is_delivered_again(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await received(queue, 1)

    (again,) = await queue.redeliver(count_max=5, idle_s=0.0)

    assert again.ref == ref(1)


async def test_no_more_is_redelivered_than_asked_for(queue: Queue) -> None:
    await queue.publish([ref(number) for number in range(9)])
    await received(queue, 9)

    assert len(await queue.redeliver(count_max=4, idle_s=0.0)) == 4


async def test_what_is_acknowledged_is_not_delivered_again(queue: Queue) -> None:
    await queue.publish([ref(1)])
    taken = await received(queue, 1)
    await queue.acknowledge(taken)
    await queue.acknowledge(taken)

    assert await queue.redeliver(count_max=5, idle_s=0.0) == []
    assert (await loaded(queue, depth=0)).oldest_age_s == 0.0


async def test_what_was_received_a_moment_ago_is_left_alone(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await received(queue, 1)

    assert await queue.redeliver(count_max=5, idle_s=60.0) == []


async def test_what_failed_more_often_pauses_longer(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await received(queue, 1)
    for _ in range(3):
        await queue.redeliver(count_max=5, idle_s=0.0)
    await queue.publish([ref(2)])
    await received(queue, 1)

    first, second = await redelivered(queue, 0.3), await redelivered(queue, 0.3)

    assert [delivery.ref for delivery in first] == [ref(2)]
    assert second


async def test_what_nobody_acknowledges_becomes_a_dead_letter(queue: Queue) -> None:
    await queue.publish([ref(1), ref(2)])
    taken = await received(queue, 2)
    await queue.acknowledge([delivery for delivery in taken if delivery.ref == ref(2)])

    again = [len(await queue.redeliver(count_max=5, idle_s=0.0)) for _ in range(DELIVERIES_MAX)]

    assert again == [*[1] * (DELIVERIES_MAX - 1), 0]
    await loaded(queue, depth=0, dead=1)
    (letter,) = await queue.dead_letters(limit=10)
    assert (letter.ref, letter.reason) == (ref(1), "unacknowledged")


async def test_dead_letters_are_redriven_from_the_oldest_on(queue: Queue) -> None:
    for number in range(3):
        await queue.publish([ref(number)])
        await received(queue, 1)
        await died(queue)

    assert await queue.redrive(limit=2) == 2
    taken = await received(queue, 2)
    await queue.acknowledge(taken)

    assert {delivery.ref for delivery in taken} == {ref(0), ref(1)}
    assert [letter.ref for letter in await queue.dead_letters(limit=10)] == [ref(2)]
    await loaded(queue, depth=0, dead=1)


async def test_without_dead_letters_there_is_nothing_to_redrive(queue: Queue) -> None:
    assert await queue.dead_letters(limit=10) == []
    assert await queue.redrive(limit=10) == 0


async def test_a_turn_that_died_can_be_published_again(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await received(queue, 1)
    await died(queue)

    await queue.publish([ref(1)])

    assert [delivery.ref for delivery in await received(queue, 1)] == [ref(1)]


async def test_depth_counts_what_waits_and_what_is_in_hand(queue: Queue) -> None:
    await queue.publish([ref(1), ref(2), ref(3)])
    await received(queue, 1)

    assert await queue.depth() == 3


async def test_publishing_what_waits_does_not_deepen_the_queue(queue: Queue) -> None:
    for _ in range(3):
        await queue.publish([ref(1), ref(2)])

    assert await queue.depth() == 2


async def test_the_oldest_message_tells_its_age(queue: Queue) -> None:
    begun = time.time()
    await queue.publish([ref(1)])
    await queue.publish([ref(number) for number in range(2, 9)])

    first = second = await loaded(queue, depth=8)
    while second.oldest_age_s == 0.0:  # brokers count milliseconds
        second = await loaded(queue, depth=8)

    assert 0.0 <= first.oldest_age_s <= second.oldest_age_s <= time.time() - begun + 0.1


async def test_turns_of_one_conversation_keep_their_order(queue: Queue) -> None:
    refs = [ref(number, conversation=1) for number in range(10)]
    await queue.publish(refs[:5])
    await queue.publish(refs[5:])

    taken = [(await received(queue, 1))[0].ref for _ in refs]

    assert taken == refs


async def test_who_leaves_may_still_acknowledge(queue: Queue) -> None:
    await queue.publish([ref(1)])
    taken = await received(queue, 1)

    await queue.leave()
    await queue.leave()

    await queue.acknowledge(taken)
    assert await queue.receive(count_max=5, wait_s=0.0) == []


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
async def test_an_empty_queue_gives_nothing(queue: Queue, wait_s: float) -> None:
    assert await queue.receive(count_max=1, wait_s=wait_s) == []


async def test_publishing_nothing_adds_nothing(queue: Queue) -> None:
    await queue.publish([])

    assert await queue.depth() == 0


def test_partitions_are_fixed_and_all_in_use() -> None:
    partitions = {partition_of(f"conv_{number}") for number in range(2_000)}

    assert partitions == set(range(PARTITIONS))
    assert partition_of("conv_0") == 46  # for ever: another hash would move conversations

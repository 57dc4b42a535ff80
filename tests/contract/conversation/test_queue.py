"""What every queue does."""

import pytest

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.port import PARTITIONS, Queue, partition_of
from services.conversation.store import TurnRef


def ref(number: int) -> TurnRef:
    return TurnRef("org_acme", ConversationId(f"conv_{number}"), TurnId(f"turn_{number}"))


async def test_what_is_published_is_received_once(queue: Queue) -> None:
    await queue.publish([ref(1)])

    (delivery,) = await queue.receive(count_max=5, wait_s=1.0)

    assert delivery.ref == ref(1)
    assert await queue.receive(count_max=5, wait_s=0.0) == []


async def test_no_more_is_received_than_asked_for(queue: Queue) -> None:
    await queue.publish([ref(number) for number in range(20)])

    first = await queue.receive(count_max=7, wait_s=1.0)
    rest = await queue.receive(count_max=20, wait_s=1.0)

    assert len(first) == 7
    assert {delivery.ref for delivery in [*first, *rest]} == {ref(number) for number in range(20)}


async def test_a_turn_that_waits_is_not_added_twice(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await queue.publish([ref(1), ref(2)])

    received = await queue.receive(count_max=10, wait_s=1.0)

    assert sorted(delivery.ref.turn_id for delivery in received) == ["turn_1", "turn_2"]


async def test_an_acknowledged_turn_can_be_published_again(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await queue.acknowledge(await queue.receive(count_max=1, wait_s=1.0))

    await queue.publish([ref(1)])

    assert len(await queue.receive(count_max=1, wait_s=1.0)) == 1


async def test_what_is_not_acknowledged_is_delivered_again(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await queue.receive(count_max=1, wait_s=1.0)

    (again,) = await queue.redeliver(count_max=5, idle_s=0.0)

    assert again.ref == ref(1)


async def test_what_is_acknowledged_is_not_delivered_again(queue: Queue) -> None:
    await queue.publish([ref(1)])
    received = await queue.receive(count_max=1, wait_s=1.0)
    await queue.acknowledge(received)
    await queue.acknowledge(received)

    assert await queue.redeliver(count_max=5, idle_s=0.0) == []
    assert await queue.depth() == 0


async def test_what_was_received_a_moment_ago_is_left_alone(queue: Queue) -> None:
    await queue.publish([ref(1)])
    await queue.receive(count_max=1, wait_s=1.0)

    assert await queue.redeliver(count_max=5, idle_s=60.0) == []


async def test_depth_counts_what_waits_and_what_is_in_hand(queue: Queue) -> None:
    await queue.publish([ref(1), ref(2), ref(3)])
    await queue.receive(count_max=1, wait_s=1.0)

    assert await queue.depth() == 3


async def test_turns_of_one_conversation_keep_their_order(queue: Queue) -> None:
    refs = [TurnRef("org_acme", ConversationId("conv_1"), TurnId(f"turn_{number}")) for number in range(10)]
    await queue.publish(refs)

    received = [(await queue.receive(count_max=1, wait_s=1.0))[0].ref for _ in refs]

    assert received == refs


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
async def test_an_empty_queue_gives_nothing(queue: Queue, wait_s: float) -> None:
    assert await queue.receive(count_max=1, wait_s=wait_s) == []


def test_partitions_are_fixed_and_all_in_use() -> None:
    partitions = {partition_of(f"conv_{number}") for number in range(2_000)}

    assert partitions == set(range(PARTITIONS))
    assert partition_of("conv_0") == 46  # for ever: another hash would move conversations

"""Turns under limits per minute of their own: they wait for as long as their time allows, and spend nothing on it."""

from services.conversation.model import TurnState
from services.conversation.running.attempts import waits_for_room
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import QuotaExhausted, RateLimited
from tests.support.conversation import ADA, ending, text_of
from tests.support.conversation_rig import memory_rig, running


def limited(retry_after_s: float) -> RateLimited:
    return RateLimited(
        "'key_1' may use 1 requests per minute",
        metadata={"subject_id": "key_1", "limit": "requests_per_minute", "requests_per_minute": "1"},
        retry_after_s=retry_after_s,
    )


def test_only_a_limit_of_our_own_is_waited_for() -> None:
    assert waits_for_room(limited(1.0))
    assert not waits_for_room(RateLimited(metadata={"model": "a/b"}, retry_after_s=1.0))
    assert not waits_for_room(QuotaExhausted(metadata={"subject_id": "key_1"}, retry_after_s=1.0))


async def test_waiting_for_room_costs_no_attempt() -> None:
    rig = memory_rig(MemoryStore(), attempts_max=2)
    rig.inference.refusals = [limited(0.0) for _ in range(4)]
    async with running(rig):
        turn = await rig.ask()
        events = await rig.watch(turn)

    assert (ending(events).state, text_of(events)) == (TurnState.COMPLETED, "Ada wrote notes.")
    assert (await rig.store.turn(ADA, turn.id)).attempt == 1
    assert rig.inference.starts == 5
    assert not any(request.is_repeat for _, request in rig.inference.requests)


async def test_room_that_comes_too_late_is_not_waited_for() -> None:
    rig = memory_rig(MemoryStore())
    rig.inference.refusals = [limited(3_600.0)]
    async with running(rig):
        turn = await rig.ask()
        await rig.watch(turn)

    failed = (await rig.store.turn(ADA, turn.id)).error
    assert failed is not None
    assert (failed.reason, "key_1" in failed.message) == ("RATE_LIMITED", True)

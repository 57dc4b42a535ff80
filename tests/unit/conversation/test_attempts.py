"""Which errors another attempt follows, after which pause, and what is told when none is left."""

import asyncio

import pytest

from services.conversation.asking.actions import Continue, NewQuestion, Regenerate
from services.conversation.asking.turns import Ask
from services.conversation.model import OnConflict, Turn, TurnOverrides, TurnState
from services.conversation.queue.memory import MemoryQueue
from services.conversation.running.attempts import (
    HELD_S_MAX,
    PAUSE_S_MAX,
    TRANSIENT,
    UNSPENT_MAX,
    broke_off,
    is_transient,
    pause_s,
)
from services.conversation.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from services.mesh.errors import (
    ERROR_BY_REASON,
    LEAVING,
    MeshError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    Reason,
    Unavailable,
)
from tests.support.conversation import ADA, ending, new_conversation, text_of
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

PERMANENT = {
    Reason.INVALID_ARGUMENT, Reason.NOT_FOUND, Reason.ALREADY_EXISTS, Reason.IDEMPOTENCY_MISMATCH,
    Reason.ETAG_MISMATCH, Reason.TURN_ALREADY_RUNNING, Reason.CONTEXT_LENGTH_EXCEEDED, Reason.QUOTA_EXHAUSTED,
    Reason.PROVIDER_REJECTED, Reason.MODEL_UNKNOWN, Reason.CONTENT_FILTERED, Reason.DOCUMENT_UNSUPPORTED,
    Reason.DOCUMENT_TOO_LARGE, Reason.DOCUMENT_ENCRYPTED, Reason.DOCUMENT_UNREADABLE, Reason.CREDENTIALS_INVALID,
    Reason.CREDENTIALS_AMBIGUOUS, Reason.SCOPE_MISSING, Reason.CALLER_FORBIDDEN, Reason.REGISTRATION_CLOSED,
    Reason.ORIGIN_FORBIDDEN, Reason.REQUEST_TOO_LARGE, Reason.METHOD_NOT_ALLOWED, Reason.UNIMPLEMENTED,
    Reason.INTERNAL, Reason.PROVIDER_MISCONFIGURED, Reason.MODEL_UNPRICED,
}  # fmt: skip


def failing(rig: Rig, error: MeshError, *, times: int) -> None:
    """The first answers break off before their third word."""

    async def fail(index: int) -> None:
        if index == 2 and rig.inference.starts <= times:
            raise error

    rig.inference.gate = fail


async def error_of(rig: Rig, turn: Turn) -> tuple[str, str, int]:
    failed = await rig.store.turn(ADA, turn.id)
    assert failed.error is not None
    return failed.error.reason, failed.error.message, failed.attempt


def test_every_reason_is_either_passing_or_lasting() -> None:
    assert set(Reason) == TRANSIENT | PERMANENT
    assert not TRANSIENT & PERMANENT


@pytest.mark.parametrize("reason", sorted(TRANSIENT))
async def test_an_answer_that_met_what_passes_goes_on_in_another_attempt(at_work: Rig, reason: Reason) -> None:
    failing(at_work, ERROR_BY_REASON[reason]("later"), times=1)
    turn = await at_work.ask(knowledge_base_id="kb_1")

    events = await at_work.watch(turn)

    assert (ending(events).state, text_of(events)) == (TurnState.COMPLETED, "Ada wrote notes.")
    assert (await at_work.store.turn(ADA, turn.id)).attempt == 2


async def test_an_answer_goes_on_elsewhere_when_inference_leaves_and_spends_no_attempt(at_work: Rig) -> None:
    failing(at_work, Unavailable("bye", metadata={LEAVING: "true"}), times=3)
    turn = await at_work.ask()

    events = await at_work.watch(turn)

    assert (ending(events).state, text_of(events)) == (TurnState.COMPLETED, "Ada wrote notes.")
    assert (await at_work.store.turn(ADA, turn.id)).attempt == 1
    assert at_work.inference.starts == 4


async def test_what_leaves_for_ever_is_a_fault(at_work: Rig) -> None:
    failing(at_work, Unavailable("bye", metadata={LEAVING: "true"}), times=1_000)
    turn = await at_work.ask()

    assert ending(await at_work.watch(turn)).state is TurnState.FAILED

    assert await error_of(at_work, turn) == ("UNAVAILABLE", broke_off().message, at_work.attempts_max)
    assert at_work.inference.starts == UNSPENT_MAX + at_work.attempts_max


@pytest.mark.parametrize("reason", sorted(PERMANENT))
async def test_an_answer_that_met_what_lasts_fails_at_once_and_says_why(at_work: Rig, reason: Reason) -> None:
    failing(at_work, ERROR_BY_REASON[reason]("as it says"), times=9)
    turn = await at_work.ask()

    events = await at_work.watch(turn)

    assert (ending(events).state, text_of(events)) == (TurnState.FAILED, "Ada wrote")
    assert await error_of(at_work, turn) == (reason, "as it says", 1)
    assert at_work.inference.starts == 1


@pytest.mark.parametrize(("retry_after_s", "is_tried_again"), [(None, False), (HELD_S_MAX, True), (10.1, False)])
def test_a_budget_that_running_calls_hold_is_waited_for_and_a_spent_one_is_not(
    retry_after_s: float | None, *, is_tried_again: bool
) -> None:
    assert is_transient(QuotaExhausted(retry_after_s=retry_after_s)) is is_tried_again


async def test_an_attempt_after_one_that_had_begun_is_no_further_request(at_work: Rig) -> None:
    failing(at_work, Unavailable("later"), times=1)

    await at_work.watch(await at_work.ask())

    assert [request.is_repeat for _, request in at_work.inference.requests] == [False, True]


async def test_an_attempt_after_one_that_never_began_is_the_first_request(at_work: Rig) -> None:
    at_work.inference.refusals = [RateLimited("one per minute", retry_after_s=0.0)]

    assert ending(await at_work.watch(await at_work.ask())).state is TurnState.COMPLETED

    assert [request.is_repeat for _, request in at_work.inference.requests] == [False, False]


async def test_the_continuation_of_an_answer_is_a_request_until_it_has_begun(at_work: Rig) -> None:
    failing(at_work, ERROR_BY_REASON[Reason.PROVIDER_REJECTED]("no"), times=1)
    cut = await at_work.ask()
    await at_work.watch(cut)
    at_work.inference.refusals = [RateLimited("one per minute", retry_after_s=0.0)]

    longer = await at_work.act(cut.conversation_id, Continue(cut.assistant_message_id))
    assert ending(await at_work.watch(longer)).state is TurnState.COMPLETED

    assert [request.is_repeat for _, request in at_work.inference.requests] == [False, False, False]


async def test_another_answer_to_a_question_is_made_anew(at_work: Rig) -> None:
    turn = await at_work.ask()
    await at_work.watch(turn)
    again = await at_work.act(turn.conversation_id, Regenerate(turn.assistant_message_id))
    await at_work.watch(again)

    assert [request.is_anew for _, request in at_work.inference.requests] == [False, True]


async def test_an_answer_is_paid_for_by_the_credential_that_asked(at_work: Rig) -> None:
    conversation = await at_work.store.create_conversation(new_conversation())
    ask = Ask(
        conversation_id=conversation.id,
        action=NewQuestion("?", None),
        overrides=TurnOverrides(),
        credential_id="key_1",
    )
    turn = await at_work.turns.create(ADA, ask, repeat=None)
    await at_work.relay.relay_once()
    await at_work.watch(turn)

    assert [request.credential_id for _, request in at_work.inference.requests] == ["key_1"]


async def test_a_search_that_failed_for_now_is_tried_again(at_work: Rig) -> None:
    at_work.retrieval.failure = ERROR_BY_REASON[Reason.RETRIEVAL_UNAVAILABLE]("later")
    turn = await at_work.ask(knowledge_base_id="kb_1")
    await until(lambda: len(at_work.retrieval.questions) >= 2)
    at_work.retrieval.failure = None

    assert ending(await at_work.watch(turn)).state is TurnState.COMPLETED


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ProviderUnavailable("the provider cannot answer now"), "the provider cannot answer now"),
        (Unavailable("127.0.0.1:1 refused"), "the answer broke off too often; try again later"),
    ],
)
async def test_after_the_last_attempt_the_turn_fails_with_what_a_person_can_use(error: MeshError, told: str) -> None:
    rig = memory_rig(MemoryStore(), attempts_max=3)
    failing(rig, error, times=9)
    async with running(rig):
        turn = await rig.ask()
        events = await rig.watch(turn)

    assert (ending(events).state, text_of(events)) == (TurnState.FAILED, "Ada wrote")
    assert await error_of(rig, turn) == (error.reason, told, 3)


async def test_a_turn_that_could_not_begin_again_in_its_time_fails_at_once(at_work: Rig) -> None:
    failing(at_work, RateLimited("the provider limits the rate of calls", retry_after_s=601.0), times=9)
    turn = await at_work.ask()

    await at_work.watch(turn)

    assert await error_of(at_work, turn) == ("RATE_LIMITED", "the provider limits the rate of calls", 1)


async def test_a_turn_that_pauses_takes_no_place_of_others() -> None:
    rig = memory_rig(MemoryStore(), concurrency=1)
    failing(rig, RateLimited(retry_after_s=300.0), times=1)
    async with running(rig):
        pausing = await rig.ask()
        await until(lambda: rig.inference.starts == 1 and rig.inference.open == 0)

        events = await rig.watch(await rig.ask())

    assert ending(events).state is TurnState.COMPLETED
    assert (await rig.store.turn(ADA, pausing.id)).state is TurnState.QUEUED


async def test_a_turn_that_pauses_is_cancelled_at_once(at_work: Rig) -> None:
    failing(at_work, RateLimited(retry_after_s=300.0), times=1)
    turn = await at_work.ask()
    await paused(at_work, turn)

    assert (await at_work.turns.cancel(ADA, turn.id)).state is TurnState.CANCELLED
    assert text_of(await at_work.watch(turn)) == "Ada wrote"


async def test_a_turn_that_cancels_one_that_pauses_does_not_wait_for_it(at_work: Rig) -> None:
    failing(at_work, RateLimited(retry_after_s=300.0), times=1)
    first = await at_work.ask()
    await paused(at_work, first)

    second = await at_work.act(first.conversation_id, NewQuestion("two", None), on_conflict=OnConflict.CANCEL_RUNNING)
    await at_work.watch(first)
    await at_work.relay.relay_once()

    assert ending(await at_work.watch(second)).state is TurnState.COMPLETED
    assert (await at_work.store.turn(ADA, first.id)).state is TurnState.CANCELLED


async def test_a_drained_worker_does_not_wait_for_pauses() -> None:
    rig = memory_rig(MemoryStore())
    failing(rig, RateLimited(retry_after_s=300.0), times=1)
    async with asyncio.TaskGroup() as group:
        worker = rig.worker()
        work = group.create_task(worker.run())
        turn = await rig.ask()
        await paused(rig, turn)

        await worker.drain()

        async with asyncio.timeout(60.0):
            await work


async def paused(rig: Rig, turn: Turn) -> None:
    """Waits until the first attempt has left the turn to another one."""
    store = rig.store
    assert isinstance(store, MemoryStore)
    row = store.tables.turns[turn.id]
    await until(lambda: row.turn.state is TurnState.QUEUED and row.turn.attempt == 1, within_s=60.0)


@pytest.mark.parametrize(("attempt", "least", "most"), [(1, 0.5, 1.0), (2, 1.5, 3.0), (3, 4.5, 9.0), (4, 5.0, 10.0)])
def test_pauses_grow_to_a_bound(attempt: int, least: float, most: float) -> None:
    pauses = [pause_s(f"turn_{n}", attempt, base_s=1.0, asked_s=None) for n in range(100)]

    assert least <= min(pauses) <= max(pauses) <= most <= PAUSE_S_MAX


def test_what_failed_together_does_not_come_back_together() -> None:
    for asked_s in (None, 60.0):
        pauses = {pause_s(f"turn_{n}", 1, base_s=1.0, asked_s=asked_s) for n in range(100)}
        assert len(pauses) == 100


@pytest.mark.parametrize("asked_s", [0.0, 0.1, 1.0, 30.0])
def test_what_the_error_asked_for_is_never_undercut(asked_s: float) -> None:
    assert all(asked_s <= pause_s(f"turn_{n}", 1, base_s=1.0, asked_s=asked_s) for n in range(100))


async def test_what_pauses_when_its_worker_drains_is_published_when_the_pause_ends() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    rig = memory_rig(store, republish_after_s=5.0)
    failing(rig, RateLimited(retry_after_s=300.0), times=1)
    async with asyncio.TaskGroup() as group:
        worker = rig.worker()
        group.create_task(worker.run())
        turn = await rig.ask()
        await paused(rig, turn)
        pause_s = (store.tables.turns[turn.id].publish_time - clock.now()).total_seconds()
        await worker.drain()
    assert isinstance(rig.queue, MemoryQueue)
    rig.queue.lose_everything()

    clock.advance(pause_s - 1.0)
    await rig.reaper.reap()
    early = await rig.queue.depth()
    clock.advance(1.0)
    await rig.reaper.reap()

    assert (early, await rig.queue.depth()) == (0, 1)

"""What every store does with many turns at once: what it does with each of them, and nothing to any other."""

from dataclasses import replace

import pytest

from services.conversation.events import Draft
from services.conversation.model import Turn, TurnState
from services.conversation.store import Store
from services.conversation.store.turns import Progress, TurnKey
from services.conversation.store.work import Fold, Folding, Hold
from tests.support.conversation import ADA, EVE
from tests.support.conversation_turns import DONE, FOLD, asked, claimed

PLAIN = Fold(last_sequence=1, text=None, citations=(), retrieval=None, usage=None, model="")


def folding(hold: Hold, fold: Fold = FOLD) -> Folding:
    return Folding(hold, fold, sequence_limit=100, epoch="e2")


def key(turn: Turn, organization_id: str = ADA.organization_id) -> TurnKey:
    return TurnKey(organization_id, turn.id)


async def lost(store: Store) -> tuple[Turn, Hold]:
    """A turn that another worker has taken since."""
    turn = await asked(store)
    hold = (await claimed(store, turn, lease_s=0.0)).hold
    await claimed(store, turn)
    return turn, hold


async def test_folds_store_the_answer_of_each_turn(store: Store) -> None:
    turns = [await asked(store) for _ in range(3)]
    folds = [FOLD, PLAIN, replace(FOLD, text='"\\ \x01', last_sequence=9)]
    holds = [(await claimed(store, turn)).hold for turn in turns]

    foldings = [folding(hold, fold) for hold, fold in zip(holds, folds, strict=True)]
    assert await store.fold_all(foldings, lease_s=30.0) == [True, True, True]

    answers = [await store.answer(ADA, turn.id) for turn in turns]
    assert [Fold.of(Draft.of(answer.message)) for answer in answers] == folds
    assert {(answer.sequence_limit, answer.journal_epoch) for answer in answers} == {(100, "e2")}
    assert {answer.turn.state for answer in answers} == {TurnState.RUNNING}


async def test_folds_renew_the_leases(store: Store) -> None:
    holds = [(await claimed(store, await asked(store), lease_s=0.0)).hold for _ in range(2)]

    await store.fold_all([folding(hold) for hold in holds], lease_s=30.0)

    assert await store.requeue_lapsed(attempts_max=5, limit=10) == ([], [])


async def test_renewed_leases_do_not_lapse(store: Store) -> None:
    holds = [(await claimed(store, await asked(store), lease_s=0.0)).hold for _ in range(2)]

    assert await store.renew_all(holds, lease_s=30.0) == [True, True]

    assert await store.requeue_lapsed(attempts_max=5, limit=10) == ([], [])


@pytest.mark.parametrize("others", [0, 2])
async def test_a_turn_that_was_lost_changes_nothing_and_holds_up_no_other(store: Store, others: int) -> None:
    turn, stale = await lost(store)
    before = await store.answer(ADA, turn.id)
    holds = [stale, *[(await claimed(store, await asked(store))).hold for _ in range(others)]]

    assert await store.fold_all([folding(hold) for hold in holds], lease_s=30.0) == [False, *[True] * others]
    assert await store.renew_all(holds, lease_s=30.0) == [False, *[True] * others]

    assert await store.answer(ADA, turn.id) == before


async def test_progress_tells_how_far_answers_are_stored(store: Store) -> None:
    waiting, running, ended = [await asked(store) for _ in range(3)]
    holds = [(await claimed(store, turn)).hold for turn in (running, ended)]
    await store.fold_all([folding(holds[0])], lease_s=30.0)
    await store.finish(holds[1], replace(FOLD, last_sequence=8), DONE)

    assert await store.progress([key(waiting), key(running), key(ended)]) == {
        waiting.id: Progress(has_ended=False, last_sequence=0),
        running.id: Progress(has_ended=False, last_sequence=7),
        ended.id: Progress(has_ended=True, last_sequence=8),
    }


async def test_progress_of_what_is_not_there_is_not_told(store: Store) -> None:
    foreign, deleted = await asked(store), await asked(store)
    await store.delete_conversation(ADA, deleted.conversation_id)

    assert await store.progress([key(foreign, EVE.organization_id), key(deleted)]) == {}

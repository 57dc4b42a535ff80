"""Summaries are kept with where they come from, count on their own branch only, and are made by one at a time."""

import asyncio
import random
from dataclasses import replace

import pytest

from services.conversation.model import ConversationId, Owner, Turn, TurnState, Usage
from services.conversation.store import Store
from services.conversation.store.summaries import NewSummary
from services.conversation.store.turns import NewTurn
from services.conversation.store.work import Ending, Fold, TurnRef
from services.mesh.errors import NotFound
from services.mesh.ids import new_id
from tests.support.conversation import ADA, BOB, EVE, new_conversation, new_turn
from tests.support.conversation_fakes import FINISHED

LONG_S = 3_600.0


async def answered(store: Store, new: NewTurn) -> Turn:
    """A turn that has its answer."""
    turn = await store.create_turn(new)
    ref = TurnRef(ADA.organization_id, turn.conversation_id, turn.id)
    claim = await store.claim(ref, lease_s=LONG_S, epoch="", spend_attempt=True)
    assert claim is not None
    fold = Fold(last_sequence=3, text="A", citations=(), retrieval=None, usage=None, model="m")
    assert await store.finish(claim.hold, fold, Ending(TurnState.COMPLETED, FINISHED.finish_reason))
    return turn


async def talk(store: Store, *, turns: int) -> list[Turn]:
    """A conversation of one branch."""
    conversation = await store.create_conversation(new_conversation())
    return [await answered(store, new_turn(conversation.id, f"Q{number}")) for number in range(turns)]


def summary_through(turn: Turn, covered: int, *, made_from: str = "") -> NewSummary:
    return NewSummary(
        id=new_id("sum"),
        conversation_id=turn.conversation_id,
        through_message_id=turn.assistant_message_id,
        messages_covered=covered,
        made_from=made_from,
        text="They spoke.",
        model="cheap/one",
        wording_revision="w1",
        tokens_before=50,
        tokens_after=3,
        usage=Usage(input_tokens=60, output_tokens=3, cost_micros=7),
    )


async def kept(store: Store, new: NewSummary, owner: Owner = ADA) -> bool:
    token = new_id("claim")
    if not await store.claim_summary(owner, new.conversation_id, token=token, lease_s=LONG_S):
        return False
    return await store.keep_summary(owner, new, token=token)


async def test_a_summary_is_kept_with_where_it_comes_from(store: Store) -> None:
    first, second, third = await talk(store, turns=3)
    new = summary_through(first, 2)
    assert await kept(store, new)
    rolled = summary_through(second, 4, made_from=new.id)
    assert await kept(store, rolled)

    found = await store.summary(ADA, rolled.id)
    standing = await store.standing(ADA, first.conversation_id, leaf_id=third.assistant_message_id)

    assert found == standing.summary
    assert (found.made_from, found.messages_covered, found.usage) == (new.id, 4, rolled.usage)
    assert (found.model, found.wording_revision, found.tokens_before, found.tokens_after) == ("cheap/one", "w1", 50, 3)
    assert (standing.length, standing.uncovered) == (6, 2)


async def test_a_branch_without_a_summary_stands_for_itself(store: Store) -> None:
    (turn,) = await talk(store, turns=1)

    standing = await store.standing(ADA, turn.conversation_id, leaf_id=turn.user_message_id)

    assert (standing.length, standing.uncovered, standing.summary) == (1, 1, None)


async def test_a_summary_of_another_branch_is_never_used(store: Store) -> None:
    first, second, third = await talk(store, turns=3)
    shared, own = summary_through(first, 2), summary_through(second, 4)
    assert await kept(store, shared)
    assert await kept(store, own)
    edited = await answered(
        store,
        replace(
            new_turn(first.conversation_id, "Q1, otherwise", parent_id=first.assistant_message_id),
            revision_of=second.user_message_id,
        ),
    )

    of_other = await store.standing(ADA, first.conversation_id, leaf_id=edited.assistant_message_id)
    of_own = await store.standing(ADA, first.conversation_id, leaf_id=third.assistant_message_id)
    of_middle = await store.standing(ADA, first.conversation_id, leaf_id=second.user_message_id)

    assert (of_other.summary.id if of_other.summary else "") == shared.id
    assert (of_own.summary.id if of_own.summary else "") == own.id
    assert (of_middle.summary.id if of_middle.summary else "") == shared.id


@pytest.mark.parametrize("seed", range(3))
async def test_on_any_tree_a_branch_has_the_longest_summary_of_its_own_messages(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    conversation = await store.create_conversation(new_conversation())
    paths: dict[str, list[str]] = {"": []}
    summaries: dict[str, NewSummary] = {}
    for _ in range(14):
        parent_id = chance.choice([each for each in paths if chance.random() < 0.5] or [""])
        turn = await answered(store, new_turn(conversation.id, parent_id=parent_id))
        answer_id = turn.assistant_message_id
        paths[answer_id] = [*paths[parent_id], turn.user_message_id, answer_id]
        if chance.random() < 0.4:
            summaries[answer_id] = summary_through(turn, len(paths[answer_id]))
            assert await kept(store, summaries[answer_id])

    for leaf_id, path in paths.items():
        if not path:
            continue
        standing = await store.standing(ADA, conversation.id, leaf_id=leaf_id)
        expected = next((summaries[each].id for each in reversed(path) if each in summaries), "")
        assert (standing.summary.id if standing.summary else "") == expected
        assert standing.length == len(path)


async def test_of_many_who_would_make_a_summary_one_does(store: Store) -> None:
    (turn,) = await talk(store, turns=1)

    took = await asyncio.gather(
        *(store.claim_summary(ADA, turn.conversation_id, token=f"t{each}", lease_s=LONG_S) for each in range(10))
    )

    assert sum(took) == 1


async def test_only_one_makes_a_summary_at_a_time(store: Store) -> None:
    (turn,) = await talk(store, turns=1)
    conversation_id = turn.conversation_id
    assert await store.claim_summary(ADA, conversation_id, token="one", lease_s=LONG_S)

    assert not await store.claim_summary(ADA, conversation_id, token="two", lease_s=LONG_S)
    assert not await store.keep_summary(ADA, summary_through(turn, 2), token="two")
    assert await store.keep_summary(ADA, summary_through(turn, 2), token="one")
    assert await store.claim_summary(ADA, conversation_id, token="three", lease_s=LONG_S)


async def test_a_claim_of_one_who_died_lapses_and_what_he_made_is_not_kept(store: Store) -> None:
    (turn,) = await talk(store, turns=1)
    assert await store.claim_summary(ADA, turn.conversation_id, token="dead", lease_s=0.0)

    assert await store.claim_summary(ADA, turn.conversation_id, token="next", lease_s=LONG_S)

    assert not await store.keep_summary(ADA, summary_through(turn, 2), token="dead")
    assert await store.keep_summary(ADA, summary_through(turn, 2), token="next")


async def test_a_message_has_one_summary(store: Store) -> None:
    (turn,) = await talk(store, turns=1)
    assert await kept(store, summary_through(turn, 2))

    assert not await kept(store, summary_through(turn, 2))


@pytest.mark.parametrize(("pause_s", "is_free"), [(0.0, True), (LONG_S, False)])
async def test_a_conversation_is_left_alone_after_a_failure(store: Store, pause_s: float, *, is_free: bool) -> None:
    (turn,) = await talk(store, turns=1)
    assert await store.claim_summary(ADA, turn.conversation_id, token="one", lease_s=LONG_S)

    await store.leave_summary(ADA, turn.conversation_id, token="another", pause_s=0.0)
    assert not await store.claim_summary(ADA, turn.conversation_id, token="two", lease_s=LONG_S)
    await store.leave_summary(ADA, turn.conversation_id, token="one", pause_s=pause_s)

    assert await store.claim_summary(ADA, turn.conversation_id, token="two", lease_s=LONG_S) is is_free


@pytest.mark.parametrize("other", [BOB, EVE])
async def test_nobody_else_has_any_of_it(store: Store, other: Owner) -> None:
    (turn,) = await talk(store, turns=1)
    new = summary_through(turn, 2)
    assert not await store.claim_summary(other, turn.conversation_id, token="theirs", lease_s=LONG_S)
    assert await store.claim_summary(ADA, turn.conversation_id, token="mine", lease_s=LONG_S)
    assert not await store.keep_summary(other, new, token="mine")
    await store.leave_summary(other, turn.conversation_id, token="mine", pause_s=0.0)
    assert await store.keep_summary(ADA, new, token="mine")

    with pytest.raises(NotFound):
        await store.summary(other, new.id)
    with pytest.raises(NotFound):
        await store.standing(other, turn.conversation_id, leaf_id=turn.assistant_message_id)


async def test_deleting_a_conversation_deletes_its_summaries_and_claims(store: Store) -> None:
    first, second = await talk(store, turns=2)
    new = summary_through(first, 2)
    assert await kept(store, new)
    assert await store.claim_summary(ADA, first.conversation_id, token="late", lease_s=LONG_S)

    await store.delete_conversation(ADA, first.conversation_id)

    with pytest.raises(NotFound):
        await store.summary(ADA, new.id)
    assert not await store.keep_summary(ADA, summary_through(second, 4, made_from=new.id), token="late")
    assert not await store.claim_summary(ADA, first.conversation_id, token="later", lease_s=LONG_S)
    assert not await store.claim_summary(ADA, ConversationId(new_id("conv")), token="t", lease_s=LONG_S)

"""What conversation asks of PostgreSQL costs as much as the answer is long, however much there is."""

from dataclasses import replace
from typing import Any, Final

from services.conversation.model import (
    ConversationId,
    FinishReason,
    OnConflict,
    Owner,
    Rating,
    Repeat,
    TurnState,
    Usage,
)
from services.conversation.store.summaries import NewSummary
from services.conversation.store.turns import TurnKey
from services.conversation.store.work import Ending, Fold, Folding, TurnRef
from services.conversation.store_postgres import PostgresStore
from services.mesh.ids import new_id
from tests.scale.conftest import Judge
from tests.scale.filling import LAST_AT_WORK
from tests.scale.judging import Allowance
from tests.support.conversation import another_answer, new_conversation, new_turn

WRITER: Final = Owner(f"org_{0:026}", f"usr_{0:026}")
"""Owns the most."""
LONGEST: Final = ConversationId(f"conv_{1:026}")
MOST_EDITED: Final = ConversationId(f"conv_{2:026}")
PAGE: Final = 100
FOLD: Final = Fold(last_sequence=3, text="A", citations=(), retrieval=None, usage=Usage(), model="m")

ALLOWED: Final = {
    "min(conversation.outbox.create_time)": Allowance("counts turns that have not ended", LAST_AT_WORK),
    "SELECT DISTINCT conversation.turns.organization_id": Allowance("goes through turns that wait", LAST_AT_WORK),
    "publish_time=(conversation.turns.publish_time": Allowance("looks up the turns that it is given", PAGE),
}

Store = Any
"""A store whose methods are judged."""


async def test_statements_of_conversation_cost_what_they_answer(judge: Judge) -> None:
    judge.allowances.update(ALLOWED)
    store: Store = judge.watching(PostgresStore(judge.database))

    await pages_are_read(store)
    for conversation_id in (LONGEST, MOST_EDITED):
        await branches_are_read(store, conversation_id)
        await turns_are_answered(store, conversation_id)
    await many_turns_grow_at_once(store)
    await conversations_come_and_go(store)
    await summaries_are_made(store)
    await loops_run(store)

    assert judge.missing(PostgresStore) == set()
    assert not judge.found, "\n".join(judge.found)


async def pages_are_read(store: Store) -> None:
    first = await store.list_conversations(WRITER, size=PAGE, after=None)
    middle = first[PAGE // 2]
    assert len(await store.list_conversations(WRITER, size=PAGE, after=(middle.update_time, middle.id))) > PAGE // 2
    nodes = await store.tree(WRITER, LONGEST, size=PAGE, after_id="")
    assert len(await store.tree(WRITER, LONGEST, size=PAGE, after_id=nodes[-1].id)) == PAGE
    turns = await store.list_turns(WRITER, LONGEST, size=PAGE, before_id="")
    assert len(await store.list_turns(WRITER, LONGEST, size=PAGE, before_id=turns[-1].id)) == PAGE


async def branches_are_read(store: Store, conversation_id: ConversationId) -> None:
    leaf_id = (await store.conversation(WRITER, conversation_id)).leaf_message_id
    assert (await store.message(WRITER, leaf_id)).id == leaf_id
    _, depth = await store.branch(WRITER, conversation_id, leaf_id=leaf_id, after_depth=-1, size=PAGE)
    for after in (depth // 2, depth - PAGE):
        messages, _ = await store.branch(WRITER, conversation_id, leaf_id=leaf_id, after_depth=after, size=PAGE)
        assert len(messages) == PAGE
    assert len(await store.branch_end(WRITER, conversation_id, leaf_id=leaf_id, size=PAGE)) == PAGE
    assert (await store.standing(WRITER, conversation_id, leaf_id=leaf_id)).summary is not None


async def turns_are_answered(store: Store, conversation_id: ConversationId) -> None:
    repeat = Repeat(method="CreateTurn", request_id=new_id("req"), body_hash=b"1")
    new = new_turn(conversation_id, owner=WRITER, repeat=repeat)
    turn = await store.create_turn(new)
    assert await store.is_repeat(WRITER, repeat)
    await store.create_turn(new)
    ref = TurnRef(WRITER.organization_id, conversation_id, turn.id)
    held = (await store.claim(ref, lease_s=600.0, epoch="", spend_attempt=True)).hold
    waiting = await store.create_turn(replace(new_turn(conversation_id, owner=WRITER), on_conflict=OnConflict.QUEUE))
    assert waiting.state is TurnState.WAITING
    assert await store.renew(held, lease_s=600.0)
    assert await store.fold(held, FOLD, lease_s=600.0, sequence_limit=99, epoch="")
    assert await store.unwanted([held]) == set()
    assert await store.release(held, spend_attempt=False)
    held = (await store.claim(ref, lease_s=600.0, epoch="", spend_attempt=True)).hold
    assert await store.finish(held, FOLD, Ending(TurnState.COMPLETED, FinishReason.STOP))
    assert (await store.request_cancel(WRITER, waiting.id)).state is TurnState.CANCELLED
    await store.request_cancel(WRITER, (await store.create_turn(another_answer(turn, owner=WRITER))).id)
    assert (await store.turn(WRITER, turn.id)).state is TurnState.COMPLETED
    assert (await store.answer(WRITER, turn.id)).message.text == "A"
    await store.set_feedback(WRITER, turn.assistant_message_id, Rating.GOOD, "")
    assert (await store.feedback(WRITER, turn.assistant_message_id)).rating is Rating.GOOD


async def many_turns_grow_at_once(store: Store) -> None:
    turns = [await store.create_turn(new_turn(conversation, owner=WRITER)) for conversation in (LONGEST, MOST_EDITED)]
    refs = [TurnRef(WRITER.organization_id, turn.conversation_id, turn.id) for turn in turns]
    holds = [(await store.claim(ref, lease_s=600.0, epoch="", spend_attempt=True)).hold for ref in refs]
    assert await store.renew_all(holds, lease_s=600.0) == [True, True]
    foldings = [Folding(hold=hold, fold=FOLD, sequence_limit=99, epoch="") for hold in holds]
    assert await store.fold_all(foldings, lease_s=600.0) == [True, True]
    assert len(await store.progress([TurnKey(WRITER.organization_id, turn.id) for turn in turns])) == 2
    for hold in holds:
        assert await store.finish(hold, FOLD, Ending(TurnState.COMPLETED, FinishReason.STOP))


async def conversations_come_and_go(store: Store) -> None:
    made = await store.create_conversation(new_conversation(WRITER))
    settings = replace(made.settings, title="Another")
    assert (await store.update_conversation(WRITER, made.id, settings, etag=made.etag)).settings == settings
    # One that somebody has used: what hangs on it goes with it.
    used = (await store.list_conversations(WRITER, size=PAGE, after=None))[-1]
    assert await store.delete_conversation(WRITER, used.id)


async def summaries_are_made(store: Store) -> None:
    leaf_id = (await store.conversation(WRITER, LONGEST)).leaf_message_id
    token = new_id("claim")
    assert await store.claim_summary(WRITER, LONGEST, token=token, lease_s=600.0)
    new = NewSummary(
        id=new_id("sum"),
        conversation_id=LONGEST,
        through_message_id=leaf_id,
        messages_covered=5,
        made_from="",
        text="They spoke.",
        model="m",
        wording_revision="1",
        tokens_before=1,
        tokens_after=1,
        usage=Usage(),
    )
    assert await store.keep_summary(WRITER, new, token=token)
    assert (await store.summary(WRITER, new.id)).text == new.text
    assert await store.claim_summary(WRITER, MOST_EDITED, token=token, lease_s=600.0)
    await store.leave_summary(WRITER, MOST_EDITED, token=token, pause_s=0.0)


async def loops_run(store: Store) -> None:
    backlog = await store.backlog()
    assert backlog.queued + backlog.running >= LAST_AT_WORK // 2
    await store.requeue_lapsed(attempts_max=5, limit=PAGE)
    stale = await store.stale_queued(older_s=0.0, limit=PAGE)
    assert len(stale) == PAGE
    await store.leave_paused(stale, older_s=1.0)
    assert await store.overdue(limit=PAGE) == []
    assert await store.move_up_stranded(limit=PAGE) == 0
    await store.relayed(await store.outbox(limit=PAGE))
    await store.leftovers(older_s=0.0, limit=PAGE)
    assert await store.prune(older_s=86_400.0, limit=1_000) > 0

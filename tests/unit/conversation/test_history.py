"""Prompts see what is stored: the cache may be fast, never stale."""

import asyncio
from dataclasses import replace

import pytest

from services.conversation.history.branches import BRANCH_LENGTH_MAX, Branch, History, Kept
from services.conversation.model import Message, Owner, Role
from services.conversation.ports import PromptMessage
from services.conversation.store.turns import NewTurn
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import NotFound, Unavailable
from tests.support.conversation import ADA, EVE, new_conversation, new_turn
from tests.support.conversation_fakes import MemoryHistoryCache
from tests.support.conversation_rig import Rig, memory_rig, running


class AwayCache(MemoryHistoryCache):
    """A cache that is away."""

    async def get(self, owner: Owner, conversation_id: str) -> Kept:
        raise Unavailable

    async def put(self, owner: Owner, conversation_id: str, branch: Branch) -> bool:
        raise Unavailable

    async def drop(self, owner: Owner, conversation_id: str) -> None:
        raise Unavailable


async def answered(rig: Rig, text: str, conversation_id: str = "", parent_id: str | None = None) -> NewTurn:
    """A question that has been answered with `A: <text>`."""
    if not conversation_id:
        conversation_id = (await rig.store.create_conversation(new_conversation())).id
    new = new_turn(conversation_id, text, parent_id=parent_id)
    await rig.store.create_turn(new)
    rig.inference.words = [f"A: {text}"]
    turn = await rig.store.turn(ADA, new.id)
    await rig.relay.relay_once()
    async with running(rig):
        await rig.watch(turn)
    return new


async def question(rig: Rig, conversation_id: str, parent_id: str | None = None) -> Message:
    """The message of a turn that waits; it is ended, so that another one can follow."""
    turn = await rig.store.create_turn(new_turn(conversation_id, "next?", parent_id=parent_id))
    await rig.turns.cancel(ADA, turn.id)
    return await rig.store.message(ADA, turn.user_message_id)


def texts(branch: Branch) -> list[str]:
    return [message.text for message in branch.messages]


async def test_a_worker_leaves_the_branch_that_the_next_prompt_needs() -> None:
    rig = memory_rig(MemoryStore())
    first = await answered(rig, "one")
    await answered(rig, "two", first.conversation_id)
    cached = rig.cache.branches[ADA, first.conversation_id]
    next_question = await question(rig, first.conversation_id)

    history = History(rig.store, rig.cache, messages_max=100)

    assert cached.leaf_id == next_question.parent_id
    assert texts(await history.before(ADA, next_question)) == ["one", "A: one", "two", "A: two"]


async def test_the_store_gives_the_same_branch_as_the_cache() -> None:
    rig = memory_rig(MemoryStore())
    first = await answered(rig, "one")
    await answered(rig, "two", first.conversation_id)
    next_question = await question(rig, first.conversation_id)
    cached = await History(rig.store, rig.cache, messages_max=3).before(ADA, next_question)

    stored = await History(rig.store, AwayCache(), messages_max=3).before(ADA, next_question)

    assert texts(stored) == ["A: one", "two", "A: two"]
    assert texts(cached)[-3:] == texts(stored)


async def test_a_branch_of_another_leaf_is_not_taken_from_the_cache() -> None:
    rig = memory_rig(MemoryStore())
    first = await answered(rig, "one")
    await answered(rig, "two", first.conversation_id)
    side = await question(rig, first.conversation_id, parent_id=first.assistant_message_id)

    history = History(rig.store, rig.cache, messages_max=100)

    assert texts(await history.before(ADA, side)) == ["one", "A: one"]


async def test_an_entry_of_somebody_else_is_never_looked_at() -> None:
    rig = memory_rig(MemoryStore())
    first = await answered(rig, "one")
    next_question = await question(rig, first.conversation_id)
    rig.cache.branches[EVE, first.conversation_id] = Branch(
        next_question.parent_id, (PromptMessage(Role.USER, "poison"),)
    )
    rig.cache.branches.pop((ADA, first.conversation_id))

    branch = await History(rig.store, rig.cache, messages_max=100).before(ADA, next_question)

    assert "poison" not in texts(branch)


async def test_a_first_question_has_no_history() -> None:
    rig = memory_rig(MemoryStore())
    conversation = await rig.store.create_conversation(new_conversation())
    first = await question(rig, conversation.id)

    assert (await History(rig.store, rig.cache, messages_max=100).before(ADA, first)).messages == ()


async def test_a_deleted_conversation_has_no_history() -> None:
    rig = memory_rig(MemoryStore())
    first = await answered(rig, "one")
    next_question = await question(rig, first.conversation_id)
    await rig.store.delete_conversation(ADA, first.conversation_id)
    history = History(rig.store, rig.cache, messages_max=100)

    await history.drop(ADA, first.conversation_id)

    with pytest.raises(NotFound):
        await history.before(ADA, next_question)


async def test_a_branch_that_is_too_long_is_not_cached() -> None:
    cache = MemoryHistoryCache()
    rig = memory_rig(MemoryStore())
    first = await answered(rig, "one")
    message = await rig.store.message(ADA, first.user_message_id)
    history = History(rig.store, cache, messages_max=100)

    before = await history.before(ADA, message)
    await history.append(ADA, before, message, "msg_2", "x" * BRANCH_LENGTH_MAX)

    assert cache.branches == {}
    await history.append(ADA, before, message, "msg_2", "x")
    assert texts(cache.branches[ADA, first.conversation_id])[-1] == "x"


async def test_what_was_dropped_since_it_was_read_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = memory_rig(MemoryStore())
    first = await answered(rig, "one")
    next_question = await question(rig, first.conversation_id)
    rig.cache.lose_everything()
    branch_end = rig.store.branch_end

    async def slowly(owner: Owner, conversation_id: str, *, leaf_id: str, size: int) -> list[Message]:
        found = await branch_end(owner, conversation_id, leaf_id=leaf_id, size=size)
        await rig.cache.drop(ADA, first.conversation_id)
        return found

    monkeypatch.setattr(rig.store, "branch_end", slowly)

    assert texts(await History(rig.store, rig.cache, messages_max=100).before(ADA, next_question))
    assert rig.cache.branches == {}


async def test_racing_writers_and_readers_never_see_a_stale_branch() -> None:
    rig = memory_rig(MemoryStore())
    conversation = await rig.store.create_conversation(new_conversation())
    history = History(rig.store, rig.cache, messages_max=1_000)
    expected: list[str] = []
    is_over = False

    async def read() -> int:
        reads = 0
        while not is_over:
            probe = await rig.store.conversation(ADA, conversation.id)
            if probe.leaf_message_id:
                leaf = await rig.store.message(ADA, probe.leaf_message_id)
                known = list(expected)
                asked = replace(leaf, parent_id=leaf.id)
                if leaf.state != "in_progress":
                    seen = texts(await history.before(ADA, asked))
                    assert seen[: len(known)] == known[: len(seen)]
                    assert len(seen) >= len(known)
                    reads += 1
            await asyncio.sleep(0)
        return reads

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read()) for _ in range(5)]
        async with running(rig):
            for number in range(30):
                rig.inference.words = [f"A{number}"]
                turn = await rig.ask_in(conversation.id, f"Q{number}")
                await rig.watch(turn)
                expected += [f"Q{number}", f"A{number}"]
        is_over = True

    assert sum(reader.result() for reader in readers) > 30
    prompts = [[message.text for message in request.messages] for _, request in rig.inference.requests]
    assert prompts == [expected[: 2 * number + 1] for number in range(30)]


async def test_a_prompt_is_right_without_a_cache() -> None:
    rig = memory_rig(MemoryStore())
    rig.cache = AwayCache()
    first = await answered(rig, "one")
    await answered(rig, "two", first.conversation_id)

    _, request = rig.inference.requests[-1]
    assert [message.text for message in request.messages] == ["one", "A: one", "two"]

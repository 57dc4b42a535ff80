"""What every cache of histories does."""

from dataclasses import replace

from services.conversation.history.branches import Branch, HistoryCache
from services.conversation.model import ConversationId, Role
from services.conversation.ports import PromptMessage
from tests.support.conversation import ADA, BOB, EVE

CONVERSATION = ConversationId("conv_1")
BRANCH = Branch("msg_2", (PromptMessage(Role.USER, "Où?"), PromptMessage(Role.ASSISTANT, "\U0001f9ee")))


async def marked(cache: HistoryCache) -> Branch:
    """The branch with the present mark of its place."""
    return replace(BRANCH, mark=(await cache.get(ADA, CONVERSATION)).mark)


async def test_what_is_put_is_found_by_its_owner_alone(history_cache: HistoryCache) -> None:
    assert (await history_cache.get(ADA, CONVERSATION)).branch is None

    assert await history_cache.put(ADA, CONVERSATION, await marked(history_cache))

    assert (await history_cache.get(ADA, CONVERSATION)).branch == BRANCH
    assert (await history_cache.get(BOB, CONVERSATION)).branch is None
    assert (await history_cache.get(EVE, CONVERSATION)).branch is None
    assert (await history_cache.get(ADA, ConversationId("conv_2"))).branch is None


async def test_a_place_keeps_its_mark_while_branches_replace_each_other(history_cache: HistoryCache) -> None:
    first = await marked(history_cache)
    assert await history_cache.put(ADA, CONVERSATION, first)

    assert await history_cache.put(ADA, CONVERSATION, replace(first, leaf_id="msg_4"))

    kept = await history_cache.get(ADA, CONVERSATION)
    assert (kept.mark, kept.branch) == (first.mark, replace(BRANCH, leaf_id="msg_4"))


async def test_what_was_read_before_a_drop_is_not_put_after_it(history_cache: HistoryCache) -> None:
    late = await marked(history_cache)
    assert await history_cache.put(ADA, CONVERSATION, late)

    await history_cache.drop(ADA, CONVERSATION)

    assert not await history_cache.put(ADA, CONVERSATION, late)
    kept = await history_cache.get(ADA, CONVERSATION)
    assert kept.branch is None
    assert kept.mark != late.mark
    assert not await history_cache.put(ADA, CONVERSATION, late)

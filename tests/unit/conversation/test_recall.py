"""What a prompt shows of a long history: a summary of its own branch, the newest messages, and what it left out."""

from dataclasses import replace

import pytest

from services.conversation.asking.actions import Edit
from services.conversation.context import ContextPart, ContextReport, Omission, OmissionReason, PromptReference
from services.conversation.history.branches import Branch
from services.conversation.history.recall import Past, Recall
from services.conversation.model import ConversationSettings, Message, Owner, Role, Turn, TurnState
from services.conversation.ports import GenerationStarted, PromptMessage, Purpose
from services.conversation.store.summaries import NewSummary, Standing
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import NotFound, Unavailable
from services.mesh.ids import new_id
from tests.support.conversation import ADA, new_conversation
from tests.support.conversation_fakes import FINISHED
from tests.support.conversation_rig import Rig, memory_rig, running

SUMMARISED = OmissionReason.SUMMARISED


class AwayStore(MemoryStore):
    """A store that cannot tell of summaries."""

    async def standing(self, owner: Owner, conversation_id: str, *, leaf_id: str) -> Standing:
        raise Unavailable


async def talked(rig: Rig, conversation_id: str, *texts: str) -> list[Turn]:
    """Questions that have been answered with `A <text>`."""
    turns = []
    async with running(rig):
        for text in texts:
            rig.inference.words = [f"A {text}"]
            turns.append(await rig.ask_in(conversation_id, text))
            await rig.watch(turns[-1])
    return turns


async def kept(rig: Rig, turn: Turn, covered: int, text: str) -> str:
    """A summary of everything up to the answer of a turn."""
    new = NewSummary(
        id=new_id("sum"),
        conversation_id=turn.conversation_id,
        through_message_id=turn.assistant_message_id,
        messages_covered=covered,
        made_from="",
        text=text,
        model="cheap/one",
        wording_revision="w1",
        tokens_before=50,
        tokens_after=3,
        usage=FINISHED.usage,
    )
    assert await rig.store.claim_summary(ADA, turn.conversation_id, token="t", lease_s=60.0)
    assert await rig.store.keep_summary(ADA, new, token="t")
    return new.id


def recalling(rig: Rig, *, messages_max: int = 100, above_tokens: int | None = 0) -> Rig:
    rig.recall = Recall(rig.store, messages_max=messages_max, above_tokens=above_tokens)
    return rig


def shown(rig: Rig) -> tuple[str, list[str]]:
    """Summary and messages of the newest prompt."""
    _, request = rig.inference.requests[-1]
    return request.summary, [message.text for message in request.messages]


async def test_a_summary_takes_the_place_of_the_messages_that_it_stands_for() -> None:
    rig = recalling(memory_rig(MemoryStore()))
    conversation = await rig.store.create_conversation(new_conversation())
    first, _ = await talked(rig, conversation.id, "one", "two")
    summary_id = await kept(rig, first, 2, "They counted.")
    rig.inference.started = GenerationStarted("m", 5, context=ContextReport(summary_tokens=4, history_tokens=9))

    (last,) = await talked(rig, conversation.id, "three")

    assert shown(rig) == ("They counted.", ["two", "A two", "three"])
    assert (await rig.store.message(ADA, last.assistant_message_id)).context == ContextReport(
        summary_tokens=4,
        history_tokens=9,
        summary_id=summary_id,
        messages_summarised=2,
        omissions=(Omission(ContextPart.MESSAGES, SUMMARISED, 2),),
    )


async def test_another_branch_is_shown_only_what_stands_for_its_own_messages() -> None:
    rig = recalling(memory_rig(MemoryStore()))
    conversation = await rig.store.create_conversation(new_conversation())
    first, second, _ = await talked(rig, conversation.id, "one", "two", "three")
    await kept(rig, first, 2, "of one")
    await kept(rig, second, 4, "of one and two")

    async with running(rig):
        await rig.watch(await rig.act(conversation.id, Edit(second.user_message_id, "two, otherwise")))
        edited = shown(rig)
        await rig.watch(await rig.act(conversation.id, Edit(first.user_message_id, "one, otherwise")))

    assert edited == ("of one", ["two, otherwise"])
    assert shown(rig) == ("", ["one, otherwise"])


async def test_a_short_branch_is_not_looked_up() -> None:
    rig = recalling(memory_rig(AwayStore()), above_tokens=1_000)
    conversation = await rig.store.create_conversation(new_conversation())

    await talked(rig, conversation.id, "one", "two")

    assert shown(rig) == ("", ["one", "A one", "two"])


async def test_an_answer_does_not_wait_for_summaries_that_cannot_be_read() -> None:
    rig = recalling(memory_rig(AwayStore()))
    conversation = await rig.store.create_conversation(new_conversation())

    await talked(rig, conversation.id, "one", "two")

    assert shown(rig) == ("", ["one", "A one", "two"])


async def test_messages_beyond_the_limit_of_a_prompt_are_told_also_without_summaries() -> None:
    rig = memory_rig(MemoryStore())
    conversation = await rig.store.create_conversation(new_conversation())
    first, last = await talked(rig, conversation.id, "one", "two")
    await kept(rig, first, 2, "made before summaries were switched off")
    recall = Recall(rig.store, messages_max=2, above_tokens=None)
    newest = (PromptMessage(Role.USER, "two"), PromptMessage(Role.ASSISTANT, ""))

    past = await recall.past(ADA, conversation.id, Branch(last.assistant_message_id, newest))

    assert past == Past(
        messages=newest[:1],
        omissions=(
            Omission(ContextPart.MESSAGES, OmissionReason.LIMIT, 2),
            Omission(ContextPart.MESSAGES, OmissionReason.EMPTY, 1),
        ),
    )


async def test_messages_between_the_summary_and_those_shown_are_told() -> None:
    rig = memory_rig(MemoryStore())
    conversation = await rig.store.create_conversation(new_conversation())
    first, *_, last = await talked(rig, conversation.id, "one", "two", "three")
    await kept(rig, first, 2, "of one")
    recall = Recall(rig.store, messages_max=2, above_tokens=0)
    newest = (PromptMessage(Role.USER, "three"), PromptMessage(Role.ASSISTANT, "A three"))

    past = await recall.past(ADA, conversation.id, Branch(last.assistant_message_id, newest))

    assert past.messages == newest
    assert past.omissions == (
        Omission(ContextPart.MESSAGES, SUMMARISED, 2),
        Omission(ContextPart.MESSAGES, OmissionReason.LIMIT, 2),
    )


async def test_a_deleted_conversation_has_no_past() -> None:
    rig = memory_rig(MemoryStore())
    conversation = await rig.store.create_conversation(new_conversation())
    (turn,) = await talked(rig, conversation.id, "one")
    await rig.store.delete_conversation(ADA, conversation.id)
    branch = Branch(turn.assistant_message_id, (PromptMessage(Role.USER, "one"),))

    with pytest.raises(NotFound):
        await Recall(rig.store, messages_max=100, above_tokens=0).past(ADA, conversation.id, branch)


async def test_the_last_word_on_what_was_read_stands() -> None:
    rig = memory_rig(MemoryStore())
    rig.inference.started = GenerationStarted("m", 5, context=ContextReport(history_tokens=1))
    rig.inference.finished = replace(FINISHED, context=ContextReport(history_tokens=2, prompt_revision="prm_1/2"))
    conversation = await rig.store.create_conversation(new_conversation())

    (turn,) = await talked(rig, conversation.id, "one")

    message: Message = await rig.store.message(ADA, turn.assistant_message_id)
    assert message.context == ContextReport(history_tokens=2, prompt_revision="prm_1/2")


async def test_an_answer_is_asked_for_as_such_and_with_the_prompt_that_the_conversation_names() -> None:
    rig = memory_rig(MemoryStore())
    reference = PromptReference(prompt="support", variables=(("name", "Ada"),))
    new = replace(new_conversation(), settings=ConversationSettings(prompt=reference))
    conversation = await rig.store.create_conversation(new)

    await talked(rig, conversation.id, "one")

    _, request = rig.inference.requests[-1]
    assert (request.purpose, request.prompt) == (Purpose.ANSWER, reference)


async def test_a_prompt_that_is_gone_fails_the_turn_and_says_so() -> None:
    rig = memory_rig(MemoryStore())
    rig.inference.refusals = [NotFound.of("prompt")]
    new = replace(new_conversation(), settings=ConversationSettings(prompt=PromptReference(prompt="gone")))
    conversation = await rig.store.create_conversation(new)

    (turn,) = await talked(rig, conversation.id, "one")

    failed = await rig.store.turn(ADA, turn.id)
    assert failed.error is not None
    assert (failed.state, failed.error.reason) == (TurnState.FAILED, "NOT_FOUND")

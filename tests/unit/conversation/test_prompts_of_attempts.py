"""All attempts at an answer are given one revision of its prompt, wherever an alias leads meanwhile."""

from dataclasses import replace

from services.conversation.context import ContextReport, PromptReference
from services.conversation.events import AttemptStarted, TurnEvent
from services.conversation.model import ConversationSettings, Turn
from services.conversation.ports import GenerationRequest
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import Unavailable
from tests.support.conversation import ADA, new_conversation, text_of
from tests.support.conversation_fakes import STARTED
from tests.support.conversation_rig import Rig, memory_rig, running

ALIAS = PromptReference(prompt="support", alias="staging", variables=(("name", "Ada"),))
TOLD = replace(STARTED, context=ContextReport(prompt_revision="prm_1/2"))


def rig_that_breaks_off() -> Rig:
    """Its model breaks off before the third word of its first answer."""
    rig = memory_rig(MemoryStore())

    async def fail_once(index: int) -> None:
        if index == 2 and rig.inference.starts == 1:
            raise Unavailable("the model hung up")

    rig.inference.gate = fail_once
    return rig


async def asked(rig: Rig, prompt: PromptReference) -> Turn:
    new = replace(new_conversation(), settings=ConversationSettings(prompt=prompt))
    conversation = await rig.store.create_conversation(new)
    return await rig.ask_in(conversation.id, "What did Ada write?")


async def answered(rig: Rig, turn: Turn) -> tuple[GenerationRequest, GenerationRequest, list[TurnEvent]]:
    """What the two attempts asked for, and what was shown."""
    async with running(rig):
        events = await rig.watch(turn)
    (_, first), (_, second) = rig.inference.requests
    return first, second, events


async def test_another_attempt_is_given_the_revision_that_the_first_one_was_given() -> None:
    rig = rig_that_breaks_off()
    rig.inference.started = TOLD

    first, second, events = await answered(rig, await asked(rig, ALIAS))

    assert first.prompt == ALIAS
    assert second.prompt == PromptReference(prompt="prm_1", revision=2, variables=ALIAS.variables)
    assert second.continue_from == "Ada wrote"
    assert text_of(events) == "Ada wrote notes."


async def test_a_conversation_that_names_another_prompt_meanwhile_changes_nothing() -> None:
    rig = rig_that_breaks_off()
    rig.inference.started = TOLD
    turn = await asked(rig, ALIAS)
    present = await rig.store.conversation(ADA, turn.conversation_id)
    other = ConversationSettings(prompt=PromptReference(prompt="sales"))
    await rig.store.update_conversation(ADA, turn.conversation_id, other, etag=present.etag)

    first, second, _ = await answered(rig, turn)

    assert first.prompt == ALIAS
    assert second.prompt == PromptReference(prompt="prm_1", revision=2, variables=ALIAS.variables)


async def test_where_nobody_knows_the_revision_the_answer_begins_anew() -> None:
    rig = rig_that_breaks_off()

    first, second, events = await answered(rig, await asked(rig, ALIAS))

    assert first.prompt == second.prompt == ALIAS
    assert second.continue_from == ""
    assert AttemptStarted(2, 0) in [event.payload for event in events]
    assert text_of(events) == "Ada wrote notes."


async def test_a_revision_by_number_is_gone_on_with() -> None:
    rig = rig_that_breaks_off()

    _, second, events = await answered(rig, await asked(rig, PromptReference(prompt="support", revision=7)))

    assert second.prompt == PromptReference(prompt="support", revision=7)
    assert second.continue_from == "Ada wrote"
    assert text_of(events) == "Ada wrote notes."

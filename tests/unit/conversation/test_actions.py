"""Questions in other words, answers written anew or gone on with: what the tree looks like, and what is refused."""

from dataclasses import replace

import pytest

from services.conversation.asking.actions import Action, Continue, Edit, NewQuestion, Regenerate
from services.conversation.events import AttemptStarted, ProviderSwitched
from services.conversation.model import (
    FinishReason,
    Message,
    MessageId,
    MessageState,
    Role,
    Turn,
    TurnState,
)
from services.conversation.ports import GeneratedCitation, GeneratedText, PromptMessage
from services.conversation.running.continuation import Extension
from services.conversation.running.generation import CONTINUED_LENGTH_MAX, EVENT_TEXT_LENGTH_MAX
from services.conversation.store.conversations import NewMessage
from services.mesh.errors import InvalidArgument, NotFound, Unavailable
from services.mesh.ids import new_id
from tests.support.conversation import ADA, BOB, EVE, ending, kinds, new_conversation, replayed, text_of
from tests.support.conversation_fakes import FINISHED, Stop
from tests.support.conversation_rig import Rig

CUT_SHORT = replace(FINISHED, finish_reason=FinishReason.LENGTH)


async def answered(rig: Rig, **settings: str) -> Turn:
    turn = await rig.ask("What did Ada write?", owner=ADA, **settings)
    await rig.watch(turn)
    return turn


async def cut_short(rig: Rig, text: str = "Ada wrote", **settings: str) -> Turn:
    """A turn whose answer met its length after `text`."""
    before = rig.inference.words, rig.inference.finished
    rig.inference.words, rig.inference.finished = [text], CUT_SHORT
    turn = await answered(rig, **settings)
    rig.inference.words, rig.inference.finished = before
    return turn


async def message(rig: Rig, message_id: str) -> Message:
    return await rig.store.message(ADA, message_id)


async def test_an_edited_question_is_a_sibling_with_an_answer_of_its_own(at_work: Rig) -> None:
    first = await answered(at_work)
    second = await at_work.act(first.conversation_id, NewQuestion("And then?", None))
    await at_work.watch(second)

    edited = await at_work.act(first.conversation_id, Edit(second.user_message_id, "And before?"))
    await at_work.watch(edited)

    question, answer = (
        await message(at_work, edited.user_message_id),
        await message(at_work, edited.assistant_message_id),
    )
    assert (question.text, question.parent_id) == ("And before?", first.assistant_message_id)
    assert (question.revision_of, answer.revision_of) == (second.user_message_id, "")
    assert (answer.parent_id, answer.state) == (question.id, MessageState.COMPLETE)
    assert (await message(at_work, second.user_message_id)).text == "And then?"
    prompt = at_work.inference.requests[-1][1].messages
    assert [asked.text for asked in prompt if asked.role is Role.USER] == ["What did Ada write?", "And before?"]


async def test_a_first_question_that_is_edited_begins_a_new_first_branch(at_work: Rig) -> None:
    first = await answered(at_work)

    edited = await at_work.act(first.conversation_id, Edit(first.user_message_id, "Who was Ada?"))
    await at_work.watch(edited)

    assert (await message(at_work, edited.user_message_id)).parent_id == ""
    conversation = await at_work.store.conversation(ADA, first.conversation_id)
    assert (conversation.leaf_message_id, conversation.settings.title) == (
        edited.assistant_message_id,
        "What did Ada write?",
    )


async def test_a_regenerated_answer_is_a_sibling_under_the_same_question(at_work: Rig) -> None:
    first = await answered(at_work)
    at_work.inference.words = ["Nothing", "."]

    again = await at_work.act(first.conversation_id, Regenerate(first.assistant_message_id))
    events = await at_work.watch(again)

    answer = await message(at_work, again.assistant_message_id)
    assert again.user_message_id == first.user_message_id
    assert (answer.parent_id, answer.revision_of) == (first.user_message_id, first.assistant_message_id)
    assert (answer.text, text_of(events)) == ("Nothing.", "Nothing.")
    assert (await message(at_work, first.assistant_message_id)).text == "Ada wrote notes."
    assert len(await at_work.store.tree(ADA, first.conversation_id, size=10, after_id="")) == 3
    assert at_work.inference.requests[-1][1].messages == (PromptMessage(Role.USER, "What did Ada write?"),)


async def test_a_question_after_a_regenerated_answer_follows_that_branch(at_work: Rig) -> None:
    first = await answered(at_work)
    at_work.inference.words = ["Nothing", "."]
    again = await at_work.act(first.conversation_id, Regenerate(first.assistant_message_id))
    await at_work.watch(again)

    following = await at_work.act(first.conversation_id, NewQuestion("Sure?", None))
    await at_work.watch(following)

    texts = [asked.text for asked in at_work.inference.requests[-1][1].messages]
    assert texts == ["What did Ada write?", "Nothing.", "Sure?"]


async def test_an_answer_that_is_gone_on_with_begins_with_the_old_text(at_work: Rig) -> None:
    old = await cut_short(at_work)
    at_work.inference.words = [" a", " program"]

    longer = await at_work.act(old.conversation_id, Continue(old.assistant_message_id))
    events = await at_work.watch(longer)

    answer = await message(at_work, longer.assistant_message_id)
    assert (answer.text, text_of(events)) == ("Ada wrote a program", "Ada wrote a program")
    assert (answer.parent_id, answer.revision_of) == (old.user_message_id, old.assistant_message_id)
    assert (answer.finish_reason, answer.state) == (FinishReason.STOP, MessageState.COMPLETE)
    assert (await message(at_work, old.assistant_message_id)).text == "Ada wrote"
    assert at_work.inference.requests[-1][1].system.endswith("\n\nAda wrote")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_model_that_repeats_the_old_text_is_followed_to_its_end(at_work: Rig) -> None:
    at_work.inference.gate = stop = Stop(before=2)
    old = await at_work.ask(knowledge_base_id="kb_1")
    await stop.reached.wait()
    await at_work.turns.cancel(ADA, old.id)
    await at_work.watch(old)
    at_work.inference.gate = None

    longer = await at_work.act(old.conversation_id, Continue(old.assistant_message_id))
    events = await at_work.watch(longer)

    assert (await message(at_work, old.assistant_message_id)).text == "Ada wrote"
    assert text_of(events) == "Ada wrote notes."
    (citation,) = replayed(events).citations
    assert (citation.start, citation.end) == (0, 3)


async def test_citations_of_the_old_text_stand_and_new_ones_are_moved_behind_it(at_work: Rig) -> None:
    old = await cut_short(at_work, knowledge_base_id="kb_1")
    at_work.inference.words = [" Ada", "."]

    longer = await at_work.act(old.conversation_id, Continue(old.assistant_message_id))
    events = await at_work.watch(longer)

    text = text_of(events)
    assert [text[c.start : c.end] for c in replayed(events).citations] == ["Ada", " Ad"]
    assert [c.start for c in replayed(events).citations] == [0, len("Ada wrote")]


async def test_an_answer_without_text_is_gone_on_with_from_the_start(at_work: Rig) -> None:
    at_work.inference.gate = stop = Stop(before=0)
    old = await at_work.ask()
    await stop.reached.wait()
    await at_work.turns.cancel(ADA, old.id)
    await at_work.watch(old)
    at_work.inference.gate = None

    longer = await at_work.act(old.conversation_id, Continue(old.assistant_message_id))

    assert text_of(await at_work.watch(longer)) == "Ada wrote notes."
    assert at_work.inference.requests[-1][1].system == ""


async def test_a_long_answer_is_sent_in_pieces_and_shown_to_the_model_by_its_end(at_work: Rig) -> None:
    text = "".join(str(n % 10) for n in range(3 * CONTINUED_LENGTH_MAX))
    old = await cut_short(at_work, text)
    at_work.inference.words = ["!"]

    longer = await at_work.act(old.conversation_id, Continue(old.assistant_message_id))
    events = await at_work.watch(longer)

    assert text_of(events) == f"{text}!"
    assert kinds(events).count("TextDelta") >= len(text) // EVENT_TEXT_LENGTH_MAX
    system = at_work.inference.requests[-1][1].system
    assert system.endswith(text[-CONTINUED_LENGTH_MAX:])
    assert text[-CONTINUED_LENGTH_MAX - 1 :] not in system


async def test_a_system_prompt_that_fills_its_room_leaves_none_to_go_on(at_work: Rig) -> None:
    old = await cut_short(at_work, system_prompt="x" * 32_000)

    longer = await at_work.act(old.conversation_id, Continue(old.assistant_message_id))

    finished = ending(await at_work.watch(longer))
    assert finished.state is TurnState.FAILED
    assert finished.message is not None
    assert finished.message.error is not None
    assert (finished.message.error.reason, finished.message.text) == ("CONTEXT_LENGTH_EXCEEDED", "Ada wrote")


async def test_a_failed_answer_may_be_gone_on_with(at_work: Rig) -> None:
    async def breaks(index: int) -> None:
        if index == 1:
            raise NotFound("the model is gone")

    at_work.inference.gate = breaks
    old = await answered(at_work)
    at_work.inference.gate = None

    longer = await at_work.act(old.conversation_id, Continue(old.assistant_message_id))

    assert (await message(at_work, old.assistant_message_id)).state is MessageState.FAILED
    assert text_of(await at_work.watch(longer)) == "Ada wrote notes."


@pytest.mark.parametrize(
    ("kind", "field"), [(Regenerate, "regenerate_of.message_id"), (Continue, "continue_of.message_id")]
)
async def test_a_question_is_neither_regenerated_nor_gone_on_with(
    at_work: Rig, kind: type[Regenerate | Continue], field: str
) -> None:
    first = await answered(at_work)

    assert await refused_field(at_work, first.conversation_id, kind(first.user_message_id)) == field


async def test_an_answer_is_not_edited(at_work: Rig) -> None:
    first = await answered(at_work)

    field = await refused_field(at_work, first.conversation_id, Edit(first.assistant_message_id, "?"))

    assert field == "edit_of.message_id"


async def test_a_complete_answer_is_not_gone_on_with(at_work: Rig) -> None:
    first = await answered(at_work)

    field = await refused_field(at_work, first.conversation_id, Continue(first.assistant_message_id))

    assert field == "continue_of.message_id"


async def test_an_answer_under_way_is_not_gone_on_with(at_work: Rig) -> None:
    at_work.inference.gate = Stop(before=1)
    first = await at_work.ask()

    field = await refused_field(at_work, first.conversation_id, Continue(first.assistant_message_id))

    assert field == "continue_of.message_id"


@pytest.mark.parametrize("text", ["", "x" * 100_001, "a\0b"])
async def test_an_edit_out_of_bounds_is_refused(at_work: Rig, text: str) -> None:
    first = await answered(at_work)

    assert await refused_field(at_work, first.conversation_id, Edit(first.user_message_id, text)) == "edit_of.text"


@pytest.mark.parametrize("roles", [(Role.ASSISTANT,), (Role.ASSISTANT, Role.ASSISTANT)], ids=["first", "after another"])
async def test_an_imported_answer_without_a_question_is_not_regenerated(at_work: Rig, roles: tuple[Role, ...]) -> None:
    messages = tuple(NewMessage(id=MessageId(new_id("msg")), role=role, text="Hello") for role in roles)
    conversation = await at_work.store.create_conversation(replace(new_conversation(), messages=messages))

    field = await refused_field(at_work, conversation.id, Regenerate(messages[-1].id))

    assert field == "regenerate_of.message_id"


@pytest.mark.parametrize("kind", ["edit", "regenerate", "continue"])
async def test_messages_of_others_of_other_conversations_and_of_nobody_are_not_found_alike(
    at_work: Rig, kind: str
) -> None:
    mine, elsewhere = await cut_short(at_work), await cut_short(at_work)
    theirs = []
    for owner in (BOB, EVE):
        turn = await at_work.ask(owner=owner)
        await at_work.watch(turn, owner=owner)
        theirs.append(turn)

    known = [(turn.user_message_id, turn.assistant_message_id) for turn in (elsewhere, *theirs)]
    for question_id, answer_id in (*known, (new_id("msg"), new_id("msg"))):
        actions: dict[str, Action] = {
            "edit": Edit(question_id, "?"),
            "regenerate": Regenerate(answer_id),
            "continue": Continue(answer_id),
        }
        with pytest.raises(NotFound) as refused:
            await at_work.act(mine.conversation_id, actions[kind])
        assert refused.value.metadata == {"resource": "message"}
    assert len(await at_work.store.tree(ADA, mine.conversation_id, size=10, after_id="")) == 2


async def refused_field(rig: Rig, conversation_id: str, action: Action) -> str:
    with pytest.raises(InvalidArgument) as refused:
        await rig.act(conversation_id, action)
    return refused.value.fields[0].field


CITED = GeneratedCitation(passage=1, start=0, end=2, source_start=0, source_end=2)


@pytest.mark.parametrize(
    ("pieces", "placed"),
    [
        (["xy"], [GeneratedText(3, "xy")]),
        (["a", "bX"], [GeneratedText(3, "abX")]),
        (["abc", "d"], [GeneratedText(3, "d")]),
        (["abcd"], [GeneratedText(3, "d")]),
        (["ab", "cd"], [GeneratedText(3, "d")]),
        (["ab"], []),
    ],
    ids=["goes on", "goes on alike", "repeats", "repeats at once", "repeats across", "stops in the repeat"],
)
def test_text_is_placed_behind_what_stands(pieces: list[str], placed: list[GeneratedText]) -> None:
    extension = Extension("abc")
    found, offset = [], 0
    for piece in pieces:
        found += extension.place(GeneratedText(offset, piece))
        offset += len(piece)

    assert found == placed


@pytest.mark.parametrize(("text", "shift"), [("abcd", 0), ("xy", 3)])
def test_steps_that_come_before_the_place_is_known_are_moved_with_the_text(text: str, shift: int) -> None:
    extension = Extension("abc")
    switched = ProviderSwitched("a", "b", "PROVIDER_TIMEOUT", 0)

    held = [*extension.place(CITED), *extension.place(switched)]
    released = extension.place(GeneratedText(0, text))[1:]

    assert held == []
    assert released == [replace(CITED, start=shift, end=2 + shift), replace(switched, offset=shift)]


async def test_an_attempt_that_parts_from_the_last_one_keeps_the_old_text(at_work: Rig) -> None:
    old = await cut_short(at_work)
    at_work.inference.words = [" a", " program"]
    attempts = 0

    async def breaks_once(index: int) -> None:
        nonlocal attempts
        if index == 1 and not attempts:
            attempts += 1
            at_work.inference.words = [" much", " else"]
            raise Unavailable("inference is away")

    at_work.inference.gate = breaks_once
    longer = await at_work.act(old.conversation_id, Continue(old.assistant_message_id))
    events = await at_work.watch(longer)

    assert text_of(events) == "Ada wrote much else"
    (reset,) = [event.payload for event in events if isinstance(event.payload, AttemptStarted)]
    assert (reset.attempt, reset.resume_offset) == (2, len("Ada wrote "))

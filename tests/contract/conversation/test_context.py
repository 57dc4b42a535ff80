"""What a model was given to read is stored with the answer, and a conversation keeps the prompt that it names."""

from dataclasses import replace

from services.conversation.context import ContextPart, ContextReport, Omission, OmissionReason, PromptReference
from services.conversation.model import ConversationSettings, TurnState
from services.conversation.store import Store
from services.conversation.store.work import Ending, Fold, TurnRef
from tests.support.conversation import ADA, new_conversation, new_turn
from tests.support.conversation_fakes import FINISHED

REPORT = ContextReport(
    system_tokens=1,
    example_tokens=2,
    history_tokens=3,
    passage_tokens=4,
    summary_tokens=5,
    summary_id="sum_1",
    messages_summarised=6,
    omissions=(Omission(ContextPart.MESSAGES, OmissionReason.SUMMARISED, 6),),
    prompt_revision="prm_1/2",
    examples_unranked=True,
)
REFERENCE = PromptReference(prompt="support", alias="staging", variables=(("name", "Ada"), ("tone", "kind")))


async def test_context_is_folded_and_stays_with_the_answer(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(new_turn(conversation.id))
    ref = TurnRef(ADA.organization_id, conversation.id, turn.id)
    claim = await store.claim(ref, lease_s=30.0, epoch="", spend_attempt=True)
    assert claim is not None
    assert claim.answer.context is None
    fold = Fold(last_sequence=1, text="A", citations=(), retrieval=None, usage=None, model="m", context=REPORT)
    assert await store.fold(claim.hold, fold, lease_s=30.0, sequence_limit=9, epoch="")
    folded = await store.message(ADA, turn.assistant_message_id)

    await store.finish(claim.hold, replace(fold, last_sequence=2), Ending(TurnState.COMPLETED, FINISHED.finish_reason))

    stored = await store.message(ADA, turn.assistant_message_id)
    assert folded.context == stored.context == REPORT
    assert (await store.message(ADA, turn.user_message_id)).context is None


async def test_a_conversation_keeps_its_prompt_and_workers_see_it(store: Store) -> None:
    settings = ConversationSettings(prompt=REFERENCE)
    conversation = await store.create_conversation(replace(new_conversation(), settings=settings))
    turn = await store.create_turn(new_turn(conversation.id))

    claim = await store.claim(
        TurnRef(ADA.organization_id, conversation.id, turn.id), lease_s=30.0, epoch="", spend_attempt=True
    )

    assert conversation.settings.prompt == REFERENCE
    assert claim is not None
    assert claim.settings.prompt == REFERENCE


async def test_a_turn_keeps_the_prompt_that_it_was_asked_with(store: Store) -> None:
    settings = ConversationSettings(prompt=REFERENCE)
    conversation = await store.create_conversation(replace(new_conversation(), settings=settings))
    turn = await store.create_turn(new_turn(conversation.id))
    await store.update_conversation(ADA, conversation.id, ConversationSettings(), etag=conversation.etag)

    claim = await store.claim(
        TurnRef(ADA.organization_id, conversation.id, turn.id), lease_s=30.0, epoch="", spend_attempt=True
    )

    assert turn.options.prompt == REFERENCE
    assert claim is not None
    assert (claim.settings.prompt, claim.turn.options.prompt) == (None, REFERENCE)


async def test_a_prompt_can_be_changed_and_taken_away(store: Store) -> None:
    settings = ConversationSettings(prompt=REFERENCE)
    conversation = await store.create_conversation(replace(new_conversation(), settings=settings))
    numbered = PromptReference(prompt="prm_1", revision=3)

    changed = await store.update_conversation(
        ADA, conversation.id, replace(settings, prompt=numbered), etag=conversation.etag
    )
    without = await store.update_conversation(ADA, conversation.id, replace(settings, prompt=None), etag=changed.etag)

    assert changed.settings.prompt == numbered
    assert without.settings.prompt is None
    assert (await store.conversation(ADA, conversation.id)).settings.prompt is None

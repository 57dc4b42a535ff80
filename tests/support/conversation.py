"""Owners, settings and makers for tests of conversation, and what a run of events adds up to."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import SecretStr

from services.conversation.events import Draft, Snapshot, TurnEvent, TurnFinished
from services.conversation.model import (
    ConversationId,
    ConversationSettings,
    MessageId,
    Owner,
    Repeat,
    Turn,
    TurnId,
    TurnOverrides,
)
from services.conversation.running.recovery import SEQUENCES_RESERVED
from services.conversation.store.conversations import NewConversation
from services.conversation.store.turns import NewTurn
from services.mesh.ids import new_id
from services.mesh.settings import DatabaseSettings, ValkeySettings

ADA = Owner("org_acme", "usr_ada")
BOB = Owner("org_acme", "usr_bob")
EVE = Owner("org_globex", "usr_ada")
"""The same user id in another organization: nothing may lean on user ids alone."""


def database_settings(url: str) -> DatabaseSettings:
    return DatabaseSettings(database_url=SecretStr(url))


def valkey_settings(url: str) -> ValkeySettings:
    return ValkeySettings(valkey_url=SecretStr(url))


def new_conversation(owner: Owner = ADA, **settings: str) -> NewConversation:
    return NewConversation(
        owner=owner,
        id=ConversationId(new_id("conv")),
        settings=ConversationSettings(**settings),  # type: ignore[arg-type] # tests set texts only
    )


def new_turn(
    conversation_id: str,
    text: str = "What did Ada write?",
    *,
    owner: Owner = ADA,
    parent_id: str | None = None,
    repeat: Repeat | None = None,
    deadline_s: float = 600.0,
) -> NewTurn:
    return NewTurn(
        owner=owner,
        conversation_id=ConversationId(conversation_id),
        id=TurnId(new_id("turn")),
        user_message_id=MessageId(new_id("msg")),
        assistant_message_id=MessageId(new_id("msg")),
        text=text,
        parent_id=parent_id,
        overrides=TurnOverrides(),
        deadline_s=deadline_s,
        sequence_limit=SEQUENCES_RESERVED,
        repeat=repeat,
    )


def another_answer(turn: Turn, *, continue_of: str = "", owner: Owner = ADA) -> NewTurn:
    """One more answer to a turn's question."""
    return replace(
        new_turn(turn.conversation_id, owner=owner),
        revision_of=turn.assistant_message_id,
        user_message_id=turn.user_message_id,
        text=None,
        continue_of=continue_of,
    )


def replayed(events: Sequence[TurnEvent], draft: Draft | None = None) -> Draft:
    """What a client makes of events; raises where they leave a gap or repeat."""
    draft = draft or Draft()
    for event in events:
        draft.apply(event)
    return draft


def text_of(events: Sequence[TurnEvent]) -> str:
    return replayed(events).text


def kinds(events: Sequence[TurnEvent]) -> list[str]:
    return [type(event.payload).__name__ for event in events]


def ending(events: Sequence[TurnEvent]) -> TurnFinished:
    last = events[-1].payload
    assert isinstance(last, TurnFinished)
    return last


def has_snapshot(events: Sequence[TurnEvent]) -> bool:
    return any(isinstance(event.payload, Snapshot) for event in events)

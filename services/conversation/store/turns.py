"""Turns as their owners see them, as they are kept; see `Store`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.conversation.model import (
    ConversationId,
    Message,
    MessageId,
    OnConflict,
    Owner,
    Repeat,
    Turn,
    TurnId,
    TurnOverrides,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """A turn to accept.

    Attributes:
        text: of the question; None when `user_message_id` names a question of the conversation that is there.
        parent_id: of a new question: None for the newest message of the branch that was written last, empty for a new
            first branch.
        revision_of: what the new question, or else the new answer, was made from.
        continue_of: the answer whose text the new one begins with.
        deadline_s: seconds from now after which the turn has to have ended.
        sequence_limit: the highest sequence that its first worker may use before it folds.
        credential_id: with which it was asked for; its budgets pay for the answer.
        traceparent: the trace that it was asked for in; empty for none.
    """

    owner: Owner
    conversation_id: ConversationId
    id: TurnId
    user_message_id: MessageId
    assistant_message_id: MessageId
    text: str | None
    parent_id: str | None
    overrides: TurnOverrides
    deadline_s: float
    sequence_limit: int
    revision_of: str = ""
    continue_of: str = ""
    credential_id: str = ""
    traceparent: str = ""
    on_conflict: OnConflict = OnConflict.REJECT
    repeat: Repeat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A turn with its answer, as one consistent view for watchers."""

    turn: Turn
    message: Message
    journal_epoch: str
    sequence_limit: int


@dataclass(frozen=True, slots=True)
class TurnKey:
    """A turn that its organization's data has."""

    organization_id: str
    turn_id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a turn's answer is stored."""

    has_ended: bool
    last_sequence: int


class TurnStore(Protocol):
    """Turns, as their owners see them."""

    async def create_turn(self, new: NewTurn) -> Turn:
        """Accepts a turn in one transaction, or returns what the first call with the same request id created.

        A conversation has one turn that is queued or running. `on_conflict` decides what another one does: it is
        refused; or it waits, and is queued when those before it have ended; or, before it waits, those that have not
        begun are ended and the one that has is asked to stop.

        Raises:
            NotFound: no such conversation, no such parent, or what the first call created was deleted since.
            IdempotencyMismatch: the request id was used with another body.
            TurnAlreadyRunning: the conversation has a turn that has not ended, or too many wait; the metadata has the
                id of the one that is queued or running.
        """
        ...

    async def turn(self, owner: Owner, turn_id: str) -> Turn:
        """Raises NotFound."""
        ...

    async def list_turns(self, owner: Owner, conversation_id: str, *, size: int, before_id: str) -> list[Turn]:
        """Newest first; `before_id` is the last one seen, empty for the first page. Raises NotFound."""
        ...

    async def answer(self, owner: Owner, turn_id: str) -> Answer:
        """Raises NotFound."""
        ...

    async def progress(self, turns: Sequence[TurnKey]) -> dict[TurnId, Progress]:
        """How far many turns are; those that are not there are left out."""
        ...

    async def request_cancel(self, owner: Owner, turn_id: str) -> Turn:
        """Ends a turn that no worker has had, asks the worker of another one to stop; one that has ended stays.

        Raises NotFound.
        """
        ...

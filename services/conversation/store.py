"""What conversation keeps, as Protocols: PostgreSQL in production, memory in tests, one suite for both.

Every method that takes an Owner sees that owner's rows only; somebody else's id and a random id raise the same
NotFound. Work on turns (claim, fold, …) names its organization and is guarded by a fence instead: a worker that lost
its turn to a later one changes nothing.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.conversation.backlog import BacklogStore
from services.conversation.context import ContextReport
from services.conversation.events import Draft
from services.conversation.leftover_store import LeftoverStore
from services.conversation.model import (
    Citation,
    Conversation,
    ConversationId,
    ConversationSettings,
    Feedback,
    FinishReason,
    Message,
    MessageId,
    OnConflict,
    Owner,
    Rating,
    Repeat,
    RetrievalTrace,
    Role,
    Turn,
    TurnError,
    TurnId,
    TurnOverrides,
    TurnState,
    Usage,
)
from services.conversation.summary_store import SummaryStore


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message that was written elsewhere."""

    id: MessageId
    role: Role
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConversation:
    """A conversation to create, with the messages of its first branch, oldest first."""

    owner: Owner
    id: ConversationId
    settings: ConversationSettings
    messages: tuple[NewMessage, ...] = ()
    repeat: Repeat | None = None


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


@dataclass(frozen=True, slots=True)
class TurnRef:
    """Names a turn where no user is at hand."""

    organization_id: str
    conversation_id: ConversationId
    turn_id: TurnId


@dataclass(frozen=True, slots=True)
class Hold:
    """A worker's claim to a turn; the database refuses every write with a fence that is not the latest."""

    ref: TurnRef
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Everything that a worker needs of a turn that it took.

    Attributes:
        question: the message to answer.
        answer: the assistant's message with everything that was folded so far.
        continued: the answer that it begins with, if it goes on with one.
        journal_epoch: where the events of earlier attempts were journalled; see `Journal.epoch`.
        sequence_limit: no event above it was ever shown.
        deadline_s: seconds left, negative when the deadline has passed.
        credential_id: see `NewTurn`; empty for a turn that a release before this one took.
        queued_s: from its acceptance to its first claim; None for a turn that waited for another one before.
        traceparent: see `NewTurn`.
    """

    hold: Hold
    owner: Owner
    settings: ConversationSettings
    turn: Turn
    question: Message
    answer: Message
    journal_epoch: str
    sequence_limit: int
    is_cancel_requested: bool
    deadline_s: float
    continued: Message | None = None
    credential_id: str = ""
    queued_s: float | None = None
    traceparent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """The answer as of `last_sequence`, to be stored in one statement."""

    last_sequence: int
    text: str | None
    citations: tuple[Citation, ...]
    retrieval: RetrievalTrace | None
    usage: Usage | None
    model: str
    context: ContextReport | None = None

    @classmethod
    def of(cls, draft: Draft) -> "Fold":
        """What a draft holds now."""
        return cls(
            last_sequence=draft.last_sequence,
            text=draft.text if draft.has_part else None,
            citations=tuple(draft.citations),
            retrieval=draft.retrieval,
            usage=draft.usage,
            model=draft.model,
            context=draft.context,
        )


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ends."""

    state: TurnState
    finish_reason: FinishReason
    error: TurnError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A turn with its answer, as one consistent view for watchers."""

    turn: Turn
    message: Message
    journal_epoch: str
    sequence_limit: int


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A turn whose worker has let its lease lapse; `attempt` and `fence` are those of the one that died."""

    ref: TurnRef
    attempt: int
    fence: int


class ConversationStore(Protocol):
    """Conversations and messages."""

    async def create_conversation(self, new: NewConversation) -> Conversation:
        """Creates, or returns what the first call with the same request id created.

        Raises:
            IdempotencyMismatch: the request id was used with another body.
            NotFound: what the first call created was deleted since.
        """
        ...

    async def is_repeat(self, owner: Owner, repeat: Repeat) -> bool:
        """Whether an earlier call used this request id, whatever its body."""
        ...

    async def conversation(self, owner: Owner, conversation_id: str) -> Conversation:
        """Raises NotFound."""
        ...

    async def list_conversations(
        self, owner: Owner, *, size: int, after: tuple[datetime, str] | None
    ) -> list[Conversation]:
        """By update time, latest first, then by id; `after` is that pair of the last one seen."""
        ...

    async def update_conversation(
        self, owner: Owner, conversation_id: str, settings: ConversationSettings, *, etag: str
    ) -> Conversation:
        """Replaces the settings if `etag` is still the present one.

        Raises:
            NotFound: no such conversation.
            EtagMismatch: the settings changed since.
        """
        ...

    async def delete_conversation(self, owner: Owner, conversation_id: str) -> list[TurnId]:
        """Deletes it with all that hangs on it; returns its turns. Raises NotFound."""
        ...

    async def message(self, owner: Owner, message_id: str) -> Message:
        """Raises NotFound."""
        ...

    async def branch(
        self, owner: Owner, conversation_id: str, *, leaf_id: str, after_depth: int, size: int
    ) -> tuple[list[Message], int]:
        """Messages of the branch that ends in `leaf_id`, oldest first, from after_depth + 1 to after_depth + size.

        Returns:
            The messages, and the depth of the leaf. A first message has depth 0.

        Raises:
            NotFound: no such message in the conversation.
        """
        ...

    async def branch_end(self, owner: Owner, conversation_id: str, *, leaf_id: str, size: int) -> list[Message]:
        """The last `size` messages of the branch that ends in `leaf_id`, oldest first. Raises NotFound."""
        ...

    async def tree(self, owner: Owner, conversation_id: str, *, size: int, after_id: str) -> list[Message]:
        """All messages in the order of their ids, which is that of their creation. Raises NotFound."""
        ...


class FeedbackStore(Protocol):
    """What people think of answers."""

    async def set_feedback(self, owner: Owner, message_id: str, rating: Rating, comment: str) -> Feedback:
        """Replaces the one before. Raises NotFound when there is no such answer."""
        ...

    async def feedback(self, owner: Owner, message_id: str) -> Feedback:
        """Raises NotFound when there is no such answer or no judgement of it."""
        ...


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

    async def request_cancel(self, owner: Owner, turn_id: str) -> Turn:
        """Ends a turn that no worker has had, asks the worker of another one to stop; one that has ended stays.

        Raises NotFound.
        """
        ...


class WorkStore(Protocol):
    """Turns, as workers, relay and reaper see them."""

    async def claim(self, ref: TurnRef, *, lease_s: float, epoch: str, spend_attempt: bool) -> Claim | None:
        """Takes a turn that is queued, or whose lease has lapsed; None when there is nothing to take.

        Args:
            ref: the turn.
            lease_s: seconds from now until others may take it.
            epoch: where a first worker will journal.
            spend_attempt: whether this counts as an attempt at answering.
        """
        ...

    async def fold(self, hold: Hold, fold: Fold, *, lease_s: float, sequence_limit: int, epoch: str) -> bool:
        """Stores the answer so far and renews the lease; False when the turn is no longer this worker's."""
        ...

    async def renew(self, hold: Hold, *, lease_s: float) -> bool:
        """Renews the lease; False when the turn is no longer this worker's."""
        ...

    async def finish(self, hold: Hold, fold: Fold, ending: Ending) -> bool:
        """Stores the whole answer, ends the turn and queues the next one of the conversation that waits.

        Returns:
            False when the turn is no longer this worker's.
        """
        ...

    async def release(self, hold: Hold, *, spend_attempt: bool, pause_s: float = 0.0) -> bool:
        """Queues the turn again for others; False when it is no longer this worker's.

        Args:
            hold: on the turn.
            spend_attempt: whether this worker's attempt counts.
            pause_s: seconds until the worker publishes it: for as long it does not count as one that waits to be.
        """
        ...

    async def unwanted(self, holds: Sequence[Hold]) -> set[TurnId]:
        """Which of these turns shall stop: cancelled, taken by others, or deleted."""
        ...

    async def requeue_lapsed(self, *, attempts_max: int, limit: int) -> tuple[list[Lapsed], list[Lapsed]]:
        """Queues turns again whose workers are gone.

        Returns:
            Those queued, and those left alone because they have no attempt left.
        """
        ...

    async def stale_queued(self, *, older_s: float, limit: int) -> list[TurnRef]:
        """Turns that were queued or published longer ago than this; marks them as published now."""
        ...

    async def leave_paused(self, refs: Sequence[TurnRef], *, older_s: float) -> None:
        """Has `stale_queued` with the same `older_s` find turns that pause as soon as their pause ends."""
        ...

    async def overdue(self, *, limit: int) -> list[TurnRef]:
        """Turns that nobody works on and whose deadline has passed."""
        ...

    async def move_up_stranded(self, *, limit: int) -> int:
        """Queues the turns that wait first where nothing is queued or running; returns how many.

        Who ends a turn queues the next one in the same transaction; a worker of a release that knew no line does not.
        """
        ...

    def outbox(self, *, limit: int) -> AbstractAsyncContextManager[list[TurnRef]]:
        """Turns to publish. They leave the outbox when the block ends well, and stay in it when it raises."""
        ...

    async def prune(self, *, older_s: float, limit: int) -> int:
        """Forgets request ids that are older than this; returns how many."""
        ...


class Store(
    BacklogStore, ConversationStore, LeftoverStore, SummaryStore, FeedbackStore, TurnStore, WorkStore, Protocol
):
    """All of it."""

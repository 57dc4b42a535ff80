"""Turns as workers, relay and reaper see them; see `Store`.

Work names its organization and is guarded by a fence: a worker that lost its turn to a later one changes nothing.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from services.conversation.context import ContextReport
from services.conversation.events import Draft
from services.conversation.model import (
    Citation,
    ConversationId,
    ConversationSettings,
    FinishReason,
    Message,
    Owner,
    RetrievalTrace,
    Turn,
    TurnError,
    TurnId,
    TurnState,
    Usage,
)


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
class Folding:
    """A fold of one of many turns; see `WorkStore.fold`."""

    hold: Hold
    fold: Fold
    sequence_limit: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ends."""

    state: TurnState
    finish_reason: FinishReason
    error: TurnError | None = None


class Finished(IntEnum):
    """What became of a turn that was to end."""

    LOST = 0
    """It is no longer this worker's."""
    DONE = 1
    MOVED_UP = 2
    """It has ended, and the next one of its conversation is in the outbox."""


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A turn whose worker has let its lease lapse; `attempt` and `fence` are those of the one that died."""

    ref: TurnRef
    attempt: int
    fence: int


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

    async def fold_all(self, foldings: Sequence[Folding], *, lease_s: float) -> list[bool]:
        """As `fold`, for some turns, at most once each.

        A turn that somebody is just changing is not waited for: False does not say that it is another worker's.
        """
        ...

    async def renew_all(self, holds: Sequence[Hold], *, lease_s: float) -> list[bool]:
        """As `renew`, for some turns; see `fold_all`."""
        ...

    async def finish(self, hold: Hold, fold: Fold, ending: Ending) -> Finished:
        """Stores the whole answer, ends the turn and queues the next one of the conversation that waits."""
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

    async def relayed(self, refs: Sequence[TurnRef]) -> None:
        """These have been published: they leave the outbox."""
        ...

    async def prune(self, *, older_s: float, limit: int) -> int:
        """Forgets request ids that are older than this; returns how many."""
        ...

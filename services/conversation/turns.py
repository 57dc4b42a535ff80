"""Use cases of turns: ask, look, cancel."""

from collections.abc import Callable
from dataclasses import dataclass

from services.conversation.generation import CANCELLED
from services.conversation.model import (
    TEXT_LENGTH_MAX,
    ConversationId,
    MessageId,
    Owner,
    Repeat,
    Turn,
    TurnId,
    TurnOverrides,
    TurnState,
    check_text,
)
from services.conversation.recovery import SEQUENCES_RESERVED, Recovery
from services.conversation.references import References
from services.conversation.relay import Relay
from services.conversation.store import NewTurn, Store, TurnRef

NewId = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question; see `NewTurn` for `parent_id`."""

    conversation_id: str
    text: str
    parent_id: str | None
    overrides: TurnOverrides


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """Seconds: the lease of a turn that is ended here, and what a turn may take in all."""

    lease_s: float
    turn_s_max: float


class Turns:
    """What users do with turns.

    Args:
        store: the truth.
        relay: is told of what was committed.
        recovery: ends turns that no worker has.
        references: checks the knowledge base that a question names.
        limits: of every turn.
        new_id: makes ids.
    """

    def __init__(
        self,
        store: Store,
        relay: Relay,
        recovery: Recovery,
        references: References,
        *,
        limits: TurnLimits,
        new_id: NewId,
    ) -> None:
        self._store = store
        self._relay = relay
        self._recovery = recovery
        self._references = references
        self._limits = limits
        self._new_id = new_id

    async def create(self, owner: Owner, ask: Ask, *, repeat: Repeat | None) -> Turn:
        """Accepts a question; the turn is durable when this returns.

        Raises:
            InvalidArgument: the text is empty or too long.
            NotFound: no such knowledge base.
            NotFound, IdempotencyMismatch, TurnAlreadyRunning: see `TurnStore.create_turn`.
        """
        check_text("new.text", ask.text, TEXT_LENGTH_MAX, length_min=1)
        await self._references.check(owner, ask.overrides.knowledge_base_id, repeat)
        # In order, so that the tree shows the question first: ids of one millisecond are in no order by themselves.
        question_id, answer_id = sorted(self._new_id("msg") for _ in range(2))
        turn = await self._store.create_turn(
            NewTurn(
                owner=owner,
                conversation_id=ConversationId(ask.conversation_id),
                id=TurnId(self._new_id("turn")),
                user_message_id=MessageId(question_id),
                assistant_message_id=MessageId(answer_id),
                text=ask.text,
                parent_id=ask.parent_id,
                overrides=ask.overrides,
                deadline_s=self._limits.turn_s_max,
                sequence_limit=SEQUENCES_RESERVED,
                repeat=repeat,
            )
        )
        self._relay.hint()
        return turn

    async def get(self, owner: Owner, turn_id: str) -> Turn:
        """Raises NotFound."""
        return await self._store.turn(owner, turn_id)

    async def list(self, owner: Owner, conversation_id: str, *, size: int, before_id: str) -> list[Turn]:
        """Newest first. Raises NotFound."""
        return await self._store.list_turns(owner, conversation_id, size=size, before_id=before_id)

    async def cancel(self, owner: Owner, turn_id: str) -> Turn:
        """Stops a turn: one that waits at once, one that runs as soon as its worker looks. Raises NotFound."""
        turn = await self._store.request_cancel(owner, turn_id)
        if turn.state is not TurnState.QUEUED:
            return turn
        claim = await self._store.claim(
            TurnRef(owner.organization_id, turn.conversation_id, turn.id),
            lease_s=self._limits.lease_s,
            epoch=await self._recovery.epoch(),
            spend_attempt=False,
        )
        if claim is not None:
            await self._recovery.close(claim, CANCELLED)
        return await self._store.turn(owner, turn_id)

"""Use cases of turns: ask, look, cancel."""

from collections.abc import Callable
from dataclasses import dataclass

from services.conversation.actions import Action, Actions
from services.conversation.generation import CANCELLED
from services.conversation.model import (
    ConversationId,
    MessageId,
    OnConflict,
    Owner,
    Repeat,
    Turn,
    TurnId,
    TurnOverrides,
    TurnState,
)
from services.conversation.recovery import SEQUENCES_RESERVED, Recovery
from services.conversation.references import References
from services.conversation.relay import Relay
from services.conversation.store import NewTurn, Store, TurnRef

NewId = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to answer, and how."""

    conversation_id: str
    action: Action
    overrides: TurnOverrides
    on_conflict: OnConflict = OnConflict.REJECT


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
        self._actions = Actions(store)
        self._limits = limits
        self._new_id = new_id

    async def create(self, owner: Owner, ask: Ask, *, repeat: Repeat | None) -> Turn:
        """Accepts a question; the turn is durable when this returns.

        Raises:
            InvalidArgument: see `Actions.growth`.
            NotFound: no such knowledge base, no such message.
            NotFound, IdempotencyMismatch, TurnAlreadyRunning: see `TurnStore.create_turn`.
        """
        growth = await self._actions.growth(owner, ask.conversation_id, ask.action)
        await self._references.check(owner, ask.overrides.knowledge_base_id, repeat)
        # In order, so that the tree shows the question first: ids of one millisecond are in no order by themselves.
        question_id, answer_id = sorted(self._new_id("msg") for _ in range(2))
        turn = await self._store.create_turn(
            NewTurn(
                owner=owner,
                conversation_id=ConversationId(ask.conversation_id),
                id=TurnId(self._new_id("turn")),
                user_message_id=growth.question_id or MessageId(question_id),
                assistant_message_id=MessageId(answer_id),
                text=growth.text,
                parent_id=growth.parent_id,
                revision_of=growth.revision_of,
                continue_of=growth.continue_of,
                overrides=ask.overrides,
                on_conflict=ask.on_conflict,
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
        """Stops a turn: one that runs as soon as its worker looks, any other at once. Raises NotFound."""
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
            self._relay.hint()
        return await self._store.turn(owner, turn_id)

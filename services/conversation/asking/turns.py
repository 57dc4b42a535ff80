"""Use cases of turns: ask, look, cancel."""

from collections.abc import Callable
from dataclasses import dataclass

from services.conversation.asking.actions import Action, Actions, Regenerate
from services.conversation.asking.feeds import Feeds
from services.conversation.asking.references import References
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
from services.conversation.running.generation import CANCELLED
from services.conversation.running.recovery import SEQUENCES_RESERVED, Recovery
from services.conversation.running.stops import Signals
from services.conversation.store import Store
from services.conversation.store.turns import NewTurn
from services.conversation.store.work import TurnRef
from services.mesh import spans
from services.mesh.errors import invalid_field

NewId = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to answer, and how.

    Attributes:
        time_s: seconds that the turn may take; None for as long as any turn may.
        credential_id: of the API key or session that asks, whose budgets pay.
    """

    conversation_id: str
    action: Action
    overrides: TurnOverrides
    on_conflict: OnConflict = OnConflict.REJECT
    time_s: float | None = None
    credential_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """Seconds: the lease of a turn that is ended here, and what a turn may take in all."""

    lease_s: float
    turn_s_max: float


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Who else has to do with a turn that is asked for.

    Attributes:
        signals: carry the news of what was committed.
        recovery: ends turns that no worker has.
        references: checks the knowledge base that a question names.
        feeds: of this process, in which most turns that are asked for here are watched at once.
    """

    signals: Signals
    recovery: Recovery
    references: References
    feeds: Feeds


class Turns:
    """What users do with turns.

    Args:
        store: the truth.
        neighbours: of its turns.
        limits: of every turn.
        new_id: makes ids.
    """

    def __init__(self, store: Store, neighbours: Neighbours, *, limits: TurnLimits, new_id: NewId) -> None:
        self._store = store
        self._signals = neighbours.signals
        self._recovery = neighbours.recovery
        self._references = neighbours.references
        self._feeds = neighbours.feeds
        self._actions = Actions(store)
        self._limits = limits
        self._new_id = new_id

    async def create(self, owner: Owner, ask: Ask, *, repeat: Repeat | None) -> Turn:
        """Accepts a question; the turn is durable when this returns.

        Raises:
            InvalidArgument: the time is out of bounds; see also `Actions.growth`.
            NotFound: no such knowledge base, no such message.
            NotFound, IdempotencyMismatch, TurnAlreadyRunning: see `TurnStore.create_turn`.
        """
        time_s_max = self._limits.turn_s_max
        time_s = time_s_max if ask.time_s is None else ask.time_s
        if not 0 < time_s <= time_s_max:
            raise invalid_field("time_max", f"more than 0, at most {time_s_max:g} seconds")
        growth = await self._actions.growth(owner, ask.conversation_id, ask.action)
        await self._references.check(owner, ask.overrides.knowledge_base_id, repeat)
        # In order, so that the tree shows the question first: ids of one millisecond are in no order by themselves.
        question_id, answer_id = sorted(self._new_id("msg") for _ in range(2))
        turn_id = TurnId(self._new_id("turn"))
        self._feeds.expect(owner, turn_id)  # before a worker can have begun it
        turn = await self._store.create_turn(
            NewTurn(
                owner=owner,
                conversation_id=ConversationId(ask.conversation_id),
                id=turn_id,
                user_message_id=growth.question_id or MessageId(question_id),
                assistant_message_id=MessageId(answer_id),
                text=growth.text,
                parent_id=growth.parent_id,
                revision_of=growth.revision_of,
                continue_of=growth.continue_of,
                credential_id=ask.credential_id,
                traceparent=spans.traceparent(),
                overrides=ask.overrides,
                on_conflict=ask.on_conflict,
                deadline_s=time_s,
                sequence_limit=SEQUENCES_RESERVED,
                repeat=repeat,
            )
        )
        if turn.state is TurnState.QUEUED:
            self._signals.relay.accepted(TurnRef(owner.organization_id, turn.conversation_id, turn.id))
        else:
            self._signals.relay.hint()
        if ask.on_conflict is OnConflict.CANCEL_RUNNING and turn.state is TurnState.WAITING:
            await self._signals.stop(turn.conversation_id)
        return turn

    async def retry(
        self, owner: Owner, turn_id: str, *, on_conflict: OnConflict, repeat: Repeat | None, credential_id: str = ""
    ) -> Turn:
        """Accepts another turn for the question of one that failed, with the options of that one.

        Raises:
            InvalidArgument: the turn has not failed.
            NotFound: no such turn.
            NotFound, IdempotencyMismatch, TurnAlreadyRunning: see `create`.
        """
        failed = await self._store.turn(owner, turn_id)
        if failed.state is not TurnState.FAILED:
            raise invalid_field("turn_id", "a turn that has failed")
        options = failed.options
        ask = Ask(
            conversation_id=failed.conversation_id,
            action=Regenerate(failed.assistant_message_id),
            overrides=TurnOverrides(
                model=options.model,
                knowledge_base_id=options.knowledge_base_id,
                retrieval_mode=options.retrieval_mode,
                parameters=options.parameters,
            ),
            on_conflict=on_conflict,
            credential_id=credential_id,
        )
        return await self.create(owner, ask, repeat=repeat)

    async def get(self, owner: Owner, turn_id: str) -> Turn:
        """Raises NotFound."""
        return await self._store.turn(owner, turn_id)

    async def list(self, owner: Owner, conversation_id: str, *, size: int, before_id: str) -> list[Turn]:
        """Newest first. Raises NotFound."""
        return await self._store.list_turns(owner, conversation_id, size=size, before_id=before_id)

    async def cancel(self, owner: Owner, turn_id: str) -> Turn:
        """Stops a turn: one that runs as soon as its worker hears of it, any other at once. Raises NotFound.

        One between two attempts has been seen by watchers, who are told of its end as those of a taken turn are.
        """
        turn = await self._store.request_cancel(owner, turn_id)
        if turn.state is TurnState.RUNNING:
            await self._signals.stop(turn.conversation_id)
        if turn.state is TurnState.CANCELLED:
            self._signals.relay.hint()
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
            self._signals.relay.hint()
        return await self._store.turn(owner, turn_id)

"""Turns that wait for the turns before them: taking a place, leaving it, moving up.

Whoever adds a turn or ends one that has begun holds the conversation's lock, so that nobody waits behind a turn that
has ended, and no two turns move up at once.
"""

from typing import Any, Final

from sqlalchemy import ColumnElement, Insert, Select, and_, bindparam, exists, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from services.conversation import tables
from services.conversation.model import TURNS_WAITING_MAX, FinishReason, MessageState, Owner, TurnState
from services.conversation.store_postgres.statements import is_in
from services.mesh.errors import TurnAlreadyRunning
from services.mesh.postgres.database import ReadWrite

_messages: Final = tables.messages.c
_turns: Final = tables.turns.c
IS_WAITING: Final[ColumnElement[bool]] = is_in(TurnState.WAITING)
IS_UNBEGUN: Final[ColumnElement[bool]] = or_(IS_WAITING, is_in(TurnState.QUEUED) & (_turns.fence == 0))
"""No worker has ever had it, so no watcher has seen anything of it."""


async def next_place(write: ReadWrite, owner: Owner, conversation_id: str, running_id: str) -> int:
    """The last place of the conversation's line.

    Raises:
        TurnAlreadyRunning: the line is full.
    """
    query = select(func.count(), func.coalesce(func.max(_turns.place), 0)).where(
        _turns.organization_id == owner.organization_id,
        _turns.user_id == owner.user_id,
        _turns.conversation_id == conversation_id,
        IS_WAITING,
    )
    waiting, last = (await write.execute(query)).one()
    if waiting >= TURNS_WAITING_MAX:
        message = f"{TURNS_WAITING_MAX} turns of the conversation wait already"
        raise TurnAlreadyRunning(message, metadata={"turn_id": running_id})
    return int(last) + 1


async def lock_conversation(write: ReadWrite, organization_id: str, conversation_id: str) -> None:
    """Lets nobody else add, end or move up turns of the conversation until the transaction ends."""
    await write.execute(_LOCK, {"of_organization": organization_id, "of_conversation": conversation_id})


async def end_unbegun(write: ReadWrite, owner: Owner, *which: ColumnElement[bool]) -> bool:
    """Cancels turns that no worker has had; their only event is the end. Returns whether there were any."""
    ended = (
        update(tables.turns)
        .where(_turns.organization_id == owner.organization_id, _turns.user_id == owner.user_id, *which)
        .values(state=TurnState.CANCELLED.value, cancel_requested=True, end_time=func.now())
        .returning(_turns.organization_id, _turns.user_id, _turns.assistant_message_id)
        .cte("ended")
    )
    changed = await write.execute(
        update(tables.messages)
        .where(_messages.organization_id == ended.c.organization_id, _messages.user_id == ended.c.user_id)
        .where(_messages.id == ended.c.assistant_message_id)
        .values(
            state=MessageState.CANCELLED.value,
            finish_reason=FinishReason.CANCELLED.value,
            last_sequence=1,
            update_time=func.now(),
        )
    )
    return bool(changed.rowcount)


async def move_up(write: ReadWrite, organization_id: str, conversation_id: str) -> bool:
    """Queues the turn that waits first, if there is one. The time that it may take counts from now."""
    moved = await write.execute(_MOVE_UP, {"of_organization": organization_id, "of_conversation": conversation_id})
    return moved.rowcount == 1


async def move_up_if_free(write: ReadWrite, organization_id: str, conversation_id: str) -> bool:
    """As `move_up`, for whoever has ended nothing; False when a turn is queued or running meanwhile."""
    given = {"of_organization": organization_id, "of_conversation": conversation_id}
    await lock_conversation(write, organization_id, conversation_id)
    if (await write.execute(_ACTIVE, given)).first() is not None:
        return False
    return await move_up(write, organization_id, conversation_id)


async def publish_paused(write: ReadWrite, owner: Owner, conversation_id: str) -> None:
    """Hands the conversation's turn to the queue at once if it pauses before its next attempt."""
    given = {"of_organization": owner.organization_id, "of_user": owner.user_id, "of_conversation": conversation_id}
    await write.execute(_PUBLISH_PAUSED, given)


def _publish_paused() -> Insert:
    due = (
        update(tables.turns)
        .where(_turns.organization_id == bindparam("of_organization"), _turns.user_id == bindparam("of_user"))
        .where(_turns.conversation_id == bindparam("of_conversation"), is_in(TurnState.QUEUED))
        .where(_turns.publish_time > func.now())
        .values(publish_time=func.now())
        .returning(_turns.organization_id, _turns.id.label("turn_id"), _turns.conversation_id)
        .cte("due")
    )
    columns: Any = select(due.c.organization_id, due.c.turn_id, due.c.conversation_id)  # Any: a CTE is untyped
    return (
        upsert(tables.outbox)
        .from_select(["organization_id", "turn_id", "conversation_id"], columns)
        .on_conflict_do_nothing()
    )


def _move_up() -> Insert:
    # One that is cancelled at this moment is waited for and passed over: the limit counts what could be locked.
    first = (
        select(_turns.organization_id, _turns.id)
        .where(_turns.organization_id == bindparam("of_organization"))
        .where(_turns.conversation_id == bindparam("of_conversation"), IS_WAITING)
        .order_by(_turns.place)
        .limit(1)
        .with_for_update()
        .cte("first")
    )
    moved = (
        update(tables.turns)
        .where(_turns.organization_id == first.c.organization_id, _turns.id == first.c.id)
        .values(
            state=TurnState.QUEUED.value,
            publish_time=func.now(),
            deadline=func.now() + (_turns.deadline - _turns.create_time),
        )
        .returning(_turns.organization_id, _turns.id.label("turn_id"), _turns.conversation_id)
        .cte("moved")
    )
    columns: Any = select(moved.c.organization_id, moved.c.turn_id, moved.c.conversation_id)  # Any: a CTE is untyped
    return insert(tables.outbox).from_select(["organization_id", "turn_id", "conversation_id"], columns)


def _stranded() -> Select[str, str]:
    active = tables.turns.alias("active")
    is_active = is_in(TurnState.QUEUED, TurnState.RUNNING, turns=active)
    of_same = and_(
        active.c.organization_id == _turns.organization_id, active.c.conversation_id == _turns.conversation_id
    )
    return (
        select(_turns.organization_id, _turns.conversation_id)
        .where(IS_WAITING, ~exists(select(active.c.id).where(of_same, is_active)))
        .distinct()
        .limit(bindparam("count_max"))
    )


STRANDED: Final = _stranded()
"""Conversations where turns wait for nobody."""
_OF_CONVERSATION: Final = and_(
    _turns.organization_id == bindparam("of_organization"), _turns.conversation_id == bindparam("of_conversation")
)
_ACTIVE: Final = select(_turns.id).where(_OF_CONVERSATION, is_in(TurnState.QUEUED, TurnState.RUNNING))
_LOCK: Final = (
    select(tables.conversations.c.id)
    .where(tables.conversations.c.organization_id == bindparam("of_organization"))
    .where(tables.conversations.c.id == bindparam("of_conversation"))
    .with_for_update(key_share=True)
)
_PUBLISH_PAUSED: Final = _publish_paused()
_MOVE_UP: Final = _move_up()  # built once: most turns that end have nobody behind them

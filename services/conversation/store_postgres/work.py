"""Turns in PostgreSQL, as workers, relay and reaper see them. Leases and ages are told by PostgreSQL's clock alone."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, or_, select, tuple_, update

from services.conversation import tables
from services.conversation.model import (
    MESSAGE_STATE_OF,
    ConversationId,
    Owner,
    TurnId,
    TurnState,
)
from services.conversation.store import Claim, Ending, Fold, Hold, Lapsed, TurnRef
from services.conversation.store_postgres.places import move_up
from services.conversation.store_postgres.rows import (
    MESSAGE_COLUMNS,
    TURN_COLUMNS,
    json_of,
    message_of,
    settings_of,
    turn_of,
)
from services.conversation.store_postgres.turns import is_active, prefixed
from services.mesh.database import Conflict, Database, ReadWrite

_conversations: Final = tables.conversations.c
_messages: Final = tables.messages.c
_turns: Final = tables.turns.c
_outbox: Final = tables.outbox.c


class WorkQueries:
    """See `WorkStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, ref: TurnRef, *, lease_s: float, epoch: str, spend_attempt: bool) -> Claim | None:
        """See `WorkStore.claim`."""
        statement = (
            update(tables.turns)
            .where(_turns.organization_id == ref.organization_id, _turns.id == ref.turn_id)
            .where(or_(_turns.state == TurnState.QUEUED.value, _has_lapsed()))
            .values(
                state=TurnState.RUNNING.value,
                fence=_turns.fence + 1,
                attempt=_turns.attempt + int(spend_attempt),
                lease_expire_time=_from_now(lease_s),
                # Only the first worker decides it: later ones have to know where the first one wrote.
                journal_epoch=case((_turns.fence == 0, epoch), else_=_turns.journal_epoch),
                start_time=func.coalesce(_turns.start_time, func.now()),
            )
            .returning(_turns.fence)
        )

        async def work(write: ReadWrite) -> Claim | None:
            fence = (await write.execute(statement)).scalar_one_or_none()
            return None if fence is None else await _claimed(write, Hold(ref, fence))

        return await self._database.transact(work)

    async def fold(self, hold: Hold, fold: Fold, *, lease_s: float, sequence_limit: int, epoch: str) -> bool:
        """See `WorkStore.fold`: one statement, so that text, sequence and lease never disagree."""
        held = (
            update(tables.turns)
            .where(_is_held(hold))
            .values(lease_expire_time=_from_now(lease_s), sequence_limit=sequence_limit, journal_epoch=epoch)
            .returning(_turns.organization_id, _turns.user_id, _turns.assistant_message_id)
            .cte("held")
        )
        statement = update(tables.messages).where(_is_answer_of(held)).values(**_fold_values(fold))
        async with self._database.write() as write:
            return (await write.execute(statement)).rowcount == 1

    async def renew(self, hold: Hold, *, lease_s: float) -> bool:
        """See `WorkStore.renew`."""
        statement = update(tables.turns).where(_is_held(hold)).values(lease_expire_time=_from_now(lease_s))
        async with self._database.write() as write:
            return (await write.execute(statement)).rowcount == 1

    async def finish(self, hold: Hold, fold: Fold, ending: Ending) -> bool:
        """See `WorkStore.finish`."""
        organization_id, conversation_id = hold.ref.organization_id, hold.ref.conversation_id

        async def work(write: ReadWrite) -> bool:
            touched = await write.execute(
                update(tables.conversations)
                .where(_conversations.organization_id == organization_id, _conversations.id == conversation_id)
                .where(exists(select(_turns.id).where(_is_held(hold), _turns.user_id == _conversations.user_id)))
                .values(update_time=func.now())
            )
            if touched.rowcount == 0:
                return False
            ended = await write.execute(
                update(tables.turns)
                .where(_is_held(hold))
                .values(
                    state=ending.state.value,
                    lease_expire_time=None,
                    error=json_of(ending.error),
                    end_time=func.now(),
                )
                .returning(_turns.user_id, _turns.assistant_message_id)
            )
            row = ended.one_or_none()
            if row is None:  # taken by another worker between the two statements: the repeat finds that out
                raise Conflict("another change was faster; try again")
            user_id, answer_id = row
            await write.execute(
                update(tables.messages)
                .where(_messages.organization_id == organization_id, _messages.user_id == user_id)
                .where(_messages.id == answer_id)
                .values(
                    **_fold_values(fold),
                    state=MESSAGE_STATE_OF[ending.state].value,
                    finish_reason=ending.finish_reason.value,
                    error=json_of(ending.error),
                )
            )
            await move_up(write, organization_id, conversation_id)
            return True

        return await self._database.transact(work)

    async def release(self, hold: Hold, *, spend_attempt: bool) -> bool:
        """See `WorkStore.release`."""
        statement = (
            update(tables.turns)
            .where(_is_held(hold))
            .values(
                state=TurnState.QUEUED.value,
                attempt=_turns.attempt - int(not spend_attempt),
                lease_expire_time=None,
                publish_time=func.now(),
            )
        )
        async with self._database.write() as write:
            return (await write.execute(statement)).rowcount == 1

    async def unwanted(self, holds: Sequence[Hold]) -> set[TurnId]:
        """See `WorkStore.unwanted`."""
        if not holds:
            return set()
        keys = [(hold.ref.organization_id, hold.ref.turn_id, hold.fence) for hold in holds]
        query = select(_turns.id).where(
            tuple_(_turns.organization_id, _turns.id, _turns.fence).in_(keys),
            _turns.state == TurnState.RUNNING.value,
            _turns.cancel_requested.is_(False),
        )
        async with self._database.read() as read:
            wanted = set((await read.execute(query)).scalars())
        return {hold.ref.turn_id for hold in holds} - wanted

    async def requeue_lapsed(self, *, attempts_max: int, limit: int) -> tuple[list[Lapsed], list[Lapsed]]:
        """See `WorkStore.requeue_lapsed`."""
        lapsed = select(_turns.organization_id, _turns.conversation_id, _turns.id, _turns.attempt, _turns.fence).where(
            _has_lapsed()
        )

        async def work(write: ReadWrite) -> tuple[list[Lapsed], list[Lapsed]]:
            due = lapsed.where(_turns.attempt < attempts_max).limit(limit).with_for_update(skip_locked=True)
            requeued = [Lapsed(_ref(*row[:3]), row[3], row[4]) for row in (await write.execute(due)).all()]
            if requeued:
                await write.execute(
                    update(tables.turns)
                    .where(tuple_(_turns.organization_id, _turns.id).in_(_keys([one.ref for one in requeued])))
                    .values(state=TurnState.QUEUED.value, lease_expire_time=None, publish_time=func.now())
                )
            spent = lapsed.where(_turns.attempt >= attempts_max).limit(limit)
            return requeued, [Lapsed(_ref(*row[:3]), row[3], row[4]) for row in (await write.execute(spent)).all()]

        return await self._database.transact(work)

    async def stale_queued(self, *, older_s: float, limit: int) -> list[TurnRef]:
        """See `WorkStore.stale_queued`."""
        stale = (
            select(_turns.organization_id, _turns.conversation_id, _turns.id)
            .where(_turns.state == TurnState.QUEUED.value, _turns.publish_time <= _from_now(-older_s))
            .order_by(_turns.publish_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        async def work(write: ReadWrite) -> list[TurnRef]:
            refs = [_ref(*row) for row in (await write.execute(stale)).all()]
            if refs:
                await write.execute(
                    update(tables.turns)
                    .where(tuple_(_turns.organization_id, _turns.id).in_(_keys(refs)))
                    .values(publish_time=func.now())
                )
            return refs

        return await self._database.transact(work)

    async def overdue(self, *, limit: int) -> list[TurnRef]:
        """See `WorkStore.overdue`."""
        query = (
            select(_turns.organization_id, _turns.conversation_id, _turns.id)
            .where(is_active(), _turns.deadline <= func.now())
            .where(or_(_turns.state == TurnState.QUEUED.value, _has_lapsed()))
            .limit(limit)
        )
        async with self._database.read() as read:
            return [_ref(*row) for row in (await read.execute(query)).all()]

    @asynccontextmanager
    async def outbox(self, *, limit: int) -> AsyncIterator[list[TurnRef]]:
        """See `WorkStore.outbox`."""
        query = (
            select(_outbox.organization_id, _outbox.conversation_id, _outbox.turn_id)
            .order_by(_outbox.create_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with self._database.write() as write:
            refs = [_ref(*row) for row in (await write.execute(query)).all()]
            yield refs
            if refs:
                await write.execute(
                    delete(tables.outbox).where(tuple_(_outbox.organization_id, _outbox.turn_id).in_(_keys(refs)))
                )

    async def prune(self, *, older_s: float, limit: int) -> int:
        """See `WorkStore.prune`."""
        table = tables.idempotency.c
        key = (table.organization_id, table.user_id, table.method, table.request_id)
        old = select(*key).where(table.create_time <= _from_now(-older_s)).limit(limit)
        async with self._database.write() as write:
            return (await write.execute(delete(tables.idempotency).where(tuple_(*key).in_(old)))).rowcount


async def _claimed(write: ReadWrite, hold: Hold) -> Claim:
    question, answer = tables.messages.alias("question"), tables.messages.alias("answer")
    continued = tables.messages.alias("continued")
    of_conversation = and_(
        _conversations.organization_id == _turns.organization_id, _conversations.id == _turns.conversation_id
    )
    query = (
        select(
            *prefixed(tables.turns, "turn_", TURN_COLUMNS),
            *prefixed(question, "question_", MESSAGE_COLUMNS),
            *prefixed(answer, "answer_", MESSAGE_COLUMNS),
            *prefixed(continued, "continued_", MESSAGE_COLUMNS),
            *(_conversations[name] for name in _SETTINGS_COLUMNS),
            _turns.user_id,
            _turns.journal_epoch,
            _turns.sequence_limit,
            _turns.cancel_requested,
            func.extract("epoch", _turns.deadline - func.now()).label("deadline_s"),
        )
        .join(tables.conversations, of_conversation)
        .join(question, _is_message(question, _turns.user_message_id))
        .join(answer, _is_message(answer, _turns.assistant_message_id))
        .outerjoin(continued, _is_message(continued, _turns.continue_of))
        .where(_turns.organization_id == hold.ref.organization_id, _turns.id == hold.ref.turn_id)
    )
    row = (await write.execute(query)).mappings().one()
    message = message_of(row, "answer_")
    return Claim(
        hold=hold,
        owner=Owner(hold.ref.organization_id, row["user_id"]),
        settings=settings_of(row),
        turn=turn_of(row, message.last_sequence, "turn_"),
        question=message_of(row, "question_"),
        answer=message,
        journal_epoch=row["journal_epoch"],
        sequence_limit=row["sequence_limit"],
        is_cancel_requested=row["cancel_requested"],
        deadline_s=float(row["deadline_s"]),
        continued=None if row["continued_id"] is None else message_of(row, "continued_"),
    )


_SETTINGS_COLUMNS: Final = ("title", "model", "system_prompt", "examples", "knowledge_base_id", "retrieval_mode")


def _from_now(seconds: float) -> ColumnElement[Any]:  # Any: an instant
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _has_lapsed() -> ColumnElement[bool]:
    return and_(_turns.state == TurnState.RUNNING.value, _turns.lease_expire_time <= func.now())


def _is_held(hold: Hold) -> ColumnElement[bool]:
    return and_(
        _turns.organization_id == hold.ref.organization_id,
        _turns.id == hold.ref.turn_id,
        _turns.fence == hold.fence,
        _turns.state == TurnState.RUNNING.value,
    )


def _is_answer_of(held: Any) -> ColumnElement[bool]:  # Any: SQLAlchemy's CTE has untyped columns
    return and_(
        _messages.organization_id == held.c.organization_id,
        _messages.user_id == held.c.user_id,
        _messages.id == held.c.assistant_message_id,
    )


def _is_message(table: Any, message_id: Any) -> ColumnElement[bool]:  # Any: an alias has untyped columns
    return and_(
        table.c.organization_id == _turns.organization_id,
        table.c.user_id == _turns.user_id,
        table.c.id == message_id,
    )


def _fold_values(fold: Fold) -> dict[str, Any]:  # Any: column values
    return {
        "text": fold.text,
        "citations": [json_of(citation) for citation in fold.citations],
        "retrieval": json_of(fold.retrieval),
        "usage": json_of(fold.usage),
        "model": fold.model,
        "last_sequence": fold.last_sequence,
        "update_time": func.now(),
    }


def _ref(organization_id: str, conversation_id: str, turn_id: str) -> TurnRef:
    return TurnRef(organization_id, ConversationId(conversation_id), TurnId(turn_id))


def _keys(refs: Sequence[TurnRef]) -> list[tuple[str, str]]:
    return [(ref.organization_id, ref.turn_id) for ref in refs]

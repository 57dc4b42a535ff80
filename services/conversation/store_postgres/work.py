"""Turns in PostgreSQL, as workers, relay and reaper see them. Leases and ages are told by PostgreSQL's clock alone."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, literal_column, or_, select, tuple_, update

from services.conversation import tables
from services.conversation.model import (
    MESSAGE_STATE_OF,
    ConversationId,
    TurnId,
    TurnState,
)
from services.conversation.store.work import Claim, Ending, Finished, Fold, Hold, Lapsed, TurnRef
from services.conversation.store_postgres import statements
from services.conversation.store_postgres.claims import CLAIMED, claim_of
from services.conversation.store_postgres.handling import Handling
from services.conversation.store_postgres.places import STRANDED, move_up, move_up_if_free
from services.conversation.store_postgres.rows import json_of
from services.conversation.store_postgres.statements import folded, from_now, has_lapsed, held_by, is_in
from services.conversation.store_postgres.turns import is_active
from services.mesh.postgres.database import Conflict, ReadWrite
from services.mesh.postgres.places import Places, Whole

_turns: Final = tables.turns.c
_outbox: Final = tables.outbox.c


class WorkQueries:
    """See `WorkStore`."""

    _handling: Handling | None = None

    def __init__(self, database: Places) -> None:
        self._database = database

    async def claim(self, ref: TurnRef, *, lease_s: float, epoch: str, spend_attempt: bool) -> Claim | None:
        """See `WorkStore.claim`."""
        if self._handling is not None and spend_attempt:
            claim = await self._handling.take(ref, lease_s=lease_s, epoch=epoch)
            if claim is not None:
                return claim
        given = {
            "of_organization": ref.organization_id,
            "of_turn": ref.turn_id,
            "lease_s": lease_s,
            "epoch": epoch,
            "spent": int(spend_attempt),
        }

        async def work(write: ReadWrite) -> Claim | None:
            fence = (await write.execute(statements.CLAIM, given)).scalar_one_or_none()
            return None if fence is None else await _claimed(write, Hold(ref, fence))

        return await self._database.of(ref.organization_id).transact(work)

    async def fold(self, hold: Hold, fold: Fold, *, lease_s: float, sequence_limit: int, epoch: str) -> bool:
        """See `WorkStore.fold`: one statement, so that text, sequence and lease never disagree."""
        given = {"lease_s": lease_s, "limit": sequence_limit, "epoch": epoch}
        changed = await self._database.of(hold.ref.organization_id).change(
            statements.FOLD, held_by(hold) | folded(fold) | given
        )
        return changed.rowcount == 1

    async def renew(self, hold: Hold, *, lease_s: float) -> bool:
        """See `WorkStore.renew`."""
        changed = await self._database.of(hold.ref.organization_id).change(
            statements.RENEW, held_by(hold) | {"lease_s": lease_s}
        )
        return changed.rowcount == 1

    async def finish(self, hold: Hold, fold: Fold, ending: Ending) -> Finished:
        """See `WorkStore.finish`."""
        finished = Finished.LOST if self._handling is None else await self._handling.end(hold, fold, ending)
        return finished or await self._finish(hold, fold, ending)

    async def _finish(self, hold: Hold, fold: Fold, ending: Ending) -> Finished:
        held = held_by(hold)
        end = held | {"end_state": ending.state.value, "end_error": json_of(ending.error)}

        async def work(write: ReadWrite) -> Finished:
            touched = await write.execute(statements.TOUCH, held | {"of_conversation": hold.ref.conversation_id})
            if touched.rowcount == 0:
                return Finished.LOST
            row = (await write.execute(statements.END, end)).one_or_none()
            if row is None:  # taken by another worker between the two statements: the repeat finds that out
                raise Conflict("another change was faster; try again")
            user_id, answer_id = row
            answer = {
                "of_organization": hold.ref.organization_id,
                "of_user": user_id,
                "of_answer": answer_id,
                "end_state": MESSAGE_STATE_OF[ending.state].value,
                "end_reason": ending.finish_reason.value,
                "end_error": json_of(ending.error),
            }
            await write.execute(statements.END_ANSWER, answer | folded(fold))
            moved = await move_up(write, hold.ref.organization_id, hold.ref.conversation_id)
            return Finished.MOVED_UP if moved else Finished.DONE

        return await self._database.of(hold.ref.organization_id).transact(work)

    async def release(self, hold: Hold, *, spend_attempt: bool, pause_s: float = 0.0) -> bool:
        """See `WorkStore.release`."""
        given = {"given_back": int(not spend_attempt), "pause_s": pause_s}
        changed = await self._database.of(hold.ref.organization_id).change(statements.RELEASE, held_by(hold) | given)
        return changed.rowcount == 1

    async def requeue_lapsed(self, *, attempts_max: int, limit: int) -> tuple[list[Lapsed], list[Lapsed]]:
        """See `WorkStore.requeue_lapsed`."""
        columns = (_turns.organization_id, _turns.conversation_id, _turns.id, _turns.attempt, _turns.fence)

        async def work(here: Whole, write: ReadWrite) -> tuple[list[Lapsed], list[Lapsed]]:
            lapsed = select(*columns).where(has_lapsed(), here.present(_turns.organization_id))
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

        found = [await here.transact(partial(work, here)) for here in self._database.each()]
        return [one for requeued, _ in found for one in requeued], [one for _, spent in found for one in spent]

    async def stale_queued(self, *, older_s: float, limit: int) -> list[TurnRef]:
        """See `WorkStore.stale_queued`."""
        stale = (
            select(_turns.organization_id, _turns.conversation_id, _turns.id)
            .where(is_in(TurnState.QUEUED), _turns.publish_time <= from_now(-older_s))
            .order_by(_turns.publish_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        async def work(here: Whole, write: ReadWrite) -> list[TurnRef]:
            is_here = here.present(_turns.organization_id)
            refs = [_ref(*row) for row in (await write.execute(stale.where(is_here))).all()]
            if refs:
                await write.execute(
                    update(tables.turns)
                    .where(tuple_(_turns.organization_id, _turns.id).in_(_keys(refs)))
                    .values(publish_time=func.now())
                )
            return refs

        return [ref for here in self._database.each() for ref in await here.transact(partial(work, here))]

    async def leave_paused(self, refs: Sequence[TurnRef], *, older_s: float) -> None:
        """See `WorkStore.leave_paused`."""

        async def work(mine: Sequence[TurnRef], write: ReadWrite) -> None:
            await write.execute(
                update(tables.turns)
                .where(tuple_(_turns.organization_id, _turns.id).in_(_keys(mine)))
                .where(_turns.state == TurnState.QUEUED.value, _turns.publish_time > func.now())
                .values(publish_time=_turns.publish_time - func.make_interval(0, 0, 0, 0, 0, 0, older_s))
            )

        for part, mine in self._database.parts(refs, lambda ref: ref.organization_id):
            await part.transact(partial(work, mine))

    async def overdue(self, *, limit: int) -> list[TurnRef]:
        """See `WorkStore.overdue`."""
        query = (
            select(_turns.organization_id, _turns.conversation_id, _turns.id)
            .where(is_active(), _turns.deadline <= func.now())
            .where(or_(is_in(TurnState.QUEUED), has_lapsed()))
            .limit(limit)
        )
        found: list[TurnRef] = []
        for here in self._database.each():
            async with here.read() as read:
                rows = await read.execute(query.where(here.present(_turns.organization_id)))
                found += [_ref(*row) for row in rows.all()]
        return found

    async def move_up_stranded(self, *, limit: int) -> int:
        """See `WorkStore.move_up_stranded`."""
        stranded: list[tuple[str, str]] = []
        for here in self._database.each():
            async with here.read() as read:
                query = STRANDED.where(here.present(_turns.organization_id))
                stranded += [(row[0], row[1]) for row in (await read.execute(query, {"count_max": limit})).all()]
        moved = 0
        for organization_id, conversation_id in stranded:
            # One transaction each: their locks are those that people's own requests wait for.
            moved += await self._database.of(organization_id).transact(
                partial(move_up_if_free, organization_id=organization_id, conversation_id=conversation_id)
            )
        return moved

    @asynccontextmanager
    async def outbox(self, *, limit: int) -> AsyncIterator[list[TurnRef]]:
        """See `WorkStore.outbox`."""
        query = (
            select(_outbox.organization_id, _outbox.conversation_id, _outbox.turn_id)
            .order_by(_outbox.create_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with AsyncExitStack() as stack:
            taken: list[tuple[ReadWrite, list[TurnRef]]] = []
            for here in self._database.each():
                write = await stack.enter_async_context(here.write())
                rows = await write.execute(query.where(here.present(_outbox.organization_id)))
                taken.append((write, [_ref(*row) for row in rows.all()]))
            yield [ref for _, refs in taken for ref in refs]
            for write, refs in taken:
                if refs:
                    await write.execute(
                        delete(tables.outbox).where(tuple_(_outbox.organization_id, _outbox.turn_id).in_(_keys(refs)))
                    )

    async def prune(self, *, older_s: float, limit: int) -> int:
        """See `WorkStore.prune`."""
        # By their places, which do not change as such a row never does: a join by key reads all keys there are.
        table = tables.idempotency
        place: ColumnElement[Any] = literal_column("ctid")  # Any: SQLAlchemy has no type for it
        pruned = 0
        for here in self._database.each():
            old = select(place).select_from(table).where(table.c.create_time <= from_now(-older_s))
            old = old.where(here.present(table.c.organization_id)).order_by(table.c.create_time).limit(limit)
            gone = delete(table).where(place == func.any(func.array(old.scalar_subquery())))
            pruned += (await here.change(gone)).rowcount
        return pruned


async def _claimed(write: ReadWrite, hold: Hold) -> Claim:
    given = {"of_organization": hold.ref.organization_id, "of_turn": hold.ref.turn_id}
    return claim_of((await write.execute(CLAIMED, given)).mappings().one(), hold)


def _ref(organization_id: str, conversation_id: str, turn_id: str) -> TurnRef:
    return TurnRef(organization_id, ConversationId(conversation_id), TurnId(turn_id))


def _keys(refs: Sequence[TurnRef]) -> list[tuple[str, str]]:
    return [(ref.organization_id, ref.turn_id) for ref in refs]

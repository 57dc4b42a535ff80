"""Takes turns and ends them: one statement for all that a worker begins, or ends, while the last one runs.

A turn that somebody else is just changing, one that had a worker before, and one that is not as it should be, is passed
over; what becomes of it is told by the transactions of `WorkQueries`, each by itself. So no turn waits here for another
one's conversation, nor for an organization that is on the move or away.
"""

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import asyncpg
from sqlalchemy import ARRAY, Float, Select, Text, and_, bindparam, column, func, select, update

from services.conversation import tables
from services.conversation.model import MESSAGE_STATE_OF, TurnState
from services.conversation.store.work import Claim, Ending, Finished, Fold, Hold, TurnRef
from services.conversation.store_postgres.claims import claim_of, claimed
from services.conversation.store_postgres.prepared import Prepared
from services.conversation.store_postgres.rows import json_of
from services.conversation.store_postgres.statements import from_now
from services.mesh.errors import MeshError
from services.mesh.groupcommit import GroupCommit
from services.mesh.postgres.errors import Conflict, translated
from services.mesh.postgres.lane import Lane
from services.mesh.postgres.places import Places

TOGETHER_MAX: Final = 64
"""Turns in one statement: conversations of those that end are locked until all of them are stored."""
_END: Final = "SELECT * FROM conversation.end_turns($1::text::jsonb)"
_NUL: Final = r"\u0000"
"""As JSON writes the character that PostgreSQL has no place for."""
_turns: Final = tables.turns.c

Told = TypeVar("Told")


class _Taking:
    """A turn to take."""

    __slots__ = ("epoch", "lease_s", "ref")

    def __init__(self, ref: TurnRef, *, lease_s: float, epoch: str) -> None:
        self.ref = ref
        self.lease_s = lease_s
        self.epoch = epoch


class _Ending:
    """A turn to end, as the statement is told of it."""

    __slots__ = ("ref", "text")

    def __init__(self, hold: Hold, fold: Fold, ending: Ending) -> None:
        self.ref = hold.ref
        self.text = json.dumps(_given(hold, fold, ending))


class Handling:
    """Entered for as long as turns are worked on.

    Args:
        places: where turns are.
    """

    def __init__(self, places: Places) -> None:
        # A lane each, so that no turn that is to begin waits for those that are over.
        takes, ends = places.lanes(), places.lanes()

        async def take(takings: Sequence[_Taking]) -> list[Claim | MeshError | None]:
            return await takes.ask_each(takings, _organization_of, _take)

        async def end(endings: Sequence[_Ending]) -> list[Finished | MeshError | None]:
            return await ends.ask_each(endings, _organization_of, _end)

        self._takings = GroupCommit[_Taking, Claim | MeshError | None](
            take, name="conversation_claims", batch_max=TOGETHER_MAX
        )
        self._endings = GroupCommit[_Ending, Finished | MeshError | None](
            end, name="conversation_ends", batch_max=TOGETHER_MAX
        )
        self._opened = AsyncExitStack()

    async def take(self, ref: TurnRef, *, lease_s: float, epoch: str) -> Claim | None:
        """See `WorkStore.claim`: takes a turn that waits for its first worker; None where that is not plain.

        Raises:
            Unavailable, Overloaded, DeadlineExceeded: PostgreSQL cannot answer; the turn may be taken or not.
        """
        return _told(await self._takings.add(_Taking(ref, lease_s=lease_s, epoch=epoch)))

    async def end(self, hold: Hold, fold: Fold, ending: Ending) -> Finished:
        """See `WorkStore.finish`: LOST where it is not plain that the turn is held. Raises as `take` does."""
        one = _Ending(hold, fold, ending)
        told = None if _NUL in one.text else _told(await self._endings.add(one))
        return Finished.LOST if told is None else told

    async def __aenter__(self) -> Self:
        await self._opened.enter_async_context(self._takings)
        await self._opened.enter_async_context(self._endings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, error, traceback)


def _organization_of(item: _Taking | _Ending) -> str:
    return item.ref.organization_id


def _told(one: Told | MeshError | None) -> Told | None:
    if isinstance(one, MeshError):
        raise one
    return one


async def _take(lane: Lane, takings: Sequence[_Taking]) -> list[Claim | None]:
    given = {
        "all_organization_id": [one.ref.organization_id for one in takings],
        "all_turn_id": [one.ref.turn_id for one in takings],
        "all_epoch": [one.epoch for one in takings],
        "all_lease_s": [one.lease_s for one in takings],
    }
    try:
        with translated():
            rows = await TAKE.fetch(lane, given)
    except Conflict:  # another change was faster; each by itself repeats its own
        return [None] * len(takings)
    taken = {(row["organization_id"], row["turn_id"]): row for row in rows}
    claims: list[Claim | None] = []
    for one in takings:  # a turn that is named twice is taken once
        row = taken.pop((one.ref.organization_id, one.ref.turn_id), None)
        claims.append(None if row is None else claim_of(row, Hold(one.ref, row["fence"])))
    return claims


async def _end(lane: Lane, endings: Sequence[_Ending]) -> list[Finished]:
    given = ",".join(one.text for one in endings)
    try:
        with translated():
            rows = await lane.fetch(_END, f"[{given}]")
    except (Conflict, asyncpg.DataError):  # as above; or one of them says what no column holds
        return [Finished.LOST] * len(endings)
    ended = {row["id"]: Finished.MOVED_UP if row["has_next"] else Finished.DONE for row in rows}
    return [ended.get(one.ref.turn_id, Finished.LOST) for one in endings]


def _given(hold: Hold, fold: Fold, ending: Ending) -> dict[str, object]:
    return {
        "organization_id": hold.ref.organization_id,
        "conversation_id": hold.ref.conversation_id,
        "id": hold.ref.turn_id,
        "fence": hold.fence,
        "state": ending.state.value,
        "answer_state": MESSAGE_STATE_OF[ending.state].value,
        "finish_reason": ending.finish_reason.value,
        "error": json_of(ending.error),
        "text": fold.text,
        "citations": [json_of(citation) for citation in fold.citations],
        "retrieval": json_of(fold.retrieval),
        "usage": json_of(fold.usage),
        "model": fold.model,
        "context": json_of(fold.context),
        "last_sequence": fold.last_sequence,
    }


def _taking() -> Select[Any]:  # Any: rows of many columns, a table and types of any kind
    kinds: dict[str, Any] = {"organization_id": Text(), "turn_id": Text(), "epoch": Text(), "lease_s": Float()}
    arrays = [bindparam(f"all_{name}", type_=ARRAY(kind)) for name, kind in kinds.items()]
    columns = [column(name, kind) for name, kind in kinds.items()]
    given: Any = func.unnest(*arrays).table_valued(*columns, name="given").render_derived()
    is_given = and_(_turns.organization_id == given.c.organization_id, _turns.id == given.c.turn_id)
    # Of a turn that had no worker nobody has changed the answer, so one look sees turn and messages as they are.
    free: Any = (
        select(given)
        .join(tables.turns, is_given)
        # Not spelled as the partial indexes are: the key finds a turn, and not what else its organization has at work.
        .where(_turns.state == TurnState.QUEUED.value, _turns.fence == 0)
        .with_for_update(of=tables.turns, skip_locked=True)
        .cte("free")
    )
    taken = (
        update(tables.turns)
        .where(_turns.organization_id == free.c.organization_id, _turns.id == free.c.turn_id)
        .values(
            state=TurnState.RUNNING.value,
            fence=_turns.fence + 1,
            attempt=_turns.attempt + 1,
            lease_expire_time=from_now(free.c.lease_s),
            journal_epoch=free.c.epoch,
            start_time=func.coalesce(_turns.start_time, func.now()),
        )
        .returning(*_turns)
        .cte("taken")
    )
    return claimed(taken).add_columns(taken.c.organization_id, taken.c.fence)


TAKE: Final = Prepared(_taking())

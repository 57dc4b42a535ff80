"""Statements on many turns at once: what ten thousand open answers ask every second, in a handful of round trips."""

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Text,
    and_,
    bindparam,
    cast,
    column,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.conversation import tables
from services.conversation.context import ContextReport
from services.conversation.model import RetrievalTrace, TurnId, TurnState, Usage
from services.conversation.store.turns import Progress, TurnKey
from services.conversation.store.work import Folding, Hold, TurnRef
from services.conversation.store_postgres.rows import json_of
from services.conversation.store_postgres.statements import LEASE, Given
from services.conversation.store_postgres.work import WorkQueries

_turns: Final = tables.turns.c
_messages: Final = tables.messages.c
_outbox: Final = tables.outbox.c
_TEXTS: Final = ("organization_id", "turn_id", "epoch", "text", "citations", "retrieval", "usage", "model", "context")
_NUMBERS: Final = ("fence", "sequence_limit", "last_sequence")
_OF_JSON: Final = ("citations", "retrieval", "usage", "context")


def _given(*names: str) -> Any:  # Any: a table of columns of any type
    """One row for each of what is asked for, from one array per column."""
    kinds = {name: BigInteger() if name in _NUMBERS else Text() for name in names}
    arrays = [bindparam(f"all_{name}", type_=ARRAY(kind)) for name, kind in kinds.items()]
    columns = [column(name, kind) for name, kind in kinds.items()]
    return func.unnest(*arrays).table_valued(*columns, name="given").render_derived()


def _is_given(given: Any) -> ColumnElement[bool]:  # Any: as above
    return and_(_turns.organization_id == given.c.organization_id, _turns.id == given.c.turn_id)


def _free(given: Any) -> Any:  # Any: as above
    """The held ones of those that are given; one that somebody else is just changing is left for later."""
    return (
        select(given, _turns.user_id, _turns.assistant_message_id)
        .join(tables.turns, _is_given(given))
        .where(_turns.fence == given.c.fence, _turns.state == TurnState.RUNNING.value)
        .with_for_update(of=tables.turns, skip_locked=True)
        .cte("free")
    )


def _fold_all() -> Any:  # Any: a statement that returns rows
    free = _free(_given(*_TEXTS, *_NUMBERS))
    held = (
        update(tables.turns)
        .where(_is_given(free))
        .values(lease_expire_time=LEASE, sequence_limit=free.c.sequence_limit, journal_epoch=free.c.epoch)
        .returning(*free.c)
        .cte("held")
    )
    names = ("text", "model", "last_sequence", *_OF_JSON)
    folded = {name: cast(held.c[name], JSONB) if name in _OF_JSON else held.c[name] for name in names}
    return (
        update(tables.messages)
        .where(_messages.organization_id == held.c.organization_id, _messages.user_id == held.c.user_id)
        .where(_messages.id == held.c.assistant_message_id)
        .values(**folded, update_time=func.now())
        .returning(held.c.turn_id)
    )


def _renew_all() -> Any:  # Any: as above
    free = _free(_given("organization_id", "turn_id", "fence"))
    return update(tables.turns).where(_is_given(free)).values(lease_expire_time=LEASE).returning(_turns.id)


def _wanted() -> Any:  # Any: as above
    given = _given("organization_id", "turn_id", "fence")
    return (
        select(_turns.id)
        .select_from(given)
        .join(tables.turns, and_(_is_given(given), _turns.fence == given.c.fence))
        .where(_turns.state == TurnState.RUNNING.value, _turns.cancel_requested.is_(False))
    )


def _progress() -> Any:  # Any: as above
    given = _given("organization_id", "turn_id")
    is_answer = and_(
        _messages.organization_id == _turns.organization_id,
        _messages.user_id == _turns.user_id,
        _messages.id == _turns.assistant_message_id,
    )
    return (
        select(_turns.id, _turns.state, _messages.last_sequence)
        .select_from(given)
        .join(tables.turns, _is_given(given))
        .join(tables.messages, is_answer)
    )


def _relayed() -> Any:  # Any: as above
    given = _given("organization_id", "turn_id")
    is_given = and_(_outbox.organization_id == given.c.organization_id, _outbox.turn_id == given.c.turn_id)
    return delete(tables.outbox).where(is_given)


FOLD_ALL: Final = _fold_all()
RENEW_ALL: Final = _renew_all()
WANTED: Final = _wanted()
PROGRESS: Final = _progress()
RELAYED: Final = _relayed()


class ManyQueries(WorkQueries):
    """See `TurnStore.progress`, and `fold_all`, `renew_all`, `unwanted` and `relayed` of `WorkStore`."""

    async def fold_all(self, foldings: Sequence[Folding], *, lease_s: float) -> list[bool]:
        """See `WorkStore.fold_all`."""
        done: set[str] = set()
        for here, group in self._database.parts(foldings, lambda one: one.hold.ref.organization_id):
            given = _arrays([_row_of(one) for one in group])
            done.update((await here.change(FOLD_ALL, given | {"lease_s": lease_s})).scalars())
        return [one.hold.ref.turn_id in done for one in foldings]

    async def renew_all(self, holds: Sequence[Hold], *, lease_s: float) -> list[bool]:
        """See `WorkStore.renew_all`."""
        done: set[str] = set()
        for here, group in self._database.parts(holds, lambda hold: hold.ref.organization_id):
            given = _arrays([_key_of(hold) for hold in group])
            done.update((await here.change(RENEW_ALL, given | {"lease_s": lease_s})).scalars())
        return [hold.ref.turn_id in done for hold in holds]

    async def unwanted(self, holds: Sequence[Hold]) -> set[TurnId]:
        """See `WorkStore.unwanted`."""
        wanted: set[TurnId] = set()
        for here, group in self._database.parts(holds, lambda hold: hold.ref.organization_id):
            if group:
                async with here.read() as read:
                    found = await read.execute(WANTED, _arrays([_key_of(hold) for hold in group]))
                    wanted.update(TurnId(turn_id) for turn_id in found.scalars())
        return {hold.ref.turn_id for hold in holds} - wanted

    async def relayed(self, refs: Sequence[TurnRef]) -> None:
        """See `WorkStore.relayed`."""
        for here, group in self._database.parts(refs, lambda ref: ref.organization_id):
            keys = [{"organization_id": ref.organization_id, "turn_id": ref.turn_id} for ref in group]
            await here.change(RELAYED, _arrays(keys))

    async def progress(self, turns: Sequence[TurnKey]) -> dict[TurnId, Progress]:
        """See `TurnStore.progress`."""
        found: dict[TurnId, Progress] = {}
        for here, group in self._database.parts(turns, lambda turn: turn.organization_id):
            keys = [{"organization_id": turn.organization_id, "turn_id": turn.turn_id} for turn in group]
            async with here.read() as read:
                for turn_id, state, last_sequence in await read.execute(PROGRESS, _arrays(keys)):
                    found[TurnId(turn_id)] = Progress(TurnState(state).has_ended, last_sequence)
        return found


def _key_of(hold: Hold) -> Given:
    return {"organization_id": hold.ref.organization_id, "turn_id": hold.ref.turn_id, "fence": hold.fence}


def _row_of(one: Folding) -> Given:
    fold = one.fold
    return _key_of(one.hold) | {
        "epoch": one.epoch,
        "sequence_limit": one.sequence_limit,
        "text": fold.text,
        "citations": json.dumps([json_of(citation) for citation in fold.citations]),
        "retrieval": _json(fold.retrieval),
        "usage": _json(fold.usage),
        "model": fold.model,
        "context": _json(fold.context),
        "last_sequence": fold.last_sequence,
    }


def _json(value: RetrievalTrace | Usage | ContextReport | None) -> str | None:
    found = json_of(value)
    return None if found is None else json.dumps(found)


def _arrays(rows: Sequence[Given]) -> Given:
    """One array per column; there are rows."""
    return {f"all_{name}": [row[name] for row in rows] for name in rows[0]}

"""Reservations, ledger and usage; what decides stands in functions of the schema, see the migrations."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Date, RowMapping, Select, cast, func, literal, select, text, tuple_

from services.inference.money.model import (
    Alert,
    Call,
    Consumed,
    Decision,
    Dimension,
    Granted,
    Hold,
    Period,
    Posting,
    Refused,
    Usage,
    UsageKey,
    UsageQuery,
)
from services.inference.money.purse import Purpose
from services.inference.tables import RESERVATIONS, USAGE_DAYS
from services.mesh.postgres.database import ATTEMPTS_MAX, Conflict, ReadOnly, ReadWrite, translated
from services.mesh.postgres.lane import Lane
from services.mesh.postgres.places import Places

_RESERVE: Final = "SELECT * FROM inference.reserve($1::text::jsonb) ORDER BY number"
_SETTLE: Final = "SELECT * FROM inference.settle($1::text::jsonb, $2)"
RETENTION_LOCK: Final = 0x7061726C65790003
"""`parley`, 3: advisory locks share one space of numbers in a database."""
# From one organization to the next, and in each by time: an index of time alone would cost every call a write, for a
# question that is asked once an hour. Lines are never changed, so they stay in their places.
FORGET: Final = text("""
WITH RECURSIVE organization(id) AS (
  SELECT min(organization_id) FROM inference.ledger
  UNION ALL
  SELECT (SELECT min(line.organization_id) FROM inference.ledger AS line WHERE line.organization_id > organization.id)
  FROM organization WHERE organization.id IS NOT NULL
), old AS (
  SELECT line.place
  FROM organization
  CROSS JOIN LATERAL (
    SELECT ctid AS place FROM inference.ledger
    WHERE organization_id = organization.id AND at < :before
    ORDER BY at LIMIT :count_max) AS line
  LIMIT :count_max
)
DELETE FROM inference.ledger WHERE ctid = ANY (ARRAY(SELECT place FROM old))
""")
_SUMS: Final = (
    "calls",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nanos",
    "unpriced_calls",
    "estimated_calls",
)
_NOTHING: Final = Consumed()

# Any: values of JSON.
_Json = dict[str, Any]


class PostgresLedger:
    """Implements `store.LedgerStore`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        # A lane each, so that no call that is to begin waits for the lines of those that are over.
        self._reserving = places.lanes()
        self._settling = places.lanes()

    async def reserve(self, holds: Sequence[Hold]) -> list[Decision]:
        """See `store.LedgerStore.reserve`."""

        async def ask(lane: Lane, some: Sequence[Hold]) -> list[Decision]:
            calls = [_hold_json(number, hold) for number, hold in enumerate(some)]
            return [_decision(row) for row in await _call(lane, _RESERVE, json.dumps(calls))]

        told = await self._reserving.ask(holds, lambda hold: hold.call.organization_id, ask)
        decisions = {place: decision for places, some in told for place, decision in zip(places, some, strict=True)}
        return [decisions[place] for place in range(len(holds))]

    async def settle(self, postings: Sequence[Posting], at: datetime) -> list[Alert]:
        """See `store.LedgerStore.settle`."""

        async def ask(lane: Lane, some: Sequence[Posting]) -> list[Alert]:
            lines = json.dumps([_posting_json(posting) for posting in some])
            return [_alert(row, at) for row in await _call(lane, _SETTLE, lines, at)]

        told = await self._settling.ask(_latest(postings), lambda posting: posting.call.organization_id, ask)
        return [alert for _, alerts in told for alert in alerts]

    async def expired(self, at: datetime, limit: int) -> list[Hold]:
        """See `store.LedgerStore.expired`."""
        found: list[Hold] = []
        for here in self._places.each():
            query = select(RESERVATIONS).where(
                RESERVATIONS.c.expires_at <= at, here.present(RESERVATIONS.c.organization_id)
            )
            async with here.read() as read:
                rows = await read.execute(query.order_by(RESERVATIONS.c.expires_at).limit(limit))
                found += [_hold(row) for row in rows.mappings()]
        return found[:limit]

    async def usage(self, query: UsageQuery, *, after: UsageKey | None, limit: int) -> list[Usage]:
        """See `store.LedgerStore.usage`."""

        async def work(read: ReadOnly) -> list[Usage]:
            rows = await read.execute(usage_statement(query, after=after, limit=limit))
            return [_usage(row) for row in rows.mappings()]

        # No caller writes lines: a report that a replica gives is as old as one that was asked for a moment earlier.
        return await self._places.of(query.organization_id).view(work)

    async def forget(self, before: datetime, limit: int) -> int:
        """See `store.LedgerStore.forget`."""

        async def work(write: ReadWrite) -> int:
            if not (await write.execute(select(func.pg_try_advisory_xact_lock(RETENTION_LOCK)))).scalar_one():
                return 0
            deleted = await write.execute(FORGET, {"before": before, "count_max": limit})
            return deleted.rowcount

        return sum([await here.transact(work) for here in self._places.each()])


async def _call(lane: Lane, statement: str, *arguments: object) -> Sequence[Mapping[str, Any]]:
    """Runs a function of the schema as a transaction of its own, again when PostgreSQL asks for that."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            with translated():
                return await lane.fetch(statement, *arguments)
        except Conflict:
            if attempt == ATTEMPTS_MAX:
                raise
    raise AssertionError("there is at least one attempt")


def usage_statement(query: UsageQuery, *, after: UsageKey | None, limit: int) -> Select[*tuple[Any, ...]]:
    """The statement behind `usage`; Any: its columns depend on the query."""
    columns = USAGE_DAYS.c
    day = cast(func.date_trunc("month", columns.day), Date) if query.period is Period.MONTH else columns.day
    by = query.group_by
    key: dict[str, ColumnElement[Any]] = {
        "starts_on": day,
        "user_id": columns.user_id if Dimension.USER in by else literal(""),
        "api_key_id": columns.api_key_id if Dimension.API_KEY in by else literal(""),
        "model": columns.model if Dimension.MODEL in by else literal(""),
        "purpose": columns.purpose if Dimension.PURPOSE in by else literal(""),
    }
    first = query.first if after is None else max(query.first, after.starts_on)
    statement: Select[*tuple[Any, ...]] = select(
        *(column.label(name) for name, column in key.items()),
        *(func.sum(columns[name]).label(name) for name in _SUMS),
    ).where(columns.organization_id == query.organization_id, columns.day >= first, columns.day <= query.last)
    for name in ("user_id", "api_key_id", "model", "purpose"):
        wanted = getattr(query, name)
        if wanted is not None:
            statement = statement.where(columns[name] == wanted)
    if after is not None:
        statement = statement.where(tuple_(*key.values()) > tuple(getattr(after, name) for name in key))
    places = [text(str(number + 1)) for number in range(len(key))]
    return statement.group_by(*places).order_by(*places).limit(limit)


def _latest(postings: Sequence[Posting]) -> list[Posting]:
    """One posting per call; a statement cannot settle a call twice, and the first word counts."""
    return list({(one.call.organization_id, one.call.id): one for one in reversed(postings)}.values())


def _call_json(call: Call) -> _Json:
    return {
        "id": call.id,
        "organization_id": call.organization_id,
        "user_id": call.user_id,
        "api_key_id": call.api_key_id,
        "model": call.model,
        "purpose": call.purpose.value,
        "at": call.at.isoformat(),
    }


def _hold_json(number: int, hold: Hold) -> _Json:
    return _call_json(hold.call) | {
        "number": number,
        "expires_at": hold.expires_at.isoformat(),
        "input_tokens": hold.input_tokens,
        "output_tokens": hold.output_tokens,
        "cost_nanos": hold.cost_nanos,
    }


def _posting_json(posting: Posting) -> _Json:
    consumed = posting.consumed or _NOTHING
    return _call_json(posting.call) | {
        "is_consumed": posting.consumed is not None,
        "is_lapse": posting.is_lapse,
        "input_tokens": consumed.input_tokens,
        "cached_input_tokens": consumed.cached_input_tokens,
        "output_tokens": consumed.output_tokens,
        "reasoning_tokens": consumed.reasoning_tokens,
        "cost_nanos": consumed.cost_nanos,
        "is_estimated": consumed.is_estimated,
    }


def _decision(row: Mapping[str, Any]) -> Decision:
    if row["is_granted"]:
        return Granted(room_nanos=row["room_nanos"])
    return Refused(
        subject_id=row["subject_id"],
        period=Period(row["period"]),
        limit_nanos=row["limit_nanos"],
        spent_nanos=row["spent_nanos"],
        reserved_nanos=row["reserved_nanos"],
    )


def _hold(row: RowMapping) -> Hold:
    call = Call(
        id=row["id"],
        organization_id=row["organization_id"],
        user_id=row["user_id"],
        api_key_id=row["api_key_id"],
        model=row["model"],
        purpose=Purpose(row["purpose"]),
        at=row["at"],
    )
    return Hold(
        call=call,
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost_nanos=row["cost_nanos"],
        expires_at=row["expires_at"],
    )


def _alert(row: Mapping[str, Any], at: datetime) -> Alert:
    return Alert(
        organization_id=row["organization_id"],
        subject_id=row["subject_id"],
        period=Period(row["period"]),
        starts_on=row["starts_on"],
        percent=row["percent"],
        limit_nanos=row["limit_nanos"],
        spent_nanos=row["spent_nanos"],
        at=at,
    )


def _usage(row: RowMapping) -> Usage:
    key = UsageKey(
        starts_on=row["starts_on"],
        user_id=row["user_id"],
        api_key_id=row["api_key_id"],
        model=row["model"],
        purpose=row["purpose"],
    )
    return Usage(key=key, **{name: int(row[name]) for name in _SUMS})

"""Budgets, their standings and their alerts."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import ColumnElement, Delete, RowMapping, Select, Table, and_, delete, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from services.inference.money.model import BUDGETS_MAX, Alert, Budget, Limits, Period, Standing
from services.inference.store import AlertPosition, TooManyBudgetsError
from services.inference.tables import BUDGET_ALERTS, BUDGET_COUNTERS, BUDGETS, RESERVATIONS, USAGE_DAYS
from services.mesh.postgres.database import ReadOnly, ReadWrite
from services.mesh.postgres.places import Places

_LOCK_NAMESPACE: Final = 1836019321
"""As in the functions of the schema, which take the lock shared."""
_LIMITS: Final = ("requests_per_minute", "tokens_per_minute", "cost_nanos_per_day", "cost_nanos_per_month")


class PostgresBudgets:
    """Implements `store.BudgetStore`."""

    def __init__(self, places: Places) -> None:
        self._places = places

    async def set_budget(self, organization_id: str, subject_id: str, limits: Limits, at: datetime) -> Budget:
        """See `store.BudgetStore.set_budget`."""
        async with self._places.of(organization_id).write() as write:
            # Nobody spends meanwhile, so that the past is counted once and in full.
            await write.execute(select(func.pg_advisory_xact_lock(_LOCK_NAMESPACE, func.hashtext(organization_id))))
            others = select(func.count()).where(
                BUDGETS.c.organization_id == organization_id, BUDGETS.c.subject_id != subject_id
            )
            if (await write.execute(others)).scalar_one() >= BUDGETS_MAX:
                raise TooManyBudgetsError
            values = {name: getattr(limits, name) for name in _LIMITS}
            statement = insert(BUDGETS).values(
                organization_id=organization_id, subject_id=subject_id, created_at=at, updated_at=at, **values
            )
            statement = statement.on_conflict_do_update(
                constraint="budgets_pkey", set_={**values, "updated_at": statement.excluded.updated_at}
            )
            row = (await write.execute(statement.returning(BUDGETS))).mappings().one()
            for period in Period:
                await _count_again(write, organization_id, subject_id, period, period.starts_on(_day(at)))
            standings = await _standings(write, organization_id, [subject_id], at)
        return _budget(row, standings[subject_id])

    async def get_budget(self, organization_id: str, subject_id: str, at: datetime) -> Budget | None:
        """See `store.BudgetStore.get_budget`."""
        query = select(BUDGETS).where(BUDGETS.c.organization_id == organization_id, BUDGETS.c.subject_id == subject_id)
        found = await self._read(query, organization_id, at)
        return found[0] if found else None

    async def list_budgets(self, organization_id: str, at: datetime, *, after: str, limit: int) -> list[Budget]:
        """See `store.BudgetStore.list_budgets`."""
        query = select(BUDGETS).where(BUDGETS.c.organization_id == organization_id, BUDGETS.c.subject_id > after)
        return await self._read(query.order_by(BUDGETS.c.subject_id).limit(limit), organization_id, at)

    async def delete_budget(self, organization_id: str, subject_id: str) -> bool:
        """See `store.BudgetStore.delete_budget`."""
        async with self._places.of(organization_id).write() as write:
            await write.execute(select(func.pg_advisory_xact_lock(_LOCK_NAMESPACE, func.hashtext(organization_id))))
            await write.execute(_deletion(BUDGET_COUNTERS, organization_id, subject_id))
            deleted = await write.execute(_deletion(BUDGETS, organization_id, subject_id))
        return deleted.rowcount == 1

    async def limits(self, organization_id: str) -> dict[str, Limits]:
        """See `store.BudgetStore.limits`."""
        async with self._places.of(organization_id).read() as read:
            rows = await read.execute(select(BUDGETS).where(BUDGETS.c.organization_id == organization_id))
            return {row["subject_id"]: _limits(row) for row in rows.mappings()}

    async def list_alerts(self, organization_id: str, *, before: AlertPosition | None, limit: int) -> list[Alert]:
        """See `store.BudgetStore.list_alerts`."""
        place = (BUDGET_ALERTS.c.at, BUDGET_ALERTS.c.subject_id, BUDGET_ALERTS.c.period, BUDGET_ALERTS.c.percent)
        query = select(BUDGET_ALERTS).where(BUDGET_ALERTS.c.organization_id == organization_id)
        if before is not None:
            query = query.where(tuple_(*place) < before)
        async with self._places.of(organization_id).read() as read:
            rows = await read.execute(query.order_by(*(column.desc() for column in place)).limit(limit))
            return [_alert(row) for row in rows.mappings()]

    async def _read(self, query: Select[*tuple[object, ...]], organization_id: str, at: datetime) -> list[Budget]:
        async with self._places.of(organization_id).read() as read:
            rows = list((await read.execute(query)).mappings())
            standings = await _standings(read, organization_id, [row["subject_id"] for row in rows], at)
        return [_budget(row, standings[row["subject_id"]]) for row in rows]


async def _count_again(
    write: ReadWrite, organization_id: str, subject_id: str, period: Period, starts_on: date
) -> None:
    """The counter of a period, from what usage and open reservations say."""
    spent = select(func.coalesce(func.sum(USAGE_DAYS.c.cost_nanos), 0)).where(
        USAGE_DAYS.c.organization_id == organization_id,
        USAGE_DAYS.c.day >= starts_on,
        USAGE_DAYS.c.day < period.ends_at(starts_on).date(),
        _pays(USAGE_DAYS, subject_id),
    )
    reserved = select(func.coalesce(func.sum(RESERVATIONS.c.cost_nanos), 0)).where(
        RESERVATIONS.c.organization_id == organization_id,
        RESERVATIONS.c.at >= datetime(starts_on.year, starts_on.month, starts_on.day, tzinfo=UTC),
        RESERVATIONS.c.at < period.ends_at(starts_on),
        _pays(RESERVATIONS, subject_id),
    )
    statement = insert(BUDGET_COUNTERS).values(
        organization_id=organization_id,
        subject_id=subject_id,
        period=period.value,
        starts_on=starts_on,
        spent_nanos=spent.scalar_subquery(),
        reserved_nanos=reserved.scalar_subquery(),
    )
    excluded = statement.excluded
    await write.execute(
        statement.on_conflict_do_update(
            constraint="budget_counters_pkey",
            set_={"spent_nanos": excluded.spent_nanos, "reserved_nanos": excluded.reserved_nanos},
        )
    )


async def _standings(
    read: ReadOnly, organization_id: str, subject_ids: Sequence[str], at: datetime
) -> dict[str, list[Standing]]:
    counters = BUDGET_COUNTERS.c
    starts = {period: period.starts_on(_day(at)) for period in Period}
    query = select(BUDGET_COUNTERS).where(
        counters.organization_id == organization_id,
        counters.subject_id.in_(subject_ids),
        or_(*(and_(counters.period == period.value, counters.starts_on == first) for period, first in starts.items())),
    )
    known = {(row["subject_id"], row["period"]): row for row in (await read.execute(query)).mappings()}
    return {
        subject_id: [
            _standing(known.get((subject_id, period.value)), period, starts_on) for period, starts_on in starts.items()
        ]
        for subject_id in subject_ids
    }


def _pays(table: Table, subject_id: str) -> ColumnElement[bool]:
    """Whether the subject pays for a row of usage or a reservation."""
    return or_(*(table.c[name] == subject_id for name in ("organization_id", "user_id", "api_key_id")))


def _deletion(table: Table, organization_id: str, subject_id: str) -> Delete:
    return delete(table).where(table.c.organization_id == organization_id, table.c.subject_id == subject_id)


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()


def _limits(row: RowMapping) -> Limits:
    return Limits(**{name: row[name] for name in _LIMITS})


def _standing(row: RowMapping | None, period: Period, starts_on: date) -> Standing:
    if row is None:
        return Standing(period=period, starts_on=starts_on)
    return Standing(
        period=period, starts_on=starts_on, spent_nanos=row["spent_nanos"], reserved_nanos=row["reserved_nanos"]
    )


def _budget(row: RowMapping, standings: Sequence[Standing]) -> Budget:
    return Budget(
        organization_id=row["organization_id"],
        subject_id=row["subject_id"],
        limits=_limits(row),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        standings=tuple(standings),
    )


def _alert(row: RowMapping) -> Alert:
    return Alert(
        organization_id=row["organization_id"],
        subject_id=row["subject_id"],
        period=Period(row["period"]),
        starts_on=row["starts_on"],
        percent=row["percent"],
        limit_nanos=row["limit_nanos"],
        spent_nanos=row["spent_nanos"],
        at=row["at"],
    )

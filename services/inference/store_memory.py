"""The store in memory, for tests: one process, one event loop, gone with it."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import date, datetime
from itertools import chain

from services.inference.money.model import (
    ALERT_PERCENTS,
    BUDGETS_MAX,
    Alert,
    Budget,
    Call,
    Consumed,
    Decision,
    Dimension,
    Granted,
    Hold,
    Limits,
    Line,
    Period,
    Posting,
    Refused,
    Standing,
    Usage,
    UsageKey,
    UsageQuery,
)
from services.inference.store import AlertPosition, TooManyBudgetsError

_CounterKey = tuple[str, str, Period, date]


class MemoryStore:
    """Implements `store.Store`; `lines` is the ledger."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, str, int], Line] = {}
        self._forgotten: list[Line] = []
        self._budgets: dict[tuple[str, str], Budget] = {}
        self._holds: dict[tuple[str, str], Hold] = {}
        self._alerts: dict[tuple[_CounterKey, int], Alert] = {}

    async def set_budget(self, organization_id: str, subject_id: str, limits: Limits, at: datetime) -> Budget:
        """See `store.BudgetStore.set_budget`."""
        others = [key for key in self._budgets if key[0] == organization_id and key[1] != subject_id]
        if len(others) >= BUDGETS_MAX:
            raise TooManyBudgetsError
        known = self._budgets.get((organization_id, subject_id))
        self._budgets[organization_id, subject_id] = Budget(
            organization_id=organization_id,
            subject_id=subject_id,
            limits=limits,
            created_at=at if known is None else known.created_at,
            updated_at=at,
        )
        return self._with_standings(self._budgets[organization_id, subject_id], at)

    async def get_budget(self, organization_id: str, subject_id: str, at: datetime) -> Budget | None:
        """See `store.BudgetStore.get_budget`."""
        budget = self._budgets.get((organization_id, subject_id))
        return None if budget is None else self._with_standings(budget, at)

    async def list_budgets(self, organization_id: str, at: datetime, *, after: str, limit: int) -> list[Budget]:
        """See `store.BudgetStore.list_budgets`."""
        found = sorted(key for key in self._budgets if key[0] == organization_id and key[1] > after)
        return [self._with_standings(self._budgets[key], at) for key in found[:limit]]

    async def delete_budget(self, organization_id: str, subject_id: str) -> bool:
        """See `store.BudgetStore.delete_budget`."""
        return self._budgets.pop((organization_id, subject_id), None) is not None

    async def limits(self, organization_id: str) -> dict[str, Limits]:
        """See `store.BudgetStore.limits`."""
        return {key[1]: budget.limits for key, budget in self._budgets.items() if key[0] == organization_id}

    async def list_alerts(self, organization_id: str, *, before: AlertPosition | None, limit: int) -> list[Alert]:
        """See `store.BudgetStore.list_alerts`."""
        found = [alert for alert in self._alerts.values() if alert.organization_id == organization_id]
        found.sort(key=_place, reverse=True)
        return [alert for alert in found if before is None or _place(alert) < before][:limit]

    async def reserve(self, holds: Sequence[Hold]) -> list[Decision]:
        """See `store.LedgerStore.reserve`."""
        return [self._reserve(hold) for hold in holds]

    async def settle(self, postings: Sequence[Posting], at: datetime) -> list[Alert]:
        """See `store.LedgerStore.settle`."""
        for posting in postings:
            self._settle(posting)
        calls = [posting.call for posting in postings]
        new = [alert for call in calls for alert in self._reached(call, at)]
        return list(dict.fromkeys(new))

    async def expired(self, at: datetime, limit: int) -> list[Hold]:
        """See `store.LedgerStore.expired`."""
        found = sorted((hold for hold in self._holds.values() if hold.expires_at <= at), key=lambda one: one.expires_at)
        return found[:limit]

    async def usage(self, query: UsageQuery, *, after: UsageKey | None, limit: int) -> list[Usage]:
        """See `store.LedgerStore.usage`."""
        rows: dict[UsageKey, Usage] = {}
        for line in self._summed():
            if _is_wanted(line.call, query):
                key = _usage_key(line.call, query)
                rows[key] = _sum(rows.get(key, _empty(key)), line)
        keys = sorted(rows, key=_order)
        return [rows[key] for key in keys if after is None or _order(key) > _order(after)][:limit]

    async def forget(self, before: datetime, limit: int) -> int:
        """See `store.LedgerStore.forget`."""
        old = [key for key, line in self.lines.items() if line.call.at < before][:limit]
        self._forgotten += [self.lines.pop(key) for key in old]
        return len(old)

    def _summed(self) -> Iterator[Line]:
        """Every line that there ever was."""
        return chain(self.lines.values(), self._forgotten)

    def _budgets_of(self, call: Call) -> Iterator[tuple[Budget, Period, date]]:
        for subject_id in call.subjects:
            budget = self._budgets.get((call.organization_id, subject_id))
            if budget is not None:
                for period, starts_on in call.periods():
                    yield budget, period, starts_on

    def _standing(self, budget: Budget, period: Period, starts_on: date) -> Standing:
        def pays(call: Call) -> bool:
            return (
                call.organization_id == budget.organization_id
                and budget.subject_id in call.subjects
                and (period, starts_on) in call.periods()
            )

        return Standing(
            period=period,
            starts_on=starts_on,
            spent_nanos=sum(line.consumed.cost_nanos or 0 for line in self._summed() if pays(line.call)),
            reserved_nanos=sum(hold.cost_nanos for hold in self._holds.values() if pays(hold.call)),
        )

    def _with_standings(self, budget: Budget, at: datetime) -> Budget:
        standings = (self._standing(budget, period, period.starts_on(at.date())) for period in Period)
        return replace(budget, standings=tuple(standings))

    def _reserve(self, hold: Hold) -> Decision:
        room: list[int] = []
        refusals: list[Refused] = []
        for budget, period, starts_on in self._budgets_of(hold.call):
            limit = budget.limits.of_period(period)
            if limit is None:
                continue
            standing = self._standing(budget, period, starts_on)
            room.append(limit - standing.spent_nanos - standing.reserved_nanos - hold.cost_nanos)
            if room[-1] < 0:
                refusals.append(
                    Refused(
                        subject_id=budget.subject_id,
                        period=period,
                        limit_nanos=limit,
                        spent_nanos=standing.spent_nanos,
                        reserved_nanos=standing.reserved_nanos,
                    )
                )
        if refusals:
            return min(refusals, key=lambda one: (one.period is not Period.MONTH, _left(one), one.subject_id))
        if room:
            self._holds[hold.call.organization_id, hold.call.id] = hold
        return Granted(room_nanos=min(room, default=None))

    def _settle(self, posting: Posting) -> None:
        call, consumed = posting.call, posting.consumed
        key = (call.organization_id, call.id)
        hold = self._holds.pop(key, None)
        if posting.is_lapse and hold is None:
            return
        lapsed = self.lines.get((*key, 0))
        if lapsed is not None and lapsed.is_lapsed:
            line = Line(
                call=call,
                number=1,
                calls=(consumed is not None) - lapsed.calls,
                consumed=_difference(consumed or Consumed(), lapsed.consumed),
                is_lapsed=False,
            )
        elif consumed is not None:
            line = Line(call=call, number=0, calls=1, consumed=consumed, is_lapsed=posting.is_lapse)
        else:
            return
        self.lines.setdefault((*key, line.number), line)

    def _reached(self, call: Call, at: datetime) -> Iterator[Alert]:
        for budget, period, starts_on in self._budgets_of(call):
            limit = budget.limits.of_period(period)
            spent = self._standing(budget, period, starts_on).spent_nanos
            for percent in ALERT_PERCENTS:
                key = ((call.organization_id, budget.subject_id, period, starts_on), percent)
                if limit is None or spent <= 0 or spent * 100 < limit * percent or key in self._alerts:
                    continue
                self._alerts[key] = Alert(
                    organization_id=call.organization_id,
                    subject_id=budget.subject_id,
                    period=period,
                    starts_on=starts_on,
                    percent=percent,
                    limit_nanos=limit,
                    spent_nanos=spent,
                    at=at,
                )
                yield self._alerts[key]


def _left(refused: Refused) -> int:
    return refused.limit_nanos - refused.spent_nanos - refused.reserved_nanos


def _place(alert: Alert) -> AlertPosition:
    return alert.at, alert.subject_id, alert.period.value, alert.percent


def _order(key: UsageKey) -> tuple[date | str, ...]:
    return tuple(getattr(key, field.name) for field in fields(key))


def _is_wanted(call: Call, query: UsageQuery) -> bool:
    return (
        call.organization_id == query.organization_id
        and query.first <= call.at.date() <= query.last
        and all(
            getattr(query, name) in {None, getattr(call, name)}
            for name in ("user_id", "api_key_id", "model", "purpose")
        )
    )


def _usage_key(call: Call, query: UsageQuery) -> UsageKey:
    by = query.group_by
    return UsageKey(
        starts_on=query.period.starts_on(call.at.date()),
        user_id=call.user_id if Dimension.USER in by else "",
        api_key_id=call.api_key_id if Dimension.API_KEY in by else "",
        model=call.model if Dimension.MODEL in by else "",
        purpose=call.purpose.value if Dimension.PURPOSE in by else "",
    )


def _difference(true: Consumed, supposed: Consumed) -> Consumed:
    return Consumed(
        input_tokens=true.input_tokens - supposed.input_tokens,
        cached_input_tokens=true.cached_input_tokens - supposed.cached_input_tokens,
        output_tokens=true.output_tokens - supposed.output_tokens,
        reasoning_tokens=true.reasoning_tokens - supposed.reasoning_tokens,
        cost_nanos=(true.cost_nanos or 0) - (supposed.cost_nanos or 0),
        is_estimated=true.is_estimated,
    )


def _empty(key: UsageKey) -> Usage:
    return Usage(
        key=key,
        calls=0,
        input_tokens=0,
        cached_input_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        cost_nanos=0,
        unpriced_calls=0,
        estimated_calls=0,
    )


def _sum(row: Usage, line: Line) -> Usage:
    one = line.consumed
    return replace(
        row,
        calls=row.calls + line.calls,
        input_tokens=row.input_tokens + one.input_tokens,
        cached_input_tokens=row.cached_input_tokens + one.cached_input_tokens,
        output_tokens=row.output_tokens + one.output_tokens,
        reasoning_tokens=row.reasoning_tokens + one.reasoning_tokens,
        cost_nanos=row.cost_nanos + (one.cost_nanos or 0),
        unpriced_calls=row.unpriced_calls + (one.cost_nanos is None),
        estimated_calls=row.estimated_calls + (line.calls if one.is_estimated else -line.number),
    )

"""Budgets, reservations, ledger lines and usage. Money is in billionths of a US dollar (nanos), days are those of UTC.

A nano is small enough that a line is rounded by less than half of it: prices are whole micros per million tokens, so a
token costs whole picos.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Final, TypeAlias

from services.inference.money.purse import Payer, Purpose
from services.mesh.errors import invalid_field

LIMIT_MAX: Final = 10**15
"""A million dollars in nanos, or as many tokens; sums of many years of it fit into 63 bits."""
BUDGETS_MAX: Final = 1_000
"""Per organization: a replica keeps all limits of an organization in memory."""
ALERT_PERCENTS: Final = (50, 80, 100)
_MONTHS: Final = 12


class Period(StrEnum):
    """How long a budget of money runs; a calendar day or month in UTC."""

    DAY = "day"
    MONTH = "month"

    def starts_on(self, day: date) -> date:
        """First day of the period that holds `day`."""
        return day if self is Period.DAY else day.replace(day=1)

    def ends_at(self, starts_on: date) -> datetime:
        """The instant at which the next period begins."""
        if self is Period.DAY:
            following = starts_on + timedelta(days=1)
        else:
            years, month = divmod(starts_on.month, _MONTHS)
            following = starts_on.replace(year=starts_on.year + years, month=month + 1)
        return datetime.combine(following, time(), UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a subject may consume; None bounds nothing, 0 allows nothing.

    Raises:
        InvalidArgument: a limit is negative or above `LIMIT_MAX`.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    cost_nanos_per_day: int | None = None
    cost_nanos_per_month: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            limit: int | None = getattr(self, field.name)
            if limit is not None and not 0 <= limit <= LIMIT_MAX:
                raise invalid_field(field.name, f"must be from 0 to {LIMIT_MAX}")

    def of_period(self, period: Period) -> int | None:
        """The limit of money for a period."""
        return self.cost_nanos_per_day if period is Period.DAY else self.cost_nanos_per_month

    @property
    def bounds_cost(self) -> bool:
        """Whether money is limited."""
        return self.cost_nanos_per_day is not None or self.cost_nanos_per_month is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a period of a budget stands: what is spent, and what calls that run now hold."""

    period: Period
    starts_on: date
    spent_nanos: int = 0
    reserved_nanos: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The limits of one subject: an organization, a user or an API key, told apart by the prefix of its id."""

    organization_id: str
    subject_id: str
    limits: Limits
    created_at: datetime
    updated_at: datetime
    standings: tuple[Standing, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a reservation and its ledger line agree on.

    Attributes:
        id: of the reservation and of the line.
        api_key_id: empty when the call came with no API key.
        at: when the call began; it decides which day and month pay.
    """

    id: str
    organization_id: str
    user_id: str
    api_key_id: str
    model: str
    purpose: Purpose
    at: datetime

    @property
    def subjects(self) -> tuple[str, ...]:
        """Whose budgets it falls under."""
        return tuple(filter(None, (self.organization_id, self.user_id, self.api_key_id)))

    def periods(self) -> Iterator[tuple[Period, date]]:
        """The day and the month that pay."""
        for period in Period:
            yield period, period.starts_on(self.at.date())


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A wish to reserve; when its holder dies, it lapses at `expires_at` and counts as spent in full."""

    call: Call
    input_tokens: int
    output_tokens: int
    cost_nanos: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A hold stands; `room_nanos` is what the tightest budget has left beside it, None when no budget bounds it."""

    room_nanos: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A budget has no room; of several, one that is full for longest."""

    subject_id: str
    period: Period
    limit_nanos: int
    spent_nanos: int
    reserved_nanos: int


Decision: TypeAlias = Granted | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """What a call consumed.

    Attributes:
        cost_nanos: None when the price is unknown, which is not zero.
        is_estimated: counted here, because the provider did not report it.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int | None = 0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """The end of a call for the ledger; `consumed` is None when its reservation is given back unused.

    `is_lapse` is said by whoever found the reservation expired, and counts only while it is still there.
    """

    call: Call
    consumed: Consumed | None
    is_lapse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the ledger. Lines are never changed: what was wrong is put right by another line.

    Attributes:
        number: 0 for the call itself, 1 for the correction of one that had lapsed.
        calls: 1, or what a correction adds to that.
        is_lapsed: settled as reserved, because nobody told what was consumed.
    """

    call: Call
    number: int
    calls: int
    consumed: Consumed
    is_lapsed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A budget has reached `percent` of its limit; once per period."""

    organization_id: str
    subject_id: str
    period: Period
    starts_on: date
    percent: int
    limit_nanos: int
    spent_nanos: int
    at: datetime


class Dimension(StrEnum):
    """What usage can be told apart by."""

    USER = "user"
    API_KEY = "api_key"
    MODEL = "model"
    PURPOSE = "purpose"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which usage is asked for.

    Attributes:
        period: days or months are the rows.
        first: first day.
        last: last day, included.
        group_by: dimensions that the rows are split by; the others are summed and empty.
        user_id, api_key_id, model, purpose: only such calls; None for all.
    """

    organization_id: str
    period: Period
    first: date
    last: date
    group_by: frozenset[Dimension] = frozenset()
    user_id: str | None = None
    api_key_id: str | None = None
    model: str | None = None
    purpose: Purpose | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageKey:
    """What a row of usage stands for; also its place in the order of rows."""

    starts_on: date
    user_id: str = ""
    api_key_id: str = ""
    model: str = ""
    purpose: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A row of usage.

    Attributes:
        calls: that consumed something; a request that took several attempts may count more than once.
        unpriced_calls: whose cost is unknown and not in the sum.
        estimated_calls: whose tokens the provider did not report.
    """

    key: UsageKey
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nanos: int
    unpriced_calls: int
    estimated_calls: int


def call_of(payer: Payer, *, call_id: str, api_key_id: str, model: str, at: datetime) -> Call:
    """The call that a payer pays for."""
    return Call(
        id=call_id,
        organization_id=payer.organization_id,
        user_id=payer.user_id,
        api_key_id=api_key_id,
        model=model,
        purpose=payer.purpose,
        at=at,
    )

"""Calls, holds and postings for tests of money, on a day in the middle of a month."""

from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any, Final

from pydantic import SecretStr

from services.inference.catalog import ModelCard, Prices
from services.inference.money.model import Budget, Call, Consumed, Hold, Period, Posting, Standing
from services.inference.money.purse import Estimate, Payer, Purpose
from services.inference.store import Store
from services.mesh.settings import DatabaseSettings, ValkeySettings

ORGANIZATION: Final = "org_01m81yxdt5er79mzf15ea65abm"
OTHER_ORGANIZATION: Final = "org_01m81yxdt5er79mzf15ea65abn"
USER: Final = "usr_01m81yxdt5er79mzf15ea65abm"
OTHER_USER: Final = "usr_01m81yxdt5er79mzf15ea65abn"
API_KEY: Final = "key_01m81yxdt5er79mzf15ea65abm"
NOON: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)
TODAY: Final = NOON.date()
LEASE: Final = timedelta(minutes=10)

_numbers: Final = count(1)


def call(**changes: Any) -> Call:
    """A call with an id of its own; Any: fields by name."""
    fields: dict[str, Any] = {
        "id": f"call_{next(_numbers)}",
        "organization_id": ORGANIZATION,
        "user_id": USER,
        "api_key_id": API_KEY,
        "model": "openai/m",
        "purpose": Purpose.ANSWER,
        "at": NOON,
    }
    return Call(**(fields | changes))


def hold(cost_nanos: int = 100, **changes: Any) -> Hold:
    """A wish to reserve; Any: fields of its call by name."""
    wanted = call(**changes)
    return Hold(call=wanted, input_tokens=3, output_tokens=4, cost_nanos=cost_nanos, expires_at=wanted.at + LEASE)


def spent(held: Call | Hold, cost_nanos: int | None = 100, *, is_estimated: bool = False) -> Posting:
    """The end of a call that consumed something."""
    consumed = Consumed(
        input_tokens=3,
        cached_input_tokens=1,
        output_tokens=4,
        reasoning_tokens=2,
        cost_nanos=cost_nanos,
        is_estimated=is_estimated,
    )
    return Posting(call=held.call if isinstance(held, Hold) else held, consumed=consumed)


def unused(held: Hold) -> Posting:
    """The end of a call that consumed nothing."""
    return Posting(call=held.call, consumed=None)


def standing(budget: Budget | None, period: Period = Period.DAY) -> tuple[int, int]:
    """What is spent and what is reserved."""
    assert budget is not None
    found: Standing = next(one for one in budget.standings if one.period is period)
    return found.spent_nanos, found.reserved_nanos


async def standing_of(
    store: Store, subject_id: str = ORGANIZATION, period: Period = Period.DAY, day: date = TODAY
) -> tuple[int, int]:
    """As `standing`, of a budget of the store."""
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return standing(await store.get_budget(ORGANIZATION, subject_id, at), period)


def database_settings(url: str) -> DatabaseSettings:
    return DatabaseSettings(database_url=SecretStr(url))


def valkey_settings(url: str) -> ValkeySettings:
    return ValkeySettings(valkey_url=SecretStr(url))


PAYER: Final = Payer(organization_id=ORGANIZATION, user_id=USER, credential_id=API_KEY)
CARD: Final = ModelCard(
    name="openai/m",
    display_name="M",
    context_tokens=10_000,
    output_tokens_max=1_000,
    prices=Prices(input_micros=1_000_000, output_micros=2_000_000),  # 1,000 and 2,000 nanos per token
    source="test",
    date=TODAY,
)
ESTIMATE: Final = Estimate(model="openai/m", card=CARD, input_tokens=10, output_tokens=20, time_s=2)
ESTIMATE_NANOS: Final = 50_000

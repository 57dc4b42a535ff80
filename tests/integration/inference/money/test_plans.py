"""What the database does for a call and for a query: one round trip, and no reading of whole tables."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from sqlalchemy import event, text

from services.inference.money.model import Dimension, Limits, Period, UsageKey, UsageQuery
from services.inference.store_postgres import PostgresStore
from services.inference.store_postgres.ledger import FORGET, usage_statement
from services.mesh.postgres.database import Database, open_database
from services.mesh.postgres.lane import Lane
from tests.support.money import NOON, ORGANIZATION, OTHER_ORGANIZATION, database_settings, hold

FILL = text("""
INSERT INTO inference.usage_days
SELECT organization, date '2026-01-01' + day, 'usr_' || person, 'key_' || person, 'openai/m', 'answer', 1, 1, 0, 1, 0,
       1, 0, 0
FROM unnest(ARRAY[:one, :other]) AS organization, generate_series(0, 364) AS day, generate_series(1, 40) AS person
""")
FILL_LEDGER = text("""
INSERT INTO inference.ledger
SELECT organization, 'call_' || minute, 0, 'usr_1', 'key_1', 'openai/m', 'answer',
       timestamptz '2026-01-01' + make_interval(mins => minute), 1, 1, 0, 1, 0, 1, false, false
FROM unnest(ARRAY[:one, :other]) AS organization, generate_series(1, 10000) AS minute
""")


@dataclass
class Filled:
    database: Database
    store: PostgresStore

    async def plan(self, query: UsageQuery, after: UsageKey | None = None) -> list[dict[str, Any]]:
        """The nodes of a statement's plan; Any: PostgreSQL's own JSON."""
        statement = usage_statement(query, after=after, limit=50)
        written = statement.compile(dialect=self.database.engine.dialect, compile_kwargs={"literal_binds": True})
        async with self.database.write() as write:
            found = (await write.execute(text(f"EXPLAIN (FORMAT JSON) {written}"))).scalar_one()
        return _nodes((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:  # Any: as above
    return [plan, *(node for inner in plan.get("Plans", []) for node in _nodes(inner))]


@pytest.fixture
async def filled(migrated_database_url: Callable[..., str]) -> AsyncIterator[Filled]:
    async with open_database(database_settings(migrated_database_url("inference")), application="filled") as database:
        async with database.write() as write:
            await write.execute(FILL, {"one": ORGANIZATION, "other": OTHER_ORGANIZATION})
            await write.execute(text("ANALYZE inference.usage_days"))
        yield Filled(database, PostgresStore(database))


def query(period: Period = Period.DAY, **fields: Any) -> UsageQuery:
    """Usage of a month; Any: fields by name."""
    wanted: dict[str, Any] = {"first": date(2026, 3, 1), "last": date(2026, 3, 31), **fields}
    return UsageQuery(organization_id=ORGANIZATION, period=period, **wanted)


async def test_usage_is_read_by_index(filled: Filled) -> None:
    after = UsageKey(starts_on=date(2026, 3, 9), user_id="usr_7")
    for asked, place in (
        (query(), None),
        (query(Period.MONTH, group_by=frozenset(Dimension)), None),
        (query(group_by=frozenset({Dimension.USER})), after),
        (query(user_id="usr_7"), None),
        (query(api_key_id="key_7", first=date(2026, 1, 1), last=date(2026, 12, 31)), None),
        (query(model="openai/m"), None),
    ):
        nodes = await filled.plan(asked, place)
        assert any("usage_days" in node.get("Index Name", "") for node in nodes)
        assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]


async def test_usage_of_one_user_is_not_searched_for_among_all(filled: Filled) -> None:
    nodes = await filled.plan(query(user_id="usr_7", first=date(2026, 1, 1), last=date(2026, 12, 31)))
    assert [node["Index Name"] for node in nodes if "Index Name" in node] == ["usage_days_of_user"]


async def test_old_lines_are_found_by_index(filled: Filled) -> None:
    written = str(FORGET).replace(":before", "timestamptz '2026-01-02'").replace(":count_max", "1000")
    async with filled.database.write() as write:
        await write.execute(FILL_LEDGER, {"one": ORGANIZATION, "other": OTHER_ORGANIZATION})
        await write.execute(text("ANALYZE inference.ledger"))
        found = (await write.execute(text(f"EXPLAIN (FORMAT JSON) {written}"))).scalar_one()

    nodes = _nodes((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])

    assert "ledger_by_time" in {node.get("Index Name") for node in nodes}
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]


async def test_reservation_is_one_statement_and_no_transaction_around_it(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled.store.set_budget(ORGANIZATION, ORGANIZATION, Limits(cost_nanos_per_day=10**9), NOON)
    statements: list[str] = []
    engine, fetch = filled.database.engine.sync_engine, Lane.fetch
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))

    async def noted(lane: Lane, statement: str, *arguments: object) -> Sequence[Mapping[str, Any]]:
        statements.append(statement)
        return await fetch(lane, statement, *arguments)

    monkeypatch.setattr(Lane, "fetch", noted)

    await filled.store.reserve([hold(), hold(), hold()])

    assert len(statements) == 1
    async with open_database(
        database_settings(filled.database.engine.url.render_as_string(hide_password=False).replace("+asyncpg", "")),
        application="looking on",
    ) as another:
        activity = text("SELECT query FROM pg_stat_activity WHERE application_name = 'filled'")
        async with another.write() as write:
            last = [row[0] for row in await write.execute(activity)]
    # The last words on the connection are the statement itself: no COMMIT followed it.
    assert [words for words in last if "inference.reserve" in words]

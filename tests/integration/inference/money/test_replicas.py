"""One budget, two replicas, and one of them is killed while its calls run."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import pytest
from sqlalchemy import func, select

from dev.home import ROOT
from services.inference.money.model import Limits, Period, Standing
from services.inference.store_postgres import PostgresStore
from services.inference.tables import LEDGER, RESERVATIONS, USAGE_DAYS
from services.mesh.postgres.database import Database, open_database
from tests.support.money import ESTIMATE_NANOS, ORGANIZATION, database_settings

ROOM: Final = 10
CALLS: Final = 32
PATIENCE_S: Final = 100.0


@dataclass
class Replica:
    process: asyncio.subprocess.Process
    held: int = 0
    refused: int = 0

    async def says(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            words = (await self.process.stdout.readline()).decode().strip()
        assert words, "the replica has ended"
        return words

    async def tell(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n".encode())
        await self.process.stdin.drain()

    async def note_outcome(self) -> None:
        self.held, self.refused = (int(word) for word in (await self.says()).split())


@asynccontextmanager
async def replica(environment: dict[str, str]) -> AsyncIterator[Replica]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.money_replica",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )
    try:
        yield Replica(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def standing(store: PostgresStore) -> Standing:
    budget = await store.get_budget(ORGANIZATION, ORGANIZATION, datetime.now(UTC))
    assert budget is not None
    return next(one for one in budget.standings if one.period is Period.MONTH)


async def until_settled(store: PostgresStore) -> Standing:
    async with asyncio.timeout(PATIENCE_S):
        while (found := await standing(store)).reserved_nanos:  # noqa: ASYNC110 - PostgreSQL sets no event of ours
            await asyncio.sleep(0.05)
    return found


async def totals(database: Database) -> tuple[int, int, int, int, int]:
    """Lines of the ledger, those of lapses, their cost, the cost in usage, and reservations that are left."""
    async with database.read() as read:
        lines, cost = (await read.execute(select(func.count(), func.sum(LEDGER.c.cost_nanos)))).one()
        lapsed = (await read.execute(select(func.count()).where(LEDGER.c.is_lapsed))).scalar_one()
        used = (await read.execute(select(func.sum(USAGE_DAYS.c.cost_nanos)))).scalar_one()
        left = (await read.execute(select(func.count()).select_from(RESERVATIONS))).scalar_one()
    return lines, lapsed, int(cost), int(used), left


@pytest.mark.timeout(400)
async def test_what_was_reserved_is_spent_and_nothing_else(
    migrated_database_url: Callable[..., str], valkey_url: str
) -> None:
    url = migrated_database_url("inference")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "generated"))),
        "PARLEY_DATABASE_URL": url,
        "PARLEY_VALKEY_URL": valkey_url,
        "PARLEY_AUTH_TARGET": "127.0.0.1:1",
        "PARLEY_INFERENCE_RESERVATION_SLACK_S": "0",
    }
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(database_settings(url), application="tests"))
        store = PostgresStore(database)
        limits = Limits(cost_nanos_per_month=ROOM * ESTIMATE_NANOS)
        await store.set_budget(ORGANIZATION, ORGANIZATION, limits, datetime.now(UTC))
        replicas = [await stack.enter_async_context(replica(environment)) for _ in range(2)]
        assert [await one.says() for one in replicas] == ["ready", "ready"]

        for one in replicas:
            await one.tell(str(CALLS))
        for one in replicas:
            await one.note_outcome()

        assert sum(one.held for one in replicas) == ROOM
        assert sum(one.refused for one in replicas) == 2 * CALLS - ROOM
        killed, survivor = sorted(replicas, key=lambda one: one.held, reverse=True)
        killed.process.send_signal(signal.SIGKILL)
        await survivor.tell("commit")
        assert await survivor.says() == "stored"
        found = await until_settled(store)

        assert found.spent_nanos == ROOM * ESTIMATE_NANOS
        assert await totals(database) == (ROOM, killed.held, ROOM * ESTIMATE_NANOS, ROOM * ESTIMATE_NANOS, 0)
        alerts = await store.list_alerts(ORGANIZATION, before=None, limit=10)
        assert sorted(alert.percent for alert in alerts) == [50, 80, 100]

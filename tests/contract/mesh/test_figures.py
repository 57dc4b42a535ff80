"""What is measured of PostgreSQL and Valkey, where it is used."""

import pytest
from pydantic import SecretStr
from sqlalchemy import literal, select

from services.mesh.errors import Unavailable
from services.mesh.postgres.database import open_database
from services.mesh.settings import DatabaseSettings, ValkeySettings
from services.mesh.telemetry import REGISTRY
from services.mesh.valkey import open_valkey


def _figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"parley_mesh_{name}", labels) or 0.0


async def test_connections_are_shown_as_they_are_used(database_url: str) -> None:
    given = DatabaseSettings(database_url=SecretStr(database_url), database_pool_size=3)
    async with open_database(given, application="test") as database:
        assert _figure("database_connections_count", which="max") == 3
        async with database.read() as read:
            await read.execute(select(literal(1)))
            assert _figure("database_connections_count", which="used") == 1
        assert _figure("database_connections_count", which="used") == 0


async def test_every_unit_of_work_is_timed_by_its_kind(database_url: str) -> None:
    before = _figure("database_transaction_seconds_count", kind="write")
    async with (
        open_database(DatabaseSettings(database_url=SecretStr(database_url)), application="test") as database,
        database.write() as write,
    ):
        await write.execute(select(literal(1)))
    assert _figure("database_transaction_seconds_count", kind="write") == before + 1


async def test_commands_are_counted_by_whether_they_were_answered(valkey_url: str) -> None:
    answered = _figure("valkey_commands_total", outcome="answered")
    failed = _figure("valkey_commands_total", outcome="failed")
    async with open_valkey(ValkeySettings(valkey_url=SecretStr(valkey_url)), application="test") as client:
        await client.ping()
    async with open_valkey(ValkeySettings(valkey_url=SecretStr("redis://127.0.0.1:1")), application="test") as nobody:
        with pytest.raises(Unavailable):
            await nobody.ping()
    assert _figure("valkey_commands_total", outcome="answered") == answered + 1
    assert _figure("valkey_commands_total", outcome="failed") == failed + 1

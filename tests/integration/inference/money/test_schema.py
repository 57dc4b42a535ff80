from collections.abc import Callable

from services.inference.cli import MIGRATIONS
from services.mesh.postgres.migrate import drift


async def test_migrations_make_what_the_tables_say(migrated_database_url: Callable[..., str]) -> None:
    assert await drift(migrated_database_url("inference"), MIGRATIONS) == []

from collections.abc import Callable

from services.mesh.postgres.migrate import drift
from services.retrieval.app import MIGRATIONS


async def test_migrations_make_what_the_tables_say(migrated_database_url: Callable[..., str]) -> None:
    assert await drift(migrated_database_url("retrieval"), MIGRATIONS) == []

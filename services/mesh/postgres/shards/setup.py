"""Migrations of an installation with several PostgreSQL instances: each has the whole schema, and knows its shards."""

from collections.abc import Mapping
from contextlib import AsyncExitStack

from services.mesh.postgres.migrate import Migrations, migrate
from services.mesh.postgres.shards.schema import administering, assign, prepare


async def migrate_instances(instances: Mapping[str, str], migrations: Migrations) -> None:
    """Brings every instance to the newest revision; with more than one, shards are kept apart from then on.

    Args:
        instances: URLs by name, as `ShardSettings.instances` gives them.
        migrations: of the service.

    Raises:
        Unavailable: an instance cannot be reached; those before it are done.
    """
    for url in instances.values():
        await migrate(url, migrations)
    if len(instances) == 1:
        return
    async with AsyncExitStack() as stack:
        connections = {
            name: await stack.enter_async_context(administering(url, service=migrations.service))
            for name, url in instances.items()
        }
        for name, connection in connections.items():
            await prepare(connection, migrations.service, migrations.metadata, instance=name)
        await assign(connections, migrations.service, migrations.metadata)

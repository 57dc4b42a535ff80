"""`python -m services.inference serve | migrate | config`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from services.inference.app import DEPLOYABLE, serve
from services.inference.settings import ServeSettings, StorageSettings
from services.inference.tables import METADATA, SCHEMA
from services.mesh.cli import Deployable
from services.mesh.cli import main as run
from services.mesh.migrate import Migrations
from services.mesh.settings import load

MIGRATIONS: Final = Migrations(SCHEMA, METADATA, Path(__file__).parent / "migrations")


def main(arguments: Sequence[str]) -> NoReturn:
    """Runs the command that the arguments name, and exits: 0 done, 1 failed, 2 wrong usage or settings."""
    if list(arguments[:1]) == ["migrate"]:  # needs the database and nothing else, so it runs before the rest is set
        storage = Deployable(name="inference", settings=StorageSettings, serve=_serve, migrations=MIGRATIONS)
        run(storage, arguments)
    run(replace(DEPLOYABLE, migrations=MIGRATIONS), arguments)


async def _serve(_settings: StorageSettings) -> None:
    await serve(load(ServeSettings))

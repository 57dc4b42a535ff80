"""Commands of inference: its API."""

from pathlib import Path
from typing import Final

from services.inference.app import serve
from services.inference.settings import ServeSettings
from services.inference.tables import METADATA, SCHEMA
from services.mesh.cli import Command, Deployable
from services.mesh.postgres.migrate import Migrations
from services.mesh.restored import NAME as AFTER_RESTORE
from services.mesh.restored import after_restore

MIGRATIONS: Final = Migrations(SCHEMA, METADATA, Path(__file__).parent / "migrations")

DEPLOYABLE: Final = Deployable(
    name="inference",
    serve=Command(ServeSettings, serve),
    migrations=MIGRATIONS,
    commands={AFTER_RESTORE: after_restore("inference")},
)

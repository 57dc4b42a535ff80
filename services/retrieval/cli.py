"""Commands of retrieval: API, and the worker that makes documents searchable."""

from typing import Final

from services.mesh.cli import Command, Deployable
from services.mesh.restored import NAME as AFTER_RESTORE
from services.mesh.restored import after_restore
from services.retrieval.app import MIGRATIONS, NAME, run_api, run_ingestion
from services.retrieval.settings import Settings

DEPLOYABLE: Final = Deployable(
    name=NAME,
    serve=Command(Settings, run_api),
    worker=Command(Settings, run_ingestion),
    migrations=MIGRATIONS,
    commands={AFTER_RESTORE: after_restore(NAME)},
)

"""Commands of auth: its API, and the first organization of an installation."""

import argparse
import sys
from pathlib import Path
from typing import Final

from services.auth.app import MIGRATIONS, serve_api
from services.auth.bootstrap import Bootstrap
from services.auth.credentials_file import CredentialsFile, CredentialsFileError
from services.auth.emails import checked_email
from services.auth.passwords import Passwords
from services.auth.settings import Settings
from services.auth.store_postgres import PostgresStore
from services.mesh.cli import Command, Deployable
from services.mesh.clock import SYSTEM_CLOCK
from services.mesh.errors import InvalidArgument
from services.mesh.postgres.database import open_database
from services.mesh.restored import NAME as AFTER_RESTORE
from services.mesh.restored import forget, tell
from services.mesh.settings import DatabaseSettings, SettingsError, ValkeySettings
from services.mesh.tasks import BoundedExecutor

OWNER_EMAIL: Final = "owner@parley.local"


async def bootstrap(settings: DatabaseSettings, *, output: Path, email: str, reset: bool) -> None:
    """Create the first organization, its owner and an API key, unless they exist.

    The owner gets a generated password. Safe to run at every start: when they exist, nothing is changed.
    """
    async with (
        open_database(settings, application="auth bootstrap") as database,
        BoundedExecutor("passwords", threads=1, queue_max=1) as hashing,
    ):
        first = Bootstrap(store=PostgresStore(database), passwords=Passwords(hashing), clock=SYSTEM_CLOCK)
        try:
            outcome = await first.run(CredentialsFile(output), email=email, reset=reset)
        except CredentialsFileError as error:
            raise SettingsError(f"--output: {error}") from error
    sys.stdout.write(f"{outcome.value}\n")


class RestoreSettings(DatabaseSettings, ValkeySettings):
    """Of `after-restore`."""


async def end_what_was(settings: RestoreSettings) -> None:
    """Forget what Valkey knows and end all sessions, before anything is started on a restored database.

    A refresh token that was spent after the instant of the restore counts as unspent again, and so does a session that
    was ended; API keys that were revoked since have to be revoked again by whoever knows them.
    """
    keys = await forget(settings, "auth")
    async with open_database(settings, application="auth after-restore") as database:
        sessions = await PostgresStore(database).end_all_sessions(SYSTEM_CLOCK.now())
    tell(keys=keys, sessions=sessions)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="file for the credentials, as shell lines; readable by its owner only",
    )
    parser.add_argument("--email", type=_email, default=OWNER_EMAIL, help=f"login name of the owner ({OWNER_EMAIL})")
    parser.add_argument(
        "--reset", action="store_true", help="give the owner a new password and a new key; ends the old ones"
    )


def _email(text: str) -> str:
    try:
        return checked_email("email", text)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(error.message) from None


DEPLOYABLE: Final = Deployable(
    name="auth",
    serve=Command(Settings, serve_api),
    migrations=MIGRATIONS,
    commands={
        "bootstrap": Command(DatabaseSettings, bootstrap, _arguments),
        AFTER_RESTORE: Command(RestoreSettings, end_what_was),
    },
)

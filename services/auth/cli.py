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
from services.mesh.database import open_database
from services.mesh.errors import InvalidArgument
from services.mesh.settings import DatabaseSettings, SettingsError
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
    commands={"bootstrap": Command(DatabaseSettings, bootstrap, _arguments)},
)

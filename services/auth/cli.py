"""`python -m services.auth serve | migrate | bootstrap | config`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from services.auth.app import MIGRATIONS, serve_api
from services.auth.bootstrap import Bootstrap, Outcome
from services.auth.credentials_file import CredentialsFile, CredentialsFileError
from services.auth.emails import checked_email
from services.auth.passwords import Passwords
from services.auth.settings import Settings, StoreSettings
from services.auth.store_postgres import PostgresStore
from services.mesh.cli import Deployable
from services.mesh.cli import main as run
from services.mesh.clock import SYSTEM_CLOCK
from services.mesh.database import open_database
from services.mesh.errors import InvalidArgument
from services.mesh.settings import DatabaseSettings, SettingsError, load
from services.mesh.tasks import BoundedExecutor

OWNER_EMAIL: Final = "owner@parley.local"
_ON_THE_STORE: Final = frozenset({"migrate", "bootstrap"})
"""Commands that need the database and nothing else, so that they run before anything else is configured."""

S = TypeVar("S", bound=DatabaseSettings)


@dataclass(frozen=True, slots=True)
class _Wanted:
    output: Path
    email: str
    reset: bool


def main(arguments: Sequence[str]) -> NoReturn:
    """Runs the command that the arguments name, and exits: 0 done, 1 failed, 2 wrong usage or settings."""
    command = arguments[0] if arguments else ""
    wanted = _parsed(arguments[1:]) if command == "bootstrap" else None
    rest = arguments if wanted is None else [command]
    if command in _ON_THE_STORE:
        run(_deployable(StoreSettings, wanted), rest)
    run(_deployable(Settings, wanted), rest)


def _deployable(settings: type[S], wanted: _Wanted | None) -> Deployable[S]:
    async def serve(_settings: DatabaseSettings) -> None:
        await serve_api(load(Settings))

    async def bootstrap(store_settings: DatabaseSettings) -> None:
        """Create the first organization, its owner and an API key, unless they exist."""
        assert wanted is not None, "parsed before"
        try:
            outcome = await _bootstrap(store_settings, wanted)
        except CredentialsFileError as error:
            raise SettingsError(f"--output: {error}") from error
        sys.stdout.write(f"{outcome.value}\n")

    return Deployable(
        name="auth", settings=settings, serve=serve, migrations=MIGRATIONS, commands={"bootstrap": bootstrap}
    )


async def _bootstrap(settings: DatabaseSettings, wanted: _Wanted) -> Outcome:
    async with (
        open_database(settings, application="auth bootstrap") as database,
        BoundedExecutor("passwords", threads=1, queue_max=1) as hashing,
    ):
        bootstrap = Bootstrap(store=PostgresStore(database), passwords=Passwords(hashing), clock=SYSTEM_CLOCK)
        return await bootstrap.run(CredentialsFile(wanted.output), email=wanted.email, reset=wanted.reset)


def _parsed(arguments: Sequence[str]) -> _Wanted:
    parser = argparse.ArgumentParser(
        prog="python -m services.auth bootstrap",
        description="Create the first organization, its owner with a generated password, and an API key. "
        "Safe to run at every start: when they exist, nothing is changed.",
    )
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
    parsed = parser.parse_args(arguments)
    return _Wanted(parsed.output, parsed.email, parsed.reset)


def _email(text: str) -> str:
    try:
        return checked_email("email", text)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(error.message) from None

"""`python -m services.<x> serve | worker | migrate | config`: what every deployable's command line looks like.

from services.auth.app import DEPLOYABLE
from services.mesh.cli import main
main(DEPLOYABLE)
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, NoReturn, TypeVar

import uvloop

from services.mesh import telemetry
from services.mesh.errors import MeshError
from services.mesh.policy import PolicyError
from services.mesh.server import ServerError
from services.mesh.settings import DatabaseSettings, MeshSettings, SettingsError, effective, load
from services.mesh.tracing import exporting

if TYPE_CHECKING:
    from services.mesh.migrate import Migrations

S = TypeVar("S", bound=MeshSettings)

EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 1

Command = Callable[[S], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployable(Generic[S]):
    """What a command line needs to know of a service.

    Attributes:
        name: of the service, as in `services.<name>` and in its settings.
        settings: kind of its settings.
        serve: runs the API until SIGTERM.
        worker: runs background work without an API, for services that have such a process.
        migrations: of its schema, for services that have one.
        commands: further commands by name, such as auth's `bootstrap`; the docstring's first line is the help text.
    """

    name: str
    settings: type[S]
    serve: Command[S]
    worker: Command[S] | None = None
    migrations: "Migrations | None" = None
    commands: Mapping[str, Command[S]] = field(default_factory=dict)


def main(deployable: Deployable[S], arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that the arguments name, and exits: 0 done, 1 failed, 2 wrong usage or settings."""
    commands = _commands(deployable)
    command = _parsed(deployable.name, commands, arguments)
    try:
        settings = load(deployable.settings)
        telemetry.configure_logging(deployable.name, level=settings.log_level, form=settings.log_format)
        with exporting(settings, service=deployable.name):
            _run(commands[command](settings))
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except (PolicyError, ServerError, MeshError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
        _fail(f"{deployable.name} {command}: {error}{cause}", EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells say it
    sys.exit(0)


def _commands(deployable: Deployable[S]) -> dict[str, Command[S]]:
    commands: dict[str, Command[S]] = {"serve": deployable.serve}
    if deployable.worker is not None:
        commands["worker"] = deployable.worker
    migrations = deployable.migrations
    if migrations is not None:

        async def migrate_schema(settings: S) -> None:
            """Bring the schema to its newest revision."""
            if not isinstance(settings, DatabaseSettings):
                raise TypeError(f"{deployable.name} has migrations, so its settings must be DatabaseSettings")
            from services.mesh.migrate import migrate  # noqa: PLC0415 - alembic is 0.4 s that serving need not pay

            await migrate(settings.database_url.get_secret_value(), migrations)

        commands["migrate"] = migrate_schema

    async def show_config(settings: S) -> None:
        """Show the effective settings; secrets are masked."""
        for setting in effective(settings):
            print(f"{setting.variable}={setting.value}  # {setting.origin}. {setting.description}")

    commands["config"] = show_config
    return {**commands, **deployable.commands}


def _parsed(name: str, commands: Mapping[str, Command[S]], arguments: Sequence[str] | None) -> str:
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}", description=f"Parley's {name}.")
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, run in commands.items():
        choices.add_parser(command, help=(run.__doc__ or command).strip().splitlines()[0])
    parsed = parser.parse_args(arguments)
    return str(parsed.command)


def _run(work: Awaitable[None]) -> None:
    async def run() -> None:
        await work

    coroutine: Coroutine[object, object, None] = run()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


def _fail(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)

"""`python -m services.<x> serve | worker | migrate | config`: what every deployable's command line looks like.

DEPLOYABLE = Deployable(name="auth", serve=Command(Settings, serve), migrations=MIGRATIONS)
main(DEPLOYABLE)
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, NoReturn, TypeVar

import uvloop

from services.mesh import files, garbage, telemetry
from services.mesh.effective import effective
from services.mesh.errors import MeshError
from services.mesh.policy import PolicyError
from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.server import ServerError
from services.mesh.settings import DatabaseSettings, MeshSettings, SettingsError, load
from services.mesh.tracing import exporting

if TYPE_CHECKING:
    from services.mesh.postgres.migrate import Migrations

S = TypeVar("S", bound=MeshSettings)

EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 1


def _none(_parser: argparse.ArgumentParser) -> None:
    """Adds no argument."""


@dataclass(frozen=True, slots=True)
class Command(Generic[S]):
    """One command.

    Attributes:
        settings: kind of what it has to be told, and no more: `migrate` runs before another service has an address.
        run: does it; takes the settings, and each argument by its name. The docstring's first line is the help text.
        arguments: adds its arguments to its parser.
    """

    settings: type[S]
    run: Callable[Concatenate[S, ...], Awaitable[None]]
    arguments: Callable[[argparse.ArgumentParser], None] = _none


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployable:
    """What a command line needs to know of a service.

    Attributes:
        name: of the service, as in `services.<name>` and in its settings.
        serve: runs the API until SIGTERM; `config` shows its settings.
        worker: runs background work without an API, for services that have such a process.
        migrations: of its schema, for services that have one.
        commands: further commands by name, such as auth's `bootstrap`.
    """

    name: str
    serve: Command[Any]  # Any: each command has settings of its own kind
    worker: Command[Any] | None = None
    migrations: "Migrations | None" = None
    commands: Mapping[str, Command[Any]] = field(default_factory=dict)


def main(deployable: Deployable, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that the arguments name, and exits: 0 done, 1 failed, 2 wrong usage or settings."""
    commands = _commands(deployable)
    parsed = vars(_parser(deployable.name, commands).parse_args(arguments))
    name = parsed.pop("command")
    try:
        settings = load(commands[name].settings)
        telemetry.configure_logging(deployable.name, level=settings.log_level, form=settings.log_format)
        with exporting(settings, service=deployable.name):
            _run(commands[name].run(settings, **parsed))
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except (PolicyError, ServerError, MeshError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
        _fail(f"{deployable.name} {name}: {error}{cause}", EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells say it
    sys.exit(0)


def _commands(deployable: Deployable) -> dict[str, Command[Any]]:
    commands = {"serve": deployable.serve}
    if deployable.worker is not None:
        commands["worker"] = deployable.worker
    migrations = deployable.migrations
    if migrations is not None and issubclass(deployable.serve.settings, ShardSettings):
        commands |= _of_shards(migrations)
    elif migrations is not None:

        async def migrate_schema(settings: DatabaseSettings) -> None:
            """Bring the schema to its newest revision."""
            from services.mesh.postgres.migrate import migrate  # noqa: PLC0415 - alembic is 0.4 s that serving need not pay

            await migrate(settings.database_url.get_secret_value(), migrations)

        commands["migrate"] = Command(DatabaseSettings, migrate_schema)

    async def show_config(settings: MeshSettings) -> None:
        """Show the effective settings; secrets are masked."""
        for setting in effective(settings):
            print(f"{setting.variable}={setting.value}  # {setting.origin}. {setting.description}")
        if isinstance(settings, DatabaseSettings):
            for instance, connections in settings.database_connections().items():
                print(f"# PostgreSQL {instance}: {connections} connections at most.")

    commands["config"] = Command(deployable.serve.settings, show_config)
    return {**commands, **deployable.commands}


def _of_shards(migrations: "Migrations") -> dict[str, Command[Any]]:
    """Commands of a service whose data may be spread over several instances."""
    from services.mesh.postgres.shards import cli as shard_cli  # noqa: PLC0415 - knows SQLAlchemy, which the edge must not

    async def migrate_schema(settings: ShardSettings) -> None:
        """Bring the schema of every PostgreSQL instance to its newest revision."""
        from services.mesh.postgres.shards.setup import migrate_instances  # noqa: PLC0415 - loads alembic, as below

        await migrate_instances(settings.instances(), migrations)

    async def shards(settings: ShardSettings, *, action: str, numbers: Sequence[int], to: str) -> None:
        """Show where shards are, or move them to another PostgreSQL instance."""
        await shard_cli.run_shards(settings, migrations, action=action, numbers=numbers, to=to)

    return {
        "migrate": Command(ShardSettings, migrate_schema),
        "shards": Command(ShardSettings, shards, shard_cli.arguments),
    }


def _parser(name: str, commands: Mapping[str, Command[Any]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}", description=f"Parley's {name}.")
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for word, command in commands.items():
        text = (command.run.__doc__ or word).strip()
        command.arguments(choices.add_parser(word, help=text.splitlines()[0], description=text))
    return parser


def _run(work: Awaitable[None]) -> None:
    async def run() -> None:
        await work

    coroutine: Coroutine[object, object, None] = run()
    files.raise_limit()
    garbage.spare()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


def _fail(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)

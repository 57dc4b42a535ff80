"""`python -m services.<x> shards show | move | cancel`: where shards are, and how an operator moves them."""

import argparse
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from services.mesh.errors import InvalidArgument
from services.mesh.postgres.shards.numbers import SHARDS_COUNT
from services.mesh.postgres.shards.schema import CHANGEABLE, Connection, ShardState, administering, schema_of
from services.mesh.postgres.shards.settings import ShardSettings

if TYPE_CHECKING:  # alembic is slow to load
    from services.mesh.postgres.migrate import Migrations

_GIVES: Final = frozenset({*CHANGEABLE, ShardState.LEAVING, ShardState.LEFT})

Standings = Mapping[str, Mapping[int, tuple[ShardState, int]]]
"""State and epoch of each shard by instance."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `shards`."""
    parser.set_defaults(numbers=(), to="")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("show", help="Show where shards are, and those on the move.")
    for action, text in (
        ("move", "Move shards to another instance; the same command finishes a move that broke off."),
        ("cancel", "Give up a move that broke off before its shards were handed over."),
    ):
        chosen = actions.add_parser(action, help=text, description=text)
        chosen.add_argument("numbers", type=shard_numbers, metavar="SHARDS", help="such as 17 or 0,2,8-15")
        chosen.add_argument("--to", required=True, metavar="INSTANCE", help="main, or a name of PARLEY_DATABASE_SHARDS")


def shard_numbers(text: str) -> list[int]:
    """The shards that a text such as `0,2,8-15` names. Raises ArgumentTypeError."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        is_number = first.isdecimal() and (last or first).isdecimal()
        named = range(int(first), int(last or first) + 1) if is_number else range(0)
        if not named or named[-1] >= SHARDS_COUNT:
            raise argparse.ArgumentTypeError(f"{text!r}: shards are 0 to {SHARDS_COUNT - 1}, such as 17 or 0,2,8-15")
        found.update(named)
    return sorted(found)


async def run_shards(
    settings: ShardSettings, migrations: "Migrations", *, action: str, numbers: Sequence[int], to: str
) -> None:
    """Does what the arguments say.

    Raises:
        InvalidArgument: there is only one instance, or none of that name.
        MoveError, CopyError: see `Move`.
        Unavailable: an instance is away.
    """
    if not settings.database_shards:
        raise InvalidArgument("PARLEY_DATABASE_SHARDS names no further instance, so everything is in one place")
    async with _instances(settings, migrations.service) as connections:
        if action == "show":
            _show(await _standings(connections, migrations.service))
            return
        if to not in connections:
            raise InvalidArgument(f"{to!r} is no instance: there are {', '.join(connections)}")
        await _move(connections, migrations, numbers, to, is_given_up=action == "cancel")


@asynccontextmanager
async def _instances(settings: ShardSettings, service: str) -> AsyncIterator[Mapping[str, Connection]]:
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(administering(url, service=service))
            for name, url in settings.instances().items()
        }


async def _move(
    connections: Mapping[str, Connection],
    migrations: "Migrations",
    numbers: Sequence[int],
    to: str,
    *,
    is_given_up: bool,
) -> None:
    from services.mesh.postgres.shards.move import Move  # noqa: PLC0415 - the one command that needs it

    standings = await _standings(connections, migrations.service)
    sources: defaultdict[str, list[int]] = defaultdict(list)
    for number in numbers:
        source = _giver(standings, number, to)
        if source is not None:
            sources[source].append(number)
    there = sorted({*numbers} - {number for shards in sources.values() for number in shards})
    if there:
        print(f"already on {to}: {', '.join(map(str, there))}")
    for name, shards in sources.items():
        print(f"shards {', '.join(map(str, shards))} from {name} to {to}")
        source, target = connections[name], connections[to]
        move = Move(migrations.service, migrations.metadata, source=source, target=target, say=_say)
        await (move.cancel(shards) if is_given_up else move.run(shards))


def _giver(standings: Standings, number: int, to: str) -> str | None:
    """The instance that has the shard, or is about to hand it over."""
    givers = [
        (said[number][1], name)
        for name, said in standings.items()
        if name != to and number in said and said[number][0] in _GIVES
    ]
    return max(givers)[1] if givers else None


async def _standings(connections: Mapping[str, Connection], service: str) -> Standings:
    found = {}
    for name, connection in connections.items():
        rows = await connection.fetch(f"SELECT shard, state, epoch FROM {schema_of(service)}.shards")  # noqa: S608 - our own name
        found[name] = {row["shard"]: (ShardState(row["state"]), row["epoch"]) for row in rows}
    return found


def _show(standings: Standings) -> None:
    version = sum(
        max((said[number][1] for said in standings.values() if number in said), default=0)
        for number in range(SHARDS_COUNT)
    )
    print(f"version {version}")
    for name, said in standings.items():
        counts = Counter(state for state, _ in said.values())
        print(f"{name}: {', '.join(f'{count} {state}' for state, count in sorted(counts.items())) or 'nothing'}")
        for number, (state, epoch) in sorted(said.items()):
            if state is not ShardState.GONE:
                print(f"  {number:2} {state} epoch {epoch}")


def _say(words: str) -> None:
    print(words, flush=True)

"""Shards on two databases: who has which organization, what a stale writer is told, and how shards move."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from services.mesh.errors import Unavailable
from services.mesh.postgres.database import Database, open_database
from services.mesh.postgres.errors import ShardElsewhere
from services.mesh.postgres.migrate import Migrations
from services.mesh.postgres.shards.copy import CopyError
from services.mesh.postgres.shards.instances import Shards, open_places
from services.mesh.postgres.shards.move import MoveError
from services.mesh.postgres.shards.numbers import MAIN, SHARDS_COUNT, shard_of
from services.mesh.postgres.shards.schema import schema_of
from services.mesh.postgres.shards.settings import ShardSettings
from tests.support.postgres import Databases
from tests.support.shards import (
    FOLDERS,
    NOTES,
    OTHER,
    SERVICE,
    migrations_in,
    mover,
    opened_shards,
    prepared,
    shard_settings,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two instances that share the shards."""

    settings: ShardSettings
    migrations: Migrations


@pytest.fixture
def urls(postgres: Databases) -> Iterator[list[str]]:
    made = [postgres.create(), postgres.create()]
    yield made
    for url in made:
        postgres.drop(url)


@pytest.fixture
async def pair(urls: list[str], tmp_path: Path) -> Pair:
    both = Pair(shard_settings(urls), migrations_in(tmp_path))
    await prepared(both.settings, both.migrations)
    return both


@pytest.fixture
async def shards(pair: Pair) -> AsyncIterator[Shards]:
    async with opened_shards(pair.settings) as opened:
        yield opened


def organization_on(instance: str, *, number: int = 0) -> str:
    """An organization whose shard is spread to the instance at first: even shards are main's."""
    parity = 0 if instance == MAIN else 1
    found = (f"org_{index}" for index in range(10_000) if shard_of(f"org_{index}") % 2 == parity)
    for _ in range(number):
        next(found)
    return next(found)


async def make_folder(shards: Shards, organization: str, folder: str, *, notes: int = 0) -> None:
    async with shards.of(organization).write() as write:
        await write.execute(insert(FOLDERS).values(organization_id=organization, id=folder, name=folder))
        rows = [{"organization_id": organization, "folder_id": folder, "content": str(each)} for each in range(notes)]
        if rows:
            await write.execute(insert(NOTES), rows)


async def folders_in(database: Database, organization: str) -> list[str]:
    query = select(FOLDERS.c.id).where(FOLDERS.c.organization_id == organization).order_by(FOLDERS.c.id)
    async with database.read() as read:
        return list((await read.execute(query)).scalars())


async def folders_of(shards: Shards, organization: str) -> list[str]:
    query = select(FOLDERS.c.id).where(FOLDERS.c.organization_id == organization).order_by(FOLDERS.c.id)
    async with shards.of(organization).read() as read:
        return list((await read.execute(query)).scalars())


async def move(pair: Pair, organization: str, *, source: str = MAIN, target: str = OTHER) -> None:
    async with mover(pair.settings, pair.migrations, source=source, target=target) as moving:
        await moving.run([shard_of(organization)])


async def test_one_instance_is_a_database_as_before(database_url: str) -> None:
    async with open_places(shard_settings([database_url]), application="test", service="testing") as places:
        assert isinstance(places, Database)


async def test_postgresql_and_processes_agree_on_the_shard_of_an_organization(database_url: str) -> None:
    async with open_database(shard_settings([database_url]), application="test") as database:
        for name in ("org_1", "org_ä", ""):
            digest = func.get_byte(func.sha256(func.convert_to(name, "UTF8")), 0)
            async with database.read() as read:
                assert (await read.execute(select(digest % SHARDS_COUNT))).scalar_one() == shard_of(name)


async def test_an_empty_installation_is_spread_evenly(shards: Shards) -> None:
    await shards.look()
    assert {name: len(instance.standings) for name, instance in shards.instances.items()} == {MAIN: 32, OTHER: 32}


async def test_an_installation_with_data_begins_where_its_data_is(urls: list[str], tmp_path: Path) -> None:
    migrations = migrations_in(tmp_path)
    await prepared(shard_settings(urls[:1]), migrations)
    async with open_database(shard_settings(urls[:1]), application="test") as database:
        await database.change(insert(FOLDERS).values(organization_id="org_1", id="a", name="a"))
    await prepared(shard_settings(urls), migrations)
    async with opened_shards(shard_settings(urls)) as shards:
        assert await folders_of(shards, "org_1") == ["a"]
        assert {name: len(instance.standings) for name, instance in shards.instances.items()} == {MAIN: 64, OTHER: 0}


async def test_migrating_again_changes_nothing(pair: Pair, shards: Shards) -> None:
    await make_folder(shards, organization_on(OTHER), "a")
    await prepared(pair.settings, pair.migrations)
    await shards.look()
    assert {name: len(instance.standings) for name, instance in shards.instances.items()} == {MAIN: 32, OTHER: 32}


async def test_each_organization_is_written_and_read_where_its_shard_is(shards: Shards) -> None:
    here, there = organization_on(MAIN), organization_on(OTHER)
    for organization in (here, there):
        await make_folder(shards, organization, "a")
    assert await folders_in(shards.instances[MAIN].database, here) == ["a"]
    assert await folders_in(shards.instances[OTHER].database, there) == ["a"]
    assert await folders_in(shards.instances[MAIN].database, there) == []
    assert await folders_of(shards, there) == ["a"]


async def test_generated_numbers_of_two_instances_never_meet(shards: Shards) -> None:
    keys = []
    for organization in (organization_on(MAIN), organization_on(OTHER)):
        await make_folder(shards, organization, "a", notes=1)
        async with shards.of(organization).read() as read:
            keys.append((await read.execute(select(NOTES.c.key))).scalar_one())
    assert keys[0] == 1
    assert keys[1] > 1 << 48


async def test_the_database_refuses_a_writer_that_is_in_the_wrong_place(shards: Shards) -> None:
    there = organization_on(OTHER)
    with pytest.raises(ShardElsewhere):
        await shards.instances[MAIN].database.change(insert(FOLDERS).values(organization_id=there, id="a", name="a"))


async def test_what_goes_through_an_instance_sees_what_is_present(shards: Shards) -> None:
    for organization in (organization_on(MAIN), organization_on(OTHER)):
        await make_folder(shards, organization, "a")
    found = []
    for here in shards.each():
        async with here.write() as write:
            rows = await write.execute(select(FOLDERS.c.organization_id).where(here.present(FOLDERS.c.organization_id)))
            found.append(list(rows.scalars()))
    assert found == [[organization_on(MAIN)], [organization_on(OTHER)]]


async def test_parts_are_as_many_as_instances(shards: Shards) -> None:
    await shards.look()
    organizations = [organization_on(MAIN), organization_on(OTHER), organization_on(MAIN, number=1)]
    parts = shards.parts(organizations, lambda organization: organization)
    assert [items for _, items in parts] == [[organizations[0], organizations[2]], [organizations[1]]]


async def test_lanes_go_where_each_organization_is(shards: Shards) -> None:
    organizations = [organization_on(MAIN), organization_on(OTHER), organization_on(MAIN, number=1)]

    async def ask(_lane: object, items: object) -> object:
        return items

    told = await shards.lanes().ask(organizations, lambda organization: organization, ask)
    assert sorted((list(places), items) for places, items in told) == [
        ([0, 2], [organizations[0], organizations[2]]),
        ([1], [organizations[1]]),
    ]


async def test_items_that_cannot_go_now_leave_the_others_alone(pair: Pair, shards: Shards) -> None:
    moving, here, elsewhere = organization_on(MAIN, number=1), organization_on(MAIN), organization_on(OTHER)
    statement = f"UPDATE {schema_of(SERVICE)}.shards SET state = 'leaving' WHERE shard = {shard_of(moving)}"  # noqa: S608 - our own names
    async with open_database(pair.settings, application="test") as database, database.write() as write:
        await write.execute(text(statement))
    await shards.look()

    async def ask(_lane: object, items: Sequence[str]) -> list[str]:
        if elsewhere in items:
            raise Unavailable
        return [f"told {item}" for item in items]

    told = await shards.lanes().ask_each([moving, here, elsewhere, here], lambda organization: organization, ask)

    assert told[:2] == [None, f"told {here}"]
    assert isinstance(told[2], Unavailable)
    assert told[3] == f"told {here}"


async def test_items_whose_shard_has_left_unseen_are_left_to_who_waits(shards: Shards) -> None:
    here, elsewhere = organization_on(MAIN), organization_on(OTHER)
    await shards.look()

    async def ask(_lane: object, items: Sequence[str]) -> list[str]:
        if elsewhere in items:
            raise ShardElsewhere
        return list(items)

    assert await shards.lanes().ask_each([here, elsewhere], lambda organization: organization, ask) == [here, None]


async def test_a_shard_moves_with_all_its_rows_and_leaves_none(pair: Pair, shards: Shards) -> None:
    moved, stays = organization_on(MAIN), organization_on(MAIN, number=1)
    for organization in (moved, stays):
        await make_folder(shards, organization, "a", notes=20)
    await move(pair, moved)
    assert await folders_of(shards, moved) == ["a"]
    assert await folders_in(shards.instances[MAIN].database, moved) == []
    assert await folders_in(shards.instances[OTHER].database, moved) == ["a"]
    assert await folders_of(shards, stays) == ["a"]
    await make_folder(shards, moved, "b")
    assert await folders_of(shards, moved) == ["a", "b"]


async def test_a_shard_moves_back(pair: Pair, shards: Shards) -> None:
    organization = organization_on(MAIN)
    await make_folder(shards, organization, "a", notes=3)
    await move(pair, organization)
    await make_folder(shards, organization, "b")
    await move(pair, organization, source=OTHER, target=MAIN)
    assert await folders_of(shards, organization) == ["a", "b"]
    assert await folders_in(shards.instances[OTHER].database, organization) == []


async def test_a_shard_that_is_not_here_cannot_be_moved_from_here(pair: Pair) -> None:
    with pytest.raises(MoveError, match="does not have"):
        await move(pair, organization_on(OTHER))


async def test_a_second_move_has_to_wait(pair: Pair) -> None:
    async with mover(pair.settings, pair.migrations) as first, mover(pair.settings, pair.migrations) as second:
        await first.run([])
        with pytest.raises(MoveError, match="under way"):
            await second.run([])


async def test_a_writer_that_waits_too_long_for_its_shard_is_told(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.mesh.postgres.shards.instances.WAIT_S_MAX", 0.2)
    number = shard_of(organization_on(MAIN))
    freeze = text("UPDATE testing_shards.shards SET state = 'leaving' WHERE shard = :number")
    await shards.instances[MAIN].database.change(freeze, {"number": number})
    with pytest.raises(Unavailable, match="on the move"):
        await make_folder(shards, organization_on(MAIN), "a")


async def test_reads_go_on_while_writes_wait(shards: Shards) -> None:
    organization = organization_on(MAIN)
    await make_folder(shards, organization, "a")
    state = text("UPDATE testing_shards.shards SET state = :state WHERE shard = :number")
    database, number = shards.instances[MAIN].database, shard_of(organization)
    await database.change(state, {"number": number, "state": "leaving"})
    waiting = asyncio.ensure_future(make_folder(shards, organization, "b"))
    await shards.look()
    assert await folders_of(shards, organization) == ["a"]
    assert not waiting.done()
    await database.change(state, {"number": number, "state": "open"})
    await waiting
    assert await folders_of(shards, organization) == ["a", "b"]


async def write_until(shards: Shards, organization: str, stopped: asyncio.Event) -> list[str]:
    """Makes, renames, swaps and deletes folders and notes; returns the names that have to be there at the end."""
    kept = []
    number = 0
    while not stopped.is_set():
        number += 1
        old, new = f"f{number:05}", f"g{number:05}"
        await make_folder(shards, organization, old, notes=2)
        part = shards.of(organization)
        mine = FOLDERS.c.organization_id == organization
        # The name passes from one row to the next, which no order of upserts alone survives.
        await part.change(update(FOLDERS).where(mine, FOLDERS.c.id == old).values(name=new))
        await part.change(insert(FOLDERS).values(organization_id=organization, id=new, name=old))
        if number % 3 == 0:
            await part.change(delete(FOLDERS).where(mine, FOLDERS.c.id == old))
            kept.append(new)
        else:
            kept += [old, new]
    return sorted(kept)


async def test_nothing_is_lost_when_a_shard_moves_under_load(pair: Pair, shards: Shards) -> None:
    organization, stopped = organization_on(MAIN), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write_until(shards, organization, stopped))
        await move(pair, organization)
        await make_folder(shards, organization, "last")
        stopped.set()
    assert await folders_of(shards, organization) == [*writing.result(), "last"]
    assert await folders_in(shards.instances[MAIN].database, organization) == []


async def test_rows_that_differ_keep_the_shard_where_it_is(pair: Pair, shards: Shards) -> None:
    organization = organization_on(MAIN)
    await make_folder(shards, organization, "a", notes=2)
    spoil = text(
        "CREATE FUNCTION testing.spoil() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.content := 'spoilt ' || NEW.content; RETURN NEW; END $$"
    )
    trigger = text("CREATE TRIGGER spoil BEFORE INSERT ON testing.notes FOR EACH ROW EXECUTE FUNCTION testing.spoil()")
    for statement in (spoil, trigger):
        await shards.instances[OTHER].database.change(statement)
    with pytest.raises(CopyError, match=r"testing\.notes differs"):
        await move(pair, organization)
    await make_folder(shards, organization, "b")
    assert await folders_in(shards.instances[MAIN].database, organization) == ["a", "b"]


async def die(pair: Pair, organization: str, at: str) -> None:
    async with mover(pair.settings, pair.migrations, dies_at=at) as moving:
        with pytest.raises(InterruptedError):
            await moving.run([shard_of(organization)])


@pytest.mark.parametrize(
    "at", ["copied", "same on both sides", "writes wait", "brought after", "handed over", "writes go", "deleted"]
)
async def test_a_move_that_died_is_finished_by_the_same_command(pair: Pair, shards: Shards, at: str) -> None:
    organization = organization_on(MAIN)
    await make_folder(shards, organization, "a", notes=5)
    await die(pair, organization, at)
    if at == "deleted":  # all was done
        with pytest.raises(MoveError):
            await move(pair, organization)
    else:
        await move(pair, organization)
    await make_folder(shards, organization, "b")
    assert await folders_in(shards.instances[OTHER].database, organization) == ["a", "b"]
    assert await folders_in(shards.instances[MAIN].database, organization) == []


async def test_a_cancelled_move_leaves_nothing_behind(pair: Pair, shards: Shards) -> None:
    organization = organization_on(MAIN)
    await make_folder(shards, organization, "a", notes=2)
    await die(pair, organization, "same on both sides")
    async with mover(pair.settings, pair.migrations) as moving:
        await moving.cancel([shard_of(organization)])
    assert await folders_of(shards, organization) == ["a"]
    assert await folders_in(shards.instances[OTHER].database, organization) == []
    await move(pair, organization)
    assert await folders_in(shards.instances[OTHER].database, organization) == ["a"]

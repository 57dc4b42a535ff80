"""Where stored answers lie: in one process, and in a real Valkey."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from services.inference.cache.archive import Archive, Place
from services.inference.cache.entries import EPOCHS_MAX, NEIGHBOURS_MAX, Entries
from services.inference.cache.entries_memory import MemoryEntries
from services.inference.cache.entries_valkey import ValkeyEntries
from services.inference.model import Answer, ContextReport, FinishReason, Usage
from services.mesh.clock import SYSTEM_CLOCK, ManualClock
from services.mesh.errors import MeshError
from services.mesh.settings import ValkeySettings
from services.mesh.valkey import open_valkey
from tests.support.valkey import url_of

LONG_S = 600.0
A, B = "org_a", "org_b"


@pytest.fixture(params=["memory", "valkey", "cluster"])
async def entries(request: pytest.FixtureRequest) -> AsyncIterator[Entries]:
    if request.param == "memory":
        yield MemoryEntries(ManualClock())
        return
    async with in_valkey(url_of(request)) as found:
        yield found


@asynccontextmanager
async def in_valkey(url: str) -> AsyncIterator[ValkeyEntries]:
    settings = ValkeySettings(valkey_url=SecretStr(url), valkey_timeout_s=60)
    async with open_valkey(settings, application="test") as client:
        yield ValkeyEntries(client)


async def test_what_was_put_is_there_for_its_organization_only(entries: Entries) -> None:
    await entries.put(A, "one", b"\x00first", keep_s=LONG_S)
    await entries.put(A, "one", b"\xffsecond", keep_s=LONG_S)

    assert (await entries.get(A, "one")).entry == b"\xffsecond"
    assert (await entries.get(A, "two")).entry is None
    assert (await entries.get(B, "one")).entry is None


async def test_organization_has_an_epoch_that_stays(entries: Entries) -> None:
    first, again, other = [(await entries.get(name, "one")).epochs for name in (A, A, B)]

    assert first == again
    assert list(first) == [""]
    assert first[""]
    assert other[""] != first[""]


async def test_making_all_void_draws_every_epoch_anew(entries: Entries) -> None:
    before, other = (await entries.get(A, "one")).epochs, (await entries.get(B, "one")).epochs
    await entries.void(A, "smart")
    await entries.void(A, "")
    await entries.void(A, "")
    after = (await entries.get(A, "one")).epochs

    assert after[""] != before[""]
    assert list(after) == [""]
    assert (await entries.get(B, "one")).epochs == other


async def test_making_a_name_void_leaves_the_others(entries: Entries) -> None:
    before = (await entries.get(A, "one")).epochs
    await entries.void(A, "smart")
    first = (await entries.get(A, "one")).epochs
    await entries.void(A, "smart")
    second = (await entries.get(A, "one")).epochs

    assert first[""] == second[""] == before[""]
    assert first["smart"] != second["smart"]


async def test_names_made_void_are_bounded(entries: Entries) -> None:
    before = (await entries.get(A, "one")).epochs
    for number in range(EPOCHS_MAX - 1):
        await entries.void(A, f"model-{number}")
    full = (await entries.get(A, "one")).epochs
    await entries.void(A, "one more")
    after = (await entries.get(A, "one")).epochs

    assert len(full) == EPOCHS_MAX
    assert full[""] == before[""]
    assert list(after) == [""]
    assert after[""] != before[""]


async def test_neighbours_are_bounded_newest_first_and_their_organizations(entries: Entries) -> None:
    for number in range(NEIGHBOURS_MAX + 1):
        await entries.add_neighbour(A, "scope", f"{number}".encode(), keep_s=LONG_S)

    found = await entries.neighbours(A, "scope")
    assert found[:2] == [f"{NEIGHBOURS_MAX}".encode(), f"{NEIGHBOURS_MAX - 1}".encode()]
    assert len(found) == NEIGHBOURS_MAX
    assert await entries.neighbours(B, "scope") == []
    assert await entries.neighbours(A, "other") == []


def answer(text: str = "Blue.", model: str = "a/m") -> Answer:
    return Answer(
        text=text,
        citations=(),
        finish_reason=FinishReason.STOP,
        model=model,
        usage=Usage(input_tokens=1, output_tokens=1),
        context=ContextReport(),
    )


@pytest.mark.parametrize("name", ["", "smart", "a/m"], ids=("all", "asked", "answered"))
async def test_answer_that_was_being_written_is_void_as_well(entries: Entries, name: str) -> None:
    archive, place = Archive(entries, SYSTEM_CLOCK, timeout_s=60.0), Place(A, "smart", "one")
    before = await archive.look(place)
    assert before.epochs is not None

    await archive.void(A, name)
    await archive.keep(place, answer(), before.epochs, keep_s=LONG_S)
    assert (await archive.look(place)).entry is None

    after = await archive.look(place)
    assert after.epochs is not None
    await archive.keep(place, answer("Red."), after.epochs, keep_s=LONG_S)
    found = (await archive.look(place)).entry
    assert found is not None
    assert found.text == "Red."


async def test_making_another_name_void_keeps_the_answer(entries: Entries) -> None:
    archive, place = Archive(entries, SYSTEM_CLOCK, timeout_s=60.0), Place(A, "smart", "one")
    known = await archive.look(place)
    assert known.epochs is not None
    await archive.keep(place, answer(), known.epochs, keep_s=LONG_S)
    await archive.void(A, "other")
    await archive.void(B, "")

    assert (await archive.look(place)).entry is not None


async def test_what_another_version_wrote_is_not_there(entries: Entries) -> None:
    archive, place = Archive(entries, SYSTEM_CLOCK, timeout_s=60.0), Place(A, "smart", "one")
    await entries.put(A, "one", b'{"text": "Blue."}', keep_s=LONG_S)
    await entries.add_neighbour(A, "scope", b"[]", keep_s=LONG_S)

    assert (await archive.look(place)).entry is None
    assert await archive.neighbours(A, "scope") == []


@pytest.mark.parametrize(("room", "is_kept"), [(1, True), (0, True), (-1, False)])
async def test_answer_beyond_the_bound_is_not_stored(*, room: int, is_kept: bool) -> None:
    clock, place = ManualClock(), Place(A, "smart", "one")
    entries = MemoryEntries(clock)
    await Archive(entries, clock).keep(place, answer(), {"": "e"}, keep_s=LONG_S)
    written = (await entries.get(A, "one")).entry
    assert written is not None

    archive = Archive(MemoryEntries(clock), clock, entry_bytes_max=len(written) + room)
    assert await archive.keep(place, answer(), {"": "e"}, keep_s=LONG_S) == is_kept


async def test_valkey_that_is_away_costs_hits_and_no_errors() -> None:
    clock = ManualClock()
    async with in_valkey("redis://127.0.0.1:9") as away:
        calls: list[Awaitable[object]] = [
            away.get(A, "one"),
            away.put(A, "one", b"", keep_s=1.0),
            away.neighbours(A, "scope"),
            away.add_neighbour(A, "scope", b"", keep_s=1.0),
            away.void(A, ""),
        ]
        for call in calls:
            with pytest.raises(MeshError):
                await call
        archive, place = Archive(away, clock), Place(A, "smart", "one")

        assert (await archive.look(place)).epochs is None
        clock.advance(60)
        assert not await archive.keep(place, answer(), {"": "e"}, keep_s=LONG_S)
        clock.advance(60)
        assert await archive.neighbours(A, "scope") == []
        with pytest.raises(MeshError):
            await archive.void(A, "")

import asyncio
import stat
from pathlib import Path

import pytest

from services.auth.bootstrap import Bootstrap, Outcome
from services.auth.credentials_file import CredentialsFile, FirstCredentials
from services.auth.exchange import ApiKeySecret
from services.auth.model import SessionKind
from services.auth.scopes import ALL_SCOPES
from services.auth.store_memory import MemoryStore
from services.mesh.errors import CredentialsInvalid
from tests.support.auth import World

EMAIL = "owner@parley.local"


class CrashError(Exception):
    """The process dies here."""


class CrashingFile(CredentialsFile):
    """Dies when it is to put the file into its place: the database has committed by then."""

    def publish(self) -> None:
        raise CrashError


class CrashingStore(MemoryStore):
    """Dies before anything is committed."""

    async def create_organization(self, *_: object) -> None:
        raise CrashError

    async def reset_account(self, *_: object) -> bool:
        raise CrashError


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "bootstrap.env"


@pytest.fixture
def file(output: Path) -> CredentialsFile:
    output.parent.mkdir()
    return CredentialsFile(output)


def text_of(path: Path) -> str:
    return path.read_text()


def spoil(path: Path, content: str) -> None:
    path.write_text(content)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def lose(path: Path) -> None:
    path.unlink()


def bootstrap_of(auth: World, store: MemoryStore | None = None) -> Bootstrap:
    return Bootstrap(store=store or auth.app.store, passwords=auth.app.passwords, clock=auth.clock)


async def run(auth: World, file: CredentialsFile, *, reset: bool = False) -> Outcome:
    return await bootstrap_of(auth).run(file, email=EMAIL, reset=reset)


def read(file: CredentialsFile) -> FirstCredentials:
    present = file.read()
    assert present is not None
    return present


async def assert_good(auth: World, present: FirstCredentials) -> None:
    grant = await auth.grant(ApiKeySecret(present.api_key))
    assert grant.scopes == ALL_SCOPES
    logged_in = await auth.app.sessions.login(present.email, present.password, SessionKind.COOKIE)
    assert logged_in.user.id == grant.user_id


async def test_first_start_makes_an_owner_whose_credentials_work(auth: World, file: CredentialsFile) -> None:
    assert await run(auth, file) is Outcome.CREATED
    assert read(file).email == EMAIL
    await assert_good(auth, read(file))


async def test_file_is_private_shell_and_alone(auth: World, file: CredentialsFile, output: Path) -> None:
    await run(auth, file)
    assert mode_of(output) == 0o600
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    names = [line.partition("=")[0] for line in text_of(output).splitlines()]
    assert names == ["PARLEY_EMAIL", "PARLEY_PASSWORD", "PARLEY_API_KEY"]


async def test_every_installation_has_credentials_of_its_own(auth: World, tmp_path: Path) -> None:
    seen = set()
    for number in range(5):
        file = CredentialsFile(tmp_path / str(number))
        await Bootstrap(store=MemoryStore(), passwords=auth.app.passwords, clock=auth.clock).run(
            file, email=EMAIL, reset=False
        )
        seen |= {read(file).password, read(file).api_key}
    assert len(seen) == 10


async def test_second_start_changes_nothing(auth: World, file: CredentialsFile, output: Path) -> None:
    await run(auth, file)
    before = text_of(output)
    assert await run(auth, file) is Outcome.UNCHANGED
    assert text_of(output) == before


async def test_ten_starts_at_once_make_one_owner(auth: World, file: CredentialsFile) -> None:
    outcomes = await asyncio.gather(*(run(auth, file) for _ in range(10)))
    assert sorted(outcome.name for outcome in outcomes) == ["CREATED"] + ["UNCHANGED"] * 9
    await assert_good(auth, read(file))


async def test_crash_before_the_commit_leaves_a_start_that_begins_again(
    auth: World, file: CredentialsFile, output: Path
) -> None:
    with pytest.raises(CrashError):
        await bootstrap_of(auth, CrashingStore()).run(file, email=EMAIL, reset=False)
    assert file.read() is None
    assert await run(auth, file) is Outcome.CREATED
    await assert_good(auth, read(file))
    assert [path.name for path in output.parent.iterdir()] == [output.name]


async def test_crash_after_the_commit_loses_nothing(auth: World, file: CredentialsFile, output: Path) -> None:
    with pytest.raises(CrashError):
        await run(auth, CrashingFile(output))
    assert file.read() is None
    assert await run(auth, file) is Outcome.FINISHED
    await assert_good(auth, read(file))
    assert await run(auth, file) is Outcome.UNCHANGED


async def test_lost_file_is_told_and_nothing_is_changed(auth: World, file: CredentialsFile, output: Path) -> None:
    await run(auth, file)
    before = read(file)
    lose(output)
    assert await run(auth, file) is Outcome.LOST
    assert file.read() is None
    await assert_good(auth, before)


async def test_reset_gives_new_credentials_and_ends_the_old_ones(
    auth: World, file: CredentialsFile, output: Path
) -> None:
    await run(auth, file)
    before = read(file)
    lose(output)
    assert await run(auth, file, reset=True) is Outcome.RESET
    await assert_good(auth, read(file))
    with pytest.raises(CredentialsInvalid):
        await auth.grant(ApiKeySecret(before.api_key))
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.login(before.email, before.password, SessionKind.COOKIE)


async def test_crash_after_the_commit_of_a_reset_loses_nothing(
    auth: World, file: CredentialsFile, output: Path
) -> None:
    await run(auth, file)
    with pytest.raises(CrashError):
        await run(auth, CrashingFile(output), reset=True)
    assert await run(auth, file) is Outcome.FINISHED
    await assert_good(auth, read(file))


async def test_file_of_another_installation_is_set_apart_and_not_overwritten(
    auth: World, file: CredentialsFile, output: Path
) -> None:
    other = Bootstrap(store=MemoryStore(), passwords=auth.app.passwords, clock=auth.clock)
    await other.run(file, email=EMAIL, reset=False)
    before = text_of(output)
    lost = CredentialsFile(output.with_name("lost"))
    await run(auth, lost)
    assert await run(auth, file) is Outcome.LOST
    assert file.read() is None
    assert text_of(output.with_name("bootstrap.env.other")) == before


@pytest.mark.parametrize("content", ["", "PARLEY_EMAIL=x\n", "# nothing\n"])
async def test_file_without_credentials_counts_as_lost(
    auth: World, file: CredentialsFile, output: Path, content: str
) -> None:
    await run(auth, file)
    spoil(output, content)
    assert await run(auth, file) is Outcome.LOST


def test_repr_of_the_credentials_tells_nothing() -> None:
    assert "canary" not in repr(FirstCredentials("canary", "canary", "canary"))

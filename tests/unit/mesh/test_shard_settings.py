"""Shards as settings and commands know them: numbers and names."""

import argparse
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import MetaData

from services.mesh.errors import InvalidArgument, Reason
from services.mesh.postgres.errors import ShardElsewhere
from services.mesh.postgres.migrate import Migrations
from services.mesh.postgres.shards.cli import run_shards, shard_numbers
from services.mesh.postgres.shards.numbers import MAIN, SHARDS_COUNT, check_names, first_key, shard_of
from services.mesh.postgres.shards.settings import ShardSettings

URL = "postgresql://parley:password@127.0.0.1:1/parley"
MOST = 15


def settings(*names: str) -> ShardSettings:
    return ShardSettings(database_url=SecretStr(URL), database_shards={name: SecretStr(URL) for name in names})


def test_an_organization_keeps_its_shard_for_ever() -> None:
    assert [shard_of(name) for name in ("org_a", "org_b", "org_c", "org_d")] == [39, 33, 41, 30]


def test_organizations_spread_over_all_shards() -> None:
    assert {shard_of(f"org_{number}") for number in range(2_000)} == set(range(SHARDS_COUNT))


@pytest.mark.parametrize(("text", "numbers"), [("17", [17]), ("3,0,8-10", [0, 3, 8, 9, 10]), ("0-63", [*range(64)])])
def test_shards_are_named_one_by_one_and_as_ranges(text: str, numbers: list[int]) -> None:
    assert shard_numbers(text) == numbers


@pytest.mark.parametrize("text", ["64", "-1", "0-64", "3-1", "", "b"])
def test_what_names_no_shard_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="shards are 0 to 63"):
        shard_numbers(text)


def test_the_instance_of_the_database_url_comes_first() -> None:
    assert list(settings("c", "b").instances()) == [MAIN, "c", "b"]


@pytest.mark.parametrize("name", [MAIN, "B", "2nd", "with space", ""])
def test_names_that_instances_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        settings(name)


def test_there_may_be_fifteen_further_instances_and_no_more() -> None:
    names = [f"shard-{number}" for number in range(MOST + 1)]
    assert len(settings(*names[:MOST]).instances()) == 1 + MOST
    with pytest.raises(ValidationError):
        settings(*names)


def test_instances_whose_numbers_would_meet_are_refused() -> None:
    met: dict[int, str] = {}
    first, second = next(
        (met[first_key(name)], name)
        for name in (f"a{number}" for number in range(100_000))
        if met.setdefault(first_key(name), name) != name
    )
    with pytest.raises(ValueError, match="choose another name"):
        check_names([MAIN, first, second])


async def test_a_single_instance_has_no_shards_to_show(tmp_path: Path) -> None:
    migrations = Migrations("testing", MetaData(), tmp_path)
    with pytest.raises(InvalidArgument, match="names no further instance"):
        await run_shards(settings(), migrations, action="show", numbers=(), to="")


def test_a_caller_whose_shard_is_elsewhere_is_told_to_come_again() -> None:
    assert ShardElsewhere("on the move").reason is Reason.UNAVAILABLE

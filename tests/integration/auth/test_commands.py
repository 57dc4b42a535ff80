"""`python -m services.auth`, as the dev stack and an operator run it."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from services.mesh.postgres.database import open_database
from services.mesh.settings import DatabaseSettings
from tests.support.auth import ENCRYPTION_SECRET

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 60


def run(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return subprocess.run(
        [sys.executable, "-m", "services.auth", *arguments],
        cwd=ROOT,
        env={**inherited, "PARLEY_DATABASE_URL": url, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture
def url(migrated_database_url: Callable[..., str]) -> str:
    return migrated_database_url("auth")


async def count(url: str, table: str) -> int:
    settings = DatabaseSettings.model_validate({"PARLEY_DATABASE_URL": SecretStr(url)})
    async with open_database(settings, application="test") as database, database.write() as write:
        number: int = (await write.execute(text(f"SELECT count(*) FROM auth.{table}"))).scalar_one()  # noqa: S608 - names of this file
        return number


async def test_ten_bootstraps_at_once_make_one_owner_and_one_key(url: str, tmp_path: Path) -> None:
    output = tmp_path / "bootstrap.env"
    with ThreadPoolExecutor(10) as pool:
        done = list(pool.map(lambda _: run(url, "bootstrap", "--output", str(output)), range(10)))
    assert [process.returncode for process in done] == [0] * 10, done[0].stderr
    assert sum("were created" in process.stdout for process in done) == 1
    assert [await count(url, table) for table in ("organizations", "users", "api_keys")] == [1, 1, 1]


def test_bootstrap_prints_no_secret_and_says_when_the_file_is_lost(url: str, tmp_path: Path) -> None:
    output = tmp_path / "bootstrap.env"
    first = run(url, "bootstrap", "--output", str(output), "--email", "Ada@Example.com")
    values = dict(line.split("=", 1) for line in output.read_text().splitlines())
    assert values["PARLEY_EMAIL"] == "ada@example.com"
    for secret in (values["PARLEY_PASSWORD"], values["PARLEY_API_KEY"]):
        assert secret not in first.stdout + first.stderr
    output.unlink()
    lost = run(url, "bootstrap", "--output", str(output))
    assert lost.returncode == 0
    assert "--reset" in lost.stdout
    assert not output.exists()
    assert "new password" in run(url, "bootstrap", "--output", str(output), "--reset").stdout


def test_place_that_cannot_be_written_is_told_and_nothing_is_created(url: str, tmp_path: Path) -> None:
    nowhere = run(url, "bootstrap", "--output", str(tmp_path / "no folder" / "bootstrap.env"))
    assert nowhere.returncode == 2
    assert "--output" in nowhere.stderr
    assert "were created" in run(url, "bootstrap", "--output", str(tmp_path / "bootstrap.env")).stdout


@pytest.mark.parametrize(
    "arguments", [["bootstrap"], ["bootstrap", "--output", "x", "--email", "nobody"], ["nothing"], []]
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert run("postgresql://nobody@127.0.0.1:1/none", *arguments).returncode == 2


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({}, "PARLEY_AUTH_KEY_ENCRYPTION_SECRET"),
        ({"PARLEY_AUTH_KEY_ENCRYPTION_SECRET": "x" * 31}, "PARLEY_AUTH_KEY_ENCRYPTION_SECRET"),
        ({"PARLEY_AUTH_WORKLOADS": '{"edge": "x"}'}, "PARLEY_AUTH_WORKLOADS"),
        ({"PARLEY_AUTH_REGISTRATION": "perhaps"}, "PARLEY_AUTH_REGISTRATION"),
        ({"PARLEY_AUTH_PASSWORD_MEMORY_KIB": "1024"}, "PARLEY_AUTH_PASSWORD_MEMORY_KIB"),
        ({"PARLEY_AUTH_SIGNING_KEY_PERIOD_S": "3600"}, "signing_key_period_s"),
    ],
)
def test_settings_that_do_not_fit_are_named_before_anything_starts(environment: dict[str, str], variable: str) -> None:
    good = {"PARLEY_VALKEY_URL": "redis://127.0.0.1:1/0", "PARLEY_AUTH_KEY_ENCRYPTION_SECRET": ENCRYPTION_SECRET}
    if not environment:
        del good["PARLEY_AUTH_KEY_ENCRYPTION_SECRET"]
    done = run("postgresql://nobody@127.0.0.1:1/none", "serve", **{**good, **environment})
    assert done.returncode == 2
    assert variable in done.stderr


def test_effective_settings_are_shown_without_secrets() -> None:
    done = run(
        "postgresql://nobody:canary@127.0.0.1:1/none",
        "config",
        PARLEY_VALKEY_URL="redis://127.0.0.1:1/0",
        PARLEY_AUTH_KEY_ENCRYPTION_SECRET=ENCRYPTION_SECRET,
    )
    assert done.returncode == 0
    assert "PARLEY_AUTH_REGISTRATION=closed" in done.stdout
    assert ENCRYPTION_SECRET not in done.stdout
    assert "canary" not in done.stdout

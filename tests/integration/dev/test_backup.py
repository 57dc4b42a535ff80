"""`python -m dev archive | backup | restore`, where they end before anything is copied; the whole is end to end."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dev.home import ROOT

THEN = "20261123T050000.000000Z"


def refusal(folder: Path, *arguments: str) -> str:
    """What the command says as it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    line = [sys.executable, "-m", "dev", *arguments]
    environment = kept | {"PARLEY_DEV_DIR": str(folder)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("command", ["archive", "backup"])
def test_a_folder_without_a_running_stack_has_no_database(tmp_path: Path, command: str) -> None:
    assert f"no stack with a PostgreSQL of its own runs in {tmp_path}" in refusal(tmp_path, command)


@pytest.mark.parametrize("to", ["yesterday", "2026-11-23", "2026-11-23T05:00:00"])
def test_an_instant_has_an_offset(tmp_path: Path, to: str) -> None:
    assert f"{to!r} is no instant" in refusal(tmp_path, "restore", "--to", to, "--into", str(tmp_path / "new"))


def test_the_future_cannot_be_restored(tmp_path: Path) -> None:
    to = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert "is in the future" in refusal(tmp_path, "restore", "--to", to, "--into", str(tmp_path / "new"))


def test_without_a_backup_there_is_nothing_to_restore(tmp_path: Path) -> None:
    assert "run `make backup`" in refusal(tmp_path, "restore", "--into", str(tmp_path / "new"))


def test_the_oldest_backup_is_the_oldest_instant(tmp_path: Path) -> None:
    (tmp_path / "archive" / "base" / THEN).mkdir(parents=True)
    said = refusal(tmp_path, "restore", "--to", "2026-11-23T04:59:59Z", "--into", str(tmp_path / "new"))
    assert f"the oldest is {THEN}" in said


def test_a_damaged_backup_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "archive" / "base" / THEN).mkdir(parents=True)
    new = tmp_path / "new"
    assert "pg_verifybackup failed" in refusal(
        tmp_path, "restore", "--to", "2026-11-23T06:00:00+01:00", "--into", str(new)
    )
    assert not new.exists()


def test_a_folder_that_exists_is_not_restored_into(tmp_path: Path) -> None:
    (tmp_path / "archive" / "base" / THEN).mkdir(parents=True)
    assert f"{tmp_path} exists" in refusal(tmp_path, "restore", "--into", str(tmp_path))

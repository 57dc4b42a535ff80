import shutil
import subprocess
from pathlib import Path

import pytest

from dev.tools import contracts


def git(repository: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(repository), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(repository: Path, message: str) -> str:
    git(repository, "commit", "--allow-empty", "-q", "-m", message)
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def test_before_and_at_the_first_commit_there_is_nothing_to_compare_with(repository: Path) -> None:
    assert contracts.find_base(repository, None) is None
    commit(repository, "first")
    assert contracts.find_base(repository, None) is None


def test_on_main_the_base_is_the_commit_before(repository: Path) -> None:
    first = commit(repository, "first")
    commit(repository, "second")
    assert contracts.find_base(repository, None) == first


def test_on_a_branch_the_base_is_where_it_left_main(repository: Path) -> None:
    left_at = commit(repository, "first")
    git(repository, "checkout", "-q", "-b", "work")
    commit(repository, "work 1")
    commit(repository, "work 2")
    git(repository, "checkout", "-q", "main")
    commit(repository, "main goes on")
    git(repository, "checkout", "-q", "work")
    assert contracts.find_base(repository, None) == left_at


def test_a_named_base_wins_and_a_wrong_name_is_none(repository: Path) -> None:
    first = commit(repository, "first")
    commit(repository, "second")
    commit(repository, "third")
    assert contracts.find_base(repository, "HEAD~2") == first
    assert contracts.find_base(repository, "no-such-branch") is None


def test_a_commit_without_contracts_exports_nothing(repository: Path, tmp_path: Path) -> None:
    assert not contracts.export_contracts(repository, commit(repository, "first"), tmp_path / "baseline")


def test_contracts_of_a_commit_are_exported_with_what_they_import(repository: Path, tmp_path: Path) -> None:
    (repository / "proto").mkdir()
    (repository / "proto" / "a.proto").write_text('import "google/api/http.proto";\n', encoding="utf-8")
    shutil.copyfile(contracts.ROOT / "buf.yaml", repository / "buf.yaml")
    git(repository, "add", ".")
    first = commit(repository, "first")
    (repository / "proto" / "a.proto").unlink()
    target = tmp_path / "baseline"
    assert contracts.export_contracts(repository, first, target)
    assert (target / "proto" / "a.proto").is_file()
    assert (target / ".build" / "googleapis" / "google" / "api" / "http.proto").is_file()
    assert (target / "buf.yaml").is_file()

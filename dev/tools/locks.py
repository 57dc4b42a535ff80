"""Compile the hashed lock files in ``requirements/`` from pyproject.toml, or tell whether they are current."""

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from dev.tools import environment

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
_MARK = "# inputs: "


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock file: which groups and extras of pyproject.toml it pins, and what it is held to."""

    name: str
    groups: tuple[str, ...]
    extras: tuple[str, ...] = ()
    with_project: bool = True
    excludes: str | None = None
    constraints: str | None = None

    @property
    def path(self) -> Path:
        """Where the lock lies."""
        return REQUIREMENTS / f"{self.name}.lock"


_TORCH = ("sentence-transformers",)
# Order matters: the others take their versions from `dev`, so that what is tested is what runs.
LOCKS = (
    Lock("bootstrap", groups=("bootstrap",), with_project=False),
    Lock("dev", groups=("build", "stack", "dev"), extras=_TORCH),
    Lock("run", groups=("build", "stack"), excludes="run.excludes", constraints="dev.lock"),
    Lock("image", groups=(), excludes="run.excludes", constraints="dev.lock"),
    Lock("image-sentence-transformers", groups=(), extras=_TORCH, constraints="dev.lock"),
    Lock("release", groups=("release",), with_project=False),
)


def inputs_digest(lock: Lock, pyproject: dict[str, object]) -> str:
    """Digest the part of pyproject.toml, and the exclusions, that the lock is made from."""
    project = pyproject["project"]
    groups = pyproject["dependency-groups"]
    assert isinstance(project, dict)
    assert isinstance(groups, dict)
    inputs = {
        "python": project["requires-python"],
        "dependencies": project["dependencies"] if lock.with_project else [],
        "extras": [project["optional-dependencies"][name] for name in lock.extras],
        "groups": [groups[name] for name in lock.groups],
        "excludes": (REQUIREMENTS / lock.excludes).read_text(encoding="utf-8") if lock.excludes else "",
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def recorded_digest(lock: Lock) -> str | None:
    """Read the digest that the lock was made from; None when there is no lock or no mark in it."""
    if not lock.path.is_file():
        return None
    first = lock.path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix(_MARK) if first.startswith(_MARK) else None


def compile_lock(lock: Lock, digest: str, *, upgrade: bool) -> None:
    """Resolve ``lock`` for every platform and Python from 3.11 on, with hashes and without any index address."""
    command = [
        *(str(environment.UV_HOME / "bin" / "uv"), "pip", "compile", "--quiet"),
        *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--no-header"),
        # Several lines per package would triple the file; who wants what is in `uv pip tree`.
        *("--annotation-style", "line"),
        *(option for name in lock.groups for option in ("--group", f"pyproject.toml:{name}")),
        *(option for name in lock.extras for option in ("--extra", name)),
        *(("--excludes", f"requirements/{lock.excludes}") if lock.excludes else ()),
        *(("--constraints", f"requirements/{lock.constraints}") if lock.constraints else ()),
        *(("--upgrade",) if upgrade else ()),
        *("--output-file", f"requirements/{lock.name}.lock"),
        *(("pyproject.toml",) if lock.with_project else ()),
    ]
    subprocess.run(command, check=True, cwd=ROOT, env=environment.uv_environment(), stdout=subprocess.DEVNULL)
    pinned = lock.path.read_text(encoding="utf-8")
    lock.path.write_text(f"{_MARK}{digest}\n# Made by `make lock`.\n{pinned}", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Compile the locks, or with ``--check`` compare their inputs."""
    parser = argparse.ArgumentParser(prog="python -m dev.tools.locks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if pyproject.toml changed since the locks were made")
    parser.add_argument("--upgrade", action="store_true", help="take newer versions where the bounds allow them")
    chosen = parser.parse_args(arguments)
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    stale = [lock for lock in LOCKS if recorded_digest(lock) != inputs_digest(lock, pyproject)]
    if chosen.check:
        for lock in stale:
            print(
                f"requirements/{lock.name}.lock is not made from this pyproject.toml: run `make lock`", file=sys.stderr
            )
        return 1 if stale else 0
    with environment.alone("lock"):
        environment.ensure_uv()
        for lock in LOCKS:
            print(f"lock: requirements/{lock.name}.lock", flush=True)
            compile_lock(lock, inputs_digest(lock, pyproject), upgrade=chosen.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

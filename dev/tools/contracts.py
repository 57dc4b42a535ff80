"""Hold the contracts to buf: lint, format, and no change that breaks clients made from the previous state of main."""

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from dev.tools import protos

ROOT = Path(__file__).parents[2]
BUF = ROOT / "node_modules" / ".bin" / "buf"
BASELINE = ROOT / ".build" / "baseline"
BASE_VARIABLE = "PARLEY_CONTRACTS_BASE"


def find_base(repository: Path, named: str | None) -> str | None:
    """Find the commit that today's contracts must stay compatible with.

    It is the one that ``named`` says; else where this work left main; else, on main itself, the commit before.

    Returns:
        A commit, or None where there is none: the first commit of a repository, or a clone of depth one.
    """
    if named:
        return _git(repository, "rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
    head = _git(repository, "rev-parse", "--verify", "--quiet", "HEAD")
    if head is None:
        return None
    for main in ("refs/remotes/origin/main", "refs/heads/main"):
        left_at = _git(repository, "merge-base", "HEAD", main)
        if left_at not in (None, head):
            return left_at
    return _git(repository, "rev-parse", "--verify", "--quiet", "HEAD^")


def export_contracts(repository: Path, commit: str, target: Path) -> bool:
    """Write ``proto/`` as of ``commit``, under today's buf.yaml, to ``target``; False if it has no contracts."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", str(repository), "archive", "--format=zip", commit, "proto"], capture_output=True, check=False
    )
    if archive.returncode != 0:
        return False
    with zipfile.ZipFile(BytesIO(archive.stdout)) as files:
        files.extractall(target)
    shutil.copyfile(repository / "buf.yaml", target / "buf.yaml")
    protos.stage_googleapis(target / "proto", target / ".build" / "googleapis")
    return True


def check_breaking() -> int:
    """Compare the working tree with its base, or say plainly that there is nothing to compare it with."""
    named = os.environ.get(BASE_VARIABLE)
    base = find_base(ROOT, named)
    if base is None and named:
        print(f"{BASE_VARIABLE}={named!r} names no commit of this clone", file=sys.stderr)
        return 1
    if base is None:
        print("buf breaking: nothing to compare with, this commit has no parent here")
        return 0
    if not export_contracts(ROOT, base, BASELINE):
        print(f"buf breaking: nothing to compare with, {base[:12]} has no contracts")
        return 0
    print(f"buf breaking: against {base[:12]}")
    return _buf("breaking", "--against", str(BASELINE))


def main(arguments: list[str]) -> int:
    """Run buf's checks, or with ``--fix`` its formatter."""
    parser = argparse.ArgumentParser(prog="python -m dev.tools.contracts", description=__doc__)
    parser.add_argument("--fix", action="store_true", help="only format proto/ in place")
    chosen = parser.parse_args(arguments)
    protos.stage_googleapis(protos.PROTO, protos.GOOGLEAPIS)
    if chosen.fix:
        return _buf("format", "--write", "proto")
    results = [_buf("lint"), _buf("format", "--diff", "--exit-code", "proto"), check_breaking()]
    return max(results)


def _buf(*arguments: str) -> int:
    done = subprocess.run([str(BUF), *arguments], cwd=ROOT, check=False)
    if done.returncode != 0:
        print(f"buf {arguments[0]} found the above", file=sys.stderr)
    return done.returncode


def _git(repository: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

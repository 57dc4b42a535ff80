"""Runs the stores of the release before on the schema of this one: what a rolling upgrade does for some minutes.

The release before is checked out beside this one and its own store tests are run, but every database that they ask for
is migrated by this release.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

PREVIOUS = "a75317f0472b6e9ce61e87ae5460c8f83fe6cfe9"
"""What is compared with: the tag of the latest release, as the last step of each release says (docs/releasing.md).

Until there is one, the commit before PostgreSQL could be spread over several instances.
"""
_FOLDER = ROOT / ".build" / "previous"
_SUITES = ("tests/contract/auth", "tests/contract/conversation", "tests/contract/retrieval", "tests/contract/inference")
_NOT_OF_STORES = "postgres and not tables_are_those_that_the_migrations_make"
"""That test compares the tables of the release before with the schema of this one, which has more."""
_PLUGIN = f"""
import tests.support.postgres
from pathlib import Path

tests.support.postgres.ROOT = Path({str(ROOT)!r})
"""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status of the tests."""
    _check_out(_FOLDER)
    (_FOLDER / "schema_of_this_release.py").write_text(_PLUGIN, "utf-8")
    tests = [sys.executable, "-m", "pytest", "-p", "schema_of_this_release", "-k", _NOT_OF_STORES]
    environment = os.environ | {"PYTHONPATH": str(_FOLDER)}
    return subprocess.run([*tests, *(arguments or _SUITES)], cwd=_FOLDER, env=environment, check=False).returncode


def _check_out(folder: Path) -> None:
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", PREVIOUS], capture_output=True, check=False)
    if packed.returncode != 0:
        sys.exit(f"{PREVIOUS} is not in this clone: `git fetch --unshallow --tags` gets it")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

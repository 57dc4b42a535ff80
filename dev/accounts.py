"""Chooses the account that PostgreSQL runs as: it refuses root, and root's stack must run all the same."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from dev.errors import DevError
from dev.spawning import Account, launched

_OUTSIDE = Path("/var/lib")
"""Where a data folder of its own goes when nothing else works: state of programs, which no clean-up job empties."""
_CANDIDATES = ("nobody", "daemon", "bin")
_PROBE_S_MAX = 20.0

Probe = Callable[[Account, Path, Path], bool]


def settle(
    folder: Path, programs: Path, *, outside: Path = _OUTSIDE, probe: Probe | None = None
) -> tuple[Account | None, Path]:
    """Decide as whom the server runs, and where its programs are.

    Makes `folder`, owned by that account and closed to all others. An ordinary user simply keeps what he is. Root hands
    the folder to an unprivileged account; where that account cannot reach it (below a 0700 folder: those modes are not
    ours to change), a user namespace renames root instead; where namespaces are refused, `folder` becomes a link to a
    folder outside. Once settled, the folder's owner tells the choice, so that data stay readable from run to run.

    Args:
        folder: the folder that will hold the data.
        programs: the package that holds the binaries (`pginstall/bin`).
        outside: where the folder outside is made, if one is needed.
        probe: tells whether an account can use the folder and the programs; `can_run` when absent.

    Raises:
        DevError: the folder belongs to somebody else, or no way is open.
    """
    if os.geteuid() != 0:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise DevError(f"{folder} belongs to another user: set PARLEY_DEV_DIR to a folder of your own")
        return None, programs
    probe = probe or can_run
    if folder.exists() and any(folder.iterdir()):
        return _settled(folder, programs, probe)
    return _first(folder, programs, probe, outside)


def can_run(account: Account, folder: Path, programs: Path) -> bool:
    """Whether the account can enter the folder and execute the binaries: tried, not computed from modes."""
    server = programs / "pginstall" / "bin" / "postgres"
    version = subprocess.run(
        launched([server, "--version"], account=account, folder=folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PROBE_S_MAX,
        check=False,
    )
    return version.returncode == 0


def _settled(folder: Path, programs: Path, probe: Probe) -> tuple[Account, Path]:
    # Past the link: the account cannot pass the folders that it lies in.
    folder = folder.resolve()
    owner = folder.stat()
    own_programs = folder / programs.name
    if own_programs.exists():
        programs = own_programs
    if owner.st_uid == 0:
        uid, gid = _unprivileged()
        account = Account(uid, gid, namespace=True)
    else:
        account = Account(owner.st_uid, owner.st_gid)
    if not probe(account, folder, programs):
        raise DevError(
            f"the account {owner.st_uid} that owns the database in {folder} can no longer reach it or {programs}: "
            f"undo the change of folder modes, or move {folder} away to begin with an empty database"
        )
    return account, programs


def _first(folder: Path, programs: Path, probe: Probe, outside: Path) -> tuple[Account, Path]:
    uid, gid = _unprivileged()
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    dropped, renamed = Account(uid, gid), Account(uid, gid, namespace=True)
    os.chown(folder, uid, gid)
    if probe(dropped, folder, programs):
        return dropped, programs
    os.chown(folder, 0, 0)
    if probe(renamed, folder, programs):
        return renamed, programs
    folder.rmdir()
    home = Path(tempfile.mkdtemp(prefix="parley-dev-", dir=outside))
    folder.symlink_to(home)
    own_programs = home / programs.name
    shutil.copytree(programs, own_programs, symlinks=True)
    libraries = programs.with_name(f"{programs.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, home / libraries.name, symlinks=True)
    os.chown(home, uid, gid)
    if not probe(dropped, home, own_programs):
        raise DevError("PostgreSQL cannot run as root, and no other account could run it here: start as another user")
    return dropped, own_programs


def _unprivileged() -> tuple[int, int]:
    """An account that exists (initdb looks its name up) and owns as little as possible."""
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise DevError("PostgreSQL cannot run as root, and /etc/passwd has no account 'nobody': start as another user")

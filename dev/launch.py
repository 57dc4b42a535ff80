"""Becomes a child of the stack: claims its data, gives up root where asked, ties its life to the parent's, executes.

It runs as a script in an interpreter of its own (`python -I -S launch.py …`), because the same steps in a `preexec_fn`
would run Python between fork and exec, which can deadlock as soon as the parent has a second thread.
It must not import anything of this project: the isolated interpreter does not see it.
"""

import argparse
import ctypes
import fcntl
import os
import sys
import time
from pathlib import Path

REFUSED = 125
"""Exit status when the kernel refuses the confinement that was asked for."""
UNREACHABLE = 126
"""Exit status when the command or its folder cannot be reached by the account that it runs as."""
ORPHANED = 124
"""Exit status when the parent died before the child was tied to it."""

CLAIMED = 123
"""Exit status when processes of an earlier start do not let go of the data."""

_CLAIM_S_MAX = 30.0
"""After kill -9 of a server its helpers end by themselves; measured 2 to 4.5 seconds for PostgreSQL's."""
_POLL_S = 0.02
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Confine this process, tie it to its parent and execute the command; returns only when that failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, required=True)
    parser.add_argument("--account", metavar="UID:GID")
    parser.add_argument("--namespace", action="store_true")
    parser.add_argument("--folder")
    parser.add_argument("--claim", type=Path, help="file locked for as long as the command or a child of it lives")
    parser.add_argument("--claim-s", type=float, default=_CLAIM_S_MAX, help="how long to wait for the claim")
    parser.add_argument("--stale", type=Path, help="lock file of the command's own, removed once the claim is held")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)

    if options.claim is not None and not _claimed(options.claim, options.claim_s):
        return CLAIMED
    if options.stale is not None:
        options.stale.unlink(missing_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if options.account is not None:
            uid, gid = (int(number) for number in options.account.split(":"))
            _confine(libc, uid, gid, namespace=options.namespace)
    except OSError as refusal:
        print(f"launch: {refusal}", file=sys.stderr)
        return REFUSED
    # After the change of account: the kernel forgets the death signal when the credentials change.
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, options.death_signal, 0, 0, 0)
    if os.getppid() != options.parent:
        return ORPHANED
    try:
        if options.folder is not None:
            os.chdir(options.folder)
        os.execvp(options.command[0], options.command)  # noqa: S606 - executing the given command is the whole purpose
    except OSError as failure:
        print(f"launch: {failure}", file=sys.stderr)
        return UNREACHABLE


def _claimed(path: Path, wait_s: float) -> bool:
    """Lock the file, through a handle that the command and all its children inherit; the kernel unlocks it after them.

    So a claim tells truthfully whether any process of an earlier start still uses the data, which a file with a process
    number in it cannot: numbers are used again.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(handle, True)  # noqa: FBT003 - the signature of the standard library
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                print(f"launch: processes of an earlier start still use {path.parent}: end them first", file=sys.stderr)
                return False
            time.sleep(_POLL_S)
        else:
            return True


def _confine(libc: ctypes.CDLL, uid: int, gid: int, *, namespace: bool) -> None:
    if not namespace:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        return
    outer_uid, outer_gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "unshare")
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny", encoding="ascii")
    (own / "uid_map").write_text(f"{uid} {outer_uid} 1", encoding="ascii")
    (own / "gid_map").write_text(f"{gid} {outer_gid} 1", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

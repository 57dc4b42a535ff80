"""Becomes a child process of the stack: gives up root where asked, ties its life to the parent's, runs a command.

It runs as a script in an interpreter of its own (`python -I -S launch.py …`), because the same steps in a `preexec_fn`
would run Python between fork and exec, which can deadlock as soon as the parent has a second thread.
It must not import anything of this project: the isolated interpreter does not see it.
"""

import argparse
import ctypes
import os
import sys
from pathlib import Path

REFUSED = 125
"""Exit status when the kernel refuses the confinement that was asked for."""
UNREACHABLE = 126
"""Exit status when the command or its folder cannot be reached by the account that it runs as."""
ORPHANED = 124
"""Exit status when the parent died before the child was tied to it."""

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
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)

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


def _confine(libc: ctypes.CDLL, uid: int, gid: int, *, namespace: bool) -> None:
    if not namespace:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
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

"""How a child process of the stack is started: the command line of the launcher, and as whom it runs."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("launch.py")

CommandLine = list[str | Path]


@dataclass(frozen=True, slots=True)
class Account:
    """As whom a child runs instead of root.

    With `namespace` only the number is renamed, in a user namespace of the child's own: files stay root's, and folders
    that only root can enter stay reachable.
    """

    uid: int
    gid: int
    namespace: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Data that one process and its children use alone: the next start waits until the last of them is gone.

    Attributes:
        file: locked as long as one of them lives.
        stale: a lock file of the program's own, which it cannot tell to be stale; removed once the claim is held.
    """

    file: Path
    stale: Path | None = None


def launched(
    command: Sequence[str | Path],
    *,
    death_signal: signal.Signals = signal.SIGKILL,
    account: Account | None = None,
    folder: Path | None = None,
    claim: Claim | None = None,
) -> list[str]:
    """The command line that runs `command` as a child of *this* process.

    Args:
        command: what to execute.
        death_signal: what the kernel sends to the child when the thread that started it is gone, whatever ended it
            (Linux only); so start children from the main thread.
        account: as whom it runs; None keeps the present account.
        folder: the working directory, entered as that account.
        claim: keeps a second start away from the same data.
    """
    line = [sys.executable, "-I", "-S", str(_LAUNCHER), "--parent", str(os.getpid())]
    line += ["--death-signal", str(int(death_signal))]
    if account is not None:
        line += ["--account", f"{account.uid}:{account.gid}"]
        line += ["--namespace"] if account.namespace else []
    if folder is not None:
        line += ["--folder", str(folder)]
    if claim is not None:
        line += ["--claim", str(claim.file)]
        line += ["--stale", str(claim.stale)] if claim.stale is not None else []
    return [*line, "--", *(str(part) for part in command)]

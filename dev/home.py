"""The stack's folder (`.dev/`): its lock, its state for machines, its credentials for people."""

import fcntl
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.errors import DevError
from dev.keyfile import write_private

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where one stack keeps its data, logs and secrets."""

    folder: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """`PARLEY_DEV_DIR`, or `.dev` in the checkout."""
        return cls(Path(os.environ.get("PARLEY_DEV_DIR") or ROOT / ".dev").absolute())

    @property
    def credentials(self) -> Path:
        """Shell lines: addresses, and the credentials of the first user."""
        return self.folder / "credentials.env"

    @property
    def bootstrap(self) -> Path:
        """Shell lines that auth writes when it makes the first organization."""
        return self.folder / "bootstrap.env"

    @property
    def state(self) -> Path:
        """JSON: the supervisor, the address, each process with its id and ports."""
        return self.folder / "state.json"

    @property
    def certificates(self) -> Path:
        """A folder per workload, where the processes know each other by certificates."""
        return self.folder / "certificates"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.folder / "logs"

    @property
    def archive(self) -> Path:
        """Backups, and the log of the database since then; below another disk, by `PARLEY_DEV_ARCHIVE`."""
        given = os.environ.get("PARLEY_DEV_ARCHIVE")
        return Path(given).absolute() if given else self.folder / "archive"

    @property
    def unseen(self) -> Path:
        """There as long as the database was restored and nothing has run on it."""
        return self.folder / "restored"

    def lock(self) -> int:
        """Take the folder for this process, until it ends; returns the handle that holds the lock.

        Raises:
            DevError: another stack runs in the folder, or the folder cannot be written.
        """
        try:
            # Others may pass through: root's PostgreSQL runs as another account below. Secrets are private themselves.
            self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as refusal:
            raise DevError(
                f"{self.folder} cannot be used: {refusal.strerror}; set PARLEY_DEV_DIR to another"
            ) from refusal
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            raise DevError(
                f"a stack already runs in {self.folder} (process {owner}): use it, stop it, "
                "or set PARLEY_DEV_DIR and PARLEY_DEV_PORT for a second one"
            ) from None
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        return handle

    def write_state(self, state: Mapping[str, object]) -> None:
        """Replace the state file."""
        write_private(self.state, json.dumps(state, indent=1) + "\n")

    def write_credentials(self, values: Mapping[str, str]) -> None:
        """Replace the credentials file."""
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
        write_private(self.credentials, "".join(lines))


def shell_values(path: Path) -> dict[str, str]:
    """Names and values of a file of shell lines; empty when there is no such file."""
    if not path.exists():
        return {}
    words = shlex.split(path.read_text(encoding="utf-8"), comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)

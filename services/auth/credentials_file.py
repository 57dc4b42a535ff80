"""The file with the first user's credentials: private, complete or absent, and never the only thing that is lost.

It is written beside its place before the database commits, and put in its place after. A crash in between leaves the
file beside: if the database knows its key by then, the next start puts it in its place, and if not, it drops it.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MODE: Final = 0o600
_NAMES: Final = ("PARLEY_EMAIL", "PARLEY_PASSWORD", "PARLEY_API_KEY")


class CredentialsFileError(Exception):
    """The file cannot be used; the message says which, and why."""


@dataclass(frozen=True, slots=True, repr=False)
class FirstCredentials:
    """How the first user logs in, and a key of theirs."""

    email: str
    password: str
    api_key: str


class CredentialsFile:
    """Shell lines `NAME='value'` at a path of the operator's choice, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(path.name + ".pending")
        self._apart = path.with_name(path.name + ".other")

    def read(self) -> FirstCredentials | None:
        """What is in its place.

        Raises:
            CredentialsFileError: as every method here does, the file or its folder cannot be used.
        """
        with _told(self._path):
            return _read(self._path)

    def read_pending(self) -> FirstCredentials | None:
        """What an interrupted start left beside."""
        with _told(self._beside):
            return _read(self._beside)

    def write_pending(self, credentials: FirstCredentials) -> None:
        """Puts credentials beside, safe on the disk before this returns."""
        values = (credentials.email, credentials.password, credentials.api_key)
        text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in zip(_NAMES, values, strict=True))
        with _told(self._beside):
            self._beside.unlink(missing_ok=True)
            # Created with its mode: at no instant can anybody else open it.
            handle = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
            try:
                os.write(handle, text.encode())
                os.fsync(handle)
            finally:
                os.close(handle)
            self._sync_folder()

    def publish(self) -> None:
        """Moves what is beside into its place."""
        with _told(self._path):
            self._beside.replace(self._path)
            self._sync_folder()

    def drop_pending(self) -> None:
        """Removes what is beside; no error when nothing is."""
        with _told(self._beside):
            self._beside.unlink(missing_ok=True)

    def set_apart(self) -> Path:
        """Moves credentials of another installation out of the way; where they are now."""
        with _told(self._path):
            self._path.replace(self._apart)
        return self._apart

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CredentialsFileError(f"cannot use {str(path)!r}: {error.strerror}") from error


def _read(path: Path) -> FirstCredentials | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    values = dict(word.split("=", 1) for word in shlex.split(text, comments=True) if "=" in word)
    if any(name not in values for name in _NAMES):
        return None
    return FirstCredentials(*(values[name] for name in _NAMES))

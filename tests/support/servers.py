"""Servers for tests, on ports that are free and in folders of their own."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from dev.errors import DevError
from dev.server import ChildServer

_START_ATTEMPTS = 5
"""A port that was free can be taken before the server has it; the next one is tried."""

S = TypeVar("S", bound=ChildServer)


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for one server, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="parley-test-", ignore_cleanup_errors=True) as home:
        yield Path(home)


@contextmanager
def started(candidates: Iterable[S]) -> Iterator[S]:
    """The first of the servers that starts, stopped afterwards."""
    server = _first(candidates)
    try:
        yield server
    finally:
        server.stop()


def _first(candidates: Iterable[S]) -> S:
    refusals: list[DevError] = []
    for server in itertools.islice(candidates, _START_ATTEMPTS):
        try:
            server.start()
        except DevError as refusal:
            refusals.append(refusal)
            continue
        return server
    raise refusals[-1]

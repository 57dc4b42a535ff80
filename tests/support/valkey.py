"""A real Valkey server for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dev.ports import free_ports
from dev.valkey import Server, Store
from tests.support.servers import own_folder, started

_APART = 17
"""Keeps the ports tried here away from those tried for PostgreSQL by the same process."""


@contextmanager
def running_valkey(*, durable: bool = False) -> Iterator[Server]:
    """A server of its own in a folder of its own; both are gone afterwards."""
    with own_folder() as home:
        store, log = Store(home / "valkey", durable=durable), home / "valkey.log"
        with started(Server(store, port, log) for port in free_ports(os.getpid() + _APART)) as server:
            yield server


def url_of(request: pytest.FixtureRequest) -> str:
    """URL of the Valkey that the fixture's parameter names: `valkey` is one server, `cluster` are three."""
    url: str = request.getfixturevalue({"valkey": "valkey_url", "cluster": "valkey_cluster_url"}[request.param])
    return url


def emptied(server: Server) -> str:
    """Remove all data and functions; returns the server's URL."""
    server.store.ask(server.port, "FLUSHALL")
    server.store.ask(server.port, "FUNCTION", "FLUSH")
    return server.store.url(server.port)

"""Databases for tests on one real PostgreSQL server: empty ones, and clones of migrated templates."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.home import ROOT, Home
from dev.ports import free_ports
from dev.postgres import SUPERUSER, Cluster, Server
from dev.table import plan
from tests.support.servers import own_folder, started

_MIGRATE_S_MAX = 100
_UNUSED_PORT = 8080
"""The plan of a stack wants one; nothing listens."""


class Databases:
    """Makes and drops databases on one server. Each service is migrated once; every database after that is a copy."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self._templates: dict[tuple[str, ...], str] = {}

    def url(self, database: str) -> str:
        return self.server.prepared.cluster.url(self.server.port, database)

    def as_superuser(self, url: str) -> str:
        """The same database for the server's superuser."""
        password = self.server.prepared.cluster.superuser_password()
        return f"postgresql://{SUPERUSER}:{password}@{url.rpartition('@')[2]}"

    def create(self, *services: str) -> str:
        """Make a database with the migrated schemas of the services (`auth`, …), or an empty one; returns its URL."""
        template = self._template(tuple(sorted(services))) if services else "template1"
        return self.url(self._make("test", template))

    def drop(self, url: str) -> None:
        """Drop the database, whoever is still connected to it: as superuser, for one that autovacuum is at."""
        statement = f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)"
        self.server.prepared.run(statement, port=self.server.port, as_superuser=True)

    def _template(self, services: tuple[str, ...]) -> str:
        if services not in self._templates:
            name = self._make("template", "template1")
            for service in services:
                _migrate(service, self.url(name))
            self._templates[services] = name
        return self._templates[services]

    def _make(self, kind: str, template: str) -> str:
        name = f"{kind}_{next(self._numbers)}"
        # The server outlives no crash in tests, so copying files beats writing them to the log.
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def _run(self, statement: str) -> None:
        self.server.prepared.run(statement, port=self.server.port)


@contextmanager
def running_postgres() -> Iterator[Server]:
    """A server of its own in a folder of its own; both are gone afterwards. Durability is off."""
    with own_folder() as home:
        # So that root's server can run as an unprivileged account, which is quicker to settle than a namespace.
        home.chmod(0o711)
        cluster = Cluster(home / "postgres", durable=False)
        try:
            with started(Server(cluster, port, home / "postgres.log") for port in free_ports(os.getpid())) as server:
                yield server
        finally:
            shutil.rmtree(cluster.server_folder, ignore_errors=True)


def _migrate(service: str, url: str) -> None:
    """Run the service's own command with the environment that the stack gives it."""
    with tempfile.TemporaryDirectory(prefix="parley-test-") as home:
        table = plan(Home(Path(home)), port=_UNUSED_PORT).table
    environment = next(process.environment for process in table if process.name == f"migrate-{service}")
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}", "migrate"],
        cwd=ROOT,
        env={**environment, "PARLEY_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=_MIGRATE_S_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"`python -m services.{service} migrate` failed:\n{done.stdout}\n{done.stderr}")

"""A real primary with a real streaming replica, both gone afterwards."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from dev.accounts import settle
from dev.ports import LOOPBACK, free_ports
from dev.postgres import SUPERUSER, Cluster, Server, installed_programs
from dev.spawning import launched
from tests.support.postgres import Databases, running_postgres
from tests.support.servers import own_folder, started

_COPY_S_MAX = 100.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Attributes:
    primary: databases are made on it.
    replica: follows it; tests may stop and start it.
    """

    primary: Databases
    replica: Server

    def replica_url(self, url: str) -> str:
        """A database of the primary, on the replica."""
        before, _, database = url.rpartition("/")
        return f"{before.rpartition(':')[0]}:{self.replica.port}/{database}"

    async def tell_replica(self, statement: str) -> Any:  # Any: whatever it answers
        """What the replica answers to its superuser."""
        url = self.primary.as_superuser(self.replica_url(self.primary.url("postgres")))
        connection: Any = await asyncpg.connect(url)  # Any: the driver has no types
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()


@contextmanager
def running_pair() -> Iterator[Pair]:
    """A primary of its own, and a replica that follows it."""
    with running_postgres() as server, own_folder() as home:
        home.chmod(0o711)
        cluster = Cluster(home / "postgres", durable=False)
        try:
            _copy(server, cluster)
            candidates = (Server(cluster, port, home / "postgres.log") for port in free_ports(os.getpid()))
            with started(candidates) as replica:
                yield Pair(Databases(server), replica)
        finally:
            shutil.rmtree(cluster.server_folder, ignore_errors=True)


def _copy(server: Server, cluster: Cluster) -> None:
    """Makes the replica's data folder of the primary's."""
    cluster.folder.mkdir(mode=0o711, parents=True)
    account, programs = settle(cluster.folder / "server", installed_programs())
    line: list[str | Path] = [programs / "pginstall" / "bin" / "pg_basebackup", "-D", cluster.data, "-R"]
    line += ["-X", "stream", "-c", "fast", "--no-sync", "-h", LOOPBACK, "-p", str(server.port), "-U", SUPERUSER]
    password = server.prepared.cluster.superuser_password()
    done = subprocess.run(
        launched(line, account=account),
        env=os.environ | {"PGPASSWORD": password},
        capture_output=True,
        text=True,
        timeout=_COPY_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr

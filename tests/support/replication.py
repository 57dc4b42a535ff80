"""A real primary with a real streaming replica, both gone afterwards."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from dev.ports import free_ports
from dev.postgres import Cluster, Server
from dev.replica import copied
from tests.support.postgres import Databases, running_postgres
from tests.support.servers import own_folder, started


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

    @contextmanager
    def frozen_replica(self) -> Iterator[None]:
        """The replica as a machine that is paused: it keeps its connections, and says nothing."""
        postmaster = self.replica.pid
        os.kill(postmaster, signal.SIGSTOP)  # first, so that it has no more children from now on
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="ascii").split()
        everybody = [*map(int, children), postmaster]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in everybody:
                os.kill(pid, signal.SIGCONT)

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
            copied(server.prepared.cluster, server.port, cluster)
            candidates = (Server(cluster, port, home / "postgres.log") for port in free_ports(os.getpid()))
            with started(candidates) as replica:
                yield Pair(Databases(server), replica)
        finally:
            shutil.rmtree(cluster.server_folder, ignore_errors=True)

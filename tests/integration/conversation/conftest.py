"""Conversation's API and workers as real processes, on a real PostgreSQL, a real Valkey, and scripted peers."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest

from dev.ports import free_ports
from tests.support.conversation_peers import Peers, serving_peers

_ROOT = Path(__file__).parents[3]


@dataclass(slots=True)
class Processes:
    """Starts processes of conversation; all are gone at the end of the test."""

    environment: dict[str, str]
    log: Path
    peers: Peers
    api_target: str
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: str, **settings: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment, **settings}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.conversation", command],
                cwd=_ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.running.append(process)
        return process

    def stop_all(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    async with serving_peers() as served:
        yield served


@pytest.fixture
def processes(
    peers: Peers, migrated_database_url: Callable[..., str], valkey_url: str, tmp_path: Path
) -> Iterator[Processes]:
    port = next(iter(free_ports(os.getpid() + 31)))
    environment = {
        "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'generated'}",
        "PARLEY_DATABASE_URL": migrated_database_url("conversation"),
        "PARLEY_VALKEY_URL": valkey_url,
        "PARLEY_GRPC_LISTEN": f"127.0.0.1:{port}",
        "PARLEY_AUTH_TARGET": peers.target,
        "PARLEY_RETRIEVAL_TARGET": peers.target,
        "PARLEY_INFERENCE_TARGET": peers.target,
        "PARLEY_WORKLOAD_SECRET": "a-secret-of-sixteen",
        "PARLEY_CONVERSATION_LEASE_S": "1.5",
        "PARLEY_CONVERSATION_HEARTBEAT_S": "0.4",
        "PARLEY_CONVERSATION_REAP_EVERY_S": "0.2",
        "PARLEY_CONVERSATION_HAND_BACK_AFTER_S": "0",
    }
    with _stopped(Processes(environment, tmp_path / "log", peers, f"127.0.0.1:{port}")) as started:
        yield started


@contextmanager
def _stopped(processes: Processes) -> Iterator[Processes]:
    try:
        yield processes
    finally:
        processes.stop_all()
        if processes.log.exists():  # pytest shows it with a failure
            sys.stdout.write(processes.log.read_text())


@pytest.fixture
async def api(processes: Processes) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a running API."""
    processes.start("serve")
    async with grpc.aio.insecure_channel(processes.api_target) as channel:
        yield channel

"""Conversation on a real PostgreSQL and Valkey: its API in this process, or real processes with scripted peers."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
from pydantic import SecretStr

from dev.ports import free_ports
from services.conversation import app
from services.conversation.settings import ApiSettings
from services.mesh import server
from tests.support.conversation_api import User
from tests.support.conversation_fakes import FakeKnowledgeBases, FakePrompts
from tests.support.conversation_peers import Peers, serving_peers
from tests.support.tokens import Issuer

_ROOT = Path(__file__).parents[3]
_SOON = (("grpc.max_reconnect_backoff_ms", 500),)
"""Or a process that took ten seconds to start is looked for again when another ten have passed."""


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
    async with grpc.aio.insecure_channel(processes.api_target, options=_SOON) as channel:
        yield channel


@pytest.fixture
async def ada(migrated_database_url: Callable[..., str], valkey_url: str) -> AsyncIterator[User]:
    """Calls an API that runs in this process."""
    config = ApiSettings(
        database_url=SecretStr(migrated_database_url("conversation")),
        valkey_url=SecretStr(valkey_url),
        auth_target="127.0.0.1:1",
        retrieval_target="127.0.0.1:1",
        inference_target="127.0.0.1:1",
        workload_secret=SecretStr("a-secret-of-sixteen"),
        reap_every_s=60.0,
    )
    issuer = Issuer()
    async with app.opened(config) as core:
        registers, loops = app.api(config, core, FakeKnowledgeBases("kb_1"), FakePrompts())
        verifier = issuer.verifier("conversation")
        async with (
            server.running(config, servicers=registers, verifier=verifier, loops=loops) as running,
            grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
        ):
            yield User(channel, issuer, core.reapers[0])

"""What the chart renders runs: its processes twice over, all probes, rolling restart, renewed certificates."""

import json
import os
import signal
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from dev.certificates import Authority
from dev.ports import LOOPBACK
from services.mesh.settings import MeshSettings
from tests.deploy.probes import PROBES, passes
from tests.deploy.up import CONSUMER, SCRIPTED, issue, rendered
from tests.support.stack import Stack
from tests.support.traffic import Balancer, Traffic
from tests.support.waiting import until

SCRIPT: Final = {"steady": {"tokens": 250, "delay_ms": 40}}
"""Ten seconds an answer, so that every process has some under way when it is asked to leave."""
START_S_MAX: Final = 120.0
CALLS_BETWEEN_RESTARTS: Final = 10
CALLS_BETWEEN_STEPS: Final = 100
SILENT: Final = "retrieval-worker"
"""It neither calls by gRPC nor is called."""
SLACK_S: Final = 3_600.0
"""A certificate is good from a little before it was made."""
PROCESSES: Final = 14


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    settings = {SCRIPTED: json.dumps(SCRIPT), "PARLEY_DEV_REPLICAS": "2"}
    with tempfile.TemporaryDirectory(prefix="parley-deploy-") as name:
        # So that root's PostgreSQL runs as an unprivileged account.
        Path(name).chmod(0o711)
        started = Stack(Path(name) / "dev", settings, command=("-m", "tests.deploy.up"))
        try:
            started.start()
            yield started
        finally:
            started.stop()


def names(stack: Stack) -> list[str]:
    """Of the processes that the chart runs."""
    return [name for name in stack.names if rendered(name) is not None]


@pytest.mark.timeout(300)
def test_every_probe_of_every_container_passes(stack: Stack) -> None:
    assert len(names(stack)) == PROCESSES
    failed = []
    for name in names(stack):
        found = rendered(name)
        assert found is not None
        failed += [(name, probe) for probe in PROBES if not passes(found[0][probe], stack.ports(name))]
    assert failed == []


@pytest.mark.timeout(900)
async def test_rolling_restart_under_load_fails_no_call_and_breaks_no_stream(stack: Stack) -> None:
    drains: dict[str, float] = {}
    async with _traffic(stack) as traffic, traffic.running(rest=3, consumers=2, watchers=4, pause_s=0.15):
        await until(lambda: traffic.figures.made > 30, within_s=START_S_MAX)
        for name in names(stack):
            drains[name] = await _restarted(stack, traffic, name)
    figures = traffic.figures
    print(json.dumps({"calls": figures.made, "streams": figures.streams, "drains": drains}))  # noqa: T201 - with `-s`

    assert figures.failures == []
    assert figures.broken == []
    assert figures.streams > 0


@pytest.mark.timeout(600)
async def test_certificates_and_their_ca_are_replaced_under_load_and_no_call_fails(stack: Stack) -> None:
    old, new = Authority.kept(stack.certificates), Authority.made("the next one")
    steps = ((old, old.pem), (old, old.pem + new.pem), (new, old.pem + new.pem), (new, new.pem))
    async with _traffic(stack) as traffic, traffic.running(rest=3, consumers=2, watchers=4, pause_s=0.15):
        await until(lambda: traffic.figures.made > 30, within_s=START_S_MAX)
        for days, (issuer, bundle) in enumerate(steps, start=1):
            # By how long they live, one step is told from another.
            issue(stack.certificates, issuer, bundle=bundle, life=timedelta(days=days))
            await until(partial(_are_renewed, stack, timedelta(days=days)), within_s=START_S_MAX, every_s=0.5)
            enough = traffic.figures.made + CALLS_BETWEEN_STEPS
            await until(partial(_have_made, traffic, enough), within_s=START_S_MAX)
    figures = traffic.figures
    print(json.dumps({"calls": figures.made, "streams": figures.streams, "steps": len(steps)}))  # noqa: T201 - with `-s`

    assert figures.failures == []
    assert figures.broken == []
    assert figures.streams > 0


def _are_renewed(stack: Stack, life: timedelta) -> bool:
    """Whether every process uses certificates of such a life, and every channel of it is one with them."""
    for name in names(stack):
        if name.startswith(SILENT):
            continue
        with urllib.request.urlopen(f"http://{LOOPBACK}:{stack.ports(name)['debug']}/metrics", timeout=10) as page:
            lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
        figures = {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}
        lives_s = figures['parley_mesh_certificate_life_seconds{certificate="leaf"}']
        behind = figures.get("parley_mesh_channels_behind_count", 0.0)  # auth calls nobody
        if abs(lives_s - life.total_seconds()) > SLACK_S or behind:
            return False
    return True


def _have_made(traffic: Traffic, calls: int) -> bool:
    return traffic.figures.made >= calls


@asynccontextmanager
async def _traffic(stack: Stack) -> AsyncIterator[Traffic]:
    urls = [f"http://{LOOPBACK}:{stack.ports(name)['http']}" for name in names(stack) if name.startswith("edge")]
    own = MeshSettings(mesh_tls_folder=str(stack.certificates / CONSUMER), mesh_tls_look_every_s=1.0)
    async with Balancer(urls, stack.api_key) as balancer:
        yield Traffic(balancer, stack.targets, stack.api_key, "scripted/steady", certificates=own)


async def _restarted(stack: Stack, traffic: Traffic, name: str) -> float:
    """Ask a process to leave as a kubelet does, and wait for the next one; gives the seconds until it had left."""
    found = rendered(name)
    assert found is not None
    before, begun = stack.restarts(name), time.monotonic()
    os.kill(stack.pid(name), signal.SIGTERM)
    grace_s = float(found[1]["spec"]["terminationGracePeriodSeconds"])
    await until(lambda: stack.restarts(name) > before or stack.is_restarting(name), within_s=grace_s)
    gone = time.monotonic()
    assert stack.last_status(name) == 0
    await until(lambda: stack.has_restarted(name, beyond=before), within_s=START_S_MAX)
    made = traffic.figures.made
    await until(lambda: traffic.figures.made >= made + CALLS_BETWEEN_RESTARTS, within_s=START_S_MAX)
    return gone - begun

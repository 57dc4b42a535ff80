"""What the chart renders runs: its processes twice over, all probes, and a rolling restart under load."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dev.ports import LOOPBACK
from tests.deploy.probes import PROBES, passes
from tests.deploy.up import SCRIPTED, rendered
from tests.support.stack import Stack
from tests.support.traffic import Balancer, Traffic
from tests.support.waiting import until

SCRIPT: Final = {"steady": {"tokens": 250, "delay_ms": 40}}
"""Ten seconds an answer, so that every process has some under way when it is asked to leave."""
START_S_MAX: Final = 120.0
CALLS_BETWEEN_RESTARTS: Final = 10
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
    urls = [f"http://{LOOPBACK}:{stack.ports(name)['http']}" for name in names(stack) if name.startswith("edge")]
    drains: dict[str, float] = {}
    async with Balancer(urls, stack.api_key) as balancer:
        traffic = Traffic(balancer, stack.targets, stack.api_key, "scripted/steady")
        async with traffic.running(rest=3, consumers=2, watchers=4, pause_s=0.15):
            await until(lambda: traffic.figures.made > 30, within_s=START_S_MAX)
            for name in names(stack):
                drains[name] = await _restarted(stack, traffic, name)
    figures = traffic.figures
    print(json.dumps({"calls": figures.made, "streams": figures.streams, "drains": drains}))  # noqa: T201 - with `-s`

    assert figures.failures == []
    assert figures.broken == []
    assert figures.streams > 0


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

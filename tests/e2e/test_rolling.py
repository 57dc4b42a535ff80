"""Every process is restarted in turn under load: no call fails, and every stream goes on where it stopped."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from tests.support.stack import Stack, running_stack
from tests.support.traffic import Balancer, Figures, Traffic
from tests.support.waiting import until

SCRIPT: Final = {"steady": {"tokens": 250, "delay_ms": 40}}
"""Ten seconds: longer than a process of the stack takes to drain, so that answers have to change hands."""
STORES: Final = ("postgres", "valkey")
STOP_S_MAX: Final = 90.0
START_S_MAX: Final = 120.0
CALLS_BETWEEN_RESTARTS: Final = 10


@dataclass(frozen=True, slots=True)
class Restart:
    """How one process went and came back; seconds."""

    name: str
    status: object
    drain_s: float
    start_s: float


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    settings = {"PARLEY_INFERENCE_SCRIPTED": json.dumps(SCRIPT), "PARLEY_DEV_REPLICAS": "2"}
    with running_stack(settings) as started:
        yield started


@pytest.mark.timeout(600)
async def test_rolling_restart_of_every_process_fails_no_call_and_breaks_no_stream(stack: Stack) -> None:
    names = [name for name in stack.names if not name.startswith(STORES)]
    urls = [f"http://127.0.0.1:{stack.ports(name)['http']}" for name in names if name.startswith("edge")]
    async with Balancer(urls, stack.api_key) as balancer:
        traffic = Traffic(balancer, stack.targets, stack.api_key, "scripted/steady")
        async with traffic.running(rest=3, consumers=2, watchers=4, pause_s=0.15):
            await until(lambda: traffic.figures.made > 30, within_s=START_S_MAX)
            restarts = [await _restarted(stack, traffic, name) for name in names]
    figures = traffic.figures
    print(_shown(figures, restarts))  # noqa: T201 - with `-s`, the figures of the run

    assert len(restarts) == 14
    assert {restart.name: restart.status for restart in restarts if restart.status != 0} == {}
    assert figures.failures == []
    assert figures.broken == []
    assert figures.streams > 0


async def _restarted(stack: Stack, traffic: Traffic, name: str) -> Restart:
    """Asks a process to leave, as an orchestrator does, and waits until it has and the next one is ready."""
    pid, before = stack.pid(name), stack.restarts(name)
    begun = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    await until(lambda: stack.restarts(name) > before or stack.is_restarting(name), within_s=STOP_S_MAX)
    gone = time.monotonic()
    status = stack.last_status(name)
    await until(lambda: stack.has_restarted(name, beyond=before), within_s=START_S_MAX)
    ready, made = time.monotonic(), traffic.figures.made
    # What orchestrators call minReadySeconds, in calls: an orchestrator in no hurry lets the new process be found.
    await until(lambda: traffic.figures.made >= made + CALLS_BETWEEN_RESTARTS, within_s=START_S_MAX)
    return Restart(name, status, gone - begun, ready - gone)


def _shown(figures: Figures, restarts: list[Restart]) -> str:
    lines = [f"{'process':<24}{'exit':>5}{'drain s':>9}{'start s':>9}"]
    lines += [f"{each.name:<24}{each.status!s:>5}{each.drain_s:>9.2f}{each.start_s:>9.2f}" for each in restarts]
    lines.append(f"unary calls {figures.made} {figures.calls}, failed {len(figures.failures)}")
    lines.append(
        f"streams {figures.streams}, resumed {figures.resumed}, of which cut {len(figures.cut)}, "
        f"broken {len(figures.broken)}; attempts at most {figures.attempts}"
    )
    lines += [f"  failed {each}" for each in figures.failures]
    lines += [f"  cut {each}" for each in figures.cut]
    lines += [f"  broken {each}" for each in figures.broken]
    return "\n" + "\n".join(lines)

"""`make observe`: a real Prometheus beside a real stack, all of whose processes are up, with no rule that fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.home import ROOT
from tests.support.stack import Stack, running_stack
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not on the PATH: `apt-get install prometheus` brings it",
    ),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as started:
        yield started


@pytest.fixture(scope="module")
def url(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a Prometheus that has said that it is ready."""
    log = tmp_path_factory.mktemp("observe") / "output.log"
    environment = {**os.environ, "PARLEY_DEV_DIR": str(stack.folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dev.observe", "run"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: process.poll() is not None or _address(log), within_s=120)
        assert process.poll() is None, log.read_text()
        yield _address(log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _address(log: Path) -> str:
    found = re.search(r"^ready (http://\S+):", log.read_text(), re.MULTILINE)
    return found[1] if found else ""


def _asked(url: str, path: str) -> Any:  # Any: JSON
    with urllib.request.urlopen(url + path, timeout=30) as response:  # noqa: S310 - of this machine
        return json.load(response)["data"]


def test_every_process_is_up(stack: Stack, url: str) -> None:
    targets = _asked(url, "/api/v1/targets?state=active")["activeTargets"]

    assert {each["health"] for each in targets if each["labels"]["job"] != "prometheus"} == {"up"}
    assert {each["labels"]["job"] for each in targets} - {"prometheus"} == {
        name for name in stack.names if "debug" in stack.ports(name)
    }


def test_rules_are_evaluated_and_nothing_fires_but_the_watchdog(url: str) -> None:
    def fired() -> set[str]:
        query = urllib.parse.quote('ALERTS{alertstate="firing"}')
        return {each["metric"]["alertname"] for each in _asked(url, f"/api/v1/query?query={query}")["result"]}

    wait_until(fired, within_s=60)
    groups = _asked(url, "/api/v1/rules")["groups"]
    assert {rule["lastError"] for group in groups for rule in group["rules"] if "lastError" in rule} == set()
    assert fired() == {"ParleyWatchdog"}

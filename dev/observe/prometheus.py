"""`make observe`: a Prometheus beside the running stack, with the rules of the chart."""

import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from dev.errors import DevError
from dev.home import Home
from dev.observe.written import CHART
from dev.ports import LOOPBACK, free_ports, is_free

SCRAPE_EVERY: Final = "5s"
UP_S_MAX: Final = 90.0
STOP_S_MAX: Final = 30.0

_PORT: Final = 9090
_POLL_S: Final = 0.2
_REQUEST_S_MAX: Final = 5.0
_OK: Final = 200
_REPLICA: Final = re.compile(r"-\d+$")


@dataclass(frozen=True, slots=True)
class Target:
    """A process to scrape."""

    job: str
    address: str


def observe() -> None:
    """Start Prometheus, say when every process is scraped, stop it on Ctrl-C.

    Raises:
        DevError: there is no Prometheus, no running stack, or a process that cannot be scraped.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        raise DevError("there is no `prometheus` on the PATH; on Debian and Ubuntu: apt-get install prometheus")
    home = Home.from_environment()
    targets = targets_of(_state(home))
    folder = home.folder / "prometheus"
    folder.mkdir(exist_ok=True)
    port = next(port for port in chain((_PORT,), free_ports(_PORT)) if is_free(port))
    file = folder / "prometheus.yml"
    # JSON is YAML.
    file.write_text(json.dumps(configuration(targets, sorted((CHART / "alerts").glob("*.yaml")), port), indent=1))
    command = [binary, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={LOOPBACK}:{port}", "--log.level=warn"]
    process = subprocess.Popen(command)
    try:
        _await_targets(process, port, targets)
        print(f"ready http://{LOOPBACK}:{port}: {len(targets)} processes are scraped every {SCRAPE_EVERY}", flush=True)
        print("  alerts       /alerts; dashboards for Grafana: helm/parley/dashboards (docs/observability.md)")
        print("  next         Ctrl-C here stops Prometheus, and nothing else", flush=True)
        process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        process.wait(STOP_S_MAX)


def targets_of(state: Mapping[str, Any]) -> list[Target]:
    """The processes of a stack that can be scraped; replicas share their job, as in the chart."""
    found = []
    for name, process in state["processes"].items():
        port = process["ports"].get("debug")
        if port is not None:
            found.append(Target(_REPLICA.sub("", name), f"{LOOPBACK}:{port}"))
    return found


def configuration(targets: Sequence[Target], rules: Sequence[Path], port: int) -> dict[str, Any]:
    """What Prometheus is told: the targets by job, itself, and the rules."""
    jobs: dict[str, list[str]] = {"prometheus": [f"{LOOPBACK}:{port}"]}
    for target in targets:
        jobs.setdefault(target.job, []).append(target.address)
    return {
        "global": {"scrape_interval": SCRAPE_EVERY, "evaluation_interval": SCRAPE_EVERY},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": addresses}]} for job, addresses in jobs.items()
        ],
    }


def _state(home: Home) -> Mapping[str, Any]:  # Any: JSON
    try:
        state: Mapping[str, Any] = json.loads(home.state.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DevError(f"no stack runs in {home.folder}: start one with `make run` first") from None
    return state


def _await_targets(process: subprocess.Popen[bytes], port: int, targets: Sequence[Target]) -> None:
    deadline = time.monotonic() + UP_S_MAX
    while True:
        if process.poll() is not None:
            raise DevError(f"prometheus ended with status {process.returncode}")
        down = _down(port, targets)
        if not down:
            return
        if time.monotonic() > deadline:
            raise DevError("not scraped: " + ", ".join(down))
        time.sleep(_POLL_S)


def _down(port: int, targets: Sequence[Target]) -> list[str]:
    """Targets that Prometheus has not scraped well yet."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_REQUEST_S_MAX)
    try:
        connection.request("GET", "/api/v1/targets?state=active")
        response = connection.getresponse()
        active = json.loads(response.read())["data"]["activeTargets"] if response.status == _OK else []
    except (OSError, http.client.HTTPException, ValueError):
        active = []
    finally:
        connection.close()
    up = {each["labels"]["instance"] for each in active if each["health"] == "up"}
    return [f"{target.job} {target.address}" for target in targets if target.address not in up]

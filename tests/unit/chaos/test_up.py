from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dev.home import Home
from dev.process import Process
from dev.table import plan
from tests.chaos.links import LINKS, Link
from tests.chaos.up import altered

PROXIES = {str(link): 40_000 + number for number, link in enumerate(LINKS)}


@pytest.fixture
def processes(tmp_path: Path) -> dict[str, Process]:
    home = Home(tmp_path)
    return {process.name: process for process in altered(plan(home, port=20_000), PROXIES, home).table}


def test_every_link_leads_over_its_proxy(processes: dict[str, Process]) -> None:
    for link in LINKS:
        addresses = "".join(processes[link.caller].environment.values())
        assert f"127.0.0.1:{PROXIES[str(link)]}" in addresses, link


def test_proxied_store_keeps_its_credentials(processes: dict[str, Process]) -> None:
    url = urlsplit(processes["conversation-2"].environment["PARLEY_DATABASE_URL"])

    assert url.port == PROXIES[str(Link("conversation-2", "postgres"))]
    assert url.password


def test_replicas_listen_on_ports_of_their_own(processes: dict[str, Process]) -> None:
    ports = [port for process in processes.values() for port in process.ports.values()]

    assert len(set(ports)) == len(ports)
    for name in ("conversation", "conversation-worker"):
        first, second = processes[name].environment, processes[f"{name}-2"].environment
        assert first["PARLEY_DEBUG_LISTEN"] != second["PARLEY_DEBUG_LISTEN"]


def test_only_clients_of_replicas_are_given_time_to_leave(processes: dict[str, Process]) -> None:
    hasty = {name for name, each in processes.items() if each.environment.get("PARLEY_NOT_SERVING_PAUSE_S") == "0"}

    assert {"inference", "auth", "edge"} <= hasty
    assert not hasty & {"conversation", "conversation-2", "conversation-worker", "conversation-worker-2"}


def test_what_stands_behind_each_proxy_is_written_down(processes: dict[str, Process], tmp_path: Path) -> None:
    written = (tmp_path / "links.json").read_text(encoding="utf-8")

    assert f'"edge>conversation-2": {processes["conversation-2"].ports["grpc"]}' in written


def test_kafka_is_started_before_those_who_use_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHAOS_QUEUE", "kafka")
    home = Home(tmp_path)

    processes = {process.name: process for process in altered(plan(home, port=20_000), PROXIES, home).table}

    for name in ("conversation", "conversation-2", "conversation-worker", "conversation-worker-2"):
        assert "kafka" in processes[name].after
        assert processes[name].environment["PARLEY_QUEUE"] == "kafka"
    assert "kafka" not in processes["auth"].after

from pathlib import Path

import pytest

from dev.errors import DevError
from dev.observe import prometheus
from dev.observe.prometheus import Target, configuration, targets_of

STATE = {
    "processes": {
        "postgres": {"ports": {"postgres": 1}},
        "migrate-auth": {"ports": {}},
        "edge": {"ports": {"http": 2, "debug": 3}},
        "edge-2": {"ports": {"http": 4, "debug": 5}},
        "conversation-worker": {"ports": {"debug": 6}},
    }
}


def test_replicas_share_a_job_and_what_has_no_second_port_is_left_out() -> None:
    assert targets_of(STATE) == [
        Target("edge", "127.0.0.1:3"),
        Target("edge", "127.0.0.1:5"),
        Target("conversation-worker", "127.0.0.1:6"),
    ]


def test_prometheus_is_told_of_targets_rules_and_itself() -> None:
    told = configuration(targets_of(STATE), [Path("/rules/slo.yaml")], 9090)

    assert told["rule_files"] == ["/rules/slo.yaml"]
    assert {each["job_name"]: each["static_configs"][0]["targets"] for each in told["scrape_configs"]} == {
        "prometheus": ["127.0.0.1:9090"],
        "edge": ["127.0.0.1:3", "127.0.0.1:5"],
        "conversation-worker": ["127.0.0.1:6"],
    }


def test_person_without_prometheus_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DevError, match="apt-get install prometheus"):
        prometheus.observe()


def test_person_without_a_stack_is_told_to_start_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "prometheus"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PARLEY_DEV_DIR", str(tmp_path / "none"))
    with pytest.raises(DevError, match="make run"):
        prometheus.observe()

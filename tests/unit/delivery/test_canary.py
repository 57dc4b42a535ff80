"""The canary against a cluster and a Prometheus of the test's own."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from dev.tools.canary import Canary, CanaryError, Plan, Sample, complaint, shared_refs

PLAN = Plan("parley", "prod", ("oci://charts/parley", "--version", "1.2.3"), weights=(5, 50), watch_s=120.0)
GOOD = Sample(1_000.0, 1.0, 0.2)


@dataclass
class Cluster:
    """Stands in for helm and kubectl: it keeps one route, and notes what was asked of it."""

    refs: list[dict[str, Any]] = field(default_factory=lambda: [{"name": "parley-edge", "port": 80}])
    releases: set[str] = field(default_factory=lambda: {"parley"})
    restarts: int = 0
    fails_at: str = ""
    shares: list[int] = field(default_factory=list)
    installed: list[str] = field(default_factory=list)

    def run(self, command: Sequence[str]) -> str:
        line = " ".join(command)
        if self.fails_at and re.search(self.fails_at, line):
            raise KeyboardInterrupt
        if line.startswith("kubectl get httproute parley-edge"):
            return json.dumps({"spec": {"rules": [{"backendRefs": self.refs}]}})
        if line.startswith("kubectl get pods"):
            status = {"containerStatuses": [{"restartCount": self.restarts}]}
            return json.dumps({"items": [{"metadata": {"name": "parley-canary-edge-1-a"}, "status": status}]})
        if line.startswith("kubectl patch httproute parley-edge"):
            self.refs = json.loads(command[-1])[0]["value"]
            self.shares.append(sum(ref.get("weight", 0) for ref in self.refs if ref["name"] == "parley-canary-edge"))
        elif line.startswith("helm upgrade --install"):
            self.releases.add(command[3])
            self.installed.append(command[3])
        elif line.startswith("helm uninstall"):
            self.releases.discard(command[2])
        return ""


class Told:
    """Stands in for Prometheus."""

    def __init__(self, *, canary: Sample = GOOD, present: Sample = GOOD) -> None:
        self.samples = {"parley-canary-edge": canary, "parley-edge": present}

    def __call__(self, query: str) -> float | None:
        found = re.search(r'pod=~"([a-z-]+)-\[', query)
        assert found
        sample = self.samples[found[1]]
        if query.startswith("histogram_quantile"):
            return sample.slow_s
        return sample.failed if "5.." in query else sample.requests


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def bring(cluster: Cluster, told: Told) -> None:
    clock = Clock()
    Canary(PLAN, run=cluster.run, ask=told, sleep=clock.sleep, clock=clock).bring()


def is_as_before(cluster: Cluster) -> bool:
    return cluster.refs == [{"name": "parley-edge", "port": 80}] and cluster.releases == {"parley"}


def test_a_good_version_is_widened_step_by_step_and_then_given_to_all() -> None:
    cluster = Cluster()
    bring(cluster, Told())
    assert cluster.shares == [5, 50, 0]
    assert cluster.installed == ["parley-canary", "parley"]
    assert is_as_before(cluster)


@pytest.mark.parametrize(
    ("canary", "says"),
    [
        (Sample(1_000.0, 50.0, 0.2), "5.0% of its requests failed"),
        (Sample(1_000.0, 1.0, 2.0), "2.00 s to answer"),
        (Sample(3.0, 0.0, 0.2), "3 requests in 120 s tell nothing"),
        (Sample(0.0, 0.0, None), "0 requests"),
    ],
)
def test_a_worse_version_is_taken_back_at_its_first_step(canary: Sample, says: str) -> None:
    cluster = Cluster()
    with pytest.raises(CanaryError, match=re.escape(says)):
        bring(cluster, Told(canary=canary))
    assert cluster.shares == [5, 0]
    assert cluster.installed == ["parley-canary"]
    assert is_as_before(cluster)


def test_a_version_that_crashes_is_taken_back() -> None:
    cluster = Cluster(restarts=1)
    with pytest.raises(CanaryError, match="started again"):
        bring(cluster, Told())
    assert is_as_before(cluster)


@pytest.mark.parametrize(
    "at", ["helm upgrade --install parley-canary", r'patch.*"weight": 50', "helm upgrade --install parley "]
)
def test_whatever_interrupts_it_the_present_version_serves_everybody(at: str) -> None:
    cluster = Cluster(fails_at=at)
    with pytest.raises(KeyboardInterrupt):
        bring(cluster, Told())
    assert is_as_before(cluster)


def test_what_a_killed_run_left_is_removed_by_the_next() -> None:
    left = [{"name": "parley-edge", "port": 80, "weight": 50}, {"name": "parley-canary-edge", "port": 80, "weight": 50}]
    cluster = Cluster(refs=left, releases={"parley", "parley-canary"})
    Canary(PLAN, run=cluster.run, ask=Told()).take_back()
    assert is_as_before(cluster)


def test_a_route_that_does_not_lead_to_the_edge_is_refused() -> None:
    cluster = Cluster(refs=[{"name": "another", "port": 80}])
    with pytest.raises(CanaryError, match="nothing to share"):
        bring(cluster, Told())


def test_other_backends_of_a_rule_keep_what_they_have() -> None:
    other = {"name": "static", "port": 80, "weight": 7}
    refs = shared_refs([other, {"name": "a", "port": 1}], "a", "b", 20)
    assert refs == [other, {"name": "a", "port": 1, "weight": 80}, {"name": "b", "port": 1, "weight": 20}]
    assert shared_refs(refs, "a", "b", 0) == [other, {"name": "a", "port": 1}]


@pytest.mark.parametrize(
    ("canary", "present"),
    [
        (Sample(50.0, 1.0, 0.2), GOOD),
        (Sample(1_000.0, 10.0, 0.2), GOOD),
        (Sample(1_000.0, 60.0, 0.2), Sample(1_000.0, 30.0, 0.2)),
        (Sample(1_000.0, 0.0, 0.5), Sample(1_000.0, 0.0, 0.2)),
        (Sample(1_000.0, 0.0, None), GOOD),
    ],
)
def test_chance_and_trouble_that_both_have_are_no_reason(canary: Sample, present: Sample) -> None:
    assert complaint(canary, present) is None

"""Staging and canary by their own commands, on a real control plane; only what Prometheus tells is made up."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import pytest
import yaml

from dev.tools.canary import Ask, Canary, CanaryError, Plan, edge_of
from tests.deploy.controlplane import ControlPlane
from tests.deploy.releases import SETTLED_S_MAX, Release
from tests.deploy.renders import RELEASE
from tests.deploy.schema import CHART
from tests.support.waiting import wait_until

REPOSITORY: Final = "registry.example.org/parley"
FIRST: Final = f"sha256:{'1' * 64}"
SECOND: Final = f"sha256:{'2' * 64}"
VALUES: Final = {
    "rollout": {"minReadySeconds": 1},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "gateways"}]},
}
MANY: Final = 1000.0


@dataclass(slots=True)
class Told:
    """What Prometheus would tell: how many requests there were, and how many of the canary's failed.

    Attributes:
        shares: weights of present version and canary, whenever it was asked.
    """

    release: Release
    failed: float = 0.0
    shares: set[tuple[int, ...]] = field(default_factory=set)

    def __call__(self, query: str) -> float | None:
        self.shares.add(weights(self.release))
        if "histogram_quantile" in query:
            return 0.1
        if 'status=~"5.."' in query:
            return self.failed if edge_of(f"{RELEASE}-canary") in query else 0.0
        return MANY


@dataclass(slots=True)
class Clock:
    """Time that passes by being waited for."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture(scope="module")
def staged(plane: ControlPlane) -> Iterator[Release]:
    """The first version, brought by the command that a workflow runs."""
    release = Release(plane, "parley-production")
    release.make_room()
    words = ["--release", RELEASE, "--namespace", release.namespace, "--chart", str(CHART)]
    step = f"{sys.executable} -m dev.tools.rollout staging {' '.join(words)} --repository {REPOSITORY} --digest {FIRST}"
    done = plane.run("env", f"HELM_VALUES={yaml.safe_dump(VALUES)}", "bash", "-c", step)
    assert done.returncode == 0, done.stderr
    yield release
    release.helm("uninstall", RELEASE, "--ignore-not-found")


def weights(release: Release) -> tuple[int, ...]:
    """Of the backends to which the route leads."""
    (route,) = release.objects("httproutes")
    return tuple(ref["weight"] for ref in route["spec"]["rules"][0]["backendRefs"])


def digests(release: Release) -> set[str]:
    """Of the images that run."""
    return {
        container["image"].partition("@")[2]
        for pod in release.objects("pods")
        for container in pod["spec"]["containers"]
    }


def bring(release: Release, digest: str, ask: Ask) -> None:
    """Bring a version as a canary."""

    def run(command: Sequence[str]) -> str:
        done = release.plane.run(*command)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    given = ["--set-json", f"rollout={json.dumps(VALUES['rollout'])}", "--set-json"]
    given += [f"httpRoute={json.dumps(VALUES['httpRoute'])}"]
    image = ("--set", f"image.repository={REPOSITORY}", "--set", f"image.digest={digest}")
    plan = Plan(RELEASE, release.namespace, (str(CHART), *given, *image), weights=(5, 50), watch_s=15.0)
    clock = Clock()
    Canary(plan, run=run, ask=ask, sleep=clock.sleep, clock=clock).bring()


@pytest.mark.timeout(600)
def test_canary_that_fails_requests_is_taken_back(staged: Release) -> None:
    told = Told(staged, failed=MANY / 2)
    with pytest.raises(CanaryError, match="of its requests failed"):
        bring(staged, SECOND, told)
    assert told.shares == {(95, 5)}
    assert weights(staged) == (1,)
    wait_until(lambda: digests(staged) == {FIRST}, within_s=SETTLED_S_MAX)
    assert staged.status() == (1, "deployed")
    assert not [name for name in staged.plane.left(staged.namespace) if "canary" in name]


@pytest.mark.timeout(600)
def test_canary_that_serves_well_becomes_the_version(staged: Release) -> None:
    told = Told(staged)
    bring(staged, SECOND, told)
    assert told.shares == {(95, 5), (50, 50)}
    assert weights(staged) == (1,)
    wait_until(lambda: digests(staged) == {SECOND}, within_s=SETTLED_S_MAX)
    assert not [name for name in staged.plane.left(staged.namespace) if "canary" in name]


def test_abort_without_a_canary_changes_nothing(staged: Release) -> None:
    words = ["canary-abort", "--release", RELEASE, "--namespace", staged.namespace]
    done = staged.plane.run(sys.executable, "-m", "dev.tools.rollout", *words)
    assert done.returncode == 0, done.stderr
    assert weights(staged) == (1,)

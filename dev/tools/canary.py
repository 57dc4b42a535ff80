"""Bring a version to some of the users first, and take it back by itself when it serves them worse.

The canary is a second release of the same chart on the same database and queue, which old and new may share
(docs/versioning.md). The Gateway API's weights send it a growing part of the requests; after each step what its edge
tells Prometheus is held against what the present version's edge tells in the same minutes.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]  # objects of Kubernetes; their shape is its own.
Run = Callable[[Sequence[str]], str]
"""Runs helm or kubectl; returns what it printed, raises when it failed."""
Ask = Callable[[str], float | None]
"""Answers a query of PromQL with its one number; None where there is none."""

COMPONENTS = ("edge", "auth", "conversation", "conversation-worker", "retrieval", "retrieval-worker", "inference")
_WAIT = ("--wait", "--atomic", "--timeout", "20m")
# A canary has no route of its own (it takes part in the present one), one pod of each kind, and does not grow. Alerts
# and dashboards are those of the present release: twice the same would page twice.
CANARY_VALUES: Mapping[str, str] = {
    "ingress.enabled": "false",
    "httpRoute.enabled": "false",
    "grpcRoute.enabled": "false",
    "monitoring.prometheusRule.enabled": "false",
    "monitoring.dashboards.enabled": "false",
    **{f"components.{name}.replicas": "1" for name in COMPONENTS},
    **{f"components.{name}.autoscaling.enabled": "false" for name in COMPONENTS if not name.endswith("-worker")},
    **{f"components.{name}.queueScaling.kind": "none" for name in COMPONENTS if name.endswith("-worker")},
}


class CanaryError(Exception):
    """The new version stays away; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is brought where.

    Attributes:
        release: name of the present release, and of its namespace's route by way of the chart's naming.
        namespace: of both releases.
        chart: command-line words that name chart, version and values.
        weights: per cent of the requests, one step after another.
        watch_s: how long each step is watched.
        requests_min: of the canary's, in a step; from fewer nothing can be said.
    """

    release: str
    namespace: str
    chart: tuple[str, ...]
    weights: tuple[int, ...] = (5, 25, 50)
    watch_s: float = 600.0
    requests_min: int = 100

    @property
    def canary(self) -> str:
        """Name of the second release."""
        return f"{self.release}-canary"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one edge did in a while: requests, those that failed through us, and the slowest hundredth in seconds."""

    requests: float
    failed: float
    slow_s: float | None


def complaint(canary: Sample, present: Sample) -> str | None:
    """What the canary does worse than the present version, by more than chance and a cold cache explain."""
    ratio = canary.failed / canary.requests if canary.requests else 0.0
    usual = present.failed / present.requests if present.requests else 0.0
    # A single failure of few requests is no pattern; twice the usual part, and more than one in a hundred, is.
    if canary.failed > 1 and ratio > max(0.01, 2 * usual):
        return f"{ratio:.1%} of its requests failed, of the present version's {usual:.1%}"
    if canary.slow_s is not None and present.slow_s is not None and canary.slow_s > 2 * present.slow_s + 0.1:
        return (
            f"its slowest hundredth takes {canary.slow_s:.2f} s to answer, the present version's {present.slow_s:.2f} s"
        )
    return None


def shared_refs(refs: Sequence[Json], present: str, canary: str, weight: int) -> list[Json]:
    """The backends of a rule when ``canary`` gets ``weight`` per cent of what ``present`` got alone."""
    shared: list[Json] = []
    for ref in refs:
        if ref["name"] == canary:
            continue
        if ref["name"] != present:
            shared.append(dict(ref))
            continue
        alone = {name: value for name, value in ref.items() if name != "weight"}
        shared += (
            [alone] if not weight else [{**alone, "weight": 100 - weight}, {**alone, "name": canary, "weight": weight}]
        )
    return shared


class Canary:
    """Carries a plan out.

    Args:
        plan: what is brought where.
        run: runs helm and kubectl.
        ask: asks Prometheus.
        sleep: waits; for tests.
        clock: monotonic seconds; for tests.
    """

    _LOOK_S = 15.0

    def __init__(
        self,
        plan: Plan,
        *,
        run: Run,
        ask: Ask,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._run = run
        self._ask = ask
        self._sleep = sleep
        self._clock = clock

    def bring(self) -> None:
        """Install the canary, widen it step by step, then give everybody the version; take it back at any trouble.

        Raises:
            CanaryError: it was taken back, and why.
        """
        self.take_back()
        try:
            self._install(self._plan.canary, CANARY_VALUES)
            for weight in self._plan.weights:
                self._share(weight)
                self._watch(weight)
            self._install(self._plan.release, {})
        finally:
            # Whatever happened, an interruption of the job included: requests go to the present release alone.
            self.take_back()

    def take_back(self) -> None:
        """Send everything to the present release and remove the canary; does nothing where there is none."""
        self._share(0)
        self._run(["helm", "uninstall", self._plan.canary, *self._namespace, "--ignore-not-found", "--wait"])

    @property
    def _namespace(self) -> tuple[str, ...]:
        return ("--namespace", self._plan.namespace)

    def _install(self, release: str, values: Mapping[str, str]) -> None:
        settings = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
        self._run(["helm", "upgrade", "--install", release, *self._plan.chart, *self._namespace, *settings, *_WAIT])

    def _share(self, weight: int) -> None:
        present, canary = edge_of(self._plan.release), edge_of(self._plan.canary)
        found = self._run(["kubectl", "get", "httproute", present, *self._namespace, "--output", "json"])
        rules = json.loads(found)["spec"]["rules"]
        patch = []
        for number, rule in enumerate(rules):
            refs = rule.get("backendRefs", [])
            shared = shared_refs(refs, present, canary, weight)
            if shared != refs:
                patch.append({"op": "replace", "path": f"/spec/rules/{number}/backendRefs", "value": shared})
        if weight and not patch:
            raise CanaryError(f"HTTPRoute {present} sends nothing to the service {present}: there is nothing to share")
        if patch:
            kind = ["kubectl", "patch", "httproute", present, *self._namespace, "--type", "json"]
            self._run([*kind, "--patch", json.dumps(patch)])

    def _watch(self, weight: int) -> None:
        begun = self._clock()
        sample = Sample(0.0, 0.0, None)
        while (passed := self._clock() - begun) < self._plan.watch_s:
            self._sleep(self._LOOK_S)
            since_s = int(max(60.0, min(passed, self._plan.watch_s)))
            sample = self._sample(self._plan.canary, since_s)
            trouble = complaint(sample, self._sample(self._plan.release, since_s)) or self._restarted()
            if trouble:
                raise CanaryError(f"at {weight} % of the requests: {trouble}")
        if sample.requests < self._plan.requests_min:
            few = f"{sample.requests:.0f} requests in {self._plan.watch_s:.0f} s"
            raise CanaryError(
                f"at {weight} % of the requests: {few} tell nothing, {self._plan.requests_min} are needed"
            )

    def _sample(self, release: str, since_s: int) -> Sample:
        pods = f'namespace="{self._plan.namespace}",pod=~"{edge_of(release)}-[a-z0-9]+-[a-z0-9]+"'
        of_users = f'{pods},route!~"healthz|readyz|metrics"'
        requests = self._ask(f"sum(increase(parley_edge_requests_total{{{of_users}}}[{since_s}s]))")
        failed = self._ask(f'sum(increase(parley_edge_requests_total{{{of_users},status=~"5.."}}[{since_s}s]))')
        starts = f"sum by (le) (rate(parley_edge_response_start_seconds_bucket{{{of_users}}}[{since_s}s]))"
        return Sample(requests or 0.0, failed or 0.0, self._ask(f"histogram_quantile(0.99, {starts})"))

    def _restarted(self) -> str | None:
        selector = f"app.kubernetes.io/instance={self._plan.canary}"
        listed = self._run(["kubectl", "get", "pods", *self._namespace, "--selector", selector, "--output", "json"])
        for pod in json.loads(listed)["items"]:
            for container in pod.get("status", {}).get("containerStatuses", []):
                if container["restartCount"]:
                    return f"{pod['metadata']['name']} was started again"
        return None


def edge_of(release: str) -> str:
    """What the chart calls the edge of a release: its Deployment, its Service and its HTTPRoute."""
    return f"{release if 'parley' in release else f'{release}-parley'}-edge"

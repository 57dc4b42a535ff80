"""Releases of the chart on a control plane."""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.controlplane import ControlPlane, restricted
from tests.deploy.renders import RELEASE, ROOT, Manifest, containers
from tests.deploy.schema import CHART
from tests.support.waiting import wait_until

PREVIOUS: Final = "e62d6ea"
"""Revision whose chart is upgraded from: until the first release, the chart as the delivery before this one left it."""
SETTLED_S_MAX: Final = 120.0
_WAIT: Final = ("--wait", "--timeout", "2m")
_QUICK: Final = ("--set", "rollout.minReadySeconds=1")
"""No container starts, so no caller has to hear of it."""


@dataclass(frozen=True, slots=True)
class Release:
    """One release in a namespace of its own.

    Attributes:
        plane: where it is.
        namespace: that enforces the restricted profile.
    """

    plane: ControlPlane
    namespace: str
    name: str = RELEASE

    def make_room(self) -> None:
        """Create the namespace."""
        self.plane.create(restricted(self.namespace))

    def bring(self, values: str, *arguments: str, chart: Path = CHART) -> "subprocess.CompletedProcess[str]":
        """`helm upgrade --install --wait` with a set of the chart's `ci/`, whatever comes of it."""
        files = ["--values", str(chart / "ci" / f"{values}.yaml")]
        return self.helm("upgrade", "--install", self.name, str(chart), *files, *_WAIT, *_QUICK, *arguments)

    def helm(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Helm in the namespace, whatever its exit status."""
        return self.plane.run("helm", "--namespace", self.namespace, *arguments)

    def status(self) -> tuple[int, str]:
        """Number and state of its newest revision."""
        found: dict[str, Any] = yaml.safe_load(self.helm("status", self.name, "-o", "yaml").stdout)
        return found["version"], found["info"]["status"]

    def objects(self, kind: str) -> list[Manifest]:
        """All objects of the kind in the namespace."""
        return self.plane.objects(kind, self.namespace)

    def deployments(self) -> dict[str, Manifest]:
        """Specifications by name; without the number of replicas, on which scaling decides."""
        found = {each["metadata"]["name"]: each["spec"] for each in self.objects("deployments")}
        return {name: {key: spec[key] for key in spec if key != "replicas"} for name, spec in found.items()}

    def refused(self) -> list[str]:
        """What admission, quota or the scheduler said against its pods."""
        reasons = {"FailedCreate", "FailedScheduling"}
        return [each["message"] for each in self.objects("events") if each.get("reason") in reasons]

    def await_ready(self) -> None:
        """Wait until every pod is one of the newest revision, and ready."""
        wait_until(self._is_ready, within_s=SETTLED_S_MAX)

    def _is_ready(self) -> bool:
        deployments = self.objects("deployments")
        pods = self.objects("pods")
        return len(pods) == sum(each["spec"]["replicas"] for each in deployments) and all(
            each["status"].get(counted, 0) == each["spec"]["replicas"]
            for each in deployments
            for counted in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        )


def previous_chart(folder: Path) -> Path:
    """Unpack the chart that is upgraded from into the folder."""
    made = subprocess.run(
        ["git", "archive", "--format=tar", PREVIOUS, "helm/parley"], cwd=ROOT, capture_output=True, check=False
    )
    assert made.returncode == 0, f"{PREVIOUS} is not in this clone, fetch its whole history: {made.stderr.decode()}"
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "helm" / "parley"


def referenced(pod: Manifest) -> Iterator[tuple[str, str]]:
    """Secrets and ConfigMaps without which a pod would not start, as kind and name."""
    for container in containers(pod):
        for variable in container.get("env", []):
            for source in ("secretKeyRef", "configMapKeyRef"):
                if found := variable.get("valueFrom", {}).get(source):
                    yield source.removesuffix("KeyRef"), found["name"]
    for volume in pod["spec"].get("volumes", []):
        if "secret" in volume:
            yield "secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "configmap", volume["configMap"]["name"]


def moment(text: str) -> datetime:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text)

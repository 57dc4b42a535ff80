"""Renders of the chart: made by Helm, normalised, and kept beside the tests."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from tests.deploy.schema import CHART

ROOT: Final = Path(__file__).parents[2]
HELM: Final = ROOT / ".build" / "deploy" / "bin" / "helm"
GOLDEN: Final = Path(__file__).parent / "golden"
SETS: Final = tuple(sorted(path.stem for path in (CHART / "ci").glob("*.yaml")))
RELEASE: Final = "parley"
NAMESPACE: Final = "parley"
KUBERNETES: Final = "1.34.0"
_HELM_S_MAX: Final = 120.0

Manifest: TypeAlias = dict[str, Any]  # Any: an object of Kubernetes is whatever its kind says


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Helm, whatever its exit status."""
    return subprocess.run(
        [str(HELM), *arguments], capture_output=True, text=True, timeout=_HELM_S_MAX, check=False, cwd=ROOT
    )


def render(values: str | None = None, *arguments: str) -> list[Manifest]:
    """What `helm template` makes of a set of `ci/`, or of the defaults; an AssertionError shows why it refuses.

    Args:
        values: name of the set.
        arguments: further ones of Helm's.
    """
    files = [] if values is None else ["--values", str(CHART / "ci" / f"{values}.yaml")]
    version = ["--kube-version", KUBERNETES]
    given = ["template", RELEASE, str(CHART), "--namespace", NAMESPACE, *version, *files, *arguments]
    made = helm(*given)
    assert made.returncode == 0, made.stderr
    return [found for found in yaml.safe_load_all(made.stdout) if found]


def normalised(manifests: Sequence[Manifest]) -> str:
    """The manifests as a text that changes where they do, without those that are copies of files of other folders."""
    ours = [each for each in manifests if not is_of_another_folder(each)]
    ordered = sorted(ours, key=lambda each: (each["kind"], each["metadata"]["name"]))
    return json.dumps(ordered, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def golden(values: str) -> list[Manifest]:
    """The committed render of a set."""
    found: list[Manifest] = json.loads((GOLDEN / f"{values}.json").read_text(encoding="utf-8"))
    return found


def pods(manifests: Sequence[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that the manifests lead to, as name of its owner, and `metadata` with `spec`."""
    for each in manifests:
        name = each["metadata"]["name"]
        if each["kind"] == "Pod":
            yield name, each
        elif each["kind"] in {"Deployment", "Job"}:
            yield name, each["spec"]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    """All containers of a pod in the order in which they start."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def environment(container: Mapping[str, Any]) -> dict[str, str | None]:  # Any: see `Manifest`
    """Variables of a container; those that come from a Secret are None."""
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def is_of_another_folder(manifest: Manifest) -> bool:
    """Whether it carries a file of helm/parley/alerts or helm/parley/dashboards."""
    return manifest["kind"] == "PrometheusRule" or "grafana_folder" in manifest["metadata"].get("annotations", {})

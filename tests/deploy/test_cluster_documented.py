"""What the documentation tells to type at a cluster, typed at a real control plane."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.controlplane import ControlPlane
from tests.deploy.releases import Release, referenced
from tests.deploy.renders import NAMESPACE, RELEASE, ROOT
from tests.support.runbooks import Kind, Written, of

_FENCE: Final = re.compile(r"```sh\n(.*?)```\n", re.DOTALL)
_OF_A_CLUSTER: Final = ("kubectl ", "helm ")
_NEEDS_CONTAINERS: Final = ("kubectl -n parley logs ", "kubectl -n parley exec ")
"""Nothing is logged or run where there is no container; what is made of logs is tried on those of the local stack."""
EXAMPLES: Final = sorted((ROOT / "docs" / "examples").glob("*.yaml"))


def blocks(page: str, heading: str) -> list[str]:
    """What a section of a page tells to type."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found: list[str] = _FENCE.findall(section)
    assert found, (page, heading)
    return found


def lines(page: str, heading: str) -> list[str]:
    """Its commands for a cluster, each on a line of its own."""
    return [
        line
        for block in blocks(page, heading)
        for line in block.splitlines()
        if line.startswith(_OF_A_CLUSTER) and not line.startswith(_NEEDS_CONTAINERS)
    ]


typed = [
    each
    for each in of(Kind.SHELL)
    if each.text.startswith(_OF_A_CLUSTER) and not each.text.startswith(_NEEDS_CONTAINERS)
]


def workplace(tmp_path_factory: pytest.TempPathFactory, values: str) -> Path:
    """A folder with the chart and with values of somebody's, as the documentation supposes."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "helm").symlink_to(ROOT / "helm")
    (folder / "your-values.yaml").write_text((ROOT / f"helm/parley/ci/{values}.yaml").read_text("utf-8"), "utf-8")
    return folder


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """What docs/kubernetes.md installs, by its own words."""
    folder = workplace(tmp_path_factory, "minimal")
    done = plane.run("bash", "-euc", f"cd {folder}\n{blocks('kubernetes.md', 'Install')[0]}")
    assert done.returncode == 0, done.stderr
    release = Release(plane, NAMESPACE)
    yield release
    release.helm("uninstall", RELEASE, "--ignore-not-found")


@pytest.fixture(scope="module")
def grown(installed: Release) -> Release:
    """The same release with more of everything, and with a revision to go back to."""
    for revision in ("first", "second"):
        done = installed.bring("ha", "--set", f"pod.annotations.revision={revision}")
        assert done.returncode == 0, (done.stderr, installed.refused())
    return installed


def test_documented_installation_has_every_secret_that_its_pods_need(installed: Release) -> None:
    there = {
        (kind, each["metadata"]["name"]) for kind in ("secret", "configmap") for each in installed.objects(f"{kind}s")
    }
    # Nothing here issues certificates: what each asks for is what would be there.
    there |= {("secret", each["spec"]["secretName"]) for each in installed.objects("certificates")}
    needed = {each for pod in installed.objects("pods") for each in referenced(pod)}
    assert needed
    assert needed <= there


def test_documented_secrets_have_every_key_that_pods_read(installed: Release) -> None:
    keys = {(each["metadata"]["name"], key) for each in installed.objects("secrets") for key in each.get("data", {})}
    read = {
        (source["name"], source["key"])
        for pod in installed.objects("pods")
        for container in pod["spec"]["containers"]
        for variable in container["env"]
        if (source := variable.get("valueFrom", {}).get("secretKeyRef"))
    }
    assert read <= keys


@pytest.mark.parametrize("each", typed, ids=lambda each: f"{each.page}: {each.text}")
def test_command_of_a_runbook_succeeds(each: Written, grown: Release) -> None:
    done = grown.plane.run("bash", "-euo", "pipefail", "-c", each.text)
    assert done.returncode == 0, done.stderr
    assert done.stdout, done.stderr


@pytest.mark.timeout(900)
def test_commands_of_every_day_succeed(grown: Release) -> None:
    grown.await_ready()
    (node, *_) = grown.plane.kubectl("get", "nodes", "-o", "name").split()
    for line in lines("kubernetes.md", "Day by day"):
        done = grown.plane.run("bash", "-euo", "pipefail", "-c", line.replace("NODE", node.removeprefix("node/")))
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    grown.await_ready()


@pytest.mark.timeout(900)
def test_commands_after_a_restore_start_everything_anew(
    grown: Release, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = workplace(tmp_path_factory, "ha")
    before = set(grown.deployments())
    for line in lines("backup.md", "On Kubernetes"):
        done = grown.plane.run("bash", "-euo", "pipefail", "-c", f"cd {folder}\n{line}")
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert set(grown.deployments()) == before
    grown.await_ready()
    assert all(each["spec"]["replicas"] >= 2 for each in grown.objects("deployments"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_accepted(example: Path, installed: Release) -> None:
    needed = set(re.findall(r"^  namespace: (\S+)$", example.read_text("utf-8"), re.MULTILINE))
    for namespace in needed - {installed.namespace}:
        installed.plane.run("kubectl", "create", "namespace", namespace)
    told = installed.plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(example))
    assert told.count("(server dry run)") == example.read_text("utf-8").count("\nkind: ")

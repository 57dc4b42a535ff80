"""What the documentation tells to type at a cluster, typed at a real control plane."""

import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.deploy.controlplane import ControlPlane
from tests.deploy.releases import Release, referenced
from tests.deploy.renders import NAMESPACE, RELEASE, ROOT
from tests.support.runbooks import Kind, Written, of

_INSTALL: Final = re.compile(r"## Install\n.*?```sh\n(.*?)```\n", re.DOTALL)
_OF_A_CLUSTER: Final = ("kubectl ", "helm ")
_NEEDS_CONTAINERS: Final = ("kubectl -n parley logs ",)
"""Nothing is logged where no container runs; what is made of logs is tried on those of the local stack."""

typed = [
    each
    for each in of(Kind.SHELL)
    if each.text.startswith(_OF_A_CLUSTER) and not each.text.startswith(_NEEDS_CONTAINERS)
]


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """What docs/kubernetes.md installs, by its own words."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "helm").symlink_to(ROOT / "helm")
    (folder / "your-values.yaml").write_text((ROOT / "helm/parley/ci/minimal.yaml").read_text("utf-8"), "utf-8")
    found = _INSTALL.search((ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8"))
    assert found is not None
    done = plane.run("bash", "-euc", f"cd {folder}\n{found.group(1)}")
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

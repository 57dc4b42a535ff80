"""Every set of the chart on a real control plane: installed, admitted, in order, and gone without a trace."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.deploy.controlplane import ControlPlane
from tests.deploy.releases import SETTLED_S_MAX, Release, moment
from tests.deploy.renders import NAMESPACE, RELEASE, SETS, Manifest, golden
from tests.support.waiting import wait_until

OURS: Final = f"app.kubernetes.io/instance={RELEASE}"
PRIVILEGED: Final[Manifest] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "privileged"},
    "spec": {"containers": [{"name": "it", "image": "it", "securityContext": {"runAsUser": 0}}]},
}


@pytest.fixture(scope="module")
def untouched(plane: ControlPlane) -> set[str]:
    """What is in a namespace, and around it, before anything is installed."""
    room = Release(plane, "untouched")
    room.make_room()
    wait_until(lambda: len(plane.left(room.namespace)) == 2, within_s=SETTLED_S_MAX)
    return plane.left(room.namespace)


@pytest.fixture(scope="module", params=SETS)
def installed(request: pytest.FixtureRequest, plane: ControlPlane) -> Iterator[tuple[str, Release, str]]:
    """A set, its release, and what Helm said; removed afterwards, if a test has not done so."""
    values: str = request.param
    release = Release(plane, f"{NAMESPACE}-{values}")
    release.make_room()
    done = release.bring(values)
    assert done.returncode == 0, (done.stderr, release.refused())
    yield values, release, done.stdout
    release.helm("uninstall", RELEASE, "--ignore-not-found")


def test_namespace_refuses_what_is_not_restricted(plane: ControlPlane, untouched: set[str]) -> None:
    assert untouched
    done = plane.run("kubectl", "-n", "untouched", "create", "-f", "-", given=str(PRIVILEGED).replace("'", '"'))
    assert done.returncode != 0
    assert "violates PodSecurity" in done.stderr


@pytest.mark.timeout(600)
def test_every_pod_is_admitted_and_becomes_ready(installed: tuple[str, Release, str]) -> None:
    values, release, _ = installed
    release.await_ready()
    assert release.refused() == []
    expected = {each["metadata"]["name"] for each in golden(values) if each["kind"] == "Deployment"}
    assert set(release.deployments()) == expected


def test_notes_are_shown(installed: tuple[str, Release, str]) -> None:
    _, release, said = installed
    assert f"is installed as {RELEASE} in {release.namespace}." in said
    assert "python -m services.auth bootstrap" in said


def test_schemas_are_changed_before_any_pod_of_the_release(installed: tuple[str, Release, str]) -> None:
    _, release, _ = installed
    ended = [
        moment(each["lastTimestamp"])
        for each in release.objects("events")
        if each["reason"] == "Completed" and each["involvedObject"]["name"] == f"{RELEASE}-migrations"
    ]
    begun = [moment(each["metadata"]["creationTimestamp"]) for each in release.objects("deployments")]
    assert max(ended) <= min(begun)


def test_every_pod_may_be_moved_one_at_a_time(installed: tuple[str, Release, str]) -> None:
    _, release, _ = installed
    names = {each["metadata"]["name"] for each in release.objects("poddisruptionbudgets")}
    assert names == set(release.deployments())
    wait_until(
        lambda: {each["status"]["disruptionsAllowed"] for each in release.objects("poddisruptionbudgets")} == {1},
        within_s=SETTLED_S_MAX,
    )


def test_what_scales_itself_begins_with_its_fewest_pods(installed: tuple[str, Release, str]) -> None:
    _, release, _ = installed
    wanted = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]["minReplicas"]
        for each in release.objects("horizontalpodautoscalers")
    }

    def present() -> dict[str, int]:
        found = {each["metadata"]["name"]: each["spec"]["replicas"] for each in release.objects("deployments")}
        return {name: found[name] for name in wanted}

    wait_until(lambda: present() == wanted, within_s=SETTLED_S_MAX)


def test_everything_that_was_rendered_is_there(installed: tuple[str, Release, str]) -> None:
    values, release, _ = installed
    hooks = {"Job", "Pod"}
    wanted = {
        (each["kind"], each["metadata"]["name"])
        for each in golden(values)
        if each["kind"] not in hooks and "helm.sh/hook" not in each["metadata"].get("annotations", {})
    }
    there = {
        (each["kind"], each["metadata"]["name"])
        for kind in {kind for kind, _ in wanted}
        for each in release.objects(kind)
    }
    assert wanted <= there


@pytest.mark.timeout(600)
def test_nothing_stays_behind(installed: tuple[str, Release, str], untouched: set[str], plane: ControlPlane) -> None:
    _, release, _ = installed
    done = release.helm("uninstall", RELEASE, "--wait", "--timeout", "4m")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: plane.left(release.namespace) == untouched, within_s=SETTLED_S_MAX)
    assert plane.left_beside(OURS) == set()

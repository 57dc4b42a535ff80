"""From the previous chart to this one and back, on a real control plane."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.controlplane import FAILS, ControlPlane
from tests.deploy.releases import Release, previous_chart
from tests.deploy.renders import RELEASE

VALUES: Final = "ha"
MIGRATIONS: Final = f"{RELEASE}-migrations"


@pytest.fixture(scope="module")
def previous(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Release, Path]]:
    """A release of the previous chart, and where that chart lies."""
    chart = previous_chart(tmp_path_factory.mktemp("previous"))
    release = Release(plane, "parley-upgraded")
    release.make_room()
    done = release.bring(VALUES, chart=chart)
    assert done.returncode == 0, (done.stderr, release.refused())
    yield release, chart
    release.helm("uninstall", RELEASE, "--ignore-not-found")


@pytest.mark.timeout(900)
def test_upgrade_rollback_and_a_migration_that_fails(previous: tuple[Release, Path]) -> None:
    release, _ = previous
    release.await_ready()
    before = release.deployments()

    _succeeds(release, "upgrade")
    after = release.deployments()
    assert release.status() == (2, "deployed")
    assert set(before) <= set(after)
    assert all(after[name]["selector"] == before[name]["selector"] for name in before)
    assert release.refused() == []

    failed = release.bring(VALUES, "--set-string", f"commonLabels.{FAILS}=true")
    assert failed.returncode != 0
    assert release.status() == (3, "failed")
    assert release.deployments() == after
    # What docs/kubernetes.md tells to read is still there.
    assert [each["metadata"]["name"] for each in release.objects("jobs")] == [MIGRATIONS]

    _succeeds(release, "upgrade")
    assert release.status() == (4, "deployed")
    assert release.objects("jobs") == []

    _succeeds(release, "rollback")
    assert release.status() == (5, "deployed")
    assert release.deployments() == before


def _succeeds(release: Release, step: str) -> None:
    if step == "upgrade":
        done = release.bring(VALUES)
    else:
        done = release.helm("rollback", RELEASE, "1", "--wait", "--timeout", "4m")
    assert done.returncode == 0, (done.stderr, release.refused())
    release.await_ready()

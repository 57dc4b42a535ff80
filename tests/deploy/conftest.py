"""What needs tools built with Go, promtool or minutes belongs to `make test-deploy`.

The other tests read the committed renders. Where the tools cannot be built, that target has said so by name
(`dev.tools.deploy`) before it comes here.
"""

import os
from collections.abc import Iterator

import pytest

from tests.deploy.controlplane import API_SERVER, ControlPlane, running
from tests.deploy.renders import HELM

_WITH_GO = ["test_helm_*.py", "test_workflows.py"]
_WITH_KUBERNETES = ["test_cluster_*.py"]
_WITH_MINUTES = ["test_running.py", "alerts/*"]

collect_ignore_glob: list[str] = []
if "PARLEY_TEST_DEPLOY" not in os.environ:
    collect_ignore_glob += _WITH_MINUTES
if "PARLEY_TEST_DEPLOY" not in os.environ or not HELM.exists():
    collect_ignore_glob += _WITH_GO
if "PARLEY_TEST_DEPLOY" not in os.environ or not API_SERVER.exists():
    collect_ignore_glob += _WITH_KUBERNETES


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A Kubernetes control plane of this session's own."""
    with running(tmp_path_factory.mktemp("plane")) as started:
        yield started

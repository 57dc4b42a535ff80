"""What needs tools built with Go, promtool or minutes belongs to `make test-deploy`.

The other tests read the committed renders. What was left out is told by name at the end of a run.
"""

import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.deploy.controlplane import API_SERVER, ControlPlane, running
from tests.deploy.renders import HELM

_LEFT_OUT: Final = {
    "Helm: lint, renders, values that have to be refused; workflows by actionlint": (
        ["test_helm_*.py", "test_workflows.py"],
        HELM.exists,
    ),
    "a Kubernetes control plane: installation, upgrade, rollback, removal, runbooks, canary": (
        ["test_cluster_*.py"],
        API_SERVER.exists,
    ),
    "alerts under promtool, and the processes of a render restarted under load": (
        ["test_running.py", "alerts/*"],
        lambda: True,
    ),
}
"""What is tested where: its files, and whether what it needs is there."""

_left_out = [
    name
    for name, (_, has_its_tools) in _LEFT_OUT.items()
    if "PARLEY_TEST_DEPLOY" not in os.environ or not has_its_tools()
]
collect_ignore_glob = [pattern for name in _left_out for pattern in _LEFT_OUT[name][0]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what this run has not tried."""
    for name in _left_out:
        terminalreporter.write_line(f"tests/deploy: left to `make test-deploy`: {name}")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A Kubernetes control plane of this session's own."""
    with running(tmp_path_factory.mktemp("plane")) as started:
        yield started

"""The running stack that end-to-end tests share."""

from collections.abc import Generator, Iterator

import pytest

from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """One whole stack per test process. Tests may kill its processes (they come back), not change its settings."""
    with running_stack() as started:
        yield started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the stack printed last beside the failure of a test that used it."""
    report = yield
    found = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(found, Stack):
        report.sections.append(("the stack's last words", found.report()))
    return report

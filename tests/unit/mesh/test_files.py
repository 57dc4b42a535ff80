"""How many files a process may have open."""

import resource
from collections.abc import Iterator

import pytest

from services.mesh import files


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_limit_is_raised_to_what_is_allowed(limits: tuple[int, int]) -> None:
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))

    files.raise_limit()

    wanted = files.FILES_MAX if hard == resource.RLIM_INFINITY else hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, hard)


@pytest.mark.usefixtures("limits")
def test_limit_that_is_high_enough_stays() -> None:
    files.raise_limit()
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)

    files.raise_limit()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == raised

"""What was there at the start is not looked at again, and what comes later is still collected."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from services.mesh import garbage


class Knot:
    """Refers to itself, so that only a look finds it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def own_rhythm() -> Iterator[None]:
    """Other tests keep Python's own."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_is_there_is_not_looked_at_again() -> None:
    garbage.spare()

    assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == (garbage.YOUNG_MAX, *garbage.LOOKS)


def test_what_comes_later_is_collected() -> None:
    garbage.spare()
    knot = weakref.ref(Knot())

    kept: list[list[int]] = [[] for _ in range(garbage.YOUNG_MAX + 1)]  # containers, which are what is counted

    assert kept
    assert knot() is None

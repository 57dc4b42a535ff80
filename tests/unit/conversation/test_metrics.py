"""What is measured of the wait for an answer: first claims only, each moment once."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.conversation.events import PartStarted, TextDelta
from services.conversation.running import metrics
from services.conversation.running.generation import CANCELLED, ending_of
from services.conversation.store.work import Claim, Ending
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import Reason, Unavailable
from services.mesh.telemetry import REGISTRY
from tests.support.conversation_turns import DONE, asked, claimed

STEPS = (PartStarted("p1"), TextDelta("p1", 0, "Hello"))


class Figures:
    """Growth of the three histograms since the last look."""

    _NAMES = ("queue_wait", "answer_start", "first_text")

    def __init__(self) -> None:
        self._before = self._now()

    def grown(self) -> list[tuple[float, float]]:
        """Counts and sums of seconds."""
        pairs = zip(self._now(), self._before, strict=True)
        return [(count - old, round(total_s - old_s, 6)) for (count, total_s), (old, old_s) in pairs]

    def _now(self) -> list[tuple[float, float]]:
        return [(_figure(name, "count"), _figure(name, "sum")) for name in self._NAMES]


def _figure(name: str, part: str) -> float:
    return REGISTRY.get_sample_value(f"parley_conversation_{name}_seconds_{part}") or 0.0


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
async def claim() -> Claim:
    store = MemoryStore()
    return replace(await claimed(store, await asked(store)), queued_s=0.5)


def _clock(*times: float) -> Iterator[float]:
    return iter(times)


def test_wait_is_measured_from_acceptance_once_each(figures: Figures, claim: Claim) -> None:
    put: list[object] = []
    times = _clock(10.2, 11.0)
    watching = metrics.watched(lambda *steps: put.extend(steps), claim, clock=lambda: next(times), claimed_at=10.0)
    watching(STEPS[0])
    watching(STEPS[1])
    watching(*STEPS)

    assert put == [*STEPS, *STEPS]
    assert figures.grown() == [(1, 0.5), (1, 0.7), (1, 1.5)]


def test_turns_that_waited_for_others_or_began_before_are_not_measured(figures: Figures, claim: Claim) -> None:
    waited, taken_over = replace(claim, queued_s=None), replace(claim, hold=replace(claim.hold, fence=2))
    for other in (waited, taken_over):
        metrics.watched(lambda *_: None, other, clock=lambda: 0.0, claimed_at=0.0)(*STEPS)

    assert figures.grown() == [(0, 0), (0, 0), (0, 0)]


def test_answer_that_goes_on_with_another_one_has_no_first_text_of_its_own(figures: Figures, claim: Claim) -> None:
    continued = replace(claim, continued=claim.answer)
    metrics.watched(lambda *_: None, continued, clock=lambda: 0.0, claimed_at=0.0)(*STEPS)

    assert [count for count, _ in figures.grown()] == [1, 0, 0]


@pytest.mark.parametrize(("ending", "failures"), [(ending_of(Unavailable("away")), 1), (DONE, 0), (CANCELLED, 0)])
def test_failures_are_counted_by_their_reason(ending: Ending, failures: int) -> None:
    labels = {"reason": Reason.UNAVAILABLE.value}
    before = REGISTRY.get_sample_value("parley_conversation_turns_failed_total", labels) or 0.0
    metrics.ended(ending)

    assert (REGISTRY.get_sample_value("parley_conversation_turns_failed_total", labels) or 0.0) == before + failures
